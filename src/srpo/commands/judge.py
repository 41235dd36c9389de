"""Rank the policies of runs from held-out data alone: no simulator, no robot.

Every seed, swept value, kept checkpoint and algorithm is judged together: let loose in a model of the data as far as that
knows anything, by fitted Q evaluation, and by checks on the episodes that `data.holdout` kept out of training. The answer
may be that the data cannot tell.

  srpo train logs.hdf5 --set data.holdout=0.1 --seeds 3 --sweep policy.beta=0.01,0.05,0.2 --keep 4
  srpo judge RUN                                    the ranking, advice in plain words, RUN/judge.png
  srpo judge RUN OTHER --json                       several runs on the same data, one JSON object
  srpo judge RUN --set model.steps=40000            a better model takes longer
  srpo judge RUN --reward rewards:energy            trained on rewards that this function computes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from srpo.commands import add_source
from srpo.system import strict_json
from srpo.text import plain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs on the same data")
    add(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change how it judges (repeatable), such as q.steps=10000",
    )
    add("--data", metavar="DATA", help="the data set, if it is no longer where it was at training")
    add_source(add)
    add("--reward", dest="column_reward", metavar="MODULE:FUNCTION", help="computes the rewards, if it did in training")
    add(
        "--algo",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="a class of another package that trained runs (repeatable)",
    )
    add("--png", type=Path, metavar="FILE", help="the picture; default judge.png in the first run")
    add("--json", action="store_true", help="print one JSON object on standard output and nothing else there")
    add("--quiet", action="store_true", help="no progress")


def main(args: argparse.Namespace) -> int:
    """Raises JudgingError, RunError, DataError and ConfigError; then nothing was written."""
    from srpo import algorithms, config
    from srpo.commands import reward_function
    from srpo.commands.reading import changes_of
    from srpo.data.again import reload
    from srpo.data.info import check_writable
    from srpo.judging.evidence import Judging
    from srpo.judging.judge import judge
    from srpo.judging.picture import draw
    from srpo.runs.run import load_run
    from srpo.training.progress import Bars

    for algo in args.algo:
        algorithms.named(algo)
    judging = config.assign_all(Judging(), changes_of(args.set))
    runs, picture = [load_run(path) for path in args.runs], args.png or args.runs[0] / "judge.png"
    check_writable(picture)
    computes, data = reward_function(args), args.data
    if computes is not None:
        data = reload(runs[0].info["data"], data, computes)
    shown = None
    with Bars(args.quiet) as bars:

        def tell(what: str, done: int, of: int) -> None:
            nonlocal shown
            if what != shown:
                bars.open(what, of)
                shown = what
            bars.update(done)

        found = judge(runs, data, judging, tell)
    draw(found, picture)
    if args.json:
        print(strict_json.dumps(found.as_dict() | {"picture": str(picture)}))
    else:
        print(found)
        print(f"picture: {plain(picture)}")
        if found.choice is not None and (export := export_of(found.choice)):
            print(f"next: {export}", file=sys.stderr)
    return 0


def export_of(choice: Any) -> str:
    """What makes a file of the first policy, if it can be exported; one with a dial is turned where it acts: beta is an input."""
    from srpo.deploy.describe import exportable
    from srpo.runs import options
    from srpo.runs.run import load_run

    run = load_run(choice.run)
    if not exportable(run):
        return ""
    words = ["--seed", choice.seed, *options.at(choice.point), "--step", choice.step, "--to", "policy.safetensors"]
    return options.export(run, *words) + ("" if choice.beta is None else f", then act with beta={choice.beta:.3g}")
