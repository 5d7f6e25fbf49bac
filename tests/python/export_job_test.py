"""What hessian_mpi.export writes and prints.

usage: export_job_test.py
"""

import contextlib
import io
import os
import pathlib
import tempfile
import unittest
from typing import Any

import h5py
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import hessian_mpi


class Tests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name, "job")
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        self.x, self.y = torch.randn(8, 3), torch.randint(2, (8,))
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()

    def export(self, *arguments: Any, **options: Any) -> str:
        """What it prints."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            hessian_mpi.export(self.folder, *arguments, **options)
        return printed.getvalue()

    def options(self) -> dict[str, str]:
        return dict(line.split(" = ") for line in (self.folder / "job.cfg").read_text().splitlines())

    def program(self) -> nn.Module:
        return torch.export.load(self.folder / "model.pt2").module()


class Written(Tests):
    def test_is_a_job(self) -> None:
        printed = self.export(self.network, (self.x, self.y), ranks=8, dtype="float64", l2=0.5, parameters=["0.*", "2.bias"])
        self.assertEqual(self.options(), {"model": "model.pt2", "data": "data.h5", "loss": "cross_entropy", "output": "hessian.h5",
                                          "dtype": "float64", "l2": "0.5", "parameters": "0.* 2.bias"})
        self.assertTrue(torch.equal(self.program()(self.x), self.network(self.x)))
        self.assertIn("N = 18 in 3 tensors; in eval mode", printed)
        self.assertEqual(printed.splitlines()[-1], f"cd {self.folder} && mpirun -n 8 hessian_mpi --config job.cfg")

    def test_takes_any_number_of_samples(self) -> None:
        self.export(self.network, (self.x, self.y))
        self.assertEqual(self.program()(self.x[:3]).shape, (3, 2))
        self.export(self.network, (self.x[:1], self.y[:1]))
        self.assertEqual(self.program()(self.x[:1]).shape, (1, 2))

    def test_keeps_mode_frozen_and_tied_parameters_and_buffers(self) -> None:
        network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 3))
        network[3].weight = network[0].weight
        network[0].bias.requires_grad_(False)
        network[1].running_mean += 1
        state = {name: value.clone() for name, value in network.state_dict().items()}
        for mode in (True, False):
            printed = self.export(network.train(mode), (self.x, torch.randn(8, 3)), "mse")
            self.assertIn("1 frozen; in train mode" if mode else "1 frozen; in eval mode", printed)
            self.assertEqual(self.options().get("mode"), "train" if mode else None)
            program = torch.export.load(self.folder / "model.pt2")
            self.assertEqual({name: p.requires_grad for name, p in program.named_parameters()},
                             {name: p.requires_grad for name, p in network.named_parameters(remove_duplicate=False)})
            for name, value in network.state_dict().items():
                self.assertTrue(torch.equal(value, state[name]), name)
                self.assertTrue(torch.equal(program.state_dict[name], state[name]), name)
            self.assertTrue(all(p.grad is None for p in network.parameters()))

    def test_names_the_mode_that_the_graph_has(self) -> None:
        for mode in (True, False):
            network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).train(not mode)
            network[1].train(mode)
            self.assertIn("in mixed mode", self.export(network, (self.x, self.y)))
            self.assertEqual(self.options().get("mode"), "train" if mode else None)

    def test_has_the_options_of_its_loss(self) -> None:
        weight = torch.tensor([0.3, 1.7])
        self.export(self.network, (self.x, self.y), loss_options={"weight": weight, "label_smoothing": 0.1, "ignore_index": 1})
        self.assertEqual(self.options()["loss-option"], "weight=0.3,1.7 label_smoothing=0.1 ignore_index=1")

    def test_calls_losses_of_pytorch_by_their_names(self) -> None:
        self.export(self.network, (self.x, self.y), F.cross_entropy)
        self.assertEqual(self.options()["loss"], "cross_entropy")
        self.export(self.network, (self.x, self.y), nn.CrossEntropyLoss(label_smoothing=0.2))
        self.assertEqual(self.options()["loss"], "cross_entropy")
        self.assertEqual(self.options()["loss-option"], "label_smoothing=0.2")
        self.export(self.network, (self.x, torch.randn(8, 2)), nn.HuberLoss(delta=0.5, reduction="sum"), reduction="sum")
        self.assertEqual((self.options()["loss"], self.options()["reduction"]), ("huber", "sum"))

    def test_says_whether_a_function_averages_or_sums(self) -> None:
        for reduction in ("mean", "sum"):
            def loss(output: Tensor, target: Tensor, reduction: str = reduction) -> Tensor:
                return F.cross_entropy(output, target, reduction=reduction)

            for options in ({"batch_size": 4}, {}):
                self.export(self.network, (self.x, self.y), loss, **options)
                self.assertEqual((self.options()["loss"], self.options()["reduction"]), ("output", reduction))
        self.export(self.network, (self.x, self.y), lambda output, target: output.sum(0).square().sum())
        self.assertNotIn("reduction", self.options())
        self.export(self.network, self.x, lambda model, batch: (model(batch) - model(batch).detach()).square().sum())  # it is 0
        self.assertEqual(self.options()["reduction"], "mean")

    def test_has_losses_of_several_outputs(self) -> None:
        class Gaussian(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(3, 2)

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                mean, spread = self.linear(x).unbind(1)
                return mean, spread.exp()

        for loss in ("gaussian_nll", nn.GaussianNLLLoss(full=True)):
            self.export(Gaussian(), (self.x, self.x[:, 0]), loss)
            self.assertEqual(self.options()["loss"], "gaussian_nll")
        self.assertEqual(self.options()["loss-option"], "full=true")


class Paths(Tests):
    """Those of the caller's working directory are the same for the program, which runs in the job's folder."""

    def setUp(self) -> None:
        super().setUp()
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder.parent)
        torch.save(self.network.state_dict(), "checkpoint.pt")

    def test_lead_to_the_same_files(self) -> None:
        self.export(self.network, (self.x, self.y), values="checkpoint.pt", output=pathlib.Path("result.h5"))
        self.assertEqual([self.options()[name] for name in ("values", "output")],
                         [os.path.abspath(name) for name in ("checkpoint.pt", "result.h5")])

    def test_into_the_folder_move_with_it(self) -> None:
        self.export(self.network, (self.x, self.y), output="job/result.h5")
        self.assertEqual(self.options()["output"], "result.h5")

    def test_lead_somewhere(self) -> None:
        with self.assertRaisesRegex(FileNotFoundError, "values='checkpoint' is not there"):
            self.export(self.network, (self.x, self.y), values="checkpoint")
        with self.assertRaisesRegex(hessian_mpi.DataError, "hessian_mpi.data..batch.h5.. reads"):
            self.export(self.network, "batch.h5")
        with self.assertRaisesRegex(ValueError, "is a file: give what it holds"):
            self.export(self.network, (self.x, self.y), loss="checkpoint.pt")
        with self.assertRaisesRegex(ValueError, "weight is '@weight.txt'; in Python it is the tensor"):
            self.export(self.network, (self.x, self.y), loss_options={"weight": "@weight.txt"})


class Data(Tests):
    def test_by_names_of_arguments(self) -> None:
        class Sum(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.tensor([2.0]))

            def forward(self, left: Tensor, right: Tensor, extra: float = 1.0) -> Tensor:
                return self.scale * (left - right) * extra

        self.export(Sum(), ({"right": self.x, "left": 2 * self.x, "extra": 3.0}, self.x), "mse")
        with h5py.File(self.folder / "data.h5") as file:
            self.assertEqual(list(file["inputs"]), ["left", "right"])
        self.assertTrue(torch.allclose(self.program()(self.x, 2 * self.x), 6 * self.x))

    def test_have_the_names_of_arguments_by_place_too(self) -> None:
        class Apart(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.tensor([2.0]))

            def forward(self, left: Tensor, pair: tuple[Tensor, Tensor], *others: Tensor) -> Tensor:
                return self.scale * (left - pair[0] * pair[1]).square() - sum(others)

        inputs = (self.x, (self.x + 1, self.x), self.x, self.x)
        names = ["left", "pair_0", "pair_1", "inputs_2", "inputs_3"]
        for loss in ("mse", lambda output, target: (output - target).square().mean()):
            printed = self.export(Apart(), (inputs, self.x), loss, with_respect_to="inputs")
            self.assertIn(f"elements of {', '.join(names)};", printed)
        self.export(Apart(), (inputs[:3], self.x), "mse", whole=["left", "pair_1"])
        self.assertEqual(self.options()["whole"], "left pair_1")
        with self.assertRaisesRegex(ValueError, "no input 'left'; they have inputs_0, inputs_1"):  # a function calls it as it wants
            self.export(Apart(), [self.x, self.x, self.x], lambda model, batch: model(batch[0], batch[1:]).sum(),
                        with_respect_to="inputs:left")

        class WithLoss(nn.Module):
            def forward(self, x: Tensor, scale: Tensor, y: Tensor) -> Tensor:
                return (x * scale - y).square().mean()

        self.export(WithLoss(), ((self.x, self.x[:1]), self.x), "output", with_respect_to="inputs:x", whole=["scale", "y"])
        self.assertEqual(self.options()["whole"], "scale y")

    def test_without_targets_for_a_jacobian(self) -> None:
        class Heads(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(3, 3)

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                return self.linear(x), self.linear(x).sum(1)

        network = Heads()
        printed = self.export(network, self.x, matrix="jacobian")
        self.assertIn("loss and gradient, here and in Python, are equal", printed)
        self.assertTrue(torch.equal(self.program()(self.x)[1], network(self.x)[1]))

    def test_of_several_inputs_without_targets(self) -> None:
        class Sum(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.tensor([2.0]))

            def forward(self, left: Tensor, right: Tensor) -> Tensor:
                return self.scale * left + right

        for inputs in ((self.x, 2 * self.x), {"left": self.x, "right": 2 * self.x}):
            self.export(Sum(), (inputs,), lambda output: output.square().mean())
            self.assertTrue(torch.allclose(self.program()(self.x, 2 * self.x), (4 * self.x).square().mean()))
        self.export(Sum(), ((self.x, self.x),), lambda model, batch: model(*batch[0]).square().mean())

    def test_of_a_loader_is_not_whole_in_the_program(self) -> None:
        loader = DataLoader(TensorDataset(self.x, self.y), batch_size=3)
        printed = self.export(self.network, loader, lambda output, target: F.cross_entropy(output, target))
        self.assertIn("8 samples", printed)
        self.assertIn("any number of samples", printed)
        self.assertTrue(torch.equal(hessian_mpi.data(self.folder / "data.h5")[0], self.x))

    def test_of_a_loader_of_single_samples_are_of_any_number(self) -> None:
        loader = DataLoader(TensorDataset(self.x, self.y))
        self.assertIn("for any number of samples", self.export(self.network, loader))
        self.assertIn("8 samples", self.export(self.network, loader, lambda model, batch: model(batch[0]).square().mean(),
                                               batch_size=4))

    def test_without_a_common_first_dimension(self) -> None:
        class Graph(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(3, 2)

            def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
                return torch.zeros(len(nodes), 2).index_add(0, edges[1], self.linear(nodes)[edges[0]])

        edges = torch.randint(8, (2, 20))
        printed = self.export(Graph(), ({"nodes": self.x, "edges": edges}, self.y))
        self.assertIn("whole, not cut into samples", printed)
        self.assertEqual(self.options()["loss"], "output")
        self.assertIsInstance(self.program()(self.x, edges, self.y).item(), float)

    def test_named_whole(self) -> None:
        network = nn.Linear(3, 2)
        anchor = torch.randn(5, 3)

        def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            return model(batch["x"]).square().mean() + model(batch["anchor"]).square().mean()

        printed = self.export(network, {"x": self.x, "anchor": anchor}, loss, whole=["anchor"], batch_size=4)
        self.assertEqual((self.options()["whole"], self.options()["reduction"]), ("anchor", "mean"))
        self.assertIn("8 samples", printed)
        with self.assertRaisesRegex(ValueError, "leaves nothing that batch_size cuts"):
            self.export(network, {"x": self.x, "anchor": anchor}, loss, whole=True, batch_size=4)


class Doubled(torch.autograd.Function):
    """The identity, with a derivative that no export keeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient


