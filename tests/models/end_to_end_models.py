#!/usr/bin/env python3
"""Networks, data and reference Hessians for the end-to-end tests.

usage: end_to_end_models.py OUT [CASE...]

Writes one folder for each case:

  model.pt, model.pt2   the network as TorchScript and as an exported program, weights in float32 unless the case says so
  data.h5, data.pt      the same data as HDF5 and as torch.save
  options               what the program is to be told beside model, data and output: one argument a line, @CASE@ is the folder
  reference.h5          hessian, gradient, value, loss_value; names, shapes and sizes of the parameters in their order;
                        ggn where there are outputs before the loss, fisher where the samples' losses are known

and the folder usage/ with files that a user might hand in by mistake, and at last the file `cases` with the names of all cases.

References come from torch.autograd.functional.hessian in float64, on the loss as a function of the flat vector of parameters.
Weights and data are exact in float32, so one reference serves both dtypes.
"""

import math
import pathlib
import sys
import warnings
from dataclasses import dataclass, field
from typing import Callable, Final, Optional, Tuple

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "src" / "python"))
import hessian_mpi

warnings.filterwarnings("ignore")


# --- networks ---------------------------------------------------------------------------------------------------------


class QuestionNet(nn.Module):
    """The network of the embedded example, for images of another size and with fewer channels."""

    def __init__(self, height: int, width: int, channels: int, classes: int):
        super().__init__()
        self.c1 = nn.Conv2d(1, channels, 3, 1, 1)
        self.f2 = nn.Linear(channels * height * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c1(x)
        return self.f2(x.view(x.size(0), -1))


class BatchNormNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.pool = nn.AvgPool2d(2)
        self.out = nn.Linear(3 * 2 * 2, 3)
        with torch.no_grad():  # running statistics and affine parameters away from 0 and 1, as after training
            self.norm.running_mean.uniform_(-0.3, 0.3)
            self.norm.running_var.uniform_(0.5, 2)
            self.norm.weight.uniform_(0.5, 1.5)
            self.norm.bias.uniform_(-0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.tanh(self.norm(self.conv(x))))
        return self.out(x.flatten(1))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.size(0), x.size(1), x.size(2)
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Transformer(nn.Module):
    """Tokens [B, S] -> scores of the next token [B, V, S]."""

    def __init__(self, vocabulary: int = 7, length: int = 5, width: int = 6, heads: int = 2):
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.3 * torch.randn(length, width))
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 8), nn.GELU(), nn.Linear(8, width))
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position
        x = x + self.attention(self.norm1(x))
        x = x + self.feed(self.norm2(x))
        return self.head(x).transpose(1, 2)


class EncoderLayer(nn.Module):
    """PyTorch's own layer, which takes a path without derivatives when gradients are off."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, dropout=0.1, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, num_layers=2, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.gru(x)
        return self.out(states[:, -1])


class Tied(nn.Module):
    """A language model whose first and last layer share their weight, and that uses one more layer twice."""

    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(6, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 6)
        self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens).mean(1)
        x = torch.tanh(self.mix(x))
        return self.head(torch.tanh(self.mix(x)))


class Unused(nn.Module):
    """The loss depends neither on `spare` nor on the layer `idle`."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Parameter(torch.randn(3, 2))
        self.first = nn.Linear(3, 4)
        self.idle = nn.Linear(2, 2)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(3, 4)
        self.word = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor, word: Tensor) -> Tensor:
        return self.out(torch.tanh(self.dense(x) * self.word(word)))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.word = nn.Embedding(8, 4, padding_idx=0)
        self.out = nn.Linear(4, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(torch.sigmoid(self.word(words).sum(1)))


class ScalarParameter(nn.Module):
    """Parameters without dimensions and without elements, and names with dots."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.nothing = nn.Parameter(torch.empty(0, 3))
        self.layers = nn.ModuleDict({"first": nn.Linear(3, 4), "second": nn.Linear(4, 2)})

    def forward(self, x: Tensor) -> Tensor:
        return self.layers["second"](torch.tanh(self.scale * self.layers["first"](x)))


class WithLoss(nn.Module):
    """The network and its loss in one: forward(inputs, targets) is a mean over samples."""

    def __init__(self):
        super().__init__()
        self.net = mlp(3, 5, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (torch.cosh(self.net(x) - y) - 1).sum(1).mean()


class Autoencoder(nn.Module):
    """Its own loss, from inputs alone."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(4, 2)
        self.decode = nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.decode(torch.tanh(self.encode(x))) - x).square().mean()


