"""What `benchmarks/judge.py judge` wrote, as the table and the picture of docs/judge.md: does `srpo judge` choose well?

python benchmarks/judge_report.py docs/scores/judge/*.csv --into docs
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from srpo.cli import guarded
from srpo.suite.pages import insert, markdown

Row = dict[str, str]
CRITERIA: dict[str, Callable[[Row], float]] = {  # larger: better
    "`srpo judge`": lambda row: -number(row["place"]),
    "its return in the model alone": lambda row: number(row["low"]),
    "its doubt alone": lambda row: -number(row["doubt"]),
    "fitted Q at first states": lambda row: number(row["q_start"]),
    "critic's Q at first states": lambda row: number(row["critic"]),
    "TD error": lambda row: -number(row["td_error"]),
    "likelihood": lambda row: number(row["nats"]),
}


def number(text: str) -> float:
    """Not a number where there is none."""
    return float(text) if text else math.nan


class Panel:
    """The policies of one data set, with their true scores."""

    def __init__(self, path: Path):
        self.rows: list[Row] = list(csv.DictReader(path.read_text().splitlines()))
        self.data = self.rows[0]["data"]
        self.score = np.array([number(row["score"]) for row in self.rows])
        self.best = float(self.score.max())

    def criterion(self, name: str) -> np.ndarray | None:
        """(policies,), None where it was not measured."""
        found = np.array([CRITERIA[name](row) for row in self.rows])
        return None if np.isnan(found).all() else np.where(np.isfinite(found), found, -np.inf)

    def regret(self, name: str) -> float:
        """Score lost by taking the first of a criterion."""
        found = self.criterion(name)
        return math.nan if found is None else self.best - float(self.score[np.argmax(found)])

    def spearman(self, name: str) -> float:
        found = self.criterion(name)
        if found is None or len(set(found.tolist())) == 1:
            return math.nan
        return float(np.corrcoef(ranks(found), ranks(self.score))[0, 1])

    @property
    def default(self) -> float:
        """Score lost by the last checkpoint of SRPO at one temperature, or the published one; a mean over seeds."""
        found = [s for s, row in zip(self.score, self.rows, strict=True) if row["default"] == "1"]
        return self.best - float(np.mean(found)) if found else math.nan


def ranks(x: np.ndarray) -> np.ndarray:
    """From 0; of equal numbers the mean of their ranks."""
    _, inverse, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count + 1) / 2)[inverse]


def table(panels: Sequence[Panel]) -> str:
    """Rank correlation and regret of every criterion, by data set and on the mean of those where it was measured."""
    header = ["chosen by", *(f"{p.data.removesuffix('-v0')}" for p in panels), "mean"]
    lines = [
        [name, *map(_cell, found), _cell(_mean(found))]
        for name, found in ((name, np.array([(p.spearman(name), p.regret(name)) for p in panels])) for name in CRITERIA)
    ]
    defaults = np.array([p.default for p in panels])
    lines.append(["SRPO, beta not chosen, last checkpoint", *map(_regret, defaults), _regret(_mean(defaults[:, None])[0])])
    said = [
        f"{p.data}: {len(p.rows)} policies, true scores {p.score.min():.1f} to {p.best:.1f}, median {np.median(p.score):.1f}; "
        f"taken: {p.rows[0]['policy']} seed {p.rows[0]['seed']}, {p.score[0]:.1f}"
        for p in panels
    ]
    return "\n".join([markdown(header, lines), "", *(f"{line}.  " for line in said)])


def _mean(found: np.ndarray) -> np.ndarray:
    """Over the data sets where it was measured, the first axis; not a number if it was nowhere."""
    measured = found[~np.isnan(found).any(1)]
    return measured.mean(0) if len(measured) else np.full(found.shape[1], math.nan)


def _cell(found: np.ndarray) -> str:
    return "-" if np.isnan(found).any() else f"{found[0]:.2f}, {found[1]:.1f}"


def _regret(found: float) -> str:
    return "-" if math.isnan(found) else f"{found:.1f}"


def picture(panels: Sequence[Panel], path: Path) -> None:
    """The true score of every policy against the lower end of its return in the model, by data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 3.2), layout="constrained", squeeze=False)
    names = list(dict.fromkeys(row["algorithm"] for p in panels for row in p.rows))
    for ax, p in zip(axes[0], panels, strict=True):
        low = np.array([number(row["low"]) for row in p.rows])
        for i, name in enumerate(names):
            mine = np.array([row["algorithm"] == name for row in p.rows])
            ax.scatter(low[mine], p.score[mine], s=16, alpha=0.7, color=f"C{i}", label=name)
        ax.scatter(low[0], p.score[0], s=90, facecolors="none", edgecolors="k", label="taken")
        ax.set_title(p.data.removesuffix("-v0"), fontsize=8)
        ax.set_xlabel("lower end of the return in the model", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("true normalized score", fontsize=8)
    axes[0][0].legend(fontsize=7, frameon=False)
    fig.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judged", type=Path, nargs="+", help="CSV files of benchmarks/judge.py")
    parser.add_argument("--into", type=Path, help="folder of the pages to write the report into")
    args = parser.parse_args()
    panels = [Panel(path) for path in args.judged]
    print(table(panels))
    if args.into is not None:
        insert(args.into / "judge.md", "validation", table(panels))
        picture(panels, args.into / "images" / "judge.png")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
