#!/usr/bin/env python3
"""Two programs that would write one file: the second is told who has it, and the first loses nothing.

usage: one_owner.py HESSIAN_MPI LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks. FAULT_LIBRARY in the environment: see fault.cpp.
"""

import contextlib
import errno
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import fabricated_file
import h5py
import numpy as np
from tool import Tool, fault, run_tests

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "src" / "python"))
from hessian_file import HessianFile  # noqa: E402

JOB = ["--parameters", "c1.*", "--threads", "1", "--output", "h.h5"]
LOCK = ".h.h5.lock"
OTHER_MACHINE = {"boot": "00000000-0000-0000-0000-000000000000", "host": "node42"}
# Where a job is stopped: before its file has a name, before its first mark, and as its end is written.
UNNAMED, UNMARKED, ENDING = ("rename", "h.h5"), ("sync_file_range", "h.h5"), ("fsync", ".redo")


def program(mpi: Tool, name: str) -> Tool:
    return Tool(str(pathlib.Path(mpi.program).parent / f"hessian_{name}"), mpi.launch, mpi.folder)


def words_of(folder: pathlib.Path) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in (folder / LOCK).read_text().splitlines()[1:])


def leave_lock(folder: pathlib.Path, **words: str) -> None:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = {"program": "hessian_convert", "process": str(os.getpid()), "host": "here", "since": "then", "boot": boot}
    known |= {"processes": str(os.stat("/proc/self/ns/pid").st_ino), **words}
    (folder / LOCK).write_text("lock file of hessian_mpi\n" + "".join(f"{name} {word}\n" for name, word in known.items()))


