"""What a suite's file and a folder of its results may say, checked strictly before anything of them is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from srpo.networks.precision import Precision
from srpo.suite.budget import Budget

NAME = r"(?!\.)[A-Za-z0-9_.+=@:-]+(/(?!\.)[A-Za-z0-9_.+=@:-]+)*"  # names become folders: no part begins with a dot

PRINTABLE = r"^[^\x00-\x1f\x7f]*\Z"

Line = Annotated[str, Meta(max_length=200, pattern=PRINTABLE)]
Name = Annotated[str, Meta(max_length=200, pattern=rf"^{NAME}\Z")]
LONGEST = 10_000  # characters
Text = Annotated[str, Meta(max_length=LONGEST, pattern=PRINTABLE)]
Count = Annotated[int, Meta(ge=1, lt=2**31)]
Whole = Annotated[int, Meta(ge=0, lt=2**40)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
MOST_SCORE, MOST_RETURN = 1e6, 1e15  # in absolute value: beyond them something is wrong
Score = Annotated[float, Meta(ge=-MOST_SCORE, le=MOST_SCORE)]  # normalized
Return = Annotated[float, Meta(ge=-MOST_RETURN, le=MOST_RETURN)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Value = bool | int | float | str | list[int | float]
Settings = dict[Line, dict[Line, Value]]  # by algorithm and path


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing but its fields."""


class Data(Strict):
    name: Line
    task: Line | None = None
    settings: Settings = {}


class Variant(Strict):
    """Another recipe of an algorithm, under a name of its own. `preset`: the suite's if None."""

    algorithm: Line
    preset: Line | None = None
    settings: dict[Line, Value] = {}


class First(Strict):
    algorithms: list[Line] | None = None
    data: list[Line] | None = None


class File(Strict):
    """A suite as a TOML file."""

    algorithms: list[Line]
    data: list[Data]
    seeds: list[Seed]
    title: Line = ""
    preset: Line = "paper"
    precision: Precision = "float32"
    episodes: Count = 20
    curve: Count = 1
    first: First = msgspec.field(default_factory=First)
    budget: Budget = msgspec.field(default_factory=Budget)
    settings: Settings = {}
    variants: dict[Line, Variant] = {}


class Recorded(Strict):
    """A data set in suite.json."""

    name: Name
    task: Line
    rows: Whole
    sha256: Line
    env_id: Line | None
    mean_score: Score | None
    settings: Settings = {}


class About(Strict):
    """suite.json."""

    name: Line
    title: Line
    preset: Line
    algorithms: list[Name]
    data: list[Recorded]
    seeds: list[Seed]
    episodes: Count
    curve: Count
    budget: Budget
    first: First
    settings: Settings
    precision: Precision = "float32"
    variants: dict[Name, Variant] = {}
    compared: list[Name] | None = None  # none: all


class Log(Strict):
    """The record beside a cell."""

    train_seconds: Seconds = 0.0
    eval_seconds: Seconds = 0.0
    incomplete: bool = False
    busy: Line | None = None
    error: Text | None = None
    shared: list[Line] = []
    command: Text = ""


class CellRow(Strict):
    """A line of cells.csv."""

    data: Name
    algorithm: Name
    seeds: Annotated[str, Meta(pattern=r"^\d{1,10}( \d{1,10})*\Z", max_length=100_000)]
    status: Literal["finished", "trained", "unfinished", "failed"]
    train_seconds: Seconds
    eval_seconds: Seconds
    time_incomplete: Literal["True", "False"]
    error: Text
    settings: Line
    preset: Line
    task: Line
    iterations: Count | Literal[""]  # of every stage; nothing: the preset's own
    batch_factor: Count
    shared: Line
    device: Line
    created: Line
    command: Text
    run: Text
    python: Line
    srpo: Line
    jax: Line
    jaxlib: Line
    equinox: Line
    optax: Line
    numpy: Line
    gymnasium: Line
    mujoco: Line


class CurveRow(Strict):
    """A line of curves.csv."""

    data: Name
    algorithm: Name
    seed: Seed
    step: Whole
    episode: Whole
    score: Score


class EpisodeRow(CurveRow):
    """A line of episodes.csv."""

    env_seed: Whole
    return_: Return = msgspec.field(name="return")
    length: Whole
    env_id: Line
    gymnasium: Line
    mujoco: Line


ROWS: Mapping[str, type[Strict]] = {"cells": CellRow, "episodes": EpisodeRow, "curves": CurveRow}


def check_rows(name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Raises ValueError, naming the line, if a table's rows, as text, are not what the table `name` holds."""
    for number, row in enumerate(rows, 2):
        if None in row:
            raise ValueError(f"{name}.csv, line {number}: more columns than names")
        try:
            msgspec.convert(row, ROWS[name], strict=False)
        except msgspec.ValidationError as e:
            raise ValueError(f"{name}.csv, line {number}: {e}") from None
