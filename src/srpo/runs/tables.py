"""The tables of a run: CSV files that grow by rows while it trains."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from srpo import config
from srpo.runs.checkpoint import CheckpointError, write_atomically


class Table:
    """A CSV file that only grows; rows are flushed as they come, so that a kill loses at most a torn last line."""

    def __init__(self, path: Path, columns: Iterable[str]):
        self.path, self.columns = path, list(columns)
        if not path.exists():
            self.rewrite([])

    def rewrite(self, rows: Iterable[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue().encode())

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Raises CheckpointError if they cannot be written, such as on a full disk; a torn last line is dropped when it is read."""
        try:
            with open(self.path, "a", newline="") as f:
                csv.DictWriter(f, self.columns, lineterminator="\n").writerows(rows)
        except OSError as e:
            raise CheckpointError(f"cannot write {self.path}: {e.strerror or e}; its earlier rows are intact") from e

    def read(self) -> list[dict[str, str]]:
        with open(self.path, newline="") as f:
            whole = [row for row in csv.DictReader(f) if None not in row.values() and None not in row]
        return [{config.RENAMED.get(column, column): value for column, value in row.items()} for row in whole]

    def keep(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        """Drop the rows that are not wanted, and a torn last line."""
        self.rewrite([row for row in self.read() if wanted(row)])
