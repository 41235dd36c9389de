"""What a training would cost: operations counted against known numbers, what devices hold, the estimate and the measurement."""

import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import srpo
from srpo.algorithms import find
from srpo.cli import main
from srpo.data.treated import treat
from srpo.runs.grid import Grid
from srpo.training import dry_run, estimate
from srpo.training.loop import StageLoop

W, X = jax.ShapeDtypeStruct((5, 5), jnp.float32), jax.ShapeDtypeStruct((3, 5), jnp.float32)
ONE = 2 * 3 * 5 * 5


@pytest.mark.parametrize(
    ("fn", "times"),
    [
        (lambda x, w: jnp.tanh(x @ w) @ w, 2),
        (lambda x, w: jax.lax.fori_loop(0, 7, lambda i, x: x @ w, x) @ w, 8),  # a loop as often as it runs
        (lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w), 2),  # the expensive branch
        (lambda x, w: jax.grad(lambda w: (x @ w).sum())(w), 2),  # forward, and the product that makes the gradient
        (lambda x, w: jax.jit(jax.checkpoint(lambda x: x @ w))(x), 1),
    ],
)
def test_products_are_counted_by_hand(fn, times):
    assert estimate.product_flops(fn, X, W) == times * ONE


def test_batched_products_and_convolutions_count_all_their_terms():
    batched = jax.ShapeDtypeStruct((4, 3, 5), jnp.float32)
    assert estimate.product_flops(lambda x, w: jnp.einsum("bij,jk->bik", x, w), batched, W) == 4 * ONE
    x, kernel = np.zeros((2, 6, 9), np.float32), np.zeros((8, 6, 3), np.float32)  # batch, channels, length
    assert estimate.product_flops(lambda x, k: jax.lax.conv(x, k, (1,), "SAME"), x, kernel) == 2 * (2 * 8 * 9) * (6 * 3)


def test_a_rate_is_measured_of_the_product_that_was_counted():
    (product,) = estimate.products(lambda x, w: x @ w, X, W)
    assert product.flops == ONE and estimate.rate(product, copies=2) > 0


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    rows = {"obs": rng.normal(size=(60, 3)), "action": rng.uniform(-1, 1, (60, 2)), "reward": rng.normal(size=60)}
    return srpo.from_arrays(**rows, terminal=np.zeros(60, bool), timeout=np.arange(60) % 20 == 19, name="rows")


def test_an_estimate_is_of_a_steps_products_and_of_all_runs(data, monkeypatch):
    monkeypatch.setattr(estimate, "rate", lambda product, copies=1: 1e9)
    algorithm = srpo.configure(
        "bc-gaussian", data, "paper", **{"policy.hidden": (8,), "policy.batch_size": 16, "policy.steps": 100}
    )
    found = estimate.estimated(Grid.create(algorithm, 3, None), treat(data, algorithm.data))["policy"]
    forward, weights, inputs = (3 * 8 + 8 * 2), (3 * 8 + 8 * 2), 8 * 2  # the gradient asks for none of the observations
    flops = 2 * 16 * (forward + weights + inputs)
    assert found["gflop_per_step"] == pytest.approx(flops / 1e9)
    assert found["ms_per_step"] == pytest.approx(3 * flops / 1e6) and found["hours"] == pytest.approx(
        100 * 3 * flops / 1e9 / 3600
    )


def test_each_device_holds_its_share_with_padding(data, monkeypatch):
    monkeypatch.setattr(estimate, "local_devices", lambda wanted, runs: (None,) * min(wanted, runs))
    grid = Grid.create(srpo.configure("bc-gaussian", data, "paper"), 5, {"policy.lr": [1e-3, 1e-4]})
    state = {"w": jax.ShapeDtypeStruct((2**18,), jnp.float32)}  # a MiB
    assert estimate.shared(grid, "policy", state, 4) == estimate.Share(4, 3, 3.0)
    assert estimate.shared(grid, "policy", state, 64) == estimate.Share(10, 1, 1.0)


def test_a_dry_run_compiles_no_stage_unless_it_is_to_measure(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dry_run, "MEASURE_SECONDS", 0.0)
    started = Counter()
    start = StageLoop.start
    monkeypatch.setattr(StageLoop, "start", lambda loop: (started.update([loop.name]), start(loop))[1])
    line = ["train", "hopper-medium-expert-mini", "--algo", "bc-gaussian", "--set", "policy.hidden=8", "--dry-run", "--quiet"]
    assert main([*line, "--seeds", "2"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert not started and "are an estimate" in told and "one device with 2 seeds" in told and "at least about" in told
    assert main([*line, "--json", "--measure"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert started == {"policy": 1} and plan["times"] == "measured"
    assert plan["stages"]["policy"]["compile_s"] > 0 and plan["stages"]["policy"]["runs"] == 1
    assert list(tmp_path.iterdir()) == []  # nothing is written


def test_times_are_of_the_precision_that_was_asked_for(data, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "MEASURE_SECONDS", 0.0)
    timed, started = set(), set()
    monkeypatch.setattr(estimate, "rate", lambda product, copies=1: timed.add(product.sides[0].dtype.name) or 1e9)
    start = StageLoop.start
    monkeypatch.setattr(StageLoop, "start", lambda loop: (started.add(loop.precision), start(loop))[1])
    line = [
        "train",
        "hopper-medium-expert-mini",
        "--algo",
        "bc-gaussian",
        "--set",
        "policy.hidden=32,32",
        "--dry-run",
        "--quiet",
    ]
    assert main([*line, "--measure", "--precision", "bfloat16"]) == 0
    assert (timed, started) == ({"bfloat16"}, {"bfloat16"})
    monkeypatch.undo()
    (product,) = estimate.products(lambda x, w: jax.lax.dot(x, w, preferred_element_type=jnp.float32), *map(halved, (X, W)))
    assert product.gives == "float32" and estimate.rate(product) > 0


def halved(x):
    return jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)


def test_a_measurement_belongs_to_a_dry_run(capsys):
    assert main(["train", "hopper-medium-expert-mini", "--measure"]) == 2
    assert "add --dry-run" in capsys.readouterr().err


@pytest.mark.parametrize("measure", [False, True])
def test_stages_that_are_used_from_a_run_take_no_time(measure, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(dry_run, "MEASURE_SECONDS", 0.0)
    monkeypatch.setattr(estimate, "rate", lambda product, copies=1: 1e9)
    small = [word for path, value in find("iql").trial.settings.items() for word in ("--set", f"{path}={written(value)}")]
    line = ["train", "hopper-medium-expert-mini", "--algo", "iql", *small, "--quiet"]
    assert main([*line, "--no-eval", "--out", str(tmp_path / "run")]) == 0
    again = [*line, "--set", "policy.beta=1", "--from", str(tmp_path / "run"), "--dry-run", *["--measure"] * measure]
    capsys.readouterr()
    assert main([*again, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["from"] == {"critic": str(tmp_path / "run")} and list(told["stages"]) == ["policy"]
    assert main(again) == 0
    out = capsys.readouterr().out
    assert f"critic: from {tmp_path / 'run'}, not trained again" in out and "policy: " in out and "critic: 3" not in out
    assert main([*again, "--seeds", "2"]) == 2
    assert "has seeds 0; ask for the same with --seeds 0," in capsys.readouterr().err


def written(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
