"""Fitted Q evaluation (Le, Voloshin, Yue, ICML 2019, arXiv 1903.08738): what a given policy's Q is, from logged data.

Q descends (Q(s, a) - r - discount mask Q'(s', pi(s')))^2, Q' a moving average of Q. The policies are known, so that
their actions at all next states are tables, made once; every policy is then a run of one compiled loop, whatever it is
made of. All of them see the same batches and start from the same Q, that of the behavior (whose next action is the
recorded one): differences between policies are not differences between draws, and what all share is learned once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.config import setting, static
from srpo.core import Batch, Stage, TrainState, descend
from srpo.losses import backup
from srpo.networks.layers import Normalizer, QEnsemble
from srpo.optim import adam
from srpo.runs.grid import without
from srpo.runs.mapping import default_mapping, entry
from srpo.steps import Log, advance, metric_names

Progress = Callable[[int], None]
CALLS = 50  # into which the steps are divided, for progress


class ScaledQ(eqx.Module):
    """Q in the units of the returns, of networks that see observations and returns at unit scale."""

    obs: Normalizer
    returns: Normalizer
    q: QEnsemble

    def __call__(self, obs: Float[Array, "... obs"], action: Float[Array, "... act"]) -> Float[Array, "n ..."]:
        return self.returns.undo(self.q(self.obs(obs), action))


class FittedQ(Stage):
    needs: ClassVar = ("next_action", "start")  # start: a ScaledQ

    steps: int = static(2_500, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((64, 64), "widths of the hidden layers")
    members: int = static(2, "independent networks: their spread is part of the interval")
    lr: float = setting(1e-3, "learning rate (Adam)")
    discount: float = setting(0.995, "discount per step", "[0, 1)")
    ema: float = setting(
        0.2, "rate at which the target follows; its inverse / (1 - discount) are the steps that it needs", "(0, 1]"
    )

    @partial(jax.jit, static_argnames="act")
    def fresh(self, obs: Normalizer, returns: Normalizer, act: int, key: PRNGKeyArray) -> ScaledQ:
        """A Q that predicts about the mean return everywhere."""
        return ScaledQ(obs, returns, QEnsemble(len(obs.mean.value), act, self.hidden, key, n=self.members))

    def init(self, data, given, key):
        return TrainState.create(given["start"], adam(self.lr), target=True)

    def update(self, state, batch, given, key, step):
        next_q = state.target(batch.next_obs, given["next_action"][batch.index])
        y = backup(batch.reward, batch.mask, next_q, self.discount)  # (members, B): each member has its own target

        def loss(model):
            error = (model(batch.obs, batch.action) - y) / state.model.returns.std.value
            value = jnp.mean(jnp.sum(error**2, 0))
            return value, {"loss": value}

        return descend(state, adam(self.lr), loss, ema=self.ema)

    def result(self, state) -> ScaledQ:
        return state.target


@jax.jit
def _begun(stage, data, shared, each, key):
    return default_mapping()(lambda each: stage.init(data, {**shared, **each}, key), [True])(each)


@partial(jax.jit, donate_argnums=(1, 2))
def _advanced(stage, state, log, data, shared, each, key, start, stop):
    def one(state, log, each):
        return advance(stage, state, log, data, {**shared, **each}, key, start, stop)

    return default_mapping()(one, [True, True, True])(state, log, each)


def fit_each(stage: Stage, data: Batch, shared: dict, each: dict, key: PRNGKeyArray, progress: Progress = lambda step: None):
    """The stage's result for every entry of the leading axis of the arrays in `each`, all in one compiled loop.

    What is not finite stays as it is: nobody trusts it later.
    """
    state = _begun(stage, data, shared, each, key)
    names = metric_names(stage, without(1, state), data, {**shared, **without(1, each)}, key)
    # buffers are donated: no sharing with what is given
    state, log = jax.device_put((jax.tree.map(np.array, state), Log.create(names, jax.tree.leaves(each)[0].shape[:1])))
    edges = np.unique(np.linspace(0, stage.steps, CALLS + 1).astype(np.int32))
    for start, stop in itertools.pairwise(edges):
        state, log = jax.block_until_ready(_advanced(stage, state, log, data, shared, each, key, start, stop))
        progress(int(stop))
    return jax.vmap(stage.result)(state)


def fit_one(stage: Stage, data: Batch, given: dict, key: PRNGKeyArray, progress: Progress = lambda step: None):
    """The stage's result for one run."""
    return entry(fit_each(stage, data, given, {"run": jnp.zeros(1)}, key, progress), 0)
