"""Runs a program that reads files of hessian_mpi as its users do."""

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable


class Tool:
    """A program in a folder of its own. launch: mpirun with its options but for the number of ranks."""

    def __init__(self, program: str, launch: list[str], folder: pathlib.Path):
        self.program, self.launch, self.folder = program, launch, folder

    def run(self, ranks: int, *arguments: str, variables: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        """Without mpirun on one rank. variables: of the environment, beside those that are there."""
        launch = [*self.launch, "-n", str(ranks)] if ranks > 1 else []
        return subprocess.run(
            [*launch, self.program, *arguments],
            cwd=self.folder,
            env={**os.environ, **(variables or {})},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def good(self, ranks: int, *arguments: str) -> str:
        """What it prints."""
        finished = self.run(ranks, *arguments)
        assert finished.returncode == 0, finished
        return finished.stdout

    def error(self, *arguments: str, code: int = 2) -> str:
        """The one line of a person's mistake."""
        finished = self.run(1, *arguments)
        assert finished.returncode == code and finished.stdout == "", finished
        name = pathlib.Path(self.program).name
        assert finished.stderr.count("\n") == 1 and finished.stderr.startswith(f"{name}: error: "), finished
        return finished.stderr


def fault(call: str, rank: int, at: int, error: int, file: str) -> dict[str, str]:
    """The environment in which a call to files of this name fails on a rank, from the at-th one on, by FAULT_LIBRARY."""
    values = {"RANK": rank, "CALL": call, "AT": at, "ERROR": error, "FILE": file}
    return {"LD_PRELOAD": os.environ["FAULT_LIBRARY"], **{"FAULT_" + key: str(value) for key, value in values.items()}}


def run_tests(names: dict[str, Callable], kind: Callable = Tool) -> None:
    """All functions test_... of a script whose arguments are PROGRAM LAUNCH..., each with a kind of its own."""
    for name, test in list(names.items()):
        if name.startswith("test_"):
            with tempfile.TemporaryDirectory() as folder:
                test(kind(sys.argv[1], sys.argv[2:], pathlib.Path(folder)))
            print(name, "passed", flush=True)
