"""Networks around one layer of torch.nn or one functional operator each, for operators.py.

All are small: a linear layer makes four numbers of a sample, a fixed matrix spreads them over what the layer takes, and
another one gathers what it returns for a last linear layer. So second derivatives flow through layers without parameters.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SAMPLES = 4
FEATURES = 3  # of a sample
HIDDEN = 4
OUTPUTS = 2


class Around(nn.Module):
    """x [B, 3] -> [B, 2]; the layer sees [B, *shape]."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...], scale: float = 0.7, head: bool = True):
        super().__init__()
        self.first = nn.Linear(FEATURES, HIDDEN)
        self.layer = layer
        self.shape = list(shape)
        size = torch.Size(shape).numel()
        self.register_buffer("spread", scale * torch.randn(HIDDEN, size))
        with torch.no_grad():
            example = torch.randn(SAMPLES, *shape).double()
            width = layer.double()(example).flatten(1).shape[1]
        self.register_buffer("gather", torch.randn(width, 3) / width**0.5)
        self.last = nn.Linear(3, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x)) @ self.spread
        h = self.layer(h.unflatten(1, self.shape))
        return self.last(torch.tanh(h.flatten(1) @ self.gather))


class OfTokens(nn.Module):
    """Tokens [B, ...] -> [B, 2], by a layer that takes indices."""

    def __init__(self, layer: nn.Module, width: int):
        super().__init__()
        self.layer = layer
        self.last = nn.Linear(width, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.layer(x).flatten(1)))


class FirstOf(nn.Module):
    """Of what a recurrent layer returns."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Cell(nn.Module):
    """Two steps of a cell without a second state."""

    def __init__(self, cell: nn.Module):
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        h = self.cell(x[:, 0])
        return self.cell(x[:, 1], h)


class MemoryCell(nn.Module):
    """Two steps of an LSTM cell."""

    def __init__(self, cell: nn.Module):
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        h, c = self.cell(x[:, 0])
        h, c = self.cell(x[:, 1], (h, c))
        return h + c


class PackedGru(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(2, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([3, 3, 2, 1])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]


class SelfAttention(nn.Module):
    def __init__(self, attention: nn.MultiheadAttention, weights: bool = False):
        super().__init__()
        self.attention, self.weights = attention, weights

    def forward(self, x: Tensor) -> Tensor:
        found, scores = self.attention(x, x, x, need_weights=self.weights)
        return found if scores is None else torch.cat([found, scores], -1)


class WithItself(nn.Module):
    """A layer of two arguments: what comes, and its mirror image."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, torch.sin(x.flip(-1)))


class PoolAndBack(nn.Module):
    def __init__(self, pool: nn.Module, unpool: nn.Module):
        super().__init__()
        self.pool, self.unpool = pool, unpool

    def forward(self, x: Tensor) -> Tensor:
        values, places = self.pool(x)
        return self.unpool(torch.sin(values), places)


class Adaptive(nn.Module):
    """The logarithms of the probabilities of all classes."""

    def __init__(self):
        super().__init__()
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(2, 4, [2], div_value=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.softmax.log_prob(x)


class AdaptiveOwnLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(FEATURES, 2)
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(2, 4, [2], div_value=1.0)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.softmax(torch.tanh(self.first(x)), y)[1]


class Bags(nn.Module):
    def __init__(self, weighted: bool = False, **options):
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 3, **options)
        self.weighted = weighted
        self.register_buffer("weights", torch.rand(SAMPLES, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.bag(x, None, self.weights) if self.weighted else self.bag(x)


class Offsets(nn.Module):
    """Bags of several sizes, one of which is empty."""

    def __init__(self, mode: str):
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 3, mode=mode)
        self.register_buffer("offsets", torch.tensor([0, 3, 3, 7]))

    def forward(self, x: Tensor) -> Tensor:
        return self.bag(x.flatten(), self.offsets)


class FastPath(nn.Module):
    """What nn.TransformerEncoderLayer calls where it sees no gradients."""

    def __init__(self, encoder: nn.TransformerEncoderLayer):
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        e, a = self.encoder, self.encoder.self_attn
        norms = (e.norm1.weight, e.norm1.bias, e.norm2.weight, e.norm2.bias)
        feeds = (e.linear1.weight, e.linear1.bias, e.linear2.weight, e.linear2.bias)
        return torch._transformer_encoder_layer_fwd(
            x, 2, 1, a.in_proj_weight, a.in_proj_bias, a.out_proj.weight, a.out_proj.bias, False, False, 1e-5,
            norms[0], norms[1], norms[2], norms[3], feeds[0], feeds[1], feeds[2], feeds[3],
        )


class FastAttention(nn.Module):
    """What nn.MultiheadAttention calls where it sees no gradients."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, o = self.qkv, self.out
        return torch._native_multi_head_attention(x, x, x, self.width, 1, q.weight, q.bias, o.weight, o.bias)[0]


def frozen(network: "Around") -> "Around":
    """All but the last layer."""
    network.requires_grad_(False)
    network.last.requires_grad_(True)
    return network


class Decoder(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, torch.sin(x.flip(1)))


class Padded(nn.Module):
    """An encoder with a mask of padding, for which PyTorch has a path of its own."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer
        self.register_buffer("padding", torch.tensor([[False, False, True]] * SAMPLES))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, src_key_padding_mask=self.padding)[:, :2]


# --- functional operators -----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, causal: bool = False, masked: bool = False, dropout: float = 0.0):
        super().__init__()
        self.causal, self.masked, self.dropout = causal, masked, dropout
        self.register_buffer("mask", torch.tensor([[0.0, -1.0, 0.5]] * 3))

    def forward(self, x: Tensor) -> Tensor:
        h = x.unsqueeze(1)
        mask = self.mask if self.masked else None
        rate = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(h, torch.sin(h), h.flip(-1), mask, rate, self.causal)


