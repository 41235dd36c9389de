"""Environments of data sets: Gymnasium's id, the time limit, and D4RL's reference returns, as data.

Sources: D4RL's `infos.py` (returns of a random and of an expert policy, the same for all data sets of an
environment) and its environment registrations (time limits).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from srpo.worlds import ANT
from srpo.worlds.mazes import MAZES, ant_maze_id, point_maze_id


class Environment(NamedTuple):
    """`env_id` is None where Gymnasium has no environment with the same physics and observations."""

    env_id: str | None
    obs_size: int
    action_size: int
    max_steps: int  # of an episode
    random: float  # mean return of a random policy: score 0
    expert: float  # mean return of an expert: score 100


# by the beginning of the data set's name; Gymnasium's -v4 has the models that D4RL recorded (their limbs' weight: docs/data.md)
ENVIRONMENTS = {
    "halfcheetah": Environment("HalfCheetah-v4", 17, 6, 1000, -280.178953, 12135.0),
    "hopper": Environment("Hopper-v4", 11, 3, 1000, -20.272305, 3234.3),
    "walker2d": Environment("Walker2d-v4", 17, 6, 1000, 1.629008, 4592.3),
    "ant": Environment(ANT, 111, 8, 1000, -325.6, 3879.7),
    **{f"antmaze-{name}": Environment(ant_maze_id(name), 29, 8, maze.ant_steps, 0.0, 1.0) for name, maze in MAZES.items()},
    **{f"pointmaze-{name}": Environment(point_maze_id(name), 4, 2, maze.point_steps, 0.0, 1.0) for name, maze in MAZES.items()},
    "pen": Environment(None, 45, 24, 100, 96.262799, 3076.8331017826877),
    "hammer": Environment(None, 46, 26, 200, -274.856578, 12794.134825156867),
    "door": Environment(None, 39, 28, 200, -56.512833, 2880.5693087298737),
    "relocate": Environment(None, 39, 30, 200, -6.425911, 4233.877797728884),
    "kitchen": Environment(None, 60, 9, 280, 0.0, 4.0),
}


# with D4RL's physics and rewards: -v5 changed both, and ids that only begin alike are other tasks
MEASURED_IN = {f"{name}-v{version}" for name in ("HalfCheetah", "Hopper", "Walker2d") for version in (2, 3, 4)}


def normalized(returns, reference: Sequence[float]):
    """100 for an expert's mean return and 0 for a random policy's; `reference` is (random, expert)."""
    low, high = reference
    return 100 * (returns - low) / (high - low)


def recognized(name: str, env_id: str | None, sizes: tuple[int, int], d4rl: bool) -> Environment | None:
    """The environment whose settings and references hold for a data set: by its source and its sizes, never by a file's name alone.

    `d4rl`: the data are D4RL's own (or ours), so that `name` says what they are; any other must name an environment in
    which the references were measured.
    """
    known = environment(name, None if d4rl else env_id) if d4rl or env_id is not None else None
    if known is None or sizes != (known.obs_size, known.action_size):
        return None
    return known if d4rl or env_id in MEASURED_IN or env_id == known.env_id else None


def environment(name: str, env_id: str | None = None) -> Environment | None:
    """The entry for a data set called `name`, or recorded in Gymnasium's `env_id` if that is known; else None."""
    if env_id is not None:
        name = env_id.rpartition("-v")[0].lower().removeprefix("srpo/")
    known = [prefix for prefix in ENVIRONMENTS if name == prefix or name.startswith((prefix + "-", prefix + "_"))]
    return ENVIRONMENTS[max(known, key=len)] if known else None
