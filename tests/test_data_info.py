"""`srpo data`: figures, warnings, table, picture."""

import argparse
import json

import numpy as np
import pytest
from matplotlib.image import imread

from srpo.commands import data as command
from srpo.data import DataError, from_arrays, load_dataset, picture
from srpo.data.info import summary

NAME = "hopper-medium-expert-mini"


def run(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(words))


def test_json_is_one_object_with_the_figures(capsys):
    assert run("info", NAME, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    data = load_dataset(NAME)
    assert found["rows"] == len(data) and found["transitions"] == len(data.transition_rows)
    assert found["episodes"] == len(data.returns)
    assert found["returns"]["mean"] == pytest.approx(data.returns.mean())
    assert found["score"]["q50"] == pytest.approx(data.score(np.median(data.returns)))
    assert found["terminals"] == data.terminal.sum() and found["timeouts"] == data.timeout.sum()
    assert found["warnings"] == []


def test_the_table_names_what_counts(capsys):
    run("info", NAME)
    out = capsys.readouterr().out
    for text in (NAME, "Hopper-v4", "69026", "90 terminals, 29 time-outs", "65.8"):
        assert text in out


def test_picture(tmp_path, capsys):
    run("info", NAME, "--png", str(tmp_path / "a.png"))
    assert imread(tmp_path / "a.png").shape[0] > 500
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert "a.png" in capsys.readouterr().out.replace("\n", "")


def test_the_picture_shows_actions_in_recorded_units(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(picture, "_action", lambda axis, values, name, ticks: shown.append((values.min() < 0, ticks)))
    valve = np.random.default_rng(0).uniform([0, -1], [10, 1], (50, 2))
    for bounds in (([0, -1], [10, 1]), ([0, -2e3], [10, 2e3 + 1])):
        picture.draw(from_arrays(valve, valve, valve[:, 0], np.zeros(50, bool), action_range=bounds), tmp_path / "a.png")
    assert shown == [
        (True, ["0", "5", "10"]),
        (True, ["-1", "0", "1"]),
        (True, ["0", "5", "10"]),
        (True, ["-2000", "0.5", "2001"]),
    ]


@pytest.mark.parametrize("path, text", [("a.jpg", "ends in .png"), ("absent/a.png", "does not exist")])
def test_pictures_that_cannot_be_written_are_refused_first(tmp_path, path, text):
    with pytest.raises(DataError, match=text):
        run("info", "never looked at", "--png", str(tmp_path / path))


def test_list(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "hopper_medium-v2.hdf5").write_bytes(b"")
    run("list", "--json")
    entries = {e["name"]: e for e in json.loads(capsys.readouterr().out)["datasets"]}
    assert entries[NAME]["here"] and entries["hopper-medium-v2"]["here"] and not entries["hopper-expert-v2"]["here"]
    run("list")
    assert NAME in capsys.readouterr().out


ENDS = (9, 21, 30, 45, 52, 66, 78, 87, 93, 99)


def recorded(**changes):
    rng = np.random.default_rng(0)
    arrays = dict(obs=rng.normal(size=(100, 3)), action=rng.uniform(-1, 1, (100, 2)), reward=rng.normal(size=100))
    flags = dict(terminal=np.isin(np.arange(100), ENDS), timeout=np.zeros(100, bool))
    return from_arrays(**arrays | flags | changes)


ACTION = recorded().action
DOUBTS = {
    "field timeouts is missing; where": dict(timeout=None),
    "timeouts is missing; time-outs were counted": dict(
        timeout=None, env_id="Hopper-v4", obs=np.eye(100, 11), action=np.ones((100, 3)) * [[-1, 0.5, 1]]
    ),
    "no end of an episode": dict(terminal=np.zeros(100, bool)),
    "observation columns 1, 2 are constant": dict(obs=recorded().obs * [1, 0, 0]),
    "columns 0, 2 have a standard deviation of 0.0011 to 1.9e+03; networks": dict(obs=recorded().obs * [1e-3, 1, 2e3]),
    "columns 1 have a standard deviation of ": dict(obs=recorded().obs * [1, 2e2, 0]),
    "action columns 0 are constant": dict(action=ACTION * [0, 1]),
    "action columns 1 are at a bound": dict(action=np.where([False, True], np.sign(ACTION), ACTION)),
    "action columns 0, 1: the data stay within [-0.0": dict(action=ACTION / 20),
    "50 % of the rows repeat": dict(obs=np.tile(recorded().obs[:50], (2, 1)), action=np.tile(ACTION[:50], (2, 1))),
    "every reward is 2": dict(reward=np.full(100, 2.0)),
    "next_observations differ from the next row in 90 rows": dict(next_obs=np.zeros((100, 3))),
}


@pytest.mark.parametrize("text", DOUBTS)
def test_warnings(text):
    found = summary(recorded(**DOUBTS[text]))["warnings"]
    assert sum(text in line for line in found) == 1, found


def test_nothing_to_warn_about():
    assert summary(recorded())["warnings"] == []
    json.dumps(summary(recorded(terminal=np.zeros(100, bool))))
