"""The recording script: files by D4RL's recipe, from an agent that is not one, and from a short soft actor-critic."""

import sys
from pathlib import Path

import numpy as np
import pytest

from srpo.data import load_dataset
from srpo.data.checks import DataError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import record

ENV = "Hopper-v4"


class Fake:
    """Becomes better with every look: falls at once, until it has learned to stand for a while."""

    def __init__(self):
        self.rng, self.learned, self.env = np.random.default_rng(0), [], record.make_env(ENV)

    def learn(self, steps):
        self.learned.append(steps)

    def act(self, obs):
        return self.rng.normal(0, 1.0 if len(self.learned) < 3 else 0.02, 3)  # beyond the bounds, as a sampled normal may be

    def seen(self):
        before = Fake()  # what acted until then
        return record.record(self.env, before, sum(self.learned), seed=5)


def plan(**changes):
    default = record.Plan(rows=400, medium_score=2.0, medium_steps=500, expert_steps=600, every=100, seed=0)
    return default._replace(**changes)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder, agent = tmp_path_factory.mktemp("open"), Fake()
    paths = record.destinations("hopper", folder, plan())
    with record.Bars(quiet=True) as bars:
        record.run(agent, record.ENVIRONMENTS["hopper"], paths, plan(), bars)
    return {kind: load_dataset(path) for kind, path in paths.items()}, agent


def test_the_first_policy_of_the_score_is_medium_and_the_buffer_what_it_saw(written):
    data, agent = written
    assert agent.learned == [100] * 6
    assert [d.name for d in data.values()] == [
        f"hopper-{kind}-open-v0" for kind in ("medium", "medium-replay", "medium-expert")
    ]
    assert len(data["medium"]) == 400 and len(data["medium-replay"]) == 300  # the third look was the first good one
    assert all(d.env_id == ENV and d.reference == (-20.272305, 3234.3) for d in data.values())


def test_half_is_medium_half_expert_in_whole_episodes(written):
    mixed, medium = written[0]["medium-expert"], written[0]["medium"]
    ends = np.flatnonzero((medium.terminal | medium.timeout)[:200])
    half = ends[-1] + 1
    assert (mixed.obs[:half] == medium.obs[:half]).all() and mixed.terminal[half - 1]
    assert mixed.complete.all() and half < len(mixed) <= 400
    assert (mixed.obs[half:][: 400 - half].std(0) > 0).all()
    assert not (mixed.obs[half] == medium.obs[half]).all()


def test_rows_follow_each_other_and_episodes_end_where_they_did(written):
    noisy = np.abs(written[0]["medium-replay"].action)
    assert noisy.max() == 1 and 0.2 < (noisy == 1).mean() < 0.5  # clipped
    data = written[0]["medium"]
    inside = ~(data.terminal | data.timeout)[:-1]
    assert (data.next_obs[:-1][inside] == data.obs[1:][inside]).all()
    assert (data.next_obs[:-1][~inside] != data.obs[1:][~inside]).any(1).all()
    assert (data.next_obs[data.terminal][:, 0] != 0).all() and data.terminal.any()


def test_an_agent_that_never_becomes_medium_is_refused_with_the_score(tmp_path):
    asked = plan(medium_score=90.0, medium_steps=200)
    paths = record.destinations("hopper", tmp_path, asked)
    with (
        record.Bars(quiet=True) as bars,
        pytest.raises(record.ConfigError, match=r"after 200 steps, expected 90; give it more"),
    ):
        record.run(Fake(), record.ENVIRONMENTS["hopper"], paths, asked, bars)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_are_never_replaced(tmp_path):
    (tmp_path / "hopper-medium-replay-open-v0.hdf5").write_bytes(b"mine")
    with pytest.raises(DataError, match="exists; remove it first"):
        record.destinations("hopper", tmp_path, plan())


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--rows", "1"], "--rows 1: expected two or more"),
        (["--expert-steps", "5"], "--expert-steps 5: expected 0 \\(no expert\\), or --medium-steps, 500000, or more"),
        (["--seed", "-3"], "--seed -3: expected zero or more"),
        (["--seed", "4294967296"], "--seed 4294967296: expected zero or more, below 4294967296"),
        (["--medium-score", "nan"], "--medium-score nan: expected a finite number"),
        (["--rows", "1999"], "--rows 1999: expected 2000 or more, as half of .* or say --expert-steps 0"),
    ],
)
def test_numbers_that_make_no_sense(arguments, message, tmp_path):
    with pytest.raises(record.ConfigError, match=message):
        record.command(record.arguments().parse_args(["hopper", "--to", str(tmp_path), *arguments]))


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(record.ConfigError, match=r"pip install 'srpo\[record\]'"):
        record.SoftActorCritic(ENV, 1000, 0)


def test_a_short_soft_actor_critic_is_recorded_from_scratch(tmp_path):
    pytest.importorskip("stable_baselines3")
    sys.modules["torch"].set_num_threads(1)
    short = [
        "--medium-steps",
        "100",
        "--expert-steps",
        "200",
        "--every",
        "100",
        "--rows",
        "2000",
        "--medium-score",
        "-5",
        "--quiet",
    ]
    assert record.main(["walker2d", "--to", str(tmp_path), *short]) == 0
    data = {path.stem.removeprefix("walker2d-").removesuffix("-open-v0"): load_dataset(path) for path in tmp_path.iterdir()}
    assert data.keys() == {"medium", "medium-replay", "medium-expert"}
    replay = data["medium-replay"]
    assert len(replay) == 100 and len(data["medium"]) == 2000 and replay.env_id == "Walker2d-v4"
    inside = ~(replay.terminal | replay.timeout)[:-1]
    assert (replay.next_obs[:-1][inside] == replay.obs[1:][inside]).all() and replay.terminal.any()
    assert np.abs(replay.action).max() <= 1
