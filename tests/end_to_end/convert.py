#!/usr/bin/env python3
"""Runs hessian_convert as its users do, and reads the copies with h5py.

usage: convert.py PROGRAM LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks. FAULT_LIBRARY in the environment: that of fault.cpp.
"""

import errno
import pathlib

import fabricated_file
import h5py
import numpy as np
from fabricated_file import xxh3
from tool import Tool, fault, run_tests

SHAPES = {"conv.weight": (6, 1, 3, 3), "fc.weight": (4, 30), "fc.bias": (4,)}
N = 54 + 120 + 4
ATTRIBUTES = {"symmetry_error": 0.5, "command_line": "hessian_mpi -o h.h5", "matrix": "hessian"}


def matrix(dtype: type) -> np.ndarray:
    numbers = np.random.default_rng(6).standard_normal((N, N))
    return (numbers + numbers.T + 1e-3 * np.random.default_rng(7).standard_normal((N, N))).astype(dtype)


def write(convert: Tool, dtype: type, **options) -> np.ndarray:
    stored = matrix(dtype)
    fabricated_file.write(
        convert.folder / "h.h5", stored, np.linspace(0, 1, N), shapes=SHAPES, attributes=ATTRIBUTES, **options
    )
    return stored


def expect_blocks(file: h5py.File, bytes_of_rows) -> None:
    """Every row in one block, whose checksum, largest entry and mark are those of its bytes."""
    blocks = {name: file["blocks/" + name][:] for name in ("begin", "end", "checksum", "largest", "mark")}
    next_row = file.attrs["row_begin"]
    for begin, end, checksum, largest, mark in zip(*blocks.values()):
        assert begin == next_row < end
        data = bytes_of_rows(begin, end)
        assert xxh3(data.tobytes()) == checksum and np.abs(data).max() == largest
        record = np.array([begin, end]).tobytes() + checksum.tobytes() + largest.tobytes()
        assert xxh3(record) == mark
        next_row = end
    assert next_row == file.attrs["row_end"]


def expect_copy(convert: Tool, expected: np.ndarray, conversion: str) -> dict:
    """Attributes and numbers; returns how the rows are stored."""
    with h5py.File(convert.folder / "copy.h5") as file, h5py.File(convert.folder / "h.h5") as source:
        hessian = file["hessian"]
        assert hessian.dtype == expected.dtype
        np.testing.assert_array_equal(hessian[:], expected)
        first = file.attrs["row_begin"]
        expect_blocks(file, lambda begin, end: expected[begin - first : end - first])
        assert file.attrs["complete"] == 1 and file.attrs["format"] == "hessian_mpi"
        for name in ("command_line", "model", "loss", "matrix", "row_begin", "row_end"):
            assert file.attrs[name] == source.attrs[name], name
        assert file.attrs["converted_from"] == "h.h5" and file.attrs["conversion"] == conversion
        assert "hessian_convert h.h5 copy.h5" in file.attrs["conversion_command_line"] and file.attrs["converted"]
        for name in ("gradient", "parameters/value", "parameters/offset", "parameters/shape", "parameters/name"):
            np.testing.assert_array_equal(file[name][:], source[name][:])
        if first == 0 and len(expected) == N:
            rows = np.abs(expected - expected.T).max() / np.abs(expected).max()
            assert 0 <= file.attrs["symmetry_error"] <= rows and (file.attrs["symmetry_error"] > 0) == (rows > 0)
        return {"chunks": hessian.chunks, "gzip": hessian.compression_opts, "shuffle": hessian.shuffle}


def test_precision(convert: Tool) -> None:
    for ranks, source, storage in ((1, np.float64, "float32"), (3, np.float64, "float32"), (2, np.float32, "float64")):
        stored = write(convert, source)
        convert.good(ranks, "h.h5", "copy.h5", "--storage", storage, "--overwrite")
        kept = expect_copy(convert, stored.astype(storage), f"{np.dtype(source).name} to {storage}")
        assert kept["chunks"] is None
    stored = write(convert, np.float32)
    convert.good(2, "h.h5", "copy.h5", "--overwrite")
    expect_copy(convert, stored, "copied")


def test_symmetrise_with_memory_for_a_few_rows(convert: Tool) -> None:
    for ranks, dtype, memory in ((1, np.float32, "1G"), (1, np.float64, "20K"), (3, np.float64, "40K")):
        stored = write(convert, dtype)
        wide = stored.astype(np.float64)
        expected = ((wide + wide.T) / 2).astype(dtype)
        assert (expected == expected.T).all() and (expected != stored).any()
        convert.good(ranks, "h.h5", "copy.h5", "--symmetrise", "--memory", memory, "--overwrite")
        expect_copy(convert, expected, "symmetrised")