class ByInputs(Tests):
    def test_are_named_and_counted(self) -> None:
        printed = self.export(self.network, (self.x, self.y), with_respect_to="inputs")
        self.assertIn("N = 24 elements of input; in eval mode", printed)
        self.assertIn("8 samples", printed)
        self.assertEqual(self.options()["with-respect-to"], "inputs")
        data = {"kinds": self.y, "positions": self.x}

        def energy(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            distances = torch.pdist(model(batch["positions"] * (1 + batch["kinds"][:, None])))
            return distances.square().sum()

        for wanted in ("inputs:positions", "inputs"):
            printed = self.export(self.network, data, energy, with_respect_to=wanted)
            self.assertIn("N = 24 elements of positions", printed)
            self.assertIn("whole, not cut into samples", printed)

    def test_need_no_parameters(self) -> None:
        self.export(nn.Tanh(), (self.x, self.x), "mse", with_respect_to="inputs")
        self.assertTrue(torch.equal(self.program()(self.x), self.x.tanh()))

    def test_have_their_gradient_compared(self) -> None:
        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(3, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.linear(Doubled.apply(x))

        self.export(Network(), (self.x, self.y))
        with self.assertRaisesRegex(hessian_mpi.ExportError, "gradient by 'x' of the exported program is another one"):
            self.export(Network(), (self.x, self.y), with_respect_to="inputs")

    def test_are_not_cut_off(self) -> None:
        with self.assertRaisesRegex(hessian_mpi.ExportError, "does not depend on x: .*detach"):
            self.export(self.network, {"x": self.x}, lambda model, batch: model(batch["x"].detach().requires_grad_()).sum(),
                        with_respect_to="inputs:x")

    def test_are_floating_inputs_of_the_data(self) -> None:
        data = ({"x": self.x, "kinds": self.y}, self.y)
        for wanted, words in (("inputs:z", "have no input 'z'; they have x, kinds"), ("inputs:targets", "no input 'targets'"),
                              ("inputs:kinds", "'kinds' is int64")):
            with self.assertRaisesRegex(ValueError, words):
                self.export(self.network, data, with_respect_to=wanted)
        for wanted in ("input", ["inputs"], "inputs:", "parameters:x"):
            with self.assertRaisesRegex(ValueError, "is none of: 'parameters', 'inputs'"):
                self.export(self.network, data, with_respect_to=wanted)
        with self.assertRaisesRegex(ValueError, "none of the inputs input is floating-point"):
            self.export(nn.Embedding(2, 2), (self.y, self.y), with_respect_to="inputs")


class Refused(Tests):
    def refused(self, kind: type, words: str, *arguments: Any, **options: Any) -> None:
        with self.assertRaisesRegex(kind, words):
            self.export(*arguments, **options)

    def test_what_is_no_network(self) -> None:
        self.refused(TypeError, "expected is a torch.nn.Module", lambda x: x, (self.x, self.y))
        self.refused(ValueError, "no parameter .* requires a gradient", nn.Tanh(), (self.x, self.y))
        self.refused(ValueError, "'0.weight' is torch.float16.*float32", self.network.half(), (self.x, self.y))

    def test_options_that_are_decided_otherwise(self) -> None:
        for name, words in (("model", "the network, which is given"), ("mode", "net.train"), ("loss_option", "loss_options=")):
            self.refused(TypeError, f"{name}= is no option here: .*{words}", self.network, (self.x, self.y), **{name: "train"})

    def test_matrices_of_outputs_of_a_network_that_returns_the_loss(self) -> None:
        for matrix, words in (("jacobian", "no loss enters: leave loss out"), ("gradients", "give a loss by its name"),
                              ("ggn", "give a loss by its name"), ("fisher", "give a loss by its name")):
            self.refused(ValueError, words, self.network, (self.x, self.y), lambda output, target: output.sum(), matrix=matrix)
        self.refused(ValueError, "not cut into samples", self.network, (self.x, self.y), whole=True, matrix="ggn")

    def test_what_is_no_loss(self) -> None:
        pair = (self.x, self.y)
        self.refused(ValueError, "no loss 'crossentropy'; known are cross_entropy", self.network, pair, "crossentropy")
        self.refused(ValueError, "has to be a scalar", self.network, pair, lambda output, target: output)
        self.refused(ValueError, "parameters of its own", self.network, pair, nn.Sequential(nn.Linear(1, 1)))
        self.refused(ValueError, "weight has the shape .2, 1.", self.network, pair, loss_options={"weight": torch.ones(2, 1)})
        self.refused(ValueError, "weight are of losses with a name", self.network, pair, lambda output, target: output.sum(),
                     loss_options={"weight": 1})

    def test_a_loss_that_batches_would_change(self) -> None:
        def loss(output: Tensor, target: Tensor) -> Tensor:
            return output.sum(0).square().sum()

        self.refused(hessian_mpi.ExportError, "neither averages nor sums over samples", self.network, (self.x, self.y), loss,
                     batch_size=4)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["data.h5"])
        self.export(self.network, (self.x, self.y), loss)

    def test_a_reduction_that_the_loss_is_not(self) -> None:
        self.refused(hessian_mpi.ExportError, "is a mean over samples, and reduction is 'sum': write reduction='mean'",
                     self.network, (self.x, self.y), lambda output, target: F.cross_entropy(output, target), batch_size=4,
                     reduction="sum")

    def test_what_fails_in_python_as_it_fails_there(self) -> None:
        self.refused(RuntimeError, "mat1 and mat2 shapes", self.network, (torch.randn(8, 4), self.y))
        batches = [{"input": self.x[:4], "label": self.y[:4]}, {"input": self.x[4:], "label": self.y[4:]}]
        self.refused(TypeError, "unexpected keyword argument 'label'", self.network, iter(batches))


if __name__ == "__main__":
    unittest.main()
