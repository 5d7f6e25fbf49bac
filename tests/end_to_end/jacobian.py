#!/usr/bin/env python3
"""Runs hessian_mpi --matrix jacobian and gradients as their users do, and compares the rows with PyTorch's own derivatives;
then hands the files to the other programs.

usage: jacobian.py PROGRAM LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks. The other programs, and hessian_file.py, are looked for beside
the program and the sources.
"""

import pathlib
import subprocess
import sys

import h5py
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tool import Tool, run_tests

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "src/python"))
from hessian_file import HessianFile, HessianFileError  # noqa: E402

SAMPLES = 10


class Heads(nn.Module):
    """Returns two tensors: a sample has 3 + 2 outputs. One of its parameters, `unused`, is in no output."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.Flatten(), nn.Linear(18, 4), nn.Tanh())
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 2, bias=False)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.body(x)
        return self.first(h), self.second(h)


class CutOff(nn.Module):
    """Its derivative is not that of what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.layer(x).detach()


def classifier() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU(), nn.Flatten(), nn.Linear(18, 3))


def images() -> torch.Tensor:
    return torch.randn(SAMPLES, 1, 5, 5)


class Case(Tool):
    def __init__(self, program: str, launch: list[str], folder: pathlib.Path):
        super().__init__(program, launch, folder)
        torch.manual_seed(3)
        torch.set_default_dtype(torch.float64)

    def export(self, net: nn.Module, x: torch.Tensor, y: torch.Tensor, any_number: bool = True) -> None:
        shapes = ({0: torch.export.Dim("batch")},) if any_number else None
        torch.export.save(torch.export.export(net, (x,), dynamic_shapes=shapes), self.folder / "net.pt2")
        with h5py.File(self.folder / "data.h5", "w") as file:
            file["inputs"], file["targets"] = x.numpy(), y.numpy()

    def make(self, ranks: int, matrix: str, *arguments: str) -> tuple[np.ndarray, dict, str]:
        """Rows, attributes, and what is printed."""
        shown = self.good(ranks, "--model", "net.pt2", "--data", "data.h5", "--matrix", matrix, "--output", "m.h5",
                          "--overwrite", "--threads", "1", "--progress", "none", *arguments)
        with h5py.File(self.folder / "m.h5") as file:
            samples, outputs = file["rows/sample"][:], file["rows/output"][:]
            rows, of_sample = len(samples), file.attrs["rows_of_sample"]
            np.testing.assert_array_equal(samples * of_sample + outputs, np.arange(rows))
            assert outputs.max() == of_sample - 1
            return file["jacobian"][:], dict(file.attrs), shown

    def has(self, program: str) -> bool:
        """Some are not built without libraries of solvers."""
        return (pathlib.Path(self.program).parent / program).exists()

    def other(self, program: str) -> Tool:
        return Tool(str(pathlib.Path(self.program).parent / program), self.launch, self.folder)


def outputs_of(net: nn.Module, parameters: dict, x: torch.Tensor) -> torch.Tensor:
    """One row for each sample."""
    found = torch.func.functional_call(net, parameters, (x,))
    found = found if isinstance(found, tuple) else (found,)
    return torch.cat([tensor.reshape(len(x), -1) for tensor in found], 1)


def derivative(f, parameters: dict) -> np.ndarray:
    """Of f(parameters), a vector: a row for each of its numbers."""
    parts = torch.func.jacrev(f)(parameters)
    return torch.cat([part.flatten(1) for part in parts.values()], 1).detach().numpy()


def expect_passed(attributes: dict, *checks: str) -> None:
    outcomes = {check: attributes[check + "_check"] for check in ("symmetry", "row", "gradient", "difference")}
    wanted = {check: "passed" if check in checks else "not made" for check in outcomes}
    assert outcomes == wanted, outcomes


def close(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape, (a.shape, b.shape)
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-13 * max(1, np.abs(b).max()))


