"""Hostile suites and folders of results: edited, truncated, with names that lead elsewhere; one plain line each."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from hostile import one_line, refused

from srpo import cli
from srpo.errors import ConfigError
from srpo.suite import plan, schema
from srpo.suite.cells import Cell
from srpo.suite.pages import markdown

KEPT = Path(__file__).parents[1] / "docs" / "scores"
SUITE = 'algorithms = ["bc"]\nseeds = [0]\ndata = [{name = "here"}]\n'


def told(capsys):
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out
    return one_line(captured.err.removesuffix("\n"))


@pytest.mark.parametrize(
    "name", ["../there", "/there", "..", "", "a/../b", "a\x1b[31m", "a\nb", "a|b", "a\x00b", ".hidden", "n" * 300]
)
def test_a_data_set_of_a_suite_cannot_lead_out_of_its_folder(name):
    with pytest.raises(ConfigError, match="data set|data"):
        plan.read_suite({"algorithms": ["bc"], "seeds": [0], "data": [{"name": name}]}, "mine")


@pytest.mark.parametrize(
    "change",
    [
        ("[0]", "[0.5]"),
        ("[0]", "[true]"),
        ("[0]", "[99999999999]"),
        ('["bc"]', "[{a = 1}]"),
        ('["bc"]', '["os:system"]'),
        ("seeds", "episodes = 10000000000000\nseeds"),
        ("seeds", "settings = {bc = 1}\nseeds"),
        ("seeds", 'first = {data = "here"}\nseeds'),
        ("seeds", 'first = {data = ["other"]}\nseeds'),
        ("seeds", "budget = {iterations = -1}\nseeds"),
    ],
)
def test_a_suite_that_makes_no_sense_is_one_line(tmp_path, capsys, change):
    file = tmp_path / "mine.toml"
    file.write_text(SUITE.replace(*change))
    assert cli.main(["suite", "run", str(file), "--out", str(tmp_path / "out")]) == 2
    assert told(capsys) and not (tmp_path / "out").exists()


def test_a_suite_is_a_plain_file(tmp_path, capsys):
    os.mkfifo(tmp_path / "mine.toml")
    assert cli.main(["suite", "run", str(tmp_path / "mine.toml")]) == 2
    assert "no plain file" in told(capsys)


@pytest.fixture
def kept(tmp_path):
    for name in ("cells.csv", "episodes.csv", "curves.csv", "suite.json"):
        shutil.copy(KEPT / name, tmp_path / name)
    return tmp_path


def edited(file, column, value):
    rows = list(csv.reader(file.read_text().splitlines()))
    rows[1][rows[0].index(column)] = value
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(rows)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("cells", "data", "../../there"),
        ("cells", "algorithm", "a\x1b[31m"),
        ("cells", "status", "done"),
        ("cells", "seeds", "0 x"),
        ("cells", "train_seconds", "nan"),
        ("episodes", "score", "nan"),
        ("episodes", "score", "9" * 40),
        ("episodes", "step", "-1"),
        ("curves", "step", "a|b"),
        ("curves", "score", "<b>"),
    ],
)
def test_an_edited_table_of_results_is_one_line(kept, capsys, table, column, value):
    edited(kept / f"{table}.csv", column, value)
    assert cli.main(["suite", "report", str(kept)]) == 2
    assert f"{table}.csv, line 2" in told(capsys) and not (kept / "report.html").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda about: about["data"][0].pop("mean_score"),
        lambda about: about["data"][0].update(mean_score="x"),
        lambda about: about.update(budget=None),
        lambda about: about.update(name=1e308),
        lambda about: about["algorithms"].__setitem__(0, {}),
        lambda about: about.update(more=1),
    ],
)
def test_an_edited_suite_of_results_is_one_line(kept, capsys, damage):
    about = json.loads((kept / "suite.json").read_text())
    damage(about)
    (kept / "suite.json").write_text(json.dumps(about))
    assert cli.main(["suite", "report", str(kept)]) == 2
    assert "suite.json is damaged" in told(capsys)


def test_what_is_kept_passes_its_own_checks(kept, capsys):
    assert cli.main(["suite", "report", str(kept)]) == 0
    assert (kept / "report.html").exists() and set(schema.ROWS) == {"cells", "episodes", "curves"}


def test_a_damaged_record_of_a_cell_is_one_line(tmp_path):
    suite = plan.read_suite({"algorithms": ["bc"], "seeds": [0], "data": [{"name": "here"}]}, "mine")
    cell = Cell(suite, "here", "", "here", "bc", (0,), tmp_path)
    cell.record.parent.mkdir(parents=True)
    for text in ("{", "[]", '{"train_seconds": -1}', '{"more": 1}'):
        cell.record.write_text(text)
        assert "is damaged" in refused(lambda: cell.log)


def test_a_cell_of_a_markdown_table_stays_one():
    line = markdown(["a", "b"], [["x | y", "1\n2"]]).splitlines()[-1]
    assert line == r"| x \| y | 1 2 |"
