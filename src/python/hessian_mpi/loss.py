"""The loss of a job: one that the program knows by name, or a function that is exported with the network."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from .batch import Layout, call

OUTPUT = "output"
# The program's name: PyTorch's function, and its module.
_OF_ONE_OUTPUT: dict[str, tuple[Callable, type]] = {
    "cross_entropy": (F.cross_entropy, nn.CrossEntropyLoss),
    "nll": (F.nll_loss, nn.NLLLoss),
    "mse": (F.mse_loss, nn.MSELoss),
    "l1": (F.l1_loss, nn.L1Loss),
    "smooth_l1": (F.smooth_l1_loss, nn.SmoothL1Loss),
    "huber": (F.huber_loss, nn.HuberLoss),
    "bce": (F.binary_cross_entropy, nn.BCELoss),
    "bce_with_logits": (F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss),
    "kl_div": (F.kl_div, nn.KLDivLoss),
    "poisson_nll": (F.poisson_nll_loss, nn.PoissonNLLLoss),
    "soft_margin": (F.soft_margin_loss, nn.SoftMarginLoss),
    "hinge_embedding": (F.hinge_embedding_loss, nn.HingeEmbeddingLoss),
    "multi_margin": (F.multi_margin_loss, nn.MultiMarginLoss),
    "multilabel_margin": (F.multilabel_margin_loss, nn.MultiLabelMarginLoss),
    "multilabel_soft_margin": (F.multilabel_soft_margin_loss, nn.MultiLabelSoftMarginLoss),
}


def _gaussian_nll(mean: Tensor, variance: Tensor, target: Tensor, **options: Any) -> Tensor:
    return F.gaussian_nll_loss(mean, target, variance, **options)


# Called with what the network returns, several tensors, then the target.
_OF_SEVERAL_OUTPUTS: dict[str, tuple[Callable, type]] = {
    "gaussian_nll": (_gaussian_nll, nn.GaussianNLLLoss),
    "margin_ranking": (F.margin_ranking_loss, nn.MarginRankingLoss),
    "cosine_embedding": (F.cosine_embedding_loss, nn.CosineEmbeddingLoss),
    "triplet": (F.triplet_margin_loss, nn.TripletMarginLoss),
}
_LOSSES = {**_OF_ONE_OUTPUT, **_OF_SEVERAL_OUTPUTS}
_OPTIONS = ("weight", "pos_weight", "ignore_index", "label_smoothing", "beta", "delta", "eps", "log_target", "log_input", "full",
            "margin", "p", "swap")
_NAMES_OF_MODELS = ("model", "net", "network", "module")


@dataclass
class Loss:
    """name: what --loss gets. compute(model, layout, tensors): what the exported program returns, the network's output or
    the loss; value(result, layout, tensors): the loss, a scalar, of that. parts_given: how many of inputs and targets the
    network is called with; 0: not known."""

    name: str
    compute: Callable[[Any, Layout, list[Tensor]], Any]
    value: Callable[[Any, Layout, list[Tensor]], Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    parts_given: int = 1

    @property
    def in_model(self) -> bool:
        return self.name == OUTPUT


def make_loss(loss: str | Callable, options: dict[str, Any], reduction: str) -> Loss:
    """loss: a name with its options, PyTorch's function or module of one, a callable of (output, target), or of (model,
    batch): one whose first argument is called model, net, network or module. Raises ValueError for anything else."""
    loss, options = _named(loss, dict(options), reduction)
    if loss == OUTPUT:
        return Loss(OUTPUT, lambda model, layout, tensors: _scalar(call(model, *layout.parts(tensors))), _itself, parts_given=2)
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
        return Loss(OUTPUT, lambda model, layout, tensors: _scalar(loss(model, layout.batch(tensors))), _itself,
                    parts_given=0)
    return Loss(OUTPUT, lambda model, layout, tensors: _scalar(_of_output(loss, model, *layout.parts(tensors))), _itself)


def _loss_by_name(name: str, options: dict[str, Any], reduction: str) -> Loss:
    if name not in _LOSSES:
        if os.path.exists(name):
            raise ValueError(f"the loss '{name}' is a file: give what it holds, torch.jit.load(...) or "
                             "torch.export.load(...).module()")
        raise ValueError(f"there is no loss '{name}'; known are {', '.join(_LOSSES)} and {OUTPUT}, or give a function of "
                         "(output, target), or of (model, batch)")
    for key, option in options.items():
        if isinstance(option, str) and option.startswith("@"):
            raise ValueError(f"loss option {key} is '{option}'; in Python it is the tensor, not the file that holds it")
        if isinstance(option, Tensor) and option.dim() > 1:
            raise ValueError(f"loss option {key} has the shape {list(option.shape)}; expected is one number for each class, or "
                             "for each element of the output's last dimension: give a function of (output, target) instead")

    def compute(model: Any, layout: Layout, tensors: list[Tensor]) -> Any:
        output = call(model, layout.parts(tensors)[0])
        if isinstance(output, Tensor) == (name in _OF_SEVERAL_OUTPUTS) or not isinstance(output, (Tensor, tuple, list)):
            wanted = "several tensors" if name in _OF_SEVERAL_OUTPUTS else "one tensor"
            raise ValueError(f"the model returns a {type(output).__name__}, and the loss '{name}' wants {wanted}: give "
                             "loss=lambda output, target: ..., which gets all of it")
        return output

    def value(output: Any, layout: Layout, tensors: list[Tensor]) -> Tensor:
        outputs = [output] if isinstance(output, Tensor) else list(output)
        target = layout.parts(tensors)[1]
        if not isinstance(target, Tensor) and not (target is None and name == "triplet"):
            raise ValueError(f"the loss '{name}' wants one tensor of targets: data=(inputs, targets)")
        if target is not None:
            outputs.append(target.to(outputs[0].dtype) if target.is_floating_point() else target)
        given = {key: option.to(outputs[0]) if isinstance(option, Tensor) else option for key, option in options.items()}
        return _LOSSES[name][0](*outputs, **{"reduction": reduction, **given})

    return Loss(name, compute, value, options)


def without_loss() -> Loss:
    """Of a Jacobian of data without targets: a sum of outputs is what programs are compared by."""

    def value(output: Any, layout: Layout, tensors: list[Tensor]) -> Tensor:
        found = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if not found:
            raise ValueError(f"the model returns a {type(output).__name__} without floating-point tensors: no Jacobian is of it")
        return torch.stack([tensor.sum() for tensor in found]).sum()

    return Loss("cross_entropy", lambda model, layout, tensors: call(model, layout.parts(tensors)[0]), value)


def _named(loss: Any, options: dict[str, Any], reduction: str) -> tuple[Any, dict[str, Any]]:
    """PyTorch's own functions and modules by the program's names, which it factors and weighs in batches."""
    for name, (function, module) in _LOSSES.items():
        if loss is function:
            return name, options
        if type(loss) is module and loss.reduction == reduction:
            usual = module()
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
    """What a loss does over samples, by its value of all of them and of two parts: "mean", "sum", or neither."""
    whole, first, second = values
    mean = (first * samples[0] + second * samples[1]) / sum(samples)
    scale = max(abs(first), abs(second), abs(whole)) * 1e-4
    if abs(mean - whole) <= scale:
        return "mean"
    return "sum" if abs(first + second - whole) <= scale else None
