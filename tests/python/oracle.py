"""Hessians of functions of a network by torch.autograd.functional.hessian: what exported jobs are held to."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call


class _Function(nn.Module):
    """function(network) as a module's forward, so that functional_call can put other parameters into it."""

    def __init__(self, network: nn.Module, function: Callable[[nn.Module], Tensor]):
        super().__init__()
        self.network = network
        self.function = function

    def forward(self) -> Tensor:
        return self.function(self.network)


def hessian(network: nn.Module, function: Callable[[nn.Module], Tensor]) -> Tensor:
    """N x N, over the parameters that require a gradient, in the order of named_parameters()."""
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in parameters.values()]

    def at(theta: Tensor) -> Tensor:
        parts = {f"network.{name}": part.reshape(p.shape)
                 for (name, p), part in zip(parameters.items(), theta.split(sizes))}
        torch.manual_seed(0)
        return functional_call(_Function(network, function), parts, ())

    return torch.autograd.functional.hessian(at, torch.cat([p.detach().reshape(-1) for p in parameters.values()]))


def difference(one: Tensor, other: Tensor) -> float:
    """The largest, as a part of the largest entry."""
    return float((torch.as_tensor(one) - torch.as_tensor(other)).abs().max() / torch.as_tensor(other).abs().max())
