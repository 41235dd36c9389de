"""Data sets of Minari, as `minari:ID`; needs the optional package `minari`."""

from __future__ import annotations

from typing import Any

import numpy as np

from srpo.data.checks import DataError
from srpo.data.sources import Attributes

PREFIX = "minari:"


def matches(source: str) -> bool:
    return source.startswith(PREFIX)


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording `minari:ID`, downloaded by Minari if it is not here yet. Raises DataError."""
    name = source.removeprefix(PREFIX)
    fields, env_id, bounds = read_minari(name)
    return fields, Attributes(name.replace("/", "-"), source, env_id, action_range=bounds)


def read_minari(name: str) -> tuple[dict[str, Any], str | None, tuple[Any, Any, str] | None]:
    """The fields of the Minari data set `name` by our names, unchecked, its environment's id and the bounds of its actions.

    Raises DataError.
    """
    try:
        import minari
    except ImportError:
        raise DataError(f"{PREFIX}{name}: the package minari is not installed; run pip install 'srpo[minari]'") from None
    try:
        data = minari.load_dataset(name, download=True)
    except Exception as error:  # its download raises errors of many packages
        raise DataError(
            f"{PREFIX}{name}: cannot be loaded ({' '.join(str(error).split())}); `minari list remote` shows what there is"
        ) from None
    episodes = list(data.iterate_episodes())
    if any(isinstance(e.observations, dict | tuple) or isinstance(e.actions, dict | tuple) for e in episodes):
        raise DataError(
            f"{PREFIX}{name}: observations or actions are not plain vectors; flatten them and use srpo.data.from_arrays"
        )
    fields = {  # an episode of T steps holds T + 1 observations
        "obs": [e.observations[:-1] for e in episodes],
        "action": [e.actions for e in episodes],
        "reward": [e.rewards for e in episodes],
        "terminal": [e.terminations for e in episodes],
        "timeout": [_truncated(e) for e in episodes],
        "next_obs": [e.observations[1:] for e in episodes],
    }
    if not episodes:
        raise DataError(f"{PREFIX}{name}: holds no episode; choose another data set")
    spec = getattr(data, "env_spec", None)
    space = getattr(data, "action_space", None)
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    bounded = low is not None and high is not None and np.isfinite(low).all() and np.isfinite(high).all()
    bounds = (low, high, "the action space of the data set") if bounded else None
    return {key: np.concatenate(parts) for key, parts in fields.items()}, spec.id if spec else None, bounds


def _truncated(episode) -> np.ndarray:
    """Time-outs; an episode whose recording stopped without either flag was cut there."""
    timeout = np.array(episode.truncations, bool)
    timeout[-1] |= not episode.terminations[-1]
    return timeout
