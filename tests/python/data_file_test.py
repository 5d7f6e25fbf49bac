"""What hessian_mpi.data writes, reads and refuses.

usage: data_file_test.py
"""

import pathlib
import tempfile
import unittest
import weakref

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import hessian_mpi


class InFolder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name, "data.h5")


def same(one, other) -> bool:
    """The same tensors in the same nesting."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return isinstance(other, (tuple, list)) and len(one) == len(other) and all(map(same, one, other))
    if one is None or other is None:
        return one is other
    one, other = torch.as_tensor(one), torch.as_tensor(other)
    return one.dtype == other.dtype and torch.equal(one, other)


class Written(InFolder):
    def test_is_what_is_read(self) -> None:
        x, y = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
        for inputs, targets in ((x, y), ((x, x + 1), y), ({"tokens": y, "mask": y > 0}, (x, y)), (x.double(), None),
                                (x.numpy(), y.numpy())):
            data = inputs if targets is None else (inputs, targets)
            self.assertTrue(same(hessian_mpi.data(self.path, data), (inputs, targets)), data)
            self.assertTrue(same(hessian_mpi.data(self.path), (inputs, targets)), data)

    def test_lies_where_the_program_looks(self) -> None:
        x, y = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
        hessian_mpi.data(self.path, ({"mask": y, "tokens": x}, (x, y)))
        with h5py.File(self.path) as file:
            found = []
            file.visititems(lambda name, node: found.append(name) if isinstance(node, h5py.Dataset) else None)
            self.assertEqual(found, ["inputs/mask", "inputs/tokens", "targets/0", "targets/1"])
            np.testing.assert_array_equal(file["inputs/tokens"][:], x.numpy())

    def test_is_there_wholly_or_not_at_all(self) -> None:
        hessian_mpi.data(self.path, torch.ones(3, 2))

        def batches():
            yield torch.zeros(2, 2)
            raise OSError("the data's disk is gone")

        with self.assertRaises(OSError):
            hessian_mpi.data(self.path, batches())
        self.assertTrue(same(hessian_mpi.data(self.path)[0], torch.ones(3, 2)))
        self.assertEqual([path.name for path in self.path.parent.iterdir()], ["data.h5"])


class Letters(Dataset):
    """Words of different lengths."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, k: int):
        return {"tokens": torch.arange(k % 3 + 1), "label": k}


class Large:
    """Batches that would not fit into memory together; it counts how many of them are alive."""

    def __init__(self) -> None:
        self.alive = self.most = 0

    def __iter__(self):
        for k in range(50):
            batch = torch.full((1000, 5), float(k))
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(batch, self.gone)
            yield batch

    def gone(self) -> None:
        self.alive -= 1


def padded(samples):
    tokens = torch.nn.utils.rnn.pad_sequence([sample["tokens"] for sample in samples], batch_first=True)
    tokens = torch.nn.functional.pad(tokens, (0, 3 - tokens.shape[1]))
    return {"tokens": tokens}, torch.tensor([sample["label"] for sample in samples])


class Loaders(InFolder):
    def test_are_appended_batch_by_batch(self) -> None:
        x, y = torch.randn(10, 2), torch.arange(10)
        for data in (DataLoader(TensorDataset(x, y), batch_size=4), TensorDataset(x, y), iter([(x[:9], y[:9]), (x[9:], y[9:])])):
            self.assertTrue(same(hessian_mpi.data(self.path, data), (x, y)))

    def test_with_a_collate_of_their_own(self) -> None:
        inputs, targets = hessian_mpi.data(self.path, DataLoader(Letters(), batch_size=2, collate_fn=padded))
        self.assertEqual(inputs["tokens"].tolist(), [list(range(k % 3 + 1)) + [0] * (2 - k % 3) for k in range(7)])
        self.assertEqual(targets.tolist(), list(range(7)))

    def test_are_never_whole_in_memory(self) -> None:
        large = Large()
        inputs, _ = hessian_mpi.data(self.path, large)
        self.assertEqual((inputs.shape, inputs[::1000, 0].tolist()), ((50_000, 5), list(range(50))))
        self.assertLessEqual(large.most, 4)


