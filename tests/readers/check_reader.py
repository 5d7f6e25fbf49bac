"""Runs an example of reading and compares what it prints with the matrix that the file was made with.

    check_reader.py FOLDER COMMAND...      COMMAND gets a file and the names of a row's and a column's parameter: as
                                           three arguments, or where its last word has {0}, {1} and {2}
"""
import itertools
import math
import re
import subprocess
import sys

PARAMETERS = {"conv1.weight": [2, 1, 3, 3], "conv1.bias": [2], "fc.weight": [5, 8], "fc.bias": [5], "scale": []}
OFFSETS = dict(zip(PARAMETERS, itertools.accumulate(map(math.prod, PARAMETERS.values()), initial=0)))
# Starting a language takes longer than reading. joined.h5 is cut within fc.weight.
BLOCKS = [("whole.h5", "conv1.weight", "fc.bias"), ("whole.h5", "fc.weight", "conv1.weight"),
          ("whole.h5", "scale", "fc.weight"), ("whole_float64.h5", "fc.bias", "conv1.weight"),
          ("joined.h5", "fc.weight", "conv1.weight")]
MISTAKES = [("unfinished.h5", "fc.bias", "not complete"), ("whole.h5", "fc2.bias", "parameter"),
            ("missing.h5", "fc.bias", "missing.h5")]


def elements(name):
    """(index in the matrix, element as text) of each element, in row-major order."""
    indices = itertools.product(*map(range, PARAMETERS[name]))
    return [(OFFSETS[name] + k, f"{name}{list(index)}") for k, index in enumerate(indices)]


def expected(row_name, column_name):
    """Where the block lies, its sum, its largest entry, whose place has to be the only one."""
    rows, columns = elements(row_name), elements(column_name)
    block = [((131 * i + 17 * j) % 7919 - 4000, f"H[{p}, {q}]") for i, p in rows for j, q in columns]
    largest, second = sorted(block, key=lambda entry: -abs(entry[0]))[:2]
    assert abs(largest[0]) > abs(second[0]), "the test's matrix has two largest entries"
    place = (rows[0][0], rows[-1][0], columns[0][0], columns[-1][0])
    return place, float(sum(number for number, _ in block)), float(largest[0]), largest[1]


def run(command, *arguments):
    filled = [*command[:-1], command[-1].format(*arguments)] if "{0}" in command[-1] else [*command, *arguments]
    return subprocess.run(filled, capture_output=True, text=True, timeout=120)


def printed(text):
    found = re.search(r"^rows (\d+) to (\d+), columns (\d+) to (\d+)\nsum (\S+)\nlargest (\S+) at (H\[.*\])$", text,
                      re.M)
    assert found, f"not what an example prints: {text!r}"
    return tuple(map(int, found.groups()[:4])), float(found[5]), float(found[6]), found[7]


folder, command = sys.argv[1], sys.argv[2:]
for file, *pair in BLOCKS:
    result = run(command, f"{folder}/{file}", *pair)
    assert result.returncode == 0, f"{file} {pair}: {result.stderr}"
    assert printed(result.stdout) == expected(*pair), f"{file} {pair}: {result.stdout}, expected {expected(*pair)}"
for file, name, word in MISTAKES:
    result = run(command, f"{folder}/{file}", "conv1.weight", name)
    assert result.returncode != 0, f"{file} {name}: read {result.stdout}"
    assert word in result.stderr, f"{file} {name}: {result.stderr}"
print(f"{len(BLOCKS)} blocks of three files read, {len(MISTAKES)} mistakes refused")
