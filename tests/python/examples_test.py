"""Runs the examples as they are, one after the other, and reads what they print and leave.

usage: examples_test.py EXAMPLES PROGRAM
"""

import contextlib
import importlib
import importlib.util
import io
import os
import pathlib
import re
import sys
import tempfile
import unittest

import h5py
import numpy as np
import torch

import hessian_mpi

EXAMPLES, PROGRAM = map(pathlib.Path, sys.argv[1:])


class Examples(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name, "job")
        self.addCleanup(torch.set_default_dtype, torch.float32)

    def run_example(self, name: str, *needed: str, arguments: tuple = ()) -> str:
        """What it prints."""
        for package in needed:
            if importlib.util.find_spec(package) is None:
                self.skipTest(f"{package} is not installed")
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module(name).main(str(self.folder), *arguments)
        return printed.getvalue()

    def matrix(self, name: str = "hessian.h5", at_minimum: bool = False) -> hessian_mpi.HessianFile:
        H = hessian_mpi.HessianFile(self.folder / name)
        self.addCleanup(H.close)
        checks = {name: outcome for name, outcome in H.attributes.items() if name.endswith("_check")}
        if at_minimum:  # where the gradient is rounding
            self.assertIn(checks.pop("gradient_check"), ("rounding", "passed"))
        self.assertEqual(set(checks.values()), {"passed"}, checks)
        return H

    def test_mlp(self) -> None:
        self.assertIn("largest eigenvalues", self.run_example("mlp"))
        self.assertEqual(self.matrix().shapes["0.weight"], (8, 2))

    def test_digits(self) -> None:
        printed = self.run_example("digits", "sklearn")
        self.assertEqual(re.findall(r"^(\S+): trace", printed, re.M), self.matrix().names)

    def test_language_model(self) -> None:
        self.run_example("language_model", "transformers")
        self.assertIn("transformer.wte.weight", self.matrix().names)

    def test_pinn(self) -> None:
        printed = self.run_example("pinn")
        smallest = float(re.search(r"smallest eigenvalues \[\s*(\S+)", printed)[1])
        self.assertAlmostEqual(smallest, np.linalg.eigvalsh(np.asarray(self.matrix()))[0], places=6)

    def test_influence(self) -> None:
        if not (PROGRAM.parent / "hessian_solve").exists():
            self.skipTest("built without solvers")
        printed = self.run_example("influence")
        self.assertGreater(float(re.search(r"correlation .*: (\S+)", printed)[1]), 0.9)
        self.assertEqual(hessian_mpi.HessianFile(self.folder / "training/hessian.h5").shape, (100, 32))

    def test_training(self) -> None:
        if not (PROGRAM.parent / "hessian_spectrum").exists():
            self.skipTest("built without solvers")
        self.run_example("training", "sklearn", "matplotlib", arguments=(3,))
        found = sorted(path.name for path in self.folder.iterdir() if path.is_file())
        of_steps = [f"step-{step}{kind}.h5" for step in (0, 22, 511) for kind in ("", ".spectrum")]
        self.assertEqual(found, sorted(of_steps) + ["training.png"])

    def test_graph(self) -> None:
        self.assertIn("(24, 12)", self.run_example("graph"))
        self.assertEqual(self.matrix().N, 44)

    def test_molecule(self) -> None:
        """By positions, from both formats: PyTorch's own Hessian, six zeros and twelve vibrations."""
        self.run_example("molecule")
        scripted = torch.jit.load(self.folder / "scripted.pt")
        with h5py.File(self.folder / "data.h5") as file:
            positions = torch.from_numpy(file["inputs/positions"][:])
        expected = torch.autograd.functional.hessian(scripted, positions).reshape(18, 18).numpy()
        for name in ("hessian.h5", "scripted.h5"):
            H = self.matrix(name, at_minimum=True)
            self.assertEqual(H.shapes, {"positions": (6, 3)})
            self.assertEqual(H.attributes["with_respect_to"], "inputs:positions")
            np.testing.assert_allclose(np.asarray(H), expected, rtol=0, atol=1e-10)
            eigenvalues = np.linalg.eigvalsh(np.asarray(H))
            np.testing.assert_allclose(eigenvalues[:6], 0, atol=1e-10)
            self.assertGreater(eigenvalues[6], 1)
        # What moves all atoms, and what turns them, costs no energy.
        centre = positions - positions.mean(0)
        for axis in torch.eye(3, dtype=torch.float64):
            for motion in (axis.expand(6, 3), torch.linalg.cross(axis.expand(6, 3), centre)):
                np.testing.assert_allclose(np.asarray(H) @ motion.reshape(-1).numpy(), 0, atol=1e-10)


if __name__ == "__main__":
    sys.path.insert(0, str(EXAMPLES))
    os.environ["PATH"] = f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"
    # The examples start mpirun as it is; these are for tests that run beside others.
    os.environ.update(OMPI_MCA_hwloc_base_binding_policy="none", OMPI_MCA_rmaps_base_oversubscribe="1")
    unittest.main(argv=sys.argv[:1])
