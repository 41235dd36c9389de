"""Names and units of observations and actions, read off the environment's own MuJoCo model where they can be verified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from srpo.text import NAME, plain
from srpo.worlds.environments import answering, check_spaces, make_env

# per joint type (free, ball, slide, hinge): names and units of its positions, then of its velocities
ROTATION, TURN = [("qw", "1"), ("qx", "1"), ("qy", "1"), ("qz", "1")], [(f"angular velocity {a}", "rad/s") for a in "xyz"]
POSITIONS = ([("x", "m"), ("y", "m"), ("z", "m"), *ROTATION], ROTATION, [("position", "m")], [("angle", "rad")])
VELOCITIES = ([(f"velocity {a}", "m/s") for a in "xyz"] + TURN, TURN, [("velocity", "m/s")], [("angular velocity", "rad/s")])
SLIDE, HINGE = 2, 3

Signal = dict[str, Any]


def signals(
    env_id: str | None,
    obs_size: int,
    action_size: int,
    labels: Sequence[Sequence[str]] | None = None,
    in_units: bool = False,
) -> tuple[list[Signal], list[Signal], np.ndarray, np.ndarray]:
    """Observation signals, action signals, and the bounds (act,) of the actions.

    Without an environment, or where its observation is not a plain piece of the simulator's state, units are None.
    `labels`: the names of the recorded columns of observations and actions, which go before those of the environment. `in_units`:
    the policy acts in recorded units, and needs no bounds of the environment. Raises MissingEnvironment if the environment is
    not installed, it fails, or no policy of these sizes can act in it.
    """
    named = labels or ([f"obs[{i}]" for i in range(obs_size)], [f"action[{i}]" for i in range(action_size)])
    obs, action = ([{"name": plain(name, NAME), "unit": None} for name in names] for names in named)
    low, high = -np.ones(action_size, np.float32), np.ones(action_size, np.float32)
    if env_id is None:
        return obs, action, low, high
    env = make_env(env_id)
    try:
        check_spaces(env, env_id, obs_size, action_size, in_units)
        low, high = (np.asarray(bound, np.float32) for bound in (env.action_space.low, env.action_space.high))
        model = getattr(env.unwrapped, "model", None)
        if labels is None and hasattr(model, "jnt_type"):
            with answering(env_id, lambda: "when it was reset"):
                obs, action = _state(env, model) or obs, _motors(model) or action
    finally:
        env.close()
    return obs, action, low, high


def _state(env: Any, model: Any) -> list[Signal] | None:
    """The observation as positions, without the first few, and velocities; None if it is something else."""
    seen = env.reset(seed=0)[0]
    state = np.concatenate([env.unwrapped.data.qpos, env.unwrapped.data.qvel])
    skipped = len(state) - np.size(seen)
    if skipped < 0 or not np.allclose(state[skipped:], seen):
        return None
    return [_signal(model, *entry) for table in (POSITIONS, VELOCITIES) for entry in _entries(model, table)][skipped:]


def _entries(model: Any, table: tuple) -> list[tuple[int, str, str]]:
    return [(joint, what, unit) for joint in range(model.njnt) for what, unit in table[model.jnt_type[joint]]]


def _signal(model: Any, joint: int, what: str, unit: str) -> Signal:
    return {"name": f"{model.joint(joint).name} {what}", "unit": unit}


def _motors(model: Any) -> list[Signal] | None:
    """One signal per motor on a joint; None if the model has other actuators."""
    out = []
    for i in range(model.nu):
        plain = model.actuator_gaintype[i] == 0 and model.actuator_biastype[i] == 0 and model.actuator_trntype[i] == 0
        joint = model.actuator_trnid[i][0]
        if not plain or model.jnt_type[joint] not in (SLIDE, HINGE):
            return None
        strength = model.actuator_gear[i][0] * model.actuator_gainprm[i][0]
        newton = "N" if model.jnt_type[joint] == SLIDE else "N m"
        out.append({"name": f"{model.joint(joint).name} motor", "unit": f"{strength:g} {newton}"})
    return out
