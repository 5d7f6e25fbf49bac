#!/usr/bin/env python3
"""hessian_plot on small files made here by numpy and h5py: what a pixel shows, which rows it shows, where names stand,
what is refused.

usage: plot_test.py HESSIAN_PLOT
"""

import contextlib
import errno
import importlib.machinery
import importlib.util
import io
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

import h5py
import matplotlib.image
import numpy as np

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
loader = importlib.machinery.SourceFileLoader("hessian_plot", str(PROGRAM))
hessian_plot = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
sys.modules[loader.name] = hessian_plot
loader.exec_module(hessian_plot)
hessian_plot.import_packages([])

LAYERS = {"conv.weight": 36, "conv.bias": 4, "norm.weight": 1, "fc.weight": 150, "fc.bias": 6}


def write(path, hessian, sizes, complete=True, blocks=(), rows=None, **storage):
    """A file as hessian_mpi writes it. blocks: (begin, end, mark)."""
    n = hessian.shape[1]
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("hessian", data=hessian, **storage)
        dataset.attrs["parameter_names"] = list(sizes)
        dataset.attrs["parameter_sizes"] = list(sizes.values())
        dataset.attrs["parameter_offsets"] = np.cumsum([0, *sizes.values()])[:-1]
        begin, end = rows or (0, n)
        file.attrs.update(format="hessian_mpi", format_version=1, complete=int(complete), row_begin=begin, row_end=end, model="net.pt2")
        for key, column in zip(("begin", "end", "mark"), zip(*(blocks or [(begin, end, 1)]))):
            file["blocks/" + key] = np.array(column, np.uint64 if key == "mark" else np.int64)


def random_matrix(n, dtype, seed=0):
    random = np.random.default_rng(seed)
    return (random.standard_normal((n, n)) * 10.0 ** random.uniform(-9, 3, (n, n))).astype(dtype)


def reduced(path, pixels, scale="linear", patterns=("*",), threads=2):
    with hessian_plot.opened(path, "file") as file:
        matrix = hessian_plot.Matrix(path, file)
        axis = hessian_plot.make_axis(matrix.tensors.matching(list(patterns)), pixels, scale)
        result = hessian_plot.reduce_matrix(matrix, axis, True, True, threads)
        matrix.close()
    return axis, result


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.file = self.folder / "H.h5"

    def run_program(self, *arguments, code=0):
        """What it prints to stdout and stderr. In this process: matplotlib takes a second to start."""
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                ended = hessian_plot.main(list(map(str, arguments)))
            except SystemExit as exit:
                ended = exit.code
        self.assertEqual(ended, code, errors.getvalue())
        return output.getvalue(), errors.getvalue()

    def figure(self, *arguments):
        """What it would have written."""
        with unittest.mock.patch.object(hessian_plot.Figure, "savefig", autospec=True) as saved:
            self.run_program(self.file, *arguments)
        figure = saved.call_args[0][0]
        hessian_plot.FigureCanvasAgg(figure).draw()
        return figure

    def expect_tidy(self, figure):
        """Nothing is cut off, no legend lies where the data are, and small ticks are no larger than the others."""
        drawn = figure.get_tightbbox()
        self.assertGreaterEqual(min(drawn.x0, drawn.y0), 0)
        np.testing.assert_array_less([drawn.x1, drawn.y1], figure.get_size_inches())
        for axes in figure.axes:
            if axes.get_legend():
                self.assertFalse(axes.get_legend().get_window_extent().overlaps(axes.get_window_extent()))
            for axis in (axes.xaxis, axes.yaxis):
                for minor in axis.get_minor_ticks():
                    for major in axis.get_major_ticks():
                        self.assertLessEqual(minor.label1.get_fontsize(), major.label1.get_fontsize())
                        self.assertLess(minor.tick1line.get_markersize(), major.tick1line.get_markersize())


