"""How recorded data are treated before training: the settings, the registry of reward treatments and their functions.

A reward treatment is a name, what it does in words, and a function that learns from a recording how to change any of
its rewards. `register_reward` adds one; `data.reward` then takes its name, wherever settings are given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import equinox as eqx
import numpy as np

from srpo.config import static
from srpo.data.checks import DataError
from srpo.data.mapped import gathered, pieces
from srpo.errors import ConfigError, closest

if TYPE_CHECKING:
    from srpo.data.recording import Dataset

Change = Callable[[np.ndarray], np.ndarray]  # of rewards (n,) float32, each by itself


class RewardTreatment(NamedTuple):
    """A way to change recorded rewards."""

    meaning: str
    learn: Callable[[Dataset], Change]
    mend: Callable[[Dataset], Dataset] | None = None  # what is wrong in the recording, before anything else is done


REWARDS: dict[str, RewardTreatment] = {}


def register_reward(name: str, treatment: RewardTreatment) -> None:
    """Make `name` a value of the setting `data.reward`. Raises ConfigError if it is taken."""
    if name in REWARDS:
        raise ConfigError(f"the reward treatment {name!r} is there already; give yours another name")
    REWARDS[name] = treatment


def reward_treatment(name: str) -> RewardTreatment:
    """The treatment of that name. Raises ConfigError, naming the closest one, if there is none."""
    if name not in REWARDS:
        raise ConfigError(f"data.reward: {closest(name, REWARDS, 'choice')}")
    return REWARDS[name]


class Treatment(eqx.Module):
    """How an algorithm wants the recorded data: part of its recipe, so part of its settings."""

    reward: str = static("none", "what is done to the rewards", choices=REWARDS)
    episodes: Literal["all", "trimmed"] = static(
        "all",
        "trimmed: without episodes of fewer than 5 rows and the last row of those that did not terminate (SfBC on antmaze)",
    )
    keep_timeouts: bool = static(False, "keep the last transition of timed-out episodes (needs recorded next observations)")
    normalize_obs: bool = static(
        False, "train on observations minus their mean, divided by their standard deviation; the policy takes them as recorded"
    )
    clip_action: float = static(1.0, "clip recorded actions to +- this value", "(0, 1]")
    best_fraction: float = static(1.0, "keep only this fraction of the episodes, those with the highest return", "[0, 1]")
    holdout: float = static(0.0, "set this fraction of the episodes aside: never trained on, for `srpo judge`", "[0, 1)")


# --- rewards


def affine(scale: float = 1.0, shift: float = 0.0) -> Callable[[Dataset], Change]:
    """scale (r + shift), whatever the recording."""

    def change(reward):
        return np.float32(scale) * (reward + np.float32(shift))

    return lambda data: change


def unchanged(data: Dataset) -> Change:
    """Rewards as they were recorded."""
    return np.asarray


def return_range(data: Dataset) -> Change:
    """1000 r / (max return - min return) of the complete episodes. Raises DataError."""
    return _per_spread(data.returns, data.source)


def authors_return_range(data: Dataset) -> Change:
    """`return_range` with returns as SRPO's code cuts them. Raises DataError."""
    rows = ~data.timeout[:-1]
    return _per_spread(authors_returns(data.reward[:-1][rows], data.terminal[:-1][rows]), data.source)


def authors_returns(reward: np.ndarray, terminal: np.ndarray, length: int = 1000) -> list[float]:
    """Returns as SRPO's code cuts them: at a terminal row or every 1000 rows; an incomplete rest is ignored.

    The rows are those of `qlearning_dataset`, where a timed-out episode has 999, so that the cuts drift.
    """
    returns, total, count = [], 0.0, 0
    for _, pair in pieces(reward, terminal):
        for r, ended in zip(*(x.tolist() for x in pair), strict=True):
            total, count = total + r, count + 1
            if ended or count == length:
                returns.append(total)
                total, count = 0.0, 0
    return returns


def _per_spread(returns, what: str) -> Change:
    """1000 r / (max return - min return), in the authors' order of operations (float32)."""
    if len(returns) == 0:
        raise DataError(
            f"{what}: rewards cannot be scaled by the range of returns, as no episode is complete; use data.reward=none"
        )
    spread = np.float32(max(returns) - min(returns))
    if spread == 0:
        raise DataError(
            f"{what}: rewards cannot be scaled by the range of returns, as all {len(returns)} returns are {returns[0]:.6g}; "
            "use data.reward=none"
        )
    return lambda reward: reward / spread * np.float32(1000)


