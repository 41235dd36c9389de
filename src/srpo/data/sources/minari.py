"""Data sets of Minari, as `minari:ID`; needs the optional package `minari`.

Observations that are dictionaries or tuples become one vector: dictionaries in the order of their names, tuples in theirs,
each part flattened, nested ones in place. Reference returns are the set's own (`ref_min_score`, `ref_max_score`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np

from srpo.data import mapped
from srpo.data.checks import DataError
from srpo.data.sources import Attributes
from srpo.data.sources.stated import reference
from srpo.data.spilled import Growing
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
    fields, labels = _fields(data.iterate_episodes(), int(getattr(data, "total_steps", 0)), source)
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


Labels = tuple[tuple[str, ...], tuple[str, ...]]


def _fields(episodes: Iterable[Any], steps: int, source: str) -> tuple[dict[str, np.ndarray], Labels | None]:
    """The arrays by our names, unchecked, and the names of the columns where observations have parts. Episodes are read one
    at a time, and vectors of so many `steps` that they are large are kept on disk."""
    rows: dict[str, np.ndarray] = {}
    parts: dict[str, np.ndarray] = {}
    in_memory: dict[str, list[np.ndarray]] = {}
    with ExitStack() as closing:
        on_disk: dict[str, Growing] = {}
        for episode in episodes:
            parts = _flat(episode.observations, source)
            rows, first = _rows(episode, parts, source), not rows
            if first and steps * sum(x[:1].nbytes for x in rows.values()) > mapped.LARGE:
                vectors = {key: x for key, x in rows.items() if x.ndim == 2}
                on_disk = {k: closing.enter_context(Growing(x.shape[1:], x.dtype, steps)) for k, x in vectors.items()}
            for key, x in rows.items():
                on_disk[key].append(x) if key in on_disk else in_memory.setdefault(key, []).append(x)
        if not rows:
            raise DataError(f"{source}: holds no episode; choose another data set")
        found = {key: on_disk[key].joined() if key in on_disk else np.concatenate(in_memory[key]) for key in rows}
    if "" in parts:
        return found, None
    names = [f"{k}.{i}" if x.shape[1] > 1 else k for k, x in parts.items() for i in range(x.shape[1])]
    return found, (tuple(names), tuple(f"action.{i}" for i in range(found["action"].shape[-1])))


def _rows(episode: Any, parts: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Those of one episode; of T steps it holds T + 1 observations."""
    if isinstance(episode.actions, dict | tuple):
        raise DataError(f"{source}: actions are not plain vectors; flatten them and use srpo.data.from_arrays")
    obs = parts[""] if "" in parts else np.concatenate(list(parts.values()), 1)
    flags = {"terminal": np.asarray(episode.terminations), "timeout": _truncated(episode)}
    numbers = {"action": np.asarray(episode.actions), "reward": np.asarray(episode.rewards), **flags}
    return {"obs": obs[:-1], **numbers, "next_obs": obs[1:]}


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
