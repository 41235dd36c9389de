"""Recordings that stay on disk: mapped or unpacked, the same data as in memory, and looked at in pieces."""

import json
import os

import h5py
import jax
import numpy as np
import pytest

import srpo
from srpo import config
from srpo.algorithms.bc import BC
from srpo.algorithms.qgpo import QGPO
from srpo.data import DataError, cache, load_dataset, mapped
from srpo.data.checks import FIELDS
from srpo.data.info import summary
from srpo.data.placing import placed
from srpo.data.ranges import ActionRange
from srpo.data.treated import treat
from srpo.data.treatments import Treatment
from srpo.data.writing import write_recording
from srpo.errors import ConfigError, UserError
from srpo.system import files

TINY = {"policy.steps": 12, "policy.batch_size": 8, "policy.hidden": (4,)}


def arrays(n=400):
    rng = np.random.default_rng(0)
    end = np.arange(n) % 20 == 19
    return {
        "observations": rng.normal(size=(n, 3)).astype(np.float32),
        "actions": rng.uniform(-0.99, 0.99, (n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminals": end & (np.arange(n) % 40 == 19),
        "timeouts": end & (np.arange(n) % 40 != 19),
    }


def write(path, found, **options):
    with h5py.File(path, "w") as file:
        for name, array in found.items():
            file.create_dataset(name, data=array, **options)
    return path


@pytest.fixture
def large(monkeypatch, tmp_path):
    """Files of more than a kilobyte are large, pieces are small, and the cache is a folder of this test."""
    monkeypatch.setattr(mapped, "LARGE", 1 << 10)
    monkeypatch.setattr(mapped, "PIECE", 1 << 9)
    monkeypatch.setenv("SRPO_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_same(found, expected):
    for key in FIELDS:
        np.testing.assert_array_equal(getattr(found, key), getattr(expected, key))
    assert found.sha256 == expected.sha256


def test_plain_arrays_are_mapped_where_they_lie(tmp_path, large, monkeypatch):
    path = write(tmp_path / "plain.hdf5", arrays())
    found = load_dataset(path)
    assert found.on_disk and not large.exists()
    monkeypatch.setattr(mapped, "LARGE", 1 << 30)
    expected = load_dataset(path)
    assert not expected.on_disk
    assert_same(found, expected)
    a, b = summary(found), summary(expected)
    assert json.loads(json.dumps(a)) == json.loads(json.dumps(b)) | {"reward": pytest.approx(b["reward"])}


def test_compressed_arrays_are_unpacked_once(tmp_path, large, monkeypatch, capsys):
    path = write(tmp_path / "packed.hdf5", arrays(), compression="gzip", chunks=True)
    found = load_dataset(path)
    files = sorted(large.rglob("*.npy"))
    assert found.on_disk and [file.name for file in files] == ["action.npy", "obs.npy"]
    assert files[0].parent.name == found.sha256
    written = [file.stat().st_mtime_ns for file in files]
    again = load_dataset(path)
    assert [file.stat().st_mtime_ns for file in files] == written and os.listdir(large) == [found.sha256]
    files[0].unlink()  # as what clears caches by age does
    mended = load_dataset(path)
    assert sorted(large.rglob("*.npy")) == files and os.listdir(large) == [found.sha256]
    monkeypatch.setattr(mapped, "LARGE", 1 << 30)
    for each in (found, again, mended):
        assert_same(each, load_dataset(path))


def test_actions_in_other_units_are_written_in_pieces(tmp_path, large, monkeypatch):
    data = load_dataset(write(tmp_path / "plain.hdf5", arrays()), action_range=(-2, 2))
    expected, rows = data.action_range.recorded(np.array(data.action)), []
    recorded = ActionRange.recorded
    monkeypatch.setattr(ActionRange, "recorded", lambda self, action: rows.append(len(action)) or recorded(self, action))
    with h5py.File(write_recording(data, tmp_path / "written.hdf5")) as file:
        np.testing.assert_array_equal(file["actions"], expected)
    assert data.on_disk and max(rows) < len(data) / 2


@pytest.fixture
def in_file(tmp_path):
    """A function that writes an array behind some other bytes, and maps it."""

    def mapped_array(array):
        path = tmp_path / "array"
        path.write_bytes(b"x" * 7 + array.tobytes())
        return mapped.map_array(path, array.dtype, array.shape, 7)

    return mapped_array


@pytest.mark.parametrize("system", ["all", "no posix_fadvise", "no preadv"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_rows_are_those_of_the_array_whatever_the_system_has(in_file, monkeypatch, system, dtype):
    monkeypatch.setattr(mapped, "PIECE", 100)
    if system != "all":
        monkeypatch.delattr(os, system.removeprefix("no "))
    array = np.arange(1200).reshape(400, 3).astype(dtype)
    found, rng = in_file(array), np.random.default_rng(0)
    draws = rng.integers(0, 399, (5, 8))
    for rows in (draws, np.stack([draws, draws + 1], -1), np.arange(400), np.full(3, 399), np.zeros(0, int)):
        np.testing.assert_array_equal(mapped.gathered(found, rows), array[rows], strict=True)
        np.testing.assert_array_equal(mapped.gathered(found[10:], rows // 2), array[10:][rows // 2], strict=True)
    assert mapped.gathered(found, draws).flags.writeable
    monkeypatch.setattr(mapped, "FEW", 60)
    np.testing.assert_array_equal(mapped.few(found), array[::7], strict=True)
    with pytest.raises(IndexError):
        mapped.gathered(found[:10], np.array([10]))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not say which pages are resident")
def test_no_page_of_a_file_becomes_memory_of_the_process(in_file):
    def resident():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssFile"))

    array = in_file(np.zeros((1 << 17, 32), np.float32))  # 16 MiB
    before = resident()
    mapped.gathered(array, np.random.default_rng(0).permutation(len(array))[:5000])
    assert sum(piece.sum() for _, (piece,) in mapped.pieces(array)) == 0
    assert resident() - before < 1 << 10
    array.sum()
    assert resident() - before > 1 << 13  # which the map itself would have made


def test_a_file_that_was_cut_while_it_was_read_is_said(in_file, tmp_path):
    array = in_file(np.zeros((1 << 12, 3), np.float32))
    os.truncate(tmp_path / "array", 1 << 12)
    with pytest.raises(UserError, match="array: has become shorter while its rows were read; restore it"):
        mapped.gathered(array, np.array([4000, 1, 2]))


def test_what_follows_no_row_is_mended_on_disk(tmp_path, large, monkeypatch):
    raw = arrays()
    raw["next_observations"] = np.roll(raw["observations"], -1, axis=0)
    raw["next_observations"][19::20] = np.nan
    path = write(tmp_path / "gaps.hdf5", raw)
    found = load_dataset(path)
    assert mapped.map_of(found.next_obs)
    monkeypatch.setattr(mapped, "LARGE", 1 << 30)
    assert_same(found, load_dataset(path))


def test_large_numbers_keep_their_digits_where_rows_are_left_out(tmp_path, large, monkeypatch):
    """Rows of an autoreset, and an offset that is taken off in double precision."""
    raw = arrays()
    raw["observations"] = raw["observations"].astype(np.float64) + 1e6
    raw["observations"][20::20], raw["rewards"][20::20] = raw["observations"][19:-1:20] + 1, 0
    raw["next_observations"] = np.roll(raw["observations"], -1, axis=0)
    path = write(tmp_path / "resets.hdf5", raw)
    found = load_dataset(path)
    assert len(found) == 381 and found.on_disk
    monkeypatch.setattr(mapped, "LARGE", 1 << 30)
    assert_same(found, load_dataset(path))


@pytest.mark.parametrize("save, unpacks", [(np.savez, []), (np.savez_compressed, ["action.npy", "obs.npy"])])
def test_npz_files_stay_on_disk_too(tmp_path, large, monkeypatch, save, unpacks):
    """An array that lies in the file column by column is read whole."""
    path, raw = tmp_path / "some.npz", arrays()
    save(path, **(raw | {"next_observations": np.asfortranarray(raw["observations"] + 1)}))
    found = load_dataset(path)
    assert found.on_disk and mapped.map_of(found.action) and not mapped.map_of(found.next_obs)
    assert sorted(file.name for file in large.rglob("*.npy")) == unpacks
    monkeypatch.setattr(mapped, "LARGE", 1 << 30)
    assert_same(found, load_dataset(path))


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path, large, monkeypatch):
    raw = {name: np.zeros_like(array) for name, array in arrays(20_000).items()}
    np.savez_compressed(tmp_path / "bomb.npz", **raw)
    monkeypatch.setattr(files, "UNSUSPICIOUS", 1 << 10)
    with pytest.raises(UserError, match=r"bomb.npz: claims .* of arrays in a file of"):
        load_dataset(tmp_path / "bomb.npz")
    assert not large.exists()


@pytest.mark.parametrize("change", ["float64", "offset", "units"])
def test_arrays_that_must_be_changed_are_changed_on_disk(tmp_path, large, monkeypatch, change):
    raw = arrays()
    if change == "units":
        raw["actions"] = 3 * raw["actions"]
    raw["observations"] = raw["observations"].astype(np.float64) + 1e4 * (change == "offset")
    path, options = write(tmp_path / "changed.hdf5", raw), {"action_range": (-3, 3) if change == "units" else None}
    found = load_dataset(path, **options)
    assert found.on_disk and mapped.map_of(found.action) and found.obs.dtype == np.float32
    monkeypatch.setattr(mapped, "LARGE", 1 << 30)
    assert_same(found, load_dataset(path, **options))


@pytest.mark.parametrize("at, text", [("observations", r"observations\[333, 1\] is nan"), ("actions", r"actions\[333, 1\] is")])
def test_refusals_name_the_row_of_the_file(tmp_path, large, at, text):
    raw = arrays()
    raw[at][333, 1] = np.nan if at == "observations" else 1.5
    with pytest.raises(DataError, match=text):
        load_dataset(write(tmp_path / "bad.hdf5", raw))


def test_rows_are_chosen_on_disk_too(tmp_path, large):
    data = load_dataset(write(tmp_path / "plain.hdf5", arrays()))
    chosen = treat(data, Treatment(best_fraction=0.3)).recording
    assert chosen.on_disk and len(chosen) == 120 < len(data)
    expected = treat(placed(data, "memory")[0], Treatment(best_fraction=0.3)).recording
    np.testing.assert_array_equal(chosen.obs, expected.obs)


@pytest.mark.parametrize("treatment", [Treatment(), Treatment(keep_timeouts=True, normalize_obs=True, clip_action=0.5)])
def test_tables_take_the_same_rows_from_disk(tmp_path, large, treatment):
    raw = arrays()
    raw["next_observations"] = raw["observations"] + 1
    data = load_dataset(write(tmp_path / "plain.hdf5", raw))
    disk, memory = (treat(each, treatment, on_device=False) for each in (data, placed(data, "memory")[0]))
    assert disk.recording.on_disk and not memory.recording.on_disk
    names = ["transitions", "steps"] + ["sarsa"] * (not treatment.keep_timeouts)
    pairs = [(getattr(disk, name).table, getattr(memory, name).table) for name in names]
    for there, here in [*pairs, (disk.windows(6).table, memory.windows(6).table)]:
        assert len(there) == len(here)
        rows = np.random.default_rng(0).permutation(len(here))
        for x, y in zip(there.take(rows), here.take(rows), strict=True):
            np.testing.assert_array_equal(x, y, strict=True)


def test_training_is_bit_equal_wherever_the_rows_are(tmp_path, large):
    path, algorithm = write(tmp_path / "plain.hdf5", arrays()), config.assign_all(BC(), TINY)
    results = []
    for place in ("device", "memory", "disk"):
        run = srpo.train(algorithm, path, seeds=2, out=tmp_path / place, eval_every=0, quiet=True, data_in=place)
        results.append(jax.device_get(run.results["policy"]))
    for other in results[1:]:
        for x, y in zip(jax.tree.leaves(results[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(x, y)


def test_auto_takes_the_device_if_the_rows_fit(tmp_path, large, monkeypatch):
    data = load_dataset(write(tmp_path / "plain.hdf5", arrays()))
    assert placed(data)[1] and placed(data)[2].startswith("rows in device memory (17.19 KiB of ")
    monkeypatch.setattr("srpo.data.placing.device_memory", lambda: 2000.0)
    assert placed(data)[1:] == (False, "rows on disk (17.19 KiB of 800 bytes that they may take on the device)")
    in_memory, on_device, where = placed(placed(data, "memory")[0])
    assert not in_memory.on_disk and not on_device and where.startswith("rows in memory")
    assert placed(in_memory, "disk")[0].on_disk
    with pytest.raises(ConfigError, match="unknown place 'disc'; did you mean 'disk'?"):
        placed(data, "disc")


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({"SRPO_CACHE_DIR": "{}/a", "XDG_CACHE_HOME": "{}/b"}, "a"),
        ({"XDG_CACHE_HOME": "{}/b", "HOME": "{}"}, "b/srpo"),
        ({"HOME": "{}"}, ".cache/srpo"),
    ],
)
def test_where_the_cache_is(tmp_path, monkeypatch, environment, expected):
    for name in ("SRPO_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert cache.folder() == tmp_path / expected and (tmp_path / expected).is_dir()


def test_a_cache_that_cannot_be_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SRPO_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="cannot be made .*; set SRPO_CACHE_DIR to another one"):
        cache.folder()
    monkeypatch.setenv("SRPO_CACHE_DIR", str(tmp_path))
    with pytest.raises(DataError, match="unpacked data need 1024 TiB, .* are free"):
        cache.folder(1 << 50)
    monkeypatch.delenv("SRPO_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache, "expanded", lambda path: None)
    with pytest.raises(DataError, match="there is no home folder .*; set SRPO_CACHE_DIR"):
        cache.folder()


def test_unpacking_that_breaks_off_leaves_nothing(tmp_path, large):
    def parts():
        yield np.zeros((2, 3), np.float32)
        raise OSError("the disk is gone")

    with pytest.raises(DataError, match="cannot be written"):
        cache.unpacked("key", {"obs": ((4, 3), np.dtype(np.float32), parts)}, "unpacking")
    assert os.listdir(large) == []


def test_a_table_that_does_not_fit_is_refused_before_training(tmp_path, large, monkeypatch):
    data = treat(load_dataset(write(tmp_path / "plain.hdf5", arrays())), on_device=False)
    stage = QGPO().support
    assert stage.view(data).on_host
    monkeypatch.setattr("srpo.data.placing.device_memory", lambda: 90_000.0)
    with pytest.raises(DataError, match=r"plain.hdf5: the table of 16 proposed actions per state takes 97.5 KiB on the device"):
        stage.view(data)
