"""A run on disk: what was trained, on what, and what came out.

run.json                       every setting, the data's hash, seeds, sweep, versions
metrics.csv evals.csv          one row per metric and run at each log; one row per evaluated episode
stages/<name>.safetensors      finished results, leading axes (seed, point); <name>@<step> what was kept on the way (--keep)
state/<name>.safetensors       the stage in training, to resume from
policy.safetensors             of a compact run, in place of the stages: what acts, and nothing else; policy@<step> as above
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from srpo import algorithms, config
from srpo.core import Algorithm
from srpo.data.sizes import ShapeOnly
from srpo.errors import ConfigError
from srpo.networks.precision import Precision
from srpo.runs import options
from srpo.runs.checkpoint import load_info, load_tree, require_finite, save_tree, write_atomically, write_json
from srpo.runs.description import in_present_words, trained_by
from srpo.runs.grid import Grid, Point
from srpo.runs.mapping import entry
from srpo.runs.schema import RunError, read_info
from srpo.runs.trust import check_whole, require_mine
from srpo.runs.units import Units
from srpo.system.files import read_bytes
from srpo.system.surroundings import in_float32
from srpo.text import exact


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
        """The option that names an algorithm of another package: nothing for one that is installed under its name."""
        place, name = self.info.get("class"), self.info["algorithm"]
        return "" if place is None or algorithms.installed(name) or not algorithms.importable(place) else f" --algo {place}"

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
        raise RunError(f"{self.path}: stage {missing[0]!r} is not finished, so there is no policy yet; {options.resume(self)}")

    @property
    def precision(self) -> Precision:
        """Of products and activations while it trained."""
        return self.info.get("precision", "float32")

    @property
    def kept(self) -> list[int]:
        """The steps of the last stage whose policies are kept, its end among them."""
        return kept_steps(self.algorithm, self.info.get("keep", 1))

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
        return {name: self.result_at(name) for name in self.finished}

    def result_at(self, name: str, step: int | None = None) -> Any:
        """A stage's result, or what was kept of it at a step. Raises RunError, CheckpointError."""
        file = self.stage_file(name, step)
        require_mine(file, load_info(file).get("run"), self.identity(name), self.algorithm)
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
        return self.grid.result_shapes(ShapeOnly(self.info["data"], self.algorithm.data))

    @cached_property
    def units(self) -> Units:
        """What its policies act in, beside what its networks were trained on."""
        return Units.of(self.info["data"], self.algorithm.data.normalize_obs)

    def assemble(self, results: dict[str, Any]) -> Any:
        """The policies that act on recorded observations, with leading axes (seed, point), from the results of the stages."""
        return self.units.around(self.grid.policies(results), (len(self.seeds), len(self.points)))

    @cached_property
    @in_float32
    def policies(self) -> Any:
        """All policies as one pytree with leading axes (seed, point)."""
        return self.policies_at(self.kept[-1])

    def has_policies(self, step: int) -> bool:
        """Whether `policies_at` has those of a step of `kept`: on the way to the end the later ones are not there yet."""
        last = list(self.algorithm.stages)[-1]
        return self.complete or (step in self.kept[:-1] and self._vouched(self.stage_file(last, step)))

    def policies_at(self, step: int) -> Any:
        """`policies` as they were after `step` steps of the last stage, which may go on. Raises RunError if they were not kept."""
        if not self.has_policies(step):
            self.require_complete()
        if step not in self.kept:
            raise RunError(
                f"{self.path}: found step {step}, expected one of {', '.join(map(str, self.kept))}; train with --keep N to keep more"
            )
        if self.compact:
            file = self.policy_file(step)
            shapes = jax.eval_shape(self.assemble, self._shapes)
            return jax.device_put(load_tree(file, shapes, self.info["compact"].get(file.stem, "unknown")))
        last = list(self.algorithm.stages)[-1]
        results = {
            name: self.result_at(name, step if name == last and step != self.kept[-1] else None) for name in self.grid.acting
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
                f"{self.path} was not swept: found {', '.join(f'{k}={exact(v)}' for k, v in point.items())}, expected no such choice"
            )
        if not chosen:
            known = "; ".join(", ".join(f"{k}={exact(v)}" for k, v in p) for p in self.points)
            raise RunError(f"{self.path} was swept: choose one of {known}")
        if failure := self.failed(seed, chosen[0]):
            raise RunError(
                f"{self.path}: seed {seed} failed ({failure['metric']} at step {failure['step']} of {failure['stage']})"
            )
        policies = self.policies if step is None else self.policies_at(step)
        return entry(policies, (self.seeds.index(seed), self.points.index(chosen[0])))


def kept_steps(algorithm: Algorithm, keep: int) -> list[int]:
    """The steps of the last stage after which `keep` policies are kept: at even intervals, its end among them."""
    steps = list(algorithm.stages.values())[-1].steps
    every = -(-steps // max(keep, 1))
    return [*range(every, steps, every), steps]


def load_run(path: str | Path) -> Run:
    """The run in a folder.

    Raises RunError if there is none, it is damaged, a newer version wrote it, or its algorithm is not registered here.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise RunError(f"found a {type(path).__name__}, expected the folder of a run, such as run.path")
    path = Path(path)
    file = path / "run.json"
    info = read_info(file)
    try:
        algorithm = config.assign_all(trained_by(info, file).default(), info["settings"])
        info = in_present_words(info, algorithm)
        run = Run(path, info, Grid.create(algorithm, info["seeds"], info["sweep"]))
        check_whole(info, run.grid)
    except RunError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, ConfigError) as e:
        raise RunError(f"{file} is damaged ({e}); restore it or train again") from e
    return run


def save_info(run: Run, **changes: Any) -> Run:
    info = run.info | changes
    write_json(run.path / "run.json", info)
    return Run(run.path, info, run.grid)
