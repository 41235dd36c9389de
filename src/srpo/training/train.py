"""Training as one call: what is asked for is checked, the folder of the run made, and every stage trained in order.

A run killed at any moment continues from its last checkpoint and ends bit for bit as one that never stopped;
finished stages are never trained again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from srpo import algorithms, config
from srpo.core import Algorithm
from srpo.data import Dataset, load_dataset
from srpo.data.again import reload
from srpo.data.placing import DataIn, placed
from srpo.data.treated import Treated, treat
from srpo.errors import ConfigError, closest
from srpo.evaluation.scores import environment_of
from srpo.networks.precision import Precision
from srpo.runs.description import describe
from srpo.runs.devices import local_devices
from srpo.runs.folder import new_run, next_free, withdraw
from srpo.runs.grid import Grid
from srpo.runs.run import Run, RunError, load_run
from srpo.runs.schema import EPISODES, KEPT
from srpo.system.surroundings import in_float32, require_devices
from srpo.training.curves import CURVES
from srpo.training.execution import execute
from srpo.training.inherit import inherited_from, require_same_data
from srpo.training.progress import Bars, check_sinks, draw
from srpo.training.saving import Saving
from srpo.training.sound import require_sound
from srpo.worlds.environments import check_environment


def configure(algorithm: str | type[Algorithm], data: Dataset, preset: str = "paper", **changes: Any) -> Algorithm:
    """An algorithm with the preset's values for a data set, then `changes` by path, as the command line does it. Raises ConfigError."""
    cls = algorithms.find(algorithm) if isinstance(algorithm, str) else algorithm
    algorithms.check(cls)
    _require_loaded(data)
    return config.assign_all(cls.default(), config.preset(cls.presets, preset, data.task or "") | changes)


def _require_loaded(data: Any) -> None:
    """Raises ConfigError for what is no data set, such as the name of one."""
    if not isinstance(data, Dataset):
        raise ConfigError(f"found {data!r} as data, expected a data set; load it first, with srpo.load_dataset")


@in_float32
def train(
    algorithm: Algorithm,
    data: Dataset | str | Path,
    *,
    seeds: int | Sequence[int] = 1,
    out: str | Path | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    start_from: str | Path | None = None,
    eval_every: int | None = None,
    eval_episodes: int = 10,
    max_steps: int | None = None,
    keep: int = 1,
    precision: Precision = "float32",
    data_in: DataIn = "auto",
    devices: int | None = None,
    quiet: bool = False,
    sources: Mapping[str, str] | None = None,
    sinks: Sequence[str] = (),
    saving: Saving = Saving(),
) -> Run:
    """Train all stages and return the finished run.

    seeds: how many (0, 1, ...), or which. sweep: path -> values; the grid is their product. out: a new folder,
    `runs/<data>/<algorithm>/<time>` if none is given. start_from: a run whose finished stages are used where their settings are
    the same. eval_every: steps of the last stage between evaluations in the environment (a twentieth of it by default; 0:
    never). max_steps: where its episodes are cut (by default by the environment, or where it sets no limit at the longest
    episode of the data). keep: how many policies of the last stage to keep, at even intervals up to its end. precision: of
    products and activations in training ("bfloat16": faster on a GPU, and on a CPU with AMX); policies act in float32.
    data_in: where the rows are that training draws from ("auto": on the device if they fit); results are the same bit for bit.
    devices: how many of this machine's the runs are shared out to; all by default, with the same numbers. saving: how often
    checkpoints are written, and what else happens then. Raises ConfigError, DataError, RunError for what cannot be done, before
    anything is written; and from `srpo.training.execution` TrainingFailed if no run is left, Interrupted, after saving, on
    SIGINT or SIGTERM.
    """
    require_devices()
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(f"found {algorithm!r} to train, expected an algorithm with its settings: srpo.configure('bc', data)")
    data = data if isinstance(data, Dataset) else load_dataset(data)
    grid = Grid.create(algorithm, seeds, sweep)
    asked = meant(algorithm, data, eval_every, eval_episodes, max_steps, keep, precision)
    local_devices(devices, 1)  # refuse now
    data, on_device, _ = placed(data, data_in)
    treated = _learnable(data, algorithm, on_device)
    if asked["eval_every"]:
        check_environment(data)
    check_sinks(sinks)
    inherited, failures = inherited_from(start_from, grid, data, precision, keep) if start_from is not None else ({}, [])
    asked |= {"start_from": str(start_from or ""), "failures": failures}
    info = describe(grid, treated, dict(sources or {}), **asked)
    require_sound(grid, treated)
    folder = Path(out) if out is not None else next_free(_default_folder(data, algorithm))
    run = new_run(Run(folder, info, grid), inherited)
    try:
        return execute(run, treated, quiet, sinks, devices, saving)
    except ConfigError:  # this machine cannot hold it
        withdraw(run)
        raise


