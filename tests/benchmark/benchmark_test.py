#!/usr/bin/env python3
"""Runs the benchmark's scripts on small networks: what they write is there, and of the right rows. It asserts no times.

usage: benchmark_test.py BUILD MPIRUN...
"""

import importlib.util
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

SKIPPED = 77
HERE = pathlib.Path(__file__).parent


def script(name: str, *arguments) -> str:
    return subprocess.run([sys.executable, HERE / name, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout


def check_wrong_rows_do_not_count() -> None:
    import peers

    network = peers.Network("mlp", quick=True)
    n = network.theta.numel()
    rows = [network.row(i) for i in range(n)]

    def broken(chunk: int):
        raise RuntimeError("no such operator\nand more")

    ways = {
        "wrong": lambda chunk: lambda begin: [1.01 * row for row in rows[begin : begin + chunk]],
        "right": lambda chunk: lambda begin: rows[begin : begin + chunk],
        "broken": broken,
    }
    found = peers.measured(network, ways, seconds=0.001)
    assert found["way"].startswith("right, ") and found["rows"] > 0, found
    assert found["failed"]["broken, 4 at a time"] == "no such operator", found
    assert found["failed"]["wrong, 4 at a time"].startswith("wrong by 0.0"), found
    assert not any(way.startswith("wrong") for way in found["tried"]), found
    assert abs(found["seconds"] - found["ms_a_row"] * n / 1e3) < 1e-12, found


def check_peers() -> None:
    """All networks, those of jax too where it is installed."""
    import peers
    import problems

    for peer in ("torch.func", "jax"):
        if importlib.util.find_spec(peer.split(".")[0]) is None:
            continue
        lines = [json.loads(line) for line in script("peers.py", peer, "--quick", "--seconds", 0.001, *problems.PROBLEMS).splitlines()]
        assert [line["name"] for line in lines] == list(problems.PROBLEMS), lines
        for line in lines:
            assert line["ms_a_row"] > 0 and line["version"] and not line["failed"], line
            assert line["N"] == peers.Network(line["name"], quick=True).theta.numel(), line


def check_results(path: pathlib.Path, said: str) -> None:
    results = json.loads(path.read_text())
    (mlp,) = results["networks"].values()
    assert (mlp["N"], mlp["samples"], mlp["sampled_every"]) == (148, 8, 1), mlp
    (taken,) = mlp["rounds"]
    assert min(taken["computing, 1"], taken["computing, 2"], taken["computing, side by side"], taken["write"], taken["job"]["rows"], mlp["rows"]) > 0, mlp
    assert taken["job"]["all"] >= taken["job"]["checks"] > 0, taken
    for peer, package in {"torch.func": "torch", "jax": "jax", "curvlinops": "curvlinops"}.items():
        missing = importlib.util.find_spec(package) is None
        assert (f"{peer} is left out" in said) == missing == ("missing" in mlp["peers"][peer]), (peer, said)
    sizes = {what: [(point["N"], point["samples"]) for point in points] for what, points in results["growth"].items()}
    assert sizes == {"parameters": [(1066, 128), (3327, 128)], "samples": [(1066, 64), (1066, 512)]}, sizes
    assert results["growth"]["parameters"][-1]["verified"] > 0
    assert results["limits"]["bytes_a_second"] > 0 and set(results["limits"]["multiplication"]) == {"1", "2"}, results["limits"]


def check_report(path: pathlib.Path, root: pathlib.Path, folder: pathlib.Path) -> None:
    copies = folder / "documents"
    (copies / "tests/benchmark").mkdir(parents=True)
    documents = ("README.md", "tests/benchmark/README.md")
    for document in documents:
        shutil.copyfile(root / document, copies / document)
    printed = script("report.py", path, "--documents", copies, "--pictures", folder)
    beginnings = (["| MLP 64-64-64-10 | 148 |"], ["| MLP 64-64-64-10 (`mlp`) | 148 |", "| MLP 64-64-64-10 | "])
    for document, expected in zip(documents, beginnings):
        before, after = ((place / document).read_text().splitlines() for place in (root, copies))
        new = [line.strip() for line in after if line not in before]
        assert len(new) == len(expected) and all(line.startswith(begin) for line, begin in zip(new, expected)), new
        assert all(line in printed for line in new), new
        assert [line for line in before if not line.strip().startswith("| ")] == [line for line in after if not line.strip().startswith("| ")]
    for picture in ("computing.png", "growth.png"):
        content = (folder / picture).read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) < 200_000, (picture, len(content))


def check_sample(build: str, mpirun: list[str], folder: pathlib.Path) -> None:
    """Three of the four groups of rows that share passes on one rank; on two, which want three each, all."""
    inputs = [option for name in ("model", "data") for option in (f"--{name}", *folder.glob(f"perceptron-31-128/{name}.*"))]
    made = {}
    for ranks in (1, 2):
        command = [*mpirun, "-n", str(ranks), pathlib.Path(build, "tests/benchmark/compute_benchmark"), "--every", "4", *inputs]
        line = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        assert line["N"] == 3327 and line["seconds"] > 0, line
        made[ranks] = line["rows"]
    assert 3327 * 0.6 < made[1] < 3327 * 0.9 and made[2] == 3327, made


def main(build: str, mpirun: list[str]) -> int:
    if any(importlib.util.find_spec(package) is None for package in ("torch", "h5py", "matplotlib")):
        print("not run: it takes torch, h5py and matplotlib")
        return SKIPPED
    import run

    assert [run.seconds_of(text) for text in ("0.4 s", "5 min 44 s", "1 h 01 min")] == [0.4, 344, 3660]
    check_wrong_rows_do_not_count()
    check_peers()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        results = folder / "results.json"
        what = ("mlp", "parameters", "samples")
        said = script("run.py", build, "--quick", "--largest", "--folder", folder, "--results", results, "--launch", shlex.join(mpirun), *what)
        check_results(results, said)
        assert not list(folder.glob("*.h5")), "output files are left"
        check_report(results, HERE.parents[1], folder)
        check_sample(build, mpirun, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
