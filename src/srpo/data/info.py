"""What a data set holds: figures, warnings, a table and a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srpo import strict_json
from srpo.data.checks import DataError
from srpo.data.layout import interleaved
from srpo.data.mapped import FEW, columns, few, pieces
from srpo.data.recording import Dataset
from srpo.text import NAME, plain

QUANTILES = (0, 0.25, 0.5, 0.75, 1)
AT_BOUND = 0.999  # actions beyond this count as saturated
USUAL = 0.01, 100.0  # standard deviations of observations that need no remark


def summary(data: Dataset) -> dict[str, Any]:
    """The figures of a data set as a dict that JSON can hold."""
    length = np.diff(data.episodes)[:, 0]
    saturated = _at_bound(data)
    obs = data.columns["obs"]
    offset = 0.0 if data.obs_offset is None else data.obs_offset
    out = {
        "name": data.name,
        "source": data.source,
        "sha256": data.sha256,
        "env_id": data.env_id,
        "rows": len(data),
        "transitions": len(data.transition_rows),
        "obs_size": data.obs_size,
        "action_size": data.action_size,
        "episodes": int(data.complete.sum()),
        "incomplete_episodes": int((~data.complete).sum()),
        "episode_length": _spread(length[data.complete]),
        "terminals": int(data.terminal.sum()),
        "timeouts": int(data.timeout.sum()),
        "timeouts_from": data.timeouts_from,
        "next_obs_recorded": data.next_obs is not None,
        "returns": _spread(data.returns),
        "score": _spread(data.score(data.returns)) if data.reference and len(data.returns) else None,
        "reward": _spread(data.reward),
        "action_range": _range(data),
        "actions_at_bounds": float(saturated.mean()),
        "actions_at_bounds_by_column": [float(x) for x in saturated],
        "obs_range": [float((obs.low + offset).min()), float((obs.high + offset).max())],
        "action_units": data.action_range and data.action_range.as_dict(),
        "obs_names": data.labels and list(data.labels[0]),
        "action_names": data.labels and list(data.labels[1]),
    }
    return out | {"warnings": warnings_about(data)}


def _range(data: Dataset) -> list[float]:
    """The smallest and the largest recorded action."""
    ends = np.stack(data.columns["action"][:2]).astype(np.float32)
    recorded = ends if data.action_range is None else data.action_range.recorded(ends)
    return [float(recorded.min()), float(recorded.max())]


def _at_bound(data: Dataset) -> np.ndarray:
    """(act,) the share of the rows in which a column of the actions is saturated."""
    return sum((np.abs(piece) >= AT_BOUND).sum(axis=0) for _, (piece,) in pieces(data.action)) / len(data)


def _spread(values: np.ndarray) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    low, high, mean, std = columns(values)
    middle = np.quantile(np.asarray(few(values), np.float64), QUANTILES[1:-1])  # of millions of rows, of every k-th
    ordered = zip(QUANTILES, (low, *middle, high), strict=True)
    return {"mean": float(mean), "std": float(std)} | {f"q{int(100 * q)}": float(x) for q, x in ordered}


def warnings_about(data: Dataset, normalized: bool = False) -> list[str]:
    """Lines about what is allowed but often a mistake; `normalized`: training will normalize the observations."""
    lines = list(data.notes)
    obs_names, action_names = data.labels or (None, None)
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
    obs, action, reward = (data.columns[key] for key in ("obs", "action", "reward"))
    same = np.flatnonzero(obs.high == obs.low)
    if len(same):
        lines.append(f"observation columns {_listed(same, obs_names)} are constant")
    std = obs.std
    odd = np.setdiff1d(np.flatnonzero((std < USUAL[0]) | (std > USUAL[1])), same)
    if len(odd) and not normalized:
        spread = " to ".join(dict.fromkeys(f"{x:.2g}" for x in (std[odd].min(), std[odd].max())))
        lines.append(
            f"observation columns {_listed(odd, obs_names)} have a standard deviation of {spread}; networks learn poorly from numbers far from 1: "
            "train with --set data.normalize_obs=true (algorithms whose papers normalize do so by themselves)"
        )
    still = np.flatnonzero(action.high == action.low)
    if len(still):
        lines.append(f"action columns {_listed(still, action_names)} are constant")
    share = _at_bound(data)
    if (share > 0.5).any():
        lines.append(
            f"action columns {_listed(np.flatnonzero(share > 0.5), action_names)} are at a bound in most rows; check the scale of the actions"
        )
    if data.action_range is None and (limit := np.maximum(-action.low, action.high).max()) < 0.1:
        lines.append(f"actions stay within +-{limit:.2g}; check that they were divided by the bounds of the environment")
    ordered = np.sort(_row_hashes(data))
    if (repeated := (ordered[1:] == ordered[:-1]).sum() / max(len(ordered), 1)) > 0.01:
        lines.append(f"{100 * repeated:.0f} % of the rows repeat the observation and action of another row")
    if reward.high == reward.low:
        lines.append(f"every reward is {data.reward[0]:.6g}: there is nothing to optimize")
    return lines + _rewards(data) + _limits(data) + _discontinuities(data)


def _rewards(data: Dataset) -> list[str]:
    """Rewards that no transition holds, and rewards whose scale says little about how policies differ."""
    lines = []
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
    _, _, mean, spread = data.columns["reward"]
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
        others = np.delete(data.reward, first)
        if (data.reward[first] == 0).all() and (others == 0).mean() < 0.1:
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
    broken: list[int] = []
    ends = data.terminal | data.timeout
    for start, (found, following, end) in pieces(data.next_obs[:-1], data.obs[1:], ends[:-1]):
        broken.extend(start + np.flatnonzero(~end & (np.abs(found - following) > 1e-6).any(axis=1)))
    if len(broken) == 0:
        return []
    return [
        f"next_observations differ from the next row in {len(broken)} rows that end no episode (first: {broken[0]}); are time-outs missing?"
    ]


def _listed(columns: np.ndarray, names: Sequence[str] | None = None) -> str:
    """Columns by name, else by number."""
    shown = [str(c) if names is None else plain(names[c], NAME) for c in columns[:10]]
    return ", ".join(shown) + (", ..." if len(columns) > 10 else "")


def info(data: Dataset, png: Path | None = None, as_json: bool = False) -> dict[str, Any]:
    """Prints the figures of a data set (a table, or one JSON object), draws its histograms and returns the figures."""
    found = summary(data)
    if png is not None:
        from srpo.data.picture import draw

        draw(data, Path(png))
        found["png"] = str(png)
    if as_json:
        print(strict_json.dumps(found))
    else:
        _print_table(found)
    return found


def _print_table(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    facts = Table(title=escape(found["name"]), show_header=False, title_justify="left", title_style="bold")
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for label, text in _facts(found):
        facts.add_row(label, escape(text))
    for line in found["warnings"]:
        facts.add_row("[yellow]warning[/yellow]", escape(line))
    spread = Table("", "mean", "std", "min", "25 %", "median", "75 %", "max")
    for column in spread.columns[1:]:
        column.justify = "right"
    for label, key in (("return", "returns"), ("score", "score"), ("reward", "reward"), ("length", "episode_length")):
        if found[key] is not None:
            spread.add_row(label, *(f"{x:.1f}" if abs(x) >= 10 else f"{x:.3g}" for x in found[key].values()))
    console = Console()
    console.print(facts)
    console.print(spread)
    if "png" in found:
        console.print(f"picture: {found['png']}", soft_wrap=True, markup=False, highlight=False)


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Label and text of each line of the first table."""
    low, high = found["action_range"]
    incomplete = f", {found['incomplete_episodes']} more cut off by the end of the data" if found["incomplete_episodes"] else ""
    counted = {"recorded": "", "counted": " (counted)", "none": " (not recorded)"}[found["timeouts_from"]]
    facts = [
        ("source", found["source"]),
        ("SHA-256", found["sha256"][:16] + "..."),
        ("environment", found["env_id"] or "none known"),
        ("rows", f"{found['rows']}, of which {found['transitions']} are transitions"),
        ("sizes", f"{found['obs_size']} observations, {found['action_size']} actions"),
        ("episodes", f"{found['episodes']} complete{incomplete}"),
        ("episode ends", f"{found['terminals']} terminals, {found['timeouts']} time-outs{counted}"),
        ("next observations", "recorded" if found["next_obs_recorded"] else "not recorded: taken from the next row"),
        ("observations", "{:.3g} to {:.3g}".format(*found["obs_range"])),
        ("actions", f"{low:.3g} to {high:.3g}; {100 * found['actions_at_bounds']:.1f} % of the numbers at a bound"),
    ]
    for label, key in (("observed", "obs_names"), ("done", "action_names")):
        if found[key]:
            facts.append((label, ", ".join(plain(name, NAME) for name in found[key])))
    if found["score"] is None:
        facts.append(("score", "no reference returns known"))
    return facts


def check_writable(png: Path) -> None:
    """Refuses a picture that cannot be written, before anything is computed."""
    if png.suffix.lower() != ".png":
        raise DataError(f"{png}: unknown kind of picture {png.suffix!r}; give a name that ends in .png")
    if not png.parent.is_dir():
        raise DataError(f"{png}: the folder {png.parent} does not exist; make it first")
    if png.is_dir() or not os.access(png.parent, os.W_OK):
        raise DataError(f"{png}: cannot be written; give another name or folder")
