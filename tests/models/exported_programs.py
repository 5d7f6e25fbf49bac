"""Writes exported programs and what PyTorch in Python derives from the same models into a folder.

    python exported_programs.py FOLDER

For every case NAME: NAME.pt2 (torch.export.save) and NAME.expected (torch.save of a dict that C++ can read): the
inputs, parameter names, loss, its gradient and one Hessian-vector product, all by autograd on the module itself, never
on its export. Besides, archives that are damaged or ask for what must be refused.
"""

import copy
import io
import json
import logging
import math
import pathlib
import sys
import warnings
import zipfile
from random import Random

import torch
from torch import nn
from torch._higher_order_ops.map import map as control_flow_map
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.export import Dim
from torch.nn.attention import SDPBackend, sdpa_kernel

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)  # of older formats, which are what is wanted


def wave(shape, dtype=torch.float64):
    """Numbers between -1 and 1 without a pattern that derivatives could hide in."""
    count = torch.Size(shape).numel()
    return torch.sin(torch.arange(1, count + 1, dtype=torch.float64) * 1.7).reshape(shape).to(dtype)


def loss_of(outputs):
    outputs, _ = torch.utils._pytree.tree_flatten(outputs)
    floating = [o for o in outputs if isinstance(o, torch.Tensor) and o.is_floating_point()]
    return sum((o.double() * wave(o.shape)).sum() + (o.double() ** 3).sum() / 3 for o in floating)


def expected(module, inputs, keywords={}):
    """Loss, gradient and H v for v = wave, of the module as it stands."""
    named = list(module.named_parameters())
    trainable = [p for _, p in named if p.requires_grad]
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        loss = loss_of(module(*inputs, **keywords))
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


def export(module, inputs, dynamic=None, strict=False, keywords=None):
    return torch.export.export(module, tuple(inputs), keywords, dynamic_shapes=dynamic, strict=strict)


def tensors_in(*arguments):
    return [leaf for leaf in torch.utils._pytree.tree_flatten(arguments)[0] if isinstance(leaf, torch.Tensor)]


class Cases:
    def __init__(self, folder):
        self.folder = folder

    def add(self, name, module, inputs, dynamic=None, exported_with=None, change=None, constants=(), strict=False, keywords={}):
        """Exports with exported_with (default: inputs), expects results for inputs. Constants and keywords come behind
        them. A module with a flag `plain` is exported without it and then computes the same without the construct."""
        inputs, keywords = copy.deepcopy((inputs, keywords))
        example = copy.deepcopy((*(exported_with or inputs), *constants))
        program = export(module, example, dynamic, strict, copy.deepcopy(keywords))
        torch.export.save(change(program) if change else program, self.folder / f"{name}.pt2")
        if hasattr(module, "plain"):
            module.plain = True
        result = expected(module, (*copy.deepcopy(inputs), *constants), copy.deepcopy(keywords))
        torch.save({**result, "inputs": [t.contiguous() for t in tensors_in(inputs, keywords)]}, self.folder / f"{name}.expected")

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


