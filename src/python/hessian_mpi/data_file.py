"""The data file of a job: written from tensors, datasets and loaders, batch by batch, and read back."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .batch import DataError, Layout, described

_DTYPES = (torch.float32, torch.float64, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool,
           torch.uint64)
_SAMPLES_OF_A_DATASET = 256
_BATCHES_OF_ONE = 32
_CHUNK_BYTES = 1 << 20


def data(path: str | os.PathLike, data: Any = None, *, whole: Collection[str] | bool = False) -> Any:
    """Writes a data file, data("job/data.h5", (x, y)), or reads it, x, y = data("job/data.h5").

    data: a tensor, a tuple or dict of tensors (inputs by the names of forward's arguments), a pair (inputs, targets) of
    these, or what yields such batches: a Dataset, a DataLoader, any iterable. The first dimension is the sample, but of
    tensors named in `whole` (True: of all). Returns the pair that is in the file. Raises DataError for what the program
    would refuse: dtypes, scalars, NaN, numbers of samples that differ.
    """
    if data is not None:
        write(path, data, whole)
    return read(path)


def batches(data: Any) -> Iterator[Any]:
    """The batches of all kinds of data: one of tensors in memory, those of a loader one after the other."""
    if isinstance(data, (Tensor, np.ndarray, Mapping, tuple, list)):
        yield data
        return
    if not isinstance(data, DataLoader) and (isinstance(data, Dataset) or _is_indexed(data)):
        data = DataLoader(data, batch_size=_SAMPLES_OF_A_DATASET)
    if isinstance(data, (str, os.PathLike)):
        raise DataError(f"the data are a path; hessian_mpi.data({str(data)!r}) reads a data file")
    if not isinstance(data, Iterable):
        raise DataError(f"data of type {type(data).__name__}; expected are tensors, tuples and dicts of them, a pair (inputs, "
                        "targets), a Dataset or a DataLoader")
    yield from data


def _is_indexed(data: Any) -> bool:
    """Datasets that are not PyTorch's, whose iterators yield samples."""
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Sequence)


class Written:
    """What is in a data file: its layout, first batch, or first ones of a loader that yields single samples, and number of
    samples (None where all is whole)."""

    def __init__(self, layout: Layout, first: list[Tensor]):
        self.layout, self.first = layout, first
        self.samples: int | None = None


def write(path: str | os.PathLike, data: Any, whole: Collection[str] | bool = False,
          layout_of: Callable[[Any], Layout] = Layout) -> Written:
    """The file at `path` is replaced once the new one is complete. Never more than two batches are in memory."""
    path = pathlib.Path(path)
    unfinished = path.with_name(path.name + ".part")
    try:
        with h5py.File(unfinished, "w") as file:
            written = _write_batches(_Writer(file, path, whole), batches(data), layout_of)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return written


def _write_batches(writer: "_Writer", stream: Iterator[Any], layout_of: Callable[[Any], Layout]) -> Written:
    batch = next(stream, None)
    if batch is None:
        raise DataError(f"'{writer.path}' would hold no sample: the data yield no batch")
    layout = layout_of(batch)
    written = Written(layout, layout.tensors(batch))
    following = next(stream, None)
    writer.begin(layout, written.first, grows=following is not None)
    writer.append(written.first)
    ones = [written.first]  # one sample alone does not show that a network takes several
    while following is not None:
        tensors = layout.tensors(following)
        if writer.samples == len(ones) < _BATCHES_OF_ONE:
            ones.append(tensors)
        writer.append(tensors)
        following = next(stream, None)
    if len(ones) > 1:
        written.first = [parts[0] if is_whole else torch.cat(parts) for *parts, is_whole in zip(*ones, writer.is_whole)]
    written.samples = writer.samples
    return written


