"""Hostile data files: other files are never read, sizes never believed, texts never printed as they are."""

import io
import json
import os
import subprocess
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from hostile import ESCAPES, bounded, one_line, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srpo import text
from srpo.data import from_arrays, load_dataset
from srpo.system import files

ROWS = 40
TIB = 1 << 40


def good(rows=ROWS):
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(rows, 3)).astype("f4"),
        "actions": rng.uniform(-1, 1, (rows, 2)).astype("f4"),
        "rewards": rng.normal(size=rows).astype("f4"),
        "terminals": np.arange(rows) % 7 == 6,
        "timeouts": np.zeros(rows, bool),
    }


def hdf5(path, without=(), **attrs):
    with h5py.File(path, "w") as f:
        for name, values in good().items():
            if name not in without:
                f[name] = values
        f.attrs.update(attrs)
    return path


# --- HDF5: each puts something hostile in the place of the rewards, and says what the message must name


def external_link(f, other):
    f["rewards"] = h5py.ExternalLink(str(other), "rewards")
    return "link to the file"


def soft_link_through_another_file(f, other):
    f["elsewhere"] = h5py.ExternalLink(str(other), "/")
    f["rewards"] = h5py.SoftLink("/elsewhere/rewards")
    return "link to /elsewhere/rewards"


def link_to_itself(f, other):
    f["rewards"] = h5py.SoftLink("/rewards")
    return "link to /rewards"


def external_storage(f, other):
    f.create_dataset("rewards", (ROWS,), "u1", external=[("/etc/passwd", 0, ROWS)])
    return "stored in the file /etc/passwd"


def virtual(f, other):
    layout = h5py.VirtualLayout((ROWS,), "f4")
    layout[:] = h5py.VirtualSource(str(other), "rewards", (ROWS,))
    f.create_virtual_dataset("rewards", layout)
    return "virtual data set"


def virtual_of_itself(f, other):
    layout = h5py.VirtualLayout((ROWS,), "f4")
    layout[:] = h5py.VirtualSource(".", "rewards", (ROWS,))
    f.create_virtual_dataset("rewards", layout)
    return "virtual data set"


def never_written(f, other):
    f.create_dataset("rewards", (10 * TIB,), "f4")
    return "40 TiB, but the file holds 0 bytes"


def never_written_pieces(f, other):
    f.create_dataset("rewards", (10 * TIB,), "f4", chunks=(1 << 20,), compression="gzip")
    return "0 of its 10485760 pieces"


def written_in_part(f, other):
    f.create_dataset("rewards", (ROWS,), "f4", chunks=(10,), maxshape=(None,))[:20] = 1
    return "2 of its 4 pieces"


def bomb(f, other):
    rows, size = 41, 1 << 24
    data = f.create_dataset("rewards", (rows * size,), "f4", chunks=(size,), compression="gzip", shuffle=False)
    zeros = zlib.compress(bytes(4 * size), 6)
    for i in range(rows):
        data.id.write_direct_chunk((i * size,), zeros)
    return "claims 2.563 GiB of arrays"


def huge_piece(f, other):
    data = f.create_dataset("rewards", (ROWS,), "f4", chunks=(1 << 29,), maxshape=(None,), compression="gzip")
    data.id.write_direct_chunk((0,), b"x")
    return "claims 2 GiB"


def compound(f, other):
    f.create_dataset("rewards", (ROWS,), [("a", "f4"), (ESCAPES, "f8")])
    return "expected numbers"


def variable_length(f, other):
    f.create_dataset("rewards", (ROWS,), h5py.vlen_dtype("f4"))
    return "expected numbers"


def references(f, other):
    f.create_dataset("rewards", (ROWS,), h5py.ref_dtype)
    return "expected numbers"


def opaque(f, other):
    f["rewards"] = np.zeros(ROWS, "V8")
    return "expected numbers"


def nothing(f, other):
    f["rewards"] = h5py.Empty("f4")
    return "is empty"


def endless_groups(f, other):
    f["rewards"] = f["/"]
    return "'rewards' is missing"


def names_that_paint(f, other):
    for i in range(50):
        f[f"{i}{ESCAPES.replace(chr(0), '')}{'x' * 500}"] = 1
    return "'rewards' is missing"