@contextlib.contextmanager
def stopped_job(mpi: Tool, where: tuple[str, str], *options: str) -> Iterator[subprocess.Popen]:
    """A job whose first rank stands still at the first such call."""
    call, file = where
    mark = mpi.folder / "mark"
    variables = {**fault(call, 0, 1, -signal.SIGSTOP, file), "FAULT_MARK": str(mark)}
    command = [*mpi.launch, "-n", "2", mpi.program, *JOB, *options]
    environment = {**os.environ, **variables}
    job = subprocess.Popen(command, cwd=mpi.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not mark.exists():
            assert job.poll() is None, job.communicate()
            time.sleep(0.01)
        mark.unlink()
        yield job
    finally:
        job.kill()
        job.communicate()


def go_on(mpi: Tool, job: subprocess.Popen) -> None:
    process = int(words_of(mpi.folder)["process"])
    while "\nState:\tT" not in pathlib.Path(f"/proc/{process}/status").read_text():
        time.sleep(0.01)  # it has left its mark and is about to stop
    os.kill(process, signal.SIGCONT)
    output, errors = job.communicate(timeout=120)
    assert job.returncode == 0, (output, errors)


def expect_refused(tool: Tool, output: str, *arguments: str) -> None:
    if not pathlib.Path(tool.program).exists():
        return
    before = {path.name for path in tool.folder.iterdir()}
    message = tool.error(*arguments)
    holder = f"hessian_mpi, process {words_of(tool.folder)['process']} on {socket.gethostname()}"
    assert f"error: '{output}' is being written by {holder}" in message, (arguments, message)
    assert {path.name for path in tool.folder.iterdir()} == before, before


def expect_all_refused(mpi: Tool) -> None:
    anywhere = str(mpi.folder / "h.h5")
    for options in ([], ["--overwrite"], ["--resume"], ["--resume", "--verify", "all"]):
        expect_refused(mpi, "h.h5", *JOB, *options)
    expect_refused(program(mpi, "convert"), "h.h5", "other.h5", "h.h5", "--overwrite")
    expect_refused(program(mpi, "join"), "h.h5", "part-0.h5", "part-1.h5", "--output", "h.h5", "--overwrite")
    expect_refused(program(mpi, "multiply"), "link.h5", "other.h5", "--gradient", "--output", "link.h5", "--overwrite")
    expect_refused(program(mpi, "spectrum"), "./h.h5", "other.h5", "--output", "./h.h5", "--overwrite")
    expect_refused(program(mpi, "solve"), anywhere, "other.h5", "--output", anywhere, "--overwrite")
    expect_refused(program(mpi, "info"), "h.h5", "h.h5", "--verify", "--mark")


def expect_readable(mpi: Tool, path: str, complete: bool) -> None:
    with h5py.File(mpi.folder / path) as file, HessianFile(mpi.folder / path, unfinished=True) as matrix:
        assert file.attrs["complete"] == complete and matrix.shape == file["hessian"].shape
    assert path in program(mpi, "info").good(1, path)


def expect_result(mpi: Tool, wanted: np.ndarray) -> None:
    expect_readable(mpi, "h.h5", True)
    program(mpi, "info").good(1, "h.h5", "--verify")
    with h5py.File(mpi.folder / "h.h5") as file:
        assert np.array_equal(file["hessian"][:], wanted)
    assert not list(mpi.folder.glob(".*")), list(mpi.folder.glob(".*"))


def write_others(mpi: Tool) -> np.ndarray:
    """The inputs of other programs; returns the matrix of the job."""
    numbers = np.random.default_rng(1).standard_normal((6, 6)) + 10 * np.eye(6)
    numbers = numbers + numbers.T
    fabricated_file.write(mpi.folder / "other.h5", numbers, np.ones(6))
    for k in range(2):
        fabricated_file.write(mpi.folder / f"part-{k}.h5", numbers[3 * k : 3 * k + 3], np.ones(6), first_row=3 * k)
    (mpi.folder / "link.h5").symlink_to("h.h5")
    mpi.good(2, *JOB)
    with h5py.File(mpi.folder / "h.h5") as file:
        return file["hessian"][:]


def test_a_second_program_is_told_who_has_the_file(mpi: Tool) -> None:
    wanted = write_others(mpi)
    (mpi.folder / "h.h5").unlink()
    with stopped_job(mpi, UNNAMED, "--check", "0") as job:
        for option in ("--overwrite", "--resume"):
            expect_refused(mpi, "h.h5", *JOB, option)
        go_on(mpi, job)
    expect_result(mpi, wanted)
    with stopped_job(mpi, UNMARKED, "--overwrite") as job:
        expect_refused(mpi, "h.h5", *JOB, "--resume")
        expect_readable(mpi, "h.h5", True)  # the old file, until the new one has a mark
        go_on(mpi, job)
    expect_result(mpi, wanted)
    with stopped_job(mpi, ENDING, "--check", "0", "--overwrite") as job:
        expect_all_refused(mpi)
        expect_readable(mpi, "h.h5", False)
        go_on(mpi, job)
    expect_result(mpi, wanted)


def test_a_killed_job_is_in_nobodys_way(mpi: Tool) -> None:
    wanted = write_others(mpi)
    for where, option in ((UNMARKED, "--resume"), (ENDING, "--overwrite")):
        with stopped_job(mpi, where, "--overwrite"):
            pass  # mpirun is killed, and its ranks with it
        process = int(words_of(mpi.folder)["process"])
        while pathlib.Path(f"/proc/{process}").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
        finished = mpi.run(2, *JOB, option)
        assert finished.returncode == 0 and "was being written" not in finished.stderr, finished
        expect_result(mpi, wanted)


def test_ended_jobs_leave_no_lock(mpi: Tool) -> None:
    for code, options in ((75, ["--time-limit", "0"]), (0, []), (2, []), (0, ["--resume"]), (2, ["--overwrite", "--model", "none.pt"])):
        assert mpi.run(2, *JOB, *options).returncode == code
        assert {path.name for path in mpi.folder.iterdir()} <= {"h.h5"}
    failing = fault("fallocate", 0, 1, errno.EIO, "h.h5")
    assert mpi.run(2, *JOB, "--overwrite", variables=failing).returncode == 1
    assert {path.name for path in mpi.folder.iterdir()} == {"h.h5"}


def test_a_heartbeat_holds_where_locks_do_not(mpi: Tool) -> None:
    write_others(mpi)
    convert = program(mpi, "convert")
    arguments = ["other.h5", "h.h5", "--overwrite"]
    without_locks = fault("lock", 0, 1, errno.ENOLCK, LOCK)
    without_locks["FAULT_RANK"] = ""  # the program is not started by mpirun
    for variables, words in ((None, OTHER_MACHINE), (without_locks, OTHER_MACHINE), (without_locks, {})):
        leave_lock(mpi.folder, **words)
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(0.05):
                os.utime(mpi.folder / LOCK)

        beating = threading.Thread(target=beat)
        beating.start()
        finished = convert.run(1, *arguments, variables=variables)
        ended.set()
        beating.join()
        assert finished.returncode == 2 and "is being written by hessian_convert, process" in finished.stderr, finished
        assert (mpi.folder / LOCK).exists()
    gone = subprocess.Popen(["true"])
    gone.wait()
    leave_lock(mpi.folder, process=str(gone.pid))
    for variables in (without_locks, without_locks | {"FAULT_ERROR": str(errno.ENOSYS)}):
        assert convert.run(1, *arguments, variables=variables).returncode == 0
        assert not (mpi.folder / LOCK).exists()


if __name__ == "__main__":
    run_tests(globals())
