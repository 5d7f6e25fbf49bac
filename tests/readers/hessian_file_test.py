"""hessian_file.py against numpy, on the files of matrix_files.

    hessian_file_test.py FOLDER_OF_FILES FOLDER_OF_MODULE"""
import fcntl
import itertools
import os
import shutil
import sys
import tempfile
import unittest

os.environ.pop("HDF5_USE_FILE_LOCKING", None)  # HDF5's own choice is tested

import h5py  # noqa: E402
import numpy as np  # noqa: E402

FILES, MODULE = sys.argv[1:3]
sys.path.insert(0, MODULE)
from hessian_file import HessianFile, HessianFileError  # noqa: E402

SHAPES = {"conv1.weight": (2, 1, 3, 3), "conv1.bias": (2,), "fc.weight": (5, 8), "fc.bias": (5,), "scale": ()}
SLICES = {"conv1.weight": slice(0, 18), "conv1.bias": slice(18, 20), "fc.weight": slice(20, 60),
          "fc.bias": slice(60, 65), "scale": slice(65, 66)}
N = 66
MATRIX = np.fromfunction(lambda i, j: (131 * i + 17 * j) % 7919 - 4000, (N, N))
COMPLETE = ("whole.h5", "whole_float64.h5", "joined.h5")


def opened(name="whole.h5", **options):
    return HessianFile(os.path.join(FILES, name), **options)


class Recorder:
    """Stands for the dataset and notes how many bytes each read took."""

    def __init__(self, dataset):
        self.dataset, self.reads = dataset, []

    def __getattr__(self, name):
        return getattr(self.dataset, name)

    def __getitem__(self, key):
        numbers = self.dataset[key]
        self.reads.append(numbers.nbytes)
        return numbers

    def read_direct(self, numbers, place):
        self.reads.append(numbers.nbytes)
        self.dataset.read_direct(numbers, place)


