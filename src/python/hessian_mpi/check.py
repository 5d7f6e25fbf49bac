"""Compares an exported program with the user's own Python: the loss, and its gradient by every parameter or input."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-3}
_PERTURBATION = 0.05
_PERTURBATION_OF_INPUTS = 0.01


class ExportError(RuntimeError):
    """The exported program would not compute what Python does, or cannot be made; the message says where they differ."""


Point = tuple[Tensor, dict[str, Tensor]]


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """By the first of its names, as the program has them."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def perturbed(network: nn.Module) -> dict[str, Tensor]:
    """A second point: all parameters moved by some hundredths of their size, the same in every call."""
    return _moved(trainable(network), _PERTURBATION)


def perturbed_inputs(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same of inputs that are derived by, by a hundredth."""
    return _moved(inputs, _PERTURBATION_OF_INPUTS)


def _moved(tensors: Mapping[str, Tensor], part: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    moved = {}
    for name, tensor in tensors.items():
        size = tensor.detach().square().mean().sqrt() + 0.1 if tensor.numel() else 0
        step = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
        moved[name] = tensor.detach() + part * size * step
    return moved


@contextlib.contextmanager
def _state_kept(network: nn.Module, point: dict[str, Tensor]) -> Iterator[None]:
    """The network at another point, with buffers that may change; afterwards all is as it was."""
    tensors = [*network.parameters(), *network.buffers()]
    kept = [tensor.detach().clone() for tensor in tensors]
    parameters = dict(network.named_parameters())
    try:
        with torch.no_grad():
            for name, value in point.items():
                parameters[name].copy_(value)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # random layers draw the same numbers
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, kept):
                tensor.copy_(value)


def loss_and_gradient(network: nn.Module, loss: Callable[[], Tensor], point: dict[str, Tensor],
                      inputs: dict[str, Tensor] | None = None) -> Point:
    """At the network's parameters, but those in `point`; the gradient by them, or by these inputs. Zeros where the loss does
    not depend on one."""
    # Fused attention has no second derivative, which a loss with derivatives by inputs takes.
    with _state_kept(network, point), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        leaves: Mapping[str, Tensor] = trainable(network) if inputs is None else inputs
        value = loss()
        if not value.requires_grad:
            return value.detach(), {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        gradient = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return value.detach(), {name: torch.zeros_like(leaf) if g is None else g.detach()
                                for (name, leaf), g in zip(leaves.items(), gradient)}


def require_equal(users: list[Point], exported: list[Point], where: list[str]) -> float:
    """Returns the largest difference, relative to the largest entry of its parameter's gradient at any of the points.
    Raises ExportError, which names the parameter or input, where that is more than rounding."""
    largest = 0.0
    scales = _scales(users)
    for (loss, gradient), (other_loss, other_gradient), words in zip(users, exported, where):
        error = _relative(loss, other_loss, max(abs(float(other[0])) for other in users))
        if not error <= _TOLERANCE.get(loss.dtype, 2e-3):
            raise ExportError(f"the exported loss is another one than that of Python {words}: {float(other_loss):.9g}, and "
                              f"{float(loss):.9g} in Python")
        largest = max(largest, error)
        for name, users_own in gradient.items():
            error = _relative(users_own, other_gradient[name], scales[name])
            if not error <= _TOLERANCE.get(users_own.dtype, 2e-3):
                raise ExportError(f"the gradient by '{name}' of the exported program is another one than that of Python {words}: "
                                  f"they differ by {error:.1e} of its largest entry. Something between it and the loss is "
                                  "derived in Python in a way that no export keeps, such as a torch.autograd.Function")
            largest = max(largest, error)
    return largest


def _scales(points: list[Point]) -> dict[str, float]:
    """The largest entry of each parameter's gradient, of a gradient that is nothing but rounding a part of the largest."""
    largest = {name: max(_largest(gradient[name]) for _, gradient in points) for name in points[0][1]}
    overall = max(largest.values(), default=0.0)
    return {name: max(size, 1e-3 * overall) for name, size in largest.items()}


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


def _relative(one: Tensor, other: Tensor, scale: float) -> float:
    if one.numel() == 0 or torch.equal(one.nan_to_num(), other.nan_to_num()):
        return 0.0
    difference = _largest(one.double() - other.double())
    return difference / scale if scale > 0 else difference
