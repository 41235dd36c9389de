"""Starting from another run: which of its finished stages are the same here, so that they are not trained again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srpo import config
from srpo.data import Dataset
from srpo.networks.precision import Precision
from srpo.runs.grid import Grid
from srpo.runs.run import Run, RunError, kept_steps, load_run


def inherited_from(
    path: str | Path, grid: Grid, data: Dataset, precision: Precision, keep: int
) -> tuple[dict[tuple[str, int | None], Any], list[dict[str, Any]]]:
    """The finished stages of another run whose settings, and those of all they need, are the same here, and what failed in them.

    By stage and step: that of a policy kept on the way, or None. keep: how many policies are to be kept here.
    """
    other = load_run(path)
    if other.info["data"]["sha256"] != data.sha256:
        raise RunError(f"{path} was trained on {other.info['data']['name']}, not on {data.name}; --from needs the same data")
    require_same_units(other, data)
    if other.seeds != grid.seeds:
        same_seeds = "".join(f"{seed}," for seed in other.seeds)
        raise RunError(f"{path} has seeds {', '.join(map(str, other.seeds))}; ask for the same with --seeds {same_seeds}")
    if other.precision != precision:
        raise RunError(f"{path} was trained in {other.precision}, not in {precision}; add --precision {other.precision}")
    names = usable(other, grid, keep)
    if not names:
        raise RunError(f"{path} has no stage that fits: {_misfit(other, grid)}; choose another, or train without --from")
    same: dict[tuple[str, int | None], Any] = {(name, None): other.results[name] for name in names}
    last = list(grid.algorithm.stages)[-1]
    if last in names:
        same |= {(last, step): other.result_at(last, step) for step in kept_steps(grid.algorithm, keep)[:-1]}
    return same, [failure for failure in other.failures if failure["stage"] in names]


def usable(other: Run, grid: Grid, keep: int) -> list[str]:
    """The finished stages of a run that are `alike` here; the last one only if it kept the policies that are to be kept here."""
    names = [name for name in alike(other.grid, grid) if name in other.finished]
    last, kept = list(grid.algorithm.stages)[-1], set(kept_steps(grid.algorithm, keep))
    return [name for name in names if name != last or kept <= set(other.kept)]


def alike(one: Grid, other: Grid) -> list[str]:
    """The stages that, with all they need, train to the same result in both, on the same data and with the same seeds."""
    same: list[str] = []
    for name, stage in other.algorithm.stages.items():
        theirs = one.algorithm.stages.get(name)
        unswept = other.stage_points(name) == [()] and theirs is not None and one.stage_points(name) == [()]
        if unswept and stage == theirs and other.algorithm.data == one.algorithm.data and all(n in same for n in stage.needs):
            same.append(name)
    return same


def _misfit(other: Run, grid: Grid) -> str:
    """What keeps the first stage of another run, and so all that need it, from being used."""
    name, stage = next(iter(grid.algorithm.stages.items()))
    if type(other.algorithm.stages.get(name)) is not type(stage):
        return f"it has no stage {name} of this kind"
    theirs = config.settings(other.algorithm)
    for path, here in config.settings(grid.algorithm).items():
        if path.startswith(("data.", f"{name}.")) and theirs[path].value != here.value:
            return f"its {path} is {theirs[path].value}, not {here.value}"
    return f"its {name} is not finished, not the same for all runs of a sweep, or kept other policies (--keep)"


def require_same_data(run: Run, data: Dataset) -> None:
    """Raises RunError unless `run` was trained on `data`, mapped in the same way."""
    if data.sha256 != run.info["data"]["sha256"]:
        raise RunError(
            f"{data.source} is not the data that {run.path} was trained on (its hash differs); restore it, or train anew in another folder"
        )
    require_same_units(run, data)


def require_same_units(run: Run, data: Dataset) -> None:
    """Raises RunError if the actions or observations of `data` are mapped in another way than when `run` was trained."""
    mine, theirs = ((x and (x.low.tolist(), x.high.tolist())) for x in (data.action_range, run.units.action_range))
    if mine != theirs:
        raise RunError(
            f"{run.path} was trained on actions in {'[-1, 1]' if theirs is None else theirs}, found {'[-1, 1]' if mine is None else mine}; "
            "load the data with the same action_range (--action-range)"
        )
