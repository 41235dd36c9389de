"""Writing recordings: D4RL's HDF5 layout, replaced atomically."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from srpo.data import spilled
from srpo.data.checks import FIELDS, DataError
from srpo.data.recording import Dataset
from srpo.data.sources import stated
from srpo.data.sources.hdf5 import HDF5
from srpo.system.files import unfinished


def check_destination(path: Path) -> None:
    """Raises DataError, before anything is recorded, if `path` cannot become a new HDF5 file. Makes nothing."""
    if path.suffix.lower() not in HDF5:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; give a name that ends in .hdf5")
    try:
        if path.exists():
            raise DataError(f"{path} exists; remove it first, or give another name")
        folder = next(each for each in path.absolute().parents if each.exists())
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); give another place") from None
    if not folder.is_dir():
        raise DataError(f"{path}: its folder cannot be made, as {folder} is a file; give another place")
    if not os.access(folder, os.W_OK):
        raise DataError(f"{path}: its folder cannot be written; give another place")


def write_hdf5(path: Path, fields: Mapping[str, np.ndarray | None], attributes: Mapping[str, Any]) -> Path:
    """The fields, by our names, as a file that `load_dataset` reads; completely or not at all. The same bytes for the same
    content. Its folder is made if it is not there. Raises DataError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(path) as part:
            with h5py.File(part, "w") as file:
                for key, name in FIELDS.items():
                    if fields.get(key) is not None:
                        file.create_dataset(name, data=fields[key], compression="gzip", shuffle=True, track_times=False)
                file.attrs.update(attributes)
            with open(part, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); give another place") from None
    return path


def write_recording(data: Dataset, path: Path) -> Path:
    """A data set of any source in this layout, in the units that were recorded, with what is known of it: environment, range
    of the actions, names of the columns, reference returns, the offset of the observations, which are then float64, as float32
    holds too little of them. Raises DataError if it cannot be written."""
    units, offset = data.action_range, data.obs_offset

    def recorded(obs: np.ndarray | None) -> np.ndarray | None:
        return obs if obs is None or offset is None else spilled.of(obs, lambda rows: rows + offset.astype(np.float64))

    fields = {
        "obs": recorded(data.obs),
        "action": data.action if units is None else spilled.of(data.action, units.recorded),
        "reward": data.reward,
        "terminal": data.terminal,
        "timeout": None if data.timeouts_from == "none" else data.timeout,  # a field of zeros would say that none was cut
        "next_obs": recorded(data.next_obs),
    }
    about: dict[str, Any] = {} if data.env_id is None else {"env_id": data.env_id}
    about |= {} if units is None else {"action_low": units.low, "action_high": units.high}
    about |= {} if data.labels is None else dict(zip(stated.NAMES.values(), map(list, data.labels), strict=True))
    about |= {} if offset is None else {stated.OFFSET: offset}
    about |= {} if data.reference is None else {stated.REFERENCE: data.reference}
    return write_hdf5(path, fields, about)
