"""Parts of random networks.

Each takes the draws and the shape of what the part is given, without the samples, and makes a module. VECTORS are given
[B, d], SEQUENCES [B, T, d] (and give [B, T, any]), IMAGES [B, C, *sizes] with one to three sizes. All can be scripted,
traced and exported, and have second derivatives; widths are a few, so that the Hessian of a network is small.
"""

import math
import random
from typing import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Shape = tuple[int, ...]


class Draw(random.Random):
    """Random choices; the same for the same seed."""

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def width(self) -> int:
        return self.randint(4, 8)


Maker = Callable[[Draw, Shape], nn.Module]


def weight(*shape: int) -> nn.Parameter:
    """A parameter whose product with numbers around 1 is around 1; its first dimension is that of the outputs."""
    return nn.Parameter(torch.randn(shape) / math.sqrt(max(1, math.prod(shape[1:]))))


SMOOTH = (nn.Tanh, nn.Sigmoid, nn.Softplus, nn.GELU, nn.ELU, nn.SiLU, nn.Softsign, nn.Mish, nn.LogSigmoid)
KINKED = (nn.ReLU, nn.LeakyReLU, nn.Hardtanh)


def activation(draw: Draw) -> nn.Module:
    return draw.choice(KINKED if draw.chance(0.15) else SMOOTH)()


def activated(draw: Draw, module: nn.Module) -> nn.Module:
    return nn.Sequential(module, activation(draw)) if draw.chance(0.8) else module


# --- around other modules ---------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Parallel(nn.Module):
    """Two branches, added up, multiplied or put side by side along a dimension."""

    def __init__(self, left: nn.Module, right: nn.Module, how: str, dimension: int = 1):
        super().__init__()
        self.left, self.right = left, right
        self.how = how
        self.dimension = dimension

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        if self.how == "sum":
            return a + b
        if self.how == "product":
            return a * b
        if self.how == "gate":
            return a * torch.sigmoid(b)
        return torch.cat([a, b], self.dimension)


class Twice(nn.Module):
    """The same layer at two places of the network."""

    def __init__(self, inner: nn.Module, between: nn.Module):
        super().__init__()
        self.inner, self.between = inner, between

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.between(self.inner(x)))


class TwoInputs(nn.Module):
    """The same layer for two inputs, neither of which depends on the other's output."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * torch.tanh(self.inner(torch.sin(x)))


class UsedTwice(nn.Module):
    """What a layer gives goes to two operations."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return torch.sin(z) + z * torch.tanh(z)


class InPlace(nn.Module):
    """Activations that overwrite what a layer gives."""

    def __init__(self, inner: nn.Module, how: str):
        super().__init__()
        self.inner = inner
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        if self.how == "tanh":
            return z.tanh_()
        if self.how == "sigmoid":
            return z.mul_(0.7).sigmoid_()
        if self.how == "elu":
            return F.elu(z, inplace=True)
        if self.how == "relu":
            return F.relu(z, inplace=True)
        z.add_(x.mean())
        return torch.tanh(z)


class Unused(nn.Module):
    """Beside what is used: a layer that is never called, and one whose output is not used."""

    def __init__(self, inner: nn.Module, width: int):
        super().__init__()
        self.idle = nn.Linear(2, 3)
        self.inner = inner
        self.ignored = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        nothing = 0 * self.ignored(x).sum()
        return self.inner(x) + nothing


class DetachedBranch(nn.Module):
    """A factor through which nothing is derived."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        z = self.inner(x)
        return torch.tanh(z) * (1 + z.detach().square())


class FrozenWeight(nn.Module):
    """Layers of which only biases are trained."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        for parameter in inner.parameters():
            parameter.requires_grad_(parameter.dim() == 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Reordered(nn.Module):
    """A module that wants the dimensions in another order."""

    def __init__(self, inner: nn.Module, first: int, second: int):
        super().__init__()
        self.inner = inner
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(self.first, self.second)).transpose(self.first, self.second)


# --- vectors ----------------------------------------------------------------------------------------------------------


