"""Implicit Diffusion Q-learning (Hansen-Estruch et al., 2023, arXiv 2304.10573).

A critic by implicit Q-learning with one of three value losses f, and a five-step diffusion model of the behavior.
The policy draws actions from the model's moving average and takes the one with the highest target Q, or draws
among them in proportion to |f'(Q - V)| / |Q - V|, which is the policy whose value V is.

Presets: `paper` follows the code at the time of the paper, `authors-code` its newest version (swish for Mish, wider
time features, LayerNorm on the input of V, weight decay, other batch sizes and lengths). Differences from both:
- all transitions are used, not 95 % of them;
- the first version's second actor update per iteration saw an empty batch, a slip; here every update has a full one.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from srpo.algorithms.tables.critic import QUICK_CRITIC, TRIAL_CRITIC
from srpo.config import WIDTHS, Overrides, setting, static
from srpo.core import Algorithm, Batch, Followed, Stage, TrainState, Trial, Updated, descend
from srpo.data.treatments import Treatment
from srpo.diffusion.parametrization import NoisePrediction, discrete_error
from srpo.diffusion.samplers import Ancestral
from srpo.diffusion.schedules import Discrete
from srpo.errors import ConfigError
from srpo.losses import expectile
from srpo.networks.derivatives import mish
from srpo.networks.layers import Activation, LayerNorm, QEnsemble, ValueNet
from srpo.networks.score import ResNetStyle, ScoreResNet
from srpo.optim import adamw, cosine
from srpo.policies import BestOf, DiffusionPolicy
from srpo.stages.iql_critic import Critic, CriticState, iql_step

Rows = Float[Array, "..."]


def quantile(u: Rows, level) -> Rows:
    """Asymmetric absolute value; level > 1/2 weighs u > 0 more (sec. 4)."""
    return jnp.abs(level - (u < 0)) * jnp.abs(u)


def exponential(u: Rows, level) -> Rows:
    """(exp(z) - z - 1) / level with z = level u (sec. 4), continued as a line beyond exp(z) = 6, as in the authors' code."""
    z = jnp.minimum(level * u, jnp.log(6.0))
    return (jnp.expm1(z) - z) / level + 5.0 * (u - z / level)


ACTIVATIONS: dict[str, Activation] = {"mish": mish, "swish": jax.nn.swish}
LOSSES = {"expectile": expectile, "quantile": quantile, "exponential": exponential}


class InputNormValue(eqx.Module):
    """A value network with LayerNorm on the observation."""

    norm: LayerNorm
    net: ValueNet

    def __call__(self, obs: Float[Array, "... obs"]) -> Rows:
        return self.net(self.norm(obs))


Value = ValueNet | InputNormValue
Model = NoisePrediction[Discrete]


class ImplicitCritic(Stage[CriticState[Value], Batch, Critic[Value]]):
    steps: int = static(1_500_000, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256), "widths of the hidden layers of Q and V")
    loss: Literal["expectile", "quantile", "exponential"] = static("expectile", "f in V = argmin E f(Q - V)")
    value_norm: bool = static(False, "LayerNorm on the input of V")
    level: float = setting(
        0.7,
        "level of the expectile or quantile, or sharpness of the exponential loss; larger: closer to the maximum",
        "(0, inf)",
    )
    lr: float = setting(3e-4, "learning rate of Q and V (Adam)")
    discount: float = setting(0.99, "discount per step", "[0, 1]")
    ema: float = setting(0.005, "rate at which the target Q follows Q", "[0, 1]")

    def __check_init__(self):
        if self.loss != "exponential" and isinstance(self.level, float) and self.level >= 1:
            raise ConfigError(f"level: found {self.level:g}, expected less than 1 for the loss {self.loss}")

    def init(self, data, given, key) -> CriticState[Value]:
        k_q, k_v = jax.random.split(key)
        obs, act = data.obs_size, data.action_size
        net = ValueNet(obs, self.hidden, k_v, init="xavier")
        v: Value = InputNormValue(LayerNorm(obs, eps=1e-6), net) if self.value_norm else net
        return CriticState.create(QEnsemble(obs, act, self.hidden, k_q, init="xavier"), v, self.lr)

    def update(self, state: CriticState[Value], batch: Batch, given, key, step) -> Updated[CriticState[Value]]:
        return iql_step(state, batch, lambda u: LOSSES[self.loss](u, self.level), self.lr, self.discount, self.ema)

    def result(self, state: CriticState[Value]) -> Critic[Value]:
        return state.trained