def test_chunks_and_compression(convert: Tool) -> None:
    stored = write(convert, np.float64)
    stored32 = stored.astype(np.float32)
    convert.good(3, "h.h5", "copy.h5", "--chunk", "50x64")
    kept = expect_copy(convert, stored, "chunks of 50 x 64")
    assert kept == {"chunks": (50, 64), "gzip": None, "shuffle": False}
    convert.good(
        2, "h.h5", "copy.h5", "--chunk", "7x200", "--gzip", "9", "--shuffle", "--storage", "float32", "--overwrite"
    )
    kept = expect_copy(convert, stored32, "float64 to float32, chunks of 7 x 178, shuffled, gzip 9")
    assert kept == {"chunks": (7, 178), "gzip": 9, "shuffle": True}
    convert.good(1, "h.h5", "copy.h5", "--gzip", "1", "--symmetrise", "--overwrite")
    expect_copy(convert, (stored + stored.T) / 2, "symmetrised, chunks of 1 x 178, gzip 1")


def test_copies_of_copies_and_of_parts(convert: Tool) -> None:
    stored = write(convert, np.float64)
    convert.good(2, "h.h5", "chunked.h5", "--chunk", "13x30", "--gzip", "3")
    convert.good(3, "chunked.h5", "back.h5", "--symmetrise")
    with h5py.File(convert.folder / "back.h5") as file:
        np.testing.assert_array_equal(file["hessian"][:], (stored + stored.T) / 2)
        assert file.attrs["converted_from"] == "chunked.h5" and file["hessian"].chunks is None
    part = stored[30:75]
    fabricated_file.write(convert.folder / "h.h5", part, shapes=SHAPES, first_row=30, attributes=ATTRIBUTES)
    convert.good(2, "h.h5", "copy.h5", "--storage", "float32")
    expect_copy(convert, part.astype(np.float32), "float64 to float32")
    assert "join the parts" in convert.error("h.h5", "new.h5", "--symmetrise")


def test_packed_triangle(convert: Tool) -> None:
    for ranks, storage in ((1, "float64"), (3, "float32")):
        stored = write(convert, np.float64)
        convert.good(ranks, "h.h5", "copy.h5", "--triangle", "--storage", storage, "--overwrite")
        expected = stored.astype(storage)
        with h5py.File(convert.folder / "copy.h5") as file:
            packed = file["hessian"][:]
            np.testing.assert_array_equal(packed, expected[np.triu_indices(N)])
            begins = np.cumsum([0, *range(N, 0, -1)])
            expect_blocks(file, lambda begin, end: packed[begins[begin] : begins[end]])
            assert file.attrs["format"] == "hessian_mpi packed triangle" and file.attrs["complete"] == 1
            assert list(file["hessian"].attrs["parameter_sizes"]) == [54, 120, 4]


def test_packed_triangle_is_turned_back(convert: Tool) -> None:
    for ranks, dtype, memory in ((1, np.float64, "1G"), (3, np.float32, "20K")):
        stored = write(convert, dtype)
        convert.good(2, "h.h5", "packed.h5", "--triangle", "--overwrite")
        mirrored = np.triu(stored) + np.triu(stored, 1).T
        convert.good(ranks, "packed.h5", "back.h5", "--memory", memory, "--overwrite")
        convert.good(ranks, "packed.h5", "chunks.h5", "--gzip", "1", "--storage", "float32", "--overwrite")
        convert.good(ranks, "packed.h5", "again.h5", "--triangle", "--overwrite")
        for name, conversion, expected in (
            ("back.h5", "upper triangle mirrored", mirrored),
            ("chunks.h5", "upper triangle mirrored, chunks of 1 x 178, gzip 1", mirrored.astype(np.float32)),
        ):
            with h5py.File(convert.folder / name) as file:
                np.testing.assert_array_equal(file["hessian"][:], expected)
                expect_blocks(file, lambda begin, end: expected[begin:end])
                assert file.attrs["format"] == "hessian_mpi" and file.attrs["complete"] == 1
                assert file.attrs["conversion"].endswith(conversion), file.attrs["conversion"]
                assert file.attrs["symmetry_error"] == 0
                assert file["named_blocks/fc.bias/fc.weight"][:].tolist() == expected[174:, 54:174].tolist()
        with h5py.File(convert.folder / "again.h5") as again, h5py.File(convert.folder / "packed.h5") as packed:
            np.testing.assert_array_equal(again["hessian"][:], packed["hessian"][:])


