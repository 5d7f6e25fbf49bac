#!/usr/bin/env python3
"""Makes a job long enough to be interrupted, and the result of a run that was not.

usage: slow_network.py CLUSTER FOLDER LAUNCH...

LAUNCH is the command that starts hessian_mpi. FOLDER will hold model.pt2, data.h5 and reference.h5. Exit code 77, and
nothing done, where `cluster.sh start CLUSTER` has started no cluster: scripts_test.py will have no use for it.
"""

import os
import pathlib
import subprocess
import sys
import warnings

import h5py
import torch
from torch import nn

warnings.filterwarnings("ignore")

SKIPPED = 77
SECONDS = 8  # of processors that the job takes at least, on a machine of any speed, however busy it is
SAMPLES = 2000  # what makes a row slow: as many, or more
WIDTHS = (20, 48, 48, 6)  # N = 3654: a file of 53 MB


class Layer(nn.Linear):
    """A linear layer whose rows stay slow: its weight enters another operation first, so that they are not factored."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight * 1, self.bias * 1)


def write_model_and_data(folder: pathlib.Path, samples: int) -> None:
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in zip(WIDTHS, WIDTHS[1:]):
        layers += [Layer(inputs, outputs), nn.Tanh()]
    network = nn.Sequential(*layers[:-1])
    x, y = torch.randn(samples, WIDTHS[0]), torch.randint(0, WIDTHS[-1], (samples,))
    torch.export.save(torch.export.export(network.eval(), (x,)), folder / "model.pt2")
    with h5py.File(folder / "data.h5", "w") as file:
        file["inputs"], file["targets"] = x.numpy(), y.numpy()


def main(arguments: list[str]) -> None:
    cluster, folder, launch = pathlib.Path(arguments[0]), pathlib.Path(arguments[1]), arguments[2:]
    if not (cluster / "slurm.conf").exists():
        sys.exit(SKIPPED)
    folder.mkdir(parents=True, exist_ok=True)
    inputs = ["--model", folder / "model.pt2", "--data", folder / "data.h5", "--threads", "1"]
    samples, seconds = SAMPLES, 0.0
    while seconds < SECONDS:
        write_model_and_data(folder, samples)
        before = os.times()
        subprocess.run([*launch, *inputs, "--output", folder / "reference.h5", "--overwrite"], check=True)
        after = os.times()
        seconds = after.children_user + after.children_system - before.children_user - before.children_system
        print(f"{samples} samples take {seconds:.1f} s of processors", flush=True)
        samples = int(1.2 * samples * max(1, SECONDS / seconds))


if __name__ == "__main__":
    main(sys.argv[1:])
