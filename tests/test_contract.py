"""What every algorithm in the registry owes its user, tried on each at a tiny size.

One training over two seeds and two swept values serves all tests of an algorithm; resuming repeats its programs,
so that they are compiled once.
"""

import csv
import itertools
import os
import signal
from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
import pytest

import srpo
from srpo import algorithms
from srpo.config import assign_all
from srpo.core import Trial
from srpo.data import from_arrays
from srpo.data.treated import treat
from srpo.runs.grid import Grid
from srpo.training import execution
from srpo.training.loop import StageLoop

SEEDS = (3, 1)


@pytest.fixture(scope="module")
def data():
    """Eight episodes of 30 steps, half of which end by themselves; actions follow the state, rewards the action."""
    rng = np.random.default_rng(0)
    n = 240
    obs = rng.normal(size=(n, 3)).astype(np.float32)
    action = np.clip(0.8 * np.tanh(obs @ rng.normal(size=(3, 2))) + 0.1 * rng.normal(size=(n, 2)), -1, 1)
    end = np.arange(n) % 30 == 29
    terminal = end & (np.arange(n) // 30 % 2 == 0)
    return from_arrays(obs, action, 1 + action.sum(1), terminal, end & ~terminal, name="tiny")


class Trained(NamedTuple):
    name: str
    trial: Trial
    algorithm: srpo.core.Algorithm
    run: srpo.Run

    @property
    def sweep(self):
        path, *values = self.trial.sweep
        return {path: values}

    @property
    def last(self):
        return list(self.algorithm.stages)[-1]


@pytest.fixture(scope="module", params=algorithms.ALGORITHMS)
def trained(request, data, tmp_path_factory):
    trial = algorithms.find(request.param).trial
    algorithm = assign_all(algorithms.find(request.param)(), trial.settings)
    path, *values = trial.sweep
    out = tmp_path_factory.mktemp(request.param) / "run"
    return Trained(request.param, trial, algorithm, train(algorithm, data, out, sweep={path: values}))


def train(algorithm, data, out, **options):
    return srpo.train(algorithm, data, out=out, **{"seeds": SEEDS, "eval_every": 0, "quiet": True} | options)


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_every_algorithm_says_what_tests_and_tables_need_of_it():
    classes = [algorithms.find(name) for name in algorithms.ALGORITHMS]
    assert len({cls.title for cls in classes}) == len(classes) and all(cls.title and cls.trial for cls in classes)
    assert {cls.acts_by for cls in classes} == {"one pass", "candidates", "diffusion"}


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_presets_fit_every_data_set(name, data):
    """Each sets what exists, to values of the right type; `quick` is never longer than `paper`."""
    presets, steps = algorithms.find(name).presets, {}
    for preset in presets:
        for robot, kind in itertools.product(
            ("halfcheetah", "hopper", "walker2d"), ("medium", "medium-replay", "medium-expert", "mixed-zoo")
        ):
            made = srpo.configure(name, replace(data, task=f"{robot}-{kind}-v2"), preset)
            steps[preset, robot, kind] = sum(stage.steps for stage in made.stages.values())
        for maze in ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse"):
            srpo.configure(name, replace(data, task=f"antmaze-{maze}-v2"), preset)
    assert {"paper", "quick"} <= presets.keys()
    assert all(total <= steps["paper", *task] for (preset, *task), total in steps.items() if preset == "quick")


def test_losses_fall(trained):
    found = defaultdict(list)
    with open(trained.run.path / "metrics.csv", newline="") as f:
        for row in csv.DictReader(f):
            found[f"{row['stage']}.{row['metric']}", row["seed"], row.get(trained.trial.sweep[0])].append(float(row["value"]))
    for metric in trained.trial.falls:
        curves = [values for (name, *_), values in found.items() if name == metric]
        assert len(curves) >= len(SEEDS) and all(np.isfinite(curve).all() for curve in curves)
        first, last = (np.mean([np.mean(curve[part]) for curve in curves]) for part in (slice(5), slice(-15, None)))
        assert last < first, metric


def test_one_call_equals_one_call_per_step(trained, data, tmp_path):
    """Of every stage."""
    done = trained.run.results
    for name, stage in trained.algorithm.stages.items():
        loop = StageLoop(name, trained.run.grid, stage.view(treat(data, trained.algorithm.data)), done, tmp_path / "none")
        loop.start()
        assert loop.log_every == 1  # that is how the run was trained
        loop.advance(loop.stage.steps)
        assert_equal(loop.result(), done[name])


def test_a_run_of_the_grid_is_the_run_alone(trained, data, tmp_path):
    """The last stage for one seed and one value, on what that seed's earlier stages left."""
    path, _, value = trained.trial.sweep
    grid, point = trained.run.grid, ((path, value),)

    def mine(name):
        return jax.tree.map(lambda x: np.asarray(x)[1:2, grid.where(name, point)][:, None], trained.run.results[name])

    results = {name: mine(name) for name in trained.algorithm.stages}
    alone = Grid.create(trained.algorithm.set(path, value), SEEDS[1:], None)
    view = trained.algorithm.stages[trained.last].view(treat(data, trained.algorithm.data))
    loop = StageLoop(trained.last, alone, view, results, tmp_path / "none")
    loop.start()
    for _ in loop.calls():
        pass
    policy = jax.tree.map(lambda x: np.asarray(x)[0, 0], alone.policies(results | {trained.last: loop.result()}))
    there = trained.run.policy(SEEDS[1], **{path: value})
    for x, y in zip(jax.tree.leaves(policy), jax.tree.leaves(there), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_resuming_equals_not_stopping(trained, data, tmp_path, monkeypatch):
    """Stopped in the middle of every stage; it is also the same training twice with the same seeds."""
    step_of, stops = execution.Reporter.step, {name: stage.steps // 2 for name, stage in trained.algorithm.stages.items()}

    def step(self, loop, means):
        step_of(self, loop, means)
        if stops.get(loop.name) == loop.step:
            del stops[loop.name]
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(execution.Reporter, "step", step)

    def go_on():
        return train(trained.algorithm, data, tmp_path / "run", sweep=trained.sweep)

    for name, half in list(stops.items()):
        with pytest.raises(execution.Interrupted, match=f"stopped at step {half} of stage {name}"):
            go_on()

        def go_on():
            return srpo.resume(tmp_path / "run", data, quiet=True)

    resumed = go_on()
    assert_equal(resumed.results, trained.run.results)
    assert_equal(resumed.policies, trained.run.policies)


def test_its_policies_act_within_bounds_and_come_back_from_disk(trained, data):
    obs = jax.numpy.asarray(np.concatenate([data.obs[:6], 10 * data.obs[:2]]))
    loaded = srpo.load_run(trained.run.path).policies
    assert_equal(loaded, trained.run.policies)
    keys = jax.random.split(jax.random.key(0), len(obs))

    def act(policy):
        return jax.vmap(policy.act)(obs, keys)

    actions = np.asarray(jax.jit(lambda all: jax.vmap(jax.vmap(act))(all))(loaded))
    assert actions.shape == (2, 2, 8, 2) and np.isfinite(actions).all() and np.abs(actions).max() <= 1
    assert not np.array_equal(actions[0], actions[1])  # seeds
    assert any(not np.array_equal(leaf[:, 0], leaf[:, 1]) for leaf in jax.tree.leaves(loaded))  # swept values


def test_its_policies_take_any_leading_axes(trained, data):
    """One observation, a batch, or more axes: every row of actions belongs to its own observation, whatever the others are."""
    policy = jax.tree.map(lambda x: np.asarray(x)[0, 0], trained.run.policies)
    obs, key = jax.numpy.asarray(data.obs[:6]).reshape(2, 3, -1), jax.random.key(0)

    def shape_of(obs):
        return policy.act(obs, key)

    for lead in ((), (1,), (4,), (0,), (2, 3)):
        assert jax.eval_shape(shape_of, jax.ShapeDtypeStruct((*lead, 3), "float32")).shape == (*lead, 2)
    with pytest.raises((ValueError, TypeError)):
        jax.eval_shape(shape_of, jax.ShapeDtypeStruct((3, 5), "float32"))  # 3 signals, 5 rows: the axes are swapped
    act = jax.jit(lambda policy, obs: policy.act(obs, key))
    actions, changed = (np.asarray(act(policy, x)) for x in (obs, obs.at[0, 0].mul(-2.0)))
    np.testing.assert_array_equal(actions.reshape(6, 2)[1:], changed.reshape(6, 2)[1:])
    assert not np.array_equal(actions, act(policy, -2.0 * obs))
