"""Diffuser's networks on trajectories (Janner et al., ICML 2022, arXiv 2205.09991, appendix B): (..., horizon, channels).

Convolutions are written as matrix products over neighboring rows: equal to the usual ones, and fast when many
networks of one shape are trained at once. Initializations are PyTorch's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from srpo.errors import ConfigError
from srpo.networks.derivatives import mish
from srpo.networks.layers import MLP, Keys, LayerNorm, Linear, linears, uniforms
from srpo.networks.precision import full, reduced
from srpo.networks.score import sinusoidal

X = Float[Array, "... horizon channels"]
Y = Float[Array, "... rows other"]  # with another number of rows, or of channels
Embedded = Float[Array, "... time"]


def neighbors(x: X, size: int, stride: int = 1) -> Float[Array, "... h {size}*channels"]:
    """Each (stride-th) row with those around it, `size` in all; zeros beyond the ends."""
    pad, n = size // 2, (x.shape[-2] + 2 * (size // 2) - size) // stride + 1
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(pad, pad), (0, 0)])
    return jnp.concatenate([x[..., i : i + stride * (n - 1) + 1 : stride, :] for i in range(size)], -1)


class Conv(eqx.Module):
    linear: Linear  # from the channels of `size` rows
    size: int = eqx.field(static=True)
    stride: int = eqx.field(static=True, default=1)

    def __call__(self, x: X) -> Y:
        return self.linear(neighbors(x, self.size, self.stride))


class Upsample(eqx.Module):
    """Transposed convolution of size 4 and stride 2: twice as many rows, each made of two neighboring ones."""

    weight: Float[Array, "2 wide c"]  # for even and odd rows
    bias: Float[Array, " c"]

    def __init__(self, channels: int, key: PRNGKeyArray):
        shapes, bound = [(2, 2 * channels, channels), (channels,)], (4 * channels) ** -0.5
        self.weight, self.bias = uniforms(jax.random.split(key), shapes, np.full(2, bound))

    def __call__(self, x: X) -> Y:
        around, weight, c = neighbors(reduced(x), 3), reduced(self.weight), x.shape[-1]
        rows = jnp.stack([around[..., : 2 * c] @ weight[0], around[..., c:] @ weight[1]], -2)
        return reduced(full(rows) + self.bias).reshape(*x.shape[:-2], 2 * x.shape[-2], c)


class GroupNorm(eqx.Module):
    scale: Float[Array, " c"]
    bias: Float[Array, " c"]
    groups: int = eqx.field(static=True)

    def __init__(self, channels: int, groups: int = 8):
        self.scale, self.bias, self.groups = jnp.ones(channels), jnp.zeros(channels), groups

    def __call__(self, x: X) -> X:
        kind, grouped = x.dtype, full(x).reshape(*x.shape[:-1], self.groups, -1)
        mean = jnp.mean(grouped, (-3, -1), keepdims=True)
        var = jnp.mean((grouped - mean) ** 2, (-3, -1), keepdims=True)
        normal = ((grouped - mean) * jax.lax.rsqrt(var + 1e-5)).reshape(x.shape)
        return (normal * self.scale + self.bias).astype(kind)


class ConvBlock(eqx.Module):
    conv: Conv
    norm: GroupNorm

    def __init__(self, linear: Linear):
        """`linear`: from the channels of 5 rows."""
        self.conv, self.norm = Conv(linear, 5), GroupNorm(linear.n_out)

    def __call__(self, x: X) -> Y:
        return mish(self.norm(self.conv(x)))


class TemporalBlock(eqx.Module):
    """Two convolution blocks with the time added between them, and a skip connection."""

    first: ConvBlock
    time: Linear
    second: ConvBlock
    skip: Linear | None

    def __call__(self, x: X, e: Embedded) -> Y:
        h = self.second(self.first(x) + self.time(mish(e))[..., None, :])
        return h + (x if self.skip is None else self.skip(x))


def temporal_blocks(sizes: Sequence[tuple[int, int]], time: int, keys: Keys) -> list[TemporalBlock]:
    """Blocks from n_in to n_out channels, one for each key; `time`: numbers that embed the time."""
    inner = [[(5 * i, o), (time, o), (5 * o, o), (i, o)] for i, o in sizes]
    keys = jax.vmap(lambda k: jax.random.split(k, 4))(keys)
    layers = linears(list(itertools.chain(*inner)), keys.ravel())
    parts = zip(sizes, layers[::4], layers[1::4], layers[2::4], layers[3::4], strict=True)
    return [TemporalBlock(ConvBlock(a), t, ConvBlock(b), None if i == o else skip) for (i, o), a, t, b, skip in parts]


class LinearAttention(eqx.Module):
    """x + attention of the normalized x, whose keys are normalized over the rows (linear in their number)."""

    norm: LayerNorm
    qkv: Float[Array, "c qkv"]
    out: Linear
    heads: int = eqx.field(static=True)

    def __init__(self, channels: int, key: PRNGKeyArray, heads: int = 4, size: int = 32):
        qkv, self.out = linears([(channels, 3 * heads * size), (heads * size, channels)], jax.random.split(key))
        self.norm, self.qkv, self.heads = LayerNorm(channels), qkv.weight, heads  # no bias

    def __call__(self, x: X) -> X:
        q, k, v = jnp.split((reduced(self.norm(x)) @ reduced(self.qkv)).reshape(*x.shape[:-1], self.heads, -1), 3, -1)
        size = q.shape[-1]
        context = jnp.einsum("...nhd,...nhe->...hde", jax.nn.softmax(full(k), -3).astype(v.dtype), v)
        attended = jnp.einsum("...hde,...nhd->...nhe", context, q * size**-0.5)
        return x + self.out(attended.reshape(*x.shape[:-1], -1))


class Level(eqx.Module):
    """Two blocks at one resolution, then attention if there is any."""

    blocks: tuple[TemporalBlock, TemporalBlock]
    attention: LinearAttention | None

    def __call__(self, x: X, e: Embedded) -> Y:
        for block in self.blocks:
            x = block(x, e)
        return x if self.attention is None else self.attention(x)


def levels(sizes: Sequence[tuple[int, int]], time: int, keys: Keys, attention: bool = False) -> list[Level]:
    """Levels from n_in to n_out channels, one for each key."""
    keys = jax.vmap(lambda k: jax.random.split(k, 3))(keys)
    blocks = temporal_blocks([pair for i, o in sizes for pair in ((i, o), (o, o))], time, keys[:, :2].ravel())
    attentions = [LinearAttention(o, k) if attention else None for (_, o), k in zip(sizes, keys[:, 2], strict=True)]
    return [Level(*parts) for parts in zip(zip(blocks[::2], blocks[1::2], strict=True), attentions, strict=True)]


def _halvings(channels: Sequence[int], keys: Keys) -> tuple[Conv, ...]:
    """One after each of the levels with so many channels."""
    return tuple(Conv(linear, 3, stride=2) for linear in linears([(3 * c, c) for c in channels], keys))


def _time_embedding(width: int, key: PRNGKeyArray) -> MLP:
    return MLP((width, 4 * width, width), key, mish)


class TemporalUNet(eqx.Module):
    """From a noisy trajectory and its diffusion step to a clean one."""

    embed: MLP
    down: tuple[Level, ...]
    halve: tuple[Conv, ...]
    middle: tuple[TemporalBlock, TemporalBlock]
    attention: LinearAttention | None  # between the middle blocks
    up: tuple[Level, ...]
    double: tuple[Upsample, ...]
    last: tuple[ConvBlock, Linear]

    def __init__(self, channels: int, key: PRNGKeyArray, width: int, multipliers: tuple[int, ...], attention: bool = False):
        """`channels`: of a trajectory's rows; level i has width * multipliers[i] channels and half the rows of the one before."""
        sizes = [channels, *(width * m for m in multipliers)]
        n = len(multipliers)
        keys = jax.random.split(key, 3 + 4 * n)
        k_embed, k_middle, k_last, (k_down, k_halve, k_up, k_double) = *keys[:3], keys[3:].reshape(4, n)
        ways = list(zip(sizes[2:], sizes[1:-1], strict=True))[::-1]  # from the narrowest level to the second
        down, up = list(itertools.pairwise(sizes)), [(2 * i, o) for i, o in ways]
        made = levels(down + up, width, jnp.concatenate([k_down, k_up[:-1]]), attention)
        self.embed, self.down, self.up = _time_embedding(width, k_embed), tuple(made[:n]), tuple(made[n:])
        self.halve = _halvings(sizes[1:-1], k_halve[:-1])
        *k_blocks, k_attention = jax.random.split(k_middle, 3)
        first, second = temporal_blocks([(sizes[-1], sizes[-1])] * 2, width, jnp.stack(k_blocks))
        self.middle = first, second
        self.attention = LinearAttention(sizes[-1], k_attention) if attention else None
        self.double = tuple(Upsample(o, k) for (_, o), k in zip(ways, k_double[:-1], strict=True))
        wide, last = linears([(5 * sizes[1], sizes[1]), (sizes[1], channels)], jax.random.split(k_last))
        self.last = ConvBlock(wide), last

    def __call__(self, x: X, k: Int[Array, "..."]) -> X:
        """`k`: diffusion step, of the shape of x without its last two axes, or broadcasting against it."""
        e = self.embed(sinusoidal(jnp.broadcast_to(k, x.shape[:-2]), self.embed.n_out))
        seen = []
        for i, level in enumerate(self.down):
            x = level(x, e)
            seen.append(x)
            x = self.halve[i](x) if i < len(self.halve) else x
        x = self.middle[0](x, e)
        x = self.middle[1](x if self.attention is None else self.attention(x), e)
        for level, double in zip(self.up, self.double, strict=True):
            x = double(level(jnp.concatenate([x, seen.pop()], -1), e))
        return self.last[1].unrounded(self.last[0](x))


