"""Files for the tests of loading, written by Python as users write them, with what has to be found in them.

    python loadable_files.py FOLDER     writes FOLDER/torchscript/*, FOLDER/values/* and FOLDER/data/*
"""

import json
import os
import pathlib
import struct
import sys
import warnings
import zipfile

import h5py
import numpy as np
import torch
from torch import nn

warnings.filterwarnings("ignore", category=DeprecationWarning)
warnings.filterwarnings("ignore", category=FutureWarning)


class Nested(nn.Module):
    """All that matters for the order of parameters: own ones after submodules', a list, a tied weight, fixed ones."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(7, 4)
        self.middle = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4, bias=False)))
        self.decoder = nn.Linear(4, 7)
        self.decoder.weight = self.encoder.weight
        self.scale = nn.Parameter(torch.ones(7))
        self.fixed = nn.Parameter(torch.ones(7), requires_grad=False)
        self.steps = nn.ParameterList([nn.Parameter(torch.full((7,), float(i))) for i in range(11)])
        self.register_buffer("order", torch.tensor([6, 5, 4, 3, 2, 1, 0]))
        self.register_buffer("shift", torch.linspace(0, 1, 7))

    def forward(self, words):
        y = self.decoder(self.middle(self.encoder(words))) * self.scale + self.shift[self.order] * self.fixed
        for step in self.steps:
            y = y + step
        return y


class RunningScale(nn.Module):
    """State of every kind that forward changes and that the result depends on: the graph keeps the changed tensors."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
        self.register_buffer("average", torch.ones(3))
        self.history = [torch.ones(3)]
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.average.mul_(0.5).add_(x.mean(0), alpha=0.5)
        self.history[0].add_(1)
        return (x * self.weight * self.average * self.history[0]).tanh() * self.weight * float(self.calls)


class InPlace(nn.Module):
    """Writes into what it is given."""

    def forward(self, x):
        return x.sub_(0.25) ** 2


class OwnUpdate(nn.Module):
    """Writes into its parameter."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        with torch.no_grad():
            self.layer.bias.mul_(0.5)
        return self.layer(x)


class DroppedNorm(nn.Module):
    """Dropout before statistics that stay as they are in train mode, too."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(3)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(self.dropout(x))


class DroppedAttention(nn.Module):
    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5 if self.training else 0.0)


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def reshaped(self, x):
        return self.layer(x).view(5, 5)

    def forward(self, x):
        return self.reshaped(x)


class Raising(nn.Module):
    def forward(self, x):
        if x.size(0) > 1:
            raise ValueError("one sample at a time")
        return x


def write_parameters(model: nn.Module, file: pathlib.Path) -> None:
    file.write_text("".join(f"{name} {p.numel()} {int(p.requires_grad)}\n" for name, p in model.named_parameters()))


