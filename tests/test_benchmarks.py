"""The benchmarks as programs: equal budgets, cells that resume and fail alone, operations counted at every trip of a loop."""

import csv
import json
import shutil
import sys
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import srpo
from srpo import algorithms, config
from srpo.config import ConfigError
from srpo.training import dry_run

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import budgets
import efficiency
import flops
import published
import report
import score_table
import scores

NAME = "hopper-medium-replay-zoo-v0"


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# --- operations


def test_xla_counts_bodies_of_loops_once_and_we_count_every_trip():
    w, x = jnp.ones((64, 64)), jnp.ones((8, 64))
    product = 2 * 8 * 64 * 64

    def nested(x):
        def inner(x):
            return jax.lax.fori_loop(0, 2, lambda _, x: x @ w, x)

        return jax.lax.scan(lambda x, _: (inner(x) @ w, None), x @ w, None, length=7)[0]

    assert flops.counted_once(nested, x) == pytest.approx(3 * product, rel=0.01)  # the correction below stands on this
    assert flops.flops(nested, x) == pytest.approx((1 + 7 * 3) * product, rel=0.01)


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(NotImplementedError, match="while"):
        flops.flops(lambda x: jax.lax.while_loop(lambda x: x < 9, lambda x: x * 2, x), 1.0)


# --- budgets


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_every_algorithm_takes_the_same_number_of_steps(name):
    budget = budgets.BUDGETS["small"]
    for data in scores.SUITES["zoo-all"]:
        algorithm = budgets.configured(name, data, budget)
        counted = {n: s for n, s in algorithm.stages.items() if n not in budgets.UNCOUNTED}
        assert sum(s.steps for s in counted.values()) == budget.steps
        assert (
            max(s.batch_size for s in counted.values()) <= budget.largest_batch
            and min(s.steps for s in counted.values()) >= 1000
        )


def test_temperatures_are_those_of_the_task_of_the_same_kind():
    small = budgets.BUDGETS["small"]
    beta = {d: budgets.settings("srpo", d, small)["policy.beta"] for d in scores.SUITES["zoo"]}
    assert list(beta.values()) == [0.2, 0.2, 0.01]
    dtql = budgets.settings("dtql", "halfcheetah-medium-expert-zoo-v0", small)
    assert (dtql["policy.alpha"], dtql["data.reward"]) == (50.0, "none")
    assert budgets.settings("srpo", "another", small)["policy.beta"] == 0.05  # a data set of no kind: the preset's
    paper = budgets.settings("srpo", "halfcheetah-medium-expert-zoo-v0", budgets.BUDGETS["paper"])
    assert paper["policy.beta"] == 0.01 and "policy.steps" not in paper


