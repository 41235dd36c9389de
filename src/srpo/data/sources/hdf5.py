"""Plain data sets of HDF5 files, looked at before they are read.

An HDF5 file may name other files (external links, external storage, virtual data sets) and may claim any size.
Only arrays of numbers that are wholly in the file itself are handed out, after what they claim was compared with what is there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py

from srpo.data.checks import DataError
from srpo.data.sources.large import Stored, rows_at_once
from srpo.system.files import UNSUSPICIOUS, amount, require_honest
from srpo.text import NAME, plain

HDF5 = (".hdf5", ".h5")  # how the names of such files end
LONGEST_TEXT = 60_000  # bytes of an attribute; HDF5 itself keeps at most 64 KiB
KINDS = "fiub"  # of NumPy: numbers and flags


def plain_dataset(file: h5py.File, name: str, where: str) -> h5py.Dataset | None:
    """The data set at the path `name` of a file, none of it read; None if there is none. Raises DataError unless it is plain."""
    found: Any = file
    for i, part in enumerate(parts := [part for part in name.split("/") if part]):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise DataError(
                f"{where}: {'/'.join(parts[: i + 1])} is {_target(link)}, and only what is in the file itself is read; "
                "copy the rows into one file, such as by new[name] = old[name][()] in h5py"
            )
        found = found[part]
    if not isinstance(found, h5py.Dataset):
        return None
    _require_plain(found, f"{where}: {name}")
    return found


def require_room(datasets: list[h5py.Dataset], path: Path) -> None:
    """Raises TooLarge if together they claim more than the file can hold, or than there is memory for."""
    claimed = sum(max(size(each), _chunk(each)) for each in datasets)
    require_honest(claimed, path.stat().st_size, str(path))


def attribute(file: h5py.File, name: str) -> Any:
    """A small attribute of the file as it is, None if there is none; for a large one, its shape."""
    if name not in file.attrs:
        return None
    about = file.attrs.get_id(name)
    if about.shape is None or math.prod(about.shape) * about.dtype.itemsize > LONGEST_TEXT:
        return about.shape
    return file.attrs[name]


def _target(link: h5py.SoftLink | h5py.ExternalLink) -> str:
    if isinstance(link, h5py.ExternalLink):
        return f"a link to the file {plain(link.filename, NAME)}"
    return f"a link to {plain(getattr(link, 'path', 'something else'), NAME)}"


def _require_plain(data: h5py.Dataset, what: str) -> None:
    if data.is_virtual:
        files = dict.fromkeys(plain(source.file_name, NAME) for source in data.virtual_sources())
        raise DataError(
            f"{what} is a virtual data set, its rows are in {', '.join(list(files)[:3])}{' ...' if len(files) > 3 else ''}, and only "
            "what is in the file itself is read; copy the rows into one file, such as by new[name] = old[name][()] in h5py"
        )
    if data.external:
        raise DataError(
            f"{what} is stored in the file {plain(data.external[0][0], NAME)}, and only what is in the file itself is read; "
            "copy the rows into one file, such as by new[name] = old[name][()] in h5py"
        )
    if data.dtype.kind not in KINDS:
        raise DataError(f"{what} has type {plain(data.dtype, NAME)}, expected numbers; convert it to float32 (flags to bool)")
    if data.shape is None:
        raise DataError(f"{what} is empty, expected one row per step; record it again")
    _require_written(data, what)


def _require_written(data: h5py.Dataset, what: str) -> None:
    """Raises DataError if parts of it were never written: HDF5 would make up zeros for them."""
    advice = "the recording is not complete, or was never closed; record it again, or keep only the rows that were written"
    if data.chunks is None:
        held = data.id.get_storage_size()
        if held < size(data):
            raise DataError(
                f"{what} has shape {data.shape}, {amount(size(data))}, but the file holds {amount(held)} of it; {advice}"
            )
        return
    wanted = math.prod(-(-n // chunk) for n, chunk in zip(data.shape, data.chunks, strict=True))
    held = data.id.get_num_chunks()
    if held < wanted:
        raise DataError(f"{what} has shape {data.shape}, but {held} of its {wanted} pieces were written; {advice}")


def stored(data: h5py.Dataset) -> Stored:
    """Where its rows are, and how they are read piece by piece."""
    rows, chunk = rows_at_once(data.shape, data.dtype), data.chunks[0] if data.chunks else 1
    rows = max(rows // chunk, 1) * chunk  # whole chunks: each is decompressed once
    return Stored(
        data.shape,
        data.dtype,
        data.id.get_offset(),
        lambda: (data[start : start + rows] for start in range(0, len(data), rows)),
    )


def size(data: h5py.Dataset) -> int:
    """Bytes that it claims."""
    return math.prod(data.shape) * data.dtype.itemsize


def _chunk(data: h5py.Dataset) -> int:
    """Bytes of one piece, beyond what any file needs."""
    size = 0 if data.chunks is None else math.prod(data.chunks) * data.dtype.itemsize
    return size if size > UNSUSPICIOUS else 0
