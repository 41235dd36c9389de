"""What a data set holds: figures, warnings, a table and a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from srpo.data.checks import DataError
from srpo.data.doubts import at_bound, warnings_about
from srpo.data.mapped import columns, few
from srpo.data.recording import Dataset
from srpo.system import strict_json
from srpo.system.files import require_replaceable
from srpo.text import NAME, plain

QUANTILES = (0, 0.25, 0.5, 0.75, 1)


def summary(data: Dataset) -> dict[str, Any]:
    """The figures of a data set as a dict that JSON can hold."""
    length = np.diff(data.episodes)[:, 0]
    saturated = at_bound(data)
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


def _spread(values: np.ndarray) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    low, high, mean, std = columns(values)
    middle = np.quantile(np.asarray(few(values), np.float64), QUANTILES[1:-1])  # of millions of rows, of every k-th
    ordered = zip(QUANTILES, (low, *middle, high), strict=True)
    return {"mean": float(mean), "std": float(std)} | {f"q{int(100 * q)}": float(x) for q, x in ordered}


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

    facts = Table(title=escape(plain(found["name"])), show_header=False, title_justify="left", title_style="bold")
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for label, text in _facts(found):
        facts.add_row(label, escape(plain(text)))
    for line in found["warnings"]:
        facts.add_row("[yellow]warning[/yellow]", escape(plain(line)))
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
        console.print(f"picture: {plain(found['png'])}", soft_wrap=True, markup=False, highlight=False)


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
    try:
        require_replaceable(png)
    except OSError as e:
        raise DataError(f"{png}: cannot be written ({e.strerror}); give another name") from None
