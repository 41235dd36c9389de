"""D4RL ids: where files are looked for, and downloads from a server on this machine."""

import hashlib
import http.server
import io
import threading
import urllib.request
from pathlib import Path

import h5py
import numpy as np
import pytest

from srpo.data import DataError, load_dataset
from srpo.data.sources import d4rl

NAME, FILE = "hopper-medium-v2", "hopper_medium-v2.hdf5"


def content(rows=50, sizes=(11, 3), seed=0) -> bytes:
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["observations"] = rng.normal(size=(rows, sizes[0])).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (rows, sizes[1])).astype(np.float32)
        file["rewards"] = rng.normal(size=rows).astype(np.float32)
        file["terminals"] = np.arange(rows) % 10 == 9
        file["timeouts"] = np.zeros(rows, bool)
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        answer = self.server.answers.get(self.path)
        if answer is None:
            return self.send_error(404)
        body, length = answer
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server with two "hosts"; the data folder is empty."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answers, server.asked = {}, []
        base = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(d4rl, "HOSTS", (base + "/first/{folder}/{file}", base + "/mirror/{file}"))
        monkeypatch.setattr(d4rl, "checksums", lambda: {FILE: (len(content()), hashlib.sha256(content()).hexdigest())})
        monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "data"))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


FIRST, MIRROR = f"/first/gym_mujoco_v2/{FILE}", f"/mirror/{FILE}"


def test_download_from_the_first_host(server, tmp_path, capsys):
    server.answers[FIRST] = content(), len(content())
    data = load_dataset(NAME)
    assert (data.name, data.env_id, len(data)) == (NAME, "Hopper-v4", 50)
    assert data.source == str(tmp_path / "data" / FILE)
    assert [p.name for p in (tmp_path / "data").iterdir()] == [FILE]
    assert server.asked == [FIRST]
    assert capsys.readouterr().out == ""  # progress goes to standard error
    load_dataset(NAME)
    assert server.asked == [FIRST]  # and the second time there is nothing to ask


@pytest.mark.parametrize(
    "first",
    [
        None,
        (content(), len(content()) + 1000),
        (content()[:900], 900),
        (b"<html>not here</html>", 21),
        (content(60), len(content(60))),  # a sound file, but another one
        (content(seed=1), len(content(seed=1))),  # even of the same size
    ],
)
def test_the_mirror_is_asked_when_the_first_host_fails(server, tmp_path, first):
    if first:
        server.answers[FIRST] = first
    server.answers[MIRROR] = content(), len(content())
    assert len(load_dataset(NAME)) == 50
    assert server.asked == [FIRST, MIRROR]
    assert [p.name for p in (tmp_path / "data").iterdir()] == [FILE]


def test_a_file_of_which_no_hash_is_published_is_taken_as_it_comes(server, monkeypatch):
    monkeypatch.setattr(d4rl, "checksums", dict)
    server.answers[FIRST] = content(60), len(content(60))
    assert len(load_dataset(NAME)) == 60


def test_checksums_are_of_files_that_d4rl_has():
    known, files = d4rl.checksums(), {file for _, file in d4rl.FILES.values()}
    assert set(known) <= files and len({sha256 for _, sha256 in known.values()}) == len(known)
    assert all(size > 1e6 and len(sha256) == 64 for size, sha256 in known.values())
    assert {file.partition("-")[0] for file in files - set(known)} == {
        "relocate", "kitchen_microwave_kettle_bottomburner_light", "kitchen_microwave_kettle_light_slider",
        "mini_kitchen_microwave_kettle_light_slider",
    }  # fmt: skip


def test_a_broken_download_leaves_nothing_and_says_which_file_to_put_where(server, tmp_path):
    server.answers[FIRST] = content()[:5000], len(content())
    with pytest.raises(DataError) as caught:
        load_dataset(NAME)
    message = str(caught.value)
    assert "broke off after 5000 of" in message and "404" in message
    assert f"get {FILE} elsewhere and put it at {tmp_path / 'data' / FILE}" in message and "\n" not in message
    assert list((tmp_path / "data").iterdir()) == []


def test_an_interrupted_download_leaves_nothing(server, tmp_path, monkeypatch):
    server.answers[FIRST] = content(), len(content())

    def interrupt(path):
        assert path.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(d4rl, "read_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_dataset(NAME)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "data").write_text("a file in the way")
    server.answers[FIRST] = content(), len(content())
    with pytest.raises(DataError, match="cannot be made .* set D4RL_DATASET_DIR"):
        load_dataset(NAME)
    assert server.asked == []


@pytest.fixture
def offline(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("folder, variable", [("chosen", True), ("home/.d4rl/datasets", True), ("home/.d4rl/datasets", False)])
@pytest.mark.parametrize("file", [FILE, f"{NAME}.hdf5"])
def test_no_network_when_the_file_is_there(offline, monkeypatch, folder, variable, file):
    monkeypatch.delenv("D4RL_DATASET_DIR", raising=False)
    if variable:
        monkeypatch.setenv("D4RL_DATASET_DIR", str(offline / "chosen"))
    (offline / folder).mkdir(parents=True)
    (offline / folder / file).write_bytes(content())
    data = load_dataset(NAME)
    assert data.name == NAME and data.source == str(offline / folder / file)


def test_a_path_to_a_file_of_d4rl_gets_its_id(offline):
    path = offline / "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    path.write_bytes(content(sizes=(29, 8)))
    data = load_dataset(path)
    assert data.name == "antmaze-medium-play-v2" and data.reference == (0.0, 1.0)


def test_files_have_the_names_of_d4rl():
    assert len(d4rl.IDS) == len(d4rl.FILES)
    assert d4rl.FILES["walker2d-medium-replay-v0"] == ("gym_mujoco", "walker_mixed.hdf5")
    assert d4rl.FILES["halfcheetah-full-replay-v2"] == ("gym_mujoco_v2", "halfcheetah_full_replay-v2.hdf5")
    assert d4rl.FILES["antmaze-umaze-v2"] == (
        "ant_maze_v2",
        "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5",
    )
    assert d4rl.FILES["antmaze-large-diverse-v0"] == (
        "ant_maze_new",
        "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_True_sparse.hdf5",
    )
    table = [
        f"{env}-{kind}-v2"
        for env in ("halfcheetah", "hopper", "walker2d")
        for kind in ("medium", "medium-replay", "medium-expert")
    ]
    mazes = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")
    assert set(table) | {f"antmaze-{maze}-v2" for maze in mazes} <= set(d4rl.FILES)  # the paper's fifteen tasks


def test_the_first_folder_is_the_chosen_one(monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", "~/chosen")
    assert d4rl.folders() == [Path("~/chosen").expanduser(), Path("~/.d4rl/datasets").expanduser()]
