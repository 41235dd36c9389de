"""What run.json says of a run: written when it begins, read later with the words and algorithms of that time."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srpo import algorithms, config
from srpo.core import Algorithm
from srpo.data.treated import Treated
from srpo.errors import ConfigError
from srpo.runs.grid import Grid
from srpo.runs.schema import FORMAT, RunError, require_readable


def versions() -> dict[str, str]:
    """Of Python, this package and what numbers depend on."""
    names = ("srpo", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe(grid: Grid, data: Treated, sources: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """The contents of run.json. Raises ConfigError for what it cannot hold."""
    recording = data.recording
    info = {
        "format": FORMAT,
        **algorithms.origin(grid.algorithm),
        "settings": {path: s.value for path, s in config.settings(grid.algorithm).items()},
        "sources": sources or {},
        "seeds": list(grid.seeds),
        "sweep": {path: list(values) for path, values in grid.sweep.items()},
        "data": {
            "name": recording.name,
            "source": os.path.abspath(recording.source) if os.path.isfile(recording.source) else recording.source,
            "sha256": recording.sha256,
            "rows": len(recording),
            "transitions": data.n_transitions,
            "obs_size": recording.obs_size,
            "action_size": recording.action_size,
            "env_id": recording.env_id,
            "reference": recording.reference,
            "mean_return": float(recording.returns.mean()) if len(recording.returns) else None,
            "longest_episode": int(np.diff(recording.episodes).max()),
            "obs_statistics": data.obs_statistics and [x.tolist() for x in data.obs_statistics],
            "obs_offset": None if recording.obs_offset is None else recording.obs_offset.tolist(),
            "obs_deviation": None if recording.obs_offset is None else recording.columns["obs"].std.tolist(),
            "action_range": recording.action_range and recording.action_range.as_dict(),
            "labels": recording.labels,
            "reward": recording.reward_by,
        },
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": str(jax.devices()[0].device_kind),
        "versions": versions(),
        "stages": {},
        **more,
    }
    require_readable(info)
    return info


def in_present_words(info: dict[str, Any], algorithm: Algorithm) -> dict[str, Any]:
    """What run.json says, its settings called as they are now."""

    def now(values: dict[str, Any]) -> dict[str, Any]:
        return {config.present(algorithm, path): value for path, value in values.items()}

    failures = [f | {"point": list(map(list, now(dict(f["point"])).items()))} for f in info.get("failures", [])]
    said = {key: now(info[key]) for key in ("settings", "sources", "sweep") if key in info}
    return info | said | ({"failures": failures} if failures else {})


def trained_by(info: dict[str, Any], file: Path) -> type[Algorithm]:
    """The class of the algorithm that run.json names. Raises RunError if it is of another package and not registered."""
    try:
        return algorithms.recorded(info["algorithm"], info.get("class"))
    except ConfigError as e:
        raise RunError(f"{file}: {e}") from e
