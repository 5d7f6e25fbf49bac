#!/usr/bin/env python3
"""Runs hessian_solve as its users do, and compares what it writes with numpy.

usage: solve.py PROGRAM LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks.
"""

import pathlib
import re
import subprocess

import fabricated_file
import h5py
import numpy as np
from tool import run_tests

N = 120


class Case:
    """A folder with h.h5, indefinite and symmetric but for rounding, and g.h5 with two right sides."""

    def __init__(self, program: str, launch: list[str], folder: pathlib.Path):
        self.program, self.launch, self.folder = program, launch, folder
        random = np.random.default_rng(3)
        matrix = random.standard_normal((N, N))
        stored = (matrix + matrix.T + 1e-6 * random.standard_normal((N, N))).astype(np.float32)
        gradient = random.standard_normal(N).astype(np.float32)
        fabricated_file.write(folder / "h.h5", stored, gradient)
        self.gradient = gradient.astype(np.float64)
        self.matrix = (stored.astype(np.float64) + stored.T.astype(np.float64)) / 2
        self.sides = random.standard_normal((2, N))
        with h5py.File(folder / "g.h5", "w") as file:
            file["some/sides"] = self.sides
            file["short"] = self.sides[:, 1:]

    def run(self, ranks: int, *arguments: str) -> subprocess.CompletedProcess:
        command = [*self.launch, "-n", str(ranks), self.program, *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=120)

    def result(self, ranks: int, *arguments: str) -> h5py.File:
        finished = self.run(ranks, "h.h5", *arguments, "--overwrite")
        assert finished.returncode == 0, finished.stderr + finished.stdout
        return h5py.File(self.folder / "h.solution.h5")


def test_newton_step(case: Case) -> None:
    for ranks, damping, method in ((3, 40, "dense"), (3, 0.3, "dense"), (2, 40, "cg")):
        with case.result(ranks, "--damping", str(damping), "--method", method, "--tolerance", "1e-12") as file:
            damped = case.matrix + damping * np.eye(N)
            step = np.linalg.solve(damped, -case.gradient)
            np.testing.assert_allclose(file["solution"][:], step[None], rtol=1e-8, atol=1e-9)
            np.testing.assert_allclose(file["rhs"][:], -case.gradient[None])
            change = case.gradient @ step + 0.5 * step @ case.matrix @ step
            assert file["solution"].attrs["positive_definite"] == (damping == 40)
            assert ("predicted_change" in file["solution"].attrs) == (damping == 40)
            if damping == 40:
                np.testing.assert_allclose(file["solution"].attrs["predicted_change"], change, rtol=1e-6)
            assert file.attrs["format"] == "hessian_mpi solution"
            assert file.attrs["checks"] == "passed"
            assert file["hessian"].attrs["model"] == "net.pt"


def test_a_step_that_is_none_is_called_so(case: Case) -> None:
    values = np.linalg.eigvalsh(case.matrix)
    for ranks, damping, method in ((4, -values[0] - 1e-3, "dense"), (1, 0.3, "minres")):
        finished = case.run(ranks, "h.h5", "--damping", repr(float(damping)), "--method", method, "--overwrite")
        assert finished.returncode == 0 and "predicted change" not in finished.stdout, finished
        assert "NOT towards a minimum" in finished.stdout, finished
        needed = float(re.search(r"--damping (\S+) or more makes it positive definite", finished.stdout)[1])
        assert -values[0] <= needed <= -values[0] * 1.01, (needed, values[0])
        with h5py.File(case.folder / "h.solution.h5") as file:
            about = file["solution"].attrs
            np.testing.assert_allclose(about["smallest_eigenvalue"], values[0] + damping, atol=1e-7 * abs(values[0]))
            assert about["positive_definite"] == 0 and "predicted_change" not in about
            counted = (values + damping < 0).sum()
            assert method == "minres" or (about["negative_eigenvalues"] == counted and f"has {counted} of 120" in finished.stdout)


def test_right_sides_of_a_file_by_every_method(case: Case) -> None:
    for ranks, method, damping, memory in ((2, "dense", 0.3, "1G"), (3, "minres", 0.3, "1G"), (2, "cg", 40, "1")):
        options = ["--rhs", "g.h5:some/sides", "--method", method, "--damping", str(damping), "--memory", memory]
        with case.result(ranks, *options, *(["--tolerance", "1e-11"] if method != "dense" else [])) as file:
            damped = case.matrix + damping * np.eye(N)
            expected = np.linalg.solve(damped, case.sides.T).T
            np.testing.assert_allclose(file["solution"][:], expected, rtol=1e-5, atol=1e-7)
            residuals = np.linalg.norm(case.sides - file["solution"][:] @ damped, axis=1) / np.linalg.norm(case.sides, axis=1)
            np.testing.assert_allclose(file["residuals"][:], residuals, atol=1e-12)


