"""The ant of D4RL's ant-* sets, whose 84 contact forces are always zero: Gymnasium's Ant-v4 with so many zeros behind what it sees.

D4RL recorded with mujoco-py on MuJoCo 2, which did not compute `cfrc_ext` (github.com/Farama-Foundation/D4RL/issues/143):
the columns 27 to 110 of its observations are zero, and no cost of contacts was ever paid. Gymnasium computes them, so that
with `use_contact_forces` its ant would show a policy numbers that none was trained on. Reward, end and start are Ant-v4's,
which are D4RL's; its limbs weigh a little more (docs/data.md).
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.mujoco.ant_v4 import AntEnv
from gymnasium.spaces import Box

FORCES = 84  # six per body, fourteen bodies with the world


class SilentAnt(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observations: positions without x and y, velocities, and zeros, (111,) float64. Actions: torques in [-1, 1], (8,)."""

    metadata = AntEnv.metadata

    def __init__(self, render_mode: str | None = None):
        self.inner, self.render_mode = AntEnv(render_mode=render_mode), render_mode
        self.action_space = self.inner.action_space
        self.observation_space = Box(-np.inf, np.inf, (27 + FORCES,), np.float64)

    @property
    def mujoco_renderer(self) -> Any:
        """That of the ant inside, for films that follow it."""
        return self.inner.mujoco_renderer

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        obs, info = self.inner.reset(seed=seed, options=options)
        return _padded(obs), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        obs, reward, terminated, truncated, info = self.inner.step(action)
        return _padded(obs), float(reward), terminated, truncated, info

    def render(self):
        return self.inner.render()

    def close(self) -> None:
        self.inner.close()


def _padded(obs: np.ndarray) -> np.ndarray:
    return np.concatenate([obs, np.zeros(FORCES)])