class LinearLoss(nn.Module):
    """A loss whose gradient doesn't depend on the parameters."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight[0]).sum(1).mean() + self.weight[1].sum()


class Normalised(nn.Module):
    def __init__(self, *layers: nn.Module, end: str):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(x)
        if self.end == "log_softmax":
            return torch.log_softmax(x, 1)
        return torch.sigmoid(x)


class SlopeMinusValue(nn.Module):
    """The residual of u' = u + cos x: the network's derivative by its input is part of what it returns."""

    def __init__(self):
        super().__init__()
        self.net = mlp(1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        place = x.detach().requires_grad_(True)
        u = self.net(place)
        slope = torch.autograd.grad([u.sum()], [place], create_graph=True)[0]
        assert slope is not None
        return slope - u


class Casting(nn.Module):
    """A language model with its loss, which computes some of it in float32 and half, as those of transformers do."""

    casts: Final[bool]

    def __init__(self, words: int = 7, width: int = 4, casts: bool = True):
        super().__init__()
        self.casts = casts
        self.word = nn.Embedding(words, width)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, width))
        self.value = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.out = nn.Linear(width, words)
        self.register_buffer("phase", torch.linspace(0.1, 0.9, width))

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.word(tokens)
        places = torch.arange(tokens.size(1), dtype=torch.float32 if self.casts else x.dtype)
        x = x + torch.sin(100 * (places / 7).unsqueeze(1) + 100 * self.phase).to(x.dtype)
        h = x.to(torch.float32) if self.casts else x
        x = self.scale * (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        scores = x @ x.transpose(1, 2)
        weights = F.softmax(scores, dim=-1, dtype=torch.float32) if self.casts else F.softmax(scores, dim=-1)
        x = x + weights.to(x.dtype) @ self.value(x)
        gate = torch.sigmoid(self.gate(x).half() if self.casts else self.gate(x))
        logits = self.out(x * gate.to(x.dtype))
        logits = logits.float() if self.casts else logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


class Recommender(nn.Module):
    """Ratings from embeddings of users and items, by their product and a network over both. Item 0 has none."""

    def __init__(self):
        super().__init__()
        self.user = nn.Embedding(6, 3)
        self.item = nn.Embedding(8, 3, padding_idx=0)
        self.net = mlp(6, 4, 1)

    def forward(self, pairs: Tensor) -> Tensor:
        user, item = self.user(pairs[:, 0]), self.item(pairs[:, 1])
        return (user * item).sum(1, keepdim=True) + self.net(torch.cat([user, item], 1))


class TwoSets(nn.Module):
    """A loss over points inside a region and others on its boundary, of which there are fewer."""

    def __init__(self):
        super().__init__()
        self.net = mlp(2, 4, 1)

    def forward(self, interior: Tensor, boundary: Tensor) -> Tensor:
        return self.net(interior).square().mean() + 10 * (self.net(boundary) - 1).square().mean()


class Branches(nn.Module):
    def __init__(self, count: int):
        super().__init__()
        self.trunk = mlp(3, 4, 4)
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(count))

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        x = torch.tanh(self.trunk(x))
        parts = [head(x) for head in self.heads]
        return parts[0], parts[1], parts[2]


class MeanAndVariance(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.variance = mlp(3, 4, 2), mlp(3, 3, 1)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        return self.mean(x), F.softplus(self.variance(x))


class ScriptedLoss(nn.Module):
    """Weighted squares, with a parameter and a buffer of its own that aren't the network's."""

    def __init__(self):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("weight", torch.tensor([0.5, 2.0]))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (self.weight * (1 + (output - target) ** 2) ** self.power).sum(1).mean()


class Blend(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, value: Tensor, scale: Tensor, Shift: Tensor) -> Tensor:
        return self.out(torch.tanh(self.inner(value * scale + Shift)) + self.inner(scale) ** 2)


class SeveralHeads(nn.Module):
    """Scores of classes and, beside them, numbers."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(3, 5)
        self.scores = nn.Linear(5, 4)
        self.numbers = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        x = torch.tanh(self.trunk(x))
        return self.scores(x), self.numbers(x)


