"""Reads the file of hessian_mpi by the names of parameters, without loading it into memory. Needs h5py and numpy alone:
copy this file beside yours, or put its folder on PYTHONPATH.

    from hessian_file import HessianFile
    with HessianFile("hessian.h5") as H:
        block = H["conv1.weight", "fc.bias"]    # a view: nothing is read yet
        block[3:5, 0], block[:]                 # as a matrix: conv1.weight by fc.bias, both flattened
        block.full[1, 0, 2, 2, 4]               # as a tensor: conv1.weight[1, 0, 2, 2] and fc.bias[4]
        H["fc.bias"]                            # its rows, with all N columns
        H.locate(12345)                         # ("fc.weight", (1, 7))
        H @ v, H.diagonal()                     # out of core: a slab of rows at a time
        H.tensors(v)["conv1.weight"]            # v's entries of that parameter, in its shape
    tensors_of("hessian.solution.h5")           # the same of a vector that hessian_solve or another program has written

A file of --blocks diagonal has the blocks of parameters with themselves, H["fc.bias", "fc.bias"], and their product with v;
one of --diagonal has H.diagonal(). One of hessian_convert --triangle has it all: what is not stored is mirrored.

A file of --matrix jacobian or gradients is a matrix of other rows, J.shape = (rows, N): J["fc.bias"] are the columns of a
parameter, J.rows_of(sample) the rows of a sample, J @ v and w @ J products.
"""
import difflib
import math
import os

import h5py
import numpy as np

FORMAT, PACKED_FORMAT = "hessian_mpi", "hessian_mpi packed triangle"
FORMAT_VERSION = 1


class HessianFileError(Exception):
    """The file is none of hessian_mpi's, is not complete, or lacks something; the message says what to do."""


