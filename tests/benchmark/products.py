#!/usr/bin/env python3
"""Times products of a Hessian with vectors without the matrix, beside other programs, and compares eigenvalues.

usage: products.py BUILD [NAME...] [--folder FOLDER] [--rounds R] [--launch WORDS] [--quick] [--no-eigenvalues]

BUILD: the folder with src/hessian_multiply and src/hessian_spectrum. NAME: resnet18 (32 x 32 images, 64 of them, BatchNorm in
eval mode, 11 million parameters) and gpt (512 tokens, 10 million); both where absent. One thread on one core, random weights,
float32; hessian_mpi also on two ranks, each with half of the samples. All take turns in each round; the others keep their
network, and wait meanwhile. Prints tables: seconds a product, medians of the rounds, and the five largest eigenvalues. What of
curvlinops, PyHessian and hessian-eigenthings is not installed is left out.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import h5py
import torch
from torch import nn
from torch.nn import functional as F

import problems

PEERS = ("PyTorch", "curvlinops", "PyHessian", "hessian-eigenthings")
VALUES = 5
STEPS = 40  # of Lanczos, where a program asks for them


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short = nn.Sequential()
        if stride > 1:
            self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.short(x))


class ResNet18(nn.Module):
    """He, Zhang, Ren, Sun, Deep Residual Learning, 2015, as torchvision has it."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        sizes = [(width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2), (4 * width, 8 * width, 2)]
        self.layers = nn.Sequential(*(nn.Sequential(BasicBlock(a, b, stride), BasicBlock(b, b, 1)) for a, b, stride in sizes))
        self.fc = nn.Linear(8 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(self.layers(x).mean((2, 3)))


def make(name: str, quick: bool) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    if name == "resnet18":
        model, data = ResNet18(4 if quick else 64), problems.images(4 if quick else 64, 3, 32)
    else:
        model = problems.GPT(8, 8, 16, 2, 1) if quick else problems.GPT(256, 64, 256, 8, 12)
        data = problems.texts(2, 8, 8) if quick else problems.texts(8, 64, 256)
    return model.eval(), *data


def write(name: str, folder: pathlib.Path, quick: bool) -> None:
    model, inputs, targets = make(name, quick)
    folder.mkdir(parents=True, exist_ok=True)
    program = torch.export.export(model, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "model.pt2")
    with h5py.File(folder / "data.h5", "w") as file:
        file["inputs"], file["targets"] = inputs.numpy(), targets.numpy()


def by_lanczos(multiply: Callable[[torch.Tensor], torch.Tensor], n: int) -> list[float]:
    """SciPy's, for programs that multiply and have no eigenvalues of their own."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    def product(v):
        return multiply(torch.from_numpy(v.reshape(-1)).float()).double().numpy()

    values = eigsh(LinearOperator((n, n), matvec=product, dtype="float64"), k=VALUES, which="LA", tol=1e-5, return_eigenvectors=False)
    return sorted(values.tolist(), reverse=True)


class Peer:
    """Another program with the network: multiplies, and finds eigenvalues."""

    def __init__(self, peer: str, name: str, quick: bool):
        model, inputs, targets = make(name, quick)
        parameters = list(model.parameters())
        self.n = sum(p.numel() for p in parameters)
        loss = nn.CrossEntropyLoss()
        self.eigenvalues = lambda: by_lanczos(self.multiply, self.n)
        if peer == "PyTorch":  # the gradient's graph kept, as hessian_mpi does
            gradient = torch.autograd.grad(loss(model(inputs), targets), parameters, create_graph=True)
            sizes = [p.numel() for p in parameters]

            def multiply(v: torch.Tensor) -> torch.Tensor:
                parts = [part.view_as(p) for part, p in zip(v.split(sizes), parameters)]
                return torch.cat([h.reshape(-1) for h in torch.autograd.grad(gradient, parameters, parts, retain_graph=True)])

            self.multiply = multiply
        elif peer == "curvlinops":
            from curvlinops import HessianLinearOperator

            options = {"progressbar": False, "check_deterministic": False, "num_data": len(inputs)}
            hessian = HessianLinearOperator(model, loss, parameters, [(inputs, targets)], **options)
            self.multiply = lambda v: hessian @ v
        elif peer == "PyHessian":
            from pyhessian import hessian as pyhessian
            from pyhessian.utils import hessian_vector_product

            theirs = pyhessian(model, loss, data=(inputs, targets), cuda=False)
            shapes = [p.numel() for p in theirs.params]

            def multiply(v: torch.Tensor) -> torch.Tensor:
                parts = [part.view_as(p) for part, p in zip(v.split(shapes), theirs.params)]
                return torch.cat([h.reshape(-1) for h in hessian_vector_product(theirs.gradsH, theirs.params, parts)])

            self.multiply = multiply
            self.eigenvalues = lambda: theirs.eigenvalues(maxIter=100, tol=1e-5, top_n=VALUES)[0]
        else:
            import hessian_eigenthings as eigenthings

            operator = eigenthings.HessianOperator(model, [(inputs, targets)], eigenthings.supervised_loss(loss))
            self.multiply = operator.matvec
            steps = min(STEPS, self.n)
            self.eigenvalues = lambda: eigenthings.lanczos(operator, k=VALUES, max_iter=steps, which="LA", seed=0).eigenvalues.tolist()


def serve(peer: str, name: str, quick: bool) -> None:
    """Answers the lines "product" and "eigenvalues" of standard input with seconds and numbers."""
    torch.set_num_threads(1)
    try:
        network = Peer(peer, name, quick)
        v = torch.full((network.n,), network.n**-0.5)
        network.multiply(v)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    print(json.dumps({"ready": network.n}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        found = network.eigenvalues() if line.strip() == "eigenvalues" else network.multiply(v)[:0].tolist()
        print(json.dumps({"seconds": time.perf_counter() - start, "values": found}), flush=True)


class Served:
    def __init__(self, peer: str, name: str, quick: bool):
        command = [sys.executable, __file__, "--serve", peer, name, *(["--quick"] if quick else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.state = json.loads(self.process.stdout.readline())

    def ask(self, what: str) -> dict:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class HessianMpi:
    """The programs, started for each product."""

    def __init__(self, arguments: argparse.Namespace, name: str):
        self.build, self.launch = arguments.build.resolve(), shlex.split(arguments.launch)
        self.folder = arguments.folder / name
        write(name, self.folder, arguments.quick)
        self.samples = len(h5py.File(self.folder / "data.h5")["inputs"])

    def run(self, program: str, ranks: int, *options: str) -> str:
        inputs = ["--model", str(self.folder / "model.pt2"), "--data", str(self.folder / "data.h5"), "--threads", "1"]
        batch = ["--batch-size", str(self.samples // ranks), "--memory", "8G", "--overwrite", "--output", str(self.folder / "out.h5")]
        command = [*self.launch, "-n", str(ranks), str(self.build / "src" / program), *inputs, *batch, *options]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode != 0:
            raise SystemExit(f"products.py: {shlex.join(command)} ended with exit code {found.returncode}:\n{found.stderr.strip()}")
        return found.stdout

    def product(self, ranks: int) -> float:
        return float(re.search(r"about ([0-9.e+-]+) s with one vector", self.run("hessian_multiply", ranks, "--random", "1")).group(1))

    def eigenvalues(self) -> dict:
        start = time.perf_counter()
        out = self.run("hessian_spectrum", 1, "--largest", str(VALUES))
        seconds = time.perf_counter() - start
        products = int(re.search(r"and (\d+) products", out).group(1))
        with h5py.File(self.folder / "out.h5") as file:
            return {"seconds": seconds, "values": file["largest/eigenvalues"][:].tolist(), "products": products}


def measure(name: str, arguments: argparse.Namespace) -> None:
    ours = HessianMpi(arguments, name)
    peers = {peer: Served(peer, name, arguments.quick) for peer in PEERS}
    for peer in [peer for peer, served in peers.items() if "missing" in served.state]:
        print(f"{name}: without {peer}: {peers.pop(peer).state['missing']}", flush=True)
    seconds: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for ranks in (1, 2):
            seconds.setdefault(f"hessian_mpi, {ranks} rank{'s' if ranks > 1 else ''}", []).append(ours.product(ranks))
        for peer, served in peers.items():
            seconds.setdefault(peer, []).append(min(served.ask("product")["seconds"] for _ in range(2)))
    one = next(iter(seconds))
    print(f"\n| {name}: seconds a product | median | of rounds from | to | parts of hessian_mpi's, by rounds |\n|---|---|---|---|---|")
    for who, all_of in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(seconds[one], all_of))
        print(f"| {who} | {statistics.median(all_of):.3g} | {min(all_of):.3g} | {max(all_of):.3g} | {ratio:.2f} |", flush=True)
    if arguments.eigenvalues:
        print(f"\n| {name}: largest eigenvalues | {' | ' * (VALUES - 1)} | seconds |\n|---|{'---|' * VALUES}---|")
        for who, found in [("hessian_mpi", ours.eigenvalues()), *((peer, served.ask("eigenvalues")) for peer, served in peers.items())]:
            print(f"| {who} | {' | '.join(f'{value:.6g}' for value in found['values'])} | {found['seconds']:.0f} |", flush=True)
    for served in peers.values():
        served.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("names", nargs="*", default=["resnet18", "gpt"])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("products"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--launch", default="mpirun --bind-to none")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-eigenvalues", dest="eigenvalues", action="store_false")
    arguments = parser.parse_args()
    for name in arguments.names:
        measure(name, arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], "--quick" in sys.argv)
    else:
        main()
