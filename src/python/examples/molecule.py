"""An interatomic potential, energies of pairs by a network of their distance, fitted to Morse's; six atoms in it at rest, and
the Hessian of their energy by their positions: 18 x 18. Of its eigenvalues six are zero, moving and turning all atoms; the
others are the squares of the frequencies of vibrations, in units of the mass."""

import pathlib
import sys

import numpy as np
import torch
from torch import Tensor, nn

import hessian_mpi


class PairPotential(nn.Module):
    """Energy and forces of atoms at positions [n, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 1))

    def energy_of_pairs(self, distances: Tensor) -> Tensor:
        return self.net(distances[:, None])[:, 0]

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        positions.requires_grad_(True)
        pairs = torch.triu_indices(len(positions), len(positions), 1)
        energy = self.energy_of_pairs((positions[pairs[0]] - positions[pairs[1]]).norm(2, dim=1)).sum()
        slope = torch.autograd.grad([energy], [positions], create_graph=True)[0]
        assert slope is not None                                          # for torch.jit.script
        return energy, -slope


class Energy(nn.Module):
    """Of a potential that returns forces too."""

    def __init__(self, potential: nn.Module):
        super().__init__()
        self.potential = potential

    def forward(self, positions: Tensor) -> Tensor:
        energy, _ = self.potential(positions)
        return energy


def fit(potential: PairPotential) -> None:
    distances = torch.linspace(0.6, 3, 200)
    morse = (1 - torch.exp(-2 * (distances - 1))).square() - 1
    optimizer = torch.optim.LBFGS(potential.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        error = (potential.energy_of_pairs(distances) - morse).square().mean()
        error.backward()
        return error

    optimizer.step(closure)


def relaxed(potential: PairPotential, positions: Tensor) -> Tensor:
    """Newton's steps from a place near a minimum; what moves and turns all atoms is left out of them."""
    for _ in range(8):
        _, forces = potential(positions)
        H = torch.autograd.functional.hessian(lambda x: potential(x)[0], positions).reshape(2 * [positions.numel()])
        positions = (positions + (torch.linalg.pinv(H, rtol=1e-6) @ forces.reshape(-1)).reshape(positions.shape)).detach()
    return positions


def main(folder: str) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    potential = PairPotential().eval()
    fit(potential)
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)]) / 2**0.5
    positions = relaxed(potential, octahedron + 0.02 * torch.randn(6, 3))
    print(f"largest force {potential(positions)[1].abs().max():.1e}")

    H = hessian_mpi.hessian(potential, {"positions": positions}, loss=lambda model, batch: model(batch["positions"])[0],
                            with_respect_to="inputs:positions", folder=folder, ranks=2)
    print("eigenvalues", np.linalg.eigvalsh(np.asarray(H)))

    # The same job with TorchScript, which takes forces as they stand in forward().
    torch.jit.script(Energy(potential)).save(pathlib.Path(folder, "scripted.pt"))
    scripted = hessian_mpi.run(folder, ranks=2, model=pathlib.Path(folder, "scripted.pt"), output=pathlib.Path(folder, "scripted.h5"))
    print(f"TorchScript differs by {np.abs(np.asarray(scripted) - np.asarray(H)).max():.1e}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["molecule_job"]))
