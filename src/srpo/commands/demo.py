"""The whole way in minutes: train SRPO on a small built-in data set, evaluate it in MuJoCo, compare.

srpo demo                     on two cores: about eleven minutes
srpo demo --seeds 3           three seeds, with intervals over them
srpo demo --json              one JSON object, for scripts
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from srpo.system import strict_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seed", help=argparse.SUPPRESS)  # other tools' word for something else: refused with the right one
    add("--seeds", default="1", metavar="N or S1,S2,...", help="how many seeds, or which ones; default 1")
    add("--data", default=None, metavar="DATA", help="another data set that has an environment")
    add("--out", type=Path, metavar="DIR", help="folder for the three runs; default runs/demo-TIME")
    add("--json", action="store_true", help="print one JSON object on standard output and nothing else there")
    add("--quiet", action="store_true", help="no progress")


def main(args: argparse.Namespace) -> int:
    from srpo.commands.reading import parse_seeds, refuse_one_seed
    from srpo.training.demo import DATA, demo, show

    refuse_one_seed(args.seed)
    began = time.monotonic()
    out = args.out or Path("runs", f"demo-{time.strftime('%Y%m%d-%H%M%S')}")
    rows = demo(out, args.data or DATA, parse_seeds(args.seeds), args.quiet)
    if args.json:
        table = [{"name": r.name, "mean": r.mean, "low": r.low, "high": r.high, "run": r.run and str(r.run.path)} for r in rows]
        print(strict_json.dumps({"minutes": (time.monotonic() - began) / 60, "scores": table}))
    else:
        show(rows, args.data or DATA, began)
    return 0