class SumOfLosses(nn.Module):
    def forward(self, output: Tuple[Tensor, Tensor], target: Tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(output[0], target[0], label_smoothing=0.1) + 0.5 * F.mse_loss(output[1], target[1])


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def freeze(model: nn.Module, *names: str) -> nn.Module:
    for name, parameter in model.named_parameters():
        if name in names:
            parameter.requires_grad_(False)
    return model


# --- cases ------------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    model: nn.Module
    inputs: list[Tensor]
    targets: Optional[Tensor | tuple[Tensor, ...]]
    loss: Callable  # (output, targets) -> scalar, over the whole data set
    options: list[str] = field(default_factory=list)
    mode: str = "eval"
    dynamic: bool = True  # the exported program takes any number of samples
    whole: tuple[int, ...] = ()  # inputs that are not cut into samples
    exported: bool = True  # by torch.export; else by the package hessian_mpi, which takes derivatives in forward() too
    reference: Optional[nn.Module] = None  # what the program is to compute, where that is not what the model does
    traced: bool = False  # torch.jit.trace instead of torch.jit.script
    selected: Callable[[str], bool] = lambda name: True
    scripted_loss: Optional[nn.Module] = None
    l2: float = 0
    names: Optional[list[str]] = None  # of the inputs, which are written under them, the last first
    by_inputs: dict[int, str] = field(default_factory=dict)  # inputs that span the Hessian, with the names of their arguments


def first(output: Tensor, _targets: Optional[Tensor]) -> Tensor:
    return output


def classes(samples: int, count: int) -> Tensor:
    return torch.randint(0, count, (samples,))


def question() -> Case:
    return Case(QuestionNet(6, 6, 4, 3), [torch.randn(5, 1, 6, 6)], classes(5, 3), F.cross_entropy)


def mlp_mse() -> Case:
    return Case(mlp(4, 6, 5, 2), [torch.randn(7, 4)], torch.randn(7, 2), F.mse_loss, ["--loss", "mse"])


def many_samples() -> Case:
    return Case(mlp(4, 6, 5, 2), [torch.randn(520, 4)], torch.randn(520, 2), F.mse_loss, ["--loss", "mse"])


def float64_model() -> Case:
    case = mlp_mse()
    case.model.double()
    case.inputs = [torch.randn(7, 4, dtype=torch.float64)]
    case.targets = torch.randn(7, 2, dtype=torch.float64)
    return case


def batch_norm_eval() -> Case:
    return Case(BatchNormNet(), [torch.randn(5, 2, 4, 4)], classes(5, 3), F.cross_entropy)


def batch_norm_train() -> Case:
    case = batch_norm_eval()
    case.mode, case.options = "train", ["--mode", "train"]
    return case


def transformer() -> Case:
    tokens = torch.randint(0, 7, (4, 5))
    return Case(Transformer(), [tokens], torch.randint(0, 7, (4, 5)), F.cross_entropy)


def transformer_traced() -> Case:
    case = transformer()
    case.traced = True
    return case


def encoder_layer() -> Case:
    return Case(EncoderLayer(), [torch.randn(4, 3, 4)], classes(4, 3), F.cross_entropy)


def gru() -> Case:
    return Case(Recurrent(), [torch.randn(3, 4, 3)], classes(3, 3), F.cross_entropy)


def tied() -> Case:
    return Case(Tied(), [torch.randint(0, 6, (5, 3))], classes(5, 6), F.cross_entropy)


def frozen() -> Case:
    model = freeze(mlp(3, 4, 4, 3), "0.weight", "2.bias")
    return Case(model, [torch.randn(6, 3)], classes(6, 3), F.cross_entropy)


def unused() -> Case:
    return Case(Unused(), [torch.randn(5, 3)], torch.randn(5, 2), F.mse_loss, ["--loss", "mse"])


def two_inputs() -> Case:
    return Case(TwoInputs(), [torch.randn(6, 3), classes(6, 5)], classes(6, 3), F.cross_entropy)


def embedding() -> Case:
    words = torch.randint(1, 8, (5, 4))
    words[1, 2] = 0
    return Case(Bag(), [words], classes(5, 3), F.cross_entropy)


def recommender() -> Case:
    pairs = torch.stack([classes(9, 6), classes(9, 8)], 1)
    pairs[:2] = torch.tensor([[1, 0], [1, 3]])
    return Case(Recommender(), [pairs], torch.randn(9, 1), F.mse_loss, ["--loss", "mse"])


def odd_parameters() -> Case:
    return Case(ScalarParameter(), [torch.randn(5, 3)], torch.randn(5, 2), F.mse_loss, ["--loss", "mse"])


def scripted_loss() -> Case:
    loss = ScriptedLoss()
    return Case(mlp(3, 4, 2), [torch.randn(6, 3)], torch.randn(6, 2), loss, ["--loss", "@CASE@/loss.pt"], scripted_loss=loss)


def model_computes_loss() -> Case:
    return Case(WithLoss(), [torch.randn(6, 3)], torch.randn(6, 2), first, ["--loss", "output"])


def loss_from_inputs_alone() -> Case:
    return Case(Autoencoder(), [torch.randn(6, 4)], None, first, ["--loss", "output"])


def linear_loss() -> Case:
    return Case(LinearLoss(), [torch.randn(6, 3)], None, first, ["--loss", "output"])


def patterns() -> Case:
    case = question()
    case.model = nn.Sequential(mlp(3, 4), nn.Tanh(), mlp(4, 4, 3))
    case.inputs = [torch.randn(5, 3)]
    case.options = ["--parameters", "2.*.weight", "0.0.bia[st]"]
    case.selected = lambda name: name in ("0.0.bias", "2.0.weight", "2.2.weight")
    return case


def minibatches(reduction: str) -> Case:
    """Seven samples of four targets each, of which some are ignored, and all of the fifth sample's."""
    net = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv1d(3, 4, 1))
    targets = torch.randint(0, 4, (7, 4))
    targets[0, 1] = targets[2, 0] = targets[2, 3] = targets[4] = targets[6, 2] = -100
    options = [] if reduction == "mean" else ["--reduction", reduction]
    return Case(
        net,
        [torch.randn(7, 2, 4)],
        targets,
        lambda output, target: F.cross_entropy(output, target, reduction=reduction),
        options,
    )


def minibatches_mean() -> Case:
    return minibatches("mean")


def minibatches_sum() -> Case:
    return minibatches("sum")


