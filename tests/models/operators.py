#!/usr/bin/env python3
"""Every layer of torch.nn and every loss in a small network of its own, with reference Hessians.

usage: operators.py OUT

Writes the folder OUT/operators/ with one folder for each case:

  model.pt     the network as TorchScript, scripted, or traced where it cannot be scripted
  model.pt2    the network as exported program
  absent       lines "pt: why" and "pt2: why" for formats that PyTorch does not write the network in
  loss.pt      where the loss is a scripted one
  data.h5      inputs and targets
  options, options2   what the program is to be told beside model, data and output, for either format
  reference.h5 hessian, and attributes: loss_value, and `oracle` that says what the Hessian is believed for

and at last the file `cases`, a line for each: its name, a tab, what it is about.

Two oracles have to agree, both in float64 and in eager mode: PyTorch's double-backward, and differences of the gradient
in three random directions, or in all where those are the reference.
Where they do not, the differences are the reference: second derivatives of some operators are wrong in PyTorch. The
gradient is held against differences of the loss in its turn.

A class of torch.nn, or a loss in torch.nn.functional, that is neither in a case nor excluded with a reason is an error.
"""

import contextlib
import copy
import inspect
import io
import logging
import math
import multiprocessing
import pathlib
import re
import shutil
import sys
import warnings
from dataclasses import dataclass
from typing import Callable, Optional

import h5py
import torch
from operator_networks import *
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)  # what the exporter says of networks that it cannot export
# Attention by matrix products: the others have no second derivative.
torch.backends.cuda.enable_flash_sdp(False)
torch.backends.cuda.enable_mem_efficient_sdp(False)

EXCLUDED = {
    "Container": "holds modules and computes nothing; deprecated",
    "DataParallel": "spreads a batch over GPUs",
    "Module": "the base class",
    "ModuleDict": "holds modules and computes nothing",
    "ModuleList": "holds modules and computes nothing",
    "ParameterDict": "holds parameters and computes nothing",
    "ParameterList": "holds parameters and computes nothing",
    "RNNBase": "the base class of RNN, LSTM and GRU",
    "RNNCellBase": "the base class of cells",
    "SyncBatchNorm": "needs process groups of torch.distributed, and a GPU",
}
EXCLUDED |= {
    name: f"becomes {name.removeprefix('Lazy')} in the first forward, before which it has no parameters to export"
    for name in dir(nn)
    if name.startswith("Lazy")
}


@dataclass
class Case:
    name: str
    network: Callable[[], nn.Module]
    mode: str = "eval"
    inputs: Optional[Callable[[], Tensor]] = None
    targets: Callable[[], Tensor] = lambda: torch.randn(SAMPLES, OUTPUTS)
    loss: str = "mse"  # the program's name of it, "output", or "file"
    loss_module: Optional[Callable[[], nn.Module]] = None
    sums: bool = False  # the loss adds up its samples
    traced: bool = False  # even if it can be scripted
    # Values that the gradient leaves out on purpose: it is that of no function, and has no differences.
    held: bool = False
    # PyTorch's gradient is wrong.
    by_loss: bool = False


# --- layers -------------------------------------------------------------------------------------------------------------

CASES: list[Case] = []


def add(name: str, network: Callable[[], nn.Module], **options) -> None:
    CASES.append(Case(name, network, **options))


def layer(name: str, make: Callable[[], nn.Module], *shape: int, scale: float = 0.7, **options) -> None:
    """A layer that takes [B, *shape]."""
    add(name, lambda: Around(make(), shape, scale), **options)


def tokens(name: str, make: Callable[[], nn.Module], width: int, **options) -> None:
    add(name, lambda: OfTokens(make(), width), inputs=lambda: torch.randint(0, 5, (SAMPLES, 3)), **options)


def image(dimensions: int, channels: int = 1, size: int = 4) -> tuple[int, ...]:
    return (channels,) + (size if dimensions < 3 else 3,) * dimensions


def add_activations() -> None:
    for make in (nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU):
        layer(make.__name__, make, 5)
    for make in (nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink):
        layer(make.__name__, make, 5)
    for make in (nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.PReLU, nn.Identity, nn.RReLU):
        layer(make.__name__, make, 5)
    for make in (nn.LogSoftmax, nn.Softmax, nn.Softmin, nn.GLU):
        layer(make.__name__, lambda make=make: make(dim=1), 4)
    layer("GELU tanh", lambda: nn.GELU(approximate="tanh"), 5)
    layer("PReLU of channels", lambda: nn.PReLU(3), 3, 2)
    layer("RReLU train", nn.RReLU, 5, mode="train")
    layer("Softmax2d", nn.Softmax2d, *image(2, 2, 2))
    layer("Threshold", lambda: nn.Threshold(0.1, 0.4), 5)
    layer("ReLU in place", lambda: nn.ReLU(inplace=True), 5)


