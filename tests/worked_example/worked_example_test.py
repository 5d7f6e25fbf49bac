#!/usr/bin/env python3
"""Runs the worked example on a smaller network and 100 images, and holds its spectrum to numpy's.

usage: worked_example_test.py BUILD MPIRUN...
"""

import importlib.util
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

import h5py
import numpy as np

SKIPPED = 77
SMALL = ["--channels", "2", "3", "--samples", "100", "--gradient", "1e-3"]


def check_matrix(path: pathlib.Path) -> np.ndarray:
    with h5py.File(path) as file:
        assert file.attrs["complete"] == 1
        for check in ("symmetry", "row", "difference", "gradient"):
            assert file.attrs[f"{check}_check"] == "passed", check
        hessian, gradient = file["hessian"][:], file["gradient"][:]
    assert np.abs(gradient).max() <= 1.001e-3  # a stationary point of the loss that hessian_mpi was given, its L2 term included
    return hessian


def check_spectrum(path: pathlib.Path, hessian: np.ndarray) -> None:
    expected = np.linalg.eigvalsh(hessian)
    with h5py.File(path) as file:
        scale = np.abs(expected).max()
        assert np.abs(file["eigenvalues"][:] - expected).max() < 1e-10 * scale
        largest = np.sort(file["largest/eigenvalues"][:])
        assert np.abs(largest - expected[-len(largest):]).max() < 1e-6 * scale
        grid, density = file["density/grid"][:], file["density/density"][:]
        assert abs(np.sum((density[1:] + density[:-1]) / 2 * np.diff(grid)) - 1) < 0.05


def main(build: str, mpirun: list[str]) -> int:
    needed = ("torch", "sklearn", "scipy", "matplotlib")
    if any(importlib.util.find_spec(package) is None for package in needed) or not pathlib.Path(build, "src/hessian_spectrum").exists():
        print("not run: it takes scikit-learn, matplotlib and hessian_spectrum")
        return SKIPPED
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name, "digits")
        script = pathlib.Path(__file__).with_name("run.sh")
        environment = {**os.environ, "PYTHON": sys.executable, "MPIRUN": shlex.join(mpirun), "OMP_NUM_THREADS": "1"}
        subprocess.run([script, build, folder, *SMALL], check=True, env=environment)
        hessian = check_matrix(folder / "hessian.h5")
        check_spectrum(folder / "hessian.spectrum.h5", hessian)
        for picture in ("digits.png", "norms.png"):
            content = (folder / picture).read_bytes()
            assert content.startswith(b"\x89PNG") and len(content) < 200_000, (picture, len(content))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
