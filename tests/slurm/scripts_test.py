#!/usr/bin/env python3
"""Submits the scripts of slurm/ to a real Slurm and compares what they make with a run that nothing interrupted.

usage: scripts_test.py CASE CLUSTER NETWORK PROGRAM JOIN_PROGRAM

CASE:    one_node, many_nodes, requeue, array, checkpoints or node_failure
CLUSTER: the link that `cluster.sh start` has made: four nodes of two CPUs each, all on this machine
NETWORK: the folder that slow_network.py has filled

Exit code 77: there is no cluster, since Slurm is not installed or this is not root.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Callable, Iterator

import h5py
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = HERE.parent.parent / "slurm"
SKIPPED = 77
PATIENCE = 180  # seconds for a job to get anywhere, on a machine that others use as well

# The test reads marks in a file that a job is writing.
os.environ["HDF5_USE_FILE_LOCKING"] = "FALSE"

# What a user of a real cluster has no need of: to be root, ranks on more cores than there are, and nodes that are all one
# machine, whose ranks Open MPI would otherwise let meet in shared memory.
FOR_THIS_MACHINE = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_btl": "tcp,self",
    "OMPI_MCA_btl_tcp_if_include": "lo",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}


def wait_for(what: str, happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, f"in {PATIENCE} s did not happen: {what}"
        time.sleep(0.1)


def marked_blocks(path: pathlib.Path) -> int:
    """How many blocks a file that is being written says are on the disk."""
    try:
        with h5py.File(path) as file:
            return int(np.count_nonzero(file["blocks/mark"][:]))
    except (OSError, KeyError):  # not there yet
        return 0


class Job:
    def __init__(self, id: str):
        self.id = id

    def properties(self) -> dict[str, str]:
        shown = subprocess.run(["scontrol", "-o", "show", "job", self.id], check=True, capture_output=True, text=True)
        return dict(word.split("=", 1) for word in shown.stdout.splitlines()[0].split() if "=" in word)

    def state(self) -> str:
        return self.properties()["JobState"]

    def restarts(self) -> int:
        return int(self.properties()["Restarts"])

    def has_ended(self) -> bool:
        return self.state() in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE")

    def send_usr1(self) -> None:
        """As sbatch's --signal=B:USR1@... does when the time is nearly up."""
        subprocess.run(["scancel", "--signal=USR1", "--batch", self.id], check=True)

    def expect(self, state: str, exit_code: int = 0, restarts: int = 0) -> None:
        wait_for(f"job {self.id} ends", self.has_ended)
        found = self.properties()
        assert found["JobState"] == state, (self.id, found["JobState"], found["ExitCode"])
        assert found["ExitCode"] == f"{exit_code}:0", (self.id, found["ExitCode"])
        assert int(found["Restarts"]) == restarts, (self.id, found["Restarts"])


class Place:
    """The folder that a user calls sbatch in, with a built program where the scripts look for it."""

    def __init__(self, folder: pathlib.Path, network: pathlib.Path, program: str, join_program: str):
        self.folder = folder
        self.network = network
        built = folder / "build" / "src"
        built.mkdir(parents=True)
        (built / "hessian_mpi").symlink_to(program)
        (built / "hessian_join").symlink_to(join_program)

    def submit(self, script: str, sbatch: list[str], *options: str) -> Job:
        command = ["sbatch", "--parsable", "--time=20", *sbatch, SCRIPTS / script, *options]
        return Job(subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())

    def submit_network(self, script: str, sbatch: list[str], *options: str) -> Job:
        inputs = ["--model", self.network / "model.pt2", "--data", self.network / "data.h5", "--progress", "plain"]
        return self.submit(script, sbatch, *inputs, *options)

    def wait_for_marks(self, name: str = "hessian.h5", beyond: int = 0) -> int:
        wait_for(f"blocks of {name} are marked", lambda: marked_blocks(self.folder / name) > beyond)
        return marked_blocks(self.folder / name)

    def log(self) -> str:
        return "".join(log.read_text() for log in sorted(self.folder.glob("*.log")))

    def expect_hessian(self, resumed_from: int = 0) -> None:
        """Bitwise that of the uninterrupted run; its last run took over at least so many blocks of earlier ones."""
        with h5py.File(self.folder / "hessian.h5") as file, h5py.File(self.network / "reference.h5") as reference:
            assert file.attrs["complete"] == 1
            assert file["hessian"][:].tobytes() == reference["hessian"][:].tobytes()
            if resumed_from > 0:
                assert file.attrs["blocks_resumed"] >= resumed_from, (file.attrs["blocks_resumed"], resumed_from)


# --- the scripts --------------------------------------------------------------------------------------------------------


def one_node(place: Place) -> None:
    """Stopped by USR1, the job leaves with 75; the same line and --resume go on."""
    ranks = [f"--ntasks={min(2, len(os.sched_getaffinity(0)))}"]
    job = place.submit_network("one_node.sbatch", ranks)
    marks = place.wait_for_marks()
    job.send_usr1()
    job.expect("FAILED", exit_code=75)
    place.submit_network("one_node.sbatch", ranks, "--resume").expect("COMPLETED")
    place.expect_hessian(resumed_from=marks)


def many_nodes(place: Place) -> None:
    """The same over three nodes, where srun passes signals and exit codes on."""
    ranks = ["--nodes=3", "--ntasks-per-node=1"]
    job = place.submit_network("many_nodes.sbatch", ranks)
    marks = place.wait_for_marks()
    job.send_usr1()
    job.expect("FAILED", exit_code=75)
    place.submit_network("many_nodes.sbatch", ranks, "--resume").expect("COMPLETED")
    assert "on 3 ranks" in place.log()
    place.expect_hessian(resumed_from=marks)