class Refused(InFolder):
    def refused(self, data, *words: str, **options) -> None:
        with self.assertRaises(hessian_mpi.DataError) as caught:
            hessian_mpi.data(self.path, data, **options)
        for word in words:
            self.assertIn(word, str(caught.exception))
        self.assertFalse(self.path.exists())

    def test_types_that_the_file_does_not_have(self) -> None:
        for dtype in (torch.float16, torch.bfloat16, torch.complex64):
            self.refused(torch.ones(3, dtype=dtype), "dataset 'inputs'", str(dtype), "neither floating-point numbers nor")
        self.refused(torch.eye(3).to_sparse(), "sparse")

    def test_shapes(self) -> None:
        x = torch.ones(3, 2)
        self.refused((x, torch.tensor(1.0)), "dataset 'targets'", "is a scalar")
        self.refused(((x, x), torch.ones(4)), "the numbers of samples", "differ: inputs 3, 3, targets 4", "whole")
        self.refused(torch.ones(0, 2), "holds no sample")
        self.refused([], "no tensor")
        self.refused(iter([]), "no sample")

    def test_batches_that_do_not_fit_together(self) -> None:
        self.refused(iter([torch.ones(2, 3), torch.ones(2, 4)]), "[*, 3]", "[2, 4]", "collate_fn")
        self.refused(iter([torch.ones(2, 3), torch.ones(2, 3).long()]), "float32", "int64")
        self.refused(iter([torch.ones(2), (torch.ones(2), torch.ones(2))]), "nested")
        self.refused(iter([{"x": torch.ones(2), "n": 2}, {"x": torch.ones(2), "n": 3}]), "2 in one batch", "3 in another")

    def test_nan(self) -> None:
        self.refused(torch.tensor([[1.0, float("nan")]]), "NaN in 1 places", "[0, 1]")


class Whole(InFolder):
    def test_tensors_may_have_any_first_dimension(self) -> None:
        data = {"nodes": torch.ones(5, 2), "edges": torch.zeros(2, 8)}
        self.assertTrue(same(hessian_mpi.data(self.path, data, whole=True)[0], data))
        self.assertTrue(same(hessian_mpi.data(self.path, data, whole=["edges"])[0], data))

    def test_tensors_are_the_same_in_all_batches(self) -> None:
        edges = torch.arange(4).reshape(2, 2)
        batches = [{"x": torch.ones(3), "edges": edges}, {"x": torch.zeros(2), "edges": edges}]
        inputs, _ = hessian_mpi.data(self.path, iter(batches), whole=["edges"])
        self.assertTrue(same(inputs, {"x": torch.tensor([1.0, 1, 1, 0, 0]), "edges": edges}))
        batches[1]["edges"] = edges + 1
        with self.assertRaisesRegex(hessian_mpi.DataError, "'inputs/edges'.* is whole, and another"):
            hessian_mpi.data(self.path, iter(batches), whole=["edges"])

    def test_names_are_those_of_the_data(self) -> None:
        with self.assertRaisesRegex(hessian_mpi.DataError, "no 'edge'; they have nodes"):
            hessian_mpi.data(self.path, {"nodes": torch.ones(5, 2)}, whole=["edge"])


class Read(InFolder):
    def test_says_what_a_file_lacks(self) -> None:
        with self.assertRaisesRegex(FileNotFoundError, "is not there: hessian_mpi.data"):
            hessian_mpi.data(self.path)
        self.path.write_text("no data")
        with self.assertRaisesRegex(hessian_mpi.DataError, "is no HDF5 file, or damaged"):
            hessian_mpi.data(self.path)
        with h5py.File(self.path, "w") as file:
            file["x"] = np.ones(3)
        with self.assertRaisesRegex(hessian_mpi.DataError, "no `inputs` .it holds: x."):
            hessian_mpi.data(self.path)


if __name__ == "__main__":
    unittest.main()
