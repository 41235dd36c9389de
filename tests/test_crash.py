"""Death at chosen moments of a training: at the n-th thing done on disk everything after it does not happen, then the run is resumed.

The results must be those of a run that never died, byte for byte. `test_a_killed_process_resumes_bit_for_bit` in
test_training.py does it once with a real SIGKILL.
"""

import json
import os
import shutil
import signal
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

import srpo
from srpo import algorithms
from srpo.config import assign_all, setting, static
from srpo.core import Algorithm, Frozen, Stage, TrainState, Trial, descend
from srpo.data import from_arrays
from srpo.data.treated import treat
from srpo.data.treatments import Treatment
from srpo.errors import ConfigError
from srpo.optim import adam
from srpo.runs import checkpoint, tables
from srpo.runs.run import load_run
from srpo.system.files import unfinished
from srpo.training import execution
from srpo.training.loop import StageLoop
from srpo.training.saving import Saving

CASES = {  # algorithm, sweep; each as tiny as its own trial, and shorter
    "a sweep": ("bc-gaussian", {"policy.lr": [1e-3, 1e-2]}),
    "several networks in a stage": ("td3-bc", {}),
    "tables over all rows": ("test_crash:OfTables", {}),  # SfBC's and Diffuser's networks compile for long and die no other way
    "windows": ("test_crash:OfWindows", {}),
}
STEPS = 4


def begun(data, key):
    return TrainState.create(jax.random.normal(key, (data.obs_size,)), adam(1e-2), target=True)


def fitted(state, obs, value, key):
    """One step of a linear model."""

    def loss(weight):
        error = obs @ weight - value + 0.1 * jax.random.normal(key)
        return jnp.mean(error**2), {"loss": jnp.mean(error**2)}

    return descend(state, adam(1e-2), loss, ema=0.1)


class Line(Stage):
    """A linear model of the value of a window."""

    steps: int = static(STEPS, "gradient steps")
    batch_size: int = static(16, "windows per step")

    def view(self, dataset):
        return dataset.windows(4)

    def init(self, data, given, key):
        return begun(data, key)

    def update(self, state, batch, given, key, step):
        return fitted(state, batch.obs[:, -1], batch.value, key)

    def result(self, state):
        return state.target


class Spoiled(Line):
    """A linear model whose state, but no metric, is spoiled by a step."""

    last: float = setting(99.0, "how many steps leave it whole")

    def update(self, state, batch, given, key, step):
        state, metrics = fitted(state, batch.obs[:, -1], batch.value, key)
        spoiled = jnp.where(step < self.last, state.model, jnp.inf)
        return TrainState(spoiled, state.target, state.opt_state), {f"loss{self.of}": metrics["loss"]}

    of: str = static("", "what its metric is called after that")


class Table(Stage):
    """A number for each row, in their order."""

    trains = False
    steps: int = static(STEPS, "steps to fill it")
    batch_size: int = static(30, "rows per step")

    def init(self, data, given, key):
        return jnp.zeros(data.n_rows)

    def draw(self, view, key, step):
        return jnp.minimum(self.batch_size * step + jnp.arange(self.batch_size), view.n_rows - 1)

    def update(self, state, batch, given, key, step):
        value = batch.reward + jax.random.normal(key, batch.reward.shape)
        return state.at[batch.index].set(value), {"value": jnp.mean(value)}

    def result(self, state):
        return Frozen(state)


class OfTable(Stage):
    """A linear model of what a table holds, whose state is the table as well."""

    needs = ("table",)
    steps: int = static(STEPS, "gradient steps")
    batch_size: int = static(16, "rows per step")

    def init(self, data, given, key):
        return begun(data, key), given["table"].value

    def update(self, state, batch, given, key, step):
        line, table = state
        line, metrics = fitted(line, batch.obs, table[batch.index], key)
        return (line, table.at[batch.index].add(0.1)), metrics

    def result(self, state):
        return Frozen(state[0].target)


class Still(eqx.Module):
    """A policy that stands still, whatever was trained."""

    trained: Any

    def act(self, obs, key=None):
        return jnp.zeros((*obs.shape[:-1], 2))


class OfTables(Algorithm):
    data: Treatment = Treatment()
    table: Table = Table()
    line: OfTable = OfTable()
    acts_with = ("line",)
    trial = Trial({}, ("", 0.0, 0.0), ())

    def make_policy(self, trained):
        return Still(trained["line"])


