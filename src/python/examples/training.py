"""The Hessian's spectrum over a training: ten checkpoints of a small network on handwritten digits, the whole Hessian at
each, its eigenvalues, and one picture of them all. On a cluster, where each checkpoint is a job of its own: see
src/after/README.md, "Pictures of a training".

usage: training.py [FOLDER [CHECKPOINTS]]
"""

import pathlib
import shutil
import subprocess
import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import hessian_mpi


def main(folder: str, checkpoints: int = 10) -> None:
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.from_numpy(digits.images[:500, None] / 16).double(), torch.from_numpy(digits.target[:500])
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 10)
    net = nn.Sequential(nn.AvgPool2d(2), *layers).double()
    optimizer = torch.optim.SGD(net.parameters(), 0.2, momentum=0.9)
    wanted = {round(2 ** (9 * k / (checkpoints - 1))) - 1 for k in range(checkpoints)}  # 0, 1, 3, 7, ... 511

    for step in range(max(wanted) + 1):
        if step in wanted:
            hessian_at(net, (x, y), pathlib.Path(folder), step)
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

    matrices = [pathlib.Path(folder, f"step-{step}.h5") for step in sorted(wanted)]
    run("hessian_plot", *matrices, "--spectrum", "--norms", "--output", pathlib.Path(folder, "training.png"))


def hessian_at(net: nn.Module, data: tuple[torch.Tensor, torch.Tensor], folder: pathlib.Path, step: int) -> None:
    """FOLDER/step-STEP.h5, and its eigenvalues beside it."""
    job, matrix = folder / f"job-{step}", folder / f"step-{step}.h5"
    hessian_mpi.hessian(net, data, folder=job, ranks=2, overwrite=True).close()
    (job / "hessian.h5").rename(matrix)
    run("hessian_spectrum", matrix, "--overwrite")


def run(program: str, *arguments: str | pathlib.Path) -> None:
    path = shutil.which(program) or program
    python = [sys.executable] if program == "hessian_plot" else []  # the one that has matplotlib
    subprocess.run([*python, path, *arguments], check=True)


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["training_job"]), *map(int, sys.argv[2:]))
