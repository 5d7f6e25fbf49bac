"""setup.sh on a machine that is played by scripts: what apt-get has installed, cmake finds when it configures.

    setup_test.py FOLDER"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

TREE = pathlib.Path(sys.argv[1])

# Each tells ../log how it was called.
COMMANDS = {
    "apt-get": """
if [[ -e no_solvers && $* == *slepc* ]]; then exit 100; fi
for word in "${@:2}"; do if [[ $word != -* ]]; then echo "installed $word" >>installed; fi; done""",
    "dpkg-query": "cat installed",
    "sudo": """while [[ $1 == -* ]]; do shift; done; exec "$@" """,
    "python3": """if [[ $2 == venv ]]; then mkdir -p .deps/python/bin; cp "$0" .deps/python/bin/python; fi
if [[ $2 == *torch* && -e no_torch ]]; then exit 1; fi""",
    "cmake": """
folder=build
if [[ $2 == debug ]]; then folder=build-debug; fi
if [[ $1 == --preset ]]; then
  if [[ -e no_mpi ]]; then exit 1; fi
  mkdir -p $folder
  echo hessian_mpi >$folder/build.ninja
  if grep -q slepc-dev installed; then echo hessian_spectrum >>$folder/build.ninja; fi
else
  shift; while [[ $1 != --target ]]; do shift; done; shift
  for target; do grep -qx "$target" $folder/build.ninja || { echo "unknown target $target"; exit 1; } >&2; done
  for k in 1 2 3; do echo "${NINJA_STATUS//%f/$k}Building CXX object src/base/$k.o" | sed 's/%t/3/; s/%e/1.5/'; done
fi""",
    "ninja": """for k in 1 2 3; do echo "[$k/3] Building CXX object src/base/$k.o"; done""",
    "mpirun": "", "h5dump": "", "c++": "echo 12", "ccache": "",
}


class Machine:
    def __init__(self, folder):
        self.folder = folder
        for name in "setup.sh", "CMakePresets.json":
            shutil.copy(TREE / name, folder)
        self.write("tests/worked_example/run.sh", "#!/bin/bash\n")
        for name, body in COMMANDS.items():
            self.write(f"bin/{name}", f'#!/bin/bash\necho "{name} $*" >>{folder}/log\n{body}\n')
        (folder / "installed").touch()

    def write(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def setup(self, *words, exit_code=0, **variables):
        """What it called, and what it said."""
        (self.folder / "log").write_text("")
        environment = {"PATH": f"{self.folder}/bin:/usr/bin:/bin", "HOME": str(self.folder), **variables}
        run = subprocess.run([self.folder / "setup.sh", *words], cwd=self.folder, env=environment, capture_output=True, text=True)
        assert run.returncode == exit_code, f"{words}: exit code {run.returncode}\n{run.stdout}{run.stderr}"
        return (self.folder / "log").read_text(), run.stderr


def solvers_that_come_later_are_built(machine):
    calls, said = machine.setup("run")
    assert "slepc-dev" not in calls and "--target hessian_mpi\n" in calls, calls
    assert "build: 3 steps, about" in said and "build: 3 of 3 steps in 2 s, about 0 s left" in said, said
    assert "#" not in said, said
    calls, _ = machine.setup("digits")
    assert "slepc-dev" in calls and "--target hessian_mpi hessian_spectrum\n" in calls, calls
    assert "--fresh" not in calls, calls


def what_is_left_out_is_said(machine):
    (machine.folder / "no_solvers").touch()
    for _ in range(2):
        _, said = machine.setup("digits", exit_code=1)
        assert "left out: hessian_spectrum" in said and "unknown target hessian_spectrum" in said, said


def a_failure_is_not_kept(machine):
    (machine.folder / "no_mpi").touch()
    machine.setup("run", exit_code=1)
    (machine.folder / "no_mpi").unlink()
    calls, _ = machine.setup("run")
    assert "--fresh" in calls, calls
    calls, _ = machine.setup("run")
    assert "--fresh" not in calls and "apt-get" not in calls and "pip" not in calls.replace("import pip", ""), calls


def a_build_that_fails_is_a_failure(machine):
    machine.write("bin/ninja", "#!/bin/bash\necho broken >&2; exit 1\n")
    calls, said = machine.setup("run", exit_code=1)
    assert "mpirun" not in calls and "broken" in said, (calls, said)


def the_torch_of_an_active_environment_is_taken(machine):
    environment = {"VIRTUAL_ENV": str(machine.folder / "venv")}
    calls, _ = machine.setup("run", **environment)
    assert "pip install" not in calls and "CMAKE_PREFIX_PATH" not in calls, calls
    (machine.folder / "no_torch").touch()
    calls, _ = machine.setup("run", **environment)
    assert "pip install torch" in calls and "CMAKE_PREFIX_PATH" in calls, calls


def help_is_complete(machine):
    modes = TREE.joinpath("setup.sh").read_text().split("case ${1:-} in\n")[1].split(")")[0].replace("|", " ").split()
    calls, _ = machine.setup("--help")
    assert not calls and len(modes) > 3, (calls, modes)
    shown = subprocess.run([machine.folder / "setup.sh", "--help"], check=True, capture_output=True, text=True).stdout
    install = (TREE / "src/INSTALL.md").read_text()
    for mode in modes:
        assert f"./setup.sh {mode}" in shown and f"`{mode}`" in install.replace("./setup.sh ", ""), mode
    machine.setup("bild", exit_code=2)


for case in (solvers_that_come_later_are_built, what_is_left_out_is_said, a_failure_is_not_kept,
             a_build_that_fails_is_a_failure, the_torch_of_an_active_environment_is_taken, help_is_complete):
    with tempfile.TemporaryDirectory(prefix="hessian_mpi_test_") as folder:
        case(Machine(pathlib.Path(folder)))
    print("ok:", case.__name__)
