"""Logs as robots and plants write them: tables, LeRobot, robomimic, d3rlpy; read as what happened, or refused in one line."""

import importlib
import json
import sys
from dataclasses import replace
from decimal import Decimal

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import srpo
from srpo.cli import main
from srpo.data import DataError, load_dataset
from srpo.data.again import observed, reload
from srpo.data.doubts import warnings_about
from srpo.data.info import summary
from srpo.data.sources.spec import Spec, read_spec, resolved, split
from srpo.data.writing import write_recording
from srpo.runs.run import RunError

pa = pytest.importorskip("pyarrow")
from pyarrow import csv, parquet  # noqa: E402

MAP = "obs=joint_*,temp&action=cmd_*&reward=r&episode=trip&time=t"


def columns(n=12, trips=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "t": np.concatenate([np.arange(n // trips) * 0.1 + 100 * i for i in range(trips)]),
        "trip": np.repeat(np.arange(trips), n // trips),
        "joint_0": rng.normal(size=n),
        "joint_1": rng.normal(size=n),
        "temp": rng.normal(20, 5, n),
        "cmd_a": rng.uniform(-1, 1, n),
        "cmd_b": rng.uniform(-1, 1, n),
        "r": rng.normal(size=n),
        "note": np.array(["ok"] * n),
    }


def write(path, found):
    table = pa.table(found)
    csv.write_csv(table, path) if path.suffix == ".csv" else parquet.write_table(table, path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_read_by_its_column_map(tmp_path, suffix):
    found = columns()
    data = load_dataset(f"{write(tmp_path / f'logs{suffix}', found)}?{MAP}&action_range=1".replace("&action_range=1", ""))
    np.testing.assert_allclose(data.recorded_obs, np.stack([found[k] for k in ("joint_0", "joint_1", "temp")], 1), rtol=1e-5)
    recorded = data.action if data.action_range is None else data.action_range.recorded(data.action)
    np.testing.assert_allclose(recorded, np.stack([found["cmd_a"], found["cmd_b"]], 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(data.reward, found["r"], rtol=1e-6)
    assert data.labels == (("joint_0", "joint_1", "temp"), ("cmd_a", "cmd_b"))
    np.testing.assert_array_equal(np.flatnonzero(data.timeout), [3, 7, 11])
    assert summary(data)["obs_names"] == ["joint_0", "joint_1", "temp"]


def test_a_folder_with_its_map_beside_it(tmp_path):
    folder = tmp_path / "trips"
    folder.mkdir()
    for i in range(2):
        write(folder / f"{i}.parquet", columns(seed=i))
    (tmp_path / "trips.toml").write_text('obs = ["joint_*"]\naction = "cmd_*"\nreward = "r"\n')
    data = load_dataset(folder)
    assert len(data) == 24 and data.obs_size == 2
    np.testing.assert_array_equal(np.flatnonzero(data.timeout), [11, 23])  # each file is one episode
    moved = load_dataset(data.source)  # a run finds it again by this
    assert moved.sha256 == data.sha256 and moved.labels == data.labels


def test_time_that_makes_a_long_step_cuts_an_episode(tmp_path):
    path = write(tmp_path / "a.csv", columns())
    data = load_dataset(f"{path}?obs=temp&action=cmd_*&reward=r&time=t&gap=1")
    np.testing.assert_array_equal(np.flatnonzero(data.timeout), [3, 7, 11])


def lacking(n=12):
    found = columns(n)
    temp = found["temp"].astype(object)
    temp[5] = None
    return found | {"temp": pa.array(temp, pa.float64())}


def test_missing_values_are_refused_dropped_or_held(tmp_path):
    path = write(tmp_path / "a.parquet", lacking())
    with pytest.raises(
        DataError, match=r"temp has no value in row 5 \(1 rows lack one\); add --missing drop .* or --missing hold"
    ):
        load_dataset(f"{path}?{MAP}")
    dropped, held = (load_dataset(f"{path}?{MAP}&missing={how}") for how in ("drop", "hold"))
    assert len(dropped) == 8 and np.flatnonzero(dropped.timeout).tolist() == [3, 7]
    assert held.recorded_obs[5, 2] == held.recorded_obs[4, 2] and len(held) == 12


def test_an_episode_ends_at_its_terminal_without_a_column_of_episodes(tmp_path):
    """What is missing is dropped with its own episode, held from no other, and time may begin anew."""
    gap = np.isin(np.arange(12), 4)
    found = columns() | {"t": np.arange(12) % 4, "end": np.arange(12) % 4 == 3}
    path = write(tmp_path / "a.parquet", found | {"temp": pa.array(found["temp"], mask=gap)})
    told = f"{path}?obs=temp&action=cmd_*&reward=r&time=t&terminal=end"
    data = load_dataset(f"{told}&missing=drop")
    np.testing.assert_array_equal(np.flatnonzero(data.terminal), [3, 7])
    np.testing.assert_allclose(data.recorded_obs[:, 0], np.delete(found["temp"], np.s_[4:8]), rtol=1e-6)
    with pytest.raises(DataError, match="temp has no value in row 4 and none before it in the episode"):
        load_dataset(f"{told}&missing=hold")


ODD = [
    "joint[0]",
    "x[1]",
    "x1",
    "a*",
    "ab",
    "pos, x",
    '5" disk',
    '"',
    " led",
    "led ",
    "100%",
    "a%2Cb",
    "p&q=1",
    "c#+d",
    "größe",
    "e\nf",
    "!",
]
NAMES = st.one_of(st.sampled_from(ODD), st.text(min_size=1, max_size=6).filter(str.strip))


@settings(deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=6, unique=True))
def test_names_of_any_characters_are_read_back_as_they_were_told(names):
    spec = Spec(tuple(names), ("u",))
    path, told = split(f"a.csv?{spec.query()}")
    again = read_spec(told, path)
    assert again == spec and resolved(again, [*names, "u"], "a.csv") == spec


@pytest.mark.parametrize(
    "wanted, found", [([name], [name]) for name in ODD] + [(["a?"], ["a*", "ab"]), (["x*"], ["x[1]", "x1"])]
)
def test_an_exact_name_comes_first_and_a_run_finds_it_again(tmp_path, wanted, found):
    table = columns() | {name: np.arange(12.0) + i for i, name in enumerate(ODD)}
    path = write(tmp_path / "a.parquet", table)
    (tmp_path / "a.toml").write_text(f'obs = {json.dumps(wanted)}\naction = ["cmd_*"]\nreward = "r"\n')
    data = load_dataset(path)
    assert list(data.labels[0]) == found
    np.testing.assert_array_equal(data.recorded_obs, np.stack([table[name] for name in found], 1))
    again = load_dataset(data.source)
    assert (again.sha256, again.labels, again.source) == (data.sha256, data.labels, data.source)


def test_names_on_the_command_line(tmp_path, capsys):
    path = write(tmp_path / "a.parquet", columns() | {"pos, x": np.arange(12.0), "y[0]": np.arange(12.0) ** 2})
    for told in ('"pos, x",y[0]', ' "pos, x" , y[0] ', "pos?*,y[[]0]"):
        arguments = ["data", "info", str(path), "--obs", told, "--action", "cmd_*", "--reward", "r", "--json"]
        code, (out, error) = main(arguments), capsys.readouterr()
        if "[[]" in told:
            assert code == 2 and "no column is called y[[]0]; did you mean y[0]?" in error
        else:
            assert code == 0 and json.loads(out)["obs_names"] == ["pos, x", "y[0]"]


FLAG = [0, 0, 0, 1] * 3
PLAIN = "obs=temp&action=cmd_*&reward=r"


@pytest.mark.parametrize("missing", ["refuse", "drop", "hold"])
@pytest.mark.parametrize(
    "key, found",
    [
        ("terminal", pa.array([*FLAG[:5], None, *FLAG[6:]])),
        ("terminal", pa.array([False] * 5 + [None] + [True] * 6)),
        ("terminal", np.where(np.arange(12) == 5, np.nan, FLAG)),
        ("episode", pa.array([7, 7, 7, 7, 8, None, 8, 8, 9, 9, 9, 9])),
        ("episode", pa.array(["a"] * 5 + [None] + ["b"] * 6)),
        ("episode", pa.array(["a"] * 5 + [""] + ["b"] * 6)),
        ("time", pa.array([*range(5), None, *range(6, 12)])),
        ("time", pa.array([*range(5), None, *range(6, 12)], pa.timestamp("us"))),
        ("time", pa.array([*range(5), None, *range(6, 12)], pa.float64())),
    ],
)
def test_a_row_without_an_end_an_episode_or_a_time_is_refused_whatever_is_told(tmp_path, key, found, missing):
    path = write(tmp_path / "a.parquet", columns() | {"x": found})
    with pytest.raises(DataError, match="a.parquet: x has no value in row 5; ") as refused:
        load_dataset(f"{path}?{PLAIN}&{key}=x&missing={missing}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("found", [FLAG, np.array(FLAG, bool), np.array(FLAG, np.float32)])
def test_ends_are_flags_whatever_their_type_and_name(tmp_path, found):
    path = write(tmp_path / "a.parquet", columns() | {"flag:end": found})
    data = load_dataset(f"{path}?{PLAIN}&terminal=flag:end&episode=trip")
    assert np.flatnonzero(data.terminal).tolist() == [3, 7, 11] and not data.timeout.any()


@pytest.mark.parametrize("wrong", [7, -3, 0.5, 2**60, np.inf])
def test_other_numbers_are_no_flags(tmp_path, wrong):
    path = write(tmp_path / "a.parquet", columns() | {"x": np.where(np.arange(12) == 3, wrong, FLAG)})
    with pytest.raises(DataError, match=r"x is .* in row 3, expected true or false \(1 or 0\)"):
        load_dataset(f"{path}?{PLAIN}&terminal=x")


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), *(pa.timestamp(unit) for unit in ("ms", "us", "ns"))])
@pytest.mark.parametrize("start, step", [(1_700_000_000_000_000_003, 100), (1_700_000_000_000_000_000, 10**7), (10**12, 1)])
def test_time_in_whole_numbers_is_exact(tmp_path, kind, start, step):
    """Beyond 2^53, which float64 does not hold; a gap cuts where a step is longer, and not where it is as long."""
    count = np.array([0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12])
    path = write(tmp_path / "a.parquet", columns() | {"t": pa.array((start + step * count).tolist(), kind)})
    per_second = {"ms": 1e3, "us": 1e6, "ns": 1e9}.get(getattr(kind, "unit", None), 1)
    for gap, last in ((step, [4, 11]), (2 * step, [11]), (step / 2, list(range(12)))):
        data = load_dataset(f"{path}?{PLAIN}&time=t&gap={gap / per_second}")
        assert np.flatnonzero(data.timeout).tolist() == last
    for row, said in ((5, "row 6 has the same time as row 5"), (4, "row 6 has an earlier time than row 5")):
        again = start + step * np.where(np.arange(12) == 6, count[row], count)
        write(path, columns() | {"t": pa.array(again.tolist(), kind)})
        with pytest.raises(DataError, match=said):
            load_dataset(f"{path}?{PLAIN}&time=t")


def test_whole_numbers_beyond_those_of_float64_are_observed(tmp_path):
    stamps = 2**53 + 1 + np.arange(12) * 10**7
    path = write(tmp_path / "a.parquet", columns() | {"t": stamps - 2**53, "far": 3 * 10**14 + np.arange(12)})
    data = load_dataset(f"{path}?obs=t,far&action=cmd_*&reward=r")
    np.testing.assert_allclose(np.diff(data.obs, axis=0), [[10**7, 1]] * 11, rtol=1e-6)
    write(path, columns() | {"t": stamps})
    with pytest.raises(DataError, match=r"observations\[0, 0\] is 9.0072e\+15, whose square float32 cannot hold; rescale"):
        load_dataset(f"{path}?obs=t&action=cmd_*&reward=r")


@pytest.mark.parametrize(
    "change, query, said",
    [
        ({"t": np.full(12, np.inf)}, MAP, "t is inf in row 0, expected a time"),
        ({}, "obs=join_*&action=cmd_*&reward=r", "no column is called join_.*did you mean joint_"),
        ({}, "obs=note&action=cmd_*&reward=r", "note holds string such as 'ok', expected numbers"),
        ({}, "obs=temp,temp&action=cmd_*&reward=r", "temp is named twice for obs"),
        ({}, "obs=temp&reward=r", "no columns are named for action"),
        ({}, "obs=temp&action=cmd_*&rewrd=r", "unknown key rewrd; did you mean 'reward'"),
        ({}, "obs=temp&action=cmd_*&reward=r&missing=skip", "found skip, expected one of refuse, drop, hold"),
        ({}, "obs=temp&action=cmd_*&reward=r&gap=2", "a gap cuts episodes by time; name the column of the time"),
        ({}, "obs=temp&action=cmd_*&reward=r&time=t&gap=soon", "gap is soon, expected seconds"),
        *(({}, f"{MAP}&gap={gap}", f"gap is {gap}, expected seconds, more than 0") for gap in ("0", "-1", "nan")),
        ({"temp": [*["0.5"] * 5, "ERR", *["1"] * 6]}, MAP, "temp holds string such as 'ERR', expected numbers"),
        ({"trip": [0, 1] * 6}, MAP, "trip changes in every row, to values that were there before; sort the rows"),
        ({}, "obs=temp&action=cmd_*&reward=joint_*", r"reward is joint_\*, which is 2 columns \(joint_0, joint_1\); name one"),
        ({"t": np.zeros(12)}, MAP, "row 1 has the same time as row 0"),
        ({"t": -np.arange(12.0)}, MAP, "row 1 has an earlier time than row 0"),
        ({}, "obs=temp&action=cmd_*", "no reward is recorded; name its column, or a function: --reward module:function"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, change, query, said):
    path = write(tmp_path / "a.csv", columns() | change)
    with pytest.raises(DataError, match=said) as found:
        load_dataset(f"{path}?{query}")
    assert (
        ("\n" not in str(found.value) and str(path) in str(found.value))
        or "named for" in said
        or "gap" in said
        or "expected one" in said
    )


@pytest.mark.parametrize("mark", [";", "\t"])
def test_another_separator_than_commas_is_named(tmp_path, mark):
    (tmp_path / "a.csv").write_text(f"a{mark}b\n1{mark}2\n3{mark}4\n")
    with pytest.raises(DataError) as found:
        load_dataset(f"{tmp_path / 'a.csv'}?obs=a&action=b")
    assert f"the file is separated by {mark!r}; write it with commas" in str(found.value)


def test_blanks_around_names_and_decimals_are_read(tmp_path):
    """As in files of "a, b", and of data bases."""
    found = columns()
    spaced = write(tmp_path / "a.csv", {f" {name}": x for name, x in found.items()})
    exact = [Decimal(round(x * 1000)) / 1000 for x in found["temp"]]
    data = load_dataset(f"{write(tmp_path / 'b.parquet', found | {'temp': exact})}?{MAP}")
    np.testing.assert_allclose(data.recorded_obs[:, 2], np.asarray(exact, float), rtol=1e-6)
    data = load_dataset(f"{spaced}?{MAP}")
    np.testing.assert_allclose(data.recorded_obs[:, 2], found["temp"], rtol=1e-6)
    assert data.labels == ((" joint_0", " joint_1", " temp"), (" cmd_a", " cmd_b"))


def test_episodes_that_come_back_are_said(tmp_path):
    found = columns() | {"trip": np.array([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 2, 2])}
    told = "obs=temp&action=cmd_*&reward=r&episode=trip"
    data = load_dataset(f"{write(tmp_path / 'a.csv', found)}?{told}")
    assert any("values of the column trip come back after others, 2 times" in line for line in data.notes)
    np.testing.assert_array_equal(np.flatnonzero(data.timeout), [1, 3, 5, 7, 11])
    assert not any("come back" in line for line in load_dataset(f"{write(tmp_path / 'b.csv', columns())}?{told}").notes)


def test_a_folder_is_found_by_any_path_and_its_map_by_its_whole_name(tmp_path, monkeypatch):
    folder = tmp_path / "trips.v1"
    folder.mkdir()
    write(folder / "a.csv", columns())
    (tmp_path / "trips.v1.toml").write_text('obs = ["temp"]\naction = ["cmd_*"]\nreward = "r"\n', "utf-8-sig")
    (tmp_path / "trips.toml").write_text('obs = ["joint_0"]\naction = ["cmd_*"]\nreward = "r"\n')
    monkeypatch.chdir(folder)
    for source in (".", "../trips.v1/", folder):
        data = load_dataset(source)
        assert (data.labels[0], data.name) == (("temp",), "trips")


def test_a_table_and_a_folder_are_known_by_the_names_they_were_given(tmp_path, monkeypatch):
    write(tmp_path / "a.csv", columns()).rename(tmp_path / "0a1b")
    (tmp_path / "logs.csv").symlink_to("0a1b")
    data = load_dataset(f"{tmp_path / 'logs.csv'}?{MAP}")
    assert data.name == "logs" and load_dataset(data.source).sha256 == data.sha256
    lerobot(tmp_path / "so100")
    (tmp_path / "arm").symlink_to("so100")
    monkeypatch.chdir(tmp_path / "arm")
    assert load_dataset(".", action_range=(-1, 1)).name in ("so100", "arm")  # a shell says where it is, Python where that leads
    assert load_dataset("../arm/", action_range=(-1, 1)).name == "arm"


def test_names_of_a_map_are_a_list(tmp_path):
    write(tmp_path / "a.csv", columns())
    (tmp_path / "a.toml").write_text('obs = 5\naction = ["cmd_*"]\n')
    with pytest.raises(DataError, match=r'a.toml: obs is 5, expected names; write obs = \["name_\*", "other"\]'):
        load_dataset(tmp_path / "a.csv")


def test_a_pattern_of_files_needs_a_folder(tmp_path, capsys):
    path = write(tmp_path / "a.csv", columns())
    assert main(["data", "info", str(path), "--obs", "temp", "--action", "cmd_*", "--reward", "r", "--files", "b*"]) == 2
    assert "--files b*: chooses files of a folder, found the file" in capsys.readouterr().err


REWARD = """
import numpy as np
def energy(obs, action, next_obs):
    return -(action ** 2).sum(1) + (next_obs[:, 0] - obs[:, 0])
def wrong(obs, action, next_obs):
    return action
def fails(obs, action, next_obs):
    raise KeyError("torque")
def huge(obs, action, next_obs):
    return np.full(len(obs), 1e16)
def writes(obs, action, next_obs):
    obs[:, 0] = np.nan
    return action.sum(1)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "plant_rewards.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield "plant_rewards"
    sys.modules.pop("plant_rewards", None)


def options(how="energy"):
    return ["--obs", "joint_*", "--action", "cmd_*", "--episode", "trip", "--reward", f"plant_rewards:{how}"]


def test_a_reward_function_is_named_on_the_command_line_and_never_by_a_file(tmp_path, module, capsys):
    path = write(tmp_path / "a.parquet", columns())
    assert main(["data", "convert", str(path), str(tmp_path / "out.hdf5"), *options()]) == 0
    data, found = load_dataset(tmp_path / "out.hdf5"), columns()
    action = np.stack([found["cmd_a"], found["cmd_b"]], 1)
    step = np.append(np.diff(found["joint_0"]), 0)
    step[[3, 7, 11]] = 0  # what followed was not observed
    np.testing.assert_allclose(data.reward, -(action**2).sum(1) + step, rtol=1e-4, atol=1e-5)
    capsys.readouterr()
    for how, said in (
        ("wrong", "gave an array of shape (12, 2), expected (12,)"),
        ("fails", "failed (KeyError"),
        ("none", "cannot be imported"),
    ):
        assert main(["data", "info", str(path), *options(how)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error
    with pytest.raises(DataError, match="compute it again with --reward plant_rewards:energy"):
        load_dataset(f"{path}?obs=joint_*&action=cmd_*&reward=plant_rewards:energy")


def logged():
    """Two episodes, which end after rows 4 and 9, one of them by itself; the last row is open. Time-outs by any name."""
    rng = np.random.default_rng(0)
    end = np.isin(np.arange(12), (4, 9))
    fields = dict(observations=rng.normal(size=(12, 3)), actions=rng.uniform(-1, 1, (12, 2)), rewards=np.zeros(12))
    return fields | dict(terminals=end & (np.arange(12) < 5), timeouts=end & (np.arange(12) > 5))


def save(path, fields):
    if path.suffix == ".npz":
        return np.savez(path, **fields)
    with h5py.File(path, "w") as file:
        file.update(fields)


def with_next(fields, after):
    """With next observations; after the end of an episode follows `after`."""
    following = np.roll(fields["observations"], -1, 0)
    following[[4, 9, 11]] = after
    return fields | dict(next_observations=following)


def renamed(fields, old, new):
    return {new if key == old else key: x for key, x in fields.items()}


LAYOUTS = {  # how ends are told, and the rows that the function is told that nothing follows
    "time-outs": (lambda f: f, [4, 9, 11]),
    "truncations": (lambda f: renamed(f, "timeouts", "truncations"), [4, 9, 11]),
    "no time-outs": (lambda f: renamed(f, "timeouts", "unknown"), [4, 11]),
    "columns": (lambda f: {key: x if x.ndim == 2 else x[:, None] for key, x in f.items()}, [4, 9, 11]),
    "NaN after the end": (lambda f: with_next(f, np.nan), [4, 9, 11]),
    "recorded rewards that are no numbers": (lambda f: f | dict(rewards=np.full(12, np.nan)), [4, 9, 11]),
}


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_reward_function_sees_what_follows_in_any_layout(tmp_path, module, layout, suffix):
    change, ends = LAYOUTS[layout]
    path, fields = tmp_path / f"logs{suffix}", logged()
    save(path, change(fields))
    step = np.roll(fields["observations"], -1, 0)[:, 0] - fields["observations"][:, 0]
    step[ends] = 0
    found = load_dataset(path, reward=importlib.import_module(module).energy).reward
    np.testing.assert_allclose(found, step - (fields["actions"] ** 2).sum(1), rtol=1e-5, atol=1e-6)


def test_a_reward_function_sees_next_observations_that_were_recorded(tmp_path, module):
    fields = with_next(logged(), 7.0)
    save(tmp_path / "logs.npz", {key: x for key, x in fields.items() if key != "timeouts"})
    data = load_dataset(tmp_path / "logs.npz", reward=importlib.import_module(module).energy)
    wanted = 7.0 - fields["observations"][[4, 9, 11], 0] - (fields["actions"][[4, 9, 11]] ** 2).sum(1)
    np.testing.assert_allclose(data.reward[[4, 9, 11]], wanted, rtol=1e-5)
    assert np.flatnonzero(data.timeout).tolist() == [9]


UNUSABLE = {  # logs, or what a function does, that no reward can be computed of
    "terminals has 11 rows, but observations has 12": (lambda f: f | dict(terminals=f["terminals"][:-1]), "energy"),
    "observations has shape (12,), expected (rows, size)": (lambda f: f | dict(observations=f["observations"][:, 0]), "energy"),
    "observations[3, 1] is nan": (
        lambda f: f | dict(observations=np.where(np.arange(36).reshape(12, 3) == 10, np.nan, f["observations"])),
        "energy",
    ),
    "gave numbers that are not finite, or beyond 1e+15": (lambda f: f, "huge"),
    "failed (ValueError: assignment destination is read-only)": (lambda f: f, "writes"),
}


@pytest.mark.parametrize("said", UNUSABLE)
def test_a_reward_function_is_called_for_checked_arrays_alone(tmp_path, module, capsys, said):
    change, how = UNUSABLE[said]
    save(tmp_path / "logs.hdf5", change(logged()))
    assert main(["data", "info", str(tmp_path / "logs.hdf5"), "--reward", f"{module}:{how}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error


def test_a_run_on_a_table_is_trained_exported_and_resumed_with_its_names(tmp_path, module, capsys):
    path = write(tmp_path / "a.parquet", columns(60, 3))
    small = [f"--set=policy.{k}" for k in ("steps=2", "batch_size=4", "hidden=8")]
    arguments = [str(path), *options(), "--algo", "bc-gaussian", "--no-eval", "--quiet", *small]
    assert main(["train", *arguments, "--out", str(tmp_path / "run")]) == 0
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "policy.safetensors")]) == 0
    run = srpo.load_run(tmp_path / "run")
    assert run.info["data"]["labels"] == [["joint_0", "joint_1"], ["cmd_a", "cmd_b"]]
    contract = json.loads((tmp_path / "policy.safetensors.contract.json").read_text())
    assert [s["name"] for s in contract["input"]["signals"]] == ["joint_0", "joint_1"]
    assert [s["name"] for s in contract["output"]["signals"]] == ["cmd_a", "cmd_b"]
    (tmp_path / "run" / "stages" / "policy.safetensors").unlink()  # as if it had been stopped
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run"), "--quiet"]) == 2
    assert "compute them again with --reward plant_rewards:energy" in capsys.readouterr().err


def test_rewards_that_a_function_computed_are_remembered_whatever_the_source(tmp_path, module, capsys):
    """They take the place of recorded ones, so that a run on the same file without them would be another."""
    write_recording(load_dataset(f"{write(tmp_path / 'a.csv', columns(60, 3))}?{MAP}"), tmp_path / "a.hdf5")
    small = [f"--set=policy.{k}" for k in ("steps=2", "batch_size=4", "hidden=8")]
    arguments = [str(tmp_path / "a.hdf5"), "--algo", "bc-gaussian", "--no-eval", "--quiet", *small, "--set=data.holdout=0.4"]
    computed = ["--reward", "plant_rewards:energy"]
    assert main(["train", *arguments, *computed, "--out", str(tmp_path / "run")]) == 0
    run = srpo.load_run(tmp_path / "run")
    recorded = load_dataset(tmp_path / "a.hdf5")
    assert run.info["data"]["reward"] == "plant_rewards:energy" and run.info["data"]["sha256"] != recorded.sha256
    assert reload(run.info["data"], reward=sys.modules["plant_rewards"].energy).sha256 == run.info["data"]["sha256"]
    observed_alone = observed(run.info["data"])
    assert observed_alone.sha256 == run.info["data"]["sha256"] and not observed_alone.reward.any()
    for command in (["judge", str(run.path)], ["train", *arguments, "--from", str(run.path), "--out", str(tmp_path / "other")]):
        capsys.readouterr()
        assert main(command) == 2
        assert ("compute them again with --reward plant_rewards:energy" if command[0] == "judge" else "was trained on") in (
            capsys.readouterr().err
        )
    with pytest.raises(RunError, match="is not the data that"):
        (run.path / "stages" / "policy.safetensors").unlink()  # as if it had been stopped
        srpo.resume(run.path, recorded)
    assert main(["train", "--resume", str(run.path), *computed, "--quiet"]) == 0


def lerobot(folder, rewards=True):
    rng = np.random.default_rng(0)
    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    features = {
        "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["shoulder", "elbow"]}},
        "action": {"dtype": "float32", "shape": [2], "names": ["shoulder", "elbow"]},
        "observation.images.top": {"dtype": "video", "shape": [3, 48, 64]},
        "episode_index": {"dtype": "int64", "shape": [1]},
    }
    state, action = rng.normal(size=(2, 6, 2))
    found = {"observation.state": list(state), "action": list(0.5 * np.tanh(action)), "episode_index": [0, 0, 0, 1, 1, 1]}
    if rewards:
        features |= {"next.reward": {"dtype": "float32", "shape": [1]}, "next.done": {"dtype": "bool", "shape": [1]}}
        found |= {"next.reward": [0.0, 0, 1, 0, 0, 0], "next.done": [False, False, True, False, False, True]}
    (folder / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v3.0", "fps": 10, "features": features}))
    table = pa.table(found)
    parquet.write_table(table.slice(0, 3), folder / "data" / "chunk-000" / "file-000.parquet")
    parquet.write_table(table.slice(3), folder / "data" / "chunk-000" / "file-001.parquet")
    return state


def test_a_lerobot_folder(tmp_path):
    state = lerobot(tmp_path / "so100")
    data = load_dataset(tmp_path / "so100", action_range=(-1, 1))
    np.testing.assert_allclose(data.recorded_obs, state, rtol=1e-5)
    assert data.reward.tolist() == [0, 0, 1, 0, 0, 0]
    assert np.flatnonzero(data.terminal).tolist() == [2] and np.flatnonzero(data.timeout).tolist() == [5]
    assert data.labels == (("shoulder", "elbow"), ("shoulder", "elbow"))
    assert any("images are left out (observation.images.top)" in line for line in data.notes)
    lerobot(tmp_path / "demos", rewards=False)
    demos = load_dataset(tmp_path / "demos", action_range=(-1, 1))
    assert not demos.reward.any() and any("no reward was recorded, so all are 0: clone it" in line for line in demos.notes)
    (tmp_path / "demos" / "meta" / "info.json").write_text("{")
    with pytest.raises(DataError, match="does not say what a LeRobot data set holds"):
        load_dataset(tmp_path / "demos")


def rewrite(folder, name, kind=None, **rows):
    """The second file of a folder of LeRobot's, with other values of a column in some rows."""
    file = folder / "data" / "chunk-000" / "file-001.parquet"
    table = parquet.read_table(file)
    values = table[name].to_pylist()
    for row, value in rows.items():
        values[int(row.removeprefix("row_"))] = value
    at = table.column_names.index(name)
    parquet.write_table(table.set_column(at, name, pa.array(values, kind or table[name].type)), file)


@pytest.mark.parametrize(
    "name, rows, said",
    [
        ("observation.state", {"row_1": None}, "observation.state has no value in row 1"),
        ("observation.state", {"row_0": None, "row_2": [1.0, 2, 3, 4]}, "observation.state has no value in row 0"),
        (
            "observation.state",
            {"row_2": [1.0, 2, 3, 4]},
            "observation.state holds 4 numbers in row 2, expected 2, as meta/info.json",
        ),
        ("observation.state", {"row_1": []}, "observation.state holds 0 numbers in row 1, expected 2"),
        ("observation.state", {"row_1": [1.0, None]}, "observation.state lacks a number in row 1"),
        (
            "observation.state",
            {f"row_{i}": [0.0] * 3 for i in range(3)},
            "observation.state holds 3 numbers in row 0, expected 2",
        ),
        ("action", {"row_2": None}, "action has no value in row 2"),
        ("next.done", {"row_1": None}, "next.done has no value in row 1"),
        ("next.reward", {"row_1": None}, "next.reward has no value in row 1"),
        ("episode_index", {"row_1": None}, "episode_index has no value in row 1"),
    ],
)
def test_a_lerobot_row_that_lacks_something_is_named(tmp_path, name, rows, said):
    lerobot(tmp_path / "so100")
    rewrite(tmp_path / "so100", name, **rows)
    with pytest.raises(DataError, match=rf"file-001.parquet: {said}.*download the data set again") as found:
        load_dataset(tmp_path / "so100", action_range=(-1, 1))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.float64())])
def test_lerobot_lists_of_any_kind(tmp_path, kind):
    state = lerobot(tmp_path / "so100")
    rewrite(tmp_path / "so100", "observation.state", kind)
    np.testing.assert_allclose(load_dataset(tmp_path / "so100", action_range=(-1, 1)).recorded_obs, state, rtol=1e-5)
    rewrite(tmp_path / "so100", "observation.state", kind, row_1=None)
    with pytest.raises(DataError, match="observation.state has no value in row 1"):
        load_dataset(tmp_path / "so100", action_range=(-1, 1))


@pytest.mark.parametrize("name", ["action", "observation.state", "next.done"])
@pytest.mark.parametrize("feature", ["float32", None, 3, {"shape": "2"}, {"shape": [2.5]}, {"shape": [0]}, {"shape": None}])
def test_a_lerobot_feature_that_is_no_table_is_one_line(tmp_path, name, feature):
    lerobot(tmp_path / "so100")
    file = tmp_path / "so100" / "meta" / "info.json"
    about = json.loads(file.read_text())
    about["features"][name] = feature
    file.write_text(json.dumps(about))
    with pytest.raises(
        DataError, match=f"info.json: {name} is .*expected a table with the shape of its rows; download it again"
    ):
        load_dataset(tmp_path / "so100")


def test_lerobot_text_in_the_place_of_numbers(tmp_path):
    lerobot(tmp_path / "so100")
    rewrite(tmp_path / "so100", "action", pa.list_(pa.string()), **{f"row_{i}": ["a", "b"] for i in range(3)})
    with pytest.raises(DataError, match="action holds string such as 'a', expected numbers"):
        load_dataset(tmp_path / "so100")


def test_robomimic_and_d3rlpy_files(tmp_path):
    rng = np.random.default_rng(0)
    eef, gripper, action = rng.normal(size=(5, 3)), rng.normal(size=(5, 1)), rng.uniform(-1, 1, (5, 2))
    with h5py.File(tmp_path / "demo.hdf5", "w") as file:
        for name, rows, done in (
            ("demo_10", slice(2, 5), [0, 0, 1]),
            ("demo_2", slice(0, 2), [0, 0]),
            ("demo_3", slice(0), []),
        ):
            demo = file.create_group(f"data/{name}")
            demo["obs/eef_pos"], demo["obs/gripper"], demo["obs/image"] = (
                eef[rows],
                gripper[rows],
                np.zeros((len(done), 4, 4, 3), np.uint8),
            )
            demo["actions"], demo["rewards"], demo["dones"] = action[rows], np.ones(len(done)), np.array(done)
        file["data/demo_0/obs/eef_pos"], file["data/demo_0/obs/gripper"] = eef[:2], gripper[:2]
        file["data/demo_0/obs/image"] = np.zeros((2, 4, 4, 3), np.uint8)
        file["data/demo_0/actions"], file["data/demo_0/rewards"], file["data/demo_0/dones"] = (
            action[:2],
            np.ones(2),
            np.zeros(2),
        )
    data = load_dataset(tmp_path / "demo.hdf5", action_range=(-1, 1))
    np.testing.assert_allclose(data.recorded_obs, np.concatenate([eef, gripper], 1)[[0, 1, 0, 1, 2, 3, 4]], rtol=1e-5)
    assert np.flatnonzero(data.terminal).tolist() == [6] and np.flatnonzero(data.timeout).tolist() == [1, 3]
    assert data.labels[0] == ("eef_pos.0", "eef_pos.1", "eef_pos.2", "gripper") and "image" in data.notes[0]
    with h5py.File(tmp_path / "buffer.h5", "w") as file:
        file["columns"], file["num_episodes"], file["version"] = ["observations", "actions", "rewards", "terminated"], 2, "2.1"
        for i, (rows, ended) in enumerate(((slice(0, 2), True), (slice(2, 5), False))):
            file[f"observations_{i}"], file[f"actions_{i}"], file[f"terminated_{i}"] = eef[rows], action[rows], ended
            file[f"rewards_{i}"] = np.ones((len(eef[rows]), 1))
    data = load_dataset(tmp_path / "buffer.h5", action_range=(-1, 1))
    np.testing.assert_allclose(data.recorded_obs, eef, rtol=1e-5)
    assert np.flatnonzero(data.terminal).tolist() == [1] and np.flatnonzero(data.timeout).tolist() == [4]
    with h5py.File(tmp_path / "buffer.h5", "a") as file:
        del file["actions_1"]
        file["actions_1"] = action[:2]
    with pytest.raises(DataError, match="observations_1 has 3 rows, expected 2"):
        load_dataset(tmp_path / "buffer.h5")


def test_what_a_file_states_of_itself_is_written_and_read_back(tmp_path):
    told = replace(load_dataset(f"{write(tmp_path / 'a.csv', columns())}?{MAP}"), reference=(-3.5, 80.0))
    for name in ("first", "second"):  # what was read is written again
        told = load_dataset(write_recording(told, tmp_path / f"{name}.hdf5"))
        assert told.labels[0] == ("joint_0", "joint_1", "temp") and told.reference == (-3.5, 80.0)
    arrays = {"observations": told.obs, "actions": told.action, "rewards": told.reward, "terminals": told.terminal}
    names = {"obs_names": ["a", "b", "c"], "action_names": ["x", "y"]}
    np.savez(tmp_path / "named.npz", **arrays, **names, reference=[0, 2])
    found = load_dataset(tmp_path / "named.npz")
    assert found.labels == (("a", "b", "c"), ("x", "y")) and found.score(1) == 50
    np.savez(tmp_path / "half.npz", **arrays, obs_names=names["obs_names"])
    assert load_dataset(tmp_path / "half.npz").labels == (("a", "b", "c"), ("action.0", "action.1"))
    for wrong, said in (
        ({"obs_names": ["a", "b"]}, "obs_names holds 2 names, expected one per column, 3"),
        ({"action_names": [1, 2]}, "action_names is .*expected one piece of text per column"),
        ({"reference": [2, 0]}, "reference scores are 2.* and 0.*, expected two numbers, the smaller first"),
        ({"obs_offset": [1, 2]}, "obs_offset is .*expected one number per column, 3"),
        ({"obs_offset": ["a", "b", "c"]}, "obs_offset is .*expected one number per column, 3"),
        ({"obs_offset": [1, 2, 1e300]}, "obs_offset is .*expected one number per column, 3"),
        ({"reference": [1]}, "expected two numbers, the returns of score 0 and 100"),
    ):
        np.savez(tmp_path / "wrong.npz", **arrays, **names | wrong)
        with pytest.raises(DataError, match=said):
            load_dataset(tmp_path / "wrong.npz")


@pytest.mark.parametrize("following", [False, True])
@pytest.mark.parametrize("timeouts", [False, True])
@pytest.mark.parametrize(
    "start, step, n", [(1.7e9, 0.01, 60), (1e4, 0.01, 51), (-12345.678, 1 / 3, 40), (0, 1, 40), (1e12, 1, 40)]
)
def test_what_is_written_trains_as_what_was_read(tmp_path, start, step, n, timeouts, following):
    """A column that float32 holds too little of, its offset, be its mean halfway between two of them, and unknown time-outs."""
    rng = np.random.default_rng(0)
    obs = np.stack([start + step * np.arange(n), rng.normal(size=n)], 1)
    last = np.arange(n) == n - 1
    told = {"timeout": last} if timeouts else {"terminal": last}
    told |= {"next_obs": np.concatenate([obs[1:], obs[-1:] + step])} if following else {}
    read = srpo.from_arrays(obs, rng.uniform(-1, 1, (n, 1)), np.ones(n), **{"terminal": np.zeros(n, bool)} | told)
    for name in ("first", "second"):
        again = load_dataset(write_recording(read, tmp_path / f"{name}.hdf5"))
        for key in ("obs", "next_obs", "timeout", "terminal", "obs_offset", "timeouts_from"):
            np.testing.assert_array_equal(getattr(again, key), getattr(read, key))
        assert (again.obs_offset is None) == (start == 0) and len(np.unique(again.obs[:, 0])) == n
        assert len(warnings_about(again)) == len(warnings_about(read))
        read = again


def test_any_source_is_written_in_our_layout(tmp_path, capsys):
    path = write(tmp_path / "a.csv", columns() | {"cmd_a": np.linspace(0, 10, 12)})
    arguments = ["data", "convert", f"{path}?{MAP}", str(tmp_path / "out.hdf5"), "--action-range=0,10/-1,1"]
    assert main(arguments) == 0
    data = load_dataset(tmp_path / "out.hdf5")
    np.testing.assert_allclose(data.action_range.recorded(data.action)[:, 0], np.linspace(0, 10, 12), rtol=1e-5, atol=1e-5)
    assert np.flatnonzero(data.timeout).tolist() == [3, 7, 11]
    assert data.labels == (("joint_0", "joint_1", "temp"), ("cmd_a", "cmd_b")) and data.reference is None
    capsys.readouterr()
    assert main(arguments) == 2 and "exists; remove it first, or give another name" in capsys.readouterr().err
    assert main(["data", "convert", "hopper-medium-expert-mini", str(tmp_path / "x.txt")]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "out.hdf5"]
