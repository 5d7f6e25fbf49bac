"""Models and data that would do harm, or that nothing can be computed from, for the tests of loading.

    python hostile_files.py FOLDER     writes FOLDER/hostile/*
"""

import json
import pathlib
import sys
import warnings
import zipfile

import h5py
import numpy as np
import torch
from torch import nn

from exported_programs import rewrite, rewrite_json

warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", category=FutureWarning)


class ReadsAFile(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) + torch.from_file("stolen", True, 2)


class WritesAFile(nn.Module):
    """In a method of a submodule, where no test of the first call would see it."""

    def __init__(self):
        super().__init__()
        self.inner = WritesAFileInside()

    def forward(self, x):
        if x.size(0) > 1000:
            return self.inner(x)
        return x * self.inner.scale


class WritesAFileInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        torch.save(x, "stolen")
        return x


class RunsWhileItIsRead(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    @torch.jit.export
    def __getstate__(self):
        return (self.scale, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        self.scale = state[0]
        self.training = state[1]
        torch.save(self.scale, "stolen")

    def forward(self, x):
        return x * self.scale


class Prints(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        print("printed by the model")
        return self.layer(x)


class Reshapes(nn.Module):
    """Attributes of the kinds whose types the file declares."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.sizes: list[int] = [2, 1]
        self.register_buffer("shift", torch.zeros(2))

    def forward(self, x):
        return (self.layer(x) + self.shift).reshape([-1] + self.sizes).sum(2)


class Quantized(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("table", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8))

    def forward(self, x):
        return self.layer(x + self.table.dequantize())


class LargeDtype(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) + torch.zeros([2], dtype=torch.float32)


def shifted(x: torch.Tensor) -> torch.Tensor:
    return x + 1


class Forks(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return torch.jit.wait(torch.jit.fork(shifted, self.layer(x)))


def in_member(ending, old, new):
    """For rewrite(): one change in one member."""

    def change(name, content):
        if not name.endswith(ending):
            return content
        if old not in content:
            raise ValueError(f"{old!r} is not in {name}")
        return content.replace(old, new, 1)

    return change


def rewrite_names(source: pathlib.Path, out: pathlib.Path, old: str, new: str) -> None:
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as renamed:
        for member in archive.namelist():
            if not member.endswith(".debug_pkl"):
                renamed.writestr(member.replace(old, new), archive.read(member))


def write_torchscript(out: pathlib.Path) -> None:
    for name, model in {"reads_a_file": ReadsAFile(), "writes_a_file": WritesAFile(), "prints": Prints(),
                        "runs_while_it_is_read": RunsWhileItIsRead(), "reshapes": Reshapes(),
                        "quantized": Quantized(), "large_dtype": LargeDtype(), "forks": Forks()}.items():
        torch.jit.script(model).save(out / f"{name}.pt")
    # In code that no function of the file holds: the body of the fork alone.
    rewrite(out / "forks.pt", out / "reads_a_file_in_a_fork.pt",
            in_member("code/__torch__.py", b"return __torch__.shifted(_0, )", b'return torch.from_file("stolen", True, 2)'))
    # Where LibTorch finds it, and a check that takes names as they are does not.
    rewrite_names(out / "runs_while_it_is_read.pt", out / "runs_by_another_name.pt", "code/", "Code/")
    good = out / "reshapes.pt"
    # Both are run while the file is read.
    opened = b'torch.from_file("stolen", True, 2)'
    rewrite(good, out / "reads_a_file_by_default.pt",
            in_member("code/__torch__.py", b"x: Tensor) -> Tensor:", b"x: Tensor,\n    y: Tensor=" + opened + b") -> Tensor:"))
    rewrite(good, out / "reads_a_file_for_a_constant.pt",
            in_member("code/__torch__.py", b"  training : bool\n", b"  training : bool\n  secret : Final[Tensor] = " + opened + b"\n"))

    def pickle(name, old, new):
        rewrite(good, out / f"{name}.pt", in_member("reshapes/data.pkl", old, new))

    def code(name, old, new, *more):
        change = in_member("code/__torch__.py", old, new)
        if more:
            again, first = in_member("code/__torch__.py", *more), change
            change = lambda member, content: again(member, first(member, content))
        rewrite(good, out / f"{name}.pt", change)

    # layer.weight: 6 elements in the record data/1, of shape (2, 3) and strides (3, 1).
    pickle("huge_storage", b"K\x06tQ", b"J\xff\xff\xff\x7ftQ")
    pickle("negative_storage", b"K\x06tQ", b"J\xff\xff\xff\xfftQ")
    pickle("huge_shape", b"(K\x02K\x03t", b"(J\xff\xff\xff\x7fK\x03t")
    pickle("negative_shape", b"(K\x02K\x03t", b"(J\xfe\xff\xff\xffK\x03t")
    pickle("huge_stride", b"(K\x03K\x01t", b"(J\xff\xff\xff\x7fK\x01t")
    pickle("other_class", b"torch.nn.modules.linear\nLinear\n", b"torch.nn.modules.linear\nNoSuch\n")
    pickle("same_class", b"torch.nn.modules.linear\nLinear\n", b"\nReshapes\n")
    rewrite(good, out / "short_storage.pt", lambda name, old: old[:8] if name.endswith("data/1") else old)
    rewrite(good, out / "no_storage.pt", lambda name, old: None if name.endswith("data/1") else old)
    # The code says one thing of an attribute, the pickle holds another.
    code("text_for_numbers", b"sizes : List[int]", b"sizes : List[str]", b"torch.add(_2, sizes)", b"[-1, 2, 1]")
    pickle("number_for_a_flag", b"trainingq\n\x88", b"trainingq\nK\x01")
    # LibTorch warns of the list and shows the lines around it.
    code("warns", b"    sizes = self.sizes\n", b"    mixed = [7, True]  # \x1b[31m\n    sizes = self.sizes\n")
    code("deep_code", b"[-1]", b"[" + b"(" * 100000 + b"1" + b")" * 100000 + b"]")
    code("long_sum", b"[-1]", b"[1" + b" + 1" * 100000 + b"]")
    code("many_signs", b"[-1]", b"[" + b"-" * 100001 + b"1]")
    code("deep_blocks", b"    layer = self.layer\n",
         b"".join(b" " * (4 + k) + b"if True:\n" for k in range(5000)) + b" " * 5004 + b"pass\n    layer = self.layer\n")
    rewrite(out / "large_dtype.pt", out / "unknown_dtype.pt", in_member("code/__torch__.py", b"dtype=6", b"dtype=996"))
    def lines(name, old, new):
        """The table of source lines, which is read when an error is described."""
        change = in_member("code/__torch__.py.debug_pkl", old, new)
        broken = in_member("code/__torch__.py", b"torch.add(_0, shift)", b"torch.add(_0, nothing)")
        rewrite(good, out / f"{name}.pt", lambda member, old_content: change(member, broken(member, old_content)))

    lines("lines_of_no_table", b"FORMAT_WITH", b"FORMAT_THAT")
    lines("lines_outside", b"K*K4\x87", b"K*M\xff\xff\x87")
    lines("good_lines", b"FORMAT_WITH", b"FORMAT_WITH")
    write_pickles(good, out)


def write_pickles(good: pathlib.Path, out: pathlib.Path) -> None:
    def pickle(name, content):
        rewrite(good, out / f"{name}.pt", lambda member, old: content if member.endswith("/data.pkl") else old)

    pickle("empty_stack", b"\x80\x02.")
    pickle("below_the_mark", b"\x80\x02N(\x85.")
    pickle("odd_items", b"\x80\x02}(K\x01u.")
    pickle("unknown_memo", b"\x80\x02h\x05.")
    pickle("huge_memo", b"\x80\x02Nr\xff\xff\xff\x7f.")
    pickle("huge_text", b"\x80\x02X\xff\xff\xff\x7fabc.")
    pickle("no_mark", b"\x80\x02]e.")
    pickle("call_of_a_number", b"\x80\x02K\x07)R.")
    pickle("own_element", b"\x80\x02]q\x00h\x00a.")
    # A list in a list in a list ..., each put into the next.
    pickle("nested_lists", b"\x80\x02" + b"]" * 100000 + b"a" * 99999 + b".")
    nested = b"List[" * 50000 + b"int" + b"]" * 50000
    pickle("nested_type", b"\x80\x02ctorch.jit._pickle\nrestore_type_tag\n(]X" + len(nested).to_bytes(4, "little") + nested + b"tR.")
    pickle("unknown_operation", b"\x80\x02N0N.")
    pickle("remote_reference", b"\x80\x02ctorch.distributed.rpc\nrref\n(K\x00tR.")
    pickle("python_object", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.")
    pickle("custom_class", b"\x80\x02c__torch__.torch.classes.quantized\nLinearPackedParamsBase\n)\x81}b.")


def write_weights(out: pathlib.Path) -> None:
    def linear(weight_value=None, bias_value=None):
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        with torch.no_grad():
            if weight_value is not None:
                layer.weight[0, 1] = layer.weight[1, 2] = weight_value
            if bias_value is not None:
                layer.bias[1] = bias_value
        return layer

    def both(name, model):
        torch.jit.script(model).save(out / f"{name}.pt")
        torch.export.save(torch.export.export(model, (torch.ones(2, 3),)), out / f"{name}.pt2")

    both("nan_weight", linear(float("nan"), float("inf")))
    frozen = linear(None, float("nan"))
    frozen.bias.requires_grad_(False)
    both("nan_frozen", frozen)
    both("no_parameters", nn.Tanh())
    empty = linear()
    empty.weight, empty.bias = nn.Parameter(torch.empty(0, 3)), nn.Parameter(torch.empty(0))
    both("empty_parameters", empty)


def write_exported(out: pathlib.Path) -> None:
    good = out / "linear.pt2"
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.ones(2, 3),)), good)

    def renamed(name, new):
        """The parameter `weight` under another name."""

        def change(member, content):
            if not member.endswith(".json"):
                return content
            escaped = json.dumps(new)[1:-1].encode()
            return content.replace(b'"weight": {', b'"' + escaped + b'": {').replace(
                b'"parameter_name": "weight"', b'"parameter_name": "' + escaped + b'"')

        rewrite(good, out / f"{name}.pt2", change)

    renamed("name_with_nul", "weight\0hidden")
    renamed("name_with_newline", "weight\nhessian_mpi: all is well\x1b[2J")
    renamed("name_of_a_path", "../weight/\u00e9")
    renamed("long_name", "w" * 100000)

    def path(name, new):
        rewrite_json(good, out / f"{name}.pt2", "weights_config.json",
                     lambda document: document["config"]["weight"].update(path_name=new))

    path("path_upwards", "../constants/model_constants_config.json")
    path("path_absolute", "/etc/hostname")
    rewrite_json(good, out / "deep_size.pt2", "weights_config.json",
                 lambda document: document["config"]["weight"]["tensor_meta"].update(sizes="DEEP"))
    rewrite(out / "deep_size.pt2", out / "deep_sizes.pt2",
            lambda name, old: old.replace(b'"DEEP"', b"[" * 200000 + b"]" * 200000))
    (out / "deep_size.pt2").unlink()

    def node(name, change):
        rewrite_json(good, out / f"{name}.pt2", "models/model.json",
                     lambda document: change(document["graph_module"]["graph"]["nodes"][0]))

    def as_to(dtype):
        def change(found):
            found["target"] = "torch.ops.aten.to.dtype"
            found["inputs"] = [{"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1},
                               {"name": "dtype", "arg": {"as_int": dtype}, "kind": 1}]
            found["inputs"][0]["arg"]["as_tensor"]["name"] = "input"
        return change

    node("dtype_of_no_kind", as_to(900))
    node("reads_a_file", lambda found: found.update(
        target="torch.ops.aten.from_file.default",
        inputs=[{"name": "filename", "arg": {"as_string": "stolen"}, "kind": 1}]))
    with zipfile.ZipFile(good) as old:
        for name, changed in {"member_upwards": "linear/../../weights", "member_absolute": "/linear/data/weights/weight_0",
                              "member_with_newline": "linear/data\n/weight"}.items():
            with zipfile.ZipFile(out / f"{name}.pt2", "w") as new:
                for member in old.namelist():
                    new.writestr(member, old.read(member))
                new.writestr(changed, b"content")
        with zipfile.ZipFile(out / "member_twice.pt2", "w") as new:
            for member in old.namelist():
                new.writestr(member, old.read(member))
            new.writestr(next(n for n in old.namelist() if n.endswith("weight_0")), b"\0" * 24)


def first_byte(content, name: bytes) -> int:
    """Of the member with this name, whose content follows its local header."""
    header = content.rindex(b"PK\x03\x04", 0, content.index(name))
    return header + 30 + int.from_bytes(content[header + 26: header + 28], "little") + int.from_bytes(
        content[header + 28: header + 30], "little")


def directory(content) -> int:
    """Where the directory begins, as the end record has it."""
    end = content.rindex(b"PK\x05\x06")
    return int.from_bytes(content[end + 16: end + 20], "little")


def write_archives(out: pathlib.Path) -> None:
    """One byte of a weight changed without the checksum; and what a member's header may declare."""
    weights = {"reshapes.pt": b"/data/1", "linear.pt2": b"/data/weights/weight_0", "good_data.pt": b"/data/0"}
    for source, name in weights.items():
        content = bytearray((out / source).read_bytes())
        at = first_byte(content, name)
        content[at] ^= 1
        stem, ending = source.split(".")
        (out / f"flipped_{stem}.{ending}").write_bytes(content)
        content[at] ^= 1
        central = directory(content)
        content[central + 20: central + 28] = b"\xfe\xff\xff\x7f" * 2  # compressed and whole size
        (out / f"huge_member_{stem}.{ending}").write_bytes(content)
    content = bytearray((out / "reshapes.pt").read_bytes())
    content[first_byte(content, b"code/__torch__.py") + 150] ^= 1
    (out / "flipped_code.pt").write_bytes(content)
    central = directory(content)
    while b"__torch__.py" not in content[central + 46: central + 80]:
        central = content.index(b"PK\x01\x02", central + 1)
    content[central + 24: central + 28] = b"\xff\xff\xff\x7f"  # whole size of what deflate made small
    (out / "inflated.pt").write_bytes(content)
    rewrite(out / "reshapes.pt", out / "rewritten.pt", lambda _name, old: old)
    with zipfile.ZipFile(out / "reshapes.pt") as old, \
            zipfile.ZipFile(out / "compressed_by_zip.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))


def write_data(out: pathlib.Path) -> None:
    x, y = torch.arange(12.0).reshape(4, 3), torch.arange(4)
    torch.save({"inputs": x, "targets": y}, out / "good_data.pt")
    rewrite(out / "good_data.pt", out / "huge_storage_data.pt",
            in_member("data.pkl", b"K\x0ctq", b"J\xff\xff\xff\x7ftq"))
    wrong = x.clone()
    wrong[1, 2] = wrong[3, 0] = float("nan")
    endless = x.clone()
    endless[2, 1] = float("inf")
    for name, inputs in {"nan_data": wrong, "infinite_data": endless}.items():
        torch.save({"inputs": inputs, "targets": y}, out / f"{name}.pt")
        with h5py.File(out / f"{name}.h5", "w") as file:
            file["inputs"], file["targets"] = inputs.numpy(), y.numpy()
    torch.save((x, wrong), out / "nan_targets.pt")
    x, y = x.numpy(), y.numpy()
    with h5py.File(out / "other_file.h5", "w") as file:
        file["inputs"], file["targets"] = x, y
    x.tofile(out / "raw_numbers")
    with h5py.File(out / "external_storage.h5", "w") as file:
        file.create_dataset("inputs", x.shape, "f4", external=[(str(out / "raw_numbers"), 0, h5py.h5f.UNLIMITED)])
        file["targets"] = y
    with h5py.File(out / "virtual_dataset.h5", "w") as file:
        layout = h5py.VirtualLayout(x.shape, "f4")
        layout[:] = h5py.VirtualSource("other_file.h5", "inputs", x.shape)
        file.create_virtual_dataset("inputs", layout)
        file["targets"] = y
    with h5py.File(out / "external_link.h5", "w") as file:
        file["inputs"], file["targets"] = h5py.ExternalLink("other_file.h5", "/inputs"), y
    with h5py.File(out / "external_group.h5", "w") as file:
        file["inputs/0"], file["targets"] = h5py.ExternalLink("other_file.h5", "/inputs"), y
    with h5py.File(out / "link_to_a_link.h5", "w") as file:
        file["elsewhere"] = h5py.ExternalLink("other_file.h5", "/")
        file["inputs"], file["targets"] = h5py.SoftLink("/elsewhere/inputs"), y
    with h5py.File(out / "external_targets.h5", "w") as file:
        file["inputs"], file["targets"] = x, h5py.ExternalLink("other_file.h5", "/targets")
    with h5py.File(out / "link_to_itself.h5", "w") as file:
        file["inputs"], file["targets"] = h5py.SoftLink("/inputs"), y
    with h5py.File(out / "link_inside.h5", "w") as file:
        file["measured"], file["targets"] = x, y
        file["inputs"] = h5py.SoftLink("/measured")
    with h5py.File(out / "short_compact.h5", "w") as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((4, 3))
        h5py.h5d.create(file.id, b"inputs", h5py.h5t.NATIVE_FLOAT, space, creation).write(space, space, x)
        file["targets"] = y
    content = bytearray((out / "short_compact.h5").read_bytes())
    layout = content.index(b"\x03\x00\x30\x00")  # version 3, compact, 48 bytes
    for name, size in {"short_compact": 8, "empty_compact": 0}.items():
        content[layout + 2] = size
        (out / f"{name}.h5").write_bytes(content)
    content = bytearray((out / "other_file.h5").read_bytes())
    # The B-tree of the root group, in the superblock and in the group's own header.
    tree = content.index(b"TREE").to_bytes(8, "little")
    (out / "no_tree.h5").write_bytes(content.replace(tree, b"\xff" * 8))
    with h5py.File(out / "odd_names.h5", "w") as file:
        file["inputs\n\x1b[31m"] = x
    with h5py.File(out / "compressed.h5", "w") as file:
        torch.manual_seed(0)
        for name, shape in {"inputs": (7, 4), "targets": (7, 2)}.items():
            file.create_dataset(name, data=np.float32(np.random.default_rng(0).normal(size=shape)), chunks=(2, 2),
                                compression="gzip", shuffle=True, fletcher32=True)


def main(folder: str) -> None:
    torch.manual_seed(0)
    out = pathlib.Path(folder) / "hostile"
    out.mkdir(parents=True, exist_ok=True)
    write_torchscript(out)
    write_weights(out)
    write_exported(out)
    write_data(out)
    write_archives(out)


if __name__ == "__main__":
    main(sys.argv[1])
