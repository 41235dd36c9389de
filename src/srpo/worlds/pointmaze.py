"""A ball in a maze, pushed by two forces, with a goal that does not move: the antmaze task for Gymnasium-Robotics' PointMaze.

Physics: Gymnasium-Robotics' `PointMazeEnv`, which has D4RL's maze2d (0.01 s a step, force 100 a, speed at most 5 in each
direction, walls of one unit). Task, as in antmaze: reward 1 and the end within 0.5 of the goal, else 0; each episode
starts in the same cell. Noise of the start as in maze2d: U(-0.1, 0.1) of the position, 0.1 N(0, 1) of the velocity.
"""

from __future__ import annotations

import contextlib
import io
import os
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from srpo.worlds.mazes import MAZES, Cell

GOAL_RADIUS = 0.5  # D4RL's, of both antmaze and maze2d


def _point_maze_class() -> type:
    """Raises ImportError, with what to install, where Gymnasium-Robotics is missing."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # it prints a notice about other environments of its own
            from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
    except ImportError as e:
        raise ImportError(f"gymnasium-robotics is not installed ({e}): pip install 'srpo[mazes]'") from e
    return PointMazeEnv


class PointMaze(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observations: position (x, y) and velocity, (4,) float64. Actions: forces in [-1, 1], (2,)."""

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 100}  # noqa: RUF012  (Gymnasium's)

    def __init__(self, maze: str, render_mode: str | None = None):
        """`maze`: a name in `MAZES`. Raises ImportError without Gymnasium-Robotics."""
        self.maze, self.render_mode = MAZES[maze], render_mode
        walls = [[int(char == "#") for char in row] for row in self.maze.rows]
        self.inner = _point_maze_class()(maze_map=walls, render_mode=render_mode)
        os.unlink(self.inner.tmp_xml_file_path)  # it would stay
        self.inner.position_noise_range = 0.0
        self.goal = self.center(self.maze.goal)
        self.action_space = self.inner.action_space
        self.observation_space = Box(-np.inf, np.inf, (4,), np.float64)

    def center(self, cell: Cell) -> np.ndarray:
        """Position (2,) of the middle of a cell."""
        return self.inner.maze.cell_rowcol_to_xy(np.array(cell))

    def cell(self, position: np.ndarray) -> Cell:
        """The cell that a position (2,) is in."""
        row, column = self.inner.maze.cell_xy_to_rowcol(position)
        return int(row), int(column)

    def reached(self, position: np.ndarray) -> np.ndarray:
        """Whether positions (..., 2) are at the goal."""
        return np.linalg.norm(position - self.goal, axis=-1) <= GOAL_RADIUS

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """`options` may hold "cell", (row, column), to start in another one than the maze's."""
        super().reset(seed=seed)
        start = (options or {}).get("cell", self.maze.start)
        cells = {"reset_cell": np.array(start), "goal_cell": np.array(self.maze.goal)}
        self.inner.reset(seed=seed, options=cells)  # the seed is of no effect: its noise is off
        position = self.center(start) + self.np_random.uniform(-0.1, 0.1, 2)
        velocity = 0.1 * self.np_random.standard_normal(2)
        self.inner.point_env.set_state(position, velocity)
        return np.concatenate([position, velocity]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs = self.inner.step(action)[0]["observation"]
        done = bool(self.reached(obs[:2]))
        return obs, float(done), done, False, {}

    def render(self):
        return self.inner.render()

    def close(self) -> None:
        self.inner.close()