class Product(nn.Module):
    """x W^T + b in the words that networks have for it; x of any number of dimensions where the words allow it."""

    def __init__(self, inputs: int, outputs: int, how: str, bias: bool = True):
        super().__init__()
        self.how = how
        stored_by_input = how in ("x @ w", "matmul", "mm", "einsum by input", "addmm by input")
        self.weight = (
            nn.Parameter(weight(outputs, inputs).detach().t().contiguous())
            if stored_by_input
            else weight(outputs, inputs)
        )
        self.bias = nn.Parameter(0.3 * torch.randn(outputs)) if bias else None

    def product(self, x: Tensor) -> Tensor:
        w = self.weight
        if self.how == "x @ w":
            return x @ w
        if self.how == "matmul":
            return torch.matmul(x, w)
        if self.how == "mm":
            return torch.mm(x, w)
        if self.how == "matmul t":
            return torch.matmul(x, w.t())
        if self.how == "mm t":
            return torch.mm(x, w.t())
        if self.how == "left":
            return torch.mm(w, x.t()).t()
        if self.how == "einsum":
            return torch.einsum("...i,oi->...o", x, w)
        if self.how == "einsum by input":
            return torch.einsum("...i,io->...o", x, w)
        if self.how == "tensordot":
            return torch.tensordot(x, w, dims=([-1], [1]))
        if self.how == "mv":
            return torch.stack([torch.mv(w, x[0])] * x.size(0)) + x.mean(1, keepdim=True)
        if self.how == "bmm":
            return torch.bmm(w.unsqueeze(0).expand(x.size(0), -1, -1), x.unsqueeze(2)).squeeze(2)
        if self.how == "sum of products":
            return (x.unsqueeze(-2) * w).sum(-1)
        return F.linear(x, w)

    def forward(self, x: Tensor) -> Tensor:
        b = self.bias
        if b is None:
            return self.product(x)
        if self.how == "linear":
            return F.linear(x, self.weight, b)
        if self.how == "addmm":
            return torch.addmm(b, x, self.weight.t())
        if self.how == "addmm by input":
            return torch.addmm(b, x, self.weight)
        if self.how == "addmm scaled":
            return torch.addmm(b, x, self.weight.t(), beta=0.5, alpha=1.5)
        return self.product(x) + b


def product(how: str, bias: bool = True) -> Maker:
    return lambda draw, shape: activated(draw, Product(shape[-1], draw.width(), how, bias))


