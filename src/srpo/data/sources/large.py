"""Vectors that stay on disk: mapped where they lie plainly in their file, else unpacked once into the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from srpo.data import cache
from srpo.data.mapped import PIECE, map_array
from srpo.data.sources.hashes import file_hash
from srpo.system.files import require_plausible


class Stored(NamedTuple):
    """An array of vectors (N, size) as a file holds it, none of it read."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None  # where its bytes begin in the file, if they lie there one after the other
    parts: Callable[[], Iterator[np.ndarray]]  # its rows in order, piece by piece

    @property
    def as_used(self) -> np.dtype:
        return np.dtype(np.float32) if self.dtype == np.float16 else self.dtype.newbyteorder("=")


def kept(path: Path, found: Mapping[str, Stored]) -> dict[str, np.ndarray]:
    """The arrays of a file by our names, on disk. Raises DataError, TooLarge."""
    claimed = sum(int(np.prod(each.shape, dtype=np.int64)) * each.dtype.itemsize for each in found.values())
    require_plausible(claimed, path.stat().st_size, str(path))
    plain = {key: each for key, each in found.items() if each.offset is not None and each.dtype == each.as_used}
    packed: dict[str, Any] = {key: (each.shape, each.as_used, each.parts) for key, each in found.items() if key not in plain}
    files = cache.unpacked(file_hash(path), packed, f"unpacking {path.name}") if packed else {}
    out = {key: map_array(path, each.dtype, each.shape, each.offset or 0) for key, each in plain.items()}
    return out | {key: _npy(file) for key, file in files.items()}


def rows_at_once(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """How many rows make a piece."""
    return max(PIECE // max(int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize, 1), 1)


def _npy(file: Path) -> np.ndarray:
    with open(file, "rb") as opened:
        np.lib.format.read_magic(opened)
        shape, _, dtype = np.lib.format.read_array_header_1_0(opened)
        return map_array(file, dtype, shape, opened.tell())
