"""Gymnasium environments, made without noise and with one clear line where that fails. Imports nothing heavy by itself."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np

from srpo.errors import UserError


class MissingEnvironment(UserError):
    """An environment that cannot be used."""


@contextlib.contextmanager
def quiet_construction():
    """Scores are defined in the -v4 environments: Gymnasium's advice to upgrade, and MuJoCo's about their files, are noise."""
    import mujoco

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        mujoco.set_mju_user_warning(before)


def make_env(env_id: str, **options: Any) -> Any:
    """Raises MissingEnvironment, with what to install, if it does not exist here."""
    import gymnasium

    try:
        with quiet_construction():
            return gymnasium.make(env_id, disable_env_checker=True, **options)
    except (gymnasium.error.Error, ImportError) as e:
        reason = str(e).splitlines()[0]
        raise MissingEnvironment(f"environment {env_id!r} is not available ({reason}); install it, or train with --no-eval") from e


def scale_action(space: Any, action: np.ndarray) -> np.ndarray:
    """From [-1, 1], clipped, to the bounds of an action space."""
    return space.low + (np.clip(action, -1.0, 1.0) + 1.0) * 0.5 * (space.high - space.low)