def add_convolutions() -> None:
    for d in (1, 2, 3):
        of = {"Conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d), "ConvTranspose": ()}["Conv"][d - 1]
        transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[d - 1]
        layer(f"Conv{d}d", lambda of=of: of(2, 2, 2), *image(d, 2, 3))
        layer(f"Conv{d}d of groups", lambda of=of: of(2, 4, 2, 2, 1, groups=2), *image(d, 2, 3))
        for padding in ("zeros", "reflect", "replicate", "circular"):
            layer(
                f"Conv{d}d same {padding}",
                lambda of=of, padding=padding: of(1, 2, 2, padding="same", padding_mode=padding),
                *image(d, 1, 3),
            )
        layer(f"ConvTranspose{d}d", lambda of=transposed: of(2, 2, 2, 2), *image(d, 2, 2))
        layer(f"ConvTranspose{d}d dilated", lambda of=transposed: of(1, 2, 2, 2, 1, 1, dilation=2), *image(d, 1, 3))
    layer("Conv2d of one sample's shape", lambda: nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv2d(1, 2, 2)), 2, 3)
    layer("Fold", lambda: nn.Fold(3, 2), 4, 4)
    layer("Unfold", lambda: nn.Unfold(2, padding=1), *image(2, 1, 2))


def add_pooling() -> None:
    for d in (1, 2, 3):
        average = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[d - 1]
        most = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[d - 1]
        back = (nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d)[d - 1]
        adaptive = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[d - 1]
        adaptive_most = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)[d - 1]
        norm = (nn.LPPool1d, nn.LPPool2d, nn.LPPool3d)[d - 1]
        layer(f"AvgPool{d}d", lambda of=average: of(2), *image(d))
        layer(f"AvgPool{d}d padded", lambda of=average: of(2, 1, 1, count_include_pad=False), *image(d, 1, 3))
        layer(f"MaxPool{d}d", lambda of=most: of(2), *image(d))
        layer(f"MaxPool{d}d dilated", lambda of=most: of(2, 1, 1, dilation=2), *image(d))
        layer(f"MaxUnpool{d}d", lambda m=most, b=back: PoolAndBack(m(2, return_indices=True), b(2)), 1, *[4] * d)
        layer(f"AdaptiveAvgPool{d}d", lambda of=adaptive: of(2), *image(d))
        layer(f"AdaptiveAvgPool{d}d to 1", lambda of=adaptive: of(1), *image(d, 3))
        layer(f"AdaptiveMaxPool{d}d", lambda of=adaptive_most: of(2), *image(d))
        layer(f"LPPool{d}d", lambda of=norm: of(2, 2), *image(d))
    layer("LPPool2d p=3", lambda: nn.Sequential(nn.Softplus(), nn.LPPool2d(3, 2)), *image(2))
    layer("FractionalMaxPool2d", lambda: nn.FractionalMaxPool2d(2, output_size=2), *image(2))
    layer("FractionalMaxPool3d", lambda: nn.FractionalMaxPool3d(2, output_size=2), 1, 4, 4, 4)


def add_padding_and_shapes() -> None:
    for d in (1, 2, 3):
        for kind in ("Reflection", "Replication", "Zero", "Circular"):
            layer(f"{kind}Pad{d}d", lambda of=getattr(nn, f"{kind}Pad{d}d"): of(1), *image(d, 1, 2))
        layer(f"ConstantPad{d}d", lambda of=getattr(nn, f"ConstantPad{d}d"): of(1, 0.3), *image(d, 1, 2))
    layer("ChannelShuffle", lambda: nn.ChannelShuffle(2), *image(2, 4, 2))
    layer("PixelShuffle", lambda: nn.PixelShuffle(2), *image(2, 4, 2))
    layer("PixelUnshuffle", lambda: nn.PixelUnshuffle(2), *image(2, 1, 4))
    layer("Flatten", nn.Flatten, 2, 3)
    layer("Unflatten", lambda: nn.Unflatten(1, (2, 3)), 6)
    for mode, size in (("nearest", 1), ("linear", 1), ("bilinear", 2), ("bicubic", 2), ("trilinear", 3), ("nearest", 3)):
        layer(f"Upsample {mode} {size}d", lambda mode=mode: nn.Upsample(scale_factor=2, mode=mode), *image(size, 1, 2))
    layer("Upsample bilinear aligned", lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), 1, 2, 2)
    layer("UpsamplingBilinear2d", lambda: nn.UpsamplingBilinear2d(scale_factor=2), 1, 2, 2)
    layer("UpsamplingNearest2d", lambda: nn.UpsamplingNearest2d(scale_factor=2), 1, 2, 2)