class GridSample(nn.Module):
    def __init__(self, mode: str, padding: str):
        super().__init__()
        self.mode, self.padding = mode, padding
        self.register_buffer("theta", torch.tensor([[[0.9, 0.1, 0.05], [-0.1, 0.8, 0.07]]] * SAMPLES))

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.theta * (1 + 0.1 * x.mean((1, 2, 3))).view(-1, 1, 1), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, mode=self.mode, padding_mode=self.padding, align_corners=False)


class Functional(nn.Module):
    """A function of one tensor, by its name."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "normalize":
            return F.normalize(x, dim=1)
        if self.name == "cosine similarity of pairs":
            return F.cosine_similarity(x.unsqueeze(1), x.unsqueeze(2) + 0.3, dim=-1)
        if self.name == "cdist":
            return torch.cdist(x, torch.sin(x) + 1)
        if self.name == "cdist p=1":
            return torch.cdist(x, torch.sin(x) + 1, p=1.0)
        if self.name == "pdist":
            return F.pdist(x.flatten(1)).unsqueeze(0).expand(x.size(0), 6)
        if self.name == "logsigmoid":
            return F.logsigmoid(x)
        if self.name == "bicubic":
            return F.interpolate(x, scale_factor=[1.5, 1.5], mode="bicubic", align_corners=False)
        if self.name == "bilinear antialias":
            return F.interpolate(x, size=[2, 2], mode="bilinear", align_corners=False, antialias=True)
        if self.name == "area":
            return F.interpolate(x, size=[2, 2], mode="area")
        if self.name == "nearest-exact":
            return F.interpolate(x, size=[3, 3], mode="nearest-exact")
        if self.name == "cumulative product":
            return torch.cumprod(x, 1)
        if self.name == "sorted":
            return torch.sort(x, 1)[0]
        if self.name == "logcumsumexp":
            return torch.logcumsumexp(x, 1)
        if self.name == "matrix_exp":
            return torch.matrix_exp(x)
        if self.name == "inverse":
            return torch.linalg.inv(x + 3 * torch.eye(3, dtype=x.dtype))
        if self.name == "singular values":
            return torch.linalg.svdvals(x)
        if self.name == "spectrum":
            return torch.fft.rfft(x, dim=1).abs()
        if self.name == "hardsigmoid in place":
            return F.hardsigmoid(x * 2, inplace=True)
        if self.name == "segment_reduce":
            return torch.segment_reduce(x, "sum", lengths=torch.tensor([1, 3])).repeat(2, 1, 1)
        raise ValueError(self.name)


class NormedDirectly(nn.Module):
    """torch._weight_norm as a network may call it itself, by direction and length."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.v = nn.Parameter(torch.randn(3, 2, 2))
        self.g = nn.Parameter(torch.rand([n if d == dim else 1 for d, n in enumerate((3, 2, 2))]) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, torch._weight_norm(self.v, self.g, self.dim))


class Renormalised(nn.Module):
    """Writes into its weight in forward(), if only what it holds already."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3, max_norm=9.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x)


# --- losses -------------------------------------------------------------------------------------------------------------


class TripletLoss(nn.Module):
    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        parts = output.chunk(3, 1)
        return self.loss(parts[0], parts[1], parts[2] + target)


class PairLoss(nn.Module):
    """Signs [B] say which of the two pieces should be the larger, or whether they should be alike."""

    def __init__(self, loss: nn.Module, scalars: bool = False):
        super().__init__()
        self.loss, self.scalars = loss, scalars

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        a, b = output.chunk(2, 1)
        return self.loss(a[:, 0], b[:, 0], target) if self.scalars else self.loss(a, b, target)


class ByVariance(nn.Module):
    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        mean, spread = output.chunk(2, 1)
        return self.loss(mean, target, F.softplus(spread))


class OfLogarithms(nn.Module):
    """Classes are along dimension 1."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.loss(torch.log_softmax(output, 1), target)


class OfProbabilities(nn.Module):
    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.loss(torch.sigmoid(output), target)


class OfImages(nn.Module):
    """Classes of two places: [B, 4] is seen as [B, 2, 1, 2]."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.loss(torch.log_softmax(output.view(-1, 2, 1, 2), 1), target)


class OfSequences(nn.Module):
    """CTC over [B, T = 4, C = 3]; targets of two, one of them short."""

    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss
        self.register_buffer("sizes", torch.tensor([4, 4, 3, 4]))
        self.register_buffer("target_sizes", torch.tensor([2, 1, 2, 2]))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        scores = output.view(-1, 4, 3).transpose(0, 1).log_softmax(2)
        if torch.jit.is_scripting():
            return self.loss(scores, target, self.sizes, self.target_sizes)
        return self.loss(scores, target, (4, 4, 3, 4), (2, 1, 2, 2))  # numbers, for which export has an operator


class Unreduced(nn.Module):
    def __init__(self, loss: nn.Module):
        super().__init__()
        self.loss = loss

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.loss(output, target).square().mean()


class LastLayerAndLoss(nn.Module):
    """A loss that holds the last linear layer."""

    def __init__(self, body: nn.Module, loss: nn.Module):
        super().__init__()
        self.body, self.loss = body, loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(torch.tanh(self.body(x)), y)


class NetworkAndLoss(nn.Module):
    """What --loss output takes: a network that returns its loss."""

    def __init__(self, network: nn.Module, loss: nn.Module):
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self.network(x), y)


def perceptron(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 3), nn.Tanh(), nn.Linear(3, outputs))
