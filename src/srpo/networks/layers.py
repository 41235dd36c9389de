"""Networks: every leaf is an array, and each acts on the last axis, so `(obs)`, `(B, obs)`, `(B, N, obs)` all work.

Initializations carry the names under which the papers' code bases know them; the defaults are PyTorch's,
which most of them use.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from srpo.core import Frozen, Moments
from srpo.networks import precision
from srpo.networks.derivatives import affine, rounded_product
from srpo.networks.precision import full, reduced

Init = Literal["torch", "orthogonal", "orthogonal sqrt2", "xavier", "lecun"]
Activation = Callable[[Array], Array]
Keys = Key[Array, " n"]

_KERNEL = {
    "orthogonal": jax.nn.initializers.orthogonal(),
    "orthogonal sqrt2": jax.nn.initializers.orthogonal(2**0.5),
    "xavier": jax.nn.initializers.xavier_uniform(),
    "lecun": jax.nn.initializers.lecun_normal(),
}


def dropout(x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
    """Zero each element with probability `rate` and rescale the rest; the identity without a key.

    The probability is exact to 1/65536.
    """
    if key is None:
        return x
    threshold = jnp.asarray(rate * 65536, jnp.uint16)
    return jnp.where(_half_words(key, x.shape) >= threshold, x / (1 - rate), 0.0)


def _half_words(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    """Random 16-bit words, two from each 32-bit word of the generator (which computes 64 bits to give 16 of them)."""
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
    halves = jnp.concatenate([(words & 0xFFFF).astype(jnp.uint16), (words >> 16).astype(jnp.uint16)])
    return halves[:size].reshape(shape)


class Linear(eqx.Module):
    weight: Float[Array, "i o"]
    bias: Float[Array, " o"]

    @classmethod
    def create(cls, n_in: int, n_out: int, key: PRNGKeyArray, init: Init = "torch") -> Linear:
        """`torch`: weight and bias ~ U(-1/sqrt(n_in), 1/sqrt(n_in)); the others: zero bias."""
        return linears([(n_in, n_out)], key[None], init)[0]

    @property
    def n_in(self) -> int:
        return self.weight.shape[-2]

    @property
    def n_out(self) -> int:
        return self.weight.shape[-1]

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        if precision.products_alone():
            return self.unrounded(x)
        return affine(reduced(x), self.weight, self.bias)

    def entry(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        """Of what a network is given, which is not rounded: in bfloat16 a height of 1.25 m is a multiple of 8 mm."""
        y = affine(full(x), self.weight, self.bias)
        return y if precision.products_alone() else reduced(y)

    def unrounded(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        """With a result in float32, whatever is computed in: for last layers."""
        if precision.current_precision() == "bfloat16":
            return rounded_product(full(x), self.weight) + self.bias
        return affine(x, self.weight, self.bias)


def linears(sizes: Sequence[tuple[int, int]], keys: Keys, init: Init = "torch") -> tuple[Linear, ...]:
    """Layers from n_in to n_out numbers, one for each key: those that each of them would be alone."""
    return _linears(keys, tuple(sizes), init)


@partial(jax.jit, static_argnames=("sizes", "init"), inline=True)  # one program where nothing around it is compiled
def _linears(keys: Keys, sizes: tuple[tuple[int, int], ...], init: Init) -> tuple[Linear, ...]:
    if init == "torch":
        pairs = jax.vmap(jax.random.split)(keys)  # of weight and bias
        shapes, bounds = [((i, o), (o,)) for i, o in sizes], [i**-0.5 for i, _ in sizes]
        drawn = uniforms(pairs.ravel(), list(itertools.chain(*shapes)), np.repeat(bounds, 2))
        return tuple(Linear(*drawn[n : n + 2]) for n in range(0, len(drawn), 2))
    return tuple(
        Linear(_KERNEL[init](jax.random.split(k)[0], size), jnp.zeros(size[1])) for k, size in zip(keys, sizes, strict=True)
    )


LENGTHS = 1 << 12, 1 << 16  # arrays up to the same one of these are drawn together; a larger one is worth a draw of its own


def uniforms(keys: Keys, shapes: Sequence[tuple[int, ...]], bounds: Float[np.ndarray, " n"]) -> list[Array]:
    """Arrays of these shapes ~ U(-bound, bound), one for each key: what each key gives alone, in few draws.

    A draw is a hundred operations to compile, whatever its length, and the first numbers of a longer one are those of a shorter
    one: small arrays are drawn at the length of the longest, and cut.
    """
    sizes = np.array([math.prod(shape) for shape in shapes])
    groups = np.where(sizes > LENGTHS[-1], len(LENGTHS) + np.arange(len(sizes)), np.searchsorted(LENGTHS, sizes))
    arrays: dict[int, Array] = {}
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group).tolist()

        def draw(key, bound, length=sizes[members].max()):
            return jax.random.uniform(key, (length,), minval=-bound, maxval=bound)

        rows = jax.vmap(draw)(keys[np.array(members)], jnp.asarray(bounds[members], jnp.float32))
        arrays |= {i: row[: sizes[i]].reshape(shapes[i]) for i, row in zip(members, rows, strict=True)}
    return [arrays[i] for i in range(len(shapes))]


class LayerNorm(eqx.Module):
    scale: Float[Array, " d"]
    bias: Float[Array, " d"]
    eps: float = eqx.field(static=True)

    def __init__(self, size: int, eps: float = 1e-5):
        """`eps`: 1e-5 is PyTorch's, 1e-6 flax's."""
        self.scale, self.bias, self.eps = jnp.ones(size), jnp.zeros(size), eps

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        kind, x = x.dtype, full(x)
        mean = jnp.mean(x, -1, keepdims=True)
        var = jnp.mean((x - mean) ** 2, -1, keepdims=True)
        return ((x - mean) * jax.lax.rsqrt(var + self.eps) * self.scale + self.bias).astype(kind)


class MLP(eqx.Module):
    """Linear layers with an activation between them; with `norm`, a LayerNorm before or after each activation."""

    layers: tuple[Linear, ...]
    norms: tuple[LayerNorm, ...]
    activation: Activation = eqx.field(static=True)
    norm: Literal["before", "after"] | None = eqx.field(static=True)

    def __init__(
        self,
        sizes: Sequence[int],
        key: PRNGKeyArray,
        activation: Activation = jax.nn.relu,
        init: Init = "torch",
        norm: Literal["before", "after"] | None = None,
        eps: float = 1e-5,
        layers: tuple[Linear, ...] | None = None,
    ):
        """`sizes`: the widths of all layers, input and output included; `eps`: of the LayerNorms; `layers`: if they are made."""
        self.layers = layers or linears(list(itertools.pairwise(sizes)), jax.random.split(key, len(sizes) - 1), init)
        self.norms = tuple(LayerNorm(n, eps) for n in sizes[1:-1]) if norm else ()
        self.activation, self.norm = activation, norm

    @property
    def n_in(self) -> int:
        return self.layers[0].n_in

    @property
    def n_out(self) -> int:
        return self.layers[-1].n_out

    def __call__(self, x: Float[Array, "... i"], rate: float = 0.0, key: PRNGKeyArray | None = None) -> Float[Array, "... o"]:
        """With a key, dropout at `rate` follows each activation."""
        keys = [None] * len(self.layers) if key is None else jax.random.split(key, len(self.layers))
        for i, layer in enumerate(self.layers[:-1]):
            x = layer(x) if i else layer.entry(x)
            x = self.activation(self.norms[i](x) if self.norm == "before" else x)
            x = dropout(self.norms[i](x) if self.norm == "after" else x, rate, keys[i])
        return self.layers[-1].unrounded(x)


SMALL = 10.0  # times `eps`: deviations below are scaled before it is added


class Normalizer(eqx.Module):
    """(x - mean) / std with statistics of the data, which no optimizer touches."""

    mean: Frozen
    std: Frozen

    def __init__(self, mean: Float[Array, " d"], std: Float[Array, " d"]):
        self.mean, self.std = Frozen(mean), Frozen(std)

    @classmethod
    def of(cls, moments: Moments, eps: float = 1e-3) -> Normalizer:
        """Of columns with this mean and standard deviation, to which `eps` is added, as in the papers' codes.

        A column whose deviation is not far above `eps` would vanish by it; it is brought to unit scale first.
        """
        mean, std = moments
        small = (std > 0) & (std < SMALL * eps)
        return cls(mean, jnp.where(small, std * (1.0 + eps), std + eps))

    @classmethod
    def identity(cls, size: int) -> Normalizer:
        return cls(jnp.zeros(size), jnp.ones(size))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Raises ValueError for another size, which would be broadcast to a wrong one in silence."""
        if jnp.shape(x)[-1:] != self.mean.value.shape[-1:]:
            raise ValueError(f"found an array of shape {jnp.shape(x)}, expected (..., {self.mean.value.shape[-1]})")
        return (x - self.mean.value) / self.std.value

    def undo(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return x * self.std.value + self.mean.value


def ensemble(sizes: Sequence[int], key: PRNGKeyArray, n: int, init: Init = "torch", **options) -> tuple[MLP, ...]:
    """Independent networks; `options` go to MLP."""
    depth, keys = len(sizes) - 1, jax.random.split(key, n)
    k_layers = jax.vmap(lambda k: jax.random.split(k, depth))(keys)
    layers = linears(list(itertools.pairwise(sizes)) * n, k_layers.ravel(), init)
    return tuple(MLP(sizes, k, layers=layers[i * depth : (i + 1) * depth], **options) for i, k in enumerate(keys))


class QEnsemble(eqx.Module):
    """Independent action-value networks on the concatenation of observation and action.

    In float32 in any precision, as is `ValueNet`: policies climb differences of hundredths of a value, which bfloat16 blurs
    (docs/performance.md).
    """

    members: tuple[MLP, ...]

    def __init__(self, obs: int, act: int, hidden: Sequence[int], key: PRNGKeyArray, n: int = 2, **options):
        """`options` go to MLP."""
        self.members = ensemble((obs + act, *hidden, 1), key, n, **options)

    def __call__(self, obs: Float[Array, "... obs"], action: Float[Array, "... act"]) -> Float[Array, "n ..."]:
        x = jnp.concatenate([obs, action], -1)
        with precision.computing_in("float32"):
            return jnp.stack([member(x)[..., 0] for member in self.members])


class ValueNet(eqx.Module):
    """A state-value network."""

    net: MLP

    def __init__(self, obs: int, hidden: Sequence[int], key: PRNGKeyArray, **options):
        self.net = MLP((obs, *hidden, 1), key, **options)

    def __call__(self, obs: Float[Array, "... obs"]) -> Float[Array, "..."]:
        with precision.computing_in("float32"):
            return self.net(obs)[..., 0]


class GaussianFourier(eqx.Module):
    """sin and cos of 2 pi w t with frequencies w ~ N(0, 30^2), drawn once and frozen."""

    frequency: Frozen

    def __init__(self, size: int, key: PRNGKeyArray, scale: float = 30.0):
        self.frequency = Frozen(scale * jax.random.normal(key, (size // 2,)))

    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "... d"]:
        angle = t[..., None] * self.frequency.value * (2 * jnp.pi)  # in this order, as angles of hundreds keep their rounding
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)