class DerivedWeight(nn.Module):
    """A layer whose weight is computed from parameters."""

    def __init__(self, inputs: int, outputs: int, how: str):
        super().__init__()
        self.how = how
        self.v = weight(outputs, inputs)
        self.g = nn.Parameter(torch.rand(outputs, 1) + 0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("mask", (torch.rand(outputs, inputs) < 0.6).float())

    def forward(self, x: Tensor) -> Tensor:
        v = self.v
        if self.how == "norm":
            w = self.g * v / torch.norm(v, dim=1, keepdim=True)
        elif self.how == "mask":
            w = v * self.mask + self.g
        elif self.how == "tanh":
            w = torch.tanh(v) * self.g
        elif self.how == "standard":
            w = (v - v.mean(1, keepdim=True)) / (v.var(1, keepdim=True) + 0.1).sqrt() * self.g
        else:  # the weight of the layer, and in a term beside it
            return F.linear(x, v, self.bias) + (v * v).sum(1) * self.g.squeeze(1)
        return F.linear(x, w, self.bias)


def derived(how: str) -> Maker:
    return lambda draw, shape: activated(draw, DerivedWeight(shape[-1], draw.width(), how))


class LowRank(nn.Module):
    def __init__(self, inputs: int, outputs: int, rank: int):
        super().__init__()
        self.a, self.b = weight(inputs, rank), weight(rank, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.a @ self.b


class TiedTransposed(nn.Module):
    """Into a hidden layer by W and back by W^T, as tied autoencoders do."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.weight = weight(hidden, width)
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(x, self.weight, self.bias)), self.weight.t())


class PartsOfWeight(nn.Module):
    """One weight whose rows serve two layers."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = weight(2 * outputs, inputs)
        self.bias = nn.Parameter(0.3 * torch.randn(2 * outputs))

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight.chunk(2, 0)
        half = self.weight.size(0) // 2
        return torch.tanh(F.linear(x, w[0], self.bias[:half])) * F.linear(x, w[1]) + self.bias[half:]


class PartsOfOutput(nn.Module):
    """One layer whose output is cut into gate and value."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layer = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.layer(x).chunk(2, -1)
        return value * torch.sigmoid(gate)


class PartsOfInput(nn.Module):
    """Layers on parts of the input, of which some elements are left out and some repeated."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.half = (inputs + 1) // 2
        self.left = nn.Linear(self.half, outputs)
        self.right = nn.Linear(self.half, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x[:, : self.half]) * self.right(torch.cos(x[:, -self.half :]))


class ScaleAndShift(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(1 + 0.3 * torch.randn(width))
        self.shift = nn.Parameter(0.3 * torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class AcrossSamples(nn.Module):
    """A layer after which samples see each other."""

    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return torch.softmax(z @ x.t() / 2, 1) @ z - z.mean(0)


class OverSamples(nn.Module):
    """A layer whose input for a sample depends on the other samples, or is the same for all of them."""

    def __init__(self, width: int, outputs: int, same: bool):
        super().__init__()
        self.layer = nn.Linear(width, outputs)
        self.side = nn.Linear(width, outputs)
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(0, keepdim=True)
        if self.same:
            return torch.tanh(self.side(x)) * self.layer(mean.expand(x.size(0), -1))
        return torch.tanh(self.side(x)) + self.layer(mean)


class Hypernetwork(nn.Module):
    """Each sample has a weight of its own, which a layer computes."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.make = nn.Linear(width, width * outputs)
        self.width, self.outputs = width, outputs

    def forward(self, x: Tensor) -> Tensor:
        w = self.make(torch.sin(x)).view(-1, self.outputs, self.width)
        return torch.bmm(w, x.unsqueeze(2)).squeeze(2)


class SelfBilinear(nn.Module):
    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.layer = nn.Bilinear(width, width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, torch.tanh(x))


class BetweenDimensions(nn.Module):
    """A layer for [B, 1, d], and for the transpose in memory."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x.unsqueeze(1)).squeeze(1))
        return self.second(x.t().contiguous().t())


class Unrolled(nn.Module):
    """A fixed-point layer, three steps of it."""

    def __init__(self, width: int):
        super().__init__()
        self.state, self.data = nn.Linear(width, width, bias=False), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(3):
            z = torch.tanh(self.state(z) + self.data(x))
        return z


def batch_norm(draw: Draw, channels: int, dimensions: int) -> nn.Module:
    """Away from the statistics and factors that a new layer has."""
    kind = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions]
    norm = kind(channels, affine=draw.chance(0.8), eps=1e-2)
    with torch.no_grad():
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.5, 2)
        if norm.affine:
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    return norm


def group_norm(draw: Draw, channels: int) -> nn.Module:
    norm = nn.GroupNorm(
        draw.choice([g for g in range(1, channels + 1) if channels % g == 0 and channels > g] or [1]), channels, 1e-2
    )
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    return norm


def layer_norm(width: int) -> nn.Module:
    norm = nn.LayerNorm(width, 1e-2)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.5, 0.5)
    return norm


def linear(draw: Draw, shape: Shape) -> nn.Module:
    return activated(draw, nn.Linear(shape[-1], draw.width(), bias=draw.chance(0.8)))


def parallel(how: str, dimension: int, part: Maker) -> Maker:
    """Two parts of one kind; where they have to fit, the second is drawn like the first."""

    def make(draw: Draw, shape: Shape) -> nn.Module:
        seed = draw.random()
        return Parallel(part(Draw(seed), shape), part(Draw(seed), shape), how, dimension)

    return make


def in_place(part: Maker) -> Maker:
    return lambda draw, shape: InPlace(part(draw, shape), draw.choice(["tanh", "sigmoid", "elu", "relu", "add"]))


def keeping(width: int, bias: bool = True) -> nn.Module:
    return nn.Linear(width, width, bias)


VECTORS: dict[str, Maker] = {
    "linear": linear,
    "linear_without_bias": lambda draw, s: activated(draw, nn.Linear(s[0], draw.width(), bias=False)),
    "two_layers": lambda draw, s: nn.Sequential(
        nn.Linear(s[0], 5), activation(draw), nn.Linear(5, 4), activation(draw)
    ),
    "f_linear": product("linear"),
    "addmm": product("addmm"),
    "addmm_by_input": product("addmm by input"),
    "addmm_scaled": product("addmm scaled"),
    "mm_t": product("mm t"),
    "mm": product("mm"),
    "matmul_t": product("matmul t"),
    "matmul": product("x @ w", bias=False),
    "weight_from_the_left": product("left"),
    "mv": product("mv"),
    "einsum": product("einsum by input"),
    "tensordot": product("tensordot"),
    "bmm_of_expanded_weight": product("bmm"),
    "sum_of_products": product("sum of products"),
    "bias_by_hand": product("matmul t"),
    "frozen_weight": lambda draw, s: nn.Sequential(FrozenWeight(nn.Linear(s[0], 5)), activation(draw), nn.Linear(5, 4)),
    "frozen_weight_bias_by_hand": lambda draw, s: FrozenWeight(Product(s[0], 4, "mm t")),
    "weight_norm": derived("norm"),
    "weight_mask": derived("mask"),
    "weight_tanh": derived("tanh"),
    "weight_standardised": derived("standard"),
    "weight_in_another_operation": derived("beside"),
    "low_rank": lambda draw, s: activated(draw, LowRank(s[0], draw.width(), 2)),
    "tied_transposed": lambda draw, s: TiedTransposed(s[0], draw.width()),
    "parts_of_weight": lambda draw, s: PartsOfWeight(s[0], draw.width()),
    "parts_of_output": lambda draw, s: PartsOfOutput(s[0], draw.width()),
    "parts_of_input": lambda draw, s: PartsOfInput(s[0], draw.width()),
    "scale_and_shift": lambda draw, s: activated(draw, ScaleAndShift(s[0])),
    "samples_interact": lambda draw, s: AcrossSamples(s[0]),
    "mean_over_samples": lambda draw, s: OverSamples(s[0], draw.width(), draw.chance(0.5)),
    "hypernetwork": lambda draw, s: Hypernetwork(s[0], 3),
    "bilinear": lambda draw, s: activated(draw, SelfBilinear(s[0], 3)),
    "between_dimensions": lambda draw, s: BetweenDimensions(s[0], draw.width()),
    "unrolled": lambda draw, s: Unrolled(s[0]),
    "layer_used_twice": lambda draw, s: Twice(keeping(s[0], draw.chance(0.7)), activation(draw)),
    "layer_with_two_inputs": lambda draw, s: TwoInputs(nn.Linear(s[0], draw.width(), draw.chance(0.7))),
    "output_used_twice": lambda draw, s: UsedTwice(nn.Linear(s[0], draw.width())),
    "in_place": in_place(lambda draw, s: nn.Linear(s[-1], draw.width())),
    "residual": lambda draw, s: Residual(nn.Sequential(keeping(s[0]), activation(draw))),
    "residual_of_two": lambda draw, s: Residual(
        nn.Sequential(nn.Linear(s[0], 5), activation(draw), nn.Linear(5, s[0]))
    ),
    "parallel_sum": parallel("sum", 1, linear),
    "parallel_cat": parallel("cat", 1, linear),
    "product_of_branches": parallel("product", 1, linear),
    "gated": parallel("gate", 1, linear),
    "unused": lambda draw, s: Unused(linear(draw, s), s[0]),
    "detached_branch": lambda draw, s: DetachedBranch(nn.Linear(s[0], draw.width())),
    "layer_norm": lambda draw, s: nn.Sequential(nn.Linear(s[0], 5), layer_norm(5), activation(draw)),
    "group_norm": lambda draw, s: nn.Sequential(nn.Linear(s[0], 6), group_norm(draw, 6), activation(draw)),
    "batch_norm_eval": lambda draw, s: nn.Sequential(nn.Linear(s[0], 5), batch_norm(draw, 5, 0), activation(draw)),
    "batch_norm_train": lambda draw, s: nn.Sequential(nn.Linear(s[0], 5), batch_norm(draw, 5, 0), activation(draw)),
}


# --- sequences --------------------------------------------------------------------------------------------------------


class Flattened(nn.Module):
    """[B, T, d] as [B * T, d] and back."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x.contiguous().view(-1, x.size(2)))
        return y.view(x.size(0), x.size(1), y.size(1))


class Attention(nn.Module):
    """By hand: of one head or several, by fused or single projections, causal or not."""

    def __init__(self, width: int, heads: int, causal: bool, tied: bool):
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.query = nn.Linear(width, width, bias=False)
        self.key = self.query if tied else nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), self.heads, x.size(2) // self.heads).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.size(-1))
        if self.causal:
            mask = torch.ones(x.size(1), x.size(1), dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(mask, -1e9)
        y = torch.matmul(torch.softmax(scores, -1), v)
        return self.out(y.transpose(1, 2).reshape(x.size(0), x.size(1), x.size(2)))


class FusedAttention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.size(0), x.size(1), x.size(2)
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return y.transpose(1, 2).reshape(batch, length, width)


class LearntQueries(nn.Module):
    """Attention of parameters to positions."""

    def __init__(self, width: int, queries: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.queries @ self.key(x).transpose(1, 2), -1) @ self.value(x)


class MultiheadAttention(nn.Module):
    def __init__(self, width: int, heads: int, batch_first: bool, weights: bool):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=batch_first)
        self.batch_first, self.weights = batch_first, weights

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        y, _ = self.attention(x, x, x, need_weights=self.weights)
        return y if self.batch_first else y.transpose(0, 1)


class Recurrent(nn.Module):
    """PyTorch's recurrent layers: states at all positions."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.layer(x)
        return states


class GruCell(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.cell = nn.GRUCell(inputs, width)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), self.width)  # traced, zeros() would be in float64 for good
        states: list[Tensor] = []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            states.append(h)
        return torch.stack(states, 1)


