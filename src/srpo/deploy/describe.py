"""From a trained policy to the `Network` that every file format is written from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srpo import policies
from srpo.deploy.graph import DeployError, Network
from srpo.networks.actors import SquashedGaussianActor
from srpo.networks.layers import MLP, Normalizer, mish

NAMES = {jax.nn.relu: "relu", mish: "mish", jnp.tanh: "tanh", jax.nn.tanh: "tanh"}
SINGLE = policies.DeterministicPolicy, policies.DialedPolicy, policies.GaussianPolicy
EXPORTABLE = (
    "DeterministicPolicy (srpo, bc, td3-bc), DialedPolicy (srpo-dial) and the mean action of GaussianPolicy (iql, bc-gaussian)"
)


def describe(policy: Any, low: Any = -1.0, high: Any = 1.0) -> Network:
    """The network of a deterministic policy, or of the mean of a Gaussian one, with its actions moved to [low, high].

    Raises DeployError, naming what can be exported, for a policy that samples, and for one that is not trained.
    """
    if isinstance(policy, policies.Normalized):  # ((x - m) / s - mean) / std is one normalization
        network = describe(policy.policy, low, high)
        m, s = _array(policy.normalizer.mean.value, 1), _array(policy.normalizer.std.value, 1)
        return replace(network, mean=m + s * network.mean, std=s * network.std)
    if not isinstance(policy, SINGLE):
        raise DeployError(
            f"{type(policy).__name__} samples its actions and is no single network; what can be exported: {EXPORTABLE}"
        )
    actor = policy.actor
    layers = [(_array(layer.weight, 2), _array(layer.bias, 1)) for layer in actor.net.layers]
    if isinstance(actor, SquashedGaussianActor):  # its last layer gives the means, then the deviations
        weight, bias = (np.ascontiguousarray(np.split(part, 2, axis=-1)[0]) for part in layers[-1])
        layers[-1] = weight, bias
    dial = None
    if isinstance(policy, policies.DialedPolicy):
        scaling = policy.actor.dial
        parts = scaling.mean.value, scaling.std.value, jnp.atleast_1d(policy.beta)
        dial = np.concatenate([_array(part, 1) for part in parts])
    normalizer = getattr(actor, "normalizer", None) or Normalizer.identity(layers[0][0].shape[0])
    mean, std = _array(normalizer.mean.value, 1), _array(normalizer.std.value, 1)
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), layers[-1][1].shape).copy() for bound in (low, high))
    return Network(mean, std, tuple(layers), _activation(actor.net), low, high, dial)


def exportable(run: Any) -> bool:
    """Whether the policies of a finished `srpo.Run` are of a kind that `describe` takes."""
    found = run.policies.policy if isinstance(run.policies, policies.Normalized) else run.policies
    return isinstance(found, SINGLE)


def _activation(net: MLP) -> str:
    if net.norms or net.activation not in NAMES:
        found = "LayerNorm" if net.norms else getattr(net.activation, "__name__", net.activation)
        raise DeployError(
            f"found a policy with {found}, expected linear layers with {', '.join(sorted(set(NAMES.values())))} between them"
        )
    return NAMES[net.activation]


def _array(leaf: Any, ndim: int) -> np.ndarray:
    if jnp.ndim(leaf) != ndim:
        raise DeployError(
            f"found {jnp.ndim(leaf) - ndim} more axes than one policy has, so these are several; choose a seed and a point"
        )
    return np.ascontiguousarray(np.asarray(leaf, np.float32))
