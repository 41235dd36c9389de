"""The diffusion behavior model of SfBC (arXiv 2209.14548) and QGPO (arXiv 2304.12824): a U-Net of dense layers.

The authors' network outputs the score h / sigma; ours outputs the noise -h, with the same loss. Times are drawn
from U(1e-5, 1) in SfBC and from U(1e-3, 1) in QGPO; there is no moving average and no weight decay.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.config import setting, static
from srpo.core import Alone, Batch, Stage, TrainState, Updated, descend
from srpo.diffusion.parametrization import NoisePrediction
from srpo.diffusion.schedules import VP
from srpo.errors import ConfigError
from srpo.networks.layers import MLP, GaussianFourier, Keys, Linear, linears
from srpo.optim import adam

Rows = Literal["transitions", "steps"]


class ScoreBlock(eqx.Module):
    """Two SiLU layers with the condition added between them, and a skip connection."""

    first: Linear
    condition: Linear
    second: Linear
    skip: Linear | None

    def __call__(
        self, x: Float[Array, "... i"], condition: Float[Array, "... c"], given: bool = False
    ) -> Float[Array, "... o"]:
        """`given`: whether x is what the network is given."""

        def of_x(layer: Linear) -> Array:
            return layer.entry(x) if given else layer(x)

        h = jax.nn.silu(of_x(self.first)) + self.condition(condition)
        return jax.nn.silu(self.second(h)) + (x if self.skip is None else of_x(self.skip))


def score_blocks(sizes: Sequence[tuple[int, int]], condition: int, keys: Keys) -> list[ScoreBlock]:
    """Blocks from n_in to n_out numbers, one for each key."""
    inner = [[(i, o), (condition, o), (o, o), (i, o)] for i, o in sizes]
    keys = jax.vmap(lambda k: jax.random.split(k, 4))(keys)
    layers = linears(list(itertools.chain(*inner)), keys.ravel())
    parts = zip(sizes, layers[::4], layers[1::4], layers[2::4], layers[3::4], strict=True)
    return [ScoreBlock(a, c, b, None if i == o else skip) for (i, o), a, c, b, skip in parts]


class ScoreNet(eqx.Module):
    """Blocks of narrowing `widths` and back, each seeing state and time; the way back also sees the way in."""

    fourier: GaussianFourier
    time: Linear
    obs: Linear
    condition: MLP
    down: tuple[ScoreBlock, ...]
    middle: ScoreBlock
    up: tuple[ScoreBlock, ...]
    last: Linear

    def __init__(self, obs: int, act: int, key: PRNGKeyArray, widths: tuple[int, ...] = (512, 256, 128), size: int = 32):
        """`size`: of the embeddings of time and state; the condition made of them is four times as wide."""
        k_fourier, k_time, k_obs, k_condition, k_middle, k_last, *keys = jax.random.split(key, 5 + 2 * len(widths))
        self.fourier = GaussianFourier(size, k_fourier)
        edges = [(size, size), (obs, size), (2 * widths[0], act)]
        self.time, self.obs, self.last = linears(edges, jnp.stack([k_time, k_obs, k_last]))
        c = 4 * size
        self.condition = MLP((2 * size, c, c), k_condition, jax.nn.silu)
        n, ways_in, ways_out = len(widths), itertools.pairwise((act, *widths)), itertools.pairwise(widths)
        sizes = [*ways_in, *((2 * i, o) for o, i in ways_out), (widths[-1], widths[-1])]
        *blocks, self.middle = score_blocks(sizes, c, jnp.stack([*keys, k_middle]))
        self.down, self.up = tuple(blocks[:n]), tuple(blocks[n:])[::-1]

    @property
    def action_size(self) -> int:
        return self.last.n_out

    def __call__(
        self, x: Float[Array, "... act"], t: Float[Array, "..."], obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "... act"]:
        """The predicted noise. `t` and `obs` broadcast against `x`; there is no dropout, so `key` is not used."""
        e_obs, e_time = jax.nn.silu(self.obs.entry(obs)), self.time.entry(self.fourier(t))
        lead = jnp.broadcast_shapes(e_obs.shape[:-1], e_time.shape[:-1])
        embedded = jnp.concatenate([jnp.broadcast_to(e, (*lead, e.shape[-1])) for e in (e_obs, e_time)], -1)
        condition = jax.nn.silu(self.condition(embedded))
        ways = []
        for i, block in enumerate(self.down):
            x = block(x, condition, given=i == 0)
            ways.append(x)
        x = self.middle(x, condition)
        for block in self.up:
            x = block(jnp.concatenate([ways.pop(), x], -1), condition)
        return self.last.unrounded(jnp.concatenate([ways.pop(), x], -1))


class ScoreBehavior(Stage[Alone[NoisePrediction[VP]], Batch, NoisePrediction[VP]]):
    steps: int = static(600_000, "gradient steps")
    batch_size: int = static(4096, "rows per step")
    widths: tuple[int, ...] = static((512, 256, 128), "widths of the network's blocks on the way in; the way out mirrors them")
    rows: Rows = static(
        "transitions", "what is modeled: the rows of d4rl.qlearning_dataset (QGPO) or all recorded steps (SfBC)"
    )
    lr: float = setting(1e-4, "learning rate (Adam)")
    min_time: float = setting(1e-3, "training draws t from U(min_time, 1)", "(0, 1)")

    def __check_init__(self):
        if not self.widths:
            raise ConfigError("widths: found none, expected one or more")

    def view(self, dataset):
        return getattr(dataset, self.rows)

    def init(self, data, given, key) -> Alone[NoisePrediction[VP]]:
        net = ScoreNet(data.obs_size, data.action_size, key, self.widths)
        return TrainState.create(NoisePrediction(net, VP()), adam(self.lr))

    def update(self, state: Alone[NoisePrediction[VP]], batch: Batch, given, key, step) -> Updated[Alone[NoisePrediction[VP]]]:
        k_time, k_noise = jax.random.split(key)
        t = jax.random.uniform(k_time, batch.reward.shape, minval=self.min_time, maxval=1.0)
        noise = jax.random.normal(k_noise, batch.action.shape)

        def loss(model):
            value = jnp.mean(jnp.sum(model.error(batch.action, t, noise, batch.obs) ** 2, -1))
            return value, {"loss": value}

        return descend(state, adam(self.lr), loss)

    def result(self, state: Alone[NoisePrediction[VP]]) -> NoisePrediction[VP]:
        return state.model