def test_jacobian_is_that_of_pytorch_on_any_ranks(case: Case) -> None:
    net, x = Heads(), images()
    case.export(net, x, torch.randn(SAMPLES, 5))
    parameters = dict(net.named_parameters())
    wanted = derivative(lambda p: outputs_of(net, p, x).flatten(), parameters)
    # No loss of PyTorch's takes both tensors of mse: the first head's is what `gradient` is of.
    with h5py.File(case.folder / "data.h5", "w") as file:
        file["inputs"], file["targets"] = x.numpy(), np.abs(np.random.default_rng(0).standard_normal((SAMPLES, 3)))
    torch.jit.save(torch.jit.script(FirstHead()), case.folder / "loss.pt")
    made = {}
    for ranks, arguments in ((1, []), (3, []), (2, ["--batch-size", "4"])):
        made[ranks], attributes, shown = case.make(ranks, "jacobian", "--loss", "loss.pt", *arguments)
        close(made[ranks], wanted)
        expect_passed(attributes, "row", "gradient", "difference")
        assert "Jacobian          50 x" in shown and "its sample alone" in shown, shown
        assert (attributes["matrix"], attributes["samples"], attributes["rows_of_sample"]) == ("jacobian", SAMPLES, 5)
    assert made[1].tobytes() == made[3].tobytes()
    some, _, _ = case.make(2, "jacobian", "--loss", "loss.pt", "--parameters", "first.*", "body.0.bias")
    names = {name: parameter.numel() for name, parameter in parameters.items()}
    kept = np.concatenate([np.full(size, name.startswith("first.") or name == "body.0.bias") for name, size in names.items()])
    close(some, wanted[:, kept])


def test_jacobian_needs_no_targets(case: Case) -> None:
    """L is then the mean over samples of the sum of outputs."""
    net, x = Heads(), images()
    case.export(net, x, torch.zeros(SAMPLES))
    with h5py.File(case.folder / "data.h5", "a") as file:
        del file["targets"]
    wanted = derivative(lambda p: outputs_of(net, p, x).flatten(), dict(net.named_parameters()))
    for ranks, arguments, samples in ((2, ["--batch-size", "4"], SAMPLES), (1, ["--reduction", "sum", "--dtype", "float64"], 1)):
        rows, attributes, shown = case.make(ranks, "jacobian", *arguments)
        close(rows, wanted)
        expect_passed(attributes, "row", "gradient", "difference")
        assert attributes["loss"] == "none" and "none, since there are no targets" in shown, shown
        np.testing.assert_allclose(attributes["loss_value"], outputs_of(net, {}, x).sum().item() / samples, rtol=1e-12)
        with h5py.File(case.folder / "m.h5") as file:
            close(file["gradient"][:], wanted.sum(0) / samples)
    assert "nothing to do" in case.good(1, "--model", "net.pt2", "--data", "data.h5", "--matrix", "jacobian", "--output", "m.h5",
                                        "--reduction", "sum", "--dtype", "float64", "--resume")
    assert "loss              " in case.other("hessian_info").good(1, "m.h5")


