"""What more machines are good for: a model of time and cost on GPUs, and what a cell costs beside its training on a Ray cluster.

    python benchmarks/scale.py model --gpus 1,8,64
    python benchmarks/scale.py nodes --nodes 1,2 --cells 4

The model takes measured microseconds per step of all seeds of a cell together (docs/performance.md), between one and six
seeds along a line. Cells are independent: GPUs take them one after the other, and the last wave decides.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = {"critic": 1_500_000, "behavior": 2_000_000, "policy": 1_000_000}  # of the paper
MICROSECONDS = {"critic": (96, 96), "behavior": (725, 1333), "policy": (142, 174)}  # one seed (at most), six; one H200, float32
SEEDS, TASKS = 6, 15  # of the paper's first table
COMPILE_SECONDS = 3 * 25.0  # the longest that was seen, of three stages


def cell_seconds(seeds: int) -> float:
    """A cell of so many seeds on one GPU, without evaluation."""
    per_step = {name: one + (six - one) * (seeds - 1) / (SEEDS - 1) for name, (one, six) in MICROSECONDS.items()}
    return COMPILE_SECONDS + sum(STEPS[name] * per_step[name] / 1e6 for name in STEPS)


def plan(gpus: int) -> tuple[float, int]:
    """Hours until all is done, and the seeds of a cell with which it is soonest."""

    def hours(seeds: int) -> float:
        return math.ceil(TASKS * SEEDS // seeds / gpus) * cell_seconds(seeds) / 3600

    return min((hours(seeds), seeds) for seeds in range(1, SEEDS + 1) if SEEDS % seeds == 0)


def model(counts: list[int], price: float) -> str:
    """A table: time and cost of TASKS data sets x SEEDS seeds."""
    lines = ["| GPUs | seeds in a cell | cells | hours | GPU-hours used | GPU-hours paid | cost |", "|---:|" + "---:|" * 6]
    for gpus in counts:
        hours, seeds = plan(gpus)
        cells = TASKS * SEEDS // seeds
        used, paid = cells * cell_seconds(seeds) / 3600, gpus * hours
        lines.append(f"| {gpus} | {seeds} | {cells} | {hours:.1f} | {used:.1f} | {paid:.1f} | {price * paid:.0f} |")
    return "\n".join(lines)


SUITE: dict[str, Any] = {
    "algorithms": ["bc-gaussian"],
    "budget": {"iterations": 200},
    "settings": {"bc-gaussian": {"policy.hidden": [8], "policy.batch_size": 8}},
    "data": [{"name": "hopper-medium-expert-mini", "task": "hopper-medium-expert-v2"}],
}


def through_nodes(nodes: int, cells: int) -> dict[str, float]:
    """Seconds of a suite of small cells on a cluster of so many nodes with a core each, all on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    from srpo.data import load_dataset
    from srpo.suite.keep import Keep
    from srpo.suite.on_ray import through
    from srpo.suite.plan import read_suite
    from srpo.suite.work import Work
    from srpo.system.clock import Clock
    from srpo.system.cluster import Resources

    suite = read_suite(SUITE | {"seeds": list(range(cells))}, "nodes")
    small = {"object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=small | {"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1, **small)
        ray.init(address=cluster.address, log_to_driver=False)
        with tempfile.TemporaryDirectory() as folder:
            data = {source.name: load_dataset(source.name) for source in suite.data}
            work = Work(suite, data, Path(folder), Keep(Path(folder, "results")), "", Clock(), evaluate=False, quiet=True)
            begin = time.monotonic()
            failed = through(work, None, Resources())
            seconds = time.monotonic() - begin
            trained = sum(cell.log["train_seconds"] for cell in work.cells(together=False))
    finally:
        ray.shutdown()
        cluster.shutdown()
    beside = (seconds * min(nodes, cells) - trained) / cells
    return {"nodes": nodes, "failed": failed, "seconds": seconds, "trained": trained, "beside_per_cell": beside}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("model", "nodes"))
    parser.add_argument("--gpus", default="1,8,64", help="numbers of GPUs, separated by commas")
    parser.add_argument("--price", type=float, default=3.0, help="of a GPU for an hour, in any currency")
    parser.add_argument("--nodes", default="1,2", help="numbers of nodes, separated by commas")
    parser.add_argument("--cells", type=int, default=4, help="cells of the suite")
    args = parser.parse_args(argv)
    if args.what == "model":
        print(model([int(n) for n in args.gpus.split(",")], args.price))
        return 0
    for nodes in map(int, args.nodes.split(",")):
        print("  ".join(f"{key} {value:.1f}" for key, value in through_nodes(nodes, args.cells).items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
