#!/usr/bin/env python3
"""Runs hessian_multiply, hessian_spectrum and hessian_solve on networks as their users do, and compares what they write
with what the same programs make of the file of hessian_mpi, and with PyTorch's Hessian.

usage: network_products.py FOLDER MODELS LAUNCH...

FOLDER has the programs, MODELS the networks of tests/models. LAUNCH is mpirun with its options but for the number of
ranks.
"""

import os
import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy as np

PROGRAMS, MODELS, LAUNCH = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]


def run(ranks: int, program: str, *arguments: str) -> subprocess.CompletedProcess:
    launch = [*LAUNCH, "-n", str(ranks)] if ranks > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*launch, PROGRAMS / program, *arguments], env=environment, capture_output=True, text=True, timeout=300)


def good(ranks: int, program: str, *arguments: str) -> str:
    finished = run(ranks, program, *arguments)
    assert finished.returncode == 0, finished
    return finished.stdout


def problem(name: str, *more: str) -> list[str]:
    folder = MODELS / name
    options = (folder / "options").read_text().replace("@CASE@", str(folder)).splitlines()
    return ["--model", str(folder / "model.pt2"), "--data", str(folder / "data.h5"), *options, *more]


def numbers_of(file: str, *names: str) -> list[np.ndarray]:
    with h5py.File(file) as opened:
        return [opened[name][:] for name in names]


def test_products_have_the_same_bits_on_any_ranks() -> None:
    for dtype, tolerance in (("float64", 1e-12), ("float32", 1e-5)):
        network = problem("gpt", "--dtype", dtype, "--batch-size", "1")
        for ranks in (1, 2, 3):
            good(ranks, "hessian_multiply", *network, "--random", "2", "-o", f"{dtype}.{ranks}.h5")
        vectors, products = numbers_of(f"{dtype}.1.h5", "vectors", "products")
        with h5py.File(MODELS / "gpt/reference.h5") as reference:
            expected = vectors @ reference["hessian"][:]
        np.testing.assert_allclose(products, expected, atol=tolerance * abs(expected).max())
        for ranks in (2, 3):
            assert numbers_of(f"{dtype}.{ranks}.h5", "products")[0].tobytes() == products.tobytes(), (dtype, ranks)


def test_spectra_are_those_of_the_file() -> None:
    for ranks, name, options in ((2, "resnet", ["--batch-size", "2"]), (1, "mlp_mse", ["--matrix", "ggn", "--l2", "0.1"])):
        network = problem(name, "--dtype", "float64", *options)
        wanted = ["--largest", "4", "--smallest", "2", "--density", "--probes", "4", "--steps", "20", "--vectors"]
        good(1, "hessian_mpi", *network, "-o", f"{name}.h5", "--progress", "none")
        good(1, "hessian_spectrum", f"{name}.h5", *wanted)
        out = good(ranks, "hessian_spectrum", *network, *wanted, "-o", f"{name}.network.h5")
        assert "against differences" in out and "passed" in out, out
        with h5py.File(f"{name}.spectrum.h5") as of_file, h5py.File(f"{name}.network.h5") as of_network:
            norm = of_file["largest"].attrs["norm"]
            for group in ("largest/eigenvalues", "smallest/eigenvalues", "density/ritz_values"):
                if "ritz" in group and name == "mlp_mse":
                    continue  # its Krylov spaces end in rounding, which differs
                np.testing.assert_allclose(of_network[group][:], of_file[group][:], atol=1e-7 * norm)
            density = of_network["density"].attrs
            trace = np.trace(h5py.File(f"{name}.h5")["hessian"][:])
            assert abs(density["trace"] - trace) <= 5 * density["trace_error"] + 1e-9 * norm, (density["trace"], trace)
            assert of_network["hessian"].attrs["difference_check"] == "passed"
            assert of_network.attrs["source"] == str(MODELS / name / "model.pt2")


def test_newtons_step_is_that_of_the_file() -> None:
    damping = ["--damping", "2", "--method", "minres"]
    good(1, "hessian_solve", "resnet.h5", *damping, "-o", "file.step.h5")
    good(2, "hessian_solve", *problem("resnet", "--dtype", "float64", "--batch-size", "2"), *damping, "-o", "network.step.h5")
    (of_file,), (of_network,) = numbers_of("file.step.h5", "solution"), numbers_of("network.step.h5", "solution")
    np.testing.assert_allclose(of_network, of_file, atol=1e-7 * abs(of_file).max())


def test_casts_that_are_kept_round_products() -> None:
    network = problem("casts", "--dtype", "float64", "--keep-casts")
    good(1, "hessian_multiply", *network, "--random", "1", "-o", "casts.products.h5")
    good(2, "hessian_spectrum", *network, "--largest", "2", "--smallest", "1", "-o", "casts.spectrum.h5")
    good(1, "hessian_solve", *network, "--damping", "2", "-o", "casts.step.h5")


def test_what_takes_the_whole_matrix_is_refused() -> None:
    network = problem("mlp_mse")
    for program, arguments, words in (
        ("hessian_spectrum", network, "--all, which is meant where"),
        ("hessian_spectrum", [*network, "--largest", "2", "--block", "*"], "--block takes the whole matrix"),
        ("hessian_spectrum", [*network, "--largest", "2", "resnet.h5"], "not both"),
        ("hessian_spectrum", ["resnet.h5", "--largest", "2", "--loss", "mse"], "--loss is of a network"),
        ("hessian_solve", [*network, "--logdet"], "--logdet takes the whole matrix"),
        ("hessian_solve", [*network, "--method", "dense"], "--method dense takes the whole matrix"),
        ("hessian_multiply", [*network[:2], "--gradient"], "--model needs --data"),
        ("hessian_multiply", [*network, "--gradient", "--matrix", "jacobian"], "has rows of samples"),
    ):
        finished = run(1, program, *arguments, "-o", "none.h5")
        assert finished.returncode == 2 and words in finished.stderr, (program, arguments, finished)
        assert finished.stderr.count("\n") == 1 and not pathlib.Path("none.h5").exists(), finished


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, test in list(globals().items()):
            if name.startswith("test_"):
                test()
