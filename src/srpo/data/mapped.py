"""Arrays that stay in their file: mapped, so that NumPy knows where they lie, and read from it row by row or in pieces.

The pages of a mapped file that a process touches count as its resident memory. So nothing here touches them: rows are
read with system calls, which go through the system's cache of files and leave nothing in this process but the rows.
Where the system has no such call (Windows), the map is read. Everything that looks at all rows does so in pieces.
"""

from __future__ import annotations

import itertools
import mmap
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from srpo.errors import UserError
from srpo.system.files import opened

LARGE = 1 << 30  # bytes of a file's arrays above which they stay in it
PIECE = 1 << 24  # bytes that a pass over all rows looks at in one go
FEW = 1 << 22  # rows that stand for all where an estimate will do


class Mapped(mmap.mmap):
    """A mapped file, and what to read it by without its map."""

    name: str
    descriptor: int | None = None  # None: it can be read through its map alone


def map_array(path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int = 0) -> np.ndarray:
    """The array (read-only) whose bytes begin at `offset` of a file. Raises OSError, ValueError if it is not all there."""
    with opened(path) as file:
        return map_file(file, dtype, shape, offset, str(path))


def map_file(
    file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...], offset: int = 0, name: str = "unpacked data"
) -> np.ndarray:
    """`map_array` of a file that is open, and may be closed or deleted afterwards; `name`: for messages."""
    content = Mapped(file.fileno(), 0, access=mmap.ACCESS_READ)
    content.name = name
    if hasattr(os, "preadv"):
        content.descriptor = os.dup(file.fileno())
        weakref.finalize(content, os.close, content.descriptor)
    count = int(np.prod(shape, dtype=np.int64))
    return np.frombuffer(content, dtype, count, offset).reshape(shape)


def map_of(array: np.ndarray | None) -> Mapped | None:
    """The mapped file that an array is a part of, or None if it is in memory."""
    base: Any = array
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, Mapped) else None


def gathered(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`array[rows]` for row numbers of any shape; of an array in a file, read from there: rows that follow each other at once,
    those in the system's cache before the others. Raises UserError if the file has become shorter."""
    content, rows = map_of(array), np.asarray(rows, np.int64)
    if content is None or content.descriptor is None or not array.flags.c_contiguous or rows.size == 0 or array[:1].nbytes == 0:
        return array[rows]
    if rows.min() < 0 or rows.max() >= len(array):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(array)}")
    out = np.empty((*rows.shape, *array.shape[1:]), array.dtype)
    _read(content.descriptor, content.name, *_runs(array, content, rows.ravel()), out.reshape(-1).view(np.uint8).data)
    return out


def _runs(array: np.ndarray, content: Mapped, rows: np.ndarray) -> tuple[list[int], list[int]]:
    """Where in the file each run of consecutive rows begins, none longer than a piece, and its bytes."""
    width = array.strides[0]
    most = max(PIECE // width, 1)
    begins = np.flatnonzero((np.diff(rows, prepend=rows[0]) != 1) | (np.arange(len(rows)) % most == 0))
    origin = _address(array) - _address(np.frombuffer(content, np.uint8, 1))
    return (origin + rows[begins] * width).tolist(), (np.diff(begins, append=len(rows)) * width).tolist()


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _read(file: int, name: str, begins: list[int], sizes: list[int], into: memoryview) -> None:
    """First what the system has in its cache, without waiting; the rest is announced to the disk, all of it, and waited for."""
    waiting = _read_cached(file, begins, sizes, into)
    if len(waiting) > 1 and hasattr(os, "posix_fadvise"):
        for begin, size, _ in waiting:
            os.posix_fadvise(file, begin, size, os.POSIX_FADV_WILLNEED)
    for begin, size, end in waiting:
        if os.preadv(file, [into[end - size : end]], begin) != size:
            raise UserError(f"{name}: has become shorter while its rows were read; restore it, then go on with --resume")


def _read_cached(file: int, begins: list[int], sizes: list[int], into: memoryview) -> list[tuple[int, int, int]]:
    """Read what needs no disk. The others: where each begins in the file, its size, and where it ends in memory; all of them where the
    system cannot be asked."""
    runs = zip(begins, sizes, itertools.accumulate(sizes), strict=True)
    if not hasattr(os, "RWF_NOWAIT"):
        return list(runs)
    read, without_waiting = os.preadv, os.RWF_NOWAIT
    waiting: list[tuple[int, int, int]] = []
    for run in runs:
        begin, size, end = run
        try:
            if read(file, [into[end - size : end]], begin, without_waiting) == size:
                continue
        except BlockingIOError:  # nothing of it is there
            pass
        except OSError:  # not on this file system
            return [*waiting, run, *runs]
        waiting.append(run)
    return waiting


def pieces(*arrays: np.ndarray) -> Iterator[tuple[int, tuple[np.ndarray, ...]]]:
    """Consecutive pieces of arrays of the same length, each with its first row; of arrays in files, copies."""
    width = sum(max(array[:1].nbytes, 1) for array in arrays)
    size = max(PIECE // width, 1)
    for start in range(0, len(arrays[0]), size):
        yield start, tuple(_piece(array, start, start + size) for array in arrays)


def _piece(array: np.ndarray, start: int, stop: int) -> np.ndarray:
    return array[start:stop] if map_of(array) is None else gathered(array, np.arange(start, min(stop, len(array))))


def few(array: np.ndarray) -> np.ndarray:
    """All rows or, of very many, every k-th."""
    every = -(-len(array) // FEW)
    if every <= 1 or map_of(array) is None:
        return array[::every]
    return np.concatenate([piece[-start % every :: every] for start, (piece,) in pieces(array)])


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
