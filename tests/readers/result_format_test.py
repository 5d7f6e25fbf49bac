"""Holds src/after/README.md to files that the programs for finished files have made: what is in them is in the document,
and what the document says is in them.

    result_format_test.py DOCUMENT FOLDER MODELS LAUNCH...

FOLDER has the programs, MODELS the networks of tests/models. LAUNCH is mpirun with its options but for the number of
ranks."""
import pathlib
import re
import subprocess
import sys
import tempfile

import h5py
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "end_to_end"))
import fabricated_file

N = 12
# Program, options, and what rows of the tables say of such a file: the lengths of their letters, and their words.
RUNS = (
    ("spectrum", "", {}, "--all full"),
    ("spectrum", "--low-rank yes", {}, "--all low"),
    ("spectrum", "--low-rank yes --vectors", {"L": 1}, "--all --vectors low"),
    ("spectrum", "--all --vectors", {}, "--all --vectors full"),
    ("spectrum", "--largest 2 --smallest 2 --vectors", {"K": 2}, "--largest --smallest --vectors"),
    ("spectrum", "--largest 3", {"K": 3}, "--largest"),
    ("spectrum", "--density --probes 3 --steps 5", {"P": 3, "S": 5, "G": 1000}, "--density"),
    ("spectrum", "--block weight --all --largest 2", {"N": N - 1, "B": 1, "K": 2}, "--all --largest blocks full"),
    ("solve", "--damping 9 --block weight", {"R": 1}, "dense newton definite blocks"),
    ("solve", "--damping 1 --method dense", {"R": 1}, "dense newton indefinite"),
    ("solve", "--damping 9 --method dense", {"R": 1}, "dense newton definite"),
    ("solve", "--damping 1 --method minres", {"R": 1}, "minres newton indefinite"),
    ("solve", "--damping 1 --method minres --rhs rhs.h5:b", {"R": 2}, "minres"),
    ("inverse", "--inverse diagonal --damping 9", {"M": N}, "--inverse factors"),
    ("inverse", "--inverse bias --pseudo 0.1 --logdet", {"M": 1}, "--inverse parameters --pseudo"),
    ("inverse", "--inverse all --damping 9 --sandwich f.h5 --scale 2", {"M": N}, "--inverse parameters factors --sandwich"),
    ("multiply", "--random 4", {"V": 4}, ""),
)
SECTION = {"spectrum": "Spectrum", "solve": "Solution", "inverse": "Inverse", "multiply": "Product"}

PROGRAM = {"inverse": "solve"}
# Of the file of a network with the network beside it.
OF_NETWORK = (("solve", "--damping 50", {"R": 1, "T": 5}, "dense newton network definite"),)


def rows_of(section, heading):
    """The rows of the section's tables of that heading, as lists of cells."""
    tables = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n?)+)", section, re.M)
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for table in tables for line in table.splitlines()]


def applies(words, here):
    """Words with spaces between them are all needed; of those with commas one."""
    return any(set(some.split()) <= here for some in words.replace("`", "").split(", "))


def check(file, section, common, lengths, here):
    listed = {path: [lengths[letter] for letter in shape.split(", ")]
              for path, shape, words, _ in rows_of(section, "path") if applies(words, here)}
    stored = {}
    place = lambda path: re.sub("^/blocks/0(?=/)", "", f"/{path}")  # those of a block as those of a whole matrix
    file.visititems(lambda path, item: stored.update({place(path): item}) if isinstance(item, h5py.Dataset) else None)
    assert {path: list(item.shape) for path, item in stored.items()} == listed, (sorted(stored), listed)
    assert all(item.dtype == "<f8" for item in stored.values())
    wanted = {(thing, name) for thing, name, words, _ in rows_of(section, "attributes of") + common if applies(words, here)}
    found = {("/", name) for name in file.attrs}
    file.visititems(lambda path, item: found.update((place(path), name) for name in item.attrs if path != "hessian"))
    assert found == wanted, found ^ wanted


