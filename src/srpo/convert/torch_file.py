"""Tensors from PyTorch's checkpoint files, without PyTorch and without running anything that the files ask for.

A checkpoint is a pickle, which in general can call any function. Here it may only name tensors, their storages
and ordered dictionaries; for each of these names stands an object of this module, so nothing named in a file is
ever imported or called. Both layouts are read: the zip archive of PyTorch 1.6 and later, and the one before.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from srpo.checkpoint import CheckpointError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
TYPES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "u2", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
# All that torch.save writes for a state_dict. Others could look up or make objects past `find_class`.
OPCODES = frozenset(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE "
    "EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM SETITEMS "
    "BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID".split()
)


class _Storage(NamedTuple):
    kind: str
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _StorageType(NamedTuple):
    """Stands for torch.FloatStorage and its like."""

    kind: str


class _Maker(NamedTuple):
    """Stands for a function or class of torch: makes what this module has in its place."""

    make: Callable

    def __call__(self, *args):
        return self.make(*args)


class _Mapping(dict):
    """Stands for an OrderedDict; what modules attach to it (the versions of their layers) is dropped."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


def _make_tensor(storage, offset, size, stride, *_) -> _Tensor:
    numbers = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 8
    if not isinstance(storage, _Storage) or not numbers or any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise pickle.UnpicklingError("a tensor without a proper storage or shape")
    return _Tensor(storage, offset, size, stride)


STAND_INS = {
    ("torch._utils", "_rebuild_tensor_v2"): _Maker(_make_tensor),
    ("torch._utils", "_rebuild_parameter"): _Maker(lambda tensor, *_: tensor),
    ("collections", "OrderedDict"): _Maker(lambda: _Mapping()),
} | {("torch", kind): _StorageType(kind) for kind in TYPES}


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name, read-only; bfloat16 as float32. Raises CheckpointError, in one line."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as e:
        raise CheckpointError(f"cannot read {path}: {e.strerror or e}") from None
    if content.startswith(b"PK\x03\x04"):
        tree, order, read = _read_zip(path, content)
    else:
        tree, order, read = _read_legacy(path, content)
    if not isinstance(tree, dict):
        _refuse(path, f"a {_kind(tree)}")
    for name, tensor in tree.items():
        if not isinstance(name, str):
            _refuse(path, f"something named by a {_kind(name)}")
        if not isinstance(tensor, _Tensor):
            _refuse(path, f"{_short(name)} of type {_kind(tensor)}")
    arrays = {storage: _array(path, storage, read, order) for storage in {t.storage for t in tree.values()}}
    return {name: _view(path, name, tensor, arrays[tensor.storage]) for name, tensor in tree.items()}


def _kind(thing: object) -> str:
    return type(thing).__name__.strip("_").lower()


def _short(found: str) -> str:
    return repr(found)[:80]


def _refuse(path: Path, what: str) -> NoReturn:
    raise CheckpointError(
        f"{path} holds {what}, expected named tensors only; nothing of it was run; save model.state_dict() and nothing else"
    ) from None


def _damaged(path: Path, why: object) -> NoReturn:
    raise CheckpointError(f"{path} is damaged ({_short(str(why))}); copy or download it again") from None


class _Unpickler(pickle.Unpickler):
    """Makes the stand-ins of this module, and nothing else."""

    def __init__(self, path: Path, content: bytes):
        super().__init__(io.BytesIO(content))
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            _refuse(self.path, _short(f"{module}.{name}"))
        return STAND_INS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, length, *view = pid
        if kind != "storage" or not isinstance(storage_type, _StorageType) or any(view):
            raise pickle.UnpicklingError("a reference to something else than a storage")
        if not isinstance(key, str) or type(length) is not int or length < 0:
            raise pickle.UnpicklingError("a storage without a name or length")
        return _Storage(storage_type.kind, key, length)


