#!/usr/bin/env python3
"""Times hessian_mpi beside other programs, plain writes and what the processor can do, in one run, into one JSON file.

usage: run.py BUILD [--folder FOLDER] [--results FILE] [--whole] [--largest] [--quick] [WHAT...]

BUILD: the folder with src/hessian_mpi and tests/benchmark/compute_benchmark. WHAT: networks of problems.py, and the growth of
seconds with "parameters" and "samples"; all unless some are named, whose results take the place of those in FILE.
Of each network, one thread a rank, all in turn:
  - computing alone, the rows thrown away (compute_benchmark), on 1 and on 2 ranks; where that takes long, of a sample;
  - the same by 2 processes side by side that know nothing of each other: what the machine takes from each of two ranks;
  - what --plan says of the job on 2 ranks, and the job, into a file, but where it is to take minutes;
  - --method rows on one rank, on a sample of the rows, as if for all of them;
  - two processes that write as many bytes and sync them: each its half of a file of its own, new or with its space taken
    before, whichever is faster;
  - the programs of peers.py, on one core, as far as they are installed.
The output files lie in FOLDER, up to 17 GB at a time; --whole: 24 GB, --largest: 40 GB. report.py makes tables and pictures of FILE.
"""

import argparse
import contextlib
import datetime
import importlib.util
import json
import math
import multiprocessing
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch

import peers
import problems

RANKS = 2
COMPUTING = "tests/benchmark/compute_benchmark"
LONG = 40  # seconds of computing on one rank, as --plan says it, from which on it is sampled, in as many seconds
LONG_JOB = 150  # of a job on two ranks, from which on it is left out
WIDTHS = (12, 31, 64, 140)  # of perceptrons: 1,000 to 30,000 parameters
LARGEST = 281  # 100,000
SAMPLES = (64, 512, 4096, 60000)


def seconds_of(text: str) -> float:
    """Of "5 min 44 s", say."""
    units = {"h": 3600, "min": 60, "s": 1}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+) (h|min|s)\b", text))


class Setting:
    """What the command line says, and how programs are started."""

    def __init__(self, arguments: argparse.Namespace):
        self.build: pathlib.Path = arguments.build
        self.folder: pathlib.Path = arguments.folder
        self.quick: bool = arguments.quick
        self.whole: bool = arguments.whole
        self.launch = shlex.split(arguments.launch)
        self.repetitions = 1 if self.quick else 3
        self.pieces = 2 if self.quick else 8  # of the rows one by one, spread over the matrix
        self.peer_seconds = 0.02 if self.quick else 3.0
        self.row_seconds = 0.02 if self.quick else 6.0

    def run(self, ranks: int, program: str, *options: str) -> str:
        command = [*self.launch, "-n", str(ranks), str(self.build / program), *options]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode != 0:
            raise SystemExit(f"run.py: {shlex.join(command)} ended with exit code {found.returncode}:\n{found.stderr.strip()}")
        return found.stdout

    def inputs(self, name: str) -> list[str]:
        folder = self.folder / name
        problems.write(name, folder, self.quick)
        return ["--model", str(folder / "model.pt2"), "--data", str(folder / "data.h5")]

    @contextlib.contextmanager
    def output(self) -> Iterator[str]:
        """A file that is not there yet, and not afterwards."""
        path = self.folder / "hessian.h5"
        path.unlink(missing_ok=True)
        try:
            yield str(path)
        finally:
            path.unlink(missing_ok=True)


def hessian_mpi(setting: Setting, ranks: int, *options: str) -> dict[str, float]:
    """Seconds of the stages, as the summary has them."""
    summary = setting.run(ranks, "src/hessian_mpi", "--threads", "1", "--progress", "none", *options)
    line = re.search(r"^ *seconds +(.*)$", summary, re.MULTILINE).group(1)
    return {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([0-9.e+-]+)", line)}


def planned(setting: Setting, *options: str) -> dict[str, float]:
    """Seconds, as --plan says them: of computing on one rank, and of the job."""
    plan = setting.run(RANKS, "src/hessian_mpi", "--threads", "1", "--plan", *options)
    line = {name: re.search(rf"^ *{name} +(.*)$", plan, re.MULTILINE).group(1) for name in ("computing", "whole job")}
    return {"computing": seconds_of(line["computing"].split(" on ")[0]), "job": seconds_of(line["whole job"].split(" on ")[0])}


def sampled(every: int) -> list[str]:
    return ["--every", str(every)] if every > 1 else []


def computing(setting: Setting, ranks: int, every: int, *options: str) -> dict:
    return json.loads(setting.run(ranks, COMPUTING, *sampled(every), *options))


def side_by_side(setting: Setting, every: int, *options: str) -> float:
    """Seconds of the slowest of as many processes as there are ranks, each with the whole job and a core."""
    command = [str(setting.build / COMPUTING), *sampled(every), *options]
    cores = sorted(os.sched_getaffinity(0))

    def start(k: int) -> subprocess.Popen:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {cores[k % len(cores)]}))

    processes = [start(k) for k in range(RANKS)]
    lines = [process.communicate()[0] for process in processes]
    if any(process.returncode != 0 for process in processes):
        raise SystemExit(f"run.py: {shlex.join(command)} failed beside another of its kind")
    return max(json.loads(line)["seconds"] for line in lines)


