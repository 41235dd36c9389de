"""2-D bandits: data sets with a constant observation, known densities, and a diffusion model of their actions.

The sets are the usual toy data of density estimation in the scale of the energy-guided diffusion paper (arXiv
2304.12824), about [-4, 4]^2, and DTQL's grid of 25 Gaussians (arXiv 2405.19690) on [-10, 10]^2. Their actions are
not squeezed into [-1, 1]: the paper's temperatures 1/beta = 0 ... 1 belong to these units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from srpo import config
from srpo.core import Batch, Frozen, Stage, TrainState
from srpo.diffusion.parametrization import NoisePrediction, Preconditioned
from srpo.diffusion.schedules import VP
from srpo.errors import ConfigError, closest
from srpo.networks.layers import MLP
from srpo.optim import adamw
from srpo.stages.diffusion_behavior import DiffusionBehavior
from srpo.steps import Log, advance, metric_names
from srpo.training.progress import Bars

Points = Float[np.ndarray, "n 2"]
NO_OBS = jnp.zeros(0)  # the observation of a bandit


class GaussianMixture(eqx.Module):
    """Equal parts N(mean_i, std^2 I). Called, it is a perfect behavior model: the exact noise prediction at any t."""

    means: Float[Array, "k d"]
    std: Float[Array, ""]
    schedule: VP = eqx.field(static=True, default=VP())

    def __call__(self, x: Float[Array, "... d"], t: Float[Array, "..."], obs=None, key=None) -> Float[Array, "... d"]:
        """E[noise | x_t]: the mean over the parts, weighted by their responsibility for x_t."""
        alpha, sigma = (a[..., None] for a in self.schedule(t))
        variance = (alpha * self.std) ** 2 + sigma**2
        apart = x[..., None, :] - alpha[..., None] * self.means
        weight = jax.nn.softmax(-jnp.sum(apart**2, -1) / (2 * variance), -1)
        return sigma * jnp.sum(weight[..., None] * apart, -2) / variance

    @jax.jit
    def log_density(self, x: Float[Array, "... d"]) -> Float[Array, "..."]:
        """log p(x) in nats."""
        part = jnp.sum(jax.scipy.stats.norm.logpdf(x[..., None, :], self.means, self.std), -1)
        return jax.nn.logsumexp(part, -1) - jnp.log(len(self.means))

    def sample(self, rng: np.random.Generator, n: int) -> Points:
        means = np.asarray(self.means)
        return means[rng.integers(len(means), size=n)] + float(self.std) * rng.normal(size=(n, means.shape[1]))


def ring_of_gaussians() -> GaussianMixture:
    """Eight modes on a circle of radius 2 sqrt 2, standard deviation sqrt 2 / 4."""
    angle = jnp.arange(8) * jnp.pi / 4
    return GaussianMixture(2 * 2**0.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1), jnp.asarray(2**0.5 / 4))


def grid_of_gaussians() -> GaussianMixture:
    """DTQL's 5 x 5 modes on [-10, 10]^2, standard deviation 0.3."""
    line = jnp.linspace(-10.0, 10.0, 5)
    return GaussianMixture(jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2), jnp.asarray(0.3))


def _swissroll(rng, n):
    from sklearn.datasets import make_swiss_roll

    return make_swiss_roll(n, noise=1.0, random_state=rng.integers(2**31))[0][:, [0, 2]] / 5


def _moons(rng, n):
    from sklearn.datasets import make_moons

    return 2 * make_moons(n, noise=0.1, random_state=rng.integers(2**31))[0] - [1.0, 0.2]


def _rings(rng, n):
    radius, angle = 0.75 * rng.integers(1, 5, n), rng.uniform(0, 2 * np.pi, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1) + 0.08 * rng.normal(size=(n, 2))


def _spirals(rng, n):
    angle, side = 3 * np.pi * np.sqrt(rng.uniform(size=n)), rng.choice([-1.0, 1.0], n)
    arm = np.stack([-np.cos(angle) * angle, np.sin(angle) * angle], -1) + 0.5 * rng.uniform(size=(n, 2))
    return side[:, None] * arm / 3 + 0.1 * rng.normal(size=(n, 2))


def _checkerboard(rng, n):
    x = rng.uniform(-2, 2, n)
    y = rng.uniform(size=n) - 2 * rng.integers(2, size=n) + np.floor(x) % 2
    return 2 * np.stack([x, y], -1)


@dataclass(frozen=True)
class Bandit:
    """A data set: how to draw its actions, the half-width of the square that holds them, its density where known."""

    draw: Callable[[np.random.Generator, int], Points]
    extent: float = 4.5
    mixture: Callable[[], GaussianMixture] | None = None

    def density(self) -> GaussianMixture:
        """Raises ValueError where it is not known."""
        if self.mixture is None:
            raise ValueError("the density of this data set is not known")
        return self.mixture()

    def actions(self, n: int, seed: int) -> Float[np.ndarray, "n 2"]:
        """`n` actions in float32, the same for the same seed."""
        return self.draw(np.random.default_rng(seed), n).astype(np.float32)


