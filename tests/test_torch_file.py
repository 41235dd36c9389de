"""PyTorch's checkpoint files: both layouts are read, what is not a state_dict is refused, and nothing is ever run."""

import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch_files import EMPTY, START, STOP, NoTorch, Tensor, changed, name, plain, state_dict, write_legacy, write_zip

from srpo.convert import unpickle
from srpo.convert.torch_file import read_tensors
from srpo.runs.checkpoint import CheckpointError

CRITIC = Path(__file__).parent / "fixtures" / "official_critic.pth"  # written by PyTorch: make_official.py
WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])
ONE = {"x": Tensor("0", np.ones(4, "f4"), (4,), (1,))}


@pytest.fixture(autouse=True)
def no_torch(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [NoTorch, *sys.meta_path])


def refusal(path):
    with pytest.raises(CheckpointError) as e:
        read_tensors(path)
    assert "\n" not in str(e.value) and str(path) in str(e.value)
    return str(e.value)


@WRITERS
def test_views_share_storages(write, tmp_path):
    base = np.arange(12, dtype="f4")
    items = {
        "whole": Tensor("0", base, (3, 4), (4, 1)),
        "transposed": Tensor("0", base, (4, 3), (1, 4)),
        "every other, from 1": Tensor("0", base, (5,), (2,), 1),
        "scalar": Tensor("0", base, (), (), 7),
        "parameter": Tensor("0", base, (2, 2), (6, 3), 2, parameter=True),
        "integers": Tensor("1", np.arange(3), (3,), (1,)),
        "flags": Tensor("2", np.array([True, False]), (2,), (1,)),
    }
    found = read_tensors(write(tmp_path / "views.pth", items))
    wanted = {
        "whole": base.reshape(3, 4),
        "transposed": base.reshape(3, 4).T,
        "every other, from 1": base[1:10:2],
        "scalar": base[7],
        "parameter": [[2, 5], [8, 11]],
        "integers": [0, 1, 2],
        "flags": [True, False],
    }
    assert found.keys() == wanted.keys()
    for key, x in wanted.items():
        np.testing.assert_array_equal(found[key], x, err_msg=key)
        assert not found[key].flags.writeable


def test_brain_floats_and_big_endian_files(tmp_path):
    x = np.array([1.0, -2.5, 3e38, 0.15625], "f4")  # exact in bfloat16, or rounded to it below
    upper = (x.view("u4") >> 16).astype("u2")
    items = {"x": Tensor("0", upper.view("f2"), (4,), (1,), kind="BFloat16Storage")}
    rounded = (upper.astype("u4") << 16).view("f4")
    np.testing.assert_array_equal(read_tensors(write_zip(tmp_path / "b.pth", items))["x"], rounded)
    big = {"x": Tensor("0", x.astype(">f4"), (4,), (1,))}
    np.testing.assert_array_equal(read_tensors(write_zip(tmp_path / "e.pth", big, order=b"big"))["x"], x)
    old = {"x": Tensor("0", x, (4,), (1,))}
    np.testing.assert_array_equal(read_tensors(write_zip(tmp_path / "o.pth", old, order=None))["x"], x)


CALL = {  # pickles that would run `canary.sing` if anyone followed them
    "a call": START + name("canary", "sing") + b")R" + STOP,
    "inside a state_dict": state_dict({"x": name("canary", "sing") + b")R"}),
    "by a name on the stack": b"\x80\x04" + plain("canary") + plain("sing") + b"\x93)R" + STOP,
    "as a new object": START + name("canary", "Song") + b")\x81" + STOP,
    "as an instance": START + b"(icanary\nSong\n" + STOP,
    "as an object": START + b"(" + name("canary", "Song") + b"o" + STOP,
    "by a reference": START
    + b"("
    + plain("storage")
    + name("canary", "Song")
    + plain("0")
    + plain("cpu")
    + plain(1)
    + b"tQ"
    + STOP,
    "as state": START + EMPTY + name("canary", "sing") + b")Rb" + STOP,
    "of the system": START + name("posix", "system") + plain("touch SONG") + b"\x85R" + STOP,
    "of a builtin": START + name("builtins", "exec") + plain("open('SONG', 'w')") + b"\x85R" + STOP,
    "of torch itself": START + name("torch.hub", "load") + plain("canary") + b"\x85R" + STOP,
}


