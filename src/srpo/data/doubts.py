"""What is allowed in a recording but often a mistake: one line each, for `srpo data info` and before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from srpo.data.ends import breaks
from srpo.data.layout import interleaved
from srpo.data.mapped import FEW, few, pieces
from srpo.data.recording import Dataset
from srpo.text import NAME, plain

if TYPE_CHECKING:  # it imports JAX
    from srpo.data.treated import Treated

AT_BOUND = 0.999  # actions beyond this count as saturated
USUAL = 0.01, 100.0  # standard deviations of observations that need no remark


def warnings_about(found: Dataset | Treated, normalized: bool = False) -> list[str]:
    """Lines about what is allowed but often a mistake; `normalized`: training will normalize the observations."""
    data = cast("Dataset", getattr(found, "recording", found))
    lines = list(data.notes) + _ends(data) + _observations(data, normalized) + _actions(data)
    ordered = np.sort(_row_hashes(data))
    if (repeated := (ordered[1:] == ordered[:-1]).sum() / max(len(ordered), 1)) > 0.01:
        lines.append(f"{100 * repeated:.0f} % of the rows repeat the observation and action of another row")
    return lines + _rewards(data) + _limits(data) + _discontinuities(data)


def _ends(data: Dataset) -> list[str]:
    """Ends of episodes that were not recorded as such."""
    lines = []
    if data.timeouts_from == "counted":
        lines.append(
            "the field timeouts is missing; time-outs were counted from the time limit of the environment, as D4RL does"
        )
    if data.timeouts_from == "none":
        lines.append(
            "the field timeouts is missing; where an episode was cut, the next episode's first row is taken as its next observation"
        )
    if not data.complete.any():
        lines.append(
            "no end of an episode is marked: returns are unknown, and algorithms on whole trajectories refuse this data"
        )
    return lines


def _observations(data: Dataset, normalized: bool) -> list[str]:
    """Columns that say nothing, or of a size that networks learn poorly from."""
    lines, names = [], None if data.labels is None else data.labels[0]
    column = data.columns["obs"]
    same = np.flatnonzero(column.high == column.low)
    if len(same):
        lines.append(f"observation columns {_listed(same, names)} are constant")
    std = column.std
    odd = np.setdiff1d(np.flatnonzero((std < USUAL[0]) | (std > USUAL[1])), same)
    if len(odd) and not normalized:
        spread = " to ".join(dict.fromkeys(f"{x:.2g}" for x in (std[odd].min(), std[odd].max())))
        lines.append(
            f"observation columns {_listed(odd, names)} have a standard deviation of {spread}; networks learn poorly from numbers far from 1: "
            "train with --set data.normalize_obs=true (algorithms whose papers normalize do so by themselves)"
        )
    return lines


def _actions(data: Dataset) -> list[str]:
    """Columns that say nothing, and actions that are not on the scale of [-1, 1]."""
    lines, names = [], None if data.labels is None else data.labels[1]
    column = data.columns["action"]
    still = np.flatnonzero(column.high == column.low)
    if len(still):
        lines.append(f"action columns {_listed(still, names)} are constant")
    share = at_bound(data)
    if (share > 0.5).any():
        lines.append(
            f"action columns {_listed(np.flatnonzero(share > 0.5), names)} are at a bound in most rows; check the scale of the actions"
        )
    if data.action_range is None and (limit := np.maximum(-column.low, column.high).max()) < 0.1:
        lines.append(f"actions stay within +-{limit:.2g}; check that they were divided by the bounds of the environment")
    return lines


def at_bound(data: Dataset) -> np.ndarray:
    """(act,) the share of the rows in which a column of the actions is saturated."""
    return sum((np.abs(piece) >= AT_BOUND).sum(axis=0) for _, (piece,) in pieces(data.action)) / len(data)


def _rewards(data: Dataset) -> list[str]:
    """Rewards that are all the same, that no transition holds, or whose scale says little about how policies differ."""
    lines = []
    low, high, mean, spread = data.columns["reward"]
    if high == low:
        lines.append(f"every reward is {data.reward[0]:.6g}: there is nothing to optimize")
    cut = data.timeout
    total = sum(np.abs(piece).sum(dtype=np.float64) for _, (piece,) in pieces(data.reward))
    lost = np.abs(data.reward[cut]).sum(dtype=np.float64)
    usual = np.median(np.abs(few(data.reward)).astype(np.float64)) * cut.sum()
    if lost > 0.01 * total and lost > 2 * usual:
        both = int((cut & data.terminal).sum())
        lines.append(
            f"{cut.sum()} rows are time-outs{f', {both} of them terminal, too' * bool(both)}, and hold {100 * lost / total:.0f} % of "
            "the reward: none of them is a transition, as what followed was not recorded; if the task ended there, they are no time-outs"
        )
    returns = data.returns
    if len(returns) > 1 and 0 < np.ptp(returns) < 1e-3 * np.abs(returns).max():
        lines.append(
            f"the returns of the episodes are nearly equal ({returns.min():.6g} to {returns.max():.6g}): scaling by their range "
            "makes very large rewards; train with --set data.reward=standardize, or subtract a constant from the rewards"
        )
    if 0 < spread < 1e-3 * abs(mean):
        lines.append(
            f"rewards are {mean:.6g} +- {spread:.2g}: the constant in them is most of every value; "
            "train with --set data.reward=standardize, or subtract it"
        )
    return lines


def _limits(data: Dataset) -> list[str]:
    """Time limits stored as terminals; resets that no next observation betrays; rows of several sources in turn."""
    if data.d4rl:
        return []
    lines = []
    length, ended = np.diff(data.episodes)[:, 0], data.ended
    longest = int(length.max())
    at_limit = ended & (length == longest)
    if (
        at_limit.sum() >= 3
        and longest > 1
        and at_limit.sum() >= 0.1 * ended.sum()
        and not (data.timeout.any() and not at_limit.all())
    ):
        lines.append(
            f"{at_limit.sum()} of {ended.sum()} episodes end by themselves after exactly {longest} steps: that looks like a time limit; "
            "if it is one, mark these rows in timeouts instead of terminals, or nothing is learned of what would have followed"
        )
    first = data.episodes[1:, 0]
    if len(first) >= 3 and data.next_obs is None:
        others = np.count_nonzero(data.reward == 0) - len(first)  # if those are
        if (data.reward[first] == 0).all() and others < 0.1 * (len(data) - len(first)):
            lines.append(
                "the first reward of every episode but the first is exactly 0: these rows may be resets of a vector environment "
                "(autoreset NEXT_STEP), whose action was ignored; leave them out if so"
            )
    if (sources := interleaved(data.obs)) > 1:
        lines.append(
            f"every {sources}th row follows from the row {sources} before it: the rows look like those of {sources} environments in turn; "
            "put the rows of each environment one after the other"
        )
    return lines


def _row_hashes(data: Dataset) -> np.ndarray:
    """A 64-bit number for the observation and action of each row; of millions of rows, those of one number in k: rows that
    repeat each other stay together."""
    every = np.uint64(-(-len(data) // FEW))
    out = []
    for _, (obs, action) in pieces(data.obs, data.action):
        found = _row_hash(obs, action)
        out.append(found if every == 1 else found[found % every == 0])
    return np.concatenate(out)


def _row_hash(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    out = np.zeros(len(obs), np.uint64)
    for column in (*obs.T, *action.T):
        bits = np.ascontiguousarray(column).view(np.uint32).astype(np.uint64)
        out = (out ^ bits) * np.uint64(0x9E3779B97F4A7C15)  # wraps around
        out ^= out >> np.uint64(29)
    return out


def _discontinuities(data: Dataset) -> list[str]:
    """Recorded next observations that differ from the next row within an episode betray unmarked episode ends."""
    if data.next_obs is None:
        return []
    offset = 0.0 if data.obs_offset is None else data.obs_offset
    jumps = breaks(data.next_obs, data.obs, data.columns["obs"].std, offset)
    broken = np.flatnonzero(jumps & ~(data.terminal | data.timeout)[:-1])
    if len(broken) == 0:
        return []
    return [
        f"next_observations differ from the next row in {len(broken)} rows that end no episode (first: {broken[0]}); are time-outs missing?"
    ]


def _listed(columns: np.ndarray, names: Sequence[str] | None = None) -> str:
    """Columns by name, else by number."""
    shown = [str(c) if names is None else plain(names[c], NAME) for c in columns[:10]]
    return ", ".join(shown) + (", ..." if len(columns) > 10 else "")
