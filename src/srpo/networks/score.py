"""Networks of a noised action, a time and an observation: what diffusion models of the behavior are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.diffusion.schedules import Times
from srpo.networks.derivatives import mish
from srpo.networks.layers import MLP, Activation, GaussianFourier, Init, LayerNorm, Linear, dropout, linears


def sinusoidal(t: Times, size: int) -> Float[Array, "... d"]:
    """sin and cos of t at `size` / 2 frequencies, from 1 geometrically down to 1e-4 (arXiv 1706.03762)."""
    frequency = jnp.geomspace(1.0, 1e-4, size // 2)
    angle = t[..., None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


class LearnedFourier(eqx.Module):
    """cos and sin of 2 pi w t with learned frequencies, which start at N(0, 0.2^2) (IDQL)."""

    frequency: Float[Array, " half"]

    def __init__(self, size: int, key: PRNGKeyArray, scale: float = 0.2):
        self.frequency = scale * jax.random.normal(key, (size // 2,))

    def __call__(self, t: Times) -> Float[Array, "... d"]:
        angle = 2 * jnp.pi * t[..., None] * self.frequency
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


class ResidualBlock(eqx.Module):
    norm: LayerNorm
    expand: Linear
    contract: Linear
    activation: Activation = eqx.field(static=True)

    def __call__(self, x: Array, rate: float, key: PRNGKeyArray | None) -> Array:
        y = self.norm(dropout(x, rate, key))
        return x + self.contract(self.activation(self.expand(y)))


class ResNetStyle(NamedTuple):
    """What SRPO's code (the defaults) and IDQL's do differently with the same residual network."""

    edge_init: Init = "torch"  # of the first and last layer and the embedding of time
    block_init: Init = "torch"
    eps: float = 1e-5  # of LayerNorm
    activation: Activation = mish
    learned_frequency: bool = False
    time_size: int = 64  # features of the time


class ScoreResNet(eqx.Module):
    """The LayerNorm residual network of IDQL (arXiv 2304.10573), which SRPO uses with continuous time.

    Input [a_t, s, e(t)], `Linear` to `width`, blocks of dropout, LayerNorm, Linear (x4), Mish, Linear, then
    Mish and a last Linear. No activation before the first block, no squashing.
    """

    fourier: GaussianFourier | LearnedFourier
    embed: MLP
    first: Linear
    blocks: tuple[ResidualBlock, ...]
    last: Linear
    dropout: float = eqx.field(static=True)
    activation: Activation = eqx.field(static=True)

    def __init__(
        self,
        obs: int,
        act: int,
        key: PRNGKeyArray,
        width: int = 256,
        n_blocks: int = 3,
        dropout: float = 0.1,
        style: ResNetStyle = ResNetStyle(),
    ):
        k_fourier, k_embed, k_first, k_last, *k_blocks = jax.random.split(key, 4 + 2 * n_blocks)
        time_size = style.time_size
        self.fourier = (LearnedFourier if style.learned_frequency else GaussianFourier)(time_size, k_fourier)
        self.embed = MLP((time_size, 2 * time_size, 2 * time_size), k_embed, style.activation, style.edge_init)
        edges = [(act + obs + 2 * time_size, width), (width, act)]
        self.first, self.last = linears(edges, jnp.stack([k_first, k_last]), style.edge_init)
        inner = linears([(width, 4 * width), (4 * width, width)] * n_blocks, jnp.stack(k_blocks), style.block_init)

        def block(expand, contract):
            return ResidualBlock(LayerNorm(width, style.eps), expand, contract, style.activation)

        self.blocks = tuple(block(a, b) for a, b in zip(inner[::2], inner[1::2], strict=True))
        self.dropout, self.activation = dropout, style.activation

    @property
    def action_size(self) -> int:
        return self.last.n_out

    def __call__(
        self, x: Float[Array, "... act"], t: Times, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "... act"]:
        """`key`: for dropout; without one there is none. `t` and `obs` broadcast against `x`."""
        lead = x.shape[:-1]
        e = self.embed(self.fourier(jnp.broadcast_to(t, lead)))
        h = self.first.entry(jnp.concatenate([x, jnp.broadcast_to(obs, (*lead, obs.shape[-1])), e], -1))
        keys = [None] * len(self.blocks) if key is None else jax.random.split(key, len(self.blocks))
        for block, k in zip(self.blocks, keys, strict=True):
            h = block(h, self.dropout, k)
        return self.last.unrounded(self.activation(h))


class ScoreMLP(eqx.Module):
    """A plain Mish network on [a_t, e(t), s] with sinusoidal time features (Diffusion-QL, arXiv 2208.06193).

    With `linear_input` one more Linear without activation comes first, as in DTQL's code (arXiv 2405.19690).
    """

    embed: MLP
    first: Linear | None
    body: MLP

    def __init__(
        self, obs: int, act: int, hidden: Sequence[int], key: PRNGKeyArray, time_size: int = 16, linear_input: bool = False
    ):
        k_embed, k_first, k_body = jax.random.split(key, 3)
        self.embed = MLP((time_size, 2 * time_size, time_size), k_embed, mish)
        size = act + time_size + obs
        self.first = Linear.create(size, hidden[0], k_first) if linear_input else None
        self.body = MLP((hidden[0] if linear_input else size, *hidden, act), k_body, mish)

    @property
    def action_size(self) -> int:
        return self.body.n_out

    def __call__(
        self, x: Float[Array, "... act"], t: Times, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "... act"]:
        """`t` and `obs` broadcast against `x`; there is no dropout, so `key` is not used."""
        lead = x.shape[:-1]
        e = self.embed(sinusoidal(jnp.broadcast_to(t, lead), self.embed.n_in))
        h = jnp.concatenate([x, e, jnp.broadcast_to(obs, (*lead, obs.shape[-1]))], -1)
        return self.body(h if self.first is None else self.first.entry(h))
