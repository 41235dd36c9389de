"""What the machine and its environment variables say, answered before it can do harm. Imports nothing heavy by itself."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from srpo.errors import ConfigError, UserError

P = ParamSpec("P")
R = TypeVar("R")


def require_devices() -> None:
    """Raises UserError if JAX is told, by JAX_PLATFORMS, to use what is not here."""
    asked = os.environ.get("JAX_PLATFORMS")
    if not asked:
        return
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # which of the two depends on what JAX was told
        raise UserError(
            f"JAX_PLATFORMS={asked}: JAX finds no such device here; unset it for what there is, set it to cpu, "
            "or install what it needs, such as pip install 'srpo[cuda13]'"
        ) from None


def in_float32(compute: Callable[P, R]) -> Callable[P, R]:
    """`compute` in single precision, as everything here is trained and stored, also where JAX_ENABLE_X64 is set."""

    @functools.wraps(compute)
    def inside(*args: P.args, **options: P.kwargs) -> R:
        import jax

        home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental  # older versions have it there
        with home.enable_x64(False):
            return compute(*args, **options)

    return inside


def expanded(path: str | Path) -> Path | None:
    """`path` with ~ in the place of the home folder written out; None where there is no home, as in some containers."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return None


def named(place: str, expected: str) -> Any:
    """What a person, never a file, names as `module:name`, or as `module`; looked for as Python does, then in the working folder.

    Raises ConfigError, with what was `expected`, for what cannot be imported.
    """
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # last, so that it hides nothing that is installed
    return imported(place, expected)


def imported(place: str, expected: str) -> Any:
    """What is at `module:name`, or the module. Raises ConfigError, with what was `expected`, for what cannot be imported."""
    module, colon, attribute = place.partition(":")
    try:
        found = importlib.import_module(module)
        return getattr(found, attribute) if colon else found
    except Exception as e:  # anything may go wrong in another's module
        raise ConfigError(f"{place!r} cannot be imported ({type(e).__name__}: {e}); expected {expected}") from e


EXTRAS = {"matplotlib": "plot", "gymnasium": "env", "mujoco": "env", "sklearn": "paper", "diffrax": "paper", "onnx": "deploy"}


def missing(error: ModuleNotFoundError) -> str:
    """What to install for a module that is not there. Raises the error if it is none of the optional ones."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        raise error
    return f"{module} is not installed; pip install 'srpo[{EXTRAS[module]}]', or 'srpo[all]'"
