"""Blocks by name, as programs see them that only browse a file, on the files of matrix_files.

    named_blocks_test.py FOLDER_OF_FILES"""
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy as np

FILES = sys.argv[1]
SLICES = {"conv1.weight": slice(0, 18), "conv1.bias": slice(18, 20), "fc.weight": slice(20, 60),
          "fc.bias": slice(60, 65), "scale": slice(65, 66)}


def matrix(n):
    return np.fromfunction(lambda i, j: (131 * i + 17 * j) % 7919 - 4000, (n, n))


def opened(name, mode="r"):
    return h5py.File(os.path.join(FILES, name), mode)


class NamedBlocks(unittest.TestCase):
    def assert_blocks(self, file, slices=SLICES):
        n = file["hessian"].shape[0]
        self.assertEqual(set(file["named_blocks"]), set(slices))
        for row in slices:
            self.assertEqual(set(file["named_blocks"][row]), set(slices))
        for row, column in itertools.product(slices, slices):
            block = file["named_blocks"][row][column]
            self.assertEqual(block.dtype, file["hessian"].dtype)
            np.testing.assert_array_equal(block, matrix(n)[slices[row], slices[column]])

    def test_show_the_matrix_of_every_kind_of_file(self):
        for name in ("whole.h5", "whole_float64.h5", "joined.h5", "unfinished.h5"):
            with opened(name) as file:
                self.assert_blocks(file)

    def test_hold_no_numbers(self):
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copy(os.path.join(FILES, "whole.h5"), folder)
            with h5py.File(copy, "a") as file:
                file["hessian"][0, 60] = 7
                self.assertEqual(file["named_blocks/conv1.weight/fc.bias"][0, 0], 7)
                self.assertTrue(file["named_blocks/conv1.weight/fc.bias"].is_virtual)

    def test_are_not_in_parts(self):
        for name in ("part-0.h5", "part-1.h5"):
            with opened(name) as file:
                self.assertNotIn("named_blocks", file)

    def test_have_names_that_no_slash_or_dot_breaks(self):
        names = ["a%2Fb", "50%25", "%2E", "größe"]
        with opened("odd_names.h5") as file:
            self.assert_blocks(file, {name: slice(2 * k, 2 * k + 2) for k, name in enumerate(names)})

    def test_are_those_of_a_parameter_by_itself_where_there_are_many(self):
        with opened("many.h5") as file:
            offsets = file["hessian"].attrs["parameter_offsets"]
            sizes = file["hessian"].attrs["parameter_sizes"]
            self.assertEqual(len(file["named_blocks"]), 33)
            for k, (offset, size) in enumerate(zip(offsets, sizes)):
                self.assertEqual(list(file[f"named_blocks/layer{k}"]), [f"layer{k}"])
                part = slice(offset, offset + size)
                np.testing.assert_array_equal(file[f"named_blocks/layer{k}/layer{k}"],
                                              matrix(file["hessian"].shape[0])[part, part])

    @unittest.skipUnless(shutil.which("h5dump"), "no h5dump")
    def test_are_read_by_h5dump(self):
        for name in ("whole.h5", "joined.h5"):
            dumped = subprocess.run(["h5dump", "-y", "-d", "/named_blocks/fc.bias/conv1.weight", f"{FILES}/{name}"],
                                    capture_output=True, text=True, check=True).stdout
            numbers = re.search(r"DATA \{(.*?)\}", dumped, re.S)[1].split(",")
            self.assertEqual([float(number) for number in numbers], list(matrix(66)[60:65, 0:18].ravel()))

    # It copies datasets in the order of their names, and the views need what they are views of.
    @unittest.skipUnless(shutil.which("h5repack"), "no h5repack")
    def test_survive_repacking_and_compression(self):
        for options in ([], ["-f", "/hessian:GZIP=6", "-l", "/hessian:CHUNK=16x16"], ["-f", "GZIP=6"]):
            with tempfile.TemporaryDirectory() as folder:
                packed = os.path.join(folder, "packed.h5")
                subprocess.run(["h5repack", *options, f"{FILES}/whole.h5", packed], check=True)
                with h5py.File(packed) as file:
                    self.assert_blocks(file)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