def standardized(data: Dataset) -> Change:
    """(r - mean) / standard deviation (of the sample) over the transitions. Raises DataError."""
    transition = ~data.timeout  # a flag per row: numbers of rows would take eight times as much
    transition[-1] = data.ends_itself
    reward = data.reward[transition]
    mean, std = reward.mean(dtype=np.float64), reward.std(dtype=np.float64, ddof=1) if len(reward) > 1 else 0.0
    if std == 0:
        raise DataError(f"{data.source}: rewards cannot be standardized, as all are {mean:.6g}; use data.reward=none")
    return lambda reward: (reward - np.float32(mean)) / np.float32(std)


def mend_mislabeled(data: Dataset) -> Dataset:
    """SfBC's rule for antmaze-medium-play-v2: rows rewarded too early are no goals and end no episode."""
    wrong = np.concatenate([mislabeled(reward, obs[:, :2]) for _, (reward, obs) in pieces(data.reward, data.obs)])
    return replace(data, reward=np.where(wrong, np.float32(0), data.reward), terminal=data.terminal & ~wrong)


def mislabeled(reward: np.ndarray, position: np.ndarray, bound: float = 19.0) -> np.ndarray:
    """Rows with a reward whose position (N, 2) is not beyond `bound` in both coordinates."""
    return (reward > 0) & ~(position > bound).all(axis=1)


for _name, _treatment in {
    "none": RewardTreatment("as recorded", unchanged),
    "return-range": RewardTreatment("1000 r / (max - min episode return)", return_range),
    "return-range-authors": RewardTreatment("return-range with returns as SRPO's code cuts them", authors_return_range),
    "minus-one": RewardTreatment("r - 1", affine(shift=-1)),
    "four-centered": RewardTreatment("4 (r - 0.5)", affine(4, -0.5)),
    "standardize": RewardTreatment("(r - mean) / std", standardized),
    "beyond-19": RewardTreatment("SfBC's mended antmaze-medium-play-v2", unchanged, mend_mislabeled),
}.items():
    register_reward(_name, _treatment)


# --- observations and episodes


def frame(mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By what to normalize columns of this mean and standard deviation (obs,), float32; the deviation of a constant one counts as 1."""
    constant = std <= np.maximum(1e-6 * np.abs(mean), 1e-30)  # what rounding leaves of it in float32
    return mean.astype(np.float32), np.where(constant, 1.0, std).astype(np.float32)


def best_episodes(reward: np.ndarray, episodes: np.ndarray, fraction: float, discount: float = 0.99) -> np.ndarray:
    """Rows of the best `fraction` of the episodes (at least one) by discounted return, in their recorded order."""
    returns = [float(np.dot(reward[a:b].astype(np.float64), discount ** np.arange(b - a))) for a, b in episodes]
    count = max(1, int(fraction * len(episodes)))
    best = np.sort(np.argsort(returns, kind="stable")[::-1][:count])
    return np.concatenate([np.arange(a, b) for a, b in episodes[best]])


def trimmed(data: Dataset, least: int = 5) -> Dataset:
    """Without episodes shorter than `least` and without the last row of those that did not terminate. Raises DataError."""
    long = data.episodes[np.diff(data.episodes)[:, 0] >= least]
    if len(long) == 0:
        raise DataError(f"{data.source}: no episode has five rows; use data.episodes=all")
    pieces = [np.arange(a, b - (not data.terminal[b - 1])) for a, b in long]
    rows = np.concatenate(pieces)
    left = data.only(rows)
    return replace(left, timeout=np.isin(rows, [piece[-1] for piece in pieces]) & ~left.terminal)


def require_next_obs(data: Dataset) -> None:
    """Raises DataError if next observations at time-outs were not recorded."""
    if data.next_obs is None:
        raise DataError(
            f"{data.source}: keep_timeouts needs the field 'next_observations', which was not recorded; leave keep_timeouts off"
        )
    last = np.flatnonzero(data.timeout)
    recorded = gathered(data.next_obs, last)
    rows = last, np.minimum(last + 1, len(data) - 1)
    copied = np.logical_or(*((recorded == gathered(data.obs, some)).all(axis=1) for some in rows))
    if copied.any():
        raise DataError(
            f"{data.source}: next_observations[{last[np.argmax(copied)]}] at a time-out is a copy of another row, "
            "not what was observed; leave keep_timeouts off"
        )
