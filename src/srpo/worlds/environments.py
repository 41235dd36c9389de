"""Gymnasium environments, made without noise and with one clear line where that fails. Imports nothing heavy by itself."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from typing import Any

import numpy as np

from srpo.errors import UserError


class MissingEnvironment(UserError):
    """An environment that cannot be used."""


@contextlib.contextmanager
def quiet_construction():
    """Scores are defined in the -v4 environments: Gymnasium's advice to upgrade, and MuJoCo's about their files, are noise."""
    try:
        import mujoco
    except ImportError:  # then nothing of it speaks
        yield
        return
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        mujoco.set_mju_user_warning(before)


def make_env(env_id: str, **options: Any) -> Any:
    """Raises MissingEnvironment, with what to install, if it does not exist here.

    Gymnasium imports the module of an id such as "module:Name-v0". Ids come from files, which must not run code: the
    module must have been imported already.
    """
    try:
        import gymnasium
    except ImportError as e:
        raise MissingEnvironment(
            f"environment {env_id!r} needs Gymnasium ({e}); pip install 'srpo[env]', or train with --no-eval"
        ) from e
    from srpo import worlds

    worlds.register()
    module, colon, _ = env_id.rpartition(":")
    if colon and module not in sys.modules:
        raise MissingEnvironment(
            f"environment {env_id!r} needs the module {module!r}, which no file may import; name it with --env, import it in Python, "
            "or install a package that registers it (entry point gymnasium.envs)"
        )
    try:
        with quiet_construction():
            return gymnasium.make(env_id, disable_env_checker=True, **options)
    except (gymnasium.error.Error, ImportError, ValueError) as e:
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise MissingEnvironment(
            f"environment {env_id!r} is not available ({reason}); install it, or name another one (module:Name-v0 where a module registers it)"
        ) from e


def time_limit(env_id: str) -> int | None:
    """The steps after which Gymnasium cuts an episode of the environment, None if it sets no limit. Raises MissingEnvironment."""
    env = make_env(env_id)
    env.close()
    return env.spec.max_episode_steps


def import_its_module(env_id: str) -> None:
    """Imports the module of an id such as "module:Name-v0" that the user, not a file, has named. Raises MissingEnvironment."""
    module, colon, _ = env_id.rpartition(":")
    if not colon:
        return
    try:
        importlib.import_module(module)
    except ImportError as e:
        raise MissingEnvironment(
            f"environment {env_id!r} needs the module {module!r} ({e}); install it, or name another one"
        ) from e


def check_env(env_id: str, obs_size: int, action_size: int) -> None:
    """Raises MissingEnvironment unless a policy of these sizes can act in the environment."""
    env = make_env(env_id)
    env.close()
    check_spaces(env, env_id, obs_size, action_size)


def check_spaces(env: Any, env_id: str, obs_size: int, action_size: int) -> None:
    """`check_env` for an environment that is made."""
    from gymnasium.spaces import Box

    spaces = {"observations": (env.observation_space, obs_size), "actions": (env.action_space, action_size)}
    for what, (space, size) in spaces.items():
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise MissingEnvironment(
                f"environment {env_id!r} has {what} of the kind {space}, expected vectors of numbers (Box); name another one"
            )
        if space.shape != (size,):
            raise MissingEnvironment(
                f"{what} have {size} columns, but {env_id} has {space.shape[0]}; name the environment that was recorded: "
                "the attribute env_id of a data file, or --env"
            )
    if not all(np.isfinite(bound).all() for bound in (env.action_space.low, env.action_space.high)):
        raise MissingEnvironment(
            f"environment {env_id!r} has actions without bounds, so [-1, 1] means nothing there; name another one"
        )


def scale_action(space: Any, action: np.ndarray, in_units: bool = False) -> np.ndarray:
    """From [-1, 1], clipped, to the bounds of an action space; actions in its units already are only clipped."""
    if in_units:
        return np.clip(action, space.low, space.high)
    return space.low + (np.clip(action, -1.0, 1.0) + 1.0) * 0.5 * (space.high - space.low)


def check_environment(dataset: Any) -> None:
    """Raises MissingEnvironment if the environment that a data set names is not installed, or other sizes than its own."""
    if dataset.env_id is not None:
        check_env(dataset.env_id, dataset.obs_size, dataset.action_size)
