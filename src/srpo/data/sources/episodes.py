"""HDF5 files with one group or one numbered set per episode: robomimic's and d3rlpy's.

robomimic: `data/demo_0/{actions,rewards,dones,obs/KEY}`; the observations are the low-dimensional ones by name, images are
left out and said. d3rlpy: `observations_0, actions_0, rewards_0, terminated_0, ...` (version 2.1).
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from srpo.data.checks import DataError
from srpo.data.sources import DAMAGE, Attributes
from srpo.data.sources.hashes import file_hash
from srpo.data.sources.hdf5 import HDF5, plain_dataset, require_room
from srpo.system.surroundings import expanded
from srpo.text import NAME, plain


def matches(source: str) -> bool:
    path = expanded(source) or Path(source)
    return path.suffix.lower() in HDF5 and os.path.isfile(path) and _kind(path) is not None


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording, its episodes in their order. Raises DataError."""
    path = expanded(source) or Path(source)
    with h5py.File(path) as file:
        fields, labels, notes = _robomimic(file, path) if _kind(path) == "robomimic" else _d3rlpy(file, path)
    return fields, Attributes(path.stem, str(path), sha256=file_hash(path), labels=labels, notes=notes)


def _kind(path: Path) -> str | None:
    try:
        with h5py.File(path) as file:
            data = file.get("data", getlink=True)
            if isinstance(data, h5py.HardLink) and isinstance(file["data"], h5py.Group) and "demo_0" in file["data"]:
                return "robomimic"
            return "d3rlpy" if "observations_0" in file and "actions_0" in file and "columns" in file else None
    except DAMAGE:
        return None  # whoever reads it says what is wrong with it


def _number(name: str) -> int:
    return int(tail) if (tail := name.rpartition("_")[2]).isdigit() else -1


def _robomimic(file: h5py.File, path: Path):
    demos = sorted((name for name in file["data"] if name.startswith("demo_")), key=_number)
    first = f"data/{demos[0]}/obs"
    if not isinstance(file.get(first), h5py.Group):
        raise DataError(f"{path}: {first} is missing; extract observations with robomimic's dataset_states_to_obs.py")
    keys = sorted(key for key in file[first] if isinstance(file[first][key], h5py.Dataset))
    small = [key for key in keys if file[f"{first}/{key}"].ndim <= 2]
    if not small:
        raise DataError(f"{path}: {first} holds images alone; extract low-dimensional observations, too")
    wanted = {"obs": [f"obs/{k}" for k in small], "action": ["actions"], "reward": ["rewards"], "done": ["dones"]}
    found = _gather(file, path, [f"data/{demo}/" for demo in demos], wanted)
    sizes = {k: int(np.prod(file[f"{first}/{k}"].shape[1:])) for k in small}
    labels = tuple(f"{k}.{i}" if sizes[k] > 1 else k for k in small for i in range(sizes[k]))
    images = [key for key in keys if key not in small]
    notes = (f"images are left out ({', '.join(plain(k, NAME) for k in images[:4])})",) if images else ()
    return _fields(found, found["done"] > 0), (labels, _numbered("action", found)), notes


def _d3rlpy(file: h5py.File, path: Path):
    count = sum(name.startswith("actions_") for name in file)
    if "observations_0_0" in file:
        raise DataError(f"{path}: observations are tuples, expected one vector per step; write them as one")
    wanted = {"obs": ["observations"], "action": ["actions"], "reward": ["rewards"]}
    parts = [_gather(file, path, [""], {k: [f"{n}_{i}" for n in names] for k, names in wanted.items()}) for i in range(count)]
    found = {key: np.concatenate([part[key] for part in parts]) for key in (*wanted, "last")}
    flags = [plain_dataset(file, f"terminated_{i}", str(path)) for i in range(count)]
    if None in flags:
        raise DataError(f"{path}: terminated_{flags.index(None)} is missing; write it again with d3rlpy 2")
    ended = [bool(flag[()]) for flag in flags if flag is not None]
    terminal = np.zeros(len(found["last"]), bool)
    terminal[np.flatnonzero(found["last"])] = ended
    return _fields(found, terminal), (_numbered("obs", found), _numbered("action", found)), ()


def _numbered(key: str, found: dict[str, np.ndarray]) -> tuple[str, ...]:
    return tuple(f"{key}.{i}" for i in range(found[key].shape[1]))


def _gather(file: h5py.File, path: Path, episodes: list[str], wanted: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """Every array, the episodes one after the other; `last` marks the last row of each. Raises DataError."""
    sets: dict[tuple[str, str], Any] = {
        (e, n): plain_dataset(file, e + n, str(path)) for e in episodes for names in wanted.values() for n in names
    }
    lacking = next((e + n for (e, n), found in sets.items() if found is None), None)
    if lacking is not None:
        raise DataError(f"{path}: {lacking} is missing; every episode needs it")
    require_room(list(sets.values()), path)
    out: dict[str, list[np.ndarray]] = {key: [] for key in wanted}
    last = []
    for episode in episodes:
        rows = {key: [_rows(sets[episode, n][()]) for n in names] for key, names in wanted.items()}
        length = len(rows["action"][0])
        for key, arrays in rows.items():
            wrong = next((a for a in arrays if len(a) != length), None)
            if wrong is not None:
                raise DataError(
                    f"{path}: {episode}{wanted[key][0]} has {len(wrong)} rows, expected {length} as there are actions; write it again"
                )
            out[key].append(np.concatenate(arrays, 1))
        last.append(np.arange(length) == length - 1)
    found = {key: np.concatenate(parts) for key, parts in out.items()}
    return {k: x[:, 0] if k in ("reward", "done") else x for k, x in found.items()} | {"last": np.concatenate(last)}


def _rows(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float64).reshape(len(array), math.prod(array.shape[1:]))  # of an episode without steps, too


def _fields(found: dict[str, np.ndarray], terminal: np.ndarray) -> dict[str, np.ndarray]:
    terminal = terminal & found["last"]
    return {k: found[k] for k in ("obs", "action", "reward")} | {"terminal": terminal, "timeout": found["last"] & ~terminal}
