#!/usr/bin/env python3
"""Hands all programs paths that they must neither replace nor wait for, and links that they must follow.

usage: outputs.py PROGRAMS MODELS LAUNCH...

PROGRAMS is the folder of the programs, of which those are tried that are there; MODELS is what end_to_end_models.py wrote;
LAUNCH is mpirun with its options but for the number of ranks.
"""

import itertools
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

import fabricated_file
import h5py
import numpy as np

N = 6
SECONDS = 60  # a program that takes longer waits for a FIFO
PROGRAMS, MODELS, LAUNCH = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]


@dataclass
class Use:
    """A way to start a program. {0}, {1}, ... in its arguments: its inputs."""

    program: str
    inputs: list[str]
    arguments: list[str]
    output: list[str] = field(default_factory=lambda: ["--output"])  # what stands before the output
    suffix: str = ".h5"
    also_read: list[str] = field(default_factory=list)  # not named on the command line
    overwrite: list[str] = field(default_factory=lambda: ["--overwrite"])

    def command(self, output: str = "", inputs: list[str] | None = None) -> list[str]:
        arguments = [argument.format(*(inputs or self.inputs)) for argument in self.arguments]
        return [str(PROGRAMS / self.program), *arguments, *([*self.output, output] if output else [])]


MODEL_JOB = ["--model", "{0}", "--data", "{1}", "--loss", "{2}", "--config", "{3}"]
NUMBERED_LOSS = ["--model", "{0}", "--data", "{1}", "--loss", "cross_entropy", "--loss-option", "weight=@{2}"]
HESSIAN_MPI = Use("hessian_mpi", ["model.pt", "data.h5", "loss.pt", "job.conf"], MODEL_JOB)
USES = [
    HESSIAN_MPI,
    Use("hessian_join", ["part-0.h5", "part-1.h5"], ["{0}", "{1}"]),
    Use("hessian_join", ["part-0.h5", "part-1.h5"], ["{0}", "{1}", "--copy"]),
    Use("hessian_convert", ["h.h5"], ["{0}"], output=[]),
    Use("hessian_convert", ["joined.h5"], ["{0}"], output=[], also_read=["part-0.h5", "part-1.h5"]),
    Use("hessian_multiply", ["h.h5", "v.npy"], ["{0}", "--vectors", "{1}"]),
    Use("hessian_multiply", ["joined again.h5", "v.h5"], ["{0}", "--vectors", "{1}:v"], also_read=["joined.h5", "part-1.h5"]),
    Use("hessian_spectrum", ["h.h5"], ["{0}"]),
    Use("hessian_spectrum", ["joined.h5"], ["{0}", "--largest", "1"], also_read=["part-0.h5"]),
    Use("hessian_solve", ["h.h5", "v.npy"], ["{0}", "--rhs", "{1}"]),
    Use("hessian_plot", ["h.png"], ["{0}"], suffix=".png", overwrite=[]),
]
USES = [use for use in USES if (PROGRAMS / use.program).exists()]
# A way for each program: the others differ in what they read and write, not in where they may.
PROGRAM_USES = list({use.program: use for use in reversed(USES)}.values())


