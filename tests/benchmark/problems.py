#!/usr/bin/env python3
"""Makes the networks and batches of the benchmark: FOLDER/NAME/model.pt2 and data.h5, float32, seed 0.

usage: problems.py FOLDER [NAME...]
"""

import pathlib
import sys
import warnings

import h5py
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

warnings.filterwarnings("ignore")


class Perceptron(nn.Module):
    def __init__(self, inputs: int, width: int, classes: int):
        super().__init__()
        self.fc1 = nn.Linear(inputs, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 25, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = nn.functional.avg_pool2d(torch.tanh(self.conv2(x)), 2)
        x = torch.tanh(self.fc1(x.flatten(1)))
        return self.fc3(torch.tanh(self.fc2(x)))


class Transformer(nn.Module):
    """Token and position embeddings, one encoder layer, a linear head at every position."""

    def __init__(self, words: int = 64, positions: int = 16, width: int = 32):
        super().__init__()
        self.tok = nn.Embedding(words, width)
        self.pos = nn.Parameter(0.02 * torch.randn(positions, width))
        self.enc = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(width, words)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return self.head(self.enc(self.tok(x) + self.pos)).transpose(1, 2)


def vectors(samples: int, size: int):
    return torch.randn(samples, size), torch.randint(10, (samples,))


def images():
    return torch.randn(64, 1, 28, 28), torch.randint(10, (64,))


def texts():
    return torch.randint(64, (16, 16)), torch.randint(64, (16, 16))


PROBLEMS = {
    "mlp": (lambda: Perceptron(64, 64, 10), lambda: vectors(128, 64)),
    "mlp784": (lambda: Perceptron(784, 64, 10), lambda: vectors(64, 784)),
    "lenet": (LeNet, images),
    "transformer": (Transformer, texts),
}


def write(name: str, folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    model, batch = (make() for make in PROBLEMS[name])
    inputs, targets = batch
    folder.mkdir(parents=True, exist_ok=True)
    # In train mode the encoder layer is exported as its operators, not as its fused kernel; it has no dropout.
    batch = torch.export.Dim("batch")
    program = torch.export.export(model.train(), (inputs,), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    with h5py.File(folder / "data.h5", "w") as file:
        file["inputs"], file["targets"] = inputs.numpy(), targets.numpy()


def main(arguments: list[str]) -> None:
    folder = pathlib.Path(arguments[0])
    for name in arguments[1:] or PROBLEMS:
        write(name, folder / name)


if __name__ == "__main__":
    main(sys.argv[1:])
