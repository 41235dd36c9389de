"""PyTorch's two checkpoint layouts, written without PyTorch, byte by byte where a test wants to bend them."""

import io
import pickle
import zipfile
from dataclasses import dataclass, replace

import numpy as np

KINDS = {"f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage", "?": "BoolStorage"}


class NoTorch:
    """Importing PyTorch fails, even where it is installed."""

    @staticmethod
    def find_spec(module, *_):
        assert module.partition(".")[0] != "torch", "a file made us import PyTorch"


def plain(value):
    """The instructions that leave a plain value on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


EMPTY = name("collections", "OrderedDict") + b")R"
START, STOP = b"\x80\x02", b"."


@dataclass(frozen=True)
class Tensor:
    """A view of a storage: what _rebuild_tensor_v2 is called with."""

    key: str
    storage: np.ndarray
    size: tuple
    stride: tuple
    offset: int = 0
    kind: str = ""
    parameter: bool = False

    @classmethod
    def of(cls, key, array):
        return cls(key, array.ravel(), array.shape, tuple(s // array.itemsize for s in array.strides))

    def pickled(self, legacy=False):
        kind = self.kind or KINDS[self.storage.dtype.newbyteorder("=").str[1:].replace("b1", "?")]
        storage = b"(" + plain("storage") + name("torch", kind) + plain(self.key) + plain("cuda:0") + plain(len(self.storage))
        shape = plain(self.offset) + plain(self.size) + plain(self.stride) + b"\x89" + EMPTY
        rebuild = name("torch._utils", "_rebuild_tensor_v2")
        out = rebuild + b"(" + storage + (b"N" if legacy else b"") + b"tQ" + shape + b"tR"
        return name("torch._utils", "_rebuild_parameter") + b"(" + out + b"\x88" + EMPTY + b"tR" if self.parameter else out


def tensors(arrays):
    return {key: Tensor.of(str(i), np.ascontiguousarray(a)) for i, (key, a) in enumerate(arrays.items())}


def state_dict(items, legacy=False):
    """The pickle of a state_dict of tensors (or, where an item is bytes, of those instructions), with its metadata."""
    pairs = b"".join(plain(k) + (t if isinstance(t, bytes) else t.pickled(legacy)) for k, t in items.items())
    metadata = b"}" + plain("_metadata") + EMPTY + plain("") + plain({"version": 1}) + b"ssb"
    return START + EMPTY + b"(" + pairs + b"u" + metadata + STOP


def write_zip(path, items, content=None, order=b"little", compression=zipfile.ZIP_STORED, root="archive", drop=()):
    """`content`: a pickle to write in place of the one of `items`."""
    storages = {t.key: t.storage for t in items.values() if isinstance(t, Tensor)}
    entries = {"data.pkl": state_dict(items) if content is None else content, "version": b"3\n"}
    entries |= ({"byteorder": order} if order else {}) | {f"data/{key}": s.tobytes() for key, s in storages.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for entry, value in entries.items():
            if entry not in drop:
                archive.writestr(f"{root}/{entry}", value)
    return path


def write_legacy(path, items, content=None, length=None):
    """The layout before PyTorch 1.6: five pickles, then each storage behind its length."""
    storages = {t.key: t.storage for t in items.values() if isinstance(t, Tensor)}
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    out = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, machine):
        out.write(pickle.dumps(value, 2))
    out.write(state_dict(items, legacy=True) if content is None else content)
    out.write(pickle.dumps(sorted(storages), 2))
    for key in sorted(storages):
        out.write((len(storages[key]) if length is None else length).to_bytes(8, "little") + storages[key].tobytes())
    path.write_bytes(out.getvalue())
    return path


def changed(items, key, **changes):
    return items | {key: replace(items[key], **changes)}
