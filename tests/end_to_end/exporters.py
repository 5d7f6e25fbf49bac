#!/usr/bin/env python3
"""Has builds against several versions of LibTorch read networks that several versions of PyTorch exported. By hand.

usage: exporters.py FOLDER --exporters PYTHON... --programs HESSIAN_MPI... [--count COUNT]

Each PYTHON, with torch, numpy and h5py, exports the networks of models/architectures.py and COUNT of those of
models/random_architectures.py (default: 208, of which 77 are .pt2) into FOLDER and derives their Hessians itself; what is there
already is taken. Each program computes those of every .pt2, which are to be the same to rounding: H, the gradient and the
loss, in float64. Prints a table for INSTALL.md and ends with 1 where one differs.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

import h5py
import numpy as np

MODELS = pathlib.Path(__file__).resolve().parent.parent / "models"
CLOSE = 1e-9  # relative to the largest element
# Their gradients are those of no function, which the program's checks refuse.
NO_GRADIENT = ("detached_branch", "embedding_with_padding")


def exported(python: str, folder: pathlib.Path, count: int) -> tuple[str, list[pathlib.Path]]:
    """The version of a Python's PyTorch, and a folder for each network that it exported."""
    ask = "import importlib.metadata as m; print(m.version('torch'))"
    version = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    out = folder / version
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "architectures").exists():
        subprocess.run([python, MODELS / "architectures.py", out], check=True)
    cases = out / "random" / "cases"
    if not cases.exists() or len(cases.read_text().splitlines()) < count:
        subprocess.run([python, MODELS / "random_architectures.py", out, str(count)], check=True)
    lines = cases.read_text().splitlines()
    refused = {line.split()[0] for line in lines if any(part in line.split() for part in NO_GRADIENT)}
    return version, sorted(model.parent for model in out.glob("**/model.pt2") if model.parent.name not in refused)


def libtorch_of(program: str) -> str:
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return re.search(r"LibTorch (\S+)", said)[1]


def fault(program: str, case: pathlib.Path) -> str:
    """What is wrong with a program's Hessian of a network: nothing, as a rule."""
    options = [line.replace("@CASE@", str(case)) for line in (case / "options").read_text().splitlines()]
    if "--model" not in options:
        options += ["--model", str(case / "model.pt2"), "--data", str(case / "data.h5")]
    with tempfile.TemporaryDirectory() as folder:
        result = pathlib.Path(folder, "result.h5")
        options += ["--dtype", "float64", "--threads", "1", "--output", str(result)]
        ended = subprocess.run([program, *options], capture_output=True, text=True)
        if ended.returncode != 0:
            return f"exit code {ended.returncode}: {ended.stderr.strip()}"
        with h5py.File(result) as file, h5py.File(case / "reference.h5") as reference:
            pairs = {name: (file[name][...], reference[name][...]) for name in ("hessian", "gradient")}
            pairs["loss_value"] = file.attrs["loss_value"], reference["loss_value"][...]
    for name, (found, right) in pairs.items():
        difference = np.max(np.abs(found - right), initial=0) / (np.max(np.abs(right), initial=0) or 1)
        if np.shape(found) != np.shape(right) or not difference <= CLOSE:
            return f"{name} differs by {difference:.1e}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--exporters", nargs="+", required=True)
    parser.add_argument("--programs", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=208)
    arguments = parser.parse_args()
    programs = {libtorch_of(program): program for program in arguments.programs}
    lines = [f"| exported by | {' | '.join(programs)} |", "|---|" + "---|" * len(programs)]
    failed = False
    for python in arguments.exporters:
        version, cases = exported(python, arguments.folder.resolve(), arguments.count)
        cells = []
        for libtorch, program in programs.items():
            faults = {case.name: fault(program, case) for case in cases}
            for name, said in faults.items():
                if said:
                    print(f"{name}, exported by {version}, read by LibTorch {libtorch}: {said}", flush=True)
            right = sum(not said for said in faults.values())
            cells.append(f"{right} of {len(cases)}")
            failed = failed or right < len(cases) or not cases
        lines.append(f"| {version} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    print("\n".join(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
