"""Does a file act as the policy does? Ten thousand observations, likely and unlikely, against the JAX policy itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from srpo.deploy.graph import DeployError, Network, tolerated
from srpo.runs.units import InUnits

Act = Callable[[np.ndarray], np.ndarray]


def observations(network: Network, data: np.ndarray | None = None, n: int = 10_000) -> dict[str, np.ndarray]:
    """Sets of rows (m, ...) by name, n in all: in-distribution observations, those scaled by ten, and extremes.

    data: (N, obs) observations to draw from; without it, normal numbers with the network's own mean and deviation.
    Extremes: corners of the box around the data, single signals a hundred deviations out, and zero. With a dial the
    temperatures are drawn from its range and half as far beyond.
    """
    rng = np.random.default_rng(0)
    inside = (
        rng.normal(network.mean, network.std, (n, network.obs_size)) if data is None else data[rng.integers(0, len(data), n)]
    )
    m = 3 * n // 10
    inside = inside[: n - 2 * m]
    mean, std, low, high = (f(inside, axis=0) for f in (np.mean, np.std, np.min, np.max))
    extreme = np.where(rng.random((m, network.obs_size)) < 0.5, low, high)
    extreme[1::2] = mean
    rows, signal = np.arange(1, m, 2), rng.integers(0, network.obs_size, m // 2)
    extreme[rows, signal] += rng.choice([-100, 100], m // 2) * std[signal]
    extreme[0] = 0
    sets = {"in-distribution": inside, "x10": 10 * np.resize(inside, (m, network.obs_size)), "extremes": extreme}
    if network.dial is not None:
        center, half, _ = network.dial
        sets = {
            name: np.column_stack([obs, np.exp(center + rng.uniform(-1.5, 1.5, len(obs)) * half)]) for name, obs in sets.items()
        }
    return {name: np.ascontiguousarray(rows, np.float32) for name, rows in sets.items()}


def reference(policy: Any, network: Network, rows: np.ndarray) -> np.ndarray:
    """Actions (B, act) of the JAX policy within the network's bounds, on the CPU in full float32."""
    policy = policy.policy if isinstance(policy, InUnits) else policy  # the network knows the same range
    cpu = jax.devices("cpu")[0]
    with jax.default_matmul_precision("highest"), jax.default_device(cpu):
        obs, beta = network.split(rows)
        inputs = {"obs": obs} if beta is None else {"obs": obs, "beta": beta}
        actions = _acts(*jax.device_put((jax.device_get(policy), inputs), cpu))
    return network.bound(np.asarray(actions, np.float32))


@jax.jit
def _acts(policy: Any, inputs: dict[str, Any]) -> Any:
    return jax.vmap(lambda x: policy.act(**x))(inputs)


def parity(acts: Mapping[str, Act], policy: Any, network: Network, sets: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The largest error of each format on each set, as a share of half the action's range (key `errors`).

    Tolerated: 1e-5, and four times what float32 rounding costs the network there (far from the data that is more than
    1e-5 for any implementation, JAX included). Raises DeployError, naming format, set and row, beyond that.
    """
    ends = np.cumsum([len(obs) for obs in sets.values()])[:-1]
    wanted = dict(zip(sets, np.split(reference(policy, network, np.concatenate([*sets.values()])), ends), strict=True))
    rounds = {name: network.rounding(obs) for name, obs in sets.items()}
    allowed = {name: tolerated(r) for name, r in rounds.items()}
    errors = {
        form: {name: _compare(form, name, act(obs), wanted[name], network.half, allowed[name]) for name, obs in sets.items()}
        for form, act in acts.items()
    }
    counts = {name: len(obs) for name, obs in sets.items()}
    return {"observations": counts, "float32_rounding": rounds, "tolerated": allowed, "errors": errors}


def _compare(form: str, name: str, found: np.ndarray, wanted: np.ndarray, half: np.ndarray, allowed: float) -> float:
    if found.shape != wanted.shape:
        raise DeployError(f"{form} gives actions of shape {found.shape}, expected {wanted.shape}; nothing was written")
    error = np.nan_to_num(np.abs(found - wanted) / half, nan=np.inf)
    row, column = np.unravel_index(np.argmax(error), error.shape)
    if error[row, column] > allowed:
        pair = f"found {found[row, column]:.7g}, expected {wanted[row, column]:.7g}"
        raise DeployError(
            f"{form} differs from the JAX policy by {error[row, column]:.3g} (tolerated {allowed:.2g}) at {name} observation {row}, "
            f"action {column}: {pair}; nothing was written"
        )
    return float(error.max())
