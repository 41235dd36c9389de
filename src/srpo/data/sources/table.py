"""Tables of logs, CSV or Parquet, one file or a folder of them, with a map of their columns (`srpo.data.sources.spec`).

Row i holds what was observed, what was done then, and the reward of it. An episode is the rows of one value of the column
`episode` that follow each other in a file, else the file; it ends behind a row that the column `terminal` marks, and is cut
where time makes a longer step than `gap`. Its last row is a time-out unless `terminal` says that it ended. Needs the extra
`tables` (pyarrow).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from srpo.data.checks import DataError
from srpo.data.sources import Attributes
from srpo.data.sources.columns import flags, numbers, starts, steps
from srpo.data.sources.hashes import file_hash
from srpo.data.sources.spec import Spec, read_spec, resolved, split
from srpo.text import NAME, plain

SUFFIXES = (".csv", ".parquet", ".pq")


def matches(source: str) -> bool:
    path, told = split(source)
    return path.suffix.lower() in (*SUFFIXES, ".toml") or bool(told) or (os.path.isdir(path) and bool(_inside(path, None)))


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The recording in one table or a folder of tables. Raises DataError."""
    path, told = split(source)
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file or folder; give the path of {', '.join(SUFFIXES)} files")
    path = Path(os.path.abspath(path))  # "." has no name, and the target of a link may have another
    spec = read_spec(told, path)
    folder = path.parent if path.suffix.lower() == ".toml" else path
    files = _inside(folder, spec.files) if folder.is_dir() else [path]
    if not files:
        raise DataError(f"{folder}: holds no {spec.files or ' or '.join(SUFFIXES)} file; name another folder, or files")
    parts = [_part(file, spec) for file in files]
    _same_columns(parts, files)
    fields = {key: np.concatenate([getattr(part, key) for part in parts]) for key in ROWS}
    if spec.reward is None or spec.function:
        fields.pop("reward")
    first = parts[0].spec
    digest = hashlib.sha256("".join([spec.query(), *map(file_hash, files)]).encode()).hexdigest()
    source = f"{path}?{spec.query()}"
    notes = _scattered(sum(part.again for part in parts), first)
    about = Attributes(path.stem, source, sha256=digest, labels=(first.obs, first.action), reward=spec.function, notes=notes)
    return fields, about


def _scattered(again: int, spec: Spec) -> tuple[str, ...]:
    """What must be said of a column of the episode some of whose values come back after others."""
    if not again:
        return ()
    return (
        f"values of the column {plain(spec.episode, NAME)} come back after others, {again} times, each time as another episode; if it is the "
        "same one, sort the rows so that those of an episode follow each other",
    )


ROWS = ("obs", "action", "reward", "terminal", "timeout")  # of the parts, one after the other


class Part(NamedTuple):
    """One file's rows by our names, and its columns."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray
    timeout: np.ndarray
    spec: Spec
    again: int  # episodes whose name another one had before


def _inside(folder: Path, pattern: str | None) -> list[Path]:
    if pattern is not None:
        return sorted(p for p in folder.glob(pattern) if p.is_file() and p.suffix.lower() in SUFFIXES)
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)


def load(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A file as a table of pyarrow; of Parquet only the named columns. Raises DataError."""
    try:
        import pyarrow
        from pyarrow import csv, parquet
    except ImportError:
        raise DataError(f"{path}: tables need pyarrow, which is not installed; pip install 'srpo[tables]'") from None
    try:
        if path.suffix.lower() == ".csv":
            table = csv.read_csv(path)
        else:
            table = parquet.read_table(path, columns=None if columns is None else list(columns))
        table.column_names  # noqa: B018, decodes them
        return table
    except UnicodeEncodeError:
        raise DataError(f"{path}: the name of the file is not UTF-8; rename it") from None
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: a column's name is not UTF-8 ({plain(e.object, NAME)}); save the file as UTF-8") from None
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read as a table ({plain(e, 120)}); look whether it is complete") from None


