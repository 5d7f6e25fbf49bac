"""A finished file with any matrix, written with h5py by the contract alone."""

import pathlib

import h5py
import numpy as np


def write(path: pathlib.Path, matrix: np.ndarray, gradient: np.ndarray | None = None, complete: int = 1) -> None:
    n = len(matrix)
    with h5py.File(path, "w", libver=("earliest", "v108")) as file:
        file["hessian"] = matrix
        for name, value in {"format": "hessian_mpi", "model": "net.pt", "loss": "mse"}.items():
            file.attrs[name] = value
        for name, number in {"format_version": 1, "complete": complete, "row_begin": 0, "row_end": n}.items():
            file.attrs[name] = np.int64(number)
        file["parameters/name"] = np.array([b"weight", b"bias"], dtype="S6")
        file["parameters/offset"] = np.array([0, n - 1])
        file["parameters/size"] = np.array([n - 1, 1])
        file["parameters/ndim"] = np.array([1, 1])
        file["parameters/shape"] = np.array([[n - 1], [1]])
        file["parameters/value"] = np.zeros(n, matrix.dtype)
        file["gradient"] = np.zeros(n, matrix.dtype) if gradient is None else gradient.astype(matrix.dtype)
        file["blocks/begin"] = np.array([0])
        file["blocks/end"] = np.array([n])
        file["blocks/checksum"] = np.array([0], dtype=np.uint64)
        file["blocks/largest"] = np.array([np.abs(matrix).max()])
        file["blocks/mark"] = np.array([0], dtype=np.uint64)
