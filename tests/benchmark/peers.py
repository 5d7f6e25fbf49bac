#!/usr/bin/env python3
"""Times another program's rows of a Hessian of problems.py on one thread, and compares some of them with double-backward.

usage: peers.py PEER [--quick] [--seconds S] NAME...

PEER: torch.func, jax or curvlinops. Prints a line of JSON for each NAME: milliseconds a row of each way and number of rows at
a time that was tried, and of the best one, from rows that are spread over the matrix, for S seconds or more. What is
loaded, traced or compiled once is not counted. Without PEER's package the lines say "missing".
"""

import argparse
import importlib.metadata
import json
import os
import time
from collections.abc import Callable

import torch

import problems

PACKAGES = {"torch.func": "torch", "jax": "jax", "curvlinops": "curvlinops-for-pytorch"}
FEW_ROWS = 4
TOLERANCE = 1e-4  # of rows in float32, relative to the largest number of those compared

Rows = Callable[[int], torch.Tensor]  # from the first row of a chunk on
Ways = dict[str, Callable[[int], Rows]]  # for a number of rows at a time


class Network:
    """The network's loss as a function of the parameters."""

    def __init__(self, name: str, quick: bool):
        self.name = name
        self.model, (self.inputs, self.targets) = problems.make(name, quick)
        self.parameters = dict(self.model.named_parameters())
        self.sizes = [p.numel() for p in self.parameters.values()]
        self.theta = torch.cat([p.detach().flatten() for p in self.parameters.values()])

    def loss(self, theta: torch.Tensor) -> torch.Tensor:
        parts = theta.split(self.sizes)
        parameters = {name: part.view_as(p) for part, (name, p) in zip(parts, self.parameters.items())}
        return torch.nn.functional.cross_entropy(torch.func.functional_call(self.model, parameters, (self.inputs,)), self.targets)

    def row(self, i: int) -> torch.Tensor:
        """By double-backward: what the others are held to."""
        theta = self.theta.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(theta), theta, create_graph=True)
        return torch.autograd.grad(gradient[i], theta)[0]


def one_hot(begin: int, rows: int, n: int) -> torch.Tensor:
    basis = torch.zeros(rows, n)
    basis[range(rows), range(begin, begin + rows)] = 1
    return basis


def torch_func(network: Network) -> Ways:
    n = network.theta.numel()

    def backward(chunk: int) -> Rows:
        _, pull = torch.func.vjp(torch.func.grad(network.loss), network.theta)
        batched = torch.func.vmap(lambda v: pull(v)[0])
        return lambda begin: batched(one_hot(begin, chunk, n))

    def forward(chunk: int) -> Rows:
        batched = torch.func.vmap(lambda v: torch.func.jvp(torch.func.grad(network.loss), (network.theta,), (v,))[1])
        return lambda begin: batched(one_hot(begin, chunk, n))

    return {"vmap of vjp of grad": backward, "vmap of jvp of grad": forward}


def curvlinops(network: Network) -> Ways:
    from curvlinops import HessianLinearOperator

    data = [(network.inputs, network.targets)]
    parameters = list(network.parameters.values())
    options = {"progressbar": False, "check_deterministic": False, "num_data": len(network.inputs)}
    hessian = HessianLinearOperator(network.model, torch.nn.CrossEntropyLoss(), parameters, data, **options)
    return {"columns": lambda chunk: lambda begin: (hessian @ one_hot(begin, chunk, hessian.shape[0]).T).T}


