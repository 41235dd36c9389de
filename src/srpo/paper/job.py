"""What every figure is given: where to write, how much to spend, its seed and its progress bars."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from srpo.paper.costs import Asked
from srpo.paper.kept import FromSuite
from srpo.runs.checkpoint import write_atomically
from srpo.runs.tables import write_csv
from srpo.stages.diffusion_behavior import DiffusionBehavior, Parametrization
from srpo.training.progress import Bars


@dataclass(frozen=True)
class Budget:
    """Sizes of one 2-D experiment."""

    rows: int = 200_000  # actions drawn for training
    steps: int = 15_000  # gradient steps of each behavior model
    batch_size: int = 512
    width: int = 128
    grid: int = 120  # points along each side where the density is computed
    targets: int = 13  # along each side
    temperatures: int = 41  # values of 1/beta in [0, 1]
    climbs: int = 100  # optimizer steps of a policy per temperature
    draws: int = 2048  # samples behind each measured variance
    held_out: int = 1000  # actions, none of the training's, whose density says what is in support

    def behavior(self, parametrization: Parametrization = "noise") -> DiffusionBehavior:
        """The training of a behavior model; the 2-D data are plentiful, so without dropout and decay."""
        return DiffusionBehavior(
            self.steps,
            self.batch_size,
            self.width,
            dropout=0.0,
            parametrization=parametrization,
            lr=5e-3,
            weight_decay=0.0,
        )


FULL = Budget()
QUICK = Budget(rows=50_000, steps=6_000, batch_size=256, width=64, grid=80, targets=11, temperatures=21, climbs=60, draws=512)


@dataclass
class Job:
    """One figure to make. `files` collects what was written."""

    out: Path
    bars: Bars
    budget: Budget = FULL
    seed: int = 0
    data: tuple[str, ...] = ()  # empty: the figure's own choice
    gradient: str = "eq10"
    suite: FromSuite | None = None
    asked: Asked | None = None  # of costs
    files: list[Path] = field(default_factory=list)

    @property
    def of_suite(self) -> FromSuite:
        """Raises ValueError in a figure that is made of no suite."""
        if self.suite is None:
            raise ValueError("this figure was given no suite")
        return self.suite

    def key(self, salt: int) -> jax.Array:
        """A random key of this job; different for every `salt`."""
        return jax.random.fold_in(jax.random.key(self.seed), salt)

    def csv(self, name: str, columns: Mapping[str, np.ndarray]) -> None:
        """Writes equally long columns, numbers to six digits, to `name`.csv."""
        text = io.StringIO()
        text.write(",".join(columns) + "\n")
        for row in zip(*columns.values(), strict=True):
            text.write(",".join(v if isinstance(v, str) else f"{v:.6g}" for v in row) + "\n")
        self._write(f"{name}.csv", text.getvalue().encode())

    def table(self, name: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """Writes rows to `name`.csv."""
        write_csv(self.out / f"{name}.csv", rows, columns)
        self.files.append(self.out / f"{name}.csv")

    def text(self, name: str, content: str) -> None:
        """Writes a file of text."""
        self._write(name, content.encode())

    def picture(self, name: str, figure: Figure) -> None:
        """Writes `name`.png at 300 dots per inch."""
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=300)
        self._write(f"{name}.png", content.getvalue())

    def _write(self, name: str, content: bytes) -> None:
        write_atomically(self.out / name, content)
        self.files.append(self.out / name)
