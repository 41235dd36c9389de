"""From a name, a path or arrays to a `Dataset`."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from srpo.data import treatments
from srpo.data.checks import FIELDS, DataError, check_arrays
from srpo.data.recording import Dataset
from srpo.data.reference import environment
from srpo.data.sources import d4rl
from srpo.data.sources.builtin import BUILTIN, builtin_path
from srpo.data.sources.files import SUFFIXES, file_hash, read_file
from srpo.data.sources.minari import PREFIX, read_minari


def load_dataset(source: str | Path) -> Dataset:
    """The data set that `source` names. Raises DataError.

    `source` is a built-in name, the path of an .hdf5 or .npz file in D4RL's layout, a D4RL id such as
    hopper-medium-v2 (downloaded if it is not there yet), or `minari:` and an id of Minari.
    """
    name, path = str(source), Path(source).expanduser()
    if name in BUILTIN:
        return from_file(builtin_path(name), name)
    if name in d4rl.FILES:
        return from_file(d4rl.find(name), name)
    if name.startswith(PREFIX):
        fields, env_id = read_minari(name.removeprefix(PREFIX))
        return _build(check_arrays(fields, name), name.removeprefix(PREFIX).replace("/", "-"), env_id, name)
    if path.suffix in SUFFIXES or path.exists():
        return from_file(path, d4rl.IDS.get(path.name))
    near = difflib.get_close_matches(name, [*BUILTIN, *d4rl.FILES], n=1, cutoff=0.5)
    hint = (
        f"did you mean {near[0]!r}?"
        if near
        else f"give a path to a {' or '.join(SUFFIXES)} file, or a name of `srpo data list`"
    )
    raise DataError(f"unknown data set {name!r}; {hint}")


def from_file(path: Path, name: str | None = None) -> Dataset:
    """The data set in a file, called by its stem if no name is given. Raises DataError."""
    fields, env_id = read_file(path)
    return _build(check_arrays(fields, str(path)), name or path.stem, env_id, str(path), file_hash(path))


def from_arrays(
    obs, action, reward, terminal, timeout=None, next_obs=None, env_id: str | None = None, name: str = "arrays"
) -> Dataset:
    """A data set from arrays in memory: (N, obs), (N, act), (N,), (N,), (N,), (N, obs). Raises DataError."""
    found = dict(obs=obs, action=action, reward=reward, terminal=terminal, timeout=timeout, next_obs=next_obs)
    return _build(check_arrays(found, name, {key: key for key in FIELDS}), name, env_id, "arrays")


def recorded_source(known: Mapping[str, Any]) -> str:
    """Where the data set of a run is found again, from what `run.json` knows of it: a built-in one wherever it is installed."""
    return known["name"] if known["name"] in BUILTIN else known["source"]


def _build(fields: dict[str, np.ndarray], name: str, env_id: str | None, source: str, sha256: str | None = None) -> Dataset:
    known = environment(name, env_id)
    sizes = fields["obs"].shape[1], fields["action"].shape[1]
    if known and env_id is None and name not in d4rl.FILES and sizes != (known.obs_size, known.action_size):
        known = None  # the name only resembles one of D4RL's
    sha256 = sha256 or _array_hash(fields)
    timeouts_from = "recorded"
    if "timeout" not in fields:
        timeouts_from = "counted" if known else "none"
        none = np.zeros(len(fields["terminal"]), bool)
        fields["timeout"] = treatments.counted_timeouts(fields["terminal"], known.max_steps) if known else none
    return Dataset(
        name=name,
        **fields,
        env_id=env_id or (known.env_id if known else None),
        reference=(known.random, known.expert) if known else None,
        source=source,
        sha256=sha256,
        timeouts_from=timeouts_from,
    )


def _array_hash(fields: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key in sorted(fields):
        digest.update(key.encode() + fields[key].tobytes())
    return digest.hexdigest()
