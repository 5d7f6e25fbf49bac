#!/usr/bin/env python3
"""Runs hessian_solve --inverse and --logdet as their users do, and compares what they write with numpy.

usage: inverse.py PROGRAM LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks.
"""

import pathlib
import re

import fabricated_file
import h5py
import numpy as np
from tool import Tool, run_tests

SHAPES = {"conv.weight": (5, 1, 3, 3), "conv.bias": (5,), "fc.weight": (4, 20), "fc.bias": (4,)}
N = 134
PART = np.r_[45:50, 130:134]  # of the biases


class Case(Tool):
    """A folder with h.h5, indefinite and symmetric but for rounding, and f.h5, a Fisher matrix of rank 60."""

    def __init__(self, program: str, launch: list[str], folder: pathlib.Path):
        super().__init__(program, launch, folder)
        random = np.random.default_rng(8)
        factor = random.standard_normal((N, 100))
        stored = factor @ factor.T / 10 + random.standard_normal((N, N)) * 1e-3
        fabricated_file.write(folder / "h.h5", stored, shapes=SHAPES)
        self.matrix = (stored + stored.T) / 2
        gradients = random.standard_normal((N, 60))
        self.fisher = gradients @ gradients.T / 60
        fabricated_file.write(folder / "f.h5", self.fisher, shapes=SHAPES, attributes={"matrix": "fisher"})

    def result(self, ranks: int, *arguments: str) -> tuple[h5py.File, str]:
        shown = self.good(ranks, "h.h5", *arguments, "--overwrite")
        return h5py.File(self.folder / "h.inverse.h5"), shown


def expect_inverse(file: h5py.File, inverse: np.ndarray, rows: np.ndarray, whole: bool) -> None:
    scale = np.abs(inverse).max()
    np.testing.assert_array_equal(file["indices"][:], rows)
    np.testing.assert_allclose(file["diagonal"][:], np.diag(inverse)[rows], atol=1e-11 * scale)
    np.testing.assert_allclose(file["standard_errors"][:] ** 2, file["diagonal"][:], rtol=1e-14)
    assert ("inverse" in file) == whole
    if whole:
        np.testing.assert_allclose(file["inverse"][:], inverse[np.ix_(rows, rows)], atol=1e-11 * scale)
    assert file.attrs["format"] == "hessian_mpi inverse" and file.attrs["checks"] == "passed"


def test_inverses_and_determinants(case: Case) -> None:
    every = np.arange(N)
    for ranks, of, rows, damping, scale in (
        (1, ["diagonal"], every, 1, 1), (3, ["conv.bias", "fc.b*"], PART, 1, 50), (4, ["all"], every, 1, 7),
    ):
        file, shown = case.result(ranks, "--inverse", *of, "--logdet", "--damping", str(damping), "--scale", str(scale))
        matrix = scale * case.matrix + damping * np.eye(N)
        sign, logarithm = np.linalg.slogdet(matrix)
        with file:
            expect_inverse(file, np.linalg.inv(matrix), rows, of != ["diagonal"])
            np.testing.assert_allclose(file.attrs["log_determinant"], logarithm, rtol=1e-11)
        np.testing.assert_allclose(float(re.search(r"log det B +(\S+)", shown)[1]), logarithm, rtol=1e-8)


def test_the_determinant_alone_has_no_datasets(case: Case) -> None:
    file, _ = case.result(1, "--logdet", "--damping", "0.5")
    with file:
        assert list(file) == ["hessian"]
        np.testing.assert_allclose(file.attrs["log_determinant"], np.linalg.slogdet(case.matrix + 0.5 * np.eye(N))[1], rtol=1e-11)


def test_few_entries_are_printed_by_name(case: Case) -> None:
    _, shown = case.result(1, "--inverse", "fc.bias", "--damping", "0.3")
    inverse = np.linalg.inv(case.matrix + 0.3 * np.eye(N))
    for k in range(4):
        line = next(line for line in shown.splitlines() if f"fc.bias[{k}]" in line)
        np.testing.assert_allclose(float(re.search(r"root (\S+)", line)[1]), np.sqrt(inverse[130 + k, 130 + k]), rtol=1e-5)


