#!/usr/bin/env python3
"""Runs hessian_info as its users do, on files that h5py has written.

usage: info.py PROGRAM LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks.
"""

import json

import fabricated_file
import h5py
import numpy as np
from tool import Tool, run_tests

SHAPES = {"conv.weight": (3, 1, 2, 2), "nothing": (0,), "fc.weight": (4, 10), "scale": (1,), "fc.bias": (4,)}
SIZES = [int(np.prod(shape)) for shape in SHAPES.values()]
N = sum(SIZES)


def symmetric(dtype: type) -> np.ndarray:
    numbers = np.random.default_rng(3).standard_normal((N, N))
    return (numbers + numbers.T).astype(dtype)


def report(info: Tool, ranks: int, *arguments: str, code: int = 0) -> dict:
    finished = info.run(ranks, *arguments, "--json")
    assert finished.returncode == code, finished
    return json.loads(finished.stdout)


def expect_norms(found: dict, matrix: np.ndarray) -> None:
    """Norms of the rows that are there; the others are zeros."""
    wide = matrix.astype(np.float64)
    ends = np.cumsum(SIZES)
    parts = [slice(end - size, end) for end, size in zip(ends, SIZES)]
    norms = [[np.linalg.norm(wide[p, q]) for q in parts] for p in parts]
    np.testing.assert_allclose(found["block_norms"], norms, rtol=1e-12)
    np.testing.assert_allclose(found["frobenius_norm"], np.linalg.norm(wide), rtol=1e-12)
    np.testing.assert_allclose(found["trace"], np.trace(wide), rtol=1e-12)
    np.testing.assert_allclose(found["traces"], [np.trace(wide[p, p]) for p in parts], rtol=1e-12)


def test_complete_file(info: Tool) -> None:
    for dtype in (np.float32, np.float64):
        matrix = symmetric(dtype)
        attributes = {"symmetry_error": 2e-9, "symmetry_tolerance": 1e-3, "symmetry_check": "passed", "matrix": "ggn"}
        path = info.folder / "h.h5"
        fabricated_file.write(path, matrix, gradient=np.full(N, 0.5), shapes=SHAPES, attributes=attributes)
        for ranks in (1, 3):
            found = report(info, ranks, "h.h5", "--norms", "--verify")
            expect_norms(found["norms"], matrix)
            assert found["complete"] and found["resume"] is None
            assert found["verified"] == {"blocks": N, "damaged_blocks": [], "damaged_rows": []}
            assert found["blocks"] == {"count": N, "on_disk": N, "missing_rows": []}
            assert found["matrix"]["kind"] == "ggn" and found["matrix"]["largest"] == np.abs(matrix).max()
            assert found["parameters"][2] == {"name": "fc.weight", "shape": [4, 10], "offset": 12, "size": 40}
            assert found["checks"]["symmetry"] == {"error": 2e-9, "tolerance": 1e-3, "outcome": "passed"}
            assert found["checks"]["row"] == {"error": None, "tolerance": None, "outcome": "not made"}
            np.testing.assert_allclose(found["gradient_norm"], 0.5 * N**0.5, rtol=1e-6)
        text = info.run(1, "h.h5", "--norms").stdout
        for words in ("h.h5: complete", "Gauss-Newton", "conv.weight", "[4, 10]", "2e-09  passed", "Frobenius norm"):
            assert words in text, text


