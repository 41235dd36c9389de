"""What a GPU does with SRPO's three training stages: microseconds per step, many seeds at once, beside plain PyTorch.

    python benchmarks/gpu.py --json gpu.json                 at most six minutes on one GPU
    python benchmarks/gpu.py --seeds 6 --precision float32   a quick look

Every stage is trained at the paper's sizes through the library's own loop (srpo.training.loop.StageLoop), all seeds in one
compiled program; a figure is the best of several calls, all seeds together. Beside them: the machine's own rate of matrix
products and of copies, and plain PyTorch's step of one seed on the same machine (benchmarks/plain_torch.py, if torch is
installed). Works on a CPU, too, with `--rows behavior=64` or the like, to try the command.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import srpo
from srpo.core import Algorithm
from srpo.data.treated import treat
from srpo.errors import UserError
from srpo.runs.checkpoint import write_atomically
from srpo.runs.grid import Grid
from srpo.training.loop import StageLoop

DATA = "hopper-medium-expert-mini"
STAGES = ("critic", "behavior", "policy")


def best(fn: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest of the calls that fit into `seconds`, at least three."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        begin = time.perf_counter()
        jax.block_until_ready(fn())
        times.append(time.perf_counter() - begin)
    return min(times)


def ceilings(size: int, seconds: float) -> dict[str, float]:
    """TFLOP/s of a square product in both precisions (float32: as JAX computes it by default), GB/s of a copy, read and written."""
    found = {}
    x = jax.random.normal(jax.random.key(0), (size, size))
    for name, array in (("float32", x), ("bfloat16", x.astype(jnp.bfloat16))):
        product = jax.jit(lambda a: a @ a)
        product(array)
        found[f"{name} TFLOP/s"] = 2 * size**3 / best(lambda a=array, p=product: p(a), seconds) / 1e12
    big = jnp.zeros((8 * size, size))
    copy = jax.jit(lambda a: a + 1)
    copy(big)
    found["copy GB/s"] = 2 * big.nbytes / best(lambda: copy(big), seconds) / 1e9
    return found


class Bench:
    """The stages of one algorithm, their earlier stages untrained."""

    def __init__(self, algorithm: Algorithm, data: srpo.Dataset):
        self.algorithm, self.data, self.results = algorithm, treat(data, algorithm.data), {}

    def loop(self, name: str, seeds: int, precision: str) -> StageLoop:
        stage = self.algorithm.stages[name]
        for need in stage.needs:
            if (need, seeds) not in self.results:
                self.results[need, seeds] = self.loop(need, seeds, precision).result()
        given = {need: self.results[need, seeds] for need in stage.needs}
        grid = Grid.create(self.algorithm, seeds, None)
        made = StageLoop(name, grid, stage.view(self.data), given, Path("none"), precision=precision)
        made.start()
        return made

    def row(self, name: str, seeds: int, precision: str, seconds: float) -> dict[str, Any]:
        """Microseconds per step of all seeds, and seconds to compile."""
        loop, begin, length = self.loop(name, seeds, precision), time.perf_counter(), 64
        loop.advance(loop.step + length)
        compiled, spent = time.perf_counter() - begin, 0.0
        while spent < seconds / 4:  # a call that is long enough to be timed
            begin = time.perf_counter()
            loop.advance(loop.step + length)
            spent = time.perf_counter() - begin
            length = length if spent > seconds / 4 else 2 * length
        us = 1e6 * best(lambda: loop.advance(loop.step + length), seconds) / length
        return {
            "stage": name,
            "seeds": seeds,
            "precision": precision,
            "us": us,
            "us_per_seed": us / seeds,
            "compile_s": compiled,
        }


def plain_torch(data: srpo.Dataset, seconds: float) -> dict[str, Any] | None:
    """What benchmarks/plain_torch.py found, in a process of its own; None without torch."""
    script = Path(__file__).with_name("plain_torch.py")
    sizes = ["--obs", str(data.obs_size), "--act", str(data.action_size), "--seconds", str(seconds)]
    done = subprocess.run([sys.executable, str(script), *sizes], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def table(rows: list[dict[str, Any]], torch: dict[str, Any] | None) -> str:
    lines = ["stage     seeds  precision       us/step  us/step/seed  compile s  x plain PyTorch, per seed"]
    for r in rows:
        ratio = f"{torch['microseconds'][r['stage']] / r['us_per_seed']:.1f}" if torch else ""
        lines.append(
            f"{r['stage']:<9} {r['seeds']:>5}  {r['precision']:<9} {r['us']:>13.1f} {r['us_per_seed']:>13.1f} {r['compile_s']:>10.1f}  {ratio:>8}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=DATA, help="a built-in name, a path or a D4RL id")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--seeds", default="1,6,24", help="numbers of seeds, separated by commas")
    parser.add_argument("--precision", default="float32,bfloat16")
    parser.add_argument("--rows", default="", metavar="STAGE=N,...", help="smaller batches, to try the command on a CPU")
    parser.add_argument("--size", type=int, default=8192, help="of the square product")
    parser.add_argument("--seconds", type=float, default=1.0, help="of timed calls per figure")
    parser.add_argument("--no-torch", action="store_true", help="leave plain PyTorch out")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    args = parser.parse_args(argv)
    try:
        data = srpo.load_dataset(args.data)
        sizes = {f"{k}.batch_size": v for k, _, v in (pair.partition("=") for pair in args.rows.split(",") if pair)}
        bench = Bench(srpo.configure("srpo", data, **sizes), data)
        device = str(jax.devices()[0].device_kind)
        print(f"{device}, JAX {jax.__version__}", flush=True)
        limits = ceilings(args.size, args.seconds / 4)
        print(", ".join(f"{name} {value:.3g}" for name, value in limits.items()), flush=True)
        torch = None if args.no_torch else plain_torch(data, args.seconds)
        rows = []
        for name in args.stages.split(","):
            for seeds in map(int, args.seeds.split(",")):
                for precision in args.precision.split(","):
                    rows.append(bench.row(name, seeds, precision, args.seconds))
                    print(table(rows[-1:], torch).splitlines()[1], flush=True)
    except UserError as e:
        print(f"gpu.py: {e}", file=sys.stderr)
        return 2
    print(table(rows, torch))
    if args.json:
        report = {"device": device, "jax": jax.__version__, "ceilings": limits, "torch": torch, "rows": rows}
        write_atomically(args.json, (json.dumps(report, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
