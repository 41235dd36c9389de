"""Scores of SRPO trained in float32 and in bfloat16, with the same seeds: does the faster one cost anything?

    python benchmarks/precision.py --out precision                      preset quick, three seeds, two built-in data sets
    python benchmarks/precision.py --out precision --share 0.1          a tenth of the steps
    python benchmarks/precision.py --out precision --set behavior.width=128 --set critic.hidden=128,128      smaller networks

What is in --out is not trained again, so that a command that was stopped goes on. On a CPU the operands of products alone are
rounded to bfloat16; with --activations activations are as well, as on a GPU, whose scores can be compared so without one. With
--time it trains nothing and tells milliseconds per step, both in turn, and the median of their ratio with quartiles.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import srpo
from srpo.cli import guarded
from srpo.commands import PRECISIONS
from srpo.commands.reading import pair
from srpo.config import assign_all
from srpo.data.treated import treat
from srpo.networks import precision as rounding
from srpo.runs.grid import Grid
from srpo.training.loop import StageLoop

STEPS, ROUNDS = 16, 9  # of --time


def shortened(name: str, args: argparse.Namespace, share: float) -> tuple[Any, Any]:
    """A data set, and SRPO with this share of the preset's steps, and what was set."""
    data = srpo.load_dataset(name)
    algorithm = srpo.configure("srpo", data, args.preset)
    for stage, each in algorithm.stages.items():
        algorithm = algorithm.set(f"{stage}.steps", max(1, round(share * each.steps)))
    return data, assign_all(algorithm, dict(pair(text, "--set") for text in args.set))


def scores(name: str, args: argparse.Namespace, precision: Any) -> np.ndarray:
    """Mean score of each seed."""
    data, algorithm = shortened(name, args, args.share)
    out = args.out / data.name / precision
    if (out / "run.json").exists():
        run = srpo.resume(out, data)
    else:
        run = srpo.train(algorithm, data, seeds=args.seeds, out=out, eval_every=0, precision=precision)
    return np.array(srpo.evaluate(run, args.episodes).summaries[0].means)


def milliseconds(name: str, args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Of a step of each stage, one seed: (rounds, 2), both precisions in turn."""
    data, algorithm = shortened(name, args, 1.0)
    grid, view, results = Grid.create(algorithm, 1, None), treat(data, algorithm.data), {}
    with tempfile.TemporaryDirectory() as folder:
        for stage, each in algorithm.stages.items():
            loops = [
                StageLoop(stage, grid, each.view(view), results, Path(folder, f"{stage} {p}"), precision=p) for p in PRECISIONS
            ]
            for loop in loops:
                loop.start()
                loop.advance(STEPS)
            yield stage, np.array([[spent(loop) for loop in loops] for _ in range(ROUNDS)])
            results[stage] = loops[0].result()


def spent(loop: StageLoop) -> float:
    """Milliseconds of a step."""
    begin = time.perf_counter()
    loop.advance(loop.step + STEPS)
    return 1e3 * (time.perf_counter() - begin) / STEPS


def compare_times(name: str, args: argparse.Namespace) -> None:
    """A line for each stage."""
    for stage, found in milliseconds(name, args):
        (low, ratio, high), plain = np.quantile(found[:, 1] / found[:, 0], [0.25, 0.5, 0.75]), np.median(found[:, 0])
        print(
            f"{name}  {stage:<9} float32 {plain:6.2f} ms  bfloat16 {np.median(found[:, 1]):6.2f} ms  "
            f"ratio {ratio:.2f} ({low:.2f} to {high:.2f})",
            flush=True,
        )


def compare_scores(name: str, args: argparse.Namespace) -> None:
    """A line for each precision."""
    for precision in PRECISIONS:
        found = scores(name, args, precision)
        told = f"{found.mean():6.1f} +- {found.std():.1f}  (seeds {', '.join(f'{x:.1f}' for x in found)})"
        print(f"{name}  {precision:<9} {told}", flush=True)


def compare(args: argparse.Namespace) -> int:
    if args.activations:
        rounding.products_alone = lambda: False
    for name in args.data.split(","):
        (compare_times if args.time else compare_scores)(name, args)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        default="halfcheetah-medium-replay-mini,hopper-medium-expert-mini",
        help="built-in names or files, separated by commas",
    )
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--share", type=float, default=1.0, help="of the preset's steps, for each stage")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="a setting; may be repeated")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("precision"))
    parser.add_argument("--activations", action="store_true", help="round activations as well, as a GPU does")
    parser.add_argument("--time", action="store_true", help="milliseconds per step instead")
    args = parser.parse_args(argv)
    return guarded(lambda: compare(args))


if __name__ == "__main__":
    sys.exit(main())