class Reading(unittest.TestCase):
    def assert_same(self, got, wanted):
        np.testing.assert_array_equal(np.asarray(got), wanted)
        self.assertEqual(np.shape(got), np.shape(wanted))

    def test_knows_its_parameters(self):
        with opened() as H:
            self.assertEqual((H.N, H.shape, H.dtype), (N, (N, N), np.float32))
            self.assertEqual(H.shapes, SHAPES)
            self.assertEqual([H.slice_of(name) for name in H.names], list(SLICES.values()))
            self.assertEqual(H.attributes["loss"], "cross_entropy")
            self.assert_same(H.gradient, -np.arange(N))
            self.assert_same(H.value, np.arange(N) / 2)
        with opened("whole_float64.h5") as H:
            self.assertEqual(H.dtype, np.float64)

    def test_reads_every_block_as_matrix_and_as_tensor(self):
        for file in COMPLETE:
            with opened(file) as H:
                for p, q in itertools.product(SHAPES, SHAPES):
                    block, wanted = H[p, q], MATRIX[SLICES[p], SLICES[q]]
                    self.assert_same(block, wanted)
                    self.assert_same(block.full, wanted.reshape(SHAPES[p] + SHAPES[q]))
                    self.assertEqual(np.asarray(block).dtype, H.dtype)

    def test_reads_rows_of_a_parameter_with_all_columns(self):
        with opened() as H:
            self.assert_same(H["fc.weight"], MATRIX[20:60])
            self.assert_same(H["fc.weight"].full, MATRIX[20:60].reshape(5, 8, N))

    def test_indexes_blocks_as_numpy_does(self):
        keys = [np.s_[1, 0, 2, 2, 4], np.s_[1], np.s_[..., 3], np.s_[:, 0, 1:, ::2, 1:4], np.s_[0, ..., ::3],
                np.s_[-1, ..., -2:],
                np.s_[0, 0, :, 1, :], np.s_[:, :, :, :, 5:2], np.s_[...], np.s_[1:2, ..., np.int64(0)]]
        wanted = MATRIX[:18, 60:65].reshape(2, 1, 3, 3, 5)
        with opened() as H, opened(slab_bytes=16) as in_tiny_slabs:
            for key, matrix in itertools.product(keys, (H, in_tiny_slabs)):
                self.assert_same(matrix["conv1.weight", "fc.bias"].full[key], wanted[key])
            for key in (np.s_[3, 5], np.s_[2:50:7, 60:], np.s_[-1], np.s_[:, 3], np.s_[5, ::7], np.s_[...]):
                self.assert_same(H[key], MATRIX[key])

    def test_refuses_what_it_cannot_index(self):
        with opened() as H:
            block = H["conv1.weight", "fc.bias"]
            for key in (np.s_[18], np.s_[0, 5], np.s_[0, 0, 0], np.s_[::-1], np.s_[[0, 1]], np.s_[..., ...], True):
                with self.assertRaises(IndexError, msg=str(key)):
                    block[key]
            with self.assertRaisesRegex(KeyError, "fc.weigth.*fc.weight"):
                H["fc.weigth", "fc.bias"]

    def test_locates(self):
        with opened() as H:
            indices = [H.locate(i) for i in range(N)]
            wanted = [(name, index) for name, shape in SHAPES.items() for index in np.ndindex(shape)]
            self.assertEqual(indices, wanted)
            self.assertEqual([H.index(*place) for place in indices], list(range(N)))
            self.assertEqual(H.locate(-1), ("scale", ()))
            for outside in (N, -N - 1):
                with self.assertRaises(IndexError):
                    H.locate(outside)

    def test_cuts_a_vector_into_tensors(self):
        vector = np.arange(N) + 0.5
        with opened() as H:
            tensors = H.tensors(vector)
            self.assertEqual(list(tensors), list(SHAPES))
            for name, shape in SHAPES.items():
                self.assert_same(tensors[name], vector[SLICES[name]].reshape(shape))
            with self.assertRaisesRegex(ValueError, "has 66"):
                H.tensors(vector[1:])

    def test_multiplies(self):
        random = np.random.default_rng(0)
        for file, shape in itertools.product(COMPLETE, [(N,), (N, 3)]):
            v = random.integers(-9, 9, shape).astype(float)  # exact in float64, whatever the order of sums
            for slab_bytes in (1, 1000, 64 << 20):
                with opened(file, slab_bytes=slab_bytes) as H:
                    self.assert_same(H @ v, MATRIX @ v)
                    self.assert_same(v.T @ H, v.T @ MATRIX)
                    self.assert_same(H["fc.weight", "conv1.weight"] @ v[:18], MATRIX[20:60, :18] @ v[:18])
                    self.assertEqual((H @ v).dtype, np.float64)
        with opened() as H:
            self.assertEqual((H @ v.astype(np.float32)).dtype, np.float32)
            for wrong in (np.zeros(N + 1), np.zeros((1, N, 1)), np.zeros(())):
                with self.assertRaises(ValueError):
                    H @ wrong

    def test_takes_the_diagonal(self):
        for file, slab_bytes in itertools.product(COMPLETE, (1, 400, 64 << 20)):
            with opened(file, slab_bytes=slab_bytes) as H:
                self.assert_same(H.diagonal(), np.diagonal(MATRIX))

    def test_reads_no_more_at_once_than_a_slab(self):
        slab = 3 * N * 4
        with opened(slab_bytes=slab) as H:
            H._hessian = Recorder(H._hessian)
            uses = (lambda: H @ np.ones(N), H.diagonal, lambda: H["fc.weight", "fc.weight"][:], lambda: np.asarray(H))
            for use in uses:
                H._hessian.reads.clear()
                use()
                self.assertGreater(len(H._hessian.reads), 1)
                self.assertLessEqual(max(H._hessian.reads), slab)
            H._hessian.reads.clear()
            H["conv1.weight", "fc.bias"].full[1, 0, 2, 2, 4]
            self.assertEqual(H._hessian.reads, [4])
            with self.assertRaises(ValueError):
                opened(slab_bytes=1 << 30)


