"""Where recorded data come from: one file per source, asked in order whether a name is theirs.

A source is a module of two functions, `matches` and `read` (see `Source`); with a third, `listing`, its names are in
`srpo data list` and in the hints about misspelled names. To add one: a file here and its name in `MODULES`, or, from
outside, `register(module)`, or an entry point of the group `srpo.sources` in an installed package.
"""

from __future__ import annotations

import csv
import difflib
import importlib
import zipfile
import zlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from srpo.data.checks import DataError
from srpo.errors import UserError
from srpo.text import plain

MODULES = [
    f"srpo.data.sources.{name}"
    for name in ("builtin", "made", "d4rl", "minari", "lerobot", "episodes", "ogbench", "table", "files")
]  # the first that matches reads
DAMAGE = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
)  # what reading it raises
GROUP = "srpo.sources"  # of entry points
registered: list[Source] = []


class Attributes(NamedTuple):
    """What is known of a recording beside its arrays."""

    name: str  # chooses presets, and names the folder of its runs
    source: str  # where it was read from; a run finds its data again by it
    env_id: str | None = None  # of Gymnasium, if there is one
    sha256: str | None = None  # of the file; None: of the arrays
    d4rl: bool = False  # D4RL's own, or ours in its layout: taken by its rules, bit for bit, and nothing is asked
    action_range: tuple[Any, Any, str] | None = None  # lowest and highest action that the recording states, and where
    others: Mapping[str, Any] = {}  # flags of other names that may mark ends of episodes
    labels: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # names of the columns of observations and of actions
    reference: tuple[float, float] | None = None  # returns of a random and of an expert policy that the recording states
    obs_offset: np.ndarray | None = None  # (obs,) float32 that training takes off; None: it finds out
    reward: str | None = None  # module:function that computes it: on the command line alone
    notes: tuple[str, ...] = ()  # what was left out, to be said


@runtime_checkable
class Source(Protocol):
    """One kind of source, as a module or an object."""

    def matches(self, source: str) -> bool:
        """Whether `source`, as a user writes it, is of this kind. Opens nothing that is not local, and looks for it with `os.path`:
        it may be longer than a name of a file can be, of which `pathlib` raises."""

    def read(self, source: str) -> tuple[dict[str, Any], Attributes]:
        """The arrays by our names (`srpo.data.checks.FIELDS`), unchecked, and what else is known. Raises DataError."""


def register(source: Source) -> None:
    """Adds a source from outside; it is asked before those of the package. Again the same one: nothing changes."""
    if source not in registered:
        registered.append(source)


def sources() -> list[Source]:
    """All sources, in the order in which they are asked. Raises DataError if one of another package cannot be imported."""
    installed = [_installed(point) for point in metadata.entry_points(group=GROUP)]
    return [*registered, *installed, *map(importlib.import_module, MODULES)]


def _installed(point: metadata.EntryPoint) -> Source:
    try:
        return point.load()
    except Exception as e:  # anything may go wrong in another's module
        raise DataError(f"the data source {point.value!r} of an installed package cannot be imported ({e}); remove it") from e


def find(source: str) -> Source:
    """The first source that `source` matches. Raises DataError, with the closest known name."""
    for each in sources():
        if each.matches(source):
            return each
    near = difflib.get_close_matches(source, [row["name"] for row in listing()], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "give a path to a .hdf5 or .npz file, or a name of `srpo data list`"
    raise DataError(f"unknown data set {source!r}; {hint}")


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording that `source` names, by the first source that it matches. Raises DataError, whatever is wrong with a file."""
    found = find(source)
    try:
        return found.read(source)
    except UserError:
        raise
    except DAMAGE as e:
        raise DataError(f"{source}: cannot be read ({plain(e, 150)}); look whether it is complete, or get it again") from e


def listing() -> list[dict[str, Any]]:
    """Every name that is known, as name, kind, meaning, path and whether its file is here."""
    return [row for each in sources() if hasattr(each, "listing") for row in each.listing()]
