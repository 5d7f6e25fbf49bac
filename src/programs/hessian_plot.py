#!/usr/bin/env python3
"""Draws what a file of hessian_mpi holds: the heat map of the matrix, the norms of its blocks, its spectrum."""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import fnmatch
import functools
import importlib.metadata
import importlib.util
import io
import os
import pathlib
import platform
import re
import stat
import sys
import tempfile
import threading
from dataclasses import dataclass, field

VERSION = "@PROJECT_VERSION@"  # filled in when it is built, as the next
PYTHON = "@HESSIAN_MPI_TEST_PYTHON@"  # takes over where the Python that runs this lacks a package
PACKAGES = ("h5py", "matplotlib", "numpy")
FORMAT, PACKED_FORMAT = "hessian_mpi", "hessian_mpi packed triangle"
FORMAT_VERSION = 1  # of the file
OUTLIER_GAP = 1.5  # between an outlier and what follows, as a ratio
SLAB_BYTES = 4 << 20  # what a thread reads at once: it stays in the cache while it is reduced
SLAB_ROWS = 64  # squares are added up in the matrix's own precision within a slab, in float64 beyond
FORMATS = ("png", "pdf", "svg")
KINDS = {"hessian": "Hessian", "ggn": "generalised Gauss-Newton matrix", "fisher": "empirical Fisher matrix"}


class InputError(Exception):
    """A mistake of the person: the message says what, where, and what to do."""


def import_packages(arguments: list[str]) -> None:
    """What does not come with Python, after the options: --help needs none of it."""
    global h5py, matplotlib, np, FigureCanvasAgg, ScalarMappable, LogNorm, Normalize, Figure, Image
    try:
        import h5py
        import matplotlib
        import numpy as np
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LogNorm, Normalize
        from matplotlib.figure import Figure
        from PIL import Image
    except ImportError as error:
        taken_over = "HESSIAN_PLOT_TAKEN_OVER"  # once: that Python may lack packages, too
        if taken_over not in os.environ and os.access(PYTHON, os.X_OK):
            os.execve(PYTHON, [PYTHON, os.path.abspath(__file__), *arguments], {**os.environ, taken_over: "1"})
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        lacks = f"has no {' and no '.join(missing)}" if missing else f"cannot import its packages ({error})"
        raise InputError(f"{sys.executable} {lacks}: get them by '{sys.executable} -m pip install {' '.join(missing or PACKAGES)}', "
                         f"or start this with a Python that has them: python3 {os.path.abspath(__file__)} ...") from None
    matplotlib.rcParams.update({"svg.fonttype": "none", "pdf.fonttype": 42, "mathtext.default": "regular"})


