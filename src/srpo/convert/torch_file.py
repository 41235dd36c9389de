"""Tensors from PyTorch's checkpoint files, without PyTorch.

Both layouts are read: the zip archive of PyTorch 1.6 and later, and the one before.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from srpo.convert.unpickle import TYPES, Machine, Storage, Tensor, damaged, refuse, short, type_name
from srpo.runs.checkpoint import CheckpointError
from srpo.system.files import read_bytes

Order = Literal["<", ">"]  # of bytes

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, read-only; bfloat16 as float32. Raises CheckpointError, in one line."""
    path = Path(path)
    try:
        content = read_bytes(path)  # of a plain file, within the memory
    except OSError as e:
        raise CheckpointError(f"cannot read {path}: {e.strerror or e}") from None
    if content.startswith(b"PK\x03\x04"):
        tree, order, read = _read_zip(path, content)
    else:
        tree, order, read = _read_legacy(path, content)
    if not isinstance(tree, dict):
        refuse(path, f"a {type_name(tree)}")
    for name, tensor in tree.items():
        if not isinstance(tensor, Tensor):
            refuse(path, f"{short(name)} of type {type_name(tensor)}")
    arrays = {storage: _array(path, storage, read, order) for storage in {t.storage for t in tree.values()}}
    return {name: _view(path, name, tensor, arrays[tensor.storage]) for name, tensor in tree.items()}


def _read_zip(path: Path, content: bytes) -> tuple[Any, Order, Callable[[Storage], bytes]]:
    """The pickled object, the byte order, and how to get at the storages."""

    def read(name: str) -> bytes:
        if name not in archive.namelist():
            damaged(path, f"no {name}")
        if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
            damaged(path, "compressed, which torch.save never does")
        try:
            return archive.read(name)
        except Exception as e:  # a malformed archive can raise many kinds
            damaged(path, e)

    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except Exception as e:
        damaged(path, f"its end is missing or wrong: {e}")
    names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise CheckpointError(f"{path} is a zip archive but no PyTorch checkpoint; give a file that torch.save wrote")
    root = names[0].removesuffix("data.pkl")
    found = read(root + "byteorder") if root + "byteorder" in archive.namelist() else b"little"
    if found not in (b"little", b"big"):
        damaged(path, f"unknown byte order {found!r}")
    order: Order = "<" if found == b"little" else ">"
    tree = Machine(path).run(io.BytesIO(read(names[0])))
    return tree, order, lambda storage: read(f"{root}data/{storage.key}")


def _read_legacy(path: Path, content: bytes) -> tuple[Any, Order, Callable[[Storage], bytes]]:
    """As `_read_zip`: five pickles (magic number, protocol, machine, object, storage keys), then the storages."""
    file = io.BytesIO(content)
    magic = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little") + b"."
    if not content.startswith(magic):
        raise CheckpointError(f"{path} is not a PyTorch checkpoint; give a .pth file that torch.save wrote")
    _, _, machine, tree, keys = (Machine(path).run(file) for _ in range(5))
    if not isinstance(machine, dict) or not isinstance(keys, list):
        damaged(path, "no description of the machine or the storages")
    tensors = [t for t in tree.values() if isinstance(t, Tensor)] if isinstance(tree, dict) else []
    bytes_of = {t.storage.key: np.dtype(TYPES[t.storage.kind]).itemsize for t in tensors}
    at, found = file.tell(), {}
    for key in keys:
        length = struct.unpack_from("<q", content, at)[0] if len(content) >= at + 8 else -1
        stop = at + 8 + length * (bytes_of.get(key, 0) if isinstance(key, str) else 0)
        if length < 0 or stop > len(content) or stop == at + 8:
            damaged(path, "its storages do not fit its tensors")
        found[key] = content[at + 8 : stop]
        at = stop
    order: Order = "<" if machine.get("little_endian", True) else ">"
    return tree, order, lambda storage: found.get(storage.key, b"")


def _array(path: Path, storage: Storage, read: Callable[[Storage], bytes], order: Order) -> np.ndarray:
    """(length,) what a storage holds."""
    dtype = np.dtype(TYPES[storage.kind])
    content = read(storage)
    if len(content) != storage.length * dtype.itemsize:
        damaged(path, f"storage {short(storage.key)} has {len(content)} bytes, expected {storage.length * dtype.itemsize}")
    array = np.frombuffer(content, dtype.newbyteorder(order)).astype(dtype)
    return (array.astype("u4") << 16).view("f4") if storage.kind == "BFloat16Storage" else array


def _view(path: Path, name: str, tensor: Tensor, array: np.ndarray) -> np.ndarray:
    """The tensor as a view of its storage."""
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    count = math.prod(tensor.size)
    if count == 0 or count > len(array) or last >= len(array):
        damaged(path, f"{name!r} is empty or reaches beyond its storage")
    steps = tuple(step * array.itemsize if n > 1 else 0 for n, step in zip(tensor.size, tensor.stride, strict=True))
    return np.lib.stride_tricks.as_strided(array[tensor.offset :], tensor.size, steps, writeable=False)
