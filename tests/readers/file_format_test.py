"""Holds include/hessian_mpi/file/file_format.md to files that the programs have made: what is in them is in the document,
and what the document says is in them.

    file_format_test.py DOCUMENT HESSIAN_JOIN LAUNCH...

LAUNCH is the command that starts hessian_mpi."""
import pathlib
import re
import subprocess
import sys
import tempfile

import h5py
import numpy as np


def tables(document):
    """{section: {name: (type, shape, kinds of files)}} of the tables with five columns."""
    found = {}
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", document.read_text(), re.M | re.S):
        rows = re.findall(r"^\| `([^`]*)` \| (\w+) \| ([^|]*?) ?\| ([\w, ]+) \| .*\|$", body, re.M)
        listed = [line for line in body.splitlines() if re.match(r"\| *`", line)]
        if rows:
            assert len(rows) == len(listed), f"{title}: rows that are not read: {len(listed) - len(rows)}"
            found[title] = {name: (kind, shape.strip(), where.split(", ")) for name, kind, shape, where in rows}
            assert len(found[title]) == len(rows), f"{title}: a name stands there twice"
    return found


def kind_of(dtype):
    if h5py.check_string_dtype(dtype):
        return "string" if h5py.check_string_dtype(dtype).length is None else "text"
    return str(dtype)


def fits(kind, dtype):
    return kind_of(dtype) in (("float32", "float64") if kind == "real" else (kind,))


def pattern_of(path):
    """Names in capital letters stand for those of parameters."""
    return re.compile(re.sub("ROW|COLUMN|NAME", "[^/]+", path) + r"\Z")


def matrix_of(file):
    """What has the order of parameters: a dataset, or the group of diagonal blocks."""
    return next(file[name] for name in ("diagonal", "jacobian", "hessian") if name in file)


def sizes(file):
    count, n, rows = file["parameters/size"], file["gradient"].shape[0], file.attrs["row_end"] - file.attrs["row_begin"]
    return {"": (), "N": (n,), "P": count.shape, "B": file["blocks/begin"].shape, "R": (rows,), "R, N": (rows, n),
            "P, D": (count.shape[0], max(1, *file["parameters/ndim"]))}


def check_datasets(file, kind, listed):
    datasets = {}
    file.visititems(lambda path, item: datasets.update({f"/{path}": item}) if isinstance(item, h5py.Dataset) else None)
    shapes, extents = sizes(file), dict(zip(matrix_of(file).attrs["parameter_names"], file["parameters/size"]))
    for path, (wanted, shape, kinds) in listed.items():
        here = {name: item for name, item in datasets.items() if pattern_of(path).match(name)}
        is_listed = bool({"all", kind} & set(kinds))
        assert bool(here) == is_listed, f"{kind}: {path} is listed for {kinds}, and here: {list(here)}"
        for name, item in here.items():
            row, column = name.split("/")[-2:] if "ROW" in path else [name.split("/")[-1]] * 2
            in_names = [(extents[row], extents[column])] if re.search("ROW|NAME", path) else []
            assert fits(wanted, item.dtype), f"{kind}: {name} is {item.dtype}, not {wanted}"
            assert item.shape == (in_names or [shapes.get(shape)])[0], f"{kind}: {name} is {item.shape}, not {shape}"
            del datasets[name]
    assert not datasets, f"{kind}: not in the document: {list(datasets)}"


def check_attributes(item, file, kind, listed):
    wanted = {name for name, (_, _, kinds) in listed.items() if {"all", kind} & set(kinds)}
    assert set(item.attrs) == wanted, f"{kind}: attributes of {item.name} and the document: {set(item.attrs) ^ wanted}"
    for name in wanted:
        of_file, (dtype, shape, _) = item.attrs.get_id(name), listed[name]
        assert fits(dtype, of_file.dtype), f"{kind}: {name} is {of_file.dtype}, not {dtype}"
        assert of_file.shape == sizes(file)[shape], f"{kind}: {name} is {of_file.shape}, not {shape}"


