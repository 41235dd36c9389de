"""Where recorded data come from: one file per source, asked in order whether a name is theirs.

A source is a module of two functions, `matches` and `read` (see `Source`); with a third, `listing`, its names are in
`srpo data list` and in the hints about misspelled names. To add one: a file here and its name in `MODULES`, or, from
outside, `register(module)`, `--source module` on the command line, or an entry point of the group `srpo.sources` in an
installed package. What goes wrong in one from outside is reported in one line that names it.
"""

from __future__ import annotations

import csv
import difflib
import importlib
import sys
import zipfile
import zlib
from collections.abc import Mapping
from importlib import metadata
from types import ModuleType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from srpo.data.checks import FIELDS, DataError
from srpo.errors import ConfigError, UserError
from srpo.text import NAME, plain

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
NEEDED = ("obs", "action", "terminal")  # of what a source reads; rewards may be computed
LISTED = ("name", "kind", "meaning", "path", "here")  # of each name that a source lists
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
    """Adds a source from outside; it is asked before those of the package. Again the same one: nothing changes.

    Raises ConfigError for what is none.
    """
    if not isinstance(source, Source):
        raise ConfigError(
            f"{_called(source)} is no data source; expected a module, or an object, with the functions matches and read"
        )
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
        if _answer(each, "matches", source):
            return each
    near = difflib.get_close_matches(source, [row["name"] for row in listing()], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "give a path to a .hdf5 or .npz file, or a name of `srpo data list`"
    if ":" in source and not near:
        hint += ", or the module that reads it: --source MODULE, in Python srpo.data.sources.register"
    raise DataError(f"unknown data set {source!r}; {hint}")


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording that `source` names, by the first source that it matches. Raises DataError, whatever is wrong with a file."""
    found = find(source)
    try:
        given = _answer(found, "read", source)
        return given if _ours(found) else _checked(given, f"{source}: the data source {_called(found)}")
    except UserError:
        raise
    except DAMAGE as e:
        raise DataError(f"{source}: cannot be read ({plain(e, 150)}); look whether it is complete, or get it again") from e


def listing() -> list[dict[str, Any]]:
    """Every name that is known, as name, kind, meaning, path and whether its file is here."""
    return [row for each in sources() if hasattr(each, "listing") for row in _listed(each)]


def _listed(source: Source) -> list[dict[str, Any]]:
    rows = list(_answer(source, "listing"))
    for row in rows:
        if missing := [key for key in LISTED if key not in row]:
            raise DataError(
                f"the data source {_called(source)} lists a name without {missing[0]!r}; give each {', '.join(LISTED)}"
            )
    return rows


def elsewhere(source: str) -> Source | None:
    """The source of another package that reads `source`, if one is known here."""
    return next((each for each in sources() if not _ours(each) and _answer(each, "matches", source)), None)


def place_of(source: str) -> str:
    """What `--source` must name for `source` to be read: nothing where no source was registered for it."""
    return place(found) if (found := elsewhere(source)) in registered else ""


def place(source: Any) -> str:
    """The module, or module:object, of a source; nothing for an object that no module holds."""
    if isinstance(source, ModuleType):
        return source.__name__
    module = getattr(source, "__module__", "")
    known = vars(sys.modules[module]) if module in sys.modules else {}
    return next((f"{module}:{name}" for name, value in known.items() if value is source), "")


def _ours(source: Source) -> bool:
    return getattr(source, "__name__", None) in MODULES


def _called(source: Any) -> str:
    """A source's name in messages: that of its module, or of its class."""
    return plain(getattr(source, "__name__", type(source).__name__), NAME)


def _answer(source: Source, function: str, *args: str) -> Any:
    """What a function of a source gives. Raises DataError for whatever goes wrong in one from outside."""
    try:
        return getattr(source, function)(*args)
    except (UserError, MemoryError):
        raise
    except Exception as e:
        if _ours(source):
            raise
        about = f"{args[0]}: " if args else ""
        raise DataError(
            f"{about}the data source {_called(source)} failed in {function} ({type(e).__name__}: {plain(e, 150)}); mend it, or what it reads"
        ) from e


def _checked(given: Any, who: str) -> tuple[dict[str, Any], Attributes]:
    """What a source from outside has read: arrays by our names, and what else is known. Raises DataError, naming the source."""
    pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Mapping) and isinstance(given[1], Attributes)
    if not pair or not all(isinstance(text, str) for text in given[1][:2]):
        found = f"({', '.join(type(part).__name__ for part in given)})" if isinstance(given, tuple) else type(given).__name__
        raise DataError(f"{who} gave {found}, expected (arrays by name, Attributes(name=..., source=...)), both of them text")
    arrays, about = given
    wrong = [f"no {key}" for key in NEEDED if arrays.get(key) is None] + [f"{key}" for key in arrays if key not in FIELDS]
    if wrong:
        raise DataError(f"{who} gave {plain(wrong[0], NAME)}, expected arrays called {', '.join(FIELDS)}; rename or add it")
    return dict(arrays), about
