"""Small policies of every kind that can be exported, and observations for them."""

import jax
import jax.numpy as jnp
import numpy as np

from srpo.networks.actors import DeterministicActor, GaussianActor, SquashedGaussianActor
from srpo.networks.layers import Normalizer, mish
from srpo.policies import DeterministicPolicy, GaussianPolicy, Normalized

OBS, ACT = 17, 6
KEY = jax.random.key(0)
DATA = (np.random.default_rng(0).normal(size=(3000, OBS)) * np.linspace(0.1, 4, OBS) + np.linspace(-2, 2, OBS)).astype(
    np.float32
)
DATA[:, 1] += DATA[:, 16]  # two signals that go together
FRESH = np.concatenate([DATA[-500:] * 0.9, np.random.default_rng(1).normal(size=(500, OBS)) * 30]).astype(np.float32)
NORMALIZER, OTHER = Normalizer.of(jnp.asarray(DATA)), Normalizer.of(jnp.asarray(FRESH))

POLICIES = {
    "srpo": DeterministicPolicy(DeterministicActor(OBS, ACT, (32, 48), KEY)),
    "bc": DeterministicPolicy(DeterministicActor(OBS, ACT, (32, 32), KEY, NORMALIZER)),
    "normalized": Normalized(NORMALIZER, DeterministicPolicy(DeterministicActor(OBS, ACT, (32, 32), KEY))),
    "twice normalized": Normalized(NORMALIZER, DeterministicPolicy(DeterministicActor(OBS, ACT, (32, 32), KEY, OTHER))),
    "wide": DeterministicPolicy(DeterministicActor(OBS, ACT, (130, 3, 200), KEY, NORMALIZER)),
    "linear": DeterministicPolicy(DeterministicActor(OBS, 1, (), KEY, NORMALIZER)),
    "iql": GaussianPolicy(GaussianActor(OBS, ACT, (32, 32), KEY, activation=mish)),
    "squashed": GaussianPolicy(SquashedGaussianActor(OBS, ACT, (32, 32), KEY, activation=jnp.tanh)),
}


def acted(policy, obs=FRESH):
    """What the JAX policy itself does."""
    return np.asarray(jax.vmap(policy.act)(obs))
