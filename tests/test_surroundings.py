"""Machines and folders as they are: no home, no such device, double precision asked for, a full disk, two runs at once."""

import contextlib
import os
import pwd
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import ClassVar

import gymnasium
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import srpo
from srpo.cli import main
from srpo.data import DataError, from_arrays, load_dataset
from srpo.data.picture import draw
from srpo.data.sources import d4rl
from srpo.data.sources.spec import encoded
from srpo.evaluation.rollouts import FIRST_SEED, Limit, Rollouts
from srpo.networks.layers import Normalizer
from srpo.policies import DeterministicPolicy
from srpo.runs import tables
from srpo.runs.checkpoint import CheckpointError, NotWritten, write_atomically
from srpo.runs.folder import claimed, locked, next_free
from srpo.runs.mapping import sequential, vectorized
from srpo.runs.run import RunError
from srpo.runs.tables import CsvTable
from srpo.system.files import unfinished
from srpo.system.surroundings import in_float32, require_devices
from srpo.training import execution


def recorded(n=60, **options):
    rng = np.random.default_rng(0)
    end = np.isin(np.arange(n), (13, 29, 47))
    return from_arrays(rng.normal(size=(n, 3)), np.tanh(2 * rng.normal(size=(n, 2))), rng.normal(size=n), end, **options)


TINY = {"policy.steps": 4, "policy.hidden": (8,), "policy.batch_size": 8}


def test_a_platform_that_is_not_there_is_one_line():
    """Asked for one that JAX knows and, as JAX reads the variable only once, told another that it does not."""
    code = """
import os, sys
from srpo.cli import main
first = main(["train", "never-read.hdf5"])
os.environ["JAX_PLATFORMS"] = "nonsense"
sys.modules["jax"].config.update("jax_platforms", "nonsense")
sys.exit(f"{first} {main(['train', 'never-read.hdf5'])}")
"""
    environ = os.environ | {"JAX_PLATFORMS": "cuda"}
    said = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True).stderr.splitlines()
    told = [line for line in said if "srpo: error" in line]
    assert said[-1] == "2 2" and len(told) == 2 and not any("Traceback" in line for line in said)
    for line, asked in zip(told, ("cuda", "nonsense"), strict=True):
        assert f"JAX_PLATFORMS={asked}: JAX finds no such device here; unset it" in line


