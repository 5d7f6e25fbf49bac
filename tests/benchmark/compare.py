#!/usr/bin/env python3
"""Times hessian_mpi on the embedded example (N = 23365) beside what users would take instead, in one run.

    python tests/benchmark/compare.py build/src/hessian_mpi
    python tests/benchmark/compare.py build/src/hessian_mpi --peer NAME 'COMMAND'   another program, timed in turn

All take turns, so that a machine whose speed drifts is the same for all; the medians of the rounds are compared:
  - hessian_mpi on one rank and on two, one thread each: seconds computing and seconds writing, from its summary;
  - PyTorch's own torch.autograd.functional.hessian, one thread, computing only;
  - each --peer, which prints a line of JSON with "compute_s" as its last one;
  - a plain write of as many bytes, with the same sync at the end.
The output files lie in --folder, 2.2 GB at a time. One core per process.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import time

N = 23365


def on_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["OMP_NUM_THREADS"] = "1"


def hessian_mpi(program: str, ranks: int, folder: pathlib.Path) -> dict[str, float]:
    """Seconds of the phases, as the program's summary has them."""
    output = folder / "benchmark.h5"
    launch = ["mpirun", "-n", str(ranks), "--bind-to", "core", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
    command = [*launch, program, "--threads", "1", "--progress", "none", "--output", str(output), "--overwrite"]
    try:
        summary = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    finally:
        output.unlink(missing_ok=True)
    line = re.search(r"^ *seconds +(.*)$", summary, re.MULTILINE).group(1)
    return {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([0-9.e+-]+)", line)}


def torch_functional() -> float:
    """torch.autograd.functional.hessian over the flat parameter vector: a child process, for its memory."""
    child = subprocess.run([sys.executable, __file__, "--torch"], check=True, capture_output=True, text=True, preexec_fn=on_one_core)
    return json.loads(child.stdout.splitlines()[-1])["compute_s"]


def time_torch() -> None:
    import torch
    from torch import nn
    from torch.func import functional_call

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 32, 3, 1, 1), nn.Flatten(), nn.Linear(32 * 12 * 12, 5))
    x, y = torch.randn(8, 1, 12, 12), torch.randint(0, 5, (8,))
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def loss(theta: torch.Tensor) -> torch.Tensor:
        parts = theta.split([s.numel() for s in shapes.values()])
        parameters = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts)}
        return nn.functional.cross_entropy(functional_call(model, parameters, (x,)), y)

    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert theta.numel() == N
    start = time.perf_counter()
    torch.autograd.functional.hessian(loss, theta)
    print(json.dumps({"compute_s": time.perf_counter() - start}))


def other(command: str) -> float:
    child = subprocess.run(shlex.split(command), check=True, capture_output=True, text=True, preexec_fn=on_one_core)
    return json.loads(child.stdout.splitlines()[-1])["compute_s"]


def plain_write(folder: pathlib.Path) -> float:
    path = folder / "benchmark.plain"
    piece = memoryview(os.urandom(1 << 20) * 64)
    left = N * N * 4
    start = time.perf_counter()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        while left > 0:
            left -= os.write(file, piece[: min(left, len(piece))])
        os.fsync(file)
        return time.perf_counter() - start
    finally:
        os.close(file)
        path.unlink()


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {}
    for turn in range(arguments.rounds):
        print(f"round {turn + 1} of {arguments.rounds}", file=sys.stderr)
        for ranks in (1, 2):
            phases = hessian_mpi(arguments.program, ranks, arguments.folder)
            for phase in ("rows", "write"):
                seconds.setdefault(f"hessian_mpi, {ranks} rank{'s' * (ranks > 1)}: {phase}", []).append(phases[phase])
        seconds.setdefault("plain write of the same bytes", []).append(plain_write(arguments.folder))
        seconds.setdefault("torch.autograd.functional.hessian", []).append(torch_functional())
        for name, command in arguments.peer:
            seconds.setdefault(name, []).append(other(command))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the hessian_mpi to time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("."), help="where the files are written")
    parser.add_argument("--peer", nargs=2, action="append", default=[], metavar=("NAME", "COMMAND"))
    arguments = parser.parse_args()
    seconds = measure(arguments)

    one_rank = statistics.median(seconds["hessian_mpi, 1 rank: rows"])
    print(f"\n{'':42}{'median':>8}{'min':>8}{'max':>8}   seconds / 1 rank's rows")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"{name:42}{middle:8.2f}{min(values):8.2f}{max(values):8.2f}   {middle / one_rank:.2f}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--torch"]:
        time_torch()
    else:
        main()
