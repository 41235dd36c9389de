"""What a file in our layout states beside its arrays: names of columns, the offset of observations, reference returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from srpo.data.checks import DataError
from srpo.text import NAME, plain

NAMES = {"obs": "obs_names", "action": "action_names"}  # attributes: one text per column
OFFSET = "obs_offset"  # attribute: what training sees the observations less, one number per column
REFERENCE = "reference"  # attribute: mean return of a random and of an expert policy, scores 0 and 100
Labels = tuple[tuple[str, ...], tuple[str, ...]]


def labels(stated: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> Labels | None:
    """The names of the columns of observations and of actions, numbers in the place of those that are not stated; None if neither
    are. Raises DataError."""
    if all(stated.get(name) is None for name in NAMES.values()):
        return None
    obs, action = (_names(stated.get(name), key, np.shape(fields[key])[1:], f"{where}: {name}") for key, name in NAMES.items())
    return obs, action


def _names(found: Any, key: str, columns: tuple[int, ...], what: str) -> tuple[str, ...]:
    if found is None:
        return tuple(f"{key}.{i}" for i in range(sum(columns)))
    names = [x.decode(errors="replace") if isinstance(x, bytes) else x for x in np.asarray(found).ravel().tolist()]
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"{what} is {plain(names, NAME)}, expected one piece of text per column; correct it")
    if columns != (len(names),):
        raise DataError(f"{what} holds {len(names)} names, expected one per column, {plain(sum(columns), NAME)}; correct it")
    return tuple(names)


def offset(stated: Mapping[str, Any], columns: tuple[int, ...], where: str) -> np.ndarray | None:
    """The offset (obs,) float32 of the observations, None if none is stated. Raises DataError."""
    if (found := stated.get(OFFSET)) is None:
        return None
    try:
        with np.errstate(over="ignore"):
            numbers = np.asarray(found, np.float32)
    except (TypeError, ValueError):
        numbers = np.full(1, np.nan)
    if numbers.shape != columns or not np.isfinite(numbers).all():
        raise DataError(
            f"{where}: {OFFSET} is {plain(found, NAME)}, expected one number per column, {plain(columns[-1], NAME)}; correct it"
        )
    return numbers


def reference(low: Any, high: Any, where: str) -> tuple[float, float]:
    """Two returns as numbers. Raises DataError unless they are, the smaller first."""
    try:
        found = float(low), float(high)
    except (TypeError, ValueError):
        found = np.nan, np.nan
    if not (np.isfinite(found).all() and found[0] < found[1]):
        raise DataError(
            f"{where}: its reference scores are {plain(low, NAME)} and {plain(high, NAME)}, expected two numbers, the smaller first"
        )
    return found


def pair(stated: Mapping[str, Any], where: str) -> tuple[float, float] | None:
    """The reference returns that the attributes state, None if they state none. Raises DataError."""
    found = stated.get(REFERENCE)
    if found is None:
        return None
    numbers = np.asarray(found).ravel().tolist()
    if len(numbers) != 2:
        raise DataError(
            f"{where}: {REFERENCE} is {plain(numbers, NAME)}, expected two numbers, the returns of score 0 and 100; correct it"
        )
    low, high = numbers
    return reference(low, high, where)
