"""Arrays made from mapped ones, too large for memory as well: in files of the cache that vanish with the process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from srpo.data import cache
from srpo.data.mapped import map_file, map_of, pieces


def of(array: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`change` of all rows, each by itself, as float32; of a mapped array in a file."""
    if map_of(array) is None:
        return change(array)
    return _spilled(array.shape, (change(piece) for _, (piece,) in pieces(array)))


def taken(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`array[rows]`, for numbers or a mask; of a mapped array in a file."""
    if map_of(array) is None:
        return array[rows]
    numbers = np.flatnonzero(rows) if rows.dtype == bool else rows
    return _spilled((len(numbers), *array.shape[1:]), (array[some] for _, (some,) in pieces(numbers)))


def spilled(array: np.ndarray) -> np.ndarray:
    """The same rows in a file."""
    return _spilled(array.shape, (piece for _, (piece,) in pieces(array)))


def _spilled(shape: tuple[int, ...], parts: Iterator[np.ndarray]) -> np.ndarray:
    with tempfile.TemporaryFile(dir=cache.folder(4 * int(np.prod(shape, dtype=np.int64)))) as file:
        for part in parts:
            file.write(np.ascontiguousarray(part, np.float32).data)
        file.flush()
        opened: Any = file  # TemporaryFile's own type
        return map_file(opened, np.dtype(np.float32), shape)
