"""hessian_mpi.hessian and run under mpirun: matrices against PyTorch's, the program's errors, ctrl-C.

usage: run_job_test.py PROGRAM FAULT_LIBRARY MPIRUN...
"""

import contextlib
import inspect
import io
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from typing import Any

import numpy as np
import torch
from oracle import difference, hessian
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import hessian_mpi
from hessian_mpi import export_job, run_job

PROGRAM, FAULT_LIBRARY, LAUNCHER = sys.argv[1], sys.argv[2], shlex.join(sys.argv[3:])


class Tests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name, "job")
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        self.x, self.y = torch.randn(10, 3), torch.randint(2, (10,))
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def hessian(self, *arguments: Any, **options: Any) -> hessian_mpi.HessianFile:
        with contextlib.redirect_stdout(io.StringIO()) as self.printed, contextlib.redirect_stderr(io.StringIO()) as self.errors:
            return hessian_mpi.hessian(*arguments, folder=self.folder, program=PROGRAM, launcher=LAUNCHER, **options)

    def assert_is(self, H: hessian_mpi.HessianFile, expected: Tensor) -> None:
        with H:
            self.assertLess(difference(np.asarray(H), expected), 1e-10)


class Matrix(Tests):
    def test_of_a_loss_by_name(self) -> None:
        H = self.hessian(self.network, (self.x, self.y), loss_options={"weight": torch.tensor([1.0, 3.0])}, ranks=2)
        expected = hessian(self.network, lambda model: F.cross_entropy(model(self.x), self.y, weight=torch.tensor([1.0, 3.0])))
        np.testing.assert_allclose(H["0.weight", "2.bias"][:], expected[:12, 24:], atol=1e-12)
        self.assert_is(H, expected)
        self.assertIn("hessian.h5: complete", self.printed.getvalue())
        self.assertIn("26 / 26 rows", self.errors.getvalue())

    def test_of_a_function_in_batches_of_a_loader(self) -> None:
        def loss(output: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(output, target, reduction="sum") + output.pow(4).sum()

        H = self.hessian(self.network, DataLoader(TensorDataset(self.x, self.y), batch_size=4), loss, batch_size=3)
        self.assert_is(H, hessian(self.network, lambda model: loss(model(self.x), self.y)))

    def test_of_tied_and_frozen_parameters(self) -> None:
        network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
        network[2].weight = network[0].weight
        network[0].bias.requires_grad_(False)
        H = self.hessian(network, (self.x, self.x), "mse")
        self.assertEqual(H.names, ["0.weight", "2.bias"])
        self.assert_is(H, hessian(network, lambda model: F.mse_loss(model(self.x), self.x)))

    def test_of_derivatives_by_inputs(self) -> None:
        def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            x = batch["inner"].requires_grad_()
            first, = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            second, = torch.autograd.grad(first.sum(), x, create_graph=True)
            return (first - second.square()).square().mean() + model(batch["edge"]).square().mean()

        batch = {"inner": self.x, "edge": torch.randn(10, 3)}
        H = self.hessian(self.network, batch, loss)
        self.assert_is(H, hessian(self.network, lambda model: loss(model, {key: x.clone() for key, x in batch.items()})))

    def test_with_a_detach_that_the_checks_of_the_program_see(self) -> None:
        def loss(output: Tensor, target: Tensor) -> Tensor:
            return (output.detach() * output).mean()

        with self.assertRaisesRegex(hessian_mpi.JobError, "the gradient is not the slope of the loss"):
            self.hessian(self.network, (self.x, self.y), loss)
        H = self.hessian(self.network, (self.x, self.y), loss, check=0, overwrite=True)
        self.assert_is(H, hessian(self.network, lambda model: loss(model(self.x), self.y)))

    def test_in_batches_beside_inputs_that_are_whole(self) -> None:
        def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
            x = batch["x"].requires_grad_()
            slope, = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            return slope.square().mean() + model(batch["anchor"]).square().mean()

        batch = {"x": self.x, "anchor": torch.randn(3, 3)}
        H = self.hessian(self.network, batch, loss, whole=["anchor"], batch_size=4)
        self.assert_is(H, hessian(self.network, lambda model: loss(model, {key: x.clone() for key, x in batch.items()})))

    def test_of_losses_of_several_outputs(self) -> None:
        class Gaussian(nn.Module):
            def __init__(self, linear: nn.Module):
                super().__init__()
                self.linear = linear

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                mean, spread = self.linear(x).unbind(1)
                return mean, spread.exp()

        network, target = Gaussian(self.network), torch.randn(10)
        H = self.hessian(network, (self.x, target), "gaussian_nll", loss_options={"full": True}, batch_size=4)
        self.assert_is(H, hessian(network, lambda model: F.gaussian_nll_loss(model(self.x)[0], target, model(self.x)[1], full=True)))


    def test_at_values_and_in_an_output_beside_the_caller(self) -> None:
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder.parent)
        other = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        torch.save(other.state_dict(), "other.pt")
        H = self.hessian(self.network, (self.x, self.y), values="other.pt", output="first.h5")
        expected = hessian(other, lambda model: F.cross_entropy(model(self.x), self.y))
        self.assert_is(H, expected)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            H = hessian_mpi.run(self.folder, output="second.h5", program=PROGRAM, launcher=LAUNCHER)
        self.assert_is(H, expected)
        self.assertEqual({path.name for path in pathlib.Path().glob("*.h5")}, {"first.h5", "second.h5"})

    def test_by_an_input_that_is_named_as_its_argument(self) -> None:
        H = self.hessian(self.network, (self.x, self.y), with_respect_to="inputs:input")
        self.assertEqual(H.names, ["input"])
        self.assert_is(H, torch.autograd.functional.hessian(lambda x: F.cross_entropy(self.network(x), self.y),
                                                            self.x).reshape(30, 30))


    def test_says_in_which_lines_of_the_user_it_computes_otherwise(self) -> None:
        def of_output(output: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(output.float(), target)

        def of_model(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            x = batch[0].requires_grad_()
            slope, = torch.autograd.grad(model(x).float().pow(2).sum(), x, create_graph=True)
            return slope.square().mean()

        for loss, words in ((of_output, "output.float(), target"), (of_model, "model(x).float()")):
            lines, first = inspect.getsourcelines(loss)
            line = first + next(k for k, text in enumerate(lines) if words in text)
            self.hessian(self.network, (self.x, self.y), loss, overwrite=True).close()
            warned = [text for text in self.errors.getvalue().splitlines() if "warning" in text]
            self.assertIn(f"run_job_test.py:{line}: ", "\n".join(warned))
            self.assertNotIn("trace.py", "\n".join(warned))


    def test_says_that_a_padding_is_taken_for_a_constant(self) -> None:
        class Words(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.word = nn.Embedding.from_pretrained(torch.randn(4, 3), freeze=False, padding_idx=0)
                self.head = nn.Linear(3, 2)

            def forward(self, words: Tensor) -> Tensor:
                return self.head(self.word(words).mean(1).tanh())

        for options in ({"l2": 0.1}, {}):
            self.hessian(Words(), (torch.arange(20).reshape(10, 2) % 4, self.y), overwrite=True, **options).close()
            self.assertRegex(self.errors.getvalue(), "gradient is exactly zero .the first is .*word.weight.*padding_idx")

    def test_of_outputs_needs_no_targets(self) -> None:
        J = self.hessian(self.network, (self.x,), matrix="jacobian", batch_size=4)
        parts = torch.func.jacrev(lambda p: torch.func.functional_call(self.network, p, (self.x,)).flatten())(
            dict(self.network.named_parameters()))
        self.assert_is(J, torch.cat([part.flatten(1) for part in parts.values()], 1).detach())


class Errors(Tests):
    def test_are_the_words_of_the_program_alone(self) -> None:
        with self.assertRaises(hessian_mpi.JobError) as caught:
            self.hessian(self.network, (self.x, self.y), dtype="float16")
        self.assertEqual(str(caught.exception), "--dtype 'float16' is none of: float32, float64")
        self.assertEqual(caught.exception.exit_code, 2)
        self.assertEqual(self.errors.getvalue(), "")

    def test_name_options_that_there_are_not_before_anything_is_written(self) -> None:
        for option, words in (("batchsize", "did you mean batch_size="), ("rank", "did you mean ranks="), ("foo", "lists all")):
            with self.assertRaisesRegex(TypeError, f"{option}= is no option.*{words}"):
                self.hessian(self.network, (self.x, self.y), **{option: 3})
        with self.assertRaisesRegex(FileNotFoundError, "no_program"):
            hessian_mpi.hessian(self.network, (self.x, self.y), folder=self.folder, program="no_program", launcher=LAUNCHER)
        self.assertFalse(self.folder.exists())

    def test_options_with_files_are_known(self) -> None:
        """The package has a list of them, since it exports where no program is."""
        listed = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True).stdout
        files = re.findall(r"^(?:  -\w, |      )--(\w+) +(?:NAME\|)?FILE ", listed, re.M)
        self.assertEqual(set(files) - {"loss", "config"}, set(export_job._PATHS))

    def test_leave_a_file_that_is_there(self) -> None:
        self.hessian(self.network, (self.x, self.y)).close()
        before = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        with self.assertRaisesRegex(hessian_mpi.JobError, "exists already.*overwrite=True"):
            self.hessian(self.network, (self.x + 1, self.y))
        self.assertEqual({path.name: path.read_bytes() for path in self.folder.iterdir()}, before)
        self.hessian(self.network, (self.x + 1, self.y), overwrite=True).close()

    def test_say_what_is_not_there(self) -> None:
        with self.assertRaisesRegex(FileNotFoundError, "hessian_mpi.export"):
            hessian_mpi.run(self.folder)
        with self.assertRaisesRegex(hessian_mpi.JobError, "no program here"), contextlib.redirect_stdout(io.StringIO()), \
                contextlib.redirect_stderr(io.StringIO()):
            hessian_mpi.export(self.folder, self.network, (self.x, self.y))
            hessian_mpi.run(self.folder, program="/usr/bin/false", launcher="sh -c 'echo no program here >&2; exit 3' --")

    def test_are_none_of_a_plan(self) -> None:
        self.assertIsNone(self.hessian(self.network, (self.x, self.y), plan=True))
        self.assertNotIn("plan", (self.folder / "job.cfg").read_text())


class Interrupted(Tests):
    def test_stops_the_job_and_says_how_to_go_on(self) -> None:
        network = nn.Sequential(nn.Linear(3, 200), nn.Tanh(), nn.Linear(200, 2))
        with contextlib.redirect_stdout(io.StringIO()):
            hessian_mpi.export(self.folder, network, (self.x, self.y), method="rows")
        pauses = {"RANK": 0, "CALL": "posix_memalign", "AT": 3000, "ERROR": 0, "FILE": "hessian"}
        # In a script, since each MPI's launcher has an option of its own for variables.
        pausing = pathlib.Path(f"{self.folder}.sh")
        variables = [f"LD_PRELOAD={FAULT_LIBRARY}", *(f"FAULT_{key}={value}" for key, value in pauses.items())]
        pausing.write_text(f'#!/bin/sh\nexec env {shlex.join(variables)} {PROGRAM} "$@"\n')
        pausing.chmod(0o700)
        script = f"import hessian_mpi; hessian_mpi.run({str(self.folder)!r}, program={str(pausing)!r}, launcher={LAUNCHER!r})"
        with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as job:
            while not (self.folder / "hessian.h5").exists() and job.poll() is None:
                time.sleep(0.05)
            job.send_signal(signal.SIGINT)
            _, errors = job.communicate(timeout=120)
        self.assertIn("JobInterrupted: ", errors)
        self.assertIn("--resume", errors)
        self.assertIn(f"In Python: hessian_mpi.run('{self.folder}', ranks=2, resume=True)", errors)
        with self.assertRaisesRegex(hessian_mpi.HessianFileError, "not complete"):
            hessian_mpi.HessianFile(self.folder / "hessian.h5")
        H = self.hessian(network, (self.x, self.y), resume=True)
        self.assert_is(H, hessian(network, lambda model: F.cross_entropy(model(self.x), self.y)))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Progress(unittest.TestCase):
    """What the program writes is shown as it comes, in a terminal, a notebook or a file."""

    BAR = b"\r[=>  ] 10 %\033[K\r[==> ] 60 %\033[K\rdone\033[K\n"

    def test_states_of_a_bar_come_one_by_one(self) -> None:
        shown = io.StringIO()
        relay = run_job._Relay(shown)
        relay.feed(self.BAR[:25])
        self.assertEqual(shown.getvalue(), "\r[=>  ] 10 %\r")
        relay.feed(self.BAR[25:])
        relay.close()
        self.assertEqual(shown.getvalue(), self.BAR.decode().replace("\033[K", ""))

    def test_terminals_get_their_codes(self) -> None:
        shown = Terminal()
        relay = run_job._Relay(shown)
        relay.feed(self.BAR)
        relay.close()
        self.assertEqual(shown.getvalue(), self.BAR.decode())

    def test_an_error_and_what_the_launcher_adds_are_kept_for_the_exception(self) -> None:
        shown = io.StringIO()
        relay = run_job._Relay(shown)
        relay.feed(b"hessian_mpi: warning: so\nhessian_mpi: error: no 'x';\nsay y\n-----\nmpirun ")
        relay.feed(b"noticed\n-----\n")
        relay.close()
        self.assertEqual((shown.getvalue(), relay.message()), ("hessian_mpi: warning: so\n", "no 'x';\nsay y"))

    def test_an_error_of_the_launcher_is_the_message_where_the_program_has_none(self) -> None:
        relay = run_job._Relay(io.StringIO())
        relay.feed(b"--------\nmpirun found no slots\nfor 9 ranks\n--------\n")
        self.assertEqual(relay.message(), "mpirun found no slots\nfor 9 ranks")

    def test_notebooks_get_a_bar(self) -> None:
        notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
        with contextlib.redirect_stderr(notebook):
            self.assertEqual(run_job._progress(), "bar")
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(run_job._progress(), "plain")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