class Pixels(Case):
    def expect_largest_of_bins(self, hessian, axis, result):
        for i, (row, row_end) in enumerate(zip(axis.begins, axis.ends)):
            for j, (column, column_end) in enumerate(zip(axis.begins, axis.ends)):
                entries = hessian[row:row_end, column:column_end].ravel()
                self.assertEqual(result.largest[i, j], entries[np.abs(entries).argmax()])

    def test_hold_the_entry_of_largest_absolute_value_with_its_sign(self):
        n = sum(LAYERS.values())
        for dtype in (np.float32, np.float64):
            for pixels in (12, 61, 400):
                for scale in ("linear", "sqrt", "equal"):
                    with self.subTest(dtype=dtype, pixels=pixels, scale=scale):
                        hessian = random_matrix(n, dtype)
                        write(self.file, hessian, LAYERS)
                        axis, result = reduced(self.file, pixels, scale)
                        self.expect_largest_of_bins(hessian, axis, result)

    def test_cover_every_index_once_and_no_two_tensors(self):
        sizes = np.array(list(LAYERS.values()))
        tensors = hessian_plot.Tensors(list(LAYERS), np.cumsum([0, *sizes])[:-1], sizes)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        for pixels in (3, 12, 61, 400, 1000):
            for scale in ("linear", "sqrt", "equal"):
                axis = hessian_plot.make_axis(tensors, pixels, scale)
                covered = np.concatenate([np.arange(b, e) for b, e in zip(axis.begins, axis.ends)])
                np.testing.assert_array_equal(covered, np.arange(sizes.sum()))
                for begin, end, tensor in zip(axis.begins, axis.ends, axis.tensor_of_bin):
                    self.assertEqual(set(owner[begin:end]), {tensor})
                self.assertEqual(set(axis.bin_of_pixel), set(range(len(axis.begins))))  # each is seen
                self.assertEqual(axis.pixels, axis.widths.sum())
                self.assertTrue((axis.widths >= 1).all())

    def test_hold_the_largest_of_many_slabs(self):
        hessian = random_matrix(700, np.float32)
        write(self.file, hessian, {"empty": 0, "all": 700, "none": 0})
        for threads in (1, 3):
            axis, result = reduced(self.file, 3, threads=threads)
            self.assertEqual(len(axis.begins), 3)
            self.expect_largest_of_bins(hessian, axis, result)
            np.testing.assert_allclose(np.sqrt(result.squares), [[np.linalg.norm(hessian.astype(np.float64))]], rtol=1e-6)

    def test_show_nan_and_infinity(self):
        hessian = random_matrix(197, np.float32)
        hessian[40, 100], hessian[150, 3] = np.nan, -np.inf
        write(self.file, hessian, LAYERS)
        axis, result = reduced(self.file, 61)
        bin_of = np.repeat(np.arange(len(axis.begins)), axis.ends - axis.begins)
        self.assertTrue(np.isnan(result.largest[bin_of[40], bin_of[100]]))
        self.assertEqual(result.largest[bin_of[150], bin_of[3]], -np.inf)
        self.assertEqual((~np.isfinite(result.largest)).sum(), 2)

    def test_are_those_of_chosen_parameters(self):
        hessian = random_matrix(197, np.float64)
        write(self.file, hessian, LAYERS)
        axis, result = reduced(self.file, 1000, patterns=["*.bias"])
        chosen = [*range(36, 40), *range(191, 197)]
        np.testing.assert_array_equal(result.largest, hessian[np.ix_(chosen, chosen)])

    def test_do_not_depend_on_how_the_rows_are_stored(self):
        hessian = random_matrix(197, np.float32)
        write(self.file, hessian, LAYERS)
        expected = reduced(self.file, 61)[1].largest
        write(self.folder / "packed.h5", hessian, LAYERS, chunks=(20, 30), compression="gzip", shuffle=True)
        write(self.folder / "big_endian.h5", hessian.astype(">f4"), LAYERS)
        virtual = h5py.VirtualLayout(hessian.shape, "f4")
        virtual[:] = h5py.VirtualSource(self.file, "hessian", hessian.shape)
        write(self.folder / "virtual.h5", hessian, LAYERS)
        with h5py.File(self.folder / "virtual.h5", "a") as file:
            attributes = dict(file["hessian"].attrs)
            del file["hessian"]
            file.create_virtual_dataset("hessian", virtual).attrs.update(attributes)
        for name in ("packed", "big_endian", "virtual"):
            np.testing.assert_array_equal(reduced(self.folder / f"{name}.h5", 61)[1].largest, expected)

    def test_reach_the_picture_one_by_one(self):
        n, pixels = 5000, 500
        row, column = 1234, 4321
        hessian = np.zeros((n, n), np.float32)
        hessian[row, column] = 7
        hessian[row + 20, column] = -7
        write(self.file, hessian, {"all": n})
        self.run_program(self.file, "--pixels", pixels, "--decades", 3)
        picture = matplotlib.image.imread(self.file.with_suffix(".png"))[..., :3]
        colours = hessian_plot.matplotlib.colormaps["RdBu_r"]([0.0, 1.0])[:, :3]
        blue, red = (np.argwhere((np.abs(picture - colour) < 1.5 / 255).all(axis=2)) for colour in colours)
        # Those in the scale beside it are in columns further to the right.
        frame = np.flatnonzero((picture.sum(axis=2) < 0.9).mean(axis=0) > 0.3)
        left, right = frame.min(), frame[frame < frame.min() + pixels + 5].max()
        top = np.flatnonzero((picture[:, left : right + 1].sum(axis=2) < 0.9).mean(axis=1) > 0.9).min()
        found = [marks[(marks[:, 1] > left) & (marks[:, 1] < right)] for marks in (blue, red)]
        self.assertEqual([len(marks) for marks in found], [1, 1])
        self.assertLessEqual(abs(right - left - pixels), 2)
        np.testing.assert_allclose(found[1][0] - [top, left], [row // 10, column // 10], atol=1.01)
        np.testing.assert_array_equal(found[0][0] - found[1][0], [2, 0])


class Rows(Case):
    def test_that_cannot_be_written_leaves_the_old_picture(self):
        write(self.file, random_matrix(197, np.float64), LAYERS)
        picture = self.folder / "H.png"
        picture.write_bytes(b"old")
        before = sorted(self.folder.iterdir())
        full = OSError(errno.ENOSPC, "No space left on device")
        with unittest.mock.patch.object(hessian_plot.os, "fsync", side_effect=full):
            _, errors = self.run_program(self.file, "-o", picture, code=1)
        self.assertIn(f"'{picture}' could not be written: No space left", errors)
        self.assertEqual((picture.read_bytes(), sorted(self.folder.iterdir())), (b"old", before))

    def test_that_are_not_marked_are_missing_whatever_the_file_holds_there(self):
        hessian = random_matrix(197, np.float64)
        hessian[60:120] = 1e30
        write(self.file, hessian, LAYERS, complete=False, blocks=[(120, 197, 5), (0, 60, 9), (60, 120, 0)])
        axis, result = reduced(self.file, 1000)
        np.testing.assert_array_equal(result.computed > 0, [row < 60 or row >= 120 for row in range(197)])
        kept = np.r_[0:60, 120:197]
        np.testing.assert_array_equal(result.largest[kept], hessian[kept])
        self.assertLess(result.squares.max(), 1e20)
        shown, _ = self.run_program(self.file, "-o", self.folder / "map.svg")
        self.assertIn("137 of its rows", shown)
        self.assertIn("not computed (30.5 %", (self.folder / "map.svg").read_text())

    def test_of_a_part_file_are_where_they_belong(self):
        hessian = random_matrix(197, np.float64)
        write(self.file, hessian[50:90], LAYERS, rows=(50, 90))
        result = reduced(self.file, 1000)[1]
        np.testing.assert_array_equal(np.flatnonzero(result.computed), np.arange(50, 90))
        np.testing.assert_array_equal(result.largest[50:90], hessian[50:90])

    def test_of_a_run_that_has_not_begun_give_a_picture_without_any(self):
        write(self.file, random_matrix(197, np.float32), LAYERS, complete=False, blocks=[(0, 197, 0)])
        self.run_program(self.file, "--map", "--norms")
        self.assertTrue(self.file.with_suffix(".png").exists())

    def test_are_read_a_few_megabytes_at_a_time(self):
        write(self.file, random_matrix(197, np.float64), LAYERS)
        with hessian_plot.opened(self.file, "file") as file:
            matrix = hessian_plot.Matrix(self.file, file)
            for n, most in ((197, 64), (10**5, 5), (10**7, 1)):
                matrix.n = n
                axis = hessian_plot.make_axis(matrix.tensors, 61, "linear")
                self.assertEqual(len(hessian_plot._RowReducer(matrix, axis, True, True).slab) // n, most)
            matrix.close()


class DiagonalBlocks(Case):
    LAYERS = {"conv/weight": 36, "none": 0, "50%": 4, ".": 1, "fc.weight": 150, "fc.bias": 6}
    LINKS = {"conv/weight": "conv%2Fweight", "50%": "50%25", ".": "%2E"}

    def write(self, hessian, **options):
        write(self.file, hessian, self.LAYERS, **options)
        with h5py.File(self.file, "a") as file:
            about = dict(file["hessian"].attrs)
            del file["hessian"]
            group = file.create_group("hessian")
            group.attrs.update(about)
            for name, offset, size in zip(self.LAYERS, about["parameter_offsets"], self.LAYERS.values()):
                if size:
                    group[self.LINKS.get(name, name)] = hessian[offset : offset + size, offset : offset + size]

    def test_are_drawn_without_what_is_not_in_the_file(self):
        owner = np.repeat(np.arange(len(self.LAYERS)), list(self.LAYERS.values()))
        inside = owner[:, None] == owner
        for dtype in (np.float32, np.float64):
            hessian = random_matrix(197, dtype)
            self.write(hessian)
            axis, result = reduced(self.file, 1000)
            np.testing.assert_array_equal(result.largest, np.where(inside, hessian, 0))
            ends = np.cumsum([0, *(size for size in self.LAYERS.values() if size)])
            norms = [np.linalg.norm(hessian[a:b, a:b].astype(np.float64)) for a, b in zip(ends, ends[1:])]
            np.testing.assert_allclose(np.sqrt(result.squares), np.diag(norms), rtol=1e-6)
        axis, result = reduced(self.file, 1000, patterns=["fc.*"])
        np.testing.assert_array_equal(result.largest, np.where(inside, hessian, 0)[41:, 41:])
        self.run_program(self.file, "-o", self.folder / "map.svg", "--map", "--norms")
        picture = (self.folder / "map.svg").read_text()
        self.assertIn("which has diagonal blocks alone", picture)
        self.assertIn("Frobenius norm of each block; grey: not in the file", picture)

    def test_that_are_not_computed_are_missing(self):
        hessian = random_matrix(197, np.float32)
        self.write(hessian, complete=False, blocks=[(0, 36, 9), (36, 40, 0), (40, 41, 8), (41, 100, 0), (100, 197, 7)])
        axis, result = reduced(self.file, 1000)
        np.testing.assert_array_equal(result.computed > 0, [row < 36 or row == 40 or row >= 100 for row in range(197)])
        np.testing.assert_array_equal(result.largest[100:191, 41:191], hessian[100:191, 41:191])

    def test_of_another_shape_are_damage(self):
        self.write(random_matrix(197, np.float32))
        with h5py.File(self.file, "a") as file:
            del file["hessian/fc.bias"]
            file["hessian/fc.bias"] = np.eye(5)
        self.assertIn("another shape", self.run_program(self.file, code=2)[1])


class PackedTriangle(Case):
    def write(self, hessian, **storage):
        write(self.file, hessian, LAYERS)
        with h5py.File(self.file, "a") as file:
            about = dict(file["hessian"].attrs)
            del file["hessian"]
            file.create_dataset("hessian", data=hessian[np.triu_indices(len(hessian))], **storage).attrs.update(about)
            file.attrs["format"] = "hessian_mpi packed triangle"

    def test_is_drawn_as_the_matrix_that_it_is_half_of(self):
        for dtype, storage in ((np.float32, {}), (np.float64, {}), (np.float32, {"chunks": (1000,), "compression": "gzip"})):
            hessian = random_matrix(197, dtype)
            mirrored = np.triu(hessian) + np.triu(hessian, 1).T
            self.write(hessian, **storage)
            for pixels, patterns in ((12, ["*"]), (61, ["*"]), (1000, ["*"]), (40, ["*.bias", "fc.*"])):
                packed = reduced(self.file, pixels, patterns=patterns)[1]
                write(self.folder / "whole.h5", mirrored, LAYERS)
                whole = reduced(self.folder / "whole.h5", pixels, patterns=patterns)[1]
                np.testing.assert_array_equal(packed.largest, whole.largest)
                np.testing.assert_allclose(packed.squares, whole.squares, rtol=1e-5 if dtype == np.float32 else 1e-13)
        self.run_program(self.file, "--map", "--norms")
        self.assertTrue(self.file.with_suffix(".png").exists())

    def test_of_another_length_is_damage(self):
        self.write(random_matrix(197, np.float32))
        with h5py.File(self.file, "a") as file:
            file["hessian"].attrs["parameter_sizes"] = [36, 4, 1, 150, 7]
        self.assertIn("damaged", self.run_program(self.file, code=2)[1])


class Norms(Case):
    def test_are_those_of_the_blocks(self):
        ends = np.cumsum([0, *LAYERS.values()])
        for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-13)):
            hessian = random_matrix(197, dtype)
            write(self.file, hessian, LAYERS)
            norms = np.sqrt(reduced(self.file, 61)[1].squares)
            expected = [[np.linalg.norm(hessian[a:b, c:d].astype(np.float64)) for c, d in zip(ends, ends[1:])] for a, b in zip(ends, ends[1:])]
            np.testing.assert_allclose(norms, expected, rtol=tolerance)

    def colours(self):
        figure = self.figure("--norms")
        image = figure.axes[0].images[0]
        return np.round(image.to_rgba(image.get_array())[..., :3], 2)

    def test_of_zero_are_white_and_those_of_blocks_without_all_rows_grey(self):
        hessian = random_matrix(197, np.float32)
        hessian[:36, 191:] = 0
        write(self.file, hessian, LAYERS, complete=False, blocks=[(0, 100, 9), (100, 191, 0), (191, 197, 9)])
        colours = self.colours()
        np.testing.assert_array_equal(colours[0, 4], [1, 1, 1])
        np.testing.assert_array_equal(colours[3], np.full((5, 3), 0.8))
        self.assertEqual(((colours == 0.8).all(axis=2)).sum(), 5)

    def test_of_more_parameters_than_there_is_room_for_are_those_of_the_largest(self):
        sizes = {f"tensor{k}": 2 + k % 7 for k in range(60)}
        n = sum(sizes.values())
        hessian = random_matrix(n, np.float64)
        write(self.file, hessian, sizes)
        figure = self.figure("--norms")
        self.assertIn("the 40 largest of 60 parameters", " ".join(text.get_text() for text in figure.texts))
        names = [text.get_text() for text in figure.axes[0].texts if text.get_text() in sizes and text.get_rotation() == 0]
        ends = dict(zip(sizes, np.cumsum(list(sizes.values()))))
        places = [slice(ends[name] - sizes[name], ends[name]) for name in names]
        self.assertEqual(len(names), 40)
        np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[np.linalg.norm(hessian[p, q]) for q in places] for p in places], rtol=1e-12)

    def test_have_a_scale_that_can_be_read(self):
        for sizes in ({"weight": 197}, LAYERS, DEEP):
            n = sum(sizes.values())
            write(self.file, np.ones((n, n), np.float32), sizes)
            self.expect_tidy(self.figure("--map", "--norms"))