def jax(network: Network) -> Ways:
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    import jax
    import jax_networks
    import numpy

    theta = jax.numpy.asarray(network.theta.numpy())
    gradient = jax.grad(jax_networks.loss(network))

    def compiled(row: Callable) -> Callable[[int], Rows]:
        def of_chunk(chunk: int) -> Rows:
            def rows(theta, begin):
                return jax.vmap(lambda v: row(theta, v))(jax.nn.one_hot(begin + jax.numpy.arange(chunk), theta.size, dtype=theta.dtype))

            run = jax.jit(rows).lower(theta, 0).compile()
            return lambda begin: torch.from_numpy(numpy.array(run(theta, begin)))

        return of_chunk

    return {
        "jit of vmap of jvp of grad": compiled(lambda theta, v: jax.jvp(gradient, (theta,), (v,))[1]),
        "jit of vmap of vjp of grad": compiled(lambda theta, v: jax.vjp(gradient, theta)[1](v)[0]),
    }


class Trial:
    """One way with so many rows at a time."""

    def __init__(self, rows: Rows, chunk: int):
        self.rows, self.chunk = rows, chunk
        start = time.perf_counter()
        rows(0)
        self.first = time.perf_counter() - start

    def seconds_a_row(self, begin: int) -> float:
        start = time.perf_counter()
        self.rows(begin)
        return (time.perf_counter() - start) / self.chunk


def relative_error(network: Network, trial: Trial) -> float:
    """Of rows of the middle and the end of the matrix."""
    n = network.theta.numel()
    pairs = []
    for begin in (n // 2 - trial.chunk // 2, n - trial.chunk):
        rows = trial.rows(begin)
        pairs += [(network.row(begin + k), rows[k]) for k in {0, trial.chunk - 1}]
    largest = max(float(right.abs().max()) for right, _ in pairs)
    return max(float((right - found).abs().max()) for right, found in pairs) / largest


def measured(network: Network, ways: Ways, seconds: float) -> dict:
    """Each way with a few rows at a time; the fastest with twice as many, until that is slower twice; what is fastest for long."""
    n = network.theta.numel()
    tried: dict[str, float] = {}
    failed: dict[str, str] = {}
    best: tuple[float, str, Trial] | None = None

    def attempt(way: str, chunk: int) -> bool:
        """Whether it is right and faster than all before."""
        nonlocal best
        label = f"{way}, {chunk} at a time"
        try:
            trial = Trial(ways[way](chunk), chunk)
            error = relative_error(network, trial)
            if not error <= TOLERANCE:
                raise ValueError(f"wrong by {error:.1g} of the largest number in a row")
            pace = min(trial.seconds_a_row((2 * k + 1) * (n - chunk) // 6) for k in range(3 if trial.first < seconds / 3 else 1))
        except Exception as error:  # what a program cannot do is its result
            failed[label] = str(error).splitlines()[0][:200]
            return False
        tried[label] = 1e3 * pace
        faster = best is None or pace < 0.98 * best[0]
        if faster:
            best = (pace, way, trial)
        return faster

    for way in ways:
        attempt(way, FEW_ROWS)
    if best is None:
        return {"tried": tried, "failed": failed}
    way, chunk, slower = best[1], 2 * FEW_ROWS, 0
    while chunk <= n and best[2].first < seconds and slower < 2:
        slower = 0 if attempt(way, chunk) else slower + 1
        chunk *= 2
    pace, way, trial = best
    places = max(2, round(seconds / (pace * trial.chunk)))
    mean = sum(trial.seconds_a_row((2 * k + 1) * (n - trial.chunk) // (2 * places)) for k in range(places)) / places
    best_way = f"{way}, {trial.chunk} at a time"
    return {"way": best_way, "ms_a_row": 1e3 * mean, "seconds": mean * n, "rows": places * trial.chunk, "tried": tried, "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PACKAGES)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--quick", action="store_true", help="the small networks")
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ways_of = {"torch.func": torch_func, "jax": jax, "curvlinops": curvlinops}[arguments.peer]
    for name in arguments.names:
        network = Network(name, arguments.quick)
        line = {"peer": arguments.peer, "name": name, "N": network.theta.numel()}
        try:
            ways = ways_of(network)
            line["version"] = importlib.metadata.version(PACKAGES[arguments.peer])
        except ImportError as error:
            line["missing"] = str(error)
        else:
            line |= measured(network, ways, arguments.seconds)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
