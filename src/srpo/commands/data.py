"""`srpo data`: what a data set holds, and which ones there are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

EXAMPLES = """examples:
  srpo data list
  srpo data info halfcheetah-medium-replay-mini
  srpo data info logs/robot.hdf5 --png robot.png
  srpo data info hopper-medium-v2 --json | jq .score.mean
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands `info` and `list`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    commands = parser.add_subparsers(dest="data_command", required=True, metavar="{info,list}")
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": EXAMPLES}
    about = commands.add_parser(
        "info", help="table and pictures of one data set", description="Shows what a data set holds.", **raw
    )
    about.add_argument("data", metavar="DATA", help="built-in name, path to .hdf5 or .npz, D4RL id, or minari:ID")
    about.add_argument("--png", type=Path, metavar="FILE", help="draw histograms of returns and actions to FILE")
    known = commands.add_parser("list", help="names that can be used as DATA", description="Lists data sets by name.", **raw)
    for command in (about, known):
        command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def main(args: argparse.Namespace) -> int:
    """Runs `srpo data ...`. Raises DataError."""
    if args.data_command == "list":
        return _list(args.json)
    from srpo.data import load_dataset
    from srpo.data.info import check_writable, info

    if args.png is not None:
        check_writable(args.png)
    info(load_dataset(args.data), args.png, args.json)
    return 0


def _list(as_json: bool) -> int:
    from srpo.data.sources import listing

    entries = listing()
    if as_json:
        print(json.dumps({"datasets": entries}))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(caption="what is not here is downloaded when it is first used", caption_justify="left")
    for heading in ("name", "kind", "here"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for entry in entries:
        table.add_row(entry["name"], entry["kind"], "yes" if entry["here"] else "", entry["meaning"])
    Console().print(table)
    return 0
