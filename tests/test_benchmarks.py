"""The benchmarks as programs."""

import sys
from pathlib import Path

import srpo

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import gpu


def test_the_gpu_benchmark_times_every_stage_it_is_asked_for():
    data = srpo.load_dataset("hopper-medium-expert-mini")
    small = {"critic.hidden": (8,), "policy.hidden": (8,), "behavior.width": 8, "behavior.blocks": 1, "behavior.batch_size": 4}
    bench = gpu.Bench(srpo.configure("srpo", data, **small), data)
    rows = [bench.row("critic", 2, "float32", 0.01), bench.row("critic", 1, "bfloat16", 0.01)]
    assert all(r["us"] > 0 and r["us_per_seed"] == r["us"] / r["seeds"] for r in rows)
    us = rows[0]["us_per_seed"]
    shown = gpu.table(rows, {"microseconds": {"critic": 5 * us}}).splitlines()
    assert len(shown) == 3 and shown[1].split()[-1] == "5.0"  # times plain PyTorch
    found = gpu.ceilings(32, 0.0)
    assert set(found) == {"float32 TFLOP/s", "bfloat16 TFLOP/s", "copy GB/s"} and min(found.values()) > 0
