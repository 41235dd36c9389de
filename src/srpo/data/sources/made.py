"""Data sets that `srpo data make` records on this machine: mazes, the same for everybody with the same seed.

They are kept in `SRPO_DATASET_DIR`, or `~/.srpo/datasets`, and found there by name.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srpo.data.checks import DataError
from srpo.data.sources import Attributes
from srpo.data.sources.files import read_recording
from srpo.data.writing import check_destination, write_hdf5
from srpo.errors import closest
from srpo.system.surroundings import expanded
from srpo.worlds.mazes import MAZES, point_maze_id

STEPS = 1_000_000  # rows, as in D4RL
LARGEST_SEED = 2**63 - 1  # that the file's attribute can hold
BEHAVIOR = "waypoint controller with noise, random goals; relabeled with one goal"
MADE = {f"pointmaze-{maze}": maze for maze in MAZES}


def folder() -> Path:
    """Where made data sets are kept."""
    return expanded(os.environ.get("SRPO_DATASET_DIR") or "~/.srpo/datasets") or Path("srpo-datasets")  # no home


def local(name: str) -> Path:
    """The file of a made data set, whether it is there or not."""
    return folder() / f"{name}.hdf5"


def matches(source: str) -> bool:
    return source in MADE


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording. Raises DataError, with the command that makes it, if it is not here."""
    path = local(source)
    if not path.is_file():
        raise DataError(f"{source} is not at {path} yet; make it, in minutes and without network: srpo data make {source}")
    fields, about = read_recording(path, source)
    return fields, about._replace(d4rl=True)


def listing() -> list[dict[str, Any]]:
    return [
        {"name": name, "kind": "made", "meaning": f"srpo data make {name}", "path": str(path), "here": path.is_file()}
        for name, path in ((name, local(name)) for name in MADE)
    ]


def make(
    name: str,
    path: Path | None = None,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Record the data set `name` and return its file, by default where `load_dataset` finds it; all of it or nothing.

    `progress` is told how many rows there are. Raises DataError for an unknown name, numbers that make no sense, a file
    that is there already or cannot be written, and where Gymnasium-Robotics is missing.
    """
    if name not in MADE:
        raise DataError(closest(name, MADE, "data set to make"))
    if steps < 2:
        raise DataError(f"found {steps} steps, expected two or more")
    if not 0 <= seed <= LARGEST_SEED:
        raise DataError(f"found seed {seed}, expected zero or more, at most {LARGEST_SEED}")
    path = local(name) if path is None else expanded(path) or Path(path)
    check_destination(path)
    try:
        from srpo.worlds.waypoints import record

        fields = record(MADE[name], steps, seed, progress)
    except ImportError as error:
        raise DataError(f"{name} cannot be recorded: {error}") from None
    packages = {key: importlib.metadata.version(key) for key in ("gymnasium-robotics", "mujoco")}
    about = {"env_id": point_maze_id(MADE[name]), "behavior": BEHAVIOR, "seed": seed}
    return write_hdf5(path, fields, about | packages)
