"""The benchmarks as programs: operations counted at every trip of a loop, costs measured and drawn."""

import csv
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import srpo
from srpo import algorithms, config
from srpo.training import dry_run

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import efficiency
import flops
import gpu


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# --- a GPU's figures, here on whatever there is


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


# --- operations


def test_xla_counts_bodies_of_loops_once_and_we_count_every_trip():
    w, x = jnp.ones((64, 64)), jnp.ones((8, 64))
    product = 2 * 8 * 64 * 64

    def nested(x):
        def inner(x):
            return jax.lax.fori_loop(0, 2, lambda _, x: x @ w, x)

        return jax.lax.scan(lambda x, _: (inner(x) @ w, None), x @ w, None, length=7)[0]

    assert flops.counted_once(nested, x) == pytest.approx(3 * product, rel=0.01)  # the correction below stands on this
    assert flops.flops(nested, x) == pytest.approx((1 + 7 * 3) * product, rel=0.01)


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(NotImplementedError, match="while"):
        flops.flops(lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: x * 2, x), 1.0)


# --- budgets


# --- efficiency


def test_costs_are_measured_counted_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "MEASURE_SECONDS", 0.0)
    monkeypatch.setattr(efficiency, "REFERENCE", "bc")
    monkeypatch.setattr(efficiency, "ROUND_SECONDS", 1e-3)
    chosen = {name: config.assign_all(algorithms.find(name)(), {"policy.batch_size": 8}) for name in ("bc", "bc-diffusion")}
    found = {r["algorithm"]: r for r in efficiency.measure(chosen, efficiency.random_data(3000), rounds=3)}
    one_pass = 2 * (11 * 256 + 256 * 256 + 256 * 3)
    five_passes = 5 * 2 * ((11 + 3 + 16) * 256 + 2 * 256 * 256 + 256 * 3)
    assert found["bc"]["flops"] == pytest.approx(one_pass, rel=0.05)
    assert five_passes < found["bc-diffusion"]["flops"] < 1.2 * five_passes
    assert found["bc"]["batch_1"]["ratio"] == 1 and found["bc-diffusion"]["batch_1"]["ratio"] > 1
    assert found["bc"]["stages"]["policy"]["ms_per_step"] > 0

    (tmp_path / "e.json").write_text(json.dumps({"device": "a machine", "rows": list(found.values())}))
    assert efficiency.main(["--from", str(tmp_path / "e.json"), "--csv", str(tmp_path / "e.csv"), "--png", str(tmp_path)]) == 0
    assert (tmp_path / "figure1.png").stat().st_size > 10_000 and (tmp_path / "figure5.png").stat().st_size > 10_000
    ratio = [
        float(r["ratio"])
        for r in rows(tmp_path / "e.csv")
        if r["quantity"] == "operations per action" and r["algorithm"] == "bc-diffusion"
    ]
    assert ratio == [pytest.approx(found["bc-diffusion"]["flops"] / found["bc"]["flops"])]


def test_a_slow_policy_gets_a_smaller_batch():
    assert efficiency.fitting(1e-3, 256) == 256 and efficiency.fitting(0.1, 256) == 64 and efficiency.fitting(60.0, 256) == 1
