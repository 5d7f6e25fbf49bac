#!/usr/bin/env python3
"""Runs hessian_spectrum as its users do, and compares what it writes with numpy.

usage: spectrum.py PROGRAM LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks. FAULT_LIBRARY in the environment: that of fault.cpp.
"""

import errno
import os
import pathlib
import signal
import subprocess
import time

import fabricated_file
import h5py
import numpy as np
from tool import fault, run_tests


def like_a_hessian(n: int) -> np.ndarray:
    """A few large eigenvalues, a bulk around zero, some negative, and a zero block; symmetric but for rounding."""
    random = np.random.default_rng(5)
    outliers = random.standard_normal((n, 4))
    matrix = outliers @ outliers.T / n * 3 + 0.01 * random.standard_normal((n, n))
    matrix[:, n // 2 : n // 2 + n // 5] = 0
    matrix[n // 2 : n // 2 + n // 5] = 0
    return matrix + matrix.T + 1e-6 * random.standard_normal((n, n))


class Spectrum:
    def __init__(self, program: str, launch: list[str], folder: pathlib.Path):
        self.program, self.launch, self.folder = program, launch, folder

    def start(self, ranks: int, *arguments: str, variables: dict[str, str] | None = None) -> subprocess.Popen:
        """variables: of the environment, beside those that are there."""
        command = [*self.launch, "-n", str(ranks), self.program, *arguments]
        environment = {**os.environ, **(variables or {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env=environment, **pipes)

    def end(self, started: subprocess.Popen) -> subprocess.CompletedProcess:
        """Kills one that waits for ever."""
        try:
            output, errors = started.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            started.terminate()
            raise
        return subprocess.CompletedProcess(started.args, started.returncode, output, errors)

    def run(self, ranks: int, *arguments: str, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        return self.end(self.start(ranks, *arguments, variables=variables))

    def result(self, ranks: int, *arguments: str) -> h5py.File:
        finished = self.run(ranks, *arguments, "--overwrite")
        assert finished.returncode == 0, finished.stderr + finished.stdout
        return h5py.File(self.folder / "h.spectrum.h5")


def test_all_eigenvalues_and_vectors(spectrum: Spectrum) -> None:
    for dtype in (np.float64, np.float32):
        stored = like_a_hessian(150).astype(dtype)
        fabricated_file.write(spectrum.folder / "h.h5", stored)
        matrix = (stored.astype(np.float64) + stored.T.astype(np.float64)) / 2
        expected = np.linalg.eigvalsh(matrix)
        for ranks in (1, 2, 3):
            with spectrum.result(ranks, "h.h5") as file:
                np.testing.assert_allclose(file["eigenvalues"][:], expected, atol=1e-13 * abs(expected).max())
                assert "eigenvectors" not in file
            with spectrum.result(ranks, "h.h5", "--vectors") as file:
                values, vectors = file["eigenvalues"][:], file["eigenvectors"][:]
                np.testing.assert_allclose(values, expected, atol=1e-13 * abs(expected).max())
                np.testing.assert_allclose(vectors @ vectors.T, np.eye(150), atol=1e-12)
                np.testing.assert_allclose(vectors @ matrix, values[:, None] * vectors, atol=1e-12)
                assert file["eigenvalues"].attrs["residual"] < 1e-12


def test_where_the_result_comes_from(spectrum: Spectrum) -> None:
    fabricated_file.write(spectrum.folder / "h.h5", like_a_hessian(20))
    with spectrum.result(2, "h.h5") as file:
        assert file.attrs["format"] == "hessian_mpi spectrum"
        assert file.attrs["format_version"] == 1
        assert file.attrs["N"] == 20
        assert file.attrs["source"] == "h.h5"
        assert file.attrs["command_line"].endswith("hessian_spectrum h.h5 --overwrite")
        assert file.attrs["checks"] == "passed"
        assert file["hessian"].attrs["model"] == "net.pt"
        assert {"created", "finished", "wall_seconds"} <= set(file.attrs)


def test_what_cannot_be_decomposed(spectrum: Spectrum) -> None:
    matrix = like_a_hessian(20)
    fabricated_file.write(spectrum.folder / "open.h5", matrix, complete=0)
    matrix[3, 7] = np.nan
    fabricated_file.write(spectrum.folder / "nan.h5", matrix)
    (spectrum.folder / "text.h5").write_text("no HDF5")
    for arguments, code, words in [
        (["open.h5"], 2, "is not complete"),
        (["nan.h5"], 1, "row 3, column 7"),
        (["text.h5"], 2, "'text.h5' is damaged, or not a file of hessian_mpi"),
        (["none.h5"], 2, "no such file"),
        ([], 2, "name one file"),
        (["open.h5", "--rows", "3"], 2, "--help"),
    ]:
        finished = spectrum.run(2, *arguments)
        errors = [line for line in finished.stderr.splitlines() if line.startswith("hessian_spectrum:")]
        assert finished.returncode == code, (arguments, finished)
        assert len(errors) == 1 and words in errors[0], (arguments, finished.stderr)
        assert not list(spectrum.folder.glob("*.spectrum.h5*")) and not list(spectrum.folder.glob(".*")), arguments


def test_what_exists_stays(spectrum: Spectrum) -> None:
    fabricated_file.write(spectrum.folder / "h.h5", like_a_hessian(20))
    (spectrum.folder / "h.spectrum.h5").write_text("mine")
    finished = spectrum.run(2, "h.h5")
    assert finished.returncode == 2 and "--overwrite" in finished.stderr, finished
    planned = spectrum.run(2, "h.h5", "--plan")
    assert planned.returncode == 0 and "plan" in planned.stdout and "a rank" in planned.stdout, planned
    assert (spectrum.folder / "h.spectrum.h5").read_text() == "mine"


def exact_density(values: np.ndarray, grid: np.ndarray, sigma: float) -> np.ndarray:
    away = (grid[:, None] - values[None, :]) / sigma
    return np.exp(-0.5 * away**2).mean(axis=1) / (sigma * np.sqrt(2 * np.pi))


def test_both_ends_and_the_density(spectrum: Spectrum) -> None:
    stored = like_a_hessian(200).astype(np.float32)
    fabricated_file.write(spectrum.folder / "h.h5", stored)
    matrix = (stored.astype(np.float64) + stored.T.astype(np.float64)) / 2
    expected = np.linalg.eigvalsh(matrix)
    for ranks, memory in ((1, "1G"), (3, "1G"), (2, "1")):
        options = ["--largest", "6", "--smallest", "3", "--vectors", "--density", "--steps", "60", "--memory", memory]
        with spectrum.result(ranks, "h.h5", *options) as file:
            norm = abs(expected).max()
            np.testing.assert_allclose(file["largest/eigenvalues"][:], expected[::-1][:6], atol=1e-8 * norm)
            np.testing.assert_allclose(file["smallest/eigenvalues"][:], expected[:3], atol=1e-8 * norm)
            for end in ("largest", "smallest"):
                vectors, values = file[end]["eigenvectors"][:], file[end]["eigenvalues"][:]
                residuals = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
                np.testing.assert_allclose(file[end]["residuals"][:], residuals, atol=1e-12 * norm)
                assert residuals.max() <= 1e-8 * norm * 1.1, residuals
            density = file["density"]
            assert density["ritz_values"].shape == density["weights"].shape == (10, 60)
            exact = exact_density(expected, density["grid"][:], density.attrs["sigma"])
            away = np.abs(density["density"][:] - exact)
            assert np.all(away <= 6 * density["error"][:] + 1e-3 * exact.max()), away.max()
            assert "eigenvalues" not in file


def test_a_low_rank_is_found_and_said(spectrum: Spectrum) -> None:
    random = np.random.default_rng(6)
    factor = random.standard_normal((300, 40))
    low = (factor * np.concatenate([-np.logspace(-2, 0, 10), np.logspace(-2, 1, 30)])) @ factor.T
    for ranks, dtype, tolerance in ((3, np.float64, 1e-6), (1, np.float32, 1e-5)):
        stored = low.astype(dtype)
        fabricated_file.write(spectrum.folder / "h.h5", stored)
        expected = np.linalg.eigvalsh((stored.astype(np.float64) + stored.T) / 2)
        with spectrum.result(ranks, "h.h5", "--low-rank", "yes") as file:
            values, about = file["eigenvalues"], file["eigenvalues"].attrs
            assert about["solver"] == "block Lanczos" and about["rank"] == 40
            assert about["error_bound"] <= tolerance * np.linalg.norm(stored)
            assert np.linalg.norm(values[:] - expected) <= about["error_bound"]
        with spectrum.result(ranks, "h.h5", "--low-rank", "yes", "--vectors") as file:
            found, vectors = file["low_rank/eigenvalues"][:], file["low_rank/eigenvectors"][:]
            assert found.shape == (40,) and "eigenvectors" not in file
            np.testing.assert_allclose(vectors @ vectors.T, np.eye(40), atol=1e-12)
            np.testing.assert_allclose(file["low_rank/residuals"][:], np.linalg.norm(vectors @ (stored + stored.T) / 2 - found[:, None] * vectors, axis=1), atol=1e-9)
            assert np.linalg.norm((vectors.T * found) @ vectors - stored) <= 2 * tolerance * np.linalg.norm(stored)
    fabricated_file.write(spectrum.folder / "h.h5", np.zeros((20, 20)))
    with spectrum.result(2, "h.h5", "--low-rank", "yes", "--vectors") as file:
        assert "low_rank" not in file and not file["eigenvalues"][:].any()
    fabricated_file.write(spectrum.folder / "h.h5", low + 1e-3 * np.eye(300))
    finished = spectrum.run(1, "h.h5", "--low-rank", "yes", "--overwrite")
    assert finished.returncode == 0 and "low rank    no:" in finished.stdout, finished
    with h5py.File(spectrum.folder / "h.spectrum.h5") as file:
        assert file["eigenvalues"].attrs["solver"].startswith("ScaLAPACK") and "rank" not in file["eigenvalues"].attrs
        np.testing.assert_allclose(file["eigenvalues"][:], np.linalg.eigvalsh(low + 1e-3 * np.eye(300)), atol=1e-10)
    assert "low rank" not in spectrum.run(1, "h.h5", "--plan").stdout  # small: not tried unasked
    for options, words in ((["--low-rank", "maybe"], "auto, yes or no"), (["--low-rank", "yes", "--largest", "2"], "of --all")):
        finished = spectrum.run(1, "h.h5", *options, "--overwrite")
        assert finished.returncode == 2 and words in finished.stderr, finished


SHAPES = {"conv.weight": (70, 1, 3), "conv.bias": (5,), "none": (0,), "fc.weight": (7, 30), "fc.bias": (4,)}  # 429
PLACES = {"conv.weight": np.r_[:210], "conv.bias": np.r_[210:215], "fc.weight": np.r_[215:425], "fc.bias": np.r_[425:429]}


def expect_blocks(file: h5py.File, matrix: np.ndarray, names: list[str], vectors: bool) -> None:
    assert file["blocks"].attrs["names"].split("\n") == names
    for k, name in enumerate(names):
        place = np.sort(np.concatenate([PLACES[part] for part in name.split(",")]))
        block, group = matrix[np.ix_(place, place)], file[f"blocks/{k}"]
        expected = np.linalg.eigvalsh(block)
        assert group.attrs["name"] == name
        np.testing.assert_allclose(group["eigenvalues"][:], expected, atol=1e-13 * abs(expected).max())
        if vectors:
            found = group["eigenvectors"][:]
            np.testing.assert_allclose(found @ found.T, np.eye(len(place)), atol=1e-12)
            np.testing.assert_allclose(found @ block, group["eigenvalues"][:][:, None] * found, atol=1e-12)
        row = {column: file[f"blocks/{column}"][k] for column in ("size", "negative", "smallest", "largest", "trace", "frobenius_norm")}
        assert row["size"] == len(place) and row["negative"] == (group["eigenvalues"][:] < 0).sum()
        wanted = [expected[0], expected[-1], np.trace(block), np.linalg.norm(block)]
        np.testing.assert_allclose([row[key] for key in ("smallest", "largest", "trace", "frobenius_norm")], wanted, atol=1e-12 * abs(expected).max())


def test_blocks_of_a_whole_matrix_and_of_diagonal_blocks(spectrum: Spectrum) -> None:
    stored = like_a_hessian(429)
    matrix = (stored + stored.T) / 2
    fabricated_file.write(spectrum.folder / "h.h5", stored, shapes=SHAPES)
    together = "conv.weight,conv.bias,fc.bias"
    with spectrum.result(3, "h.h5", "--vectors", "--block", together, "fc.*", "fc.weight,conv.bias") as file:
        expect_blocks(file, matrix, [together, "fc.weight", "fc.bias", "conv.bias,fc.weight"], True)
    fabricated_file.write(spectrum.folder / "h.h5", stored, shapes=SHAPES, diagonal_blocks=True)
    with spectrum.result(2, "h.h5") as file:
        expect_blocks(file, matrix, list(PLACES), False)
    with spectrum.result(2, "h.h5", "--block", "fc.weight", "conv.weight", "--largest", "3", "--memory", "1") as file:
        for k, name in enumerate(("fc.weight", "conv.weight")):
            expected = np.linalg.eigvalsh(matrix[np.ix_(PLACES[name], PLACES[name])])
            np.testing.assert_allclose(file[f"blocks/{k}/largest/eigenvalues"][:], expected[::-1][:3], atol=1e-8 * expected[-1])
    for options, words in [
        (["--block", "fc.weight,fc.bias"], "the blocks of parameters with themselves alone"),
        (["--block", "fc.bias", "conv2*"], "--block conv2*: no parameter has such a name"),
        (["--block", "none"], "--block none: no parameter"),
        (["--block", "fc.bias", "--largest", "5"], "block fc.bias: there are 4 eigenvalues, not 5"),
    ]:
        finished = spectrum.run(1, "h.h5", *options, "--output", "new.h5")
        assert finished.returncode == 2 and words in finished.stderr, (options, finished)
        assert not (spectrum.folder / "new.h5").exists()


def test_what_makes_no_sense(spectrum: Spectrum) -> None:
    fabricated_file.write(spectrum.folder / "h.h5", like_a_hessian(20))
    for options, words in [
        (["--largest", "21"], "there are 20 eigenvalues, not 21"),
        (["--largest", "0"], "--largest 0: 1 is the least"),
        (["--probes", "5"], "--probes is of --density"),
        (["--density", "--probes", "1"], "2 is the least"),
        (["--tolerance", "1e-3"], "--tolerance is of"),
        (["--density", "--sigma", "-1"], "must be positive"),
    ]:
        finished = spectrum.run(2, "h.h5", *options)
        assert finished.returncode == 2 and words in finished.stderr, (options, finished)


RESULT = "h.spectrum.h5"
BOTH_KINDS_OF_VECTORS = ["h.h5", "--vectors", "--all", "--largest", "30", "--overwrite"]


def expect_failure_that_leaves_the_old_result(spectrum: Spectrum, finished: subprocess.CompletedProcess, words: str) -> None:
    errors = [line for line in finished.stderr.splitlines() if line.startswith("hessian_spectrum:")]
    assert finished.returncode == 1 and len(errors) == 1 and words in errors[0], finished
    assert (spectrum.folder / "h.spectrum.h5").read_text() == "old" and not list(spectrum.folder.glob(".*")), finished


def test_a_disk_that_fails_ends_all_ranks_with_one_message(spectrum: Spectrum) -> None:
    fabricated_file.write(spectrum.folder / "h.h5", like_a_hessian(150))
    (spectrum.folder / "h.spectrum.h5").write_text("old")
    for rank, places in ((0, (1, 4, 13)), (1, (1, 31)), (2, (2,))):
        for at in places:
            finished = spectrum.run(3, *BOTH_KINDS_OF_VECTORS, variables=fault("pwrite", rank, at, errno.ENOSPC, RESULT))
            expect_failure_that_leaves_the_old_result(spectrum, finished, "No space left on device")
            assert rank == 0 or f"rank {rank} on " in finished.stderr, finished
    for call in ("fsync", "fdatasync"):
        finished = spectrum.run(2, *BOTH_KINDS_OF_VECTORS, variables=fault(call, 0, 1, errno.EIO, RESULT))
        expect_failure_that_leaves_the_old_result(spectrum, finished, "Input/output error")


def fill(folder: pathlib.Path) -> None:
    filler = os.open(folder / "filler", os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(filler, bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    finally:
        os.close(filler)


def children(process: int) -> list[int]:
    return [int(child) for child in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def run_on_a_disk_that_fills_up(spectrum: Spectrum, write: int, variables: dict[str, str]) -> subprocess.CompletedProcess:
    """The first rank stands still at this write to the result until the disk is full."""
    stop = fault("pwrite", 0, write, -signal.SIGSTOP, RESULT + ".new")
    started = spectrum.start(2, *BOTH_KINDS_OF_VECTORS, variables={**stop, **variables})
    stopped: list[int] = []
    while not stopped:
        assert started.poll() is None, started.communicate()
        time.sleep(0.01)
        stopped = [p for p in children(started.pid) if "\nState:\tT" in pathlib.Path(f"/proc/{p}/status").read_text()]
    fill(spectrum.folder)
    os.kill(stopped[0], signal.SIGCONT)
    return spectrum.end(started)


def test_a_disk_that_fills_up_meanwhile(spectrum: Spectrum) -> None:
    n = 600
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", spectrum.folder], capture_output=True)
    if mounted.returncode != 0:
        print("skipped: only root can mount a small disk")
        return
    try:
        fabricated_file.write(spectrum.folder / "h.h5", like_a_hessian(n))
        (spectrum.folder / "h.spectrum.h5").write_text("old")
        # Where space cannot be taken in advance, as on NFS before 4.2.
        finished = run_on_a_disk_that_fills_up(spectrum, 1, {"FAULT_WITHOUT_FALLOCATE": "1"})
        expect_failure_that_leaves_the_old_result(spectrum, finished, "No space left on device")
        (spectrum.folder / "filler").unlink()
        # Where it can, a full disk costs nothing.
        finished = run_on_a_disk_that_fills_up(spectrum, 12, {})
        assert finished.returncode == 0, finished
        with h5py.File(spectrum.folder / "h.spectrum.h5") as file:
            vectors = file["eigenvectors"][:]
            np.testing.assert_allclose(vectors @ vectors.T, np.eye(n), atol=1e-11)
        (spectrum.folder / "filler").unlink()
        kept = sum(path.stat().st_blocks * 512 for path in spectrum.folder.iterdir())
        assert kept < sum(path.stat().st_size for path in spectrum.folder.iterdir()) + (1 << 16), kept
    finally:
        subprocess.run(["umount", "--lazy", spectrum.folder], check=True)


if __name__ == "__main__":
    run_tests(globals(), Spectrum)
