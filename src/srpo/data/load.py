"""From a name, a path or arrays to a `Dataset`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from srpo.data import sources
from srpo.data.checks import FIELDS, check_arrays, check_env_id
from srpo.data.recording import Dataset
from srpo.data.reference import environment
from srpo.data.sources import Attributes, d4rl
from srpo.data.sources.builtin import BUILTIN
from srpo.text import NAME, plain


def load_dataset(source: str | Path) -> Dataset:
    """The data set that `source` names. Raises DataError.

    `source` is a built-in name, the path of an .hdf5 or .npz file in D4RL's layout, a D4RL id such as
    hopper-medium-v2 (downloaded if it is not there yet), a name of `srpo data make`, or `minari:` and an id of Minari.
    """
    fields, attributes = sources.find(str(source)).read(str(source))
    return _build(check_arrays(fields, attributes.source), attributes)


def from_arrays(
    obs, action, reward, terminal, timeout=None, next_obs=None, env_id: str | None = None, name: str = "arrays"
) -> Dataset:
    """A data set from arrays in memory: (N, obs), (N, act), (N,), (N,), (N,), (N, obs). Raises DataError."""
    found = dict(obs=obs, action=action, reward=reward, terminal=terminal, timeout=timeout, next_obs=next_obs)
    return _build(check_arrays(found, name, {key: key for key in FIELDS}), Attributes(name, "arrays", env_id))


def recorded_source(known: Mapping[str, Any]) -> str:
    """Where the data set of a run is found again, from what `run.json` knows of it: a built-in one wherever it is installed."""
    return known["name"] if known["name"] in BUILTIN else known["source"]


def _build(fields: dict[str, np.ndarray], about: Attributes) -> Dataset:
    check_env_id(about.env_id, about.source)
    about = about._replace(name=plain(about.name, NAME))
    known = environment(about.name, about.env_id)
    sizes = fields["obs"].shape[1], fields["action"].shape[1]
    if known and about.env_id is None and about.name not in d4rl.FILES and sizes != (known.obs_size, known.action_size):
        known = None  # the name only resembles one of D4RL's
    sha256 = about.sha256 or _array_hash(fields)
    timeouts_from = "recorded"
    if "timeout" not in fields:
        timeouts_from = "counted" if known else "none"
        none = np.zeros(len(fields["terminal"]), bool)
        fields["timeout"] = d4rl.counted_timeouts(fields["terminal"], known.max_steps) if known else none
    return Dataset(
        name=about.name,
        **fields,
        env_id=about.env_id or (known.env_id if known else None),
        reference=(known.random, known.expert) if known else None,
        source=about.source,
        sha256=sha256,
        timeouts_from=timeouts_from,
    )


def _array_hash(fields: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key in sorted(fields):
        digest.update(key.encode() + fields[key].tobytes())
    return digest.hexdigest()
