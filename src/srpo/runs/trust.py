"""Whether the parts of a run's folder fit each other: what one file says of a run must be what the others say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srpo import config
from srpo.core import Algorithm
from srpo.runs.checkpoint import CheckpointError
from srpo.runs.grid import Grid


def check_whole(info: Mapping[str, Any], grid: Grid) -> None:
    """Raises ValueError if the parts of run.json, each of the right kind, do not fit each other."""
    missing = config.settings(grid.algorithm).keys() - info["settings"].keys()
    if missing and info["format"] > 1:
        raise ValueError(f"the setting {min(missing)} is missing")
    if grid.algorithm.data.normalize_obs and info["data"].get("obs_statistics") is None:
        raise ValueError("obs_statistics are missing")
    if info.get("keep", 1) > list(grid.algorithm.stages.values())[-1].steps:
        raise ValueError(f"{info['keep']} policies kept, more than there are steps")
    for failure in info.get("failures", ()):
        check_failure(failure, grid)
    unknown = {name.partition("@")[0] for name in info.get("stages", {})} - grid.algorithm.stages.keys()
    if unknown:
        raise ValueError(f"it has files of the stage {min(unknown)}, which {info['algorithm']} does not have")


def check_failure(failure: Mapping[str, Any], grid: Grid) -> None:
    """Raises ValueError unless it can have happened to a run of the grid."""
    stage = grid.algorithm.stages.get(failure["stage"])
    if stage is None or failure["step"] > stage.steps or failure["seed"] not in grid.seeds:
        raise ValueError(f"a failure at step {failure['step']} of {failure['stage']} with seed {failure['seed']}")
    point = tuple((config.present(grid.algorithm, path), value) for path, value in failure["point"])
    if point not in grid.stage_points(failure["stage"]):
        raise ValueError(f"a failure at {failure['point']}, which was not swept")


def require_mine(file: Path, found: Any, mine: Mapping[str, Any], algorithm: Algorithm) -> None:
    """Raises CheckpointError unless `found`, what a file says of whose it is, is a run's `identity`, in the words of now or of an
    earlier version; format 1 said nothing."""
    if found is None and mine["format"] == 1:
        return
    if isinstance(found, dict):
        said = {key: found[key] for key in ("settings", "sweep") if isinstance(found.get(key), dict)}
        found = found | {key: {config.present(algorithm, path): v for path, v in of.items()} for key, of in said.items()}
    odd = next((key for key in mine if not isinstance(found, dict) or found.get(key) != mine[key]), None)
    if odd is not None:
        raise CheckpointError(f"{file} is of another run ({odd}: other than in run.json); restore it or train again")
