"""Writes exported programs and what PyTorch in Python derives from the same models into a folder.

    python exported_programs.py FOLDER

For every case NAME: NAME.pt2 (torch.export.save) and NAME.expected (torch.save of a dict that C++ can read): the
inputs, parameter names, loss, its gradient and one Hessian-vector product, all by autograd on the module itself, never
on its export. Besides, archives that are damaged or ask for what must be refused.
"""

import json
import pathlib
import sys
import warnings
import zipfile

import torch
from torch import nn
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

warnings.filterwarnings("ignore")


def wave(shape, dtype=torch.float64):
    """Numbers between -1 and 1 without a pattern that derivatives could hide in."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(1, count + 1, dtype=torch.float64) * 1.7).reshape(shape).to(dtype)


def loss_of(outputs):
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    floating = [o for o in outputs if isinstance(o, torch.Tensor) and o.is_floating_point()]
    return sum((o.double() * wave(o.shape)).sum() + (o.double() ** 3).sum() / 3 for o in floating)


def expected(module, inputs):
    """Loss, gradient and H v for v = wave, of the module as it stands."""
    named = list(module.named_parameters())
    trainable = [p for _, p in named if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        loss = loss_of(module(*inputs))
    gradient = torch.autograd.grad(loss, trainable, create_graph=True, allow_unused=True)
    products = [(g * wave(g.shape)).sum() for g in gradient if g is not None and g.requires_grad]
    second = torch.autograd.grad(sum(products), trainable, allow_unused=True)
    filled = lambda found: [torch.zeros_like(p) if d is None else d.detach().contiguous() for p, d in zip(trainable, found)]
    return {
        "names": [name for name, _ in named],
        "trainable": [p.requires_grad for _, p in named],
        "values": [p.detach().contiguous() for _, p in named],
        "loss": loss.detach(),
        "gradient": filled(gradient),
        "product": filled(second),
    }


def export(module, inputs, dynamic=None, strict=False):
    return torch.export.export(module, tuple(inputs), dynamic_shapes=dynamic, strict=strict)


class Cases:
    def __init__(self, folder):
        self.folder = folder

    def add(self, name, module, inputs, dynamic=None, exported_with=None, change=None, constants=(), strict=False):
        """Exports with exported_with (default: inputs), expects results for inputs."""
        tensors = [i.clone() for i in inputs]
        program = export(module, (*(exported_with or inputs), *constants), dynamic, strict)
        torch.export.save(change(program) if change else program, self.folder / f"{name}.pt2")
        result = expected(module, [*(i.clone() for i in tensors), *constants])
        torch.save({**result, "inputs": tensors}, self.folder / f"{name}.expected")

    def add_float32(self, name, make, inputs, dynamic=None):
        """Exported in float32; expected from the same module in float64."""
        single = make(torch.float32)
        torch.export.save(export(single, [i.float() for i in inputs], dynamic), self.folder / f"{name}.pt2")
        double = make(torch.float64)
        double.load_state_dict(single.state_dict())
        torch.save({**expected(double, inputs), "inputs": inputs}, self.folder / f"{name}.expected")


class SmallConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, 1, 1)
        self.fc = nn.Linear(2 * 4 * 4, 5)

    def forward(self, x):
        return self.fc(torch.tanh(self.conv(x)).view(x.shape[0], -1))


class SharedParameters(nn.Module):
    """Tied, frozen and unused parameters, one of the module itself, modules registered in an order of their own."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 2)
        self.embedding = nn.Embedding(7, 4)
        self.hidden = nn.Linear(4, 4)
        self.hidden.weight.requires_grad_(False)
        self.out = nn.Linear(4, 7)
        self.out.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 4))
        self.frozen = nn.Parameter(torch.linspace(1, 2, 4), requires_grad=False)

    def forward(self, tokens):
        return self.out(torch.tanh(self.hidden(self.embedding(tokens)) * self.frozen) * self.scale)


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.fc2 = nn.Linear(4, 2)
        with torch.no_grad():
            self.norm.running_mean.copy_(torch.linspace(-1, 1, 4))
            self.norm.running_var.copy_(torch.linspace(0.5, 2, 4))

    def forward(self, x):
        h = torch.tanh(self.norm(self.fc1(x)))
        # Reads the statistics after the update: a second forward on updated ones would show.
        return self.fc2(h) * (1 + self.norm.running_mean.sum())