def test_a_platform_that_is_there_is_no_matter(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    require_devices()


def test_everything_is_computed_in_single_precision_whatever_jax_is_told():
    @in_float32
    def made():
        return jnp.zeros(2).dtype

    obs = np.ones((4, 3))
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else contextlib.nullcontext():
        assert made() == jnp.float32
        policy = DeterministicPolicy(lambda x: x * 2)
        assert policy.act(obs).dtype == jnp.float32


def test_without_a_home_folder(monkeypatch, tmp_path):
    def gone(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", gone)
    monkeypatch.delenv("D4RL_DATASET_DIR", raising=False)
    assert d4rl.folders() == [] and d4rl.local("hopper-medium-v2") is None
    with pytest.raises(DataError, match="no home folder .* set D4RL_DATASET_DIR"):
        load_dataset("hopper-medium-v2")
    with pytest.raises(DataError, match="no such file|unknown data set"):
        load_dataset("~/logs.hdf5")
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    assert d4rl.folders() == [tmp_path]


def test_names_with_dollars_are_drawn(tmp_path):
    draw(recorded(name="cost_$5_vs_$10"), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


LONG = "x" * 300


@pytest.mark.parametrize(
    "name", [LONG, *(f"{LONG}.{end}" for end in ("hdf5", "h5", "npz", "csv", "parquet", "toml")), f"{LONG}/a.npz"]
)
@pytest.mark.parametrize("query", ["", "?obs=a&action=b", "?obs=a"])
def test_a_name_longer_than_a_file_can_have_names_none(name, query, capsys):
    assert main(["data", "info", name + query]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and ("no such file" in error or "unknown data set" in error)


@pytest.mark.parametrize(
    "command",
    [
        "data convert hopper-medium-expert-mini LONG.hdf5",
        "data convert hopper-medium-expert-mini LONG/a.hdf5",
        "data make pointmaze-umaze --steps 10 --to LONG.hdf5",
        "data info hopper-medium-expert-mini --png LONG.png",
        "train hopper-medium-expert-mini --preset quick --no-eval --quiet --out LONG",
        "train --resume LONG",
        "eval LONG",
        "bench LONG",
        "suite report LONG",
    ],
)
def test_a_place_of_a_name_too_long_is_one_line(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(command.replace("LONG", LONG).split()) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not os.listdir(tmp_path)


def test_a_run_on_a_table_of_very_many_columns(tmp_path):
    """Its source names them all, which is longer than a name of a file, and than a line."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names = [f"joint_{i:03d}_{'position' * 3}" for i in range(200)]
    rng = np.random.default_rng(0)
    table = {name: rng.normal(size=30) for name in names} | {
        "u": rng.uniform(-1, 1, 30),
        "r": np.ones(30),
        "trip": np.arange(30) // 10,
    }
    parquet.write_table(pa.table(table), tmp_path / "arm.parquet")
    source = f"{tmp_path / 'arm.parquet'}?obs={','.join(names)}&action=u&reward=r&episode=trip"
    small = [f"--set=policy.{k}" for k in ("steps=2", "batch_size=4", "hidden=8")]
    arguments = ["--algo", "bc-gaussian", "--no-eval", "--quiet", "--action-range=-1,1", *small]
    assert main(["train", source, *arguments, "--out", str(tmp_path / "run")]) == 0
    known = srpo.load_run(tmp_path / "run").info["data"]
    assert len(known["source"]) > 5000 and load_dataset(known["source"], action_range=(-1, 1)).sha256 == known["sha256"]
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "policy.safetensors")]) == 0


@pytest.mark.parametrize("missing", ["nowhere.csv", "nowhere.hdf5"])
def test_what_cannot_be_converted_leaves_no_folder(missing, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "convert", missing, "new1/new2/out.hdf5"]) == 2
    assert "nowhere" in capsys.readouterr().err and not os.listdir(tmp_path)
    assert main(["data", "convert", "hopper-medium-expert-mini", "new1/new2/out.hdf5"]) == 0
    assert len(load_dataset(tmp_path / "new1" / "new2" / "out.hdf5")) > 0
    for out, said in (
        ("new1/new2/out.hdf5/b.hdf5", "cannot be made, as .*out.hdf5 is a file"),
        ("new1/new2/out.hdf5", "exists"),
    ):
        capsys.readouterr()
        assert main(["data", "convert", "hopper-medium-expert-mini", out]) == 2
        assert re.search(said, capsys.readouterr().err)


def test_names_that_are_not_utf8(tmp_path):
    """Of columns, in HDF5 and in CSV, and of the file that is written, on a terminal that takes nothing else."""
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["observations"], file["actions"] = np.eye(20, 2), 0.5 * np.eye(20, 1)
        file["rewards"], file["terminals"] = np.ones(20), np.arange(20) % 5 == 4
        file.attrs["obs_names"] = np.array(["größe".encode(), b"gr\xf6\xdfe"], dtype=h5py.string_dtype("utf-8"))
        file.attrs["action_names"] = ["u"]
    labels = ("größe", r"gr\udcf6\udcdfe"), ("u",)
    assert load_dataset(tmp_path / "a.hdf5").labels == labels
    code = "import sys; from srpo.cli import main; sys.exit(main(sys.argv[1:]))"
    out = os.fsencode(tmp_path) + b"/out\xff.hdf5"
    arguments = [sys.executable, "-c", code, "data", "convert", str(tmp_path / "a.hdf5"), out]
    done = subprocess.run(arguments, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    assert (done.returncode, done.stderr) == (0, b"") and rb"out\udcff.hdf5" in done.stdout
    assert load_dataset(os.fsdecode(out)).labels == labels


def test_a_table_that_is_not_utf8_says_so(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "a.csv").write_bytes("größe,u,r\n1,0.5,1\n2,0,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="a.csv: a column's name is not UTF-8 .*; save the file as UTF-8"):
        load_dataset(f"{tmp_path / 'a.csv'}?obs=*e&action=u&reward=r")
    parquet.write_table(pa.table({"x": [1.0, 2], "u": [0.0, 0.5], "r": [1, 1]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="no column is called .*udcff"):
        load_dataset(f"{tmp_path / 'b.parquet'}?{encoded({'obs': chr(0xDCFF), 'action': 'u'})}")
    os.rename(tmp_path / "b.parquet", os.fsencode(tmp_path) + b"/b\xff.parquet")
    with pytest.raises(DataError, match="the name of the file is not UTF-8; rename it"):
        load_dataset(f"{tmp_path}/b\udcff.parquet?obs=x&action=u&reward=r")


def test_endings_of_names_in_capitals(tmp_path):
    fields = dict(observations=np.eye(9), actions=np.eye(9, 2) - np.eye(9, 2, 1), rewards=np.ones(9), terminals=np.zeros(9))
    with h5py.File(tmp_path / "LOG.HDF5", "w") as file:
        for name, x in fields.items():
            file[name] = x
    assert len(load_dataset(tmp_path / "LOG.HDF5")) == 9


def test_a_file_that_is_still_being_written_is_not_called_corrupt(tmp_path):
    path = tmp_path / "log.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.eye(9)
        code = (
            "import sys; from srpo.data import load_dataset\ntry: load_dataset(sys.argv[1])\nexcept ValueError as e: print(e)"
        )
        said = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True).stdout
    assert "is open in another program" in said and "delete" not in said and "corrupt" not in said


# --- folders


def test_of_many_that_want_one_name_each_gets_its_own(tmp_path):
    found, start = [], threading.Barrier(8)

    def want():
        start.wait()
        found.append(next_free(tmp_path / "20260101-000000"))

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 8 and {p.name for p in found} == {
        "20260101-000000",
        *(f"20260101-000000-{n}" for n in range(2, 9)),
    }


def test_a_folder_is_claimed_by_one_and_given_back_if_nothing_comes_of_it(tmp_path):
    with pytest.raises(CheckpointError, match="no room"), claimed(tmp_path / "run"):
        with pytest.raises(RunError, match="another process"), claimed(tmp_path / "run"):
            pass
        raise CheckpointError("no room")
    assert not (tmp_path / "run").exists()
    (tmp_path / "empty").mkdir()
    with claimed(tmp_path / "empty"):
        (tmp_path / "empty" / "run.json").write_text("{}")
    for place, what in (("empty", "holds another run"), ("..", "not an empty folder")):
        with pytest.raises(RunError, match=what), claimed(tmp_path / "empty" / ".." / place if place == "empty" else tmp_path):
            pass
    with locked(tmp_path / "empty"), pytest.raises(RunError, match="another process"), locked(tmp_path / "empty"):
        pass


LEFT = {  # by what a kill left in the folder before the run was one
    "the lock": ("lock",),
    "half of run.json": ("lock", "run.json.part"),
    "half a stage of another run": ("lock", "stages/critic.safetensors.part"),
    "all stages": ("lock", "stages/critic.safetensors", "stages/policy@5.safetensors", "run.json.part"),
}
OTHERS = {
    "no lock": ("stages/policy.safetensors",),
    "another's stages": ("lock", "stages/plan.md"),
    "tables": ("lock", "stages/policy.safetensors", "metrics.csv"),
    "half of another file": ("lock", "thesis.part"),
}


@pytest.mark.parametrize("case", [*LEFT, *OTHERS])
def test_what_a_kill_left_of_a_run_makes_room_and_what_is_anothers_stays(case, tmp_path):
    for name in (LEFT | OTHERS)[case]:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("left")
    before = sorted(tmp_path.rglob("*"))
    if case in OTHERS:
        with pytest.raises(RunError, match="not an empty folder"), claimed(tmp_path / "run"):
            pass
        assert sorted(tmp_path.rglob("*")) == before
        return
    with claimed(tmp_path / "run"):
        assert [f.name for f in (tmp_path / "run").iterdir()] == ["lock"]


def test_a_folder_of_stages_elsewhere_is_left_alone(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/policy.safetensors").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lock").touch()
    (tmp_path / "run/stages").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="not an empty folder"), claimed(tmp_path / "run"):
        pass
    assert (tmp_path / "elsewhere/policy.safetensors").read_text() == "precious"


@pytest.mark.parametrize("moment", ["policy.safetensors", "run.json"])
def test_a_run_that_is_stopped_while_it_is_made_leaves_nothing(moment, tmp_path, monkeypatch):
    data, real = recorded(), os.replace
    algorithm = srpo.configure("bc", data, **TINY)
    options = {"eval_every": 0, "quiet": True}
    first = srpo.train(algorithm, data, out=tmp_path / "first", **options)

    def stopping(part, path):
        if path.name == moment:
            raise KeyboardInterrupt
        real(part, path)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", stopping)
        srpo.train(algorithm, data, out=tmp_path / "second", start_from=first.path, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["first"]


def test_a_full_disk_at_a_row_of_a_table_is_one_line(tmp_path, monkeypatch):
    table = CsvTable(tmp_path / "metrics.csv", {"step": tables.WHOLE, "value": tables.NUMBER})
    table.append([{"step": 1, "value": 2.0}])
    if os.path.exists("/dev/full"):
        monkeypatch.setattr(tables, "appended", lambda path: open("/dev/full", "wb"))  # noqa: SIM115
        with pytest.raises(CheckpointError, match=r"cannot write .*metrics.csv: No space left .* earlier rows are intact"):
            table.append([{"step": i, "value": 0.0} for i in range(9999)])


def test_training_on_a_full_disk_says_how_to_go_on(tmp_path, monkeypatch):
    def full(self, rows):
        raise NotWritten(f"cannot write {self.path}: No space left on device")

    monkeypatch.setattr(CsvTable, "append", full)
    data = recorded()
    with pytest.raises(
        CheckpointError, match=r"No space left on device; make room, then continue with: srpo train --resume .*run"
    ):
        srpo.train(srpo.configure("bc", data, **TINY), data, out=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    assert srpo.resume(tmp_path / "run", data, quiet=True).complete


# --- environments


class Endless(gymnasium.Env):
    """Never ends; its reward is NaN at the third step."""

    observation_space, action_space = gymnasium.spaces.Box(-9, 9, (3,)), gymnasium.spaces.Box(-1, 1, (2,))

    def reset(self, seed=None, options=None):
        self.steps = 0
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(3, np.float32), float("nan") if self.steps == 3 else 1.0, False, False, {}


if "Endless-v0" not in gymnasium.registry:
    gymnasium.register("Endless-v0", entry_point=Endless)


class Still:
    """A policy as `Rollouts` sees it."""

    def act(self, obs, key=None):
        return jnp.zeros(2)


def test_episodes_are_cut_and_what_is_wrong_with_them_is_said():
    jax.tree_util.register_pytree_node(Still, lambda _: ((), None), lambda *_: Still())
    found = Rollouts("Endless-v0", (1, 1), 2, limit=Limit(5, "as told"))(Still())
    assert (found.lengths == 5).all() and np.isnan(found.returns).all()
    assert found.notes == (
        "Endless-v0 gave a reward of nan at step 2 of episode 0 (environment seed 1001): its return says nothing",
        "2 episodes were cut after 5 steps, as told",
    )


class Brief(gymnasium.Env):
    """Episode i ends after 3 i + 1 steps."""

    observation_space, action_space = gymnasium.spaces.Box(-9, 9, (3,)), gymnasium.spaces.Box(-1, 1, (2,))

    def reset(self, seed=None, options=None):
        self.left = 3 * (seed - FIRST_SEED) + 1
        return np.full(3, self.left, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.full(3, self.left, np.float32), float(action[0]), self.left == 0, False, {}


if "Brief-v0" not in gymnasium.registry:
    gymnasium.register("Brief-v0", entry_point=Brief)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counted:
    """Draws at random, and counts how often it acts."""

    scale: jax.Array
    in_turn: bool = field(default=False, metadata={"static": True})
    calls: ClassVar[list[int]] = []

    def act(self, obs, key):
        jax.debug.callback(lambda obs: Counted.calls.append(1), obs)
        return jnp.tanh(self.scale * obs[0] + jax.random.normal(key, (2,)))


def acted(policy, mapping):
    Counted.calls.clear()
    found = Rollouts("Brief-v0", (2, 1), 4, mapping)(policy)
    jax.effects_barrier()
    assert (found.lengths == [1, 4, 7, 10]).all()
    return found.returns, len(Counted.calls)


def test_a_policy_that_acts_in_turn_does_not_act_for_episodes_that_are_over():
    """And what it draws depends neither on that nor on how runs are mapped."""
    scale = jnp.array([[0.1], [0.2]])
    returns, calls = acted(Counted(scale), sequential)
    assert calls == 2 * 4 * 10  # as long as one lasts
    for mapping, expected in ((sequential, 2 * (1 + 4 + 7 + 10)), (vectorized, 2 * 4 * 10)):
        found, calls = acted(Counted(scale, in_turn=True), mapping)
        np.testing.assert_allclose(found, returns, rtol=1e-6)
        assert calls == expected


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    data = recorded(env_id="Endless-v0", name="endless")
    out = tmp_path_factory.mktemp("endless") / "run"
    return srpo.train(srpo.configure("bc", data, **TINY), data, out=out, eval_every=2, eval_episodes=1, quiet=True), data


def test_without_a_time_limit_episodes_end_with_the_longest_of_the_data(trained, capsys):
    run, data = trained
    longest = int(np.diff(data.episodes).max())
    found = srpo.evaluate(run, 1)
    assert any(f"cut after {longest} steps, the longest episode of the data" in note for note in found.notes)
    assert "warning: " in str(found) and srpo.evaluate(run, 1, max_steps=2).summaries[0].mean == 2
    assert main(["eval", str(run.path), "--episodes", "1", "--json", "--quiet"]) == 0
    out = capsys.readouterr()
    assert '"mean": null' in out.out and "NaN" not in out.out and "a reward of nan at step 2" in out.err


def test_an_evaluation_can_be_stopped_and_is_made_up_for(trained, tmp_path, monkeypatch):
    run, data = trained
    whole = (run.path / "evals.csv").read_text()

    def stop(self, step):
        os.kill(os.getpid(), 2)

    with monkeypatch.context() as patched:
        patched.setattr(execution.Reporter, "evaluating", stop)
        with pytest.raises(execution.Interrupted, match="stopped at step 2 of stage policy"):
            srpo.train(run.algorithm, data, out=tmp_path / "run", eval_every=2, eval_episodes=1, quiet=True)
    assert (tmp_path / "run" / "state" / "policy.safetensors").exists()
    srpo.resume(tmp_path / "run", data, quiet=True)
    kept = [line for line in whole.splitlines() if "final" not in line]
    assert (tmp_path / "run" / "evals.csv").read_text().splitlines()[1:] == [x for x in kept[1:] if "training" in x]


def test_a_film_needs_pictures(trained, tmp_path):
    pytest.importorskip("imageio")
    from srpo.evaluation.video import VideoError, record

    with pytest.raises(VideoError, match="Endless-v0 renders no pictures .* without --video"):
        record(trained[0], tmp_path / "a.mp4")


# --- numbers


def test_small_deviations_are_kept_and_ordinary_ones_are_as_in_the_papers():
    x = np.random.default_rng(0).normal(size=(500, 4)) * [1.0, 0.05, 1e-6, 0.0]
    moments = jnp.asarray(x.mean(0), jnp.float32), jnp.asarray(x.std(0), jnp.float32)
    seen = np.asarray(Normalizer.of(moments)(jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(seen[:, :2], (x - x.mean(0))[:, :2] / (x.std(0)[:2] + 1e-3), atol=1e-4)
    assert seen[:, 2].std() == pytest.approx(1, rel=0.01) and not seen[:, 3].any()


def test_observations_of_another_size_are_never_broadcast():
    normalizer = Normalizer.identity(3)
    for shape in ((1,), (3, 1), ()):
        with pytest.raises(ValueError, match="expected"):
            normalizer(jnp.zeros(shape))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes of this kind")
def test_a_device_keeps_its_name(tmp_path, capsys):
    """Who writes to /dev/null and may do everything would take it from all programs of the machine; here a pipe stands for it."""
    place = tmp_path / "null.png"
    os.mkfifo(place)
    with pytest.raises(NotWritten, match="it is a device or a pipe, name a file"):
        write_atomically(place, b"{}")
    with pytest.raises(OSError, match="it is a device or a pipe"), unfinished(place):
        pass
    assert main(["data", "info", "hopper-medium-expert-mini", "--png", str(place)]) == 2
    assert "device or a pipe" in capsys.readouterr().err and os.listdir(tmp_path) == ["null.png"] and place.is_fifo()