def hessian_expected(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    parameters = list(model.parameters())
    gradient = torch.autograd.grad((model(x) ** 3).sum(), parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = [torch.autograd.grad(g, parameters, retain_graph=True) for g in flat]
    return {
        "x": x,
        "gradient": flat.detach(),
        "hessian": torch.stack([torch.cat([h.reshape(-1) for h in row]) for row in rows]),
    }


def write_torchscript(out: pathlib.Path) -> None:
    nested = Nested()
    torch.jit.script(nested).save(out / "nested.pt")
    torch.jit.trace(nested.eval(), torch.tensor([1, 2])).save(out / "nested_traced.pt")
    write_parameters(nested, out / "nested.txt")
    lstm = nn.Sequential(nn.LSTM(3, 4, num_layers=2))
    torch.jit.script(lstm).save(out / "lstm.pt")
    write_parameters(lstm, out / "lstm.txt")

    # The values to be found come from the same module before it was scripted, in Python.
    norm = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double().train()
    torch.jit.script(norm).save(out / "batch_norm.pt")
    torch.save(hessian_expected(norm, torch.randn(6, 3, dtype=torch.float64)), out / "batch_norm_expected.pt")
    running = RunningScale().double()
    running.history[0] = running.history[0].double()
    torch.jit.script(running).save(out / "running_scale.pt")
    torch.save(hessian_expected(running, torch.randn(4, 3, dtype=torch.float64)), out / "running_scale_expected.pt")

    dropped = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))
    torch.jit.trace(dropped.train(), torch.ones(4, 3), check_trace=False).save(out / "traced_train.pt")
    torch.jit.trace(dropped.eval(), torch.ones(4, 3)).save(out / "traced_eval.pt")
    torch.jit.script(dropped).save(out / "scripted_eval.pt")
    torch.jit.trace(nn.BatchNorm1d(3, track_running_stats=False).eval(), torch.randn(4, 3)).save(out / "traced_no_statistics.pt")
    modes = {
        "dropped_norm": (DroppedNorm(), torch.randn(4, 3)),
        "dropped_attention": (DroppedAttention(), torch.randn(2, 4, 3)),
        "dropped_lstm": (nn.LSTM(3, 4, num_layers=2, dropout=0.5), torch.randn(2, 4, 3)),
        "instance_norm": (nn.InstanceNorm1d(3, track_running_stats=True), torch.randn(2, 3, 4)),
        "no_dropout": (nn.Dropout(0.0), torch.randn(2, 3)),
    }
    for name, (module, x) in modes.items():
        torch.jit.trace(module.train(), x, check_trace=False).save(out / f"traced_{name}_train.pt")
        torch.jit.trace(module.eval(), x).save(out / f"traced_{name}_eval.pt")
    torch.jit.freeze(torch.jit.script(nn.Linear(2, 2)).eval()).save(out / "frozen.pt")
    torch.jit.script(Failing()).save(out / "failing.pt")
    torch.jit.trace(nn.Sequential(nn.Linear(3, 2), nn.Unflatten(1, (1, 2))), torch.ones(2, 3)).save(out / "failing_traced.pt")
    torch.jit.script(Raising()).save(out / "raising.pt")
    torch.jit.script(InPlace()).save(out / "in_place.pt")
    torch.jit.script(OwnUpdate()).save(out / "own_update.pt")

    torch.save(nn.Linear(2, 2), out / "pickled_module.pt")
    torch.save(nn.Linear(2, 2).state_dict(), out / "state_dict.pt")
    torch.save(nn.Linear(2, 2).state_dict(), out / "legacy.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(out / "nested.pt") as whole, zipfile.ZipFile(out / "no_code.pt", "w") as archive:
        for member in whole.namelist():
            if "/code/" not in member:
                archive.writestr(member, whole.read(member))
    # By its content a program, whatever its name: torch.export.save warns of the ending.
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), out / "exported.pt")
    with zipfile.ZipFile(out / "other_zip.pt", "w") as archive:
        archive.writestr("a/readme.txt", "no model")


def write_safetensors(tensors: dict[str, torch.Tensor], file: pathlib.Path) -> None:
    """As the format is described, without its package."""
    kinds = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.int64: "I64"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        content = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else bytes(8)
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    words = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(words)) + words + data)


class RunsCode:
    """What a hostile pickle does where Python reads it."""

    def __reduce__(self):
        return os.mkdir, ("code_of_a_pickle_was_run",)