class WithoutStatistics(nn.Module):
    """Normalises by the batch in both modes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.fc(x))


class UsedInAnotherOrder(nn.Module):
    """strict=True lists parameters in the order of their use, and leaves out those that are not used."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.last = nn.Linear(4, 2)
        self.register_buffer("shift", wave((2,)))
        self.first = nn.Linear(3, 4)
        self.tied = nn.Linear(4, 2, bias=False)
        self.tied.weight = self.last.weight
        self.scale = nn.Parameter(wave((4,)))

    def forward(self, x):
        h = torch.tanh(self.first(x)) * self.scale
        return torch.tanh(self.tied(h)) + self.last(h) + self.shift


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.position = nn.Parameter(wave((6, 8), torch.float32))
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 3)
        self.register_buffer("gain", torch.full((1,), 1.25))
        self.register_buffer("mask", torch.ones(6, 6, dtype=torch.bool).tril(), persistent=False)

    def forward(self, tokens):
        batch, length = tokens.shape
        x = self.norm(self.embedding(tokens) + self.position[:length])
        q, k, v = (t.view(batch, length, 2, 4).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        a = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = (q @ k.transpose(-2, -1) / 2).masked_fill(~self.mask[:length, :length], float("-inf"))
        b = torch.softmax(scores, dim=-1) @ v
        return self.out((a + b).transpose(1, 2).reshape(batch, length, 8) * self.gain).mean(dim=1)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.gru(x)[0][:, -1])


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.table = nn.Embedding(5, 4)

    def forward(self, x, index, power):
        h = self.fc(x) + self.table(index) * torch.tensor([1.5, 0.5, -1.0, 2.0], dtype=x.dtype)
        return torch.tanh(h) ** power, h.sum(dim=1)


