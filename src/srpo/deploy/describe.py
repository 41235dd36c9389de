"""From a trained policy to the `Network` that every file format is written from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srpo import algorithms, policies
from srpo.deploy.graph import DeployError, Network
from srpo.networks.layers import MLP, Normalizer, mish

NAMES = {jax.nn.relu: "relu", mish: "mish", jnp.tanh: "tanh", jax.nn.tanh: "tanh", jax.nn.gelu: "gelu"}


def describe(policy: Any, low: Any = -1.0, high: Any = 1.0) -> Network:
    """The network of a policy that is one (its `chain`), with its actions moved to [low, high].

    Raises DeployError, naming what can be exported, for a policy that samples, and for one that is not trained.
    """
    if isinstance(policy, policies.Normalized):  # ((x - m) / s - mean) / std is one normalization
        network = describe(policy.policy, low, high)
        m, s = _array(policy.normalizer.mean.value, 1), _array(policy.normalizer.std.value, 1)
        return replace(network, mean=m + s * network.mean, std=s * network.std)
    if not hasattr(policy, "chain"):
        raise DeployError(
            f"{type(policy).__name__} samples its actions and is no single network; what can be exported: policies with a "
            f"`chain`, as {', '.join(single())} have them"
        )
    chain: policies.Chain = policy.chain
    layers = tuple((_array(layer.weight, 2), _array(layer.bias, 1)) for layer in chain.net.layers)
    dial = None if chain.dial is None else np.concatenate([_array(jnp.atleast_1d(part), 1) for part in chain.dial])
    normalizer = chain.normalizer or Normalizer.identity(layers[0][0].shape[0])
    mean, std = _array(normalizer.mean.value, 1), _array(normalizer.std.value, 1)
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), layers[-1][1].shape).copy() for bound in (low, high))
    return Network(mean, std, layers, _activation(chain.net), low, high, dial, chain.squash)


def exportable(run: Any) -> bool:
    """Whether the policies of a finished `srpo.Run` are of a kind that `describe` takes."""
    return hasattr(_inner(run.policies), "chain")


def notes(policy: Any) -> list[str]:
    """What whoever uses a policy as a file should know of it."""
    chain = getattr(_inner(policy), "chain", None)
    return [chain.note] if chain is not None and chain.note else []


def single() -> list[str]:
    """The names of the package's algorithms whose policies are one network."""
    return [name for name in algorithms.ALGORITHMS if algorithms.find(name).acts_by == "one pass"]


def _inner(policy: Any) -> Any:
    return policy.policy if isinstance(policy, policies.Normalized) else policy


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
