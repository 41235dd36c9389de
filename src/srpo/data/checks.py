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

from srpo.data import layout, spilled
from srpo.data.mapped import pieces
from srpo.errors import DataError
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
FLAGS = ("terminal", "timeout")
RANK = {"obs": 2, "action": 2, "reward": 1, "terminal": 1, "timeout": 1, "next_obs": 2}


def check_arrays(found: Mapping[str, np.ndarray], where: str, names: Mapping[str, str] = FIELDS) -> dict[str, np.ndarray]:
    """The fields as numbers, as they were recorded, and bools, of N rows, after every check of shape and value. Raises DataError.

    `found` holds arrays by our name (`obs`), `names` maps it to the one that the user knows (`observations`). What
    follows no row, in next observations at the ends of episodes, may be NaN; it becomes the observation itself.
    """
    given = {key: found[key] for key in names if found.get(key) is not None}
    arrays = {key: _array(x, key, f"{where}: {names[key]}") for key, x in given.items()}
    shapes = {key: x.shape for key, x in arrays.items()}
    for key, array in arrays.items():
        arrays[key] = _ranked(array, key, f"{where}: {names[key]}", shapes)
    if "next_obs" in arrays:
        arrays["next_obs"] = _without_gaps(arrays, f"{where}: {names['next_obs']}")
    fields = {key: _values(x, key, f"{where}: {names[key]}") for key, x in arrays.items()}
    rows = len(fields["obs"])
    if rows == 0:
        raise DataError(f"{where}: {names['obs']} is empty; a data set needs at least two rows")
    for key, array in fields.items():
        if len(array) != rows:
            raise DataError(f"{where}: {names[key]} has {len(array)} rows, but {names['obs']} has {rows}; {_why(key, fields)}")
    if "next_obs" in fields and fields["next_obs"].shape != fields["obs"].shape:
        raise DataError(
            f"{where}: {names['next_obs']} has shape {fields['next_obs'].shape}, expected that of {names['obs']}, "
            f"{fields['obs'].shape}; leave the field out if next observations were not recorded"
        )
    if rows == 1:
        raise DataError(f"{where}: a single episode of length 1 holds no transition; record at least two steps")
    return fields


def _array(found: Any, key: str, what: str) -> np.ndarray:
    """One field as an array of numbers, that can be subtracted and squared."""
    if isinstance(found, np.ma.MaskedArray) and found.mask.any():
        raise DataError(f"{what} has {int(found.mask.sum())} masked entries; fill them, or drop the episodes that hold them")
    try:
        array = np.asarray(found)
    except ValueError:
        raise DataError(f"{what} has rows of different lengths; make it one rectangular array") from None
    if array.dtype.kind not in "fiub":
        raise DataError(f"{what} has type {array.dtype}, expected numbers; convert it to float32 (flags to bool)")
    half = array.dtype.kind == "f" and array.dtype.itemsize == 2  # in any order of bytes
    if half or (array.dtype.kind == "b" and key not in FLAGS):
        return spilled.of(array, lambda rows: rows.astype(np.float32))
    return array


def _ranked(array: np.ndarray, key: str, what: str, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """One field with one axis of rows and, for vectors, one of signals."""
    if RANK[key] == 1 and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]  # as D4RL does for files that store columns
    if array.ndim != RANK[key]:
        shape = "(rows, size)" if RANK[key] == 2 else "(rows,)"
        raise DataError(
            f"{what} has shape {array.shape}, expected {shape}: {layout.wrong_rank(array.shape, RANK[key], shapes)}"
        )
    return array