DEEP = {f"stages.{s}.blocks.{b}.{layer}.{kind}": size for s in range(4) for b in range(6)
        for layer, kind, size in (("convolution", "weight", 90), ("convolution", "bias", 2), ("normalisation", "weight", 2), ("normalisation", "bias", 2))}


class Labels(Case):
    def test_stay_where_they_do_not_overlap(self):
        centres = np.array([5.0, 20, 40])
        np.testing.assert_allclose(hessian_plot.spread(centres, 10, 0, 100), centres)

    def test_are_moved_as_little_as_possible(self):
        random = np.random.default_rng(1)
        for _ in range(20):
            centres, gap = np.sort(random.uniform(20, 80, 7)), 4.0
            placed = hessian_plot.spread(centres, gap, 0, 100)
            self.assertGreaterEqual(np.diff(placed).min(), gap - 1e-9)
            least = np.square(placed - centres).sum()
            for _ in range(300):  # no other permitted places are nearer
                other = placed + random.normal(0, 0.5, 7)
                if np.diff(other).min() >= gap:
                    self.assertGreaterEqual(np.square(other - centres).sum(), least - 1e-9)

    def test_stay_inside(self):
        placed = hessian_plot.spread(np.array([0.0, 0.1, 0.2, 99.8, 99.9]), 10, 5, 95)
        self.assertGreaterEqual(placed.min(), 5)
        self.assertLessEqual(placed.max(), 95 + 1e-9)
        self.assertGreaterEqual(np.diff(placed).min(), 10 - 1e-9)

    def test_are_shared_by_neighbours_until_they_fit(self):
        names, sizes = list(DEEP), np.array(list(DEEP.values()))
        self.assertEqual([label.text for label in hessian_plot.fitting_labels(names, sizes, 200)], names)
        by_layer = hessian_plot.fitting_labels(names, sizes, 60)
        self.assertEqual(by_layer[0], hessian_plot.Label("stages.0.blocks.0.convolution.*", 0, 2))
        self.assertEqual(len(by_layer), 48)
        by_block = hessian_plot.fitting_labels(names, sizes, 30)
        self.assertEqual(by_block[-1], hessian_plot.Label("stages.3.blocks.5.*", 92, 96))
        flat = [f"tensor{k}" for k in range(50)]
        self.assertEqual([label.text for label in hessian_plot.fitting_labels(flat, np.arange(50), 2)], ["tensor48", "tensor49"])

    def test_do_not_overlap_in_the_picture(self):
        for layers in (DEEP, {f"layer{k}": 1 for k in range(120)}, {"weight": 5000, **{f"a.small.one.{k}": 1 for k in range(8)}}):
            sizes = np.array(list(layers.values()))
            tensors = hessian_plot.Tensors(list(layers), np.cumsum([0, *sizes])[:-1], sizes)
            axis = hessian_plot.make_axis(tensors, 600, "linear")
            figure = hessian_plot.Figure(figsize=(7, 7), dpi=200)
            block = hessian_plot.Block(tensors, axis.widths, 200)
            axes = block.axes(figure, block.margin, block.margin)
            block.draw_names(axes)
            renderer = hessian_plot.FigureCanvasAgg(figure).get_renderer()
            boxes = [text.get_window_extent(renderer) for text in axes.texts if text.get_text() and text.get_rotation() == 0]
            self.assertEqual(len(boxes), len(block.labels))
            for above, below in zip(boxes, boxes[1:]):
                self.assertGreaterEqual(above.y0, below.y0 + 0.6 * below.height)  # ascents and descents may touch
            self.assertGreaterEqual(min(box.x0 for box in boxes), 0)
            self.assertLessEqual(max(box.x1 for box in boxes), axes.get_window_extent(renderer).x0)


    def test_tell_long_names_apart(self):
        names = [f"transformer.encoder.layers.{k}.self_attention.output_projection.{kind}" for k in range(12) for kind in ("weight", "bias")]
        short = hessian_plot.short_names(["embedding.weight", *names])
        self.assertEqual(len(set(short)), len(names) + 1)
        self.assertEqual(short[:3], ["embedding.weight", "…0.self_attention…_projection.weight", "…0.self_attention…ut_projection.bias"])
        unlike = [name.replace("transformer", f"{k}ransformer") for k, name in enumerate(names)]  # no part in common
        unlike += [name.replace("layers.0", "layers.00") for name in unlike]
        self.assertEqual(len(set(hessian_plot.short_names(unlike))), len(set(unlike)))
        self.assertEqual(hessian_plot.short_names(list(LAYERS)), list(LAYERS))
        self.assertEqual(hessian_plot.short_names(["a" * 50 + ".weight", "b"]), ["a" * 17 + "…" + "a" * 11 + ".weight", "b"])


