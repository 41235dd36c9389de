"""Files of which the arrays stay on disk: mapped where they lie plainly in it, else unpacked once into the cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from srpo.data import cache
from srpo.data.checks import RANK
from srpo.data.mapped import PIECE, map_array
from srpo.data.sources import hdf5
from srpo.data.sources.hashes import file_hash


def fields(path: Path, found: dict[str, h5py.Dataset]) -> dict[str, np.ndarray]:
    """The arrays of a file by our names: numbers per row in memory, vectors per row on disk. Raises DataError, TooLarge."""
    vectors = {key: data for key, data in found.items() if RANK[key] == 2 and data.ndim == 2}
    numbers = {key: data for key, data in found.items() if key not in vectors}
    hdf5.require_room(list(numbers.values()), path)
    plain = {key: array for key, data in vectors.items() if (array := _in_place(path, data)) is not None}
    packed = {key: data for key, data in vectors.items() if key not in plain}
    out = {key: data[()] for key, data in numbers.items()} | plain
    return {key: (out | _unpacked(path, packed))[key] for key in found} if packed else {key: out[key] for key in found}


def _in_place(path: Path, data: h5py.Dataset) -> np.ndarray | None:
    """A data set as the file has it, if it has it in one piece."""
    offset = data.id.get_offset()
    if offset is None or data.dtype.kind not in "fiub" or not data.dtype.isnative or data.dtype == np.float16:
        return None
    return map_array(path, data.dtype, data.shape, offset)


def _unpacked(path: Path, packed: dict[str, h5py.Dataset]) -> dict[str, np.ndarray]:
    """Compressed data sets, from the cache."""
    arrays: dict[str, Any] = {key: (data.shape, _plain(data.dtype), _parts(data)) for key, data in packed.items()}
    files = cache.unpacked(file_hash(path), arrays, f"unpacking {path.name}")
    return {key: _npy(file) for key, file in files.items()}


def _plain(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("=")


def _parts(data: h5py.Dataset):
    rows = max(PIECE // max(data.dtype.itemsize * data.shape[1], 1), 1)
    chunk = data.chunks[0] if data.chunks else 1
    rows = max(rows // chunk, 1) * chunk  # whole chunks: each is decompressed once

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, len(data), rows):
            yield data[start : start + rows]

    return parts


def _npy(file: Path) -> np.ndarray:
    with open(file, "rb") as opened:
        np.lib.format.read_magic(opened)
        shape, _, dtype = np.lib.format.read_array_header_1_0(opened)
        return map_array(file, dtype, shape, opened.tell())
