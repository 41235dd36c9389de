"""Arrays made from mapped ones, too large for memory as well: in files of the cache that vanish with the process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from srpo.data import cache
from srpo.data.mapped import gathered, map_file, map_of, pieces

ROWS_AT_ONCE = 1 << 16  # of chosen ones


def of(array: np.ndarray, change: Callable[..., np.ndarray], *beside: np.ndarray) -> np.ndarray:
    """`change` of all rows, each by itself and those of arrays `beside` it; of a mapped array in a file. Keeps its shape."""
    if map_of(array) is None:
        return change(array, *beside)
    dtype = change(*(some[:1] for some in (array, *beside))).dtype
    return _spilled(array.shape, dtype, (change(*some) for _, some in pieces(array, *beside)))


def taken(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`array[rows]`, for numbers or a mask; of a mapped array in a file."""
    if map_of(array) is None:
        return array[rows]
    numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
    at_once = (numbers[start : start + ROWS_AT_ONCE] for start in range(0, len(numbers), ROWS_AT_ONCE))
    return _spilled((len(numbers), *array.shape[1:]), array.dtype, (gathered(array, some) for some in at_once))


def spilled(array: np.ndarray) -> np.ndarray:
    """The same rows in a file."""
    return _spilled(array.shape, array.dtype, (piece for _, (piece,) in pieces(array)))


def _spilled(shape: tuple[int, ...], dtype: DTypeLike, parts: Iterator[np.ndarray]) -> np.ndarray:
    dtype = np.dtype(dtype)
    with tempfile.TemporaryFile(dir=cache.folder(dtype.itemsize * int(np.prod(shape, dtype=np.int64)))) as file:
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype).data)
        file.flush()
        opened: Any = file  # TemporaryFile's own type
        return map_file(opened, dtype, shape)