def test_eigenvalues_that_are_left_out(case: Case) -> None:
    for ranks, threshold, damping, scale in ((1, 1e-3, 0, 1), (1, 0, 0, 4), (4, 0.1, 0.3, 2)):
        values, vectors = np.linalg.eigh(scale * case.matrix + damping * np.eye(N))
        kept = values > threshold * np.abs(values).max()
        pseudo = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
        file, shown = case.result(ranks, "--inverse", "all", "--logdet", "--pseudo", str(threshold), "--damping", str(damping), "--scale", str(scale))
        with file:
            scaled = np.abs(pseudo).max()
            np.testing.assert_allclose(file["inverse"][:], pseudo, atol=1e-9 * scaled)
            np.testing.assert_allclose(file["diagonal"][:], np.diag(pseudo), atol=1e-9 * scaled)
            assert file.attrs["left_out"] == (~kept).sum() and file.attrs["negative_eigenvalues"] == (values < 0).sum()
            np.testing.assert_allclose(file.attrs["log_determinant"], np.log(values[kept]).sum(), rtol=1e-9)
        assert f"{(~kept).sum()} of {N} eigenvalues" in shown, shown


def test_sandwich(case: Case) -> None:
    for ranks, of, rows, scale in ((1, ["all"], np.arange(N), 1), (3, ["*.bias"], PART, 6)):
        inverse = np.linalg.inv(scale * case.matrix + 0.3 * np.eye(N))
        file, _ = case.result(ranks, "--inverse", *of, "--damping", "0.3", "--scale", str(scale), "--sandwich", "f.h5")
        with file:
            expect_inverse(file, inverse @ (scale * case.fisher) @ inverse, rows, True)
            assert file.attrs["sandwich"] == "f.h5" and len(file.attrs["sandwich_sum"]) == 16


def test_what_is_not_positive_definite(case: Case) -> None:
    values = np.linalg.eigvalsh(case.matrix)
    finished = case.run(4, "h.h5", "--inverse", "diagonal")
    message = next(line for line in finished.stderr.splitlines() if line.startswith("hessian_solve: error: "))
    assert finished.returncode == 1 and f"{(values < 0).sum()} of {N} are negative" in message, finished
    np.testing.assert_allclose(float(re.search(r"smallest eigenvalue is (\S+),", message)[1]), values[0], rtol=1e-5)
    needed = re.search(r"--damping of more than (\S+),", message)[1]
    assert -values[0] <= float(needed) <= -values[0] * 1.01, message
    case.good(1, "h.h5", "--inverse", "diagonal", "--damping", str(1.01 * float(needed)))
    (case.folder / "h.inverse.h5").unlink()
    fabricated_file.write(case.folder / "z.h5", np.diag([1.0] + [0] * (N - 1)), shapes=SHAPES)
    finished = case.run(1, "z.h5", "--logdet", "--damping", "1e-18")
    assert finished.returncode == 1 and "singular to rounding" in finished.stderr, finished
    assert not list(case.folder.glob("*.inverse.h5*")) and not list(case.folder.glob(".*"))


def test_what_makes_no_sense(case: Case) -> None:
    fabricated_file.write(case.folder / "other.h5", case.fisher, attributes={"matrix": "fisher"})
    for options, words in [
        (["--pseudo", "0.1"], "--pseudo is of --inverse and --logdet"),
        (["--sandwich", "f.h5", "--logdet"], "--sandwich is of --inverse"),
        (["--logdet", "--pseudo", "1"], "from 0 to less than 1"),
        (["--logdet", "--scale", "0"], "--scale 0: it must be positive"),
        (["--logdet", "--method", "cg"], "--method is of systems"),
        (["--inverse", "all", "fc.bias"], "--inverse all stands alone"),
        (["--inverse", "fc.bias", "fd.bias"], "--inverse fd.bias: no parameter has such a name"),
        (["--inverse", "all", "--sandwich", "h.h5"], "is not of --matrix fisher"),
        (["--inverse", "all", "--sandwich", "other.h5"], "has other parameters than 'h.h5'"),
        (["--inverse", "all", "--sandwich", "none.h5"], "none.h5"),
        (["--inverse", "all", "--sandwich", "f.h5", "--output", "f.h5", "--overwrite"], "a file that is read"),
    ]:
        finished = case.run(1, "h.h5", *options)
        assert finished.returncode == 2 and words in finished.stderr and finished.stderr.count("\n") == 1, (options, finished)
        assert not list(case.folder.glob("*.inverse.h5*")) and not list(case.folder.glob(".*")), options
    planned = case.good(1, "h.h5", "--inverse", "all", "--sandwich", "f.h5", "--plan")
    assert "Cholesky" in planned and not list(case.folder.glob("*.inverse.h5"))


if __name__ == "__main__":
    run_tests(globals(), Case)
