#!/usr/bin/env python3
"""Gauss-Newton and Fisher matrices: computing alone on one core, beside J by torch.func and products of it.

usage: gauss_newton.py BUILD [--folder FOLDER] [NAME...]

J has a row for each output of each sample (vmap of jacrev), or for each sample (vmap of grad), as many samples at a time as
fit into 2 GB. The matrix is the sum of J^T A J over these, in one product of matrices each. Both make all rows; the first
call is not counted where one takes less than a minute.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, jacrev, vmap

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import problems  # noqa: E402

MATRICES = ("hessian", "ggn", "fisher")
MOST_BYTES = 2e9


def of_program(build: pathlib.Path, folder: pathlib.Path, name: str, matrix: str) -> float:
    command = [build / "tests/benchmark/compute_benchmark", "--matrix", matrix, "--threads", "1"]
    if name != "question":
        command += ["--model", folder / name / "model.pt2", "--data", folder / name / "data.h5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, env=environment)
    return json.loads(done.stdout)["seconds"]


def flat(parts: dict[str, Tensor], rows: int) -> Tensor:
    return torch.cat([part.reshape(rows, -1) for part in parts.values()], dim=1)


class ByTorch:
    def __init__(self, name: str):
        self.model, (self.inputs, self.targets) = problems.make(name)
        self.parameters = {key: value.detach() for key, value in self.model.named_parameters()}
        self.samples = len(self.inputs)
        self.outputs = self.model(self.inputs[:1]).numel()
        self.n = sum(value.numel() for value in self.parameters.values())

    def output(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.model, parameters, (x.unsqueeze(0),)).squeeze(0)

    def loss(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.output(parameters, x).unsqueeze(0), y.unsqueeze(0))

    def pieces(self, rows_of_sample: int) -> list[slice]:
        at_once = max(1, int(MOST_BYTES / (4 * self.n * rows_of_sample)))
        return [slice(first, first + at_once) for first in range(0, self.samples, at_once)]

    def fisher(self) -> Tensor:
        matrix = torch.zeros(self.n, self.n)
        for some in self.pieces(1):
            x, y = self.inputs[some], self.targets[some]
            rows = flat(vmap(grad(self.loss), (None, 0, 0))(self.parameters, x, y), len(x))
            matrix.addmm_(rows.T, rows, alpha=1 / self.samples)
        return matrix

    def ggn(self) -> Tensor:
        matrix = torch.zeros(self.n, self.n)
        for some in self.pieces(2 * self.outputs):  # J and A J
            x = self.inputs[some]
            jacobian = flat(vmap(jacrev(self.output), (None, 0))(self.parameters, x), len(x) * self.outputs)
            p = vmap(self.output, (None, 0))(self.parameters, x).softmax(1)  # [samples, classes] or [samples, classes, places]
            p = p if p.dim() == 3 else p.unsqueeze(2)
            places = p.shape[2]
            by_class = jacobian.view(len(x), p.shape[1], places, self.n)
            mean = torch.einsum("sct,sctn->stn", p, by_class)
            weighted = p.unsqueeze(3) * (by_class - mean.unsqueeze(1))
            matrix.addmm_(jacobian.T, weighted.reshape(-1, self.n), alpha=1 / (self.samples * places))
        return matrix


def seconds_of(make: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        make()
        best = min(best, time.perf_counter() - begin)
        if best > 60:
            break
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("names", nargs="*", default=["mlp", "lenet", "transformer", "mlp20k"])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("."), help="what problems.py has filled")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"{'seconds':12}" + "".join(f"{matrix:>10}" for matrix in MATRICES) + f"{'ggn, torch':>14}{'fisher, torch':>15}")
    for name in arguments.names:
        own = [min(of_program(arguments.build, arguments.folder, name, matrix) for _ in range(2)) for matrix in MATRICES]
        peer = ByTorch(name)
        theirs = [seconds_of(peer.ggn), seconds_of(peer.fisher)]
        print(f"{name:12}" + "".join(f"{s:10.3g}" for s in own) + f"{theirs[0]:14.3g}{theirs[1]:15.3g}", flush=True)


if __name__ == "__main__":
    main()
