"""Q-Guided Policy Optimization with contrastive energy prediction (Lu et al., ICML 2023, arXiv 2304.12824).

Target policy pi(a|s) ~ mu(a|s) exp(beta Q(s, a)). A diffusion model learns mu and proposes actions at every recorded
state, once; Q-learning takes its softmax over those (in-support); an energy f(a_t, s, t), fitted contrastively on
the same actions, guides the diffusion model when it acts: score = score_mu + scale grad f.

Differences from the authors' code:
- Q is learned first and f after it, with Q's final target; their loop updates both during the first 500k of its
  1M steps. The number of updates of each is theirs, and trying another beta needs no new critic;
- rows are drawn independently here, once per epoch there; the alternatives "mse" and "emse" to the contrastive loss
  are left out;
- the guidance scale per task is not in their code, which sweeps it; ours are starting points (docs/algorithms/qgpo.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from srpo.algorithms.tables.critic import TRIAL_CRITIC
from srpo.algorithms.tables.score import TRIAL_SUPPORT
from srpo.config import Overrides, Tasks, setting, static
from srpo.core import Algorithm, Alone, Batch, Followed, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.diffusion.parametrization import NoiseModel
from srpo.diffusion.schedules import Schedule, Times, perturb
from srpo.diffusion.solver import Solver
from srpo.losses import backup, contrastive_energy, softmax_mean
from srpo.networks.layers import MLP, GaussianFourier, Linear, QEnsemble
from srpo.optim import adam
from srpo.policies import DiffusionPolicy
from srpo.stages.score_behavior import ScoreBehavior
from srpo.stages.support import SupportActions


def least_q(q: Callable, obs: Float[Array, "B obs"], actions: Float[Array, "B M act"]) -> Float[Array, "B M"]:
    """The smaller of the two values of each proposed action."""
    return jnp.min(q(jnp.broadcast_to(obs[:, None], (*actions.shape[:-1], obs.shape[-1])), actions), 0)


class InSupportCritic(Stage[Followed[QEnsemble], Batch, QEnsemble]):
    """Q-learning with V(s') = softmax mean of the target Q over the actions proposed at s' (eq. 19)."""

    needs: ClassVar = ("support",)

    steps: int = static(500_000, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256, 256), "widths of the hidden layers of Q")
    beta: float = setting(1.0, "beta_Q of the softmax over proposed actions; larger: closer to their maximum")
    lr: float = setting(3e-4, "learning rate (Adam)")
    discount: float = setting(0.99, "discount per step", "[0, 1]")
    ema: float = setting(0.005, "rate at which the target Q follows Q", "[0, 1]")

    def init(self, data, given, key) -> Followed[QEnsemble]:
        q = QEnsemble(data.obs_size, data.action_size, self.hidden, key)
        return TrainState.create(q, adam(self.lr), target=True)

    def update(self, state: Followed[QEnsemble], batch: Batch, given, key, step) -> Updated[Followed[QEnsemble]]:
        after = least_q(state.target, batch.next_obs, given["support"].after[batch.index])
        y = backup(batch.reward, batch.mask, softmax_mean(after, self.beta), self.discount)

        def q_loss(q):
            value = q(batch.obs, batch.action)
            loss = jnp.mean((value - y) ** 2)  # (2, B) against (B,)
            return loss, {"q_loss": loss, "q": jnp.mean(value)}

        return descend(state, adam(self.lr), q_loss, ema=self.ema)

    def result(self, state: Followed[QEnsemble]) -> QEnsemble:
        """The target Q, which labels the energy's actions."""
        return state.target


class EnergyNet(eqx.Module):
    """f(a_t, s, t), the log of the expected exp(beta Q) of the clean action, up to a constant of s and t."""

    fourier: GaussianFourier
    time: Linear
    net: MLP

    def __init__(self, obs: int, act: int, hidden: tuple[int, ...], key: PRNGKeyArray, size: int = 32):
        k_fourier, k_time, k_net = jax.random.split(key, 3)
        self.fourier, self.time = GaussianFourier(size, k_fourier), Linear.create(size, size, k_time)
        self.net = MLP((act + size + obs, *hidden, 1), k_net, jax.nn.silu)

    def __call__(self, x: Float[Array, "... act"], t: Float[Array, "..."], obs: Float[Array, "... obs"]) -> Float[Array, "..."]:
        """`t` and `obs` broadcast against `x`."""
        parts = x, self.time(self.fourier(t)), obs
        return self.net(jnp.concatenate([jnp.broadcast_to(p, (*x.shape[:-1], p.shape[-1])) for p in parts], -1))[..., 0]


class ContrastiveEnergy(Stage[Alone[EnergyNet], Batch, EnergyNet]):
    needs: ClassVar = ("behavior", "support", "critic")

    steps: int = static(1_000_000, "gradient steps")
    batch_size: int = static(256, "states per step")
    hidden: tuple[int, ...] = static((256, 256, 256, 256), "widths of the hidden layers of the energy")
    beta: float = setting(3.0, "inverse temperature of the target policy; larger: closer to argmax Q")
    lr: float = setting(3e-4, "learning rate (Adam)")
    min_time: float = setting(1e-3, "training draws t from U(min_time, 1)", "(0, 1)")

    def init(self, data, given, key) -> Alone[EnergyNet]:
        return TrainState.create(EnergyNet(data.obs_size, data.action_size, self.hidden, key), adam(self.lr))

    def update(self, state: Alone[EnergyNet], batch: Batch, given, key, step) -> Updated[Alone[EnergyNet]]:
        k_time, k_noise = jax.random.split(key)
        actions = given["support"].here[batch.index]
        q = least_q(given["critic"], batch.obs, actions)
        t = jax.random.uniform(k_time, (*batch.reward.shape, 1), minval=self.min_time, maxval=1.0)  # one per state
        x = perturb(actions, jax.random.normal(k_noise, actions.shape), *given["behavior"].schedule(t))

        def loss(energy):
            value = jnp.mean(contrastive_energy(energy(x, t, batch.obs[:, None]), q, self.beta))
            return value, {"loss": value}

        return descend(state, adam(self.lr), loss)

    def result(self, state: Alone[EnergyNet]) -> EnergyNet:
        return state.model


@runtime_checkable
class Energy(Protocol):
    """What guides a diffusion model: the log of the factor by which the density of noised actions changes."""

    def __call__(self, x: Float[Array, "... act"], t: Times, obs: Float[Array, "... obs"], /) -> Float[Array, "..."]: ...


class Guided(eqx.Module):
    """A diffusion model whose score is raised by scale * gradient of an energy (QGPO, arXiv 2304.12824, eq. 7).

    The energy f(a_t, s, t) is the log of the factor by which the density changes; scale 1 is exact if it is perfect.
    """

    behavior: NoiseModel
    energy: Energy
    scale: ScalarLike = eqx.field(converter=jnp.asarray)

    @property
    def schedule(self) -> Schedule:
        return self.behavior.schedule

    @property
    def action_size(self) -> int:
        return self.behavior.action_size

    def __call__(
        self, x: Float[Array, "... act"], t: Float[Array, ""], obs: Float[Array, "... obs"]
    ) -> Float[Array, "... act"]:
        push = jax.grad(lambda x: jnp.sum(self.energy(x, t, obs)))(x)
        return self.behavior(x, t, obs) - self.scale * self.schedule(t)[1] * push  # noise = -sigma * score


class Guidance(eqx.Module):
    """How the trained models act."""

    scale: float = setting(1.0, "guidance scale; 1 is exact for a perfect energy, larger: closer to argmax Q, 0: the behavior")


# The choices of an independent implementation (CleanDiffuser), at its own beta.
SCALE = {
    "halfcheetah-medium-v2": 5.0,
    "halfcheetah-medium-replay-v2": 5.0,
    "halfcheetah-medium-expert-v2": 3.0,
    "hopper-medium-v2": 5.0,
    "hopper-medium-replay-v2": 4.0,
    "hopper-medium-expert-v2": 0.7,
    "walker2d-medium-v2": 3.0,
    "walker2d-medium-replay-v2": 3.0,
    "walker2d-medium-expert-v2": 5.0,
}
TASKS: Tasks = {name: {"guidance.scale": scale} for name, scale in SCALE.items()}
ANTMAZE: Overrides = {"data.reward": "minus-one", "support.count": 32}
UNKNOWN: Overrides = {"guidance.scale": 3.0}  # the middle of the authors' sweep
QUICK: Overrides = {  # rates by experiment: docs/quick.md
    "behavior.steps": 10_000,
    "behavior.batch_size": 512,
    "behavior.widths": (128, 64, 32),
    "critic.steps": 50_000,
    "critic.hidden": (256, 256),
    "energy.steps": 50_000,
    "energy.hidden": (128, 128, 128),
    "behavior.lr": 3e-4,
    "critic.lr": 1e-3,
    "energy.lr": 1e-3,
}


class QGPO(Algorithm):
    acts_with: ClassVar = ("behavior", "energy")

    data: Treatment = Treatment(reward="return-range")
    behavior: ScoreBehavior = ScoreBehavior()
    support: SupportActions = SupportActions(next_states=True, solver=Solver("data", 2))
    critic: InSupportCritic = InSupportCritic()
    energy: ContrastiveEnergy = ContrastiveEnergy()
    guidance: Guidance = Guidance()

    def make_policy(self, trained):
        guided = Guided(trained["behavior"], trained["energy"], self.guidance.scale)
        return DiffusionPolicy(guided, self.support.solver)

    title: ClassVar = "QGPO"
    acts_by: ClassVar = "diffusion"
    trial: ClassVar = Trial(
        TRIAL_SUPPORT
        | TRIAL_CRITIC
        | {
            "behavior.rows": "steps",  # compiled once with SfBC's
            "energy.steps": 30,
            "energy.batch_size": 32,
            "energy.hidden": (12,),
            "energy.lr": 5e-2,
        },
        ("energy.beta", 1.0, 3.0),
        ("behavior.loss", "critic.q_loss"),  # the energy's cross-entropy of soft targets hardly falls: tests/test_qgpo.py
    )
    presets: ClassVar = {
        "paper": {"*": UNKNOWN, "antmaze-*|pointmaze-*": ANTMAZE | {"critic.beta": 20.0}} | TASKS,
        "authors-code": {
            "*": UNKNOWN | {"data.reward": "return-range-authors", "critic.beta": 3.0},
            "antmaze-*|pointmaze-*": ANTMAZE,
        }
        | {
            name: values | {"critic.beta": 1.0} if name == "walker2d-medium-expert-v2" else values
            for name, values in TASKS.items()
        },
        "quick": {"*": UNKNOWN | QUICK, "antmaze-*|pointmaze-*": ANTMAZE | {"critic.beta": 20.0}} | TASKS,
    }