# --- scores


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`scores.py` on a small recording, with a handful of steps."""
    n, rng = 200, np.random.default_rng(0)
    with h5py.File(tmp_path / f"{NAME}.hdf5", "w") as file:
        file["observations"], file["actions"] = rng.normal(size=(n, 11)), rng.uniform(-0.9, 0.9, (n, 3))
        file["rewards"], file["terminals"], file["timeouts"] = rng.normal(size=n), np.zeros(n, bool), np.arange(n) % 20 == 19
    monkeypatch.setitem(budgets.BUDGETS, "tiny", budgets.Budget(6, 8, "for the test"))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- scores -->\nold\n<!-- /scores -->\nafter\n")
    fixed = ["--suite", NAME, "--data-dir", str(tmp_path), "--budget", "tiny", "--episodes", "2", "--quiet"]

    def run(*more, seeds="2"):
        return scores.main([*fixed, "--out", str(tmp_path / "out"), "--seeds", seeds, *more])

    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "cloning.md").write_text("bc:\n<!-- scores bc -->\n<!-- /scores bc -->\nend\n")
    run.out, run.page, run.pages = tmp_path / "out", page, tmp_path / "pages"
    return run


def test_a_cell_that_fails_is_recorded_and_tried_again_and_others_go_on(command, monkeypatch, capsys):
    train = srpo.train

    def failing(algorithm, *args, **options):
        if algorithms.name_of(algorithm) == "bc-gaussian":
            raise RuntimeError("out of luck")
        return train(algorithm, *args, **options)

    monkeypatch.setattr(srpo, "train", failing, raising=False)
    assert command("--algos", "bc-gaussian,bc") == 1
    found = {(r["algorithm"], r["data"]): r for r in rows(command.out / "scores.csv")}
    assert found["bc-gaussian", NAME]["status"] == "failed" and "out of luck" in found["bc-gaussian", NAME]["error"]
    assert found["bc", NAME]["status"] == "finished" and float(found["bc", NAME]["train_seconds"]) > 0
    assert ("bc-gaussian", score_table.SUITE) not in found

    monkeypatch.setattr(srpo, "train", train)
    assert command("--algos", "bc-gaussian,bc", "--into", str(command.page)) == 0
    assert f"{NAME} bc: finished before" in capsys.readouterr().err
    text = command.page.read_text()
    assert text.startswith("before\n<!-- scores -->") and text.endswith("<!-- /scores -->\nafter\n") and "old" not in text
    assert "| bc-gaussian |" in text and "6 gradient steps" in text and "Failures" not in text


def test_each_algorithm_has_its_scores_on_its_page(command, capsys):
    assert command("--algos", "bc", "--pages", str(command.pages)) == 0
    text = (command.pages / "cloning.md").read_text()
    [mean] = [float(r["mean"]) for r in rows(command.out / "scores.csv") if (r["algorithm"], r["data"]) == ("bc", NAME)]
    theirs = published.SCORES["bc"]["hopper-medium-replay-v2"]
    assert f"| `bc`, measured | {mean:.1f} ±" in text and f"| `bc`, published for D4RL's task | {theirs} |" in text
    assert text.startswith("bc:\n<!-- scores bc -->") and text.endswith("<!-- /scores bc -->\nend\n")
    assert command("--algos", "bc,iql", "--pages", str(command.pages)) == 2
    assert "no page in" in capsys.readouterr().err


def test_what_was_interrupted_goes_on_where_it_stopped(command, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(srpo, "evaluate", stop, raising=False)
        assert command("--algos", "bc") == 130
        assert command("--algos", "bc", "--report") == 0
    with monkeypatch.context() as patched:
        patched.setattr(srpo, "train", stop, raising=False)  # nothing is trained again
        assert command("--algos", "bc") == 0
    [cell] = [r for r in rows(command.out / "scores.csv") if (r["algorithm"], r["data"]) == ("bc", NAME)]
    episodes = rows(command.out / "episodes.csv")
    assert len(episodes) == 4 and cell["status"] == "finished" and cell["time_incomplete"] == "False"
    assert float(cell["mean"]) == pytest.approx(np.mean([float(e["score"]) for e in episodes]))
    assert float(cell["std"]) == pytest.approx(
        np.std([np.mean([float(e["score"]) for e in episodes if e["seed"] == s]) for s in "01"])
    )


def test_kept_results_stand_for_runs_that_are_gone(command, tmp_path, monkeypatch, capsys):
    keep = ["--keep", str(tmp_path / "keep")]
    assert command("--algos", "bc", *keep) == 0
    before = rows(tmp_path / "keep" / "scores.csv")
    shutil.rmtree(command.out)
    with monkeypatch.context() as patched:
        patched.setattr(srpo, "train", lambda *args, **options: pytest.fail("trained again"), raising=False)
        assert command("--algos", "bc", *keep) == 0
    assert command("--algos", "bc-gaussian", *keep) == 0
    assert [r for r in rows(tmp_path / "keep" / "scores.csv") if r["algorithm"] == "bc"] == [
        r for r in before if r["algorithm"] == "bc"
    ]
    held = (tmp_path / "keep" / "episodes.csv").read_text()
    shutil.rmtree(command.out)
    for more in ([], ["--report"]):  # another question must not lose the answer to this one
        assert command("--algos", "bc", *keep, *more, seeds="1") == 2
        assert "which would be lost; choose another --keep" in capsys.readouterr().err
    assert (tmp_path / "keep" / "episodes.csv").read_text() == held
    (tmp_path / "keep" / "episodes.csv").unlink()
    assert command("--algos", "bc", *keep, seeds="1") == 2
    assert "choose another --keep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--algos", "bcc"], "did you mean 'bc'"),
        (["--algos", "bc", "--episodes", "0"], "--episodes 0"),
        (["--algos", "bc", "--suite", "nothing"], "nothing.hdf5"),
        (["--algos", "bc", "--into", "nowhere.md"], "nowhere.md"),
        (["--algos", "bc", "--seeds", "1,1"], "seeds 1, 1"),
    ],
)
def test_a_mistake_is_one_line(command, capsys, more, complaint):
    assert command(*more) == 2
    told = capsys.readouterr().err
    assert complaint in told and told.count("\n") == 1 and not command.out.exists()


def test_another_budget_in_the_same_folder_is_refused(command, capsys):
    assert command("--algos", "bc") == 0
    assert command("--algos", "bc", seeds="1") == 2
    assert "holds a run with seeds 0, 1" in capsys.readouterr().err


def test_the_mean_of_the_suite_pairs_seeds_and_leaves_out_who_is_not_everywhere():
    def result(data, algorithm, scores):
        episodes = [{"seed": s, "score": x} for s, values in scores.items() for x in values]
        return (data, algorithm), score_table.Result(data, algorithm, "", episodes, 60.0, 6.0, data == "b", "")

    class Recorded:
        def __init__(self, returns):
            self.returns, self.score = np.array(returns), lambda x: x

    found = dict([
        result("a", "bc", {0: [1.0, 3.0], 1: [5.0, 7.0], 2: [100.0, 100.0]}),
        result("b", "bc", {1: [10.0, 10.0], 0: [20.0, 40.0]}),  # seed 2 failed there
        result("a", "iql", {0: [1.0], 1: [1.0]}),
    ])  # fmt: skip
    recorded, row = score_table.suite_rows({"a": Recorded([0.0, 4.0]), "b": Recorded([10.0])}, found)
    assert (recorded["algorithm"], recorded["mean"]) == (score_table.RECORDED, 6.0)
    # seed 0: (1 + 20) / 2 and (3 + 40) / 2, mean 16; seed 1: 7.5 and 8.5, mean 8
    assert (row["algorithm"], row["seeds"], row["episodes"], row["mean"], row["std"]) == ("bc", 2, 2, 12.0, 4.0)
    assert (row["train_seconds"], row["eval_seconds"], row["time_incomplete"]) == (120.0, 12.0, True)


# --- efficiency


def test_costs_are_measured_counted_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "MEASURE_SECONDS", 0.0)
    monkeypatch.setattr(efficiency, "REFERENCE", "bc")
    monkeypatch.setattr(efficiency, "ROUND_SECONDS", 1e-3)
    chosen = {name: config.assign_all(algorithms.find(name)(), {"policy.batch_size": 8}) for name in ("bc", "bc-diffusion")}
    found = {r["algorithm"]: r for r in efficiency.measure(chosen, efficiency.random_data(3000), rounds=3)}
    one_pass = 2 * (11 * 256 + 256 * 256 + 256 * 3)
    five_passes = 5 * 2 * ((11 + 3 + 16) * 256 + 2 * 256 * 256 + 256 * 3)
    assert found["bc"]["flops"] == pytest.approx(one_pass, rel=0.05)
    assert five_passes < found["bc-diffusion"]["flops"] < 1.2 * five_passes
    assert found["bc"]["batch_1"]["ratio"] == 1 and found["bc-diffusion"]["batch_1"]["ratio"] > 1
    assert found["bc"]["stages"]["policy"]["ms_per_step"] > 0

    (tmp_path / "e.json").write_text(json.dumps({"device": "a machine", "rows": list(found.values())}))
    assert efficiency.main(["--from", str(tmp_path / "e.json"), "--csv", str(tmp_path / "e.csv"), "--png", str(tmp_path)]) == 0
    assert (tmp_path / "figure1.png").stat().st_size > 10_000 and (tmp_path / "figure5.png").stat().st_size > 10_000
    ratio = [
        float(r["ratio"])
        for r in rows(tmp_path / "e.csv")
        if r["quantity"] == "operations per action" and r["algorithm"] == "bc-diffusion"
    ]
    assert ratio == [pytest.approx(found["bc-diffusion"]["flops"] / found["bc"]["flops"])]


def test_every_algorithm_has_a_kind():
    assert {efficiency.kind(name) for name in algorithms.ALGORITHMS} == set(efficiency.KIND)


def test_a_slow_policy_gets_a_smaller_batch():
    assert efficiency.fitting(1e-3, 256) == 256 and efficiency.fitting(0.1, 256) == 64 and efficiency.fitting(60.0, 256) == 1


def test_a_page_without_the_place_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(ConfigError, match="no place"):
        report.insert(page, "scores", "x")
