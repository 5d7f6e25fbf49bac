#!/usr/bin/env python3
"""Ends programs in the middle of what they write: the file that was there stays, and nothing is left beside it.

usage: publishing.py HESSIAN_MPI LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks.
"""

import fcntl
import os
import pathlib
import signal
import subprocess
import time

import fabricated_file
import numpy as np
from tool import Tool, run_tests


def program(mpi: Tool, name: str) -> Tool:
    return Tool(str(pathlib.Path(mpi.program).parent / f"hessian_{name}"), mpi.launch, mpi.folder)


def symmetric(n: int) -> np.ndarray:
    numbers = np.random.default_rng(1).standard_normal((n, n))
    return numbers + numbers.T


def unlocked_in_memory() -> set[str]:
    left = set()
    for folder in pathlib.Path("/dev/shm").glob(f"hessian_mpi-edit-{os.getuid()}-*"):
        try:
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.add(folder.name)
            os.close(descriptor)
        except (FileNotFoundError, BlockingIOError):
            pass
    return left


def left_in_memory() -> set[str]:
    """Folders that no living process holds: those of other tests, seen as they begin, are gone soon."""
    left = unlocked_in_memory()
    deadline = time.monotonic() + 10
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left &= unlocked_in_memory()
    return left


def ended_by(tool: Tool, which: signal.Signals, pattern: str, *arguments: str) -> list[pathlib.Path]:
    """Ends a program when it has begun a file; what is left of it."""
    before = set(tool.folder.glob(pattern))
    started = subprocess.Popen([tool.program, *arguments], cwd=tool.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while started.poll() is None and not set(tool.folder.glob(pattern)) - before:
        time.sleep(0.001)
    started.send_signal(which)
    started.communicate(timeout=60)
    assert started.returncode != 0, "it came to its end before"
    return sorted(set(tool.folder.glob(pattern)) - before)


def test_a_conversion_that_is_ended_leaves_the_old_file(mpi: Tool) -> None:
    fabricated_file.write(mpi.folder / "h.h5", symmetric(2500))
    convert = program(mpi, "convert")
    old = b"an old file"
    (mpi.folder / "copy.h5").write_bytes(old)
    for which in (signal.SIGKILL, signal.SIGTERM):
        ended_by(convert, which, ".copy.h5.new-*", "h.h5", "copy.h5", "--gzip", "9", "--overwrite")
        assert (mpi.folder / "copy.h5").read_bytes() == old
    stored = symmetric(120)
    stored[100, 100] = np.inf
    fabricated_file.write(mpi.folder / "inf.h5", stored)
    for form in ([], ["--gzip", "1"], ["--triangle"]):
        finished = convert.run(2, "inf.h5", "copy.h5", "--overwrite", *form)
        assert finished.returncode == 1 and "infinity" in finished.stderr, finished
        assert (mpi.folder / "copy.h5").read_bytes() == old
    assert not list(mpi.folder.glob(".*")), list(mpi.folder.glob(".*"))
    convert.good(2, "h.h5", "copy.h5", "--overwrite")
    assert sorted(path.name for path in mpi.folder.iterdir()) == ["copy.h5", "h.h5", "inf.h5"]


def test_the_next_run_removes_what_a_dead_one_left(mpi: Tool) -> None:
    fabricated_file.write(mpi.folder / "h.h5", symmetric(1500))
    convert = program(mpi, "convert")
    left = []
    for which in (signal.SIGTERM, signal.SIGKILL):
        left += ended_by(convert, which, ".copy.h5.new-*", "h.h5", "copy.h5", "--gzip", "9")
    assert left, "nothing was left that could be removed"
    of_others = [mpi.folder / ".copy.h5.new-0badcafe-1", mpi.folder / f".h.h5.new-{os.getpid()}", mpi.folder / ".new-1"]
    of_the_living = left[0].with_name(left[0].name.rpartition("-")[0] + f"-{os.getpid()}")
    for path in (*of_others, of_the_living):
        path.touch()
    program(mpi, "multiply").good(1, "h.h5", "--random", "1")
    assert not [path for path in left if path.exists()]
    assert all(path.exists() for path in (*of_others, of_the_living))


def test_a_limit_of_file_sizes_is_told_as_such(mpi: Tool) -> None:
    fabricated_file.write(mpi.folder / "h.h5", symmetric(300))
    fabricated_file.write(mpi.folder / "p.h5", symmetric(300)[:150], first_row=0)
    fabricated_file.write(mpi.folder / "q.h5", symmetric(300)[150:], first_row=150)
    before = sorted(mpi.folder.iterdir())
    cases = [
        (mpi, ["--parameters", "c1.*", "--threads", "1", "--output", "out.h5"], (5_000, 200_000)),
        (program(mpi, "convert"), ["h.h5", "out.h5"], (1_000, 20_000, 400_000)),
        (program(mpi, "convert"), ["h.h5", "out.h5", "--gzip", "1"], (1_000, 20_000, 400_000)),
        (program(mpi, "multiply"), ["h.h5", "--gradient", "--output", "out.h5"], (1_000, 20_000)),
        (program(mpi, "spectrum"), ["h.h5", "--vectors", "--output", "out.h5"], (1_000, 20_000, 400_000)),
        (program(mpi, "join"), ["p.h5", "q.h5", "--copy", "--output", "out.h5"], (1_000, 20_000, 400_000)),
    ]
    for tool, arguments, limits in cases:
        if not pathlib.Path(tool.program).exists():
            continue
        for limit in limits:
            # Of the rank alone: mpirun has files of its own, and so has MPICH for ranks of one node.
            limited = ["env", "UCX_TLS=self", "prlimit", f"--fsize={limit}", tool.program, *arguments]
            finished = subprocess.run([*mpi.launch, "-n", "1", *limited], cwd=mpi.folder, capture_output=True, text=True, timeout=120)
            what = (tool.program, arguments, limit, finished)
            assert finished.returncode == 1, what
            errors = [line for line in finished.stderr.splitlines() if "error: " in line or "HDF5" in line]
            assert len(errors) == 1 and "File too large" in errors[0], what
            assert sorted(mpi.folder.iterdir()) == before, what
            assert not left_in_memory(), what


if __name__ == "__main__":
    run_tests(globals())