class PartlyConstant(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        h = self.fc(x)
        with torch.no_grad():
            scale = h.abs().amax(dim=1, keepdim=True)
            shift = h.mean()
        with torch.no_grad():
            with torch.enable_grad():
                inner = torch.tanh(h)
        return h / (1 + scale) + shift * h + inner


class Strided(nn.Module):
    """Weights that are not contiguous, and weights that are parts of one storage."""

    def __init__(self):
        super().__init__()
        base = wave((24,))
        self.transposed = nn.Parameter(wave((4, 3)).t())
        self.head = nn.Parameter(base[2:10].view(2, 4))
        self.tail = nn.Parameter(base[12:24:2])
        self.register_buffer("wide", wave((1,)).expand(5))

    def forward(self, x):
        return torch.tanh(x @ self.transposed @ self.head.t()) * self.tail[:2] + self.tail[2:].sum() + self.wide.sum()


class Sizes(nn.Module):
    """Arithmetic on dynamic sizes."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)

    def forward(self, x):
        batch, length, _ = x.shape
        h = torch.tanh(self.fc(x.reshape(batch * length, 2))).view(batch, length, 3)
        half = h[:, : length // 2 + 1].sum(dim=1) / (batch * length)
        last = h[:, length - 1] * min(batch, length)
        return torch.cat([half, last, torch.zeros(batch, 2 * length - 1, dtype=x.dtype)], dim=1)


class Operators(nn.Module):
    """Arguments of many kinds: strings, lists of optional tensors, several results, infinities, memory formats."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(wave((3, 4)))
        self.kernel = nn.Parameter(wave((2, 2, 3, 3)))

    def forward(self, x):
        h = torch.einsum("bi,io->bo", x, self.weight)
        values, _ = torch.topk(h, 2, dim=1)
        picked = h[:, torch.tensor([3, 0, 0])]
        first, *others = h.split([1, 2, 1], dim=1)
        clamped = torch.clamp(h, min=-0.5) + torch.nn.functional.gelu(h, approximate="tanh")
        norm = torch.linalg.vector_norm(h, ord=float("inf"), dim=1)
        image = h.view(-1, 1, 2, 2).repeat(1, 2, 1, 1).contiguous(memory_format=torch.channels_last)
        image = nn.functional.conv2d(nn.functional.pad(image, (1, 1, 1, 1), mode="replicate"), self.kernel)
        image = nn.functional.interpolate(image, scale_factor=2.0, mode="bilinear")
        parts = [values, picked, first, *others, clamped, norm[:, None], image.flatten(1), 2 - h, torch.zeros_like(h)]
        return torch.cat(parts, dim=1)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        x.sub_(0.25)
        return torch.relu_(self.fc(x).add_(0.1)) * x


class FixedDtype(nn.Module):
    """Names its dtype in forward(), as float32 models do."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype
        self.gru = nn.GRU(3, 4, batch_first=True, dtype=dtype)
        self.fc = nn.Linear(4, 2, dtype=dtype)
        self.register_buffer("shift", wave((2,), dtype))

    def forward(self, x):
        start = torch.zeros(1, x.shape[0], 4, dtype=self.dtype) + 0.125
        h = self.gru(x.to(self.dtype), start)[0].sum(dim=1)
        return torch.addmm(torch.full((2,), 0.5, dtype=self.dtype), h, self.fc.weight.t()) + self.shift + self.fc.bias


class DroppedOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.fc(x))


class Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.fc(x)


class OwnUpdate(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        with torch.no_grad():
            self.weight.mul_(0.5)
        return x * self.weight


def write_cases(folder):
    cases = Cases(folder)
    double = lambda module: module.double().eval()
    batch = {0: Dim.DYNAMIC}
    tokens = torch.arange(20).reshape(5, 4) * 3 % 7
    cases.add("small_convolution", double(SmallConvolution()), [wave((3, 1, 4, 4))])
    cases.add("shared_parameters", double(SharedParameters()), [tokens], [batch], [tokens[:2]])
    cases.add("batch_norm_eval", double(Normalised()), [wave((5, 3))], [batch], [wave((2, 3))])
    cases.add("batch_norm_train", double(Normalised()).train(), [wave((5, 3))], [batch], [wave((4, 3))])
    cases.add("batch_norm_functional", double(Normalised()).train(), [wave((5, 3))],
              change=lambda program: program.run_decompositions({}))
    cases.add("batch_norm_eval_core", double(Normalised()), [wave((5, 3))], change=lambda program: program.run_decompositions())
    cases.add("no_statistics_core", double(WithoutStatistics()), [wave((5, 3))],
              change=lambda program: program.run_decompositions())
    cases.add("used_in_another_order", double(UsedInAnotherOrder()), [wave((5, 3))], strict=True)
    cases.add("attention", double(Attention()), [tokens], [batch], [tokens[:2]])
    cases.add("recurrent", double(Recurrent()), [wave((4, 5, 3))], [batch], [wave((2, 5, 3))])
    cases.add("two_inputs", double(TwoInputs()), [wave((5, 3)), torch.arange(5)], [batch, batch, None],
              [wave((2, 3)), torch.arange(2)], constants=[2])
    cases.add("partly_constant", double(PartlyConstant()), [wave((4, 3))])
    cases.add("strided", double(Strided()), [wave((5, 3))])
    cases.add("sizes", double(Sizes()), [wave((5, 3, 2))], [{0: Dim.DYNAMIC, 1: Dim.DYNAMIC}], [wave((4, 6, 2))])
    cases.add("operators", double(Operators()), [wave((4, 3))])
    cases.add("operators_core", double(Operators()), [wave((4, 3))], change=lambda program: program.run_decompositions())
    cases.add("in_place", double(InPlace()), [wave((5, 3))])
    cases.add_float32("fixed_dtype", FixedDtype, [wave((4, 5, 3))], [batch])

    cases.add("static_batch", double(SmallConvolution()), [wave((8, 1, 4, 4))])
    for mode in (True, False):
        program = export(DroppedOut().double().train(mode), [wave((4, 3))])
        torch.export.save(program, folder / f"dropout_{'train' if mode else 'eval'}.pt2")
    torch.export.save(export(Autocast().eval(), [wave((4, 3), torch.float32)]), folder / "autocast.pt2")
    torch.export.save(export(OwnUpdate().double(), [wave((4, 3))]), folder / "own_update.pt2")


def rewrite(source, target, change):
    """A copy of an archive: change(name, bytes) returns the new bytes of a member, or None to leave it out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


def rewrite_json(source, target, member, change):
    def changed(name, content):
        if not name.endswith(member):
            return content
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    rewrite(source, target, changed)


def write_damaged(folder):
    source = folder / "small_convolution.pt2"
    content = source.read_bytes()
    (folder / "truncated.pt2").write_bytes(content[: len(content) // 2])
    (folder / "random.pt2").write_bytes(torch.randint(0, 256, (5000,), dtype=torch.uint8).numpy().tobytes())
    rewrite(source, folder / "without_model.pt2", lambda name, old: None if name.endswith("models/model.json") else old)
    rewrite(source, folder / "without_weight.pt2", lambda name, old: None if name.endswith("weight_0") else old)
    rewrite(source, folder / "short_weight.pt2", lambda name, old: old[:24] if name.endswith("weight_0") else old)
    rewrite(source, folder / "not_json.pt2", lambda name, old: b"{" if name.endswith("model.json") else old)
    deep = b"[" * 3000000
    rewrite(source, folder / "deep_json.pt2", lambda name, old: deep if name.endswith("model.json") else old)

    def weights(name, change):
        rewrite_json(source, folder / f"{name}.pt2", "weights_config.json",
                     lambda document: change(document["config"]["fc.weight"]["tensor_meta"]))

    def set_to(key, value):
        return lambda meta: meta.update({key: value})

    weights("huge_size", set_to("sizes", [{"as_int": 2**62}, {"as_int": 2**62}]))
    weights("huge_expanded", lambda meta: meta.update(sizes=[{"as_int": 2**20}] * 2, strides=[{"as_int": 0}] * 2))
    weights("negative_size", set_to("sizes", [{"as_int": -5}, {"as_int": 32}]))
    weights("huge_offset", set_to("storage_offset", {"as_int": 2**63 - 1}))
    weights("offset_outside", set_to("storage_offset", {"as_int": 1}))
    weights("fraction_size", set_to("sizes", [{"as_int": 5.5}, {"as_int": 32}]))
    weights("beyond_64_bits", set_to("sizes", [{"as_int": 2**64 - 1}, {"as_int": 1}]))
    weights("unknown_dtype", set_to("dtype", 99))
    weights("missing_key", lambda meta: meta.pop("strides"))

    def graph(name, change):
        rewrite_json(source, folder / f"{name}.pt2", "models/model.json",
                     lambda document: change(document["graph_module"]["graph"]))

    def node(name, change):
        graph(name, lambda g: change(next(n for n in g["nodes"] if n["target"].startswith("torch.ops.aten.tanh"))))

    def retarget(target, inputs=None):
        def change(found):
            found["target"] = target
            if inputs is not None:
                found["inputs"] = inputs
        return change

    text = lambda name, value: {"name": name, "arg": {"as_string": value}, "kind": 1}
    node("from_file", retarget("torch.ops.aten.from_file.default", [text("filename", "stolen")]))
    node("print", retarget("torch.ops.aten._print.default", [text("s", "hello")]))
    node("unknown_operator", retarget("torch.ops.aten.no_such_operator.default"))
    node("other_namespace", retarget("torch.ops.quantized.linear.default"))
    node("custom_operator", retarget("torch.ops.mine.op.default"))
    node("python_function", retarget("os.system"))
    node("wrong_argument", lambda n: n["inputs"][0].update(name="nonsense"))
    node("wrong_kind", lambda n: n["inputs"][0].update(arg={"as_string": "text"}))
    node("unknown_value", lambda n: n["inputs"][0]["arg"]["as_tensor"].update(name="nobody"))
    node("wrong_outputs", lambda n: n.update(outputs=[{"as_tensors": [{"name": "tanh"}, {"name": "b"}]}]))
    graph("no_nodes", lambda g: g.pop("nodes"))
    graph("backward_order", lambda g: g["nodes"].reverse())
    rewrite_json(source, folder / "other_version.pt2", "models/model.json",
                 lambda document: document["schema_version"].update(major=9))
    rewrite_json(source, folder / "fewer_inputs.pt2", "models/model.json",
                 lambda document: document["graph_module"]["signature"]["input_specs"].pop())


if __name__ == "__main__":
    torch.manual_seed(0)
    destination = pathlib.Path(sys.argv[1])
    destination.mkdir(parents=True, exist_ok=True)
    write_cases(destination)
    write_damaged(destination)
