"""Arrays that stay in their file: mapped into memory, read where they are looked at, and let go of again.

The pages of a mapped file that a process has touched count as its resident memory until they are released; the system
keeps them in its cache of files as long as there is room. Everything that looks at all rows does so in pieces.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from srpo.files import opened

LARGE = 1 << 30  # bytes of a file's arrays above which they stay in it
PIECE = 1 << 24  # bytes that a pass over all rows looks at in one go
FEW = 1 << 22  # rows that stand for all where an estimate will do


def map_array(path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int = 0) -> np.ndarray:
    """The array (read-only) whose bytes begin at `offset` of a file. Raises OSError, ValueError if it is not all there."""
    with opened(path) as file:
        return map_file(file, dtype, shape, offset)


def map_file(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...], offset: int = 0) -> np.ndarray:
    """`map_array` of a file that is open, and may be closed or deleted afterwards."""
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(content, dtype, count, offset).reshape(shape)


def map_of(array: np.ndarray | None) -> mmap.mmap | None:
    """The mapped file that an array is a part of, or None if it is in memory."""
    base: Any = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None


def advise_random(*arrays: np.ndarray | None) -> None:
    """Rows will be drawn at random: read no more than what is asked for."""
    _advise("MADV_RANDOM", arrays)


def release(*arrays: np.ndarray | None) -> None:
    """Give back the memory of pages that were read; they are read again when they are looked at."""
    _advise("MADV_DONTNEED", arrays)


def _advise(what: str, arrays: tuple[np.ndarray | None, ...]) -> None:
    for content in map(map_of, arrays):
        if content is not None and hasattr(mmap, what):
            content.madvise(getattr(mmap, what))


def pieces(*arrays: np.ndarray) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Consecutive pieces of arrays of the same length, each with its first row; mapped ones are released behind."""
    width = sum(max(array[:1].nbytes, 1) for array in arrays)
    size = max(PIECE // width, 1)
    for start in range(0, len(arrays[0]), size):
        yield start, tuple(array[start : start + size] for array in arrays)
        release(*arrays)


def few(array: np.ndarray) -> np.ndarray:
    """All rows or, of very many, every k-th."""
    return array[:: -(-len(array) // FEW)] if len(array) > FEW else array


class Columns(NamedTuple):
    """What is known of each column of an array, or of a vector; float64."""

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def columns(array: np.ndarray) -> Columns:
    """In one pass over all rows (Chan et al., 1979)."""
    low, high = array[0].astype(np.float64), array[0].astype(np.float64)
    count, mean, spread = 0, np.zeros_like(low), np.zeros_like(low)
    for _, (piece,) in pieces(array):
        low, high = np.minimum(low, piece.min(axis=0)), np.maximum(high, piece.max(axis=0))
        count, mean, spread = merged(count, mean, spread, piece)
    return Columns(low, high, mean, np.sqrt(spread / count))


def merged(count: int, mean: Any, spread: Any, piece: np.ndarray) -> tuple[int, Any, Any]:
    """Number of rows, mean and sum of squared deviations of columns, with the rows of one more piece."""
    n, piece = len(piece), np.asarray(piece, np.float64)
    center = piece.mean(axis=0)
    off = center - mean
    spread = spread + ((piece - center) ** 2).sum(axis=0) + off**2 * (count * n / (count + n))
    return count + n, mean + off * (n / (count + n)), spread