def minibatches_weighted() -> Case:
    """Weights of classes, whose mean is divided by the weights of all targets that are not ignored."""
    case = minibatches("mean")
    case.targets[case.targets == -100] = 255
    case.targets = case.targets.to(torch.uint8)
    weight = [0.5, 3.0, 1.25, 2.0]
    case.options = ["--loss-option", "weight=" + ",".join(map(str, weight)), "ignore_index=255", "label_smoothing=0.2"]
    case.loss = lambda output, target: F.cross_entropy(
        output, target.long(), torch.tensor(weight, dtype=output.dtype), ignore_index=255, label_smoothing=0.2
    )
    return case


def several_heads() -> Case:
    loss = SumOfLosses()
    targets = (classes(6, 4), torch.randn(6, 2))
    return Case(SeveralHeads(), [torch.randn(6, 3)], targets, loss, ["--loss", "@CASE@/loss.pt"], scripted_loss=loss)


def named_inputs() -> Case:
    """Inputs that would fit in any order, under the names of the arguments."""
    inputs = [torch.randn(6, 3) for _ in range(3)]
    return Case(Blend(), inputs, torch.randn(6, 2), F.mse_loss, ["--loss", "mse"], names=["value", "scale", "Shift"])


def l2_of_a_part() -> Case:
    """The term counts all that is trainable, whichever rows and columns are wanted."""
    model = freeze(mlp(3, 4, 4, 3), "0.bias")
    options = ["--l2", "0.05", "--parameters", "*.weight"]
    return Case(model, [torch.randn(6, 3)], classes(6, 3), F.cross_entropy, options, l2=0.05,
                selected=lambda name: name.endswith("weight"))


def l2_of_a_convolution() -> Case:
    case = question()
    case.options, case.l2 = ["--l2", "0.3"], 0.3
    return case


def label_smoothing() -> Case:
    case = soft_targets()
    case.targets = classes(5, 3)
    case.options = ["--loss-option", "label_smoothing=0.3"]
    case.loss = lambda output, target: F.cross_entropy(output, target, label_smoothing=0.3)
    return case


def loss_pos_weight() -> Case:
    weight = torch.tensor([0.5, 4.0], dtype=torch.float64)
    case = regression(
        "bce_with_logits",
        lambda output, target: F.binary_cross_entropy_with_logits(output, target.double(), pos_weight=weight),
        targets=torch.rand(6, 2) < 0.5,
    )
    case.options += ["--loss-option", "pos_weight=0.5,4"]
    return case


def soft_targets() -> Case:
    return Case(mlp(3, 4, 3), [torch.randn(5, 3)], torch.softmax(torch.randn(5, 3), 1), F.cross_entropy)


def regression(name: str, loss: Callable, scale: float = 1.0, targets: Optional[Tensor] = None) -> Case:
    if targets is None:
        targets = scale * torch.randn(6, 2)
    return Case(mlp(3, 4, 2), [torch.randn(6, 3)], targets, loss, ["--loss", name])


def loss_nll() -> Case:
    model = Normalised(*mlp(3, 4, 3), end="log_softmax")
    return Case(model, [torch.randn(6, 3)], classes(6, 3), F.nll_loss, ["--loss", "nll"])


def loss_l1() -> Case:
    return regression("l1", F.l1_loss, 3)


def loss_smooth_l1() -> Case:
    return regression("smooth_l1", F.smooth_l1_loss, 2)


def loss_huber() -> Case:
    return regression("huber", F.huber_loss, 2)


def loss_bce() -> Case:
    model = Normalised(*mlp(3, 4, 2), end="sigmoid")
    return Case(model, [torch.randn(6, 3)], torch.rand(6, 2), F.binary_cross_entropy, ["--loss", "bce"])


def loss_bce_with_logits() -> Case:
    return regression("bce_with_logits", F.binary_cross_entropy_with_logits, targets=torch.rand(6, 2))


def loss_kl_div() -> Case:
    model = Normalised(*mlp(3, 4, 3), end="log_softmax")
    targets = torch.softmax(torch.randn(6, 3), 1)
    return Case(model, [torch.randn(6, 3)], targets, F.kl_div, ["--loss", "kl_div"])


def loss_poisson_nll() -> Case:
    return regression("poisson_nll", F.poisson_nll_loss, targets=torch.randint(0, 5, (6, 2)).float())


def loss_gaussian_nll() -> Case:
    return Case(MeanAndVariance(), [torch.randn(6, 3)], torch.randn(6, 2),
                lambda output, target: F.gaussian_nll_loss(output[0], target, output[1]), ["--loss", "gaussian_nll"])


def loss_triplet() -> Case:
    return Case(Branches(3), [torch.randn(6, 3)], None, lambda output, _: F.triplet_margin_loss(*output),
                ["--loss", "triplet"])


def loss_multi_margin() -> Case:
    """Squares: what is not squared has second derivatives at kinks alone. PyTorch's has none at all."""

    def formula(output: Tensor, target: Tensor) -> Tensor:
        own = target.view(-1, 1)
        return (1 - output.gather(1, own) + output).relu().square().scatter(1, own, 0).mean()

    return Case(mlp(3, 4, 3), [torch.randn(6, 3)], classes(6, 3), formula,
                ["--loss", "multi_margin", "--loss-option", "p=2"])