HDF5 = [
    external_link,
    soft_link_through_another_file,
    link_to_itself,
    external_storage,
    virtual,
    virtual_of_itself,
    never_written,
    never_written_pieces,
    written_in_part,
    bomb,
    huge_piece,
    compound,
    variable_length,
    references,
    opaque,
    nothing,
    endless_groups,
    names_that_paint,
]


@pytest.mark.parametrize("attack", HDF5, ids=lambda f: f.__name__)
def test_hostile_hdf5(tmp_path, attack):
    other = hdf5(tmp_path / "other.hdf5")
    path = hdf5(tmp_path / "logs.hdf5", without=["rewards"])
    with h5py.File(path, "a") as f:
        named = attack(f, other)
    assert named in refused(lambda: load_dataset(path))


def test_the_plain_neighbors_of_the_attacks_are_read(tmp_path):
    """Chunks, compression, a hard link, an attribute: nothing that is in the file itself is refused."""
    path = hdf5(tmp_path / "logs.hdf5", without=["rewards", "actions"], env_id="Hopper-v4", note="x" * 5000)
    with h5py.File(path, "a") as f:
        f.create_dataset("rewards", data=good()["rewards"], chunks=(7,), maxshape=(None,), compression="gzip", shuffle=True)
        f["group/inside"] = good()["actions"]
        f["actions"] = f["group/inside"]
    data = load_dataset(path)
    np.testing.assert_array_equal(data.reward, good()["rewards"])
    np.testing.assert_array_equal(data.action, good()["actions"])


IDS = [
    "*\\\n/ int x; /*",
    ESCAPES.replace("\0", ""),
    "Hopper-v4\n",
    "x" * 5000,
    "a b",
    "`id`",
    "H\u00f6pper-v4",
    "$(id)",
    "a|b",
]


@pytest.mark.parametrize("env_id", IDS, ids=range(len(IDS)))
def test_hostile_ids(tmp_path, env_id):
    hdf5(tmp_path / "logs.hdf5", env_id=env_id)
    np.savez(tmp_path / "logs.npz", **good(), env_id=env_id)
    for name in ("logs.hdf5", "logs.npz"):
        assert "env_id is" in refused(lambda name=name: load_dataset(tmp_path / name))
    ours = dict(zip(("obs", "action", "reward", "terminal", "timeout"), good().values(), strict=True))
    assert "env_id is" in refused(lambda: from_arrays(**ours, env_id=env_id))


# --- npz


def npy(header, content=b"", version=(1, 0)):
    text = header.encode() + b"\n"
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + content


