"""D4RL's AntMaze on current MuJoCo: the environments of antmaze-{umaze,medium,large}-*, so that those data sets can be scored.

Source: D4RL, `locomotion/` (ant.py, maze_env.py, goal_reaching_env.py, wrappers.py, assets/ant.xml) as registered for
the -v2 ids, with `eval=True`: reward 1 and the end within 0.5 of the goal, else 0; no end for falling; the goal is
drawn anew for each episode. Ids of -v0 fix one draw of the goal for a whole evaluation instead.

The ant is Gymnasium's `ant.xml`, which is D4RL's but for the numbers set here. MuJoCo computes the inertia of capsules
exactly since 2.1.1; D4RL recorded with versions that took a cylinder, half a radius longer at both ends: `_as_recorded`.
Gymnasium-Robotics' AntMaze is another task: other motors, goals, success radius and start.

Difference from D4RL: there goals follow NumPy's global generator, and the noise of the start cannot be seeded; here
both follow the seed given to `reset`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv
from gymnasium.spaces import Box

from srpo.worlds.mazes import MAZES, Cell, Maze

CELL = 4.0  # meters
HEIGHT = 0.5  # of walls, in cells
GOAL_RADIUS = 0.5
TORQUE = 30.0  # Nm of an action of 1


def center(maze: Maze, cell: Cell) -> np.ndarray:
    """Position (2,) of the middle of a cell: the start is the origin, columns go along x and rows along y."""
    (row, column), (row_0, column_0) = cell, maze.start
    return CELL * np.array([column - column_0, row - row_0], float)


def model_xml(maze: Maze, ant: str) -> str:
    """The ant in the maze as MJCF, from the content `ant` of Gymnasium's ant.xml, with D4RL's numbers."""
    root = ET.fromstring(ant)
    option, geom, actuator, world = (_part(root, path) for path in ("option", "default/geom", "actuator", "worldbody"))
    option.set("timestep", "0.02")
    geom.attrib.update(solref=".02 1", solimp=".8 .8 .01")
    for motor in actuator:
        motor.attrib.pop("gear")
        motor.set("ctrlrange", f"{-TORQUE} {TORQUE}")
    half = CELL / 2
    for i, j in maze.walls:
        x, y = center(maze, (i, j))
        shape = {"type": "box", "pos": f"{x} {y} {HEIGHT * half}", "size": f"{half} {half} {HEIGHT * half}"}
        looks = {"name": f"block_{i}_{j}", "contype": "1", "conaffinity": "1", "rgba": "0.7 0.5 0.3 1.0"}
        ET.SubElement(world, "geom", shape | looks)
    return ET.tostring(root, encoding="unicode")


def _part(root: ET.Element, path: str) -> ET.Element:
    found = root.find(path)
    if found is None:
        raise ValueError(f"Gymnasium's ant.xml has no {path}")
    return found


def _as_recorded(model: mujoco.MjModel) -> None:
    """Mass and inertia of every limb as MuJoCo computed them for capsules before 2.1.1: those of a cylinder."""
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE):
        body, (radius, half, _) = model.geom_bodyid[geom], model.geom_size[geom]
        if model.body_geomnum[body] != 1:
            raise ValueError(f"body {body} of Gymnasium's ant.xml has several parts, expected one")
        length = 2 * half + radius
        density = 5.0
        mass = density * np.pi * radius**2 * length
        across = mass * (3 * radius**2 + length**2) / 12
        model.body_mass[body] = mass
        along = int(np.argmin(model.body_inertia[body]))
        model.body_inertia[body] = across
        model.body_inertia[body, along] = mass * radius**2 / 2
    mujoco.mj_setConst(model, mujoco.MjData(model))


class AntMaze(MujocoEnv):
    """Observations (29,) float64: positions x, y, z, orientation w, x, y, z and eight joints; then the 14 velocities.

    Actions (8,) in [-1, 1]: torques of hip and ankle of the legs 4, 1, 2, 3, scaled to 30 Nm. A step is 0.1 s.
    """

    metadata = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 10}  # noqa: RUF012  (Gymnasium's)

    def __init__(self, maze: str, **options: Any):
        """`maze`: a name in `MAZES`. `options`: those of Gymnasium's MujocoEnv, such as render_mode."""
        self.maze = MAZES[maze]
        self.goal = center(self.maze, self.maze.goal)
        observations = Box(-np.inf, np.inf, (29,), np.float64)
        super().__init__("ant.xml", 5, observation_space=observations, **options)
        self.action_space = Box(-1.0, 1.0, (8,), np.float32)

    def _initialize_simulation(self):
        with open(self.fullpath) as file:
            model = mujoco.MjModel.from_xml_string(model_xml(self.maze, file.read()))
        _as_recorded(model)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
        return model, mujoco.MjData(model)

    def draw_goal(self) -> np.ndarray:
        """A goal (2,) near the middle of its cell: each coordinate moved by U(0, 1) + U(0, 0.5), then at least 0."""
        shift = self.np_random.uniform(0, CELL / 4, 2) + self.np_random.uniform(0, CELL / 8, 2)
        return np.maximum(center(self.maze, self.maze.goal) + shift, 0.0)

    def reset_model(self) -> np.ndarray:
        self.goal = self.draw_goal()
        position = self.init_qpos + self.np_random.uniform(-0.1, 0.1, self.model.nq)
        position[3:7] /= np.linalg.norm(position[3:7])  # as D4RL's MuJoCo did by itself, in place
        velocity = self.init_qvel + 0.1 * self.np_random.standard_normal(self.model.nv)
        self.set_state(position, velocity)
        return self.observe()

    def observe(self) -> np.ndarray:
        """What the ant sees now, (29,)."""
        return np.concatenate([self.data.qpos, self.data.qvel])

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.float64, bool, bool, dict]:
        self.do_simulation(TORQUE * np.clip(action, -1.0, 1.0), self.frame_skip)
        obs = self.observe()
        done = bool(np.linalg.norm(obs[:2] - self.goal) <= GOAL_RADIUS)
        return obs, np.float64(done), done, False, {}