def meant(
    algorithm: Algorithm,
    data: Dataset,
    eval_every: int | None,
    eval_episodes: int,
    max_steps: int | None,
    keep: int,
    precision: Precision,
) -> dict[str, Any]:
    """What run.json says of evaluations, kept policies and precision. Raises ConfigError for what cannot be meant."""
    last = list(algorithm.stages.values())[-1]
    if eval_every is not None:
        eval_every = config.whole(eval_every, "steps between evaluations", 0, none="zero (never) or more")
    eval_episodes = config.whole(eval_episodes, "episodes per evaluation", most=EPISODES)
    if eval_every and data.env_id is None:
        raise ConfigError(
            f"{data.source} names no environment to evaluate in; set its attribute env_id, or leave evaluation out"
        )
    keep = config.whole(keep, "policies to keep", most=KEPT, none=f"1 to {last.steps}, the steps of the last stage")
    if keep > last.steps:
        raise ConfigError(f"found {keep} policies to keep, expected 1 to {last.steps}, the steps of the last stage")
    if max_steps is not None:
        max_steps = config.whole(max_steps, "steps at most per episode")
    if precision not in get_args(Precision):
        raise ConfigError(closest(str(precision), get_args(Precision), "precision"))
    if eval_every is None:
        eval_every = max(last.steps // 20, 1) if data.env_id else 0
    asked = {"eval_every": eval_every, "eval_episodes": eval_episodes, "keep": keep, "precision": precision}
    return asked | {"max_steps": max_steps}


def _learnable(data: Dataset, algorithm: Algorithm, on_device: bool) -> Treated:
    """What an algorithm sees of the data. Raises DataError, ConfigError where one of its stages cannot learn from it."""
    treated = treat(data, algorithm.data, on_device)
    for stage in algorithm.stages.values():
        stage.view(treated)
    return treated


@in_float32
def resume(
    path: str | Path,
    data: Dataset | None = None,
    quiet: bool = False,
    sinks: Sequence[str] = (),
    data_in: DataIn = "auto",
    devices: int | None = None,
    saving: Saving = Saving(),
) -> Run:
    """Continue a run that was stopped; where its rows are and on which devices it trains may differ from before.

    Raises RunError, DataError if the run or its data are not what they were, ConfigError for a logger that does not begin,
    MissingEnvironment where policies are evaluated on the way and their environment is not here.
    """
    if data is not None:
        _require_loaded(data)
    check_sinks(sinks)
    require_devices()
    local_devices(devices, 1)
    run = load_run(path)
    if run.complete and data is None:
        return _with_curves(run, quiet)
    if data is None and run.info["data"]["source"] == "arrays":
        raise RunError(f"{path} was trained on arrays in memory; continue it from Python with srpo.resume({str(path)!r}, data)")
    data = reload(run.info["data"]) if data is None else data
    require_same_data(run, data)
    if run.complete:
        return _with_curves(run, quiet)
    if run.info["eval_every"]:
        environment_of(run)
    data, on_device, _ = placed(data, data_in)
    return execute(run, treat(data, run.algorithm.data, on_device), quiet, sinks, devices, saving)


def _with_curves(run: Run, quiet: bool) -> Run:
    """A finished run, its curves drawn if that was cut off."""
    if (run.path / "metrics.csv").exists() and not (run.compact or (run.path / CURVES).exists()):
        draw(run, Bars(quiet))
    return run


def _default_folder(data: Dataset, algorithm: Algorithm) -> Path:
    return Path("runs", data.name, algorithms.name_of(algorithm).replace(":", "."), time.strftime("%Y%m%d-%H%M%S"))
