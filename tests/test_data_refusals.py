"""Bad data is refused with one line that names the file, the field, the place and what to do."""

import pickle
import re

import h5py
import numpy as np
import pytest

from srpo.data import DataError, from_arrays, load_dataset
from srpo.data.checks import FIELDS
from srpo.errors import UserError
from srpo.worlds.environments import check_environment


def good(rows=20):
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(rows, 3)),
        "actions": rng.uniform(-1, 1, (rows, 2)),
        "rewards": rng.normal(size=rows),
        "terminals": np.arange(rows) % 7 == 6,
        "timeouts": np.zeros(rows, bool),
    }


def at(field, index, value):
    """The good arrays with one entry replaced."""
    arrays = good()
    arrays[field] = np.array(arrays[field], np.float64)
    arrays[field][index] = value
    return arrays


BAD = {  # what is wrong: arrays, and what the message must say
    "missing observations": (good() | {"observations": None}, ("'observations' is missing", "actions")),
    "missing actions": (good() | {"actions": None}, ("'actions' is missing",)),
    "missing rewards": (
        {k: v for k, v in good().items() if k != "rewards"} | {"reward": np.ones(20)},
        ("'rewards' is missing", "rename 'reward'"),
    ),
    "missing terminals": (good() | {"terminals": None}, ("'terminals' is missing",)),
    "rank of observations": (good() | {"observations": np.ones(20)}, ("observations", "(20,)", "(rows, size)")),
    "rank of actions": (good() | {"actions": np.ones((20, 2, 1))}, ("actions", "(20, 2, 1)")),
    "rank of rewards": (good() | {"rewards": np.ones((20, 3))}, ("rewards", "(20, 3)", "(rows,)")),
    "empty rows": (good() | {"actions": np.ones((20, 0))}, ("actions", "(20, 0)")),
    "length of actions": (good() | {"actions": np.ones((19, 2))}, ("actions has 19 rows", "observations has 20")),
    "length of timeouts": (good() | {"timeouts": np.ones(21, bool)}, ("timeouts has 21 rows",)),
    "shape of next observations": (
        good() | {"next_observations": np.ones((20, 4))},
        ("next_observations", "(20, 4)", "leave the field out"),
    ),
    "NaN observation": (at("observations", (4, 2), np.nan), ("observations[4, 2] is nan", "finite")),
    "infinite reward": (at("rewards", 5, -np.inf), ("rewards[5] is -inf",)),
    "NaN terminal": (at("terminals", 6, np.nan), ("terminals[6] is nan",)),
    "too large for float32": (at("observations", (1, 0), 1e39), ("observations[1, 0] is 1e+39", "float32")),
    "a mark for a missing reading": (
        at("observations", (1, 0), np.finfo(np.float32).max),
        ("observations[1, 0] is 3.40282e+38", "missing"),
    ),
    "a mark for a missing reading of a time": (
        good() | {"observations": np.where(np.arange(60).reshape(20, 3) == 5, np.iinfo(np.int64).min, 1)},
        ("observations[1, 2] is -9.22337e+18", "missing"),
    ),
    "action too large": (at("actions", (7, 1), 2.5), ("actions[7, 1] is 2.5", "expected [-1, 1]", "rescale")),
    "action just too large": (at("actions", (0, 0), -1.0001), ("actions[0, 0] is -1.0001",)),
    "flag": (at("terminals", 3, 0.5), ("terminals[3] is 0.5", "true or false")),
    "negative flag": (at("timeouts", 2, -1), ("timeouts[2] is -1",)),
    "complex numbers": (good() | {"rewards": np.ones(20, complex)}, ("rewards", "complex128", "float32")),
    "empty": ({key: x[:0] for key, x in good().items()}, ("observations is empty", "at least two rows")),
    "one row": ({key: x[:1] for key, x in good().items()}, ("single episode of length 1",)),
}


def write(path, arrays):
    arrays = {key: x for key, x in arrays.items() if x is not None}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return path
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values
    return path


def refusal(source) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(source)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_in_files(tmp_path, case, suffix):
    arrays, expected = BAD[case]
    path = write(tmp_path / f"logs{suffix}", arrays)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    for part in expected:
        assert part in message


def test_the_good_arrays_are_accepted(tmp_path):
    for suffix in (".hdf5", ".npz"):
        assert len(load_dataset(write(tmp_path / f"logs{suffix}", good()))) == 20


OURS = {name: key for key, name in FIELDS.items()}


@pytest.mark.parametrize("case", [c for c in BAD if not c.startswith("missing")])
def test_bad_arrays_in_memory_are_named_as_the_arguments(case):
    arrays, _ = BAD[case]
    with pytest.raises(DataError) as caught:
        from_arrays(**{OURS[name]: x for name, x in arrays.items()}, name="my run")
    assert re.match(r"my run: (obs|action|reward|terminal|timeout|next_obs|a single episode)\b", str(caught.value))


