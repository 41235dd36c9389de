"""What actions and trainings cost, a number a row: `timing.py` measures it, Figures 1 and 5 and DTQL's table show it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from srpo import algorithms
from srpo.errors import ConfigError, closest
from srpo.suite.schema import Line, Name, Strict
from srpo.text import plain

TIME, CORE_TIME, OPERATIONS = "time per action", "core time per action", "operations per action"
STEPS, CORE_STEPS, TRAINING = "time of 1000 training steps", "core time of 1000 training steps", "training at the paper's steps"
COLUMNS = ("algorithm", "kind", "quantity", "stage", "batch", "measured_at", "value", "unit", "ratio", "device")
ACTING, PART, WHOLE = ("batch", "measured_at", "ratio"), ("stage",), ("ratio",)  # what a row says beside its value
TOLD = {TIME: ACTING, CORE_TIME: ACTING, OPERATIONS: WHOLE, STEPS: PART, CORE_STEPS: PART, TRAINING: WHOLE}

Row = dict[str, Any]
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e30)] | Literal[""]


class Cost(Strict):
    """A row of costs.csv."""

    algorithm: Name
    kind: Literal["one pass", "candidates", "diffusion", "other"]
    quantity: Line
    stage: Line
    batch: Positive
    measured_at: Positive
    value: Annotated[float, msgspec.Meta(gt=0, le=1e30)]
    unit: Line
    ratio: Positive
    device: Line


@dataclass(frozen=True)
class Asked:
    """What a person asks for. names: algorithms, none: all that are shown. earlier: costs that were measured before."""

    names: tuple[str, ...] = ()
    earlier: Path | None = None
    into: Path | None = None
    quick: bool = False


@dataclass(frozen=True)
class Costs:
    rows: Sequence[Row] = field(repr=False)

    def of(self, quantity: str, batch: float = 1) -> dict[str, Row]:
        """Rows by algorithm; `batch` matters where it is an action that costs."""
        return {r["algorithm"]: r for r in self.rows if r["quantity"] == quantity and r["batch"] in ("", batch)}

    def values(self, quantity: str, batch: float = 1) -> dict[str, float]:
        return {name: r["value"] for name, r in self.of(quantity, batch).items()}

    def by_stage(self, quantity: str, name: str) -> dict[str, float]:
        """Of one algorithm, in the order of its training."""
        return {r["stage"]: r["value"] for r in self.rows if (r["algorithm"], r["quantity"]) == (name, quantity)}

    @property
    def names(self) -> list[str]:
        """Of the algorithms, the fastest first."""
        seconds = self.values(TIME)
        return sorted(seconds, key=seconds.__getitem__)

    @property
    def kinds(self) -> dict[str, str]:
        """How each algorithm acts."""
        return {r["algorithm"]: r["kind"] for r in self.rows}

    @property
    def batches(self) -> list[float]:
        """Sizes at which actions were timed."""
        return sorted({r["batch"] for r in self.rows if r["quantity"] == TIME})

    @property
    def device(self) -> str:
        return self.rows[0]["device"]


def read(path: Path) -> Costs:
    """The costs.csv of an earlier run. Raises ConfigError for any other file."""
    try:
        with open(path, newline="") as file:
            found = Costs([_row(number, row) for number, row in enumerate(csv.DictReader(file, strict=True), 2)])
        if not found.names:
            raise ValueError("no time per action in it")
    except (OSError, ValueError, csv.Error) as e:
        raise ConfigError(
            f"cannot read costs from {path} ({plain(e, 200)}); give the costs.csv that srpo paper fig5 wrote"
        ) from None
    return found


def _row(number: int, cells: Mapping[str, Any]) -> Row:
    """Raises ValueError, naming the line, for what no row of costs says."""
    try:
        row = msgspec.convert(cells, Cost, strict=False)
        algorithms.find(row.algorithm)
        if row.quantity not in TOLD:
            raise ValueError(closest(row.quantity, TOLD, "quantity"))
    except (ValueError, TypeError) as e:
        raise ValueError(f"line {number}: {e}") from None
    found = msgspec.structs.asdict(row)
    told = tuple(name for name in (*PART, *ACTING) if found[name] != "")
    if told != TOLD[row.quantity]:
        raise ValueError(
            f"line {number}: {row.quantity} with {', '.join(told) or 'nothing more'}, expected {', '.join(TOLD[row.quantity])}"
        )
    return found


def with_ratios(rows: Sequence[Row], reference: str) -> Iterator[Row]:
    """Rows with what each is, times that of the reference algorithm; a part of a training has no ratio."""
    base: Mapping[tuple, float] = {(r["quantity"], r["batch"]): r["value"] for r in rows if r["algorithm"] == reference}
    for row in rows:
        yield row | {"ratio": "" if row["stage"] else row["value"] / base[row["quantity"], row["batch"]]}