def _part(file: Path, spec: Spec) -> Part:
    table = load(file)
    if len(set(table.column_names)) < len(table.column_names):
        raise DataError(f"{file}: two columns have the same name; rename one")
    if table.num_rows == 0:
        raise DataError(f"{file}: holds no row; leave it out")
    spec = resolved(spec, table.column_names, str(file))

    def told(name: str) -> tuple[Any, str]:
        """A column, and what to call it in a message."""
        return table[name], f"{file}: {plain(name, NAME)}"

    nothing = np.zeros(table.num_rows)
    terminal = flags(*told(spec.terminal)) if spec.terminal else nothing.astype(bool)
    episode, again = starts(*told(spec.episode)) if spec.episode else (nothing.astype(np.int64), 0)
    episode += np.cumsum(terminal) - terminal  # what follows an end is another one
    if spec.time:
        episode = _in_time(steps(*told(spec.time)), episode, spec.gap, str(file))
    obs, action = (np.stack([numbers(*told(name)) for name in names], 1) for names in (spec.obs, spec.action))
    reward = numbers(*told(spec.reward)) if spec.reward and not spec.function else nothing
    rows = np.concatenate([obs, action, reward[:, None]], 1)
    rows, kept = _without_gaps(rows, episode, spec, str(file))
    episode, terminal = episode[kept], terminal[kept]
    last = np.append(episode[1:] != episode[:-1], True)
    n = obs.shape[1]
    return Part(rows[:, :n], rows[:, n:-1], rows[:, -1], terminal, last & ~terminal, spec, again)


def _in_time(step: np.ndarray, episode: np.ndarray, gap: float | None, where: str) -> np.ndarray:
    """The episodes, cut at gaps. Raises DataError for time that runs backwards or stands still."""
    same = episode[1:] == episode[:-1]
    bad = same & ~(step > 0)
    if bad.any():
        at = int(np.argmax(bad))
        what = "the same time as" if step[at] == 0 else "an earlier time than"
        raise DataError(
            f"{where}: row {at + 1} has {what} row {at} (a step of {step[at]:.6g} s) in the same episode; "
            "sort the rows, drop duplicates, or name the column of the episode"
        )
    return episode if gap is None else np.concatenate([[0], np.cumsum(~same | (step > gap))])


def _without_gaps(rows: np.ndarray, episode: np.ndarray, spec: Spec, where: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows, whole, and which of them stay. Raises DataError for missing values unless told what to do."""
    lacking = np.isnan(rows)
    everything = np.ones(len(rows), bool)
    if not lacking.any():
        return rows, everything
    names = [*spec.obs, *spec.action, spec.reward or "reward"]
    at, column = map(int, np.argwhere(lacking)[0])
    if spec.missing == "refuse":
        raise DataError(
            f"{where}: {plain(names[column], NAME)} has no value in row {at} ({int(lacking.any(1).sum())} rows lack one); "
            "add --missing drop (leave out their episodes) or --missing hold (keep the value before)"
        )
    if spec.missing == "drop":
        kept = ~np.isin(episode, np.unique(episode[lacking.any(1)]))
        if not kept.any():
            raise DataError(f"{where}: every episode lacks a value; use --missing hold, or leave the column out")
        return rows[kept], kept
    before = np.maximum.accumulate(np.where(lacking, -1, np.arange(len(rows))[:, None]), axis=0)
    start = np.searchsorted(episode, episode)  # the first row of the episode
    unknown = before < start[:, None]
    if unknown.any():
        at, column = map(int, np.argwhere(unknown)[0])
        raise DataError(
            f"{where}: {plain(names[column], NAME)} has no value in row {at} and none before it in the episode; use --missing drop"
        )
    return np.take_along_axis(rows, before, 0), everything


def _same_columns(parts: Sequence[Part], files: Sequence[Path]) -> None:
    for part, file in zip(parts, files, strict=True):
        if (part.spec.obs, part.spec.action) != (parts[0].spec.obs, parts[0].spec.action):
            raise DataError(f"{file}: has other columns than {files[0].name} for the same names; convert it, or leave it out")
