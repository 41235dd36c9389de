"""Search for good settings: many trials on Ray Tune, the poor ones stopped early (ASHA).

--space says what is searched, by path (srpo train DATA --dry-run lists all paths):

  policy.beta=log:0.01,1            any number between, each factor equally likely
  critic.expectile=uniform:0.6,0.9  any number between; whole numbers stay whole
  critic.lr=choice:3e-4,1e-3        one of these
  critic.hidden=choice:64,64|256,256    one of these; values that hold commas are separated by |

  srpo tune logs.hdf5 --space policy.beta=log:0.01,1 --samples 16
  srpo tune hopper-medium-v2 --algo iql --space critic.expectile=uniform:0.6,0.95 --space policy.lr=choice:1e-4,3e-4,1e-3
  srpo tune logs.hdf5 --space policy.beta=log:0.01,1 --objective judge      without a simulator, by held-out episodes
  srpo tune ... --address HOST:6379 --cores 4 --gpus 0.5                    on a cluster, folders shared by all nodes

Every trial trains as `srpo train` does and says N times (--reports) how good its policy is; of K trials that came as far
(--keep-one-of), about one goes on. Trials that differ only in later stages share the earlier ones. The same command goes on
after Ctrl-C or a kill, and with more --samples. OUT/trials.csv and OUT/tune.png say what came out. The best of many scores
is an optimistic one: score it again, with srpo eval.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srpo.commands import add_checkpoints, add_columns, add_source, add_units, open_data
from srpo.commands.reading import changes_of, parse_seeds, refuse_one_seed
from srpo.errors import ConfigError, UserError
from srpo.system import strict_json
from srpo.text import command, plain, tell

if TYPE_CHECKING:
    from srpo.runs.run import Run
    from srpo.system.clock import Clock
    from srpo.tuning.job import Job

HOLDOUT = "data.holdout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("data", metavar="DATA", help="what to train on, as for srpo train")
    add("--space", action="append", default=[], metavar="PATH=KIND:VALUES", help="what is searched (repeatable); see above")
    add("--samples", type=int, default=16, metavar="N", help="how many trials; default 16")
    add("--algo", default="srpo", help="algorithm: srpo (default) or another name, or package.module:Class")
    add("--preset", default="paper", help="values for this data set: paper (default), quick or another of the algorithm's")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="change a setting of all trials (repeatable)")
    add("--seed", help=argparse.SUPPRESS)
    add("--seeds", default="1", metavar="N or S1,S2,...", help="seeds of each trial, whose mean counts; default 1")
    add("--search-seed", type=int, default=0, metavar="N", help="another one draws other values; default 0")
    add(
        "--objective",
        default="auto",
        choices=("auto", "score", "judge"),
        help="score: of the environment; judge: the lower end of the return in the model of srpo judge; auto: score if it can be played here",
    )
    add("--reports", type=int, default=9, metavar="N", help="how often a trial says how good it is; default 9")
    add(
        "--keep-one-of",
        type=int,
        default=3,
        metavar="K",
        help="of K trials about one goes on from reports 1, K, K^2; default 3",
    )
    add("--eval-episodes", type=int, default=10, metavar="N", help="episodes per report and seed; default 10")
    add("--max-steps", type=int, metavar="N", help="cut episodes after N steps; for environments without a limit")
    add_units(add)
    add_columns(add)
    add_source(add)
    _add_places(parser)


def _add_places(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="folder of the search; default runs/tune/DATA/ALGO")
    add("--minutes", type=float, metavar="N", help="stop after this time; the same command goes on")
    add("--address", metavar="HOST:PORT", help="of a running Ray cluster, or auto; default one for this machine's cores")
    add("--cores", type=int, default=1, metavar="N", help="cores of each trial; default 1")
    add("--gpus", type=float, default=0.0, metavar="N", help="GPUs of each trial, or a fraction of one; default none")
    add_checkpoints(add)
    add("--json", action="store_true", help="print one JSON object on standard output and nothing else there")


def main(args: argparse.Namespace) -> int:
    from srpo.system.clock import Clock
    from srpo.system.cluster import Resources

    refuse_one_seed(args.seed)
    resources, clock = Resources(args.cores, args.gpus), Clock(args.minutes)
    _check_numbers(args)
    job = planned(args)
    job.check()
    return _searched(args, job, resources, clock)


def _check_numbers(args: argparse.Namespace) -> None:
    """Raises ConfigError for a number that cannot be meant, or that no run of a trial can have."""
    from srpo.config import whole
    from srpo.runs.schema import EPISODES, KEPT, SEEDS

    whole(args.keep_one_of, "as --keep-one-of", 2, none="two or more")
    whole(args.samples, "as --samples")
    whole(args.reports, "reports", most=KEPT)
    whole(args.eval_episodes, "as --eval-episodes", most=EPISODES)
    whole(args.search_seed, "as --search-seed", 0, SEEDS - 1, "zero or more")
    if args.max_steps is not None:
        whole(args.max_steps, "as --max-steps")


def _searched(args: argparse.Namespace, job: Job, resources: Any, clock: Clock) -> int:
    from srpo.tuning.search import through

    try:
        through(job, resources, args.address, args.keep_one_of, clock)
    except UserError:  # nothing was begun
        raise
    except BaseException:
        if (job.out / "tune.json").exists():
            _told(args, job)
        raise
    return _told(args, job)


def planned(args: argparse.Namespace) -> Job:
    """What is to be searched. Raises UserError for what cannot be; nothing is written."""
    from srpo import algorithms, config
    from srpo.judging.evidence import Judging
    from srpo.runs.elsewhere import known
    from srpo.runs.grid import Grid
    from srpo.training.saving import Saving
    from srpo.tuning.job import Job
    from srpo.tuning.objective import Objective
    from srpo.tuning.space import read_space

    cls, seeds = algorithms.named(args.algo), parse_seeds(args.seeds)
    changes = changes_of(args.set)
    asked = read_space(args.space, cls.default())  # before the data, which may be large
    data = open_data(args.data, args)
    kind = objective(args.objective, data)
    if kind == "judge" and HOLDOUT in [axis.path for axis in asked]:
        raise ConfigError(
            f"--space {HOLDOUT}: trials are judged by the same episodes, so it cannot differ; use --set {HOLDOUT}=0.1"
        )
    if kind == "judge" and HOLDOUT not in changes:
        changes[HOLDOUT] = "0.1"
        tell(f"the judge needs held-out episodes: {HOLDOUT}=0.1")
    algorithm = config.assign_all(cls.default(), config.preset(cls.presets, args.preset, data.task or "") | changes)
    space = read_space(args.space, algorithm)
    for axis in space:
        if axis.path in {config.present(algorithm, path) for path in changes}:
            raise ConfigError(f"{axis.path} is both in --set and in --space; leave one of them out")
    if kind == "judge" and config.lookup(algorithm, HOLDOUT).value == 0:
        raise ConfigError(f"--objective judge needs held-out episodes, found {HOLDOUT}=0; leave it out, or set 0.1")
    return Job(
        algorithm,
        data,
        space,
        args.samples,
        Grid.create(algorithm, seeds, None).seeds,
        Objective(kind, Judging()),
        (args.out or Path("runs", "tune", data.name, args.algo.replace(":", "."))).absolute(),
        args.reports,
        args.eval_episodes,
        args.max_steps,
        args.search_seed,
        Saving(args.checkpoint_every).seconds,
        known([args.algo], [data.env_id]),
    )


def objective(asked: str, data: Any) -> str:
    """score or judge. Raises MissingEnvironment, ConfigError where the score is asked for and cannot be had."""
    from srpo.worlds.environments import check_environment

    if asked == "judge":
        return asked
    try:
        if data.env_id is None:
            raise ConfigError(f"{data.source} names no environment to score in; name one with --env, or use --objective judge")
        check_environment(data)
    except UserError as e:
        if asked == "score":
            raise
        tell(f"by srpo judge, as nothing can be played here: {e}")
        return "judge"
    return "score"


def _told(args: argparse.Namespace, job: Job) -> int:
    """Write and print what is known by now; exit code 1 if a trial failed."""
    from srpo.runs.run import load_run
    from srpo.system.surroundings import missing
    from srpo.tuning.job import FAILED
    from srpo.tuning.table import best, draw, text, write

    found, first = write(job), best(job)
    picture = job.out / "tune.png"
    try:
        draw(job)
    except ModuleNotFoundError as e:
        tell(f"tune.png is not drawn: {missing(e)}")
    if args.json:
        chosen = None if first is None else {"trial": first.name, "run": str(first.folder), "values": dict(first.values)}
        print(
            strict_json.dumps({"trials": found, "best": chosen, "table": str(job.out / "trials.csv"), "picture": str(picture)})
        )
    else:
        print(text(job, found))
        print(f"table: {plain(job.out / 'trials.csv')}; picture: {plain(picture)}")
        if first is not None:
            tell(f"best: {' '.join(command('--set', f'{p}={_written(v)}') for p, v in first.values.items())}")
            tell(f"next: {_next(load_run(first.folder), job.objective.kind)}")
    return 1 if any(row["outcome"] == FAILED for row in found) else 0


def _next(run: Run, kind: str) -> str:
    """What to do with the best trial's run: where it was judged, nothing may be there to play in."""
    from srpo.runs import options

    if kind == "judge":
        return f"{options.judge(run)}, which says whether it is better than cloning"
    return f"{options.evaluate(run)} --episodes 100, as the best of many scores is an optimistic one"


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