def add_norms() -> None:
    for d in (1, 2, 3):
        for mode in ("eval", "train"):
            for kind in ("BatchNorm", "InstanceNorm"):
                make = lambda of=getattr(nn, f"{kind}{d}d"): of(2, affine=True, track_running_stats=True)
                layer(f"{kind}{d}d {mode}", make, *image(d, 2, 2), mode=mode)
        layer(f"BatchNorm{d}d without statistics", lambda d=d: getattr(nn, f"BatchNorm{d}d")(2, track_running_stats=False), *image(d, 2, 2))
        layer(f"InstanceNorm{d}d without statistics", lambda d=d: getattr(nn, f"InstanceNorm{d}d")(2), *image(d, 2, 2))
    layer("BatchNorm1d of vectors train", lambda: nn.BatchNorm1d(3, momentum=None), 3, mode="train")
    layer("BatchNorm2d without affine train", lambda: nn.BatchNorm2d(2, affine=False), *image(2, 2, 2), mode="train")
    layer("GroupNorm", lambda: nn.GroupNorm(2, 4), 4, 2)
    layer("LayerNorm", lambda: nn.LayerNorm(4), 2, 4)
    layer("LayerNorm without affine", lambda: nn.LayerNorm([2, 4], elementwise_affine=False), 2, 4)
    layer("RMSNorm", lambda: nn.RMSNorm(4), 2, 4)
    layer("RMSNorm without affine", lambda: nn.RMSNorm(4, elementwise_affine=False), 2, 4)
    layer("LocalResponseNorm", lambda: nn.LocalResponseNorm(2, alpha=0.5), *image(2, 3, 2))
    layer("CrossMapLRN2d", lambda: nn.CrossMapLRN2d(2, alpha=0.5), *image(2, 3, 2), by_loss=True)


def add_recurrent() -> None:
    small = {"batch_first": True}
    for make in (nn.RNN, nn.GRU, nn.LSTM):
        name = make.__name__
        layer(name, lambda of=make: FirstOf(of(2, 2, **small)), 3, 2)
        layer(f"{name} bidirectional", lambda of=make: FirstOf(of(1, 1, bidirectional=True, **small)), 3, 1)
        layer(f"{name} of two layers", lambda of=make: FirstOf(of(1, 1, 2, **small)), 3, 1)
        layer(f"{name} with dropout train", lambda of=make: FirstOf(of(1, 1, 2, dropout=0.5, **small)), 3, 1, mode="train")
        layer(f"{name} without bias, time first", lambda of=make: FirstOf(of(2, 2, bias=False)), 3, 2)
    layer("RNN relu", lambda: FirstOf(nn.RNN(2, 2, nonlinearity="relu", **small)), 3, 2)
    layer("LSTM with projection", lambda: FirstOf(nn.LSTM(1, 2, proj_size=1, **small)), 3, 1)
    layer("GRU packed", PackedGru, 3, 2)
    layer("RNNCell", lambda: Cell(nn.RNNCell(2, 2)), 2, 2)
    layer("GRUCell", lambda: Cell(nn.GRUCell(2, 2)), 2, 2)
    layer("LSTMCell", lambda: MemoryCell(nn.LSTMCell(2, 2)), 2, 2)


def add_attention() -> None:
    heads = {"batch_first": True, "dropout": 0.0}
    layer("MultiheadAttention", lambda: SelfAttention(nn.MultiheadAttention(2, 2, **heads)), 3, 2)
    layer("MultiheadAttention with weights", lambda: SelfAttention(nn.MultiheadAttention(2, 1, **heads), True), 3, 2)
    layer("MultiheadAttention time first", lambda: SelfAttention(nn.MultiheadAttention(2, 1, add_bias_kv=True)), 3, 2)
    layer("MultiheadAttention dropout train", lambda: SelfAttention(nn.MultiheadAttention(2, 1, 0.4, batch_first=True)), 3, 2, mode="train")
    encoder = lambda **options: nn.TransformerEncoderLayer(2, 1, 2, **{"batch_first": True, "dropout": 0.3} | options)
    decoder = lambda **options: nn.TransformerDecoderLayer(2, 1, 2, **{"batch_first": True, "dropout": 0.3} | options)
    layer("TransformerEncoderLayer", encoder, 3, 2)
    layer("TransformerEncoderLayer train", encoder, 3, 2, mode="train")
    layer("TransformerEncoderLayer norm first gelu", lambda: encoder(norm_first=True, activation="gelu"), 3, 2)
    layer("TransformerEncoderLayer padded", lambda: Padded(encoder()), 3, 2)
    layer("TransformerEncoder", lambda: nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False), 3, 2)
    layer("TransformerEncoder of nested tensors", lambda: Padded(nn.TransformerEncoder(encoder(), 1)), 3, 2)
    layer("TransformerEncoderLayer traced", encoder, 3, 2, traced=True)
    add("TransformerEncoderLayer frozen", lambda: frozen(Around(encoder(), (3, 2))))
    layer("functional: fast path of TransformerEncoderLayer", lambda: FastPath(encoder(dropout=0.0)), 3, 2)
    layer("functional: fast path of MultiheadAttention", lambda: FastAttention(2), 3, 2)
    layer("TransformerDecoderLayer", lambda: Decoder(decoder()), 3, 2)
    layer("TransformerDecoderLayer train", lambda: Decoder(decoder()), 3, 2, mode="train")
    layer("TransformerDecoder", lambda: Decoder(nn.TransformerDecoder(decoder(), 1)), 3, 2)
    layer("Transformer", lambda: Decoder(nn.Transformer(2, 1, 1, 1, 2, 0.0, batch_first=True)), 2, 2)


