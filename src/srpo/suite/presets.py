"""What the reduced presets change: every setting in which `quick` is not `paper`, of every algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srpo import algorithms, config
from srpo.suite.pages import markdown
from srpo.suite.plan import load_suite, shipped

REDUCED, FULL = "quick", "paper"


def tasks() -> list[str]:
    """The names of data sets to look at: any other name, and all tasks of the suites that come with srpo."""
    return list(dict.fromkeys(["", *(source.task for name in shipped() for source in load_suite(name).data)]))


def changes(name: str, names: Sequence[str]) -> dict[str, tuple[list[Any], list[Any], str]]:
    """By path: the values in `paper`, those in `quick` (several where they depend on the data set), and the meaning."""
    cls = algorithms.find(name)
    out: dict[str, tuple[list[Any], list[Any], str]] = {}
    pairs = [tuple(config.preset(cls.presets, p, task) for p in (FULL, REDUCED)) for task in names]
    for pair in (pair for i, pair in enumerate(pairs) if pair not in pairs[:i]):
        full, reduced = (config.settings(config.assign_all(cls.default(), values)) for values in pair)
        for path, setting in full.items():
            if setting.value != reduced[path].value:
                before, after, _ = out.setdefault(path, ([], [], setting.meaning))
                before += [setting.value] * (setting.value not in before)
                after += [reduced[path].value] * (reduced[path].value not in after)
    return out


def page() -> str:
    """The table of all algorithms that come with srpo, as Markdown."""
    names, rows = tasks(), []
    for name in algorithms.ALGORITHMS:
        for path, (full, reduced, meaning) in changes(name, names).items():
            rows.append([f"`{name}`", f"`{path}`", shown(full), shown(reduced), meaning])
    note = (
        "Only data on which the presets differ count. Where a value depends on the data set, all of theirs are listed, or the lowest"
        " and the highest."
    )
    return f"{markdown(['algorithm', 'setting', f'`{FULL}`', f'`{REDUCED}`', 'meaning'], rows, text=5)}\n\n{note}"


def shown(values: Sequence[Any]) -> str:
    """Values as people write them."""
    if len(values) > 2 and all(isinstance(v, (int, float)) for v in values):
        return f"{one(min(values))} to {one(max(values))}"
    return " or ".join(map(one, values))


def one(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return " x ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
