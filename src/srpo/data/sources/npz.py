"""Arrays of .npz files, looked at before they are read: a header may claim any size, and a small archive hold any."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from srpo.data.checks import DataError
from srpo.files import opened, require_honest
from srpo.text import NAME, plain

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def names(path: Path) -> list[str]:
    """What the archive holds, by the names that `numpy.savez` was given. Raises DataError if it is none."""
    with opened(path) as file:
        if not zipfile.is_zipfile(file):
            raise DataError(f"{path}: is not a complete npz file; write it with numpy.savez, or get it again")
        return [name.removesuffix(".npy") for name in zipfile.ZipFile(file).namelist() if name.endswith(".npy")]


def read_arrays(path: Path, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays by name. Raises DataError for objects and for headers that lie, TooLarge for more than fits."""
    found = {}
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        members = {name: archive.getinfo(f"{name}.npy") for name in wanted}
        for name, member in members.items():
            _require_plain(archive, member, f"{path}: {name}")
        require_honest(sum(member.file_size for member in members.values()), path.stat().st_size, str(path))
        for name, member in members.items():
            with archive.open(member) as content:
                found[name] = np.lib.format.read_array(content, allow_pickle=False)
    return found


def _require_plain(archive: zipfile.ZipFile, member: zipfile.ZipInfo, what: str) -> None:
    with archive.open(member) as content:
        version = np.lib.format.read_magic(content)
        if version not in HEADERS:
            raise DataError(f"{what} has a header of version {version}, expected plain numbers; write them with numpy.savez")
        shape, _, dtype = HEADERS[version](content)
        held = member.file_size - content.tell()
    if dtype.hasobject:
        raise DataError(f"{what} is an object array (a pickle), which is never loaded; save plain numbers")
    if dtype.kind not in "fiubcUS":
        raise DataError(f"{what} has type {plain(dtype, NAME)}, expected numbers; convert it to float32 (flags to bool)")
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != held:
        raise DataError(f"{what} claims the shape {plain(shape, NAME)}, {claimed} bytes, but holds {held}; write it again")
