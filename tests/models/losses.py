#!/usr/bin/env python3
"""Values and gradients of the named losses by torch.nn.functional, in float64.

usage: losses.py OUT

Writes OUT/losses.pt: a list of dicts with

  loss, options      what `--loss` and `--loss-option` are to be told
  reduction          mean or sum
  output, targets    the model's output in float64 (a tuple where the loss takes several) and the targets (or None), for
                     all samples
  batch_size         how many samples are to be seen at once
  value, gradients   of the loss by the outputs, over all samples at once
"""

import pathlib
import random
import sys
from typing import Any, Callable, Optional

import torch
from torch import Tensor
from torch.nn import functional as F

INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(5,), (7, 1), (6, 3), (4, 2, 3), (3, 2, 2, 2)]
SHAPES_OF_CLASSES = [(7, 4), (5, 1), (6, 3, 2), (4, 5, 2, 3)]


def text_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return ",".join(repr(x) for x in value.tolist())
    return repr(value).lower() if isinstance(value, bool) else repr(value)


def words_of(arguments: dict[str, Any]) -> list[str]:
    return [f"{name}={text_of(value)}" for name, value in arguments.items()]


def chosen(arguments: dict[str, Any]) -> dict[str, Any]:
    """Some of the arguments, in any order."""
    names = [name for name in arguments if random.random() < 0.6]
    random.shuffle(names)
    return {name: arguments[name] for name in names}


def weights(count: int) -> Tensor:
    return 0.1 + 2 * torch.rand(count, dtype=torch.float64)


def case(loss: str, options: list[str], reduction: str, output, targets: Optional[Tensor], formula: Callable) -> dict:
    outputs = [part.detach().requires_grad_() for part in (output if isinstance(output, tuple) else [output])]
    value = formula(*outputs)
    gradients = torch.autograd.grad(value, outputs, allow_unused=True)
    if not bool(torch.isfinite(value)):
        raise SystemExit(f"{loss} {options} is not finite")
    return {
        "loss": loss,
        "options": options,
        "reduction": reduction,
        "outputs": [part.detach() for part in outputs],
        "targets": targets,
        "batch_size": random.choice([1, 2, 3, outputs[0].size(0)]),
        "value": value.detach(),
        "gradients": list(gradients),
    }


def of_classes(loss: str, reduction: str) -> dict:
    shape = random.choice(SHAPES_OF_CLASSES)
    classes = shape[1]
    output = 2 * torch.randn(shape, dtype=torch.float64)
    ignored = random.choice([-100, -1, 0, classes - 1, 100])
    arguments: dict[str, Any] = {"weight": weights(classes), "ignore_index": ignored}
    if loss == "cross_entropy":
        arguments["label_smoothing"] = random.choice([0.0, 0.1, random.random(), 1.0])
    arguments = chosen(arguments)
    dtype = random.choice(INTEGERS)
    targets = torch.randint(0, classes, (shape[0], *shape[2:]))
    if classes == 1 or "ignore_index" not in arguments:
        arguments.pop("ignore_index", None)
        ignored = -100
    if random.random() < 0.7 and (ignored >= 0 or dtype != torch.uint8):
        targets[torch.rand(targets.shape) < 0.3] = ignored
        targets.view(-1)[0] = next(c for c in range(classes) if c != ignored)
    function = F.cross_entropy if loss == "cross_entropy" else F.nll_loss
    return case(loss, words_of(arguments), reduction, output, targets.to(dtype),
                lambda o: function(o, targets, reduction=reduction, **arguments))


def of_probabilities(reduction: str) -> dict:
    shape = random.choice(SHAPES_OF_CLASSES)
    output = 2 * torch.randn(shape, dtype=torch.float64)
    arguments = chosen({"weight": weights(shape[1]), "label_smoothing": random.random(), "ignore_index": -5})
    targets = torch.rand(shape).to(random.choice(FLOATS))
    return case("cross_entropy", words_of(arguments), reduction, output, targets,
                lambda o: F.cross_entropy(o, targets.double(), reduction=reduction, **arguments))


