"""The folder of a run: new ones are made by one process alone, and one process at a time trains in it."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from srpo.runs.checkpoint import PART, CheckpointError, NotWritten, save_tree
from srpo.runs.run import Run, RunError, load_run, save_info
from srpo.system.files import alone
from srpo.text import command

LOCK = "lock"


@contextlib.contextmanager
def held(lock: Path, otherwise: str, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone holds a lock file, whose folder is made if it is not there; `wait`: until it does.

    Raises NotWritten, with what to do `otherwise`.
    """
    with contextlib.ExitStack() as stack:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            mine = stack.enter_context(alone(lock, wait))
        except OSError as e:
            raise NotWritten(f"cannot write {lock} ({e.strerror}); give yourself the right to, or {otherwise}") from None
        yield mine


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process may train in a folder. Raises RunError if another one does, or the lock cannot be written."""
    with contextlib.ExitStack() as held:
        try:
            mine = held.enter_context(alone(path / LOCK))
        except OSError as e:
            raise RunError(f"cannot write {path / LOCK} ({e.strerror}); give yourself the right to, or make room") from None
        if not mine:
            raise RunError(f"{path} is being trained by another process; wait for it or choose another --out")
        yield


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """The folder of a new run, made if it is not there, for this process alone. Raises RunError if it is taken, CheckpointError."""
    require_free(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise CheckpointError(f"cannot make the folder {path}: {e.strerror or e}; choose another --out") from e
    with locked(path):
        _clear(path)  # another process may have been first
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError, RunError):
                _clear(path)
                (path / LOCK).unlink()
                path.rmdir()  # if it is empty
            raise


def require_free(path: Path) -> None:
    """Raises RunError if something is there that a new run's folder must not hold. Writes nothing."""
    if os.path.isdir(path):
        _left_over(path)
    elif os.path.lexists(path):
        raise RunError(f"{path} exists and is not an empty folder; choose another --out")


def _left_over(path: Path) -> list[Path]:
    """What is there of a run that was cut off before it had its run.json. Raises RunError if there is anything else."""
    if (path / "run.json").exists():
        raise RunError(f"{path} holds another run; continue it with {command('--resume', path)}, or choose another --out")
    stages, lock, found = path / "stages", path / LOCK, set(path.iterdir())
    if stages.is_dir() and not stages.is_symlink():
        found = found - {stages} | set(stages.iterdir())
    mine = [f for f in found if f.parent == stages and f.name.removesuffix(PART).endswith(".safetensors")]
    mine += found & {path / f"run.json{PART}"}
    begun = lock in found or not (mine or stages.exists())  # the lock is there first: without it, these are another's
    if found - {lock, *mine} or not begun:
        raise RunError(f"{path} exists and is not an empty folder; choose another --out")
    return mine


def _clear(path: Path) -> None:
    """Remove what is left over. Raises RunError, OSError."""
    for file in _left_over(path):
        file.unlink()
    if (path / "stages").exists():
        (path / "stages").rmdir()


def new_run(run: Run, results: Mapping[tuple[str, int | None], Any]) -> Run:
    """Make the folder of a run of which `results` (by stage, and step or None) are finished already; all of it or nothing.

    Raises RunError, CheckpointError.
    """
    with claimed(run.path):
        files = {run.stage_file(*place): (place[0], result) for place, result in results.items()}
        hashes = {f.stem: save_tree(f, result, run=run.identity(name)) for f, (name, result) in files.items()}
        return save_info(run, stages=hashes)  # last: run.json makes it a run


def withdraw(run: Run) -> None:
    """Remove the folder of a run that was just begun, if nothing was trained in it: with its settings nothing can be."""
    begun = any(run.state_file(name).exists() for name in run.algorithm.stages)
    if not begun and load_run(run.path).info["stages"] == run.info["stages"]:
        shutil.rmtree(run.path, ignore_errors=True)


def next_free(path: Path) -> Path:
    """The folder `path`, or the first of path-2, path-3, ... that is not there, made: two runs of one second get two. Raises CheckpointError."""
    for n in itertools.count(1):
        here = path if n == 1 else path.with_name(f"{path.name}-{n}")
        try:
            here.parent.mkdir(parents=True, exist_ok=True)
            here.mkdir()  # of several processes, one succeeds
            return here
        except FileExistsError:
            continue
        except OSError as e:
            raise CheckpointError(f"cannot make the folder {here}: {e.strerror or e}; choose another with --out") from e
    raise AssertionError("there is always a next number")
