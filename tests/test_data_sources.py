"""Where data comes from: files, arrays, the package, Minari; and what is known about it by name."""

import hashlib
import json
import subprocess
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from test_data import arrays

from srpo.algorithms.bc import BC
from srpo.cli import main
from srpo.data import DataError, from_arrays, load_dataset, mapped, sources
from srpo.data.again import reload
from srpo.data.checks import FIELDS
from srpo.data.sources.builtin import BUILTIN, builtin_path
from srpo.data.treated import treat
from srpo.errors import ConfigError
from srpo.runs.description import describe
from srpo.runs.grid import Grid


def write(path, raw, **attributes):
    """The arrays as a file in D4RL's layout."""
    named = {FIELDS[key]: x for key, x in raw.items()}
    if path.suffix == ".npz":
        np.savez(path, **named, **attributes)
        return path
    with h5py.File(path, "w") as file:
        for name, values in named.items():
            file[name] = values
        file.attrs.update(attributes)
    return path


@pytest.mark.parametrize("suffix", [".hdf5", ".h5", ".npz"])
@pytest.mark.parametrize("recorded", [False, True])
def test_every_source_gives_the_same_data(tmp_path, suffix, recorded):
    raw = arrays(30, terminal=[5], timeout=[17], sizes=(11, 3))
    if recorded:
        raw["next_obs"] = raw["obs"] + 1
    expected = from_arrays(**raw, env_id="Hopper-v4", name="mine")
    path = write(tmp_path / f"mine{suffix}", raw, env_id="Hopper-v4")
    data = load_dataset(path)
    assert (data.name, data.env_id, data.reference) == ("mine", "Hopper-v4", (-20.272305, 3234.3))
    assert data.source == str(path) and len(data.sha256) == 64
    for key in FIELDS:
        np.testing.assert_array_equal(getattr(data, key), getattr(expected, key))
    for found, wanted in zip(treat(data).transitions.held, treat(expected).transitions.held, strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


def test_a_run_finds_a_file_by_the_link_that_it_was_named_by(tmp_path, monkeypatch):
    """Stores of large files keep them under their hashes, which end like no file of ours."""
    write(tmp_path / "a.hdf5", arrays(terminal=[5])).rename(tmp_path / "0a1b")
    (tmp_path / "logs.hdf5").symlink_to("0a1b")
    monkeypatch.chdir(tmp_path)
    data = load_dataset("logs.hdf5")
    info = describe(Grid.create(BC(), 1, None), treat(data), eval_every=0, eval_episodes=1)
    monkeypatch.chdir("/")
    again = reload(info["data"])
    assert (again.name, again.sha256) == ("logs", data.sha256)


def test_the_hash_is_of_the_content(tmp_path):
    raw = arrays()
    assert from_arrays(**raw).sha256 == from_arrays(**raw).sha256 != from_arrays(**arrays(seed=1)).sha256
    path = write(tmp_path / "a.npz", raw)
    assert load_dataset(str(path)).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_rewards_and_flags_as_columns_and_other_types():
    raw = arrays(20, terminal=[5])
    odd = raw | {
        "reward": raw["reward"][:, None],
        "terminal": raw["terminal"].astype(np.float64)[:, None],
        "timeout": raw["timeout"].tolist(),
    }
    np.testing.assert_array_equal(from_arrays(**odd).reward, from_arrays(**raw).reward)
    np.testing.assert_array_equal(from_arrays(**odd).terminal, raw["terminal"])


def test_rounding_beyond_the_bounds_is_clipped():
    raw = arrays()
    raw["action"][3, 1] = 1 + 5e-6
    assert from_arrays(**raw).action[3, 1] == 1


def test_time_limits_are_counted_where_they_are_known(tmp_path):
    raw = arrays(2500, sizes=(17, 6))
    del raw["timeout"]
    counted = load_dataset(write(tmp_path / "run.npz", raw, env_id="HalfCheetah-v4"))
    assert counted.timeouts_from == "counted" and np.flatnonzero(counted.timeout).tolist() == [999, 1999]
    unknown = load_dataset(write(tmp_path / "robot.npz", raw))
    assert unknown.timeouts_from == "none" and not unknown.timeout.any() and unknown.env_id is None


def test_a_source_from_outside_is_asked_first(monkeypatch):
    monkeypatch.setattr(sources, "registered", [])
    raw = arrays(30, terminal=[5], timeout=[17])

    class Telemetry:
        def matches(self, source):
            return source.startswith("telemetry:")

        def read(self, source):
            return dict(raw), sources.Attributes("flight-7", source, "Hopper-v4")

    telemetry = Telemetry()
    sources.register(telemetry)
    sources.register(telemetry)
    assert sources.sources()[0] is telemetry and sources.sources().count(telemetry) == 1
    data, same = load_dataset("telemetry:7"), from_arrays(**raw)
    assert (data.name, data.source, data.env_id, data.sha256) == ("flight-7", "telemetry:7", "Hopper-v4", same.sha256)
    raw["reward"] = np.full(30, np.nan)
    with pytest.raises(DataError, match=r"^telemetry:7: rewards\[0\] is nan"):
        load_dataset("telemetry:7")


def slip(change):
    """A source from outside whose `read` gives what `change` makes of the arrays and what is known of them."""

    def read(source):
        return change(arrays(30, terminal=[5], timeout=[17]), sources.Attributes("flight", source))

    return SimpleNamespace(__name__="my_telemetry", matches=lambda source: source.startswith("flight:"), read=read)


NAMES = "expected arrays called obs, action, reward, terminal, timeout, next_obs; rename or add it"
PAIR = r"expected \(arrays by name, Attributes\(name=..., source=...\)\)"
SLIPS = {
    "no obs": (lambda found, about: ({k: x for k, x in found.items() if k != "obs"}, about), f"gave no obs, {NAMES}"),
    "no action": (lambda found, about: (found | {"action": None}, about), f"gave no action, {NAMES}"),
    "no terminal": (
        lambda found, about: ({k: x for k, x in found.items() if k != "terminal"}, about),
        f"gave no terminal, {NAMES}",
    ),
    "D4RL's names": (lambda found, about: ({FIELDS[k]: x for k, x in found.items()}, about), f"gave no obs, {NAMES}"),
    "one of D4RL's names": (lambda found, about: (found | {"timeouts": found["timeout"]}, about), f"gave timeouts, {NAMES}"),
    "the arrays alone": (lambda found, about: found, f"gave dict, {PAIR}"),
    "nothing": (lambda found, about: None, f"gave NoneType, {PAIR}"),
    "something else": (lambda found, about: (found, {"name": "x"}), rf"gave \(dict, dict\), {PAIR}"),
    "a name that is none": (lambda found, about: (found, about._replace(name=7)), PAIR),
    "AttributeError": (lambda found, about: found.observations, r"failed in read \(AttributeError: 'dict' object .*; mend it"),
    "ZeroDivisionError": (lambda found, about: 1 / 0, r"failed in read \(ZeroDivisionError: division by zero\); mend it"),
    "KeyError": (lambda found, about: found["speed"], r"failed in read \(KeyError: 'speed'\); mend it"),
    "a missing file": (lambda found, about: np.loadtxt("nowhere.csv"), r"failed in read \(FileNotFoundError: .*nowhere.csv"),
}


@pytest.mark.parametrize("case", SLIPS)
def test_a_slip_in_a_source_from_outside_is_named_in_one_line(monkeypatch, case):
    change, said = SLIPS[case]
    monkeypatch.setattr(sources, "registered", [slip(change)])
    with pytest.raises(DataError, match=f"^flight:7: the data source my_telemetry .*{said}") as refusal:
        load_dataset("flight:7")
    assert "\n" not in str(refusal.value)


def test_so_is_one_in_its_other_functions(monkeypatch):
    broken = slip(lambda found, about: (found, about))
    monkeypatch.setattr(sources, "registered", [broken])
    assert len(load_dataset("flight:7")) == 30
    broken.listing = lambda: [{"name": "flight:7"}]
    with pytest.raises(
        DataError, match="the data source my_telemetry lists a name without 'kind'; give each name, kind, meaning"
    ):
        sources.listing()
    broken.listing = lambda: 1 / 0
    with pytest.raises(DataError, match=r"^the data source my_telemetry failed in listing \(ZeroDivisionError"):
        sources.listing()
    broken.matches = lambda source: source.begins("flight:")
    with pytest.raises(DataError, match=r"^logs.npz: the data source my_telemetry failed in matches \(AttributeError"):
        load_dataset("logs.npz")
    for none in (5, "my_telemetry", SimpleNamespace(read=broken.read)):
        with pytest.raises(ConfigError, match="is no data source; expected a module, or an object, with the functions matches"):
            sources.register(none)


def test_a_source_is_named_on_the_command_line(tmp_path, monkeypatch, capsys):
    text = "import numpy as np\nfrom srpo.data.sources import Attributes\n"
    text += "def matches(source):\n    return source.startswith('flight:')\n"
    text += "def read(source):\n    flat = np.zeros(9)\n    obs = np.random.default_rng(0).normal(size=(9, 3))\n"
    text += "    return dict(obs=obs, action=obs[:, :1] % 1, reward=flat, terminal=flat, timeout=flat), Attributes('july', source)\n"
    (tmp_path / "source_of_tests.py").write_text(text)
    monkeypatch.setattr(sources, "registered", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def said(*more):
        code = main(["data", "info", "flight:july", "--json", *more])
        return code, capsys.readouterr()

    code, refused = said()
    assert code == 2 and "unknown data set 'flight:july'" in refused.err and "--source MODULE" in refused.err
    for place, why in (
        ("absent_of_tests", "ModuleNotFoundError"),
        ("json", "json is no data source"),
        ("json:no", "AttributeError"),
    ):
        code, refused = said("--source", place)
        assert code == 2 and why in refused.err and refused.err.count("\n") == 1
    code, found = said("--source", "source_of_tests")
    assert code == 0 and json.loads(found.out)["rows"] == 9
    sys.modules.pop("source_of_tests")


@pytest.mark.parametrize("sizes", [(3, 2), (11, 3)])
def test_a_name_alone_chooses_nothing(tmp_path, sizes):
    """Not the environment, not the reference returns, not a task's presets."""
    data = load_dataset(write(tmp_path / "hopper-medium-robot.npz", arrays(sizes=sizes)))
    assert (data.env_id, data.reference, data.task) == (None, None, None)


@pytest.mark.parametrize(
    "env_id, sizes", [("HalfCheetah-Vel-v0", (17, 6)), ("HalfCheetah-v5", (17, 6)), ("Ant-v4", (27, 8)), ("Hopper-v4", (11, 2))]
)
def test_references_hold_only_where_they_were_measured(env_id, sizes):
    """In environments of the very id and sizes."""
    data = from_arrays(**arrays(sizes=sizes), env_id=env_id)
    assert (data.reference, data.task, data.env_id) == (None, None, env_id)


def test_a_file_of_d4rl_is_known_by_name_and_sizes(tmp_path):
    known = load_dataset(write(tmp_path / "hopper-medium-v2.hdf5", arrays(sizes=(11, 3))))
    assert known.d4rl and known.task == "hopper-medium-v2" and known.env_id == "Hopper-v4" and known.reference
    for other in (arrays(sizes=(11, 4)), arrays(sizes=(11, 3)) | {"action": np.full((20, 3), 0.25)}):
        found = load_dataset(write(tmp_path / "hopper-medium-v2.hdf5", other))
        assert (found.d4rl, found.task) == ((False, None) if other["action"].shape[1] == 4 else (True, "hopper-medium-v2"))
    recorded = load_dataset(write(tmp_path / "hopper-mine.hdf5", arrays(sizes=(11, 3)), env_id="Hopper-v4"))
    assert not recorded.d4rl and recorded.task == "hopper-mine" and recorded.reference
    other = load_dataset(write(tmp_path / "walker2d-mine.hdf5", arrays(sizes=(11, 3)), env_id="Hopper-v4"))
    assert other.task is None and other.reference


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_data(name):
    data = load_dataset(name)
    assert data.name == name and len(data) == BUILTIN[name].rows and data.env_id in BUILTIN[name].meaning
    assert data.complete.all() and data.reference is not None
    with h5py.File(builtin_path(name)) as file:
        assert {"env_id", "behavior", "provenance"} <= set(file.attrs)


def test_built_in_data_is_small_and_of_mixed_quality():
    assert sum(builtin_path(name).stat().st_size for name in BUILTIN) < 10e6
    data = load_dataset("halfcheetah-medium-replay-mini")
    score = data.score(data.returns)
    assert score.min() < 0 and score.max() > 40 and 20 < score.mean() < 30


def test_scores():
    data = from_arrays(**arrays(sizes=(17, 6)), env_id="Walker2d-v4")
    np.testing.assert_allclose(data.score([1.629008, 4592.3]), [0, 100])
    with pytest.raises(DataError, match="no reference returns"):
        from_arrays(**arrays()).score(1.0)


def test_importing_the_data_layer_imports_no_jax():
    code = "import sys, srpo.data.info, json; srpo.data.info.summary(srpo.data.load_dataset('hopper-medium-expert-mini')); print(json.dumps('jax' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False


# --- Minari


def episode(steps, terminated, truncated):
    """An episode as Minari yields it: one observation more than steps."""
    last = np.arange(steps) == steps - 1
    obs = np.arange(2.0 * (steps + 1)).reshape(-1, 2)
    flags = dict(terminations=last & terminated, truncations=last & truncated)
    return SimpleNamespace(observations=obs, actions=np.zeros((steps, 1)), rewards=np.ones(steps), **flags)


@pytest.fixture
def minari(monkeypatch):
    """A stand-in for the package, with three data sets."""
    three = [episode(4, True, False), episode(3, False, True), episode(2, False, False)]
    parts = {"seen": np.arange(10.0).reshape(5, 2), "goal": {"y": np.full((5, 1), 7.0), "x": np.arange(5)}}
    nested = [SimpleNamespace(**vars(three[0]) | {"observations": parts})]
    words = [SimpleNamespace(**vars(three[0]) | {"observations": {"goal": np.array(["go"] * 5)}})]
    pairs = [SimpleNamespace(**vars(three[0]) | {"actions": (1, 2)})]
    known = {"a/b-v0": three, "a/nested-v0": nested, "a/empty-v0": [], "a/words-v0": words, "a/pairs-v0": pairs}
    known |= {"a/scored-v0": three, "a/wrong-v0": three}
    scores = {"a/scored-v0": (-5, 95.0), "a/wrong-v0": (3, 3)}

    def load(name, download):
        episodes = known[name]
        metadata = dict(zip(("ref_min_score", "ref_max_score"), scores.get(name, ()), strict=False))
        return SimpleNamespace(
            iterate_episodes=lambda: iter(episodes),
            total_steps=sum(len(one.rewards) for one in episodes),
            env_spec=SimpleNamespace(id="Hopper-v5"),
            storage=SimpleNamespace(metadata=metadata),
        )

    monkeypatch.setitem(sys.modules, "minari", SimpleNamespace(load_dataset=load))


def test_minari(minari):
    data = load_dataset("minari:a/b-v0")
    assert (data.name, data.env_id, data.source) == ("a-b-v0", "Hopper-v5", "minari:a/b-v0")
    np.testing.assert_array_equal(data.episodes, [[0, 4], [4, 7], [7, 9]])
    np.testing.assert_array_equal(data.ended, [True, False, False])
    np.testing.assert_array_equal(data.next_obs[:3], data.obs[1:4])
    np.testing.assert_array_equal(data.next_obs[3], [8, 9])


def test_minari_sets_that_are_large_go_to_disk_episode_by_episode(minari, monkeypatch, tmp_path):
    expected = load_dataset("minari:a/b-v0")
    monkeypatch.setattr(mapped, "LARGE", 100)
    monkeypatch.setenv("SRPO_CACHE_DIR", str(tmp_path))
    found = load_dataset("minari:a/b-v0")
    assert mapped.map_of(found.obs) and mapped.map_of(found.next_obs) and not mapped.map_of(expected.obs)
    for key in FIELDS:
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key))
    assert found.sha256 == expected.sha256 and not list(tmp_path.iterdir())