class FirstHead(nn.Module):
    def forward(self, output: tuple[torch.Tensor, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        return (output[0] - target).square().mean()


def test_gradients_are_those_of_each_samples_own_loss(case: Case) -> None:
    net, x, y = classifier(), images(), torch.arange(SAMPLES) % 3
    case.export(net, x, y)
    parameters = dict(net.named_parameters())
    own = lambda p: F.cross_entropy(torch.func.functional_call(net, p, (x,)), y, reduction="none")  # noqa: E731
    wanted = derivative(own, parameters)
    rows, attributes, shown = case.make(2, "gradients")
    close(rows, wanted)
    expect_passed(attributes, "row", "gradient", "difference")
    assert f"gradients         {SAMPLES} x" in shown, shown
    with h5py.File(case.folder / "m.h5") as file:
        close(rows.mean(0), file["gradient"][:])
    close(case.make(1, "gradients", "--reduction", "sum", "--batch-size", "3")[0], wanted)

    # Weights of classes: the mean of l_s is the loss of PyTorch, so that l_s is not what reduction="none" gives.
    weights = torch.tensor([1.0, 2.0, 0.5])
    weighted = lambda p: F.cross_entropy(torch.func.functional_call(net, p, (x,)), y, weights, reduction="none")  # noqa: E731
    shares = derivative(weighted, parameters) * SAMPLES / weights[y].sum().item()
    close(case.make(2, "gradients", "--loss-option", "weight=1,2,0.5", "--batch-size", "4")[0], shares)
    close(case.make(1, "gradients", "--loss-option", "weight=1,2,0.5")[0], shares)

    case.good(2, "--model", "net.pt2", "--data", "data.h5", "--matrix", "fisher", "--output", "f.h5", "--progress", "none")
    with h5py.File(case.folder / "f.h5") as file:
        close(rows.T @ rows / SAMPLES, file["hessian"][:])


def test_samples_that_cannot_run_alone_run_in_their_batch(case: Case) -> None:
    """A network of one batch size; batch normalisation in train mode, where samples interact."""
    net, x, y = classifier(), images(), torch.arange(SAMPLES) % 3
    case.export(net, x, y, any_number=False)
    wanted = derivative(lambda p: outputs_of(net, p, x).flatten(), dict(net.named_parameters()))
    rows, _, shown = case.make(2, "jacobian")
    close(rows, wanted)
    assert "the batch of its sample" in shown, shown

    net, x = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 2)), torch.randn(SAMPLES, 4)
    case.export(net.train(), x, torch.arange(SAMPLES) % 2)
    wanted = derivative(lambda p: outputs_of(net, p, x).flatten(), dict(net.named_parameters()))
    rows, attributes, shown = case.make(2, "jacobian", "--mode", "train")
    np.testing.assert_allclose(rows, wanted, atol=1e-11)
    expect_passed(attributes, "row", "gradient", "difference")
    assert "the batch of its sample" in shown, shown


def test_a_wrong_derivative_fails(case: Case) -> None:
    x = torch.randn(SAMPLES, 3)
    case.export(CutOff(), x, torch.randn(SAMPLES, 2))
    finished = case.run(1, "--model", "net.pt2", "--data", "data.h5", "--matrix", "jacobian", "--loss", "mse", "--output", "m.h5")
    assert finished.returncode == 1 and "difference error" in finished.stderr, finished


def test_is_gone_on_with_and_made_in_parts(case: Case) -> None:
    net, x, y = classifier(), images(), torch.arange(SAMPLES) % 3
    case.export(net, x, y)
    whole, _, _ = case.make(1, "jacobian")
    with h5py.File(case.folder / "m.h5", "r+") as file:
        file["jacobian"][7, 5] += 1
        file["rows/sample"][3] = 5
    job = ["--model", "net.pt2", "--data", "data.h5", "--matrix", "jacobian", "--threads", "1", "--progress", "none"]
    damaged = case.other("hessian_info").run(2, "m.h5", "--verify")
    assert damaged.returncode == 1 and "/rows/sample" in damaged.stdout and "7, sample 2, output 1" in damaged.stdout, damaged
    case.good(2, *job, "--output", "m.h5", "--resume", "--verify", "all")
    with h5py.File(case.folder / "m.h5") as file:
        assert file["jacobian"][:].tobytes() == whole.tobytes() and file["rows/sample"][3] == 1
    assert "all as they were" in case.other("hessian_info").good(1, "m.h5", "--verify")
    other = [word.replace("jacobian", "gradients") for word in job]
    refused = case.run(1, *other, "--output", "m.h5", "--resume").stderr
    assert "another job" in refused and "matrix" in refused, refused

    for k in range(2):
        case.good(2, *job, "--output", f"part-{k}.h5", "--rows", f"{k}/2")
    case.other("hessian_join").good(1, "part-0.h5", "part-1.h5", "--output", "joined.h5")
    case.other("hessian_join").good(1, "part-0.h5", "part-1.h5", "--output", "copy.h5", "--copy")
    for name in ("joined.h5", "copy.h5"):
        with h5py.File(case.folder / name) as file:
            assert file["jacobian"][:].tobytes() == whole.tobytes() and file.attrs["complete"] == 1
    assert "no part has rows" in case.other("hessian_join").run(1, "part-0.h5", "--output", "half.h5").stderr


