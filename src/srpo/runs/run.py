"""A run on disk: what was trained, on what, and what came out.

run.json                       every setting, the data's hash, seeds, sweep, versions
metrics.csv evals.csv          one row per metric and run at each log; one row per evaluated episode
stages/<name>.safetensors      finished results, leading axes (seed, point); <name>@<step> what was kept on the way (--keep)
state/<name>.safetensors       the stage in training, to resume from
policy.safetensors             of a compact run, in place of the stages: what acts, and nothing else; policy@<step> as above
"""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from srpo import algorithms, config
from srpo.core import Algorithm, Frozen
from srpo.data.ranges import ActionRange
from srpo.data.sizes import ShapeOnly
from srpo.data.treated import Treated
from srpo.errors import ConfigError
from srpo.files import read_bytes
from srpo.networks.layers import Normalizer
from srpo.networks.precision import Precision
from srpo.policies import InUnits, Normalized
from srpo.runs.checkpoint import load_info, load_tree, require_finite, save_tree, write_atomically, write_json
from srpo.runs.grid import Grid, Point, one_run
from srpo.runs.schema import FORMAT, RunError, read_info
from srpo.runs.trust import check_whole, require_mine
from srpo.surroundings import in_float32
from srpo.text import command


def versions() -> dict[str, str]:
    names = ("srpo", "jax", "jaxlib", "equinox", "optax", "numpy", "gymnasium", "mujoco")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe(grid: Grid, data: Treated, sources: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """The contents of run.json."""
    recording = data.recording
    return {
        "format": FORMAT,
        **algorithms.origin(grid.algorithm),
        "settings": {path: s.value for path, s in config.settings(grid.algorithm).items()},
        "sources": sources or {},
        "seeds": list(grid.seeds),
        "sweep": {path: list(values) for path, values in grid.sweep.items()},
        "data": {
            "name": recording.name,
            "source": str(Path(recording.source).resolve()) if Path(recording.source).is_file() else recording.source,
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
            "action_range": recording.action_range and recording.action_range.as_dict(),
            "labels": recording.labels,
        },
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": str(jax.devices()[0].device_kind),
        "versions": versions(),
        "stages": {},
        **more,
    }


@dataclass(frozen=True)
class Run:
    path: Path
    info: dict[str, Any]
    grid: Grid

    @property
    def algorithm(self) -> Algorithm:
        return self.grid.algorithm

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.grid.seeds

    @property
    def points(self) -> list[Point]:
        return self.grid.points

    @property
    def algo(self) -> str:
        """What the commands on this run need besides its folder: the option that names an algorithm of another package."""
        place = self.info.get("class")
        return "" if place is None or not algorithms.importable(place) else f" --algo {place}"

    def stage_file(self, name: str, step: int | None = None) -> Path:
        """Of a stage's result, or of what was kept of it at a step."""
        return self.path / "stages" / (f"{name}.safetensors" if step is None else f"{name}@{step}.safetensors")

    def state_file(self, name: str) -> Path:
        return self.path / "state" / f"{name}.safetensors"

    def policy_file(self, step: int | None = None) -> Path:
        return self.path / ("policy.safetensors" if step in (None, self.kept[-1]) else f"policy@{step}.safetensors")

    @property
    def compact(self) -> bool:
        """Whether its policies alone were kept, in `policy_file`."""
        return self.info.get("compact") is not None

    @property
    def finished(self) -> list[str]:
        return [name for name in self.algorithm.stages if self._vouched(self.stage_file(name))]

    def _vouched(self, file: Path) -> bool:
        """Whether a stage file is there, and run.json knows it: without that, its writing was cut off."""
        return file.exists() and (self.info["format"] == 1 or file.stem in self.info["stages"])

    def identity(self, stage: str) -> dict[str, Any]:
        """What makes the files of a stage this run's, as JSON gives it back."""
        mine = {key: self.info[key] for key in ("format", "algorithm", "settings", "seeds", "sweep")}
        mine |= {"precision": self.precision, "data": self.info["data"]["sha256"]}
        return json.loads(json.dumps({"stage": stage, **mine}))

    @property
    def complete(self) -> bool:
        return self.compact or len(self.finished) == len(self.algorithm.stages)

    def require_complete(self) -> None:
        if self.complete:
            return
        missing = [name for name in self.algorithm.stages if name not in self.finished]
        raise RunError(
            f"{self.path}: stage {missing[0]!r} is not finished, so there is no policy yet; {command('srpo', 'train', '--resume', self.path)}{self.algo}"
        )

    @property
    def precision(self) -> Precision:
        """Of products and activations while it trained."""
        return self.info.get("precision", "float32")

    @property
    def kept(self) -> list[int]:
        """The steps of the last stage whose policies are kept, its end among them."""
        steps = list(self.algorithm.stages.values())[-1].steps
        every = -(-steps // max(self.info.get("keep", 1), 1))
        return [*range(every, steps, every), steps]

    @property
    def failures(self) -> list[dict[str, Any]]:
        return self.info.get("failures", [])

    def failed(self, seed: int, point: Point) -> dict[str, Any] | None:
        """How a run failed, if it did."""
        mine = (f for f in self.failures if f["seed"] == seed and set(map(tuple, f["point"])) <= set(point))
        return next(mine, None)

    @cached_property
    @in_float32
    def results(self) -> dict[str, Any]:
        """The trained result of every finished stage, with leading axes (seed, point)."""
        return {name: self._load(name) for name in self.finished}

    def _load(self, name: str, step: int | None = None) -> Any:
        file = self.stage_file(name, step)
        require_mine(file, load_info(file).get("run"), self.identity(name))
        found = load_tree(file, self._shapes[name], self.info.get("stages", {}).get(file.stem))
        require_finite(file, found)
        return found

    def save_stage(self, name: str, result: Any, step: int | None = None) -> Run:
        """Write a stage's result, and note its hash in run.json. Raises CheckpointError."""
        file = self.stage_file(name, step)
        sha256 = save_tree(file, result, run=self.identity(name))
        return save_info(self, stages=self.info.get("stages", {}) | {file.stem: sha256})

    @cached_property
    @in_float32
    def _shapes(self) -> dict[str, Any]:
        """The shapes of the results of all stages, from the shapes of the data alone."""
        out: dict[str, Any] = {}
        sizes = ShapeOnly(self.info["data"], self.algorithm.data)
        for name, stage in self.algorithm.stages.items():
            given = {need: one_run(out[need]) for need in stage.needs}

            def init(data, given, key, stage=stage):
                return stage.result(stage.init(data, given, key))

            one = jax.eval_shape(init, stage.view(sizes), given, jax.random.key(0))
            lead = len(self.seeds), len(self.grid.stage_points(name))
            out[name] = jax.tree.map(lambda x, lead=lead: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), one)
        return out

    @cached_property
    @in_float32
    def normalizer(self) -> Normalizer | None:
        """What normalizes the observations of its data for the networks, if they were trained on normalized ones."""
        if not self.algorithm.data.normalize_obs:
            return None
        return Normalizer(*jnp.asarray(self.info["data"]["obs_statistics"], jnp.float32))

    @cached_property
    @in_float32
    def normalizers(self) -> list[Normalizer]:
        """What observations go through on their way to the policies, the last one first: statistics, offsets of the data."""
        offset = self.info["data"].get("obs_offset")
        units = [] if not offset else [Normalizer(*jnp.asarray([offset, [1.0] * len(offset)], jnp.float32))]
        return ([] if self.normalizer is None else [self.normalizer]) + units

    @cached_property
    def action_range(self) -> ActionRange | None:
        """The recorded actions that are -1 and 1 in training; None where those are what was recorded."""
        found = self.info["data"].get("action_range")
        return None if found is None else ActionRange.from_dict(found)

    def assemble(self, results: dict[str, Any]) -> Any:
        """The policies that act on recorded observations, with leading axes (seed, point), from the results of the stages."""
        policies = self.grid.policies(results)

        def every(x):
            return jnp.broadcast_to(x, (len(self.seeds), len(self.points), *x.shape))

        for normalizer in self.normalizers:
            policies = Normalized(jax.tree.map(every, normalizer), policies)
        if self.action_range is not None:
            low, high = (Frozen(every(jnp.asarray(bound))) for bound in self.action_range[:2])
            policies = InUnits(low, high, policies)
        return policies

    def in_data_units(self, policies: Any) -> Any:
        """What `assemble` gave, acting on observations and in actions as a `Dataset` holds them: less offsets, in [-1, 1]."""
        policies = policies.policy if self.action_range is not None else policies
        return policies.policy if self.info["data"].get("obs_offset") else policies

    @cached_property
    @in_float32
    def policies(self) -> Any:
        """All policies as one pytree with leading axes (seed, point)."""
        return self.policies_at(self.kept[-1])

    def policies_at(self, step: int) -> Any:
        """`policies` as they were after `step` steps of the last stage. Raises RunError if they were not kept."""
        self.require_complete()
        if step not in self.kept:
            raise RunError(
                f"{self.path}: found step {step}, expected one of {', '.join(map(str, self.kept))}; train with --keep N to keep more"
            )
        if self.compact:
            file = self.policy_file(step)
            shapes = jax.eval_shape(self.assemble, self._shapes)
            return jax.tree.map(jnp.asarray, load_tree(file, shapes, self.info["compact"].get(file.stem, "unknown")))
        last = list(self.algorithm.stages)[-1]
        results = {
            name: self._load(name, step if name == last and step != self.kept[-1] else None) for name in self.grid.acting
        }
        return self.assemble(results)

    def save_compact(self, path: Path) -> Run:
        """A copy of this finished run with its policies alone, on which everything works that acts. Raises CheckpointError."""
        files = {step: path / self.policy_file(step).name for step in self.kept}
        hashes = {file.stem: save_tree(file, self.policies_at(step)) for step, file in files.items()}
        if (self.path / "metrics.csv").exists():
            write_atomically(path / "metrics.csv", read_bytes(self.path / "metrics.csv"))
        return save_info(Run(path, self.info | {"stages": {}, "compact": hashes}, self.grid))

    def policy(self, seed: int | None = None, step: int | None = None, **point: float) -> Any:
        """The policy of one seed and one point of the sweep, such as `run.policy(seed=3, **{"policy.beta": 0.1})`.

        Both may be left out where there is only one. `step`: one of `kept`, for an earlier policy than the last. Raises
        RunError for a run that failed or does not exist.
        """
        if seed is None and len(self.seeds) == 1:
            seed = self.seeds[0]
        if seed not in self.seeds:
            raise RunError(f"{self.path}: found seed {seed}, expected one of {', '.join(map(str, self.seeds))}")
        chosen = [p for p in self.points if dict(p) == point or (not point and len(self.points) == 1)]
        if not chosen and self.points == [()]:
            raise RunError(
                f"{self.path} was not swept: found {', '.join(f'{k}={v:g}' for k, v in point.items())}, expected no such choice"
            )
        if not chosen:
            known = "; ".join(", ".join(f"{k}={v:g}" for k, v in p) for p in self.points)
            raise RunError(f"{self.path} was swept: choose one of {known}")
        if failure := self.failed(seed, chosen[0]):
            raise RunError(
                f"{self.path}: seed {seed} failed ({failure['metric']} at step {failure['step']} of {failure['stage']})"
            )
        at = self.seeds.index(seed), self.points.index(chosen[0])
        return jax.tree.map(lambda x: x[at], self.policies if step is None else self.policies_at(step))


def load_run(path: str | Path) -> Run:
    """The run in a folder. Raises RunError if there is none, it is damaged, a newer version wrote it, or its algorithm is of
    another package and not registered."""
    path = Path(path)
    file = path / "run.json"
    info = read_info(file)
    try:
        algorithm = config.assign_all(_trained_by(info, file).default(), info["settings"])
        info = _in_present_words(info, algorithm)
        run = Run(path, info, Grid.create(algorithm, info["seeds"], info["sweep"]))
        check_whole(info, run.grid)
    except RunError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, ConfigError) as e:
        raise RunError(f"{file} is damaged ({e}); restore it or train again") from e
    return run


def _in_present_words(info: dict[str, Any], algorithm: Algorithm) -> dict[str, Any]:
    """What run.json says, its settings called as they are now."""

    def now(values: dict[str, Any]) -> dict[str, Any]:
        return {config.present(algorithm, path): value for path, value in values.items()}

    failures = [f | {"point": list(map(list, now(dict(f["point"])).items()))} for f in info.get("failures", [])]
    said = {key: now(info[key]) for key in ("settings", "sources", "sweep") if key in info}
    return info | said | ({"failures": failures} if failures else {})


def _trained_by(info: dict[str, Any], file: Path) -> type[Algorithm]:
    try:
        return algorithms.recorded(info["algorithm"], info.get("class"))
    except ConfigError as e:
        raise RunError(f"{file}: {e}") from e


def save_info(run: Run, **changes: Any) -> Run:
    info = run.info | changes
    write_json(run.path / "run.json", info)
    return Run(run.path, info, run.grid)