class OfWindows(Algorithm):
    data: Treatment = Treatment()
    first: Line = Line()
    second: Line = Line()
    acts_with = ("second",)
    trial = Trial({}, ("", 0.0, 0.0), ())

    def make_policy(self, trained):
        return Still(trained["second"])


class OfSpoiled(Algorithm):
    data: Treatment = Treatment()
    line: Spoiled = Spoiled()
    acts_with = ("line",)
    trial = Trial({}, ("", 0.0, 0.0), ())

    def make_policy(self, trained):
        return Still(trained["line"])


def shortened(name, data):
    """The algorithm as its trial has it, a few steps per stage."""
    cls = algorithms.named(name)
    tiny = assign_all(srpo.configure(cls, data), cls.trial.settings)
    return assign_all(tiny, {f"{stage}.steps": STEPS for stage, each in tiny.stages.items() if each.trains})


class Death(BaseException):
    """Nothing catches it, and nothing is written after it."""


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    end = np.arange(120) % 20 == 19
    return from_arrays(rng.normal(size=(120, 3)), rng.uniform(-1, 1, (120, 2)), rng.normal(size=120), end, name="tiny")


def dying(patched, moment):
    """From the `moment`-th call on, everything done on disk is a death; a table's rows are then written by half."""
    done = 0

    def counted(real, half=None):
        def call(*args, **options):
            nonlocal done
            done += 1
            if done == moment and half is not None:
                half(*args)
            if done >= moment:
                raise Death
            return real(*args, **options)

        return call

    def torn(self, rows):
        with open(self.path, "a") as f:
            f.write(",".join(map(str, next(iter(rows), {}).values()))[:9])

    patched.setattr(checkpoint, "created", counted(checkpoint.created))
    patched.setattr(os, "replace", counted(os.replace))
    patched.setattr(tables.CsvTable, "append", counted(tables.CsvTable.append, torn))


def files(path):
    return {p.name: p.read_bytes() for p in sorted(path.rglob("*")) if p.suffix in (".safetensors", ".csv")}


@pytest.mark.parametrize("case", CASES)
def test_dying_and_resuming_equals_not_dying(case, data, tmp_path, monkeypatch):
    name, sweep = CASES[case]
    algorithm = shortened(name, data)
    often = Saving(seconds=0.0)  # a checkpoint after every call
    options = {"seeds": 2, "sweep": sweep, "eval_every": 0, "quiet": True, "saving": often}
    whole = srpo.train(algorithm, data, out=tmp_path / "whole", **options)
    run, lives = tmp_path / "run", 0
    for moment in (6, 13, 9):
        with monkeypatch.context() as patched:
            dying(patched, moment)
            try:
                if lives == 0:
                    srpo.train(algorithm, data, out=run, **options)
                else:
                    srpo.resume(run, data, quiet=True, saving=often)
            except Death:
                lives += 1
    assert lives > 1
    resumed = srpo.resume(run, data, quiet=True)
    assert files(resumed.path) == files(whole.path)
    assert not list(run.rglob("*.part"))


SPOILED = {"sweep": {"line.last": [99.0, 1.0]}, "eval_every": 0, "quiet": True}
FAILURE = {"stage": "line", "step": 2, "metric": "a parameter", "seed": 0, "point": [["line.last", 1.0]]}


def test_a_state_that_its_last_step_spoiled_is_neither_kept_nor_forgotten(data, tmp_path, monkeypatch):
    algorithm = algorithms.named("test_crash:OfSpoiled").default()
    run = srpo.train(algorithm, data, out=tmp_path / "whole", keep=STEPS, **SPOILED)
    assert run.failures == [FAILURE]
    for step in run.kept:
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.policies_at(step)))
    then = execution.Reporter.step

    def stopped(self, loop, means):
        then(self, loop, means)
        if loop.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched, pytest.raises(execution.Interrupted):  # what is found when it is saved
        patched.setattr(execution.Reporter, "step", stopped)
        srpo.train(algorithm, data, out=tmp_path / "run", **SPOILED)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["failures"] == [FAILURE]
    (tmp_path / "run" / "run.json").write_text(json.dumps(info | {"failures": []}))  # a kill came between the two files
    assert srpo.resume(tmp_path / "run", data, quiet=True).failures == [FAILURE]


