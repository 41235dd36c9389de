"""Small policies of every kind that can be exported, and observations for them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from srpo.networks.actors import DeterministicActor, DialedActor, GaussianActor, SquashedGaussianActor
from srpo.networks.derivatives import mish
from srpo.networks.layers import MLP, Normalizer
from srpo.policies import Chain, DeterministicPolicy, DialedPolicy, GaussianPolicy
from srpo.runs.units import Normalized

OBS, ACT = 17, 6
KEY = jax.random.key(0)
DATA = (np.random.default_rng(0).normal(size=(3000, OBS)) * np.linspace(0.1, 4, OBS) + np.linspace(-2, 2, OBS)).astype(
    np.float32
)
DATA[:, 1] += DATA[:, 16]  # two signals that go together
FRESH = np.concatenate([DATA[-500:] * 0.9, np.random.default_rng(1).normal(size=(500, OBS)) * 30]).astype(np.float32)
NORMALIZER, OTHER = (Normalizer.of((jnp.mean(x, 0), jnp.std(x, 0))) for x in map(jnp.asarray, (DATA, FRESH)))


class Clipped(eqx.Module):
    """A policy of another package: one network whose actions are clipped, not squashed."""

    actor: MLP

    def act(self, obs, key=None):
        return jnp.clip(self.actor(obs), -1, 1)

    @property
    def chain(self):
        return Chain(self.actor, squash="clip", note="from outside")


POLICIES = {
    "srpo": DeterministicPolicy(DeterministicActor(OBS, ACT, (32, 48), KEY)),
    "bc": DeterministicPolicy(DeterministicActor(OBS, ACT, (32, 32), KEY, NORMALIZER)),
    "normalized": Normalized(NORMALIZER, DeterministicPolicy(DeterministicActor(OBS, ACT, (32, 32), KEY))),
    "twice normalized": Normalized(NORMALIZER, DeterministicPolicy(DeterministicActor(OBS, ACT, (32, 32), KEY, OTHER))),
    "wide": DeterministicPolicy(DeterministicActor(OBS, ACT, (130, 3, 200), KEY, NORMALIZER)),
    "linear": DeterministicPolicy(DeterministicActor(OBS, 1, (), KEY, NORMALIZER)),
    "iql": GaussianPolicy(GaussianActor(OBS, ACT, (32, 32), KEY, activation=mish)),
    "clipped": Clipped(MLP((OBS, 32, 32, ACT), KEY, jax.nn.gelu)),
    "squashed": GaussianPolicy(SquashedGaussianActor(OBS, ACT, (32, 32), KEY, activation=jnp.tanh)),
}
DIALED = {
    "dial": DialedPolicy(DialedActor(OBS, ACT, (32, 48), KEY, 0.02, 0.5), 0.1),
    "normalized dial": Normalized(NORMALIZER, DialedPolicy(DialedActor(OBS, ACT, (32,), KEY, 0.01, 2.0), 0.3)),
}
BETA = np.geomspace(0.005, 3.0, len(FRESH)).astype(np.float32)  # beyond both ranges, too
AT_BETA = np.column_stack([FRESH, BETA])


def acted(policy, obs=FRESH):
    """What the JAX policy itself does."""
    return np.asarray(jax.vmap(policy.act)(obs))


def acted_at(policy, rows=AT_BETA):
    """The same of a policy with a dial, of rows of observations followed by beta."""
    return np.asarray(jax.vmap(lambda obs, beta: policy.act(obs, beta=beta))(rows[:, :-1], rows[:, -1]))
