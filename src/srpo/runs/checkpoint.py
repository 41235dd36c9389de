"""Pytrees of arrays on disk: safetensors, strict about every name, shape and type, replaced atomically.

Nothing loaded from these files can run code.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from srpo import strict_json
from srpo.errors import UserError


class CheckpointError(UserError):
    """A file that is damaged, of another shape, or could not be written."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`, completely or not at all. Raises CheckpointError if it cannot be written."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {e.strerror or e}; what was there before is intact") from e


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (strict_json.dumps(value, indent=1) + "\n").encode())


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by dotted path."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def save_tree(path: Path, tree: Any, **info: Any) -> None:
    """Write the arrays of `tree`, and `info` (anything JSON can hold) beside them."""
    arrays = {name: np.ascontiguousarray(np.asarray(leaf)) for name, leaf in flatten(tree).items()}
    write_atomically(path, save(arrays, {"info": json.dumps(info)}))


def _opened(path: Path, read: Callable) -> Any:
    try:
        with safe_open(path, framework="numpy") as f:
            return read(f)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; the run is incomplete or its folder was changed") from None
    except (OSError, SafetensorError, json.JSONDecodeError) as e:
        raise CheckpointError(f"{path} is damaged ({e}); restore it or train again") from e


def load_info(path: Path) -> dict[str, Any]:
    return _opened(path, lambda f: json.loads((f.metadata() or {}).get("info", "{}")))


def load_tree(path: Path, like: Any) -> Any:
    """The tree that `save_tree` wrote, in the structure of `like` (arrays or their shapes).

    Raises CheckpointError if the file is damaged or holds other names, shapes or types.
    """
    wanted = flatten(like)
    found = _opened(path, lambda f: {name: f.get_tensor(name) for name in f.keys()})  # noqa: SIM118
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
