#!/usr/bin/env python3
"""Makes the networks and batches of the benchmark: FOLDER/NAME/model.pt2 and data.h5, float32, seed 0.

usage: problems.py [--quick] FOLDER [NAME...]

--quick: networks of the same layers that have some hundreds of parameters. NAME may also be perceptron-WIDTH-SAMPLES.
"""

import argparse
import pathlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

import h5py
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

warnings.filterwarnings("ignore")


class Example(nn.Module):
    """The program's embedded example."""

    def __init__(self, side: int, channels: int):
        super().__init__()
        self.c1 = nn.Conv2d(1, channels, 3, padding=1)
        self.f2 = nn.Linear(channels * side * side, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.f2(self.c1(x).flatten(1))


class Perceptron(nn.Module):
    def __init__(self, inputs: int, width: int, classes: int):
        super().__init__()
        self.fc1 = nn.Linear(inputs, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


class LeNet(nn.Module):
    def __init__(self, conv1: int = 6, conv2: int = 16, fc1: int = 120, fc2: int = 84):
        super().__init__()
        self.conv1 = nn.Conv2d(1, conv1, 5, padding=2)
        self.conv2 = nn.Conv2d(conv1, conv2, 5)
        self.fc1 = nn.Linear(conv2 * 25, fc1)
        self.fc2 = nn.Linear(fc1, fc2)
        self.fc3 = nn.Linear(fc2, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.tanh(self.fc1(x.flatten(1)))
        return self.fc3(torch.tanh(self.fc2(x)))


class Transformer(nn.Module):
    """Token and position embeddings, one encoder layer, a linear head at every position."""

    def __init__(self, words: int = 64, positions: int = 16, width: int = 32, heads: int = 4):
        super().__init__()
        self.tok = nn.Embedding(words, width)
        self.pos = nn.Parameter(0.02 * torch.randn(positions, width))
        self.enc = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(width, words)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return self.head(self.enc(self.tok(x) + self.pos)).transpose(1, 2)


class CausalBlock(nn.Module):
    """Attention and an MLP, each behind a norm."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, dim=2))
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).masked_fill(future, float("-inf"))
        x = x + self.out((scores.softmax(3) @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, words: int = 64, positions: int = 64, width: int = 48, heads: int = 4, blocks: int = 2):
        super().__init__()
        self.tok = nn.Embedding(words, width)
        self.pos = nn.Parameter(0.02 * torch.randn(positions, width))
        self.blocks = nn.Sequential(*(CausalBlock(width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.tok(x) + self.pos))).transpose(1, 2)


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(4, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(4, outputs)
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x)))))
        return F.silu(y + self.short(x))


class ResNet(nn.Module):
    """ResNet-8, with GroupNorm, and SiLU for derivatives everywhere."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(4, width)
        self.blocks = nn.Sequential(
            ResidualBlock(width, width, 1), ResidualBlock(width, 2 * width, 2), ResidualBlock(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(F.silu(self.norm(self.conv(x)))).mean((2, 3)))


def vectors(samples: int, size: int):
    return torch.randn(samples, size), torch.randint(10, (samples,))


def images(samples: int, channels: int, side: int, classes: int = 10):
    return torch.randn(samples, channels, side, side), torch.randint(classes, (samples,))


def texts(samples: int, positions: int, words: int = 64):
    return torch.randint(words, (samples, positions)), torch.randint(words, (samples, positions))


class Problem(NamedTuple):
    title: str
    model: Callable[[], nn.Module]
    batch: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    quick_model: Callable[[], nn.Module]
    quick_batch: Callable[[], tuple[torch.Tensor, torch.Tensor]]


PROBLEMS = {
    "question": Problem(
        "the example", lambda: Example(12, 32), lambda: images(8, 1, 12, 5), lambda: Example(4, 3), lambda: images(4, 1, 4, 5)
    ),
    "mlp": Problem(
        "MLP 64-64-64-10", lambda: Perceptron(64, 64, 10), lambda: vectors(128, 64), lambda: Perceptron(5, 6, 10), lambda: vectors(8, 5)
    ),
    "mlp784": Problem(
        "MLP 784-64-64-10", lambda: Perceptron(784, 64, 10), lambda: vectors(64, 784), lambda: Perceptron(9, 6, 10), lambda: vectors(8, 9)
    ),
    "mlp20k": Problem(
        "MLP 64-64-64-10, a training set", lambda: Perceptron(64, 64, 10), lambda: vectors(20000, 64), lambda: Perceptron(5, 6, 10), lambda: vectors(99, 5)
    ),
    "transformer": Problem(
        "one-block transformer", Transformer, lambda: texts(16, 16), lambda: Transformer(6, 4, 8, 2), lambda: texts(2, 4, 6)
    ),
    "gpt": Problem("two-block GPT", GPT, lambda: texts(8, 64), lambda: GPT(6, 4, 8, 2, 1), lambda: texts(2, 4, 6)),
    "lenet": Problem("LeNet-5", LeNet, lambda: images(64, 1, 28), lambda: LeNet(2, 2, 4, 3), lambda: images(3, 1, 28)),
    "resnet": Problem("ResNet-8", ResNet, lambda: images(16, 3, 32), lambda: ResNet(4), lambda: images(2, 3, 8)),
}


def make(name: str, quick: bool = False) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    if name.startswith("perceptron-"):
        width, samples = (int(part) for part in name.split("-")[1:])
        return Perceptron(64, width, 10), vectors(samples, 64)
    problem = PROBLEMS[name]
    # In train mode the encoder layer is exported as its operators, not as its fused kernel; nothing here is random.
    return (problem.quick_model if quick else problem.model)().train(), (problem.quick_batch if quick else problem.batch)()


def write(name: str, folder: pathlib.Path, quick: bool = False) -> None:
    model, (inputs, targets) = make(name, quick)
    folder.mkdir(parents=True, exist_ok=True)
    program = torch.export.export(model, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "model.pt2")
    with h5py.File(folder / "data.h5", "w") as file:
        file["inputs"], file["targets"] = inputs.numpy(), targets.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("names", nargs="*", default=list(PROBLEMS))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.names:
        write(name, arguments.folder / name, arguments.quick)


if __name__ == "__main__":
    main()