def requeue(place: Place) -> None:
    job = place.submit_network("requeue.sbatch", ["--nodes=1", "--ntasks-per-node=2"])
    marks = place.wait_for_marks()
    job.send_usr1()
    job.expect("COMPLETED", restarts=1)
    assert "stopped by SIGUSR1" in place.log()
    place.expect_hessian(resumed_from=marks)

    again = place.submit_network("requeue.sbatch", ["--nodes=1", "--ntasks-per-node=2"])
    again.expect("COMPLETED")
    place.expect_hessian()

    cancelled = place.submit_network("requeue.sbatch", ["--nodes=1", "--ntasks-per-node=2"], "--output", "other.h5")
    place.wait_for_marks("other.h5")
    subprocess.run(["scancel", cancelled.id], check=True)
    wait_for("a cancelled job ends", cancelled.has_ended)
    time.sleep(2)
    assert cancelled.state() == "CANCELLED" and cancelled.restarts() == 0


def array(place: Place) -> None:
    """Three tasks and the join. The last task, whose own id is that of the whole array, is stopped once."""
    tasks = place.submit_network("array.sbatch", ["--array=0-2", "--ntasks=1"])
    join = place.submit("join.sbatch", [f"--dependency=afterok:{tasks.id}"])
    place.wait_for_marks("hessian.part-2.h5")
    Job(f"{tasks.id}_2").send_usr1()
    join.expect("COMPLETED")
    for task in (0, 1, 2):
        Job(f"{tasks.id}_{task}").expect("COMPLETED", restarts=int(task == 2))
    with h5py.File(place.folder / "hessian.part-2.h5") as part:
        assert part.attrs["blocks_resumed"] > 0
    place.expect_hessian()


def checkpoints(place: Place) -> None:
    """A task for each of two checkpoints, of one parameter's rows."""
    import torch  # by others not needed

    state = torch.export.load(place.network / "model.pt2").state_dict
    for name, scale in ("half", 0.5), ("twice", 2.0):
        torch.save({k: v * scale for k, v in state.items()}, place.folder / f"{name}.pt")
    inputs = ["--model", place.network / "model.pt2", "--data", place.network / "data.h5", "--parameters", "4.bias"]
    tasks = place.submit("checkpoints.sbatch", ["--array=0-1", "--ntasks=1"], "half.pt", "twice.pt", "--", *inputs)
    for task, (name, scale) in enumerate([("half", 0.5), ("twice", 2.0)]):
        Job(f"{tasks.id}_{task}").expect("COMPLETED")
        with h5py.File(place.folder / f"{name}.h5") as file:
            assert file.attrs["complete"] == 1 and file.attrs["values"] == f"{name}.pt"
            assert np.array_equal(file["parameters/value"][:], scale * state["4.bias"].detach().numpy())


def node_failure(place: Place) -> None:
    """The ranks on a node of three die and Slurm finds it down: it requeues the job, on the node that was spare."""
    job = place.submit_network("requeue.sbatch", ["--nodes=3", "--ntasks-per-node=1"])
    marks = place.wait_for_marks()
    nodes = subprocess.run(
        ["scontrol", "show", "hostnames", job.properties()["NodeList"]], check=True, capture_output=True, text=True
    ).stdout.split()
    failing = nodes[-1]
    for rank in ranks_on(failing, job):
        os.kill(rank, signal.SIGKILL)
    set_node(failing, "State=DOWN", "Reason=test")
    try:
        job.expect("COMPLETED", restarts=1)
    finally:
        set_node(failing, "State=RESUME")
    assert "DUE TO NODE FAILURE" in place.log()
    assert "stopped by" not in place.log()
    place.expect_hessian(resumed_from=marks)


def ranks_on(node: str, job: Job) -> list[int]:
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes().split(b"\0")
            is_rank = (process / "comm").read_text() == "hessian_mpi\n"
            if is_rank and {f"SLURM_JOB_ID={job.id}".encode(), f"SLURMD_NODENAME={node}".encode()} <= set(environment):
                found.append(int(process.name))
    assert found, f"no ranks of job {job.id} on {node}"
    return found


def set_node(name: str, *changes: str) -> None:
    subprocess.run(["scontrol", "update", f"NodeName={name}", *changes], check=True)


CASES = {case.__name__: case for case in (one_node, many_nodes, requeue, array, checkpoints, node_failure)}


@contextlib.contextmanager
def told_on_failure(place: Place, cluster: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        print(place.log(), flush=True)
        subprocess.run(["squeue"])
        subprocess.run(["tail", "-n", "40", cluster / "slurmctld.log"])
        raise


def require_cluster(cluster: pathlib.Path) -> None:
    if (cluster / "slurm.conf").exists():
        return
    asked = subprocess.run([HERE / "cluster.sh", "require"])
    sys.exit(asked.returncode or f"no cluster at {cluster}: cluster.sh start {cluster}")


def main(arguments: list[str]) -> None:
    case, cluster, network, program, join_program = arguments
    cluster = pathlib.Path(cluster)
    require_cluster(cluster)
    os.environ.update(FOR_THIS_MACHINE, SLURM_CONF=str(cluster.resolve() / "slurm.conf"))
    with tempfile.TemporaryDirectory(prefix="hessian_mpi_test_") as folder:
        place = Place(pathlib.Path(folder), pathlib.Path(network), program, join_program)
        with told_on_failure(place, cluster):
            CASES[case](place)


if __name__ == "__main__":
    main(sys.argv[1:])
