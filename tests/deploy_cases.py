"""Small policies of every kind that can be exported, and observations for them."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from made_up import layers

from srpo.networks.actors import DeterministicActor, DialedActor, GaussianActor, SquashedGaussianActor
from srpo.networks.derivatives import mish
from srpo.networks.layers import MLP, Normalizer
from srpo.policies import Chain, DeterministicPolicy, DialedPolicy, GaussianPolicy
from srpo.runs.units import Normalized

OBS, ACT = 17, 6
DATA = (np.random.default_rng(0).normal(size=(3000, OBS)) * np.linspace(0.1, 4, OBS) + np.linspace(-2, 2, OBS)).astype(
    np.float32
)
DATA[:, 1] += DATA[:, 16]  # two signals that go together
FRESH = np.concatenate([DATA[-500:] * 0.9, np.random.default_rng(1).normal(size=(500, OBS)) * 30]).astype(np.float32)


class Clipped(eqx.Module):
    """A policy of another package: one network whose actions are clipped, not squashed."""

    actor: MLP

    def act(self, obs, key=None):
        return jnp.clip(self.actor(obs), -1, 1)

    @property
    def chain(self):
        return Chain(self.actor, squash="clip", note="from outside")


@jax.jit
def _made():
    """All of them by one program, their weights made up."""
    seed = itertools.count(10)  # with whose weights single precision is within half of what the tests allow
    normalizer, other = (Normalizer.of((x.mean(0), x.std(0))) for x in (DATA, FRESH))

    def actor(kind, hidden, *args, act=ACT, outputs=None, inputs=OBS, **options):
        sizes = (inputs, *hidden, outputs or act)
        return kind(OBS, act, hidden, None, *args, layers=layers(*sizes, seed=next(seed)), **options)

    def deterministic(*args, **options):
        return DeterministicPolicy(actor(DeterministicActor, *args, **options))

    gelu = MLP((OBS, 32, 32, ACT), None, jax.nn.gelu, layers=layers(OBS, 32, 32, ACT))
    policies = {
        "srpo": deterministic((32, 48)),
        "bc": deterministic((32, 32), normalizer),
        "normalized": Normalized(normalizer, deterministic((32, 32))),
        "twice normalized": Normalized(normalizer, deterministic((32, 32), other)),
        "wide": deterministic((130, 3, 200), normalizer),
        "linear": deterministic((), normalizer, act=1),
        "iql": GaussianPolicy(actor(GaussianActor, (32, 32), activation=mish)),
        "clipped": Clipped(gelu),
        "squashed": GaussianPolicy(actor(SquashedGaussianActor, (32, 32), outputs=2 * ACT, activation=jnp.tanh)),
    }
    dialed = {
        "dial": DialedPolicy(actor(DialedActor, (32, 48), 0.02, 0.5, inputs=OBS + 1), 0.1),
        "normalized dial": Normalized(normalizer, DialedPolicy(actor(DialedActor, (32,), 0.01, 2.0, inputs=OBS + 1), 0.3)),
    }
    return policies, dialed


POLICIES, DIALED = _made()
BETA = np.geomspace(0.005, 3.0, len(FRESH)).astype(np.float32)  # beyond both ranges, too
AT_BETA = np.column_stack([FRESH, BETA])


@jax.jit
def _acted(policy, obs):
    return jax.vmap(policy.act)(obs)


@jax.jit
def _acted_at(policy, obs, beta):
    return jax.vmap(lambda obs, beta: policy.act(obs, beta=beta))(obs, beta)


def acted(policy, obs=FRESH):
    """What the JAX policy itself does."""
    return np.asarray(_acted(policy, obs))


def acted_at(policy, rows=AT_BETA):
    """The same of a policy with a dial, of rows of observations followed by beta."""
    return np.asarray(_acted_at(policy, rows[:, :-1], rows[:, -1]))
