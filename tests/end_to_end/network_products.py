#!/usr/bin/env python3
"""Runs hessian_multiply, hessian_spectrum and hessian_solve on networks as their users do, and compares what they write
with what the same programs make of the file of hessian_mpi, and with PyTorch's Hessian.

usage: network_products.py FOLDER MODELS LAUNCH...

FOLDER has the programs, MODELS the networks of tests/models. LAUNCH is mpirun with its options but for the number of
ranks.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np
import tool
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "src/python"))
import hessian_file  # noqa: E402

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


def interrupted(options: list[str], *, write: int, error: int, ranks: int = 1, mark: str = "", program: str = "hessian_spectrum") -> subprocess.Popen:
    """With a fault in a write to the file of products."""
    rank = "0" if ranks > 1 else ""
    faults = tool.fault("pwrite", rank, write, error, ".products") | {"FAULT_MARK": mark}
    launch = [*LAUNCH, "-n", str(ranks)] if ranks > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **faults}
    command = [*launch, PROGRAMS / program, *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stopped_by_signal(options: list[str], *, write: int, program: str = "hessian_spectrum") -> str:
    """Asked to stop while it writes; what it says then."""
    stopped = interrupted(options, write=write, error=-19, mark="mark", program=program)
    while not pathlib.Path("mark").exists() and stopped.poll() is None:
        time.sleep(0.01)
    pathlib.Path("mark").unlink()
    stopped.send_signal(signal.SIGUSR1)
    stopped.send_signal(signal.SIGCONT)
    _, words = stopped.communicate(timeout=300)
    assert stopped.returncode == 75 and "go on, on any number of ranks, with: " in words, words
    return words


SPECTRUM = ["--largest", "3", "--density", "--probes", "3", "--steps", "12", "--seed", "4"]
RESULTS = ("largest/eigenvalues", "density/ritz_values", "density/weights")
PRODUCTS = r"products +(\d+) made"


def made_in(out: str) -> int:
    return int(re.search(PRODUCTS, out).group(1))


def test_runs_that_were_ended_go_on() -> None:
    network = problem("gpt", "--dtype", "float64", "--batch-size", "1")
    good(1, "hessian_spectrum", *network, *SPECTRUM, "-o", "whole.h5")
    assert not pathlib.Path("whole.h5.products").exists()
    # Killed within the 20th product, of which the numbers are there and the head is not; then asked to stop.
    options = [*network, *SPECTRUM, "-o", "ended.h5"]
    killed = interrupted(options, write=42, error=-9)
    killed.communicate(timeout=300)
    assert killed.returncode == -9 and not pathlib.Path("ended.h5").exists()
    finished = run(1, "hessian_spectrum", *options)
    assert finished.returncode == 2 and "--resume" in finished.stderr and "--overwrite" in finished.stderr, finished
    words = stopped_by_signal([*options, "--resume"], write=41)
    stopped_at = int(re.search(r"stopped by SIGUSR1: (\d+) products", words).group(1))
    assert stopped_at in (40, 41), words  # which are written while the next one is made
    shutil.copy("ended.h5.products", "more.h5.products")
    out = good(1, "hessian_spectrum", *options, "--resume")
    assert f"resumed     {stopped_at} products" in out, out
    for mine, theirs in zip(numbers_of("ended.h5", *RESULTS), numbers_of("whole.h5", *RESULTS)):
        assert mine.tobytes() == theirs.tobytes()
    assert good(1, "hessian_spectrum", *options, "--resume").endswith("nothing to do\n")
    # On other ranks vectors differ in rounding.
    on_three = good(3, "hessian_spectrum", *network, *SPECTRUM, "-o", "more.h5", "--resume")
    assert made_in(on_three) <= made_in(out) + 5, (on_three, out)
    for mine, theirs in zip(numbers_of("more.h5", *RESULTS), numbers_of("whole.h5", *RESULTS)):
        np.testing.assert_allclose(mine, theirs, atol=1e-9 * abs(theirs).max())
    assert not list(pathlib.Path().glob("*.products"))


def test_many_products_go_on() -> None:
    options = [*problem("gpt", "--batch-size", "1"), "--random", "6"]
    good(1, "hessian_multiply", *options, "-o", "many.whole.h5")
    options += ["-o", "many.h5"]
    # Killed within the third product, then asked to stop within the fourth.
    killed = interrupted(options, write=8, error=-9, program="hessian_multiply")
    killed.communicate(timeout=300)
    assert killed.returncode == -9 and not pathlib.Path("many.h5").exists()
    words = stopped_by_signal([*options, "--resume"], write=3, program="hessian_multiply")
    stopped_at = int(re.search(r"stopped by SIGUSR1: (\d) products", words).group(1))
    assert stopped_at in (4, 5), words
    shutil.copy("many.h5.products", "many.two.h5.products")
    out = good(1, "hessian_multiply", *options, "--resume")
    assert f"resumed     {stopped_at} products" in out and made_in(out) == 6 - stopped_at, out
    on_two = good(2, "hessian_multiply", *options[:-2], "--resume", "-o", "many.two.h5")
    assert made_in(on_two) == 6 - stopped_at, on_two
    for file in ("many.h5", "many.two.h5"):
        assert numbers_of(file, "products")[0].tobytes() == numbers_of("many.whole.h5", "products")[0].tobytes(), file
    assert good(2, "hessian_multiply", *options, "--resume").endswith("nothing to do\n")
    assert not list(pathlib.Path().glob("*.products"))


def test_an_output_of_other_inputs_is_not_done() -> None:
    for file in ("model.pt2", "data.h5"):
        shutil.copy(MODELS / "mlp_mse" / file, file)
    np.save("v.npy", np.ones(77))
    network = ["--model", "model.pt2", "--data", "data.h5", *problem("mlp_mse")[4:]]
    for program, vectors in (("multiply", ["--vectors", "v.npy"]), ("solve", ["--damping", "50", "--rhs", "v.npy"])):
        job = [f"hessian_{program}", *network, *vectors, "-o", f"inputs.{program}.h5", "--resume"]
        good(1, *job)
        assert good(1, *job).endswith("nothing to do\n")
        for file, words in (("model.pt2", "model_sha256: '"), ("data.h5", "data_sha256: '"), ("v.npy", "the vectors in 'v.npy'")):
            bytes_then = pathlib.Path(file).read_bytes()
            if file == "v.npy":
                np.save(file, np.full(77, 2.0))
            else:
                pathlib.Path(file).write_bytes(bytes_then + b"more")
            finished = run(1, *job)
            assert finished.returncode == 2 and "made by this command of other inputs: " + words in finished.stderr, finished
            pathlib.Path(file).write_bytes(bytes_then)
        assert good(1, *job).endswith("nothing to do\n")


def test_vectors_that_differ_in_rounding_are_others() -> None:
    inputs = np.ones((2, h5py.File("many.h5")["vectors"].shape[1]))
    inputs[1] += 1e-13 * np.random.default_rng(0).standard_normal(inputs.shape[1])
    np.save("near.npy", inputs)
    good(1, "hessian_multiply", *problem("gpt", "--dtype", "float64"), "--vectors", "near.npy", "-o", "near.h5")
    (products,) = numbers_of("near.h5", "products")
    assert (products[0] != products[1]).any() and abs(products[1] - products[0]).max() < 1e-10 * abs(products).max()


def test_products_of_another_job_are_refused() -> None:
    options = [*problem("gpt", "--dtype", "float64"), *SPECTRUM, "-o", "other.h5"]
    interrupted(options, write=20, error=-9, ranks=2).communicate(timeout=300)
    for more, words in ((["--l2", "0.25"], "l2: 0 in the file, 0.25 now"), (["--parameters", "*.weight"], "N: ")):
        finished = run(1, "hessian_spectrum", *options, *more, "--resume")
        assert finished.returncode == 2 and words in finished.stderr and "of another job" in finished.stderr, finished
    stopped = run(2, "hessian_spectrum", *options, "--resume", "--time-limit", "0")
    assert stopped.returncode == 75 and "stopped by the time limit" in stopped.stderr, stopped
    good(2, "hessian_spectrum", *options, "--overwrite")
    assert run(1, "hessian_spectrum", *options).returncode == 2 and not pathlib.Path("other.h5.products").exists()


def test_where_the_disk_is_full_products_are_not_kept() -> None:
    full = interrupted([*problem("gpt"), *SPECTRUM, "-o", "full.h5"], write=20, error=28)
    _, words = full.communicate(timeout=300)
    assert full.returncode == 0 and "not all products were kept" in words, words


def test_the_loss_along_a_step_is_the_networks() -> None:
    network = problem("mlp_mse", "--dtype", "float64", "--l2", "0.1")
    good(1, "hessian_mpi", *network, "-o", "step_hessian.h5", "--progress", "none")
    model = torch.jit.load(MODELS / "mlp_mse/model.pt").double()
    inputs, targets = (torch.from_numpy(x).double() for x in numbers_of(MODELS / "mlp_mse/data.h5", "inputs", "targets"))
    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    (hessian,), gradient = numbers_of("step_hessian.h5", "hessian"), numbers_of("step_hessian.h5", "gradient")[0]
    beside = ["step_hessian.h5", *network[:4]]  # all other options are the file's
    for ranks, damping, matrix in ((2, "50", beside), (1, "0.001", beside), (2, "50", network), (1, "0.001", network)):
        out = good(ranks, "hessian_solve", *matrix, "--damping", damping, "-o", "along.h5", "--overwrite")
        assert ("factors" in out) == (matrix is beside), out
        step, multiples, losses, of_model = numbers_of("along.h5", "solution", *(f"along_step/{name}" for name in ("multiple", "loss", "quadratic_model")))
        assert multiples.tolist() == [0, 0.125, 0.25, 0.5, 1]
        for t, loss, predicted in zip(multiples, losses, of_model):
            torch.nn.utils.vector_to_parameters(theta + t * torch.from_numpy(step[0]), model.parameters())
            expected = torch.nn.functional.mse_loss(model(inputs), targets) + 0.05 * sum((p**2).sum() for p in model.parameters())
            np.testing.assert_allclose(loss, expected.item(), rtol=1e-12)
            np.testing.assert_allclose(predicted, losses[0] + t * gradient @ step[0] + t * t / 2 * step[0] @ hessian @ step[0], rtol=1e-9)
        wrong = abs(losses - of_model) > abs(of_model - losses[0]) / 4 + 1e-14
        trusted = multiples[wrong.argmax() - 1] if wrong.any() else 1
        assert h5py.File("along.h5")["along_step"].attrs["trusted"] == trusted and ("NOT" in out) == (trusted < 1), out
        assert trusted == 1 or damping != "50", out
    torch.nn.utils.vector_to_parameters(theta, model.parameters())
    step = hessian_file.tensors_of("along.h5")  # as the document says
    model.load_state_dict({name: p + torch.from_numpy(step[name]) if name in step else p for name, p in model.state_dict().items()})
    expected = torch.nn.functional.mse_loss(model(inputs), targets) + 0.05 * sum((p**2).sum() for p in model.parameters())
    np.testing.assert_allclose(losses[-1], expected.item(), rtol=1e-12)
    good(1, "hessian_solve", "step_hessian.h5", "--damping", "0.001", "-o", "of_file.h5")
    of_file = hessian_file.tensors_of("of_file.h5")
    assert list(of_file) == list(step) and all(of_file[name].shape == step[name].shape for name in step)
    np.testing.assert_allclose(np.concatenate([x.ravel() for x in of_file.values()]), numbers_of("of_file.h5", "solution")[0][0])


def test_a_network_beside_a_file_is_the_files() -> None:
    beside = ["step_hessian.h5", *problem("mlp_mse")[:4]]
    with h5py.File(MODELS / "mlp_mse/data.h5") as data, h5py.File("other_data.h5", "w") as other:
        other["inputs"], other["targets"] = data["inputs"][:][::-1], data["targets"][:]
    values = {name: x.double() for name, x in torch.jit.load(MODELS / "mlp_mse/model.pt").state_dict().items()}
    next(iter(values.values()))[0] += 1e-6
    torch.save(values, "other_values.pt")
    for more, words in (
        (["--l2", "0.2"], "l2: 0.1 in the file, 0.2 of the network"),
        (["--loss", "l1"], "loss: 'mse' in the file, 'l1' of the network"),
        (["--data", "other_data.h5"], "the gradient; data_sha256: '"),
        (["--values", "other_values.pt"], "the values of the parameters; "),
        (["--parameters", "*weight"], "parameter 1: "),
        (["--rhs", "step_hessian.h5:gradient"], "for the loss along Newton's step"),
        (["--resume"], "--resume is of a network in the place of a file"),
    ):
        given = beside[:3] if "--data" in more else beside
        finished = run(1, "hessian_solve", *given, *more, "-o", "none.h5")
        assert finished.returncode == 2 and words in finished.stderr and finished.stderr.count("\n") == 1, (more, finished)
        assert not pathlib.Path("none.h5").exists()


def test_casts_that_are_kept_round_products() -> None:
    network = problem("casts", "--dtype", "float64", "--keep-casts")
    good(1, "hessian_multiply", *network, "--random", "1", "-o", "casts.products.h5")
    good(2, "hessian_spectrum", *network, "--largest", "2", "--smallest", "1", "-o", "casts.spectrum.h5")
    good(1, "hessian_solve", *network, "--damping", "2", "-o", "casts.step.h5")


def test_what_autograd_takes_for_constants_is_left_out() -> None:
    values = torch.jit.load(MODELS / "embedding/model.pt").state_dict()
    values["word.weight"][0] = 0.3  # of padding_idx
    torch.save(values, "padding.pt")
    network = problem("embedding", "--dtype", "float64", "--l2", "0.5", "--values", "padding.pt")
    finished = run(2, "hessian_multiply", *network, "--random", "1", "-o", "constants.h5")
    assert finished.returncode == 0 and "autograd takes them for constants" in finished.stderr, finished


def test_what_takes_the_whole_matrix_is_refused() -> None:
    network = problem("mlp_mse")
    for program, arguments, words in (
        ("hessian_spectrum", network, "--all, which is meant where"),
        ("hessian_spectrum", [*network, "--largest", "2", "--block", "*"], "--block takes the whole matrix"),
        ("hessian_spectrum", [*network, "--largest", "2", "resnet.h5"], "not both"),
        ("hessian_spectrum", ["resnet.h5", "--largest", "2", "--loss", "mse"], "--loss is of a network"),
        ("hessian_spectrum", ["resnet.h5", "--largest", "2", "--resume"], "--resume is of a network"),
        ("hessian_solve", [*network, "--resume", "--overwrite"], "give one of them"),
        ("hessian_solve", [*network, "--logdet"], "--logdet takes the whole matrix"),
        ("hessian_solve", [*network, "--method", "dense"], "--method dense takes the whole matrix"),
        ("hessian_multiply", [*network[:2], "--gradient"], "--model needs --data"),
        ("hessian_multiply", [*network, "--gradient", "--matrix", "jacobian"], "has rows of samples"),
        ("hessian_multiply", ["resnet.h5", "--gradient", "--time-limit", "1"], "--time-limit is of a network"),
    ):
        finished = run(1, program, *arguments, "-o", "none.h5")
        assert finished.returncode == 2 and words in finished.stderr, (program, arguments, finished)
        assert finished.stderr.count("\n") == 1 and not pathlib.Path("none.h5").exists(), finished


def test_a_file_that_is_there_is_refused_before_anything_is_computed() -> None:
    pathlib.Path("there.h5").touch()
    for program, *arguments in (("hessian_spectrum", "--largest", "1"), ("hessian_solve",), ("hessian_multiply", "--random", "1")):
        for matrix in (problem("mlp_mse"), ["resnet.h5"]):
            finished = run(2, program, *matrix, *arguments, "-o", "there.h5")
            assert finished.returncode == 2 and "'there.h5' exists already" in finished.stderr, finished
            assert finished.stdout == "" and pathlib.Path("there.h5").stat().st_size == 0, finished


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, test in list(globals().items()):
            if name.startswith("test_"):
                test()
