#!/usr/bin/env python3
"""What many ranks would take, from what one rank of them takes here.

usage: scaling.py BUILD [--folder FOLDER] [--write GB/s] [NAME...]

For 1, 2, 8, 64 and 1,024 ranks the slices of some of them (the first, the last, others spread between) are computed one
after the other on this machine (compute_benchmark --as). A step takes as long as its slowest rank; passes that ranks share
are divided by their number; each rank sends and gets its part of the columns at --network GB/s, and all write at --write
GB/s together, while they compute. Load and plan are the same on every rank.
"""

import argparse
import json
import pathlib
import subprocess

RANKS = (1, 2, 8, 64, 1024)
SLICES = 6


def one_of(build: pathlib.Path, rank: int, ranks: int, options: list[str]) -> dict:
    command = [str(build / "tests/benchmark/compute_benchmark"), "--as", f"{rank}:{ranks}", *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def simulate(build: pathlib.Path, name: str, folder: pathlib.Path, network: float, write: float) -> None:
    options = [] if name == "question" else ["--model", str(folder / name / "model.pt2"), "--data", str(folder / name / "data.h5")]
    first = None
    for ranks in RANKS:
        chosen = sorted({k * (ranks - 1) // (SLICES - 1) for k in range(SLICES)})
        slices = [one_of(build, rank, ranks, options) for rank in chosen]
        steps = range(len(slices[0]["steps"]))
        slowest = sum(max(s["steps"][k]["own"] for s in slices) for k in steps)
        mean = sum(sum(s["steps"][k]["own"] for s in slices) / len(slices) for k in steps)
        on_each = sum(slices[0]["steps"][k]["on_each"] for k in steps)
        size = slices[0]["N"] ** 2 * 4 / 1e9
        columns = sum(slices[0]["steps"][k]["bytes_of_columns"] for k in steps) / 1e9 / ranks / network
        plan = slices[0]["planning"]
        computing = slowest + on_each + columns
        first = first or computing
        print(
            f"{name:12} {ranks:5} {plan:8.3f} {slowest:9.3f} {mean:9.3f} {on_each:8.3f} {columns:8.3f} {computing:10.3f} {first / computing:8.1f} "
            f"{size / write:8.2f}  {'writing' if size / write > computing else 'plan' if plan > computing else 'computing'}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("names", nargs="*", default=["question", "mlp784", "lenet", "transformer"])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("."), help="what problems.py has filled")
    parser.add_argument("--network", type=float, default=1.0, help="GB/s of a rank")
    parser.add_argument("--write", type=float, default=10.0, help="GB/s of the file system")
    arguments = parser.parse_args()
    print(f"{'seconds':12} {'ranks':>5} {'plan':>8} {'slowest':>9} {'mean':>9} {'on each':>8} {'columns':>8} {'computing':>10} {'speed-up':>8} {'writing':>8}  bound by")
    for name in arguments.names:
        simulate(arguments.build, name, arguments.folder, arguments.network, arguments.write)


if __name__ == "__main__":
    main()
