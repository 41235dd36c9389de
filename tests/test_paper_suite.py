"""What `srpo paper` makes of a suite: made-up results, whose table and curves are known."""

import csv
import json

import pytest
from test_paper_command import refusal

from srpo import cli
from srpo.paper import FIGURES, PAPER, table2
from srpo.suite import published, tables
from srpo.suite.keep import Keep
from srpo.suite.tables import Result

OTHER = "halfcheetah-medium-open-v0"
D4RL = "hopper-medium-v2"
SCORES = {("srpo", OTHER): 40.0, ("bc", OTHER): 30.0, ("srpo", D4RL): 90.0, ("bc", D4RL): 50.0}


def result(algorithm, data, score):
    """Two seeds, 1 above and below the score, with an earlier policy that had half of it."""
    about = dict.fromkeys(tables.CELL_COLUMNS, "") | {
        "data": data,
        "algorithm": algorithm,
        "status": "finished",
        "seeds": "0 1",
    }
    about |= {"train_seconds": 1.0, "eval_seconds": 1.0, "time_incomplete": False}

    def episodes(step, mean):
        rows = [{"seed": s, "step": step, "episode": e, "score": mean + 2 * s - 1} for s in (0, 1) for e in (0, 1)]
        return [about | row for row in rows]

    def only(columns, rows):
        return [{c: row.get(c, "") for c in columns} for row in rows]

    return Result(about, only(tables.EPISODE_COLUMNS, episodes(10, score)), only(tables.CURVE_COLUMNS, episodes(5, score / 2)))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    data = [{"name": name, "task": name, "rows": 9, "sha256": "", "env_id": "", "mean_score": 20.0} for name in (OTHER, D4RL)]
    about = {"name": "open", "title": "", "preset": "quick", "algorithms": ["srpo", "bc"], "data": data, "episodes": 2}
    (folder / "suite.json").write_text(json.dumps(about | {"budget": {"iterations": 10, "batch_factor": 1}}))
    Keep(folder).update([result(*where, score) for where, score in SCORES.items()])
    return folder


def make(capsys, figure, kept, out, *more):
    assert cli.main(["paper", figure, "--keep", str(kept), "--out", str(out), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)["rows"]


def read(path):
    with open(path) as f:
        return list(csv.DictReader(f))


@pytest.mark.skip
def test_list_names_the_13_artefacts_of_the_paper():
    assert set(PAPER) == {*(f"fig{i}" for i in range(1, 12)), "table1", "table2"}
    assert list(FIGURES)[: len(PAPER)] == list(PAPER)


def test_table1_has_published_scores_beside_those_on_the_same_data_only(kept, tmp_path, capsys):
    rows = make(capsys, "table1", kept, tmp_path)
    assert [r["system"] for r in rows] == ["bc", "srpo", "(the data)"]
    assert rows[1]["halfcheetah-medium"] == "40.0 ± 1.0" and rows[1]["mean of the suite"] == "65.0 ± 1.0"
    cells = {(r["data"], r["system"]): r for r in read(tmp_path / "table1.csv")}
    assert float(cells[D4RL, "srpo"]["published"]) == published.SCORES["srpo"][D4RL] == 95.5
    assert float(cells[D4RL, "srpo"]["mean"]) == 90 and cells[OTHER, "srpo"]["published"] == ""
    text = (tmp_path / "table1.md").read_text()
    assert "Published for the same data:" in text and "**40.0 ± 1.0**" in text and "**30.0" not in text
    make(capsys, "table1", kept, tmp_path, "--data", OTHER)
    text = (tmp_path / "table1.md").read_text()
    assert "other recordings" in text and "95.5 ± 2.0" in text and "mean of the suite" not in text


def test_table2_is_the_papers(tmp_path, capsys):
    rows = make(capsys, "table2", tmp_path, tmp_path)
    assert len(rows) == 15
    assert all(row["paper's table"] == row["paper"] == row["authors-code"] for row in rows)
    assert table2.PRINTED["walker2d-medium-replay-v2"] == 0.5 and table2.PRINTED["antmaze-medium-play-v2"] == 0.08
    depths = {r["task"]: r["policy.hidden, paper"] for r in read(tmp_path / "table2.csv")}
    assert depths["antmaze-umaze-v2"].count("256") == 4 and depths["hopper-medium-v2"].count("256") == 2


@pytest.mark.parametrize("figure", ["fig4", "fig11"])
def test_curves(figure, kept, tmp_path, capsys):
    rows = make(capsys, figure, kept, tmp_path)
    assert {(r["system"], r["data"], r["first"], r["last"]) for r in rows} >= {("srpo", "halfcheetah-medium", 20.0, 40.0)}
    points = read(tmp_path / f"{figure}.csv")
    assert [(p["step"], float(p["mean"]), float(p["std"])) for p in points if (p["data"], p["system"]) == (D4RL, "bc")] == [
        ("5", 25.0, 1.0),
        ("10", 50.0, 1.0),
    ]
    assert (tmp_path / f"{figure}.png").stat().st_size > 10_000


def test_what_is_missing_is_said_with_the_command_that_makes_it(kept, tmp_path, capsys):
    out = ("--out", tmp_path / "new")
    assert f"srpo suite run open --data-dir DIR --out {tmp_path}" in refusal(capsys, "table1", "--runs", tmp_path, *out)
    assert "results of the suite open" in refusal(capsys, "fig4", "--suite", "d4rl-antmaze", "--keep", kept, *out)
    assert "did you mean 'open'" in refusal(capsys, "fig4", "--suite", "opne", *out)
    assert f"did you mean '{OTHER}'" in refusal(capsys, "fig11", "--data", OTHER[1:], "--keep", kept, *out)
    assert "benchmarks/efficiency" in refusal(capsys, "fig5", *out)
    assert not (tmp_path / "new").exists()
