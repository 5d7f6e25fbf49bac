"""Runs an exported job under mpirun, with its progress shown, and opens the file."""

from __future__ import annotations

import os
import pathlib
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Collection
from typing import Any, TextIO

from torch import nn

from hessian_file import HessianFile

from .export_job import CONFIG, HESSIAN, path_in_job, write_job
from .program import PROGRAM, find, require_options

_WIDTH_OF_BAR = 100
_OF_ONE_RUN = ("plan", "time_limit", "progress")


class JobError(RuntimeError):
    """The program ended with an error; the message is the program's. exit_code: 1 failed, 2 bad input, 75 stopped early."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class JobInterrupted(KeyboardInterrupt):
    """Ctrl-C: the job stopped cleanly; the message says how to go on."""


def hessian(network: nn.Module, data: Any, loss: str | Callable = "cross_entropy", *, ranks: int = 2,
            folder: str | os.PathLike = "hessian_job", loss_options: dict[str, Any] | None = None,
            whole: Collection[str] | bool = False, overwrite: bool = False, resume: bool = False, launcher: str | None = None,
            program: str | os.PathLike | None = None, **options: Any) -> HessianFile | None:
    """The Hessian of a network's loss: exports the job into `folder`, runs it on `ranks` ranks, opens FOLDER/hessian.h5.

    data, loss, loss_options, whole and options: those of `export`; overwrite, resume, launcher and program: of `run`. With
    resume a job that is in the folder already is not exported again. Raises what these raise.
    """
    folder = pathlib.Path(folder)
    require_options(options, hessian.__kwdefaults__, find(program))
    _launch(launcher, ranks)  # raises where there is no launcher, before anything is exported
    if not resume or not (folder / CONFIG).exists():
        output = pathlib.Path(options.get("output", folder / HESSIAN))
        if output.exists() and not overwrite:
            raise JobError(f"'{output}' exists already; name another folder, replace it with overwrite=True, or go on with it with "
                           "resume=True", 2)
        of_job = {name: value for name, value in options.items() if name not in _OF_ONE_RUN}
        write_job(folder, network, data, loss, loss_options or {}, whole, of_job)
    of_run = {name: options[name] for name in _OF_ONE_RUN if name in options}
    return run(folder, ranks=ranks, overwrite=overwrite and not resume, resume=resume, launcher=launcher, program=program,
               **of_run)


def run(folder: str | os.PathLike, *, ranks: int = 2, overwrite: bool = False, resume: bool = False,
        launcher: str | None = None, program: str | os.PathLike | None = None, **options: Any) -> HessianFile | None:
    """Runs the job in a folder that `export` made and opens its file.

    launcher: mpirun with its options, or srun; `-n RANKS` follows. program: hessian_mpi where it is not on the PATH. options:
    of hessian_mpi, before those of the job. Returns None where no file is written (plan=True). Raises JobError with the
    program's message, and on ctrl-C, once the job has stopped, JobInterrupted, which says how to go on.
    """
    folder = pathlib.Path(folder)
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"'{folder / CONFIG}' is not there: hessian_mpi.export('{folder}', ...) makes it")
    options = {**options, "overwrite": overwrite, "resume": resume, "progress": options.get("progress", _progress())}
    command = [*_launch(launcher, ranks), find(program), "--config", CONFIG, *_words(options, folder)]
    output = _output(folder, options)
    code, message = _run(command, folder, f"hessian_mpi.run({str(folder)!r}, ranks={ranks}, resume=True)")
    if code != 0:
        raise JobError(message or f"{shlex.join(command)} ended with exit code {code}", code)
    return None if options.get("plan") else HessianFile(output)


def _output(folder: pathlib.Path, options: dict[str, Any]) -> pathlib.Path:
    """The file that is written: where `run` is told, or the job."""
    if "output" in options:
        return pathlib.Path(options["output"])
    lines = dict(re.findall("^([^ ]+) = (.*)$", (folder / CONFIG).read_text(), re.M))
    return folder / lines.get("output", HESSIAN)


def _words(options: dict[str, Any], folder: pathlib.Path) -> list[str]:
    words = []
    for name, value in options.items():
        if value is None or value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            values = value if isinstance(value, (list, tuple)) else [value]
            words += [str(path_in_job(name, one, folder)) for one in values]
    return words


# --- what is started --------------------------------------------------------------------------------------------------


def _launch(given: str | None, ranks: int) -> list[str]:
    """Open MPI takes no root and no more ranks than cores unless told."""
    if given is not None:
        first, *others = shlex.split(given)  # a path is that of the caller, not of the job's folder
        return [os.path.abspath(first) if os.sep in first else first, *others, "-n", str(ranks)]
    mpirun = shutil.which("mpirun")
    if mpirun is None:
        raise FileNotFoundError("mpirun is not on the PATH: install or load an MPI, or give launcher='srun'")
    words = [mpirun]
    if "Open MPI" in subprocess.run([mpirun, "--version"], capture_output=True, text=True).stdout:
        words += ["--allow-run-as-root"] if os.geteuid() == 0 else []
        words += ["--oversubscribe"] if ranks > _cores() else []
    return [*words, "-n", str(ranks)]


def _cores() -> int:
    """As Open MPI counts them, without hyperthreads."""
    cores = {core.read_text() for core in pathlib.Path("/sys/devices/system/cpu").glob("cpu*/topology/thread_siblings_list")}
    return len(cores) or os.cpu_count() or 1


# --- what it prints ---------------------------------------------------------------------------------------------------


def _in_notebook() -> bool:
    return type(sys.stderr).__module__.startswith("ipykernel")


def _progress() -> str:
    wide = shutil.get_terminal_size((_WIDTH_OF_BAR, 24)).columns >= _WIDTH_OF_BAR
    return "bar" if _in_notebook() or (sys.stderr.isatty() and wide) else "plain"


class _Relay:
    """Passes on what comes through a pipe, in whole lines and states of the bar, up to an error, which it keeps."""

    def __init__(self, to: TextIO):
        self._to, self._rest, self._is_error = to, b"", False
        self.error = ""

    def feed(self, content: bytes) -> None:
        *pieces, self._rest = re.split(rb"(?<=[\r\n])", self._rest + content)
        for piece in pieces:
            self._pass_on(piece.decode(errors="replace"))

    def close(self) -> None:
        self._pass_on(self._rest.decode(errors="replace"))

    def _pass_on(self, piece: str) -> None:
        if piece.startswith(f"{PROGRAM}: ") and not piece.startswith(f"{PROGRAM}: warning"):
            self._is_error = True
        if piece.startswith("-----") or self._is_error:  # the launcher has words of its own after an error
            self._is_error = True
            self.error += piece
        elif piece:
            self._to.write(piece if self._to.isatty() else piece.replace("\033[K", ""))
            self._to.flush()

    def message(self) -> str:
        """The program's alone where there is one."""
        own = re.search(rf"^{PROGRAM}: (?:error: )?(.*?)(?:\n-----|\Z)", self.error, re.S | re.M)
        return (own.group(1) if own else re.sub("^-+$", "", self.error, flags=re.M)).strip()


