"""The one loop and its optimizer step: what is trained, averaged and left alone, and that calls may be cut anywhere."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from srpo import algorithms
from srpo.algorithms.diffusion_ql import DiffusionQL
from srpo.algorithms.iql import IQL
from srpo.algorithms.sfbc import SfBC
from srpo.config import assign_all, setting, settings, static
from srpo.core import Batch, Frozen, Stage, TrainState, average, descend
from srpo.data import from_arrays
from srpo.data.treated import treat
from srpo.errors import ConfigError
from srpo.optim import adam, adamw
from srpo.runs.description import describe
from srpo.runs.grid import Grid
from srpo.runs.run import load_run
from srpo.runs.tables import NUMBER, WHOLE, CsvTable
from srpo.steps import Log, advance, metric_names

KEY = jax.random.key(0)


class Scaled(eqx.Module):
    weight: jax.Array
    scale: Frozen


class Mean(Stage):
    """Finds the mean of the observations; the second metric is 1 / 0 from step 30 on."""

    steps: int = static(50, "")
    batch_size: int = static(8, "")
    lr: float = setting(0.05, "")

    def init(self, data, given, key):
        return TrainState.create(Scaled(jax.random.normal(key, (3,)), Frozen(jnp.ones(3))), adam(self.lr), target=True)

    def update(self, state, batch, given, key, step):
        noise = 0.01 * jax.random.normal(key, batch.obs.shape)

        def loss(model):
            value = jnp.mean((model.weight - batch.obs - noise) ** 2)
            return value, {"loss": value, "late": jnp.where(step < 30, 1.0, jnp.inf)}

        return descend(state, adam(self.lr), loss, ema=0.1)

    def result(self, state):
        return state.target


def rows(n=100):
    obs = 2.0 + np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    return jax.device_put(Batch(obs, obs[:, :1], obs[:, 0], obs, np.ones(n, np.float32), np.arange(n, dtype=np.int32)))


run, begin = jax.jit(advance), jax.jit(Mean.init)


def test_cutting_a_stage_into_calls_changes_nothing():
    stage, data = Mean(), rows()
    state = begin(stage, data, {}, KEY)
    log = Log.create(metric_names(stage, state, data, {}, KEY))
    assert set(log.total) == {"loss", "late"}
    whole = run(stage, state, log, data, {}, KEY, 0, 50)
    parts = state, log
    for start, stop in ((0, 1), (1, 20), (20, 20), (20, 37), (37, 50)):
        parts = run(stage, *parts, data, {}, KEY, start, stop)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (int(whole[1].bad_step["loss"]), int(whole[1].bad_step["late"])) == (-1, 30)


def test_a_stage_learns():
    stage, data = Mean(lr=0.1), rows()
    state = begin(stage, data, {}, KEY)
    log = Log.create(metric_names(stage, state, data, {}, KEY))
    state, _ = run(stage, state, log, data, {}, KEY, 0, 300)
    np.testing.assert_allclose(stage.result(state).weight, np.mean(np.asarray(data.obs), 0), atol=0.25)


def test_frozen_arrays_are_neither_trained_nor_decayed():
    @jax.jit
    def after_a_step(model):
        tx = adamw(0.1, 0.5)
        return descend(TrainState.create(model, tx), tx, lambda m: (0.0 * jnp.sum(m.weight * m.scale.value), {}))[0]

    state = after_a_step(Scaled(np.ones(3, np.float32), Frozen(np.full(3, 7, np.float32))))
    np.testing.assert_array_equal(state.model.scale.value, 7.0)
    np.testing.assert_allclose(state.model.weight, 1 - 0.1 * 0.5, rtol=1e-6)  # decayed at zero gradient
    assert len(jax.tree.leaves(state.opt_state)) == 3  # count and the two moments of the one trained array


def test_descend_is_one_step_of_the_optimizer_then_of_the_average():
    tx = optax.sgd(0.1)
    state = TrainState.create(Scaled(jnp.array([1.0, 2.0, 3.0]), Frozen(jnp.ones(3))), tx, target=True)
    state, metrics = descend(state, tx, lambda m: (jnp.sum(m.weight**2), {"sum": jnp.sum(m.weight)}), ema=0.25)
    np.testing.assert_allclose(state.model.weight, [0.8, 1.6, 2.4], rtol=1e-6)
    np.testing.assert_allclose(state.target.weight, [0.95, 1.9, 2.85], rtol=1e-6)
    assert metrics["sum"] == 6


def test_average_moves_by_its_rate():
    target, model = {"a": np.array([0.0, 4.0])}, {"a": np.array([1.0, 0.0])}
    for rate, expected in ((0.0, [0, 4]), (0.25, [0.25, 3]), (1.0, [1, 0])):
        np.testing.assert_allclose(average(target, model, rate)["a"], expected)


def test_settings_that_must_fit_together_may_come_in_any_order():
    values = {"average": 40, "candidates": 64, "critic.hidden": 16}
    for order in (values, dict(reversed(values.items()))):
        found = assign_all(SfBC(), order)
        assert (found.average, found.candidates, found.critic.hidden) == (40, 64, (16,))
    with pytest.raises(ConfigError, match="average: found 40, expected no more than candidates, 32"):
        assign_all(SfBC(), {"average": 40})


def test_settings_are_found_by_what_earlier_versions_called_them():
    """Each algorithm has what it says it has renamed, under the new name alone; one that never had it knows no old name."""
    for algorithm in (algorithms.find(name).default() for name in algorithms.names()):
        assert (
            set(algorithm.renamed.values()) <= settings(algorithm).keys()
            and not algorithm.renamed.keys() & settings(algorithm).keys()
        )
    assert assign_all(SfBC(), {"acting.candidates": "7"}).candidates == 7
    assert Grid.create(SfBC(), 1, {"acting.sharpness": [1, 2]}).sweep == {"sharpness": (1.0, 2.0)}
    with pytest.raises(ConfigError, match="acting.candidates"):
        assign_all(IQL(), {"acting.candidates": 7})


def test_seeds_are_whole_numbers_of_any_kind():
    assert Grid.create(SfBC(), np.arange(3), None).seeds == (0, 1, 2)
    for seeds in ([0.5], "three", 1.5):
        with pytest.raises(ConfigError, match="whole numbers"):
            Grid.create(SfBC(), seeds, None)


def test_samples_are_whole_rows_drawn_from_all_of_them():
    data = rows(10)
    batch = jax.device_get(jax.jit(lambda data: data.take(data.rows(KEY, 1000)))(data))
    assert batch.obs.shape == (1000, 3)
    np.testing.assert_array_equal(batch.obs, np.asarray(data.obs)[batch.index])
    np.testing.assert_array_equal(batch.reward, np.asarray(data.reward)[batch.index])
    counts = np.bincount(batch.index, minlength=10)
    assert counts.min() > 100 - 5 * 9.5  # 9.5: the standard deviation of a count
    assert counts.max() < 100 + 5 * 9.5


def test_a_run_of_an_earlier_version_is_read_in_present_words(tmp_path):
    obs = np.zeros((10, 2), np.float32)
    ends = np.arange(10) % 5 == 4
    data = treat(from_arrays(obs, obs, np.arange(10.0), ends, ~ends & ends))
    grid = Grid.create(DiffusionQL().set("candidates", 7), 2, {"policy.lr_q": [0.25, 0.5]})
    failures = [{"stage": "policy", "step": 1, "metric": "q_loss", "seed": 1, "point": [["policy.lr_q", 0.5]]}]
    info = describe(grid, data, {"policy.lr_q": "--sweep"}, eval_every=0, eval_episodes=1, failures=failures)
    old = json.dumps(info).replace('"policy.lr_q"', '"policy.critic_lr"')
    assert "policy.lr_q" not in old
    (tmp_path / "run.json").write_text(old)
    CsvTable(tmp_path / "evals.csv", {"seed": WHOLE, "policy.critic_lr": NUMBER}).append([{"seed": 0, "policy.critic_lr": 0.5}])
    run = load_run(tmp_path)
    assert (run.algorithm.candidates, run.points, run.info["sources"]) == (7, grid.points, {"policy.lr_q": "--sweep"})
    assert [run.failed(1, point) is None for point in run.points] == [True, False]
    assert CsvTable(tmp_path / "evals.csv", {"seed": WHOLE, "policy.lr_q": NUMBER}, DiffusionQL.renamed).read() == [
        {"seed": "0", "policy.lr_q": "0.5"}
    ]