def add_linear_sparse_and_distances() -> None:
    layer("Linear", lambda: nn.Linear(3, 2), 3)
    layer("Linear of positions", lambda: nn.Linear(2, 2, bias=False), 3, 2)
    layer("Bilinear", lambda: WithItself(nn.Bilinear(2, 2, 2)), 2)
    layer("CosineSimilarity", lambda: WithItself(nn.CosineSimilarity()), 3, 2)
    layer("PairwiseDistance", lambda: WithItself(nn.PairwiseDistance()), 3, 2)
    layer("PairwiseDistance p=1", lambda: WithItself(nn.PairwiseDistance(p=1.0)), 3, 2)
    layer("PairwiseDistance p=3", lambda: WithItself(nn.PairwiseDistance(p=3.0)), 3, 2)
    layer("AdaptiveLogSoftmaxWithLoss", Adaptive, 2)
    tokens("Embedding", lambda: nn.Embedding(5, 2), 6)
    tokens("Embedding with padding", lambda: nn.Embedding(5, 2, padding_idx=1), 6, held=True)
    tokens("Embedding by frequency", lambda: nn.Embedding(5, 2, scale_grad_by_freq=True), 6, held=True)
    tokens("Embedding sparse", lambda: nn.Embedding(5, 2, sparse=True), 6)
    tokens("Embedding max_norm", Renormalised, 9)
    for mode in ("sum", "mean", "max"):
        tokens(f"EmbeddingBag {mode}", lambda mode=mode: Bags(mode=mode), 3)
        tokens(f"EmbeddingBag {mode} of offsets", lambda mode=mode: Offsets(mode), 3)
    tokens("EmbeddingBag weighted", lambda: Bags(True, mode="sum"), 3)
    tokens("EmbeddingBag with padding", lambda: Bags(mode="mean", padding_idx=1), 3)


def add_random() -> None:
    for name in ("Dropout", "AlphaDropout", "FeatureAlphaDropout"):
        for mode in ("eval", "train"):
            layer(f"{name} {mode}", lambda of=getattr(nn, name): of(0.4), 4, 2, mode=mode)
    for d in (1, 2, 3):
        layer(f"Dropout{d}d train", lambda of=getattr(nn, f"Dropout{d}d"): of(0.4), *image(d, 3, 2), mode="train")


def weight_norm(make: Callable[[], nn.Module], dim: Optional[int] = 0) -> nn.Module:
    return nn.utils.weight_norm(make(), dim=dim)


def add_reparametrised() -> None:
    convolution = lambda: nn.Conv1d(2, 2, 2)
    for dim in (0, 1, None):
        layer(f"weight_norm dim {dim}", lambda dim=dim: nn.utils.weight_norm(nn.Linear(3, 2), dim=dim), 3)
        make = lambda dim=dim: parametrizations.weight_norm(convolution(), dim=dim)
        layer(f"parametrizations.weight_norm dim {dim}", make, 2, 3)
        if dim is not None:
            layer(f"torch._weight_norm dim {dim}", lambda dim=dim: NormedDirectly(dim), 2, 3)
    layer("weight_norm of ConvTranspose2d", lambda: nn.utils.weight_norm(nn.ConvTranspose2d(2, 1, 2)), 2, 2, 2)
    layer("torch._weight_norm of the last dimension", lambda: NormedDirectly(2), 2, 3)
    for mode in ("eval", "train"):
        held = mode == "train"
        layer(f"spectral_norm {mode}", lambda: nn.utils.spectral_norm(nn.Linear(3, 2)), 3, mode=mode, held=held)
        make = lambda: parametrizations.spectral_norm(nn.Linear(3, 2))
        layer(f"parametrizations.spectral_norm {mode}", make, 3, mode=mode, held=held)
    for how in ("matrix_exp", "cayley", "householder"):
        make = lambda how=how: parametrizations.orthogonal(nn.Linear(2, 2), orthogonal_map=how)
        # What householder keeps on the diagonal is a sign.
        layer(f"parametrizations.orthogonal {how}", make, 2, held=how == "householder")


