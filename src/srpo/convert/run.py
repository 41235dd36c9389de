"""A run whose critic and behavior are converted models, so that policies can be trained from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from srpo import config
from srpo.convert.official import official, sizes
from srpo.data import Dataset, load_dataset
from srpo.data.treated import treat
from srpo.errors import ConfigError
from srpo.runs.checkpoint import CheckpointError
from srpo.runs.description import describe
from srpo.runs.folder import new_run
from srpo.runs.grid import Grid
from srpo.runs.run import Run
from srpo.training.train import configure

File = str | Path


def official_run(
    behavior: File | Sequence[File],
    critic: File | Sequence[File],
    data: Dataset | File,
    out: File,
    *,
    preset: str = "paper",
    changes: Mapping[str, Any] | None = None,
) -> Run:
    """Make the folder `out`: a run of SRPO on `data` whose stages critic and behavior are the authors' files.

    behavior, critic: one file each, or as many as there are seeds, which then are 0, 1, ... in this order. preset,
    changes: the settings that no file holds. Raises CheckpointError, DataError, ConfigError, RunError; then there is no run.
    """
    behaviors, critics = _several(behavior), _several(critic)
    if len(behaviors) != len(critics):
        raise ConfigError(f"found {len(behaviors)} behavior and {len(critics)} critic files, expected one of each per seed")
    data = data if isinstance(data, Dataset) else load_dataset(data)
    _require_recorded(data)
    models, kind = _models(behaviors, critics, data)
    changes = dict(changes or {})
    if fixed := sorted(changes.keys() & kind.keys()):
        raise ConfigError(f"{fixed[0]} is read off the files ({kind[fixed[0]]}) and cannot be set to {changes[fixed[0]]}")
    algorithm = configure("srpo", data, preset, **changes, **kind)
    if algorithm.data.normalize_obs:
        raise ConfigError(
            "data.normalize_obs: found true, expected false, as the networks in the files take observations as recorded"
        )
    grid = Grid.create(algorithm, len(models), None)
    files = {"behavior": list(map(_identity, behaviors)), "critic": list(map(_identity, critics))}
    sources = dict.fromkeys(kind, "checkpoint") | dict.fromkeys(changes, "--set")
    info = describe(grid, treat(data, algorithm.data), sources, eval_every=0, eval_episodes=10, start_from="", converted=files)
    results = jax.tree.map(lambda *seeds: jax.device_put(np.stack(seeds)[:, None]), *models)  # leading axes: seed, point
    return new_run(Run(Path(out), info, grid), {(name, None): result for name, result in results.items()})


def _require_recorded(data: Dataset) -> None:
    """Raises ConfigError for data that training sees otherwise than they were recorded: the networks in the files do not."""
    changed = {
        "observations less an offset, as they are large beside how they vary": data.obs_offset is not None,
        "actions mapped to [-1, 1] from another range": data.action_range is not None,
    }
    if found := [what for what, so in changed.items() if so]:
        raise ConfigError(
            f"{data.source}: training sees {found[0]}, but the networks in the files take what was recorded; give the data that "
            "they were trained on, or use them from Python, by srpo.convert.official"
        )


def _models(behaviors: Sequence[File], critics: Sequence[File], data: Dataset) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The networks of each seed, and the settings that they share. Raises CheckpointError if they do not fit together or the data."""
    models, kinds = [], []
    for b, c in zip(behaviors, critics, strict=True):
        models.append(official(b, c))
        kinds.append(architecture(models[-1]))
        if sizes(models[-1]["critic"]) != (data.obs_size, data.action_size):
            raise CheckpointError(
                f"{b} and {c} have (observations, actions) of sizes {sizes(models[-1]['critic'])}, "
                f"{data.name} of {(data.obs_size, data.action_size)}; give the data that they were trained on"
            )
        if kinds[-1] != kinds[0]:
            raise CheckpointError(
                f"{b} and {c} hold other sizes of networks than {behaviors[0]} and {critics[0]}; convert them apart"
            )
    return models, kinds[0]


def architecture(models: Mapping[str, Any]) -> dict[str, Any]:
    """What converted models say of SRPO's settings, by path. Raises CheckpointError if no setting can say it."""
    behavior, critic = models["behavior"].net, models["critic"]
    q, v = (tuple(layer.n_out for layer in net.layers[:-1]) for net in (critic.q.members[0], critic.v.net))
    if q != v:
        found = f"the critic has hidden layers of sizes {q} in Q and {v} in V, a run has the same in both"
        raise CheckpointError(f"{found}; use it from Python, by srpo.convert.official")
    width, blocks = behavior.first.n_out, len(behavior.blocks)
    return {"critic.hidden": q, "behavior.width": width, "behavior.blocks": blocks, "behavior.parametrization": "noise"}


def training_arguments(run: Run, data: str, preset: str) -> list[str]:
    """The arguments of `srpo train` that train a policy from this run."""
    usual = config.settings(configure("srpo", load_dataset(data), preset))

    def text(value):
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

    changed = [f"{path}={text(value)}" for path, value in run.info["settings"].items() if usual[path].value != value]
    chosen = ["--preset", preset] * (preset != "paper") + ["--seeds", str(len(run.seeds))] * (len(run.seeds) > 1)
    return ["train", data, *chosen, "--from", str(run.path), *(word for one in changed for word in ("--set", one))]


def _several(files: File | Sequence[File]) -> list[File]:
    return [files] if isinstance(files, File) else list(files)


def _identity(path: File) -> dict[str, str]:
    return {"file": str(path), "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
