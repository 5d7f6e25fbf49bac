#!/usr/bin/env python3
"""Architectures that users know, small enough for the whole Hessian, for the end-to-end tests.

usage: architectures.py OUT [NETWORK...]

Writes one folder for each network, with the files of end_to_end_models.py, and at last the file `architectures` with
their names. The networks are written as their papers and PyTorch's own examples write them: no layer is chosen because
it is easy to derive.
"""

import pathlib
import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from end_to_end_models import Case, classes, write_case


def trained(model: nn.Module) -> nn.Module:
    """Norms away from 0 and 1, where a mistake in them would not show."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2)
    return model


# --- images -----------------------------------------------------------------------------------------------------------


class BasicBlock(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Identity()
        if stride != 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.downsample(x)
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = BasicBlock(3, 3, 1)
        self.layer2 = BasicBlock(3, 4, 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class ConvBlock(nn.Sequential):
    def __init__(self, inside: int, outside: int):
        super().__init__(nn.Conv2d(inside, outside, 3, padding=1), nn.GroupNorm(1, outside), nn.SiLU())


class UNet(nn.Module):
    """Two levels: pooling down, transposed convolutions up, what was before the pooling concatenated."""

    def __init__(self):
        super().__init__()
        self.down1 = ConvBlock(1, 2)
        self.down2 = ConvBlock(2, 3)
        self.pool = nn.MaxPool2d(2)
        self.bottom = ConvBlock(3, 4)
        self.up2 = nn.ConvTranspose2d(4, 3, 2, 2)
        self.merge2 = ConvBlock(6, 3)
        self.up1 = nn.ConvTranspose2d(3, 2, 2, 2)
        self.merge1 = ConvBlock(4, 2)
        self.head = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.bottom(self.pool(second))
        x = self.merge2(torch.cat([self.up2(x), second], 1))
        x = self.merge1(torch.cat([self.up1(x), first], 1))
        return self.head(x)


class InvertedResidual(nn.Module):
    """Of EfficientNet: expansion, depthwise convolution, squeeze and excitation, projection."""

    def __init__(self, width: int, expanded: int):
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(width, expanded, 1, bias=False), nn.BatchNorm2d(expanded), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(expanded, expanded, 3, padding=1, groups=expanded, bias=False), nn.BatchNorm2d(expanded), nn.SiLU()
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(expanded, 2, 1), nn.SiLU(), nn.Conv2d(2, expanded, 1), nn.Sigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(expanded, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        return x + self.project(y * self.squeeze(y))


class EfficientNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1, bias=False), nn.BatchNorm2d(3), nn.SiLU())
        self.block = InvertedResidual(3, 6)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.block(self.stem(x)).mean([2, 3]))


# --- attention and tokens ---------------------------------------------------------------------------------------------


class CausalSelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.size()
        q, k, v = self.c_attn(x).split(width, dim=2)
        shape = (batch, length, self.heads, width // self.heads)
        q, k, v = q.view(shape).transpose(1, 2), k.view(shape).transpose(1, 2), v.view(shape).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(batch, length, width))


class GptBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalSelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    """Token and position embeddings, two blocks, a head tied to the token embedding: [B, S] -> [B, V, S]."""

    def __init__(self, vocabulary: int = 9, length: int = 5, width: int = 4, heads: int = 2):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(length, width)
        self.blocks = nn.Sequential(GptBlock(width, heads), GptBlock(width, heads))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> Tensor:
        position = torch.arange(0, tokens.size(1), dtype=torch.long, device=tokens.device)
        x = self.blocks(self.wte(tokens) + self.wpe(position))
        return self.lm_head(self.ln_f(x)).transpose(1, 2)


class VisionTransformer(nn.Module):
    def __init__(self, width: int = 6, heads: int = 2, patches: int = 4):
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, 2, 2)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embedding = nn.Parameter(0.1 * torch.randn(1, patches + 1, width))
        self.ln_1 = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_proj(images).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embedding
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.ln_2(x))
        return self.head(self.ln(x)[:, 0])


class MixerBlock(nn.Module):
    def __init__(self, patches: int, width: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(patches, 5), nn.GELU(), nn.Linear(5, patches))
        self.norm2 = nn.LayerNorm(width)
        self.channels = nn.Sequential(nn.Linear(width, 8), nn.GELU(), nn.Linear(8, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MlpMixer(nn.Module):
    def __init__(self, patches: int = 4, width: int = 5):
        super().__init__()
        self.patches = nn.Conv2d(2, width, 2, 2)
        self.mixer = MixerBlock(patches, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.mixer(self.patches(images).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(dim=1))


class Lstm(nn.Module):
    """Two layers over tokens, scores of the next one at each: [B, S] -> [B, V, S]."""

    def __init__(self, vocabulary: int = 7, width: int = 3, hidden: int = 4):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, batch_first=True, dropout=0.2)
        self.decoder = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        return self.decoder(states).transpose(1, 2)


# --- graphs -----------------------------------------------------------------------------------------------------------


class GraphConvolution(nn.Module):
    """Means over neighbours: what edges carry is gathered at their sources and added up at their targets."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.own = nn.Linear(inside, outside)
        self.neighbour = nn.Linear(inside, outside, bias=False)

    def forward(self, nodes: Tensor, source: Tensor, target: Tensor) -> Tensor:
        index = source.unsqueeze(-1).expand(-1, -1, nodes.size(2))
        messages = torch.gather(nodes, 1, index)
        summed = torch.zeros_like(nodes).scatter_add(1, target.unsqueeze(-1).expand_as(messages), messages)
        degree = torch.zeros_like(nodes[:, :, 0]).scatter_add(1, target, torch.ones_like(messages[:, :, 0]))
        return self.own(nodes) + self.neighbour(summed / degree.clamp(min=1.0).unsqueeze(-1))


