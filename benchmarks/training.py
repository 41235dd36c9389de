"""Speed of SRPO's three training stages beside the speed of this machine's own matrix products.

    python benchmarks/training.py --data hopper-medium-expert-mini --stages critic,behavior,policy --json speed.json

Each stage is trained at the paper's sizes through the library's own loop (srpo.training.loop.StageLoop), with the networks it
needs from earlier stages untrained. Between any two calls of that loop, plain float32 products of the stage's shapes
run on the same backend. A machine's rate moves from one second to the next, so each call is compared with the products
right before and after it, and the share is the median of these.

Operations: 2 m k n for every product (m, k) x (k, n) in the traced step, and nothing else; elementwise work, random
numbers and the optimizer count as time only. Time is given twice: by the clock, which on a shared machine includes
waiting for other programs, and as processor time of all threads, which does not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import srpo
from srpo.core import Algorithm
from srpo.data.treated import treat
from srpo.errors import ConfigError, UserError, closest
from srpo.runs import mapping
from srpo.runs.checkpoint import write_atomically
from srpo.runs.grid import Grid
from srpo.training import loop
from srpo.training.estimate import product_flops

MAPPINGS = {"sequential": mapping.sequential, "vectorized": mapping.vectorized}
STEPS = {"critic": 400, "behavior": 12, "policy": 160}  # timed steps of one seed
COLUMNS = ("stage", "seeds", "ms", "steps_per_s", "gflops", "product_gflops", "share", "cpu_ms", "cpu_share")


class Products:
    """Float32 products (m, k) x (k, n) and back, in two independent chains so that two cores can share the work."""

    def __init__(self, m: int, k: int, n: int, seconds: float = 0.05):
        keys = jax.random.split(jax.random.key(0), 3)

        def draw(key, *shape):
            return jax.random.normal(key, shape) / shape[-2] ** 0.5

        self.args = (draw(keys[0], 2, m, k), draw(keys[1], k, n), draw(keys[2], n, k))

        def back_and_forth(x, a, b):
            return (x @ a) @ b

        def chains(x, a, b):
            return [back_and_forth(x[0], a, b), back_and_forth(x[1], a, b)]

        def body(x, a, b):
            return jnp.stack(chains(x, a, b))

        self.run = jax.jit(lambda count, x, a, b: lax.fori_loop(0, count, lambda _, x: body(x, a, b), x))
        self.flops, self.count = 8 * m * k * n, 1
        timed(self.run, 1, *self.args)
        while timed(self.run, self.count, *self.args)[1] < seconds:
            self.count *= 2

    def rates(self) -> tuple[float, float]:
        """GFLOP per second of the clock and per second of processor time, now."""
        wall, cpu = timed(self.run, self.count, *self.args)
        return self.count * self.flops / wall / 1e9, self.count * self.flops / cpu / 1e9


def timed(fn: Callable, *args: Any) -> tuple[float, float]:
    """Seconds by the clock and of processor time (all threads) of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(fn(*args))
    return time.perf_counter() - wall, time.process_time() - cpu


def typical(algorithm: Algorithm, name: str) -> tuple[int, int, int]:
    """The shape of most of the stage's products."""
    rows = algorithm.stages[name].batch_size
    if name == "critic":
        return rows, *algorithm.critic.hidden[-2:]
    return rows, algorithm.behavior.width, 4 * algorithm.behavior.width


def measure(
    algorithm: Algorithm, data, name: str, seeds: int, steps: int, folder: Path, mapped: mapping.Mapping
) -> dict[str, Any]:
    """One row of the table: a stage for a number of seeds."""
    grid, results = Grid.create(algorithm, seeds, None), {}

    def start(stage: str) -> loop.StageLoop:
        made = loop.StageLoop(stage, grid, algorithm.stages[stage].view(data), results, folder / stage, mapped)
        made.start()
        return made

    for need in algorithm.stages[name].needs:
        results[need] = start(need).result()
    stage_loop = start(name)
    run, state = stage_loop.single(0, 0), jax.tree.map(lambda x: x[0, 0], stage_loop.state)
    key, view = jax.random.key(0), stage_loop.data
    batch = view.take(run.stage.draw(view, key, jnp.int32(0)))
    flops = seeds * product_flops(run.stage.update, state, batch, run.given, key, jnp.int32(0))
    products = Products(*typical(algorithm, name))
    row = clocked(stage_loop, steps, products, flops / 1e9)
    return {"stage": name, "seeds": seeds, **row, "gflop_per_step": flops / 1e9}


