"""Arrays that stay in their file: mapped into memory, read where they are looked at, and let go of again.

The pages of a mapped file that a process has touched count as its resident memory until they are released; the system
keeps them in its cache of files as long as there is room.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from srpo.files import opened

CHUNK = 1 << 24  # bytes that a pass over all rows looks at in one go


def map_array(path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int = 0) -> np.ndarray:
    """The array (read-only) whose bytes begin at `offset` of a file. Raises OSError, ValueError if it is not all there."""
    with opened(path) as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(content, "madvise"):  # rows are drawn at random: read no more than what is asked for
        content.madvise(mmap.MADV_RANDOM)
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(content, dtype, count, offset).reshape(shape)


def map_of(array: np.ndarray | None) -> mmap.mmap | None:
    """The mapped file that an array is a part of, or None if it is in memory."""
    base = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None


def release(*arrays: np.ndarray | None) -> None:
    """Give back the memory of pages that were read; they are read again when they are looked at."""
    for content in map(map_of, arrays):
        if content is not None and hasattr(content, "madvise"):
            content.madvise(mmap.MADV_DONTNEED)


def chunks(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Consecutive pieces of arrays of the same length, a few megabytes at a time; mapped ones are released behind."""
    width = sum(max(array[:1].nbytes, 1) for array in arrays)
    size = max(CHUNK // width, 1)
    for start in range(0, len(arrays[0]), size):
        yield tuple(array[start : start + size] for array in arrays)
        release(*arrays)