class Spectra(Case):
    def write_spectrum(self, values, n=None, whole=True, largest=5, density=True):
        with h5py.File(self.folder / "H.spectrum.h5", "w") as file:
            file.attrs.update(format="hessian_mpi spectrum", format_version=1, N=n or len(values))
            if whole:
                file["eigenvalues"] = values
            if largest:
                file["largest/eigenvalues"] = values[::-1][:largest]
            if density:
                file["density/grid"] = np.linspace(values[0] - 1, values[-1] + 1, 300)
                file["density/density"] = hessian_plot.smoothed(values, file["density/grid"][:], 0.1)
                file["density/error"] = np.full(300, 1e-4)
                file["density"].attrs.update(sigma=0.1, probes=10, steps=40)

    def notes(self, figure):
        return " ".join(text.get_text() for text in figure.texts)

    def test_are_drawn_with_the_outliers_and_their_share_of_the_trace(self):
        values = np.sort(np.concatenate([[-0.5, -0.25], np.linspace(0.001, 0.1, 191), [10.0, 11, 12, 13]]))
        write(self.file, random_matrix(197, np.float32), LAYERS)
        self.write_spectrum(values)
        self.run_program(self.file, "--spectrum", "-o", self.folder / "spectrum.svg")
        text = (self.folder / "spectrum.svg").read_text()
        self.assertIn(f"4 outliers above the bulk: {100 * 46 / values.sum():.0f} % of the trace", text)
        self.assertIn("2 of 197 negative", text)
        self.run_program(self.file, "--spectrum", "--map", "--outliers", "2", "-o", self.folder / "both.svg")
        self.assertIn("2 outliers above", (self.folder / "both.svg").read_text())

    def test_of_another_matrix_are_refused(self):
        write(self.file, random_matrix(197, np.float32), LAYERS)
        self.write_spectrum(np.arange(1.0, 21), 20)
        self.assertIn("another matrix", self.run_program(self.file, "--spectrum", code=2)[1])

    def test_of_a_file_that_was_replaced_are_refused(self):
        write(self.file, random_matrix(20, np.float32), {"fc.weight": 20})
        with h5py.File(self.file, "r+") as file:
            file.attrs["file_id"] = "of-the-new-one"
        self.write_spectrum(np.arange(1.0, 21))
        self.run_program(self.file, "--spectrum", "-o", self.folder / "of_unknown_source.svg")
        for source, code in (("of-the-new-one", 0), ("of-the-old-one", 2)):
            with h5py.File(self.folder / "H.spectrum.h5", "r+") as file:
                file.attrs["source_file_id"] = source
            errors = self.run_program(self.file, "--spectrum", "-o", self.folder / "spectrum.svg", code=code)[1]
            self.assertEqual("of-the-old-one" in errors, code == 2, errors)

    def test_that_are_not_there_are_asked_for(self):
        write(self.file, random_matrix(197, np.float32), LAYERS)
        self.assertIn("hessian_spectrum", self.run_program(self.file, "--spectrum", code=2)[1])

    def test_are_smoothed_to_a_density(self):
        grid = np.linspace(-10, 10, 4001)
        density = hessian_plot.smoothed(np.array([-1.0, 0, 0, 3]), grid, 0.3)
        self.assertAlmostEqual(np.trapezoid(density, grid) if hasattr(np, "trapezoid") else np.trapz(density, grid), 1, 6)
        self.assertAlmostEqual(density[2600], 1 / (4 * 0.3 * np.sqrt(2 * np.pi)), 6)

    def test_without_a_gap_have_no_outliers(self):
        def count(values):
            return hessian_plot.find_outliers(np.asarray(values), len(values), 1e-15).count

        self.assertEqual(count(1.05 ** -np.arange(200.0)), 0)
        self.assertEqual(count(np.concatenate([[90, 9, 8, 7, 6, 5], 1.1 ** -np.arange(200.0)])), 6)
        self.assertEqual(count([5.0, 1, -2, -30] + [-31] * 200), 1)
        self.assertEqual(count([12.0, 11] + [1] * 20 + [3e-16, 1e-16, 1e-17] + [0] * 500), 2)  # zeros have no gaps

    def test_have_as_many_outliers_by_their_largest_as_by_all_or_say_at_least(self):
        random = np.random.default_rng(3)
        outcomes = set()
        for n in (7, 30, 197, 700):
            for _ in range(40):
                values = np.sort(random.choice([-1, 1, 1, 1, 1], n) * 10 ** random.uniform(-3, 0, n) * random.choice([1, 1e-20], n))[::-1]
                values[: random.integers(4)] *= 100
                every = hessian_plot.find_outliers(values, n, 1e-16)
                self.assertTrue(every.told)
                for largest in range(1, min(n, 70)):
                    some = hessian_plot.find_outliers(values[:largest], n, 1e-16)
                    self.assertLessEqual(some.count, every.count)
                    if some.told:
                        self.assertEqual(some, every)
                    outcomes.add((some.told, some.count == every.count))
        self.assertEqual(outcomes, {(True, True), (False, True), (False, False)})

    def test_say_how_many_outliers_the_largest_tell(self):
        write(self.file, random_matrix(600, np.float32), {"all": 600})
        values = np.sort(np.concatenate([np.linspace(0.001, 0.1, 597), [10.0, 12, 14]]))
        for largest, words in ((10, "at least 3 outliers: the rule looks at the first 50"), (50, "by Lanczos; 3 outliers"), (2, "outliers cannot be told")):
            self.write_spectrum(values, whole=False, largest=largest)
            figure = self.figure("--spectrum")
            self.assertIn(words, self.notes(figure))
            self.expect_tidy(figure)
        self.write_spectrum(values)
        self.assertIn("3 outliers above the bulk", self.notes(self.figure("--spectrum")))

    def test_stop_at_the_rounding_of_the_largest(self):
        write(self.file, random_matrix(600, np.float64), {"all": 600})
        zeros = np.concatenate([-(10.0 ** np.linspace(-102, -15, 200)), [0.0], 10.0 ** np.linspace(-80, -15, 199)])
        values = np.sort(np.concatenate([zeros, [-0.02] * 3, np.linspace(0.01, 0.1, 194), [10.0, 12, 14]]))
        self.write_spectrum(values)
        figure = self.figure("--spectrum")
        self.assertIn("3 of 600 negative, the least −0.02; 400 of 600 zero to rounding", self.notes(figure))
        low, high = figure.axes[0].get_ylim()
        self.assertGreater(low, 1e-3)
        self.assertLess(high, 100)
        drawn = sum(len(line.get_xdata()) for line in figure.axes[0].lines if line.get_label() != "Lanczos")
        self.assertEqual(drawn, 200)
        write(self.file, random_matrix(600, np.float32), {"all": 600})
        self.write_spectrum(np.sort(np.concatenate([[1e-8] * 300, np.linspace(0.01, 1, 300)])))  # float32 knows 1.2e-7 of 1
        self.assertIn("300 of 600 zero to rounding", self.notes(self.figure("--spectrum")))

    def test_are_tidy(self):
        random = np.random.default_rng(0)
        write(self.file, random_matrix(600, np.float64), {"all": 600})
        with h5py.File(self.file, "a") as file:
            file.attrs["l2"] = 0.01
        spread_out = np.sort(random.choice([-1, 1], 600) * 10 ** random.uniform(-20, 1, 600))
        for values in (spread_out, np.arange(1.0, 601), -np.arange(600.0, 0, -1), np.zeros(600), np.sort(np.append(np.zeros(597), [5, 4, 3.5])), np.full(600, 3.0)):
            for options in ({}, {"density": False}, {"whole": False}, {"whole": False, "largest": 0}, {"whole": False, "density": False}):
                with self.subTest(values=values[::200], **options):
                    self.write_spectrum(values, **options)
                    self.expect_tidy(self.figure("--spectrum"))
        self.write_spectrum(spread_out)
        for panels in (["--map"], ["--norms"], ["--spectrum"]):
            self.expect_tidy(self.figure(*panels, "--pixels", 150, "--title", "A title that is too long for small pictures " * 2))

    def test_with_nothing_to_draw_are_refused(self):
        write(self.file, random_matrix(197, np.float32), LAYERS)
        self.write_spectrum(np.arange(197.0), whole=False, largest=0, density=False)
        self.assertIn("nothing to draw", self.run_program(self.file, "--spectrum", code=2)[1])