class _Stored:
    """A dataset of two dimensions, read in slabs of neighbouring rows of at most slab_bytes."""

    def __init__(self, dataset, slab_bytes):
        self._dataset, self._slab_bytes = dataset, slab_bytes
        self.shape, self.dtype = dataset.shape, dataset.dtype

    def slabs(self, rows=slice(None), columns=slice(None)):
        rows, columns = (slice(*part.indices(extent)) for part, extent in zip((rows, columns), self.shape))
        if rows.step != 1 or columns.step != 1:
            raise IndexError("slabs are of neighbouring rows and columns")
        begin, end, width = rows.start, max(rows.start, rows.stop), max(0, columns.stop - columns.start)
        height = max(1, self._slab_bytes // max(1, width * self.dtype.itemsize))
        buffer = np.empty((min(height, end - begin), width), self.dtype)
        while begin < end:
            part = slice(begin, min(begin + height, end))
            numbers = buffer[:part.stop - begin]
            if numbers.size:
                self._read(part, columns, numbers)
            yield part, numbers
            begin = part.stop

    def _read(self, rows, columns, numbers):
        self._dataset.read_direct(numbers, np.s_[rows, columns.start:columns.stop])

    def diagonal(self):
        """Reads squares along the diagonal."""
        result = np.empty(self.shape[0], self.dtype)
        step = min(256, math.isqrt(self._slab_bytes // self.dtype.itemsize)) or 1
        for begin in range(0, len(result), step):
            part = slice(begin, min(begin + step, len(result)))
            result[part] = np.diagonal(self._dataset[part, part])
        return result


class _PackedTriangle(_Stored):
    """H[i, i:] of each row, one after the other. What lies below the diagonal is read above it."""

    def __init__(self, dataset, slab_bytes, n):
        super().__init__(dataset, slab_bytes)
        self.shape = (n, n)

    def _read(self, rows, columns, numbers):
        for i in range(rows.start, min(rows.stop, columns.stop)):
            first = max(i, columns.start)
            numbers[i - rows.start, first - columns.start:] = self._part_of_row(i, first, columns.stop)
        for j in range(columns.start, min(columns.stop, rows.stop)):
            first = max(j, rows.start)
            numbers[first - rows.start:, j - columns.start] = self._part_of_row(j, first, rows.stop)

    def _place_of_diagonal(self, i):
        return i * self.shape[0] - i * (i - 1) // 2

    def _part_of_row(self, i, begin, end):
        """H[i, begin:end], on the diagonal and to the right of it."""
        place = self._place_of_diagonal(i) - i
        return self._dataset[place + begin:place + end]

    def diagonal(self):
        result = np.empty(self.shape[0], self.dtype)
        if result.size:
            places = self._dataset.id.get_space()
            places.select_elements(self._place_of_diagonal(np.arange(result.size))[:, None])
            self._dataset.id.read(h5py.h5s.create_simple(result.shape), places, result)
        return result


class HessianFile:
    """A complete Hessian on disk, N x N, or a Jacobian, as a read-only matrix that is read where it is used.

    path: the file of a run, or a joined one. slab_bytes: the most that one read takes, below 1 GiB. unfinished: take a
    file with `complete` = 0, too; the rows that are not there yet are whatever the disk has.
    """

    __array_ufunc__ = None  # v @ H comes here

    def __init__(self, path, slab_bytes=16 << 20, unfinished=False):
        if not 0 < slab_bytes < 1 << 30:
            raise ValueError(f"slab_bytes is {slab_bytes}: it has to be more than 0 and less than 1 GiB")
        self.path = os.fspath(path)
        self.slab_bytes = slab_bytes
        self._file = _open(self.path)
        try:
            self._read_table(unfinished)
        except BaseException:
            self._file.close()
            raise

    def _read_table(self, unfinished):
        attributes = self._file.attrs
        table = next((self._file[name] for name in ("hessian", "diagonal", "jacobian") if name in self._file), None)
        self.entries = ("diagonal_blocks" if isinstance(table, h5py.Group)
                        else "diagonal" if "diagonal" in self._file else "all")
        if attributes.get("format") not in (FORMAT, PACKED_FORMAT) or table is None:
            raise HessianFileError(f"'{self.path}' is not a file of hessian_mpi")
        if attributes["format_version"] != FORMAT_VERSION:
            raise HessianFileError(f"'{self.path}' has format version {attributes['format_version']}, this module "
                                   f"reads {FORMAT_VERSION}: use the hessian_file.py that came with the program")
        of = {key: table.attrs["parameter_" + key] for key in ("names", "offsets", "sizes", "shapes")}
        self._hessian = table if self.entries == "all" else None
        self.N = int(sum(of["sizes"]))
        self.is_jacobian = "jacobian" in self._file
        rows = int(attributes["samples"] * attributes["rows_of_sample"]) if self.is_jacobian else self.N
        self.shape = rows, self.N
        if (attributes["row_begin"], attributes["row_end"]) != (0, rows):
            raise HessianFileError(f"'{self.path}' is a part, with rows {attributes['row_begin']} to "
                                   f"{attributes['row_end'] - 1} of {rows}: join the parts with hessian_join")
        if attributes["complete"] != 1 and not unfinished:
            marks = self._file["blocks/mark"][:]
            raise HessianFileError(f"'{self.path}' is not complete: {np.count_nonzero(marks)} of {marks.size} blocks "
                                   "of rows are there; go on with the same command and --resume")
        if attributes["complete"] == 1 and not np.all(self._file["blocks/mark"]):
            raise HessianFileError(f"'{self.path}' is damaged: it says that it is complete, and that rows are not there; "
                                   "run its job again with --resume")
        self._expect_parts()
        self.attributes = dict(attributes)
        self.names = [str(name) for name in of["names"]]
        self.shapes = {name: _shape(text) for name, text in zip(self.names, of["shapes"])}
        self._offsets = np.asarray(of["offsets"])
        self._slices = {name: slice(int(offset), int(offset + size))
                        for name, offset, size in zip(self.names, of["offsets"], of["sizes"])}

    def _expect_parts(self):
        """A joined file refers to its parts: HDF5 reads NaN without a word where one is missing, and what is there."""
        if self._hessian is None or not self._hessian.is_virtual:
            return
        folder = os.path.dirname(os.path.abspath(self.path))
        ids = self._file.attrs.get("part_file_ids", "").split("\n")
        for k, source in enumerate(self._hessian.virtual_sources()):
            part = os.path.join(folder, source.file_name)
            if source.file_name != "." and not os.path.exists(part):
                raise HessianFileError(f"'{self.path}' refers to the part '{source.file_name}', which is not there: "
                                       "bring it back, or join the parts with hessian_join --copy")
            if k < len(ids) and ids[k] and self._id_of(part) != ids[k]:
                raise HessianFileError(f"'{self.path}' refers to the part '{source.file_name}', which is another file "
                                       "than the one that was joined: bring that back, or join the parts again")

    @staticmethod
    def _id_of(path):
        with _open(path) as file:
            return file.attrs.get("file_id")

    def close(self):
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def __repr__(self):
        rows, columns = self.shape
        return f"<HessianFile '{self.path}': {rows} x {columns} {self.dtype} over {len(self.names)} parameters>"

    @property
    def dtype(self):
        """Of the numbers on the disk."""
        if self.entries == "diagonal":
            return self._file["diagonal"].dtype
        return next(self._blocks())[1].dtype if self._hessian is None else self._hessian.dtype

    def _stored(self):
        if self._hessian is None:
            has = "the diagonal alone" if self.entries == "diagonal" else "the blocks of parameters with themselves alone"
            raise HessianFileError(f"'{self.path}' has {has}: a run without --diagonal and --blocks has all entries")
        if self.attributes["format"] == PACKED_FORMAT:
            return _PackedTriangle(self._hessian, self.slab_bytes, self.N)
        return _Stored(self._hessian, self.slab_bytes)

    def _block(self, name):
        """Of a file of diagonal blocks."""
        self.slice_of(name)
        return _Stored(self._file["hessian/" + _link(name)], self.slab_bytes)

    def _blocks(self):
        """Those of parameters that have elements, each with its name."""
        return ((name, self._block(name)) for name in self.names if math.prod(self.shapes[name]))

    @property
    def gradient(self):
        """dL/dtheta, N numbers."""
        return self._file["gradient"][:]

    @property
    def value(self):
        """theta, the point at which the matrix was taken, N numbers."""
        return self._file["parameters/value"][:]

    def slice_of(self, name):
        """The rows, and columns, of a parameter."""
        if name not in self._slices:
            near = difflib.get_close_matches(str(name), self.names, 3) or self.names[:10]
            raise KeyError(f"no parameter '{name}' in '{self.path}'; there is {', '.join(near)}")
        return self._slices[name]

    def locate(self, index):
        """The parameter and the element of it that a row or column is: ("conv1.weight", (1, 0, 2, 2))."""
        if not -self.N <= index < self.N:
            raise IndexError(f"index {index} of a matrix with {self.N} rows")
        index = int(index) % self.N
        p = int(np.searchsorted(self._offsets, index, side="right")) - 1  # the last, where empty ones begin there, too
        name = self.names[p]
        return name, tuple(int(k) for k in np.unravel_index(index - self._slices[name].start, self.shapes[name]))

    def index(self, name, element=()):
        """The row and column of an element: the inverse of locate."""
        shape = self.shapes[name] if self.slice_of(name) else ()
        return self._slices[name].start + (int(np.ravel_multi_index(tuple(element), shape)) if shape else 0)

    def tensors(self, vector):
        """N numbers, as a gradient, a step or an eigenvector, as arrays by the names of the parameters, in their shapes."""
        vector = np.asarray(vector)
        if vector.shape != (self.N,):
            raise ValueError(f"numbers of shape {vector.shape}: a vector of '{self.path}' has {self.N}")
        return {name: vector[self._slices[name]].reshape(shape) for name, shape in self.shapes.items()}

    def __getitem__(self, key):
        """A view by names, H["fc.bias"] or H["conv1.weight", "fc.bias"]; numbers by indices, as of an array."""
        if isinstance(key, str) and self.is_jacobian:
            return View(self._stored(), self._all_rows(), self._side(key))
        if isinstance(key, str):
            key = (key, None)
        if isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str):
            if self.entries == "diagonal_blocks" and key[0] == key[1]:
                return View(self._block(key[0]), *(self._side(name, self.slice_of(name).start) for name in key))
            if self.is_jacobian:
                raise KeyError(f"rows of '{self.path}' are no parameters: [NAME] has the columns of one")
            return View(self._stored(), *(self._side(name) for name in key))
        return self._whole()[key]

    def rows_of(self, sample):
        """The rows of a sample, of a Jacobian: a slice."""
        if not self.is_jacobian:
            raise HessianFileError(f"rows of '{self.path}' are parameters, not samples")
        if not 0 <= sample < self.attributes["samples"]:
            raise IndexError(f"sample {sample} of {self.attributes['samples']}")
        count = int(self.attributes["rows_of_sample"])
        return slice(sample * count, (sample + 1) * count)

    def _whole(self):
        return View(self._stored(), self._all_rows(), self._side(None))

    def _all_rows(self):
        return _Side(None, slice(0, self.shape[0]), None)

    def _side(self, name, first=0):
        """All rows, or columns, or those of a parameter, in what begins with `first`."""
        if name is None:
            return _Side(None, slice(0, self.N), None)
        place = self.slice_of(name)
        return _Side(name, slice(place.start - first, place.stop - first), self.shapes[name])

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._whole(), dtype)

    def __matmul__(self, v):
        """H v for a vector or an N x k matrix, in the wider dtype of the two: for sums in float64, v in float64."""
        if self.entries == "all":
            return self._whole() @ v
        v = np.asarray(v)
        if v.ndim not in (1, 2) or v.shape[0] != self.N:
            raise ValueError(f"H of shape {self.shape} by v of shape {v.shape}")
        if self.entries == "diagonal":
            return (self.diagonal() * v.T).T
        return np.concatenate([self[name, name] @ v[self.slice_of(name)] for name, _ in self._blocks()])

    def __rmatmul__(self, v):
        v = np.asarray(v)
        if v.shape[-1:] != self.shape[:1] or v.ndim > 2:
            raise ValueError(f"v of shape {v.shape} by H of shape {self.shape}")
        result = np.zeros(v.shape[:-1] + (self.N,), np.result_type(self.dtype, v))
        for rows, numbers in self.slabs():
            result += v[..., rows] @ numbers
        return result

    def matvec(self, v):
        """H v: what scipy.sparse.linalg.aslinearoperator asks of a matrix."""
        return self @ v

    def diagonal(self):
        """The N second derivatives by one parameter twice."""
        if self.is_jacobian:
            raise HessianFileError(f"'{self.path}' has rows of samples: there is no diagonal")
        if self.entries == "diagonal":
            return self._file["diagonal"][:]
        if self.entries == "diagonal_blocks":
            return np.concatenate([block.diagonal() for _, block in self._blocks()])
        return self._stored().diagonal()

    def slabs(self, rows=slice(None), columns=slice(None)):
        """Yields (rows, numbers) from first to last row, at most slab_bytes each: for what numpy does row by row. The
        numbers' memory is used again for the next ones."""
        return self._stored().slabs(rows, columns)


class View:
    """A block of the matrix, which is read where it is indexed (integers, slices, ...), or as a whole by np.asarray.

    It has two dimensions: row and column elements, each in row-major order of its parameter's shape. full is the same
    block with the dimensions of the row's parameter followed by those of the column's.
    """

    __array_ufunc__ = None

    def __init__(self, stored, row, column):
        self._stored, self._row, self._column = stored, row, column

    @property
    def shape(self):
        return self._row.shape + self._column.shape

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return math.prod(self.shape)

    @property
    def dtype(self):
        return self._stored.dtype

    @property
    def nbytes(self):
        return self.size * self.dtype.itemsize

    @property
    def full(self):
        return View(self._stored, self._row.full(), self._column.full())

    def __len__(self):
        return self.shape[0]

    def __repr__(self):
        return f"<View of H[{self._row.name or ':'}, {self._column.name or ':'}]: {self.shape} {self.dtype}, not read>"

    def __getitem__(self, key):
        picked = _pick(self.shape, key)
        split = len(self._row.shape)
        rows, columns = self._row.flat(picked[:split]), self._column.flat(picked[split:])
        result = np.empty((rows.size, columns.size), self.dtype)
        if result.size:
            self._read(rows, columns, result)
        return result.reshape([len(p) for p in picked if isinstance(p, range)])[()]

    def _read(self, rows, columns, result):
        # One rectangle for each run of neighbouring rows, as wide as the columns reach.
        reach = slice(int(columns[0]), int(columns[-1]) + 1)
        in_reach = columns - reach.start
        all_of_them = in_reach.size == reach.stop - reach.start
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        done = 0
        for run in np.split(rows, cuts):
            for part, numbers in self._stored.slabs(slice(int(run[0]), int(run[-1]) + 1), reach):
                count = part.stop - part.start
                result[done:done + count] = numbers if all_of_them else numbers[:, in_reach]
                done += count

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("the block is on the disk: no array of it without a copy")
        return np.asarray(self[...], dtype)

    def __matmul__(self, v):
        """Out of core, for a vector or a matrix, in the wider dtype of the two."""
        v = np.asarray(v)
        if self.ndim != 2 or v.ndim not in (1, 2) or v.shape[0] != self.shape[1]:
            raise ValueError(f"a block of shape {self.shape} by v of shape {v.shape}")
        result = np.empty((self.shape[0],) + v.shape[1:], np.result_type(self.dtype, v))
        first = self._row.place.start
        wide = None
        for rows, numbers in self._stored.slabs(self._row.place, self._column.place):
            if result.dtype != numbers.dtype:  # into the same memory every time: fresh one takes longer than the sums
                wide = np.empty(numbers.shape, result.dtype) if wide is None else wide[:len(numbers)]
                wide[...] = numbers
                numbers = wide
            np.matmul(numbers, v, out=result[rows.start - first:rows.stop - first])
        return result


class _Side:
    """The rows or the columns of a view: a parameter, or all of them where there is no name."""

    def __init__(self, name, place, parameter_shape, shape=None):
        self.name, self.place, self.parameter_shape = name, place, parameter_shape
        self.shape = (place.stop - place.start,) if shape is None else shape

    def full(self):
        return self if self.name is None else _Side(self.name, self.place, self.parameter_shape, self.parameter_shape)

    def flat(self, picked):
        """Rows, or columns, of the matrix, in ascending order, of what was picked in each dimension."""
        places = np.array([self.place.start])
        for extent, chosen in zip(self.shape, picked):
            offsets = np.array(chosen if isinstance(chosen, range) else [chosen], np.int64)
            places = ((places - self.place.start)[:, None] * extent + offsets).ravel() + self.place.start
        return places


def _pick(shape, key):
    """What an index chooses in each dimension: an integer, or a range with a positive step."""
    key = key if isinstance(key, tuple) else (key,)
    if key.count(Ellipsis) > 1 or sum(k is not Ellipsis for k in key) > len(shape):
        raise IndexError(f"index {key} of a block of shape {shape}")
    if Ellipsis not in key:
        key += (Ellipsis,)
    at = key.index(Ellipsis)
    key = key[:at] + (slice(None),) * (len(shape) - len(key) + 1) + key[at + 1:]
    return [_pick_one(extent, k) for extent, k in zip(shape, key)]


def _pick_one(extent, k):
    if isinstance(k, slice):
        chosen = range(*k.indices(extent))
        if chosen.step < 0:
            raise IndexError("slices of a block go forward; turn the array round that you get")
        return chosen
    if not isinstance(k, (int, np.integer)) or isinstance(k, bool):
        raise IndexError(f"{k!r}: a block is indexed by integers and slices; np.asarray(block) takes the rest")
    if not -extent <= k < extent:
        raise IndexError(f"index {k} of {extent}")
    return int(k) % extent


def tensors_of(result, dataset="solution", row=0):
    """A vector that a program has written, a row of "solution", "products" or "largest/eigenvectors", as arrays by the names
    of the parameters, in their shapes. Where the result is of a file, that has the names: the one that it says it is of."""
    with _open(result) as file:
        if "source" not in file.attrs or dataset not in file:
            raise HessianFileError(f"'{result}' is no result of hessian_mpi's programs with a dataset {dataset}")
        vector, about, source = file[dataset][row], dict(file["hessian"].attrs), file.attrs["source"]
    if "parameter_names" in about:
        names, offsets, sizes, shapes = (about["parameter_" + key] for key in ("names", "offsets", "sizes", "shapes"))
        return {str(name): vector[offset:offset + size].reshape(_shape(shape))
                for name, offset, size, shape in zip(names, offsets, sizes, shapes)}
    beside = os.path.join(os.path.dirname(result), os.path.basename(source))
    with HessianFile(source if os.path.exists(source) else beside) as H:
        return H.tensors(vector)


def _shape(text):
    """(32, 1, 3, 3) for "[32, 1, 3, 3]"."""
    return tuple(int(word) for word in text.strip("[]").split(",") if word.strip())


def _link(name):
    """A parameter's name as that of its dataset."""
    if name in ("", "."):
        return "%2E" if name else "%"
    return name.replace("%", "%25").replace("/", "%2F")


def _open(path):
    if not os.path.exists(path):
        raise FileNotFoundError(f"'{path}': no such file")
    # HDF5 opens a file twice in one process only with the same locking. h5py's default comes first, so that the program
    # can open the file by h5py as well. Without locking, a file is read that another program has locked to write it.
    for locking in (None, False, True):
        try:
            return h5py.File(path, "r", locking=locking)
        except OSError as error:
            reason = error if locking is None else reason
    raise HessianFileError(f"'{path}' is not an HDF5 file that can be read: {reason}") from reason
