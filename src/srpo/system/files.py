"""Files from outside: only plain ones are opened, and nothing is allocated for what they merely claim to hold."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import math
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from srpo.errors import UserError

ABANDONED = 3600  # seconds since anything was written to it
UNSUSPICIOUS = 64 << 20  # bytes that no claim needs to justify
RATIO = 200  # times the file's size that its arrays may take: recorded numbers do not compress better


class TooLarge(UserError):
    """A file that claims more than it can hold, or than there is memory for."""


def opened(path: str | os.PathLike) -> io.BufferedReader:
    """A plain file, open for reading. Raises OSError for anything else, such as a device or a pipe, without waiting for it."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(_plain(os.open(path, flags), path), "rb")


def _plain(descriptor: int, path: str | os.PathLike) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return descriptor


def created(path: str | os.PathLike) -> io.BufferedWriter:
    """A new plain file, open for writing; what had this name, were it a link to another file, is removed. Raises OSError."""
    path = Path(path)
    require_replaceable(path)
    path.unlink(missing_ok=True)
    return open(path, "xb")


def require_replaceable(path: Path) -> None:
    """Raises OSError for a device or a pipe, such as /dev/null: a file that takes its name would take it from everybody."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "it is a device or a pipe, name a file", str(path))


def appended(path: str | os.PathLike) -> io.BufferedWriter:
    """A plain file, made if there is none, open for writing at its end; never the target of a link. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.fdopen(_plain(os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666), path), "ab")


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A hidden name beside `path` for this process to write a file or a folder under, until it is complete and renamed.
    It is removed whatever happens, and so is what killed processes left under such names. Raises OSError for the name of a device."""
    require_replaceable(path)
    known = f".{glob.escape(path.stem)}.*.part{glob.escape(path.suffix)}"
    for old in path.parent.glob(known):
        with contextlib.suppress(OSError):
            if time.time() - old.lstat().st_mtime > ABANDONED:
                _remove(old)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def read_bytes(path: str | os.PathLike, limit: int | None = None) -> bytes:
    """The content of a plain file. Raises OSError, and TooLarge beyond `limit` bytes or for want of memory."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise TooLarge(f"{path} has {amount(size)}, expected at most {amount(limit)}; restore it")
        require_memory(2 * size, str(path))
        return file.read(size)


def require_plausible(claimed: int, size: int, where: str) -> None:
    """Raises TooLarge if a file of `size` bytes claims arrays of more than it can hold, even compressed."""
    if claimed > max(UNSUSPICIOUS, RATIO * size):
        raise TooLarge(
            f"{where}: claims {amount(claimed)} of arrays in a file of {amount(size)}, expected at most {RATIO} times its size; "
            "it is damaged or no recording: write it again"
        )


def require_honest(claimed: int, size: int, where: str) -> None:
    """Raises TooLarge if a file of `size` bytes claims arrays of more than it can hold, even compressed, or than fit in memory."""
    require_plausible(claimed, size, where)
    require_memory(3 * claimed, where)


def require_memory(needed: int, where: str) -> None:
    """Raises TooLarge if this process cannot have `needed` bytes."""
    free = free_memory()
    if needed > free:
        raise TooLarge(
            f"{where}: reading it takes {amount(needed)} of memory, {amount(free)} are free; "
            "use a machine with more, or split the file"
        )


def amount(size: float) -> str:
    """A number of bytes for a message."""
    power = min(int(math.log(max(size, 1), 1024)), 4)
    return f"{size / 1024**power:.4g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def free_memory() -> float:
    """Bytes that this process may still take, as far as the system says."""
    found = [_available(), _below_group_limit(), _below_own_limit()]
    return max(min(found), 0)


def _available() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return math.inf


def _below_group_limit() -> float:
    """What a container's limit leaves; the pages of files that it counts are given back on demand."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (folder / "memory.stat").read_text().splitlines()
        return limit - used + next(int(line.split()[1]) for line in lines if line.startswith("file "))
    except (OSError, ValueError, StopIteration):  # "max": no limit
        return math.inf


def _below_own_limit() -> float:
    """What `ulimit -v` leaves."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return math.inf
        return limit - int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, OSError, ValueError):
        return math.inf


@contextlib.contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone holds the lock file `path` while the context lasts; `wait`: until it does. Raises OSError."""
    import filelock  # who only acts needs none

    appended(path).close()  # refuse what is no plain file
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=wait)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
