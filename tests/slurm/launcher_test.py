"""Which launcher the scripts choose for ranks on several nodes, played by stub commands.

    launcher_test.py SCRIPT..."""
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
STUBS = {
    "srun": 'if [[ $1 == --mpi=list ]]; then echo "$OFFERED" >&2; else echo "started by srun $*"; fi',
    "mpirun": 'if [[ $1 == --version ]]; then echo "$MPI"; else echo "started by mpirun $*"; fi',
    "squeue": "echo 1:00",
}

with tempfile.TemporaryDirectory(prefix="hessian_mpi_test_") as folder:
    for name, body in STUBS.items():
        (pathlib.Path(folder) / name).write_text(f"#!/bin/bash\n{body}\n")
        (pathlib.Path(folder) / name).chmod(0o755)
    for script in sys.argv[1:]:
        for offered, mpi, launcher in CASES:
            environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "OFFERED": "MPI plugin types are...\n" + offered,
                                        "MPI": mpi, "SLURM_JOB_ID": "1", "SLURM_NTASKS": "6"}
            run = subprocess.run(["bash", script, "--model", "net.pt2"], env=environment, capture_output=True, text=True)
            assert run.returncode == 0 and run.stdout.startswith(f"started by {launcher} "), (script, offered, mpi, run)
            assert run.stdout.endswith(" --model net.pt2\n"), run.stdout
