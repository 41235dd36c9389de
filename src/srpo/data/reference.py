"""Environments of data sets: Gymnasium's id, the time limit, and D4RL's reference returns, as data.

Sources: D4RL's `infos.py` (returns of a random and of an expert policy, the same for all data sets of an
environment) and its environment registrations (time limits).
"""

from __future__ import annotations

from typing import NamedTuple


class Environment(NamedTuple):
    """`env_id` is None where Gymnasium has no environment with the same physics and observations."""

    env_id: str | None
    max_steps: int  # of an episode
    random: float | None = None  # mean return of a random policy: score 0
    expert: float | None = None  # mean return of an expert: score 100


# by the beginning of the data set's name; Gymnasium's -v4 has the physics that D4RL recorded
ENVIRONMENTS = {
    "halfcheetah": Environment("HalfCheetah-v4", 1000, -280.178953, 12135.0),
    "hopper": Environment("Hopper-v4", 1000, -20.272305, 3234.3),
    "walker2d": Environment("Walker2d-v4", 1000, 1.629008, 4592.3),
    "ant": Environment(None, 1000, -325.6, 3879.7),  # D4RL's observations hold contact forces, Ant-v4's do not
    "antmaze-umaze": Environment(None, 700, 0.0, 1.0),
    "antmaze-medium": Environment(None, 1000, 0.0, 1.0),
    "antmaze-large": Environment(None, 1000, 0.0, 1.0),
}


def environment(name: str, env_id: str | None = None) -> Environment | None:
    """The entry for a data set called `name`, or recorded in Gymnasium's `env_id` if that is known; else None."""
    if env_id is not None:
        name = env_id.rpartition("-v")[0].lower()
    known = [prefix for prefix in ENVIRONMENTS if name == prefix or name.startswith((prefix + "-", prefix + "_"))]
    return ENVIRONMENTS[max(known, key=len)] if known else None
