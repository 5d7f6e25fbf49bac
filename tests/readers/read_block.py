"""Reads one block of a Hessian by the names of two parameters, without the rest of the file.

    python read_block.py hessian.h5 conv1.weight fc.bias

Needs h5py and numpy. Prints where the block lies, the sum of its numbers, and its largest entry with the elements of
the two parameters that it belongs to."""
import sys

import h5py
import numpy as np

path, row_name, column_name = sys.argv[1:]
with h5py.File(path) as file:
    if file.attrs["complete"] != 1:
        sys.exit(f"{path} is not complete: go on with --resume")
    H = file["hessian"]  # N x N, read from the disk where it is indexed
    names, offsets, sizes, shapes = (list(H.attrs["parameter_" + k]) for k in ("names", "offsets", "sizes", "shapes"))
    for name in (row_name, column_name):
        if name not in names:
            sys.exit(f"{path} has no parameter '{name}'; it has {', '.join(names)}")
    p, q = names.index(row_name), names.index(column_name)
    rows = slice(offsets[p], offsets[p] + sizes[p])
    columns = slice(offsets[q], offsets[q] + sizes[q])
    block = H[rows, columns]  # this is what is read


def element(parameter, k):
    """Element k of a parameter as a tuple of indices: the shape is stored as text, such as [32, 1, 3, 3]."""
    shape = [int(word) for word in shapes[parameter].strip("[]").split(",") if word.strip()]
    return f"{names[parameter]}{[int(index) for index in np.unravel_index(k, shape)]}"


i, j = np.unravel_index(np.abs(block).argmax(), block.shape)
print(f"rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}")
print(f"sum {block.sum(dtype=float):.17g}")
print(f"largest {block[i, j]:.17g} at H[{element(p, i)}, {element(q, j)}]")
