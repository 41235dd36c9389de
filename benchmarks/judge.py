"""Does `srpo judge` choose well? Policies whose true scores are known, ranked from data alone.

  python benchmarks/judge.py train --data halfcheetah-medium-replay-mini --out DIR     a panel of policies, bad ones included
  python benchmarks/judge.py truth --out DIR                                           their true returns, by episodes
  python benchmarks/judge.py judge --out DIR --to judged.csv                           what the data say of them, beside the truth
  python benchmarks/judge.py judge --suite KEEP --data DATA.hdf5 --to judged.csv       of the policies that a suite kept and played
  python benchmarks/judge_report.py judged.csv ... --into docs                         table and scatter plot of docs/judge.md

A stopped `train` goes on where it was. DIR holds one data set: its runs and truth.json. What a suite kept was trained on all
episodes, so that those it is judged by are new to Q and to the model alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
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
from srpo.judging.ranking import weigh
from srpo.runs.checkpoint import write_json
from srpo.runs.run import Run, load_run
from srpo.runs.tables import write_csv
from srpo.training.progress import Bars

SEEDS, HOLDOUT, EPISODES = 2, 0.2, 10
ASIDE = 0.1  # of the episodes, to judge policies by that were trained on all of them
Score = Callable[[Candidate], float]  # the true one
DEFAULT = {"policy.beta": 0.05}  # one for both built-in sets
SMALL = (128, 128)
CRITIC = {
    "critic.steps": 15_000, "critic.lr": 1e-3, "critic.hidden": SMALL, "data.reward": "return-range", "data.normalize_obs": False,
}  # fmt: skip
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


def of_panel(out: Path) -> tuple[list[Run], Score]:
    """The runs in a folder of `train`, and what `truth` found."""
    runs, told = runs_in(out), json.loads((out / "truth.json").read_text())

    def score(c: Candidate) -> float:
        run = next(run for run in runs if str(run.path) == c.run)
        episodes = told[run.path.name][str(c.step)][run.seeds.index(c.seed)][run.points.index(c.point)]
        return float(np.mean(normalized(np.array(episodes), run.info["data"]["reference"])))

    return runs, score


def of_suite(kept: Path, data: str) -> tuple[list[Run], Score]:
    """The policies of a data set that a suite kept, and the means of the episodes that it played."""
    runs = [load_run(file.parent) for file in sorted((kept / "policies" / data).glob("*/*/run.json"))]
    played: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    for name in ("curves.csv", "episodes.csv"):
        for row in csv.DictReader((kept / name).read_text().splitlines()):
            if row["data"] == data:
                played[row["algorithm"], int(row["step"]), int(row["seed"])].append(float(row["score"]))
    return runs, lambda c: float(np.mean(played[c.algorithm, c.step, c.seed]))


def judge(runs: Sequence[Run], score: Score, source: str, judging: Judging) -> list[dict[str, Any]]:
    """What the data say of every policy, beside its true score; the critic's Q only where a run has its critic."""
    holdout = ASIDE if runs[0].compact else comparable(runs)
    panel, split = Panel.of(runs), Split(srpo.load_dataset(source), holdout, judging)
    with Bars() as bars:
        said: list[str] = []

        def tell(what: str, done: int, of: int) -> None:
            if said[-1:] != [what]:
                said.append(what)
                bars.open(what, of)
            bars.update(done)

        evidence = gather(split, panel, runs, judging, tell)
    critic = None if runs[0].compact else critic_values(runs[0], panel, split)
    return rows(split.aside.name, panel.candidates, evidence, critic, score)


def critic_values(run: Run, panel: Panel, split: Split) -> np.ndarray:
    """(policies,) the smaller Q of the trained critics at the first states of the held-out episodes."""
    action = panel.act(split.start, jax.random.key(0))
    obs = np.broadcast_to(split.start, (len(action), *split.start.shape))
    critics = run.results["critic"].q_target
    q = [jnp.min(jax.tree.map(lambda x, s=s: x[s, 0], critics)(obs, action), 0).mean(-1) for s in range(len(run.seeds))]
    return np.mean(q, 0)


COLUMNS = (
    "data", "policy", "algorithm", "seed", "step", "default", "score", "place", "low", "loose", "high", "gain", "known",
    "doubt", "q_start", "td_error", "nats", "critic",
)  # fmt: skip


def rows(
    data: str, candidates: Sequence[Candidate], evidence: Evidence, critic: np.ndarray | None, score: Score
) -> list[dict[str, Any]]:
    """One row per policy, best first."""
    last = {c.algorithm: max(o.step for o in candidates if o.algorithm == c.algorithm) for c in candidates}
    by_critic: Mapping[Candidate, float] = {} if critic is None else dict(zip(candidates, map(float, critic), strict=True))
    found = []
    for place, j in enumerate(weigh(candidates, evidence, [None] * len(candidates)), 1):
        c = j.candidate
        default = c.algorithm == "srpo" and c.step == last["srpo"] and dict(c.point) in ({}, DEFAULT)
        about = {
            "data": data,
            "policy": c.recipe,
            "algorithm": c.algorithm,
            "seed": c.seed,
            "step": c.step,
            "default": int(default),
            "place": place,
        }
        numbers = {"score": score(c), "low": j.low, "loose": j.loose, "high": j.high, "gain": j.gain, "known": j.known}
        numbers |= {"doubt": j.doubt, "q_start": j.value, "td_error": j.td_error, "nats": j.likelihood}
        rounded: dict[str, Any] = {key: float(f"{x:.6g}") for key, x in numbers.items()}
        found.append(about | rounded | {"critic": float(f"{by_critic[c]:.6g}") if c in by_critic else ""})
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "truth", "judge"))
    parser.add_argument("--data", help="data set to train on, or that a suite's policies were trained on")
    parser.add_argument("--out", type=Path, help="folder of the runs of one data set")
    parser.add_argument("--suite", type=Path, metavar="KEEP", help="folder of the results of a suite, in place of --out")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="of the SRPO run, or of the judging")
    parser.add_argument("--to", type=Path, metavar="FILE.csv", help="where what was judged is written to")
    args = parser.parse_args()
    changes = dict(pair(text, "--set") for text in args.set)
    if args.what == "train":
        train(args.data, args.out, changes)
    elif args.what == "truth":
        truth(args.out)
    else:
        runs, score = of_panel(args.out) if args.suite is None else of_suite(args.suite, Path(args.data).stem)
        source = recorded_source(runs[0].info["data"]) if args.suite is None else args.data
        write_csv(args.to, judge(runs, score, source, assign_all(Judging(), changes)), COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