def test_minari_dictionaries_are_one_vector_in_the_order_of_their_names(minari):
    data = load_dataset("minari:a/nested-v0")
    assert data.labels == (("goal.x", "goal.y", "seen.0", "seen.1"), ("action.0",))
    np.testing.assert_array_equal(data.obs, [[i, 7, 2 * i, 2 * i + 1] for i in range(4)])
    np.testing.assert_array_equal(data.next_obs[:, 0], [1, 2, 3, 4])


def test_minari_scores_are_the_set_s_own_and_never_another_environment_s(minari):
    assert load_dataset("minari:a/b-v0").reference is None
    np.testing.assert_allclose(load_dataset("minari:a/scored-v0").score([-5, 95]), [0, 100])


MINARI_REFUSALS = [
    ("a/pairs-v0", "not plain vectors"),
    ("a/words-v0", "goal of the observations holds no numbers"),
    ("a/wrong-v0", "reference scores are 3 and 3"),
    ("a/empty-v0", "no episode"),
    ("absent-v0", "cannot be loaded"),
]


@pytest.mark.parametrize("name, text", MINARI_REFUSALS)
def test_minari_refusals(minari, name, text):
    with pytest.raises(DataError, match=f"^minari:{name}: .*{text}"):
        load_dataset(f"minari:{name}")


def test_minari_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(DataError, match="not installed; run pip install"):
        load_dataset("minari:a/b-v0")


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_the_environment_of_a_file_is_one_piece_of_text(tmp_path, suffix):
    assert load_dataset(write(tmp_path / f"list{suffix}", arrays(30), env_id=["Hopper-v4"])).env_id == "Hopper-v4"
    with pytest.raises(DataError, match="env_id is 4, expected the id of a Gymnasium environment"):
        load_dataset(write(tmp_path / f"number{suffix}", arrays(30), env_id=4))