def test_right_sides_of_every_kind_of_file(case: Case) -> None:
    np.save(case.folder / "g.npy", case.sides)
    np.save(case.folder / "one:g.npy", case.sides[0])
    np.savetxt(case.folder / "g.txt", case.sides, fmt="%.17g")
    for name, sides in (("g.npy", case.sides), ("one:g.npy", case.sides[:1]), ("g.txt", case.sides)):
        with case.result(2, "--rhs", name, "--method", "dense") as file:
            np.testing.assert_array_equal(file["rhs"][:], sides)
            np.testing.assert_allclose(file["solution"][:] @ case.matrix, sides, atol=1e-9)


def test_newton_with_diagonal_blocks(case: Case) -> None:
    random = np.random.default_rng(4)
    n, shapes = 320, {"a": (5,), "big": (30, 10), "b": (15,)}
    stored = random.standard_normal((n, n))
    matrix, gradient = (stored + stored.T) / 2, random.standard_normal(n)
    for ranks, damping, one_file, names in ((3, 60, True, []), (2, 0.3, False, ["a,b", "big"]), (1, 60, False, ["big"])):
        fabricated_file.write(case.folder / "h.h5", stored, gradient, shapes=shapes, diagonal_blocks=one_file)
        groups = [np.r_[:5], np.r_[5:305], np.r_[305:320]] if one_file else [np.r_[5:305]] + [np.r_[:5, 305:320]] * (len(names) - 1)
        kept = np.zeros((n, n))
        for group in groups:
            kept[np.ix_(group, group)] = matrix[np.ix_(group, group)]
        inside = np.concatenate(groups)
        step = np.zeros(n)
        step[inside] = np.linalg.solve(kept[np.ix_(inside, inside)] + damping * np.eye(len(inside)), -gradient[inside])
        with case.result(ranks, "--damping", str(damping), *(["--block", *names] if names else [])) as file:
            np.testing.assert_allclose(file["solution"][0], step, atol=1e-9)
            about = file["solution"].attrs
            values = np.linalg.eigvalsh(kept[np.ix_(inside, inside)]) + damping
            assert about["positive_definite"] == (damping == 60)
            assert about["blocks"].split("\n") == (names or list(shapes))
            if damping == 60:
                np.testing.assert_allclose(about["predicted_change"], gradient @ step + 0.5 * step @ kept @ step, rtol=1e-9)
            else:
                np.testing.assert_allclose(about["smallest_eigenvalue"], values[0], rtol=1e-9)
                assert about["negative_eigenvalues"] == (values < 0).sum()
    for options, words in [
        (["--block", "a", "*"], "a parameter is in two blocks"),
        (["--block", "a", "--method", "cg"], "by --method dense alone"),
        (["--block", "a", "--logdet"], "of a whole matrix"),
    ]:
        finished = case.run(1, "h.h5", *options, "--overwrite")
        assert finished.returncode == 2 and words in finished.stderr, (options, finished)


def test_what_cannot_be_solved(case: Case) -> None:
    np.save(case.folder / "h.npy", case.sides)
    np.save(case.folder / "nan.npy", np.full(N, np.nan))
    for options, code, words in [
        (["--rhs", "g.h5"], 2, "name the dataset of 'g.h5'"),
        (["--rhs", "g.h5:none"], 2, "'g.h5' has no dataset 'none'"),
        (["--rhs", "g.h5:short"], 2, "has the shape [2, 119]: the vectors of this matrix are [120] or [count, 120]"),
        (["--rhs", "h.npy:x"], 2, "'h.npy' is not an HDF5 file"),
        (["--rhs", "nan.npy"], 2, "'nan.npy' has a number that is not finite: entry 0 of vector 0"),
        (["--memory", "much"], 2, "--memory 'much' is not a size"),
        (["--rhs", "none.h5:x"], 2, "no such file"),
        (["--method", "guess"], 2, "auto, dense, minres or cg"),
        (["--method", "cg"], 1, "--method minres"),
        (["--method", "minres", "--iterations", "2"], 1, "in 2 iterations"),
    ]:
        finished = case.run(2, "h.h5", *options)
        errors = [line for line in finished.stderr.splitlines() if line.startswith("hessian_solve:")]
        assert finished.returncode == code, (options, finished)
        assert len(errors) == 1 and words in errors[0], (options, finished.stderr)
        assert not list(case.folder.glob("*.solution.h5*")) and not list(case.folder.glob(".*")), options


def test_a_matrix_that_is_singular_to_rounding_has_no_solution(case: Case) -> None:
    for eigenvalue in np.linalg.eigvalsh(case.matrix)[[0, 50, -1]]:
        finished = case.run(2, "h.h5", "--method", "dense", "--damping", repr(-float(eigenvalue)))
        assert finished.returncode == 1 and "singular to rounding" in finished.stderr, finished
        assert "checked" not in finished.stdout and "step" not in finished.stdout, finished
        assert not list(case.folder.glob("*.solution.h5*")) and not list(case.folder.glob(".*"))


def test_right_sides_whose_squares_overflow_are_named(case: Case) -> None:
    np.save(case.folder / "long.npy", np.array([case.sides[0], np.full(N, 1e308)]))
    for method in ("dense", "minres"):
        finished = case.run(2, "h.h5", "--rhs", "long.npy", "--method", method)
        assert finished.returncode == 2 and "right side 1 is too long" in finished.stderr, finished


if __name__ == "__main__":
    run_tests(globals(), Case)