def rows_one_by_one(setting: Setting, inputs: list[str], n: int) -> float:
    """Seconds for all rows, from pieces of them."""
    made, seconds, count = 0, 0.0, 8
    for piece in range(setting.pieces):
        begin = (2 * piece + 1) * (n - count) // (2 * setting.pieces)
        options = ["--method", "rows", "--rows", f"{begin}:{begin + count}", "--check", "0", "--verify", "none"]
        with setting.output() as output:
            seconds += hessian_mpi(setting, 1, *inputs, *options, "--output", output)["rows"]
        made += count
        count = max(8, min(n // setting.pieces, int(setting.row_seconds / setting.pieces * made / seconds)))
    return seconds / made * n


def write_half(path: pathlib.Path, size: int) -> None:
    piece = memoryview(os.urandom(1 << 20) * 16)
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while size > 0:
            size -= os.write(file, piece[: min(size, len(piece))])
        os.fsync(file)
    finally:
        os.close(file)


def plain_write(folder: pathlib.Path, size: int) -> float:
    """Of large files those alone whose space is taken before."""
    paths = [folder / f"plain.{k}" for k in range(RANKS)]
    found = []
    for allocated in (True, False) if size < 4e9 else (True,):
        for path in paths if allocated else []:
            with open(path, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, size // RANKS)
        writers = [multiprocessing.Process(target=write_half, args=(path, size // RANKS)) for path in paths]
        start = time.perf_counter()
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        found.append(time.perf_counter() - start)
        for path in paths:
            path.unlink()
    return min(found)


def has_room(setting: Setting, size: int) -> bool:
    free = shutil.disk_usage(setting.folder).free
    if free < 1.05 * size:
        print(f"run.py: '{setting.folder}' has {free / 1e9:.1f} GB free, and the file takes {size / 1e9:.1f} GB: left out", file=sys.stderr)
    return free >= 1.05 * size


def job(setting: Setting, inputs: list[str]) -> dict[str, float]:
    with setting.output() as output:
        return hessian_mpi(setting, RANKS, *inputs, "--output", output)


def rounds_of(setting: Setting, measure: Callable[[], dict]) -> list[dict]:
    """One where that takes long."""
    rounds: list[dict] = []
    start = time.perf_counter()
    while len(rounds) < setting.repetitions and time.perf_counter() - start < 30:
        rounds.append(measure())
    return rounds


def measure_peer(setting: Setting, peer: str, name: str) -> dict:
    def on_one_core() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.environ["OMP_NUM_THREADS"] = "1"

    if importlib.util.find_spec(peer.split(".")[0]) is None:
        return {"missing": f"no package {peer}"}
    script = pathlib.Path(__file__).with_name("peers.py")
    command = [sys.executable, str(script), peer, name, "--seconds", str(setting.peer_seconds), *(["--quick"] if setting.quick else [])]
    child = subprocess.run(command, capture_output=True, text=True, preexec_fn=on_one_core)
    if child.returncode == 0:
        return json.loads(child.stdout.splitlines()[-1])
    return {"failed": {"program": f"exit code {child.returncode}: {child.stderr.strip()[-200:]}"}}


def measure_network(setting: Setting, name: str) -> dict:
    inputs = setting.inputs(name)
    with setting.output() as output:
        plan = planned(setting, *inputs, "--output", output)
    every = 1 if setting.whole or plan["computing"] < LONG else math.ceil(plan["computing"] / LONG) + 1
    found: dict = {}

    def one_round() -> dict:
        found.update(computing(setting, 1, every, *inputs))
        taken = {"computing, 1": found["seconds"], "computing, 2": computing(setting, RANKS, every, *inputs)["seconds"]}
        taken["computing, side by side"] = side_by_side(setting, every, *inputs)
        size = 4 * found["N"] ** 2
        if (setting.whole or plan["job"] < LONG_JOB) and has_room(setting, size):
            taken["job"] = job(setting, inputs)
            taken["write"] = plain_write(setting.folder, size)
        return taken

    rounds = rounds_of(setting, one_round)
    data = problems.make(name, setting.quick)[1][0]
    return {
        "N": found["N"],
        "samples": len(data),
        "tokens": 0 if data.is_floating_point() else data.numel(),
        "sampled_every": every,
        "plan": plan,
        "method": found["plan"],
        "rounds": rounds,
        "rows": rows_one_by_one(setting, inputs, found["N"]),
        "peers": {peer: measure_peer(setting, peer, name) for peer in peers.PACKAGES},
    }


def growth_point(setting: Setting, width: int, samples: int, check: bool = False) -> dict | None:
    """The job on two ranks into a file."""
    name = f"perceptron-{width}-{samples}"
    n = sum(p.numel() for p in problems.make(name)[0].parameters())
    if not has_room(setting, 4 * n * n):
        return None
    inputs = setting.inputs(name)
    point = {"N": n, "samples": samples}
    if not check:
        return point | {"rounds": rounds_of(setting, lambda: job(setting, inputs))}
    with setting.output() as output:
        point["rounds"] = [hessian_mpi(setting, RANKS, *inputs, "--output", output)]
        start = time.perf_counter()
        setting.run(RANKS, "src/hessian_info", output, "--verify")
        return point | {"verified": time.perf_counter() - start}


def multiplication(threads: int, seconds: float) -> float:
    """Operations a second of a product of matrices in float32."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a, b = torch.randn(2048, 1024), torch.randn(1024, 2048)
    a @ b
    best, start = math.inf, time.perf_counter()
    while time.perf_counter() - start < seconds:
        begun = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begun)
    torch.set_num_threads(before)
    return 2 * 2048 * 1024 * 2048 / best


def measure_limits(setting: Setting) -> dict:
    size = 1 << (24 if setting.quick else 31)
    return {
        "multiplication": {threads: multiplication(threads, 0.05 if setting.quick else 2) for threads in (1, RANKS)},
        "bytes_a_second": size / plain_write(setting.folder, size),
    }


def growth(setting: Setting, what: str, largest: bool) -> list[dict]:
    if what == "parameters":
        widths = [*(WIDTHS[:1] if setting.quick else WIDTHS), *([WIDTHS[1] if setting.quick else LARGEST] if largest else [])]
        points = [growth_point(setting, width, 128, check=largest and width == widths[-1]) for width in widths]
    else:
        points = [growth_point(setting, WIDTHS[0] if setting.quick else 64, samples) for samples in (SAMPLES[:2] if setting.quick else SAMPLES)]
    return [point for point in points if point]


def machine(setting: Setting) -> dict:
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "processor": model.group(1) if model else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "versions": setting.run(1, "src/hessian_mpi", "--version").splitlines(),
        "date": datetime.date.today().isoformat(),
        "quick": setting.quick,
    }


def main() -> None:
    every_network = list(problems.PROBLEMS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path, help="where the programs were built")
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(every_network)}, parameters or samples")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("bench"), help="for networks, data and output")
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results.json"))
    parser.add_argument("--launch", default="mpirun --bind-to core" + (" --allow-run-as-root" if os.geteuid() == 0 else ""), help="without -n")
    parser.add_argument("--whole", action="store_true", help="sample no computing of hessian_mpi, however long it takes")
    parser.add_argument("--largest", action="store_true", help="100,000 parameters too: the file is written, checked and deleted")
    parser.add_argument("--quick", action="store_true", help="small networks, one round: to try the scripts, not to measure")
    arguments = parser.parse_intermixed_args()
    what = arguments.what or [*every_network, "parameters", "samples"]
    if unknown := set(what) - {*every_network, "parameters", "samples"}:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(arguments)
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {"networks": {}, "growth": {}}
    results |= {"machine": machine(setting), "limits": measure_limits(setting)}
    for name in what:
        start = time.perf_counter()
        if name in every_network:
            results["networks"][name] = measure_network(setting, name)
        else:
            results["growth"][name] = growth(setting, name, arguments.largest)
        arguments.results.write_text(json.dumps(results, indent=1) + "\n")  # each, for a run that is ended before its end
        print(f"{name}: measured in {time.perf_counter() - start:.0f} s", flush=True)
        for peer, found in results["networks"].get(name, {}).get("peers", {}).items():
            if "missing" in found:
                print(f"  {peer} is left out: {found['missing']}")


if __name__ == "__main__":
    main()