class OwnUpdate(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        with torch.no_grad():
            self.weight.mul_(0.5)
        return x * self.weight


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

    def hidden(self, x):
        return torch.tanh(self.first(x))


class KeywordInputs(TwoLayers):
    def forward(self, x, *, scale, shift=None, absent=None):
        assert absent is None
        return self.second(self.hidden(x) * scale) + shift


class NestedInputs(TwoLayers):
    def forward(self, pair, named):
        return self.second(self.hidden(pair[0]) * pair[1]) * named["B"][0] + named["a"]


class ConstantInputs(TwoLayers):
    def forward(self, x, count, flag, word, nothing, real, last=2):
        h = self.hidden(x) * count
        assert nothing is None and word == "twice"
        return self.second(h * real if flag else h) * last


class NestedOutputs(TwoLayers):
    """Numbers among tensors, tensors that are no results of operators."""

    def forward(self, x):
        h = self.hidden(x)
        return {"y": self.second(h), "rest": (x.shape[0], [h * 2, None], 2.5), "x": x, "weight": self.first.weight}


class Arithmetic(TwoLayers):
    """What Python knows of numbers, on sizes."""

    def forward(self, x):
        samples, length, _ = x.shape
        h = self.hidden(x)
        number = (samples * length) // 2 + length % 3 + max(samples, length) - min(samples, 2) + (samples + length) // -2
        number = number + torch.sym_int(samples / 2) + torch.sym_max(samples, length) / samples + torch.sym_float(length) * 0.5
        torch._check(samples * length < 1000)
        part = h.reshape(samples * length, 4)[: samples * length // 2].sum() * number
        wide = h.new_zeros(samples, 2 * length + 1).sum() + torch.arange(samples).to(h.dtype).sum() * x.numel() * x.stride(0)
        return self.second(h) * part + wide + torch.full((samples, 1, 1), 0.5, dtype=h.dtype) * length


class FoundSizes(TwoLayers):
    """Sizes that the values of tensors decide."""

    def forward(self, x):
        positive = x[:, 0] > 0
        count = positive.sum().item()
        torch._check(count >= 1)
        chosen = self.hidden(x[torch.nonzero(positive).squeeze(1)])
        return self.second(chosen).sum(0) * count + torch.ones(count, dtype=x.dtype).sum(), self.hidden(x)[positive].sum(0)


class Buffers(TwoLayers):
    """Persistent or not, of many dtypes, one a part of another, and tensors that are plain attributes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kept", wave((4,)))
        self.register_buffer("dropped", wave((4,)), persistent=False)
        self.register_buffer("whole", wave((8,)))
        self.register_buffer("part", self.whole[2:6])
        self.register_buffer("none", None)
        self.register_buffer("signed", torch.arange(-2, 2, dtype=torch.int8))
        self.register_buffer("unsigned", torch.arange(4, dtype=torch.uint8))
        self.register_buffer("short", torch.arange(4, dtype=torch.int16))
        self.register_buffer("wide", torch.arange(4).to(torch.uint32))
        self.register_buffer("eight", torch.arange(4).to(torch.float8_e4m3fn))
        self.register_buffer("flags", torch.tensor([True, False, True, True]))
        self.register_buffer("quarters", torch.arange(4).to(torch.float16) / 4)
        self.register_buffer("halves", torch.arange(4).to(torch.bfloat16) / 2)
        self.attribute = wave((4,))

    def forward(self, x):
        h = self.hidden(x) * self.kept + self.dropped * self.attribute + self.signed + self.unsigned + self.short
        h = (h + self.quarters.to(x.dtype) + self.halves.to(x.dtype) + self.part) * self.flags
        h = h + self.wide.to(x.dtype) * self.eight.to(x.dtype)
        return self.second(torch.sin(h)) * torch.tensor(2.5) + torch.tensor([1, 2]) + self.whole.sum()


class Counting(TwoLayers):
    """Writes into its buffers: afterwards they are what they were."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))

    def forward(self, x):
        self.steps += 1
        h = self.first(x)
        self.mean.mul_(0.9).add_(h.detach().mean(0), alpha=0.1)
        return self.second(torch.tanh(h) - self.mean) * self.steps


class SetItems(TwoLayers):
    def forward(self, x):
        h = self.hidden(x)
        out = torch.zeros(x.shape[0], 6, dtype=h.dtype)
        out[:, :4] = h
        out[:, 4:] = self.second(h)
        out[0] *= 2
        return out


class NoGradFunction(TwoLayers):
    @torch.no_grad()
    def measured(self, h):
        return h.abs().mean(), h.shape[0], h.amax(0)

    def forward(self, x):
        h = self.hidden(x)
        mean, samples, largest = self.measured(h)
        return self.second(h / (1 + mean) + largest) * samples


class Detached(TwoLayers):
    def forward(self, x):
        h = self.hidden(x)
        return self.second(h / (1 + h.detach().abs().mean()))


class Straight(torch.autograd.Function):
    """Has a derivative of its own."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class OwnDerivative(TwoLayers):
    def forward(self, x):
        return self.second(Straight.apply(self.first(x)))


class Mapping(TwoLayers):
    def forward(self, x):
        return torch.vmap(lambda row: self.second(self.hidden(row)))(x)


class Numbers(TwoLayers):
    """A whole number and a tensor without dimensions among the inputs."""

    def forward(self, x, count, factor):
        return self.second(self.hidden(x)) * count * factor


class Checkpointed(TwoLayers):
    def forward(self, x):
        return self.second(torch.utils.checkpoint.checkpoint(self.hidden, x, use_reentrant=False))


class Wide(TwoLayers):
    """Under autocast, which leaves float64 alone."""

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.first(x)
            with torch.autocast("cpu", enabled=False):
                y = self.second(torch.tanh(h.to(self.second.weight.dtype)))
        with torch.autocast("cuda"):
            z = self.second(torch.sin(h.to(self.second.weight.dtype)))
        return y * 2 + z, h


class Plain(TwoLayers):
    """Written once with a construct of torch.export and once without."""

    def __init__(self, positive=True):
        super().__init__()
        self.plain = False
        self.positive = positive


class Branches(Plain):
    def one(self, h):
        return torch.tanh(h), h * 2

    def other(self, h):
        return torch.sin(self.second(h) @ self.second.weight), h * 3

    def forward(self, x):
        h = self.first(x)
        if self.plain:
            y, z = self.one(h) if self.positive else self.other(h)
        else:
            condition = x.abs().sum() > 0 if self.positive else x.abs().sum() < 0
            y, z = torch.cond(condition, self.one, self.other, (h,))
        return self.second(y) + z.sum()


class BranchOnSize(Branches):
    """Takes the first way with more than four samples."""

    def forward(self, x):
        h = self.first(x)
        if self.plain:
            y, z = self.one(h) if x.shape[0] > 4 else self.other(h)
        else:
            y, z = torch.cond(x.shape[0] > 4, self.one, self.other, (h,))
        return self.second(y) + z.sum()


class Loop(Plain):
    def step(self, i, h):
        return i + 1, torch.tanh(h @ self.first.weight @ self.first.weight.t()) * 1.5

    def forward(self, x):
        i, h = torch.zeros((), dtype=torch.int64), self.first(x)
        if self.plain:
            for _ in range(3):
                i, h = self.step(i, h)
        else:
            i, h = while_loop(lambda i, h: i < 3, self.step, (i, h))
        return self.second(h) * i


class Mapped(Plain):
    def forward(self, x):
        factor = wave((4,)).to(x.dtype)
        one = lambda row, factor: (self.second(torch.tanh(self.first(row) * factor)), row.sum())
        if self.plain:
            y, z = (torch.stack(parts) for parts in zip(*(one(row, factor) for row in x)))
        else:
            y, z = control_flow_map(one, x, factor)
        return y, z


class Scanned(Plain):
    def forward(self, x):
        def step(state, row):
            state = torch.tanh(self.first(row) + state * 0.5)
            return state, state * row.sum()

        state = torch.zeros(4, dtype=x.dtype)
        if self.plain:
            rows = []
            for row in x.flip(0):
                state, y = step(state, row)
                rows.append(y)
            ys = torch.stack(rows).flip(0)
        else:
            state, ys = scan(step, state, x, reverse=True)
        return self.second(ys) * wave((5, 1)).to(x.dtype) + self.second(state)


class RegionsInRegions(Plain):
    def inner(self, h):
        return torch.tanh(h), h.sum()

    def outer(self, h):
        with torch.no_grad():
            scale = self.second(h).mean()
        y, z = self.inner(h) if self.plain else torch.cond(h.abs().sum() > 0, self.inner, self.otherwise, (h,))
        return y * scale, z * scale

    def otherwise(self, h):
        return h * 2, h.sum()

    def forward(self, x):
        h = self.first(x)
        y, z = self.outer(h) if self.plain else torch.cond(x.abs().sum() > 0, self.outer, self.otherwise, (h,))
        return self.second(y) * z


class ChannelsLast(nn.Module):
    """A layout in which a view is possible that is none in row-major order."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.fc = nn.Linear(48, 2)
        self.transposed = nn.Parameter(wave((4, 3)).t())
        self.register_buffer("wide", wave((4, 3)).t())

    def forward(self, x):
        h = torch.tanh(self.conv(x)).permute(0, 2, 3, 1).view(x.shape[0], -1)
        return self.fc(h) + (self.transposed.t().view(12) * self.wide.t().view(12)).sum()


class ByStrides(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(wave((3, 4)).t())

    def forward(self, x):
        rows = torch.tanh(x).as_strided((2, 2), (3, 1)).sum()
        return x + self.weight.as_strided((3,), (1,)) + rows


class Narrow(nn.Module):
    """float16 and bfloat16, and casts between them, as after a mixed training."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4).half()
        self.second = nn.Linear(4, 4).bfloat16()
        self.third = nn.Linear(4, 2)

    def forward(self, x):
        h = torch.tanh(self.second(self.first(x).to(self.second.weight.dtype)))
        return self.third(h.to(self.third.weight.dtype))


class Rotary(TwoLayers):
    """Complex numbers inside, as in rotary position embeddings."""

    def __init__(self):
        super().__init__()
        self.register_buffer("turns", torch.polar(torch.ones(5, 2, dtype=torch.float64), wave((5, 2))))

    def forward(self, x):
        h = torch.view_as_complex(self.first(x).reshape(x.shape[0], 2, 2).contiguous())
        h = torch.view_as_real(h * self.turns).flatten(1)
        return self.second(torch.tanh(h)) + torch.fft.fft(h).abs().sum(1, keepdim=True)


class ComplexWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.complex(wave((3,)), wave((3,))))

    def forward(self, x):
        return (x * self.weight).abs()


class ChoosesBySize(TwoLayers):
    """Python's own `if` on sizes: the export keeps one way, and on what condition."""

    def forward(self, x, nested):
        y = self.second(self.hidden(x))
        if x.shape[0] % 2 == 0 and nested["Y"][0].shape[0] + x.shape[0] > 9 and not 3 * x.shape[0] // 2 == 18:
            return y
        return y * 2 + nested["Y"][0].sum()


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
    write_constructs(cases)
    cases.add_float32("fixed_dtype", FixedDtype, [wave((4, 5, 3))], [batch])

    cases.add("static_batch", double(SmallConvolution()), [wave((8, 1, 4, 4))])
    for mode in (True, False):
        program = export(DroppedOut().double().train(mode), [wave((4, 3))])
        torch.export.save(program, folder / f"dropout_{'train' if mode else 'eval'}.pt2")
    torch.export.save(export(OwnUpdate().double(), [wave((4, 3))]), folder / "own_update.pt2")


def write_constructs(cases):
    double = lambda module: module.double().eval()
    batch = {0: Dim.DYNAMIC}
    x = wave((5, 3))
    core = lambda program: program.run_decompositions()
    cases.add("keyword_inputs", double(KeywordInputs()), [x], keywords={"shift": wave((5, 2)), "scale": wave((5, 1))})
    cases.add("nested_inputs", double(NestedInputs()),
              [(x, wave((5, 1))), {"a": wave((5, 2)) + 1, "B": [wave((5, 1)) + 2]}])
    cases.add("constant_inputs", double(ConstantInputs()), [x], constants=[2, True, "twice", None, 1.5])
    cases.add("nested_outputs", double(NestedOutputs()), [x], [batch], [x[:3]])
    for strict in (False, True):
        cases.add("arithmetic_strict" if strict else "arithmetic", double(Arithmetic()), [wave((5, 6, 3))],
                  [{0: Dim.DYNAMIC, 1: Dim.DYNAMIC}], [wave((7, 8, 3))], strict=strict)
    cases.add("found_sizes", double(FoundSizes()), [x])
    cases.add("buffers", double_weights(Buffers()), [x])
    cases.add("counting", double_weights(Counting()), [x])
    cases.add("set_items", double(SetItems()), [x])
    cases.add("set_items_core", double(SetItems()), [x], change=core)
    cases.add("no_grad_function", double(NoGradFunction()), [x], [batch], [x[:3]])
    cases.add("no_grad_function_strict", double(NoGradFunction()), [x], [batch], [x[:3]], strict=True)
    cases.add("detached", double(Detached()), [x])
    cases.add("detached_core", double(Detached()), [x], change=core)
    cases.add("vmap_decomposed", double(Mapping()), [x], change=lambda program: program.run_decompositions({}))
    cases.add("checkpointed", double(Checkpointed()), [x], [batch], [x[:3]])
    cases.add("autocast", double(Wide()), [x])
    cases.add("branch_taken", double(Branches(True)), [x])
    cases.add("other_branch", double(Branches(False)), [x])
    cases.add("other_branch_core", double(Branches(False)), [x], change=core)
    cases.add("branch_on_size", double(BranchOnSize()), [x], [batch], [x[:3]])
    cases.add("loop", double(Loop()), [x])
    cases.add("mapped", double(Mapped()), [x])
    cases.add("scanned", double(Scanned()), [x])
    cases.add("regions_in_regions", double(RegionsInRegions()), [x])
    cases.add("channels_last", double(ChannelsLast()).to(memory_format=torch.channels_last),
              [wave((3, 2, 4, 4)).to(memory_format=torch.channels_last)])
    cases.add("rotary", double_weights(Rotary()), [x])
    write_narrow(cases.folder, x)


def double_weights(module):
    """As float64, but for the buffers, which keep their dtypes."""
    for parameter in module.parameters():
        parameter.data = parameter.data.double()
    return module.eval()


def write_narrow(folder, x):
    """Exported in narrow dtypes; expected from the same weights in float64."""
    module, x = Narrow().eval(), x.half().double()
    torch.export.save(export(module, [x.half()], [{0: Dim.DYNAMIC}]), folder / "narrow.pt2")
    torch.save({**expected(module.double(), [x]), "inputs": [x]}, folder / "narrow.expected")


def write_older(folder):
    """As PyTorch 2.8 wrote it, which its successors read still, and as those before did."""
    source = folder / "newer.pt2"
    module = SharedParameters().double().eval()
    program = export(module, [torch.zeros(2, 4, dtype=torch.int64)], [{0: Dim.DYNAMIC}])
    torch.export.save(program, source)

    def pickled(tensors):
        content = io.BytesIO()
        torch.save(tensors, content)
        return content.getvalue()

    with zipfile.ZipFile(source) as old, zipfile.ZipFile(folder / "older.pt2", "w") as new:
        for name in old.namelist():
            if "/data/weights/" not in name and "/data/constants/" not in name:
                content = old.read(name)
                if name.endswith("models/model.json"):
                    document = json.loads(content)
                    del document["guards_code"]
                    content = json.dumps(document).encode()
                new.writestr(name, content)
        root = old.namelist()[0].split("/")[0]
        new.writestr(f"{root}/data/weights/model.pt", pickled(dict(program.state_dict)))
        new.writestr(f"{root}/data/constants/model.pt", pickled(dict(program.constants)))
        with zipfile.ZipFile(folder / "oldest.pt2", "w") as oldest:
            oldest.writestr("serialized_exported_program.json", old.read(f"{root}/models/model.json"))
            oldest.writestr("serialized_state_dict.pt", pickled(dict(program.state_dict)))
            oldest.writestr("serialized_constants.pt", pickled(dict(program.constants)))
            oldest.writestr("serialized_example_inputs.pt", pickled(()))
            oldest.writestr("version", "8.1")
    assert torch.export.load(folder / "older.pt2").module()(torch.zeros(2, 4, dtype=torch.int64)).shape == (2, 4, 7)
    assert torch.export.load(folder / "oldest.pt2").state_dict.keys() == program.state_dict.keys()
    tokens = torch.arange(20).reshape(5, 4) * 3 % 7
    torch.save({**expected(module, [tokens]), "inputs": [tokens]}, folder / "older.expected")


def write_refused(folder):
    x = wave((6, 3))
    batch = {0: Dim.DYNAMIC}
    save = lambda name, program: torch.export.save(program, folder / f"{name}.pt2")
    for strict in (False, True):
        program = export(ChoosesBySize().double(), [x, {"Y": [wave((5, 3))]}], (batch, {"Y": [batch]}), strict)
        save("chooses_by_size_strict" if strict else "chooses_by_size", program)
    save("by_strides", export(ByStrides(), [wave((2, 3))], (batch,)))
    save("complex_weight", export(ComplexWeight(), [x]))
    save("no_grad_core", export(NoGradFunction().double(), [x]).run_decompositions())
    save("own_derivative", export(OwnDerivative().double(), [x], strict=True))
    save("vmap", export(Mapping().double(), [x]))
    save("numbers", export(Numbers().double(), [x, 3, torch.tensor(0.5, dtype=torch.float64)], (batch, Dim.DYNAMIC, None)))
    save("with_cond", export(Branches().double(), [x]))

    def changed(name, target, change):
        first = lambda document: next(n for n in document["graph_module"]["graph"]["nodes"] if n["target"].endswith(target))
        rewrite_json(folder / "with_cond.pt2", folder / f"{name}.pt2", "models/model.json", lambda document: change(first(document)))

    changed("other_construct", ".cond", lambda node: node.update(target="torch.ops.higher_order.flex_attention"))
    changed("cond_of_less", ".cond", lambda node: node["inputs"].pop(1))
    changed("other_linear", ".linear.default", lambda node: (node.update(target="torch.ops.mine.linear.default"),
                                                            node["metadata"].pop("stack_trace")))
    guards = lambda code: lambda document: document.update(guards_code=[code])
    rewrite_json(folder / "chooses_by_size.pt2", folder / "other_guard.pt2", "models/model.json", guards("open('x')"))

    def older(name, change):
        rewrite(folder / "older.pt2", folder / f"{name}.pt2",
                lambda member, old: change(old) if member.endswith("data/weights/model.pt") else old)

    objects = io.BytesIO()
    torch.save({"embedding.weight": pathlib.PurePosixPath("x")}, objects)
    older("older_cut", lambda old: old[: len(old) // 2])
    older("older_objects", lambda old: objects.getvalue())
    older("older_missing", lambda old: b"")
    torch.manual_seed(3)
    wide = Wide().eval()
    save("autocast_float32", export(wide, [x.float()]))
    torch.save(list(wide(x.float())), folder / "autocast_float32.expected")


class Sized:
    """What stands in for an input in a condition on its sizes."""

    def __init__(self, *sizes):
        self.size = lambda: sizes


def write_conditions(folder):
    """Random conditions on the sizes of x [6, 35] and d["z"][0] [4], and what Python finds them to be."""
    inputs = {"x": Sized(6, 35), "d": {"z": [Sized(4)]}}
    random = Random(0)
    sizes = ["L['x'].size()[0]", "L['x'].size()[1]", "L['d']['z'][0].size()[0]"]

    def number(depth):
        if depth == 0:
            return random.choice(sizes) if random.random() < 0.7 else str(random.randint(0, 9))
        part = lambda: number(random.randint(0, depth - 1))
        return random.choice([
            lambda: f"{part()} + {part()}", lambda: f"{part()} - {part()}", lambda: f"{part()}*{part()}",
            lambda: f"({part()} // {part()})", lambda: f"({part()} % {part()})", lambda: f"({part()} / {part()})",
            lambda: f"-{part()}", lambda: f"({part()})", lambda: f"{random.choice(sizes)} ** {random.randint(0, 3)}",
            lambda: f"-{random.choice(sizes)} ** 2", lambda: f"max({part()}, {part()}, {part()})",
            lambda: f"min({part()}, {part()})", lambda: f"abs({part()})", lambda: f"math.floor({part()} / 4)",
            lambda: f"math.trunc(torch.sym_float({part()}) ** 0.5)", lambda: f"{part()} + 2.5",
        ])()

    def condition(depth):
        if depth == 0:
            sign = lambda: random.choice(["==", "!=", "<", "<=", ">", ">="])
            chain = f" {sign()} {number(1)}" if random.random() < 0.2 else ""
            return f"{number(random.randint(0, 3))} {sign()} {number(random.randint(0, 3))}{chain}"
        part = lambda: condition(random.randint(0, depth - 1))
        return random.choice([lambda: f"{part()} and {part()}", lambda: f"{part()} or {part()}",
                              lambda: f"not {part()}", lambda: f"({part()})"])()

    lines = []
    while len(lines) < 1000:
        code = condition(random.randint(0, 3))
        try:
            value = eval(code, {"L": inputs, "torch": torch, "math": math})
        except (ZeroDivisionError, OverflowError, ValueError, TypeError):
            continue
        lines.append(f"{int(value)} {code}\n")
    (folder / "conditions").write_text("".join(lines))


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
    node("experts", retarget("torch.ops.transformers.grouped_mm_fallback.default"))
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
    write_conditions(destination)
    write_older(destination)
    write_refused(destination)
    write_damaged(destination)
