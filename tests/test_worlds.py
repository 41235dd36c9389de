"""Environments of others, as evaluations and films meet them: what policies see, what their actions mean, how it is said that one fails."""

import sys
from pathlib import Path
from typing import ClassVar

import gymnasium
import mujoco
import numpy as np
import pytest
from hostile import one_line, refused

import srpo
from srpo.cli import main
from srpo.data import from_arrays
from srpo.deploy.signals import signals
from srpo.evaluation import video
from srpo.evaluation.scores import rollouts_of
from srpo.worlds.environments import MissingEnvironment, check_env, scale_action

FAR = 1.7e9  # what a time stamp is about: float32 rounds it by 64
TINY = {"policy.steps": 4, "policy.hidden": (8,), "policy.batch_size": 8}


class Clock(gymnasium.Env):
    """Shows 1.7e9 + x, where x is -1, 0, 1, ... by the episode, for three steps; the reward is the action that arrives."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}
    arrived: ClassVar[list[float]] = []
    mended: ClassVar = False

    def __init__(self, fails="", low=-1.0, high=1.0, dtype=np.float32, render_mode=None):
        if fails == "made":
            raise TypeError("a license\nis missing")
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        self.action_space = gymnasium.spaces.Box(low, high, (1,), dtype)
        self.fails, self.render_mode = fails, render_mode

    def reset(self, seed=None, options=None):
        if self.fails == "reset":
            raise KeyError("robot")
        self.steps, self.time = 0, np.array([FAR + seed - 1002])
        return self.time, {}

    def step(self, action):
        self.steps += 1
        if self.fails == "step" and self.steps == 2 and not Clock.mended:
            raise RuntimeError("on fire\nbadly")
        self.arrived.append(float(action[0]))
        return self.time[0] if self.fails == "shape" else self.time, float(action[0]), False, self.steps == 3, {}

    def render(self):
        return np.full((32, 32, 3), 9, np.uint8)


MOST = np.finfo(np.float32).max
KINDS = {
    "Clock-v0": {},
    **{f"Clock-{fails}-v0": {"fails": fails} for fails in ("made", "reset", "step", "shape")},
    "Clock-unbounded-v0": {"low": -np.inf, "high": np.inf},
    "Clock-huge-v0": {"low": -MOST, "high": MOST},
    f"Clock-{'x' * 100}-v0": {},
}
for name, options in KINDS.items():
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point=Clock, kwargs=options)


def recorded(env_id, **options):
    time = FAR + np.random.default_rng(0).uniform(-2, 2, (60, 1))
    end = np.arange(60) % 20 == 19
    return from_arrays(time, np.tanh(time - FAR), np.zeros(60), np.zeros(60, bool), end, env_id=env_id, name="clock", **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = recorded("Clock-v0")
    return srpo.train(
        srpo.configure("bc", data, **TINY), data, out=tmp_path_factory.mktemp("worlds") / "run", eval_every=0, quiet=True
    )


@pytest.fixture
def unplayed(run):
    """The run, as nothing was ever played."""
    (run.path / "evals.csv").unlink(missing_ok=True)
    Clock.arrived.clear()
    return run


def said(capsys, *arguments):
    assert main(["eval", *map(str, arguments), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return one_line(error.strip())


def test_policies_see_what_float32_would_round(unplayed, tmp_path):
    wanted = np.array([unplayed.policy(0).act(np.array([FAR + x])).item() for x in (-1, 0, 1)])
    assert np.abs(np.diff(wanted)).min() > 1e-3
    played = rollouts_of(unplayed, "Clock-v0", 3)(unplayed.policies)
    np.testing.assert_allclose(played.returns.ravel(), 3 * wanted, atol=1e-5)
    pytest.importorskip("imageio_ffmpeg")
    Clock.arrived.clear()
    video.record(unplayed, tmp_path / "film.mp4")
    np.testing.assert_allclose(Clock.arrived, wanted[[0] * 3], atol=1e-5)  # the first episode of an evaluation
    assert list(tmp_path.iterdir()) == [tmp_path / "film.mp4"]


def test_so_do_policies_in_recorded_units(tmp_path):
    data = recorded("Clock-unbounded-v0", action_range=(-3, 3))  # whose actions need no bounds then
    run = srpo.train(srpo.configure("bc", data, **TINY), data, out=tmp_path / "run", eval_every=4, eval_episodes=1, quiet=True)
    wanted = [run.policy(0).act(np.array([FAR + x])).item() for x in (-1, 0, 1)]
    played = rollouts_of(run, "Clock-unbounded-v0", 3)(run.policies)
    np.testing.assert_allclose(played.returns.ravel(), 3 * np.array(wanted), atol=1e-5)


@pytest.mark.parametrize("kind", ["unbounded", "huge"])
def test_actions_in_minus_one_to_one_need_bounds(kind, unplayed, capsys):
    assert "has actions without bounds" in said(capsys, unplayed.path, "--env", f"Clock-{kind}-v0")
    check_env(f"Clock-{kind}-v0", 1, 1, in_units=True)
    with pytest.raises(MissingEnvironment, match="without bounds"):  # an exported file would move its actions to them
        signals(f"Clock-{kind}-v0", 1, 1)
    assert signals(f"Clock-{kind}-v0", 1, 1, in_units=True)[0] == [{"name": "obs[0]", "unit": None}]
    assert not (unplayed.path / "evals.csv").exists()


def test_bounds_that_are_whole_numbers_do_not_overflow():
    space = gymnasium.spaces.Box(-128, 127, (2,), np.int8)
    np.testing.assert_array_equal(scale_action(space, np.float32([[-1, 1], [0, 0]])), [[-128, 127], [-0.5, -0.5]])


FAILS = {
    "made": r"'Clock-made-v0' is not available (TypeError: a license",
    "reset": r"'Clock-reset-v0' failed at step 0 of episode 0 (environment seed 1001) (KeyError: 'robot')",
    "step": r"'Clock-step-v0' failed at step 1 of episode 0 (environment seed 1001) (RuntimeError: on fire); mend it",
    "shape": "it gave an observation of shape (), expected (1,)",
}


@pytest.mark.parametrize("fails", FAILS)
def test_an_environment_that_fails_is_one_line_and_nothing_is_kept(fails, unplayed, capsys, tmp_path):
    assert FAILS[fails] in said(capsys, unplayed.path, "--env", f"Clock-{fails}-v0", "--episodes", "2")
    assert not (unplayed.path / "evals.csv").exists()
    pytest.importorskip("imageio_ffmpeg")
    film = tmp_path / "new" / "film.mp4"
    assert FAILS[fails] in said(capsys, unplayed.path, "--env", f"Clock-{fails}-v0", "--video", film)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [] and (film.parent.exists() == (fails in ("step", "shape")))


def test_a_training_whose_environment_fails_goes_on_when_that_is_mended(tmp_path, monkeypatch):
    data = recorded("Clock-step-v0")
    algorithm = srpo.configure("bc", data, **TINY)
    with pytest.raises(MissingEnvironment, match=r"failed at step 1 .* nothing is lost, continue with: srpo train --resume"):
        srpo.train(algorithm, data, out=tmp_path / "run", eval_every=2, eval_episodes=1, quiet=True)
    with monkeypatch.context() as patched:
        patched.delitem(gymnasium.registry, "Clock-step-v0")
        begun = (tmp_path / "run" / "state" / "policy.safetensors").read_bytes()
        assert "is not available" in refused(lambda: srpo.resume(tmp_path / "run", data, quiet=True))  # before it trains
        assert (tmp_path / "run" / "state" / "policy.safetensors").read_bytes() == begun
    monkeypatch.setattr(Clock, "mended", True)
    assert srpo.resume(tmp_path / "run", data, quiet=True).complete


def test_a_module_in_the_working_folder_is_found(unplayed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("arm_of_mine.py").write_text(
        "import gymnasium\ngymnasium.register('Arm-v0', entry_point=gymnasium.registry['Clock-v0'].entry_point)\n"
    )
    Path("arm_with_a_slip.py").write_text("def (\n")
    assert main(["eval", str(unplayed.path), "--env", "arm_of_mine:Arm-v0", "--episodes", "1", "--quiet"]) == 0
    assert "cannot be imported (SyntaxError" in said(capsys, unplayed.path, "--env", "arm_with_a_slip:Arm-v0")
    assert "cannot be imported (ValueError" in said(capsys, unplayed.path, "--env", ":Arm-v0")


REFUSED = {
    "no episode": ({"episodes": 0}, "found 0 episodes, expected one or more"),
    "half an episode": ({"episodes": 1.5}, "found 1.5 episodes, expected a whole number"),
    "more episodes than anybody counts": ({"episodes": 10**9}, "found 1000000000 episodes, expected at most 1000000"),
    "a truth": ({"episodes": True}, "found True episodes, expected a whole number"),
    "no step": ({"max_steps": 0}, "found 0 steps at most per episode, expected one or more"),
    "less than no step": ({"max_steps": -1}, "found -1 steps at most per episode, expected one or more"),
    "half a curve": ({"curve": 0.5}, "found 0.5 episodes of earlier policies, expected a whole number"),
    "a number for an environment": ({"env_id": 3}, "env_id is 3, expected the id of a Gymnasium environment"),
    "an id that evals.csv cannot hold": ({"env_id": f"Clock-{'x' * 100}-v0"}, "expected the id of a Gymnasium environment"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_evaluate_cannot_mean_is_one_line_and_writes_nothing(case, unplayed):
    options, message = REFUSED[case]
    assert message in refused(lambda: srpo.evaluate(unplayed, **options))
    assert Clock.arrived == [] and not (unplayed.path / "evals.csv").exists()


def test_a_table_that_could_not_be_added_to_is_refused_before_anything_is_played(unplayed, monkeypatch):
    (unplayed.path / "evals.csv").write_text("rubbish\n")
    assert "evals.csv is damaged" in refused(lambda: srpo.evaluate(unplayed, 1))
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "cannot be written" in refused(lambda: srpo.evaluate(unplayed, 1))
    assert Clock.arrived == []


def test_one_episode_has_no_interval(unplayed):
    assert "1 episode per seed" in str(srpo.evaluate(unplayed, 1)) and "interval" not in str(srpo.evaluate(unplayed, 1))
    assert "2 episodes per seed" in str(srpo.evaluate(unplayed, 2)) and "interval" in str(srpo.evaluate(unplayed, 2))


@pytest.mark.parametrize("name", ["film", "film.txt", "film.npz", "film.webm", "film.png"])
def test_a_name_that_is_no_film_s_is_refused(name, unplayed, capsys, tmp_path):
    assert "expected one of .mp4, .mkv" in said(capsys, unplayed.path, "--video", tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == [] and Clock.arrived == []


def test_a_seed_is_that_of_a_film(unplayed, capsys):
    assert "--seed 0 chooses the policy of the film, found no --video" in said(capsys, unplayed.path, "--seed", "0")


def test_a_film_follows_the_ant():
    env = video._filmed("srpo/Ant-v0")
    video._follow(env)
    inner = env.unwrapped.inner
    track = mujoco.mj_name2id(inner.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    assert inner.mujoco_renderer.camera_id == track >= 0
    env.close()