def loss_soft_margin() -> Case:
    return regression("soft_margin", F.soft_margin_loss, targets=2.0 * torch.randint(0, 2, (6, 2)) - 1)


def loss_exported() -> Case:
    case = several_heads()
    case.options = ["--loss", "@CASE@/loss.pt2"]
    return case


def derivative_by_input() -> Case:
    x = torch.linspace(-1, 1, 6).reshape(6, 1)
    return Case(SlopeMinusValue(), [x], torch.cos(x), F.mse_loss, ["--loss", "mse"], exported=False)


def casts() -> Case:
    """In float64, what the model casts is in float64 as well."""
    tokens = torch.randint(0, 7, (4, 5))
    model, reference = Casting().double(), Casting(casts=False).double()
    model.phase = model.phase.float()
    reference.load_state_dict(model.state_dict())
    return Case(model, [tokens], tokens.clone(), first, ["--loss", "output"], reference=reference)


def two_sets() -> Case:
    """Inputs that share no first dimension, all of them whole."""
    return Case(TwoSets(), [torch.rand(7, 2), torch.rand(3, 2)], None, first, ["--loss", "output"], dynamic=False)


def whole_boundary() -> Case:
    return Case(TwoSets(), [torch.rand(7, 2), torch.rand(3, 2)], None, first,
                ["--loss", "output", "--whole", "boundary"], whole=(1,))


class Molecule(nn.Module):
    """Energy of atoms of several kinds: each pair's by a network of its distance and of what its atoms are."""

    def __init__(self, forces: bool):
        super().__init__()
        self.kind = nn.Embedding(3, 2)
        self.net = mlp(3, 6, 1)
        self.forces = forces

    def forward(self, positions: Tensor, kinds: Tensor) -> Tensor:
        if self.forces:
            positions.requires_grad_(True)
        pairs = torch.triu_indices(positions.size(0), positions.size(0), 1)
        distances = (positions[pairs[0]] - positions[pairs[1]]).square().sum(1, keepdim=True).sqrt()
        of_kinds = self.kind(kinds)
        energy = self.net(torch.cat([distances, of_kinds[pairs[0]] * of_kinds[pairs[1]]], 1)).sum()
        if self.forces:  # their squares, which are part of the scalar: a third derivative of the energy in its Hessian
            slope = torch.autograd.grad([energy], [positions], create_graph=True)[0]
            assert slope is not None
            energy = energy + 0.1 * slope.square().sum()
        return energy


def molecule(forces: bool) -> Case:
    inputs = [torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])]
    return Case(Molecule(forces), inputs, None, first, ["--loss", "output", "--with-respect-to", "inputs:positions"],
                dynamic=False, exported=not forces, by_inputs={0: "positions"})


def by_positions() -> Case:
    return molecule(forces=False)


def by_positions_with_forces() -> Case:
    return molecule(forces=True)


def by_inputs_of_samples() -> Case:
    """All floating inputs are one of two; parameters are frozen or not."""
    case = two_inputs()
    freeze(case.model, "dense.weight")
    case.options, case.by_inputs = ["--with-respect-to", "inputs"], {0: "x"}
    return case


def by_some_inputs() -> Case:
    """Named in another order than the model's, one with a capital letter."""
    case = named_inputs()
    case.options += ["--with-respect-to", "inputs:Shift,value"]
    case.by_inputs = {0: "value", 2: "Shift"}
    return case


class WithoutParameters(nn.Module):
    """Of its three inputs the loss depends on two, on one of them linearly."""

    def forward(self, one: Tensor, two: Tensor, idle: Tensor) -> Tensor:
        return (torch.cosh(one).sum(1) + two[:, 0] * 3).mean() + 0 * idle.detach().sum()


def by_inputs_alone() -> Case:
    inputs = [torch.randn(4, 2), torch.randn(4, 3), torch.randn(4, 1)]
    return Case(WithoutParameters(), inputs, None, first, ["--loss", "output", "--with-respect-to", "inputs"],
                by_inputs={0: "one", 1: "two", 2: "idle"})


CASES = [
    question,
    mlp_mse,
    many_samples,
    float64_model,
    batch_norm_eval,
    batch_norm_train,
    transformer,
    transformer_traced,
    encoder_layer,
    gru,
    tied,
    frozen,
    unused,
    two_inputs,
    embedding,
    recommender,
    odd_parameters,
    scripted_loss,
    model_computes_loss,
    loss_from_inputs_alone,
    linear_loss,
    patterns,
    minibatches_mean,
    minibatches_sum,
    minibatches_weighted,
    several_heads,
    named_inputs,
    l2_of_a_part,
    l2_of_a_convolution,
    label_smoothing,
    loss_pos_weight,
    soft_targets,
    loss_nll,
    loss_l1,
    loss_smooth_l1,
    loss_huber,
    loss_bce,
    loss_bce_with_logits,
    loss_kl_div,
    loss_poisson_nll,
    loss_gaussian_nll,
    loss_triplet,
    loss_multi_margin,
    loss_soft_margin,
    loss_exported,
    derivative_by_input,
    casts,
    two_sets,
    whole_boundary,
    by_positions,
    by_positions_with_forces,
    by_inputs_of_samples,
    by_some_inputs,
    by_inputs_alone,
]