def test_other_programs_take_it_or_say_why_not(case: Case) -> None:
    net, x, y = classifier(), images(), torch.arange(SAMPLES) % 3
    case.export(net, x, y)
    rows, _, _ = case.make(2, "jacobian")
    n = rows.shape[1]
    shown = case.other("hessian_info").good(1, "m.h5")
    assert f"Jacobian          30 x {n} float64" in shown, shown
    for program, arguments in (("spectrum", []), ("solve", []), ("multiply", ["--random", "1"]), ("convert", ["copy.h5"])):
        if not case.has(f"hessian_{program}"):
            continue
        refused = case.other(f"hessian_{program}").error("m.h5", *arguments)
        assert f"30 rows of samples by {n} parameters" in refused, refused
    assert "parameters by parameters" in case.other("hessian_info").error("m.h5", "--norms")
    plot = subprocess.run([sys.executable, pathlib.Path(case.program).parent / "hessian_plot", "m.h5", "-o", "m.png"],
                          cwd=case.folder, capture_output=True, text=True)
    assert plot.returncode == 2 and "rows of samples" in plot.stderr, plot

    case.good(2, "--model", "net.pt2", "--data", "data.h5", "--output", "h.h5", "--progress", "none")
    for sides in ("m.h5", "m.h5:jacobian") if case.has("hessian_solve") else ():
        case.other("hessian_solve").good(2, "h.h5", "--rhs", sides, "--damping", "10", "--output", "x.h5", "--overwrite")
        with h5py.File(case.folder / "h.h5") as h, h5py.File(case.folder / "x.h5") as solved:
            matrix = (h["hessian"][:] + h["hessian"][:].T) / 2 + 10 * np.eye(n)
            np.testing.assert_allclose(solved["solution"][:], np.linalg.solve(matrix, rows.T).T, atol=1e-12)

    with HessianFile(case.folder / "m.h5") as J:
        assert J.shape == (30, n) and repr(J).endswith("over 4 parameters>") and J.is_jacobian
        close(np.asarray(J), rows)
        close(J["3.weight"].full[J.rows_of(4)], rows[12:15, J.slice_of("3.weight")].reshape(3, 3, 18))
        close(J[5, 2:9], rows[5, 2:9])
        v, w = np.arange(float(n)), np.arange(30.0)
        close(J @ v, rows @ v)
        close(w @ J, w @ rows)
        close(J.tensors(J[7])["0.bias"], rows[7, J.slice_of("0.bias")])
        for wrong in (J.diagonal, lambda: J["0.bias", "0.bias"], lambda: J.rows_of(SAMPLES)):
            try:
                wrong()
            except (HessianFileError, KeyError, IndexError):
                continue
            raise AssertionError(wrong)


class WithLoss(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.net(x), y)


class Spread(nn.Module):
    """A loss that is made of no losses of samples."""

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - output.mean(0)).square().mean()


def test_refuses_what_has_no_rows_of_samples(case: Case) -> None:
    net, x, y = classifier(), images(), torch.arange(SAMPLES) % 3
    case.export(net, x, y)
    job = ["--model", "net.pt2", "--data", "data.h5", "--matrix", "gradients"]
    for wrong, words in ((["--l2", "1"], "--l2"), (["--blocks", "diagonal"], "rows of samples"), (["--diagonal"], "rows of samples"),
                         (["--method", "layers"], "rows of samples"), (["--rows", "0:99"], "has 10 rows")):
        assert words in case.error(*job, *wrong, "--output", "none.h5"), wrong
    torch.jit.save(torch.jit.script(WithLoss(net)), case.folder / "loss_net.pt")
    for matrix, words in (("jacobian", "export it without its loss"), ("gradients", "and name that by --loss")):
        refused = case.error("--model", "loss_net.pt", *job[2:4], "--matrix", matrix, "--loss", "output", "--output", "none.h5")
        assert f"--matrix {matrix} is made of the model's outputs" in refused and words in refused, refused
    torch.jit.save(torch.jit.script(Spread()), case.folder / "loss.pt")
    refused = case.error(*job, "--loss", "loss.pt", "--output", "none.h5")
    assert "not made of losses of samples" in refused, refused
    assert not (case.folder / "none.h5").exists()
    planned = case.good(2, *job, "--plan")
    assert "whole job" in planned and not (case.folder / "hessian.h5").exists(), planned


run_tests(globals(), Case)
