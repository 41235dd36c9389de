"""Arrays of .npz files, looked at before they are read: a header may claim any size, and a small archive hold any."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from srpo.data.checks import DataError
from srpo.data.sources.large import Stored, rows_at_once
from srpo.system.files import opened, require_honest
from srpo.text import NAME, plain

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
LENGTHS = 26  # bytes of a member's own header before the lengths of its name and of its extra field


def names(path: Path) -> list[str]:
    """What the archive holds, by the names that `numpy.savez` was given. Raises DataError if it is none."""
    with opened(path) as file:
        if not zipfile.is_zipfile(file):
            raise DataError(f"{path}: is not a complete npz file; write it with numpy.savez, or get it again")
        return [name.removesuffix(".npy") for name in zipfile.ZipFile(file).namelist() if name.endswith(".npy")]


def size(path: Path, wanted: Iterable[str]) -> int:
    """Bytes that arrays claim together."""
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        return sum(archive.getinfo(f"{name}.npy").file_size for name in wanted)


def read_arrays(path: Path, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays by name. Raises DataError for objects and for headers that lie, TooLarge for more than fits."""
    found = {}
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        members = {name: archive.getinfo(f"{name}.npy") for name in wanted}
        for name, member in members.items():
            _header(archive, member, f"{path}: {name}")
        require_honest(sum(member.file_size for member in members.values()), path.stat().st_size, str(path))
        for name, member in members.items():
            with archive.open(member) as content:
                found[name] = np.lib.format.read_array(content, allow_pickle=False)
    return found


def stored(path: Path, wanted: Iterable[str]) -> dict[str, Stored]:
    """Those of the arrays that are vectors, row after row: where they are in the file, and how they are read piece by piece."""
    found = {}
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        for name in wanted:
            member = archive.getinfo(f"{name}.npy")
            header = _header(archive, member, f"{path}: {name}")
            if len(header.shape) == 2 and not header.by_columns and header.dtype.kind in "fiub":
                offset = _begin(file, member) + header.size if member.compress_type == zipfile.ZIP_STORED else None
                found[name] = Stored(header.shape, header.dtype, offset, partial(_parts, path, member, header))
    return found


class Header(NamedTuple):
    """What is before the numbers of an array."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype
    size: int  # bytes


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, what: str) -> Header:
    """Raises DataError unless it is of plain numbers, and as many as are there."""
    with archive.open(member) as content:
        version = np.lib.format.read_magic(content)
        if version not in HEADERS:
            raise DataError(f"{what} has a header of version {version}, expected plain numbers; write them with numpy.savez")
        header = Header(*HEADERS[version](content), content.tell())
    shape, dtype, held = header.shape, header.dtype, member.file_size - header.size
    if dtype.hasobject:
        raise DataError(f"{what} is an object array (a pickle), which is never loaded; save plain numbers")
    if dtype.kind not in "fiubcUS":
        raise DataError(f"{what} has type {plain(dtype, NAME)}, expected numbers; convert it to float32 (flags to bool)")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != held:
        raise DataError(f"{what} claims the shape {plain(shape, NAME)}, {claimed} bytes, but holds {held}; write it again")
    return header


def _begin(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Where the content of a member begins: behind its own header, a name and what else is said of it, of lengths stated there."""
    file.seek(member.header_offset + LENGTHS)
    return member.header_offset + LENGTHS + 4 + sum(struct.unpack("<HH", file.read(4)))


def _parts(path: Path, member: zipfile.ZipInfo, header: Header) -> Iterator[np.ndarray]:
    rows = rows_at_once(header.shape, header.dtype)
    with opened(path) as file, zipfile.ZipFile(file) as archive, archive.open(member) as content:
        content.read(header.size)
        for start in range(0, header.shape[0], rows):
            shape = min(rows, header.shape[0] - start), header.shape[1]
            yield np.frombuffer(content.read(math.prod(shape) * header.dtype.itemsize), header.dtype).reshape(shape)