def test_damage_is_found_and_marked(info: Tool) -> None:
    matrix = symmetric(np.float32)
    path = info.folder / "damaged.h5"
    attributes = {"command_line": "hessian_mpi -o damaged.h5", "ranks": np.int64(5)}
    fabricated_file.write(path, matrix, shapes=SHAPES, attributes=attributes)
    with h5py.File(path, "r+") as file:
        file["hessian"][20, 3] += 1
        file["hessian"][21, 3] += 1
        file["hessian"][50, 0] = np.nan
    for ranks in (1, 3):
        found = report(info, ranks, "damaged.h5", "--verify", code=1)
        assert found["complete"] and found["verified"]["damaged_blocks"] == [20, 21, 50]
        assert found["verified"]["damaged_rows"] == [[20, 22], [50, 51]]
    text = info.run(1, "damaged.h5", "--verify").stdout
    assert "3 are DAMAGED" in text and "20:22, 50:51 (3 rows in 2 runs)" in text and "20, fc.weight[0, 8]" in text, text
    with h5py.File(path) as file:
        before = {name: file["blocks/" + name][:] for name in file["blocks"]}
        assert file.attrs["complete"] == 1
    found = report(info, 2, "damaged.h5", "--verify", "--mark", code=1)
    assert not found["complete"] and found["blocks"]["missing_rows"] == [[20, 22], [50, 51]]
    assert found["resume"] == "mpirun -n 5 hessian_mpi -o damaged.h5 --resume"
    with h5py.File(path) as file:
        assert file.attrs["complete"] == 0 and file.attrs["command_line"] == attributes["command_line"]
        kept = ~np.isin(np.arange(N), [20, 21, 50])
        for name, values in before.items():
            assert (file["blocks/" + name][:][kept] == values[kept]).all()
        assert (file["blocks/mark"][:][~kept] == 0).all()
    assert report(info, 1, "damaged.h5", "--verify")["verified"]["blocks"] == N - 3


def test_file_that_is_being_written(info: Tool) -> None:
    matrix = symmetric(np.float64)
    on_disk = np.ones(N, bool)
    on_disk[[0, 1, 30]] = False
    path = info.folder / "unfinished.h5"
    attributes = {"command_line": "hessian_mpi --model net.pt -o unfinished.h5", "ranks": np.int64(2)}
    fabricated_file.write(path, matrix, shapes=SHAPES, complete=0, on_disk=on_disk, attributes=attributes)
    with h5py.File(path, "r+") as file:  # open for writing while it is looked at
        file["hessian"][30] = np.nan
        file.flush()
        found = report(info, 3, "unfinished.h5", "--norms", "--verify")
        text = info.run(1, "unfinished.h5").stdout
    assert not found["complete"] and found["verified"]["damaged_blocks"] == []
    assert found["blocks"] == {"count": N, "on_disk": N - 3, "missing_rows": [[0, 2], [30, 31]]}
    matrix[~on_disk] = 0
    expect_norms(found["norms"], matrix)
    for words in ("NOT complete: rows are missing", "0:2, 30:31", "a job may be writing it now", "--resume"):
        assert words in text, text


def test_parts_and_what_refers_to_them(info: Tool) -> None:
    matrix = symmetric(np.float64)
    joined = h5py.VirtualLayout((N, N), matrix.dtype)
    for name, begin, end in (("first.h5", 0, 25), ("second.h5", 25, N)):
        fabricated_file.write(info.folder / name, matrix[begin:end], shapes=SHAPES, first_row=begin)
        joined[begin:end] = h5py.VirtualSource(name, "hessian", (end - begin, N))
    fabricated_file.write(info.folder / "joined.h5", matrix, shapes=SHAPES)
    with h5py.File(info.folder / "joined.h5", "r+") as file:
        del file["hessian"]
        file.create_virtual_dataset("hessian", joined)
    part = report(info, 2, "second.h5", "--verify", "--norms")
    assert (part["matrix"]["row_begin"], part["matrix"]["row_end"]) == (25, N)
    assert part["verified"] == {"blocks": N - 25, "damaged_blocks": [], "damaged_rows": []}
    only = matrix.copy()
    only[:25] = 0
    expect_norms(part["norms"], only)
    whole = report(info, 2, "joined.h5", "--verify", "--norms")
    assert whole["matrix"]["layout"] == "virtual" and whole["matrix"]["parts"] == ["first.h5", "second.h5"]
    assert whole["verified"]["damaged_blocks"] == []
    expect_norms(whole["norms"], matrix)
    with h5py.File(info.folder / "second.h5", "r+") as file:
        file["hessian"][0, 0] += 1
    assert report(info, 2, "joined.h5", "--verify", code=1)["verified"]["damaged_rows"] == [[25, 26]]
    assert report(info, 1, "joined.h5", "--verify", code=1)["verified"]["damaged_parts"] == [
        {"file": "second.h5", "rows": [[25, 26]]}
    ]
    text = info.run(1, "joined.h5", "--verify").stdout
    assert "in a part       second.h5: 25:26 (1 row in 1 run)" in text and "hessian_info PART --verify" in text, text
    assert "those that are damaged, second.h5" in info.error("joined.h5", "--verify", "--mark")
    fabricated_file.write(info.folder / "second.h5", 2 * matrix[25:], shapes=SHAPES, first_row=25)
    [wrong] = report(info, 2, "joined.h5", code=1)["matrix"]["wrong_parts"]
    assert wrong == {"file": "second.h5", "what": "has other rows than those that were joined"}, wrong
    assert "part files are not those that were joined" in info.run(1, "joined.h5").stdout
    (info.folder / "second.h5").unlink()
    assert report(info, 2, "joined.h5", "--verify", code=1)["matrix"]["lost_parts"] == ["second.h5"]
    assert "part files are not there" in info.run(1, "joined.h5").stdout


