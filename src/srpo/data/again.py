"""The data of a run, found again by what its `run.json` knows of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from srpo.data.checks import DataError
from srpo.data.load import Reward, load_dataset
from srpo.data.recording import Dataset
from srpo.data.sources.builtin import BUILTIN


def recorded_source(known: Mapping[str, Any]) -> str:
    """Where the data set of a run is found: a built-in one wherever it is installed."""
    return known["name"] if known["name"] in BUILTIN else known["source"]


def reload(known: Mapping[str, Any], source: str | Path | None = None, reward: Reward | None = None) -> Dataset:
    """The data set of a run, in the same units; `source`: where it is now; `reward`: computes its rewards. Raises DataError,
    also if they were computed in training and are not now."""
    where = recorded_source(known) if source is None else str(source)
    place = computed_by(known, where)
    if place and reward is None:
        raise DataError(f"{where.partition('?')[0]}: its rewards were computed; compute them again with --reward {place}")
    return _loaded(known, where, reward)


def observed(known: Mapping[str, Any], source: str | Path | None = None) -> Dataset:
    """`reload` for whoever looks at observations and actions alone: rewards that a function computed are zeros, and
    the hash is the one of the run if all else is the same."""
    where = recorded_source(known) if source is None else str(source)
    place = computed_by(known, where)
    return _loaded(known, where, _unneeded(place) if place else None)


def computed_by(known: Mapping[str, Any], where: str) -> str:
    """The module:function that computed the rewards in training, or nothing; tables say it in their source."""
    told = dict(parse_qsl(where.partition("?")[2])).get("reward", "")
    return known.get("reward") or (told if ":" in told else "")


def _unneeded(place: str) -> Reward:
    """A function of this name that computes nothing."""

    def zeros(obs: np.ndarray, action: np.ndarray, next_obs: np.ndarray) -> np.ndarray:
        return np.zeros(len(obs))

    zeros.__module__, _, zeros.__qualname__ = place.partition(":")
    return zeros


def _loaded(known: Mapping[str, Any], where: str, reward: Reward | None) -> Dataset:
    found = known.get("action_range")
    told = found and (found["low"], found["high"])
    return load_dataset(where, env_id=known["env_id"], action_range=told or (-1, 1), reward=reward)


def same_units(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two runs, by what their `run.json` knows of their data, map actions and observations alike."""

    def units(known):
        found = known.get("action_range")
        return found and (found["low"], found["high"]), known.get("obs_offset")

    return units(mine) == units(theirs)
