"""A file with any matrix, written with h5py and XXH3 by the contract alone."""

import ctypes
import ctypes.util
import pathlib

import h5py
import numpy as np

_xxhash = ctypes.CDLL(ctypes.util.find_library("xxhash") or "libxxhash.so.0")
_xxhash.XXH3_64bits.restype = ctypes.c_uint64
_xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def xxh3(data: bytes) -> int:
    return _xxhash.XXH3_64bits(data, len(data))


def write_blocks(file: h5py.File, matrix: list[np.ndarray], first_row: int, on_disk: np.ndarray) -> None:
    """A block for each row, as small matrices have them."""
    begin = np.arange(first_row, first_row + len(matrix))
    checksums = np.array([xxh3(row.tobytes()) for row in matrix], dtype=np.uint64)
    largest = np.array([np.abs(row).max() for row in matrix], dtype=np.float64)
    marks = [
        xxh3(np.array([b, b + 1], dtype=np.int64).tobytes() + c.tobytes() + x.tobytes())
        for b, c, x in zip(begin, checksums, largest)
    ]
    file["blocks/begin"] = begin
    file["blocks/end"] = begin + 1
    file["blocks/checksum"] = checksums
    file["blocks/largest"] = largest
    file["blocks/mark"] = np.where(on_disk, np.array(marks, dtype=np.uint64), np.uint64(0))


def write(
    path: pathlib.Path,
    matrix: np.ndarray,
    gradient: np.ndarray | None = None,
    complete: int = 1,
    shapes: dict[str, tuple[int, ...]] | None = None,
    first_row: int = 0,
    on_disk: np.ndarray | None = None,
    attributes: dict | None = None,
    diagonal_blocks: bool = False,
) -> None:
    """diagonal_blocks: those alone. shapes: of the parameters, by name. matrix: the rows from first_row on. on_disk: for each of them, whether it is."""
    rows, n = matrix.shape
    shapes = shapes or {"weight": (n - 1,), "bias": (1,)}
    sizes = np.array([int(np.prod(shape)) for shape in shapes.values()])
    widest = max(len(shape) for shape in shapes.values())
    with h5py.File(path, "w", libver=("earliest", "v108")) as file:
        file["hessian"] = matrix
        for name, value in {"format": "hessian_mpi", "model": "net.pt", "loss": "mse", **(attributes or {})}.items():
            file.attrs[name] = value
        numbers = {"format_version": 1, "complete": complete, "row_begin": first_row, "row_end": first_row + rows}
        for name, number in numbers.items():
            file.attrs[name] = np.int64(number)
        file["parameters/name"] = np.array([name.encode() for name in shapes])
        file["parameters/offset"] = np.cumsum(sizes) - sizes
        file["parameters/size"] = sizes
        file["parameters/ndim"] = np.array([len(shape) for shape in shapes.values()])
        file["parameters/shape"] = np.array([[*shape] + [0] * (widest - len(shape)) for shape in shapes.values()])
        file["parameters/value"] = np.zeros(n, matrix.dtype)
        file["gradient"] = np.zeros(n, matrix.dtype) if gradient is None else gradient.astype(matrix.dtype)
        stored = list(matrix)
        if diagonal_blocks:
            del file["hessian"]
            file.attrs["entries"] = "diagonal_blocks"
            ends = np.cumsum(sizes)
            for name, begin, end in zip(shapes, ends - sizes, ends):
                file[f"hessian/{name}"] = matrix[begin:end, begin:end]
                stored[begin:end] = matrix[begin:end, begin:end]
        write_blocks(file, stored, first_row, np.ones(rows, bool) if on_disk is None else on_disk)