# --- references -------------------------------------------------------------------------------------------------------


def widened(tensor):
    if isinstance(tensor, tuple):
        return tuple(widened(t) for t in tensor)
    return tensor.double() if tensor is not None and tensor.is_floating_point() else tensor


def flattened(output) -> Tensor:
    return torch.cat([part.flatten() for part in (output if isinstance(output, tuple) else (output,))])


def unflattened(numbers: Tensor, like):
    if not isinstance(like, tuple):
        return numbers.view(like.shape)
    return tuple(n.view(part.shape) for n, part in zip(numbers.split([part.numel() for part in like]), like))


def gauss_newton(outputs_of: Callable[[Tensor], Tensor], loss_of: Callable, theta: Tensor) -> Tensor:
    """J^T H_L J, from J and H_L as they are."""
    output = outputs_of(theta)
    jacobian = torch.autograd.functional.jacobian(lambda t: flattened(outputs_of(t)), theta)
    inner = torch.autograd.functional.hessian(lambda y: loss_of(unflattened(y, output)), flattened(output))
    return jacobian.T @ inner @ jacobian


# Cases whose loss is the mean or the sum of what it is for each sample alone.
SAMPLES_ALONE = {"question": "mean", "mlp_mse": "mean", "many_samples": "mean", "transformer": "mean", "minibatches_sum": "sum",
                 "by_inputs_of_samples": "mean"}


def empirical_fisher(value_of: Callable[..., Tensor], theta: Tensor, inputs: list[Tensor], targets: Tensor, reduction: str) -> Tensor:
    """Of gradients of the network's loss on one sample after the other."""
    fisher = torch.zeros(len(theta), len(theta), dtype=torch.float64)
    for s in range(len(targets)):
        gradient = torch.autograd.functional.jacobian(
            lambda t: value_of(t, [x[s : s + 1] for x in inputs], targets[s : s + 1], slice(s, s + 1)), theta)
        fisher += torch.outer(gradient, gradient)
    return fisher / len(targets) if reduction == "mean" else fisher


def write_reference(case: Case, path: pathlib.Path) -> None:
    spanning = [(n, p) for n, p in case.model.named_parameters() if p.requires_grad and case.selected(n)]
    if case.by_inputs:
        spanning = [(name, case.inputs[k]) for k, name in case.by_inputs.items()]
    state = {n: widened(t.detach().clone()) for n, t in [*case.model.named_parameters(), *case.model.named_buffers()]}
    inputs, targets = [widened(x) for x in case.inputs], widened(case.targets)
    model = case.reference or case.model
    loss_module = case.scripted_loss
    loss = loss_module.double().requires_grad_(False) if loss_module is not None else case.loss
    arguments = inputs + ([targets] if case.loss is first and targets is not None else [])

    def evaluated(theta: Tensor, arguments: list[Tensor], samples: slice):
        pieces = theta.split([p.numel() for _, p in spanning])
        mine = {n: piece.view(p.shape) for (n, p), piece in zip(spanning, pieces)}
        if case.by_inputs:
            by_place = {k: mine.pop(name)[samples] for k, name in case.by_inputs.items()}
            arguments = [by_place.get(k, x) for k, x in enumerate(arguments)]
        # Buffers are cloned: BatchNorm in train mode changes its running statistics.
        tensors = {n: t.clone() for n, t in state.items()} | mine
        with sdpa_kernel(SDPBackend.MATH):
            output = functional_call(model, tensors, tuple(arguments), tie_weights=True)
        return output, [tensors[n] for n, p in case.model.named_parameters() if p.requires_grad]

    def value_of(theta: Tensor, arguments=arguments, targets=targets, samples=slice(None)) -> Tensor:
        output, trainable = evaluated(theta, arguments, samples)
        return loss(output, targets) + case.l2 / 2 * sum(p.square().sum() for p in trainable)

    theta = torch.cat([p.detach().double().flatten() for _, p in spanning]).requires_grad_(True)
    value = value_of(theta)
    (gradient,) = torch.autograd.grad(value, theta)
    hessian = torch.autograd.functional.hessian(value_of, theta.detach())
    others = {}
    if case.loss is not first:
        ggn = gauss_newton(lambda t: evaluated(t, arguments, slice(None))[0], lambda y: loss(y, targets), theta.detach())
        others["ggn"] = ggn + case.l2 * torch.eye(len(theta), dtype=torch.float64)
    if path.parent.name in SAMPLES_ALONE:
        others["fisher"] = empirical_fisher(value_of, theta.detach(), inputs, targets, SAMPLES_ALONE[path.parent.name])
    if loss_module is not None:
        loss_module.float().requires_grad_(True)

    if not all(bool(torch.isfinite(t).all()) for t in (value, gradient, hessian)):
        raise SystemExit(f"{path}: the reference is not finite")
    with h5py.File(path, "w") as file:
        file["hessian"] = hessian.numpy()
        file["gradient"] = gradient.numpy()
        for name, matrix in others.items():
            file[name] = matrix.numpy()
        file["value"] = theta.detach().numpy()
        file["loss_value"] = value.item()
        file["names"] = np.array([n.encode() for n, _ in spanning])
        file["shapes"] = np.array([str(list(p.shape)).encode() for _, p in spanning])
        file["sizes"] = np.array([p.numel() for _, p in spanning], dtype=np.int64)


