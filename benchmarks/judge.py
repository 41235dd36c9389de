"""Does `srpo judge` choose well? Policies whose true scores are known, ranked from data alone.

  python benchmarks/judge.py train --data halfcheetah-medium-replay-mini --out DIR     a panel of policies, bad ones included
  python benchmarks/judge.py truth --out DIR                                           their true returns, by episodes
  python benchmarks/judge.py judge --out DIR                                           what the data say of them
  python benchmarks/judge.py report --out DIR [--out DIR ...] --into docs              table and scatter plot of docs/judge.md

A stopped `train` goes on where it was. DIR holds one data set: its runs, truth.json and evidence.npz.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import srpo
from srpo.cli import guarded
from srpo.commands.reading import pair
from srpo.config import assign_all
from srpo.data.again import recorded_source
from srpo.data.reference import normalized
from srpo.evaluation.rollouts import Rollouts
from srpo.judging.evidence import Evidence, Judging, Split, gather
from srpo.judging.judge import comparable
from srpo.judging.panel import Candidate, Panel
from srpo.judging.verdict import Judged, weigh
from srpo.runs.checkpoint import write_json
from srpo.runs.run import Run, load_run
from srpo.suite.pages import insert, markdown
from srpo.training.progress import Bars

SEEDS, HOLDOUT, EPISODES = 2, 0.2, 10
DEFAULT = {"policy.beta": 0.05}  # what `srpo train --preset quick` takes for these sets
SMALL = (128, 128)
CRITIC = {"critic.steps": 15_000, "critic.lr": 1e-3, "critic.hidden": SMALL, "data.reward": "return-range"}
SAME_CRITIC = CRITIC | {"critic.next_value": "before", "critic.layer_init": "torch", "data.clip_action": 1.0}
POLICY = {"policy.hidden": SMALL, "policy.lr": 1e-3, "policy.steps": 2_400}
BEHAVIOR = {
    "behavior.steps": 6_000, "behavior.batch_size": 256, "behavior.width": 64, "behavior.lr": 1e-3,
    "behavior.parametrization": "preconditioned",
}  # fmt: skip
# name -> algorithm, settings, sweep, how many policies are kept on the way, whose finished stages are used
PANEL: dict[str, tuple[str, dict[str, Any], dict[str, list[float]], int, str | None]] = {
    "srpo": ("srpo", CRITIC | POLICY | BEHAVIOR, {"policy.beta": [0.01, 0.02, 0.05, 0.15, 0.5, 2.0]}, 3, None),
    "iql": ("iql", SAME_CRITIC | POLICY, {"policy.beta": [0.5, 3.0, 10.0]}, 2, "srpo"),
    "bc": ("bc", POLICY, {}, 3, None),
    "td3-bc": (
        "td3-bc", POLICY | {"policy.steps": 4_000, "policy.q_scale": "policy"}, {"policy.alpha": [0.5, 2.5, 20.0]}, 2, None,
    ),
}  # fmt: skip


def train(data: str, out: Path, changes: dict[str, str]) -> None:
    """Trains what is missing of the panel. `changes`: settings of the run whose critic and behavior the others use."""
    dataset = srpo.load_dataset(data)
    for name, (algorithm, settings, sweep, keep, source) in PANEL.items():
        folder, begin = out / name, time.monotonic()
        if (folder / "run.json").exists():
            srpo.resume(folder, dataset)
        else:
            made = srpo.configure(algorithm, dataset, "quick", **settings | {"data.holdout": HOLDOUT})
            made = assign_all(made, changes) if name == "srpo" else made
            start_from = None if source is None else out / source
            srpo.train(made, dataset, seeds=SEEDS, sweep=sweep, out=folder, start_from=start_from, keep=keep, eval_every=0)
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)


def runs_in(out: Path) -> list[Run]:
    return [load_run(out / name) for name in PANEL if (out / name / "run.json").exists()]


def truth(out: Path) -> None:
    """Returns of `EPISODES` episodes of every policy, to truth.json: run -> step -> (seed, point, episode)."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs_in(out):
        found[run.path.name] = {str(step): returns(run, step).tolist() for step in run.kept}
        write_json(out / "truth.json", found)


def returns(run: Run, step: int) -> np.ndarray:
    shape = len(run.seeds), len(run.points)
    with Bars() as bars:
        bars.open(f"{run.path.name} at {step}", 1000)
        return Rollouts(run.info["data"]["env_id"], shape, EPISODES)(run.policies_at(step), progress=bars.update).returns


def judge(out: Path, changes: dict[str, str]) -> None:
    """The evidence of all policies, and the Q of the trained critics at the first states of the held-out episodes."""
    runs, judging = runs_in(out), assign_all(Judging(), changes)
    panel = Panel.of(runs)
    split = Split(srpo.load_dataset(recorded_source(runs[0].info["data"])), comparable(runs), judging)
    with Bars() as bars:
        said: list[str] = []

        def tell(what: str, done: int, of: int) -> None:
            if said[-1:] != [what]:
                said.append(what)
                bars.open(what, of)
            bars.update(done)

        evidence = gather(split, panel, runs, judging, tell)
    action = panel.act(split.start, jax.random.key(0))
    critics = runs[0].results["critic"].q_target
    obs = np.broadcast_to(split.start, (len(action), *split.start.shape))
    q = [jnp.min(jax.tree.map(lambda x, s=s: x[s, 0], critics)(obs, action), 0).mean(-1) for s in range(SEEDS)]
    np.savez(out / "evidence.npz", critic=np.mean(q, 0), **vars(evidence))


