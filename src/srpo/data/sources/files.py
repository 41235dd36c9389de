"""Reading data files: D4RL's HDF5 layout, and the same fields in an npz file."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from srpo.data.checks import FIELDS, REQUIRED, DataError, missing_field
from srpo.data.sources import Attributes

HDF5 = (".hdf5", ".h5")
SUFFIXES = (*HDF5, ".npz")


def matches(source: str) -> bool:
    """A path that ends like a file of ours, or at which there is something."""
    path = Path(source).expanduser()
    return path.suffix in SUFFIXES or path.exists()


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording in a file, called by its stem. Raises DataError."""
    path = Path(source).expanduser()
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
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    try:
        return _read_hdf5(path) if path.suffix in HDF5 else _read_npz(path)
    except DataError:
        raise
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: is truncated or corrupt ({reason}); delete it and get it again") from None


def _read_hdf5(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    with h5py.File(path) as file:
        arrays = {}
        for key, name in FIELDS.items():
            if isinstance(file.get(name), h5py.Dataset):
                arrays[key] = file[name][()]
            elif key in REQUIRED:
                raise missing_field(str(path), name, file)
        return arrays, _env_id(file.attrs.get("env_id"), path)


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], str | None]:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: is not a complete npz file; write it with numpy.savez, or get it again")
    with np.load(path, allow_pickle=False) as file:
        arrays = {}
        for key, name in FIELDS.items():
            if name in file:
                arrays[key] = _plain(file, name, path)
            elif key in REQUIRED:
                raise missing_field(str(path), name, file)
        return arrays, _env_id(_plain(file, "env_id", path) if "env_id" in file else None, path)


def _env_id(found, path: Path) -> str | None:
    """The environment's id as text, or None. Raises DataError if it is something else."""
    if isinstance(found, (np.ndarray, np.generic)) and found.size == 1:
        found = found.item()
    if isinstance(found, bytes):
        found = found.decode(errors="replace")
    if found is None or isinstance(found, str):
        return found or None
    raise DataError(f"{path}: env_id is {found!r}, expected the id of a Gymnasium environment; write it as one piece of text")


def _plain(file, name: str, path: Path) -> np.ndarray:
    try:
        return file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        raise DataError(f"{path}: {name} is an object array (a pickle), which is never loaded; save plain numbers") from None


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
