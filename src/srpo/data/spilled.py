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
    with Growing(shape[1:], dtype, shape[0]) as rows:
        for part in parts:
            rows.append(part)
        return rows.joined()


class Growing:
    """Rows that arrive in parts, of a shape and a type; `expected`: how many, so that the room for them is looked for before."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, expected: int):
        self._shape, self._dtype, self._count = shape, np.dtype(dtype), 0
        size = self._dtype.itemsize * int(np.prod((expected, *shape), dtype=np.int64))
        self._file: Any = tempfile.TemporaryFile(dir=cache.folder(size))  # noqa: SIM115, closed on leaving

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self._count += len(rows)

    def joined(self) -> np.ndarray:
        """All of them, which stay when this is left."""
        self._file.flush()
        return map_file(self._file, self._dtype, (self._count, *self._shape))
