"""A recording as one file in D4RL's layout, in the units that were recorded."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np

from srpo.data.checks import FIELDS, DataError
from srpo.data.recording import Dataset

SUFFIXES = (".hdf5", ".h5")


def check_new(path: Path) -> None:
    """Raises DataError, before anything is read, unless a file can be made there."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; give a name that ends in .hdf5")
    if path.exists():
        raise DataError(f"{path} exists; give another name, or remove it")
    if not path.parent.is_dir():
        raise DataError(f"{path}: the folder {path.parent} does not exist; make it first")


def write(data: Dataset, path: Path) -> None:
    """Write `data` to the new file `path`, whole or not at all. Raises DataError if it cannot be written."""
    action = data.action if data.action_range is None else data.action_range.recorded(data.action)
    arrays = {
        "obs": data.recorded_obs,
        "action": action,
        "reward": data.reward,
        "terminal": data.terminal,
        "timeout": data.timeout,
    }
    if data.next_obs is not None:
        arrays["next_obs"] = data.next_obs if data.obs_offset is None else data.next_obs + data.obs_offset
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with h5py.File(part, "w") as file:
            for key, array in arrays.items():
                file.create_dataset(FIELDS[key], data=np.asarray(array), compression="gzip", shuffle=True)
            if data.env_id is not None:
                file.attrs["env_id"] = data.env_id
            if data.action_range is not None:
                file.attrs["action_low"], file.attrs["action_high"] = data.action_range.low, data.action_range.high
        os.replace(part, path)
    except OSError as e:
        raise DataError(f"{path}: cannot be written ({e.strerror or e}); give another place") from e
    finally:
        part.unlink(missing_ok=True)
