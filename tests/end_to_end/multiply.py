#!/usr/bin/env python3
"""Runs hessian_multiply as its users do, and compares with numpy.

usage: multiply.py PROGRAM LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks.
"""

import fabricated_file
import h5py
import numpy as np
from tool import Tool, run_tests

N = 130


def matrix(dtype: type = np.float64) -> np.ndarray:
    """Not symmetric: H x and x H differ."""
    return np.random.default_rng(4).standard_normal((N, N)).astype(dtype)


def expect(multiply: Tool, stored: np.ndarray, vectors: np.ndarray, ranks: int, *arguments: str) -> None:
    printed = multiply.good(ranks, "h.h5", "--overwrite", *arguments)
    wide = stored.astype(np.float64)
    with h5py.File(multiply.folder / "h.product.h5") as file:
        assert file["products"].dtype == np.float64 and file["products"].shape == vectors.shape
        np.testing.assert_array_equal(file["vectors"][:], vectors)
        np.testing.assert_allclose(file["products"][:], vectors @ wide.T, atol=1e-12)
        np.testing.assert_allclose(file.attrs["trace"], np.trace(wide), rtol=1e-12)
        np.testing.assert_allclose(file.attrs["frobenius_norm"], np.linalg.norm(wide), rtol=1e-12)
        assert file.attrs["format"] == "hessian_mpi product" and file.attrs["source"] == "h.h5"
        assert file["hessian"].attrs["loss"] == "mse" and file.attrs["finished"]
    curvature = vectors[0] @ wide @ vectors[0] / (vectors[0] @ vectors[0])
    assert f"x.Hx / x.x {curvature:.6g}" in printed, printed


def test_vectors_of_every_kind_of_file(multiply: Tool) -> None:
    vectors = np.random.default_rng(5).standard_normal((6, N))
    for dtype in (np.float32, np.float64):
        stored = matrix(dtype)
        fabricated_file.write(multiply.folder / "h.h5", stored)
        np.save(multiply.folder / "one.npy", vectors[0])
        np.save(multiply.folder / "some.npy", vectors.astype(np.float32))
        expect(multiply, stored, vectors[:1], 1, "--vectors", "one.npy")
        expect(multiply, stored, vectors.astype(np.float32).astype(np.float64), 3, "--vectors", "some.npy")
    with h5py.File(multiply.folder / "v.h5", "w") as file:
        file["group/v"] = vectors
    np.savetxt(multiply.folder / "v.txt", vectors[:2], fmt="%.17g")
    expect(multiply, stored, vectors, 2, "-v", "v.h5:/group/v")
    expect(multiply, stored, vectors, 1, "-v", "v.h5:group/v")
    expect(multiply, stored, vectors[:2], 1, "-v", "v.txt")


def test_gradient_and_random_vectors(multiply: Tool) -> None:
    stored = matrix()
    gradient = np.linspace(-1, 1, N)
    fabricated_file.write(multiply.folder / "h.h5", stored, gradient=gradient)
    expect(multiply, stored, gradient[None], 2, "--gradient")
    drawn = []
    for ranks, seed in ((1, 7), (3, 7), (1, 8)):
        multiply.good(ranks, "h.h5", "--random", "3", "--seed", str(seed), "--overwrite")
        with h5py.File(multiply.folder / "h.product.h5") as file:
            drawn.append(file["vectors"][:])
            np.testing.assert_allclose(file["products"][:], drawn[-1] @ stored.T, atol=1e-12)
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any() and (np.abs(drawn[0]) == 1).all()


def test_mistakes_are_told_in_one_line(multiply: Tool) -> None:
    folder = multiply.folder
    fabricated_file.write(folder / "h.h5", matrix())
    fabricated_file.write(folder / "unfinished.h5", matrix(), complete=0)
    fabricated_file.write(folder / "part.h5", matrix()[10:20], first_row=10)
    np.save(folder / "transposed.npy", np.ones((N, 2)))
    np.save(folder / "fortran.npy", np.asfortranarray(np.ones((2, N))))
    np.save(folder / "whole.npy", np.ones(N, dtype=np.int64))
    np.save(folder / "nan.npy", np.array([np.nan] * N))
    (folder / "words.txt").write_text("1 2 three\n")
    (folder / "short.txt").write_text("1 2 3\n")
    with open(folder / "cut.npy", "wb") as file:
        np.save(file, np.ones(N))
        file.truncate(300)
    wrong = {
        "transposed.npy": f"has the shape [{N}, 2]: the vectors of this matrix are [{N}] or [count, {N}]",
        "fortran.npy": "Fortran's order",
        "whole.npy": "does not hold float32 or float64",
        "nan.npy": "not finite: entry 0 of vector 0",
        "words.txt": "what is not a number: 1 2 three",
        "short.txt": f"a line of 3 numbers: each is a vector of {N}",
        "cut.npy": "ends too early",
        "none.npy": "no such file",
        "h.h5": "name the dataset",
        "h.h5:/none": "'h.h5' has no dataset '/none'",
        "h.h5:/blocks": "cannot be read",
    }
    for name, words in wrong.items():
        assert words in multiply.error("h.h5", "-v", name), name
    assert "one of --vectors, --gradient and --random" in multiply.error("h.h5")
    assert "not complete" in multiply.error("unfinished.h5", "--gradient")
    assert "join the parts" in multiply.error("part.h5", "--gradient")
    multiply.good(1, "h.h5", "--gradient")
    assert "exists already" in multiply.error("h.h5", "--gradient")
    assert sorted(path.name for path in folder.glob("*product*")) == ["h.product.h5"]
    assert "hessian_multiply hessian.h5" in multiply.good(1, "--help")


def test_numbers_that_are_not_finite_fail(multiply: Tool) -> None:
    stored = matrix()
    stored[3, 4] = np.inf
    fabricated_file.write(multiply.folder / "h.h5", stored)
    finished = multiply.run(2, "h.h5", "--gradient")
    assert finished.returncode == 1 and "not finite" in finished.stderr, finished
    assert "in the rows of weight and the columns of weight" in finished.stderr, finished


def test_sums_that_overflow_are_named(multiply: Tool) -> None:
    stored = matrix()
    fabricated_file.write(multiply.folder / "h.h5", stored)
    along = np.sign(stored[7])
    np.save(multiply.folder / "v.npy", np.array([np.ones(N), np.zeros(N), 1e200 * along, 1.7e308 * along]))
    finished = multiply.run(2, "h.h5", "--vectors", "v.npy")
    assert finished.returncode == 1 and "H times vector 3 overflows, first in entry " in finished.stderr, finished
    lines = [line.split(None, 2)[2] for line in finished.stdout.splitlines() if line.startswith("  vector")]
    assert lines[1] == "|x| 0, |H x| 0", lines
    curvature = along @ stored @ along / (along @ along)
    assert lines[2].startswith("|x| 1.14018e+201, ") and f"x.Hx / x.x {curvature:.6g}" in lines[2], lines
    alone = multiply.run(1, "h.h5", "--vectors", "v.npy", "--overwrite")
    assert alone.stderr == finished.stderr.splitlines(True)[0], alone
    fabricated_file.write(multiply.folder / "h.h5", 1e200 * stored)
    finished = multiply.run(2, "h.h5", "--random", "1", "--overwrite")
    assert finished.returncode == 1 and "or whose squares overflow, in the rows of weight" in finished.stderr, finished


if __name__ == "__main__":
    run_tests(globals())