def regression(loss: str, reduction: str) -> dict:
    shape = random.choice(SHAPES)
    output = 2 * torch.randn(shape, dtype=torch.float64)
    targets = numbers(shape, output)
    arguments: dict[str, Any] = {}
    if loss != "smooth_l1":
        arguments["weight"] = weights(random.choice([1, shape[-1]]) if len(shape) > 1 else 1)
    if loss == "smooth_l1":
        arguments["beta"] = random.choice([0.0, 0.3, 2.5])
    if loss == "huber":
        arguments["delta"] = random.choice([0.3, 2.5])
    arguments = chosen(arguments)
    full = dict(arguments)
    if "weight" in full:  # which PyTorch wants in the shape of the output
        full["weight"] = full["weight"].expand(shape)
    function = {"mse": F.mse_loss, "l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss, "huber": F.huber_loss}[loss]
    return case(loss, words_of(arguments), reduction, output, targets,
                lambda o: function(o, targets.double(), reduction=reduction, **full))


def numbers(shape: tuple[int, ...], near: Optional[Tensor] = None) -> Tensor:
    kind = random.random()
    if kind < 0.3:
        return torch.randint(0, 3, shape).to(random.choice(INTEGERS))
    if kind < 0.4:
        return torch.rand(shape) < 0.5
    values = torch.rand(shape, dtype=torch.float64) if near is None else near + torch.randn(shape, dtype=torch.float64)
    return values.to(random.choice(FLOATS))


def binary(loss: str, reduction: str) -> dict:
    shape = random.choice(SHAPES)
    output = torch.randn(shape, dtype=torch.float64)
    targets = torch.rand(shape).to(random.choice(FLOATS))
    if random.random() < 0.5:
        targets = (torch.rand(shape) < 0.5).to(random.choice([*INTEGERS, torch.bool]))
    count = random.choice([1, shape[-1]]) if len(shape) > 1 else 1
    arguments: dict[str, Any] = {"weight": weights(count)}
    function = F.binary_cross_entropy
    if loss == "bce":
        output = 0.05 + 0.9 * torch.sigmoid(output)
    else:
        arguments["pos_weight"] = weights(count)
        function = F.binary_cross_entropy_with_logits
    arguments = chosen(arguments)
    return case(loss, words_of(arguments), reduction, output, targets,
                lambda o: function(o, targets.double(), reduction=reduction, **arguments))


def kl_div(reduction: str) -> dict:
    shape = random.choice(SHAPES)
    output = torch.randn(shape, dtype=torch.float64)
    arguments = chosen({"log_target": random.random() < 0.6})
    targets = numbers(shape)
    options = words_of(arguments)
    ours = reduction
    if reduction == "mean" and random.random() < 0.5:
        options.append("reduction=batchmean")
        reduction = "batchmean"
    return case("kl_div", options, ours, output, targets,
                lambda o: F.kl_div(o, targets.double(), reduction=reduction, **arguments))


def poisson_nll(reduction: str) -> dict:
    shape = random.choice(SHAPES)
    output = 2 * torch.rand(shape, dtype=torch.float64)
    targets = torch.randint(0, 6, shape).to(random.choice([*INTEGERS, *FLOATS]))
    arguments = chosen({"log_input": False, "full": random.random() < 0.7, "eps": random.choice([1e-8, 0.01])})
    return case("poisson_nll", words_of(arguments), reduction, output, targets,
                lambda o: F.poisson_nll_loss(o, targets.double(), reduction=reduction, **arguments))


def signs(shape: tuple[int, ...]) -> Tensor:
    return (2 * torch.randint(0, 2, shape) - 1).to(random.choice([torch.int64, torch.int8, *FLOATS]))


def margins(loss: str, reduction: str) -> dict:
    """Of one output, with targets of its shape."""
    shape = random.choice(SHAPES)
    output = 2 * torch.randn(shape, dtype=torch.float64)
    targets = signs(shape)
    arguments: dict[str, Any] = {"margin": random.choice([0.5, 2.0])} if loss == "hinge_embedding" else {}
    function = {"soft_margin": F.soft_margin_loss, "hinge_embedding": F.hinge_embedding_loss}.get(loss)
    if loss == "multilabel_soft_margin":
        function, targets = F.multilabel_soft_margin_loss, torch.rand(shape).round().to(random.choice(INTEGERS))
        arguments = {"weight": weights(random.choice([1, shape[-1]]) if len(shape) > 1 else 1)}
        if len(shape) == 1:  # whose only dimension is that of the samples here, and of the classes there
            return margins(loss, reduction)
    arguments = chosen(arguments)
    return case(loss, words_of(arguments), reduction, output, targets,
                lambda o: function(o, targets.double(), reduction=reduction, **arguments))


def margins_of_classes(loss: str, reduction: str) -> dict:
    samples, classes = random.choice([(7, 4), (5, 2), (6, 3)])
    output = 2 * torch.randn(samples, classes, dtype=torch.float64)
    if loss == "multilabel_margin":
        targets = torch.stack([torch.randperm(classes) for _ in range(samples)])
        targets[torch.arange(classes) >= torch.randint(0, classes + 1, (samples, 1))] = -1
        return case(loss, [], reduction, output, targets,
                    lambda o: F.multilabel_margin_loss(o, targets, reduction=reduction))
    arguments = chosen({"p": 2, "margin": 0.5, "weight": weights(classes)})
    targets = torch.randint(0, classes, (samples,))
    return case(loss, words_of(arguments), reduction, output, targets.to(random.choice(INTEGERS)),
                lambda o: F.multi_margin_loss(o, targets, reduction=reduction, **arguments))


def gaussian_nll(reduction: str) -> dict:
    shape = random.choice(SHAPES)
    mean = torch.randn(shape, dtype=torch.float64)
    of_variance = random.choice([shape, (*shape[:-1], 1)]) if len(shape) > 1 else shape
    variance = 2 * torch.rand(of_variance, dtype=torch.float64)
    targets = numbers(shape, mean)
    arguments = chosen({"full": True, "eps": random.choice([1e-8, 0.7])})
    return case("gaussian_nll", words_of(arguments), reduction, (mean, variance), targets,
                lambda m, v: F.gaussian_nll_loss(m, targets.double(), v, reduction=reduction, **arguments))


def of_pairs(loss: str, reduction: str) -> dict:
    shape = random.choice(SHAPES if loss == "margin_ranking" else [(7, 4), (5, 2)])
    pair = tuple(torch.randn(shape, dtype=torch.float64) for _ in range(2))
    targets = signs(shape if loss == "margin_ranking" else shape[:1])
    arguments = chosen({"margin": random.choice([0.3, 0.7])})
    function = {"margin_ranking": F.margin_ranking_loss, "cosine_embedding": F.cosine_embedding_loss}[loss]
    return case(loss, words_of(arguments), reduction, pair, targets,
                lambda a, b: function(a, b, targets.double(), reduction=reduction, **arguments))


def triplet(reduction: str) -> dict:
    shape = random.choice([(7, 4), (5, 2), (4, 3, 2)])
    three = tuple(torch.randn(shape, dtype=torch.float64) for _ in range(3))
    arguments = chosen({"margin": 2.5, "p": random.choice([2, 3]), "eps": 1e-3, "swap": True})
    return case("triplet", words_of(arguments), reduction, three, None,
                lambda a, p, n: F.triplet_margin_loss(a, p, n, reduction=reduction, **arguments))


def main() -> None:
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    random.seed(0)
    cases = []
    for reduction in ("mean", "sum"):
        for _ in range(30):
            cases += [of_classes(loss, reduction) for loss in ("cross_entropy", "cross_entropy", "nll")]
            cases.append(of_probabilities(reduction))
            cases += [regression(loss, reduction) for loss in ("mse", "l1", "smooth_l1", "huber")]
            cases += [binary(loss, reduction) for loss in ("bce", "bce_with_logits")]
            cases += [kl_div(reduction), poisson_nll(reduction), gaussian_nll(reduction), triplet(reduction)]
            cases += [margins(loss, reduction) for loss in ("soft_margin", "hinge_embedding", "multilabel_soft_margin")]
            cases += [margins_of_classes(loss, reduction) for loss in ("multi_margin", "multilabel_margin")]
            cases += [of_pairs(loss, reduction) for loss in ("margin_ranking", "cosine_embedding")]
    torch.save(cases, out / "losses.pt")


if __name__ == "__main__":
    main()
