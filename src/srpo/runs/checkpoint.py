"""Pytrees of arrays on disk: safetensors, strict about every name, shape and type, replaced atomically.

Nothing loaded from these files can run code, and nothing is allocated before their sizes were looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load, save

from srpo.errors import UserError
from srpo.system import strict_json
from srpo.system.files import created, opened, read_bytes, require_replaceable

PART = ".part"  # the end of a file's name while it is written
HEADER = 16 << 20  # bytes that the header of a safetensors file may have


class CheckpointError(UserError):
    """A file that is damaged, of another shape, or could not be written."""


class NotWritten(CheckpointError):
    """A file that could not be written, such as on a full disk; what was there before is intact."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, completely or not at all. Raises CheckpointError if it cannot be written."""
    part = path.with_name(path.name + PART)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_replaceable(path)
        with created(part) as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise NotWritten(f"cannot write {path}: {e.strerror or e}; what was there before is intact") from e


def sweep_parts(folder: Path) -> None:
    """Remove what a killed process left half written in a run's folder."""
    for place in (folder, folder / "stages", folder / "state", folder / "policy"):
        for part in place.glob(f"*{PART}"):
            if part.is_file() or part.is_symlink():
                part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (strict_json.dumps(value, indent=1) + "\n").encode())


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by dotted path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def save_tree(path: Path, tree: Any, **info: Any) -> str:
    """Write the arrays of `tree`, and `info` (anything JSON can hold) beside them; the file's SHA-256."""
    arrays = {name: np.ascontiguousarray(np.asarray(leaf)) for name, leaf in flatten(tree).items()}
    content = save(arrays, {"info": json.dumps(info)})
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def load_info(path: Path) -> Any:
    """The `info` that `save_tree` was given, unchecked. Raises CheckpointError if the file is damaged."""
    with _reading(path), opened(path) as file:
        size = int.from_bytes(file.read(8), "little")
        if size > HEADER:
            raise ValueError(f"a header of {size} bytes")
        return json.loads(json.loads(file.read(size)).get("__metadata__", {}).get("info", "{}"))


def load_tree(path: Path, like: Any, sha256: str | None = None) -> Any:
    """The tree that `save_tree` wrote, in the structure of `like` (arrays or their shapes).

    Raises CheckpointError if the file is damaged, holds other names, shapes or types, or has another hash than `sha256`.
    """
    wanted = flatten(like)
    found = _arrays(path, sha256)
    if found.keys() != wanted.keys():
        odd = sorted(found.keys() ^ wanted.keys())
        raise CheckpointError(
            f"{path} does not fit its run's settings: {odd[0]!r} is {'extra' if odd[0] in found else 'missing'}"
        )
    for name, leaf in wanted.items():
        a = found[name]
        if a.shape != tuple(leaf.shape) or a.dtype != leaf.dtype:
            raise CheckpointError(f"{path}: {name} is {a.dtype}{list(a.shape)}, expected {leaf.dtype}{list(leaf.shape)}")
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in wanted])


def require_finite(path: Path, tree: Any) -> None:
    """Raises CheckpointError, naming the array, if a number of a tree that was read from `path` is not finite."""
    for name, leaf in flatten(tree).items():
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite; restore it or train again")


def _arrays(path: Path, sha256: str | None) -> dict[str, np.ndarray]:
    with _reading(path):
        content = read_bytes(path)
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise CheckpointError(f"{path} is not the file that its run wrote (its hash differs); restore it or train again")
        if int.from_bytes(content[:8], "little") > HEADER:
            raise ValueError("its header is too long")
        return load(content)


@contextlib.contextmanager
def _reading(path: Path):
    """Whatever goes wrong with a file from outside is one CheckpointError."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; the run is incomplete or its folder was changed") from None
    except Exception as e:  # a malformed file can raise many kinds
        raise CheckpointError(f"{path} is damaged ({e or type(e).__name__}); restore it or train again") from e
