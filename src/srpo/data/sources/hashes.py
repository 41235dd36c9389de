"""The hash by which a file is known."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from srpo.system.files import opened

SLOW = 4 << 30  # bytes that take a while
BLOCK = 1 << 22


def file_hash(path: Path) -> str:
    """SHA-256 of a file, found once for as long as it does not change."""
    found = os.stat(path)
    return _hash(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _hash(path: Path, size: int, changed: int) -> str:
    with opened(path) as file:
        if size < SLOW:
            return hashlib.file_digest(file, "sha256").hexdigest()
        from rich.console import Console
        from rich.progress import Progress

        digest = hashlib.sha256()
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(f"{path.name}: its hash", total=size)
            while block := file.read(BLOCK):
                digest.update(block)
                progress.advance(task, len(block))
        return digest.hexdigest()
