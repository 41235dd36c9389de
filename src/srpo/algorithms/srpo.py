"""Score Regularized Policy Optimization (Chen et al., ICLR 2024, arXiv 2310.07297).

Three independent stages: a critic (IQL), a diffusion model of the behavior, and a deterministic policy that
climbs the critic's gradient, regularized by the score of the behavior model (eq. 15).

Differences between the paper and the authors' code, each a setting:
- the baseline "- noise" is subtracted in the paper; the code's default does not (`policy.baseline`);
- on antmaze the paper divides the gradient of Q by its 2-norm, the code by its root mean square, which makes
  the same beta sqrt(8) = 2.83 times larger (`policy.normalize`);
- the paper scales the gradient as grad Q - (1/beta) w(...), the code as beta grad Q - w(...), as here: the
  direction is the same, only Adam's epsilon can tell;
- the code, and so this file, takes the mean of the two target heads as Q and decays the policy's learning rate
  to zero along a cosine; the paper is silent on both;
- the code cuts returns every 1000 rows to scale the rewards, which drifts across episodes (`data.reward`);
- the authors shuffle the data once per epoch; here each batch is drawn independently.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from srpo.config import setting, static
from srpo.core import Algorithm, Stage, TrainState, Treatment, descend
from srpo.diffusion.schedules import Schedule, perturb
from srpo.networks.actors import DeterministicActor
from srpo.optim import adam, cosine
from srpo.policies import DeterministicPolicy
from srpo.stages.diffusion_behavior import DiffusionBehavior
from srpo.stages.iql_critic import QUICK_CRITIC, IQLCritic

Weight = Literal["sigma^2", "1", "alpha/sigma"]
Normalize = Literal["2-norm", "rms"] | None

WEIGHTS = {
    "sigma^2": lambda alpha, sigma: sigma**2,
    "1": lambda alpha, sigma: jnp.ones_like(sigma),
    "alpha/sigma": lambda alpha, sigma: alpha / sigma,
}


def policy_direction(
    critic,
    behavior,
    schedule: Schedule,
    obs: Float[Array, "B obs"],
    action: Float[Array, "B act"],
    t: Float[Array, " B"],
    noise: Float[Array, "B act"],
    *,
    beta,
    weight: Weight = "sigma^2",
    baseline: bool = True,
    normalize: Normalize = None,
) -> Float[Array, "B act"]:
    """The direction in which the policy's action descends: w(t) (noise_hat - noise) - beta dQ/da (eq. 15, times -beta).

    Q is the mean of the target heads. `normalize` divides dQ/da per row by its "2-norm" (paper, antmaze) or its
    "rms" (authors' code); a zero gradient stays zero.
    """
    alpha, sigma = schedule(t)
    noise_hat = behavior(perturb(action, noise, alpha, sigma), t, obs)
    score_term = WEIGHTS[weight](alpha, sigma)[:, None] * (noise_hat - noise if baseline else noise_hat)
    q_gradient = jax.grad(lambda a: jnp.sum(jnp.mean(critic.q_target(obs, a), 0)))(action)
    if normalize is not None:
        q_gradient = _unit(q_gradient, normalize)
    return score_term - beta * q_gradient


def _unit(gradient, normalize):
    square = jnp.sum(gradient**2, -1, keepdims=True) / (gradient.shape[-1] if normalize == "rms" else 1)
    return jnp.where(square > 0, gradient * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)


class ScoreRegularizedPolicy(Stage):
    needs: ClassVar = ("critic", "behavior")

    steps: int = static(1_000_000, "gradient steps")
    batch_size: int = static(256, "observations per step")
    hidden: tuple[int, ...] = static((256, 256), "widths of the policy's hidden layers")
    weight: Weight = static("sigma^2", "w(t) in eq. 14")
    baseline: bool = static(True, "subtract the noise from the predicted noise (eq. 15): same mean, less variance")
    normalize: Normalize = static(None, "divide the gradient of Q per row by its 2-norm or rms")
    beta: float = setting(0.05, "temperature; larger: closer to argmax Q, smaller: closer to the behavior's mode")
    lr: float = setting(3e-4, "learning rate (Adam), decayed to 0 along a cosine")
    min_time: float = setting(0.02, "diffusion times are drawn from U(min_time, max_time)", "(0, 1)")
    max_time: float = setting(0.98, "diffusion times are drawn from U(min_time, max_time)", "(0, 1)")

    def init(self, data, given, key):
        actor = DeterministicActor(data.obs.shape[-1], data.action.shape[-1], self.hidden, key)
        return TrainState.create(actor, self._optimizer())

    def _optimizer(self):
        return adam(cosine(self.lr, self.steps))

    def update(self, state, batch, given, key, step):
        k_time, k_noise = jax.random.split(key)
        t = jax.random.uniform(k_time, batch.reward.shape, minval=self.min_time, maxval=self.max_time)
        noise = jax.random.normal(k_noise, batch.action.shape)
        critic, behavior = given["critic"], given["behavior"]

        def loss(actor):
            action = actor(batch.obs)
            direction = policy_direction(
                critic, behavior, behavior.schedule, batch.obs, jax.lax.stop_gradient(action), t, noise,
                beta=self.beta, weight=self.weight, baseline=self.baseline, normalize=self.normalize,
            )  # fmt: skip
            value = jnp.mean(jnp.sum(direction * action, -1))
            return value, {"direction": jnp.mean(jnp.linalg.norm(direction, axis=-1)), "action": jnp.mean(jnp.abs(action))}

        return descend(state, self._optimizer(), loss)

    def result(self, state):
        return state.model


TEMPERATURE = {  # Table 2
    "halfcheetah-medium-expert-v2": 0.01, "halfcheetah-medium-v2": 0.2, "halfcheetah-medium-replay-v2": 0.2,
    "hopper-medium-expert-v2": 0.01, "hopper-medium-v2": 0.05, "hopper-medium-replay-v2": 0.2,
    "walker2d-medium-expert-v2": 0.1, "walker2d-medium-v2": 0.05, "walker2d-medium-replay-v2": 0.5,
    "antmaze-umaze-v2": 0.02, "antmaze-umaze-diverse-v2": 0.04, "antmaze-medium-play-v2": 0.08,
    "antmaze-medium-diverse-v2": 0.05, "antmaze-large-play-v2": 0.06, "antmaze-large-diverse-v2": 0.05,
}  # fmt: skip
TABLE_2 = {name: {"policy.beta": beta, "behavior.parametrization": "noise"} for name, beta in TEMPERATURE.items()}
ANTMAZE = {"data.reward": "minus-one", "critic.expectile": 0.9, "policy.hidden": (256,) * 4}
# For a data set that no table names: rewards scaled by the spread of the returns, so that beta does not depend on
# the reward's unit, and a preconditioned behavior model (docs/algorithms/srpo.md).
UNKNOWN = {"data.reward": "return-range", "policy.beta": 0.2, "behavior.parametrization": "preconditioned"}
QUICK = QUICK_CRITIC | {  # chosen by experiment: docs/quick.md
    "behavior.steps": 10_000, "behavior.batch_size": 512, "behavior.width": 128, "behavior.lr": 1e-3,
    "policy.steps": 15_000, "policy.lr": 1e-3, "policy.beta": 0.05,
}  # fmt: skip


class SRPO(Algorithm):
    data: Treatment = Treatment(reward="return-range")
    critic: IQLCritic = IQLCritic()
    behavior: DiffusionBehavior = DiffusionBehavior()
    policy: ScoreRegularizedPolicy = ScoreRegularizedPolicy()

    def make_policy(self, trained):
        return DeterministicPolicy(trained["policy"])

    presets: ClassVar = {
        "paper": {"*": UNKNOWN, "antmaze-*|pointmaze-*": ANTMAZE | {"policy.normalize": "2-norm"}} | TABLE_2,
        "authors-code": {
            "*": UNKNOWN | {"data.reward": "return-range-authors", "policy.baseline": False},
            "antmaze-*|pointmaze-*": ANTMAZE | {"policy.normalize": "rms"},
        }
        | TABLE_2,
        "quick": {"*": UNKNOWN | QUICK, "antmaze-*|pointmaze-*": ANTMAZE | {"policy.normalize": "2-norm"}}
        | {name: {"policy.beta": beta} for name, beta in TEMPERATURE.items()},
    }
