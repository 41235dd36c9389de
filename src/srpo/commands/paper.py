"""`srpo paper`: the figures of the paper, each by its name."""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from srpo.errors import ConfigError, closest
from srpo.paper import FIGURES
from srpo.system import strict_json
from srpo.text import aligned, plain

EXAMPLES = """examples:
  srpo paper list
  srpo paper fig3 --quick
  srpo paper fig3 --data 2spirals --seed 1 --out pictures
  srpo paper fig7 --json
  srpo paper table1 --keep results
  srpo paper fig10 --quick --data-dir data
  srpo paper fig11 --suite open --keep results --out pictures
  srpo paper fig5 --algos srpo,idql,diffusion-ql
  srpo paper fig1 --costs figures/costs.csv --keep results
"""
OF_SUITE = ("suite", "keep", "runs", "data_dir")  # the options that say where a suite and its results are


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The figure's name and the options that all figures share."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EXAMPLES
    parser.add_argument("figure", metavar="FIGURE", help=f"list, or one of {', '.join(FIGURES)}")
    parser.add_argument(
        "--quick", action="store_true", help="a coarse version: 2-D data in at most a minute, others in minutes"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("figures"), metavar="DIR", help="where PNG and CSV files go (default: figures)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="on 2-D data: same seed, same figure (default: 0)")
    parser.add_argument(
        "--data", metavar="NAME", help="another 2-D data set; data sets of the suite; several, separated by commas"
    )
    parser.add_argument(
        "--gradient", default="eq10", metavar="EQ", help="eq10 (the paper's figures) or eq15 (the surrogate), in fig3 and fig7"
    )
    suite = parser.add_argument_group("what is made from a suite (docs/suite.md)")
    suite.add_argument(
        "--suite",
        metavar="SUITE",
        help="a shipped suite or a .toml file (default: open; mazes for fig9, d4rl-antmaze for fig8)",
    )
    suite.add_argument("--keep", type=Path, metavar="DIR", help="the results of the suite (default: runs/suite/SUITE/results)")
    suite.add_argument("--runs", type=Path, metavar="DIR", help="the trained cells of the suite (default: runs/suite/SUITE)")
    suite.add_argument("--data-dir", type=Path, metavar="DIR", help="the folder of the suite's data, as for srpo suite run")
    costs = parser.add_argument_group("what is timed here (fig1, fig5, dtql-table)")
    costs.add_argument("--algos", metavar="NAMES", help="only these algorithms, separated by commas; SRPO is always timed")
    costs.add_argument("--costs", type=Path, metavar="CSV", help="time nothing: the costs.csv of an earlier run")
    costs.add_argument("--into", type=Path, metavar="PAGE", help="fig5: also replace the table in this page")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def main(args: argparse.Namespace) -> int:
    """Runs `srpo paper ...`. Raises ConfigError."""
    if args.figure == "list":
        return _list(args.json)
    if args.figure not in FIGURES:
        raise ConfigError(closest(args.figure, [*FIGURES, "list"], "figure"))
    job, make = _prepare(args)
    began = time.monotonic()
    with job.bars:
        rows = make(job)
    seconds = time.monotonic() - began
    files = [str(f) for f in job.files]
    if args.json:
        print(
            strict_json.dumps(
                {"figure": args.figure, "seed": job.seed, "seconds": round(seconds, 1), "files": files, "rows": rows}
            )
        )
    else:
        _print(rows, files, seconds)
    return 0


def _prepare(args):
    """The job and the function that does it; everything that could be refused is refused here."""
    from srpo.config import whole
    from srpo.runs.schema import SEEDS

    artefact = FIGURES[args.figure]
    data = tuple(args.data.split(",")) if args.data else ()
    if args.gradient not in ("eq10", "eq15"):
        raise ConfigError(closest(args.gradient, ("eq10", "eq15"), "gradient"))
    if args.gradient != "eq10" and args.figure not in ("fig3", "fig7"):
        raise ConfigError(f"--gradient is for fig3 and fig7, found it with {args.figure}; leave it out")
    for option, figures in _takers().items():
        if getattr(args, option) is not None and args.figure not in figures:
            found = f"--{option.replace('_', '-')} is for {', '.join(figures)}"
            raise ConfigError(f"{found}, found it with {args.figure}; leave it out")
    whole(args.seed or 0, "as --seed", 0, SEEDS - 1, "zero or more")
    prepare = {"plane": _on_the_plane, "costs": _by_timing}.get(artefact.kind, _from_a_suite)
    return prepare(args, data)


def _takers() -> dict[str, list[str]]:
    """The figures that each option is for, of the options that others would pass over."""
    drawn, timed = ([n for n, a in FIGURES.items() if a.kind == kind] for kind in ("plane", "costs"))
    of_suite = [n for n in FIGURES if n not in (*drawn, "fig5", "table2")]
    return {
        "seed": drawn,
        "data": [n for n in FIGURES if n not in ("fig1", "fig5", "table2")],
        **dict.fromkeys(OF_SUITE, of_suite),
        **dict.fromkeys(("algos", "costs"), timed),
        "into": ["fig5"],
    }


def _on_the_plane(args, data):
    """A figure on 2-D data."""
    try:
        module = _module(args.figure)
        import sklearn  # noqa: F401
    except ModuleNotFoundError as e:
        if e.name not in ("diffrax", "sklearn"):
            raise
        raise ConfigError(f"the figures need {e.name}, which is not installed; pip install 'srpo[paper]'") from None
    from srpo.paper import job
    from srpo.training.progress import Bars

    for name in data:
        _check_data(name, args.figure, module)
    if len(data) > 1 and len(module.DATA) == 1:
        raise ConfigError(f"{args.figure} draws one data set, found {len(data)} in --data {args.data}; choose one")
    _check_folder(args.out)
    budget = job.QUICK if args.quick else job.FULL
    return job.Job(args.out, Bars(), budget, args.seed or 0, data, args.gradient), module.make


def _from_a_suite(args, data):
    """A figure or table made of a suite's results or cells."""
    from srpo.paper.job import Job
    from srpo.paper.kept import FromSuite
    from srpo.training.progress import Bars

    module = _module(args.figure)
    suite = FromSuite.create(
        args.suite or getattr(module, "DEFAULT_SUITE", "open"), args.keep, args.runs, args.data_dir, data, args.quick
    )
    return Job(args.out, Bars(), suite=suite), module.make


def _by_timing(args, data):
    """What actions and trainings cost, beside published scores or those of a suite."""
    from srpo import algorithms
    from srpo.paper.costs import Asked, read
    from srpo.paper.job import Job
    from srpo.training.progress import Bars

    module = _module(args.figure)
    names = tuple(args.algos.split(",")) if args.algos else ()
    for name in names:
        algorithms.find(name)
    if args.costs is not None:
        read(args.costs)
    if names and args.costs is not None:
        raise ConfigError("--algos says what to time, and --costs that nothing is timed; leave one out")
    measured = any(getattr(args, option) is not None for option in OF_SUITE)
    job = _from_a_suite(args, data)[0] if measured else Job(args.out, Bars())
    if job.suite is not None:
        job.suite.findings()  # what there is none of is refused before anything is timed
    _check_folder(args.out)
    return replace(job, asked=Asked(names, args.costs, args.into, args.quick)), module.make


def _module(figure):
    return importlib.import_module(f"srpo.paper.{figure.replace('-', '_')}")


def _check_data(name, figure, module):
    from srpo.paper.bandits import BANDITS, find

    find(name)
    allowed = getattr(module, "ALLOWED", tuple(BANDITS))
    if name not in allowed:
        raise ConfigError(f"{figure} cannot use {name!r}, which has no known density; choose one of {', '.join(allowed)}")


def _check_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise ConfigError(f"cannot write to {path}: {e.strerror or e}; choose another folder with --out") from None


def _list(as_json: bool) -> int:
    if as_json:
        meanings, needs = ({name: getattr(a, what) for name, a in FIGURES.items()} for what in ("meaning", "needs"))
        print(strict_json.dumps({"figures": meanings, "needs": needs}))
        return 0
    width = 2 + max(map(len, FIGURES))
    for name, artefact in FIGURES.items():
        print(f"{name:<{width}}{artefact.meaning}\n{'':<{width}}needs: {artefact.needs}")
    return 0


def _print(rows, files, seconds) -> None:
    """The rows as lines, nothing in them cut off: they may be read by a program."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for line in aligned([columns, *([str(row.get(column, "")) for column in columns] for row in rows)], text=1):
        print(line)
    print(f"\n{seconds:.0f} s; wrote {', '.join(map(plain, files))}")
