"""Data sets of LeRobot (v2 and v3), as a local folder or `lerobot:OWNER/NAME` of the Hub; needs the extra `lerobot`.

Read are `observation.state` (and `observation.environment_state`), `action`, `episode_index`, and `next.reward`, `next.done` if
they are there; images and other features are left out, and a line says so. Demonstrations without rewards get zeros, which
is said, too: clone them (`--algo bc`), or name a function with `--reward`.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from srpo.data.checks import DataError
from srpo.data.sources import Attributes
from srpo.data.sources.columns import require_all, require_numbers
from srpo.data.sources.table import load
from srpo.system.surroundings import expanded
from srpo.text import NAME, plain

PREFIX = "lerobot:"
INFO = Path("meta") / "info.json"
STATES = ("observation.state", "observation.environment_state")


def matches(source: str) -> bool:
    return source.startswith(PREFIX) or os.path.isfile((expanded(source) or Path(source)) / INFO)


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording in the folder, downloaded from the Hub if it is named so. Raises DataError."""
    folder = _downloaded(source.removeprefix(PREFIX)) if source.startswith(PREFIX) else (expanded(source) or Path(source))
    features = _features(folder)
    states = [name for name in STATES if name in features]
    if not states or "action" not in features:
        found = ", ".join(plain(name, 40) for name in list(features)[:8])
        raise DataError(f"{folder}: has no {STATES[0]} or no action (it holds {found}); choose another data set")
    optional = [name for name in ("next.reward", "next.done") if name in features]
    files = sorted((folder / "data").rglob("*.parquet"))
    if not files:
        raise DataError(f"{folder}: data/ holds no .parquet file; download the data set again")
    columns = [*states, "action", "episode_index", *optional]
    sizes = {name: _size(features.get(name, {}), f"{folder / INFO}: {name}") for name in columns}
    parts = [_columns(file, sizes) for file in files]
    rows = {name: np.concatenate([part[name] for part in parts]) for name in columns}
    episode = rows["episode_index"].ravel()
    last = np.append(episode[1:] != episode[:-1], True)
    done = rows["next.done"].astype(bool).ravel() & last if "next.done" in rows else np.zeros(len(last), bool)
    fields = {
        "obs": np.concatenate([rows[name] for name in states], 1),
        "action": rows["action"],
        "terminal": done & (rows["next.reward"].ravel() > 0) if "next.reward" in rows else np.zeros(len(last), bool),
    }
    fields["timeout"] = last & ~fields["terminal"]
    fields["reward"] = rows["next.reward"].ravel() if "next.reward" in rows else np.zeros(len(last))
    where = source if source.startswith(PREFIX) else os.path.abspath(folder)
    name = where.removeprefix(PREFIX).rstrip("/").split("/")[-1]
    names = {key: _names(features[key], key, sizes[key]) for key in (*states, "action")}
    labels = tuple(name for state in states for name in names[state]), tuple(names["action"])
    return fields, Attributes(name, where, labels=labels, notes=tuple(_notes(features, columns)))


def _features(folder: Path) -> dict[str, Any]:
    file = folder / INFO
    try:
        features = json.loads(file.read_bytes())["features"]
        if not isinstance(features, dict):
            raise TypeError("features is no table")
        return features
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"{file}: does not say what a LeRobot data set holds ({plain(e, 100)}); download it again") from None


def _size(feature: Any, what: str) -> int:
    """How many numbers each row of a feature holds. Raises DataError if its description does not say so."""
    shape = feature.get("shape", [1]) if isinstance(feature, dict) else None
    if not isinstance(shape, list) or not all(isinstance(n, int) and n > 0 for n in shape):
        raise DataError(f"{what} is {plain(feature, NAME)}, expected a table with the shape of its rows; download it again")
    return math.prod(shape)


def _columns(file: Path, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    table = load(file, list(sizes))
    lacking = [name for name in sizes if name not in table.column_names]
    if lacking:
        raise DataError(f"{file}: lacks the column {lacking[0]}, which meta/info.json promises; download it again")
    return {name: _rows(table[name].combine_chunks(), size, f"{file}: {name}") for name, size in sizes.items()}


def _rows(column: Any, size: int, where: str) -> np.ndarray:
    """A column of numbers, or of lists of them, as (rows, size). Raises DataError for a row that holds less, more or nothing."""
    from pyarrow import compute, types

    again = "correct it, or download the data set again"
    require_all(column, where, again)
    lists = types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type)
    found = compute.list_value_length(column).to_numpy(zero_copy_only=False) if lists else np.ones(len(column), int)
    if (found != size).any():
        at = int(np.argmax(found != size))
        raise DataError(f"{where} holds {found[at]} numbers in row {at}, expected {size}, as {INFO} says; {again}")
    values = column.flatten() if lists else column
    require_numbers(values, where)
    if values.null_count:
        at = compute.index(values.is_null(), True).as_py() // size
        raise DataError(f"{where} lacks a number in row {at}; {again}")
    return values.to_numpy(zero_copy_only=False).reshape(-1, size)


def _names(feature: dict[str, Any], default: str, size: int) -> list[str]:
    """The names of a feature's entries, as `names` lists them or as it nests them."""
    found = feature.get("names")
    if isinstance(found, dict):
        found = next(iter(found.values()), None)
    if isinstance(found, list) and len(found) == size:
        return [str(x) for x in found]
    return [f"{default}.{i}" for i in range(size)]


def _notes(features: dict[str, Any], used: list[str]):
    images = [n for n, f in features.items() if isinstance(f, dict) and f.get("dtype") in ("image", "video")]
    if images:
        yield f"images are left out ({', '.join(plain(n, NAME) for n in images[:4])}); policies see the numbers alone"
    if "next.reward" not in used:
        yield "no reward was recorded, so all are 0: clone it (--algo bc), or compute one with --reward module:function"


def _downloaded(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise DataError(f"{PREFIX}{name}: the package huggingface_hub is not installed; pip install 'srpo[lerobot]'") from None
    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=["meta/*", "data/*"]))
    except Exception as e:  # its download raises errors of many packages
        raise DataError(f"{PREFIX}{name}: cannot be downloaded ({plain(e, 150)}); check the name and the connection") from None