def run(command: list[str], folder: pathlib.Path, **options) -> subprocess.CompletedProcess:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    python = {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONUNBUFFERED": ""}  # of hessian_plot
    options["env"] = {**os.environ, **python}
    return subprocess.run(command, cwd=folder, text=True, timeout=SECONDS, **options)


def write_inputs(folder: pathlib.Path) -> None:
    matrix = np.random.default_rng(1).standard_normal((N, N))
    matrix += matrix.T + 10 * np.eye(N)
    for name in ("h.h5", "h.png"):
        fabricated_file.write(folder / name, matrix, np.ones(N))
        with h5py.File(folder / name, "r+") as file:
            names = {"names": ["weight", "bias"], "offsets": [0, N - 1], "sizes": [N - 1, 1]}
            file["hessian"].attrs.update({f"parameter_{key}": value for key, value in names.items()})
    for k, rows in enumerate((slice(0, 3), slice(3, N))):
        fabricated_file.write(folder / f"part-{k}.h5", matrix[rows], np.ones(N), first_row=rows.start)
    for names in (["part-0.h5", "part-1.h5", "-o", "joined.h5"], ["joined.h5", "-o", "joined again.h5"]):
        finished = run([str(PROGRAMS / "hessian_join"), *names], folder)
        assert finished.returncode == 0, finished
    np.save(folder / "v.npy", np.ones(N))
    with h5py.File(folder / "v.h5", "w") as file:
        file["v"] = np.ones(N)
    case = MODELS / "scripted_loss"
    for name, source in {"model.pt": case / "model.pt", "data.h5": case / "data.h5", "loss.pt": case / "loss.pt"}.items():
        shutil.copy(source, folder / name)
    (folder / "job.conf").write_text("check = 0\n")


def write_traps(folder: pathlib.Path, suffix: str) -> list[str]:
    """Paths that no program may replace, nor write to."""
    os.mkfifo(folder / f"fifo{suffix}")
    (folder / f"folder{suffix}").mkdir()
    links = {"to_fifo": "fifo", "to_folder": "folder", "to_itself": "to_itself", "to_no_folder": "none/x"}
    for name, target in links.items():
        (folder / (name + suffix)).symlink_to(target + suffix)
    traps = ["fifo", "folder", *links, "none/x", 300 * "n", "/proc/x"]  # nobody can make a file in /proc
    if os.geteuid() == 0:
        os.mknod(folder / f"device{suffix}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        traps.append("device")
    return [trap + suffix for trap in traps]


def state(folder: pathlib.Path) -> dict:
    """What is in a folder: which files, links and devices, and the bytes of files."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else os.readlink(path) if path.is_symlink() else ""
        found[str(path.relative_to(folder))] = (status.st_ino, status.st_mode, content)
    return found


def in_turn(inputs: list[str], ways: list[str]) -> list[tuple[str, str]]:
    """All ways for the first of the inputs, and one each for the others: a start of a program takes its time."""
    others = zip(inputs[1:], itertools.cycle(ways))
    return [*((inputs[0], way) for way in ways), *others] if inputs else []


def failures_of(cases) -> list[str]:
    return [f"{name}: {wrong}" for name, wrong in cases if wrong]


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


def refusal(command: list[str], folder: pathlib.Path) -> str:
    """What is wrong with how a program refuses: it says so in one line, at once, and changes nothing."""
    before = state(folder)
    name = pathlib.Path(command[0]).name
    with tempfile.TemporaryDirectory() as kept:
        copy(folder, pathlib.Path(kept))
        try:
            finished = run(command, folder)
        except subprocess.TimeoutExpired:
            return "it waits"
        changed = {path for path in before.keys() | state(folder).keys() if before.get(path) != state(folder).get(path)}
        if changed:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            copy(pathlib.Path(kept), folder)
            return f"exit code {finished.returncode}, not what they were: {changed}"
    if finished.returncode != 2:
        return f"exit code {finished.returncode}: {finished.stderr!r}"
    return "" if finished.stderr.count("\n") == 1 and finished.stderr.startswith(f"{name}: error: ") else finished.stderr


def test_outputs_that_are_refused(folder: pathlib.Path) -> list[str]:
    traps = {suffix: write_traps(folder, suffix) for suffix in {use.suffix for use in USES}}
    return failures_of(
        (f"{use.program} {use.arguments} onto {output[:20]}", refusal(use.command(output) + use.overwrite, folder))
        for use in PROGRAM_USES
        for output in traps[use.suffix]
    )


def test_outputs_that_are_inputs(folder: pathlib.Path) -> list[str]:
    wrong = []
    for use in USES:
        inputs = [name for name in use.inputs + use.also_read if name.endswith(use.suffix) or use.suffix == ".h5"]
        link, hard = "link" + use.suffix, "hard" + use.suffix
        for name, way in in_turn(inputs, [hard, link, "./{}", f"{folder}/{{}}", "{}"]):
            (folder / link).symlink_to(name)
            (folder / hard).hardlink_to(folder / name)
            output = way.format(name)
            words = use.command(output) + use.overwrite
            wrong.append((f"{use.program} {use.arguments} --output {name} as {output}", refusal(words, folder)))
            (folder / link).unlink()
            (folder / hard).unlink()
    numbers = Use("hessian_mpi", ["model.pt", "data.h5", "weights"], NUMBERED_LOSS)
    (folder / "weights").write_text("1,1,1\n")
    wrong.append(("--loss-option", refusal(numbers.command("weights") + ["--overwrite"], folder)))
    return failures_of(wrong)


def test_inputs_that_are_no_regular_files(folder: pathlib.Path) -> list[str]:
    write_traps(folder, ".h5")
    wrong = []
    for use in [*USES, Use("hessian_info", ["h.h5"], ["{0}"], output=[])]:
        for name, trap in in_turn(use.inputs, ["fifo.h5", "folder.h5", "to_fifo.h5", "to_itself.h5", 300 * "n"]):
            inputs = [trap if given == name else given for given in use.inputs]
            words = use.command("new" + use.suffix if use.program != "hessian_info" else "", inputs)
            wrong.append((f"{use.program} {use.arguments}: {trap[:20]} for {name}", refusal(words, folder)))
    for output in ("fifo.h5", "to_fifo.h5", "folder.h5", 300 * "n", "model.pt"):
        words = HESSIAN_MPI.command(output) + ["--resume"]
        wrong.append((f"--resume --output {output[:20]}", refusal(words, folder)))
    return failures_of(wrong)


def test_symlinks_are_followed(folder: pathlib.Path) -> list[str]:
    """Also onto another file system; the link stays, and nothing beside it or what it points to."""
    wrong = []
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as elsewhere:
        for use in USES:
            link, target = folder / ("link" + use.suffix), pathlib.Path(elsewhere, "target" + use.suffix)
            between = folder / ("between" + use.suffix)
            between.symlink_to(target)
            link.symlink_to(between.name)
            before = state(folder)
            for old in (None, b"old"):
                if old:
                    target.write_bytes(old)
                    if use.overwrite:
                        wrong.append((f"{use.program} without --overwrite", refusal(use.command(link.name), folder)))
                        wrong.append((f"{use.program}: the old file", "" if target.read_bytes() == old else "it is lost"))
                finished = run(use.command(link.name) + (use.overwrite if old else []), folder)
                name = f"{use.program} {use.arguments} onto {old}"
                wrong.append((name, "" if finished.returncode == 0 else finished.stderr))
                wrong.append((name, "" if state(folder) == before else "the link is not what it was"))
                made = target.exists() and target.read_bytes()[:8] in (b"\x89HDF\r\n\x1a\n", b"\x89PNG\r\n\x1a\n")
                wrong.append((name, "" if made else "nothing was written to what it points to"))
                left = [path.name for path in pathlib.Path(elsewhere).iterdir()]
                wrong.append((name, "" if left == [target.name] else f"there are {left}"))
                target.unlink(missing_ok=True)
            for path in (link, between):
                path.unlink(missing_ok=True)
    return failures_of(wrong)


def test_standard_output_that_is_full(folder: pathlib.Path) -> list[str]:
    wrong = []
    commands = [use.command("new" + use.suffix) + use.overwrite for use in USES]
    commands += [[str(PROGRAMS / "hessian_info"), "h.h5"], [str(PROGRAMS / "hessian_info"), "h.h5", "--json"]]
    commands += [[program, word] for program in {command[0] for command in commands} for word in ("--help", "--version")]
    for command in commands:
        with open("/dev/full", "w") as full:
            finished = run(command, folder, stdout=full)
        errors = [line for line in finished.stderr.splitlines() if "rows/s" not in line]  # beside progress
        good = finished.returncode == 1 and len(errors) == 1 and "error: standard output" in errors[0]
        wrong.append((" ".join(command), "" if good else f"exit code {finished.returncode}: {finished.stderr!r}"))
    return failures_of(wrong)


def test_more_ranks_than_rows(folder: pathlib.Path) -> list[str]:
    fabricated_file.write(folder / "one.h5", np.array([[2.0]]), np.ones(1), shapes={"weight": (1,)})
    wrong = []
    commands = {
        "hessian_spectrum": [[], ["--vectors"], ["--largest", "1"], ["--smallest", "1", "--density"]],
        "hessian_solve": [[], ["--method", "dense"], ["--method", "minres"], ["--method", "cg"]],
        "hessian_multiply": [["--gradient"]],
        "hessian_info": [["--norms", "--verify"]],
    }
    for name, several in commands.items():
        for arguments in several if (PROGRAMS / name).exists() else []:
            output = [] if name == "hessian_info" else ["--overwrite"]
            finished = run([*LAUNCH, "-n", "4", str(PROGRAMS / name), "one.h5", *arguments, *output], folder)
            refused = finished.returncode == 2 and finished.stderr.count("error: ") == 1 and "too small" in finished.stderr
            good = (finished.returncode == 0 or refused) and "MPI_ABORT" not in finished.stderr
            wrong.append((f"{name} {arguments}", "" if good else f"exit code {finished.returncode}: {finished.stderr!r}"))
    return failures_of(wrong)


def change(path: pathlib.Path) -> None:
    """Another file of the same kind."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            name = next(name for name in ("gradient", "inputs", "v") if name in file)
            file[name][...] = file[name][...] + 1
    elif path.suffix == ".npy":
        np.save(path, np.arange(N) + 1.0)
    else:
        path.write_bytes(path.read_bytes() + b"\n")


def test_ranks_in_different_folders(folder: pathlib.Path) -> list[str]:
    """Other files under one name are refused; copies in another folder are not, where the output is one."""
    wrong = []
    with tempfile.TemporaryDirectory() as other_folder:
        there = pathlib.Path(other_folder).resolve()

        def on_two_ranks(words: list[str]) -> subprocess.CompletedProcess:
            return run([*LAUNCH, "-n", "1", "-wdir", str(folder), *words, ":", "-n", "1", "-wdir", str(there), *words], folder)

        parallel = {use.program: use for use in PROGRAM_USES if use.program not in ("hessian_join", "hessian_plot")}
        for use in [*parallel.values(), Use("hessian_info", ["h.h5"], ["{0}", "--verify"], output=[])]:
            output = "" if use.program == "hessian_info" else "new.h5"
            for changed in [*use.inputs, output]:
                copy(folder, there)
                if changed not in ("new.h5", ""):
                    change(there / changed)
                before = state(folder), state(there)
                finished = on_two_ranks(use.command(output))
                host = os.uname().nodename
                told = [f"rank 1 on {host}", f"rank 0 on {host}", f"'{folder}'", f"'{there}'", f"'{changed}"]
                good = finished.returncode == 2 and all(words in finished.stderr for words in told)
                if not changed:
                    good = finished.returncode == 0
                unchanged = (state(folder), state(there)) == before
                wrong.append((f"{use.program}: {changed}", "" if good and unchanged else f"{unchanged}, {finished}"))
        with tempfile.TemporaryDirectory() as third:
            finished = on_two_ranks(parallel["hessian_convert"].command(f"{third}/new.h5"))
            wrong.append(("onto one output", "" if finished.returncode == 0 else finished.stderr))
    return failures_of(wrong)


def main() -> int:
    failures = []
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            with tempfile.TemporaryDirectory() as folder:
                write_inputs(pathlib.Path(folder))
                found = test(pathlib.Path(folder).resolve())
            print(name, "failed" if found else "passed", *found, sep="\n  ", flush=True)
            failures += found
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
