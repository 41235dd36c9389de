"""`srpo paper` with tiny budgets: files, reproducibility, what is refused."""

import contextlib
import csv
import io
import json
import sys
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from srpo import cli
from srpo.paper import FIGURES, fig2, job, study, toy_policies

TINY = job.Budget(
    rows=4000, steps=400, batch_size=64, width=24, grid=13, targets=3, temperatures=3, climbs=5, draws=16, held_out=100
)


@pytest.fixture(autouse=True, scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "QUICK", TINY)
        patch.setattr(study, "CHUNK", 300)  # what a study asks the density at is one chunk
        patch.setattr(fig2, "SHOWN", 500)
        patch.setattr(toy_policies, "HIDDEN", (32, 32))
        yield


def run(capsys, *args):
    """The report of a quick figure that succeeds, and what went to standard error."""
    assert cli.main(["paper", *map(str, args), "--quick", "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def table(path):
    with open(path) as f:
        return list(csv.DictReader(f))


def refusal(capsys, *args):
    """The one line with which a command ends with exit code 2."""
    assert cli.main(["paper", *map(str, args)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


@pytest.fixture(scope="module")
def fig3(tmp_path_factory):
    """The folder, the report and the progress of a figure of one bandit."""
    out, said = tmp_path_factory.mktemp("fig3"), (io.StringIO(), io.StringIO())
    with contextlib.redirect_stdout(said[0]), contextlib.redirect_stderr(said[1]):
        assert cli.main(["paper", "fig3", "--data", "8gaussians", "--out", str(out), "--quick", "--json"]) == 0
    return out, json.loads(said[0].getvalue()), said[1].getvalue()


def test_fig3_writes_a_picture_and_its_numbers(fig3):
    out, report, progress = fig3
    assert sorted(p.name for p in out.iterdir()) == ["fig3.png", "fig3_density.csv", "fig3_policies.csv"]
    assert report["rows"][0]["density integral"] == pytest.approx(1, abs=0.5)  # so few cells cannot see sharp ridges
    assert "behavior: 400/400" in progress
    picture = matplotlib.image.imread(out / "fig3.png")
    assert picture.shape[1] == 2025 and picture[..., :3].std() > 0.1
    policies, density = (table(out / f"fig3_{name}.csv") for name in ("policies", "density"))
    assert len(policies) == 3 * 9 and len(density) == TINY.grid**2
    greedy = [r for r in policies if float(r["inverse_beta"]) == 0]
    assert all(abs(float(r["action_x"]) - float(r["target_x"])) < 0.2 for r in greedy)


def test_fig7_has_a_row_per_data_set_and_the_numbers_of_fig3_for_the_same_seed(fig3, tmp_path, capsys):
    report, _ = run(capsys, "fig7", "--data", "moons,8gaussians", "--out", tmp_path)
    assert [r["data"] for r in report["rows"]] == ["moons", "8gaussians"]
    assert {r["data"] for r in table(tmp_path / "fig7_density.csv")} == {"moons", "8gaussians"}
    assert (tmp_path / "fig7.png").stat().st_size > 10_000
    for name in ("policies", "density"):
        rows = [r for r in table(tmp_path / f"fig7_{name}.csv") if r["data"] == "8gaussians"]
        assert rows == table(fig3[0] / f"fig3_{name}.csv")


def test_fig3_by_the_surrogate_gradient_from_another_seed_for_people(fig3, tmp_path, capsys):
    options = ["--data", "8gaussians", "--gradient", "eq15", "--seed", "1", "--out", str(tmp_path)]
    assert cli.main(["paper", "fig3", *options, "--quick"]) == 0
    told = capsys.readouterr().out
    assert "8gaussians" in told and "integral" in told and "fig3.png" in told
    assert max(float(r["inverse_beta"]) for r in table(tmp_path / "fig3_policies.csv")) == 40
    assert table(tmp_path / "fig3_density.csv") != table(fig3[0] / "fig3_density.csv")


def test_fig2_counts_what_leaves_the_support(tmp_path, capsys):
    report, _ = run(capsys, "fig2", "--out", tmp_path)
    rows = {r["policy"]: r["out of support, %"] for r in report["rows"]}
    assert rows["behavior"] < 3 and rows["forward KL (Gaussian)"] > 40
    actions = table(tmp_path / "fig2.csv")
    for name, share in rows.items():
        inside = [r["in_support"] == "1" for r in actions if r["policy"] == name]
        assert 100 * (1 - np.mean(inside)) == pytest.approx(share, abs=0.06)
    assert (tmp_path / "fig2.png").exists()


def test_variance_reports_single_times_and_the_ensemble(tmp_path, capsys):
    report, _ = run(capsys, "variance", "--out", tmp_path)
    rows = {r["t"]: r for r in report["rows"]}
    assert list(rows) == ["0.02", "0.50", "0.98", "U(0.02, 0.98)"]
    late = rows["0.98"]
    assert float(late["with"]) < float(late["variance without baseline"])
    assert float(late["score error, preconditioned"]) < float(late["score error, noise"])
    assert table(tmp_path / "variance.csv")[-1]["t"] == "U(0.02 to 0.98)"
    assert (tmp_path / "variance.png").exists()


def test_the_dial_moves_from_the_maximum_of_q_as_a_policy_for_each_temperature_does(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(job, "QUICK", replace(TINY, climbs=40))
    report, _ = run(capsys, "dial", "--out", tmp_path)
    moved = [r["from argmax Q"] for r in report["rows"]]
    assert moved == sorted(moved) and moved[0] < 0.1 < moved[-1]
    points = table(tmp_path / "dial.csv")
    assert len(points) == 3 * 9 and (tmp_path / "dial.png").exists()
    warmest = [r for r in points if float(r["beta"]) == 1]
    assert all(abs(float(r[f"{name}_x"]) - float(r["target_x"])) < 0.6 for r in warmest for name in ("dial", "alone"))


def test_dtql_toys_put_the_methods_on_the_same_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(job, "QUICK", replace(TINY, climbs=16))
    report, _ = run(capsys, "dtql-toys", "--data", "swissroll", "--out", tmp_path)
    reward = {(r["reward"], r["method"]): r["mean reward"] for r in report["rows"]}
    methods = ("DTQL", "DTQL (KL)", "SRPO")
    assert len(reward) == 12 and all(reward["same", method] == 0 for method in methods)
    points = table(tmp_path / "dtql-toys_landscape.csv")
    trust, density = (np.array([float(p[name]) for p in points]) for name in ("trust_region_loss", "log_density"))
    likely = density > np.quantile(density, 0.9)
    assert trust[likely].mean() < 0.7 * trust[~likely].mean()  # the valleys of both landscapes are where the data are
    policies = table(tmp_path / "dtql-toys_policies.csv")
    assert len(policies) == 12 * 9

    def norm(name, method):
        return np.mean(
            [np.hypot(float(p["x"]), float(p["y"])) for p in policies if (p["reward"], p["method"]) == (name, method)]
        )

    for method in methods:
        assert norm("far", method) > max(1.0, norm("near", method))  # 0.6 beside a behavior that was not trained
        assert norm("far", method) == pytest.approx(reward["far", method], abs=0.01)
    assert (tmp_path / "dtql-toys.png").stat().st_size > 10_000


def test_list_names_every_figure(capsys):
    assert cli.main(["paper", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(FIGURES) and all("needs: " in line for line in lines[1::2])
    assert cli.main(["paper", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"].keys() == FIGURES.keys()


@pytest.mark.parametrize(
    "args, message",
    [
        (("fig33",), "unknown figure 'fig33'; did you mean 'fig3'?"),
        (("fig3", "--data", "swisroll"), "did you mean 'swissroll'?"),
        (("fig3", "--data", "moons,rings"), "draws one data set"),
        (("fig7", "--data", "moons,"), "unknown data set ''"),
        (("fig2", "--data", "moons"), "'moons'"),
        (("fig3", "--gradient", "eq14"), "unknown gradient 'eq14'"),
        (("fig2", "--gradient", "eq15"), "--gradient is for fig3 and fig7"),
        (("fig10", "--seed", 1), "--seed is for fig2, fig3, fig7, variance, dial, dtql-toys, found it with fig10"),
        (("fig3", "--keep", "results"), "--keep is for fig1,"),
        (("fig7", "--data-dir", "data"), "--data-dir is for fig1,"),
        (("fig5", "--data", "hopper-medium-v2"), "--data is for fig2,"),
        (("fig5", "--keep", "results"), "--keep is for fig1,"),
        (("table2", "--suite", "open"), "--suite is for fig1,"),
        (("fig1", "--runs", "runs"), "runs/results holds no results of the suite open"),
        (("fig3", "--seed", -1), "found -1 as --seed, expected zero or more"),
        (("fig3", "--seed", 99999999999999999999), "as --seed, expected at most 4294967295"),
        (("fig7", "--seed", 2**32), "as --seed, expected at most 4294967295"),
    ],
)
def test_refusals(args, message, capsys, tmp_path):
    assert message in refusal(capsys, *args, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert f"cannot write to {tmp_path / 'file' / 'sub'}" in refusal(capsys, "fig3", "--out", tmp_path / "file" / "sub")


@pytest.mark.parametrize("missing", ["diffrax", "sklearn"])
def test_missing_extra_is_named(missing, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("srpo.paper.fig3", "srpo.paper.study", "srpo.diffusion.density"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert "pip install 'srpo[paper]'" in refusal(capsys, "fig3", "--out", tmp_path)
