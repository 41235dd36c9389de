"""Copies of folders in a storage: whole, of one moment, and never outside the folder that they are read into."""

import json
import pickle

import pytest

from srpo.errors import ConfigError
from srpo.runs.checkpoint import CheckpointError
from srpo.runs.storage import CONTENTS, LIST, Storage

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(params=["memory", "file"])
def storage(request, tmp_path):
    yield Storage(f"memory://{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/there")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "here"
    (root / "run" / "state").mkdir(parents=True)
    for place in ("run/run.json", "run/state/critic", "run/lock", "run/half.part", "run.json", "other"):
        (root / place).write_text(place)
    return root


def content(root):
    return {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*") if p.is_file()}


def pushed(storage, root):
    storage.push("a/b", root, [root / "run", root / "run.json"])


def test_what_is_read_is_what_was_written(storage, root, tmp_path):
    assert not storage.pull("a/b", tmp_path / "before")
    pushed(storage, root)
    again = pickle.loads(pickle.dumps(storage))  # as a task gets it
    assert again.pull("a/b", tmp_path / "copy") and not again.pull("a/c", tmp_path / "copy")
    assert content(tmp_path / "copy") == {p: p for p in ("run/run.json", "run/state/critic", "run.json")}
    again.pull("a/b", tmp_path / "stateless", without="state")
    assert set(content(tmp_path / "stateless")) == {"run/run.json", "run.json"}


def test_only_what_is_new_is_written_and_what_is_gone_is_removed(storage, root, tmp_path, monkeypatch):
    pushed(storage, root)
    fs, place = storage.opened
    written, put = [], fs.put_file
    monkeypatch.setattr(fs, "put_file", lambda source, target: written.append(source) or put(source, target))
    (root / "run" / "state" / "critic").unlink()
    (root / "run" / "run.json").write_text("more")
    pushed(storage, root)
    assert written == [str(root / "run" / "run.json")]
    storage.pull("a/b", tmp_path / "copy")
    assert content(tmp_path / "copy") == {"run/run.json": "more", "run.json": "run.json"}
    assert len(fs.ls(f"{place}/a/b/{CONTENTS}")) == 2


def test_a_writer_that_dies_leaves_the_moment_before(storage, root, tmp_path, monkeypatch):
    pushed(storage, root)
    (root / "run" / "run.json").write_text("more")
    (root / "run" / "state" / "critic").write_text("further")
    fs, _ = storage.opened

    def dies(*args, **options):
        raise KeyboardInterrupt

    for step in ("put_file", "pipe_file", "mv"):
        with monkeypatch.context() as patched:
            patched.setattr(fs, step, dies)
            with pytest.raises(KeyboardInterrupt):
                pushed(Storage(storage.url), root)
        Storage(storage.url).pull("a/b", tmp_path / step)
        assert content(tmp_path / step)["run/state/critic"] == "run/state/critic"
    pushed(storage, root)
    storage.pull("a/b", tmp_path / "after")
    assert content(tmp_path / "after")["run/state/critic"] == "further"


def rewritten(storage, text):
    fs, place = storage.opened
    fs.pipe_file(f"{place}/a/b/{LIST}", text.encode())


@pytest.mark.parametrize("place", ["../out", "/out", "a/../../out", "a\\..\\out", ""])
def test_no_file_leaves_the_folder(storage, root, tmp_path, place):
    pushed(storage, root)
    fs, there = storage.opened
    known = json.loads(fs.cat_file(f"{there}/a/b/{LIST}"))
    rewritten(storage, json.dumps({place: known["run.json"]}))
    with pytest.raises(CheckpointError, match="damaged"):
        storage.pull("a/b", tmp_path / "copy")
    assert not (tmp_path / "copy").exists() and not (tmp_path / "out").exists()


def test_damage_is_one_line(storage, root, tmp_path):
    pushed(storage, root)
    fs, there = storage.opened
    known = json.loads(fs.cat_file(f"{there}/a/b/{LIST}"))
    fs.pipe_file(f"{there}/a/b/{CONTENTS}/{known['run.json']}", b"else")
    with pytest.raises(CheckpointError, match="its hash differs"):
        storage.pull("a/b", tmp_path / "copy")
    assert not (tmp_path / "copy" / "run.json").exists()
    fs.rm_file(f"{there}/a/b/{CONTENTS}/{known['run.json']}")
    with pytest.raises(CheckpointError, match="not there"):
        storage.pull("a/b", tmp_path / "copy")
    for text in ("{", "[1]", '{"a": 1}'):
        rewritten(storage, text)
        with pytest.raises(CheckpointError, match="damaged"):
            storage.pull("a/b", tmp_path / "copy")


def test_a_url_that_cannot_be_opened_is_one_line(tmp_path, root):
    with pytest.raises(ConfigError, match="--storage nothing://a: .*expected a URL|install"):
        pushed(Storage("nothing://a"), root)
    (tmp_path / "plain").write_text("")
    with pytest.raises(CheckpointError, match="--storage file://"):
        pushed(Storage(f"file://{tmp_path}/plain"), root)