class DiscreteBehavior(Stage[Followed[Model], Batch, Model]):
    steps: int = static(3_000_000, "gradient steps")
    batch_size: int = static(1024, "transitions per step")
    width: int = static(256, "width of the residual network; its blocks expand it four times", WIDTHS)
    blocks: int = static(3, "residual blocks", "[1, 1000]")
    dropout: float = static(0.1, "dropout rate during training", "[0, 1)")
    activation: Literal["mish", "swish"] = static("mish", "activation of the network")
    time_size: int = static(64, "learned Fourier features of the diffusion step")
    diffusion_steps: int = static(5, "diffusion steps K")
    lr: float = setting(3e-4, "learning rate (AdamW), decayed to 0 along a cosine")
    weight_decay: float = setting(0.0, "AdamW's decay, of every parameter")
    ema: float = setting(0.001, "rate at which the copy that acts follows the model", "[0, 1]")

    def __check_init__(self):
        if self.time_size % 2:
            raise ConfigError(f"time_size: found {self.time_size}, expected an even number: a sine and a cosine each")

    def _optimizer(self):
        return adamw(cosine(self.lr, self.steps), self.weight_decay)

    def init(self, data, given, key) -> Followed[Model]:
        style = ResNetStyle("xavier", "lecun", 1e-6, ACTIVATIONS[self.activation], True, self.time_size)
        size = data.obs_size, data.action_size
        net = ScoreResNet(*size, key, self.width, self.blocks, self.dropout, style)
        return TrainState.create(NoisePrediction(net, Discrete.vp(self.diffusion_steps)), self._optimizer(), target=True)

    def update(self, state: Followed[Model], batch: Batch, given, key, step) -> Updated[Followed[Model]]:
        def loss(model):
            value = jnp.mean(jnp.sum(discrete_error(model, batch.action, batch.obs, key) ** 2, -1))
            return value, {"loss": value}

        return descend(state, self._optimizer(), loss, ema=self.ema)

    def result(self, state: Followed[Model]) -> Model:
        return state.target


class ImplicitWeight(eqx.Module):
    """log of |f'(u)| / |u|, u = min target Q - V: the density of the implicit policy over the behavior's (sec. 4)."""

    critic: Critic[Value]
    level: ScalarLike = eqx.field(converter=jnp.asarray)
    loss: str = eqx.field(static=True)

    def __call__(self, obs: Float[Array, "n obs"], action: Float[Array, "n act"]) -> Float[Array, "1 n"]:
        u = jnp.min(self.critic.q_target(obs, action), 0) - self.critic.v(obs)
        u = jnp.where(jnp.abs(u) < 1e-6, 1e-6, u)
        slope = jax.vmap(jax.grad(LOSSES[self.loss]), (0, None))(u, self.level)
        return (jnp.log(jnp.abs(slope)) - jnp.log(jnp.abs(u)))[None]


ANTMAZE: Overrides = {"data.reward": "minus-one", "critic.level": 0.9}
NEWEST: Overrides = {
    "critic.steps": 3_000_000,
    "critic.batch_size": 512,
    "critic.value_norm": True,
    "behavior.batch_size": 512,
    "behavior.activation": "swish",
    "behavior.time_size": 128,
    "behavior.weight_decay": 1e-4,
}
QUICK: Overrides = QUICK_CRITIC | {  # by experiment: docs/quick.md
    "behavior.steps": 10_000,
    "behavior.batch_size": 512,
    "behavior.width": 128,
    "behavior.lr": 1e-3,
}


class IDQL(Algorithm):
    acts_with: ClassVar = ("critic", "behavior")

    data: Treatment = Treatment(reward="return-range", clip_action=1 - 1e-5)
    critic: ImplicitCritic = ImplicitCritic()
    behavior: DiscreteBehavior = DiscreteBehavior()
    candidates: int = static(64, "actions drawn from the behavior model")
    choice: Literal["argmax", "implicit"] = static("argmax", "take the highest min target Q, or draw from the implicit policy")

    def make_policy(self, trained):
        critic, sampler = trained["critic"], DiffusionPolicy(trained["behavior"], Ancestral("x"))
        if self.choice == "argmax":
            return BestOf(sampler, critic.q_target, self.candidates)
        weight = ImplicitWeight(critic, self.critic.level, self.critic.loss)
        return BestOf(sampler, weight, self.candidates, "softmax")

    title: ClassVar = "IDQL"
    acts_by: ClassVar = "diffusion"
    trial: ClassVar = Trial(
        TRIAL_CRITIC
        | {
            "behavior.steps": 30,
            "behavior.batch_size": 32,
            "behavior.width": 12,
            "behavior.blocks": 1,
            "behavior.time_size": 8,
            "behavior.diffusion_steps": 2,
            "candidates": 4,
        },
        ("behavior.lr", 3e-3, 1e-2),
        ("critic.q_loss", "behavior.loss"),
    )
    presets: ClassVar = {
        "paper": {"*": {}, "antmaze-*|pointmaze-*": ANTMAZE},
        "authors-code": {"*": NEWEST, "antmaze-*|pointmaze-*": ANTMAZE},
        "quick": {"*": QUICK, "antmaze-*|pointmaze-*": ANTMAZE},
    }
