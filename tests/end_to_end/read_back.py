#!/usr/bin/env python3
"""Reads a result in Python, as the README tells users to, and compares it with PyTorch.

usage: read_back.py MODELS LAUNCH...

LAUNCH is the command that starts hessian_mpi; MODELS is what end_to_end_models.py wrote.
"""

import pathlib
import subprocess
import sys
import tempfile
import warnings

import h5py
import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

warnings.filterwarnings("ignore")


def block(hessian: h5py.Dataset, first: str, second: str) -> np.ndarray:
    """The second derivatives by two parameters, in the shape of both."""
    names = list(hessian.attrs["parameter_names"])
    rows, columns = (
        slice(hessian.attrs["parameter_offsets"][p], hessian.attrs["parameter_offsets"][p] + hessian.attrs["parameter_sizes"][p])
        for p in (names.index(first), names.index(second))
    )
    shapes = [[int(d) for d in hessian.attrs["parameter_shapes"][names.index(n)].strip("[]").split(",") if d] for n in (first, second)]
    return hessian[rows, columns].reshape(shapes[0] + shapes[1])


def gradient(model: torch.jit.ScriptModule, inputs: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    parameters = list(model.parameters())
    loss = F.cross_entropy(model(inputs), targets)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).numpy()


def central_difference(case: pathlib.Path, row: int, step: float = 1e-5) -> np.ndarray:
    """Row of H from gradients at two points, in float64."""
    model = torch.jit.load(case / "model.pt").double().eval()
    data = torch.load(case / "data.pt")
    sides = []
    for sign in (1, -1):
        before = 0
        for parameter in model.parameters():
            if before <= row < before + parameter.numel():
                parameter.data.view(-1)[row - before] += sign * step
                sides.append(gradient(model, data["inputs"], data["targets"]))
                parameter.data.view(-1)[row - before] -= sign * step
            before += parameter.numel()
    return (sides[0] - sides[1]) / (2 * step)


def main(models: pathlib.Path, launch: list[str]) -> None:
    case = models / "transformer"
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder) / "result.h5"
        job = ["--model", case / "model.pt2", "--data", case / "data.h5", "--dtype", "float64", "--output", output]
        subprocess.run([*launch, *map(str, job)], check=True)
        with h5py.File(output) as file, h5py.File(case / "reference.h5") as reference:
            hessian = file["hessian"]
            assert file.attrs["complete"] == 1
            assert hessian.dtype == np.float64 and hessian.chunks is None and hessian.compression is None
            names = [name.decode() for name in reference["names"]]
            assert list(hessian.attrs["parameter_names"]) == names
            assert [name.decode() for name in file["parameters/name"]] == names

            begin = np.concatenate([[0], np.cumsum(reference["sizes"])])
            first, second = names.index("attention.qkv.weight"), names.index("head.weight")
            expected = reference["hessian"][begin[first] : begin[first + 1], begin[second] : begin[second + 1]]
            found = block(hessian, "attention.qkv.weight", "head.weight")
            assert found.shape == (18, 6, 7, 6), found.shape
            largest = np.abs(reference["hessian"]).max()
            assert np.abs(expected).max() > 1e-3 * largest
            assert np.abs(found.reshape(expected.shape) - expected).max() <= 1e-10 * largest

            with sdpa_kernel(SDPBackend.MATH):
                for row in (0, begin[first] + 5, begin[second] - 1, hessian.shape[0] - 1):
                    difference = np.abs(hessian[row] - central_difference(case, row)).max()
                    assert difference <= 1e-7 * largest, f"row {row}: {difference} from central differences"


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