# --- the file -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensors:
    """Parameters in the order of the file; tensor p has the indices offsets[p] to offsets[p] + sizes[p] - 1."""

    names: list[str]
    offsets: np.ndarray
    sizes: np.ndarray

    def matching(self, patterns: list[str]) -> "Tensors":
        chosen = [p for p, name in enumerate(self.names) if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
        if not chosen:
            raise InputError(f"no parameter matches --parameters {' '.join(patterns)}; there are: {', '.join(self.names)}")
        return Tensors([self.names[p] for p in chosen], self.offsets[chosen], self.sizes[chosen])


@contextlib.contextmanager
def opened(path: pathlib.Path, what: str):
    """An HDF5 file that another program may be writing."""
    if not path.is_file():
        raise InputError(f"'{path}': no such file")
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        reason = "it cannot be read" if isinstance(error, PermissionError) else "it is damaged, or not HDF5"
        raise InputError(f"'{path}' is no {what}: {reason} ({error})") from None
    with file:
        yield file


class Matrix:
    """The matrix of a file and what is said about it: all of it, its upper triangle (the rest is its mirror image), or the
    blocks of tensors with themselves. Rows can be read from several threads."""

    def __init__(self, path: pathlib.Path, file: h5py.File):
        self.path = path
        self.attributes = dict(file.attrs)
        if self.attributes.get("format") not in (FORMAT, PACKED_FORMAT):
            raise InputError(f"'{path}' is not a file of hessian_mpi: it has no attribute format = {FORMAT}")
        if self.attributes.get("format_version") != FORMAT_VERSION:
            raise InputError(f"'{path}' has format version {self.attributes.get('format_version')}, this program has {FORMAT_VERSION}")
        self.complete = self.attributes.get("complete") == 1
        if "jacobian" in file:
            raise InputError(f"'{path}' has rows of samples by parameters: this draws matrices of parameters by parameters")
        self.dataset = file.get("hessian")
        self.diagonal_blocks = isinstance(self.dataset, h5py.Group)
        self.packed = self.attributes["format"] == PACKED_FORMAT
        dimensions = 1 if self.packed else 2
        if not self.diagonal_blocks and not (isinstance(self.dataset, h5py.Dataset) and self.dataset.ndim == dimensions and self.dataset.dtype.kind == "f"):
            there = str(self.attributes.get("entries", "no matrix")).replace("_", " ")
            raise InputError(f"'{path}' has no matrix /hessian to draw: it holds {there}")
        try:
            about = self.dataset.attrs
            offsets, sizes = (np.asarray(about["parameter_" + key], np.int64) for key in ("offsets", "sizes"))
            shown = np.flatnonzero(sizes)  # a tensor may have no elements
            self.tensors = Tensors([str(about["parameter_names"][p]) for p in shown], offsets[shown], sizes[shown])
            begin = int(self.attributes.get("row_begin", 0))
            self.n = int(sizes.sum())
            self.runs = _runs_on_disk(file, begin, self.n if self.diagonal_blocks or self.packed else begin + self.dataset.shape[0])
            self.blocks = [self.dataset[_link(name)] for name in self.tensors.names] if self.diagonal_blocks else []
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"'{path}' is damaged: {error}") from None
        if self.packed and self.dataset.shape != (self.n * (self.n + 1) // 2,):
            raise InputError(f"'{path}' is damaged: its parameters have {self.n} elements, its triangle {self.dataset.shape[0]}")
        if not self.diagonal_blocks and not self.packed and self.n != self.dataset.shape[1]:
            raise InputError(f"'{path}' is damaged: its parameters have {self.n} elements, its rows {self.dataset.shape[1]}")
        if any(block.shape != (size, size) for block, size in zip(self.blocks, self.tensors.sizes)):
            raise InputError(f"'{path}' is damaged: a block has another shape than its parameter")
        self.first_row = begin
        stored = self.blocks[0].dtype if self.diagonal_blocks else self.dataset.dtype
        self.row_type = np.dtype(np.float32 if stored.itemsize <= 4 else np.float64)
        # Bytes that lie in the file as they are in memory are read without HDF5, which lets one thread read at a time.
        plain = not self.diagonal_blocks and stored == self.row_type and hasattr(os, "preadv")
        self.offset = self.dataset.id.get_offset() if plain else None
        self.descriptor = os.open(path, os.O_RDONLY) if self.offset is not None else None

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)

    def columns_of(self, row: int) -> slice:
        """The columns in which a row has entries."""
        if not self.diagonal_blocks:
            return slice(0, self.n)
        p = self._tensor_of(row)
        begin = int(self.tensors.offsets[p])
        return slice(begin, begin + int(self.tensors.sizes[p]))

    def _tensor_of(self, row: int) -> int:
        return int(np.searchsorted(self.tensors.offsets, row, side="right")) - 1

    def read(self, begin: int, end: int, slab: np.ndarray) -> None:
        """Rows begin to end - 1 of the matrix, of one tensor, into slab, in the columns that they have. Of a triangle, with
        zeros to the left of the diagonal."""
        if self.diagonal_blocks:
            p = self._tensor_of(begin)
            first = begin - int(self.tensors.offsets[p])
            self.blocks[p].read_direct(slab, np.s_[first : first + end - begin])
        elif self.packed:
            for row, numbers in enumerate(slab, begin):
                numbers[:row] = 0
                self._read_stored(row * self.n - row * (row - 1) // 2, numbers[row:], row)
        elif self.descriptor is None:
            first = begin - self.first_row
            self.dataset.read_direct(slab, np.s_[first : first + end - begin])
        else:
            self._read_stored((begin - self.first_row) * self.n, slab, begin)

    def _read_stored(self, first: int, numbers: np.ndarray, row: int) -> None:
        """As many of the dataset's numbers, in the order of the file, as there is room for."""
        if self.descriptor is None:
            self.dataset.read_direct(numbers, np.s_[first : first + len(numbers)])
            return
        left = memoryview(numbers).cast("B")
        position = self.offset + first * numbers.itemsize
        while left:
            count = os.preadv(self.descriptor, [left], position)
            if count == 0:
                raise OSError(f"'{self.path}' ends in row {row}: it is damaged")
            left, position = left[count:], position + count

    def runs_within(self, begin: int, end: int) -> list[tuple[int, int]]:
        """What of the rows begin to end - 1 has been computed."""
        cut = ((max(begin, first), min(end, last)) for first, last in self.runs)
        return [(first, last) for first, last in cut if first < last]


def _link(name: str) -> str:
    """A parameter's name as that of its dataset."""
    return {"": "%", ".": "%2E"}.get(name, name.replace("%", "%25").replace("/", "%2F"))


def _runs_on_disk(file: h5py.File, first: int, last: int) -> list[tuple[int, int]]:
    """Ranges of rows that are computed and written: a block's mark says so while a run is under way."""
    if file.attrs.get("complete") == 1:
        return [(first, last)]
    begin, end, mark = (file["blocks/" + key][:] for key in ("begin", "end", "mark"))
    runs = []
    for block in np.argsort(begin, kind="stable"):
        if mark[block] == 0:
            continue
        if runs and runs[-1][1] == begin[block]:
            runs[-1][1] = int(end[block])
        else:
            runs.append([int(begin[block]), int(end[block])])
    return [(b, e) for b, e in runs]


# --- one pass over the matrix ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """How indices become pixels, along both axes. A bin is a range of indices of one tensor, shown as one number."""

    tensors: Tensors
    widths: np.ndarray  # pixels of each tensor
    begins: np.ndarray  # first index of each bin
    ends: np.ndarray
    tensor_of_bin: np.ndarray
    bin_of_pixel: np.ndarray

    @property
    def pixels(self) -> int:
        return len(self.bin_of_pixel)

    @property
    def boundaries(self) -> np.ndarray:
        """Pixels at which tensors begin, and the end."""
        return np.concatenate([[0], np.cumsum(self.widths)])


def shared_pixels(weights: np.ndarray, pixels: int) -> np.ndarray:
    """Whole pixels in proportion to the weights, at least one each."""
    widths = np.maximum(1, np.rint(pixels * weights / weights.sum())).astype(np.int64)
    while widths.sum() != pixels:
        widths[np.argmax(widths)] += 1 if widths.sum() < pixels else -1
    return widths


def make_axis(tensors: Tensors, pixels: int, scale: str) -> Axis:
    sizes = tensors.sizes
    pixels = max(pixels, 2 * len(sizes))
    if scale == "linear" and sizes.sum() <= pixels:
        widths = sizes * (pixels // sizes.sum())
    else:
        weights = {"linear": sizes, "sqrt": np.sqrt(sizes), "equal": np.ones(len(sizes))}[scale]
        widths = shared_pixels(weights, pixels)
    begins, ends, owners, lookup = [], [], [], []
    for p, (offset, size, width) in enumerate(zip(tensors.offsets, sizes, widths)):
        bins = min(size, width)
        edges = offset + np.arange(bins + 1) * size // bins
        lookup.append(sum(map(len, begins)) + np.arange(width) * bins // width)
        begins.append(edges[:-1])
        ends.append(edges[1:])
        owners.append(np.full(bins, p))
    return Axis(tensors, widths, *map(np.concatenate, (begins, ends, owners, lookup)))


class Segments:
    """Segments of a row of n numbers, ascending, that do not overlap."""

    def __init__(self, begins: np.ndarray, ends: np.ndarray, n: int):
        edges = np.union1d(begins, ends)
        self.edges = edges[edges < n]
        self.wanted = np.searchsorted(self.edges, begins)

    def reduce(self, operation: np.ufunc, row: np.ndarray) -> np.ndarray:
        return operation.reduceat(row, self.edges)[self.wanted]


@dataclass
class Reduced:
    """What a pass over the matrix leaves of it."""

    largest: np.ndarray | None = None  # per pair of bins, the entry of largest absolute value, with its sign
    squares: np.ndarray | None = None  # per pair of tensors, the sum of squares
    computed: np.ndarray = field(default_factory=lambda: np.zeros(0))  # rows of each bin of rows that the file has


class _RowReducer:
    """Reduces one bin of rows after the other; each thread has one."""

    def __init__(self, matrix: Matrix, axis: Axis, want_largest: bool, want_squares: bool):
        self.matrix, self.axis = matrix, axis
        self.want_largest, self.want_squares = want_largest, want_squares
        widest = int(matrix.tensors.sizes.max()) if matrix.diagonal_blocks else matrix.n
        self.slab = np.empty(max(widest, min(SLAB_BYTES // matrix.row_type.itemsize, SLAB_ROWS * widest)), matrix.row_type)
        self.low, self.high, self.some = (np.empty(matrix.n, matrix.row_type) for _ in range(3))
        self.bins = Segments(axis.begins, axis.ends, matrix.n)
        self.tensors = Segments(axis.tensors.offsets, axis.tensors.offsets + axis.tensors.sizes, matrix.n)

    def slabs(self, begin: int, end: int, width: int):
        """The first row of a few, and their entries."""
        height = min(SLAB_ROWS, len(self.slab) // width)
        for first, last in self.matrix.runs_within(begin, end):
            for row in range(first, last, height):
                count = min(height, last - row)
                rows = self.slab[: count * width].reshape(count, width)
                self.matrix.read(row, row + len(rows), rows)
                yield row, rows

    def reduce(self, number: int) -> tuple[np.ndarray | None, np.ndarray | None, int]:
        axis = self.axis
        columns = self.matrix.columns_of(axis.begins[number])
        high, low, some = (row[columns] for row in (self.high, self.low, self.some))
        for row, beyond in ((self.high, -np.inf), (self.low, np.inf)):
            row.fill(0)
            row[columns] = beyond
        squares = np.zeros(self.matrix.n) if self.want_squares else None
        computed = 0
        for first, rows in self.slabs(axis.begins[number], axis.ends[number], len(high)):
            computed += len(rows)
            if self.want_largest:
                np.maximum(high, np.maximum.reduce(rows, axis=0, out=some), out=high)
                np.minimum(low, np.minimum.reduce(rows, axis=0, out=some), out=low)
            if self.want_squares:
                squares[columns] += np.einsum("ij,ij->j", rows, rows)
                if self.matrix.packed:  # mirrored, the rest is doubled
                    diagonal = np.arange(first, first + len(rows))
                    squares[diagonal] -= np.square(rows[np.arange(len(rows)), diagonal], dtype=np.float64) / 2
        largest = None
        if self.want_largest and computed > 0:
            high, low = self.bins.reduce(np.maximum, self.high), self.bins.reduce(np.minimum, self.low)
            largest = np.where(high >= -low, high, low)  # NaN, which is in both, stays
        if self.want_squares:
            squares = self.tensors.reduce(np.add, squares)
        return largest, squares, computed


def reduce_matrix(matrix: Matrix, axis: Axis, want_largest: bool, want_squares: bool, threads: int, progress=None) -> Reduced:
    """Reads the rows once, in slabs of a few megabytes, each thread its own bins of rows."""
    bins, count = len(axis.begins), len(axis.tensors.names)
    result = Reduced(computed=np.zeros(bins, np.int64))
    if want_largest:
        result.largest = np.zeros((bins, bins), matrix.row_type)
    if want_squares:
        result.squares = np.zeros((count, count))
    own = threading.local()

    def work(number: int):
        if not hasattr(own, "reducer"):
            own.reducer = _RowReducer(matrix, axis, want_largest, want_squares)
        return own.reducer.reduce(number)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        try:
            for number, (largest, squares, computed) in enumerate(pool.map(work, range(bins))):
                result.computed[number] = computed
                if largest is not None:
                    result.largest[number] = largest
                if squares is not None:
                    result.squares[axis.tensor_of_bin[number]] += squares
                if progress:
                    progress((number + 1) / bins)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if matrix.packed and want_largest:
        result.largest = np.where(np.tri(bins, dtype=bool), result.largest.T, result.largest)
    if matrix.packed and want_squares:
        result.squares += result.squares.T
    return result


# --- labels ---------------------------------------------------------------------------------------------------------


def spread(centres: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Positions that are at least gap apart, within [low, high] and as near to the ascending centres as that allows
    (least squares): without the gaps, neighbours that are out of order share their mean."""
    pools = []  # [sum, count] of neighbours that share a value
    for k, centre in enumerate(centres):
        pools.append([centre - k * gap, 1])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    values = np.concatenate([np.full(count, total / count) for total, count in pools])
    return np.clip(values, low, high - (len(centres) - 1) * gap) + np.arange(len(centres)) * gap


@dataclass(frozen=True)
class Label:
    """A name beside the tensors first to last - 1."""

    text: str
    first: int
    last: int


def grouped(names: list[str], depth: int) -> list[Label]:
    """Neighbours whose names agree in their first `depth` parts share a label."""
    labels = []
    for p, name in enumerate(names):
        parts = name.split(".")
        prefix = ".".join(parts[:depth])
        if labels and depth < len(names[p - 1].split(".")) and depth < len(parts) and prefix == labels[-1].text.removesuffix(".*"):
            labels[-1] = Label(prefix + ".*", labels[-1].first, p + 1)
        else:
            labels.append(Label(name, p, p + 1) if depth >= len(parts) else Label(prefix + ".*", p, p + 1))
    return [Label(names[label.first], label.first, label.last) if label.last == label.first + 1 else label for label in labels]


def fitting_labels(names: list[str], sizes: np.ndarray, room: int) -> list[Label]:
    """At most `room` labels: as many parts of the names as fit, or else the largest tensors alone."""
    for depth in range(max(name.count(".") for name in names) + 1, 0, -1):
        labels = grouped(names, depth)
        if len(labels) <= room:
            return labels
    covered = [sizes[label.first : label.last].sum() for label in labels]
    return [labels[k] for k in sorted(np.argsort(covered)[::-1][:room])]


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most // 2 - 1] + "…" + text[-(most // 2) :]


def short_names(names: list[str], most: int = 36) -> list[str]:
    """Without the parts that all long ones begin with, and as long as it takes to tell them apart."""
    parents = [name.split(".")[:-1] for name in names if len(name) > most]
    prefix = "".join(part + "." for part in os.path.commonprefix(parents)) if len(parents) > 1 else ""
    if prefix:
        names = ["…" + name.removeprefix(prefix) if name.startswith(prefix) else name for name in names]
    while len({shortened(name, most) for name in names}) < len(set(names)):
        most += 4
    return [shortened(name, most) for name in names]


def number(value: float) -> str:
    """Of two digits, in as few letters as they take."""
    shortest = min((format(value, form).replace("e+", "e").replace("e0", "e").replace("e-0", "e-") for form in (".2g", ".1e")), key=len)
    return shortest.replace("-", "−")


@functools.cache
def scratch_renderer():
    return FigureCanvasAgg(Figure(dpi=200)).get_renderer()


def text_width(text: str, points: float) -> float:
    """In inches."""
    font = matplotlib.font_manager.FontProperties(size=points)
    return scratch_renderer().get_text_width_height_descent(text, font, False)[0] / scratch_renderer().dpi


def wrapped(text: str, points: float, width: float) -> list[str]:
    """Lines of at most that width in inches, broken after semicolons where that is enough."""
    pieces = re.split("(?<=;) ", text)
    if max(text_width(piece, points) for piece in pieces) > width:
        pieces = text.split(" ")
    lines = pieces[:1]
    for piece in pieces[1:]:
        longer = f"{lines[-1]} {piece}"
        lines[-1:] = [longer] if text_width(longer, points) <= width else [lines[-1], piece]
    return lines


# --- panels: each knows its size in inches and its heading, and draws itself at a place of the figure -------------------

LINE, GREY, MISSING, BAD = 0.5, "0.35", (0.80, 0.80, 0.80), (0.0, 0.75, 0.2)
NAME_POINTS, SMALLEST_POINTS, LINE_HEIGHT, LEADER = 7.0, 5.0, 1.25 / 72, 0.16


@dataclass
class Block:
    """A square whose rows and columns are tensors, in pixels, with the tensors' names to the left and below."""

    tensors: Tensors
    widths: np.ndarray
    dpi: int

    def __post_init__(self):
        self.pixels = int(self.widths.sum())
        self.side = self.pixels / self.dpi
        room = int(self.side / (NAME_POINTS * LINE_HEIGHT))
        self.points = NAME_POINTS if len(self.tensors.names) <= room else max(SMALLEST_POINTS, NAME_POINTS * room / len(self.tensors.names))
        self.labels = fitting_labels(self.tensors.names, self.tensors.sizes, int(self.side / (self.points * LINE_HEIGHT)))
        self.names = short_names([label.text for label in self.labels])
        self.margin = max(text_width(name, self.points) for name in self.names) + LEADER + 0.06

    @property
    def boundaries(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.widths)])

    def axes(self, figure: Figure, left: float, bottom: float):
        axes = add_axes(figure, left, bottom, self.side, self.side)
        axes.set(xlim=(0, self.pixels), ylim=(self.pixels, 0), xticks=[], yticks=[])
        axes.spines[:].set_linewidth(LINE)
        return axes

    def draw_names(self, axes) -> None:
        edges = self.boundaries
        spans = [(edges[label.first], edges[label.last]) for label in self.labels]
        gap = self.points * LINE_HEIGHT * self.dpi
        places = spread(np.mean(spans, axis=1), gap, gap / 2, self.pixels - gap / 2)
        out = LEADER * self.dpi
        style = dict(color=GREY, linewidth=LINE, clip_on=False, solid_capstyle="butt")
        for name, (begin, end), place in zip(self.names, spans, places):
            far = [-0.06 * out, -0.25 * out, -0.75 * out, -out]
            near = [(begin + end) / 2] * 2 + [place] * 2
            axes.plot(far, near, **style)
            axes.plot(near, [self.pixels - f for f in far], **style)
            if end - begin > 2:  # what the name is of
                for x, y in (([far[0]] * 2, [begin + 1, end - 1]), ([begin + 1, end - 1], [self.pixels - far[0]] * 2)):
                    axes.plot(x, y, **style)
            axes.text(-1.15 * out, place, name, ha="right", va="center_baseline", fontsize=self.points, parse_math=False)
            axes.text(place, self.pixels + 1.15 * out, name, ha="center", va="top", rotation=90, fontsize=self.points, parse_math=False)

    def draw_boundaries(self, axes, narrowest: int) -> None:
        """Lines between tensors, and between labels, but none that would hide a tensor of a few pixels."""
        ends = self.boundaries
        groups = np.array([ends[label.first] for label in self.labels] + [ends[-1]])
        lines = {edges[k] for edges in (ends, groups) for k in range(1, len(edges) - 1) if min(edges[k] - edges[k - 1], edges[k + 1] - edges[k]) >= narrowest}
        for at in sorted(lines):
            for draw in (axes.axhline, axes.axvline):
                draw(at, color="black", linewidth=0.35, alpha=0.6)


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float):
    """Axes at a place in inches, on whole pixels: no number is lost or doubled by resampling."""
    place = np.rint(np.array([left, bottom, width, height]) * figure.dpi) / figure.dpi
    size = figure.get_size_inches()
    return figure.add_axes([place[0] / size[0], place[1] / size[1], place[2] / size[0], place[3] / size[1]])


def thin_ticks(axes) -> None:
    axes.tick_params(which="both", width=LINE, labelsize=TICK_POINTS)
    axes.tick_params(which="major", length=2.5)
    axes.tick_params(which="minor", length=1.5)


TITLE_POINTS, NOTE_POINTS, TICK_POINTS = 9.0, 6.5, 7.0


class Heading:
    """A title and, below it, a note in as many lines as it takes. In inches."""

    def __init__(self, title: str, note: str, width: float):
        self.title, self.lines = title, wrapped(note, NOTE_POINTS, width)
        self.height = 0.35 + 0.11 * len(self.lines)

    def draw(self, figure: Figure, left: float, top: float) -> None:
        width, height = figure.get_size_inches()
        figure.text(left / width, (top - 0.24) / height, self.title, fontsize=TITLE_POINTS, parse_math=False)
        for k, line in enumerate(self.lines):
            figure.text(left / width, (top - 0.39 - 0.11 * k) / height, line, fontsize=NOTE_POINTS, color=GREY, parse_math=False)


class MapPanel:
    """The matrix, one pixel for the largest of the entries that it stands for."""

    def __init__(self, matrix: Matrix, axis: Axis, reduced: Reduced, options: argparse.Namespace):
        self.axis, self.block = axis, Block(axis.tensors, axis.widths, options.dpi)
        self.present = reduced.computed > 0
        self.elsewhere = axis.tensor_of_bin[:, None] != axis.tensor_of_bin if matrix.diagonal_blocks else None
        self.values = reduced.largest
        shown = np.abs(self.values[self.present])
        self.bad = not np.isfinite(shown).all()
        shown = shown[np.isfinite(shown) & (shown > 0)]
        self.largest = options.largest or (float(shown.max()) if shown.size else 1.0)
        self.decades = options.decades or self.fitting_decades(shown)
        self.heading, self.inset, self.width = headed(self.block, options, matrix, self.describe(matrix, axis))
        self.height = self.block.margin + self.block.side

    def fitting_decades(self, shown: np.ndarray) -> int:
        """Powers of ten for the colours, of which most pixels use the darker two thirds."""
        if not shown.size:
            return 2
        return int(np.clip(np.ceil(1.5 * np.log10(self.largest / np.median(shown))), 2, 10))

    def describe(self, matrix: Matrix, axis: Axis) -> str:
        most = int((axis.ends - axis.begins).max())
        note = f"pixel: of up to {most} × {most} entries the largest |H|, signed" if most > 1 else "every entry"
        rows = sum(end - begin for begin, end in matrix.runs)
        if rows < matrix.n:
            note += f"; grey: not computed ({100 * (1 - rows / matrix.n):.3g} % of the rows)"
        elif not matrix.complete:
            note += "; not complete: no result yet"
        if matrix.diagonal_blocks:
            note += "; grey: not in the file, which has diagonal blocks alone" if rows == matrix.n else ", or not in the file"
        return note + ("; green: NaN or infinite" if self.bad else "")

    def colours(self) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = 1 + np.log10(np.abs(self.values.astype(np.float64)) / self.largest) / self.decades
        signed = np.sign(self.values) * np.clip(depth, 0, 1)
        rgb = matplotlib.colormaps["RdBu_r"](np.nan_to_num(signed) / 2 + 0.5)[..., :3]
        rgb[~np.isfinite(self.values)] = BAD
        rgb[~self.present] = MISSING
        if self.elsewhere is not None:
            rgb[self.elsewhere] = MISSING
        lookup = self.axis.bin_of_pixel
        return np.rint(255 * rgb).astype(np.uint8)[np.ix_(lookup, lookup)]

    def draw(self, figure: Figure, left: float, top: float) -> None:
        left, bottom = left + self.block.margin, top - self.block.side
        axes = self.block.axes(figure, left, bottom)
        axes.imshow(self.colours(), extent=(0, self.block.pixels, self.block.pixels, 0), interpolation="none", aspect="auto")
        self.block.draw_boundaries(axes, 8)
        self.block.draw_names(axes)
        self.draw_scale(figure, left + self.block.side + 0.1, bottom)

    def draw_scale(self, figure: Figure, left: float, bottom: float) -> None:
        axes = add_axes(figure, left, bottom + 0.15 * self.block.side, 0.1, 0.7 * self.block.side)
        bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), matplotlib.colormaps["RdBu_r"]), cax=axes)
        top = np.floor(np.log10(self.largest) + 1e-9)
        half = 0.35 * self.block.side
        every = max(1, int(np.ceil(self.decades / np.clip(half // 0.15, 1, 6))))
        powers = np.arange(top, np.log10(self.largest) - self.decades, -every)
        places = 1 + (powers - np.log10(self.largest)) / self.decades
        apart = places * half > 0.11  # from the zero
        powers, places = powers[apart], places[apart]
        ticks = [*(-places), 0, *places[::-1]]
        texts = [rf"$-10^{{{p:.0f}}}$" for p in powers] + ["0"] + [rf"$10^{{{p:.0f}}}$" for p in powers[::-1]]
        bar.set_ticks(ticks, labels=texts)
        bar.outline.set_linewidth(LINE)
        thin_ticks(axes)


class NormPanel:
    """Frobenius norms of the blocks, each a cell of the same size."""

    def __init__(self, matrix: Matrix, axis: Axis, reduced: Reduced, options: argparse.Namespace):
        tensors = axis.tensors
        labels = fitting_labels(tensors.names, tensors.sizes, 40)
        self.cells = len(labels)
        count = len(tensors.names)
        covered = Segments(*np.array([(label.first, label.last) for label in labels]).T, count)
        self.norms = np.sqrt(covered.reduce(np.add, covered.reduce(np.add, reduced.squares).T).T)
        computed = covered.reduce(np.add, np.bincount(axis.tensor_of_bin, reduced.computed, count))
        total = covered.reduce(np.add, tensors.sizes)
        self.missing = np.repeat((computed < total)[:, None], self.cells, 1)
        if matrix.diagonal_blocks:
            self.missing |= ~np.eye(self.cells, dtype=bool)
        pixels = options.pixels // self.cells or 1
        names = Tensors([label.text for label in labels], np.zeros(self.cells, np.int64), total)
        self.block = Block(names, np.full(self.cells, pixels), options.dpi)
        grey = ["not computed, or in part"] * bool((computed < total).any()) + ["not in the file"] * matrix.diagonal_blocks
        note = "Frobenius norm of each block"
        if sum(label.last - label.first for label in labels) < count:
            note += f"; the {self.cells} largest of {count} parameters"
        note += "; grey: " + ", or ".join(grey) if grey else ""
        self.heading, self.inset, self.width = headed(self.block, options, matrix, note)
        self.height = self.block.margin + self.block.side

    def draw(self, figure: Figure, left: float, top: float) -> None:
        left, bottom = left + self.block.margin, top - self.block.side
        axes = self.block.axes(figure, left, bottom)
        shown = self.norms[np.isfinite(self.norms) & (self.norms > 0) & ~self.missing]
        high = shown.max() if shown.size else 1.0
        low = max(min(shown.min(), 0.1 * high) if shown.size else 0.1, 1e-12 * high)
        norm = LogNorm(low * 0.999, high * 1.001)
        cmap = matplotlib.colormaps["viridis"].with_extremes(bad=MISSING, under="white")
        image = np.where(self.missing, np.nan, np.where(self.norms == 0, low / 2, self.norms))  # the logarithm of 0 would be bad
        extent = (0, self.block.pixels, self.block.pixels, 0)
        shown = axes.imshow(image, norm=norm, cmap=cmap, extent=extent, interpolation="none", aspect="auto")
        self.block.draw_boundaries(axes, 4)
        self.block.draw_names(axes)
        self.draw_numbers(axes, norm)
        scale = add_axes(figure, left + self.block.side + 0.1, bottom + 0.15 * self.block.side, 0.1, 0.7 * self.block.side)
        bar = figure.colorbar(shown, cax=scale)
        bar.outline.set_linewidth(LINE)
        thin_ticks(scale)

    def draw_numbers(self, axes, norm) -> None:
        cell = self.block.widths[0]
        numbers = {place: number(value) for place, value in np.ndenumerate(self.norms) if np.isfinite(value) and not self.missing[place]}
        longest = max((text_width(text, TICK_POINTS) for text in numbers.values()), default=1)
        points = min(TICK_POINTS, TICK_POINTS * 0.8 * cell / self.block.dpi / longest)
        if points < 4:
            return
        for (row, column), text in numbers.items():
            value = self.norms[row, column]
            light = value == 0 or norm(value) > 0.6
            axes.text((column + 0.5) * cell, (row + 0.5) * cell, text, ha="center", va="center_baseline", fontsize=points, color="black" if light else "white")


def headed(block: Block, options: argparse.Namespace, matrix: Matrix, note: str) -> tuple[Heading, float, float]:
    """The heading over a block, where it begins, and the width of the two with a scale beside the block."""
    title = options.title if options.title is not None else default_title(matrix)
    width = max(block.side + 0.72, text_width(title, TITLE_POINTS))
    return Heading(title, note, width), block.margin, block.margin + width


# --- spectrum -------------------------------------------------------------------------------------------------------


@dataclass
class Spectrum:
    """What hessian_spectrum wrote; what it did not is None."""

    n: int
    eigenvalues: np.ndarray | None  # all, ascending
    largest: np.ndarray | None  # the first ones from above, by Lanczos
    smallest: np.ndarray | None
    grid: np.ndarray | None  # of the density
    density: np.ndarray | None
    error: np.ndarray | None
    sigma: float
    probes: int
    error_bound: float  # of all eigenvalues, where a low rank was found


def error_bound_in(file: h5py.File) -> float:
    return float(file["eigenvalues"].attrs.get("error_bound", 0)) if "eigenvalues" in file else 0.0


def read_spectrum(path: pathlib.Path, hessian: pathlib.Path, n: int, file_id: str | None) -> Spectrum:
    """file_id: of the Hessian, where it has one."""
    if not path.exists():
        raise InputError(f"'{path}': no such file; mpirun -n 2 hessian_spectrum '{hessian}' makes it")
    with opened(path, "spectrum of hessian_spectrum") as file:
        if file.attrs.get("format") != "hessian_mpi spectrum":
            raise InputError(f"'{path}' is not a spectrum of hessian_spectrum")
        if int(file.attrs.get("N", -1)) != n:
            raise InputError(f"'{path}' is the spectrum of another matrix: N = {file.attrs.get('N')}, '{hessian}' has {n}")
        source = file.attrs.get("source_file_id")
        if file_id and source and source != file_id:
            raise InputError(f"'{path}' is the spectrum of another matrix than '{hessian}' has now: its file had the id {source}, not {file_id}")

        def numbers(name: str) -> np.ndarray | None:
            return np.asarray(file[name], np.float64) if name in file else None

        about = file["density"].attrs if "density" in file else {}
        largest = numbers("largest/eigenvalues")
        if not {"eigenvalues", "largest", "density"} & set(file):
            raise InputError(f"'{path}' has nothing to draw: hessian_spectrum makes it with --largest, with --density, or with neither and all eigenvalues")
        return Spectrum(n, numbers("eigenvalues"), None if largest is None else np.sort(largest)[::-1], numbers("smallest/eigenvalues"), numbers("density/grid"),
                        numbers("density/density"), numbers("density/error"), float(np.mean(about.get("sigma", np.nan))), int(about.get("probes", 0)), error_bound_in(file))


def rounding_of(matrix: Matrix, spectrum: Spectrum) -> float:
    """Below this an eigenvalue may be zero: what the largest loses to the type of the matrix, or to the solver, or the bound
    of a low rank."""
    known = [values for values in (spectrum.eigenvalues, spectrum.largest, spectrum.smallest) if values is not None]
    largest = max((float(np.abs(values).max()) for values in known), default=0.0)
    single = matrix.row_type == np.float32 or matrix.attributes.get("dtype") == "float32"
    relative = max(np.finfo(np.float32 if single else np.float64).eps, np.sqrt(spectrum.n) * np.finfo(np.float64).eps)
    return max(spectrum.error_bound, largest * relative)


@dataclass(frozen=True)
class Outliers:
    """Eigenvalues above the last wide gap among the first ones. Whether there are more cannot be told from too few."""

    count: int
    told: bool

    def __str__(self) -> str:
        return "at least " * (not self.told) + f"{self.count} outlier" + "s" * (self.count != 1)


def outliers_rank(n: int) -> int:
    """Among how many of the first of n eigenvalues a gap is looked for."""
    return max(2, min(50, n // 10))


def find_outliers(descending: np.ndarray, n: int, rounding: float) -> Outliers:
    """descending: the first of n eigenvalues, or all."""
    first = descending[: outliers_rank(n)]
    told = len(first) == min(n, outliers_rank(n)) or first[-1] <= rounding
    first = first[first > rounding]
    wide = np.flatnonzero(first[:-1] > OUTLIER_GAP * first[1:])
    return Outliers(int(wide[-1]) + 1 if wide.size else 0, told)


RED, BLUE, ORANGE = "#b2182b", "#2166ac", "#e08214"


class SpectrumPanel:
    """Above, the eigenvalues by rank; below, their density."""

    LEFT, LEGEND, BELOW = 0.7, 0.19, 0.38  # inches beside, above and below each of the two

    def __init__(self, matrix: Matrix, spectrum: Spectrum, options: argparse.Namespace):
        self.spectrum = spectrum
        self.l2 = float(matrix.attributes.get("l2", 0))
        self.rounding = rounding_of(matrix, spectrum)
        self.known = spectrum.eigenvalues[::-1] if spectrum.eigenvalues is not None else spectrum.largest
        self.outliers = Outliers(0, False)
        if self.known is not None:
            self.outliers = find_outliers(self.known, spectrum.n, self.rounding) if options.outliers is None else Outliers(min(options.outliers, len(self.known)), True)
        title = options.title if options.title is not None else "Spectrum"
        width = max(3.4, text_width(title, TITLE_POINTS))
        self.inset, self.width, self.height = self.LEFT, self.LEFT + width, max(2.6, options.pixels / options.dpi) + self.BELOW
        self.heading = Heading(title, self.summary(), width)

    def draw(self, figure: Figure, left: float, top: float) -> None:
        left, width = left + self.inset, self.width - self.inset - 0.1
        drawings = []
        if self.shown_ranks().any():
            drawings.append(self.draw_ranks)
        if self.spectrum.grid is not None or self.spectrum.eigenvalues is not None:
            drawings.append(self.draw_density)
        each = self.height / max(1, len(drawings))
        for k, draw in enumerate(drawings):
            axes = add_axes(figure, left, top - (k + 1) * each + self.BELOW, width, each - self.LEGEND - self.BELOW)
            axes.spines[["top", "right"]].set_visible(False)
            axes.spines[:].set_linewidth(LINE)
            draw(axes)
            thin_ticks(axes)
            axes.xaxis.labelpad = 2
            axes.yaxis.set_label_coords(-0.58 / width, 0.5)
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=NOTE_POINTS, frameon=False,
                        handlelength=1.2, handletextpad=0.4, columnspacing=1, borderpad=0, borderaxespad=0.3)

    def summary(self) -> str:
        if self.known is None:
            return f"density of {self.spectrum.n:,} eigenvalues"
        return self.summary_of_all() if self.spectrum.eigenvalues is not None else self.summary_of_largest()

    def summary_of_all(self) -> str:
        values, n = self.spectrum.eigenvalues, self.spectrum.n
        text = "no outliers"
        if self.outliers.count:
            text = f"{self.outliers} above the bulk"
            if values.sum() > 0:
                text += f": {100 * self.known[: self.outliers.count].sum() / values.sum():.0f} % of the trace"
        negative, zero = int((values < -self.rounding).sum()), int((np.abs(values) <= self.rounding).sum())
        text += f"; {negative:,} of {n:,} negative, the least {number(values[0])}" if negative else "; none negative"
        return text + (f"; {zero:,} of {n:,} zero to rounding, |λ| ≤ {number(self.rounding)}" if zero else "")

    def summary_of_largest(self) -> str:
        text = f"{len(self.known)} largest of {self.spectrum.n:,}, by Lanczos; "
        if self.outliers.told:
            return text + (str(self.outliers) if self.outliers.count else "no outliers")
        found = str(self.outliers) if self.outliers.count else "outliers cannot be told"
        return text + f"{found}: the rule looks at the first {outliers_rank(self.spectrum.n)}"

    def shown_ranks(self) -> np.ndarray:
        """Which of the known eigenvalues are more than rounding; of negative ones, where all are known."""
        if self.known is None:
            return np.zeros(0, bool)
        return (np.abs(self.known) if self.spectrum.eigenvalues is not None else self.known) > self.rounding

    def draw_ranks(self, axes) -> None:
        spectrum, known, k = self.spectrum, self.known, self.outliers.count
        ranks, many = np.arange(1, len(known) + 1), len(known) > 5000
        if k:
            axes.plot(ranks[:k], known[:k], ".", ms=4.5, color=RED, label=str(self.outliers))
        if spectrum.eigenvalues is not None:
            for sign, colour, label in ((1, BLUE, "bulk"), (-1, ORANGE, "negative, |λ|")):
                shown = (sign * known > self.rounding) & (ranks > k)
                if shown.any():
                    axes.plot(ranks[shown], sign * known[shown], ".", ms=2, color=colour, label=label, rasterized=many)
        if spectrum.largest is not None:
            found = spectrum.largest[spectrum.largest > self.rounding]
            axes.plot(np.arange(1, len(found) + 1), found, "o", ms=5, mfc="none", mec="black", mew=0.5, label="Lanczos")
        axes.set(xscale="log", yscale="log")
        integers = matplotlib.ticker.StrMethodFormatter("{x:,.0f}")
        axes.xaxis.set_major_formatter(integers)
        axes.xaxis.set_minor_formatter(integers if self.shown_ranks().nonzero()[0][-1] < 9 else matplotlib.ticker.NullFormatter())
        if self.l2 > self.rounding:
            axes.axhline(self.l2, color=GREY, linewidth=LINE, linestyle=(0, (4, 3)), zorder=0)
            axes.annotate("L2 term", (0, self.l2), (2, 2), axes.get_yaxis_transform(), textcoords="offset points", fontsize=NOTE_POINTS, color=GREY)
        axes.set_xlabel("rank k", fontsize=7.5)
        axes.set_ylabel("eigenvalue $λ_k$", fontsize=7.5)

    def draw_density(self, axes) -> None:
        spectrum = self.spectrum
        grid, sigma = spectrum.grid, spectrum.sigma
        values = spectrum.eigenvalues
        if grid is None:
            margin = 0.03 * (values[-1] - values[0] or abs(values[0]) or 1.0)
            grid, sigma = np.linspace(values[0] - margin, values[-1] + margin, 1000), margin / 5
        top = 0.0
        if values is not None:
            density = smoothed(values, grid, sigma)
            top = density.max()
            axes.fill_between(grid, density, 1e-300, color=BLUE, alpha=0.35, linewidth=0, label="all eigenvalues")
        if spectrum.density is not None:
            top = max(top, spectrum.density.max())
            axes.plot(grid, np.maximum(spectrum.density, 1e-300), color="black", linewidth=0.8, label=f"Lanczos, {spectrum.probes} probes")
            if spectrum.error is not None:
                low = np.maximum(spectrum.density - spectrum.error, 1e-300)
                axes.fill_between(grid, low, spectrum.density + spectrum.error, color="black", alpha=0.25, linewidth=0)
        if self.outliers.count:
            outliers = self.known[: self.outliers.count]
            axes.plot(outliers, np.full(len(outliers), 0.02), "|", transform=axes.get_xaxis_transform(), ms=6, mew=0.7, color=RED, label=str(self.outliers))
        one = 1 / (spectrum.n * sigma * np.sqrt(2 * np.pi)) if sigma > 0 else None  # the peak of one eigenvalue
        axes.set(yscale="log", xlim=(grid[0], grid[-1]), ylim=(0.1 * one if one else None, 2 * top))
        axes.set_xlabel(f"eigenvalue λ (each a Gaussian of width {number(sigma)})", fontsize=7.5)
        axes.set_ylabel("density", fontsize=7.5)


def smoothed(values: np.ndarray, grid: np.ndarray, sigma: float) -> np.ndarray:
    """Mean of Gaussians of width sigma about the values."""
    density = np.zeros(len(grid))
    for part in np.array_split(values, max(1, len(values) // 1000)):
        density += np.exp(-0.5 * ((grid[:, None] - part) / sigma) ** 2).sum(axis=1)
    return density / (len(values) * sigma * np.sqrt(2 * np.pi))


# --- several files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """The spectrum of one file of several."""

    step: float
    eigenvalues: np.ndarray | None  # all, ascending
    zero: float  # up to this an eigenvalue is zero to rounding, or to the bound of a low rank
    largest: float | None
    smallest: float | None
    trace: float | None
    trace_error: float | None  # one standard error, where random probes gave it

    @property
    def negative(self) -> int | None:
        return None if self.eigenvalues is None else int((self.eigenvalues < -self.zero).sum())


def steps_of(paths: list[pathlib.Path], given: list[float] | None) -> list[float]:
    """As given; else the last numbers in the files' names, where all have another; else 0, 1, 2 and so on."""
    if given is not None:
        if len(given) != len(paths):
            raise InputError(f"--steps has {len(given)} numbers for {len(paths)} files")
        return given
    found = [re.findall(r"\d+", path.name.split(".")[0]) for path in paths]
    steps = [float(numbers[-1]) for numbers in found if numbers]
    return steps if len(set(steps)) == len(paths) else [float(k) for k in range(len(paths))]


def step_text(step: float) -> str:
    return f"{step:,.10g}"


def spectrum_of(path: pathlib.Path) -> pathlib.Path:
    """The file itself where it is a spectrum, else the one that hessian_spectrum makes of it."""
    with opened(path, "file of hessian_mpi") as file:
        if file.attrs.get("format") == "hessian_mpi spectrum":
            return path
    spectrum = path.with_suffix(".spectrum.h5")
    if not spectrum.exists():
        raise InputError(f"'{spectrum}': no such file; mpirun -n 2 hessian_spectrum '{path}' makes it")
    return spectrum


def read_checkpoint(path: pathlib.Path, step: float) -> Checkpoint:
    with opened(path, "spectrum of hessian_spectrum") as file:
        if file.attrs.get("format") != "hessian_mpi spectrum":
            raise InputError(f"'{path}' is not a spectrum of hessian_spectrum")
        if not {"eigenvalues", "largest", "density"} & set(file):
            raise InputError(f"'{path}' has nothing to draw: it takes all eigenvalues, --largest or --density of a whole matrix")
        n = int(file.attrs["N"])
        single = file["hessian"].attrs.get("dtype", "") == "float32" or file["hessian"].attrs.get("storage", "") == "float32"
        relative = max(np.finfo(np.float32 if single else np.float64).eps, np.sqrt(n) * np.finfo(np.float64).eps)
        values = np.sort(file["eigenvalues"][:]) if "eigenvalues" in file else None
        density = file["density"].attrs if "density" in file else {}
        mean = density.get("mean_eigenvalue")
        if values is not None:
            zero = max(error_bound_in(file), relative * float(np.abs(values).max(initial=0)))
            return Checkpoint(step, values, zero, values[-1], values[0], values.sum(), None)
        ends = {end: float(file[end]["eigenvalues"][0]) if end in file else None for end in ("largest", "smallest")}
        return Checkpoint(step, None, 0.0, ends["largest"], ends["smallest"], None if mean is None else n * float(mean),
                          None if mean is None else n * float(density["mean_eigenvalue_error"]))


class TrainingPanel:
    """Above, the eigenvalues of all files by rank, in the colours of their steps; below, against the step, how many are
    negative, the largest and the smallest, and the trace."""

    LEFT, GAP, BELOW, WIDTH = 0.7, 0.12, 0.38, 3.6

    def __init__(self, checkpoints: list[Checkpoint], options: argparse.Namespace):
        self.checkpoints = sorted(checkpoints, key=lambda checkpoint: checkpoint.step)
        self.steps = np.array([checkpoint.step for checkpoint in self.checkpoints])
        rows = [(self.draw_negative, "negative"), (self.draw_ends, "largest"), (self.draw_trace, "trace")]
        self.rows = [draw for draw, name in rows if any(getattr(checkpoint, name) is not None for checkpoint in self.checkpoints)]
        self.whole = all(checkpoint.eigenvalues is not None for checkpoint in self.checkpoints)
        title = options.title if options.title is not None else "Spectrum over training"
        note = f"{len(checkpoints)} files, steps {step_text(self.steps[0])} to {step_text(self.steps[-1])}"
        if any(checkpoint.zero for checkpoint in self.checkpoints):
            note += f"; |λ| below {number(max(checkpoint.zero for checkpoint in self.checkpoints))} is taken for zero"
        self.heading = Heading(title, note, self.WIDTH)
        self.inset, self.width = self.LEFT, self.LEFT + self.WIDTH
        self.above = 1.9 if self.whole else 0.0
        self.height = (self.above + self.BELOW + 0.2 if self.whole else 0.0) + 0.85 * len(self.rows) + self.BELOW

    def colours(self):
        """In the order of steps, dark to light: the luminance rises, so that every eye and every printer tells them."""
        return matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(self.steps)))

    def draw(self, figure: Figure, left: float, top: float) -> None:
        left, width = left + self.inset, self.width - self.inset - 0.1
        if self.whole:
            axes = self.new_axes(figure, left, top - self.above - 0.2, width, self.above)
            self.draw_ranks(axes)
            top -= self.above + 0.2 + self.BELOW
        for k, draw in enumerate(self.rows):
            axes = self.new_axes(figure, left, top - 0.85 * (k + 1) + self.GAP, width, 0.85 - self.GAP - 0.05)
            draw(axes)
            axes.margins(x=0.04)
            if k + 1 < len(self.rows):
                axes.tick_params(labelbottom=False)
            else:
                axes.set_xlabel("step", fontsize=7.5)
                axes.xaxis.labelpad = 2
            axes.yaxis.set_label_coords(-0.58 / width, 0.5)

    def new_axes(self, figure: Figure, left: float, bottom: float, width: float, height: float):
        axes = add_axes(figure, left, bottom, width, height)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[:].set_linewidth(LINE)
        thin_ticks(axes)
        return axes

    def draw_ranks(self, axes) -> None:
        named = set(np.linspace(0, len(self.steps) - 1, min(5, len(self.steps))).round().astype(int))
        for k, (checkpoint, colour) in enumerate(zip(self.checkpoints, self.colours())):
            values = checkpoint.eigenvalues
            for sign, style in ((1, "-"), (-1, (0, (1.5, 1)))):
                shown = np.sort(sign * values[sign * values > checkpoint.zero])[::-1]
                if len(shown):
                    label = f"step {step_text(checkpoint.step)}" if k in named and sign > 0 else None
                    axes.plot(np.arange(1, len(shown) + 1), shown, linestyle=style, marker="." if len(shown) == 1 else None, color=colour, linewidth=0.9, label=label)
        axes.set(xscale="log", yscale="log")
        axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("rank; dotted: of negative ones, $|λ_k|$", fontsize=7.5)
        axes.set_ylabel("eigenvalue $λ_k$", fontsize=7.5)
        axes.xaxis.labelpad = 2
        axes.yaxis.set_label_coords(-0.58 / (self.width - self.inset - 0.1), 0.5)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, fontsize=NOTE_POINTS, frameon=False, handlelength=1.0,
                    handletextpad=0.3, columnspacing=0.8, borderpad=0, borderaxespad=0.3)

    def line(self, axes, name: str, colour: str, marker: str, **style) -> None:
        some = [(checkpoint.step, getattr(checkpoint, name)) for checkpoint in self.checkpoints if getattr(checkpoint, name) is not None]
        if some:
            axes.plot(*zip(*some), marker=marker, ms=3, color=colour, linewidth=0.9, **style)

    def draw_negative(self, axes) -> None:
        self.line(axes, "negative", ORANGE, "s")
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4, integer=True))
        axes.set_ylabel("negative", fontsize=7.5)

    def draw_ends(self, axes) -> None:
        self.line(axes, "largest", RED, "^", label="largest")
        self.line(axes, "smallest", BLUE, "v", label="smallest")
        axes.set_ylabel("eigenvalue", fontsize=7.5)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 0.9), ncols=2, fontsize=NOTE_POINTS, frameon=False, handlelength=1.2,
                    handletextpad=0.4, columnspacing=1, borderpad=0, borderaxespad=0)

    def draw_trace(self, axes) -> None:
        self.line(axes, "trace", "black", "o")
        errors = [(checkpoint.step, checkpoint.trace, checkpoint.trace_error) for checkpoint in self.checkpoints if checkpoint.trace_error is not None]
        if errors:
            axes.errorbar(*zip(*errors), fmt="none", ecolor="black", elinewidth=0.7)
        axes.set_ylabel("trace", fontsize=7.5)


class LayerPanel:
    """Frobenius norms of the blocks of parameters with themselves: a row for each parameter, a column for each file."""

    def __init__(self, names: list[str], steps: list[float], norms: np.ndarray, options: argparse.Namespace):
        order = np.argsort(steps, kind="stable")
        self.norms, self.steps = norms[:, order], np.asarray(steps)[order]
        self.names = short_names(names)
        title = options.title if options.title is not None else "Norms of diagonal blocks"
        self.cell = max(0.11, min(0.3, options.pixels / options.dpi / len(names)))
        self.inset = 0.12 + max(text_width(name, TICK_POINTS) for name in self.names)
        self.side = max(0.22 * len(steps), 1.6)
        self.heading = Heading(title, "Frobenius norm of each parameter's block with itself; grey: not computed", self.side + 0.6)
        self.width = self.inset + max(self.side + 0.6, text_width(title, TITLE_POINTS))
        self.height = self.cell * len(names) + 0.4

    def draw(self, figure: Figure, left: float, top: float) -> None:
        rows, columns = self.norms.shape
        axes = add_axes(figure, left + self.inset, top - self.cell * rows, self.side, self.cell * rows)
        shown = self.norms[np.isfinite(self.norms) & (self.norms > 0)]
        high = shown.max() if shown.size else 1.0
        low = max(min(shown.min(), 0.1 * high) if shown.size else 0.1, 1e-12 * high)
        cmap = matplotlib.colormaps["viridis"].with_extremes(bad=MISSING, under="white")
        image = np.where(self.norms == 0, low / 2, self.norms)
        drawn = axes.imshow(image, norm=LogNorm(low * 0.999, high * 1.001), cmap=cmap, interpolation="none", aspect="auto")
        thin_ticks(axes)
        axes.spines[:].set_linewidth(LINE)
        axes.set_yticks(range(rows), self.names)
        room = max(1, int(np.ceil(columns * max(text_width(step_text(step), TICK_POINTS) for step in self.steps) * 1.3 / self.side)))
        axes.set_xticks(range(0, columns, room), [step_text(step) for step in self.steps[::room]])
        axes.set_xlabel("step", fontsize=7.5)
        axes.xaxis.labelpad = 2
        scale = add_axes(figure, left + self.inset + self.side + 0.1, top - self.cell * rows, 0.1, max(0.5, min(2.0, self.cell * rows)))
        figure.colorbar(drawn, cax=scale).outline.set_linewidth(LINE)
        thin_ticks(scale)


def norms_of_layers(path: pathlib.Path, options: argparse.Namespace) -> dict[str, float]:
    """By parameter; NaN where rows are missing."""
    with opened(path, "file of hessian_mpi") as file, contextlib.closing(Matrix(path, file)) as matrix:
        tensors = matrix.tensors.matching(options.parameters)
        axis = make_axis(tensors, options.pixels, options.scale)
        reduced = reduce_matrix(matrix, axis, False, True, options.threads)
        computed = np.bincount(axis.tensor_of_bin, reduced.computed, len(tensors.names))
        norms = np.where(computed < tensors.sizes, np.nan, np.sqrt(np.diag(reduced.squares)))
        return dict(zip(tensors.names, norms))


def plot_several(options: argparse.Namespace, command_line: str, output: pathlib.Path) -> str:
    """What several files have become, one after the other."""
    if options.map:
        raise InputError("--map is of one file: name one, or draw --spectrum and --norms of several")
    if options.spectrum_file:
        raise InputError("--spectrum-file is of one file: of several, name the spectra themselves")
    steps = steps_of(options.files, options.steps)
    panels, inputs = [], list(options.files)
    for file in options.files:
        check_file(file)
    if options.spectrum:
        spectra = [spectrum_of(path) for path in options.files]
        inputs += spectra
        panels.append(TrainingPanel([read_checkpoint(path, step) for path, step in zip(spectra, steps)], options))
    check_output(output, inputs)
    if options.norms:
        layers = [norms_of_layers(path, options) for path in options.files]
        names = list(dict.fromkeys(name for norms in layers for name in norms))
        panels.append(LayerPanel(names, steps, np.array([[norms.get(name, np.nan) for norms in layers] for name in names]), options))
    draw(panels, output, options, command_line)
    return f"{output}: {len(options.files)} files, steps {step_text(min(steps))} to {step_text(max(steps))}"


# --- the figure -----------------------------------------------------------------------------------------------------


def default_title(matrix: Matrix) -> str:
    attributes = matrix.attributes
    kind = KINDS.get(str(attributes.get("matrix", "hessian")), "matrix")
    model = str(attributes.get("model", ""))
    return kind[0].upper() + kind[1:] + f", N = {matrix.n:,}" + (f", {shortened(pathlib.PurePath(model).name, 28)}" if model else "")


def draw(panels: list, output: pathlib.Path, options: argparse.Namespace, command_line: str) -> None:
    gap, border = 0.12, 0.08
    width = sum(panel.width for panel in panels) + gap * (len(panels) - 1) + 2 * border
    head = max(panel.heading.height for panel in panels)
    height = head + max(panel.height for panel in panels) + border
    figure = Figure(figsize=np.ceil(np.array([width, height]) * options.dpi) / options.dpi, dpi=options.dpi)
    left, top = border, figure.get_size_inches()[1]
    for panel in panels:
        panel.heading.draw(figure, left + panel.inset, top)
        panel.draw(figure, left, top - head)
        left += panel.width + gap
    suffix = output.suffix[1:].lower()
    key = {"png": "Comment", "pdf": "Subject", "svg": "Description"}[suffix]
    picture = io.BytesIO()
    if suffix == "png" and options.palette:
        with io.BytesIO() as png:
            figure.savefig(png, dpi=options.dpi)
            few = Image.open(png).convert("RGB").quantize(min(options.palette, 256), kmeans=1, dither=Image.Dither.NONE)
            few.save(picture, "png", optimize=True)
    else:
        figure.savefig(picture, format=suffix, dpi=options.dpi, metadata={key: command_line})
    publish(picture.getvalue(), output)


def publish(content: bytes, output: pathlib.Path) -> None:
    """What fails or is stopped leaves the file that was there, and nothing else."""
    target = pathlib.Path(os.path.realpath(output))
    unfinished = target.with_name(f".{target.name}.new-{os.getpid()}")
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    except OSError as error:
        raise OSError(f"'{output}' could not be written: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)


def progress_line(fraction: float) -> None:
    print(f"\r{100 * fraction:3.0f} % of the matrix read", end="" if fraction < 1 else "\r\033[K", file=sys.stderr, flush=True)


def check_file(path: pathlib.Path) -> None:
    """Nothing is opened: a FIFO would be waited for."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"'{path}' cannot be looked at: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"'{path}' is a folder, a FIFO or a device: name a regular file")


def check_output(output: pathlib.Path, inputs: list[pathlib.Path]) -> None:
    if output.suffix[1:].lower() not in FORMATS:
        raise InputError(f"--output '{output}': the picture's format is its suffix: .png, .pdf or .svg")
    check_file(output)
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise InputError(f"the output '{output}' is a file that is read, '{path}': name another output")
    folder = pathlib.Path(os.path.realpath(output)).parent
    if not folder.is_dir():
        raise InputError(f"--output '{output}': the folder '{folder}' does not exist")
    if output.exists() and not os.access(output, os.W_OK):
        raise InputError(f"--output '{output}' cannot be written")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"no file can be made in the folder '{folder}' of --output: {error.strerror}") from None


def plot(options: argparse.Namespace, command_line: str) -> str:
    """Draws what the options ask for; what it drew, in a line."""
    path = options.files[0]
    output = options.output or path.with_suffix(f".{options.format or 'png'}")
    if options.format and output.suffix[1:].lower() != options.format:
        if output.suffix[1:].lower() in FORMATS:
            raise InputError(f"--format {options.format} and --output '{output}': name one format")
        output = output.with_name(f"{output.name}.{options.format}")
    if len(options.files) > 1:
        return plot_several(options, command_line, output)
    if options.steps:
        raise InputError("--steps is of several files")
    spectrum_path = options.spectrum_file or path.with_suffix(".spectrum.h5")
    inputs = [path, *([spectrum_path] if options.spectrum else [])]
    for file in inputs:
        check_file(file)
    check_output(output, inputs)
    with opened(path, "file of hessian_mpi") as file, contextlib.closing(Matrix(path, file)) as matrix:
        wanted = matrix.attributes.get("file_id")
        spectrum = read_spectrum(spectrum_path, path, matrix.n, wanted) if options.spectrum else None
        panels = []
        if options.map or options.norms:
            tensors = matrix.tensors.matching(options.parameters)
            axis = make_axis(tensors, options.pixels, options.scale)
            shown = progress_line if sys.stderr.isatty() else None
            reduced = reduce_matrix(matrix, axis, options.map, options.norms, options.threads, shown)
            panels += [panel(matrix, axis, reduced, options) for panel, wanted in ((MapPanel, options.map), (NormPanel, options.norms)) if wanted]
        if spectrum:
            panels.append(SpectrumPanel(matrix, spectrum, options))
        draw(panels, output, options, command_line)
        done = sum(end - begin for begin, end in matrix.runs)
        return f"{output}: {default_title(matrix)}" + ("" if done == matrix.n else f", {done:,} of its rows")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def positive(kind: type):
    def convert(text: str):
        number = kind(text)
        if not number > 0:
            raise ValueError
        return number

    convert.__name__ = "positive number"
    return convert


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hessian_plot", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Draws what a file of hessian_mpi holds, complete or not. The matrix is read once, a few megabytes at a time.",
        epilog="""examples:
  hessian_plot hessian.h5 -o hessian.png                     the heat map
  hessian_plot hessian.h5 --map --spectrum -o figure.pdf     beside the spectrum that hessian_spectrum made
  hessian_plot hessian.h5 --parameters 'fc.*' -o fc.png      a part of it
  hessian_plot step-*.h5 --spectrum --norms -o training.svg  of checkpoints, against the step

exit codes: 0 drawn; 1 failed; 2 bad usage or bad input (nothing was written)""")
    parser.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE",
                        help="the file: a Hessian or another matrix of hessian_mpi, a part or a copy of one; of several, "
                             "checkpoints of a training, --spectrum and --norms are drawn against the step")
    parser.add_argument("-o", "--output", type=pathlib.Path, metavar="PICTURE", help=".png, .pdf or .svg (default: FILE with .png)")
    parser.add_argument("--format", choices=FORMATS, help="of the picture, where --output does not tell (default: png)")
    what = parser.add_argument_group("what to draw; several side by side (default: --map)")
    what.add_argument("--map", action="store_true", help="heat map: colours of a signed logarithmic scale; a pixel is the largest in absolute value of its entries")
    what.add_argument("--norms", action="store_true", help="Frobenius norms of the blocks")
    what.add_argument("--spectrum", action="store_true", help="eigenvalues and their density, from what hessian_spectrum wrote")
    how = parser.add_argument_group("how")
    how.add_argument("--parameters", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns of the parameters to show in --map and --norms (default: all)")
    how.add_argument("--scale", choices=("linear", "sqrt", "equal"), default="linear", help="space of a tensor in the map: as its number of elements (at least a pixel), its root, or the same for all")
    how.add_argument("--decades", type=positive(float), metavar="D", help="powers of ten that the colours span; smaller entries are white (default: as the entries do)")
    how.add_argument("--largest", type=positive(float), metavar="X", help="absolute value of the darkest colours, to compare pictures (default: the largest entry)")
    how.add_argument("--pixels", type=positive(int), default=800, metavar="PIXELS", help="width of the map (default: 800)")
    how.add_argument("--dpi", type=positive(int), default=200, metavar="D", help="pixels an inch: fewer make the letters smaller beside the map (default: 200)")
    how.add_argument("--palette", type=positive(int), metavar="K", help="K colours (256 at most) in a .png: a third of the bytes")
    how.add_argument("--outliers", type=int, metavar="K", help="eigenvalues to call outliers (default: those above the last gap of a factor of 1.5 in the first 50, of less than 500 in the first tenth)")
    how.add_argument("--spectrum-file", type=pathlib.Path, metavar="FILE", help="default: FILE with .spectrum.h5")
    how.add_argument("--steps", nargs="+", type=float, metavar="S", help="of several files, in their order (default: the last numbers in their names, or 0, 1, 2, ...)")
    how.add_argument("--title", metavar="TEXT", help="default: what the matrix is, N and the model")
    how.add_argument("--threads", type=positive(int), default=min(4, cores()), metavar="T", help="threads that read (default: the cores, 4 at most)")
    parser.add_argument("--version", action="version", version=", ".join([f"hessian_plot {VERSION}", f"Python {platform.python_version()}", *(f"{name} {version_of(name)}" for name in PACKAGES)]))
    options = parser.parse_args(arguments)
    if options.outliers is not None and options.outliers < 0:
        parser.error(f"argument --outliers: {options.outliers} is less than 0")
    several = len(options.files) > 1
    options.spectrum = options.spectrum or (several and not (options.map or options.norms))
    options.map = options.map or not (options.norms or options.spectrum)
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    try:
        import_packages(arguments)
        print(plot(options, "hessian_plot " + " ".join(arguments)))
        return 0
    except InputError as error:
        print(f"hessian_plot: error: {error}", file=sys.stderr)
        return 2
    except (OSError, MemoryError) as error:
        print(f"hessian_plot: error: {error or 'out of memory'}", file=sys.stderr)
        return 1


def expect_printed(code: int) -> int:
    """The exit code, which is 1 where what was printed has not reached standard output."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        print(f"hessian_plot: error: standard output could not be written to: {error.strerror}", file=sys.stderr)
        return 1
    return code


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except SystemExit as ended:  # after --help, --version and mistakes in options
        code = ended.code
    sys.exit(expect_printed(code))
