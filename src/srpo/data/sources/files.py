"""Reading data files: D4RL's HDF5 layout, and the same fields in an npz file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from srpo.data.checks import FIELDS, REQUIRED, DataError, missing_field, text_of
from srpo.data.sources import Attributes, hdf5, npz
from srpo.errors import UserError
from srpo.files import opened
from srpo.surroundings import expanded
from srpo.text import plain

HDF5 = (".hdf5", ".h5")
SUFFIXES = (*HDF5, ".npz")


def matches(source: str) -> bool:
    """A path that ends like a file of ours, or at which there is something."""
    path = expanded(source) or Path(source)
    return path.suffix.lower() in SUFFIXES or path.exists()


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording in a file, called by its stem. Raises DataError."""
    path = expanded(source) or Path(source)
    return read_recording(path, path.stem)


def read_recording(path: Path, name: str) -> tuple[dict[str, Any], Attributes]:
    """The recording in the file `path`, called `name`. Raises DataError."""
    fields, env_id = read_file(path)
    return fields, Attributes(name, str(path), env_id, file_hash(path))


def read_file(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    """The fields of a file by our names, unchecked, and its environment's id if it names one. Raises DataError."""
    if not path.exists():
        raise DataError(f"{path}: no such file; give the path of a {', '.join(SUFFIXES)} file")
    if not path.is_file():
        raise DataError(f"{path}: is not a file; give the path of a {', '.join(SUFFIXES)} file")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    try:
        return _read_hdf5(path) if path.suffix.lower() in HDF5 else _read_npz(path)
    except UserError:
        raise
    except Exception as error:  # a malformed file can raise many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: is truncated or corrupt ({plain(reason, 200)}); delete it and get it again") from None


def _read_hdf5(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    with opened(path), h5py.File(path) as file:
        there = {key: hdf5.plain_dataset(file, name, str(path)) for key, name in FIELDS.items()}
        found = {key: data for key, data in there.items() if data is not None}
        for key in REQUIRED:
            if key not in found:
                raise missing_field(str(path), FIELDS[key], file)
        hdf5.require_room(list(found.values()), path)
        return {key: data[()] for key, data in found.items()}, text_of(hdf5.attribute(file, "env_id"), f"{path}: env_id")


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    there = npz.names(path)
    for key in REQUIRED:
        if FIELDS[key] not in there:
            raise missing_field(str(path), FIELDS[key], there)
    found = npz.read_arrays(path, [name for name in (*FIELDS.values(), "env_id") if name in there])
    return {key: found[name] for key, name in FIELDS.items() if name in found}, text_of(found.get("env_id"), f"{path}: env_id")


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
