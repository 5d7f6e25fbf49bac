#!/usr/bin/env python3
"""Standard errors of a logistic regression: those of the Hessian, and robust ones of the sandwich, beside the closed forms.

usage: standard_errors.py FOLDER_OF_PROGRAMS MPIRUN...

The loss is a mean over samples: --scale with their number makes it minus the logarithm of the likelihood, the inverse of
whose Hessian is the covariance of the estimates.
"""

import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import torch

SAMPLES, FEATURES = 200, 3


def maximum_likelihood(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """By Newton's steps."""
    weights = np.zeros(x.shape[1])
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ weights))
        weights += np.linalg.solve(x.T @ (x * (p * (1 - p))[:, None]), x.T @ (y - p))
    return weights


def closed_forms(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the information matrix, and of White's sandwich."""
    p = 1 / (1 + np.exp(-x @ weights))
    covariance = np.linalg.inv(x.T @ (x * (p * (1 - p))[:, None]))
    middle = x.T @ (x * ((y - p) ** 2)[:, None])
    return np.sqrt(np.diag(covariance)), np.sqrt(np.diag(covariance @ middle @ covariance))


def main(programs: str, mpirun: list[str]) -> None:
    random = np.random.default_rng(1)
    features = random.standard_normal((SAMPLES, FEATURES))
    y = (random.random(SAMPLES) < 1 / (1 + np.exp(-features @ [1.0, -2.0, 0.5] - 0.3))).astype(float)
    x = np.hstack([features, np.ones((SAMPLES, 1))])  # the last weight is the bias
    weights = maximum_likelihood(x, y)

    net = torch.nn.Linear(FEATURES, 1, dtype=torch.float64)
    net.load_state_dict({"weight": torch.from_numpy(weights[None, :-1]), "bias": torch.from_numpy(weights[-1:])})
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        any_number = {0: torch.export.Dim("batch")}
        torch.export.save(torch.export.export(net, (torch.zeros(2, FEATURES, dtype=torch.float64),), dynamic_shapes=(any_number,)), folder / "net.pt2")
        with h5py.File(folder / "data.h5", "w") as file:
            file["inputs"], file["targets"] = features, y[:, None]

        def run(program: str, *arguments: str) -> None:
            subprocess.run([*mpirun, "-n", "2", f"{programs}/{program}", *arguments], cwd=folder, check=True)

        job = ["--model", "net.pt2", "--data", "data.h5", "--loss", "bce_with_logits"]
        run("hessian_mpi", *job, "--output", "h.h5")
        run("hessian_mpi", *job, "--output", "f.h5", "--matrix", "fisher")
        run("hessian_solve", "h.h5", "--inverse", "diagonal", "--scale", str(SAMPLES))
        run("hessian_solve", "h.h5", "--inverse", "all", "--scale", str(SAMPLES), "--sandwich", "f.h5", "--output", "robust.h5")
        with h5py.File(folder / "h.inverse.h5") as file, h5py.File(folder / "robust.h5") as robust:
            found = file["standard_errors"][:], robust["standard_errors"][:]

    print("estimate  standard error  (closed form)  robust  (closed form)")
    for row in zip(weights, found[0], closed_forms(x, y, weights)[0], found[1], closed_forms(x, y, weights)[1]):
        print("  ".join(f"{number:.10f}" for number in row))
    np.testing.assert_allclose(found, closed_forms(x, y, weights), rtol=1e-10)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