def clocked(stage_loop: loop.StageLoop, steps: int, products: Products, gflop: float) -> dict[str, Any]:
    """Medians over the calls that make `steps` steps of `gflop` each, the products' rates taken between any two."""
    calls = stage_loop.calls()
    next(calls)  # compiles
    grow(stage_loop, calls)
    wall, cpu, rates, first = [], [], [products.rates()], stage_loop.step
    while stage_loop.step < first + steps or len(wall) < 5:
        before = stage_loop.step
        seconds = timed(next, calls)
        count = stage_loop.step - before
        wall.append(seconds[0] / count)
        cpu.append(seconds[1] / count)
        rates.append(products.rates())
    step, step_cpu = statistics.median(wall), statistics.median(cpu)
    product, product_cpu = zip(*rates, strict=True)
    return {
        "ms": 1e3 * step,
        "steps_per_s": 1 / step,
        "gflops": gflop / step,
        "product_gflops": statistics.median(product),
        "share": share(gflop, wall, product),
        "cpu_ms": 1e3 * step_cpu,
        "cpu_share": share(gflop, cpu, product_cpu),
        "ms_min": 1e3 * min(wall),
        "cpu_ms_min": 1e3 * min(cpu),
        "product_gflops_max": max(product),
        "product_gflops_per_cpu_s": statistics.median(product_cpu),
        "calls": len(wall),
        "timed_steps": stage_loop.step - first,
    }


def grow(stage_loop: loop.StageLoop, calls: Iterator) -> None:
    """Calls until they are as long as a training's: each is twice the one before, and what a call costs weighs on a short one."""
    lengths = [-1, 0]
    while lengths[-1] > lengths[-2]:
        before = stage_loop.step
        next(calls)
        lengths.append(stage_loop.step - before)


def share(gflop: float, seconds: Sequence[float], rates: Sequence[float]) -> float:
    """The rate of steps over that of products right before and after each; `rates` has one more than `seconds`."""
    return statistics.median(2 * gflop / s / (a + b) for s, a, b in zip(seconds, rates, rates[1:], strict=False))


def table(rows: list[dict[str, Any]]) -> str:
    def cell(name, value):
        return f"{value:.0%}" if name.endswith("share") else value if isinstance(value, str) else f"{value:.3g}"

    lines = [[cell(c, row[c]) for c in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in [list(COLUMNS), *lines]) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in [list(COLUMNS), *lines])


def machine() -> dict[str, Any]:
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")),
        platform.processor(),
    )
    return {
        "backend": jax.default_backend(),
        "device": str(jax.devices()[0].device_kind),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hopper-medium-expert-mini", help="a built-in name, a path or a D4RL id")
    parser.add_argument("--stages", default="critic,behavior,policy", help="which, separated by commas")
    parser.add_argument("--seeds", default="1,6", help="numbers of seeds, separated by commas")
    parser.add_argument("--preset", default="paper", help="sizes: a preset of SRPO")
    parser.add_argument("--steps", type=int, help="timed steps (default: enough for a few seconds per row on two cores)")
    parser.add_argument("--mapping", choices=MAPPINGS, help="how seeds are run (default: the library's choice)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    args = parser.parse_args(argv)
    mapped = MAPPINGS[args.mapping] if args.mapping else mapping.default_mapping()
    try:
        for name in set(args.stages.split(",")) - set(STEPS):
            raise ConfigError(closest(name, STEPS, "stage"))
        data = srpo.load_dataset(args.data)
        algorithm = srpo.configure("srpo", data, args.preset)
        data, rows = treat(data, algorithm.data), []
        for name in args.stages.split(","):
            for seeds in map(int, args.seeds.split(",")):
                print(f"{name}, {seeds} seed(s) ...", file=sys.stderr, flush=True)
                with tempfile.TemporaryDirectory() as folder:
                    steps = args.steps or max(STEPS[name] // seeds, 2)
                    rows.append(measure(algorithm, data, name, seeds, steps, Path(folder), mapped))
    except UserError as e:
        print(f"training.py: {e}", file=sys.stderr)
        return 2
    print(table(rows))
    if args.json:
        report = {"command": sys.argv[1:], "data": data.recording.name, "machine": machine(), "rows": rows}
        write_atomically(args.json, (json.dumps(report, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
