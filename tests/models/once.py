#!/usr/bin/env python3
"""Runs a script of this folder, unless its networks are there already from the same sources and the same PyTorch.

usage: once.py SCRIPT OUT

OUT/made/SCRIPT tells what they were made from.
"""

import hashlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent


def sources_of(name: str, found: dict[str, str]) -> dict[str, str]:
    """The script and all that it imports from this folder, by name."""
    source = HERE / f"{name}.py"
    if name not in found and source.exists():
        found[name] = source.read_text()
        for imported in re.findall(r"^(?:from|import) (\w+)", found[name], re.M):
            sources_of(imported, found)
    return found


def main(script: str, out: str) -> None:
    versions = [f"{package} {importlib.metadata.version(package)}" for package in ("torch", "numpy", "h5py")]
    made_from = hashlib.sha256(repr((versions, sources_of(script, {}))).encode()).hexdigest()
    stamp = pathlib.Path(out, "made", script)
    if stamp.exists() and stamp.read_text() == made_from:
        print(f"{script}: nothing has changed")
        return
    subprocess.run([sys.executable, HERE / f"{script}.py", out], check=True)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(made_from)


if __name__ == "__main__":
    main(*sys.argv[1:])