class ReturnNet(eqx.Module):
    """From a noisy trajectory and its diffusion step to the return that follows."""

    embed: MLP
    levels: tuple[tuple[Level | TemporalBlock, Conv], ...]  # each followed by a halving
    last: MLP

    def __init__(self, channels: int, horizon: int, key: PRNGKeyArray, width: int, multipliers: tuple[int, ...]):
        sizes = [channels, *(width * m for m in multipliers)]
        narrow = [sizes[-1], sizes[-1] // 2, sizes[-1] // 4]
        keys = jax.random.split(key, 2 + 2 * (len(multipliers) + 2))
        k_embed, k_last, k_levels, k_halve = *keys[:2], keys[2::2], keys[3::2]
        self.embed = _time_embedding(width, k_embed)
        wide = levels(list(itertools.pairwise(sizes)), width, k_levels[:-2])
        made: list[Level | TemporalBlock] = [*wide, *temporal_blocks(list(itertools.pairwise(narrow)), width, k_levels[-2:])]
        self.levels = tuple(zip(made, _halvings([*sizes[1:], *narrow[1:]], k_halve), strict=True))
        rows = horizon
        for _ in made:
            rows = (rows + 1) // 2
        flat = rows * narrow[-1]
        self.last = MLP((flat + width, flat // 2, 1), k_last, mish)

    def __call__(self, x: X, k: Int[Array, "..."]) -> Float[Array, "..."]:
        """`k`: as in TemporalUNet."""
        e = self.embed(sinusoidal(jnp.broadcast_to(k, x.shape[:-2]), self.embed.n_out))
        for level, halve in self.levels:
            x = halve(level(x, e))
        return self.last(jnp.concatenate([x.reshape(*x.shape[:-2], -1), e], -1))[..., 0]


def check_sizes(horizon: int, width: int, multipliers: tuple[int, ...]) -> None:
    """Raises ConfigError for a horizon that cannot be halved at every level, or channels that cannot be grouped."""
    factor = 2 ** (len(multipliers) - 1)
    if horizon % factor or horizon == 0:
        raise ConfigError(
            f"a horizon of {horizon} rows cannot be halved {len(multipliers) - 1} times; choose a multiple of {factor}"
        )
    if not multipliers or width % 8 or width == 0 or width * multipliers[-1] % 32:
        raise ConfigError(
            f"width {width} with multipliers {multipliers}: expected a width of 8, 16, 24, ... and a widest level of 32, 64, 96, ... "
            "channels, which are normalized in 8 groups after halving twice; change one of them"
        )
