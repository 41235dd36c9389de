"""PointMaze: the task, the recordings by D4RL's recipe, and that whoever walks to the goal scores 100."""

import sys
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from srpo import algorithms, config
from srpo.cli import main
from srpo.data import load_dataset
from srpo.data.info import warnings_about
from srpo.data.sources import made
from srpo.errors import UserError
from srpo.evaluation.rollouts import Rollouts
from srpo.worlds.environments import make_env
from srpo.worlds.mazes import MAZES, point_maze_id
from srpo.worlds.pointmaze import PointMaze
from srpo.worlds.waypoints import Controller, record

robotics = pytest.importorskip("gymnasium_robotics")


@pytest.mark.parametrize(
    "maze, name, steps", [("umaze", "U_MAZE", 6), ("medium", "MEDIUM_MAZE", 10), ("large", "LARGE_MAZE", 14)]
)
def test_walls_are_those_of_gymnasium_robotics_and_ways_are_shortest(maze, name, steps):
    from gymnasium_robotics.envs.maze import maps

    theirs = np.array(getattr(maps, name))
    mine = MAZES[maze]
    assert [tuple(cell) for cell in np.argwhere(theirs == 1)] == mine.walls
    way = mine.way(mine.start, mine.goal)
    assert len(way) == steps and way[-1] == mine.goal  # counted by hand
    cells = np.array([mine.start, *way])
    assert (np.abs(np.diff(cells, axis=0)).sum(1) == 1).all() and set(way) <= set(mine.free)
    assert mine.way(mine.goal, mine.goal) == []


def test_an_episode_starts_in_the_maze_s_corner_with_noise_and_ends_at_the_limit():
    env = make_env(point_maze_id("umaze"))
    starts = np.array([env.reset(seed=seed)[0] for seed in range(50)])
    center = env.unwrapped.center((1, 1))
    assert (np.abs(starts[:, :2] - center) <= 0.1).all() and starts[:, :2].std() > 0.04
    assert 0.05 < starts[:, 2:].std() < 0.15
    assert (env.reset(seed=3)[0] == starts[3]).all()
    for step in range(1, 301):
        _, reward, terminated, truncated, _ = env.step(np.zeros(2, np.float32))
        assert (reward, terminated, truncated) == (0.0, False, step == 300)
    env.close()


def test_the_goal_is_a_disk_of_radius_one_half():
    env = PointMaze("medium")
    env.reset(seed=0)
    for offset, inside in (((0.0, 0.0), True), ((0.48, 0.0), True), ((-0.36, 0.36), False)):  # the wall begins at x = 0.5
        env.inner.point_env.set_state(env.goal + np.array(offset), np.zeros(2))
        _, reward, terminated, _, _ = env.step(np.zeros(2))
        assert (reward, terminated) == (float(inside), inside)
    env.close()


class Walker(eqx.Module):
    """A policy of the library: from every cell toward the middle of the next one of the shortest way to the goal."""

    toward: jnp.ndarray  # (rows, columns, 2) where to go from each cell
    corner: jnp.ndarray  # (2,) of the maze, top left

    def act(self, obs, key=None):
        row = jnp.floor(self.corner[1] - obs[1]).astype(int)
        column = jnp.floor(obs[0] - self.corner[0]).astype(int)
        return jnp.clip(10.0 * (self.toward[row, column] - obs[:2]) - 3.0 * obs[2:], -1.0, 1.0)


def walker(maze: str, lost: bool) -> Walker:
    env = PointMaze(maze)
    toward = np.zeros((len(env.maze.rows), len(env.maze.rows[0]), 2))
    for cell in env.maze.free:
        way = env.maze.way(cell, env.maze.start if lost else env.maze.goal)
        toward[cell] = env.center(way[0] if way else cell)
    corner = np.array([-env.inner.maze.x_map_center, env.inner.maze.y_map_center])
    return Walker(jnp.asarray(toward)[None, None], jnp.asarray(corner)[None, None])  # leading axes: seed, point


@pytest.mark.parametrize("maze", MAZES)
def test_a_policy_that_walks_to_the_goal_scores_100_and_one_that_stays_0(maze):
    known = made.MADE[f"pointmaze-{maze}"]
    rollouts = Rollouts(point_maze_id(known), (1, 1), 2)
    walked = rollouts(walker(maze, lost=False))
    assert (walked.returns == 1.0).all() and (walked.lengths < MAZES[maze].point_steps).all()
    if maze == "umaze":
        stayed = rollouts(walker(maze, lost=True))
        assert (stayed.returns == 0.0).all() and (stayed.lengths == 300).all()


@pytest.fixture(scope="module")
def recording():
    return record("umaze", 3000, seed=1)