def test_complete_file_that_lacks_rows(info: Tool) -> None:
    matrix = symmetric(np.float64)
    fabricated_file.write(info.folder / "lacking.h5", matrix, shapes=SHAPES, on_disk=np.arange(N) != 7)
    assert not report(info, 1, "lacking.h5", code=1)["complete"]
    assert "it says that it is complete, and that rows are missing" in info.run(1, "lacking.h5").stdout


def test_copy_of_parts_is_gone_on_with_by_hessian_mpi(info: Tool) -> None:
    path = info.folder / "copy of parts.h5"
    attributes = {"command_line": "hessian_join --copy a.h5 b.h5", "ranks": np.int64(2), "parts": np.int64(2)}
    commands = {
        "": "hessian_mpi, with the options of its parts but --rows, and --output copy of parts.h5 --resume",
        "bin/hessian_mpi --model 'my net.pt' --rows 0/2 --overwrite -o 'a b.h5' --seed 3": (
            "bin/hessian_mpi --model 'my net.pt' --seed 3 --output 'copy of parts.h5' --resume"
        ),
    }
    for of_part, command in commands.items():
        path.unlink(missing_ok=True)
        matrix = symmetric(np.float32)
        fabricated_file.write(path, matrix, shapes=SHAPES, attributes={**attributes, "part_command_line": of_part})
        with h5py.File(path, "r+") as file:
            file["hessian"][20, 3] += 1
        text = info.run(1, path.name, "--verify", "--mark").stdout
        assert f"go on with        mpirun -n 2 {command}\n" in text, text


def test_mistakes_are_told_in_one_line(info: Tool) -> None:
    (info.folder / "text.h5").write_text("no HDF5")
    with h5py.File(info.folder / "other.h5", "w") as file:
        file["hessian"] = np.eye(3)
    fabricated_file.write(info.folder / "cut.h5", symmetric(np.float64), shapes=SHAPES)
    with open(info.folder / "cut.h5", "r+b") as file:
        file.truncate(20000)
    assert "'none.h5': no such file" in info.error("none.h5")
    assert "'text.h5' is damaged, or not a file of hessian_mpi" in info.error("text.h5")
    assert "'other.h5' is not a file of hessian_mpi" in info.error("other.h5")
    assert "'cut.h5' is damaged" in info.error("cut.h5")
    assert "name one file" in info.error()
    assert "--mark goes with --verify" in info.error("other.h5", "--mark")
    assert "see hessian_info --help" in info.error("other.h5", "--nroms")
    assert "hessian_info hessian.h5" in info.run(1, "--help").stdout
    assert info.run(1, "--version").stdout.startswith("hessian_info ")


if __name__ == "__main__":
    run_tests(globals())
