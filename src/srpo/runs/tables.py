"""The tables of a run: CSV files that grow by rows while it trains, and are read with checks."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from srpo.runs.checkpoint import NotWritten, write_atomically
from srpo.runs.run import Run
from srpo.runs.schema import RunError
from srpo.system.files import appended, read_bytes
from srpo.text import NAME, plain


class Column(NamedTuple):
    """What the cells of a column may be."""

    fits: Callable[[str], bool]
    what: str


def one_of(words: Collection[str]) -> Column:
    return Column(lambda text: text in words, f"one of {plain(', '.join(words), NAME)}")


def swept(values: Collection[float]) -> Column:
    """A swept value, or nothing in a row of a stage that all of them share."""
    return Column(lambda text: text == "" or (_is_number(text) and float(text) in values), "a value of the sweep, or nothing")


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?|nan|-?inf", text) is not None


WHOLE = Column(lambda text: re.fullmatch(r"\d{1,10}", text) is not None, "a whole number")
NUMBER = Column(_is_number, "a number")
FINITE = Column(lambda text: _is_number(text) and math.isfinite(float(text)), "a finite number")
MAYBE = Column(lambda text: text == "" or _is_number(text), "a number, or nothing")
WORD = Column(lambda text: re.fullmatch(r"[A-Za-z0-9_.:/+ -]{0,100}", text) is not None, "a plain word")


def metrics_table(run: Run) -> CsvTable:
    """One row per metric and run at each log."""
    steps = {"stage": one_of(run.algorithm.stages), "step": WHOLE}
    columns = {**steps, **_whose(run), "metric": WORD, "value": FINITE}
    return CsvTable(run.path / "metrics.csv", columns, run.algorithm.renamed)


def evals_table(run: Run) -> CsvTable:
    """One row per episode. `kind`: "training" during it, "final" for `srpo eval`, "kept" for its --step."""
    which = {"kind": one_of(("training", "final", "kept")), "step": WHOLE, **_whose(run), "episode": WHOLE, "env_seed": WHOLE}
    found = {"return": NUMBER, "length": WHOLE, "score": MAYBE, "env_id": WORD, "gymnasium": WORD, "mujoco": WORD}
    return CsvTable(run.path / "evals.csv", which | found, run.algorithm.renamed)


def _whose(run: Run) -> dict[str, Column]:
    return {"seed": one_of([str(seed) for seed in run.seeds]), **{path: swept(v) for path, v in run.grid.sweep.items()}}


def write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Rows as text under the names of these columns, completely or not at all; what a row lacks is left empty. Raises CheckpointError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


class CsvTable:
    """A CSV file that only grows; rows are flushed as they come, so that a kill loses at most a torn last line."""

    def __init__(self, path: Path, columns: Mapping[str, Column], renamed: Mapping[str, str] | None = None):
        """`renamed`: columns that earlier versions called otherwise."""
        self.path, self.columns, self.renamed = path, columns, renamed or {}
        if not path.exists():
            self.rewrite([])

    def rewrite(self, rows: Iterable[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Raises NotWritten if they cannot be written, such as on a full disk; a torn last line is dropped when it is read."""
        text = io.StringIO()
        csv.DictWriter(text, list(self.columns), lineterminator="\n").writerows(rows)
        try:
            with appended(self.path) as f:
                f.write(text.getvalue().encode())
        except OSError as e:
            raise NotWritten(f"cannot write {self.path}: {e.strerror or e}; its earlier rows are intact") from e

    def read(self) -> list[dict[str, str]]:
        """The rows, without a torn last line. Raises RunError, with the line, for a table that this run cannot have written."""
        try:
            text = read_bytes(self.path).decode()
            whole = text[: text.rfind("\n") + 1]
            head, *lines = list(csv.reader(io.StringIO(whole, newline=""), strict=True)) or [[]]
        except OSError as e:
            raise RunError(f"{self.path} cannot be read ({e.strerror or e}); restore it") from None
        except (ValueError, csv.Error) as e:
            raise self._damaged(str(e)) from None
        if [self.renamed.get(name, name) for name in head] != list(self.columns):
            raise self._damaged(f"its columns are {plain(', '.join(head), NAME)}, expected {', '.join(self.columns)}")
        return [self._row(number, line) for number, line in enumerate(lines, 2)]

    def _row(self, number: int, line: list[str]) -> dict[str, str]:
        if len(line) != len(self.columns):
            raise self._damaged(f"line {number} has {len(line)} cells, expected {len(self.columns)}")
        for (name, column), text in zip(self.columns.items(), line, strict=True):
            if not column.fits(text):
                raise self._damaged(f"line {number}: {name} is {plain(repr(text), NAME)}, expected {column.what}")
        return dict(zip(self.columns, line, strict=True))

    def _damaged(self, why: str) -> RunError:
        return RunError(f"{self.path} is damaged ({why}); restore it, or move it away to go on without its rows")

    def keep(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        """Drop the rows that are not wanted, and a torn last line."""
        self.rewrite([row for row in self.read() if wanted(row)])
