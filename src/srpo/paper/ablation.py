"""Ablations of SRPO, or of another algorithm: a base run of a suite, and variants of it that take over every stage that they do not change.

The base is the suite's own cell, with the seeds and episodes that it was trained with. With --quick it is trained here, at
a budget that shows that all works and says nothing about the method.

OUT/runs/SUITE/DATA/ALGORITHM/SEEDS/VARIANT      a run for each variant, as `srpo train` leaves it; one that was stopped goes on
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import srpo
from srpo import config
from srpo.core import Algorithm
from srpo.data import Dataset
from srpo.errors import ConfigError
from srpo.networks.precision import Precision
from srpo.paper.job import Job
from srpo.paper.kept import FromSuite
from srpo.runs.grid import Grid
from srpo.runs.run import Run, RunError, load_run
from srpo.suite.budget import Budget, configured
from srpo.suite.plan import Source, load_data
from srpo.suite.tables import alive, rows_of
from srpo.training.inherit import alike, require_same_data

SYSTEM = "srpo"


@dataclass(frozen=True)
class Quick:
    """What --quick trains: the first data set, the preset `quick`, so many iterations of every stage."""

    budget: Budget = field(default_factory=lambda: Budget(500, 2))
    episodes: int = 3
    settings: Mapping[str, Any] = field(default_factory=dict)


QUICK = Quick()


@dataclass(frozen=True)
class Variant:
    """What is another than in the base. sweep: settings by path, all values trained at once."""

    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    sweep: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A variant's run on a data set; the base's itself where nothing differs."""

    data: str
    variant: Variant
    run: Run
    shared: tuple[str, ...]  # stages that were not trained again

    def rows(self) -> Iterator[dict[str, Any]]:
        """Mean score by seed, and by swept value, which is then the label."""
        found: dict[tuple[int, str], list[float]] = {}
        for row in rows_of(self.run):
            label = ", ".join(f"{float(row[path]):g}" for path in self.variant.sweep) or self.variant.label
            found.setdefault((int(row["seed"]), label), []).append(float(row["score"] or row["return"]))
        for (seed, label), scores in found.items():
            mean = sum(scores) / len(scores)
            yield {"data": self.data, "variant": label, "seed": seed, "episodes": len(scores), "score": mean}


def study(
    job: Job,
    variants: Callable[[Algorithm, Dataset], Sequence[Variant]],
    quick_seeds: tuple[int, ...] = (0,),
    system: str = SYSTEM,
) -> list[Trained]:
    """Train and evaluate what is not there yet. Raises ConfigError where the suite's cells are missing, before anything is written."""
    asked = job.of_suite
    names = asked.chosen([s.name for s in asked.suite.data])
    chosen = [s for s in asked.suite.data if s.name in names][: 1 if asked.quick and not asked.data else None]
    bases = {s: [] if asked.quick else bases_of(asked, s, system) for s in chosen}
    out = []
    for source in chosen:
        data = load_data(source.name, asked.data_dir)
        folder = job.out / "runs" / (f"{asked.suite.name}-at-once" if asked.quick else asked.suite.name) / source.name / system
        for base in bases[source]:
            require_same_data(base, data)
        job.bars.open(f"{source.name}: base", 1)
        for base in bases[source] or [quick_base(folder, source, data, asked, quick_seeds, system)]:
            episodes = QUICK.episodes if asked.quick else asked.suite.episodes
            where = folder / "-".join(map(str, base.seeds))
            for variant in variants(base.algorithm, data):
                job.bars.open(f"{source.name}: {variant.label}: training", 1)
                run, shared = trained(where, base, variant, data)
                job.bars.update(1)
                evaluated(job, f"{source.name}: {variant.label}", run, episodes)
                out.append(Trained(source.name, variant, load_run(run.path), shared))
    return out


def bases_of(asked: FromSuite, source: Source, system: str) -> list[Run]:
    """The trained cells of the algorithm on a data set, each seed once: one with all seeds, or one for each."""
    folder = asked.runs / source.name / system
    found: dict[int, Run] = {}
    for path in sorted(folder.glob("*/run.json")) if folder.exists() else []:
        run = load_run(path.parent)
        if run.complete and not set(run.seeds) & set(found):
            found |= dict.fromkeys(run.seeds, run)
    if not found:
        command = asked.command("--algos", system, "--data", source.name)
        raise ConfigError(f"{folder} holds no trained cell; {command} makes it (or --quick, which shows how it works)")
    return list({id(run): run for run in found.values()}.values())


def quick_base(folder: Path, source: Source, data: Dataset, asked: FromSuite, seeds: tuple[int, ...], system: str) -> Run:
    """The base of --quick, trained here."""
    more = {**asked.suite.recipe(source.name, system).settings, **QUICK.settings}
    algorithm = config.assign_all(configured(system, source.task, "quick", QUICK.budget, {}), more)
    algorithm = config.assign_all(algorithm, QUICK.budget.settings(algorithm))  # of a suite's own steps as well
    return at(folder / "-".join(map(str, seeds)) / "base", algorithm, {}, data, seeds, None, asked.suite.precision)


def trained(folder: Path, base: Run, variant: Variant, data: Dataset) -> tuple[Run, tuple[str, ...]]:
    """The variant's run, and the stages that it has from the base."""
    algorithm = config.assign_all(base.algorithm, variant.settings)
    if algorithm == base.algorithm and not variant.sweep:
        return base, tuple(base.finished)
    grid = Grid.create(algorithm, base.seeds, variant.sweep or None)
    shared = tuple(alike(base.grid, grid))
    path = folder / re.sub(r"[^A-Za-z0-9.]+", "-", variant.label).strip("-")
    donor = base.path if shared else None
    return at(path, algorithm, variant.sweep, data, base.seeds, donor, base.precision), shared


def at(
    path: Path,
    algorithm: Algorithm,
    sweep: Mapping,
    data: Dataset,
    seeds: Sequence[int],
    donor: Path | None,
    precision: Precision,
) -> Run:
    """The run in a folder: as it is, resumed, or begun. Raises RunError if it is of other settings or data."""
    if not (path / "run.json").exists():
        return srpo.train(
            algorithm,
            data,
            seeds=tuple(seeds),
            out=path,
            sweep=sweep or None,
            start_from=donor,
            eval_every=0,
            quiet=True,
            precision=precision,
        )
    run = load_run(path)
    if run.precision != precision:
        raise RunError(f"{path} holds a run in {run.precision}, expected {precision}; choose another --out")
    wanted, found = config.settings(algorithm), config.settings(run.algorithm)
    for name in wanted:
        if name not in sweep and wanted[name].value != found[name].value:
            raise RunError(
                f"{path} holds a run with {name} {found[name].value}, expected {wanted[name].value}; choose another --out"
            )
    require_same_data(run, data)
    return run if run.complete else srpo.resume(path, data, quiet=True)


def evaluated(job: Job, name: str, run: Run, episodes: int) -> None:
    """Have every policy of the run played, unless its episodes are there."""
    if len(rows_of(run)) < episodes * len(alive(run)) * len(run.points):
        job.bars.open(name, 1000)
        srpo.evaluate(run, episodes, progress=job.bars.update)
