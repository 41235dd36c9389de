"""Data sets of Minari, as `minari:ID`; needs the optional package `minari`.

Observations that are dictionaries or tuples become one vector: dictionaries in the order of their names, tuples in theirs,
each part flattened, nested ones in place. Reference returns are the set's own (`ref_min_score`, `ref_max_score`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from srpo.data.checks import DataError
from srpo.data.sources import Attributes
from srpo.data.sources.stated import reference
from srpo.text import NAME, plain

PREFIX = "minari:"


def matches(source: str) -> bool:
    return source.startswith(PREFIX)


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording `minari:ID`, downloaded by Minari if it is not here yet. Raises DataError."""
    name = source.removeprefix(PREFIX)
    try:
        import minari
    except ImportError:
        raise DataError(f"{source}: the package minari is not installed; run pip install 'srpo[minari]'") from None
    try:
        data = minari.load_dataset(name, download=True)
    except Exception as error:  # its download raises errors of many packages
        raise DataError(
            f"{source}: cannot be loaded ({' '.join(str(error).split())}); `minari list remote` shows what there is"
        ) from None
    episodes = list(data.iterate_episodes())
    if not episodes:
        raise DataError(f"{source}: holds no episode; choose another data set")
    fields, labels = _fields(episodes, source)
    spec = getattr(data, "env_spec", None)
    about = Attributes(
        name.replace("/", "-"),
        source,
        spec.id if spec else None,
        action_range=_bounds(data),
        labels=labels,
        reference=_reference(data, source),
    )
    return fields, about


def _fields(episodes: list[Any], source: str) -> tuple[dict[str, np.ndarray], tuple[tuple[str, ...], tuple[str, ...]] | None]:
    """The arrays by our names, unchecked, and the names of the columns where observations have parts."""
    if any(isinstance(e.actions, dict | tuple) for e in episodes):
        raise DataError(f"{source}: actions are not plain vectors; flatten them and use srpo.data.from_arrays")
    parts = [_flat(e.observations, source) for e in episodes]
    obs = [np.concatenate(list(part.values()), 1) if "" not in part else part[""] for part in parts]
    fields = {  # an episode of T steps holds T + 1 observations
        "obs": [x[:-1] for x in obs],
        "action": [e.actions for e in episodes],
        "reward": [e.rewards for e in episodes],
        "terminal": [e.terminations for e in episodes],
        "timeout": [_truncated(e) for e in episodes],
        "next_obs": [x[1:] for x in obs],
    }
    found = {key: np.concatenate(arrays) for key, arrays in fields.items()}
    if "" in parts[0]:
        return found, None
    names = [f"{k}.{i}" if x.shape[1] > 1 else k for k, x in parts[0].items() for i in range(x.shape[1])]
    return found, (tuple(names), tuple(f"action.{i}" for i in range(found["action"].shape[-1])))


def _flat(found: Any, source: str, name: str = "") -> dict[str, np.ndarray]:
    """The parts of observations, (T + 1, size) each, by their names; a plain vector has none and stays as it is."""
    if not isinstance(found, dict | tuple):
        array = np.asarray(found)
        if name and (array.ndim == 0 or array.dtype.kind not in "fiub"):
            raise DataError(
                f"{source}: {plain(name, NAME)} of the observations holds no numbers per step; choose another data set"
            )
        return {name: array.reshape(len(array), -1) if name else array}
    items = sorted(found.items()) if isinstance(found, dict) else [(str(i), x) for i, x in enumerate(found)]
    return {k: x for key, part in items for k, x in _flat(part, source, f"{name}.{key}" if name else key).items()}


def _bounds(data: Any) -> tuple[Any, Any, str] | None:
    """The set's own action space, if it is bounded."""
    space = getattr(data, "action_space", None)
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    bounded = low is not None and high is not None and np.isfinite(low).all() and np.isfinite(high).all()
    return (low, high, "the action space of the data set") if bounded else None


def _reference(data: Any, source: str) -> tuple[float, float] | None:
    """The set's reference returns, if it states both. Raises DataError unless they are two numbers in order."""
    known = getattr(getattr(data, "storage", None), "metadata", None) or {}
    low, high = known.get("ref_min_score"), known.get("ref_max_score")
    return None if low is None or high is None else reference(low, high, source)


def _truncated(episode) -> np.ndarray:
    """Time-outs; an episode whose recording stopped without either flag was cut there."""
    timeout = np.array(episode.truncations, bool)
    timeout[-1] |= not episode.terminations[-1]
    return timeout
