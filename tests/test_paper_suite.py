"""What `srpo paper` makes of a suite: made-up results, whose table and curves are known."""

import csv
import json
import re
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from test_paper_command import refusal

import srpo
from srpo import cli
from srpo.paper import FIGURES, PAPER, ablation, dtql_likelihood, fig6, fig8, fig9, fig10, table2
from srpo.runs.run import RunError, load_run
from srpo.suite import published, tables
from srpo.suite.budget import Budget
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
    about |= {"train_seconds": 1.0, "eval_seconds": 1.0, "time_incomplete": False, "iterations": 10, "batch_factor": 1}
    about |= {"env_seed": 1001, "return": 100.0, "length": 9}

    def episodes(step, mean):
        rows = [{"seed": s, "step": step, "episode": e, "score": mean + 2 * s - 1} for s in (0, 1) for e in (0, 1)]
        return [about | row for row in rows]

    def only(columns, rows):
        return [{c: row.get(c, "") for c in columns} for row in rows]

    cell = {c: about[c] for c in tables.CELL_COLUMNS}
    return Result(cell, only(tables.EPISODE_COLUMNS, episodes(10, score)), only(tables.CURVE_COLUMNS, episodes(5, score / 2)))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    data = [{"name": name, "task": name, "rows": 9, "sha256": "", "env_id": "", "mean_score": 20.0} for name in (OTHER, D4RL)]
    about = {"name": "open", "title": "", "preset": "quick", "algorithms": ["srpo", "bc"], "data": data, "episodes": 2}
    about |= {"seeds": [0, 1], "curve": 2, "first": {}, "settings": {}}
    (folder / "suite.json").write_text(json.dumps(about | {"budget": {"iterations": 10, "batch_factor": 1}}))
    Keep(folder).update([result(*where, score) for where, score in SCORES.items()])
    return folder


