"""A suite: fair budgets, the order of cells, what is shared, stopped, resumed, kept, moved to another machine, and refused."""

import csv
import itertools
import json
import multiprocessing
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import processes
import pytest

import srpo
from srpo import algorithms, cli, config
from srpo.algorithms.bc import BC
from srpo.data.treated import treat
from srpo.errors import ConfigError
from srpo.runs.checkpoint import CheckpointError, NotWritten
from srpo.runs.description import describe
from srpo.runs.folder import new_run
from srpo.runs.grid import Grid
from srpo.runs.run import Run, load_run
from srpo.suite import jobs, plan, presets, published, scoring, sharing, tables, work
from srpo.suite.budget import Budget, configured
from srpo.suite.cells import Cell
from srpo.suite.keep import Keep
from srpo.suite.pages import insert
from srpo.system.clock import Clock, Stopped
from srpo.training.inherit import alike

NAME = "hopper-medium-replay-open-v0"
TASK = "hopper-medium-replay-v2"
SUITE = f"""
title = "small"
algorithms = ["bc", "bc-gaussian", "iql"]
seeds = [0, 1]
episodes = 2
curve = 2
first = {{algorithms = ["bc-gaussian"]}}
[budget]
iterations = 6
[settings.bc]
"policy.hidden" = [8]
"policy.batch_size" = 8
[settings.bc-gaussian]
"policy.hidden" = [8]
"policy.batch_size" = 8
[[data]]
name = "{NAME}"
task = "{TASK}"
"""


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# --- budgets


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_every_network_gets_the_iterations_and_what_counts_steps_scales(name):
    paper = configured(name, TASK, "paper", Budget(), {})
    algorithm = configured(name, TASK, "paper", Budget(1000, 4), {})
    longest = max(stage.steps for stage in paper.stages.values() if stage.trains)
    before, after = config.settings(paper), config.settings(algorithm)
    assert sum(s.trains and s.steps == 1000 for s in algorithm.stages.values()) >= 1
    for stage, s in algorithm.stages.items():
        theirs = paper.stages[stage]
        if not s.trains:
            assert s == theirs
            continue
        warm_up = after[f"{stage}.steps"].scales
        assert s.steps == (round(theirs.steps * 1000 / longest) if warm_up else 1000)
        assert s.batch_size == min(theirs.batch_size, max(256, theirs.batch_size // 4))
        for path, setting in after.items():
            if path.startswith(f"{stage}.") and not path.endswith((f"{stage}.steps", f"{stage}.batch_size")):
                ratio = s.steps / theirs.steps if setting.scales else 1
                wanted = before[path].value
                assert setting.value == (max(1, round(wanted * ratio)) if setting.scales and wanted else wanted), path


def test_what_counts_steps_is_declared():
    found = {
        (name, path)
        for name in algorithms.ALGORITHMS
        for path, s in config.settings(algorithms.find(name)()).items()
        if s.scales
    }
    assert found == {
        ("bear", "policy.warmup"),
        ("diffusion-ql", "policy.ema_start"),
        ("sfbc", "critic.replan_every"),
        ("dtql", "warm_up.steps"),
        ("dtql-kl", "warm_up.steps"),
        *(("diffuser", f"{stage}.average.{what}") for stage in ("trajectories", "value") for what in ("every", "start")),
    }


def test_a_suite_gets_the_settings_of_the_task_of_its_kind():
    suite = plan.load_suite("open")
    beta = {
        s.name: configured("srpo", s.task, suite.preset, suite.budget, suite.settings.get("srpo", {})).policy.beta
        for s in suite.data
    }
    assert beta[NAME] == 0.2 and beta["halfcheetah-medium-expert-open-v0"] == 0.01
    assert configured("srpo", "another", "paper", Budget(), {"policy.beta": 3}).policy.beta == 3


# --- presets


def test_the_page_of_presets_is_current():
    page = (Path(__file__).parent.parent / "docs" / "quick.md").read_text()
    within = page.split("<!-- presets -->")[1].split("<!-- /presets -->")[0]
    assert within.strip() == presets.page(), "run: srpo suite presets --into docs/quick.md"


def test_changes_are_those_of_the_presets():
    found = presets.changes("srpo", ["", "antmaze-umaze-v2"])
    assert found["critic.lr"] == ([3e-4], [1e-3], config.settings(srpo.SRPO())["critic.lr"].meaning)
    assert "critic.discount" not in found and found["policy.beta"][1] == [0.01]
    told = [presets.shown(v) for v in ([1], [1, 2], [30, 1000, 2], [(256, 128)], [True], ["a", "b"], [0.0003])]
    assert told == ["1", "1 or 2", "2 to 1,000", "256 x 128", "true", "a or b", "0.0003"]


# --- plans


@pytest.mark.parametrize("name", plan.shipped())
def test_what_is_shipped_can_be_trained(name):
    suite = plan.load_suite(name)
    for algorithm in suite.algorithms:
        for source in suite.data:
            name, preset, more = suite.recipe(source.name, algorithm)
            Grid.create(configured(name, source.task, preset, suite.budget, more), suite.seeds, None)


@pytest.mark.parametrize("name", ["open", "open-quick"])
def test_srpo_and_iql_share_their_critic(name):
    suite = plan.load_suite(name)
    for source in suite.data:
        recipes = (suite.recipe(source.name, algorithm) for algorithm in ("srpo", "iql"))
        srpo_grid, iql_grid = (
            Grid.create(configured(algorithm, source.task, preset, suite.budget, more), (0, 1), None)
            for algorithm, preset, more in recipes
        )
        assert alike(srpo_grid, iql_grid) == alike(iql_grid, srpo_grid) == ["critic"]


def test_the_columns_that_are_no_variant_are_the_presets():
    suite = plan.load_suite("open-hour")
    for source, name in itertools.product(suite.data, set(suite.algorithms) - set(suite.variants)):
        algorithm, preset, more = suite.recipe(source.name, name)
        column, alone = (configured(algorithm, source.task, preset, suite.budget, settings) for settings in (more, {}))
        assert config.settings(column) == config.settings(alone)


def test_every_preset_has_rates_that_were_compared():
    def but_steps(algorithm):  # IQL's policy was given more of them later
        return {path: setting for path, setting in config.settings(algorithm).items() if path != "policy.steps"}

    suite = plan.load_suite("quick-rates")
    columns: dict[str, list] = {}
    for name in suite.algorithms:
        algorithm, preset, more = suite.recipe(suite.data[0].name, name)
        column = configured(algorithm, suite.data[0].task, preset, suite.budget, more)
        columns.setdefault(algorithm, []).append(but_steps(column))
    for algorithm, compared in columns.items():
        chosen = but_steps(configured(algorithm, suite.data[0].task, suite.preset, suite.budget, {}))
        assert len(compared) > 1 and compared.count(chosen) == 1, algorithm


def test_the_most_informative_comes_first():
    suite = plan.load_suite("open")
    order = sorted(((s.name, a) for s in suite.data for a in suite.algorithms), key=lambda pair: suite.rank(*pair))
    assert [a for _, a in order[:4]] == ["srpo", "iql", "td3-bc", "bc"] and {d for d, _ in order[:12]} == set(
        suite.first["data"]
    )
    assert {a for _, a in order[:12]} == set(suite.first["algorithms"])


# --- the command


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`srpo suite run` on a small recording, with a handful of steps."""
    n, rng = 200, np.random.default_rng(0)
    with h5py.File(tmp_path / f"{NAME}.hdf5", "w") as file:
        file.attrs["env_id"] = "Hopper-v4"
        file["observations"], file["actions"] = rng.normal(size=(n, 11)), rng.uniform(-0.9, 0.9, (n, 3))
        file["rewards"], file["terminals"], file["timeouts"] = rng.normal(size=n), np.zeros(n, bool), np.arange(n) % 20 == 19
    (tmp_path / "small.toml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(work.jax, "clear_caches", lambda: None)  # what a cell compiles serves the tests that follow

    def run(*more, algos="bc"):
        fixed = ["suite", "run", "small.toml", "--data-dir", ".", "--quiet", "--jobs", "1", "--out", "out", "--algos", algos]
        return cli.main([*fixed, *more])

    run.folder, run.keep = tmp_path, tmp_path / "out" / "results"
    return run


def test_a_cell_that_fails_is_recorded_and_tried_again_and_others_go_on(command, monkeypatch, capsys):
    train = srpo.train

    def failing(algorithm, *args, **options):
        if algorithms.name_of(algorithm) == "bc-gaussian":
            raise RuntimeError("out of luck")
        return train(algorithm, *args, **options)

    monkeypatch.setattr(srpo, "train", failing, raising=False)
    assert command("--seeds", "1", algos="bc-gaussian,bc") == 1
    assert capsys.readouterr().err.index("bc-gaussian 0: begins") >= 0
    found = {(r["algorithm"], r["data"]): r for r in rows(command.keep / "scores.csv")}
    assert found["bc-gaussian", NAME]["status"] == "failed" and "out of luck" in found["bc-gaussian", NAME]["error"]
    assert found["bc", NAME]["status"] == "finished" and float(found["bc", NAME]["train_seconds"]) > 0
    assert found["bc", tables.SUITE]["mean"] and ("bc-gaussian", tables.SUITE) not in found

    monkeypatch.setattr(srpo, "train", train)
    assert command("--seeds", "1", algos="bc-gaussian,bc") == 0
    said = capsys.readouterr()
    assert "bc 0: begins" not in said.err and "| bc-gaussian |" in said.out and "Failures" not in said.out
    [cell] = [r for r in rows(command.keep / "cells.csv") if r["algorithm"] == "bc"]
    assert (cell["iterations"], cell["task"], cell["seeds"], cell["preset"]) == ("6", TASK, "0", "paper")
    assert cell["command"] and cell["device"] and cell["jax"] and cell["mujoco"]


def test_what_was_interrupted_goes_on_where_it_stopped(command, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(srpo, "evaluate", stop, raising=False)
        assert command() == 130
    with monkeypatch.context() as patched:
        patched.setattr(srpo, "train", lambda *a, **k: pytest.fail("trained again") if k["seeds"] == (0,) else train(*a, **k))
        train = srpo.training.train.train
        assert command() == 0
    [cell] = [r for r in rows(command.keep / "scores.csv") if (r["algorithm"], r["data"]) == ("bc", NAME)]
    episodes = rows(command.keep / "episodes.csv")
    assert len(episodes) == 4 and cell["status"] == "finished" and cell["time_incomplete"] == "False"
    assert float(cell["mean"]) == pytest.approx(np.mean([float(e["score"]) for e in episodes]))
    by_seed = [np.mean([float(e["score"]) for e in episodes if e["seed"] == s]) for s in "01"]
    assert float(cell["std"]) == pytest.approx(np.std(by_seed))


def test_policies_trained_without_a_simulator_score_the_same_elsewhere(command, capsys, monkeypatch):
    monkeypatch.setattr(work, "seed_groups", lambda seeds, together: [seeds])  # as on an accelerator
    assert command("--no-eval") == 0
    assert "| bc | trained |" in capsys.readouterr().out
    kept = command.folder / "elsewhere"
    shutil.move(command.keep, kept)
    assert cli.main(["suite", "evaluate", str(kept), "--quiet"]) == 0
    found = {(r["seed"], r["episode"]): r["return"] for r in rows(kept / "episodes.csv")}
    compact = load_run(kept / "policies" / NAME / "bc" / "0-1")
    assert compact.complete and not compact.finished and (compact.path / "metrics.csv").exists()
    run = load_run(command.folder / "out" / NAME / "bc" / "0-1")
    for step in (3, 6):
        np.testing.assert_array_equal(compact.policy(1, step).act(np.ones(11)), run.policy(1, step).act(np.ones(11)))
    assert {(r["seed"], r["step"], r["episode"]) for r in rows(kept / "curves.csv")} == {("0", "3", "0"), ("1", "3", "0")}
    assert command() == 0  # trained before, evaluated here
    assert found == {(r["seed"], r["episode"]): r["return"] for r in rows(command.keep / "episodes.csv")} and len(found) == 4


def test_kept_results_stand_for_runs_that_are_gone(command, monkeypatch, capsys):
    keep = ["--keep", "keep", "--seeds", "1"]
    assert command(*keep) == 0
    before = rows("keep/scores.csv")
    shutil.rmtree("out")
    with monkeypatch.context() as patched:
        patched.setattr(srpo, "train", lambda *args, **options: pytest.fail("trained again"), raising=False)
        assert command(*keep) == 0
    assert rows("keep/scores.csv") == before
    held = (command.folder / "keep" / "episodes.csv").read_text()
    capsys.readouterr()
    file = command.folder / "small.toml"
    text = file.read_text()
    file.write_text(text.replace('"policy.batch_size" = 8', '"policy.batch_size" = 7', 1))
    assert command(*keep, "--out", "another") == 2  # another question must not lose the answer to this one
    assert "which would be lost; choose another --keep" in capsys.readouterr().err
    file.write_text(text)
    assert (command.folder / "keep" / "episodes.csv").read_text() == held
    (command.folder / "keep" / "episodes.csv").unlink()
    assert command(*keep) == 2
    assert "choose another --keep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("iterations = 6", "iterations = 7"), "holds results with budget 6 iterations, this suite has 7 iterations"),
        (("episodes = 2", "episodes = 3"), "holds results with episodes 2, this suite has 3"),
        (("curve = 2", "curve = 3"), "holds results with curve 2, this suite has 3"),
        (("title", 'preset = "quick"\ntitle'), "holds results with preset paper, this suite has quick"),
    ],
)
def test_what_a_table_says_once_is_the_same_for_all_of_it(command, capsys, change, complaint):
    assert command("--seeds", "1", "--keep", "keep") == 0
    before = {path.name: path.read_bytes() for path in (command.folder / "keep").iterdir()}
    file = command.folder / "small.toml"
    file.write_text(file.read_text().replace(*change, 1))
    assert command("--seeds", "1", "--keep", "keep", "--out", "other", algos="iql") == 2
    assert f"{complaint}; choose another --keep" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in (command.folder / "keep").iterdir()}


def test_a_run_whose_data_or_curve_changed_is_not_passed_off_as_new(command, capsys):
    assert command("--seeds", "1") == 0
    file = command.folder / "small.toml"
    text = file.read_text()
    file.write_text(text.replace("curve = 2", "curve = 3"))
    assert command("--seeds", "1", "--keep", "other") == 2
    assert "kept 2 policies for its curve, this suite keeps 3; choose another --out" in capsys.readouterr().err
    file.write_text(text)
    with h5py.File(command.folder / f"{NAME}.hdf5", "a") as data:
        data["rewards"][0] = 5.0
    assert command("--seeds", "1", "--keep", "other") == 2
    assert f"{NAME} was changed since; choose another --out" in capsys.readouterr().err


def test_a_result_that_is_kept_is_not_replaced(command, capsys):
    assert command("--seeds", "1") == 0
    held = (command.keep / "episodes.csv").read_text()
    run = command.folder / "out" / NAME / "bc" / "0"
    assert cli.main(["eval", str(run), "--episodes", "2", "--max-steps", "3", "--quiet"]) == 0  # other episodes, as many
    assert command("--seeds", "1") == 0 and (command.keep / "episodes.csv").read_text() == held
    file = command.folder / "small.toml"
    file.write_text(file.read_text().replace('"policy.batch_size" = 8', '"policy.batch_size" = 7', 1))
    assert command("--seeds", "1", "--out", "other") == 0
    capsys.readouterr()
    assert cli.main(["suite", "evaluate", str(command.folder / "other" / "results"), "--keep", str(command.keep)]) == 2
    assert f"hold results of bc on {NAME} with different settings or data" in capsys.readouterr().err
    assert (command.keep / "episodes.csv").read_text() == held


@pytest.mark.parametrize(
    ("name", "keep", "complaint"),
    [
        ("cells", 0, "cells.csv is empty, expected a line of names"),
        ("episodes", 0, "episodes.csv is empty"),
        ("episodes", 3, f"no episode of seed 1 of bc on {NAME}, which cells.csv calls finished"),
        ("suite", None, "suite.json is damaged"),
    ],
)
def test_tables_that_were_cut_off_are_refused_and_left_as_they_are(command, capsys, name, keep, complaint):
    assert command() == 0
    file = command.keep / (f"{name}.csv" if keep is not None else "suite.json")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[: keep or 0]))
    before = {path.name: path.read_bytes() for path in command.keep.iterdir()}
    capsys.readouterr()
    for argv in (["suite", "report", str(command.keep)], ["suite", "evaluate", str(command.keep)]):
        assert cli.main(argv) == 2
        told = capsys.readouterr().err
        assert complaint in told and told.count("\n") == 1
    assert command() == 2 and complaint in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in command.keep.iterdir()}


def test_a_table_that_was_cut_off_in_a_number_is_refused(tmp_path):
    for name in ("cells", "episodes"):
        tables.write_csv(tmp_path / f"{name}.csv", [], getattr(tables, f"{name[:-1].upper()}_COLUMNS"))
    row = {"data": NAME, "algorithm": "bc", "seed": 0, "step": 3, "episode": 0, "score": 35.25}
    tables.write_csv(tmp_path / "curves.csv", [row], tables.CURVE_COLUMNS)
    assert tables.read(tmp_path) == []
    (tmp_path / "curves.csv").write_text((tmp_path / "curves.csv").read_text()[:-3])  # 35
    with pytest.raises(ConfigError, match=r"curves.csv has no end of its last line, 2: it was cut off there"):
        tables.read(tmp_path)


def test_results_that_say_less_than_they_might_are_shown(command, capsys):
    assert command("--seeds", "1") == 0
    file = command.keep / "suite.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"compared": None, "budget": {}}))
    assert cli.main(["suite", "report", str(command.keep)]) == 0
    assert "each algorithm's own steps" in capsys.readouterr().out
    (command.folder / "page.md").write_bytes(b"<!-- scores -->\n<!-- /scores -->\n\xff")
    assert cli.main(["suite", "report", str(command.keep), "--into", "page.md"]) == 2
    assert "it is no text in UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"env_id": None}, "names no environment to be scored in; set the file's attribute env_id, or train with --no-eval"),
        ({"env_id": "Nowhere-v0"}, "Nowhere-v0"),
        ({"env_id": "InvertedPendulum-v5", "obs": 4, "act": 1}, "no returns are known that stand for the scores 0 and 100"),
    ],
)
def test_data_that_cannot_be_scored_are_refused_before_anything_is_trained(command, capsys, change, complaint):
    path = command.folder / f"{NAME}.hdf5"
    with h5py.File(path, "a") as file:
        del file.attrs["env_id"]
        if change["env_id"] is not None:
            file.attrs["env_id"] = change["env_id"]
        if "act" in change:
            file.attrs["action_low"], file.attrs["action_high"] = [-3.0], [3.0]
        for name, size in (("observations", "obs"), ("actions", "act")):
            if size in change:
                cut = file[name][:, : change[size]]
                del file[name]
                file[name] = cut
    assert command("--seeds", "1") == 2
    told = capsys.readouterr().err
    assert complaint in told and told.count("\n") == 1 and not (command.folder / "out").exists()
    assert command("--seeds", "1", "--no-eval") == 0
    assert cli.main(["suite", "evaluate", str(command.keep), "--quiet"]) == 1
    with h5py.File(path, "a") as file:
        file.attrs["reference"] = [0.0, 10.0]
    if "obs" in change:
        assert command("--seeds", "1", "--out", "other") == 0


@pytest.mark.parametrize(("error", "code"), [(CheckpointError("0/state is damaged"), 1), (NotWritten("no space left"), 2)])
def test_a_damaged_cell_is_left_behind_and_a_full_disk_ends_all(command, monkeypatch, capsys, error, code):
    train = srpo.train

    def failing(algorithm, *args, **options):
        if algorithms.name_of(algorithm) == "bc-gaussian":
            raise error
        return train(algorithm, *args, **options)

    monkeypatch.setattr(srpo, "train", failing, raising=False)
    assert command("--seeds", "1", algos="bc-gaussian,bc") == code
    assert str(error) in capsys.readouterr().err
    assert ("finished" in {r["status"] for r in rows(command.keep / "cells.csv")}) == (code == 1)


@pytest.mark.parametrize("score", [np.nan, 1e7])
def test_scores_that_say_nothing_are_a_failure_and_not_in_the_tables(command, capsys, monkeypatch, score):
    with monkeypatch.context() as patched:
        patched.setattr("srpo.evaluation.scores.normalized", lambda *_: score)
        assert command("--seeds", "1") == 1
        assert command("--seeds", "1") == 1  # what was written can be read
        [cell] = rows(command.keep / "cells.csv")
        assert cell["status"] == "failed" and f"the score {score}" in cell["error"] and "mend the environment" in cell["error"]
        assert rows(command.keep / "episodes.csv") == rows(command.keep / "curves.csv") == []
        assert command("--seeds", "1", "--no-eval") == 0
        capsys.readouterr()
        assert cli.main(["suite", "evaluate", str(command.keep), "--quiet"]) == 1
        assert f"the score {score}" in capsys.readouterr().err
    assert cli.main(["suite", "evaluate", str(command.keep), "--quiet"]) == 0
    assert [cell["status"] for cell in rows(command.keep / "cells.csv")] == ["finished"]


def test_a_reference_by_which_the_data_score_millions_is_refused(command, capsys):
    with h5py.File(command.folder / f"{NAME}.hdf5", "a") as file:
        file.attrs["env_id"], file.attrs["reference"] = "Another-v0", [0.0, 1e-9]
    assert command("--no-eval") == 2
    told = capsys.readouterr().err
    assert "mend the attribute reference" in told and told.count("\n") == 1 and not (command.folder / "out").exists()


def test_what_a_record_cannot_hold_is_cut(command, monkeypatch):
    def failing(*args, **options):
        raise RuntimeError("\x1b[31m" + 20_000 * "x")

    monkeypatch.setattr(srpo, "train", failing, raising=False)
    monkeypatch.setattr("sys.argv", ["srpo", 20_000 * "y"])
    assert command("--seeds", "1") == command("--seeds", "1") == 1  # what was written can be read
    [cell] = rows(command.keep / "cells.csv")
    assert cell["error"].startswith("RuntimeError: \\x1b[31mxxx") and len(cell["command"]) == 10_000


def test_a_cell_that_failed_does_not_stand_against_a_mended_suite(command, monkeypatch):
    def failing(*args, **options):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patched:
        patched.setattr(srpo, "train", failing, raising=False)
        assert command("--seeds", "1") == 1
    file = command.folder / "small.toml"
    file.write_text(file.read_text().replace('"policy.batch_size" = 8', '"policy.batch_size" = 7', 1))
    assert command("--seeds", "1") == 0
    assert {r["status"] for r in rows(command.keep / "cells.csv")} == {"finished"}


def test_policies_that_are_gone_or_damaged_are_named_and_the_others_played(command, capsys):
    assert command("--no-eval", "--seeds", "3") == 0
    kept = command.keep / "policies" / NAME / "bc"
    shutil.rmtree(kept / "0")
    (kept / "1" / "run.json").write_text("{")
    capsys.readouterr()
    assert cli.main(["suite", "evaluate", str(command.keep), "--quiet"]) == 1
    told = capsys.readouterr().err
    assert f"{NAME} bc: {kept}/0 is not there; put it back" in told and f"{NAME} bc: {kept}/1/run.json is damaged" in told
    assert {r["seeds"]: r["status"] for r in rows(command.keep / "cells.csv")} == {
        "0": "trained",
        "1": "trained",
        "2": "finished",
    }


def test_names_of_any_length_and_kind_are_kept(command):
    file = command.folder / "small.toml"
    file.write_text(file.read_text().replace('"small"', f'"{chr(0x7B56) * 60}"', 1))
    assert command("--seeds", "1", "--keep", "a\tb") == 0
    assert command("--seeds", "1", "--keep", "a\tb") == 0  # what was written can be read
    assert len(json.loads((command.folder / "a\tb" / "suite.json").read_text())["title"]) <= 200


def test_other_settings_in_the_same_folder_are_refused(command, capsys):
    assert command("--seeds", "1") == 0
    capsys.readouterr()
    assert command("--seeds", "1", "--iterations", "7", "--keep", "other") == 2
    assert "holds a run with policy.steps 6, this suite has 7; choose another --out" in capsys.readouterr().err


def test_a_data_set_has_settings_of_its_own_and_they_are_told(command, capsys):
    file = command.folder / "small.toml"
    file.write_text(file.read_text() + 'settings.bc = {"policy.batch_size" = 5}\nsettings.iql = {"critic.lr" = 0.1}\n')
    assert command("--seeds", "1") == 0
    run = load_run(command.folder / "out" / NAME / "bc" / "0")
    assert run.algorithm.policy.batch_size == 5 and run.algorithm.policy.hidden == (8,)  # over those of all data sets
    told = capsys.readouterr().out
    assert "\n- `bc`: policy.hidden 8, policy.batch_size 8, policy.batch_size 5 on hopper-medium-replay\n" in told
    assert "critic.lr" not in told
    assert command("--seeds", "1", algos="bc-gaussian") == 0
    assert json.loads((command.keep / "suite.json").read_text())["data"][0]["settings"] == {"bc": {"policy.batch_size": 5}}
    file.write_text(file.read_text().replace("settings.bc ", "settings.bcc "))
    assert command() == 2
    assert "did you mean 'bc'" in capsys.readouterr().err


VARIANTS = """
[variants.bc-small]
algorithm = "bc"
settings = {"policy.batch_size" = 5}
[variants."bc@quick"]
algorithm = "bc"
preset = "quick"
"""


def test_a_variant_is_its_algorithm_with_other_settings_beside_it(command, capsys):
    file = command.folder / "small.toml"
    own = 'settings.bc = {"policy.lr" = 0.01}\nsettings.bc-small = {"policy.lr" = 0.02}\n'
    file.write_text(file.read_text().replace('"bc-gaussian"', '"bc-gaussian", "bc-small", "bc@quick"', 1) + own + VARIANTS)
    assert command("--seeds", "1", algos="bc,bc-small,bc@quick") == 0
    runs = {name: load_run(command.folder / "out" / NAME / name / "0") for name in ("bc", "bc-small", "bc@quick")}
    assert {run.info["algorithm"] for run in runs.values()} == {"bc"}
    found = {name: run.algorithm.policy for name, run in runs.items()}
    assert {name: p.batch_size for name, p in found.items()} == {"bc": 8, "bc-small": 5, "bc@quick": 8}
    assert {p.hidden for p in found.values()} == {(8,)}
    assert {name: float(p.lr) for name, p in found.items()} == {"bc": 0.01, "bc-small": 0.02, "bc@quick": 0.01}
    cells = {row["algorithm"]: row for row in rows(command.keep / "cells.csv")}
    assert {name: row["preset"] for name, row in cells.items()} == {"bc": "paper", "bc-small": "paper", "bc@quick": "quick"}
    assert cells["bc"]["settings"] == cells["bc@quick"]["settings"] != cells["bc-small"]["settings"]
    assert cells["bc@quick"]["shared"] == "policy"  # all of its settings are those of bc here, so that nothing trains again
    scores = {r["algorithm"]: r["mean"] for r in rows(command.keep / "scores.csv") if r["data"] == NAME}
    assert scores["bc"] == scores["bc@quick"] != scores["bc-small"]
    told = capsys.readouterr().out
    assert (
        "- `bc-small` (bc): policy.batch_size 5, policy.lr 0.02 on hopper-medium-replay\n- `bc@quick` (bc, preset quick)\n"
        in told
    )
    page = (command.keep / "report.html").read_text()
    assert '<th>bc-small</th><td class="text">bc</td><td class="long">policy.batch_size 5, policy.lr 0.02 on' in page
    assert "Budget: preset paper, 6 iterations of every stage. Seeds" in page  # of a line, however many variants there are
    (command.folder / "bc.md").write_text("<!-- scores bc -->\n<!-- /scores bc -->\n")
    assert cli.main(["suite", "report", str(command.keep), "--pages", "."]) == 0  # a variant needs no page
    about = json.loads((command.keep / "suite.json").read_text())
    assert command("--seeds", "1", algos="bc") == 0
    assert json.loads((command.keep / "suite.json").read_text())["variants"] == about["variants"] != {}


@pytest.mark.parametrize(
    ("variants", "complaint"),
    [
        ('[variants.bc-wide]\nalgorithm = "bc"\n', "variants.bc-wide is not among the algorithms; add it there"),
        ('[variants.bc]\nalgorithm = "bc"\n', "variants.bc: bc is an algorithm; give the variant another name"),
        ('[variants."../bc"]\nalgorithm = "bc"\n', "variants.../bc: its results get a folder of this name"),
        ('[variants.iql-2]\nalgorithm = "iqll"\n', "variants.iql-2: unknown algorithm 'iqll'; did you mean 'iql'?"),
        ('[variants.iql-2]\nalgorithm = "iql"\npreset = "quik"\n', "unknown preset 'quik'; did you mean 'quick'?"),
        ('[variants.iql-2]\nalgorithm = "iql"\npresets = "quick"\n', "did you mean 'preset'?"),
        ("[variants.iql-2]\n", "missing required field `algorithm`"),
        ('[variants]\niql-2 = "iql"\n', "Expected `object`, got `str`"),
        ('[variants.iql-2]\nalgorithm = "iql"\nsettings = {"policy.l" = 1}\n', "did you mean 'policy.lr'?"),
    ],
)
def test_a_mistake_in_a_variant_is_one_line(command, capsys, variants, complaint):
    file = command.folder / "small.toml"
    file.write_text(file.read_text().replace('"iql"]', '"iql-2"]') + variants)
    assert command(algos="iql-2") == 2
    told = capsys.readouterr().err
    assert complaint in told and told.count("\n") == 1 and not (command.folder / "out").exists()


def test_cells_are_trained_in_the_precision_of_the_suite_and_not_mixed_with_another(command, capsys):
    assert command("--seeds", "1", "--precision", "bfloat16") == 0
    assert load_run(command.folder / "out" / NAME / "bc" / "0").precision == "bfloat16"
    assert ", in bfloat16" in capsys.readouterr().out
    assert command("--seeds", "1", "--keep", "other") == 2
    assert "holds a run in bfloat16, this suite is in float32; choose another --out" in capsys.readouterr().err
    assert command("--seeds", "1", "--out", "other") == 0  # of its own
    with pytest.raises(
        ConfigError, match="holds results with precision float32, this suite has bfloat16; choose another --keep"
    ):
        Keep(command.folder / "other" / "results").adopt(Keep(command.keep))
    assert command("--seeds", "1", "--out", "new", "--keep", str(command.keep)) == 2
    assert "holds results with precision bfloat16, this suite has float32; choose another --keep" in capsys.readouterr().err
    file = command.folder / "small.toml"
    file.write_text('precision = "bfloat16"\n' + file.read_text())
    assert command("--seeds", "1") == 0
    file.write_text(file.read_text().replace("bfloat16", "bfloat61", 1))
    assert command() == 2
    assert "bfloat61" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--algos", "bcc"], "did you mean 'bc'"),
        (["--data", "hopper-medium"], f"did you mean '{NAME}'"),
        (["--data-dir", "nowhere"], f"nowhere/{NAME}.hdf5 is not there"),
        (["--seeds", "1,1"], "one or more different seeds"),
        (["--minutes", "0"], "--minutes 0"),
        (["--jobs", "0"], "--jobs 0: expected one process or more"),
        (["--iterations", "0"], "iterations is 0"),
        (["--iterations", str(2**31)], "expected less than 2^31"),
        (["--episodes", "0"], "--episodes 0: expected one or more"),
        (["--seeds", "0"], "one or more different seeds, found 0"),
        (["--seeds", ","], "one or more different seeds, found 0"),
        (["--seeds", ""], "--seeds '': expected how many"),
        (["--algos", ""], "unknown algorithm ''"),
        (["--data", ""], "unknown data set ''"),
        (["--episodes", str(10**6 + 1)], "found 1000001 episodes in suite small, expected at most 1000000"),
        (
            ["--into", "page.md"],
            "srpo suite run has no use for --into, which is of srpo suite report and presets; leave it out",
        ),
        (["--minutes", "nan"], "--minutes nan: expected a finite number"),
        (["--keep", "small.toml"], "small.toml is no folder; choose another --keep"),
        (["--out", "small.toml", "--keep", "new"], "small.toml is no folder; choose another --out"),
    ],
)
def test_a_mistake_is_one_line(command, capsys, more, complaint):
    assert command(*more) == 2
    told = capsys.readouterr().err
    assert complaint in told and told.count("\n") == 1 and not (command.folder / "out").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("iterations", "iteration"), "did you mean 'iterations'"),
        (("title", "titel"), "did you mean 'title'"),
        (("[settings.bc]", "[settings.bcc]"), "did you mean 'bc'"),
        (('"policy.hidden"', '"policy.hiden"'), "did you mean 'policy.hidden'"),
        (("seeds = [0, 1]", "seeds = 3"), "Expected `array`, got `int` - at `$.seeds`"),
        (("seeds = [0, 1]", "seeds = [-1]"), "Expected `int` >= 0 - at `$.seeds[0]`"),
        (("seeds = [0, 1]", ""), "missing required field `seeds`"),
        (("[budget]", "[budget"), "is no TOML"),
        (("episodes = 2", "episodes = 1_000_001"), "found 1000001 episodes in suite small, expected at most 1000000"),
        (("curve = 2", "curve = 10_001"), "found 10001 policies for a curve in suite small, expected at most 10000"),
        (('"policy.hidden"', "policy.hidden"), 'write the path of a setting in quotes, such as "policy.beta" = 0.1'),
        (("title", 'preset = "quik"\ntitle'), "bc: unknown preset 'quik'; did you mean 'quick'?"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(command, capsys, change, complaint):
    file = command.folder / "small.toml"
    file.write_text(file.read_text().replace(*change))
    assert command() == 2
    told = capsys.readouterr().err
    assert complaint in told and told.count("\n") == 1 and not (command.folder / "out").exists()


def test_a_suite_may_begin_with_a_mark_of_its_encoding(tmp_path):
    (tmp_path / "mine.toml").write_text("\ufeff" + SUITE, encoding="utf-8")
    assert plan.load_suite(str(tmp_path / "mine.toml")).title == "small"


def test_other_mistakes_are_one_line(tmp_path, capsys):
    for argv, complaint in (
        (["run", "opn"], "did you mean 'open'"),
        (["rum", "open"], "did you mean 'run'"),
        (["run"], "needs a suite"),
        (["report", str(tmp_path)], "holds no results of a suite"),
        (["list", "open"], "srpo suite list: found 'open', expected nothing more"),
        (["report", str(tmp_path), "--algos", "bc"], "srpo suite report has no use for --algos, which is of srpo suite run"),
        (["evaluate", str(tmp_path), "--data", "a"], "no use for --data, which is of srpo suite run and report"),
        (["evaluate", str(tmp_path), "--no-eval"], "no use for --no-eval"),
        (["report", str(tmp_path), "--on", "ray"], "no use for --on"),
    ):
        assert cli.main(["suite", *argv]) == 2
        told = capsys.readouterr().err
        assert complaint in told and told.count("\n") == 1


def test_several_processes_do_what_one_does(command, capsys, monkeypatch):
    def at_once(task, count):
        return [task(share) or 0 for share in jobs.shares(count)]

    monkeypatch.setattr(jobs, "side_by_side", at_once)  # in this process: nothing is compiled twice
    monkeypatch.setattr(jobs, "keep_to", lambda share: None)
    assert command("--jobs", "2", "--seeds", "1", algos="bc,bc-gaussian") == 0
    told = capsys.readouterr().err
    assert "2 processes side by side" in told and told.count("begins") == 2
    assert {r["status"] for r in rows(command.keep / "cells.csv")} == {"finished"}


class Mine(BC):
    """Of another package."""


def test_processes_know_what_a_program_registered(command, capsys, monkeypatch):
    def anew(task, count):
        monkeypatch.setattr(algorithms, "registered", {})
        return [task(share) or 0 for share in jobs.shares(count)]

    monkeypatch.setattr(algorithms, "registered", {})
    monkeypatch.setattr(jobs, "side_by_side", anew)
    monkeypatch.setattr(jobs, "keep_to", lambda share: None)
    srpo.register("mine", Mine)
    (command.folder / "small.toml").write_text(SUITE.replace("bc-gaussian", "mine"))
    assert command("--jobs", "2", "--seeds", "1", algos="mine") == 0
    assert [r["status"] for r in rows(command.keep / "cells.csv")] == ["finished"]


def test_a_module_that_is_to_make_names_known_must_be_there(command, capsys):
    assert command("--import", "nowhere_to_be_found") == 2
    told = capsys.readouterr().err
    assert "'nowhere_to_be_found' cannot be imported" in told and "(srpo.register)" in told and told.count("\n") == 1
    assert not command.keep.exists()


# --- time, other processes, sharing


def cell(out, algorithm="iql", seeds=(0,), suite=None):
    suite = suite or plan.read_suite(
        {"algorithms": ["srpo", "iql", "bc"], "data": [{"name": NAME, "task": TASK}], "seeds": [0]}, "s"
    )
    return Cell(suite, NAME, "hash", TASK, algorithm, seeds, out)


def result(algorithm, status="finished", seconds=60.0, data=NAME, seeds="0", scores=None, incomplete=False):
    about = {
        "data": data,
        "algorithm": algorithm,
        "seeds": seeds,
        "status": status,
        "train_seconds": seconds,
        "eval_seconds": 6.0,
    }
    episodes = [{"seed": s, "score": x} for s, values in (scores or {}).items() for x in values]
    return tables.Result(about | {"time_incomplete": incomplete, "error": ""}, episodes)


def test_no_cell_is_begun_that_cannot_end_in_time(tmp_path):
    clock, here = Clock(minutes=1.0), cell(tmp_path)
    assert work.time_for(clock, here, [])  # nothing is known: it is tried
    assert work.time_for(clock, here, [result("iql", seconds=50.0), result("srpo", seconds=500.0)])
    assert not work.time_for(clock, here, [result("iql", seconds=70.0)])
    assert not work.time_for(clock, here, [result("srpo", seconds=500.0)])  # it was never done: the shortest of the others
    assert work.time_for(clock, here, [result("srpo", seconds=500.0), result("bc", seconds=5.0)])
    assert work.time_for(Clock(), here, [result("iql", seconds=1e9)])
    here.folder.parent.mkdir(parents=True)
    here.note(train_seconds=30.0)
    assert work.time_for(clock, here, [result("iql", seconds=70.0)])  # part of it is done


def test_the_clock_stops_as_a_signal_does(command, monkeypatch, capsys):
    real, alarms = threading.Timer, []

    class Alarm:
        """Goes off once training waits, however long it took to get there."""

        def __init__(self, seconds, *what):
            assert 0 < seconds <= 60
            alarms.append(what)

        def start(self): ...

        def cancel(self): ...

    def slow(*args, **options):
        real(0.1, *alarms.pop()).start()
        time.sleep(30)

    monkeypatch.setattr(threading, "Timer", Alarm)
    monkeypatch.setattr(srpo, "train", slow, raising=False)
    monkeypatch.setattr(Clock, "left", property(lambda self: 50.0 if not hasattr(self, "told") else -1.0))
    handler = signal.getsignal(signal.SIGTERM)
    before = Stopped.__init__

    def noticed(self, *args):
        Clock.told = True
        before(self, *args)

    monkeypatch.setattr(Stopped, "__init__", noticed)
    monkeypatch.setattr(work, "time_for", lambda *_: True)
    try:
        assert command("--minutes", "1") == 0
    finally:
        del Clock.told
    assert signal.getsignal(signal.SIGTERM) is handler and "the time is over" in capsys.readouterr().err
    assert rows(command.keep / "cells.csv")[0]["status"] == "unfinished"


def test_a_cell_in_work_elsewhere_is_left_alone(command, capsys):
    small = plan.load_suite("small.toml")
    data = {NAME: srpo.load_dataset(f"{NAME}.hdf5")}
    here = work.Work(small, data, command.folder / "out", Keep(command.keep), "", Clock(), False, True)
    cells = here.cells()
    assert [(c.algorithm, c.seeds) for c in cells[:4]] == [
        ("bc-gaussian", (0,)),
        ("bc", (0,)),
        ("iql", (0,)),
        ("bc-gaussian", (1,)),
    ]
    with cells[0].claimed() as mine, cells[0].claimed() as again:
        assert mine and not again
        taken, ok = here.next(cells[:2], cells)
        assert taken is cells[1] and ok


def test_a_critic_is_shared_and_waited_for(tmp_path):
    critic, user = (cell(tmp_path / "out", name, suite=plan.load_suite("open")) for name in ("srpo", "iql"))
    cells = [critic, user]
    assert not sharing.must_wait(user, cells) and sharing.donor_of(user, cells) == (None, [])
    with critic.claimed():
        assert sharing.must_wait(user, cells)
    data = srpo.from_arrays(np.zeros((6, 11)), np.zeros((6, 3)), np.arange(6.0), np.arange(6) % 3 == 2)
    run = new_run(
        Run(
            critic.folder,
            describe(critic.grid, treat(data, critic.configured.data), eval_every=0, eval_episodes=1),
            critic.grid,
        ),
        {},
    )
    assert sharing.donor_of(user, cells) == (None, [])
    run.save_stage("critic", {"weight": np.zeros(1)})
    with critic.claimed():
        assert not sharing.must_wait(user, cells)  # what it would share is there
    assert sharing.donor_of(user, cells) == (critic.folder, ["critic"])


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(jobs, "cores", lambda: [0, 1, 2, 3, 6])
    assert jobs.shares(1) == [[0, 1, 2, 3, 6]] and jobs.shares(2) == [[0, 2, 6], [1, 3]]
    assert jobs.shares(6)[4:] == [[6], [0]]  # more processes than cores
    monkeypatch.setattr(jobs, "free_memory", lambda: 3.5 * 2**30)
    assert jobs.fitting(2, []) == 2 and jobs.fitting(9, []) == 3 and jobs.fitting(0, []) == 1
    monkeypatch.setattr(jobs, "PROCESS_BYTES", 1 << 60)
    assert jobs.fitting(9, []) == 1  # no memory for more
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    monkeypatch.setattr(jobs, "PROCESS_BYTES", 1)
    assert jobs.fitting(9, []) == 1


def test_processes_keep_to_their_cores(tmp_path, monkeypatch):
    every = jobs.cores()
    codes = jobs.side_by_side(partial(processes.note_cores, tmp_path), 2)
    assert codes == [3 if share[0] % 2 else 0 for share in jobs.shares(2)]
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {str(s[0]): str(s) for s in jobs.shares(2)}
    assert jobs.cores() == every  # mine are as they were


def test_interrupted_processes_are_stopped_and_waited_for(tmp_path, monkeypatch):
    began = time.monotonic()

    def interrupt(self, timeout=None):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        jobs.side_by_side(processes.wait, 2)
    assert time.monotonic() - began < 60 and not multiprocessing.active_children()


# --- tables


def test_the_mean_of_the_suite_pairs_seeds_and_leaves_out_who_is_not_everywhere():
    found = [
        result("bc", data="a", scores={0: [1.0, 3.0], 1: [5.0, 7.0], 2: [100.0, 100.0]}),
        result("bc", data="b", scores={1: [10.0, 10.0], 0: [20.0, 40.0]}, incomplete=True),  # seed 2 failed there
        result("iql", data="a", scores={0: [1.0], 1: [1.0]}),
    ]
    recorded, row = scoring.suite_rows({"a": 2.0, "b": 10.0}, found)
    assert (recorded["algorithm"], recorded["mean"]) == (tables.RECORDED, 6.0)
    # seed 0: (1 + 20) / 2 and (3 + 40) / 2, mean 16; seed 1: 7.5 and 8.5, mean 8
    assert (row["algorithm"], row["seeds"], row["episodes"], row["mean"], row["std"]) == ("bc", 2, 2, 12.0, 4.0)
    assert (row["train_seconds"], row["eval_seconds"], row["time_incomplete"]) == (120.0, 12.0, True)


def test_results_of_more_seeds_are_put_together_and_what_is_finished_wins():
    old, new, more = result("bc", "trained"), result("bc"), result("bc", "unfinished", seeds="1")
    assert tables.merged([old, more], [new]) == [new, more]


def test_seeds_that_are_kept_do_not_hide_the_others_of_their_cell():
    kept = result("bc", scores={0: [1.0, 2.0]})  # of --seeds 1; then all three in one cell, as an accelerator trains them
    every = result("bc", seeds="0 1 2", scores={0: [9.0, 9.0], 1: [3.0, 4.0], 2: [5.0, 6.0]})
    assert tables.merged([result("bc", "trained", seeds="0 1 2")], [kept])[1].seeds == (0, 1, 2)  # as its policies are called
    first, others = tables.merged([every], [kept])
    assert first == kept and others.seeds == (1, 2)
    assert {s: list(x) for s, x in scoring.scores_of([first, others]).items()} == {0: [1, 2], 1: [3, 4], 2: [5, 6]}
    assert tables.merged([every], [first, others]) == [first, others]


def test_each_algorithm_has_its_scores_on_its_page(command, capsys):
    assert command("--seeds", "1") == 0
    pages = command.folder / "pages"
    pages.mkdir()
    (pages / "cloning.md").write_text("bc:\n<!-- scores bc -->\n<!-- /scores bc -->\nend\n")
    (pages / "iql.md").write_text("<!-- scores iql -->\nan old table\n<!-- /scores iql -->\n")
    (command.folder / "page.md").write_text("before\n<!-- scores -->\nold\n<!-- /scores -->\nafter\n")
    assert cli.main(["suite", "report", str(command.keep), "--pages", "pages", "--into", "page.md"]) == 0
    text = (pages / "cloning.md").read_text()
    [mean] = [float(r["mean"]) for r in rows(command.keep / "scores.csv") if (r["algorithm"], r["data"]) == ("bc", NAME)]
    theirs = published.SCORES["bc"][TASK]
    assert f"| `bc` | measured | {mean:.1f} [" in text and f"| `bc` | published for D4RL's task | {theirs} |" in text
    other = (pages / "iql.md").read_text()
    assert "Not measured" in other and "--algos iql" in other and "old table" not in other
    assert text.startswith("bc:\n<!-- scores bc -->") and text.endswith("<!-- /scores bc -->\nend\n")
    page = (command.folder / "page.md").read_text()
    assert page.startswith("before\n<!-- scores -->") and page.endswith("<!-- /scores -->\nafter\n") and "old" not in page
    assert json.loads((command.keep / "suite.json").read_text())["budget"]["iterations"] == 6
    (pages / "cloning.md").unlink()
    capsys.readouterr()
    assert cli.main(["suite", "report", str(command.keep), "--pages", "pages"]) == 2
    assert "no page in" in capsys.readouterr().err


def test_a_page_without_the_place_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(ConfigError, match="no place"):
        insert(page, "scores", "x")