def check_promises(file, matrix):
    """The list above the tables, as far as one file shows it."""
    symmetric = (matrix + matrix.T) / 2
    for group in ("/", "/largest", "/smallest"):
        if f"{group}/eigenvectors" in file:
            values, vectors = file[f"{group}/eigenvalues"][:], file[f"{group}/eigenvectors"][:]
            np.testing.assert_allclose(vectors @ symmetric, values[:, None] * vectors, atol=1e-6)
    if "/density" in file:
        at, weights, sigma = file["/density/ritz_values"][:], file["/density/weights"][:], file["/density"].attrs["sigma"]
        grid = file["/density/grid"][:].reshape(-1, 1, 1)
        gaussians = np.exp(-0.5 * ((grid - at) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        np.testing.assert_allclose((gaussians * weights).sum(2).mean(1), file["/density/density"][:], atol=1e-12)
    if "/solution" in file and "blocks" not in file["/solution"].attrs:
        system = symmetric + file["/solution"].attrs["damping"] * np.eye(len(matrix))
        np.testing.assert_allclose(file["/solution"][:] @ system, file["/rhs"][:], atol=1e-6)
    if "/inverse" in file and "sandwich" not in file.attrs and "pseudo" not in file.attrs:
        system = symmetric * file.attrs["scale"] + file.attrs["damping"] * np.eye(N)
        np.testing.assert_allclose(file["/inverse"][:] @ system, np.eye(N), atol=1e-9)
    if "/products" in file:
        np.testing.assert_allclose(file["/vectors"][:] @ matrix.T, file["/products"][:], atol=1e-12)


def network_options(folder):
    options = (folder / "options").read_text().replace("@CASE@", str(folder)).splitlines()
    return ["--model", str(folder / "model.pt2"), "--data", str(folder / "data.h5"), *options]


def check_run(folder, program, source, options, lengths, words):
    command = [*launch, "-n", "2", f"{programs}/hessian_{PROGRAM.get(program, program)}", source, "-o", "out.h5", "--overwrite", *options]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with h5py.File(folder / "out.h5") as file, h5py.File(folder / source) as read:
        kind = SECTION[program].lower()
        assert (file.attrs["format"], file.attrs["format_version"]) == (f"hessian_mpi {kind}", 1)
        check(file, sections[SECTION[program]], common, lengths, {kind, *words.split()})
        if source != "low.h5":
            check_promises(file, read["hessian"][:])
        layout = ("format", "format_version", "file_id", "complete", "row_begin", "row_end", "sums")
        origin = {name: value for name, value in read.attrs.items() if name not in layout}
        assert dict(file["hessian"].attrs) == origin and not len(file["hessian"])


document, programs, models, *launch = sys.argv[1:]
sections = dict(re.findall(r"^### (.*?)\n(.*?)(?=^##|\Z)", pathlib.Path(document).read_text(), re.M | re.S))
common = rows_of(sections["Attributes of `/` in all four"], "attributes of")
assert common and all(rows_of(sections[name], "path") for name in SECTION.values())
random = np.random.default_rng(3)
matrix = random.standard_normal((N, N)) + 3 * np.eye(N)
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    fabricated_file.write(folder / "h.h5", matrix, gradient=random.standard_normal(N))
    fabricated_file.write(folder / "f.h5", matrix @ matrix.T, attributes={"matrix": "fisher"})
    fabricated_file.write(folder / "low.h5", np.outer(matrix[0], matrix[0]))
    with h5py.File(folder / "rhs.h5", "w") as file:
        file["b"] = random.standard_normal((2, N))
    for program, options, lengths, words in RUNS:
        source = "low.h5" if "--low-rank" in options else "h.h5"
        check_run(folder, program, source, options.split(), {"N": N, **lengths}, words)
    of_network = network_options(pathlib.Path(models) / "mlp_mse")
    subprocess.run([*launch, "-n", "2", f"{programs}/hessian_mpi", *of_network, "-o", "network.h5", "--dtype", "float64"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for program, options, lengths, words in OF_NETWORK:
        check_run(folder, program, "network.h5", [*of_network[:4], *options.split()], {"N": 77, **lengths}, words)
print(f"{len(RUNS) + len(OF_NETWORK)} files are as the document says")
