#!/usr/bin/env python3
"""Times rows factored by layer beside rows made one by one, and both beside a plain write of the same bytes, in one run.

usage: layers.py PROGRAM [--folder FOLDER] [--rounds R] [NAME...]

NAME: question (the embedded example) or a problem of problems.py. All take turns; medians of the rounds are compared:
  - hessian_mpi on 1 and on 2 ranks, one thread each, --method auto: seconds computing, and of the whole job after loading;
  - --method rows on one rank, on a sample of the rows where there are many, as if for all of them;
  - two processes that write as many bytes, each its half, and sync them.
The output files lie in FOLDER, up to 15 GB at a time.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

import h5py

SAMPLED_ROWS = 1500  # of the slow way, in pieces that are spread over the matrix
PIECES = 12


def launch(program: str, ranks: int, options: list[str]) -> dict[str, float]:
    """Seconds of the phases, as the summary has them."""
    command = ["mpirun", "-n", str(ranks), "--bind-to", "none" if ranks == 1 else "core", *(["--allow-run-as-root"] if os.geteuid() == 0 else []),
               program, "--threads", "1", "--progress", "none", *options]
    summary = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = re.search(r"^ *seconds +(.*)$", summary, re.MULTILINE).group(1)
    return {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([0-9.e+-]+)", line)}


def inputs(name: str, folder: pathlib.Path) -> list[str]:
    return [] if name == "question" else ["--model", str(folder / name / "model.pt2"), "--data", str(folder / name / "data.h5")]


def rows_one_by_one(program: str, name: str, folder: pathlib.Path, n: int) -> float:
    """Seconds for all rows, from pieces of them."""
    output = folder / "piece.h5"
    count = min(n, SAMPLED_ROWS) // PIECES
    seconds = 0.0
    for piece in range(PIECES):
        begin = (2 * piece + 1) * n // (2 * PIECES) - count // 2
        options = ["--method", "rows", "--rows", f"{begin}:{begin + count}", "--check", "0", "--verify", "none"]
        seconds += launch(program, 1, [*inputs(name, folder), *options, "--output", str(output), "--overwrite"])["rows"]
        output.unlink()
    return seconds / (count * PIECES) * n


def write_half(path: pathlib.Path, size: int) -> None:
    piece = memoryview(os.urandom(1 << 20) * 16)
    file = os.open(path, os.O_WRONLY)
    try:
        while size > 0:
            size -= os.write(file, piece[: min(size, len(piece))])
        os.fsync(file)
    finally:
        os.close(file)


def plain_write(folder: pathlib.Path, size: int) -> float:
    """Two processes, a file each, whose space is taken before as the program does it."""
    paths = [folder / f"plain.{k}" for k in range(2)]
    for path in paths:
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size // 2)
    writers = [multiprocessing.Process(target=write_half, args=(path, size // 2)) for path in paths]
    start = time.perf_counter()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    seconds = time.perf_counter() - start
    for path in paths:
        path.unlink()
    return seconds


def measure(program: str, name: str, folder: pathlib.Path) -> dict[str, float]:
    output = folder / f"{name}.h5"
    found: dict[str, float] = {}
    for ranks in (1, 2):
        output.unlink(missing_ok=True)
        phases = launch(program, ranks, [*inputs(name, folder), "--output", str(output)])
        found[f"computing, {ranks}"] = phases["rows"]
        found[f"job, {ranks}"] = phases["all"] - phases["load"]
    with h5py.File(output) as file:
        n = file["hessian"].shape[0]
        size = file["hessian"].id.get_storage_size()
    output.unlink()
    found["write, 2"] = plain_write(folder, size)
    found["rows, 1"] = rows_one_by_one(program, name, folder, n)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the hessian_mpi to time")
    parser.add_argument("names", nargs="*", default=["question", "mlp", "mlp784", "lenet", "transformer"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("."), help="what problems.py has filled")
    arguments = parser.parse_args()
    print(f"{'':12} {'rows,':>8} {'layers,':>8} {'layers,':>8} {'faster':>7} {'1 to 2':>7} {'job,':>8} {'write,':>8} {'job /':>6}")
    print(f"{'':12} {'1 rank':>8} {'1 rank':>8} {'2 ranks':>8} {'':>7} {'ranks':>7} {'2 ranks':>8} {'2 proc.':>8} {'write':>6}")
    for name in arguments.names:
        rounds = [measure(arguments.program, name, arguments.folder) for _ in range(arguments.rounds)]
        m = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        print(f"{name:12} {m['rows, 1']:8.2f} {m['computing, 1']:8.2f} {m['computing, 2']:8.2f} "
              f"{m['rows, 1'] / m['computing, 1']:7.1f} {m['computing, 1'] / m['computing, 2']:7.2f} "
              f"{m['job, 2']:8.2f} {m['write, 2']:8.2f} {m['job, 2'] / m['write, 2']:6.2f}", flush=True)
        print(json.dumps({"name": name, "rounds": rounds}), file=sys.stderr)


if __name__ == "__main__":
    main()
