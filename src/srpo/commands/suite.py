"""Compare algorithms on many data sets with one fair budget: cells of data x algorithm x seeds.

  srpo suite list                                        the suites that come with srpo
  srpo suite run open --data-dir DIR --minutes 480       as many cells as fit, the most informative first
  srpo suite run MINE.toml --keep results                your own suite; results/ keeps what came out
  srpo suite run open --data-dir DIR --on ray            every cell a task of a Ray cluster
  srpo suite run open --data-dir DIR --no-eval           train here, and score on a machine with MuJoCo:
  srpo suite evaluate KEEP                               what was trained with --no-eval
  srpo suite report KEEP                                 the tables and KEEP/report.html again, from what is kept
  srpo suite report KEEP --into docs/results.md          the table also into a page
  srpo suite run MINE.toml --import my_methods           one that names algorithms or environments of your own
  srpo suite presets                                     what the presets `quick` change

A run may be stopped at any time: the same command goes on where it was. It may run several times at once on the same
folders; each takes the next cell that nobody is at work on. An iteration updates every network of an algorithm once.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from srpo.commands import PRECISIONS, add_checkpoints
from srpo.errors import ConfigError, UserError, closest
from srpo.system import strict_json
from srpo.system.surroundings import named as imported_here
from srpo.text import tell

if TYPE_CHECKING:
    from srpo.suite.findings import Findings


USED_BY: dict[str, tuple[str, ...]] = {  # what has no place here, every action has a use for
    **dict.fromkeys(("data_dir", "algos", "seeds", "iterations", "precision", "minutes", "jobs", "on", "address"), ("run",)),
    **dict.fromkeys(("cores", "gpus", "storage", "checkpoint_every", "no_eval", "out"), ("run",)),
    "data": ("run", "report"),
    "episodes": ("run", "evaluate"),
    "keep": ("run", "evaluate"),
    "into": ("report", "presets"),
    "pages": ("report",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", help="list, run, evaluate, report or presets")
    add("suite", nargs="?", metavar="SUITE", help="run: a name of `srpo suite list` or a .toml file; else the folder of --keep")
    add("--data-dir", type=Path, metavar="DIR", help="where NAME.hdf5 of each data set is; else as `srpo train NAME` finds it")
    add("--data", metavar="NAMES", help="only these data sets, separated by commas; report: means over these")
    add("--algos", metavar="NAMES", help="only these algorithms, separated by commas")
    add("--seeds", metavar="N or S1,S2,...", help="how many seeds (0, 1, ...) or which ones; default the suite's")
    add("--iterations", type=int, metavar="N", help="updates of every network; default the suite's")
    add("--precision", choices=PRECISIONS, help="of training, as `srpo train` has it; default the suite's")
    add("--minutes", type=float, metavar="N", help="stop after this time; no cell is begun that would not end in it")
    add("--jobs", type=int, metavar="N", help="processes side by side; default one a core, or one on a GPU, as memory allows")
    add(
        "--on",
        default="here",
        choices=("here", "ray"),
        help="ray: every cell is a task of a Ray cluster (srpo[ray]); default here",
    )
    add(
        "--address",
        metavar="HOST:PORT",
        help="with --on ray: of a running cluster, or auto; default one for this machine's cores",
    )
    add("--cores", type=int, metavar="N", help="with --on ray: cores of each cell; default 1")
    add("--gpus", type=float, metavar="N", help="with --on ray: GPUs of each cell, or a fraction of one; default none")
    add(
        "--storage",
        metavar="URL",
        help="with --on ray: where nodes that share no folders exchange what they make, such as s3://BUCKET/FOLDER",
    )
    add(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module of your own by whose import the suite's algorithms, sources or environments are known (repeatable)",
    )
    add_checkpoints(add)
    add("--no-eval", action="store_true", help="train only, and keep the policies for `srpo suite evaluate`")
    add("--episodes", type=int, metavar="N", help="episodes per policy; default the suite's")
    add("--out", type=Path, metavar="DIR", help="the runs; default runs/suite/SUITE")
    add("--keep", type=Path, metavar="DIR", help="the results, small enough to be kept; default OUT/results")
    add("--into", type=Path, metavar="PAGE", help="report, presets: also replace the table in this page")
    add("--pages", type=Path, metavar="DIR", help="report: also put each algorithm's scores into its page there")
    add("--json", action="store_true", help="print one JSON object on standard output and nothing else there")
    add("--quiet", action="store_true", help="one line for each cell, no more")


def main(args: argparse.Namespace) -> int:
    actions = {"list": list_suites, "run": run, "evaluate": evaluate, "report": report, "presets": presets}
    if args.action not in actions:
        raise ConfigError(closest(args.action, actions, "action"))
    if args.suite is None and args.action not in ("list", "presets"):
        needed = "a suite" if args.action == "run" else "a folder of results"
        raise ConfigError(f"srpo suite {args.action} needs {needed}; see --help")
    refuse_unused(args)
    if args.episodes is not None and args.episodes < 1:
        raise ConfigError(f"--episodes {args.episodes}: expected one or more")
    if args.jobs is not None and args.jobs < 1:
        raise ConfigError(f"--jobs {args.jobs}: expected one process or more")
    for option in ("address", "cores", "gpus", "storage"):
        if args.on == "here" and getattr(args, option) is not None:
            raise ConfigError(f"--{option} is of Ray clusters; add --on ray")
    for module in args.modules:
        imported_here(module, "a module that registers what a suite names (srpo.register)")
    return actions[args.action](args)


def refuse_unused(args: argparse.Namespace) -> None:
    """Raises ConfigError for what the action has no use for."""
    if args.suite is not None and args.action in ("list", "presets"):
        raise ConfigError(f"srpo suite {args.action}: found {args.suite!r}, expected nothing more")
    for name, actions in USED_BY.items():
        if args.action not in actions and name in args.given:
            option, whose = f"--{name.replace('_', '-')}", " and ".join(actions)
            raise ConfigError(f"srpo suite {args.action} has no use for {option}, which is of srpo suite {whose}; leave it out")


def list_suites(args: argparse.Namespace) -> int:
    from srpo.suite.plan import load_suite, shipped

    suites = {name: load_suite(name) for name in shipped()}
    if args.json:
        print(strict_json.dumps({name: suite.as_dict() for name, suite in suites.items()}))
        return 0
    for name, suite in suites.items():
        print(f"{name:<17}{suite.title}")
        size = f"{len(suite.data)} data sets x {len(suite.algorithms)} algorithms x {len(suite.seeds)} seeds"
        print(f"{'':<17}{size}; {suite.budget}")
    return 0


def run(args: argparse.Namespace) -> int:
    from srpo.commands.suite_run import work_through

    found, failed = work_through(args)
    show(args, found)
    return 1 if failed else 0


def evaluate(args: argparse.Namespace) -> int:
    from srpo.evaluation.scores import evaluate as play
    from srpo.suite.keep import Keep, scored
    from srpo.suite.tables import require_scores
    from srpo.suite.work import require_reference
    from srpo.training.progress import Bars

    source, keep = Keep(Path(args.suite)), Keep(args.keep or Path(args.suite))
    episodes, failed = args.episodes or source.about["episodes"], 0
    if keep.folder != source.folder:
        keep.check_other(source)  # before hours of playing
    for result in source.waiting():
        begin = time.monotonic()
        try:
            trained = source.trained(result)
            require_reference(*(trained.info["data"][key] for key in ("source", "env_id", "reference")))
            with Bars(args.quiet) as bars:
                bars.open(" ".join(result.where), 1000)
                play(trained, episodes, progress=bars.update, curve=max(1, episodes // 4))
            require_scores(trained)
        except UserError as e:
            failed += 1
            tell(f"{' '.join(result.where)}: {e}")
            continue
        done = scored(result, trained, time.monotonic() - begin)
        source.update([done])
        tell(f"{' '.join(result.where)}: {done.about['eval_seconds']:.0f} s")
    if keep.folder != source.folder:
        keep.adopt(source)
    show(args, keep.update([]))
    return 1 if failed else 0


def report(args: argparse.Namespace) -> int:
    from srpo.algorithms import ALGORITHMS
    from srpo.suite.keep import Keep
    from srpo.suite.page import one, page, places
    from srpo.suite.pages import check_place, insert
    from srpo.suite.tables import RECORDED, read

    keep = Keep(Path(args.suite))
    about = keep.about
    if not read(keep.folder):
        raise ConfigError(f"{keep.folder} holds no result yet; the srpo suite run that began it goes on, by the same command")
    if args.into is not None:
        check_place(args.into, "scores")
    if args.data is not None:
        keep.compare(args.data.split(","))
    found = keep.update([])
    measured = [name for name in found.names if name != RECORDED]
    named = [name for name in measured if name not in about.get("variants", {})]  # the others have no page
    pages = places(args.pages, named, ALGORITHMS) if args.pages is not None else {}
    for name, its_page in pages.items():
        insert(its_page, f"scores {name}", one(name, found.rows, {d["name"]: d["task"] for d in about["data"]}))
    if args.into is not None:
        insert(args.into, "scores", page(found))
    show(args, found)
    return 0


def presets(args: argparse.Namespace) -> int:
    from srpo.suite.pages import insert
    from srpo.suite.presets import page

    text = page()
    if args.into is not None:
        insert(args.into, "presets", text)
    print(strict_json.dumps({"table": text}) if args.json else text)
    return 0


def show(args: argparse.Namespace, found: Findings) -> None:
    from srpo.suite.page import page

    measured = found.comparison.rows()
    print(strict_json.dumps({"rows": found.rows, "measures": measured}) if args.json else page(found))
