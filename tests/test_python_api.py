"""Calls from Python: whole numbers of any type, arrays of any holder, and mistakes that are one line and write nothing."""

import array

import numpy as np
import pytest

import srpo
from srpo.data import DataError, from_arrays, load_dataset
from srpo.deploy import Policy, export_run
from srpo.errors import ConfigError
from srpo.runs.run import RunError, load_run

N = 40
SMALL = {"policy.steps": 6, "policy.batch_size": 4, "policy.hidden": (8,)}


def arrays():
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(N, 3)), rng.uniform(-0.9, 0.9, (N, 2))
    flags = {"terminal": np.zeros(N, bool), "timeout": np.arange(N) % 10 == 9}
    return {"obs": obs, "action": action, "reward": rng.normal(size=N), **flags}


@pytest.fixture(scope="module")
def data():
    return from_arrays(**arrays())


@pytest.fixture(scope="module")
def algorithm(data):
    return srpo.configure("bc", data, **SMALL)


REFUSED = {
    "half an episode": ({"eval_episodes": 1.5}, "found 1.5 episodes per evaluation, expected a whole number, one or more"),
    "episodes as text": ({"eval_episodes": "3"}, "found '3' episodes per evaluation, expected a whole number"),
    "endless episodes": ({"eval_episodes": 10**7}, "found 10000000 episodes per evaluation, expected at most 1000000"),
    "half a step": ({"max_steps": 1.5}, "found 1.5 steps at most per episode, expected a whole number"),
    "no step": ({"max_steps": 0}, "found 0 steps at most per episode, expected one or more"),
    "endless steps": ({"max_steps": 2**31}, "found 2147483648 steps at most per episode, expected at most 2147483647"),
    "half an interval": ({"eval_every": 1.5}, "found 1.5 steps between evaluations, expected a whole number, zero"),
    "half a policy": ({"keep": 1.5}, "found 1.5 policies to keep, expected a whole number, 1 to 6"),
    "no policy": ({"keep": None}, "found None policies to keep, expected a whole number, 1 to 6"),
    "more than run.json holds": ({"keep": 10_001}, "found 10001 policies to keep, expected at most 10000"),
    "more than there are": ({"keep": np.int64(7)}, "found 7 policies to keep, expected 1 to 6"),
    "half a device": ({"devices": 0.5}, "found 0.5 devices to train on, expected a whole number"),
    "devices as text": ({"devices": "1"}, "found '1' devices to train on, expected a whole number"),
    "half a seed": ({"seeds": 1.5}, "seeds: found 1.5, expected how many, or which ones as whole numbers"),
    "a truth for how many": ({"seeds": True}, "seeds: found True, expected how many"),
    "half a seed of two": ({"seeds": [1, 0.5]}, r"seeds: found \[1, 0.5\], expected how many"),
    "a seed for how many": (
        {"seeds": 20240501},
        "found 20240501 of them, expected at most 100000; for one seed write --seeds 20240501,",
    ),
    "more seeds than any machine counts": ({"seeds": 10**30}, "of them, expected at most 100000; for one seed"),
    "a seed that is too large": ({"seeds": [2**32]}, "expected one or more different whole numbers from 0 to 4294967295"),
    "too many runs": (
        {"seeds": 1000, "sweep": {"policy.lr": np.linspace(1e-4, 1e-2, 200)}},
        "found 200000 runs, seeds times swept values, expected at most 100000",
    ),
    "a source that run.json cannot hold": (
        {"sources": {"policy.lr": "x" * 301}},
        r"run.json cannot hold this training .*sources.*; ask for less, or for shorter names",
    ),
    "one swept value": ({"sweep": {"policy.lr": 1e-3}}, "policy.lr: found 0.001, expected one or more different values"),
    "swept text": ({"sweep": {"policy.lr": "1e-3"}}, "policy.lr: found '1e-3', expected one or more different values"),
    "nothing swept": ({"sweep": {"policy.lr": []}}, r"policy.lr: found \[\], expected one or more different values"),
    "paths alone": ({"sweep": ["policy.lr"]}, r"sweep: found \['policy.lr'\], expected values by path"),
    "one logger": ({"sinks": "wandb2"}, "sinks: found 'wandb2', expected a list of tensorboard, wandb"),
    "a logger that is none": ({"sinks": ["wandb2"]}, "sinks: unknown logger 'wandb2'; did you mean 'wandb'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_train_cannot_mean_is_one_line_and_writes_nothing(case, algorithm, data, tmp_path):
    options, said = REFUSED[case]
    with pytest.raises(ConfigError, match=said) as refusal:
        srpo.train(algorithm, data, out=tmp_path / "run", quiet=True, **options)
    assert "\n" not in str(refusal.value) and not list(tmp_path.iterdir())


def test_whole_numbers_of_numpy_are_whole_numbers(algorithm, data, tmp_path):
    numbers = {"eval_every": np.int64(0), "eval_episodes": np.uint8(3), "max_steps": np.int32(50), "keep": np.int64(2)}
    run = srpo.train(algorithm, data, out=tmp_path / "a", seeds=np.int64(2), quiet=True, **numbers)
    assert run.seeds == (0, 1) and load_run(run.path).info["max_steps"] == 50 and load_run(run.path).kept == [3, 6]
    other = srpo.train(algorithm, data, out=tmp_path / "b", seeds=np.array([1, 0]), eval_every=0, quiet=True)
    assert other.seeds == (1, 0)
    np.testing.assert_allclose(other.policy(1).act(np.ones(3)), run.policy(1).act(np.ones(3)), atol=1e-6)


def test_what_is_no_algorithm_or_no_data_is_said(algorithm, data, tmp_path):
    for wrong in ("bc", type(algorithm), None):
        with pytest.raises(ConfigError, match=r"to train, expected an algorithm with its settings: srpo.configure\('bc'"):
            srpo.train(wrong, data, out=tmp_path / "run")
    for wrong in ("d.hdf5", None, arrays()):
        with pytest.raises(ConfigError, match=r"as data, expected a data set; load it first, with srpo.load_dataset"):
            srpo.configure("bc", wrong)
    for wrong in (None, 5, dict):
        with pytest.raises(ConfigError, match=r"is no algorithm; expected a subclass of srpo.Algorithm"):
            srpo.configure(wrong, data)
    assert not list(tmp_path.iterdir())


def test_a_run_is_named_by_its_folder_and_its_data_are_loaded(algorithm, data, tmp_path):
    run = srpo.train(algorithm, data, out=tmp_path / "run", quiet=True)
    for call in (load_run, srpo.resume, lambda run: srpo.train(algorithm, data, out=tmp_path / "other", start_from=run)):
        with pytest.raises(RunError, match="found a Run, expected the folder of a run, such as run.path"):
            call(run)
    with pytest.raises(ConfigError, match="found 'd.hdf5' as data, expected a data set; load it first"):
        srpo.resume(run.path, "d.hdf5")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("field", ["obs", "action", "reward", "terminal"])
def test_a_field_that_is_none_is_named(field):
    with pytest.raises(DataError, match=f"^mine: {field} is None, expected an array"):
        from_arrays(**arrays() | {field: None}, name="mine")


@pytest.mark.parametrize("env_id", [5, b"Hopper-v4", ["Hopper-v4"]])
def test_an_environment_that_is_no_text_is_refused(env_id):
    with pytest.raises(DataError, match="env_id is .*, expected the id of a Gymnasium environment, such as Hopper-v4"):
        from_arrays(**arrays(), env_id=env_id)


HOLDERS = {
    "array": lambda x: x,
    "memoryview": memoryview,
    "a view of another array": lambda x: x[:],
    "an object with __array__": lambda x: type("Tensor", (), {"__array__": lambda self, dtype=None, copy=None: x})(),
    "an object with __array_interface__": lambda x: type(
        "Buffer", (), {"__array_interface__": x.__array_interface__, "x": x}
    )(),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_arrays_are_copied_whatever_holds_them(holder):
    """Of the types that are kept as they are: nothing else would copy these."""
    given = arrays()
    given = {key: x.astype(np.float32) if x.dtype == np.float64 else x for key, x in given.items()}
    data = from_arrays(**{key: HOLDERS[holder](x) for key, x in given.items()})
    before = {key: getattr(data, key).copy() for key in given}
    for key, x in given.items():
        np.testing.assert_array_equal(before[key], x)
        x[:] = 1
        np.testing.assert_array_equal(getattr(data, key), before[key])
    flat = array.array("f", [0.5] * N)
    rewards = from_arrays(**arrays() | {"reward": flat})
    flat[0] = 7.0
    assert rewards.reward[0] == 0.5


def test_rewards_are_computed_where_no_timeouts_are_recorded(tmp_path):
    raw = arrays()
    names = {"observations": raw["obs"], "actions": raw["action"], "rewards": raw["reward"], "terminals": raw["timeout"]}
    np.savez(tmp_path / "logs.npz", **names)
    data = load_dataset(tmp_path / "logs.npz", reward=lambda obs, action, next_obs: next_obs[:, 0])
    ends = raw["timeout"]
    wanted = np.where(ends, raw["obs"][:, 0], np.roll(raw["obs"][:, 0], -1))
    np.testing.assert_allclose(data.reward, wanted, rtol=1e-6)


def test_export_finds_the_data_where_they_are_and_nowhere_else(algorithm, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "arrays").mkdir()  # as the source of data from memory is called
    in_memory = srpo.train(algorithm, data, out="memory", eval_every=0, quiet=True)
    assert any("arrays in memory" in note for note in export_run(in_memory, "memory.safetensors", calls=0)["notes"])
    assert Policy("memory.safetensors").support is None
    raw = arrays()
    names = {"observations": raw["obs"], "actions": raw["action"], "rewards": raw["reward"]}
    np.savez("lo?gs.npz", **names, terminals=raw["terminal"], timeouts=raw["timeout"])
    run = srpo.train(algorithm, "lo?gs.npz", out="file", quiet=True)
    export_run(run, "file.safetensors", calls=0)
    np.testing.assert_allclose(Policy("file.safetensors").support.mean, raw["obs"].mean(0), atol=1e-6)
    (tmp_path / "lo?gs.npz").unlink()
    assert any("is not here" in note for note in export_run(run, "gone.safetensors", calls=0)["notes"])
