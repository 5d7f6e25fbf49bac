#!/usr/bin/env python3
"""Runs the embedded example at its full size and compares sampled rows with PyTorch.

usage: embedded_example.py OUTPUT LAUNCH...

LAUNCH is the command that starts hessian_mpi. OUTPUT, of 2.2 GB, is removed at the end.
"""

import pathlib
import shutil
import subprocess
import sys

import h5py
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SKIPPED = 77
NEEDED_BYTES = 4e9


def derivatives() -> tuple[list[str], list[nn.Parameter], torch.Tensor]:
    """Names, parameters and gradient of the example; drawn as the program draws them, derived in float64."""
    torch.manual_seed(0)
    c1 = nn.Conv2d(1, 32, 3, 1, 1)
    f2 = nn.Linear(32 * 12 * 12, 5)
    x = torch.randn(8, 1, 12, 12)
    y = torch.randint(0, 5, (8,))
    parameters = [*c1.double().parameters(), *f2.double().parameters()]
    loss = F.cross_entropy(f2(c1(x.double()).view(8, -1)), y)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    return ["c1.weight", "c1.bias", "f2.weight", "f2.bias"], parameters, torch.cat([g.flatten() for g in gradients])


def compare(path: pathlib.Path) -> None:
    names, parameters, gradient = derivatives()
    sizes = [p.numel() for p in parameters]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    n = int(offsets[-1])
    assert n == 23365
    with h5py.File(path) as file:
        hessian = file["hessian"]
        assert hessian.shape == (n, n) and hessian.dtype == np.float32
        assert file.attrs["complete"] == 1
        assert list(hessian.attrs["parameter_names"]) == names
        assert list(hessian.attrs["parameter_offsets"]) == list(offsets[:-1])
        theta = torch.cat([p.detach().flatten() for p in parameters]).numpy()
        assert np.array_equal(file["parameters/value"][:], theta.astype(np.float32))
        assert np.abs(file["gradient"][:] - gradient.detach().numpy()).max() <= 1e-5 * gradient.abs().max().item()

        # Both ends of every parameter, and both sides of the border between two ranks.
        rows = sorted({r for o in offsets for r in (o - 1, o, o + 7) if 0 <= r < n} | {n // 2 - 1, n // 2, n // 2 + 1, 20000})
        expected = np.stack(
            [torch.cat([g.flatten() for g in torch.autograd.grad(gradient[r], parameters, retain_graph=True)]).numpy() for r in rows]
        )
        found = np.stack([hessian[r] for r in rows])
        assert all(np.abs(row).max() > 0 for row in expected)
        largest = np.abs(expected).max()
        for row, difference in zip(rows, np.abs(found - expected).max(axis=1)):
            assert difference <= 1e-5 * largest, f"row {row} differs by {difference / largest} of the largest number"
        columns = np.stack([hessian[:, r] for r in rows[:3]])
        assert np.abs(columns - expected[:3]).max() <= 1e-5 * largest


def main(output: pathlib.Path, launch: list[str]) -> int:
    output.unlink(missing_ok=True)
    if shutil.disk_usage(output.parent).free < NEEDED_BYTES:
        print(f"skipped: less than {NEEDED_BYTES / 1e9:.0f} GB of disk are free in {output.parent}")
        return SKIPPED
    try:
        subprocess.run([*launch, "--output", str(output)], check=True)
        compare(output)
    finally:
        output.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2:]))