def test_a_recording_is_one_trajectory_inside_the_maze_labeled_with_the_goal(recording):
    env = PointMaze("umaze")
    assert {key: x.shape for key, x in recording.items()} == {
        "obs": (3000, 4),
        "action": (3000, 2),
        "reward": (3000,),
        "terminal": (3000,),
        "timeout": (3000,),
        "next_obs": (3000, 4),
    }
    assert (recording["next_obs"][:-1] == recording["obs"][1:]).all()
    assert np.abs(recording["action"]).max() <= 1
    assert {env.cell(xy) for xy in recording["obs"][:, :2]} == set(env.maze.free)  # random goals lead everywhere
    near = np.linalg.norm(recording["next_obs"][:, :2] - env.center((3, 1)), axis=1) <= 0.5
    assert (recording["reward"] == near).all() and (recording["terminal"] == near).all() and 0 < near.mean() < 0.5
    assert not (recording["terminal"] & recording["timeout"]).any()
    ends = np.flatnonzero(recording["timeout"] | recording["terminal"])
    assert np.diff(ends).max() <= 300


def test_actions_are_the_controller_s_with_noise():
    env, rng = PointMaze("umaze"), np.random.default_rng(0)
    obs, _ = env.reset(seed=0)
    way = Controller(env, obs[:2], (3, 1), rng)
    assert len(way.waypoints) == 6 and (way.waypoints[-1] == env.goal).all()
    shift = np.array(way.waypoints[:-1]) - [env.center(cell) for cell in env.maze.way((1, 1), (3, 1))[:-1]]
    assert 0 < np.abs(shift).max() <= 0.1
    assert np.allclose(way.act(obs), np.clip(10 * (way.waypoints[0] - obs[:2]) - obs[2:], -1, 1))
    for _ in range(300):
        obs = env.step(way.act(obs))[0]
        if way.arrived(obs):
            break
    assert np.linalg.norm(obs[:2] - env.goal) < 0.1


def test_the_same_seed_gives_the_same_file_and_another_one_another(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SRPO_DATASET_DIR", str(tmp_path / "kept"))
    with pytest.raises(made.DataError, match="pointmaze-umaze is not at .* yet; make it.*: srpo data make pointmaze-umaze"):
        load_dataset("pointmaze-umaze")
    make = ["data", "make", "pointmaze-umaze", "--quiet", "--steps", "1500"]
    assert main(make) == 0
    first = Path(capsys.readouterr().out.strip())
    assert first == tmp_path / "kept" / "pointmaze-umaze.hdf5"
    assert main([*make, "--to", str(tmp_path / "again.hdf5")]) == 0
    assert main([*make, "--to", str(tmp_path / "other.hdf5"), "--seed", "1"]) == 0
    assert first.read_bytes() == (tmp_path / "again.hdf5").read_bytes() != (tmp_path / "other.hdf5").read_bytes()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["again.hdf5", "other.hdf5", "pointmaze-umaze.hdf5"]
    data = load_dataset("pointmaze-umaze")
    assert (data.name, data.env_id, data.reference) == ("pointmaze-umaze", "srpo/PointMaze-umaze-v0", (0.0, 1.0))
    assert data.score(1.0) == 100 and len(data) == 1500
    assert not any("next row" in line for line in warnings_about(data))
    assert load_dataset(tmp_path / "again.hdf5").env_id == data.env_id
    assert main(make) == 2
    assert "exists; remove it first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["pointmaze-umase"], "did you mean 'pointmaze-umaze'?"),
        (["pointmaze-umaze", "--steps", "1"], "found 1 steps, expected two or more"),
        (["pointmaze-umaze", "--seed", "-1"], "found seed -1, expected zero or more"),
        (["pointmaze-umaze", "--seed", str(2**64)], "found seed 18446744073709551616, expected zero or more, at most"),
        (["pointmaze-umaze", "--to", "x.npz"], "give a name that ends in .hdf5"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SRPO_DATASET_DIR", str(tmp_path / "kept"))
    assert main(["data", "make", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "kept").exists()


def test_without_gymnasium_robotics_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SRPO_DATASET_DIR", str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "gymnasium_robotics"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    assert main(["data", "make", "pointmaze-umaze", "--quiet"]) == 2
    assert "pip install 'srpo[mazes]'" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"srpo/PointMaze-umaze-v0' is not available .*pip install 'srpo\[mazes\]'"):
        make_env("srpo/PointMaze-umaze-v0")


TEMPERATURES = {"policy.beta", "policy.alpha", "beta"}


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_pointmaze_is_trained_as_antmaze_is(name):
    cls = algorithms.find(name)
    for preset in cls.presets:
        antmaze, here = (config.preset(cls.presets, preset, data) for data in ("antmaze-new", "pointmaze-large"))
        assert {path: here.get(path) for path in antmaze if path not in TEMPERATURES} == {
            path: value for path, value in antmaze.items() if path not in TEMPERATURES
        }
    if name == "srpo":
        assert here["critic.expectile"] == 0.9 and here["data.reward"] == "minus-one"
        assert here["policy.normalize"] == "2-norm" and here["policy.hidden"] == (256,) * 4


@pytest.mark.filterwarnings("ignore:.*infinity:UserWarning")  # as all of MuJoCo's observations
def test_gymnasium_s_own_checks_pass():
    env = PointMaze("medium")
    check_env(env, skip_render_check=True)
    env.close()
