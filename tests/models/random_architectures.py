#!/usr/bin/env python3
"""Random small networks with data and reference Hessians, for tests that compare ways of deriving them.

usage: random_architectures.py OUT [COUNT]

Writes the folder OUT/random/ with one folder for each of COUNT networks (default: 208), the same in every run:

  model.pt or model.pt2   the network in float64: scripted, traced, exported, or exported and cut into core operators
  data.h5                 inputs and targets
  options                 what the program is to be told beside the output: one argument a line, @CASE@ is the folder
  reference.h5            hessian, gradient and loss_value in float64

and at last the file `cases`, a line for each: its name, then what it is about.

Each part in random_blocks.py is the theme of one of the first 164 networks at least; all else is drawn. A draw is
dropped, and drawn again, where the matrix would be too large or float32 is too coarse for it.

References come from PyTorch in eager mode, row by row, and are held against differences of gradients. Weights and data
are exact in float32.
"""

import copy
import fnmatch
import itertools
import multiprocessing
import pathlib
import shutil
import sys
import warnings
from dataclasses import dataclass, field
from typing import Callable, Iterator, Optional

import h5py
import torch
from random_blocks import IMAGES, SEQUENCES, VECTORS, Draw, Shape
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

warnings.filterwarnings("ignore")

LEAST, MOST = 50, 600  # parameters of a network
FEWEST = 6  # of those that span the matrix, where --parameters or freezing leave some out
COARSEST = 2e-6  # of H in float32, against float64 and relative to the largest element: far from what tests allow
# Where something is left out of the backward pass: what PyTorch calls the gradient is that of no function.
NO_GRADIENT = {"detached_branch", "embedding_with_padding"}
FORMS = ("script", "export", "script", "trace", "script", "export", "trace", "core")


class Unfit(Exception):
    """A draw that makes no case."""