def test_a_metric_that_no_table_can_hold_is_refused_before_training(data, tmp_path):
    with pytest.raises(ConfigError, match=r"stage line: metric 'loss, twice': expected a name of letters, digits"):
        srpo.train(
            algorithms.named("test_crash:OfSpoiled").default().set("line.of", ", twice"),
            data,
            out=tmp_path / "run",
            eval_every=0,
            quiet=True,
        )
    assert not (tmp_path / "run").exists()


def test_a_run_that_another_process_went_on_with_is_not_trained_again(data, tmp_path, monkeypatch):
    """Its files were read, then its data, and the other process was done before the folder was locked."""

    def told(then, *args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(StageLoop, "calls", told)
        srpo.train(algorithms.named("test_crash:OfWindows").default(), data, out=tmp_path / "run", eval_every=0, quiet=True)
    stale = load_run(tmp_path / "run")
    whole = srpo.resume(stale.path, data, quiet=True)
    before = files(whole.path)
    left = whole.state_file("first")  # by a kill right after the stage was finished
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"")

    def again(self):
        raise AssertionError(f"{self.name} begins again")

    monkeypatch.setattr(StageLoop, "start", again)
    assert execution.execute(stale, treat(data, stale.algorithm.data, True), True, (), None, Saving()).complete
    assert files(whole.path) == before and not left.exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    rng = np.random.default_rng(0)
    end = np.arange(80) % 20 == 19
    arrays = rng.normal(size=(80, 11)), rng.uniform(-1, 1, (80, 3)), rng.normal(size=80), np.zeros(80, bool), end
    hopper = from_arrays(*arrays, env_id="Hopper-v4", name="tiny")
    out = tmp_path_factory.mktemp("trained") / "run"
    return srpo.train(shortened("bc-gaussian", hopper), hopper, out=out, eval_every=0, quiet=True)


def test_an_evaluation_that_dies_is_made_again_and_loses_nothing(trained, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(trained.path, run)
    srpo.evaluate(str(run), 2)
    whole = (run / "evals.csv").read_bytes()
    for moment in (1, 2):
        with monkeypatch.context() as patched:
            dying(patched, moment)
            with pytest.raises(Death):
                srpo.evaluate(str(run), 2)
        assert (run / "evals.csv").read_bytes() == whole  # the episodes before it are still there
    srpo.evaluate(str(run), 2)
    assert files(run) == files(trained.path) | {"evals.csv": whole}


def test_an_export_that_dies_is_made_again(trained, tmp_path, monkeypatch):
    def policies(folder):
        with safe_open(folder / "policy.safetensors", "numpy") as file:  # its header lists what it says in any order
            held = file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        return held, (folder / "policy.onnx").read_bytes()

    options = {"seed": 0, "calls": 0, "formats": ("numpy", "onnx")}
    srpo.deploy.export_run(trained, tmp_path / "whole", **options)
    died = 0
    for moment in (1, 2, 3):
        with monkeypatch.context() as patched:
            dying(patched, moment)
            try:
                srpo.deploy.export_run(trained, tmp_path / "again", force=True, **options)
            except Death:
                died += 1
    assert died == 3
    srpo.deploy.export_run(trained, tmp_path / "again", force=True, **options)
    assert policies(tmp_path / "again") == policies(tmp_path / "whole")
    assert {p.name for p in (tmp_path / "again").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}


def test_what_killed_processes_left_half_written_goes_and_what_others_write_stays(tmp_path):
    left, others, alike = tmp_path / ".data.17.part.hdf5", tmp_path / ".data.18.part.hdf5", tmp_path / ".data-2.17.part.hdf5"
    folder = tmp_path / ".data.19.part.hdf5"
    folder.mkdir()
    for path in (left, others, alike, folder / "inside"):
        path.write_bytes(b"half")
    for path in (left, folder):
        os.utime(path, (1.0, 1.0))
    with unfinished(tmp_path / "data.hdf5") as part:
        part.write_bytes(b"whole")
        assert sorted(tmp_path.iterdir()) == sorted([others, alike, part])
    assert sorted(tmp_path.iterdir()) == sorted([others, alike])
