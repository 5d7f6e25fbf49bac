"""A perceptron on a spiral: the Hessian in one call, a block of it by name, and its eigenvalues."""

import sys

import numpy as np
import torch
from torch import nn

import hessian_mpi


def main(folder: str) -> None:
    torch.manual_seed(0)
    angle = torch.linspace(0, 9, 200)
    y = torch.arange(200) % 2
    x = torch.stack([angle.cos(), angle.sin()], dim=1) * (angle * (2 * y - 1))[:, None]
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))

    H = hessian_mpi.hessian(net, (x, y), loss="cross_entropy", folder=folder, ranks=2)

    print(H["0.weight", "2.bias"][:])
    print("largest eigenvalues", np.linalg.eigvalsh(np.asarray(H))[-3:])


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["mlp_job"]))
