"""A one-state bandit with a known behavior and a known optimum, and a loop that trains stages on it."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from srpo.core import Batch
from srpo.steps import Log, advance, metric_names

BEST = 0.45  # of the actions; the behavior's modes are -0.6 and 0.6, of standard deviation 0.1


@cache
def bandit(n=2000, seed=0) -> Batch:
    """Reward -4 (a - 0.45)^2, episodes of one step; logged by an even mixture of N(-0.6, 0.1^2) and N(0.6, 0.1^2)."""
    rng = np.random.default_rng(seed)
    action = rng.choice([-0.6, 0.6], (n, 1)) + 0.1 * rng.standard_normal((n, 1))
    action = np.clip(action, -1, 1).astype(np.float32)
    obs, zeros = np.ones((n, 1), np.float32), np.zeros(n, np.float32)
    return jax.device_put(Batch(obs, action, -4 * (action[:, 0] - BEST) ** 2, obs, zeros, np.arange(n, dtype=np.int32)))


@jax.jit
def start(stage, data, given, key):
    """The state before the first step, by one program for all of its arrays."""
    return stage.init(data, given, key)


advanced = jax.jit(advance)
_advanced_fast = jax.jit(advance, compiler_options={"xla_backend_optimization_level": 1})


def fit(stage, data, given=None, seed=0, long=False):
    """The stage's result and its mean metrics over all steps. Settings that are numbers do not compile again.

    `long`: it takes longer to run than to compile, and is compiled to run fast.
    """
    given, key = given or {}, random.key(seed)
    state = start(stage, data, given, key)
    log = Log.create(metric_names(stage, state, data, given, key))
    state, log = (_advanced_fast if long else advanced)(stage, state, log, data, given, key, 0, stage.steps)
    assert all(int(step) < 0 for step in log.bad_step.values()), log.bad_step
    return stage.result(state), {name: float(total) / stage.steps for name, total in log.total.items()}


def fit_all(algorithm, data, seed=0):
    """The policy of an algorithm trained on `data`."""
    trained = {}
    for name, stage in algorithm.stages.items():
        trained[name], _ = fit(stage, data, {need: trained[need] for need in stage.needs}, seed)
    return algorithm.make_policy(trained)


@partial(jax.jit, static_argnames="n")
def _acts(policy, key, n):
    return jax.vmap(policy.act, (None, 0))(jnp.ones(1), random.split(key, n))[:, 0]


def acts(policy, n=200, seed=1):
    """`n` actions in the bandit's only state."""
    return np.asarray(_acts(policy, random.key(seed), n))
