"""What every algorithm in the registry owes its user, tried on each at a tiny size.

One training over two seeds and two swept values serves all tests of an algorithm: what they train again, they train with its
compiled programs, on the same shapes. What concerns no algorithm more than others is tried on SRPO: the signals that stop a training,
and a run that is trained alone (test_training.py), death in between (test_crash.py).
"""

import csv
import itertools
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

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
from srpo.training.loop import StageLoop
from srpo.training.progress import Reporter

SEEDS = (3, 1)
MOVING = {("sfbc", "critic.q_loss")}  # losses whose targets change: they fall a little


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
    begun: dict[str, Any]  # state and log of each stage before its first step
    stopped: Path  # the folder of the run as it was in the middle of its first stage, with the checkpoints of all middles

    @property
    def last(self):
        return list(self.algorithm.stages)[-1]

    def loop(self, name, grid, data, results):
        """Of a stage, before its first step."""
        stage = self.algorithm.stages[name]
        return StageLoop(name, grid, stage.view(treat(data, self.algorithm.data)), results, self.stopped / "none")


@pytest.fixture(scope="module", params=algorithms.ALGORITHMS)
def trained(request, data, tmp_path_factory):
    trial = algorithms.find(request.param).trial
    algorithm = assign_all(algorithms.find(request.param)(), trial.settings)
    path, *values = trial.sweep
    folder, begun = tmp_path_factory.mktemp(request.param), {}
    out, stopped = folder / "run", folder / "stopped"
    start_of, step_of = StageLoop.start, Reporter.step

    def start(self):
        start_of(self)
        begun[self.name] = jax.tree.map(np.array, (self.state, self.log))

    def step(self, loop, means):
        step_of(self, loop, means)
        if loop.step == loop.stage.steps // 2:
            loop.save()
            part = "state" if stopped.exists() else "."
            shutil.copytree(out / part, stopped / part, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(StageLoop, "start", start)
        patched.setattr(Reporter, "step", step)
        run = srpo.train(algorithm, data, out=out, seeds=SEEDS, sweep={path: values}, eval_every=0, quiet=True)
    return Trained(request.param, trial, algorithm, run, begun, stopped)


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
    """Further than those of networks that learn nothing seem to, by the chance of their batches: by up to a tenth."""
    found = defaultdict(list)
    with open(trained.run.path / "metrics.csv", newline="") as f:
        for row in csv.DictReader(f):
            found[f"{row['stage']}.{row['metric']}", row["seed"], row.get(trained.trial.sweep[0])].append(float(row["value"]))
    for metric in trained.trial.falls:
        curves = [values for (name, *_), values in found.items() if name == metric]
        assert len(curves) >= len(SEEDS) and all(np.isfinite(curve).all() for curve in curves)
        first, last = (
            np.mean([np.mean(curve[part]) for curve in curves]) for part in (slice(5), slice(-len(curves[0]) // 4, None))
        )
        assert last < (first if (trained.name, metric) in MOVING else 0.85 * first), metric


def test_one_call_equals_one_call_per_step(trained, data):
    """Of every stage."""
    done = trained.run.results
    for name, stage in trained.algorithm.stages.items():
        loop = trained.loop(name, trained.run.grid, data, done)
        assert loop.log_every == 1  # that is how the run was trained
        loop.state, loop.log = jax.device_put(trained.begun[name])
        loop.advance(stage.steps)
        assert_equal(loop.result(), done[name])


def test_a_run_does_not_depend_on_those_beside_it(trained, data):
    """The last stage, each run in another place of the grid, with the second seed beside another one."""
    path, *values = trained.trial.sweep

    def turned(name, tree):
        there = (slice(None, None, -1),) * (1 + (len(grid.stage_points(name)) == 2))
        return jax.tree.map(lambda x: np.asarray(x)[there], tree)

    grid = Grid.create(trained.algorithm, (SEEDS[1], 7), {path: values[::-1]})
    results = {name: turned(name, result) for name, result in trained.run.results.items()}
    loop = trained.loop(trained.last, grid, data, results)
    loop.state, loop.log = jax.device_put(turned(trained.last, trained.begun[trained.last]))
    loop.advance(loop.stage.steps)
    there, here = grid.policies(results | {trained.last: loop.result()}), trained.run.policies
    places = (there, np.s_[0, ::-1]), (here, 1)
    assert_equal(*(jax.tree.map(lambda x, at=at: np.asarray(x)[at], policies) for policies, at in places))


def test_resuming_equals_not_stopping(trained, data, tmp_path):
    """From a checkpoint in the middle of every stage."""
    shutil.copytree(trained.stopped, tmp_path / "run")
    assert {file.stem for file in (tmp_path / "run" / "state").iterdir()} == set(trained.algorithm.stages)
    resumed = srpo.resume(tmp_path / "run", data, quiet=True)
    assert_equal(resumed.results, trained.run.results)
    assert_equal(resumed.policies, trained.run.policies)


def test_its_policies_come_back_from_disk_and_act(trained, data):
    """Within bounds, each row for itself: every action belongs to its own observation, whatever the others are."""
    loaded = srpo.load_run(trained.run.path).policies
    assert_equal(loaded, trained.run.policies)
    obs, key = np.concatenate([data.obs[:6], 10 * data.obs[:2]]).reshape(2, 4, 3), jax.random.key(0)
    changed = obs.copy()
    changed[0, 0] *= -2

    @jax.jit
    def act(policies, obs):
        return jax.vmap(jax.vmap(lambda policy: policy.act(obs, key)))(policies)

    actions, others = (np.asarray(act(loaded, x)).reshape(2, 2, 8, 2) for x in (obs, changed))
    assert np.isfinite(actions).all() and np.abs(actions).max() <= 1
    assert not np.array_equal(actions[0], actions[1])  # seeds
    leaves = map(np.asarray, jax.tree.leaves(loaded))
    assert any(not np.array_equal(leaf[:, 0], leaf[:, 1]) for leaf in leaves)  # swept values
    np.testing.assert_array_equal(actions[:, :, 1:], others[:, :, 1:])
    assert not np.array_equal(actions[:, :, 0], others[:, :, 0])


def test_its_policies_take_any_leading_axes(trained):
    """One observation, a batch of one or of none; two axes: the test before."""
    policy = jax.tree.map(lambda x: np.asarray(x)[0, 0], trained.run.policies)

    def shape_of(obs):
        return policy.act(obs, jax.random.key(0))

    for lead in ((), (1,), (0,)):
        assert jax.eval_shape(shape_of, jax.ShapeDtypeStruct((*lead, 3), "float32")).shape == (*lead, 2)
    with pytest.raises((ValueError, TypeError)):
        jax.eval_shape(shape_of, jax.ShapeDtypeStruct((3, 5), "float32"))  # 3 signals, 5 rows: the axes are swapped