def _unpickle(path: Path, file: BinaryIO) -> Any:
    """The next pickle of `file`, checked before it is read. Raises CheckpointError."""
    start = file.tell()
    try:
        for opcode, arg, _ in pickletools.genops(file):
            if opcode.name not in OPCODES:
                _refuse(path, f"the pickle instruction {opcode.name}")
            if opcode.name == "LONG_BINPUT" and arg > file.tell():  # would reserve memory for all before
                _damaged(path, "a pickle with a wrong index")
        stop = file.tell()
        file.seek(start)
        return _Unpickler(path, file.read(stop - start)).load()
    except CheckpointError:
        raise
    except Exception as e:  # a malformed pickle can raise anything
        _damaged(path, f"{type(e).__name__}: {e}")


def _read_zip(path: Path, content: bytes) -> tuple[Any, str, Callable[[_Storage], bytes]]:
    """The pickled object, the byte order, and how to get at the storages."""

    def read(name: str) -> bytes:
        if name not in archive.namelist():
            _damaged(path, f"no {name}")
        if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
            _damaged(path, "compressed, which torch.save never does")
        try:
            return archive.read(name)
        except Exception as e:  # a malformed archive can raise many kinds
            _damaged(path, e)

    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except Exception as e:
        _damaged(path, f"its end is missing or wrong: {e}")
    names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise CheckpointError(f"{path} is a zip archive but no PyTorch checkpoint; give a file that torch.save wrote")
    root = names[0].removesuffix("data.pkl")
    order = read(root + "byteorder") if root + "byteorder" in archive.namelist() else b"little"
    if order not in (b"little", b"big"):
        _damaged(path, f"unknown byte order {order!r}")
    tree = _unpickle(path, io.BytesIO(read(names[0])))
    return tree, "<" if order == b"little" else ">", lambda storage: read(f"{root}data/{storage.key}")


def _read_legacy(path: Path, content: bytes) -> tuple[Any, str, Callable[[_Storage], bytes]]:
    """As `_read_zip`: five pickles (magic number, protocol, machine, object, storage keys), then the storages."""
    file = io.BytesIO(content)
    magic = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little") + b"."
    if not content.startswith(magic):
        raise CheckpointError(f"{path} is not a PyTorch checkpoint; give a .pth file that torch.save wrote")
    _, _, machine, tree, keys = (_unpickle(path, file) for _ in range(5))
    if not isinstance(machine, dict) or not isinstance(keys, list):
        _damaged(path, "no description of the machine or the storages")
    tensors = [t for t in tree.values() if isinstance(t, _Tensor)] if isinstance(tree, dict) else []
    bytes_of = {t.storage.key: np.dtype(TYPES[t.storage.kind]).itemsize for t in tensors}
    at, found = file.tell(), {}
    for key in keys:
        if key not in bytes_of or len(content) < at + 8:
            _damaged(path, "its storages do not fit its tensors")
        start, length = at + 8, struct.unpack_from("<q", content, at)[0]
        at = start + length * bytes_of[key]
        found[key] = content[start:at]
    order = "<" if machine.get("little_endian", True) else ">"
    return tree, order, lambda storage: found.get(storage.key, b"")


def _array(path: Path, storage: _Storage, read: Callable[[_Storage], bytes], order: str) -> np.ndarray:
    """(length,) what a storage holds."""
    kind = np.dtype(TYPES[storage.kind])
    content = read(storage)
    if len(content) != storage.length * kind.itemsize:
        _damaged(path, f"storage {storage.key} has {len(content)} bytes, expected {storage.length * kind.itemsize}")
    array = np.frombuffer(content, kind.newbyteorder(order)).astype(kind)
    return (array.astype("u4") << 16).view("f4") if storage.kind == "BFloat16Storage" else array


def _view(path: Path, name: str, tensor: _Tensor, array: np.ndarray) -> np.ndarray:
    """The tensor as a view of its storage."""
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    count = math.prod(tensor.size)
    if count == 0 or count > len(array) or last >= len(array):
        _damaged(path, f"{name!r} is empty or reaches beyond its storage")
    steps = tuple(step * array.itemsize if n > 1 else 0 for n, step in zip(tensor.size, tensor.stride, strict=True))
    return np.lib.stride_tricks.as_strided(array[tensor.offset :], tensor.size, steps, writeable=False)
