"""Copies of folders in a storage that is reached by a URL: s3://, gs://, file://, or whatever else fsspec knows.

A copy is its files, named by their hashes, and a list of them that is replaced at once: who reads sees one moment of the
folder, wherever its writer died. Nothing that is read is trusted: paths stay inside the folder, contents have their hashes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from srpo.data.sources.hashes import file_hash
from srpo.errors import ConfigError
from srpo.runs.checkpoint import PART, CheckpointError, NotWritten
from srpo.system.files import unfinished

LIST, CONTENTS = "files.json", "contents"
TRIES = 5  # to read a copy that its writer replaces meanwhile
Hashes = Mapping[str, str]  # of files, by path


@dataclass(frozen=True)
class Storage:
    """Raises ConfigError, as soon as it is used, for a URL that fsspec cannot open."""

    url: str

    @cached_property
    def opened(self) -> tuple[Any, str]:
        """The file system of fsspec's, and the place in it."""
        try:
            from fsspec.core import url_to_fs

            return url_to_fs(self.url)
        except ImportError as e:
            raise ConfigError(f"--storage {self.url}: {e}; install what it needs, such as srpo[ray] or s3fs") from None
        except (ValueError, OSError) as e:
            raise ConfigError(f"--storage {self.url}: {e}; expected a URL such as s3://BUCKET/FOLDER") from None

    def __getstate__(self) -> dict[str, Any]:
        """Connections stay where they are."""
        return {"url": self.url}

    def push(self, name: str, root: Path, paths: Sequence[Path]) -> None:
        """Make the copy `name` what these files and folders inside `root` are now. Raises CheckpointError."""
        files = {path.relative_to(root).as_posix(): path for path in _files(paths)}
        now = {place: file_hash(path) for place, path in files.items()}
        with self._at(name) as (fs, here):
            known = self._list(fs, here)
            new = {sha256: files[place] for place, sha256 in now.items() if sha256 not in known.values()}
            fs.makedirs(f"{here}/{CONTENTS}", exist_ok=True)
            for sha256, path in new.items():
                fs.put_file(str(path), f"{here}/{CONTENTS}/{sha256}")
            if now != known:
                fs.pipe_file(f"{here}/{LIST}{PART}", json.dumps(now).encode())
                fs.mv(f"{here}/{LIST}{PART}", f"{here}/{LIST}")
            for sha256 in set(known.values()) - set(now.values()):
                with contextlib.suppress(FileNotFoundError):
                    fs.rm_file(f"{here}/{CONTENTS}/{sha256}")

    def pull(self, name: str, root: Path, without: str = "/") -> bool:
        """Make the files inside `root` what the copy `name` has, but for paths with the part `without`; False if there is none.

        Raises CheckpointError for a copy that is damaged, or cannot be read.
        """
        with self._at(name) as (fs, here):
            for _ in range(TRIES):
                found = {
                    place: sha256 for place, sha256 in self._list(fs, here).items() if without not in PurePosixPath(place).parts
                }
                try:
                    for place, sha256 in found.items():
                        self._get(fs, f"{here}/{CONTENTS}/{sha256}", root / place, sha256)
                    return bool(found)
                except FileNotFoundError:  # the writer has removed it since: there is a newer list
                    continue
        raise CheckpointError(f"{self.url}/{name} is damaged: its list names files that are not there; restore it or remove it")

    def _get(self, fs: Any, source: str, path: Path, sha256: str) -> None:
        if path.is_file() and file_hash(path) == sha256:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(path) as part:
            fs.get_file(source, str(part))
            if file_hash(part) != sha256:
                raise CheckpointError(f"{source} is damaged (its hash differs); restore it or remove the folder")
            os.replace(part, path)

    def _list(self, fs: Any, here: str) -> Hashes:
        """The hashes of the files of a copy by path; nothing if there is none. Raises CheckpointError."""
        try:
            found = json.loads(fs.cat_file(f"{here}/{LIST}"))
            for place, sha256 in found.items():
                parts = PurePosixPath(place).parts
                if not parts or ".." in parts or parts[0] == "/" or "\\" in place or not sha256.isalnum():
                    raise ValueError(place)
            return found
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError) as e:
            raise CheckpointError(f"{here}/{LIST} is damaged ({e}); restore it or remove the folder") from None

    @contextlib.contextmanager
    def _at(self, name: str) -> Iterator[tuple[Any, str]]:
        """The file system and the place of a copy; what goes wrong there is one CheckpointError."""
        fs, root = self.opened
        try:
            yield fs, f"{root.rstrip('/')}/{name}"
        except OSError as e:
            raise NotWritten(f"--storage {self.url}: {e.strerror or e}; make it work, then the same command goes on") from e


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """All files of these and in these, but for locks and what is half written."""
    for path in paths:
        for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if each.is_file() and each.name != "lock" and each.suffix != PART and not each.name.startswith("."):
                yield each