def _run(command: list[str], folder: pathlib.Path, to_go_on: str) -> tuple[int, str]:
    """Exit code and message of error. In a session of its own, so that ctrl-C comes here alone."""
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          start_new_session=True) as process:
        relays = {process.stdout: _Relay(sys.stdout), process.stderr: _Relay(sys.stderr)}
        errors = relays[process.stderr]
        interrupted = False
        while True:
            try:
                _relay_until_end(relays)
                code = process.wait()
                break
            except KeyboardInterrupt:
                # mpirun hands SIGUSR1 on, and the ranks stop after the row block at hand; SIGTERM ends them at once.
                process.send_signal(signal.SIGTERM if interrupted else signal.SIGUSR1)
                interrupted = True
    # MPICH's mpiexec may say 0 of ranks that it handed a signal on to; the program's own word is there all the same.
    if interrupted and (code != 0 or errors.message()):
        raise JobInterrupted(f"{errors.message() or 'stopped'}\nIn Python: {to_go_on}")
    return code, errors.message()


def _relay_until_end(relays: dict[Any, _Relay]) -> None:
    with selectors.DefaultSelector() as selector:
        for pipe in relays:
            if not pipe.closed:
                selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                content = os.read(key.fd, 1 << 16)
                if content:
                    relays[key.fileobj].feed(content)
                else:
                    relays[key.fileobj].close()
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
