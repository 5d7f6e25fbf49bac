"""Losses with derivatives inside, and networks of other kinds: the exported program's Hessian is PyTorch's.

usage: trace_test.py
"""

import contextlib
import io
import pathlib
import tempfile
import unittest
from collections.abc import Callable
from typing import Any

import torch
from oracle import difference, hessian
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian as hessian_by_func, jacrev, vmap
from torch.nn import functional as F

import hessian_mpi


def exported(network: nn.Module, data: Any, loss: Callable, **options: Any) -> tuple[nn.Module, str]:
    """The program in the file as a module, and what export printed."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as printed:
        hessian_mpi.export(folder, network, data, loss, **options)
        return torch.export.load(pathlib.Path(folder, "model.pt2")).module(), printed.getvalue()


def perceptron(inputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, 1))


def slope(model: Callable, x: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """u and du/dx of a model at x."""
    x = x.requires_grad_()
    u = model(x)
    return u, torch.autograd.grad(u.sum(), x, **(options or {"create_graph": True}))[0]


class Tests(unittest.TestCase):
    def setUp(self) -> None:
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        self.x = torch.randn(8, 3)

    def holds(self, network: nn.Module, loss: Callable, *, by: str, x: Tensor | None = None) -> str:
        """loss(model, batch) of x has the same Hessian when exported in the way that `by` names."""
        x = self.x if x is None else x
        module, printed = exported(network, x, loss)
        self.assertIn(by, printed)
        self.assertEqual([name for name, _ in module.named_parameters()], [name for name, _ in network.named_parameters()])
        expected = hessian(network, lambda model: loss(model, x.clone()))
        self.assertLess(difference(hessian(module, lambda model: model(x)), expected), 1e-12)
        return printed


class DerivativesInside(Tests):
    """What torch.export refuses is written out."""

    def traced(self, network: nn.Module, loss: Callable, x: Tensor | None = None) -> None:
        self.holds(network, loss, by="make_fx", x=x)

    def test_autograd_grad(self) -> None:
        self.traced(perceptron(), lambda model, batch: slope(model, batch)[1].square().mean())

    def test_autograd_grad_twice(self) -> None:
        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            u, first = slope(model, batch)
            second, = torch.autograd.grad(first.sum(), batch, create_graph=True)
            return (first[:, 0] * u[:, 0] - second.sum(1)).square().mean()

        self.traced(perceptron(), loss)

    def test_autograd_grad_in_forward(self) -> None:
        class Forces(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.energy = perceptron()
                self.register_buffer("unit", torch.tensor(2.0))

            def forward(self, x: Tensor) -> Tensor:
                return -self.unit * slope(self.energy, x.detach())[1]

        self.traced(Forces(), lambda model, batch: (model(batch) - 1).square().mean())

    def test_functional_jacobian(self) -> None:
        self.traced(perceptron(), lambda model, batch: torch.autograd.functional.jacobian(
            lambda z: model(z).sum(0), batch, create_graph=True).square().mean())

    def test_func_grad_and_vmap(self) -> None:
        self.traced(perceptron(), lambda model, batch: vmap(grad(lambda z: model(z).sum()))(batch).square().mean())

    def test_func_jacrev(self) -> None:
        self.traced(perceptron(), lambda model, batch: jacrev(lambda z: model(z).sum(0))(batch).square().mean())

    def test_func_hessian_and_vmap(self) -> None:
        def laplacian(model: nn.Module, z: Tensor) -> Tensor:
            return hessian_by_func(lambda place: model(place)[0])(z).diagonal().sum()

        self.traced(perceptron(), lambda model, batch: vmap(lambda z: laplacian(model, z))(batch).square().mean())

    def test_functional_call_of_a_step_of_descent(self) -> None:
        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            parameters = dict(model.named_parameters())
            inner = grad(lambda p: functional_call(model, p, (batch[:4],)).square().mean())(parameters)
            return functional_call(model, {k: p - 0.1 * inner[k] for k, p in parameters.items()}, (batch[4:],)).square().mean()

        self.traced(perceptron(), loss)

    def test_convolution_and_attention(self) -> None:
        class Attention(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.mix, self.norm, self.out = nn.Conv1d(3, 12, 1), nn.LayerNorm(3), nn.Linear(4, 1)

            def forward(self, x: Tensor) -> Tensor:
                q, k, v = self.mix(self.norm(x).transpose(1, 2)).transpose(1, 2).chunk(3, -1)
                return self.out(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])).mean((1, 2, 3))

        x = torch.randn(4, 5, 3)
        network = Attention()
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the others cannot be derived twice
            self.traced(network, lambda model, batch: slope(model, batch)[1].square().mean(), x)

    def test_tied_parameters(self) -> None:
        network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
        network[2].weight = network[0].weight

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            return slope(model, batch)[1].square().mean()

        module, _ = exported(network, self.x, loss)
        module.get_submodule("2").register_parameter("weight", module.get_parameter("0.weight"))
        expected = hessian(network, lambda model: loss(model, self.x.clone()))
        self.assertLess(difference(hessian(module, lambda model: model(self.x)), expected), 1e-12)


class DecisionsByValues(Tests):
    """Python's are kept, for the data as they are."""

    def test_in_a_loss_of_pytorch(self) -> None:
        self.holds(perceptron(), lambda model, batch: F.gaussian_nll_loss(model(batch), batch[:, :1], batch[:, 1:2].abs() + 0.1),
                   by="with the decisions that Python takes on these data, for 8 samples")

    def test_beside_derivatives_inside(self) -> None:
        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            u, du = slope(model, batch)
            return (du * u.detach()).square().mean() * (2 if du.norm() > 0 else 1)

        self.holds(perceptron(), loss, by="with the decisions")