def test_text_and_ragged_rows():
    arrays = {OURS[name]: x for name, x in good().items()}
    with pytest.raises(DataError, match="reward has type <U1, expected numbers"):
        from_arrays(**arrays | {"reward": ["a"] * 20})
    with pytest.raises(DataError, match="obs has rows of different lengths"):
        from_arrays(**arrays | {"obs": [[1.0], [1.0, 2.0]] * 10})


def test_text_in_files(tmp_path):
    with h5py.File(write(tmp_path / "logs.hdf5", good() | {"rewards": None}), "a") as file:
        file["rewards"] = ["text"] * 20
    assert "rewards has type object" in refusal(tmp_path / "logs.hdf5")
    assert "rewards has type <U4" in refusal(write(tmp_path / "logs.npz", good() | {"rewards": np.array(["text"] * 20)}))


def test_a_group_in_the_place_of_a_field(tmp_path):
    with h5py.File(write(tmp_path / "logs.hdf5", good() | {"rewards": None}), "a") as file:
        file.create_group("rewards")
    assert "'rewards' is missing" in refusal(tmp_path / "logs.hdf5")


def test_pickles_in_npz_are_never_loaded(tmp_path):
    path = write(tmp_path / "logs.npz", good() | {"rewards": np.array([Trap()] * 20, dtype=object)})
    message = refusal(path)
    assert "rewards is an object array (a pickle)" in message and not Trap.sprung


class Trap:
    """Notes that it was unpickled."""

    sprung = False

    def __reduce__(self):
        return (_spring, ())


def _spring():
    Trap.sprung = True
    return 0.0


def test_the_trap_works():
    assert pickle.loads(pickle.dumps(Trap())) == 0.0 and Trap.sprung
    Trap.sprung = False


@pytest.mark.parametrize("suffix", [".hdf5", ".h5", ".npz"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_files(tmp_path, suffix, keep):
    path = write(tmp_path / f"logs{suffix}", good(2000))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    message = refusal(path)
    assert message.startswith(f"{path}: ") and ("truncated or corrupt" in message or "not a complete npz" in message)


def test_corrupt_content(tmp_path):
    path = tmp_path / "logs.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in good(2000).items():
            file.create_dataset(name, data=values, compression="gzip")
        offset = file["rewards"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 200] = b"\0" * 200
    path.write_bytes(content)
    assert "truncated or corrupt" in refusal(path)
    path = write(tmp_path / "logs.npz", good(2000))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert "truncated or corrupt" in refusal(path)


def test_paths(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.hdf5")
    assert "is not a file" in refusal(tmp_path)
    (tmp_path / "logs.txt").write_text("1,2")
    assert "unknown kind of file '.txt'" in refusal(tmp_path / "logs.txt")
    (tmp_path / "logs.csv").write_text("1,2")
    assert "logs.csv: no columns are named for obs; give them" in refusal(tmp_path / "logs.csv")


@pytest.mark.parametrize(
    "name, near",
    [
        ("hopper-medium-v3", "hopper-medium-v2"),
        ("halfcheetah-medium-replay-min", "halfcheetah-medium-replay-mini"),
        ("antmaze-umase-v2", "antmaze-umaze-v2"),
    ],
)
def test_unknown_names_are_answered_with_the_closest(name, near):
    assert refusal(name) == f"unknown data set {name!r}; did you mean {near!r}?"


def test_a_name_like_nothing_known():
    assert "srpo data list" in refusal("xyzzy")


def test_the_sizes_must_be_those_of_the_environment():
    arrays = {OURS[name]: x for name, x in good().items()}
    with pytest.raises(UserError, match="observations have 3 columns, but Hopper-v4 has 11"):
        check_environment(from_arrays(**arrays, env_id="Hopper-v4"))
    with pytest.raises(UserError, match="actions have 2 columns, but Hopper-v4 has 3"):
        check_environment(from_arrays(**arrays | {"obs": np.zeros((20, 11))}, env_id="Hopper-v4"))
    with pytest.raises(UserError, match="CartPole-v1' has actions of the kind Discrete"):
        check_environment(from_arrays(**arrays | {"obs": np.zeros((20, 4))}, env_id="CartPole-v1"))
    with pytest.raises(UserError, match="needs the module 'antigravity', which no file may import"):
        check_environment(from_arrays(**arrays, env_id="antigravity:Hopper-v4"))
    check_environment(load_dataset("hopper-medium-expert-mini"))


def test_an_environment_that_is_not_installed():
    arrays = {OURS[name]: x for name, x in good().items()}
    check_environment(from_arrays(**arrays))  # none is named: nothing to check
    with pytest.raises(UserError, match="'NotInstalled-v0' is not available"):
        check_environment(from_arrays(**arrays, env_id="NotInstalled-v0"))