def make(capsys, figure, kept, out, *more):
    results = [] if kept is None else ["--keep", str(kept)]
    assert cli.main(["paper", figure, *results, "--out", str(out), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)["rows"]


def read(path):
    with open(path) as f:
        return list(csv.DictReader(f))


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
    rows = make(capsys, "table2", None, tmp_path)
    assert len(rows) == 15
    assert all(row["paper's table"] == row["paper"] == row["authors-code"] for row in rows)
    assert table2.PRINTED["walker2d-medium-replay-v2"] == 0.5 and table2.PRINTED["antmaze-medium-play-v2"] == 0.08
    depths = {r["task"]: r["policy.hidden, paper"] for r in read(tmp_path / "table2.csv")}
    assert depths["antmaze-umaze-v2"].count("256") == 4 and depths["hopper-medium-v2"].count("256") == 2


@pytest.mark.parametrize("figure", ["table1", "fig4"])
def test_rows_are_printed_whole_however_narrow_the_terminal_is(figure, kept, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = tmp_path / "x[/y]"  # what some would read as a mark of color
    rows = make(capsys, figure, kept, out)
    assert cli.main(["paper", figure, "--keep", str(kept), "--out", str(out)]) == 0
    head, *lines, empty, told = capsys.readouterr().out.splitlines()
    assert re.split("  +", head) == list(rows[0]) and empty == "" and str(out) in told
    assert [re.split("  +", line) for line in lines] == [[str(cell) for cell in row.values()] for row in rows]


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
    assert not (tmp_path / "new").exists()


# --- ablations

SMALL = {"critic.hidden": (8,), "critic.batch_size": 8, "policy.hidden": (8,), "policy.batch_size": 8}
SMALL |= {"behavior.width": 12, "behavior.blocks": 1, "behavior.batch_size": 8, "behavior.dropout": 0.0}
NAME = "hopper-medium-replay-open-v0"


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """A folder with a small recording of the open suite, and a budget of a few steps."""
    n, rng = 200, np.random.default_rng(0)
    with h5py.File(tmp_path / f"{NAME}.hdf5", "w") as file:
        file.attrs["env_id"] = "Hopper-v4"
        file["observations"], file["actions"] = rng.normal(size=(n, 11)), rng.uniform(-0.9, 0.9, (n, 3))
        file["rewards"], file["terminals"], file["timeouts"] = rng.normal(size=n), np.zeros(n, bool), np.arange(n) % 20 == 19
    monkeypatch.setattr(ablation, "QUICK", ablation.Quick(Budget(3), 1, SMALL))
    return tmp_path


def test_a_study_trains_the_base_once_and_its_variants_share_its_stages(recording, tmp_path, capsys, monkeypatch):
    paths, train = [], srpo.train

    def counted(*args, **options):
        paths.append((options["out"].name, options["start_from"] and options["start_from"].name))
        return train(*args, **options)

    monkeypatch.setattr(srpo, "train", counted)
    out, given = tmp_path / "out", ("--data", NAME, "--data-dir", str(recording))
    rows = make(capsys, "fig10", tmp_path, out, "--quick", *given)
    assert [r["variant"] for r in rows] == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5"]
    assert paths == [("base", None), ("beta", "base")]
    written = read(out / "fig10.csv")
    assert [(r["seed"], r["episodes"]) for r in written] == [("0", "1")] * 6 and (out / "fig10.png").exists()
    assert make(capsys, "fig10", tmp_path, out, "--quick", *given) == rows and len(paths) == 2  # nothing is trained twice
    base = load_run(out / "runs" / "open-at-once" / NAME / "srpo" / "0" / "base")
    swept = load_run(base.path.with_name("beta"))
    for name in ("critic", "behavior"):
        assert base.stage_file(name).read_bytes()[-64:] == swept.stage_file(name).read_bytes()[-64:]
    # the same run as a suite's cell: the base of the full figure; nothing differs from it in the first variant of fig8
    shutil.copytree(base.path, tmp_path / "cells" / NAME / "srpo" / "0")
    full = make(capsys, "fig8", tmp_path, out, "--suite", "open", "--runs", str(tmp_path / "cells"), *given)
    assert len(full) == 1 and full[0]["episodes"] == 20 and np.isfinite(float(full[0]["mean_q"])) and len(paths) == 2


@pytest.mark.parametrize("mode", [("--quick",), ("--runs", "cells")], ids=["trained here", "of a suite"])
def test_a_study_never_passes_off_numbers_of_other_data(mode, recording, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("--data", NAME, "--data-dir", str(recording), "--out", "out")
    make(capsys, "fig10", tmp_path, tmp_path / "out", "--quick", *given[:-2])
    shutil.copytree(f"out/runs/open-at-once/{NAME}/srpo/0/base", f"cells/{NAME}/srpo/0")
    with h5py.File(recording / f"{NAME}.hdf5", "r+") as file:
        file["rewards"][3] += 1
    (tmp_path / "out/fig10.csv").unlink()
    assert cli.main(["paper", "fig10", *mode, *given]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "is not the data that" in told.err.splitlines()[-1]
    assert not (tmp_path / "out/fig10.csv").exists()


def test_a_study_without_its_cells_says_which_command_makes_them(tmp_path, capsys):
    more = ("--runs", tmp_path, "--out", tmp_path / "new", "--data", NAME)
    message = refusal(capsys, "fig6", *more)
    assert f"srpo suite run open --algos srpo --data {NAME} --data-dir DIR --out {tmp_path}" in message
    assert not (tmp_path / "new").exists()


def test_a_variant_of_another_precision_than_its_base_is_refused(tmp_path, monkeypatch):
    (tmp_path / "run.json").touch()
    monkeypatch.setattr(ablation, "load_run", lambda path: SimpleNamespace(precision="bfloat16"))
    with pytest.raises(RunError, match="holds a run in bfloat16, expected float32; choose another --out"):
        ablation.at(tmp_path, srpo.algorithms.find("srpo").default(), {}, None, (0,), None, "float32")


def test_what_varies():
    base, settings = srpo.algorithms.find("srpo").default(), srpo.config.settings
    found = {v.label: settings(srpo.config.assign_all(base, v.settings)) for v in fig6.variants(base, None)}
    assert list(found) == ["w = sigma^2", "w = 1", "w = alpha/sigma", "t = 0.02", "t = 0.98", "no baseline"]
    assert [label for label, s in found.items() if not s["policy.baseline"].value] == ["no baseline"]
    assert found["t = 0.98"]["policy.min_time"].value == found["t = 0.98"]["policy.max_time"].value == 0.98
    assert [len(v.settings["policy.hidden"]) for v in fig9.variants(base, None)] == [2, 3, 4]
    assert dtql_likelihood.variants(base, None)[0].sweep == {"policy.likelihood": (0.0, 0.1, 1.0)}
    normalized = srpo.config.assign_all(base, {"policy.normalize": "2-norm"})
    assert max(fig10.variants(normalized, None)[0].sweep["policy.beta"]) == 0.08


def test_the_mended_reward_is_for_sets_that_it_leaves_a_reward():
    def data(*goal):
        obs, reward = np.zeros((20, 29)), np.zeros(20)
        obs[[5, 15], :2], reward[[5, 15]] = [goal, (0, 0)], 1
        return srpo.from_arrays(obs, np.zeros((20, 8)), reward, reward > 0, np.arange(20) == 19)

    assert [v.label for v in fig8.variants(None, data(20, 20))] == ["reward of the base", "mended reward"]
    assert [v.label for v in fig8.variants(None, data(20, 3))] == ["reward of the base"]