def _without_gaps(arrays: Mapping[str, np.ndarray], what: str) -> np.ndarray:
    """Next observations with the observation itself where NaN says that nothing followed: at the last row of an episode."""
    found, obs = arrays["next_obs"], arrays["obs"]
    if found.dtype.kind != "f" or found.shape != obs.shape:
        return found
    gaps = np.concatenate(
        [np.zeros(0, int)] + [start + np.flatnonzero(np.isnan(piece).any(axis=1)) for start, (piece,) in pieces(found)]
    )
    ends = np.zeros(len(found), bool)
    ends[-1:] = True
    for key in FLAGS:
        if key in arrays and len(arrays[key]) == len(found):
            ends |= arrays[key] != 0
    if not ends[gaps].all():
        at = gaps[np.argmin(ends[gaps])]
        raise DataError(
            f"{what}[{at}] is NaN in the middle of an episode; leave the field out, as the next row is what follows, or mark the end there"
        )
    if not len(gaps):
        return found

    def mended(found: np.ndarray, obs: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(found).any(axis=1)[:, None], obs, found)

    return spilled.of(found, mended, obs)


def _why(key: str, fields: Mapping[str, np.ndarray]) -> str:
    """What a field of another length than the observations' probably is."""
    shapes = {name: x.shape for name, x in fields.items()}
    flags = [fields[name] for name in FLAGS if name in fields]
    ends = int(np.logical_or.reduce(flags).sum()) if len({len(flag) for flag in flags}) == 1 else None
    return layout.wrong_length(key, shapes, ends)


def _values(array: np.ndarray, key: str, what: str) -> np.ndarray:
    """One field, with its values checked."""
    if array.ndim == 2 and array.shape[1] == 0:
        raise DataError(f"{what} has shape {array.shape}: its rows are empty; give at least one number per row")
    for start, (piece,) in pieces(array):
        _small(piece, key, start, what)
    return _flags(array, what) if key in FLAGS else array


def _small(piece: np.ndarray, key: str, start: int, what: str) -> None:
    """Refuses numbers that are not finite, or too large; `start`: the row that the piece begins with."""
    small = (piece >= -LARGEST) & (piece <= LARGEST)  # the smallest whole number of a type has no absolute value in it
    if small.all():
        return
    if piece.dtype.kind == "f" and not np.isfinite(piece).all():
        at, value = _first(piece, ~np.isfinite(piece), start)
        raise DataError(f"{what}[{at}] is {value}, expected finite numbers; drop the episode that holds this row")
    if key not in FLAGS:
        at, value = _first(piece, ~small, start)
        raise DataError(
            f"{what}[{at}] is {value:.6g}, whose square float32 cannot hold; rescale this field, or drop marks for missing readings"
        )


def _flags(array: np.ndarray, what: str) -> np.ndarray:
    for start, (piece,) in pieces(array):
        bad = (piece != 0) & (piece != 1)
        if bad.any():
            at, value = _first(piece, bad, start)
            raise DataError(f"{what}[{at}] is {value}, expected true or false (1 or 0)")
    return array.astype(bool, copy=False)


def _first(piece: np.ndarray, bad: np.ndarray, start: int = 0) -> tuple[str, float]:
    """The index of the first bad entry as text, and the entry; `start`: the row of the array that the piece begins with."""
    at = np.unravel_index(int(np.argmax(bad)), piece.shape)
    return ", ".join(str(int(i) + start * (axis == 0)) for axis, i in enumerate(at)), float(piece[at])


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
    if env_id is not None and not (isinstance(env_id, str) and ENV_ID.fullmatch(env_id)):
        raise DataError(
            f"{where}: env_id is {plain(repr(env_id), NAME)}, expected the id of a Gymnasium environment, such as Hopper-v4; correct it"
        )


def missing_field(where: str, key: str, known: Iterable[str]) -> DataError:
    """The refusal for a file without a required field."""
    known = sorted(plain(name, NAME) for name in itertools.islice(known, 1000))
    apart = [name for name in known if re.fullmatch(rf"{key}_\d+", name)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if apart:
        return DataError(
            f"{where}: field {key!r} is missing, but there is one per episode ({apart[0]}, ...), as d3rlpy writes them; put the "
            "episodes one after the other, numpy.concatenate in the order of their numbers, and mark the last row of each"
        )
    hint = f"rename {near[0]!r}" if near else f"it holds {', '.join(known[:8]) or 'nothing'}"
    needed = ", ".join(FIELDS[k] for k in REQUIRED)
    return DataError(f"{where}: field {key!r} is missing ({hint}); D4RL's layout needs {needed} and, if known, timeouts")