class LessThanTheWhole(unittest.TestCase):
    def assert_same(self, got, wanted):
        np.testing.assert_array_equal(np.asarray(got), wanted)
        self.assertEqual(np.shape(got), np.shape(wanted))

    def test_blocks_of_parameters_with_themselves(self):
        inside = np.zeros((N, N))
        for place in SLICES.values():
            inside[place, place] = MATRIX[place, place]
        v = np.random.default_rng(0).standard_normal((N, 3))
        for slab_bytes in (1, 64 << 20):
            with opened("blocks.h5", slab_bytes=slab_bytes) as H:
                self.assertEqual((H.N, H.shape, H.dtype, H.entries), (N, (N, N), np.float32, "diagonal_blocks"))
                self.assertIn("66 x 66 float32", repr(H))
                for name, place in SLICES.items():
                    self.assert_same(H[name, name], MATRIX[place, place])
                    self.assert_same(H[name, name].full, MATRIX[place, place].reshape(SHAPES[name] * 2))
                self.assertEqual(H["fc.weight", "fc.weight"].full[1, 2, 3, 4], MATRIX[20 + 10, 20 + 28])
                self.assert_same(H.diagonal(), np.diagonal(MATRIX))
                np.testing.assert_allclose(H @ v, inside @ v, rtol=1e-12)
                np.testing.assert_allclose(H @ v[:, 0], inside @ v[:, 0], rtol=1e-12)
                self.assertEqual(H.locate(61), ("fc.bias", (1,)))
                for use in (lambda: H["fc.bias", "scale"], lambda: H["fc.bias"], lambda: H[0], lambda: next(H.slabs()),
                            lambda: np.asarray(H), lambda: np.ones(N) @ H):
                    with self.assertRaisesRegex(HessianFileError, "blocks.h5' has the blocks of parameters"):
                        use()
                with self.assertRaises(KeyError):
                    H["fc", "fc"]

    def test_blocks_under_names_that_are_none_of_hdf5(self):
        matrix = MATRIX[:8, :8]
        with opened("odd_blocks.h5") as H:
            self.assertEqual(H.dtype, np.float32)
            for k, name in enumerate(("a/b", "50%", ".", "größe")):
                self.assert_same(H[name, name], matrix[2 * k:2 * k + 2, 2 * k:2 * k + 2])
            self.assert_same(H.diagonal(), np.diagonal(matrix))
            self.assertEqual((H @ np.ones(8)).shape, (8,))

    def test_the_diagonal(self):
        with opened("diagonal.h5") as H:
            self.assertEqual((H.N, H.dtype, H.entries), (N, np.float32, "diagonal"))
            self.assert_same(H.diagonal(), np.diagonal(MATRIX))
            self.assert_same(H @ np.ones((N, 2)), np.repeat(np.diagonal(MATRIX)[:, None], 2, 1))
            self.assert_same(H.gradient, -np.arange(N))
            for use in (lambda: H["fc.bias", "fc.bias"], lambda: H[0, 0]):
                with self.assertRaisesRegex(HessianFileError, "diagonal.h5' has the diagonal alone"):
                    use()
            with self.assertRaises(ValueError):
                H @ np.ones(N + 1)


class PackedTriangle(unittest.TestCase):
    MIRRORED = np.triu(MATRIX) + np.triu(MATRIX, 1).T

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "packed.h5")
        shutil.copy(os.path.join(FILES, "whole_float64.h5"), self.path)
        with h5py.File(self.path, "a") as file:
            about = dict(file["hessian"].attrs)
            del file["hessian"], file["named_blocks"]
            file["hessian"] = MATRIX[np.triu_indices(N)]
            file["hessian"].attrs.update(about)
            file.attrs["format"] = "hessian_mpi packed triangle"

    def assert_same(self, got, wanted):
        np.testing.assert_array_equal(np.asarray(got), wanted)
        self.assertEqual(np.shape(got), np.shape(wanted))

    def test_has_every_block_by_name(self):
        for slab_bytes in (8, 1000, 64 << 20):
            with HessianFile(self.path, slab_bytes=slab_bytes) as H:
                self.assertEqual((H.shape, H.dtype), ((N, N), np.float64))
                for p, q in itertools.product(SHAPES, SHAPES):
                    self.assert_same(H[p, q], self.MIRRORED[SLICES[p], SLICES[q]])
                self.assert_same(H["fc.bias", "conv1.weight"].full, self.MIRRORED[60:65, :18].reshape(5, 2, 1, 3, 3))
                self.assertEqual(H["fc.weight", "conv1.bias"].full[4, 7, 1], MATRIX[19, 59])

    def test_is_a_matrix_like_the_others(self):
        v = np.random.default_rng(0).integers(-9, 9, (N, 3)).astype(float)
        with HessianFile(self.path, slab_bytes=3000) as H:
            self.assert_same(H, self.MIRRORED)
            self.assert_same(H["fc.weight"], self.MIRRORED[20:60])
            self.assert_same(H[5:60:7, 30:], self.MIRRORED[5:60:7, 30:])
            self.assert_same(H.diagonal(), np.diagonal(MATRIX))
            self.assert_same(H @ v, self.MIRRORED @ v)
            self.assert_same(v.T @ H, v.T @ self.MIRRORED)