class Checkpoints(Case):
    STEPS = (20, 0, 100)  # as a shell's * may have them: not in order

    def setUp(self):
        super().setUp()
        random = np.random.default_rng(2)
        self.matrices, self.files = [], []
        for k, step in enumerate(self.STEPS):
            half = random.standard_normal((197, 30 + k))
            matrix = half @ half.T - 3 * np.diag(random.random(197))
            self.matrices.append(matrix)
            self.files.append(self.folder / f"run7-step{step}.h5")
            write(self.files[-1], matrix, LAYERS)
            self.write_spectrum(self.files[-1].with_suffix(".spectrum.h5"), matrix)

    def write_spectrum(self, path, matrix, low=0.0):
        values = np.linalg.eigvalsh(matrix)
        with h5py.File(path, "w") as file:
            file.attrs.update(format="hessian_mpi spectrum", format_version=1, N=len(values))
            file.create_group("hessian").attrs["dtype"] = "float64"
            file["eigenvalues"] = values
            file["eigenvalues"].attrs["error_bound"] = low

    def drawn(self, *arguments):
        """The axes by their labels."""
        with unittest.mock.patch.object(hessian_plot.Figure, "savefig", autospec=True) as saved:
            self.run_program(*self.files, *arguments, "-o", self.folder / "training.png")
        figure = saved.call_args[0][0]
        hessian_plot.FigureCanvasAgg(figure).draw()
        return figure, {axes.get_ylabel(): axes for axes in figure.axes}

    def test_show_what_becomes_of_the_spectrum(self):
        figure, axes = self.drawn("--spectrum")
        order = np.argsort(self.STEPS)
        spectra = [np.linalg.eigvalsh(self.matrices[k]) for k in order]
        for label, expected in (("negative", [(values < -1e-10).sum() for values in spectra]), ("trace", [values.sum() for values in spectra])):
            steps, shown = axes[label].lines[0].get_data()
            np.testing.assert_array_equal(steps, [0, 20, 100])
            np.testing.assert_allclose(shown, expected, rtol=1e-12)
        ends = [line.get_ydata() for line in axes["eigenvalue"].lines]
        np.testing.assert_allclose(ends, [[values[-1] for values in spectra], [values[0] for values in spectra]])
        ranks = axes["eigenvalue $λ_k$"].lines
        for values, positive, negative in zip(spectra, ranks[::2], ranks[1::2]):
            np.testing.assert_allclose(positive.get_ydata(), values[values > 1e-10][::-1])
            np.testing.assert_allclose(negative.get_ydata(), -values[values < -1e-10])
        self.assertIn("steps 0 to 100", self.text_of(figure))
        drawn = figure.get_tightbbox()
        self.assertGreaterEqual(min(drawn.x0, drawn.y0), 0)
        np.testing.assert_array_less([drawn.x1, drawn.y1], figure.get_size_inches())

    def text_of(self, figure):
        return " ".join(text.get_text() for text in figure.texts)

    def test_have_the_steps_that_are_given(self):
        axes = self.drawn("--steps", "3", "1", "2")[1]
        np.testing.assert_array_equal(axes["trace"].lines[0].get_xdata(), [1, 2, 3])
        np.testing.assert_allclose(axes["trace"].lines[0].get_ydata(), [np.trace(self.matrices[k]) for k in (1, 2, 0)])

    def test_count_no_eigenvalue_within_the_bound_of_a_low_rank(self):
        for file, matrix in zip(self.files, self.matrices):
            self.write_spectrum(file.with_suffix(".spectrum.h5"), matrix, low=1.5)
        shown = self.drawn()[1]["negative"].lines[0].get_ydata()
        np.testing.assert_array_equal(shown, [(np.linalg.eigvalsh(self.matrices[k]) < -1.5).sum() for k in (1, 0, 2)])

    def test_have_norms_by_parameter_and_step_in_files_of_every_kind(self):
        inside = np.cumsum([0, *LAYERS.values()])
        expected = [[np.linalg.norm(self.matrices[k][a:b, a:b]) for k in (1, 0, 2)] for a, b in zip(inside, inside[1:])]
        for blocks_alone in (False, True):
            if blocks_alone:
                for path, matrix in zip(self.files, self.matrices):
                    with h5py.File(path, "a") as file:
                        about = dict(file["hessian"].attrs)
                        del file["hessian"]
                        file.create_group("hessian").attrs.update(about)
                        for name, a, b in zip(LAYERS, inside, inside[1:]):
                            file[f"hessian/{name}"] = matrix[a:b, a:b]
            figure = self.drawn("--norms")[0]
            np.testing.assert_allclose(figure.axes[0].images[0].get_array(), expected, rtol=1e-6)
            self.assertEqual([label.get_text() for label in figure.axes[0].get_yticklabels()], list(LAYERS))

    def test_are_drawn_in_the_format_that_is_named(self):
        for name, begin in (("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")):
            self.run_program(*self.files, "--norms", "--spectrum", "--format", name)
            self.assertTrue(self.files[0].with_suffix(f".{name}").read_bytes().startswith(begin))
        self.run_program(self.files[0], "--format", "pdf", "-o", self.folder / "map")
        self.assertTrue((self.folder / "map.pdf").read_bytes().startswith(b"%PDF"))

    def test_refuse_what_is_of_one_file(self):
        for options, words in (
            (["--map"], "--map is of one file"), (["--steps", "1", "2"], "2 numbers for 3 files"),
            (["--format", "pdf", "-o", "x.svg"], "name one format"), (["--spectrum-file", "x.h5"], "of one file"),
        ):
            self.assertIn(words, self.run_program(*self.files, *options, code=2)[1])
        self.assertIn("of several files", self.run_program(self.files[0], "--steps", "1", code=2)[1])
        self.files[1].with_suffix(".spectrum.h5").unlink()
        self.assertIn("hessian_spectrum", self.run_program(*self.files, code=2)[1])


