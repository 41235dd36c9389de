"""When a training writes checkpoints, and what else happens then: a copy to a storage, a report to who waits for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from srpo.errors import ConfigError
from srpo.runs.run import Run

Then = Callable[[Run, str, int], None]


def nothing(run: Run, stage: str, step: int) -> None:
    """No more than what training writes itself."""


@dataclass(frozen=True)
class Saving:
    """`seconds` between checkpoints; `then(run, stage, step)` is called whenever something is new on disk from which training goes on: a
    checkpoint, a policy that was kept (with its evaluation), a finished stage. What it raises ends the training there, and
    `resume` goes on. Raises ConfigError."""

    seconds: float = 60.0
    then: Then = nothing

    def __post_init__(self):
        if not self.seconds >= 0:
            raise ConfigError(f"found {self.seconds:g} seconds between checkpoints, expected zero or more")