class _Writer:
    """Datasets that grow with every batch; those named in `whole` are written once."""

    def __init__(self, file: h5py.File, path: pathlib.Path, whole: Collection[str] | bool):
        self.file, self.path, self._whole = file, path, whole
        self.samples: int | None = None

    def begin(self, layout: Layout, tensors: list[Tensor], grows: bool) -> None:
        if not isinstance(self._whole, bool):
            unknown = set(self._whole) - set(layout.names)
            if unknown:
                raise DataError(f"whole: the data have no '{min(unknown)}'; they have {', '.join(layout.names)}")
        self._layout = layout
        self.is_whole = [self._whole if isinstance(self._whole, bool) else name in self._whole for name in layout.names]
        for path, tensor, is_whole in zip(layout.paths, tensors, self.is_whole):
            self._expect_numbers(path, tensor)
            if is_whole or not grows:
                self.file.create_dataset(path, data=_array(tensor))
            else:
                rest = tuple(tensor.shape[1:])
                bytes_of_row = max(1, int(np.prod(rest)) * tensor.element_size())
                rows = max(1, _CHUNK_BYTES // bytes_of_row)
                self.file.create_dataset(path, (0, *rest), _array(tensor[:0]).dtype, maxshape=(None, *rest),
                                         chunks=(rows, *(max(1, n) for n in rest)))

    def append(self, tensors: list[Tensor]) -> None:
        counts = []
        for path, tensor, is_whole in zip(self._layout.paths, tensors, self.is_whole):
            self._expect_numbers(path, tensor)
            dataset = self.file[path]
            if dataset.shape[1:] != tuple(tensor.shape[1:]) or dataset.dtype != _array(tensor[:0]).dtype:
                raise DataError(f"{self._named(path)} is {dataset.dtype} of shape [*, {str(list(dataset.shape[1:]))[1:]}, and a "
                                f"batch has {described(tensor)}: pad samples to one shape in the loader's collate_fn")
            if is_whole:
                if not np.array_equal(dataset[:], _array(tensor)):
                    raise DataError(f"{self._named(path)} is whole, and another one in another batch")
                continue
            counts.append(len(tensor))
            if dataset.chunks is not None:
                dataset.resize(len(dataset) + len(tensor), axis=0)
                dataset[len(dataset) - len(tensor):] = _array(tensor)
        if counts and min(counts) != max(counts):
            raise DataError(self._differing(counts))
        if counts:
            self.samples = (self.samples or 0) + counts[0]
        if self.samples == 0:
            raise DataError(f"'{self.path}' holds no sample")

    def _named(self, path: str) -> str:
        return f"dataset '{path}' of '{self.path}'"

    def _differing(self, counts: list[int]) -> str:
        paths = [path for path, is_whole in zip(self._layout.paths, self.is_whole) if not is_whole]
        listed = {part: ", ".join(str(n) for path, n in zip(paths, counts) if path.startswith(part))
                  for part in ("inputs", "targets")}
        words = ", ".join(f"{part} {numbers}" for part, numbers in listed.items() if numbers)
        return (f"the numbers of samples in '{self.path}' differ: {words}; the first dimension of every tensor is the sample. "
                "Tensors that are not cut into samples are named by whole=[...], or whole=True for all")

    def _expect_numbers(self, path: str, tensor: Tensor) -> None:
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise DataError(f"{self._named(path)} is sparse or quantized; expected is a dense tensor")
        if tensor.dtype not in _DTYPES:
            raise DataError(f"{self._named(path)} holds elements that are neither floating-point numbers nor integers nor "
                            f"booleans of 8 to 64 bits: {tensor.dtype}; floating-point numbers are float32 or float64: "
                            "convert it with .float() or .double()")
        if tensor.dim() == 0:
            raise DataError(f"{self._named(path)} is a scalar; expected is a dataset whose first dimension is the sample")
        if tensor.is_floating_point() and tensor.isnan().any():
            first = tensor.isnan().nonzero()[0].tolist()
            raise DataError(f"{self._named(path)} holds NaN in {int(tensor.isnan().sum())} places, the first of them {first} of "
                            "a batch: leave these samples out, or replace the values")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def read(path: str | os.PathLike) -> tuple[Any, Any]:
    """Inputs and targets: a tensor, a tuple, or of inputs with names a dict; targets are None where there are none."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"'{path}' is not there: hessian_mpi.data('{path}', (inputs, targets)) writes it")
    if not h5py.is_hdf5(path):
        raise DataError(f"'{path}' is no HDF5 file, or damaged; expected is one with `inputs` and `targets`")
    with h5py.File(path, "r") as file:
        if "inputs" not in file:
            raise DataError(f"'{path}' has no `inputs` (it holds: {', '.join(file) or 'nothing'}); expected are `inputs` and "
                            "`targets`: datasets, or groups with datasets 0, 1, ..., or inputs by name")
        return _read(file["inputs"]), _read(file["targets"]) if "targets" in file else None


def _read(node: h5py.Dataset | h5py.Group) -> Any:
    if isinstance(node, h5py.Dataset):
        return torch.from_numpy(node[()])
    if all(name.isdigit() for name in node):
        return tuple(_read(node[str(k)]) for k in range(len(node)))
    return {name: _read(node[name]) for name in node}