def test_packed_triangle_says_what_it_is(convert: Tool) -> None:
    stored = write(convert, np.float64)
    convert.good(2, "h.h5", "packed.h5", "--triangle")
    programs = pathlib.Path(convert.program).parent
    info = Tool(str(programs / "hessian_info"), convert.launch, convert.folder)
    for ranks in (1, 3):
        text = info.good(ranks, "packed.h5", "--verify")
        for words in (f"the upper triangle of {N} x {N} float64", "fc.weight", "hessian_convert 'packed.h5' WHOLE.h5"):
            assert words in text, text
        assert "178 row blocks read, all as they were computed" in text, text
    assert "a whole matrix" in info.error("packed.h5", "--norms")
    for name, arguments in {"multiply": ["--gradient"], "spectrum": [], "solve": [], "join": []}.items():
        program = programs / f"hessian_{name}"
        if program.exists():
            reader = Tool(str(program), convert.launch, convert.folder)
            assert "hessian_convert 'packed.h5' WHOLE.h5" in reader.error("packed.h5", *arguments), name
    with h5py.File(convert.folder / "packed.h5", "r+") as file:
        file["hessian"][N + 5] += 1
    finished = info.run(2, "packed.h5", "--verify")
    assert finished.returncode == 1 and "1:2 (1 row in 1 run)" in finished.stdout, finished
    assert "convert it again" in info.error("packed.h5", "--verify", "--mark")


def test_mistakes_are_told_in_one_line_and_leave_nothing(convert: Tool) -> None:
    write(convert, np.float64)
    before = (convert.folder / "h.h5").read_bytes()
    fabricated_file.write(convert.folder / "unfinished.h5", matrix(np.float64), complete=0)
    assert "not complete" in convert.error("unfinished.h5", "copy.h5")
    assert "no such file" in convert.error("none.h5", "copy.h5")
    assert "is a file that is read" in convert.error("h.h5", "./h.h5", "--overwrite")
    assert "exists already" in convert.error("h.h5", "unfinished.h5")
    assert "name the file and that of the copy" in convert.error("h.h5")
    assert "--gzip 10: from 1 to 9" in convert.error("h.h5", "copy.h5", "--gzip", "10")
    assert "--shuffle goes with --gzip" in convert.error("h.h5", "copy.h5", "--shuffle")
    for chunk in ("64", "0x3", "3x4x5", "axb", "99999999x99999999"):
        assert "ROWSxCOLUMNS" in convert.error("h.h5", "copy.h5", "--chunk", chunk)
    assert "float32 or float64" in convert.error("h.h5", "copy.h5", "--storage", "float16")
    assert "--triangle is packed" in convert.error("h.h5", "copy.h5", "--triangle", "--gzip", "1")
    assert "does not exist" in convert.error("h.h5", "none/copy.h5")
    assert (convert.folder / "h.h5").read_bytes() == before
    with h5py.File(convert.folder / "h.h5", "r+") as file:
        file["hessian"][100, 100] = 1e300
    assert "too large for float32" in convert.error("h.h5", "copy.h5", "--storage", "float32", code=1)
    assert not (convert.folder / "copy.h5").exists() and not list(convert.folder.glob(".*"))
    assert "hessian_convert hessian.h5 archive.h5" in convert.good(1, "--help")


def test_a_failure_in_chunks_ends_all_ranks(convert: Tool) -> None:
    write(convert, np.float64)
    with h5py.File(convert.folder / "h.h5", "r+") as file:
        file["hessian"][100, 100] = np.inf
    finished = convert.run(3, "h.h5", "copy.h5", "--gzip", "1")
    assert finished.returncode != 0 and "infinity" in finished.stderr, finished
    assert [path.name for path in convert.folder.iterdir()] == ["h.h5"]


def test_a_disk_that_fails_ends_all_ranks_and_leaves_what_was_there(convert: Tool) -> None:
    write(convert, np.float64)
    (convert.folder / "copy.h5").write_text("old")
    chunks = ["--gzip", "1"]
    for options, rank, at in (([], 0, 3), ([], 1, 3), (chunks, 0, 3), (chunks, 1, 1), (chunks, 1, 3)):
        variables = fault("pwrite", rank, at, errno.ENOSPC, "copy.h5")
        finished = convert.run(2, "h.h5", "copy.h5", "--overwrite", *options, variables=variables)
        errors = [line for line in finished.stderr.splitlines() if line.startswith("hessian_convert:")]
        assert finished.returncode == 1 and len(errors) == 1, (options, rank, at, finished)
        assert (convert.folder / "copy.h5").read_text() == "old" and not list(convert.folder.glob(".*")), finished


if __name__ == "__main__":
    run_tests(globals())