def write_values(out: pathlib.Path) -> None:
    """Nested in both formats, and the values of another one in files of all kinds; its output, in float64, is in expected.pt."""
    nested, other, words = Nested().eval(), Nested().eval(), torch.tensor([1, 2])
    torch.jit.script(nested).save(out / "nested.pt")
    torch.export.save(torch.export.export(nested, (words,)), out / "nested.pt2")
    optimiser = torch.optim.Adam(other.parameters())
    other(words).sum().backward()
    optimiser.step()
    with torch.no_grad():  # values that bfloat16 has, too
        for tensor in (*other.parameters(), other.shift):
            tensor.copy_((tensor + torch.randn_like(tensor)).bfloat16())
        other.order.copy_(torch.tensor([0, 2, 4, 6, 1, 3, 5]))
    state = {k: v.clone() for k, v in other.state_dict().items()}
    torch.save((words, torch.zeros(2, 7)), out / "data.pt")
    torch.save({"words": words, "output": other.double()(words).detach()}, out / "expected.pt")
    other.float()

    def save(name, **changes):
        torch.save({k: v for k, v in {**state, **changes}.items() if v is not None}, out / f"{name}.pt")

    torch.save(other.state_dict(), out / "state_dict.pt")
    rest = {"epoch": 3, "optimizer": optimiser.state_dict(), "best": torch.tensor(0.5), "at": np.float64(1.5), "large": 2**70,
            "less": -(2**40), "code": RunsCode()}
    for key in ("state_dict", "model_state_dict", "model"):
        torch.save({**rest, key: other.state_dict()}, out / f"under_{key}.pt")
    torch.save({"module." + k: v for k, v in state.items()}, out / "data_parallel.pt")
    torch.save({"module._orig_mod." + k: v for k, v in state.items()}, out / "compiled.pt")
    torch.save({k: nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()}, out / "parameters.pt")
    torch.save({k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}, out / "bfloat16.pt")
    flat = torch.cat([v.flatten().float() for v in state.values()])
    views, at = {}, 0
    for k, v in state.items():
        views[k] = flat[at : at + v.numel()].view(v.shape) if v.is_floating_point() else v
        at += v.numel()
    torch.save(views, out / "views.pt")
    untied = {k: v for k, v in state.items() if k != "decoder.weight"}
    write_safetensors(untied, out / "values.safetensors")
    write_safetensors({k: v.bfloat16() if v.is_floating_point() else v for k, v in untied.items()}, out / "bfloat16.safetensors")
    save("without_buffers", order=None, shift=None)

    save("missing", scale=None, fixed=None)
    save("unexpected", **{"head.weight": torch.ones(2)})
    save("shape", scale=torch.ones(8))
    save("kind", order=torch.ones(7))
    save("float64", scale=torch.ones(7, dtype=torch.float64))
    save("untied", **{"decoder.weight": torch.ones(7, 4)})
    save("code", scale=RunsCode())
    save("expanded", scale=torch.ones(1).expand(7))
    save("sparse", scale=torch.ones(7).to_sparse())
    torch.save(other, out / "module.pt")
    torch.save({"epoch": 3, "weights": state}, out / "other_key.pt")
    torch.save([1, 2], out / "list.pt")
    torch.save(state, out / "legacy.pt", _use_new_zipfile_serialization=False)
    for name, old, new in [("beyond", b"K\x07K\x04\x86", b"K\x09K\x04\x86"), ("negative", b"K\x07K\x04\x86", b"J\xff\xff\xff\xffK\x04\x86")]:
        with zipfile.ZipFile(out / "state_dict.pt") as whole, zipfile.ZipFile(out / f"{name}.pt", "w") as archive:
            for member in whole.namelist():
                content = whole.read(member)
                assert old in content or not member.endswith("data.pkl")
                archive.writestr(member, content.replace(old, new) if member.endswith("data.pkl") else content)


class Custom:
    def __init__(self, x):
        self.x = x


