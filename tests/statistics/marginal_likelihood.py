#!/usr/bin/env python3
"""Laplace's approximation of the marginal likelihood of a small network, for some precisions of a Gaussian prior, beside
the same in plain PyTorch: with the Hessian, and with the generalised Gauss-Newton matrix.

usage: marginal_likelihood.py FOLDER_OF_PROGRAMS MPIRUN...

With n samples, d parameters, a prior of precision p and the mean L of the loss, which is minus the logarithm of a sample's
likelihood: log p(D) = -n L - p/2 |theta|^2 + d/2 log p - 1/2 log det(n H + p I). --scale is n, --damping p.
"""

import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import torch
from torch.func import functional_call, jacrev, hessian, vmap
from torch.nn import functional as F

SAMPLES = 60
PRECISIONS = (0.3, 3.0)
TRAINED_WITH = 0.3


def trained(x: torch.Tensor, y: torch.Tensor) -> torch.nn.Module:
    """To the maximum of the posterior with a precision of TRAINED_WITH."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    optimiser = torch.optim.LBFGS(net.parameters(), max_iter=2000, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        squares = sum(p.square().sum() for p in net.parameters())
        loss = F.cross_entropy(net(x), y, reduction="sum") + TRAINED_WITH / 2 * squares
        loss.backward()
        return loss

    optimiser.step(closure)
    return net


def matrices(net: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the sum over samples."""
    shapes = {name: p.shape for name, p in net.named_parameters()}
    theta = torch.cat([p.detach().reshape(-1) for p in net.parameters()])

    def outputs(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        parts = torch.split(theta, [shape.numel() for shape in shapes.values()])
        return functional_call(net, {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts)}, (x,))

    exact = hessian(lambda theta: F.cross_entropy(outputs(theta, x), y, reduction="sum"))(theta)
    jacobian = jacrev(outputs)(theta, x)
    p = outputs(theta, x).softmax(dim=1)
    of_outputs = vmap(torch.diag)(p) - p[:, :, None] * p[:, None, :]
    return {"hessian": exact, "ggn": torch.einsum("sia,sij,sjb->ab", jacobian, of_outputs, jacobian)}


def main(programs: str, mpirun: list[str]) -> None:
    torch.manual_seed(2)
    torch.set_default_dtype(torch.float64)
    x = torch.randn(SAMPLES, 2)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    net = trained(x, y)
    theta = torch.cat([p.detach().reshape(-1) for p in net.parameters()])
    loss = F.cross_entropy(net(x), y).item()

    def evidence(log_determinant: float, precision: float) -> float:
        prior = len(theta) / 2 * np.log(precision) - precision / 2 * theta.square().sum().item()
        return -SAMPLES * loss + prior - log_determinant / 2

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        any_number = {0: torch.export.Dim("batch")}
        torch.export.save(torch.export.export(net, (x[:2].clone(),), dynamic_shapes=(any_number,)), folder / "net.pt2")
        with h5py.File(folder / "data.h5", "w") as file:
            file["inputs"], file["targets"] = x.numpy(), y.numpy()

        def run(program: str, *arguments: str) -> None:
            subprocess.run([*mpirun, "-n", "2", f"{programs}/{program}", *arguments], cwd=folder, check=True)

        for kind, expected in matrices(net, x, y).items():
            run("hessian_mpi", "--model", "net.pt2", "--data", "data.h5", "--matrix", kind, "--output", f"{kind}.h5")
            for precision in PRECISIONS:
                run("hessian_solve", f"{kind}.h5", "--logdet", "--scale", str(SAMPLES), "--damping", str(precision), "--overwrite")
                with h5py.File(folder / f"{kind}.inverse.h5") as file:
                    found = evidence(file.attrs["log_determinant"], precision)
                plain = evidence(torch.linalg.slogdet(expected + precision * torch.eye(len(theta)))[1].item(), precision)
                print(f"{kind}, precision {precision}: log p(D) = {found:.10f}, in plain PyTorch {plain:.10f}")
                np.testing.assert_allclose(found, plain, rtol=1e-10)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
