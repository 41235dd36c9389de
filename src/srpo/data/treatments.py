"""What is done to recorded rewards and episodes before training: pure functions of arrays."""

from __future__ import annotations

import numpy as np

from srpo.data.checks import DataError


def qlearning_rows(timeout: np.ndarray) -> np.ndarray:
    """The rows that `d4rl.qlearning_dataset` keeps: all but the last one and those that timed out."""
    return np.flatnonzero(~timeout[:-1])


def counted_timeouts(terminal: np.ndarray, max_steps: int) -> np.ndarray:
    """Time-outs as `d4rl.qlearning_dataset` counts them in files without the field.

    Its counter is one ahead in the episode after a terminal row; this is D4RL's rule, not a slip here.
    """
    timeout = np.zeros(len(terminal), bool)
    count = 0
    for row, ended in enumerate(terminal.tolist()):
        timeout[row] = count == max_steps - 1
        count = 0 if timeout[row] else 1 if ended else count + 1
    return timeout


def authors_returns(reward: np.ndarray, terminal: np.ndarray, length: int = 1000) -> list[float]:
    """Returns as SRPO's code cuts them: at a terminal row or every 1000 rows; an incomplete rest is ignored.

    The rows are those of `qlearning_dataset`, where a timed-out episode has 999, so that the cuts drift.
    """
    returns, total, count = [], 0.0, 0
    for r, ended in zip(reward.tolist(), terminal.tolist(), strict=True):
        total, count = total + r, count + 1
        if ended or count == length:
            returns.append(total)
            total, count = 0.0, 0
    return returns


def scaled(reward: np.ndarray, returns, what: str) -> np.ndarray:
    """1000 r / (max return - min return), in the authors' order of operations (float32). Raises DataError."""
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
    return reward / spread * np.float32(1000)


def standardized(reward: np.ndarray, rows: np.ndarray, what: str) -> np.ndarray:
    """(r - mean) / standard deviation (of the sample) over the given rows. Raises DataError."""
    mean, std = reward[rows].mean(dtype=np.float64), reward[rows].std(dtype=np.float64, ddof=1) if len(rows) > 1 else 0.0
    if std == 0:
        raise DataError(f"{what}: rewards cannot be standardized, as all are {mean:.6g}; use data.reward=none")
    return (reward - np.float32(mean)) / np.float32(std)


def statistics(obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (obs,) float32 of each column of `obs` (N, obs); the deviation of a constant one counts as 1."""
    mean, std = obs.mean(axis=0, dtype=np.float64), obs.std(axis=0, dtype=np.float64)
    constant = std <= np.maximum(1e-6 * np.abs(mean), 1e-30)  # what rounding leaves of it in float32
    return mean.astype(np.float32), np.where(constant, 1.0, std).astype(np.float32)


def best_episodes(reward: np.ndarray, episodes: np.ndarray, fraction: float, discount: float = 0.99) -> np.ndarray:
    """Rows of the best `fraction` of the episodes (at least one) by discounted return, in their recorded order."""
    returns = [float(np.dot(reward[a:b].astype(np.float64), discount ** np.arange(b - a))) for a, b in episodes]
    count = max(1, int(fraction * len(episodes)))
    best = np.sort(np.argsort(returns, kind="stable")[::-1][:count])
    return np.concatenate([np.arange(a, b) for a, b in episodes[best]])


def held_out(episodes: np.ndarray, fraction: float) -> np.ndarray:
    """(n,) which episodes are set aside: the same ones in every run on the same data, and among those of any larger fraction.

    The nearest whole number of them, but at least one and not all.
    """
    n = len(episodes)
    count = min(max(1, round(fraction * n)), n - 1)
    return np.isin(np.arange(n), np.random.default_rng(0).permutation(n)[:count])


def mislabeled(reward: np.ndarray, position: np.ndarray, bound: float = 19.0) -> np.ndarray:
    """Rows with a reward whose position (N, 2) is not beyond `bound` in both coordinates: SfBC's rule for antmaze-medium-play-v2."""
    return (reward > 0) & ~(position > bound).all(axis=1)


def trimmed(episodes: np.ndarray, terminal: np.ndarray, least: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Rows without episodes shorter than `least` and without the last row of those that did not terminate, and which rows end what is left."""
    long = episodes[np.diff(episodes)[:, 0] >= least]
    pieces = [np.arange(a, b - (not terminal[b - 1])) for a, b in long]
    rows = np.concatenate([np.zeros(0, int), *pieces])
    return rows, np.isin(rows, [piece[-1] for piece in pieces])