BANDITS = {
    "8gaussians": Bandit(lambda rng, n: ring_of_gaussians().sample(rng, n), mixture=ring_of_gaussians),
    "swissroll": Bandit(_swissroll),
    "checkerboard": Bandit(_checkerboard),
    "2spirals": Bandit(_spirals),
    "rings": Bandit(_rings),
    "moons": Bandit(_moons),
    "25gaussians": Bandit(lambda rng, n: grid_of_gaussians().sample(rng, n), 12.0, grid_of_gaussians),
}


def find(name: str) -> Bandit:
    """The bandit called `name`. Raises ConfigError, naming the closest one, if there is none."""
    if name not in BANDITS:
        raise ConfigError(closest(name, BANDITS, "data set"))
    return BANDITS[name]


def as_batch(action: Points) -> Batch:
    """A data set of these actions, all at the same, empty observation, without rewards."""
    n = len(action)
    obs, zero = jnp.zeros((n, 0)), jnp.zeros(n)
    return Batch(obs, jnp.asarray(action), zero, obs, zero, jnp.arange(n))


class Quadratic(eqx.Module):
    """Q(a) = -|a - target|^2 as a critic with one head; `target` has a row per row of actions, or broadcasts."""

    target: Float[Array, "... 2"]

    def q_target(self, obs, action: Float[Array, "... 2"]) -> Float[Array, "1 ..."]:
        return -jnp.sum((action - self.target) ** 2, -1)[None]


class PlaneNet(eqx.Module):
    """A small score network for the plane: an MLP on x, sin and cos of random projections of x, and five functions of t.

    The waves of x resolve eight modes in a quarter of the steps that an MLP without them needs; those of t are slow, so
    that the probability flow takes few solver steps.
    """

    frequency: Frozen
    mlp: MLP
    schedule: VP = eqx.field(static=True, default=VP())

    @property
    def action_size(self) -> int:
        return 2

    @classmethod
    def create(cls, key, width: int, std: float, layers: int = 3, waves: int = 32) -> PlaneNet:
        """`std`: of the data; the projections' lengths are about 4 / std."""
        k_frequency, k_mlp = jax.random.split(key)
        sizes = (2 + 2 * waves + 5, *(width,) * layers, 2)
        return cls(
            Frozen(4 / std * jax.random.normal(k_frequency, (2, waves))), MLP(sizes, k_mlp, jax.nn.silu, "orthogonal sqrt2")
        )

    def __call__(self, x: Float[Array, "... 2"], t: Float[Array, "..."], obs=None, key=None) -> Float[Array, "... 2"]:
        angle, log_snr = x @ self.frequency.value, jnp.broadcast_to(self.schedule.log_snr(t), x.shape[:-1])[..., None]
        slow = [log_snr / 4, *(f(log_snr * rate) for f in (jnp.sin, jnp.cos) for rate in (0.5, 1.0))]
        return self.mlp(jnp.concatenate([x, jnp.sin(angle), jnp.cos(angle), *slow], -1))


_advance = jax.jit(advance, donate_argnums=1)


def train(stage: Stage, state, action: Points, key, bars: Bars, name: str) -> Any:
    """The result of a stage on these actions; its learning rate falls to 0 along a cosine, in 50 equal steps.

    Raises FloatingPointError if a metric stops being finite.
    """
    data = as_batch(action)
    log = Log.create(metric_names(stage, state, data, {}, key))
    state, log = _advance(stage, state, log, data, {}, key, 0, 0)  # compiles, so that the time left is that of the steps
    bars.open(name, stage.steps)
    lr = config.lookup(stage, "lr").value
    edges = np.linspace(0, stage.steps, 51).astype(int)
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        slower = config.assign(stage, "lr", lr * (1 + np.cos(np.pi * (start + stop) / (2 * stage.steps))) / 2)
        state, log = _advance(slower, state, log, data, {}, key, start, stop)
        for metric, step in log.bad_step.items():
            if int(step) >= 0:
                raise FloatingPointError(f"{name}: {metric} is not finite at step {int(step)}")
        bars.update(stop)
    return stage.result(state)


def fit(stage: DiffusionBehavior, action: Points, key, bars: Bars, name: str) -> Any:
    """The trained model of these actions: `stage` with a PlaneNet of its width in place of its own network."""
    k_init, k_train = jax.random.split(key)
    std = round(float(action.std()), 3)
    net = PlaneNet.create(k_init, stage.width, std)
    model = Preconditioned(net, data_std=std) if stage.parametrization == "preconditioned" else NoisePrediction(net, VP())
    return train(stage, TrainState.create(model, adamw(stage.lr, stage.weight_decay)), action, k_train, bars, name)