class GraphNetwork(nn.Module):
    """Nodes [B, n, 3] and edges [B, e, 2] of B graphs -> scores of each graph."""

    def __init__(self):
        super().__init__()
        self.conv1 = GraphConvolution(3, 6)
        self.conv2 = GraphConvolution(6, 5)
        self.out = nn.Linear(10, 3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges[:, :, 0], edges[:, :, 1]
        x = torch.tanh(self.conv1(nodes, source, target))
        x = F.softplus(self.conv2(x, source, target))
        return self.out(torch.cat([x.mean(dim=1), x.amax(dim=1)], dim=1))


# --- cases ------------------------------------------------------------------------------------------------------------


def resnet() -> Case:
    return Case(trained(ResNet()), [torch.randn(4, 3, 8, 8)], classes(4, 3), F.cross_entropy)


def unet() -> Case:
    return Case(trained(UNet()), [torch.randn(2, 1, 8, 8)], torch.randint(0, 2, (2, 8, 8)), F.cross_entropy)


def efficientnet() -> Case:
    return Case(trained(EfficientNet()), [torch.randn(4, 3, 8, 8)], classes(4, 3), F.cross_entropy)


def gpt() -> Case:
    tokens = torch.randint(0, 9, (3, 6))
    return Case(trained(Gpt()), [tokens[:, :-1].clone()], tokens[:, 1:].clone(), F.cross_entropy)


def vit() -> Case:
    return Case(trained(VisionTransformer()), [torch.randn(4, 3, 4, 4)], classes(4, 3), F.cross_entropy)


def mixer() -> Case:
    return Case(trained(MlpMixer()), [torch.randn(5, 2, 4, 4)], torch.randn(5, 3), F.mse_loss, ["--loss", "mse"])


def lstm() -> Case:
    tokens = torch.randint(0, 7, (3, 6))
    return Case(Lstm(), [tokens[:, :-1].clone()], tokens[:, 1:].clone(), F.cross_entropy)


def graph_network() -> Case:
    return Case(GraphNetwork(), [torch.randn(4, 5, 3), torch.randint(0, 5, (4, 7, 2))], classes(4, 3), F.cross_entropy)


ARCHITECTURES = [resnet, unet, efficientnet, gpt, vit, mixer, lstm, graph_network]


def main(arguments: list[str]) -> None:
    out, names = pathlib.Path(arguments[0]), arguments[1:]
    known = {make.__name__: make for make in ARCHITECTURES}
    for name in names or known:
        write_case(known[name], out)
    if not names:
        (out / "architectures").write_text("".join(name + "\n" for name in known))


if __name__ == "__main__":
    main(sys.argv[1:])
