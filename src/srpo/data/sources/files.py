"""Reading data files: D4RL's HDF5 layout, and the same fields in an npz file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from srpo.data import mapped
from srpo.data.checks import FIELDS, RANK, REQUIRED, DataError, missing_field, text_of
from srpo.data.ends import TIMEOUTS
from srpo.data.sources import Attributes, hdf5, large, npz, stated
from srpo.data.sources.hashes import file_hash
from srpo.data.sources.hdf5 import HDF5
from srpo.errors import UserError
from srpo.system.files import opened
from srpo.system.surroundings import expanded
from srpo.text import plain

SUFFIXES = (*HDF5, ".npz")
BOUNDS = ("action_low", "action_high")  # attributes: the recorded actions that are -1 and 1, one number or one per column
ATTRIBUTES = ("env_id", *BOUNDS, *stated.NAMES.values(), stated.OFFSET, stated.REFERENCE)


def matches(source: str) -> bool:
    """A path that ends like a file of ours, or at which there is something."""
    path = expanded(source) or Path(source)
    return path.suffix.lower() in SUFFIXES or os.path.exists(path)


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording in a file, called by its stem. Raises DataError."""
    path = expanded(source) or Path(source)
    return read_recording(path, path.stem)


def read_recording(path: Path, name: str) -> tuple[dict[str, Any], Attributes]:
    """The recording in the file `path`, called `name`. Raises DataError."""
    fields, others = read_file(path)
    told = {name: others.pop(name, None) for name in ATTRIBUTES}
    bounds = [told[name] for name in BOUNDS]
    if sum(bound is None for bound in bounds) == 1:
        there, lacking = sorted(BOUNDS, key=lambda name: told[name] is None)
        raise DataError(f"{path}: states {there}, but no {lacking}; state both, or neither")
    about = Attributes(
        name,
        str(path),
        text_of(told["env_id"], f"{path}: env_id"),
        file_hash(path),
        action_range=None if any(bound is None for bound in bounds) else (*bounds, "stated in the file"),
        others=others,
        labels=stated.labels(told, fields, str(path)),
        reference=stated.pair(told, str(path)),
        obs_offset=stated.offset(told, np.shape(fields["obs"])[-1:], str(path)),
    )
    return fields, about


def read_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The fields of a file by our names, unchecked, and what else it says, by the names of ATTRIBUTES. Raises DataError."""
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file; give the path of a {', '.join(SUFFIXES)} file")
    if not os.path.isfile(path):
        raise DataError(f"{path}: is not a file; give the path of a {', '.join(SUFFIXES)} file")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    try:
        return _read_hdf5(path) if path.suffix.lower() in HDF5 else _read_npz(path)
    except UserError:
        raise
    except Exception as error:  # a malformed file can raise many kinds
        raise DataError(f"{path}: {_trouble(path, error)}") from None


def _trouble(path: Path, error: Exception) -> str:
    """Why a file cannot be read, as far as it can be told; the file may be the only one, so nothing says to delete it."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, PermissionError) or not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        return "may not be read by you; give yourself the right to (chmod u+r), or ask its owner"
    if "unable to lock file" in reason or "already open for write" in reason:
        return (
            "is open in another program, such as the recorder that writes it; close it there first, or copy the file. Where "
            "nothing has it open (some network disks), set HDF5_USE_FILE_LOCKING=FALSE"
        )
    if "required filter" in reason or "plugin" in reason or "can't open directory" in reason:
        return (
            f"is compressed with a filter that is not installed ({plain(reason, 100)}); install it (pip install hdf5plugin, then "
            "import hdf5plugin), or write the file with gzip"
        )
    return (
        f"is truncated or corrupt ({plain(reason, 200)}); it may still be copied or written; if not, get it again, or salvage its rows "
        "with h5clear and h5py before you write it anew"
    )


def _read_hdf5(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with opened(path), h5py.File(path) as file:
        there = {key: hdf5.plain_dataset(file, name, str(path)) for key, name in FIELDS.items()}
        found = {key: data for key, data in there.items() if data is not None}
        for key in REQUIRED:
            if key not in found:
                raise missing_field(str(path), FIELDS[key], file)
        names = [name for name in TIMEOUTS if "timeout" not in found and isinstance(file.get(name), h5py.Dataset)]
        flags = {name: flag for name in names if (flag := hdf5.plain_dataset(file, name, str(path))) is not None}
        vectors = {}
        if sum(map(hdf5.size, found.values())) > mapped.LARGE:
            vectors = {key: hdf5.stored(data) for key, data in found.items() if RANK[key] == 2 and data.ndim == 2}
        numbers = {key: data for key, data in found.items() if key not in vectors}
        hdf5.require_room([*numbers.values(), *flags.values()], path)
        arrays = {key: data[()] for key, data in numbers.items()} | large.kept(path, vectors)
        return {key: arrays[key] for key in found}, _others(file, flags)


def _others(file: h5py.File, flags: dict[str, h5py.Dataset]) -> dict[str, Any]:
    others = {name: data[()] for name, data in flags.items()}
    return others | {name: value for name in ATTRIBUTES if (value := hdf5.attribute(file, name)) is not None}


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    there = npz.names(path)
    for key in REQUIRED:
        if FIELDS[key] not in there:
            raise missing_field(str(path), FIELDS[key], there)
    others = (*ATTRIBUTES, *(() if FIELDS["timeout"] in there else TIMEOUTS))
    wanted = [name for name in (*FIELDS.values(), *others) if name in there]
    vectors = {key: name for key, name in FIELDS.items() if RANK[key] == 2 and name in there}
    stored = npz.stored(path, vectors.values()) if npz.size(path, wanted) > mapped.LARGE else {}
    on_disk = large.kept(path, {key: stored[name] for key, name in vectors.items() if name in stored})
    found = npz.read_arrays(path, [name for name in wanted if name not in stored])
    fields = {key: on_disk[key] if key in on_disk else found[name] for key, name in FIELDS.items() if name in there}
    return fields, {name: found[name] for name in others if name in found}
