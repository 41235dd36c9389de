"""The dial on a 2-D bandit: one network for all targets and temperatures, beside a policy descended for each of them.

The observation is the place that Q likes best, Q(s, a) = -|a - s|^2 in the bandit's own units; the behavior knows nothing
of it. `srpo-dial`'s stage trains one pi(s, beta); beside it, for a grid of s and of beta, a free action descends
the same direction (eq. 15). Actions are divided by the half-width of the square, as policies act in [-1, 1].
"""

from __future__ import annotations

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from srpo.algorithms.srpo_dial import DialedPolicyStage
from srpo.core import Batch
from srpo.paper import panels
from srpo.paper.bandits import Bandit, find, fit
from srpo.paper.job import Job
from srpo.paper.policy_shift import target_grid
from srpo.paper.study import climb
from srpo.steps import Log, advance, metric_names

DATA = ("swissroll",)
LOW, HIGH = 0.01, 1.0
CALLS = 40


class Wish(eqx.Module):
    """Q(s, a) = -scale |a - s|^2 with one head; the target is the observation unless it is given."""

    scale: float
    target: Float[Array, "... 2"] | None = None

    def q_target(self, obs: Float[Array, "... 2"], action: Float[Array, "... 2"]) -> Float[Array, "1 ..."]:
        return -self.scale * jnp.sum((action - (obs if self.target is None else self.target)) ** 2, -1)[None]


def make(job: Job) -> list[dict]:
    """Trains, draws dial.png and writes every policy to dial.csv; returns a row per temperature."""
    name = (job.data or DATA)[0]
    bandit = find(name)
    actions = bandit.actions(job.budget.rows, job.seed) / np.float32(bandit.extent)
    behavior = fit(job.budget.behavior(), actions, job.key(0), job.bars, "behavior")
    wish = Wish(bandit.extent**2)
    actor = _train(job, {"behavior": behavior, "critic": wish})
    targets = target_grid(1.0, job.budget.targets)
    beta = np.geomspace(HIGH, LOW, job.budget.temperatures).astype(np.float32)
    job.bars.open("a policy for each", 1)
    critic = Wish(wish.scale, jnp.asarray(targets))
    alone = climb(behavior, critic, targets, 1 / beta, job.key(2), steps=job.budget.climbs, gradient="eq15")
    job.bars.update(1)
    dialed = jax.vmap(lambda b: actor(jnp.asarray(targets), b))(jnp.asarray(beta))
    both = {"alone": np.asarray(alone) * bandit.extent, "dial": np.asarray(dialed) * bandit.extent}
    _write(job, targets * bandit.extent, beta, both)
    apart = np.linalg.norm(both["alone"] - both["dial"], axis=-1)  # (temperatures, targets)
    with panels.style():
        job.picture("dial", draw(bandit, actions * bandit.extent, beta, both, apart))
    shown = np.linspace(0, len(beta) - 1, 5).astype(int)
    moved = np.linalg.norm(both["alone"] - targets * bandit.extent, axis=-1)
    return [
        {
            "data": name,
            "beta": round(float(beta[k]), 4),
            "from argmax Q": round(float(np.median(moved[k])), 3),
            "median apart": round(float(np.median(apart[k])), 3),
            "within 0.25, %": round(100 * float(np.mean(apart[k] < 0.25)), 1),
        }
        for k in shown
    ]


def _train(job: Job, given: dict):
    """The dialed actor of targets drawn from the square."""
    stage = DialedPolicyStage(
        steps=job.budget.steps, batch_size=job.budget.batch_size, hidden=(job.budget.width,) * 3, lr=2e-3, low=LOW, high=HIGH
    )
    n = 50_000
    obs = jax.random.uniform(job.key(3), (n, 2), minval=-1.0, maxval=1.0)
    data = Batch(obs, jnp.zeros((n, 2)), jnp.zeros(n), obs, jnp.zeros(n), jnp.arange(n))
    key = job.key(1)
    state = stage.init(data, given, key)
    log = Log.create(metric_names(stage, state, data, given, key))
    program = jax.jit(advance, donate_argnums=1)
    job.bars.open("the dial", stage.steps)
    edges = np.linspace(0, stage.steps, CALLS + 1).astype(int).tolist()
    for start, stop in itertools.pairwise(edges):
        state, log = jax.block_until_ready(program(stage, state, log, data, given, key, start, stop))
        job.bars.update(stop)
    return stage.result(state)


def _write(job: Job, targets: np.ndarray, beta: np.ndarray, both: dict[str, np.ndarray]) -> None:
    k, n = len(beta), len(targets)
    columns = {"beta": np.repeat(beta, n), "target_x": np.tile(targets[:, 0], k), "target_y": np.tile(targets[:, 1], k)}
    for name, found in both.items():
        columns |= {f"{name}_x": found[..., 0].ravel(), f"{name}_y": found[..., 1].ravel()}
    job.csv("dial", columns)


def draw(bandit: Bandit, actions: np.ndarray, beta: np.ndarray, both: dict[str, np.ndarray], apart: np.ndarray):
    """Data, a policy for each temperature, the dial, and how far apart they are."""
    figure = panels.page(panels.TEXT_WIDTH, 2.0)
    axes = figure.subplots(1, 4)
    panels.samples(axes[0], actions)
    color = np.repeat(-np.log10(beta), both["dial"].shape[1])
    for axis, found in zip(axes[1:3], both.values(), strict=True):
        shown = panels.dots(axis, found.reshape(-1, 2), s=1.3, c=color, cmap=panels.TEMPERATURE, rasterized=True)
    for axis, title in zip(axes, ("(a) Data samples", "(b) A policy for each", "(c) The dial"), strict=False):
        panels.square(axis, bandit.extent)
        axis.set_title(title)
    figure.colorbar(shown, ax=axes[2], label=r"$\log_{10}(1/\beta)$", shrink=0.7)
    low, middle, high = np.quantile(apart, [0.25, 0.5, 0.75], axis=1)
    axes[3].fill_between(beta, low, high, color=panels.DARK, alpha=0.25, linewidth=0)
    axes[3].plot(beta, middle, color=panels.DARK)
    axes[3].set(xscale="log", xlabel=r"$\beta$", ylim=(0, None), title="(d) Distance, median\nand quartiles")
    return figure