def add_functional() -> None:
    layer("scaled_dot_product_attention", Attention, 3, 2)
    layer("scaled_dot_product_attention causal", lambda: Attention(causal=True), 3, 2)
    layer("scaled_dot_product_attention masked", lambda: Attention(masked=True), 3, 2)
    layer("scaled_dot_product_attention dropout train", lambda: Attention(dropout=0.4), 3, 2, mode="train")
    for mode, padding in (("bilinear", "zeros"), ("bilinear", "border"), ("nearest", "zeros"), ("bicubic", "reflection")):
        layer(f"grid_sample {mode} {padding}", lambda mode=mode, padding=padding: GridSample(mode, padding), 1, 3, 3)
    for name, *shape in (
        ("normalize", 3, 2), ("cosine similarity of pairs", 3, 2), ("cdist", 3, 2), ("cdist p=1", 3, 2),
        ("pdist", 3, 2), ("bicubic", 1, 3, 3), ("bilinear antialias", 1, 4, 4), ("area", 1, 4, 4),
        ("nearest-exact", 1, 2, 2), ("cumulative product", 4), ("sorted", 4), ("logcumsumexp", 4),
        ("matrix_exp", 2, 2), ("inverse", 3, 3), ("singular values", 3, 3), ("spectrum", 6),
        ("hardsigmoid in place", 4), ("segment_reduce", 4, 2),
    ):
        layer(f"functional: {name}", lambda name=name: Functional(name), *shape)


# --- losses -------------------------------------------------------------------------------------------------------------


def loss(name: str, make: Callable[[], nn.Module], outputs: int, targets: Callable[[], Tensor]) -> None:
    """As a scripted module beside the TorchScript network, and in one program with the exported one."""
    add(name, lambda: perceptron(outputs), loss="file", loss_module=make, targets=targets, sums=name.endswith(" sum"))


def signs(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, 2, shape) * 2.0 - 1


def add_losses() -> None:
    normal = lambda n: lambda: torch.randn(SAMPLES, n)
    rates = lambda n: lambda: torch.rand(SAMPLES, n)
    classes = lambda *shape: lambda: torch.randint(0, 2, shape or (SAMPLES,))
    counts = lambda: torch.randint(0, 4, (SAMPLES, 2)).float()
    weights = torch.tensor([0.7, 1.6])
    for reduction in ("mean", "sum"):
        to = {"reduction": reduction}
        say = "" if reduction == "mean" else " sum"
        loss("BCELoss" + say, lambda to=to: OfProbabilities(nn.BCELoss(**to)), 2, rates(2))
        loss("BCEWithLogitsLoss" + say, lambda to=to: nn.BCEWithLogitsLoss(pos_weight=weights, **to), 2, rates(2))
        loss("CrossEntropyLoss" + say, lambda to=to: nn.CrossEntropyLoss(**to), 2, classes())
        loss("CTCLoss" + say, lambda to=to: OfSequences(nn.CTCLoss(**to)), 12, lambda: torch.tensor([[1, 2], [2, 0], [1, 2], [2, 1]]))
        loss("CosineEmbeddingLoss" + say, lambda to=to: PairLoss(nn.CosineEmbeddingLoss(margin=-0.5, **to)), 4, signs(SAMPLES))
        loss("GaussianNLLLoss" + say, lambda to=to: ByVariance(nn.GaussianNLLLoss(full=True, **to)), 4, normal(2))
        loss("HingeEmbeddingLoss" + say, lambda to=to: nn.HingeEmbeddingLoss(**to), 2, signs(SAMPLES, 2))
        loss("HuberLoss" + say, lambda to=to: nn.HuberLoss(delta=0.8, **to), 2, normal(2))
        loss("KLDivLoss" + say, lambda to=to: OfLogarithms(nn.KLDivLoss(**to)), 2, rates(2))
        loss("L1Loss" + say, lambda to=to: nn.L1Loss(**to), 2, normal(2))
        loss("MSELoss" + say, lambda to=to: nn.MSELoss(**to), 2, normal(2))
        loss("MarginRankingLoss" + say, lambda to=to: PairLoss(nn.MarginRankingLoss(0.5, **to), True), 2, signs(SAMPLES))
        loss("MultiLabelMarginLoss" + say, lambda to=to: nn.MultiLabelMarginLoss(**to), 3, lambda: torch.tensor([[0, -1, 0], [2, 1, -1], [1, -1, 1], [0, 2, -1]]))
        loss("MultiLabelSoftMarginLoss" + say, lambda to=to: nn.MultiLabelSoftMarginLoss(**to), 2, lambda: torch.randint(0, 2, (SAMPLES, 2)).float())
        loss("MultiMarginLoss" + say, lambda to=to: nn.MultiMarginLoss(p=2, **to), 2, classes())
        loss("NLLLoss" + say, lambda to=to: OfLogarithms(nn.NLLLoss(weights, **to)), 2, classes())
        loss("PoissonNLLLoss" + say, lambda to=to: nn.PoissonNLLLoss(full=True, **to), 2, counts)
        loss("SmoothL1Loss" + say, lambda to=to: nn.SmoothL1Loss(beta=0.8, **to), 2, normal(2))
        loss("SoftMarginLoss" + say, lambda to=to: nn.SoftMarginLoss(**to), 2, signs(SAMPLES, 2))
        loss("TripletMarginLoss" + say, lambda to=to: TripletLoss(nn.TripletMarginLoss(swap=True, **to)), 6, normal(2))
        distance = lambda to=to: TripletLoss(nn.TripletMarginWithDistanceLoss(distance_function=nn.PairwiseDistance(p=3.0), **to))
        loss("TripletMarginWithDistanceLoss" + say, distance, 6, normal(2))
    loss("CrossEntropyLoss smoothed, weighted", lambda: nn.CrossEntropyLoss(weights, label_smoothing=0.2), 2, classes())
    loss("CrossEntropyLoss of probabilities", lambda: nn.CrossEntropyLoss(), 2, lambda: torch.softmax(torch.randn(SAMPLES, 2), 1))
    loss("KLDivLoss of logarithms", lambda: OfLogarithms(nn.KLDivLoss(reduction="batchmean", log_target=True)), 2, normal(2))
    loss("MSELoss none", lambda: Unreduced(nn.MSELoss(reduction="none")), 2, normal(2))
    loss("NLLLoss2d", lambda: OfImages(nn.NLLLoss2d()), 4, classes(SAMPLES, 1, 2))
    loss("CTCLoss zero_infinity", lambda: OfSequences(nn.CTCLoss(zero_infinity=True)), 12, lambda: torch.tensor([[1, 2], [2, 0], [1, 1], [2, 1]]))
    add("AdaptiveLogSoftmaxWithLoss as loss", AdaptiveOwnLoss, loss="output", targets=lambda: torch.tensor([0, 3, 1, 2]))
    whole = lambda: LastLayerAndLoss(nn.Linear(FEATURES, 3), nn.LinearCrossEntropyLoss(3, 4, options=None))
    add("LinearCrossEntropyLoss", whole, loss="output", targets=lambda: torch.tensor([0, 3, 1, 2]))
    in_pieces = lambda: LastLayerAndLoss(nn.Linear(FEATURES, 3), nn.LinearCrossEntropyLoss(3, 4))
    add("LinearCrossEntropyLoss in pieces", in_pieces, loss="output", targets=lambda: torch.tensor([0, 3, 1, 2]))