class BesideOthers(unittest.TestCase):
    """HDF5 refuses a file that the same process has open with another locking."""

    WHOLE = os.path.join(FILES, "whole.h5")

    def test_opens_what_the_program_has_opened(self):
        for locking in (None, False, True, "best-effort"):
            with self.subTest(locking=locking), h5py.File(self.WHOLE, "r", locking=locking), opened() as H:
                self.assertEqual(H["fc.bias", "fc.bias"][0, 0], MATRIX[60, 60])

    def test_leaves_the_file_to_be_opened_by_the_program(self):
        with opened() as H, opened() as again, h5py.File(self.WHOLE) as file:
            self.assertEqual(file["hessian"][3, 4], MATRIX[3, 4])
            self.assertEqual((H[3, 4], again[3, 4]), (MATRIX[3, 4], MATRIX[3, 4]))

    def test_finds_the_parts_that_the_program_has_opened(self):
        with h5py.File(os.path.join(FILES, "part-1.h5")), opened("joined.h5") as H:
            np.testing.assert_array_equal(np.asarray(H), MATRIX)

    def test_reads_what_another_program_has_locked(self):
        with open(self.WHOLE, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with self.assertRaises(OSError):
                h5py.File(self.WHOLE, "r", locking=True)
            with opened() as H:
                self.assertEqual(H[3, 4], MATRIX[3, 4])


class Refusing(unittest.TestCase):
    def assert_refused(self, path, *words):
        with self.assertRaises(HessianFileError) as caught:
            HessianFile(path)
        for word in (os.path.basename(path), *words):
            self.assertIn(word, str(caught.exception))

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name="file.h5"):
        return os.path.join(self.folder.name, name)

    def test_files_of_others(self):
        with open(self.path("text.h5"), "w") as file:
            file.write("no HDF5")
        self.assert_refused(self.path("text.h5"), "HDF5")
        with h5py.File(self.path(), "w") as file:
            file["hessian"] = np.eye(3)
        self.assert_refused(self.path(), "not a file of hessian_mpi")
        with self.assertRaises(FileNotFoundError):
            HessianFile(self.path("missing.h5"))

    def test_another_version(self):
        shutil.copy(os.path.join(FILES, "whole.h5"), self.path())
        with h5py.File(self.path(), "a") as file:
            file.attrs["format_version"] = 2
        self.assert_refused(self.path(), "version 2")

    def test_unfinished_files_unless_asked(self):
        self.assert_refused(os.path.join(FILES, "unfinished.h5"), "not complete", "66 of 66", "--resume")
        with opened("unfinished.h5", unfinished=True) as H:
            np.testing.assert_array_equal(H["fc.bias", "fc.bias"][:], MATRIX[60:65, 60:65])

    def test_parts(self):
        self.assert_refused(os.path.join(FILES, "part-1.h5"), "rows 25 to 65", "hessian_join")

    # HDF5 would read NaN.
    def test_a_joined_file_without_its_parts(self):
        shutil.copy(os.path.join(FILES, "joined.h5"), self.path("joined.h5"))
        shutil.copy(os.path.join(FILES, "part-0.h5"), self.path("part-0.h5"))
        self.assert_refused(self.path("joined.h5"), "part-1.h5")
        shutil.copy(os.path.join(FILES, "part-1.h5"), self.path("part-1.h5"))
        with HessianFile(self.path("joined.h5")) as H:
            np.testing.assert_array_equal(np.asarray(H), MATRIX)

    def test_a_joined_file_whose_part_is_another_file(self):
        for name in ("joined.h5", "part-0.h5", "part-1.h5"):
            shutil.copy(os.path.join(FILES, name), self.path(name))
        with h5py.File(self.path("part-1.h5"), "r+") as file:
            file.attrs["file_id"] = "of another file"
        self.assert_refused(self.path("joined.h5"), "part-1.h5", "another file")

    def test_a_complete_file_that_lacks_rows(self):
        shutil.copy(os.path.join(FILES, "whole.h5"), self.path())
        with h5py.File(self.path(), "r+") as file:
            file["blocks/mark"][7] = 0
        self.assert_refused(self.path(), "complete", "not there")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
