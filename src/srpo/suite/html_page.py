"""The scores of a suite as one HTML page that needs nothing else: no script, no font, no file beside it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from srpo.suite.charts import Dot, Line, color, dots, lines
from srpo.suite.findings import CLONING, Findings
from srpo.suite.measures import Estimate
from srpo.suite.page import deviation, hours, recipes, summary
from srpo.suite.scoring import curves
from srpo.suite.tables import RECORDED, SUITE, VERSIONS, Result, Row

NOTHING_FROM_OUTSIDE = "default-src 'none'; style-src 'unsafe-inline'"


def html_page(found: Findings, folder: Path) -> str:
    """The whole page; `folder`: where it will lie, from which runs are linked."""
    style = (resources.files("srpo.suite") / "report.css").read_text()
    sections: tuple[Callable[[Findings], str], ...] = (scores, means, profiles, improvements, learning, time, settings)
    body = "".join(section(found) for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{NOTHING_FROM_OUTSIDE}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>srpo suite: {escape(found.about['name'])}</title><style>\n{style}</style></head>\n"
        f"<body>{head(found)}{body}{cells(found, folder)}{commands(found)}</body></html>\n"
    )


def head(found: Findings) -> str:
    title = found.about["title"].replace("`", "")
    devices = sorted({str(r.about.get("device", "")) for r in found.results} - {""})
    facts = [
        f"Budget: {summary(found)}.".replace("`", ""),
        f"Seeds x episodes: {found.counts}." if found.counts else "Nothing is finished yet.",
    ]
    facts += [f"Device: {'; '.join(devices)}."] if devices else []
    best = [n for n in found.names if n in found.means and n != RECORDED][:3]
    order = ", then ".join(f"<b>{escape(n)}</b> {found.means[n]:.1f}" for n in best)
    lead = f"<p>Highest mean of the suite: {order}.</p>" if best else ""
    if found.below_cloning:
        lead += f"<p>Not above <b>{CLONING}</b> (cloning): {escape(', '.join(found.below_cloning))}.</p>"
    return f'<header><h1>{escape(title[:1].upper() + title[1:])}</h1>{lead}<p class="soft">{escape(" ".join(facts))}</p></header>\n'


def scores(found: Findings) -> str:
    columns = [*found.used, SUITE]
    rows = []
    for name in found.names:
        kind = ' class="data"' if name == RECORDED else ""
        entries = "".join(f"<td>{score(found.at.get((name, c)))}</td>" for c in columns)
        middle = found.comparison.middle.get(name)
        rows.append(f"<tr{kind}><th>{escape(name)}</th>{entries}<td>{bounds(middle)}</td></tr>")
    note = (
        "Normalized score of the last policies: mean ± standard deviation over seeds; below it the 95 % bootstrap interval of the mean, "
        "seeds and then episodes drawn with replacement."
    )
    return section("Scores", note, table(["algorithm", *(found.labels[c] for c in columns), "interquartile mean"], rows))


def score(row: Row | None) -> str:
    if row is None or "mean" not in row:
        return "-" if row is None else escape(row["status"])
    if "std" not in row:
        return f"{row['mean']:.1f}"
    within = f"<small>{row['low']:.1f} to {row['high']:.1f}</small>" if row["low"] != "" else ""
    return f"<b>{row['mean']:.1f}</b>{deviation(row)}{within}"


def bounds(e: Estimate | None, digits: int = 1) -> str:
    if e is None:
        return "-"
    within = "" if e.low is None or e.high is None else f"<small>{e.low:.{digits}f} to {e.high:.{digits}f}</small>"
    return f"<b>{e.value:.{digits}f}</b>{within}"


def means(found: Findings) -> str:
    order = index(found)
    means = [r for r in found.rows if r["data"] == SUITE and r["algorithm"] != RECORDED]
    if not means:
        return ""
    over = [
        Dot(r["algorithm"], order[r["algorithm"]], r["mean"], *(None if r[end] == "" else r[end] for end in ("low", "high")))
        for r in sorted(means, key=lambda r: -r["mean"])
    ]
    middle = [dot(name, order[name], e) for name, e in found.comparison.middle.items()]
    note = f"Over {', '.join(found.labels[d] for d in found.comparison.data)}: of what is finished on all of them. The interquartile mean leaves out the lowest and the highest quarter of all runs."
    return section(
        "Means over the suite",
        note,
        charts(
            [
                figure("Mean", dots(over, "Mean of the suite", "normalized score")),
                figure("Interquartile mean", dots(middle, "Interquartile mean", "normalized score")),
            ]
        ),
    )


def dot(name: str, place: int, e: Estimate) -> Dot:
    low, high = (None if x is None else float(x) for x in (e.low, e.high))
    return Dot(name, place, float(e.value), low, high)


def profiles(found: Findings) -> str:
    compared = found.comparison
    if not compared.names:
        return ""
    order = index(found)
    drawn = [Line(n, order[n], compared.at, e.value, e.low, e.high) for n, e in compared.profiles.items()]
    note = "The share of runs, over all data sets and seeds, that score above a value. A line above another one everywhere is better at every level."
    chart = figure("", lines(drawn, "Performance profiles", "normalized score", "share of runs above it"))
    return section("Performance profiles", note, legend(compared.names, order) + charts([chart]))


def improvements(found: Findings) -> str:
    compared = found.comparison
    if len(compared.names) < 2:
        return ""
    rows = []
    for a in compared.names:
        entries = []
        for b in compared.names:
            e = compared.improvements.get((a, b))
            share = 0.0 if e is None else max(0.0, 2 * float(e.value) - 1) * 55
            entries.append(f'<td class="share" style="--p:{share:.0f}%">{bounds(e, 2)}</td>')
        rows.append(f"<tr><th>{escape(a)}</th>{''.join(entries)}</tr>")
    note = "The probability that a run of the algorithm on the left scores above one of the algorithm on top, on a data set drawn at random."
    return section("Probability of improvement", note, table(["", *compared.names], rows))


def learning(found: Findings) -> str:
    order, figures, shown = index(found), [], []
    for name in found.used:
        here = curves(name, found.results)
        if not here:
            continue
        level = found.at.get((RECORDED, name), {}).get("mean")
        drawn = []
        for algorithm in (n for n in found.names if n in here):
            steps, values = here[algorithm]
            mean, spread = values.mean(0), values.std(0)
            drawn.append(Line(algorithm, order[algorithm], steps, mean, mean - spread, mean + spread))
        shown += [line.name for line in drawn]
        figures.append(
            figure(found.labels[name], lines(drawn, f"Learning curves, {name}", "step of the last stage", "score", level))
        )
    if not figures:
        return ""
    note = "Policies that were kept on the way: mean and standard deviation over seeds. The dotted line is the mean of the recorded episodes."
    return section("Learning curves", note, legend([n for n in found.names if n in shown], order) + charts(figures))


def time(found: Findings) -> str:
    totals = {n: sum(seconds(found.at.get((n, d))) for d in found.used) for n in found.names if n != RECORDED}
    most = max(totals.values(), default=0.0)
    if not most:
        return ""
    rows = []
    for name in totals:
        here = [row for d in found.used if (row := found.at.get((name, d)))]
        spent = [seconds(found.at.get((name, d))) for d in found.used]
        per = "".join(f"<td>{s / 60:.1f}</td>" if s else "<td>-</td>" for s in spent)
        share = f'<td class="bar"><i style="--p:{100 * totals[name] / most:.1f}%"></i></td>'
        rows.append(f"<tr><th>{escape(name)}</th>{per}<td>{escape(hours(here))}</td>{share}</tr>")
    note = "Minutes of training and evaluation by data set, all seeds; then hours of each. What was shared (a critic, say) counts where it was trained."
    return section(
        "Time", note, table(["algorithm", *(found.labels[d] for d in found.used), "training + evaluation, h", ""], rows)
    )


def seconds(row: Row | None) -> float:
    return 0.0 if row is None else row.get("train_seconds", 0.0) + row.get("eval_seconds", 0.0)


def settings(found: Findings) -> str:
    rows = [
        f'<tr><th>{escape(name)}</th><td class="text">{escape(kind)}</td><td class="long">{escape(given)}</td></tr>'
        for name, kind, given in recipes(found)
    ]
    note = "What the suite sets beside the preset; a variant of an algorithm has what is set of it as well."
    return section("Settings", note, table(["algorithm", "variant of", "settings"], rows, "text")) if rows else ""


def cells(found: Findings, folder: Path) -> str:
    rows = []
    for result in found.results:
        about = result.about
        place = link(result, folder)
        status = escape(about["status"]) + (f'<small class="bad">{escape(about["error"])}</small>' if about["error"] else "")
        where = f'<a href="{quote(place)}">{escape(place)}</a>' if place else "not here"
        minutes = f"{about['train_seconds'] / 60:.1f} + {about['eval_seconds'] / 60:.1f}"
        texts = [found.labels.get(about["data"], about["data"]), about["algorithm"], about["seeds"]]
        left = f"<th>{escape(texts[0])}</th>" + "".join(f'<td class="text">{escape(t)}</td>' for t in texts[1:])
        rest = "".join(f'<td class="text">{escape(str(about.get(key, "")))}</td>' for key in ("shared", "device", "settings"))
        rows.append(f'<tr>{left}<td class="text">{status}</td><td>{minutes}</td>{rest}<td class="text">{where}</td></tr>')
    header = ["data", "algorithm", "seeds", "status", "min", "shared", "device", "settings", "run"]
    return section("Runs", "", f"<details><summary>All {len(rows)} cells</summary>{table(header, rows, 'text')}</details>")


def link(result: Result, folder: Path) -> str | None:
    """The run of a cell, or its policies, from the page; None if neither is there."""
    kept = os.path.join("policies", *result.where, "-".join(map(str, result.seeds)))
    return next((p for p in (result.about.get("run"), kept) if p and (folder / p / "run.json").exists()), None)


def commands(found: Findings) -> str:
    made = "\n".join(dict.fromkeys(str(r.about.get("command", "")) for r in found.results))
    versions = {f"{v} {r.about[v]}" for r in found.results for v in VERSIONS if r.about.get(v)}
    note = f"With {', '.join(sorted(versions))}." if versions else ""
    return section("Made by", note, f"<pre>{escape(made)}</pre>")


def index(found: Findings) -> dict[str, int]:
    """The color of each algorithm: by its place in the suite, so that it keeps it."""
    names = [*found.about["algorithms"], *found.names]
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def section(title: str, note: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{f'<p class=soft>{escape(note)}</p>' if note else ''}{content}</section>\n"


def table(header: Sequence[str], rows: Iterable[str], kind: str = "") -> str:
    top = "".join(f'<th class="{kind}">{escape(h)}</th>' if kind else f"<th>{escape(h)}</th>" for h in header)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def legend(names: Iterable[str], order: dict[str, int]) -> str:
    keys = (f'<svg viewBox="0 0 38 4"><path class="line {color(order[n])}" d="M0 2H38"/></svg>{escape(n)}' for n in names)
    return f'<ul class="legend">{"".join(f"<li>{key}</li>" for key in keys)}</ul>'


def charts(figures: Iterable[str]) -> str:
    return f'<div class="charts">{"".join(figures)}</div>'


def figure(title: str, chart: str) -> str:
    return f"<figure>{f'<h3>{escape(title)}</h3>' if title else ''}{chart}</figure>"
