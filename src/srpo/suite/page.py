"""The scores of a suite as Markdown: the table, what must be said beside it, and one algorithm's part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from srpo.errors import ConfigError
from srpo.suite import published
from srpo.suite.findings import CLONING, Findings, short_names
from srpo.suite.measures import Estimate
from srpo.suite.pages import has_place, markdown
from srpo.suite.presets import one as one_value
from srpo.suite.tables import RECORDED, SUITE, Row
from srpo.text import NAME, plain

LONG = 300  # characters of an error


def page(found: Findings) -> str:
    """The table and what must be said beside it; the best mean of the suite first."""
    at, columns = found.at, [*found.used, SUITE]
    table = [
        [
            n,
            *(cell(at.get((n, c))) for c in columns),
            span(found.comparison.middle.get(n)),
            published.MEAN.get(n, "-"),
            hours([at[n, d] for d in found.used if (n, d) in at]),
        ]
        for n in found.names
    ]
    header = [
        "algorithm",
        *(found.labels[c] for c in columns),
        "interquartile mean",
        "published, D4RL locomotion",
        "training + evaluation, h",
    ]
    lines = [
        "Normalized score of the last policies: mean over seeds and episodes ± (population) standard deviation over seeds [95 % bootstrap"
        " interval of the mean, seeds and then episodes drawn with replacement]. Interquartile mean: of all runs of all data sets, with"
        " seeds drawn within each data set.",
        "",
        markdown(header, table),
    ]
    lines += ["", found.partly] if found.partly else []
    lines += ["", f"Seeds x episodes: {found.counts}. Budget: {summary(found)}.", *told(found)] if found.counts else []
    if found.below_cloning is not None:
        below = ", ".join(f"`{n}`" for n in found.below_cloning)
        lines += ["", f"Not above `{CLONING}` on the mean of the suite: {below or 'none'}."]
    troubles = [
        f"- `{r['algorithm']}` on {plain(r['data'], NAME)}: {plain(r['error'], LONG)}" for r in found.rows if r.get("error")
    ]
    return "\n".join(lines + (["", "Failures:", "", *troubles] if troubles else []))


def span(e: Estimate | None) -> str:
    """An estimate with its interval."""
    if e is None:
        return "-"
    return f"{e.value:.1f}" + ("" if e.low is None or e.high is None else f" [{e.low:.1f}, {e.high:.1f}]")


def one(name: str, rows: Sequence[Row], tasks: Mapping[str, str]) -> str:
    """One algorithm's scores by data set beside cloning's, the data's own and the published ones. tasks: data set -> D4RL task."""
    at, columns = {(r["algorithm"], r["data"]): r for r in rows}, [*tasks, SUITE]
    if not any("mean" in at.get((name, c), {}) for c in columns):
        return f"Not measured in the suite yet: `srpo suite run open --data-dir DIR --algos {name}` does it."
    measured = [[f"`{n}`", "measured", *(cell(at.get((n, c))) for c in columns)] for n in dict.fromkeys((name, CLONING))]
    recorded = ["", "the recorded episodes", *(cell(at.get((RECORDED, c))) for c in columns)]
    known = published.SCORES.get(name, {})
    scores = [known.get(task, "-") for task in tasks.values()]
    there = [[f"`{name}`", "published for D4RL's task", *scores, "-"]] if known else []
    return markdown(["", "", *short_names(columns).values()], [*measured, recorded, *there], text=2)


def cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if "mean" not in row:
        return row["status"]
    if "std" not in row:
        return f"{row['mean']:.1f}"
    return f"{row['mean']:.1f}{deviation(row)}" + (f" [{row['low']:.1f}, {row['high']:.1f}]" if row["low"] != "" else "")


def deviation(row: Row) -> str:
    """That of the seeds; one seed has none."""
    return f" ± {row['std']:.1f}" if row["seeds"] > 1 else ""


def hours(rows: Sequence[Row]) -> str:
    """Hours of training and evaluation, a bound from below where a killed process took its count along."""
    if not any("train_seconds" in r for r in rows):
        return "-"
    least = "> " if any(r["time_incomplete"] for r in rows) else ""
    total = {key: sum(r[key] for r in rows) / 3600 for key in ("train_seconds", "eval_seconds")}
    return f"{least}{total['train_seconds']:.2f} + {total['eval_seconds']:.2f}"


def places(folder: Path, measured: Iterable[str], others: Iterable[str]) -> dict[str, Path]:
    """The page of each algorithm in a folder: the one with a place `scores NAME`. Raises ConfigError if one that was measured has none."""
    found = {n: file for file in sorted(folder.glob("*.md")) for n in (*measured, *others) if has_place(file, f"scores {n}")}
    missing = [name for name in measured if name not in found]
    if missing:
        mark = f"<!-- scores {missing[0]} -->"
        raise ConfigError(f"no page in {folder} has a place for {missing[0]}: expected a line {mark} and its end; add them")
    return found


def summary(found: Findings) -> str:
    """The budget of a suite, in words."""
    about, budget = found.about, found.about["budget"]
    steps = f"{budget['iterations']:,} iterations of every stage" if budget["iterations"] else "each algorithm's own steps"
    factor = f", batches above 256 divided by {budget['batch_factor']}" if budget["batch_factor"] > 1 else ""
    precision = ", in bfloat16" if about.get("precision") == "bfloat16" else ""
    return f"preset `{about['preset']}`, {steps}{factor}{precision}"


def recipes(found: Findings) -> list[tuple[str, str, str]]:
    """What the suite sets of the algorithms and variants that were trained: the name, of a variant its algorithm, and the settings."""
    about, variants = found.about, {n: v for n, v in found.about.get("variants", {}).items() if n in found.names}
    trained = {*found.names, *(variant["algorithm"] for variant in variants.values())}
    kinds = {n: v["algorithm"] + (f", preset {v['preset']}" if v["preset"] else "") for n, v in variants.items()}
    places = [
        ("", {name: variant["settings"] for name, variant in variants.items()}),
        ("", about.get("settings", {})),
        *((f" on {found.labels[d['name']]}", d.get("settings", {})) for d in about["data"]),
    ]
    given: dict[str, list[str]] = {}
    for where, settings in places:
        for name in (n for n in settings if n in trained):
            given.setdefault(name, []).extend(f"{path} {one_value(v)}{where}" for path, v in settings[name].items())
    names = [*(n for n in given if n not in variants), *(n for n in given if n in variants)]
    return [(name, kinds.get(name, ""), ", ".join(given[name])) for name in names]


def told(found: Findings) -> list[str]:
    """The lines of `recipes`."""
    lines = [
        f"- `{name}`" + (f" ({kind})" if kind else "") + (f": {given}" if given else "") for name, kind, given in recipes(found)
    ]
    return ["", "Settings beside the preset; a variant has those of its algorithm as well:", "", *lines] if lines else []
