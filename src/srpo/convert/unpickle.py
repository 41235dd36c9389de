"""The pickle inside a PyTorch checkpoint, followed without `pickle`: nothing named in it is imported or called.

A pickle in general can call any function. The few instructions that make up a state_dict are followed here, and the
names that they may contain (tensors, their storages, ordered dictionaries) stand for objects of this module.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

from srpo.runs.checkpoint import CheckpointError

TYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}


class Storage(NamedTuple):
    kind: str
    key: str
    length: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class StorageType(NamedTuple):
    """Stands for torch.FloatStorage and its like."""

    kind: str


class Maker(NamedTuple):
    """Stands for a function or class of torch: makes what this module has in its place."""

    make: Callable


def _make_tensor(storage, offset, size, stride, *_) -> Tensor:
    numbers = (offset, *_expect(tuple, size), *_expect(tuple, stride))
    if len(size) != len(stride) or len(size) > 8 or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("a tensor without a proper shape")
    return Tensor(_expect(Storage, storage), offset, size, stride)


STAND_INS = {
    "torch._utils._rebuild_tensor_v2": Maker(_make_tensor),
    "torch._utils._rebuild_parameter": Maker(lambda tensor, *_: tensor),
    "collections.OrderedDict": Maker(dict),
} | {f"torch.{kind}": StorageType(kind) for kind in TYPES}


def type_name(thing: object) -> str:
    return type(thing).__name__.lower()


def short(text: str) -> str:
    return repr(text)[:80]


def refuse(path: Path, what: str) -> NoReturn:
    raise CheckpointError(
        f"{path} holds {what}, expected named tensors only; nothing of it was run; save model.state_dict() and nothing else"
    ) from None


def damaged(path: Path, why: object) -> NoReturn:
    raise CheckpointError(f"{path} is damaged ({short(str(why))}); copy or download it again") from None


class Machine:
    """Follows the instructions of one pickle, as far as a state_dict needs them."""

    def __init__(self, path: Path):
        self.path = path
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        """The object of the next pickle in `file`. Raises CheckpointError."""
        try:
            for opcode, arg, _ in pickletools.genops(file):
                self._step(opcode.name, arg)
            (found,) = self.stack
            return found
        except CheckpointError:
            raise
        except Exception as e:  # a malformed pickle can raise many kinds
            damaged(self.path, f"{type(e).__name__}: {e}")

    def _step(self, name: str, arg: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._taken(None if name == "TUPLE" else int(name[-1]))))
            case "APPEND" | "APPENDS":
                items = self._taken(1 if name == "APPEND" else None)
                self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                self._set(self._taken(2 if name == "SETITEM" else None))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.memo[len(self.memo) if arg is None else arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[arg])
            case "GLOBAL":
                stack.append(self._named(arg.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                stack.append(self._named(".".join(self._taken(2))))
            case "REDUCE":
                maker, args = self._taken(2)
                stack.append(_expect(Maker, maker).make(*_expect(tuple, args)))
            case "BUILD":  # what a module attaches to its state_dict: the versions of its layers
                self._taken(1), self._top(dict)
            case "BINPERSID":
                stack.append(_make_storage(*self._taken(1)[0]))
            case _ if name in VALUES:
                stack.append(arg)
            case _ if name in CONSTANTS:
                stack.append(CONSTANTS[name]())
            case _:
                refuse(self.path, f"the pickle instruction {name}")

    def _taken(self, count: int | None) -> list[Any]:
        """The last `count` things on the stack, or those since the last mark, taken off it."""
        at = self.marks.pop() if count is None else len(self.stack) - count
        if at < 0:
            raise ValueError("too little on the stack")
        taken = self.stack[at:]
        del self.stack[at:]
        return taken

    def _top(self, wanted: type) -> Any:
        return _expect(wanted, self.stack[-1])

    def _set(self, pairs: list[Any]) -> None:
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) is not str:
                refuse(self.path, f"something named by a {type_name(key)}")
            self._top(dict)[key] = value

    def _named(self, name: str) -> Any:
        if name not in STAND_INS:
            refuse(self.path, short(name))
        return STAND_INS[name]


def _expect(wanted: type, found: Any) -> Any:
    if type(found) is not wanted:
        raise ValueError(f"a {type_name(found)} in the place of a {wanted.__name__.lower()}")
    return found


def _make_storage(what: Any, storage_type: Any, key: Any, _: Any, length: Any, *view: Any) -> Storage:
    """The storage that a reference such as ("storage", torch.FloatStorage, "0", "cuda:0", 256) means."""
    if what != "storage" or type(length) is not int or length < 0 or any(view):
        raise ValueError("a reference to something else than a storage")
    return Storage(_expect(StorageType, storage_type).kind, _expect(str, key), length)
