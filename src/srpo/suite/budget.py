"""Fair budgets: an iteration updates every network of an algorithm once, as the authors count.

Where an algorithm trains in stages, each stage gets all the iterations. Batches larger than 256 are divided by one factor,
to no fewer than 256. Settings that count steps (declared with `scales`: warm-ups, starts and periods of moving averages,
replanning) shrink in the proportion of their stage. A stage that trains nothing but fills a table is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from srpo import algorithms, config
from srpo.core import Algorithm
from srpo.errors import ConfigError

LEAST_BATCH = 256  # smaller ones are those of papers that mean them small


@dataclass(frozen=True)
class Budget:
    """`iterations` of every stage; None: each algorithm's own steps."""

    iterations: int | None = None
    batch_factor: int = 1

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and not 1 <= value < 2**31:
                raise ConfigError(f"budget: {name} is {value}, expected {'one or more' if value < 1 else 'less than 2^31'}")

    def __str__(self):
        batches = f", batches above {LEAST_BATCH} divided by {self.batch_factor}" if self.batch_factor > 1 else ""
        return (f"{self.iterations:,} iterations" if self.iterations else "each algorithm's own steps") + batches

    def settings(self, algorithm: Algorithm) -> dict[str, Any]:
        """What it changes in an algorithm, by path."""
        known = config.settings(algorithm)
        values: dict[str, Any] = {}
        trained = {name: stage for name, stage in algorithm.stages.items() if stage.trains}
        longest = max(stage.steps for stage in trained.values())
        for name, stage in trained.items():
            batch = min(stage.batch_size, max(LEAST_BATCH, stage.batch_size // self.batch_factor))
            if batch != stage.batch_size:
                values[f"{name}.batch_size"] = batch
            if self.iterations is None:
                continue
            steps, follows = f"{name}.steps", known[f"{name}.steps"].scales
            values[steps] = scaled(stage.steps, self.iterations / longest) if follows else self.iterations
            for path, setting in known.items():
                if setting.scales and path.startswith(f"{name}.") and path != steps:
                    values[path] = scaled(setting.value, values[steps] / stage.steps)
        return values


def scaled(count: float, ratio: float) -> float:
    """A count of steps in another proportion: a whole number, at least one if it was not zero."""
    return type(count)(max(1, round(count * ratio)) if count else 0)


def configured(name: str, task: str, preset: str, budget: Budget, more: Mapping[str, Any]) -> Algorithm:
    """Algorithm `name` with the preset's values for `task`, what the budget makes of them, and `more` settings. Raises ConfigError."""
    cls = algorithms.find(name)
    try:
        chosen = config.preset(cls.presets, preset, task)
    except ConfigError as e:
        raise ConfigError(f"{name}: {e}") from None
    algorithm = config.assign_all(cls.default(), chosen)
    return config.assign_all(config.assign_all(algorithm, budget.settings(algorithm)), more)
