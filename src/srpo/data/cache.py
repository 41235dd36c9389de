"""Where arrays are kept that do not fit in memory and cannot be read in place: unpacked once, found again by the file's hash.

`SRPO_CACHE_DIR`, else `srpo` in `XDG_CACHE_HOME`, else `~/.cache/srpo`. Everything in it may be deleted at any time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from srpo.errors import DataError
from srpo.system.files import amount, unfinished
from srpo.system.surroundings import expanded


def folder(needed: int = 0) -> Path:
    """The cache, made if it is not there. Raises DataError if it cannot be, or has no room for `needed` bytes."""
    home = os.environ.get("XDG_CACHE_HOME")
    told = os.environ.get("SRPO_CACHE_DIR") or (os.path.join(home, "srpo") if home else "~/.cache/srpo")
    path = expanded(told)
    if path is None:
        raise DataError("there is no home folder to keep unpacked data in; set SRPO_CACHE_DIR to a folder with room for them")
    try:
        path.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path).free
    except OSError as error:
        raise DataError(
            f"{path}: the folder for unpacked data cannot be made ({error.strerror}); set SRPO_CACHE_DIR to another one"
        ) from None
    if needed > free:
        raise DataError(
            f"{path}: unpacked data need {amount(needed)}, {amount(free)} are free; set SRPO_CACHE_DIR to a folder with more room"
        )
    return path


Parts = Callable[[], Iterator[np.ndarray]]


def unpacked(key: str, arrays: Mapping[str, tuple[tuple[int, ...], np.dtype, Parts]], label: str) -> dict[str, Path]:
    """The .npy files of arrays (shape, type, and what makes their rows piece by piece), written if they are not there yet:
    all or none of them, with a progress bar. Raises DataError."""
    sizes = {name: int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for name, (shape, dtype, _) in arrays.items()}
    home = folder() / key
    files = {name: home / f"{name}.npy" for name in arrays}

    def whole() -> bool:
        return all(map(os.path.isfile, files.values()))

    if whole():
        return files
    try:
        with unfinished(folder(sum(sizes.values())) / key) as part:
            part.mkdir()
            _write(part, arrays, sum(sizes.values()), label)
            if not whole():
                shutil.rmtree(home, ignore_errors=True)  # what is left where some of it was deleted
            os.replace(part, home)
    except OSError as error:
        if not whole():  # or another process was faster
            raise DataError(
                f"{home}: cannot be written ({error.strerror or error}); set SRPO_CACHE_DIR to another folder"
            ) from None
    return files


def _write(home: Path, arrays: Mapping[str, tuple[tuple[int, ...], np.dtype, Parts]], size: int, label: str) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    shown = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*shown, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=size)
        for name, (shape, dtype, parts) in arrays.items():
            with open(home / f"{name}.npy", "wb") as file:
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for piece in parts():
                    file.write(np.ascontiguousarray(piece, dtype).data)
                    progress.advance(task, piece.nbytes)
                file.flush()
                os.fsync(file.fileno())