@WRITERS
@pytest.mark.parametrize("attack", CALL)
def test_nothing_in_a_file_is_run(attack, write, tmp_path, monkeypatch):
    (tmp_path / "canary.py").write_text("open('SONG', 'w')\ndef sing(): pass\nclass Song: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    message = refusal(write(tmp_path / "evil.pth", {}, CALL[attack]))
    assert "nothing of it was run" in message
    assert not (tmp_path / "SONG").exists() and "canary" not in sys.modules


@pytest.mark.parametrize("state", [{"make": print}, (None, {"make": 1}), {"__class__": 1}])
def test_stand_ins_cannot_be_changed(state, tmp_path):
    before = dict(unpickle.STAND_INS)
    values = plain(state) if state != {"make": print} else b"}" + plain("make") + name("collections", "OrderedDict") + b"s"
    for stand_in in (name("collections", "OrderedDict"), name("torch", "FloatStorage"), ONE["x"].pickled()):
        assert "is damaged" in refusal(write_zip(tmp_path / "evil.pth", ONE, START + stand_in + values + b"b" + STOP))
    assert before == unpickle.STAND_INS and read_tensors(write_zip(tmp_path / "good.pth", ONE))["x"].sum() == 4


REFUSED = {
    "empty": (lambda p: p.write_bytes(b""), "is not a PyTorch checkpoint"),
    "text": (lambda p: p.write_text("weights"), "is not a PyTorch checkpoint"),
    "another archive": (lambda p: write_zip(p, ONE, drop=("data.pkl",)), "a zip archive but no PyTorch checkpoint"),
    "cut": (lambda p: p.write_bytes(CRITIC.read_bytes()[:-100]), "is damaged"),
    "flipped": (lambda p: p.write_bytes(CRITIC.read_bytes().replace(b"q0_target", b"q1_target", 1)), "is damaged"),
    "compressed": (lambda p: write_zip(p, ONE, compression=zipfile.ZIP_DEFLATED), "compressed, which torch.save never does"),
    "no storage": (lambda p: write_zip(p, ONE, drop=("data/0",)), "no archive/data/0"),
    "byte order": (lambda p: write_zip(p, ONE, order=b"middle"), "unknown byte order"),
    "beyond": (lambda p: write_zip(p, changed(ONE, "x", offset=1)), "'x' is empty or reaches beyond its storage"),
    "huge": (lambda p: write_zip(p, changed(ONE, "x", size=(10**9, 10**9), stride=(0, 0))), "reaches beyond its storage"),
    "negative": (lambda p: write_zip(p, changed(ONE, "x", stride=(-1,))), "a tensor without a proper shape"),
    "cut pickle": (lambda p: write_zip(p, ONE, state_dict(ONE)[:-9]), "is damaged"),
    "large index": (lambda p: write_zip(p, ONE, START + b"Nr\xff\xff\xff\xff" + STOP), "holds a nonetype"),
    "deep key": (lambda p: write_zip(p, ONE, START + b"}N" + b"\x85" * 3 * 10**5 + b"Ns" + STOP), "something named by a tuple"),
    "nothing on the stack": (lambda p: write_zip(p, ONE, START + b"\x86" + STOP), "too little on the stack"),
    "no function": (lambda p: write_zip(p, ONE, START + b"N)R" + STOP), "a nonetype in the place of a maker"),
    "training state": (
        lambda p: write_zip(p, ONE | {"epoch": plain(3)}),
        "holds 'epoch' of type int, expected named tensors only",
    ),
    "nested": (lambda p: write_zip(p, ONE | {"model": EMPTY}), "holds 'model' of type dict"),
    "a list": (lambda p: write_zip(p, ONE, START + b"]" + STOP), "holds a list"),
    "a tensor": (lambda p: write_zip(p, ONE, START + ONE["x"].pickled() + STOP), "holds a tensor"),
    "numbered": (lambda p: write_zip(p, ONE, START + b"}" + plain(0) + ONE["x"].pickled() + b"s" + STOP), "named by a int"),
    "quantized": (lambda p: write_zip(p, changed(ONE, "x", kind="QInt8Storage")), "holds 'torch.QInt8Storage'"),
    "wrong type": (lambda p: write_zip(p, changed(ONE, "x", kind="DoubleStorage")), "storage '0' has 16 bytes, expected 32"),
    "legacy, cut": (lambda p: p.write_bytes(write_legacy(p, ONE).read_bytes()[:-3]), "its storages do not fit its tensors"),
    "legacy, length": (lambda p: write_legacy(p, ONE, length=2**62), "its storages do not fit its tensors"),
    "legacy, header": (lambda p: p.write_bytes(write_legacy(p, ONE).read_bytes()[:40]), "is damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_read(case, tmp_path):
    write, message = REFUSED[case]
    write(path := tmp_path / "x.pth")
    assert message in refusal(path)
