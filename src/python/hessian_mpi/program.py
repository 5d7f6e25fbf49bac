"""The program hessian_mpi: where it is, and which options it has."""

from __future__ import annotations

import difflib
import os
import pathlib
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Collection

PROGRAM = "hessian_mpi"
_OF_THE_JOB = {"model": "the network, which is given first", "data": "the data, given second", "loss": "the loss, given third",
               "loss_option": "loss_options={NAME: VALUE}", "mode": "the network's mode: net.train(), net.eval()",
               "config": "the job's folder, of hessian_mpi.run", "help": "", "version": "", "verbose": ""}


def find(given: str | os.PathLike | None = None) -> str:
    """That of the installation that this package is in, by cmake or by pip, or the one on the PATH."""
    here = pathlib.Path(__file__).resolve()
    by_pip = here.parents[1] == pathlib.Path(sysconfig.get_path("platlib")).resolve()
    installed = pathlib.Path(sysconfig.get_path("scripts") if by_pip else here.parents[3] / "bin", PROGRAM)
    found = given or (installed if installed.exists() else shutil.which(PROGRAM))
    if found is None:
        raise FileNotFoundError("hessian_mpi, the program, is not on the PATH: build and install it, or give program=...")
    if not os.path.exists(found):
        raise FileNotFoundError(f"program='{found}' is not there")
    return os.path.abspath(found)


def require_options(given: Collection[str], keywords: Collection[str], program: str | None) -> None:
    """Raises TypeError for words that are no options, with the nearest that is one. program: to ask which there are; where
    none is installed, the job finds the others. keywords: those of the function called."""
    for name in given:
        if name in _OF_THE_JOB:
            raise TypeError(f"{name}= is no option here" + (f": it is {_OF_THE_JOB[name]}" if _OF_THE_JOB[name] else ""))
    known = _options_of(program) if given and program else set()
    for name in given if known else ():
        if name not in known:
            near = difflib.get_close_matches(name, [*(known - _OF_THE_JOB.keys()), *keywords], 1)
            raise TypeError(f"{name}= is no option" + (f": did you mean {near[0]}=?" if near else "; hessian_mpi --help lists all"))


def _options_of(program: str) -> set[str]:
    """As --help has them, as keywords; empty where the program cannot be started here."""
    try:
        text = subprocess.run([program, "--help"], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return {name.replace("-", "_") for name in re.findall(r"^(?:  -\w, |      )--([\w-]+)", text, re.M)}
