#!/usr/bin/env python3
"""Damages every dataset and attribute of a file, and looks at what hessian_info and hessian_mpi --resume make of it.

usage: sums.py HESSIAN_MPI LAUNCH...

LAUNCH is mpirun with its options but for the number of ranks.
"""

import json
import pathlib
import shutil
import subprocess

import h5py
import numpy as np
from fabricated_file import xxh3
from tool import Tool, run_tests

BARE_JOB = ("--parameters", "c1.*", "--threads", "1", "--progress", "none")
JOB = (*BARE_JOB, "--output", "h.h5")
# Where a number of these is another one, the file cannot be read at all.
STRUCTURE = {"/parameters/ndim", "/parameters/shape", "/@format", "/@format_version", "/@row_begin", "/@row_end"}


def bytes_of(value) -> bytes:
    """Of an attribute: strings with a zero behind each."""
    if isinstance(value, str):
        return value.encode() + b"\0"
    array = np.asarray(value)
    return b"".join(bytes_of(string) for string in array) if array.dtype == object else array.tobytes()


def lines_of_views(blocks: h5py.Group) -> list[str]:
    lines = []
    for row in blocks:
        for column, view in blocks[row].items():
            [source] = view.virtual_sources()
            (first, last) = source.src_space.get_select_bounds()
            numbers = (*first, *(end - begin + 1 for begin, end in zip(first, last)))
            lines.append(" ".join([f"{row}/{column}", source.file_name, source.dset_name, *map(str, numbers)]) + "\n")
    return lines


def expected_sums(path: pathlib.Path) -> dict[str, int]:
    found = {}
    with h5py.File(path) as file:
        names = ["gradient", *(f"parameters/{name}" for name in file["parameters"]), *(f"blocks/{name}" for name in file["blocks"])]
        for name in names:
            found["/" + name] = xxh3(file[name][:].tobytes())
        matrix = "diagonal" if "diagonal" in file else "hessian"
        for prefix, item in (("/@", file), (f"/{matrix}@", file[matrix])):
            for name, value in item.attrs.items():
                if name != "sums":
                    found[prefix + name] = xxh3(bytes_of(value))
        if "named_blocks" in file:
            found["/named_blocks"] = xxh3("".join(lines_of_views(file["named_blocks"])).encode())
    return found


def stored_sums(path: pathlib.Path) -> dict[str, int]:
    with h5py.File(path) as file:
        lines = file.attrs["sums"].splitlines(True)
    assert lines[-1].split() == [f"{xxh3(''.join(lines[:-1]).encode()):016x}", "sums"]
    return {line[18:-1]: int(line[:16], 16) for line in lines[:-1]}


def damage(path: pathlib.Path, name: str, which: int = 0) -> None:
    """Flips a bit of a number or character."""
    item, at, attribute = name.partition("@")
    with h5py.File(path, "r+") as file:
        if name == "/named_blocks":  # a view of the same shape, from another place
            view = file["named_blocks/c1.bias/c1.bias"]
            layout = h5py.VirtualLayout(view.shape, view.dtype)
            rows, columns = view.shape
            layout[...] = h5py.VirtualSource(".", "/hessian", file["hessian"].shape)[:rows, :columns]
            del file["named_blocks/c1.bias/c1.bias"]
            file.create_virtual_dataset("named_blocks/c1.bias/c1.bias", layout)
            return
        if not at:
            place = file[item].id.get_offset() + which * file[item].dtype.itemsize
        elif isinstance(value := file[item].attrs[attribute], str):
            other = chr(ord(value[0]) ^ 1) + value[1:] if value else "x"
            file[item].attrs.modify(attribute, other)
            return
        else:
            array = np.array(value)
            if array.dtype == object:
                array.reshape(-1)[0] += "x"
            else:
                array.reshape(-1).view(np.uint8)[0] ^= 1
            file[item].attrs.modify(attribute, array)
            return
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))


