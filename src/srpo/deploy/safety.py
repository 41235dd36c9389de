"""Guards around a policy: where its data was, and a wrapper that stays there. Imports only NumPy.

What the check can say: an observation is unlike those in the data, one signal at a time or in the way the signals
go together (one ellipsoid). What it cannot say: that an observation inside is covered by data, or that the action is good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from srpo.deploy.graph import DeployError

MARGIN = 0.1  # of the range of the data, on both sides
ROWS = 200_000  # that the distances are measured on, drawn at random from larger data
FEW = 1000  # rows below which one false alarm in a thousand cannot be promised
RIDGE = 1e-3  # added to the correlation matrix: signals that depend on each other stay usable
PREFIX = "support."


@dataclass(frozen=True, eq=False)
class Support:
    """Where the observations of the data were: a box, and an ellipsoid that holds all but a small share of them."""

    mean: np.ndarray  # (obs,)
    whiten: np.ndarray  # (obs, obs) lower triangular: |whiten (obs - mean)| is the Mahalanobis distance
    low: np.ndarray  # (obs,) smallest value in the data, less a margin
    high: np.ndarray  # (obs,) largest value in the data, and a margin
    limit: np.ndarray  # () largest distance

    @classmethod
    def of(cls, obs: np.ndarray, quantile: float = 0.999) -> Support:
        """Of the rows of `obs` (n, obs); the limit is this quantile of the distances that rows have from all others.

        Each row is measured against what the others say, as a new observation will be: measured against itself, too, few
        rows of many signals look near to themselves, and everything new looks far.
        """
        chosen = obs if len(obs) <= ROWS else obs[np.random.default_rng(0).integers(0, len(obs), ROWS)]
        rows = np.asarray(chosen, np.float64)
        mean, std = rows.mean(0), rows.std(0)
        scale = np.where(std <= np.maximum(1e-6 * np.abs(mean), 1e-30), 1.0, std)  # constant signals have none
        z = (rows - mean) / scale
        correlation = z.T @ z / len(z) + RIDGE * np.eye(z.shape[1])
        whiten = np.linalg.inv(np.linalg.cholesky(correlation)) / scale
        square = (((rows - mean) @ whiten.T) ** 2).sum(axis=1)
        m = max(len(rows) - 1, 1)  # the others: their mean and correlation, in closed form
        distance = np.sqrt(square * (m + 1) / m / np.maximum(1 - square / m, 1e-9))
        low, high = obs.min(0).astype(np.float64), obs.max(0).astype(np.float64)
        margin = max(MARGIN, _beyond_the_others(rows, quantile)) * (high - low)
        arrays = (mean, whiten, low - margin, high + margin, np.quantile(distance, quantile))
        return cls(*(np.asarray(a, np.float32) for a in arrays))

    def distance(self, obs: np.ndarray) -> np.ndarray | np.floating:
        """Mahalanobis distance (...) of observations (..., obs)."""
        return np.sqrt((((obs - self.mean) @ self.whiten.T) ** 2).sum(-1))

    def complaint(self, obs: np.ndarray) -> str | None:
        """Why an observation (obs,) is not like the data, or None."""
        if not np.isfinite(obs).all():
            i = int(np.argmin(np.isfinite(obs)))
            return f"obs[{i}] is {obs[i]}"
        outside = (obs < self.low) | (obs > self.high)
        if outside.any():
            i = int(np.argmax(outside))
            return f"obs[{i}] = {obs[i]:.4g} is outside of [{self.low[i]:.4g}, {self.high[i]:.4g}]"
        distance = self.distance(obs)
        return f"distance {distance:.4g} exceeds {self.limit:.4g}" if not distance <= self.limit else None

    def tensors(self) -> dict[str, np.ndarray]:
        return {PREFIX + name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_tensors(cls, found: Mapping[str, np.ndarray], obs_size: int) -> Support | None:
        """What `tensors` gave; None if it was not written. Raises DeployError for arrays of other shapes."""
        names = list(cls.__dataclass_fields__)
        if not any(name.startswith(PREFIX) for name in found):
            return None
        if missing := [name for name in names if PREFIX + name not in found]:
            raise DeployError(f"{PREFIX}{missing[0]} is missing beside the other statistics of the data; export again")
        arrays = {name: found[PREFIX + name] for name in names}
        for name, array in arrays.items():
            wanted = {"whiten": (obs_size, obs_size), "limit": ()}.get(name, (obs_size,))
            if array.shape != wanted:
                raise DeployError(f"{PREFIX}{name} has shape {array.shape}, expected {wanted}; export again")
            if not np.isfinite(array).all():
                raise DeployError(f"{PREFIX}{name} is not finite, so nothing would be far from the data; export again")
        if not (arrays["low"] <= arrays["high"]).all() or not arrays["limit"] >= 0:
            raise DeployError("the statistics of the data hold a low above its high, or a negative distance; export again")
        return cls(**arrays)


def _beyond_the_others(rows: np.ndarray, quantile: float) -> float:
    """How far a row leaves the box around all others in any signal, as a share of that box: this quantile over the rows (n, obs)."""
    n = len(rows)
    if n < 3:
        return 0.0
    ends = np.sort(np.partition(rows, (0, 1, n - 2, n - 1), axis=0)[[0, 1, n - 2, n - 1]], axis=0)
    beyond = np.zeros(n)
    for gap, room, row in (
        (ends[1] - ends[0], ends[3] - ends[1], rows.argmin(0)),
        (ends[3] - ends[2], ends[2] - ends[0], rows.argmax(0)),
    ):
        np.maximum.at(beyond, row, np.divide(gap, room, out=np.zeros_like(gap), where=room > 0))
    return float(np.quantile(beyond, quantile, method="higher"))


class SafePolicy:
    """A policy whose actions are clamped, change slowly, and give way to a fall-back far from the data.

    policy: a `srpo.deploy.Policy`. fallback: an action (act,) within the bounds, or a function of the observation, whose
    actions are clamped; zeros if none is given. max_change: the most that an action may change between two calls, (act,) or one number; it also bounds the
    step to and from the fall-back. hold: observations in a row that must be fine before the policy acts again.
    Raises DeployError if the file carries no statistics of the data, and for a limit or a fall-back that is none.
    """

    def __init__(
        self,
        policy,
        fallback: np.ndarray | Callable[[np.ndarray], np.ndarray] | None = None,
        max_change: float | np.ndarray | None = None,
        hold: int = 0,
    ):
        if policy.support is None:
            raise DeployError(
                "the file holds no statistics of the data, so nothing tells what is far; export with the data at hand"
            )
        if not isinstance(hold, (int, np.integer)) or hold < 0:
            raise DeployError(f"hold: found {hold}, expected zero or more observations")
        self.policy, self.hold = policy, hold
        self.max_change = None if max_change is None else self._limit(max_change)
        self.fallback = (
            fallback if callable(fallback) else self._constant(np.zeros(policy.action_size) if fallback is None else fallback)
        )
        self.reason: str | None = None  # why the last action is the fall-back, if it is
        self.reset()

    def reset(self, action: np.ndarray | None = None) -> None:
        """Before a new start; `action`: what the actuators hold now, if the first action is to be near it.

        Beyond the bounds it counts as the nearest bound. Raises DeployError unless it is (act,) finite numbers.
        """
        self._last = (
            None if action is None else np.clip(self._checked(action, "reset was given"), self.policy.low, self.policy.high)
        )
        self._fine, self.reason = self.hold, None

    def act(self, obs: np.ndarray, beta: float | None = None) -> np.ndarray:
        """The action (act,) for an observation (obs,), at `beta` if the policy has a dial. `reason` then says why it is the fall-back, or is None.

        NaN and infinity lead to the fall-back. Raises DeployError for an observation of another size or type.
        """
        obs, beta = self.policy.check(obs, finite=False), self.policy.check_beta(beta)
        if obs.ndim != 1:
            raise DeployError(f"found observations of shape {obs.shape}, expected one at a time: ({self.policy.obs_size},)")
        self.reason = self.policy.support.complaint(obs)
        self._fine = 0 if self.reason else self._fine + 1
        if self.reason is None and self._fine <= self.hold:
            self.reason = f"{self._fine} of {self.hold} fine observations in a row"
        action = self._fallback(obs) if self.reason else self.policy.forward(obs, beta)
        action = np.clip(action, self.policy.low, self.policy.high)
        if self.max_change is not None and self._last is not None:
            action = np.clip(action, self._last - self.max_change, self._last + self.max_change)
        self._last = np.asarray(action, np.float32)
        return self._last.copy()  # whoever changes it in place must not change what the next action is measured against

    def _limit(self, given: float | np.ndarray) -> np.ndarray:
        """A copy of the largest change, () or (act,). Raises DeployError for what is none."""
        try:
            limit = np.array(given, np.float64)
        except (TypeError, ValueError):
            limit = np.full((), np.nan)
        if limit.shape not in ((), (self.policy.action_size,)) or not (limit >= 0).all():
            raise DeployError(
                f"max_change: found {given}, expected a number or ({self.policy.action_size},) numbers, zero or more"
            )
        return limit

    def _constant(self, given: np.ndarray) -> np.ndarray:
        """A copy of a fall-back that is one action. Raises DeployError now, not when the first sensor breaks."""
        action, low, high = self._checked(given, "the fall-back is").copy(), self.policy.low, self.policy.high
        outside = (action < low) | (action > high)
        if outside.any():
            i = int(np.argmax(outside))
            raise DeployError(
                f"the fall-back is {action[i]:g} for action {i}, expected {low[i]:g} to {high[i]:g}; give fallback= within the bounds"
            )
        return action

    def _fallback(self, obs):
        return self._checked(self.fallback(obs) if callable(self.fallback) else self.fallback, "the fall-back gave")

    def _checked(self, action, who: str) -> np.ndarray:
        try:
            found = np.asarray(action, np.float32)
        except (TypeError, ValueError):
            found = np.zeros(0, np.float32)
        if found.shape != (self.policy.action_size,) or not np.isfinite(found).all():
            raise DeployError(f"{who} {action}, expected {self.policy.action_size} finite numbers")
        return found