def described(shape, descr="'<f4'"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


MEMBERS = {  # what is in the place of rewards.npy: bytes, and what the message must name
    "40 TiB": (npy(described(f"({10 * TIB},)"), bytes(160)), "claims the shape"),
    "one too many": (npy(described(f"({ROWS + 1},)"), bytes(4 * ROWS)), "claims the shape"),
    "more than it says": (npy(described(f"({ROWS},)"), bytes(5 * ROWS)), "claims the shape"),
    "overflow": (npy(described(f"({2**62}, {2**62})"), bytes(160)), "claims the shape"),
    "negative": (npy(described("(-40,)"), bytes(160)), "claims the shape"),
    "many axes": (npy(described("(" + "1, " * 200 + ")"), bytes(4)), "supported dimension"),
    "nested": (npy("(" * 5000, bytes(160)), "corrupt"),
    "long header": (npy(described(f"({ROWS},)") + " " * 60_000, bytes(160)), "corrupt"),
    "code": (npy("__import__('os').abort()", bytes(160)), "corrupt"),
    "objects": (npy(described(f"({ROWS},)", "'|O'"), bytes(160)), "a pickle"),
    "records": (npy(described(f"({ROWS},)", "[('a', '<f4')]"), bytes(160)), "expected numbers"),
    "no array": (b"text", "corrupt"),
    "empty": (b"", "corrupt"),
    "version 3": (npy(described(f"({ROWS},)"), bytes(160), (3, 0)), "version (3, 0)"),
    "version 9": (npy(described(f"({ROWS},)"), bytes(160), (9, 9)), "version (9, 9)"),
}


def archive(path, content, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as z:
        for name, values in good().items():
            if name != "rewards":
                buffer = io.BytesIO()
                np.save(buffer, values)
                z.writestr(f"{name}.npy", buffer.getvalue())
        z.writestr("rewards.npy", content)
    return path


@pytest.mark.parametrize("case", MEMBERS)
def test_hostile_npz(tmp_path, case):
    content, named = MEMBERS[case]
    path = archive(tmp_path / "logs.npz", content)
    assert named in refused(lambda: load_dataset(path))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_bombs(tmp_path, monkeypatch, method):
    monkeypatch.setattr(files, "UNSUSPICIOUS", 1 << 20)  # smaller ones are made sooner
    rows = 1 << 20
    path = archive(tmp_path / "logs.npz", npy(described(f"({rows},)"), bytes(4 * rows)), method)
    assert "claims 4.001 MiB of arrays" in refused(lambda: load_dataset(path))


def test_an_archive_that_asks_for_a_password(tmp_path):
    path = archive(tmp_path / "logs.npz", npy(described(f"({ROWS},)"), bytes(4 * ROWS)))
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.rindex(mark)
        content[at + flags] |= 1
    path.write_bytes(content)
    assert "password" in refused(lambda: load_dataset(path))


# --- no files, damaged files, sizes


@pytest.mark.parametrize("suffix", [".hdf5", ".npz"])
def test_devices_and_pipes_are_no_files(tmp_path, suffix):
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / f"pipe{suffix}")
    for name in ("zero", "pipe"):
        assert "not a file" in refused(lambda name=name: load_dataset(tmp_path / f"{name}{suffix}"))
        with pytest.raises(OSError, match="no plain file"):
            files.read_bytes(tmp_path / f"{name}{suffix}")


def test_more_than_the_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    hdf5(tmp_path / "logs.hdf5")
    np.savez(tmp_path / "logs.npz", **good())
    monkeypatch.setattr(files, "free_memory", lambda: 1000)
    for name in ("logs.hdf5", "logs.npz"):
        assert "1000 bytes are free" in refused(lambda name=name: load_dataset(tmp_path / name))


FLIPS = """
import functools, json, sys
from importlib import metadata
import numpy as np
from srpo.data import load_dataset
from srpo.errors import UserError
metadata.entry_points = functools.cache(metadata.entry_points)  # what is installed is looked through once, not 600 times
for source, target in zip(sys.argv[1::2], sys.argv[2::2]):
    whole, rng, said = open(source, "rb").read(), np.random.default_rng(0), []
    for i in range(300):
        content = bytearray(whole)
        for at in rng.integers(0, len(content) if i % 3 else min(len(content), 2500), rng.integers(1, 6)):
            content[at] = rng.integers(0, 256)
        content = content[: rng.integers(1, len(content))] if i % 10 == 9 else content
        open(target, "wb").write(content)
        try:
            load_dataset(target)
            said.append("accepted")
        except UserError as e:
            said.append(str(e))
    print(json.dumps(said))
"""


def test_damaged_bytes_are_refused_or_harmless(tmp_path):
    """Of an HDF5 and an npz file, in one process."""
    sources = hdf5(tmp_path / "logs.hdf5", env_id="Hopper-v4"), tmp_path / "logs.npz"
    np.savez(sources[1], **good(), env_id="Hopper-v4")
    paths = [path for source in sources for path in (source, tmp_path / f"damaged{source.suffix}")]
    done = bounded(FLIPS, *paths, memory=2 << 30, seconds=80)
    assert done.returncode == 0, done.stderr[-600:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [len(said) for said in told] == [300, 300]
    for said in told:
        assert len([one_line(message) for message in said if message != "accepted"]) > 60


# --- the escape


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(), st.integers(20, 200))
def test_plain_text_is_plain(anything, limit):
    found = text.plain(anything, limit)
    assert found.isascii() and (found == "" or found.isprintable()) and len(found) <= limit
    assert text.plain(found, limit) == found
    if anything.isascii() and anything.isprintable() and len(anything) <= limit:
        assert found == anything


def test_long_text_keeps_its_ends():
    assert text.plain("a" * 50 + "b" * 1000 + "c" * 50, 60).startswith("a" * 30) and text.plain(
        "b" * 1000 + "to do", 60
    ).endswith("to do")


@pytest.mark.parametrize(
    "word", ["plain", "a b", "it's", "d\u00e9j\u00e0 vu", "two\nlines", "\udcff bytes", "$HOME `id`", "\x1b[31m'\\", ""]
)
def test_printed_commands_can_be_pasted(word):
    line = text.command("printf", "%s", word)
    assert line.isascii() and line.isprintable()
    assert subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout == os.fsencode(word)