class Result:
    """One data set: the policies, their true scores and every criterion, higher is better."""

    def __init__(self, out: Path):
        runs, told = runs_in(out), json.loads((out / "truth.json").read_text())
        self.data = runs[0].info["data"]["name"]
        self.candidates = Panel.of(runs).candidates
        self.score = np.array([self._score(runs, told, c) for c in self.candidates])
        found = dict(np.load(out / "evidence.npz"))
        critic = found.pop("critic")
        evidence = Evidence(**found)
        self.judged = weigh(self.candidates, evidence, [None] * len(self.candidates))
        order = {j.candidate: -i for i, j in enumerate(self.judged)}
        self.criteria = {
            "`srpo judge`": np.array([order[c] for c in self.candidates], float),
            "fitted Q at first states": evidence.start_value[:-1].mean((1, 2)),
            "critic's Q at first states": critic,
            "TD error": -evidence.td_error[:-1],
            "likelihood": evidence.likelihood[:-1].mean(1),
        }
        self.best = float(self.score.max())
        self.default = [float(s) for s, c in zip(self.score, self.candidates, strict=True) if self._is_default(c, runs[0])]

    @staticmethod
    def _score(runs: Sequence[Run], told: dict[str, Any], c: Candidate) -> float:
        run = next(run for run in runs if str(run.path) == c.run)
        episodes = told[run.path.name][str(c.step)][run.seeds.index(c.seed)][run.points.index(c.point)]
        return float(np.mean(normalized(np.array(episodes), run.info["data"]["reference"])))

    @staticmethod
    def _is_default(c: Candidate, run: Run) -> bool:
        return c.run == str(run.path) and c.step == run.kept[-1] and dict(c.point) == DEFAULT

    def regret(self, name: str) -> float:
        """Score lost by taking the first of a criterion."""
        return self.best - float(self.score[np.nanargmax(self.criteria[name])])

    def spearman(self, name: str) -> float:
        value = np.where(np.isfinite(self.criteria[name]), self.criteria[name], -np.inf)
        ranks = [np.argsort(np.argsort(x, kind="stable"), kind="stable") for x in (value, self.score)]
        return float(np.corrcoef(*ranks)[0, 1])


def table(results: Sequence[Result]) -> str:
    """Rank correlation and regret of every criterion."""
    header = ["chosen by", *(f"{r.data}: {what}" for r in results for what in ("Spearman", "regret")), "mean regret"]
    rows = []
    for name in results[0].criteria:
        cells = [f"{value:.2f}" if kind == "spearman" else f"{value:.1f}" for r in results for kind, value in (
            ("spearman", r.spearman(name)), ("regret", r.regret(name)))]  # fmt: skip
        rows.append([name, *cells, f"{np.mean([r.regret(name) for r in results]):.1f}"])
    defaults = [r.best - np.mean(r.default) for r in results]
    rows.append(
        ["default beta, last checkpoint", *(x for d in defaults for x in ("-", f"{d:.1f}")), f"{np.mean(defaults):.1f}"]
    )
    said = [
        f"{r.data}: {len(r.score)} policies, true scores {r.score.min():.1f} to {r.best:.1f}, median {np.median(r.score):.1f}"
        for r in results
    ]
    return "\n".join([markdown(header, rows), "", *(f"{line}.  " for line in said)])


def picture(results: Sequence[Result], path: Path) -> None:
    """The true score of every policy against the gain that the data say, by data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(results), figsize=(4.2 * len(results), 3.4), layout="constrained", squeeze=False)
    for ax, r in zip(axes[0], results, strict=True):
        score = dict(zip(r.candidates, r.score, strict=True))
        for name in dict.fromkeys(c.algorithm for c in r.candidates):
            mine: list[Judged] = [j for j in r.judged if j.candidate.algorithm == name]
            faces = [0.9 if j.trusted else 0.2 for j in mine]
            ax.scatter([j.low for j in mine], [score[j.candidate] for j in mine], s=18, alpha=faces, label=name)
        ax.scatter(r.judged[0].low, score[r.judged[0].candidate], s=90, facecolors="none", edgecolors="k", label="chosen")
        ax.set_title(r.data, fontsize=9)
        ax.set_xlabel("lower end of the gain", fontsize=8)
        ax.set_ylabel("true normalized score", fontsize=8)
        ax.set_xscale("symlog", linthresh=10)
        most = math.log10(max(map(abs, ax.get_xlim())))
        powers = 10.0 ** np.arange(1, most, math.ceil(most / 3))  # few enough to be read side by side
        ax.set_xticks([*-powers[::-1], 0, *powers])
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(fontsize=7, frameon=False)
    fig.savefig(path, dpi=130)


def report(outs: Sequence[Path], into: Path | None) -> None:
    results = [Result(out) for out in outs]
    print(table(results))
    if into is not None:
        insert(into / "judge.md", "validation", table(results))
        picture(results, into / "images" / "judge.png")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "truth", "judge", "report"))
    parser.add_argument("--data", help="data set to train on")
    parser.add_argument("--out", type=Path, required=True, action="append", help="folder of the runs of one data set")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="of the SRPO run, or of the judging")
    parser.add_argument("--into", type=Path, help="folder of the pages to write the report into")
    args = parser.parse_args()
    changes = dict(pair(text, "--set") for text in args.set)
    if args.what == "train":
        train(args.data, args.out[0], changes)
    elif args.what == "truth":
        truth(args.out[0])
    elif args.what == "judge":
        judge(args.out[0], changes)
    else:
        report(args.out, args.into)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