# --- the whole network ------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Tokens [B, T] -> scores of each position [B, V, T], by the weight that embeds them."""

    def __init__(self, token: nn.Embedding, body: nn.Module, width: int):
        super().__init__()
        self.token, self.body = token, body
        self.last = nn.Linear(width, token.embedding_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.tanh(self.last(self.body(self.token(tokens))))
        return F.linear(x, self.token.weight).transpose(1, 2)


class TwoInputs(nn.Module):
    def __init__(self, width: int, words: int, body: nn.Module):
        super().__init__()
        self.dense, self.word = nn.Linear(width, width), nn.Embedding(words, width)
        self.body = body

    def forward(self, x: Tensor, word: Tensor) -> Tensor:
        return self.body(torch.tanh(self.dense(x)) * self.word(word))


class View(nn.Module):
    """From one kind of part to another, without parameters."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "mean over positions":
            return x.mean(1)
        if self.how == "last position":
            return x[:, -1]
        if self.how == "mean over sizes":
            return x.flatten(2).mean(2)
        if self.how == "positions as sequence":
            return x.flatten(2).transpose(1, 2)
        if self.how == "classes first":
            return x.movedim(-1, 1)
        if self.how == "log_softmax":
            return torch.log_softmax(x, 1)
        if self.how == "sigmoid":
            return torch.sigmoid(x)
        return x.reshape(x.size(0), -1)


class PositionWeights(nn.Module):
    """A sum over positions by weights that the positions themselves give."""

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (torch.softmax(self.score(x), 1) * x).sum(1)


class OwnLoss(nn.Module):
    """A network with its loss: a mean over samples and what stands beside it."""

    def __init__(self, body: nn.Module, how: str, penalised: Optional[nn.Parameter]):
        super().__init__()
        self.body = body
        self.how = how
        # The second name of a weight of the body, which comes first among the names.
        self.penalised = penalised if penalised is not None else nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.body(x).flatten(1)
        difference = z - y.flatten(1)
        penalty = self.penalised.square().sum() * 0.05
        if self.how == "log cosh":
            return (torch.cosh(0.5 * difference) - 1).sum(1).mean() + penalty
        if self.how == "between samples":
            return (z @ z.t()).square().mean() * 0.1 + difference.square().mean() + penalty
        if self.how == "squared mean":
            return difference.mean(0).square().sum() + difference.square().mean() + penalty
        return torch.logsumexp(difference, 1).mean() + torch.exp(-penalty)


class ScriptedLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.7))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        difference = (output - target).flatten(1)
        return ((self.scale + difference.square()).sqrt().sum(1) + 0.1 * difference.sum(1).square()).mean()


# --- cases ------------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    model: nn.Module
    inputs: list[Tensor]
    targets: Tensor
    loss: str
    reduction: str = "mean"
    mode: str = "eval"
    batch_size: Optional[int] = None
    patterns: Optional[list[str]] = None
    about: list[str] = field(default_factory=list)
    scripted_loss: Optional[nn.Module] = None

    def batches(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        size = self.batch_size or len(self.targets)
        for begin in range(0, len(self.targets), size):
            yield [x[begin : begin + size] for x in self.inputs], self.targets[begin : begin + size]

    def arguments(self, inputs: list[Tensor], targets: Tensor) -> tuple[Tensor, ...]:
        return (*inputs, targets) if self.loss == "output" else tuple(inputs)

    def spanning(self) -> list[tuple[str, nn.Parameter]]:
        patterns = self.patterns or ["*"]
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        return [(n, p) for n, p in trained if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns)]


# The theme of a case: where it stands, its name, and for images how many sizes they have.
Theme = tuple[str, str, Optional[int]]


def themes() -> list[Theme]:
    found: list[Theme] = [("vector", name, None) for name in VECTORS]
    found += [("sequence", name, None) for name in SEQUENCES]
    found += [("image", name, None) for name in IMAGES]
    in_all_sizes = ("conv", "conv_padded", "conv_depthwise", "conv_transposed", "conv_transposed_grouped", "conv_tied")
    found += [("image", name, sizes) for name in in_all_sizes for sizes in (1, 2, 3)]
    found += [("start", name, None) for name in STAGES]
    # Next to each other are different kinds, so that any count has all of them.
    return [found[(k * 61) % len(found)] for k in range(len(found))]


class Growing:
    """A network that grows part by part; sample: what the parts so far make of a few samples."""

    def __init__(self, draw: Draw, sample: Tensor):
        self.draw, self.sample = draw, sample
        self.parts: list[nn.Module] = []
        self.about: list[str] = []

    def shape(self) -> Shape:
        return tuple(self.sample.shape[1:])

    def add(self, part: nn.Module, name: str = "") -> None:
        # In train mode parts would change what they remember of their inputs.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            self.sample = part.eval()(self.sample.clone())
        self.parts.append(part)
        if name:
            self.about.append(name)

    def add_drawn(self, kinds: dict[str, Callable], name: Optional[str] = None) -> None:
        name = name or self.draw.choice(list(kinds))
        self.add(kinds[name](self.draw, self.shape()), name)

    def body(self) -> nn.Module:
        return nn.Sequential(*self.parts)


STAGES = {"two_inputs": "vector", "large_image": "image", "tokens": "sequence", "tied_embedding": "sequence"}
KINDS = {"vector": VECTORS, "sequence": SEQUENCES, "image": IMAGES}
ADAPTIVE = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def to_sequence_or_vector(growing: Growing) -> str:
    """From an image."""
    draw, shape = growing.draw, growing.shape()
    if growing.sample[0].numel() > 36 and draw.chance(0.7):
        size = len(shape) - 1
        growing.add(ADAPTIVE[size](2 if size < 3 else (2, 1, 2)))
    if growing.sample[0].numel() <= 36 and draw.chance(0.3):
        growing.add(View("positions as sequence"))
        return "sequence"
    growing.add(View("flatten" if growing.sample[0].numel() <= 36 else "mean over sizes"))
    return "vector"


def to_vector(growing: Growing) -> None:
    """From a sequence."""
    how = growing.draw.choice(["mean over positions", "last position", "flatten", "weights of positions"])
    if how == "weights of positions":
        growing.add(PositionWeights(growing.shape()[1]), "position_weights")
    else:
        growing.add(View(how))


def grow(growing: Growing, stage: str, theme: Theme) -> None:
    """Parts before and after the theme, and the way to what the loss sees: [B, C] or [B, C, ...]."""
    draw = growing.draw
    if draw.chance(0.35):
        growing.add_drawn(KINDS[stage])
    if theme[0] == "start":
        growing.add_drawn(KINDS[stage])
    else:
        growing.add_drawn(KINDS[stage], theme[1])
    for _ in range(draw.choice([0, 1, 1, 2])):
        growing.add_drawn(KINDS[stage])
    if stage == "image" and draw.chance(0.8):
        stage = to_sequence_or_vector(growing)
    if stage == "sequence" and draw.chance(0.6):
        to_vector(growing)
        stage = "vector"
    if draw.chance(0.75):
        add_head(growing, stage)
    elif stage == "sequence":
        growing.add(View("classes first"))


def add_head(growing: Growing, stage: str) -> None:
    draw, shape = growing.draw, growing.shape()
    if stage == "image":
        head = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(shape) - 1](shape[0], 3, 1)
        growing.add(head, "dense_head")
        return
    growing.add(nn.Linear(shape[-1], draw.randint(2, 4), bias=draw.chance(0.8)), "linear_head")
    if stage == "sequence":
        growing.add(View("classes first"))


def image_sizes(draw: Draw, theme: Theme) -> Shape:
    if theme[1] == "large_image":
        return (draw.randint(9, 12), draw.randint(9, 12))
    sizes = theme[2] or draw.choice([1, 2, 2, 2, 3])
    largest = {1: 9, 2: 6, 3: 4}[sizes]
    return tuple(draw.randint(max(2, largest - 3), largest) for _ in range(sizes))


def draw_network(draw: Draw, theme: Theme, samples: int) -> tuple[nn.Module, list[Tensor], Growing]:
    stage = STAGES.get(theme[1], theme[0])
    if stage == "vector":
        inputs = [torch.randn(samples, draw.width())]
        growing = Growing(draw, inputs[0])
        grow(growing, stage, theme)
        if theme[1] == "two_inputs":
            words = draw.randint(3, 5)
            inputs.append(torch.randint(0, words, (samples,)))
            return TwoInputs(inputs[0].size(1), words, growing.body()), inputs, growing
        return growing.body(), inputs, growing
    if stage == "image":
        inputs = [torch.randn(samples, draw.randint(1, 3), *image_sizes(draw, theme))]
        growing = Growing(draw, inputs[0])
        grow(growing, stage, theme)
        return growing.body(), inputs, growing
    return draw_sequence_network(draw, theme, samples)


def draw_sequence_network(draw: Draw, theme: Theme, samples: int) -> tuple[nn.Module, list[Tensor], Growing]:
    length, width = draw.randint(2, 5), draw.choice([3, 4, 4, 5, 6])
    if theme[0] == "sequence" and draw.chance(0.7):
        inputs = [torch.randn(samples, length, width)]
        growing = Growing(draw, inputs[0])
        grow(growing, "sequence", theme)
        return growing.body(), inputs, growing
    words = draw.randint(4, 7)
    tokens = torch.randint(0, words, (samples, length))
    padding = 0 if draw.chance(0.3) else None
    token = nn.Embedding(words, width, padding_idx=padding)
    name = "embedding" if padding is None else "embedding_with_padding"
    if theme[1] != "tied_embedding":
        growing = Growing(draw, tokens)
        growing.add(token, name)
        grow(growing, "sequence", theme)
        return growing.body(), [tokens], growing
    growing = Growing(draw, token(tokens).detach())
    growing.about.append(name)
    for _ in range(draw.randint(1, 2)):
        growing.add_drawn(SEQUENCES)
    model = Tied(token, growing.body(), growing.shape()[1])
    growing.sample = model(tokens).detach()
    return model, [tokens], growing


# --- losses -----------------------------------------------------------------------------------------------------------


def indices(draw: Draw, output: Tensor) -> Tensor:
    shape = (output.shape[0], *output.shape[2:])
    targets = torch.randint(0, output.shape[1], shape)
    if len(shape) > 1 and draw.chance(0.3):
        targets[0] = -100  # ignored: batches of different weights
    return targets


def probabilities(draw: Draw, output: Tensor) -> Tensor:
    return torch.softmax(torch.randn(output.shape), 1)


# Each loss, what its targets are, what the network ends with for it, and the sum of its terms over a batch.
@dataclass
class Loss:
    targets: Callable[[Draw, Tensor], Tensor]
    summed: Callable[[Tensor, Tensor], Tensor]
    end: str = ""


def summed(function: Callable) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda output, targets: function(output, targets, reduction="sum")


def normal(draw: Draw, output: Tensor) -> Tensor:
    return torch.randn(output.shape)


def uniform(draw: Draw, output: Tensor) -> Tensor:
    return torch.rand(output.shape)


LOSSES = {
    "cross_entropy": Loss(indices, summed(F.cross_entropy)),
    "mse": Loss(normal, summed(F.mse_loss)),
    "bce_with_logits": Loss(uniform, summed(F.binary_cross_entropy_with_logits)),
    "kl_div": Loss(probabilities, summed(F.kl_div), "log_softmax"),
    "huber": Loss(normal, summed(F.huber_loss)),
    "nll": Loss(indices, summed(F.nll_loss), "log_softmax"),
    "bce": Loss(uniform, summed(F.binary_cross_entropy), "sigmoid"),
    "smooth_l1": Loss(normal, summed(F.smooth_l1_loss)),
    "poisson_nll": Loss(lambda draw, output: torch.randint(0, 4, output.shape).float(), summed(F.poisson_nll_loss)),
    "soft cross_entropy": Loss(probabilities, summed(F.cross_entropy)),
}
MOST_USED = ("cross_entropy", "cross_entropy", "mse", "mse", "output", "output", "bce_with_logits", "kl_div", "huber")


def add_loss(draw: Draw, case: Case, output: Tensor) -> None:
    names = [*MOST_USED, *LOSSES, "file"]
    if output.shape[1] < 2:
        names = [n for n in names if n in ("mse", "bce_with_logits", "huber", "output", "file")]
    name = draw.choice(names if len(case.inputs) == 1 else [n for n in names if n != "output"])
    case.about.append(f"loss_{name}".replace(" ", "_"))
    if name == "output":
        weights = [p for p in case.model.parameters() if p.dim() > 1]
        penalised = draw.choice(weights) if weights and draw.chance(0.6) else None
        case.about += ["penalised_weight"] if penalised is not None else []
        case.model = OwnLoss(case.model, draw.choice(["log cosh", "between samples", "squared mean", "log"]), penalised)
        case.targets, case.loss = normal(draw, output), name
        return
    if name == "file":
        case.scripted_loss, case.targets, case.loss = ScriptedLoss(), normal(draw, output), name
        return
    loss = LOSSES[name]
    case.targets, case.loss = loss.targets(draw, output), name
    if loss.end:
        case.model = nn.Sequential(case.model, View(loss.end))


def sum_and_count(case: Case, output: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """What a batch adds to the loss and to the number that a mean divides by."""
    if case.loss in ("output", "file"):
        value = output if case.loss == "output" else case.scripted_loss(output, targets)
        return (value * len(targets), len(targets)) if case.reduction == "mean" else (value, 1)
    if not targets.is_floating_point():
        count = (targets != -100).sum().item()
    else:
        count = output.numel() / (output.shape[1] if case.loss == "soft cross_entropy" else 1)
    return LOSSES[case.loss].summed(output, targets), count


# --- drawing a case ---------------------------------------------------------------------------------------------------


def see_samples_together(about: list[str]) -> bool:
    return any("batch_norm" in name for name in about)


def choose_batches(draw: Draw, case: Case) -> None:
    samples = len(case.targets)
    if samples == 1 or draw.chance(0.65):
        return
    # BatchNorm over few samples is steep; the last batch is the smaller one.
    batch_size = draw.randint(samples // 2 + 1, samples - 1) if samples > 7 else draw.randint(1, samples - 1)
    if isinstance(case.model, OwnLoss) and case.model.how in ("between samples", "squared mean"):
        return  # in batches it is another loss, and refused
    case.batch_size = batch_size
    case.about.append("batches")


def choose_parameters(draw: Draw, case: Case) -> None:
    if draw.chance(0.15):  # one is frozen
        parameters = [p for p in case.model.parameters() if p.requires_grad]
        draw.choice(parameters).requires_grad_(False)
        case.about.append("frozen")
    if draw.chance(0.8):
        return
    names = [n for n, p in case.model.named_parameters() if p.requires_grad]
    if draw.chance(0.3) and any(n.endswith("bias") for n in names):
        case.patterns = ["*bias"]
    elif draw.chance(0.3) and any(n.endswith("weight") for n in names):
        case.patterns = ["*weight"]
    else:
        left_out = draw.choice(names)
        case.patterns = [n for n in names if n != left_out]
    case.about.append("some_parameters")


def choose_mode(draw: Draw, case: Case, theme: Theme) -> None:
    train = theme[1].endswith("_train") or (not theme[1].endswith("_eval") and draw.chance(0.3))
    case.mode = "train" if train else "eval"
    case.model.train(train)


def draw_case(draw: Draw, theme: Theme) -> Case:
    torch.manual_seed(draw.randrange(2**31))
    samples = draw.randint(8, 11) if "batch_norm" in theme[1] else draw.choice([1, 2, 3, 3, 4, 5, 5, 6, 7])
    model, inputs, growing = draw_network(draw, theme, samples)
    if see_samples_together(growing.about) and samples < 8:
        raise Unfit("BatchNorm over few samples")
    case = Case(model, inputs, torch.empty(0), "", about=[*growing.about])
    add_loss(draw, case, growing.sample)
    choose_mode(draw, case, theme)
    choose_batches(draw, case)
    if see_samples_together(case.about) and case.batch_size and samples % case.batch_size in (1, 2, 3):
        raise Unfit("BatchNorm over few samples")
    if draw.chance(0.2) and case.loss not in ("output", "file"):  # which are means
        case.reduction = "sum"
    choose_parameters(draw, case)
    case.about += [f"{samples}_samples", case.mode, case.reduction]
    spanning = sum(p.numel() for _, p in case.spanning())
    if not LEAST <= sum(p.numel() for p in case.model.parameters()) <= MOST or spanning < FEWEST:
        raise Unfit("number of parameters")
    return case


# --- references -------------------------------------------------------------------------------------------------------


def in_dtype(case: Case, dtype: torch.dtype) -> Case:
    """A copy; weights and data are exact in float32."""
    converted = copy.deepcopy(case)
    converted.model.to(dtype)
    if converted.scripted_loss is not None:
        converted.scripted_loss.to(dtype)
    *converted.inputs, converted.targets = (
        x.to(dtype) if x.is_floating_point() else x for x in (*converted.inputs, converted.targets)
    )
    return converted


def loss_of(case: Case) -> Tensor:
    total, count = torch.zeros(()), 0.0
    for inputs, targets in case.batches():
        # Copies: a network may write into what it is given.
        output = case.model(*(x.clone() for x in case.arguments(inputs, targets)))
        value, terms = sum_and_count(case, output, targets)
        total, count = total + value, count + terms
    return total / count if case.reduction == "mean" else total


def derivatives(value: Tensor, parameters: list[Tensor], keep: bool = False) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(p) for p in parameters]
    return list(torch.autograd.grad(value, parameters, create_graph=keep, retain_graph=True, materialize_grads=True))


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


@dataclass
class Derivatives:
    loss: Tensor
    gradient: Tensor
    hessian: Tensor


def derive(case: Case, every: int = 1) -> Derivatives:
    """Every so many rows of the matrix."""
    parameters = [p for _, p in case.spanning()]
    with sdpa_kernel(SDPBackend.MATH):
        loss = loss_of(case)
        gradient = derivatives(loss, parameters, keep=True)
        # By pieces: a row is derived from the piece that holds its element, and not from all others times zero.
        elements = [g for piece in gradient for g in piece.flatten().unbind()]
        hessian = torch.stack([flat(derivatives(g, parameters)) for g in elements[::every]])
    return Derivatives(loss.detach(), flat(gradient), hessian)


def difference_error(case: Case, hessian: Tensor) -> float:
    """Of H v for a random v, against central differences of the gradient, relative to the largest element of H v."""
    parameters = [p for _, p in case.spanning()]
    v = torch.randn(hessian.shape[0], dtype=hessian.dtype)
    step = 1e-6
    gradients = []
    for factor in (step, -2 * step, step):  # there, to the other side, and back
        with torch.no_grad():
            for p, piece in zip(parameters, v.split([p.numel() for p in parameters])):
                p.add_(factor * piece.view(p.shape))
        with sdpa_kernel(SDPBackend.MATH):
            gradients.append(flat(derivatives(loss_of(case), parameters)))
    found = (gradients[0] - gradients[1]) / (2 * step)
    scale = max((hessian @ v).abs().max().item(), gradients[2].abs().max().item() * 1e-3, 1e-300)
    return ((found - hessian @ v).abs().max() / scale).item()


def reference_of(case: Case) -> Derivatives:
    wide = in_dtype(case, torch.float64)
    exact, coarse = derive(wide), derive(in_dtype(case, torch.float32), every=3)
    if not all(bool(torch.isfinite(t).all()) for t in (exact.loss, exact.gradient, exact.hessian)):
        raise Unfit("not finite")
    scale = exact.hessian.abs().max().item()
    if scale < 1e-4 or scale > 1e4:
        raise Unfit("scale")
    if not (coarse.hessian.double() - exact.hessian[::3]).abs().max().item() <= COARSEST * scale:
        raise Unfit("coarse in float32")
    error = difference_error(wide, exact.hessian)
    if not error < 1e-5 and not NO_GRADIENT.intersection(case.about):
        raise RuntimeError(
            f"PyTorch's second derivatives are not those of its first ({error}): {case.about}\n{case.model}"
        )
    return exact


# --- files ------------------------------------------------------------------------------------------------------------


def exported(case: Case, example: tuple[Tensor, ...], core: bool) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in example) if case.batch_size else None
    program = torch.export.export(case.model, example, dynamic_shapes=shapes)
    return program.run_decompositions() if core else program


def saved(case: Case, form: str, folder: pathlib.Path) -> pathlib.Path:
    example = tuple(x.clone() for x in case.arguments(case.inputs, case.targets))
    if form in ("export", "core"):
        torch.export.save(exported(case, example, form == "core"), folder / "model.pt2")
        return folder / "model.pt2"
    traced = form == "trace"
    module = torch.jit.trace(case.model, example, check_trace=False) if traced else torch.jit.script(case.model)
    module.save(folder / "model.pt")
    return folder / "model.pt"


def runs_alike(case: Case, file: pathlib.Path) -> bool:
    """Whether the file holds the network, for batches of all sizes."""
    loaded = torch.jit.load(file) if file.suffix == ".pt" else torch.export.load(file).module()
    with sdpa_kernel(SDPBackend.MATH):
        for inputs, targets in case.batches():
            arguments = case.arguments(inputs, targets)
            found, expected = (run(*(x.clone() for x in arguments)) for run in (loaded, copy.deepcopy(case.model)))
            if not torch.allclose(found, expected, rtol=1e-12, atol=1e-13):
                return False
    return True


def save_as(case: Case, form: str, folder: pathlib.Path) -> str:
    """In this form, or as script where that fails: tracing fixes what Python decided, exporting some batch sizes."""
    for attempt in dict.fromkeys((form, "script")):
        try:
            with sdpa_kernel(SDPBackend.MATH):
                file = saved(copy.deepcopy(case), attempt, folder)
            if runs_alike(case, file):
                return attempt
        except Exception:  # whatever PyTorch throws
            if attempt == "script":
                raise
        for file in folder.glob("model.*"):
            file.unlink()
    raise RuntimeError(f"not even TorchScript holds {case.about}")


def options_of(case: Case, model: str) -> list[str]:
    loss = {"file": "@CASE@/loss.pt", "soft cross_entropy": "cross_entropy"}.get(case.loss, case.loss)
    options = ["--model", f"@CASE@/{model}", "--data", "@CASE@/data.h5", "--loss", loss, "--mode", case.mode]
    if case.reduction != "mean":
        options += ["--reduction", case.reduction]
    if case.batch_size:
        options += ["--batch-size", str(case.batch_size)]
    if case.patterns:
        options += ["--parameters", *case.patterns]
    return options


def write_case(case: Case, form: str, folder: pathlib.Path) -> str:
    found = reference_of(case)
    case = in_dtype(case, torch.float64)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    form = save_as(case, form, folder)
    if case.scripted_loss is not None:
        torch.jit.script(case.scripted_loss).save(folder / "loss.pt")
    with h5py.File(folder / "data.h5", "w") as file:
        for i, tensor in enumerate(case.inputs):
            file["inputs" if len(case.inputs) == 1 else f"inputs/{i}"] = tensor.numpy()
        file["targets"] = case.targets.numpy()
    with h5py.File(folder / "reference.h5", "w") as file:
        file["hessian"], file["gradient"] = found.hessian.numpy(), found.gradient.numpy()
        file["loss_value"] = found.loss.item()
    model = "model.pt2" if form in ("export", "core") else "model.pt"
    (folder / "options").write_text("".join(option + "\n" for option in options_of(case, model)))
    return " ".join([form, f"N={found.gradient.numel()}", *case.about])


def write_first_that_fits(number: int, theme: Theme, out: pathlib.Path) -> str:
    """The line of `cases` about it."""
    torch.set_num_threads(1)  # the same last digits on every machine
    name = f"{number:03}_{theme[1]}"
    for attempt in range(300):
        try:
            case = draw_case(Draw(f"{number} {attempt}"), theme)
            about = write_case(case, FORMS[number % len(FORMS)], out / name)
            return f"{name} {about}\n"
        except Unfit:
            continue
    raise RuntimeError(f"no network about {theme} fits")


def main(arguments: list[str]) -> None:
    out, count = pathlib.Path(arguments[0]) / "random", int(arguments[1]) if len(arguments) > 1 else 208
    draws = zip(range(count), itertools.cycle(themes()), itertools.repeat(out))
    with multiprocessing.Pool() as pool:
        lines = pool.starmap(write_first_that_fits, draws, chunksize=1)
    (out / "cases").write_text("".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
