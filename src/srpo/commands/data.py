"""`srpo data`: what a data set holds, which ones there are, and recordings made here."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from srpo.commands import add_columns, add_source, add_units, open_data
from srpo.system import strict_json
from srpo.text import NAME, plain

EXAMPLES = """examples:
  srpo data list                                   families of names
  srpo data list hopper                            the names that hold a word
  srpo data info halfcheetah-medium-replay-mini
  srpo data info logs/robot.hdf5 --png robot.png
  srpo data info hopper-medium-v2 --json | jq .score.mean
  srpo data info trips/ --obs 'joint_*,temp' --action 'cmd_*' --episode trip --time t
  srpo data convert trips/ trips.hdf5 --obs 'joint_*' --action 'cmd_*' --reward rewards:energy
  srpo data make pointmaze-medium                  a maze, recorded here (extra: mazes)
"""

MAKE = """Records a data set by D4RL's maze2d recipe: a controller with noise leads a ball to random cells of a maze.

The file is kept in SRPO_DATASET_DIR, or ~/.srpo/datasets, and NAME then names it wherever a data set is asked for.
The same seed gives the same rows; scores compare with nothing published. Needs the extra `mazes`."""


CONVERT = """Writes any source as one HDF5 file in D4RL's layout, in the units that were recorded: read once, checked once.

The file says the range of its actions and its environment, if they are known."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands `info`, `convert`, `list` and `make`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="{info,convert,list,make}")
    raw: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": EXAMPLES}
    about = commands.add_parser(
        "info", help="table and pictures of one data set", description="Shows what a data set holds.", **raw
    )
    about.add_argument("data", metavar="DATA", help="a name of `srpo data list`, path to .hdf5 or .npz, or minari:ID")
    about.add_argument("--png", type=Path, metavar="FILE", help="draw histograms of returns and actions to FILE")
    to = commands.add_parser("convert", help="write any source as a file in D4RL's layout", description=CONVERT, **raw)
    to.add_argument("data", metavar="SRC", help="whatever srpo train takes")
    to.add_argument("out", type=Path, metavar="OUT.hdf5", help="the file to write; it must not exist")
    for reads in (about, to):
        add_units(reads.add_argument)
        add_columns(reads.add_argument)
        add_source(reads.add_argument)
    known = commands.add_parser("list", help="names that can be used as DATA", description="Lists data sets by name.", **raw)
    add_source(known.add_argument)
    known.add_argument("filter", nargs="?", metavar="WORD", help="the names that hold it, or are of this kind, one by one")
    make = commands.add_parser("make", help="record a maze on this machine", description=MAKE, **raw)
    make.add_argument("name", metavar="NAME", help="pointmaze-umaze, pointmaze-medium or pointmaze-large")
    make.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random; default 0")
    make.add_argument("--steps", type=int, metavar="N", help="rows; default 1000000, as in D4RL")
    make.add_argument("--to", type=Path, metavar="FILE.hdf5", help="another place than the one where NAME is found")
    make.add_argument("--quiet", action="store_true", help="no progress")
    for command in (about, known):
        command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def main(args: argparse.Namespace) -> int:
    """Runs `srpo data ...`. Raises DataError."""
    if args.data_command == "list":
        return _list(args.filter, args.json)
    if args.data_command == "make":
        return _make(args)
    if args.data_command == "convert":
        return _convert(args)
    from srpo.data.info import check_writable, info

    if args.png is not None:
        check_writable(args.png)
    info(open_data(args.data, args), args.png, args.json)
    return 0


def _make(args: argparse.Namespace) -> int:
    from srpo.data.sources import made
    from srpo.training.progress import Bars

    steps = made.STEPS if args.steps is None else args.steps
    with Bars(args.quiet) as bars:
        bars.open("rows", max(steps, 1))
        path = made.make(args.name, args.to, steps, args.seed, bars.update)
    print(plain(path))
    return 0


def _convert(args: argparse.Namespace) -> int:
    from srpo.data.writing import check_destination, write_recording

    check_destination(args.out)
    write_recording(open_data(args.data, args), args.out)
    print(plain(args.out))
    return 0


def _list(word: str | None, as_json: bool) -> int:
    from srpo.data.checks import DataError
    from srpo.data.sources import listing

    entries = listing()
    if word is not None:
        found = [e for e in entries if word.lower() in e["name"].lower() or word.lower() == e["kind"].lower()]
        if not found:
            families = ", ".join(dict.fromkeys(_family(e) for e in entries))
            raise DataError(f"no known data set's name holds {plain(word, NAME)!r}; there are {families}")
        entries = found
    if as_json:
        print(strict_json.dumps({"datasets": entries}))
        return 0
    from rich.console import Console
    from rich.table import Table

    headings, rows = _families(entries) if word is None else _each(entries)
    table = Table(caption="what is not here is downloaded when it is first used; made sets: srpo data make NAME")
    table.caption_justify = "left"
    for heading in headings[:-1]:
        table.add_column(heading, no_wrap=True)
    table.add_column(headings[-1], overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    return 0


def _each(entries: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and one row per data set."""
    rows: list[tuple[str, ...]] = [(e["name"], e["kind"], "yes" if e["here"] else "", e["meaning"]) for e in entries]
    return ("name", "kind", "here", "what it is"), rows


def _families(entries: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and one row per family: names that begin alike; one that stands alone has its own name and meaning."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in entries:
        groups.setdefault((entry["kind"], _family(entry)), []).append(entry)
    rows: list[tuple[str, ...]] = []
    for (kind, family), group in groups.items():
        name, what = (group[0]["name"], group[0]["meaning"]) if len(group) == 1 else (family, ", ".join(_tails(family, group)))
        rows.append((name, kind, f"{sum(bool(e['here']) for e in group)} of {len(group)}", what))
    return ("name or family", "kind", "here", "what it is, or what follows its name (srpo data list FAMILY)"), rows


def _family(entry: dict[str, Any]) -> str:
    return entry["name"].partition("-")[0]


def _tails(family: str, group: list[dict[str, Any]]) -> list[str]:
    """What follows the name of the family in its data sets, less their versions, each once."""
    return list(dict.fromkeys(re.sub(r"-v\d+$", "", e["name"].removeprefix(f"{family}-")) for e in group))