def rows_of(file, first, behind):
    """Rows of a block of rows, all of one parameter where blocks have datasets of their own."""
    matrix, begin = matrix_of(file), file.attrs["row_begin"]
    if isinstance(matrix, h5py.Dataset):
        return matrix[first - begin:behind - begin]
    p = np.searchsorted(file["parameters/offset"][:], first, side="right") - 1
    at = file["parameters/offset"][p]
    return matrix[matrix.attrs["parameter_names"][p]][first - at:behind - at]


def check_promises(file):
    """The numbered list, as far as one file shows it."""
    hessian, root = matrix_of(file), file.attrs
    assert (root["format"], root["format_version"], root["complete"]) == ("hessian_mpi", 1, 1)
    offset, size = file["parameters/offset"][:], file["parameters/size"][:]
    assert list(offset) == [0, *np.cumsum(size)[:-1]] and size.sum() == file["gradient"].shape[0]
    table = zip(*(file[f"parameters/{k}"][:] for k in ("name", "ndim", "shape")))
    for p, (name, dimensions, shape) in enumerate(table):
        assert list(shape[dimensions:]) == [0] * (len(shape) - dimensions) and np.prod(shape[:dimensions]) == size[p]
        assert hessian.attrs["parameter_names"][p] == name.decode()
        assert hessian.attrs["parameter_shapes"][p] == str([int(extent) for extent in shape[:dimensions]])
        assert (hessian.attrs["parameter_offsets"][p], hessian.attrs["parameter_sizes"][p]) == (offset[p], size[p])
    if "rows" in file:
        row = file["rows/sample"][:] * root["rows_of_sample"] + file["rows/output"][:]
        assert list(row) == list(range(root["row_begin"], root["row_end"]))
        assert root["row_end"] <= root["samples"] * root["rows_of_sample"]
    begin, end = file["blocks/begin"][:], file["blocks/end"][:]
    assert (begin[0], end[-1]) == (root["row_begin"], root["row_end"]) and list(begin[1:]) == list(end[:-1])
    for first, behind, largest in zip(begin, end, file["blocks/largest"]):
        assert np.abs(rows_of(file, first, behind)).max() == largest
    for dataset in hessian.values() if isinstance(hessian, h5py.Group) else [hessian]:
        if not dataset.is_virtual:
            assert dataset.chunks is None and dataset.id.get_offset() > 0


def make_files(folder, join, launch):
    """A small network of its own: the embedded example's first layer, in parts and as a whole."""
    job = [*launch, "--parameters", "c1.*", "--threads", "1", "--progress", "none", "--output"]
    subprocess.run([*job, folder / "whole.h5"], check=True, stdout=subprocess.DEVNULL)
    parts = [folder / f"part-{k}.h5" for k in range(2)]
    for k, part in enumerate(parts):
        subprocess.run([*job, part, "--rows", f"{k}/2"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([join, *parts, "--output", folder / "joined.h5"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([join, "--copy", *parts, "--output", folder / "copied.h5"], check=True, stdout=subprocess.DEVNULL)
    options = {"blocks": ["--blocks", "diagonal"], "diagonal": ["--diagonal"], "jacobian": ["--matrix", "jacobian", "--rows", "1/3"]}
    for kind, option in options.items():
        subprocess.run([*job, folder / f"{kind}.h5", *option], check=True, stdout=subprocess.DEVNULL)
    kinds = ("whole", "joined", "copied", *options)
    return {"part": parts[1], **{kind: folder / f"{kind}.h5" for kind in kinds}}


document, join, *launch = sys.argv[1:]
sections = tables(pathlib.Path(document))
assert list(sections) == ["Datasets", "Attributes of `/hessian`", "Attributes of `/`"], list(sections)
for listed in sections["Datasets"].values():
    if "whole" in listed[2]:
        listed[2].append("copied")  # which is a whole file, but says that it had parts
with tempfile.TemporaryDirectory() as folder:
    for kind, path in make_files(pathlib.Path(folder), join, launch).items():
        with h5py.File(path) as file:
            check_datasets(file, kind, sections["Datasets"])
            check_attributes(matrix_of(file), file, kind, sections["Attributes of `/hessian`"])
            check_attributes(file, file, kind, sections["Attributes of `/`"])
            check_promises(file)
print("files of seven kinds are as the document says")
