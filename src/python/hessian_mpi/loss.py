"""The loss of a job: one that the program knows by name, or a function that is exported with the network."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .batch import Layout, call

OUTPUT = "output"
_IN_TORCH = {"bce": F.binary_cross_entropy, "bce_with_logits": F.binary_cross_entropy_with_logits, "kl_div": F.kl_div,
             "cross_entropy": F.cross_entropy, "huber": F.huber_loss, "l1": F.l1_loss, "mse": F.mse_loss, "nll": F.nll_loss,
             "poisson_nll": F.poisson_nll_loss, "smooth_l1": F.smooth_l1_loss}
_CLASSES = {"bce": nn.BCELoss, "bce_with_logits": nn.BCEWithLogitsLoss, "kl_div": nn.KLDivLoss,
            "cross_entropy": nn.CrossEntropyLoss, "huber": nn.HuberLoss, "l1": nn.L1Loss, "mse": nn.MSELoss, "nll": nn.NLLLoss,
            "poisson_nll": nn.PoissonNLLLoss, "smooth_l1": nn.SmoothL1Loss}
_OPTIONS = ("weight", "pos_weight", "ignore_index", "label_smoothing", "beta", "delta", "eps", "log_target", "log_input", "full")
_NAMES_OF_MODELS = ("model", "net", "network", "module")


@dataclass
class Loss:
    """name: what --loss gets. compute(model, layout, tensors): what the exported program returns, the network's output or
    the loss; value(result, layout, tensors): the loss, a scalar, of that."""

    name: str
    compute: Callable[[Any, Layout, list[Tensor]], Any]
    value: Callable[[Any, Layout, list[Tensor]], Tensor]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def in_model(self) -> bool:
        return self.name == OUTPUT


def make_loss(loss: str | Callable, options: dict[str, Any], reduction: str) -> Loss:
    """loss: a name with its options, PyTorch's function or module of one, a callable of (output, target), or of (model,
    batch): one whose first argument is called model, net, network or module. Raises ValueError for anything else."""
    loss, options = _named(loss, dict(options), reduction)
    if loss == OUTPUT:
        return Loss(OUTPUT, lambda model, layout, tensors: _scalar(call(model, *layout.parts(tensors))), _itself)
    if isinstance(loss, str):
        return _loss_by_name(loss, options, reduction)
    if options:
        raise ValueError(f"loss_options {', '.join(options)} are of losses with a name: write the values into the function")
    if isinstance(loss, nn.Module) and any(p.requires_grad for p in loss.parameters()):
        raise ValueError("the loss has parameters of its own, which would be constants: put network and loss into one module, "
                         "and give loss=lambda model, batch: ...")
    if not callable(loss):
        raise ValueError(f"loss of type {type(loss).__name__}; expected is a name, a function of (output, target), or one of "
                         "(model, batch)")
    if _takes_model(loss):
        return Loss(OUTPUT, lambda model, layout, tensors: _scalar(loss(model, layout.batch(tensors))), _itself)
    return Loss(OUTPUT, lambda model, layout, tensors: _scalar(_of_output(loss, model, *layout.parts(tensors))), _itself)


def _loss_by_name(name: str, options: dict[str, Any], reduction: str) -> Loss:
    function = _IN_TORCH.get(name) or getattr(F, name, None) or getattr(F, name + "_loss", None)
    if function is None:
        raise ValueError(f"there is no loss '{name}'; known are {', '.join(_IN_TORCH)} and {OUTPUT}, or give a function of "
                         "(output, target), or of (model, batch)")
    for key, option in options.items():
        if isinstance(option, Tensor) and option.dim() > 1:
            raise ValueError(f"loss option {key} has the shape {list(option.shape)}; expected is one number for each class, or for "
                             "each element of the output's last dimension: give a function of (output, target) instead")
    arguments = {"reduction": reduction, **options}

    def compute(model: Any, layout: Layout, tensors: list[Tensor]) -> Tensor:
        output = call(model, layout.parts(tensors)[0])
        if not isinstance(output, Tensor):
            raise ValueError(f"the model returns a {type(output).__name__}, and the loss '{name}' wants one tensor: give "
                             "loss=lambda output, target: ..., which gets all of it")
        return output

    def value(output: Tensor, layout: Layout, tensors: list[Tensor]) -> Tensor:
        target = layout.parts(tensors)[1]
        if not isinstance(target, Tensor):
            raise ValueError(f"the loss '{name}' wants one tensor of targets: data=(inputs, targets)")
        given = {key: option.to(output) if isinstance(option, Tensor) else option for key, option in arguments.items()}
        target = target.to(output.dtype) if target.is_floating_point() else target
        return function(output, target, **given)

    return Loss(name, compute, value, options)


def _named(loss: Any, options: dict[str, Any], reduction: str) -> tuple[Any, dict[str, Any]]:
    """PyTorch's own functions and modules by the program's names, which it factors and weighs in batches."""
    for name, function in _IN_TORCH.items():
        if loss is function:
            return name, options
        if type(loss) is _CLASSES[name] and loss.reduction == reduction:
            usual = _CLASSES[name]()
            found = {key: getattr(loss, key) for key in _OPTIONS if getattr(loss, key, None) is not getattr(usual, key, None)}
            return name, {**found, **options}
    return loss, options


def _takes_model(loss: Callable) -> bool:
    try:
        first = next(iter(inspect.signature(loss).parameters), "")
    except ValueError:  # of C++
        return False
    return first in _NAMES_OF_MODELS


def _of_output(loss: Callable, model: Any, inputs: Any, targets: Any) -> Any:
    output = call(model, inputs)
    return loss(output) if targets is None else loss(output, targets)


def _itself(result: Tensor, layout: Layout, tensors: list[Tensor]) -> Tensor:
    return result


def _scalar(value: Any) -> Tensor:
    """Models of transformers return the loss with other things."""
    if not isinstance(value, Tensor):
        value = value["loss"] if isinstance(value, dict) and "loss" in value else getattr(value, "loss", value)
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.numel() != 1:
        what = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(f"the loss is {what}; it has to be a scalar: one floating-point number in a tensor")
    return value.reshape(())


def text_of_options(options: dict[str, Any]) -> str:
    """As --loss-option takes them. Raises ValueError for what no text says."""
    words = []
    for key, value in options.items():
        if isinstance(value, Tensor):
            value = ",".join(repr(number) for number in value.detach().double().reshape(-1).tolist())
        elif isinstance(value, bool):
            value = str(value).lower()
        words.append(f"{key}={value}")
    return " ".join(words)


def reduction_of(values: list[float], samples: list[int]) -> str | None:
    """What a loss does over samples, by its value on two parts and on both together: "mean", "sum", or neither."""
    whole, first, second = values
    mean = (first * samples[0] + second * samples[1]) / sum(samples)
    scale = max(abs(first), abs(second), abs(whole)) * 1e-4
    if abs(mean - whole) <= scale:
        return "mean"
    return "sum" if abs(first + second - whole) <= scale else None
