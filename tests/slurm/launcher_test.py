"""Which launcher the scripts choose, and what they make of its exit code after a signal, played by stub commands.

    launcher_test.py FOLDER"""
import os
import pathlib
import subprocess
import sys
import tempfile

OPEN_MPI = "mpirun (Open MPI) 4.1.4"
MPICH = "HYDRA build details:"
CASES = [  # what `srun --mpi=list` and `mpirun --version` say, and what starts the ranks
    ("none pmi2 pmix pmix_v4", OPEN_MPI, "srun --mpi=pmix"),
    ("none pmi2 pmix pmix_v4", MPICH, "srun --mpi=pmi2"),
    ("none pmi2", MPICH, "srun --mpi=pmi2"),
    ("none pmix pmix_v4", MPICH, "srun --mpi=pmix"),
    ("none pmi2", OPEN_MPI, "mpirun -n 6 --map-by slot:PE=1 --bind-to core"),
    ("none cray_shasta", OPEN_MPI, "mpirun -n 6 --map-by slot:PE=1 --bind-to core"),
    ("none", MPICH, "mpirun -n 6 -bind-to core:1"),
]
ON_ONE_NODE = ("array", "checkpoints", "one_node")
ON_SEVERAL = ("many_nodes", "requeue")
REQUEUING = ("array", "checkpoints", "requeue")
STUBS = {
    "srun": 'if [[ $1 == --mpi=list ]]; then echo "$OFFERED" >&2; else echo "started by srun $*"; fi',
    # MPICH's, where a signal came while it ran, may say 0 of ranks that said 75.
    "mpirun": 'if [[ $1 == --version ]]; then echo "$MPI"; exit; fi; echo "started by mpirun $*"; '
              '[[ -z $SIGNALLED ]] || { trap "" USR1; sleep 0.2; kill -USR1 $PPID; sleep 0.2; }',
    "scontrol": 'echo "$*"',
    "squeue": "echo 1:00",
}



def run(script: str, folder: str, offered: str, mpi: str, signalled: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "OFFERED": "MPI plugin types are...\n" + offered,
                                "MPI": mpi, "SIGNALLED": signalled, "SLURM_JOB_ID": "1", "SLURM_NTASKS": "6",
                                "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MAX": "0"}
    options = [*(["values.pt", "--"] if script == "checkpoints" else []), "--model", "net.pt2"]
    command = ["bash", pathlib.Path(sys.argv[1]) / f"{script}.sbatch", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


with tempfile.TemporaryDirectory(prefix="hessian_mpi_test_") as folder:
    for name, body in STUBS.items():
        (pathlib.Path(folder) / name).write_text(f"#!/bin/bash\n{body}\n")
        (pathlib.Path(folder) / name).chmod(0o755)
    for scripts, cases in (ON_SEVERAL, CASES), (ON_ONE_NODE, [case for case in CASES if "mpirun" in case[2]]):
        for script in scripts:
            for offered, mpi, launcher in cases:
                ended = run(script, folder, offered, mpi)
                assert ended.returncode == 0 and ended.stdout.startswith(f"started by {launcher} "), (script, offered, mpi, ended)
                assert ended.stdout.endswith(" --model net.pt2\n"), ended.stdout
    for script in REQUEUING:
        ended = run(script, folder, "none", MPICH, signalled="yes")
        assert ended.returncode == 75 and "\nrequeue 1" in ended.stdout, (script, ended)
