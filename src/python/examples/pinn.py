"""A physics-informed network for the heat equation u_t = u_xx / 10 on 0 < x < 1, with u = sin(pi x) at t = 0 and u = 0 at both
ends: the loss has derivatives by the inputs. Prints the spectrum of its Hessian."""

import sys

import numpy as np
import torch
from torch import Tensor, nn

import hessian_mpi


def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    at = batch["interior"].requires_grad_()
    first, = torch.autograd.grad(model(at).sum(), at, create_graph=True)
    second, = torch.autograd.grad(first[:, 0].sum(), at, create_graph=True)
    residual = first[:, 1] - second[:, 0] / 10
    start = model(batch["start"])[:, 0] - torch.sin(torch.pi * batch["start"][:, 0])
    return residual.square().mean() + start.square().mean() + model(batch["ends"]).square().mean()


def points() -> dict[str, Tensor]:
    interior, start, ends = torch.rand(60, 2), torch.rand(20, 2), torch.rand(16, 2)
    start[:, 1] = 0
    ends[:, 0] = ends[:, 0].round()
    return {"interior": interior, "start": start, "ends": ends}


def main(folder: str) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    net = nn.Sequential(nn.Linear(2, 10), nn.Tanh(), nn.Linear(10, 1))
    batch = points()
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(net, batch)
        value.backward()
        return value

    optimizer.step(closure)
    H = hessian_mpi.hessian(net, batch, loss=loss, folder=folder, ranks=2)

    eigenvalues = np.linalg.eigvalsh(np.asarray(H))
    print("smallest eigenvalues", eigenvalues[:4])
    print("largest eigenvalues ", eigenvalues[-4:])


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["pinn_job"]))