class LstmCell(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.cell = nn.LSTMCell(inputs, width)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), self.width)  # traced, zeros() would be in float64 for good
        c = h
        states: list[Tensor] = []
        for t in range(x.size(1)):
            h, c = self.cell(x[:, t], (h, c))
            states.append(h)
        return torch.stack(states, 1)


class RecurrentByHand(nn.Module):
    """The input's product for all positions at once, the state's one after the other."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.data, self.state = nn.Linear(inputs, width), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        fed = self.data(x)
        h = torch.tanh(fed[:, 0])
        states = [h]
        for t in range(1, x.size(1)):
            h = torch.tanh(fed[:, t] + self.state(h))
            states.append(h)
        return torch.stack(states, 1)


class SomePositions(nn.Module):
    """A layer that sees the first position alone, and one that sees the others."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first, self.others = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x[:, 0]).unsqueeze(1), torch.tanh(self.others(x[:, 1:]))], 1)


class Positions(nn.Module):
    def __init__(self, length: int, width: int):
        super().__init__()
        self.position = nn.Parameter(0.5 * torch.randn(length, width))
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x + self.position))


class BmmOfPositions(nn.Module):
    """A weight for each position: bmm and baddbmm over positions."""

    def __init__(self, length: int, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, inputs, outputs) / math.sqrt(inputs))
        self.bias = nn.Parameter(0.3 * torch.randn(length, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


def heads_of(draw: Draw, width: int) -> int:
    return draw.choice([h for h in (1, 2, 3) if width % h == 0])


def encoder_layer(draw: Draw, shape: Shape) -> nn.Module:
    width = shape[1]
    return nn.TransformerEncoderLayer(
        width,
        heads_of(draw, width),
        dim_feedforward=4,
        dropout=0.0,
        activation=draw.choice(["relu", "gelu"]),
        layer_norm_eps=1e-2,
        batch_first=True,
        norm_first=draw.chance(0.5),
    )


def norm_over_channels(norm: nn.Module) -> nn.Module:
    return Reordered(norm, 1, 2)


def multihead(batch_first: bool) -> Maker:
    return lambda draw, s: MultiheadAttention(s[1], heads_of(draw, s[1]), batch_first, draw.chance(0.5))


SEQUENCES: dict[str, Maker] = {
    "positions_linear": linear,
    "positions_without_bias": lambda draw, s: activated(draw, nn.Linear(s[1], draw.width(), bias=False)),
    "positions_flattened": lambda draw, s: activated(draw, Flattened(nn.Linear(s[1], draw.width()))),
    "positions_flattened_addmm": lambda draw, s: activated(draw, Flattened(Product(s[1], draw.width(), "addmm"))),
    "positions_flattened_mm": lambda draw, s: activated(draw, Flattened(Product(s[1], draw.width(), "mm"))),
    "time_first": lambda draw, s: activated(draw, Reordered(nn.Linear(s[1], draw.width()), 0, 1)),
    "time_first_flattened": lambda draw, s: Reordered(Flattened(linear(draw, s)), 0, 1),
    "positions_matmul": product("matmul"),
    "positions_matmul_t": product("matmul t"),
    "positions_x_w": product("x @ w"),
    "positions_einsum": product("einsum"),
    "positions_tensordot": product("tensordot"),
    "positions_derived_weight": derived("norm"),
    "weight_per_position": lambda draw, s: activated(draw, BmmOfPositions(s[0], s[1], 3)),
    "over_positions": lambda draw, s: activated(draw, Reordered(nn.Linear(s[0], s[0]), 1, 2)),
    "mixer": lambda draw, s: nn.Sequential(
        Residual(Reordered(keeping(s[0]), 1, 2)), activation(draw), Residual(keeping(s[1]))
    ),
    "some_positions": lambda draw, s: SomePositions(s[1], draw.width()),
    "position_embedding": lambda draw, s: Positions(s[0], s[1]),
    "attention_one_head": lambda draw, s: Attention(s[1], 1, draw.chance(0.3), False),
    "attention_heads": lambda draw, s: Attention(s[1], heads_of(draw, s[1]), draw.chance(0.5), False),
    "attention_tied": lambda draw, s: Attention(s[1], heads_of(draw, s[1]), False, True),
    "attention_fused": lambda draw, s: FusedAttention(s[1], heads_of(draw, s[1]), draw.chance(0.5)),
    "attention_residual": lambda draw, s: Residual(FusedAttention(s[1], heads_of(draw, s[1]), True)),
    "attention_to_parameters": lambda draw, s: LearntQueries(s[1], 2),
    "multihead_batch_first": multihead(True),
    "multihead_time_first": multihead(False),
    "encoder_layer": encoder_layer,
    "positions_layer_norm": lambda draw, s: nn.Sequential(layer_norm(s[1]), linear(draw, s)),
    "positions_group_norm": lambda draw, s: nn.Sequential(nn.Linear(s[1], 4), norm_over_channels(group_norm(draw, 4))),
    "positions_batch_norm_eval": lambda draw, s: nn.Sequential(
        norm_over_channels(batch_norm(draw, s[1], 1)), linear(draw, s)
    ),
    "positions_batch_norm_train": lambda draw, s: nn.Sequential(
        nn.Linear(s[1], 4), norm_over_channels(batch_norm(draw, 4, 1)), activation(draw)
    ),
    "gru": lambda draw, s: Recurrent(nn.GRU(s[1], 3, batch_first=True)),
    "lstm": lambda draw, s: Recurrent(nn.LSTM(s[1], 3, batch_first=True, bidirectional=draw.chance(0.3))),
    "rnn": lambda draw, s: Recurrent(nn.RNN(s[1], 3, num_layers=draw.randint(1, 2), batch_first=True)),
    "gru_cell": lambda draw, s: GruCell(s[1], 3),
    "lstm_cell": lambda draw, s: LstmCell(s[1], 3),
    "recurrent_by_hand": lambda draw, s: RecurrentByHand(s[1], draw.width()),
    "conv_over_time": lambda draw, s: activated(draw, Reordered(nn.Conv1d(s[1], 4, 3, padding=1), 1, 2)),
    "positions_residual": lambda draw, s: Residual(
        nn.Sequential(nn.Linear(s[1], 5), activation(draw), nn.Linear(5, s[1]))
    ),
    "positions_gated": parallel("gate", 2, linear),
    "positions_cat": parallel("cat", 2, linear),
    "positions_layer_twice": lambda draw, s: Twice(keeping(s[1]), activation(draw)),
    "positions_in_place": in_place(lambda draw, s: nn.Linear(s[-1], draw.width())),
    "positions_output_twice": lambda draw, s: UsedTwice(nn.Linear(s[1], draw.width())),
    "positions_parts_of_output": lambda draw, s: PartsOfOutput(s[1], 3),
    "positions_frozen_weight": lambda draw, s: nn.Sequential(
        FrozenWeight(keeping(s[1])), activation(draw), nn.Linear(s[1], 4)
    ),
}


# --- images -----------------------------------------------------------------------------------------------------------


def conv_of(dimensions: int) -> type[nn.Module]:
    return {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]


def transposed_of(dimensions: int) -> type[nn.Module]:
    return {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dimensions]


def kernel(draw: Draw, shape: Shape, largest: int = 3) -> Shape:
    return tuple(draw.randint(1, min(largest, size)) for size in shape[1:])


def odd_kernel(draw: Draw, shape: Shape) -> Shape:
    return tuple(3 if size > 1 and draw.chance(0.8) else 1 for size in shape[1:])


def conv(draw: Draw, shape: Shape, size: Shape, **options) -> nn.Module:
    options.setdefault("bias", draw.chance(0.8))
    outputs = options.pop("outputs", draw.randint(2, 4))
    return conv_of(len(shape) - 1)(shape[0], outputs, size, **options)


def plain(draw: Draw, shape: Shape) -> nn.Module:
    return activated(draw, conv(draw, shape, kernel(draw, shape)))


def strided(draw: Draw, shape: Shape) -> nn.Module:
    size = kernel(draw, shape)
    return activated(
        draw,
        conv(draw, shape, size, stride=tuple(draw.randint(1, 2) for _ in size), padding=tuple(k // 2 for k in size)),
    )


def dilated(draw: Draw, shape: Shape) -> nn.Module:
    size = odd_kernel(draw, shape)
    edge = 1 if min(shape[1:]) >= 3 else 2  # what fits into the image, with something over its edge
    return activated(draw, conv(draw, shape, size, dilation=2, padding=tuple(edge * (k // 2) for k in size)))


def grouped(draw: Draw, shape: Shape) -> nn.Module:
    """To an even number of channels, then in groups."""
    first = conv(draw, shape, 1, outputs=4)
    second = conv(draw, (4, *shape[1:]), kernel(draw, shape), groups=2, outputs=draw.choice([2, 4, 6]))
    return nn.Sequential(first, activation(draw), second)


def depthwise(draw: Draw, shape: Shape) -> nn.Module:
    channels = shape[0]
    each = conv(draw, shape, kernel(draw, shape), groups=channels, outputs=channels * draw.randint(1, 2))
    return nn.Sequential(each, activation(draw), conv_of(len(shape) - 1)(each.out_channels, 3, 1))


def padded(draw: Draw, shape: Shape) -> nn.Module:
    size = kernel(draw, shape)
    return activated(draw, conv(draw, shape, size, padding=tuple(draw.randint(0, 2) for _ in size)))


def padded_by(mode: str) -> Maker:
    def make(draw: Draw, shape: Shape) -> nn.Module:
        size = odd_kernel(draw, shape)
        return activated(draw, conv(draw, shape, size, padding=tuple(k // 2 for k in size), padding_mode=mode))

    return make


def transposed(draw: Draw, shape: Shape) -> nn.Module:
    dimensions = len(shape) - 1
    stride = draw.randint(1, 2)
    options = {"stride": stride, "padding": draw.randint(0, 1), "output_padding": draw.randint(0, stride - 1)}
    layer = transposed_of(dimensions)(shape[0], draw.randint(2, 3), 3, bias=draw.chance(0.7), **options)
    return activated(draw, layer)


def transposed_grouped(draw: Draw, shape: Shape) -> nn.Module:
    first = conv(draw, shape, 1, outputs=4)
    second = transposed_of(len(shape) - 1)(4, 4, 2, stride=2, groups=draw.choice([2, 4]), dilation=draw.randint(1, 2))
    return nn.Sequential(first, activation(draw), second)


def same_size(draw: Draw, shape: Shape) -> nn.Module:
    """A convolution after which the shape is what it was."""
    size = odd_kernel(draw, shape)
    return conv(draw, shape, size, padding=tuple(k // 2 for k in size), outputs=shape[0])


class ConvByHand(nn.Module):
    """torch.nn.functional's convolutions, with a bias added by hand and a weight that may be computed."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, size: Shape, how: str):
        super().__init__()
        self.dimensions = dimensions
        self.how = how
        self.weight = weight(outputs, inputs, *size)
        self.bias = nn.Parameter(0.3 * torch.randn(outputs, *[1] * dimensions))

    def convolve(self, x: Tensor, w: Tensor) -> Tensor:
        if self.dimensions == 1:
            return F.conv1d(x, w)
        if self.dimensions == 2:
            return F.conv2d(x, w)
        return F.conv3d(x, w)

    def back(self, x: Tensor, w: Tensor) -> Tensor:
        if self.dimensions == 1:
            return F.conv_transpose1d(x, w)
        if self.dimensions == 2:
            return F.conv_transpose2d(x, w)
        return F.conv_transpose3d(x, w)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "standard":
            w = self.weight - self.weight.mean()
            return self.convolve(x, w / (w.square().mean() + 0.1).sqrt()) + self.bias
        if self.how == "tied":  # into channels and back by one weight
            return self.back(torch.tanh(self.convolve(x, self.weight) + self.bias), self.weight)
        return self.convolve(x, self.weight) + self.bias


def by_hand(how: str) -> Maker:
    def make(draw: Draw, shape: Shape) -> nn.Module:
        layer = ConvByHand(len(shape) - 1, shape[0], draw.randint(2, 4), kernel(draw, shape), how)
        return activated(draw, layer)

    return make


class ChannelLast(nn.Module):
    """A layer that sees the channels of each position."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.movedim(1, -1)).movedim(-1, 1)


class Unfolded(nn.Module):
    """A convolution as the product of a weight with patches."""

    def __init__(self, channels: int, outputs: int):
        super().__init__()
        self.weight = weight(outputs, channels * 4)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, [2, 2])
        return (self.weight @ patches).view(x.size(0), self.weight.size(0), x.size(2) - 1, x.size(3) - 1)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, 2), nn.Linear(2, channels)

    def forward(self, x: Tensor) -> Tensor:
        factor = torch.sigmoid(self.excite(torch.tanh(self.squeeze(x.flatten(2).mean(2)))))
        return x * factor.view([x.size(0), x.size(1)] + [1] * (x.dim() - 2))


def unfolded(draw: Draw, shape: Shape) -> nn.Module:
    if len(shape) == 3 and min(shape[1:]) >= 2:
        return activated(draw, Unfolded(shape[0], 3))
    return activated(draw, ConvByHand(len(shape) - 1, shape[0], 3, kernel(draw, shape), "plain"))


def pool(kind: str) -> Maker:
    kinds = {
        "avg": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        "max": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
        "adaptive": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    }

    def make(draw: Draw, shape: Shape) -> nn.Module:
        size = tuple(min(2, s) for s in shape[1:])
        layer = kinds[kind][len(size) - 1](size if len(size) > 1 else size[0])
        return nn.Sequential(same_size(draw, shape), activation(draw), layer)

    return make


def normed(kind: str) -> Maker:
    def make(draw: Draw, shape: Shape) -> nn.Module:
        norm = group_norm(draw, 4) if kind == "group" else batch_norm(draw, 4, len(shape) - 1)
        return nn.Sequential(conv(draw, shape, kernel(draw, shape), outputs=4), norm, activation(draw))

    return make


IMAGES: dict[str, Maker] = {
    "conv": plain,
    "conv_two": lambda draw, s: nn.Sequential(same_size(draw, s), activation(draw), plain(draw, s)),
    "conv_one": lambda draw, s: activated(draw, conv(draw, s, 1)),
    "conv_whole": lambda draw, s: activated(draw, conv(draw, s, s[1:])),
    "conv_without_bias": lambda draw, s: activated(draw, conv(draw, s, kernel(draw, s), bias=False)),
    "conv_strided": strided,
    "conv_dilated": dilated,
    "conv_grouped": grouped,
    "conv_depthwise": depthwise,
    "conv_padded": padded,
    "conv_same": lambda draw, s: activated(draw, conv(draw, s, kernel(draw, s), padding="same")),
    "conv_valid": lambda draw, s: activated(draw, conv(draw, s, kernel(draw, s), padding="valid")),
    "conv_circular": padded_by("circular"),
    "conv_replicate": padded_by("replicate"),
    "conv_reflect": padded_by("reflect"),
    "conv_transposed": transposed,
    "conv_transposed_strided": lambda draw, s: activated(draw, transposed_of(len(s) - 1)(s[0], 2, 2, stride=2)),
    "conv_transposed_grouped": transposed_grouped,
    "conv_by_hand": by_hand("plain"),
    "conv_derived_weight": by_hand("standard"),
    "conv_tied": by_hand("tied"),
    "conv_unfolded": unfolded,
    "conv_frozen_weight": lambda draw, s: nn.Sequential(
        FrozenWeight(same_size(draw, s)), activation(draw), plain(draw, s)
    ),
    "conv_twice": lambda draw, s: Twice(same_size(draw, s), activation(draw)),
    "conv_with_two_inputs": lambda draw, s: TwoInputs(conv(draw, s, kernel(draw, s))),
    "conv_output_twice": lambda draw, s: UsedTwice(conv(draw, s, kernel(draw, s))),
    "conv_in_place": in_place(lambda draw, s: conv(draw, s, kernel(draw, s))),
    "conv_residual": lambda draw, s: Residual(activated(draw, same_size(draw, s))),
    "conv_parallel_sum": parallel("sum", 1, plain),
    "conv_parallel_cat": parallel("cat", 1, plain),
    "conv_gated": parallel("gate", 1, plain),
    "conv_product": parallel("product", 1, plain),
    "conv_channel_last_linear": lambda draw, s: nn.Sequential(
        same_size(draw, s), activation(draw), ChannelLast(linear(draw, s[:1]))
    ),
    "channel_last_linear": lambda draw, s: ChannelLast(linear(draw, s[:1])),
    "conv_channel_last_layer_norm": lambda draw, s: nn.Sequential(same_size(draw, s), ChannelLast(layer_norm(s[0]))),
    "linear_over_last_size": lambda draw, s: activated(draw, nn.Linear(s[-1], s[-1])),
    "squeeze_excite": lambda draw, s: nn.Sequential(same_size(draw, s), SqueezeExcite(s[0])),
    "avg_pool": pool("avg"),
    "max_pool": pool("max"),
    "adaptive_pool": pool("adaptive"),
    "conv_group_norm": normed("group"),
    "conv_batch_norm_eval": normed("batch"),
    "conv_batch_norm_train": normed("batch"),
}
