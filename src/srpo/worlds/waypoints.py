"""Recordings of PointMaze by D4RL's maze2d recipe (`scripts/generation/generate_maze2d_datasets.py`), relabeled as antmaze.

A ball is led from one random free cell to the next by a controller along waypoints, with noise on its actions; one long
trajectory. Afterward the rewards, and the ends, are those of the one goal of evaluation (as in D4RL's
`relabel_antmaze_rewards.py`): row i has reward 1 and is terminal if what it leads to is at the goal. The ball goes on
there, so several terminal rows may follow each other. A row is a time-out where the controller arrived or gave up:
an episode is one of its ways.

Differences from D4RL's script:
- the row after an arrival holds the state that the ball was in (there, the one before it, a slip);
- waypoints are moved by U(-0.1, 0.1) from the middle of their cells (there by U(0, 0.2) from a corner that the physics
  shifts by as much);
- next observations are recorded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from srpo.worlds.mazes import Cell
from srpo.worlds.pointmaze import PointMaze

ACTION_NOISE = 0.5  # standard deviation
ARRIVED = 0.1  # distance to a waypoint
WAYPOINT_NOISE = 0.1


class Controller:
    """Proportional control with damping, along waypoints (D4RL's `waypoint_controller.py`)."""

    def __init__(self, env: PointMaze, position: np.ndarray, goal: Cell, rng: np.random.Generator):
        """A way from `position` (2,) to the middle of the cell `goal`."""
        cells = env.maze.way(env.cell(position), goal) or [goal]
        noise = rng.uniform(-WAYPOINT_NOISE, WAYPOINT_NOISE, (len(cells), 2))
        noise[-1] = 0.0
        self.waypoints = [env.center(cell) + shift for cell, shift in zip(cells, noise, strict=True)]

    def act(self, obs: np.ndarray) -> np.ndarray:
        """The force (2,) in [-1, 1] toward the next waypoint, for an observation (4,)."""
        return np.clip(10.0 * (self.waypoints[0] - obs[:2]) - obs[2:], -1.0, 1.0)

    def arrived(self, obs: np.ndarray) -> bool:
        """Whether the last waypoint is reached; one on the way is crossed off."""
        near = bool(np.linalg.norm(self.waypoints[0] - obs[:2]) < ARRIVED)
        if near and len(self.waypoints) > 1:
            del self.waypoints[0]
            return False
        return near


def record(maze: str, steps: int, seed: int, progress: Callable[[int], None] | None = None) -> dict[str, np.ndarray]:
    """`steps` rows of the maze as arrays by the names of `srpo.data`; the same for the same seed.

    `progress` is told how many there are, now and then. Raises ImportError without Gymnasium-Robotics.
    """
    env, rng = PointMaze(maze), np.random.default_rng(seed)
    free = env.maze.free
    obs, _ = env.reset(seed=seed, options={"cell": free[rng.integers(len(free))]})
    rows = np.empty((steps + 1, 4))
    action, timeout = np.empty((steps, 2)), np.zeros(steps, bool)
    way, begun = None, 0
    for i in range(steps):
        if way is None:
            way, begun = Controller(env, obs[:2], free[rng.integers(len(free))], rng), i
        rows[i] = obs
        action[i] = np.clip(way.act(obs) + ACTION_NOISE * rng.standard_normal(2), -1.0, 1.0)
        obs = env.step(action[i])[0]
        timeout[i] = way.arrived(obs) or i + 1 - begun >= env.maze.point_steps
        if timeout[i]:
            way = None
        if progress is not None and (i + 1) % 1000 == 0:
            progress(i + 1)
    rows[steps] = obs
    env.close()
    return relabeled(rows, action, timeout, env)


def relabeled(rows: np.ndarray, action: np.ndarray, timeout: np.ndarray, env: PointMaze) -> dict[str, np.ndarray]:
    """Fields of N rows from N + 1 observations, as if the goal had been that of `env` all the time."""
    at_goal = env.reached(rows[1:, :2])
    return {
        "obs": rows[:-1].astype(np.float32),
        "action": action.astype(np.float32),
        "reward": at_goal.astype(np.float32),
        "terminal": at_goal,
        "timeout": timeout & ~at_goal,
        "next_obs": rows[1:].astype(np.float32),
    }
