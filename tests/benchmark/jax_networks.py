"""The networks of problems.py in JAX, with the parameters of PyTorch, in its order and layout."""

import jax
import jax.numpy as jnp
from jax import lax


def linear(p, name, x):
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def conv(p, name, x, stride=1, padding=0):
    y = lax.conv_general_dilated(x, p[f"{name}.weight"], (stride, stride), ((padding, padding),) * 2)
    return y + p[f"{name}.bias"][:, None, None] if f"{name}.bias" in p else y


def standardised(x):
    """Over the last dimension."""
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)


def layer_norm(p, name, x):
    return standardised(x) * p[f"{name}.weight"] + p[f"{name}.bias"]


def group_norm(p, name, x, groups=4):
    y = standardised(x.reshape(x.shape[0], groups, -1)).reshape(x.shape)
    return y * p[f"{name}.weight"][:, None, None] + p[f"{name}.bias"][:, None, None]


def halved(x):
    """Means of squares of 2 x 2 pixels."""
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))


def gelu(x):
    return jax.nn.gelu(x, approximate=False)


def attention(qkv, heads, causal):
    """Of queries, keys and values beside each other."""
    samples, positions, three_widths = qkv.shape
    q, k, v = qkv.reshape(samples, positions, 3, heads, -1).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(2, 3) * q.shape[3] ** -0.5
    if causal:
        scores = jnp.where(jnp.tri(positions, dtype=bool), scores, -jnp.inf)
    return (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(samples, positions, three_widths // 3)


def example(p, x, model):
    return linear(p, "f2", conv(p, "c1", x, padding=1).reshape(x.shape[0], -1))


def perceptron(p, x, model):
    return linear(p, "fc3", jnp.tanh(linear(p, "fc2", jnp.tanh(linear(p, "fc1", x)))))


def lenet(p, x, model):
    x = halved(jnp.tanh(conv(p, "conv1", x, padding=2)))
    x = halved(jnp.tanh(conv(p, "conv2", x)))
    return perceptron(p, x.reshape(x.shape[0], -1), model)


def transformer(p, x, model):
    x = p["tok.weight"][x] + p["pos"]
    qkv = x @ p["enc.self_attn.in_proj_weight"].T + p["enc.self_attn.in_proj_bias"]
    a = attention(qkv, model.enc.self_attn.num_heads, causal=False)
    x = layer_norm(p, "enc.norm1", x + linear(p, "enc.self_attn.out_proj", a))
    x = layer_norm(p, "enc.norm2", x + linear(p, "enc.linear2", gelu(linear(p, "enc.linear1", x))))
    return linear(p, "head", x).swapaxes(1, 2)


def gpt(p, x, model):
    x = p["tok.weight"][x] + p["pos"]
    for k, block in enumerate(model.blocks):
        b = f"blocks.{k}"
        x = x + linear(p, f"{b}.out", attention(linear(p, f"{b}.qkv", layer_norm(p, f"{b}.norm1", x)), block.heads, causal=True))
        x = x + linear(p, f"{b}.down", gelu(linear(p, f"{b}.up", layer_norm(p, f"{b}.norm2", x))))
    return linear(p, "head", layer_norm(p, "norm", x)).swapaxes(1, 2)


def resnet(p, x, model):
    x = jax.nn.silu(group_norm(p, "norm", conv(p, "conv", x, padding=1)))
    for k, block in enumerate(model.blocks):
        b, stride = f"blocks.{k}", block.conv1.stride[0]
        y = jax.nn.silu(group_norm(p, f"{b}.norm1", conv(p, f"{b}.conv1", x, stride, padding=1)))
        y = group_norm(p, f"{b}.norm2", conv(p, f"{b}.conv2", y, padding=1))
        x = jax.nn.silu(y + (conv(p, f"{b}.short", x, stride) if stride > 1 else x))
    return linear(p, "head", x.mean((2, 3)))


FORWARDS = {f.__name__: f for f in (example, perceptron, lenet, transformer, gpt, resnet)}


def loss(network):
    """Of the flat vector of parameters."""
    forward = FORWARDS[type(network.model).__name__.lower()]
    x, y = jnp.asarray(network.inputs.numpy()), jnp.asarray(network.targets.numpy())
    ends = [sum(network.sizes[: k + 1]) for k in range(len(network.sizes))]

    def of(theta):
        parts = jnp.split(theta, ends[:-1])
        p = {name: part.reshape(q.shape) for part, (name, q) in zip(parts, network.parameters.items())}
        scores = jax.nn.log_softmax(forward(p, x, network.model), 1)
        return -jnp.take_along_axis(scores, y[:, None], 1).mean()

    return of