def all_cases() -> list[Case]:
    if not CASES:
        for adding in (add_activations, add_convolutions, add_pooling, add_padding_and_shapes, add_norms, add_recurrent):
            adding()
        for adding in (add_attention, add_linear_sparse_and_distances, add_random, add_reparametrised, add_functional):
            adding()
        add_losses()
    return CASES


# --- one case made ------------------------------------------------------------------------------------------------------


@dataclass
class Made:
    network: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    loss_module: Optional[nn.Module]
    inputs: Tensor
    targets: Tensor


def away_from_defaults(network: nn.Module) -> None:
    """Affine parameters and statistics as after training."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() > 0 and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.3, 0.3)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)


def wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def make(case: Case) -> Made:
    torch.manual_seed(sum(map(ord, case.name)))
    network = case.network().double()
    away_from_defaults(network)
    network.train(case.mode == "train")
    module = case.loss_module().double() if case.loss_module else None
    named = {"mse": F.mse_loss, "output": lambda output, _: output}
    inputs = wide(case.inputs() if case.inputs else torch.randn(SAMPLES, FEATURES))
    # Exact in float32, as the parameters are.
    targets = wide(case.targets().float() if case.targets().is_floating_point() else case.targets())
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.float())
    inputs = wide(inputs.float()) if inputs.is_floating_point() else inputs
    return Made(network, module or named[case.loss], module, inputs, targets)


# --- references ---------------------------------------------------------------------------------------------------------


class Derived:
    """The loss as a function of a flat vector of parameters, and its derivatives."""

    def __init__(self, case: Case, made: Made):
        self.case, self.made = case, made
        self.start = [p.detach().clone() for p in self.parameters()]
        self.state = [b.detach().clone() for b in made.network.buffers()]

    def parameters(self) -> list[Tensor]:
        return [p for p in self.made.network.parameters() if p.requires_grad]

    def value(self) -> Tensor:
        made = self.made
        with torch.no_grad():  # running statistics as they were before the forward
            for buffer, start in zip(made.network.buffers(), self.state):
                buffer.copy_(start)
        # The program's seed, and its first batch.
        torch.manual_seed(0)
        if self.case.loss == "output":
            return made.network(made.inputs, made.targets)
        return made.loss(made.network(made.inputs), made.targets)

    def move(self, direction: Tensor, step: float) -> None:
        with torch.no_grad():
            pieces = direction.split([p.numel() for p in self.start])
            for parameter, start, piece in zip(self.parameters(), self.start, pieces):
                parameter.copy_(start + step * piece.view(start.shape))

    def gradient(self) -> Tensor:
        parts = torch.autograd.grad(self.value(), self.parameters(), materialize_grads=True, allow_unused=True)
        return torch.cat([p.to_dense().flatten() for p in parts])

    def difference(self, of: Callable[[], Tensor], direction: Tensor, step: float = 2e-5) -> Tensor:
        """Central, extrapolated twice: exact to the sixth order of the step."""
        found = []
        for h in (step, step / 2, step / 4):
            self.move(direction, h)
            ahead = of().detach().clone()
            self.move(direction, -h)
            found.append((ahead - of().detach()) / (2 * h))
        self.move(direction, 0)
        first = [(4 * b - a) / 3 for a, b in zip(found, found[1:])]
        return (16 * first[1] - first[0]) / 15

    def by_differences(self) -> Tensor:
        n = sum(p.numel() for p in self.start)
        return torch.stack([self.difference(self.gradient, unit) for unit in torch.eye(n, dtype=torch.float64)])

    def by_differences_of_the_loss(self) -> Tensor:
        """Where even the gradient is wrong; second differences, extrapolated once."""
        units = torch.eye(sum(p.numel() for p in self.start), dtype=torch.float64)

        def value_at(direction: Tensor, step: float) -> float:
            self.move(direction, step)
            with torch.no_grad():
                return self.value().item()

        def second(a: Tensor, b: Tensor, step: float) -> float:
            same = value_at(a + b, step) + value_at(a + b, -step)
            return (same - value_at(a - b, step) - value_at(a - b, -step)) / (4 * step**2)

        matrix = torch.zeros_like(units)
        for i, a in enumerate(units):
            for j, b in enumerate(units[: i + 1]):
                matrix[i, j] = matrix[j, i] = (4 * second(a, b, 1e-3) - second(a, b, 2e-3)) / 3
        self.move(units[0], 0)
        return matrix

    def agrees(self, hessian: Tensor, direction: Tensor) -> bool:
        difference = self.difference(self.gradient, direction)
        scale = hessian.abs().max().item() * direction.abs().max().item()
        return (hessian @ direction - difference).abs().max().item() <= 1e-7 * max(scale, 1e-300)

    def by_double_backward(self) -> Tensor:
        parameters = self.parameters()
        parts = torch.autograd.grad(self.value(), parameters, create_graph=True, materialize_grads=True, allow_unused=True)
        rows = []
        for element in (g for part in parts for g in part.to_dense().flatten().unbind()):
            if not element.requires_grad:
                rows.append(torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64))
                continue
            row = torch.autograd.grad(element, parameters, retain_graph=True, materialize_grads=True, allow_unused=True)
            rows.append(torch.cat([p.to_dense().flatten() for p in row]))
        return torch.stack(rows)


def first_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error).strip().split("\n")[0])[:120]


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300)).item()


@dataclass
class Reference:
    hessian: Tensor
    loss: float
    oracle: str  # "both", "differences: why", "double-backward: why", "none: why"


def reference(case: Case, made: Made) -> Reference:
    derived = Derived(case, made)
    value = derived.value().item()
    n = sum(p.numel() for p in derived.parameters())
    nothing = torch.full((n, n), math.nan, dtype=torch.float64)
    try:
        gradient = derived.gradient()
    except RuntimeError as error:
        return Reference(nothing, value, f"none: {first_line(error)}")
    direction = torch.randn(n, dtype=torch.float64)
    slope = derived.difference(derived.value, direction)
    wrong_gradient = abs(slope - gradient @ direction).item() / max(abs(slope).item(), gradient.norm().item())
    if wrong_gradient > 1e-7 and not case.held:
        if not case.by_loss:
            return Reference(nothing, value, f"none: PyTorch's gradient is wrong by {wrong_gradient:.0e}")
        return Reference(derived.by_differences_of_the_loss(), value, "differences: PyTorch's gradient is wrong")
    try:
        exact = derived.by_double_backward()
    except RuntimeError as error:
        return Reference(derived.by_differences(), value, f"differences: PyTorch: {first_line(error)}")
    if case.held:
        return Reference(exact, value, "double-backward: the gradient leaves values out on purpose")
    if all(derived.agrees(exact, torch.randn(n, dtype=torch.float64)) for _ in range(3)):
        return Reference(exact, value, "both")
    differences = derived.by_differences()
    error = relative(exact, differences)
    return Reference(differences, value, f"differences: PyTorch's double-backward is wrong by {error:.0e}")


# --- files --------------------------------------------------------------------------------------------------------------


def compiled(module: nn.Module, example: tuple[Tensor, ...], traced: bool) -> torch.jit.ScriptModule:
    if not traced:
        try:
            scripted = torch.jit.script(module)
            scripted.save_to_buffer()
            copy.deepcopy(scripted)(*example)
            return scripted
        except Exception:  # whatever PyTorch throws at code that it cannot script
            pass
    return torch.jit.trace(module, example, check_trace=False)


def as_torchscript(case: Case, made: Made, folder: pathlib.Path) -> None:
    example = (made.inputs, made.targets) if case.loss == "output" else (made.inputs,)
    compiled(made.network, example, case.traced).save(folder / "model.pt")
    if made.loss_module is not None:
        example = (made.network(made.inputs).detach(), made.targets)
        compiled(made.loss_module, example, case.traced).save(folder / "loss.pt")


def as_exported(case: Case, made: Made, folder: pathlib.Path) -> None:
    network, example = made.network, (made.inputs,)
    if made.loss_module is not None:
        network, example = NetworkAndLoss(network, made.loss_module), (made.inputs, made.targets)
        network.train(case.mode == "train")
    if case.loss == "output":
        example = (made.inputs, made.targets)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # the graphs of networks that it cannot export
        torch.export.save(torch.export.export(network, example), folder / "model.pt2")


def options_of(case: Case, form: str) -> list[str]:
    loss_name = case.loss if case.loss != "file" else ("@CASE@/loss.pt" if form == "pt" else "output")
    reduction = ["--reduction", "sum"] if case.sums else []
    return ["--model", f"@CASE@/model.{form}", "--data", "@CASE@/data.h5", "--loss", loss_name, "--mode", case.mode, *reduction]


def folder_name(case: Case) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", case.name).strip("_").lower()


def covered(made: Made) -> set[str]:
    modules = [*made.network.modules(), *(made.loss_module.modules() if made.loss_module else [])]
    return {type(m).__name__ for m in modules if type(m).__module__.startswith("torch.nn.modules")}


def write_case(number: int, out: pathlib.Path) -> tuple[str, set[str]]:
    torch.set_num_threads(1)
    case = all_cases()[number]
    folder = out / folder_name(case)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    absent = []
    for form, write in (("pt", as_torchscript), ("pt2", as_exported)):
        try:
            made = make(case)
            write(case, made, folder)
        except Exception as error:  # whatever PyTorch throws
            (folder / f"model.{form}").unlink(missing_ok=True)
            absent.append(f"{form}: {type(error).__name__}: {first_line(error)}")
        (folder / ("options" if form == "pt" else "options2")).write_text("\n".join(options_of(case, form)) + "\n")
    (folder / "absent").write_text("".join(line + "\n" for line in absent))
    made = make(case)
    with h5py.File(folder / "data.h5", "w") as file:
        file["inputs"], file["targets"] = made.inputs.numpy(), made.targets.numpy()
    found = reference(case, made)
    with h5py.File(folder / "reference.h5", "w") as file:
        file["hessian"] = found.hessian.numpy()
        file.attrs["loss_value"], file.attrs["oracle"] = found.loss, found.oracle
    return f"{folder.name}\t{case.name}\t{found.oracle}\n", covered(made)


def check_coverage(found: set[str]) -> None:
    layers = {n for n, c in vars(nn).items() if inspect.isclass(c) and issubclass(c, nn.Module)}
    missing = sorted(layers - found - set(EXCLUDED))
    stale = sorted(set(EXCLUDED) - layers)
    code = "".join(inspect.getsource(getattr(nn, n)) for n in found if hasattr(nn, n))
    losses = {n for n in dir(F) if n.endswith(("_loss", "cross_entropy", "kl_div", "with_logits", "distance_loss"))}
    uncovered = sorted(n for n in losses if not n.startswith("_") and f"F.{n}(" not in code)
    if missing or stale or uncovered:
        raise SystemExit(f"operators.py: in no case: {missing}; excluded, but not there: {stale}; losses: {uncovered}")


def main(arguments: list[str]) -> None:
    out = pathlib.Path(arguments[0]) / "operators"
    chosen = [k for k, case in enumerate(all_cases()) if not arguments[1:] or case.name in arguments[1:]]
    with multiprocessing.Pool() as pool:
        results = pool.starmap(write_case, [(k, out) for k in chosen], chunksize=4)
    if arguments[1:]:
        print("".join(line for line, _ in results))
        return
    check_coverage(set().union(*(classes for _, classes in results)))
    (out / "cases").write_text("".join(line for line, _ in results))


if __name__ == "__main__":
    main(sys.argv[1:])