def contents(path: pathlib.Path) -> dict[str, bytes]:
    with h5py.File(path) as file:
        return {name: file[name][:].tobytes() for name in ("hessian", "gradient", *(f"{group}/{name}" for group in ("parameters", "blocks") for name in file[group]))}


def test_all_that_a_file_says_has_a_sum(mpi: Tool) -> None:
    programs = pathlib.Path(mpi.program).parent
    join, convert = (Tool(str(programs / f"hessian_{name}"), mpi.launch, mpi.folder) for name in ("join", "convert"))
    mpi.good(2, *JOB)
    for k in range(2):
        mpi.good(1, *BARE_JOB, "--rows", f"{k}/2", "--output", f"p{k}.h5")
    mpi.good(1, *BARE_JOB, "--diagonal", "--output", "diagonal.h5")
    mpi.good(1, *BARE_JOB, "--blocks", "diagonal", "--output", "blocks.h5")
    join.good(1, "p0.h5", "p1.h5", "--output", "joined.h5")
    convert.good(2, "h.h5", "gzip.h5", "--gzip", "1")
    convert.good(1, "joined.h5", "packed.h5", "--triangle")
    for name in ("h", "p1", "diagonal", "blocks", "joined", "gzip", "packed"):
        path = mpi.folder / f"{name}.h5"
        assert stored_sums(path) == expected_sums(path), name


def test_info_names_what_is_damaged(mpi: Tool) -> None:
    mpi.good(1, *JOB)
    path, whole = mpi.folder / "h.h5", mpi.folder / "whole.h5"
    shutil.copy(path, whole)
    info = Tool(str(pathlib.Path(mpi.program).parent / "hessian_info"), mpi.launch, mpi.folder)
    names = stored_sums(whole)
    assert json.loads(info.good(2, "h.h5", "--verify", "--json"))["verified"]["sums"] == {"checked": len(names), "damaged": []}
    # All that leaves the file readable at once, then what a bit was once flipped in unseen, and what makes it unreadable.
    numbers = [name for name in names if name not in STRUCTURE and name != "/@complete"]
    alone = ["/gradient", "/parameters/value", "/parameters/offset", "/parameters/size"]
    alone += ["/blocks/mark", "/blocks/checksum", "/blocks/largest", "/blocks/begin", "/blocks/end"]
    for some in (numbers, *([name] for name in alone)):
        shutil.copy(whole, path)
        for name in some:
            damage(path, name)
        finished = info.run(1, "h.h5", "--verify", "--json")
        assert finished.returncode == 1, (some, finished)
        assert json.loads(finished.stdout)["verified"]["sums"]["damaged"] == some, (some, finished.stdout)
    if shutil.which("h5repack"):  # it makes datasets of the views
        path.unlink()
        subprocess.run(["h5repack", "-f", "GZIP=1", str(whole), str(path)], check=True)
        info.good(1, "h.h5", "--verify")
    for name in STRUCTURE:
        shutil.copy(whole, path)
        damage(path, name)
        finished = info.run(1, "h.h5", "--verify", "--json")
        assert finished.returncode == 2 and finished.stderr or name in finished.stdout, (name, finished)
    shutil.copy(whole, path)
    damage(path, "/gradient", which=3)
    text = info.run(1, "h.h5", "--verify").stdout
    assert "1 are DAMAGED: /gradient" in text and "hessian_mpi --resume --verify all" in text, text
    damage(path, "/@sums")
    assert "DAMAGED: /@sums" in info.run(1, "h.h5", "--verify").stdout


def test_damage_where_hdf5_has_checksums_is_told_at_once(mpi: Tool) -> None:
    mpi.good(1, *JOB)
    path = mpi.folder / "h.h5"
    whole = path.read_bytes()
    info = Tool(str(pathlib.Path(mpi.program).parent / "hessian_info"), mpi.launch, mpi.folder)
    for kind in (b"BTHD", b"BTLF", b"FRHP", b"FHDB", b"OHDR", b"GCOL"):  # B-trees, heaps, headers of objects
        at = whole.index(kind) + 10
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        finished = info.run(1, "h.h5", "--verify")
        assert finished.returncode in (1, 2) and (finished.stderr or "DAMAGED" in finished.stdout), (kind, finished)


