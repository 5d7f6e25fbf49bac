#!/usr/bin/env python3
"""Values and gradients of the named losses by torch.nn.functional, in float64.

usage: losses.py OUT

Writes OUT/losses.pt: a list of dicts with

  loss, options      what `--loss` and `--loss-option` are to be told
  reduction          mean or sum
  output, targets    the model's output in float64 and the targets, for all samples
  batch_size         how many samples are to be seen at once
  value, gradient    of the loss by the output, over all samples at once
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


def case(loss: str, options: list[str], reduction: str, output: Tensor, targets: Tensor, formula: Callable) -> dict:
    output = output.detach().requires_grad_()
    value = formula(output)
    (gradient,) = torch.autograd.grad(value, output)
    if not bool(torch.isfinite(value)):
        raise SystemExit(f"{loss} {options} is not finite")
    return {
        "loss": loss,
        "options": options,
        "reduction": reduction,
        "output": output.detach(),
        "targets": targets,
        "batch_size": random.choice([1, 2, 3, output.size(0)]),
        "value": value.detach(),
        "gradient": gradient,
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
            cases += [kl_div(reduction), poisson_nll(reduction)]
    torch.save(cases, out / "losses.pt")


if __name__ == "__main__":
    main()
