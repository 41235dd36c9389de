"""Columns of pyarrow's tables as arrays of NumPy: numbers, flags, episodes and steps in time, or one line that says why not."""

from __future__ import annotations

from typing import Any

import numpy as np

from srpo.data.checks import DataError
from srpo.text import plain

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # of the units of time stamps


def require_all(column: Any, where: str, advice: str) -> None:
    """Raises DataError for a row without a value: null, NaN or an empty text."""
    import pyarrow
    from pyarrow import compute

    lacking = compute.is_null(column, nan_is_null=pyarrow.types.is_floating(column.type))
    if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
        lacking = compute.or_kleene(lacking, compute.equal(column, ""))
    if (at := compute.index(lacking, True).as_py()) >= 0:
        raise DataError(f"{where} has no value in row {at}; {advice}")


def starts(column: Any, where: str) -> tuple[np.ndarray, int]:
    """The number of the episode of each row, another one wherever the value changes, and how often that is one that was there
    before. Raises DataError for a row without a value, and where the rows of all episodes are in turn."""
    require_all(column, where, "write in every row of which episode it is, or drop the row")
    values = column.to_numpy(zero_copy_only=False)
    change = values[1:] != values[:-1]
    first = values[np.append(True, change)]
    again = len(first) - len(set(first.tolist()))
    if again and len(first) == len(values):
        raise DataError(
            f"{where} changes in every row, to values that were there before; sort the rows so that those of an episode follow each other"
        )
    episode = np.concatenate([[0], np.cumsum(change)])
    return episode, again


def flags(column: Any, where: str) -> np.ndarray:
    """Whether an episode ended by itself at each row. Raises DataError for anything but 0 and 1."""
    require_all(column, where, "write 1 where an episode ended by itself and 0 elsewhere")
    found = numbers(column, where)
    wrong = (found != 0) & (found != 1)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(
            f"{where} is {found[at]:.6g} in row {at}, expected true or false (1 or 0); name another column, or correct it"
        )
    return found == 1


def numbers(column: Any, where: str) -> np.ndarray:
    """A column as float64, NaN where it has no value. Raises DataError for other types."""
    import pyarrow

    require_numbers(column, where)
    return np.array(column.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def require_numbers(column: Any, where: str) -> None:
    """Raises DataError for a column of other types than numbers, flags and nothing."""
    from pyarrow import types

    kind = column.type
    numeric = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    if not (numeric or types.is_boolean(kind) or types.is_null(kind)):
        values = [x for x in column.to_pylist() if x is not None]
        found = next((x for x in values if not _readable(x)), values[0] if values else None)
        raise DataError(
            f"{where} holds {kind} such as {plain(found, 40)!r}, expected numbers; leave the column out, or write numbers"
        )


def _readable(value: Any) -> bool:
    """Whether a value may stand for a number, such as "1.5" in a column with other text."""
    try:
        float(value)
        return True
    except (TypeError, ValueError):
        return False


def steps(column: Any, where: str) -> np.ndarray:
    """(N - 1,) seconds from each row to the next, whole numbers and time stamps subtracted as such. Raises DataError for a row
    without a time."""
    import pyarrow

    require_all(column, where, "drop the row, or leave --time out")
    stamps = pyarrow.types.is_timestamp(column.type)
    if stamps or pyarrow.types.is_integer(column.type):
        whole = column.cast(pyarrow.int64(), safe=False).to_numpy()
        return np.diff(whole) / (PER_SECOND[column.type.unit] if stamps else 1)
    time = numbers(column, where)
    if not np.isfinite(time).all():
        at = int(np.argmax(~np.isfinite(time)))
        raise DataError(f"{where} is {time[at]} in row {at}, expected a time; drop the row, or leave --time out")
    return np.diff(time)