def test_resume_puts_back_what_it_makes_again(mpi: Tool) -> None:
    mpi.good(1, *JOB)
    path = mpi.folder / "h.h5"
    before, sums = contents(path), stored_sums(path)
    made_again = ["/named_blocks", "/gradient", "/parameters/name", "/parameters/offset", "/parameters/size", "/parameters/value",
                  "/blocks/begin", "/blocks/end", "/@loss", "/@loss_value", "/hessian@parameter_sizes"]
    for name in made_again:
        damage(path, name)
    finished = mpi.run(2, *JOB, "--resume", "--verify", "all")
    assert finished.returncode == 0 and "complete already" in finished.stdout, finished
    assert "put back as it was: " + ", ".join(name for name in sums if name in made_again) in finished.stderr, finished
    assert contents(path) == before and stored_sums(path) == sums == expected_sums(path)
    # The header of a view, on which HDF5 has a checksum.
    with h5py.File(path) as file:
        at = h5py.h5o.get_info(file["named_blocks/c1.bias/c1.weight"].id).addr + 20
    damaged = path.read_bytes()
    path.write_bytes(damaged[:at] + bytes([damaged[at] ^ 1]) + damaged[at + 1 :])
    finished = mpi.run(1, *JOB, "--resume", "--verify", "all")
    assert finished.returncode == 0 and "put back as it was: /named_blocks" in finished.stderr, finished
    assert contents(path) == before and stored_sums(path) == sums == expected_sums(path)
    # Blocks whose record is damaged are computed again; the end of the run writes its figures again.
    for name in ("/blocks/mark", "/@finished", "/@row_error"):
        damage(path, name)
    damage(path, "/blocks/checksum", which=5)
    finished = mpi.run(1, *JOB, "--resume", "--verify", "all")
    assert finished.returncode == 0 and "does not make again as it was: /blocks/checksum, /blocks/mark" in finished.stderr, finished
    assert contents(path) == before and stored_sums(path) == expected_sums(path)
    # Nothing is put back of another job.
    damage(path, "/gradient")
    damaged = path.read_bytes()
    finished = mpi.run(1, *JOB, "--resume", "--verify", "all", "--reduction", "sum")
    assert finished.returncode == 2 and "another job" in finished.stderr, finished
    assert path.read_bytes() == damaged


def test_files_without_sums_are_read_and_finished(mpi: Tool) -> None:
    """As versions before sums made them."""
    mpi.good(1, *JOB)
    path = mpi.folder / "h.h5"
    with h5py.File(path, "r+") as file:
        del file.attrs["sums"]
    info = Tool(str(pathlib.Path(mpi.program).parent / "hessian_info"), mpi.launch, mpi.folder)
    assert "no sums of anything else" in info.good(1, "h.h5", "--verify")
    assert "complete already" in mpi.good(1, *JOB, "--resume", "--verify", "all")
    damage(path, "/blocks/mark")
    with h5py.File(path, "r+") as file:
        file.attrs["complete"] = np.int64(0)
    mpi.good(1, *JOB, "--resume")
    assert stored_sums(path) == expected_sums(path)


def test_several_batches_have_the_gradient_of_the_file(mpi: Tool) -> None:
    for dtype in ("float32", "float64"):
        job = (*JOB, "--batch-size", "3", "--dtype", dtype, "--overwrite")
        mpi.good(1, *job)
        finished = mpi.run(1, *job[:-1], "--resume")
        assert finished.returncode == 0 and finished.stderr == "", finished


if __name__ == "__main__":
    run_tests(globals())