# The tests know these values by their formula: element i of each tensor is i.
def counting(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(np.prod(shape, dtype=int)).reshape(shape).to(dtype)


def write_torch_save(out: pathlib.Path) -> None:
    x, second, y = counting(4, 3), counting(4, 2, dtype=torch.int64), counting(4, dtype=torch.int32)
    torch.save({"inputs": x, "targets": y, "classes": ["cat", "dog"], "epoch": 3, "more": {"a": 1.5}}, out / "dict.pt")
    torch.save((x, y), out / "tuple.pt")
    torch.save([x, y], out / "list.pt")
    torch.save({"inputs": [x, second], "targets": y}, out / "two_inputs.pt")
    torch.save(((x, second), y), out / "two_inputs_tuple.pt")
    torch.save({"inputs": {"x": x, "mask": x + 100}, "targets": y}, out / "named_inputs.pt")
    torch.save({"inputs": {0: x, 1: x}, "targets": y}, out / "numbered_dict.pt")
    torch.save({"inputs": x}, out / "no_targets.pt")
    torch.save((x, None), out / "targets_none.pt")
    torch.save({"inputs": x.clone().requires_grad_(), "targets": nn.Parameter(x)}, out / "with_gradient.pt")
    torch.save({"inputs": counting(3, 4).t(), "targets": counting(8, dtype=torch.int32)[4:]}, out / "views.pt")
    torch.save((x.bfloat16(), x.half()), out / "half.pt")
    torch.save({"x": x, "targets": y}, out / "no_inputs.pt")
    torch.save(x, out / "tensor.pt")
    torch.save((x, y, y), out / "triple.pt")
    torch.save((x, y[:3]), out / "unequal.pt")
    torch.save((x[:0], y[:0]), out / "no_samples.pt")
    torch.save({"inputs": x, "targets": [y, second.double()]}, out / "two_targets.pt")
    torch.save((x, (y, second.double())), out / "two_targets_pair.pt")
    torch.save((torch.tensor(1.0), y), out / "scalar.pt")
    torch.save({"inputs": [], "targets": y}, out / "empty_list.pt")
    torch.save({"inputs": "images", "targets": y}, out / "string.pt")
    torch.save((x.to_sparse(), y), out / "sparse.pt")
    torch.save((torch.empty(4, 3, device="meta"), y), out / "meta.pt")
    torch.save((torch.zeros(1).expand(2**30, 2**20), y), out / "expanded.pt")
    torch.save(torch.utils.data.TensorDataset(x, y), out / "dataset.pt")
    torch.save({"inputs": x.numpy(), "targets": y.numpy()}, out / "numpy.pt")
    torch.save({"inputs": Custom(x), "targets": y}, out / "custom.pt")
    torch.save((x, y), out / "legacy.pt", _use_new_zipfile_serialization=False)


def write_hdf5(out: pathlib.Path) -> None:
    def write(name: str, **datasets) -> None:
        with h5py.File(out / f"{name}.h5", "w") as file:
            for key, value in datasets.items():
                file[key.replace("__", "/")] = value

    x, y = counting(4, 3).numpy(), counting(4, dtype=torch.int64).numpy()
    write("plain", inputs=x, targets=y, extra=x)
    write("no_targets", inputs=x)
    # Twelve: by name 10 would come before 2.
    write("twelve_inputs", **{f"inputs__{i}": x + i for i in range(12)}, targets=y)
    for dtype in "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 >f4 >i8".split():
        write(f"type_{dtype.replace('>', 'big_')}", inputs=x.astype(dtype), targets=y)
    write("type_bool", inputs=x.astype(int) % 2 == 1, targets=y)
    with h5py.File(out / "chunked.h5", "w") as file:
        file.create_dataset("inputs", data=x, chunks=(2, 2), compression="gzip")
        file["targets"] = y

    write("no_inputs", x=x, targets=y)
    write("unequal", inputs=x, targets=y[:3])
    write("no_samples", inputs=x[:0], targets=y[:0])
    write("scalar", inputs=1.5, targets=y)
    write("strings", inputs=np.array([b"a", b"b", b"c", b"d"]), targets=y)
    write("compound", inputs=np.zeros(4, dtype=[("a", "f4"), ("b", "i4")]), targets=y)
    write("complex", inputs=x.astype(complex), targets=y)
    write("null", inputs=h5py.Empty("f4"), targets=y)
    write("named_inputs", inputs__x=x, inputs__mask=x + 100, targets=y)
    write("wrong_members", inputs__0=x, inputs__b=x, targets=y)
    write("gap", inputs__0=x, inputs__2=x, targets=y)
    write("empty_group", targets=y)
    with h5py.File(out / "empty_group.h5", "a") as file:
        file.create_group("inputs")
    write("group_in_group", inputs__0__x=x, targets=y)
    write("targets_group", inputs=x, targets__0=y)
    write("targets_no_numbers", inputs=x, targets__y=y)
    write("two_targets", inputs=x, targets__0=y.astype("int32"), targets__1=counting(4, 2, dtype=torch.float64).numpy())
    write("unequal_targets", inputs=x, targets__0=y, targets__1=y[:3])
    with h5py.File(out / "dangling.h5", "w") as file:
        file["inputs"] = h5py.SoftLink("/nowhere")
    with h5py.File(out / "never_written.h5", "w") as file:
        file.create_dataset("inputs", shape=(1000, 1000), dtype="f4", chunks=(10, 10))
        file["targets"] = np.zeros(1000)
    for name, shape in [("huge", (10**15,)), ("huge_overflow", (2**62, 4)), ("huge_rows", (2**40, 2**10))]:
        with h5py.File(out / f"{name}.h5", "w") as file:
            file.create_dataset("inputs", shape=shape, dtype="f4")
            file["targets"] = y


def main(folder: str) -> None:
    torch.manual_seed(0)
    for name, writers in {"torchscript": [write_torchscript], "values": [write_values], "data": [write_torch_save, write_hdf5]}.items():
        out = pathlib.Path(folder) / name
        out.mkdir(parents=True, exist_ok=True)
        for write in writers:
            write(out)


if __name__ == "__main__":
    main(sys.argv[1])
