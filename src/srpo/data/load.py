"""From a name, a path or arrays to a `Dataset`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from srpo.data import treat
from srpo.data.checks import FIELDS, DataError, check_arrays
from srpo.data.dataset import Dataset
from srpo.data.read import SUFFIXES, file_hash, read_file
from srpo.data.reference import environment


def load_dataset(source: str | Path) -> Dataset:
    """The data set that `source` names: the path of a file in D4RL's layout. Raises DataError."""
    path = Path(source).expanduser()
    if path.suffix in SUFFIXES or path.exists():
        return from_file(path)
    from srpo.config import closest  # here, as it imports JAX

    raise DataError(f"{source}: " + closest(str(source), [], "data set"))


def from_file(path: Path, name: str | None = None) -> Dataset:
    """The data set in a file. Raises DataError."""
    arrays, env_id = read_file(path)
    return _build(check_arrays(arrays, str(path)), name or path.stem, env_id, str(path), file_hash(path))


def from_arrays(obs, action, reward, terminal, timeout=None, next_obs=None, env_id: str | None = None, name: str = "arrays") -> Dataset:
    """A data set from arrays in memory: (N, obs), (N, act), (N,), (N,), (N,), (N, obs). Raises DataError."""
    found = dict(obs=obs, action=action, reward=reward, terminal=terminal, timeout=timeout, next_obs=next_obs)
    fields = check_arrays(found, name, {key: key for key in FIELDS})
    digest = hashlib.sha256()
    for key in sorted(fields):
        digest.update(key.encode() + np.ascontiguousarray(fields[key]).tobytes())
    return _build(fields, name, env_id, name, digest.hexdigest())


def _build(fields: dict[str, np.ndarray], name: str, env_id: str | None, source: str, sha256: str) -> Dataset:
    known = environment(name, env_id)
    timeouts_from = "recorded"
    if "timeout" not in fields:
        timeouts_from = "counted" if known else "none"
        none = np.zeros(len(fields["terminal"]), bool)
        fields["timeout"] = treat.counted_timeouts(fields["terminal"], known.max_steps) if known else none
    return Dataset(
        name=name,
        **fields,
        env_id=env_id or (known.env_id if known else None),
        reference=(known.random, known.expert) if known else None,
        source=source,
        sha256=sha256,
        timeouts_from=timeouts_from,
    )