class Cut(Tests):
    """The user's own detach stays; those of autograd's saved values cut nothing."""

    def of(self, weight: Callable) -> None:
        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            u, du = slope(model, batch)
            return (du.square().sum(1) * weight(u)[:, 0]).mean() + u.pow(3).mean()

        self.holds(perceptron(), loss, by="make_fx")

    def test_by_detach(self) -> None:
        self.of(lambda u: u.detach() * u)
        self.of(torch.detach)

    def test_by_data(self) -> None:
        self.of(lambda u: u.data.square())

    def test_by_no_grad(self) -> None:
        def weight(u: Tensor) -> Tensor:
            with torch.no_grad():
                return torch.exp(-u)

        self.of(weight)

    def test_by_grad_without_create_graph(self) -> None:
        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            u, du = slope(model, batch, retain_graph=True)
            return (du.square().sum(1) * u[:, 0]).mean()

        self.holds(perceptron(), loss, by="make_fx")


class WhatExportTakes(Tests):
    """Layers stay whole, so that the program can factor them."""

    def test_is_left_to_it(self) -> None:
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
        self.holds(network, lambda model, batch: model(batch).square().mean(), by="by torch.export, for any number")
        self.holds(network, lambda model, batch: (model(model(batch)) - model[0].weight.sum()).square().mean(), by="torch.export")

    def test_random_layers_and_norms_in_train_mode(self) -> None:
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 1))
        before = {name: value.clone() for name, value in network.state_dict().items()}
        _, printed = exported(network, self.x, lambda model, batch: model(batch).square().mean())
        self.assertIn("in train mode", printed)
        for name, value in network.state_dict().items():
            self.assertTrue(torch.equal(value, before[name]), name)

    def test_statistics_of_a_batch_are_derived_through(self) -> None:
        # PyTorch's third derivatives of batch norm in train mode are wrong: differences of the gradient tell.
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            return slope(model, batch)[1].square().mean()

        def gradient(step: float) -> Tensor:
            with torch.no_grad():
                network[0].weight[0, 0] += step
            found = torch.autograd.grad(loss(network, self.x.clone()), list(network.parameters()), allow_unused=True,
                                        materialize_grads=True)
            with torch.no_grad():
                network[0].weight[0, 0] -= step
            return torch.cat([part.reshape(-1) for part in found])

        module, _ = exported(network, self.x, loss)
        row = hessian(module, lambda model: model(self.x))[0]
        self.assertLess(difference(row, (gradient(1e-5) - gradient(-1e-5)) / 2e-5), 1e-7)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Refused(Tests):
    """A program that would compute something else is not written."""

    def refused(self, network: nn.Module, loss: Callable, *words: str, **options: Any) -> None:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as printed:
            with self.assertRaises(hessian_mpi.ExportError) as caught:
                hessian_mpi.export(folder, network, self.x, loss, **options)
            self.assertEqual(printed.getvalue(), "")
            self.assertFalse(pathlib.Path(folder, "model.pt2").exists())
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_a_backward_that_is_not_exported(self) -> None:
        network = perceptron()
        network[2].requires_grad_(False)
        self.refused(network, lambda model, batch: StraightThrough.apply(3 * model(batch)).square().mean(), "gradient by '0.weight'",
                     "at the parameters", "torch.autograd.Function")

    def test_a_loss_that_is_another_one_in_each_call(self) -> None:
        calls = []

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            calls.append(None)
            return len(calls) * model(batch).square().mean()

        self.refused(perceptron(), loss, "loss is another one than that of Python")

    def test_a_difference_at_the_second_point_alone(self) -> None:
        network = perceptron()
        start = network[0].weight.detach().clone()

        class RightAtStart(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, weight: Tensor) -> Tensor:
                ctx.save_for_backward(weight)
                return weight.clone()

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:
                return gradient * (1 + (ctx.saved_tensors[0] - start).abs())

        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            return (batch @ RightAtStart.apply(model[0].weight).T).square().mean()

        self.refused(network, loss, "gradient by '0.weight'", "at parameters moved")

    def test_a_difference_with_another_number_of_samples_alone(self) -> None:
        def loss(model: nn.Module, batch: Tensor) -> Tensor:
            size = 1.0 if torch.compiler.is_exporting() else float(len(batch) == 8) + 1e-3
            return model(batch).square().mean() * (1.001 if torch.compiler.is_exporting() else size)

        # With the sizes of the data alone it is right.
        _, printed = exported(perceptron(), self.x, loss)
        self.assertIn("for 8 samples", printed)
        self.refused(perceptron(), loss, "there with 4 samples", batch_size=5)

    def test_numbers_taken_out_of_tensors(self) -> None:
        self.refused(perceptron(), lambda model, batch: model(batch).square().mean() * float(model(batch).sum().detach()),
                     "item()", "torch.where", "at parameters moved")

    def test_decisions_by_values_in_batches(self) -> None:
        self.refused(perceptron(), lambda model, batch: F.gaussian_nll_loss(model(batch), batch[:, :1], batch[:, 1:2].abs() + 0.1),
                     "a decision in Python", batch_size=4)


if __name__ == "__main__":
    unittest.main()
