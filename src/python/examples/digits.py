"""Handwritten digits from a DataLoader: a loss with a penalty, and batches on the cluster's side as well."""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import hessian_mpi


def main(folder: str) -> None:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.from_numpy(digits.images[:600, None] / 16).float()
    loader = DataLoader(TensorDataset(images, torch.from_numpy(digits.target[:600])), batch_size=100, shuffle=True)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(27, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(10):
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, target) + 0.01 * output.square().mean()

    H = hessian_mpi.hessian(net.eval(), loader, loss=loss, batch_size=100, folder=folder, ranks=2)

    diagonal = H.diagonal()
    for name in H.names:
        print(f"{name}: trace {diagonal[H.slice_of(name)].sum():.4g}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["digits_job"]))
