"""What a data set must be, and the one line that says what is wrong with it.

Every refusal names the file (or "arrays"), the field, where the first bad entry is and what to do.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from srpo.errors import UserError
from srpo.text import NAME, plain

LARGEST = 1e15  # of all numbers: means of their squares must be finite in float32
ACTION_ERROR = 1e-5  # actions may exceed [-1, 1] by this much: rounding, which is clipped away

# our name of a field -> its name in D4RL's files
FIELDS = {
    "obs": "observations",
    "action": "actions",
    "reward": "rewards",
    "terminal": "terminals",
    "timeout": "timeouts",
    "next_obs": "next_observations",
}
REQUIRED = ("obs", "action", "reward", "terminal")
ENV_ID = re.compile(r"[A-Za-z0-9_.:/-]{1,100}")
RANK = {"obs": 2, "action": 2, "reward": 1, "terminal": 1, "timeout": 1, "next_obs": 2}


class DataError(UserError):
    """Data that cannot be used; the message says what was found, what was expected and what to do."""


def check_arrays(found: Mapping[str, np.ndarray], where: str, names: Mapping[str, str] = FIELDS) -> dict[str, np.ndarray]:
    """The fields as float32 and bool arrays of N rows, after every check. Raises DataError.

    `found` holds arrays by our name (`obs`), `names` maps it to the one that the user knows (`observations`).
    """
    fields = {key: _field(found[key], key, f"{where}: {names[key]}") for key in names if found.get(key) is not None}
    rows = len(fields["obs"])
    if rows == 0:
        raise DataError(f"{where}: {names['obs']} is empty; a data set needs at least two rows")
    for key, array in fields.items():
        if len(array) != rows:
            raise DataError(
                f"{where}: {names[key]} has {len(array)} rows, but {names['obs']} has {rows}; "
                "every field needs one row per step, so cut the longer one or record the missing rows"
            )
    if "next_obs" in fields and fields["next_obs"].shape != fields["obs"].shape:
        raise DataError(
            f"{where}: {names['next_obs']} has shape {fields['next_obs'].shape}, expected that of {names['obs']}, "
            f"{fields['obs'].shape}; leave the field out if next observations were not recorded"
        )
    if rows == 1:
        raise DataError(f"{where}: a single episode of length 1 holds no transition; record at least two steps")
    fields["action"] = _bounded(fields["action"], f"{where}: {names['action']}")
    return fields


def _field(array: Any, key: str, what: str) -> np.ndarray:
    """One field, with its type, rank and values checked."""
    try:
        array = np.asarray(array)
    except ValueError:
        raise DataError(f"{what} has rows of different lengths; make it one rectangular array") from None
    if array.dtype.kind not in "fiub":
        raise DataError(f"{what} has type {array.dtype}, expected numbers; convert it to float32 (flags to bool)")
    if RANK[key] == 1 and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]  # as D4RL does for files that store columns
    if array.ndim != RANK[key]:
        shape = "(rows, size)" if RANK[key] == 2 else "(rows,)"
        raise DataError(f"{what} has shape {array.shape}, expected {shape}; flatten or reshape it")
    if array.ndim == 2 and array.shape[1] == 0:
        raise DataError(f"{what} has shape {array.shape}: its rows are empty; give at least one number per row")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        at, value = _first(array, ~np.isfinite(array))
        raise DataError(f"{what}[{at}] is {value}, expected finite numbers; drop the episode that holds this row")
    if key in ("terminal", "timeout"):
        return _flags(array, what)
    if array.size and not (np.abs(array) <= LARGEST).all():
        at, value = _first(array, ~(np.abs(array) <= LARGEST))
        raise DataError(
            f"{what}[{at}] is {value:.6g}, whose square float32 cannot hold; rescale this field, or drop marks for missing readings"
        )
    return np.ascontiguousarray(array.astype(np.float32, copy=False))


def _flags(array: np.ndarray, what: str) -> np.ndarray:
    bad = (array != 0) & (array != 1)
    if bad.any():
        at, value = _first(array, bad)
        raise DataError(f"{what}[{at}] is {value}, expected true or false (1 or 0)")
    return array.astype(bool)


def _bounded(action: np.ndarray, what: str) -> np.ndarray:
    bad = np.abs(action) > 1 + ACTION_ERROR
    if bad.any():
        at, value = _first(action, bad)
        low, high = action.min(), action.max()
        raise DataError(
            f"{what}[{at}] is {value:.6g}, actions span [{low:.6g}, {high:.6g}], expected [-1, 1]; rescale them with "
            "2 (a - low) / (high - low) - 1, where low and high are the bounds of the environment"
        )
    return np.clip(action, -1.0, 1.0)


def _first(array: np.ndarray, bad: np.ndarray) -> tuple[str, float]:
    """The index of the first bad entry as text, and the entry."""
    at = np.unravel_index(int(np.argmax(bad)), array.shape)
    return ", ".join(str(i) for i in at), float(array[at])


def text_of(found: Any, what: str) -> str | None:
    """An environment's id that a file holds, or None. Raises DataError if it is something else than one piece of text."""
    if isinstance(found, (np.ndarray, np.generic)) and found.size == 1:
        found = found.item()
    if isinstance(found, bytes):
        found = found.decode(errors="replace")
    if found is None or isinstance(found, str):
        return found or None
    raise DataError(
        f"{what} is {plain(repr(found), NAME)}, expected the id of a Gymnasium environment; write it as one piece of text"
    )


def check_env_id(env_id: str | None, where: str) -> None:
    """Raises DataError unless it is None or made of what Gymnasium's ids are made of: it is printed and looked up."""
    if env_id is not None and not ENV_ID.fullmatch(env_id):
        raise DataError(
            f"{where}: env_id is {plain(repr(env_id), NAME)}, expected the id of a Gymnasium environment, such as Hopper-v4; correct it"
        )


def missing_field(where: str, key: str, known: Iterable[str]) -> DataError:
    """The refusal for a file without a required field."""
    known = sorted(plain(name, NAME) for name in itertools.islice(known, 1000))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"rename {near[0]!r}" if near else f"it holds {', '.join(known[:8]) or 'nothing'}"
    needed = ", ".join(FIELDS[k] for k in REQUIRED)
    return DataError(f"{where}: field {key!r} is missing ({hint}); D4RL's layout needs {needed} and, if known, timeouts")
