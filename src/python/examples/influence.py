"""Which training samples a network owes its predictions to: the influence of each on the loss of each test sample, from the
Hessian and gradients of samples, and what training without them makes of it."""

import pathlib
import shutil
import subprocess
import sys

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hessian_mpi

L2 = 1e-3
SAMPLES, TESTS, LEFT_OUT = 100, 20, 25


def two_moons(count: int) -> tuple[Tensor, Tensor]:
    angle, y = torch.rand(count) * torch.pi, torch.arange(count) % 2
    x = torch.stack([angle.cos() + y, (1 - 2 * y) * angle.sin() + 0.5 * y], dim=1)
    return x + 0.25 * torch.randn(count, 2), y


def train(net: nn.Module, x: Tensor, y: Tensor, weights: Tensor) -> None:
    """To the minimum of the weighted mean and the L2 term."""
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=2000, history_size=50, tolerance_grad=1e-9, tolerance_change=1e-14,
                                  line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weights * F.cross_entropy(net(x), y, reduction="none")).mean()
        loss = loss + L2 / 2 * sum(p.square().sum() for p in net.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)


def main(folder: str) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    (x, y), (x_test, y_test) = two_moons(SAMPLES), two_moons(TESTS)
    net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2))
    train(net, x, y, torch.ones(SAMPLES))

    H = hessian_mpi.hessian(net, (x, y), loss="cross_entropy", l2=L2, folder=folder, ranks=2)
    of_training = hessian_mpi.hessian(net, (x, y), loss="cross_entropy", matrix="gradients", folder=f"{folder}/training", ranks=2)
    of_tests = hessian_mpi.hessian(net, (x_test, y_test), loss="cross_entropy", matrix="gradients", folder=f"{folder}/tests", ranks=2)

    # H^-1 times the gradient of each test sample: its rows are the right sides. A network without an L2 term takes --damping.
    solved = pathlib.Path(folder, "solved.h5")
    subprocess.run([shutil.which("hessian_solve"), H.path, "--rhs", of_tests.path, "--damping", "0", "--output", solved], check=True)
    with h5py.File(solved) as file:
        influence = file["solution"][:] @ np.asarray(of_training).T / SAMPLES  # on each test's loss, of leaving out each sample

    def losses() -> Tensor:
        return F.cross_entropy(net(x_test), y_test, reduction="none").detach()

    trained, before = {name: value.clone() for name, value in net.state_dict().items()}, losses()
    left_out = np.linspace(0, SAMPLES - 1, LEFT_OUT).astype(int)
    changes = []
    for sample in left_out:
        net.load_state_dict(trained)
        train(net, x, y, torch.ones(SAMPLES).index_fill(0, torch.tensor(sample), 0))
        changes.append((losses() - before).numpy())
    worst = int(np.argmax(before))
    harmful = int(np.argmin(influence[worst]))
    print(f"test sample {worst} has the largest loss, {before[worst]:.3g}; without training sample {harmful} it would be "
          f"{-influence[worst, harmful]:.3g} less")
    print(f"correlation with training without them: {np.corrcoef(influence[:, left_out].T.ravel(), np.ravel(changes))[0, 1]:.4f}")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["influence_job"]))
