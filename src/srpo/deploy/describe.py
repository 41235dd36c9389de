"""From a trained policy to the `Network` that every file format is written from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srpo import algorithms
from srpo.deploy.graph import DeployError, Network
from srpo.networks.derivatives import mish
from srpo.networks.layers import MLP, Normalizer
from srpo.policies import Chain
from srpo.runs.units import InUnits, Normalized

NAMES = {jax.nn.relu: "relu", mish: "mish", jnp.tanh: "tanh", jax.nn.tanh: "tanh", jax.nn.gelu: "gelu"}
COARSE = 0.05  # of a deviation: the largest step of float32 at which an observation still says something


def describe(policy: Any, low: Any = -1.0, high: Any = 1.0, deviation: np.ndarray | None = None) -> Network:
    """The network of a policy that is one (its `chain`), with its actions moved to [low, high].

    A policy that acts in recorded units keeps its own range. deviation: of each column of the data (obs,), if it is known; else
    the one by which the policy divides tells how the column varies. Raises DeployError, naming what can be exported, for a policy
    that samples, for one that is not trained, and for offsets of observations that float32 cannot hold.
    """
    if isinstance(policy, InUnits):
        return describe(policy.policy, _array(policy.low.value, 1), _array(policy.high.value, 1), deviation)
    if isinstance(policy, Normalized):  # ((x - m) / s - mean) / std is one normalization
        m, s = _array(policy.normalizer.mean.value, 1), _array(policy.normalizer.std.value, 1)
        network = describe(policy.policy, low, high, None if deviation is None else deviation / s)
        return _behind(m, s, network, deviation)
    if not hasattr(policy, "chain"):
        raise DeployError(
            f"{type(policy).__name__} samples its actions and is no single network; what can be exported: policies with a "
            f"`chain`, as {', '.join(single())} have them"
        )
    chain: Chain = _chain(policy)
    layers = tuple((_array(layer.weight, 2), _array(layer.bias, 1)) for layer in chain.net.layers)
    dial = None if chain.dial is None else np.concatenate([_array(jnp.atleast_1d(part), 1) for part in chain.dial])
    normalizer = chain.normalizer or Normalizer.identity(layers[0][0].shape[0])
    mean, std = _array(normalizer.mean.value, 1), _array(normalizer.std.value, 1)
    low, high = (np.broadcast_to(np.asarray(bound, np.float32), layers[-1][1].shape).copy() for bound in (low, high))
    return Network(mean, std, layers, _activation(chain.net), low, high, dial, chain.squash)


def _chain(policy: Any) -> Chain:
    found = policy.chain
    if isinstance(found, Chain) and isinstance(found.net, MLP):
        return found
    given = f"a Chain of {type(found.net).__name__}" if isinstance(found, Chain) else type(found).__name__
    raise DeployError(
        f"{type(policy).__name__}.chain is {given}, expected a Chain of one MLP (srpo.policies, srpo.networks.layers); "
        "leave it out where the policy is something else: it cannot be exported"
    )


def exportable(run: Any) -> bool:
    """Whether the policies of a finished `srpo.Run` are of a kind that `describe` takes."""
    return hasattr(_inner(run.policies), "chain")


def obs_size(policy: Any) -> int:
    """The number of observations that a policy takes. Raises DeployError as `describe` does."""
    return describe(_inner(policy)).obs_size


def notes(policy: Any) -> list[str]:
    """What whoever uses a policy as a file should know of it."""
    chain = getattr(_inner(policy), "chain", None)
    return [chain.note] if chain is not None and chain.note else []


def single() -> list[str]:
    """The names of the package's algorithms whose policies are one network."""
    return [name for name in algorithms.ALGORITHMS if algorithms.find(name).acts_by == "one pass"]


def _inner(policy: Any) -> Any:
    while isinstance(policy, (Normalized, InUnits)):
        policy = policy.policy
    return policy


def _behind(m: np.ndarray, s: np.ndarray, network: Network, deviation: np.ndarray | None) -> Network:
    """The network on (x - m) / s as one network: with one normalization, as far as float32 holds its mean exactly enough.

    Where it does not, m large beside the deviation, the mean stays m and the rest goes into the first layer's bias.
    """
    exact, std = m + s * network.mean.astype(np.float64), s * network.std
    _require_fine(exact, std if deviation is None else np.where(deviation > 0, deviation, std))
    mean = m + s * network.mean
    rough = np.abs(mean - exact) > 1e-6 * std
    if rough.any():
        (weight, bias), *others = network.layers
        shift = np.where(rough, network.mean / network.std, 0)
        bias = (bias - shift.astype(np.float64) @ weight[: len(shift)]).astype(np.float32)
        network = replace(network, layers=((weight, bias), *others))
    return replace(network, mean=np.where(rough, m, mean), std=std)


def _require_fine(mean: np.ndarray, std: np.ndarray) -> None:
    """Raises DeployError where float32 around a mean is coarse beside the deviation: no exported file could tell values apart."""
    coarse = np.spacing(np.abs(mean).astype(np.float32)) > COARSE * std
    if coarse.any():
        i = int(np.argmax(coarse))
        raise DeployError(
            f"obs[{i}] varies by {std[i]:.2g} around {mean[i]:.6g}, which float32, the type of every exported file, cannot hold; "
            "record it less a fixed offset and train again"
        )


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
