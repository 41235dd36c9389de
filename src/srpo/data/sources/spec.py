"""Which columns of a table are what: `PATH?obs=joint_*,temp&action=cmd_*&reward=r&episode=trip&time=t`, or a TOML file.

The part behind `?` is what the options `--obs`, `--action`, ... of a command write, with names in quotes where a comma or a
space at an end is part of them (`"pos, x",y`); a TOML file beside the data (the same
name with the ending .toml, or one given as the source, with `files = "*.parquet"`) says the same. A reward may be named as
`module:function`; only the command line makes that be imported, never a file. Names are taken as they are written before they are
taken for patterns, in which `*` and `?` stand for others, and nothing else.
"""

from __future__ import annotations

import csv
import difflib
import fnmatch
import io
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from srpo.data.checks import DataError
from srpo.system.surroundings import expanded
from srpo.text import NAME, plain

MISSING = ("refuse", "drop", "hold")


@dataclass(frozen=True)
class Spec:
    """Columns by name or pattern, in the order in which they become those of the arrays."""

    obs: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    reward: str | None = None  # a column, or module:function
    terminal: str | None = None  # a column: the episode ended by itself
    episode: str | None = None  # a column: another value is another episode; without it each file is one
    time: str | None = None  # a column, in order: time stamps, or numbers, which count as seconds
    gap: float | None = None  # seconds: a longer step in time cuts the episode
    missing: str = "refuse"  # values that are not there: refuse, drop (their episode), hold (the value before)
    files: str | None = None  # pattern of the files in a folder

    def __post_init__(self):
        for key in ("obs", "action"):
            if not getattr(self, key):
                raise DataError(f"no columns are named for {key}; give them, such as --{key} 'name_*,other'")
        if self.missing not in MISSING:
            raise DataError(f"missing: found {plain(self.missing, NAME)}, expected one of {', '.join(MISSING)}")
        if self.gap is not None and self.time is None:
            raise DataError("a gap cuts episodes by time; name the column of the time, such as --time t")
        if self.gap is not None and not self.gap > 0:
            raise DataError(f"gap is {self.gap:g}, expected seconds, more than 0, such as --gap 2")

    @property
    def function(self) -> str | None:
        """The reward's function, if it is computed."""
        return self.reward if self.reward and ":" in self.reward else None

    def query(self) -> str:
        """As it stands behind `?`."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return encoded({k: ",".join(map(_quoted, v)) if isinstance(v, tuple) else v for k, v in told.items()})


def encoded(told: Mapping[str, Any]) -> str:
    """What is told of the columns, as it stands behind `?`; `split` reads it."""
    return urlencode(told, safe=",*:", errors="surrogateescape")


def _quoted(name: str) -> str:
    """A name as it stands in a list of names; `_listed` reads it."""
    bare = name == name.strip() and not set(name) & set(',"\r\n')
    return name if bare else '"' + name.replace('"', '""') + '"'


def _listed(text: str) -> list[str]:
    """The names in a list of them, as in CSV."""
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    return [name for row in rows for name in row if name.strip()]


def split(source: str) -> tuple[Path, dict[str, Any]]:
    """The path of a source and what stands behind `?`."""
    path, _, query = source.partition("?")
    return (expanded(path) or Path(path)), dict(parse_qsl(query, errors="surrogateescape"))


def read_spec(told: dict[str, Any], path: Path) -> Spec:
    """The columns of the table at `path`: as told, else as a TOML file beside it says. Raises DataError."""
    beside = path.with_name(f"{path.name}.toml") if path.is_dir() else path.with_suffix(".toml")
    toml = path if path.suffix.lower() == ".toml" else beside
    written = _toml(toml) if os.path.isfile(toml) else {}
    return _spec(written | told, f"{toml}" if written and not told else f"{path}")


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))  # as Windows' editors begin a file
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise DataError(f'{path}: is no TOML ({plain(e, 100)}); write lines such as obs = ["joint_*"]') from None


def _spec(told: dict[str, Any], where: str) -> Spec:
    known = [f.name for f in fields(Spec)]
    for key in told:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(known)}"
            raise DataError(f"{where}: unknown key {plain(key, NAME)}; {hint}")
    values = dict(told)
    for key in ("obs", "action"):
        if isinstance(values.get(key), str):
            values[key] = _listed(values[key])
        if not isinstance(values.get(key, ()), (list, tuple)):
            raise DataError(f'{where}: {key} is {plain(values[key], NAME)}, expected names; write {key} = ["name_*", "other"]')
        values[key] = tuple(map(str, values.get(key, ())))
    if "gap" in values:
        try:
            values["gap"] = float(values["gap"])
        except (TypeError, ValueError):
            raise DataError(f"{where}: gap is {plain(values['gap'], NAME)}, expected seconds; write a number") from None
    for key in ("reward", "terminal", "episode", "time", "missing", "files"):
        if key in values and not isinstance(values[key], str):
            raise DataError(f"{where}: {key} is {plain(values[key], NAME)}, expected text; write the name of a column")
    try:
        return Spec(**values)
    except DataError as e:
        raise DataError(f"{where}: {e}") from None


def resolved(spec: Spec, columns: Sequence[str], where: str) -> Spec:
    """`spec` with its patterns replaced by the columns they match. Raises DataError, with the closest name, if one matches none."""

    def named(pattern: str) -> list[str]:
        if exact := [name for name in (pattern, pattern.strip()) if name in columns][:1]:
            return exact
        wanted = pattern.strip().replace("[", "[[]")
        found = [name for name in columns if fnmatch.fnmatchcase(name, wanted)]
        found = found or [name for name in columns if fnmatch.fnmatchcase(name.strip(), wanted)]  # of "t, x" in a CSV
        if not found:
            raise DataError(f"{where}: no column is called {plain(pattern, NAME)}; {_known(pattern, columns)}")
        return found

    out: dict[str, Any] = {}
    for key in ("obs", "action"):
        found = [name for pattern in getattr(spec, key) for name in named(pattern)]
        twice = next((name for name in found if found.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{where}: column {plain(twice, NAME)} is named twice for {key}; name it once")
        out[key] = tuple(found)
    for key in ("reward", "terminal", "episode", "time"):
        value = getattr(spec, key)
        if value is not None and not (key == "reward" and spec.function):
            found = named(value)
            if len(found) > 1:
                both = ", ".join(plain(name, 40) for name in found[:4])
                raise DataError(f"{where}: {key} is {plain(value, NAME)}, which is {len(found)} columns ({both}); name one")
            out[key] = found[0]
    return replace(spec, **out)


def _known(pattern: str, columns: Sequence[str]) -> str:
    """What there is in the place of a column that is not."""
    if len(columns) == 1 and (other := next((mark for mark in ";\t|" if mark in columns[0]), None)):
        return f"the file is separated by {other!r}; write it with commas"
    near = difflib.get_close_matches(pattern.replace("*", ""), columns, n=1, cutoff=0.5)
    return f"did you mean {plain(near[0], NAME)}?" if near else f"it holds {', '.join(plain(c, 40) for c in columns[:8])}"
