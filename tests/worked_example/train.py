#!/usr/bin/env python3
"""Trains a small convolutional network on scikit-learn's digits (1,797 images of 8 x 8) to a minimum, and exports it.

usage: train.py FOLDER [--l2 LAMBDA] [--gradient G] [--channels FIRST SECOND] [--samples S]

The loss is the mean cross-entropy of all images plus LAMBDA / 2 times the sum of squares of all parameters, so that there is
a minimum. L-BFGS with full batches in float64, until no entry of the gradient is above G. FOLDER gets digits.pt2 and
digits.h5, as hessian_mpi takes them.
"""

import argparse
import collections
import pathlib

import h5py
import numpy as np
import scipy.optimize
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters


def network(first: int, second: int) -> nn.Module:
    """Smooth, so that it has second derivatives everywhere."""
    return nn.Sequential(collections.OrderedDict(
        conv1=nn.Conv2d(1, first, 3, stride=2, padding=1), smooth1=nn.SiLU(),
        conv2=nn.Conv2d(first, second, 3, padding=1), smooth2=nn.SiLU(),
        flat=nn.Flatten(), fc=nn.Linear(second * 4 * 4, 10)))


def train(net: nn.Module, x: torch.Tensor, y: torch.Tensor, l2: float, largest_gradient: float) -> None:
    parameters = list(net.parameters())

    def loss_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        vector_to_parameters(torch.from_numpy(theta.copy()), parameters)
        loss = F.cross_entropy(net(x), y) + l2 / 2 * sum(p.square().sum() for p in parameters)
        gradient = torch.autograd.grad(loss, parameters)
        return loss.item(), parameters_to_vector(gradient).numpy()

    start = parameters_to_vector(parameters).detach().numpy().copy()
    found = scipy.optimize.minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B",
                                    options=dict(maxcor=100, maxiter=10_000, maxfun=20_000, ftol=0, gtol=largest_gradient))
    loss, gradient = loss_and_gradient(found.x)
    for p in parameters:
        p.data = p.data.clone()  # not a part of one vector, which would be exported whole
    right = (net(x).argmax(dim=1) == y).double().mean()
    print(f"N = {len(start)}, loss {loss:.6f}, gradient norm {np.linalg.norm(gradient):.1e} after {found.nit} steps, "
          f"{100 * right:.2f} % of the images right")


def export(net: nn.Module, x: torch.Tensor, y: torch.Tensor, folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    any_number = {0: torch.export.Dim("batch")}
    torch.export.save(torch.export.export(net.eval(), (x[:2].clone(),), dynamic_shapes=(any_number,)), folder / "digits.pt2")
    with h5py.File(folder / "digits.h5", "w") as file:
        file["inputs"], file["targets"] = x.numpy(), y.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--l2", type=float, default=1e-3, metavar="LAMBDA")
    parser.add_argument("--gradient", type=float, default=1e-8, metavar="G")
    parser.add_argument("--channels", type=int, nargs=2, default=(4, 16), metavar=("FIRST", "SECOND"))
    parser.add_argument("--samples", type=int, metavar="S", help="only the first S images")
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    digits = load_digits()
    x = torch.from_numpy(digits.images[: options.samples, None] / 16)
    y = torch.from_numpy(digits.target[: options.samples]).long()
    net = network(*options.channels)
    train(net, x, y, options.l2, options.gradient)
    export(net, x, y, options.folder)


if __name__ == "__main__":
    main()
