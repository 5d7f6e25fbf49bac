#!/usr/bin/env python3
"""Starts a program as launchers do whose processes MPI does not connect, told by what they leave in the environment.

usage: launchers.py PROGRAM LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks.
"""

import os
import subprocess

from tool import Tool, run_tests

STEP = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4"}


def test_each_of_many_single_processes_is_refused(tool: Tool) -> None:
    for variables in (
        {**STEP, "SLURM_PROCID": "0"},
        {"PMI_SIZE": "4", "PMI_RANK": "0", **STEP, "SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "4"},
        {"MV2_COMM_WORLD_SIZE": "4"},
    ):
        finished = tool.run(1, "--version", variables=variables)
        assert finished.returncode == 2 and finished.stdout == "", (variables, finished)
        error = finished.stderr
        assert error.count("\n") == 1 and ": error: 4 processes were started together" in error, finished
        assert next(iter(variables)) in error and "mpirun" in error, finished
        assert f"srun --mpi={'pmix' if 'Open MPI' in error else 'pmi2'} " in error, finished


def test_all_of_them_say_it_once(tool: Tool) -> None:
    for variables in ({**STEP, "SLURM_PROCID": "3"}, {"PMI_SIZE": "4", "PMI_RANK": "1"}):
        finished = tool.run(1, "--version", variables=variables)
        assert (finished.returncode, finished.stdout, finished.stderr) == (2, "", ""), (variables, finished)


def test_a_task_with_a_terminal_is_refused_and_a_command_typed_beside_it_is_not(tool: Tool) -> None:
    variables = {**os.environ, **STEP, "SLURM_PROCID": "0", "SLURM_PTY_PORT": "43997"}
    for command, code in (('exec "$0" --version', 2), ('"$0" --version; exit $?', 0)):
        shell = ["bash", "-c", f"export SLURM_TASK_PID=$$; {command}", tool.program]
        finished = subprocess.run(shell, env=variables, capture_output=True, text=True, timeout=120)
        assert finished.returncode == code, (command, finished)


def test_what_is_right_goes_through(tool: Tool) -> None:
    batch_script = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4", "SLURM_PROCID": "0"}
    for ranks, variables in (
        (1, {}),
        (1, {**batch_script, "SLURM_TASK_PID": "1"}),
        (1, {**STEP, "SLURM_STEP_NUM_TASKS": "1"}),
        (1, {"PMI_SIZE": "1", **STEP}),
        (1, {"PMI_SIZE": "many"}),
        (2, {**STEP, "PMI_SIZE": "4"}),
    ):
        printed = tool.run(ranks, "--version", variables=variables)
        assert printed.returncode == 0 and printed.stdout.count("HDF5") == 1, (ranks, variables, printed)
    mpirun = [*tool.launch, "-n", "1", tool.program, "--version"]
    alone = subprocess.run(mpirun, env={**os.environ, **STEP}, capture_output=True, text=True, timeout=120)
    assert alone.returncode == 0, alone


if __name__ == "__main__":
    run_tests(globals())
