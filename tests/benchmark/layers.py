#!/usr/bin/env python3
"""Times rows factored by layer beside rows by double-backward, a plain write of the same bytes, and other programs, in one run.

usage: layers.py BUILD [--folder FOLDER] [--rounds R] [--peers FILE] [--plot FILE] [NAME...]

BUILD: the folder with src/hessian_mpi and tests/benchmark/compute_benchmark. NAME: question (the embedded example) or a
problem of problems.py. All take turns; medians of the rounds are compared:
  - computing alone, the rows thrown away (compute_benchmark), one thread a rank, on 1 and on 2 ranks;
  - hessian_mpi on 2 ranks into a file, after loading;
  - what --plan says of that job;
  - --method rows on one rank, on a sample of the rows where there are many, as if for all of them;
  - two processes that write as many bytes and sync them: each its half of a file of its own, new or with its space taken
    before, whichever is faster;
  - FILE: a JSON list of {"name", "problem", "command"}, programs that print a line of JSON with "compute_s", and with
    "rows" and "N" where they have made only some; run on one core.
The output files lie in FOLDER, up to 15 GB at a time. --plot needs matplotlib.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import time

import h5py

SAMPLED_ROWS = 1500  # of the slow way, in pieces that are spread over the matrix
PIECES = 12


def run(ranks: int, command: list[str]) -> str:
    launch = ["mpirun", "-n", str(ranks), "--bind-to", "none" if ranks == 1 else "core", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
    return subprocess.run([*launch, *command], check=True, capture_output=True, text=True).stdout


def hessian_mpi(build: pathlib.Path, ranks: int, options: list[str]) -> dict[str, float]:
    """Seconds of the phases, as the summary has them."""
    summary = run(ranks, [str(build / "src/hessian_mpi"), "--threads", "1", "--progress", "none", *options])
    line = re.search(r"^ *seconds +(.*)$", summary, re.MULTILINE).group(1)
    return {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([0-9.e+-]+)", line)}


def planned(build: pathlib.Path, ranks: int, options: list[str]) -> float:
    """Seconds of the whole job, as --plan says them."""
    plan = run(ranks, [str(build / "src/hessian_mpi"), "--threads", "1", "--plan", *options])
    clock = re.search(r"^ *whole job +([0-9.:]+)", plan, re.MULTILINE).group(1).split(":")
    return sum(float(part) * 60**power for power, part in enumerate(reversed(clock)))


def computing(build: pathlib.Path, ranks: int, options: list[str]) -> float:
    return json.loads(run(ranks, [str(build / "tests/benchmark/compute_benchmark"), *options]))["seconds"]


def inputs(name: str, folder: pathlib.Path) -> list[str]:
    return [] if name == "question" else ["--model", str(folder / name / "model.pt2"), "--data", str(folder / name / "data.h5")]


def rows_one_by_one(build: pathlib.Path, name: str, folder: pathlib.Path, n: int) -> float:
    """Seconds for all rows, from pieces of them."""
    output = folder / "piece.h5"
    count = min(n, SAMPLED_ROWS) // PIECES
    seconds = 0.0
    for piece in range(PIECES):
        begin = (2 * piece + 1) * n // (2 * PIECES) - count // 2
        options = ["--method", "rows", "--rows", f"{begin}:{begin + count}", "--check", "0", "--verify", "none"]
        seconds += hessian_mpi(build, 1, [*inputs(name, folder), *options, "--output", str(output), "--overwrite"])["rows"]
        output.unlink()
    return seconds / (count * PIECES) * n


def write_half(path: pathlib.Path, size: int) -> None:
    piece = memoryview(os.urandom(1 << 20) * 16)
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while size > 0:
            size -= os.write(file, piece[: min(size, len(piece))])
        os.fsync(file)
    finally:
        os.close(file)


def plain_write(folder: pathlib.Path, size: int, allocated: bool) -> float:
    paths = [folder / f"plain.{k}" for k in range(2)]
    for path in paths if allocated else []:
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


def other(command: str) -> float:
    def on_one_core() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.environ["OMP_NUM_THREADS"] = "1"

    child = subprocess.run(shlex.split(command), check=True, capture_output=True, text=True, preexec_fn=on_one_core)
    line = json.loads(child.stdout.splitlines()[-1])
    return line["compute_s"] * line.get("N", 1) / line.get("rows", line.get("N", 1))


def measure(build: pathlib.Path, name: str, folder: pathlib.Path, peers: list[dict[str, str]]) -> dict[str, float]:
    output = folder / f"{name}.h5"
    output.unlink(missing_ok=True)
    found: dict[str, float] = {}
    for ranks in (1, 2):
        found[f"computing, {ranks}"] = computing(build, ranks, inputs(name, folder))
    found["plan, 2"] = planned(build, 2, [*inputs(name, folder), "--output", str(output)])
    phases = hessian_mpi(build, 2, [*inputs(name, folder), "--output", str(output)])
    found["job, 2"] = phases["all"] - phases["load"]
    found["said, 2"] = found["plan, 2"] / phases["all"]
    with h5py.File(output) as file:
        n = file["hessian"].shape[0]
        size = file["hessian"].id.get_storage_size()
    output.unlink()
    found["write, 2"] = min(plain_write(folder, size, allocated) for allocated in (False, True))
    found["rows, 1"] = rows_one_by_one(build, name, folder, n)
    for peer in peers:
        if peer["problem"] == name:
            found[f"peer {peer['name']}"] = other(peer["command"])
    return found


def print_line(name: str, m: dict[str, float]) -> None:
    peers = {key[5:]: value for key, value in m.items() if key.startswith("peer ")}
    best = min(peers, key=peers.get, default="")
    print(
        f"{name:12} {m['rows, 1']:8.2f} {m['computing, 1']:8.2f} {m['computing, 2']:8.2f} {m['rows, 1'] / m['computing, 1']:7.1f} "
        f"{m['computing, 1'] / m['computing, 2']:7.2f} {m['job, 2']:8.2f} {m['write, 2']:8.2f} {m['job, 2'] / m['write, 2']:6.2f} {m['said, 2']:6.2f}"
        + (f"   {peers[best]:8.2f} {peers[best] / m['computing, 1']:6.1f}  {best}" if peers else ""),
        flush=True,
    )


def plot(medians: dict[str, dict[str, float]], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "hessian_mpi"  # the same file for the same numbers
    from matplotlib import pyplot

    kinds = {"by layer": "#1b6ca8", "by double-backward": "#9aa5b1", "best of the others": "#d98c3f"}
    figure, axes = pyplot.subplots(figsize=(7.5, 3.4), layout="constrained")
    for k, (kind, colour) in enumerate(kinds.items()):
        values = []
        for m in medians.values():
            peers = [value for key, value in m.items() if key.startswith("peer ")]
            values.append({"by layer": m["computing, 1"], "by double-backward": m["rows, 1"], "best of the others": min(peers, default=float("nan"))}[kind])
        places = [i + 0.27 * (k - 1) for i in range(len(values))]
        bars = axes.bar(places, values, 0.25, label=kind, color=colour)
        axes.bar_label(bars, ["" if value != value else f"{value:,.0f}" if value >= 100 else f"{value:.2g}" for value in values], fontsize=8)
    axes.set_yscale("log")
    axes.margins(y=0.15)
    axes.set_xticks(range(len(medians)), medians)
    axes.set_ylabel("seconds of computing, one core")
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="where the programs were built")
    parser.add_argument("names", nargs="*", default=["question", "mlp", "mlp784", "lenet", "transformer"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("."), help="what problems.py has filled")
    parser.add_argument("--peers", type=pathlib.Path, help="other programs")
    parser.add_argument("--plot", type=pathlib.Path, help="a picture of the medians")
    arguments = parser.parse_args()
    peers = json.loads(arguments.peers.read_text()) if arguments.peers else []
    print(f"{'':12} {'rows,':>8} {'layers,':>8} {'layers,':>8} {'faster':>7} {'1 to 2':>7} {'job,':>8} {'write,':>8} {'job /':>6} {'plan /':>6}   {'best of':>8} {'ratio':>6}")
    print(f"{'':12} {'1 rank':>8} {'1 rank':>8} {'2 ranks':>8} {'':>7} {'ranks':>7} {'2 ranks':>8} {'2 proc.':>8} {'write':>6} {'job':>6}   {'others':>8}", flush=True)
    medians = {}
    for name in arguments.names:
        rounds = [measure(arguments.build, name, arguments.folder, peers) for _ in range(arguments.rounds)]
        medians[name] = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
        print_line(name, medians[name])
        print(json.dumps({"name": name, "rounds": rounds}), file=sys.stderr, flush=True)
    if arguments.plot:
        plot(medians, arguments.plot)


if __name__ == "__main__":
    main()