# --- files that the program reads -------------------------------------------------------------------------------------


def write_data(folder: pathlib.Path, inputs: list[Tensor], targets: Optional[Tensor | tuple], stem: str = "data",
               names: Optional[list[str]] = None) -> None:
    by_name = dict(reversed(list(zip(names or range(len(inputs)), inputs))))
    with h5py.File(folder / f"{stem}.h5", "w") as file:
        if len(inputs) == 1:
            file["inputs"] = inputs[0].numpy()
        else:
            for name, tensor in by_name.items():
                file[f"inputs/{name}"] = tensor.numpy()
        if isinstance(targets, tuple):
            for i, tensor in enumerate(targets):
                file[f"targets/{i}"] = tensor.numpy()
        elif targets is not None:
            file["targets"] = targets.numpy()
    content = {"inputs": by_name if names else inputs[0] if len(inputs) == 1 else inputs}
    if targets is not None:
        content["targets"] = targets
    torch.save(content, folder / f"{stem}.pt")


def export_loss(loss: nn.Module, output, targets) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    shapes = torch.utils._pytree.tree_map(lambda _: {0: batch}, (output, targets))
    return torch.export.export(loss, (output, targets), dynamic_shapes=shapes)


def script(model: nn.Module, example: tuple[Tensor, ...], traced: bool = False) -> torch.jit.ScriptModule:
    return torch.jit.trace(model, example) if traced else torch.jit.script(model)


def export(model: nn.Module, example: tuple[Tensor, ...], dynamic: bool = True,
           whole: tuple[int, ...] = ()) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    shapes = tuple({} if k in whole else {0: batch} for k in range(len(example))) if dynamic else None
    return torch.export.export(model, example, dynamic_shapes=shapes)


def write_case(make: Callable[[], Case], out: pathlib.Path) -> None:
    torch.manual_seed(0)
    case = make()
    folder = out / make.__name__
    folder.mkdir(parents=True, exist_ok=True)
    case.model.train(case.mode == "train")
    write_data(folder, case.inputs, case.targets, names=case.names)
    (folder / "options").write_text("".join(option + "\n" for option in case.options))

    example = tuple(case.inputs)
    if case.loss is first and case.targets is not None:
        example += (case.targets,)
    script(case.model, example, case.traced).save(folder / "model.pt")
    if case.exported:
        torch.export.save(export(case.model, example, case.dynamic, case.whole), folder / "model.pt2")
    else:
        data = case.inputs if case.targets is None else (*case.inputs, case.targets)
        hessian_mpi.export(folder / "job", case.model, tuple(data), loss=case.options[1])
        (folder / "job" / "model.pt2").rename(folder / "model.pt2")
    if case.scripted_loss is not None:
        torch.jit.script(case.scripted_loss).save(folder / "loss.pt")
        output = case.model(*example)
        detached = tuple(part.detach() for part in output) if isinstance(output, tuple) else output.detach()
        torch.export.save(export_loss(case.scripted_loss, detached, case.targets), folder / "loss.pt2")
    # Last: functional_call leaves its tensors in the list of weights that recurrent layers keep.
    write_reference(case, folder / "reference.h5")


# --- files handed in by mistake ---------------------------------------------------------------------------------------


class NotScalar(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).square()


class OnceDifferentiable(nn.Module):
    """The backward of segment_reduce has no derivative in PyTorch."""

    def __init__(self):
        super().__init__()
        self.word = nn.Embedding(6, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, words: Tensor) -> Tensor:
        groups = torch.segment_reduce(self.word.weight, "sum", lengths=torch.tensor([2, 4]))
        return self.out(torch.tanh(self.word(words).sum(1) * groups[0] + groups[1]))


class Greedy(nn.Module):
    """Takes more memory than there is in an operator, not for its parameters."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * torch.ones(x.shape[0], 1000000000000000)[:, :1]


class Huge(nn.Module):
    """Four million parameters: a matrix of 64 TB."""

    def __init__(self):
        super().__init__()
        self.big = nn.Parameter(torch.zeros(2000, 2000))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.big[:3, :3]


class SumOfSquares(nn.Module):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.sum(1) - target).square().sum()


class AllFrozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = freeze(nn.Linear(3, 3), "weight", "bias")

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class CutOff(nn.Module):
    """A part is cut off the graph: what autograd derives is not the Hessian."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        return self.second(hidden * hidden.detach())