class Colours(Case):
    # What is left of linear red, green and blue for eyes without one kind of cones: Machado, Oliveira, Fernandes 2009.
    BLIND = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }

    def lab(self, colour, eyes):
        """CIE L*a*b* of what such eyes see."""
        red, green, blue = matplotlib_rgb(colour)
        linear = np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)])
        seen = np.clip(np.array(self.BLIND[eyes]) @ linear, 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen / [0.9505, 1, 1.089]
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    def test_are_told_apart_by_colour_blind_readers(self):
        together = [hessian_plot.RED, hessian_plot.BLUE, hessian_plot.ORANGE, "black", "white"]
        for eyes in self.BLIND:
            for k, colour in enumerate(together):
                for other in together[:k]:
                    self.assertGreater(np.linalg.norm(self.lab(colour, eyes) - self.lab(other, eyes)), 20, (eyes, colour, other))

    def test_of_steps_grow_lighter(self):
        for eyes in self.BLIND:
            lightness = [self.lab(colour, eyes)[0] for colour in hessian_plot.matplotlib.colormaps["viridis"](np.linspace(0, 0.9, 10))]
            self.assertGreater(np.diff(lightness).min(), 2)


def matplotlib_rgb(colour):
    return hessian_plot.matplotlib.colors.to_rgb(colour)


class Packages(Case):
    """-S: a Python without packages."""

    def run_without_packages(self, program, *arguments):
        finished = subprocess.run([sys.executable, "-E", "-S", program, *arguments], capture_output=True, text=True, timeout=60)
        return finished.returncode, finished.stdout, finished.stderr

    def program_with(self, python):
        """The program as a build with another Python makes it."""
        copy = self.folder / "hessian_plot"
        copy.write_text(re.sub('^PYTHON = ".*"', f'PYTHON = "{python}"', PROGRAM.read_text(), flags=re.MULTILINE))
        return copy

    def test_are_not_needed_for_help(self):
        code, shown, errors = self.run_without_packages(self.program_with(""), "--help")
        self.assertEqual((code, errors), (0, ""))
        self.assertIn("--norms", shown)
        code, shown, errors = self.run_without_packages(self.program_with(""), "--version")
        self.assertEqual((code, errors), (0, ""))
        self.assertRegex(shown, r"^hessian_plot \d+\.\d+\.\d+, .*h5py missing")
        self.assertEqual(self.run_without_packages(self.program_with(""), "--pixels", "0", "H.h5")[0], 2)

    def test_are_those_of_the_python_of_the_build(self):
        write(self.file, random_matrix(197, np.float32), LAYERS)
        code, shown, errors = self.run_without_packages(PROGRAM, self.file, "--pixels", "300")
        self.assertEqual((code, errors), (0, ""))
        self.assertTrue(self.file.with_suffix(".png").exists())

    def test_that_are_missing_are_told_in_one_line(self):
        write(self.file, random_matrix(197, np.float32), LAYERS)
        bare = self.folder / "bare_python"
        bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -E -S "$@"\n')
        bare.chmod(0o755)
        for python in ("", "/none/python", bare):
            with self.subTest(python=python):
                code, shown, errors = self.run_without_packages(self.program_with(python), self.file)
                self.assertEqual((code, shown), (2, ""))
                self.assertEqual(errors.count("\n"), 1, errors)
                self.assertTrue(errors.startswith("hessian_plot: error: "))
                self.assertIn("has no h5py and no matplotlib and no numpy", errors)
                self.assertIn("-m pip install h5py matplotlib numpy", errors)


class Program(Case):
    def test_ends_with_the_exit_code_and_a_message(self):
        finished = subprocess.run([sys.executable, PROGRAM, self.file], capture_output=True, text=True)
        self.assertEqual((finished.returncode, finished.stdout), (2, ""))
        self.assertEqual(finished.stderr, f"hessian_plot: error: '{self.file}': no such file\n")

    def test_says_its_options_and_version(self):
        self.assertIn("--norms", self.run_program("--help")[0])
        self.assertRegex(self.run_program("--version")[0], r"^hessian_plot \d+\.\d+\.\d+, ")

    def test_writes_the_format_of_the_suffix(self):
        write(self.file, random_matrix(197, np.float32), LAYERS)
        for suffix, begin in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
            self.run_program(self.file, "-o", self.folder / f"H.{suffix}")
            self.assertTrue((self.folder / f"H.{suffix}").read_bytes().startswith(begin))
        for name in LAYERS:
            self.assertIn(name, (self.folder / "H.svg").read_text())
        self.run_program(self.file, "-o", self.folder / "small.png", "--palette", "32")
        small, usual = ((self.folder / name).stat().st_size for name in ("small.png", "H.png"))
        self.assertLess(small, usual / 2)

    def test_refuses_mistakes_with_one_line_and_writes_nothing(self):
        write(self.file, random_matrix(197, np.float32), LAYERS)
        (self.folder / "text.h5").write_text("no HDF5")
        with h5py.File(self.folder / "other.h5", "w") as file:
            file["hessian"] = np.eye(3)
        write(self.folder / "newer.h5", random_matrix(197, np.float32), LAYERS)
        with h5py.File(self.folder / "newer.h5", "a") as file:
            file.attrs["format_version"] = 2
        (self.folder / "half.h5").write_bytes(self.file.read_bytes()[:100_000])
        before = sorted(self.folder.iterdir())
        for arguments, words in (
            (["nothing.h5"], "no such file"),
            (["text.h5"], "not HDF5"),
            (["other.h5"], "not a file of hessian_mpi"),
            (["half.h5"], "damaged"),
            (["newer.h5"], "format version 2"),
            (["H.h5", "-o", "H.jpeg"], ".png, .pdf or .svg"),
            (["H.h5", "-o", "none/H.png"], "does not exist"),
            (["H.h5", "--parameters", "conv1.*"], "conv.weight"),
        ):
            with self.subTest(arguments=arguments):
                paths = [self.folder / word if "." in word and "*" not in word else word for word in arguments]
                errors = self.run_program(*paths, code=2)[1]
                self.assertTrue(errors.startswith("hessian_plot: error: "))
                self.assertEqual(errors.count("\n"), 1, errors)
                self.assertIn(words, errors)
        for arguments in (["--pixels", "0"], ["--pixel", "9"], ["--outliers", "-1"], []):
            self.run_program(*([self.file] if arguments else []), *arguments, code=2)
        self.assertEqual(sorted(self.folder.iterdir()), before)


if __name__ == "__main__":
    unittest.main()
