"""Gymnasium environments, made without noise and with one clear line where that fails. Imports nothing heavy by itself."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from srpo.errors import ConfigError, UserError
from srpo.system.surroundings import named
from srpo.text import said

UNBOUNDED = 1e15  # a bound of an action beyond it stands for none, such as the largest number of float32


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
            f"environment {env_id!r} needs the module {module!r}, which no file may import; name it with --env, "
            "or import it in Python"
        )
    try:
        with quiet_construction():
            return gymnasium.make(env_id, disable_env_checker=True, **options)
    except (UserError, MemoryError):
        raise
    except Exception as e:  # anything may go wrong in another's code
        known = isinstance(e, (gymnasium.error.Error, ImportError, ValueError)) and str(e)
        reason = str(e).splitlines()[0] if known else said(e)
        raise MissingEnvironment(
            f"environment {env_id!r} is not available ({reason}); install it, or name another one (module:Name-v0 where a module registers it)"
        ) from e


@contextlib.contextmanager
def answering(env_id: str, when: Callable[[], str]) -> Iterator[None]:
    """Raises MissingEnvironment, in one line, for whatever goes wrong inside of an environment, which is another's code.

    `when` says in which step or of what it was asked.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as e:
        raise MissingEnvironment(f"environment {env_id!r} failed {when()} ({said(e)}); mend it, or name another one") from e


def time_limit(env_id: str) -> int | None:
    """The steps after which Gymnasium cuts an episode of the environment, None if it sets no limit. Raises MissingEnvironment."""
    env = make_env(env_id)
    env.close()
    return env.spec.max_episode_steps


def import_its_module(env_id: str) -> None:
    """Imports the module of an id such as "module:Name-v0" that the user, not a file, has named; looked for as Python does,
    then in the working folder. Raises MissingEnvironment."""
    module, colon, _ = env_id.rpartition(":")
    if not colon:
        return
    try:
        named(module, "a module that registers it with Gymnasium")
    except ConfigError as e:
        raise MissingEnvironment(f"environment {env_id!r} needs the module {module!r}: {e}; or name another one") from e


def check_env(env_id: str, obs_size: int, action_size: int, in_units: bool = False) -> None:
    """Raises MissingEnvironment unless a policy of these sizes can act in the environment; `in_units`: in its units, not in [-1, 1]."""
    env = make_env(env_id)
    env.close()
    check_spaces(env, env_id, obs_size, action_size, in_units)


def check_spaces(env: Any, env_id: str, obs_size: int, action_size: int, in_units: bool = False) -> None:
    """`check_env` for an environment that is made."""
    from gymnasium.spaces import Box

    for what, size in {"observation": obs_size, "action": action_size}.items():
        space = getattr(env, f"{what}_space", None)
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise MissingEnvironment(
                f"environment {env_id!r} has {what}s of the kind {space}, expected vectors of numbers (Box); name another one"
            )
        if space.shape != (size,):
            raise MissingEnvironment(
                f"{what}s have {size} columns, but {env_id} has {space.shape[0]}; name the environment that was recorded: "
                "the attribute env_id of a data file, or --env"
            )
    if not in_units and bounds_of(env.action_space) is None:
        raise MissingEnvironment(
            f"environment {env_id!r} has actions without bounds, so [-1, 1] means nothing there; say in which units actions were "
            "recorded, with --action-range LOW,HIGH, or name another one"
        )


def bounds_of(space: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The lowest and highest action of a space, (act,) float64 each; None where it has none, or numbers that stand for none."""
    low, high = (np.asarray(getattr(space, name, np.nan), np.float64) for name in ("low", "high"))
    return (low, high) if (np.maximum(-low, high) <= UNBOUNDED).all() else None


def scale_action(space: Any, action: np.ndarray, in_units: bool = False) -> np.ndarray:
    """From [-1, 1], clipped, to the bounds of an action space; actions in its units already are only clipped."""
    if in_units:
        return np.clip(action, space.low, space.high)
    low, high = (x.astype(np.result_type(x, np.float32)) for x in (space.low, space.high))  # of whole numbers they may overflow
    return low + (np.clip(action, -1.0, 1.0) + 1.0) * 0.5 * (high - low)


def check_environment(dataset: Any) -> None:
    """Raises MissingEnvironment if the environment that a data set names is not installed, or other sizes than its own."""
    if dataset.env_id is not None:
        check_env(dataset.env_id, dataset.obs_size, dataset.action_size, dataset.action_range is not None)