class AtKink(nn.Module):
    """A hidden unit whose input is exactly zero for a sample of zeros."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)
        nn.init.zeros_(self.first.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x - x[:1])))


class CastsInside(nn.Module):
    """A norm and outputs in float32, whatever the parameters are, as transformers' language models have them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x)).to(torch.float32)
        normed = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)
        return self.second(normed.to(x.dtype)).to(torch.float32)


class HalfInside(nn.Module):
    """Hidden units and outputs in half or bfloat16. cut: a part is cut off the graph, too."""

    brain: Final[bool]
    cut: Final[bool]

    def __init__(self, brain: bool, cut: bool = False):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)
        self.brain, self.cut = brain, cut

    def narrow(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16) if self.brain else x.to(torch.float16)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.narrow(torch.tanh(self.first(self.narrow(x).to(x.dtype)))).to(x.dtype)
        hidden = hidden * (1 + 4 * hidden.detach()) if self.cut else hidden
        return self.narrow(self.second(hidden))


def certain(x: Tensor) -> tuple[nn.Module, Tensor]:
    """A network and targets that it predicts with probabilities of 1 - 1e-20 and more."""
    net = mlp(3, 4, 3).double()
    with torch.no_grad():
        y = net(x)
        two = y.topk(2, 1).values
        factor = 46 / (two[:, 0] - two[:, 1]).min()
        net[-1].weight *= factor
        net[-1].bias *= factor
    return net, y.argmax(1)


def write_both(model: nn.Module, example: tuple[Tensor, ...], path: pathlib.Path) -> None:
    script(model, example).save(path.with_suffix(".pt"))
    torch.export.save(export(model, example), path.with_suffix(".pt2"))


def write_usage_files(folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    x, y = torch.randn(5, 3), classes(5, 3)
    write_both(mlp(3, 4, 3), (x,), folder / "good")
    write_data(folder, [x], y)
    write_both(NotScalar(), (x,), folder / "not_scalar")
    words = torch.randint(0, 6, (5, 2))
    write_both(OnceDifferentiable(), (words,), folder / "once_differentiable")
    write_data(folder, [words], y, "words")
    write_both(Huge(), (x,), folder / "huge")
    write_both(Greedy(), (x,), folder / "greedy")
    write_both(CutOff(), (x,), folder / "cut_off")
    write_both(AtKink(), (x,), folder / "at_kink")
    write_both(CastsInside().double(), (x.double(),), folder / "casts_inside")
    write_both(AllFrozen(), (x,), folder / "all_frozen")
    write_both(nn.Linear(1, 1, bias=False), (torch.randn(2, 1),), folder / "one_parameter")
    write_data(folder, [torch.randn(4, 1)], torch.randn(4, 1), "one_parameter_data")

    write_both(mlp(30, 40, 5), (torch.randn(4, 30),), folder / "slow")  # 1,445 rows of milliseconds: time to interrupt
    write_data(folder, [torch.randn(9000, 30)], classes(9000, 5), "slow_data")
    write_data(folder, [torch.randn(600, 30)], classes(600, 5), "brief_data")

    write_data(folder, [x], y[:4], "unequal")
    write_data(folder, [x], y.float(), "float_classes")
    write_data(folder, [x], torch.tensor([0, 1, 2, 3, 0]), "class_too_large")
    write_data(folder, [x], torch.tensor([0, 1, -1, 2, 0]), "class_negative")
    write_data(folder, [torch.randn(5, 7)], y, "wrong_width")
    write_data(folder, [torch.where(torch.arange(15).view(5, 3) == 7, math.nan, x)], y, "nan")
    write_data(folder, [x], None, "no_targets")
    write_data(folder, [x[:0]], y[:0], "no_samples")
    with h5py.File(folder / "no_inputs.h5", "w") as file:
        file["x"] = x.numpy()
        file["targets"] = y.numpy()
    torch.save({"x": x, "targets": y}, folder / "no_inputs.pt")
    torch.save((x, y), folder / "tuple.pt")
    torch.save(nn.CrossEntropyLoss(), folder / "pickled_loss.pt")
    torch.jit.script(SumOfSquares()).save(folder / "sum_of_squares.pt")
    for dtype in ("float16", "bfloat16"):
        for cut in (False, True):
            model = HalfInside(dtype == "bfloat16", cut).double()
            torch.jit.script(model).save(folder / f"{dtype}_inside{'_cut_off' if cut else ''}.pt")
    model, labels = certain(x.double())
    torch.jit.script(model).save(folder / "certain.pt")
    write_data(folder, [x.double()], labels, "certain_data")


def main(arguments: list[str]) -> None:
    out, names = pathlib.Path(arguments[0]), arguments[1:]
    known = {make.__name__: make for make in CASES}
    for name in names or known:
        write_case(known[name], out)
    if not names:
        write_usage_files(out / "usage")
        (out / "cases").write_text("".join(name + "\n" for name in known))


if __name__ == "__main__":
    main(sys.argv[1:])
