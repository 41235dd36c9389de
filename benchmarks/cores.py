"""What two cores are good for: seeds one after the other on both, side by side on a core each, or on two devices of one program.

    python benchmarks/cores.py --stages critic,policy --rounds 15

Every way of a stage of SRPO, at the paper's sizes, is a process (or two) that has compiled and waits; in every round each
trains for some steps in turn. Figures are medians over rounds: updates per second by the clock, all seeds together, their
ratio to the first way, and processor milliseconds per update, which compare on a busy machine, too. With --devices 1,2,4 so
many forced devices share four seeds on both cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SECONDS = 0.7  # about, of a turn


@dataclass
class Way:
    """Processes that train a stage: `cores` of each, its number of seeds and of forced devices."""

    name: str
    cores: tuple[tuple[int, ...], ...]
    seeds: int
    devices: int = 1

    def start(self, stage: str, data: str) -> None:
        self.workers = [self._worker(stage, data, cores) for cores in self.cores]

    def wait(self) -> None:
        """Until all have compiled."""
        for worker in self.workers:
            worker.stdout.readline()

    def _worker(self, stage: str, data: str, cores: tuple[int, ...]) -> subprocess.Popen:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={self.devices}"
        words = [sys.executable, __file__, "--child", json.dumps([stage, data, self.seeds, self.devices, cores])]
        surroundings = os.environ | {"XLA_FLAGS": flags, "NPROC": str(len(cores)), "JAX_PLATFORMS": "cpu"}
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings)

    def turn(self, steps: int) -> tuple[float, float]:
        """Updates per second, of all seeds of all processes, and processor milliseconds per update."""
        begin = time.perf_counter()
        for worker in self.workers:
            worker.stdin.write(f"{steps}\n")
            worker.stdin.flush()
        used = sum(float(worker.stdout.readline()) for worker in self.workers)
        updates = len(self.workers) * self.seeds * steps
        return updates / (time.perf_counter() - begin), 1e3 * used / updates

    def stop(self) -> None:
        for worker in self.workers:
            worker.stdin.close()
            worker.wait()


def child(stage: str, data: str, seeds: int, devices: int, cores: list[int]) -> None:
    """Train as many steps as each line of standard input says."""
    os.sched_setaffinity(0, cores)
    import srpo
    from srpo.data.treated import treat
    from srpo.runs.grid import Grid
    from srpo.training.loop import StageLoop

    recording = srpo.load_dataset(data)
    algorithm = srpo.configure("srpo", recording, "paper")
    view, grid = treat(recording, algorithm.data), Grid.create(algorithm, seeds, None)
    with tempfile.TemporaryDirectory() as folder:
        results: dict = {}
        for name in (*algorithm.stages[stage].needs, stage):
            loop = StageLoop(name, grid, algorithm.stages[name].view(view), results, Path(folder, name), devices=devices)
            loop.start()
            results[name] = loop.result()
        loop.advance(2)
        print("ready", flush=True)
        for line in sys.stdin:
            before = time.process_time()
            loop.advance(loop.step + int(line))
            print(time.process_time() - before, flush=True)


def ways(both: tuple[int, ...], devices: list[int]) -> list[Way]:
    if devices:
        return [Way(f"4 seeds on {n} forced device{'s' * (n > 1)}", (both,), 4, n) for n in devices]
    return [
        Way("1 seed on both cores", (both,), 1),
        Way("1 seed on one core", (both[:1],), 1),
        Way("2 seeds one after the other on both cores", (both,), 2),
        Way("2 seeds on two forced devices of one program", (both,), 2, 2),
        Way("2 seeds in two processes with a core each", tuple((core,) for core in both), 1),
    ]


def measured(stage: str, data: str, found: list[Way], rounds: int) -> list[tuple[str, float, float, float]]:
    """Each way's median updates per second, its median ratio to the first way of the same round, and processor milliseconds."""
    for way in found:
        way.start(stage, data)
    try:
        for way in found:
            way.wait()
        steps = max(1, round(SECONDS * found[0].turn(4)[0] / found[0].seeds))
        rates = [[way.turn(max(1, steps // way.seeds)) for way in found] for _ in range(rounds)]
    finally:
        for way in found:
            way.stop()
    return [
        (
            way.name,
            statistics.median(r[i][0] for r in rates),
            statistics.median(r[i][0] / r[0][0] for r in rates),
            statistics.median(r[i][1] for r in rates),
        )
        for i, way in enumerate(found)
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hopper-medium-expert-mini", help="a built-in name, a path or a D4RL id")
    parser.add_argument("--stages", default="critic,policy", help="which, separated by commas")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each way")
    parser.add_argument("--devices", help="numbers of forced devices instead, separated by commas")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(*json.loads(args.child))
        return 0
    both = tuple(sorted(os.sched_getaffinity(0))[:2])
    print(f"load {os.getloadavg()[0]:.1f}, cores {both}", file=sys.stderr)
    for stage in args.stages.split(","):
        devices = [int(n) for n in args.devices.split(",")] if args.devices else []
        for name, rate, ratio, ms in measured(stage, args.data, ways(both, devices), args.rounds):
            print(f"{stage:<10}{name:<48}{rate:>10.4g} updates/s{ratio:>8.2f}{ms:>10.3g} processor ms", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
