"""Stages that cells share, such as the critic of SRPO and IQL: they are trained once, by whoever comes first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from srpo.suite.cells import Cell
from srpo.training.inherit import alike, usable


def relatives(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """Cells with a stage in common."""
    near = [c for c in cells if c is not cell and (c.data, c.seeds) == (cell.data, cell.seeds)]
    return [c for c in near if alike(c.grid, cell.grid)]


def must_wait(cell: Cell, cells: Sequence[Cell]) -> bool:
    """Whether another process is training what this cell would share."""
    for other in relatives(cell, cells) if cell.run is None else ():
        run = other.run
        if run is not None and usable(run, cell.grid, cell.suite.curve) == alike(other.grid, cell.grid):
            continue
        with other.claimed() as mine:
            if not mine:
                return True
    return False


def donor_of(cell: Cell, cells: Sequence[Cell]) -> tuple[Path | None, list[str]]:
    """The run with most stages to share, and their names."""
    found = {}
    for other in relatives(cell, cells):
        run = other.run
        if run is not None:
            found[other.folder] = usable(run, cell.grid, cell.suite.curve)
    best = max(found, key=lambda folder: len(found[folder]), default=None)
    return (best, found[best]) if best is not None and found[best] else (None, [])
