"""What `srpo paper fig1` and `fig5` show: operations counted at every trip of a loop, costs measured, kept and drawn."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_paper_command import refusal
from test_paper_suite import make, read

from srpo import algorithms, cli, config
from srpo.paper import costs, fig1, fig5, flops, timing
from srpo.paper.costs import Costs
from srpo.paper.job import Job
from srpo.runs.tables import write_csv
from srpo.training import dry_run
from srpo.training.progress import Bars

PAGES = Path(__file__).parents[1] / "docs"

# --- operations


def test_xla_counts_bodies_of_loops_once_and_we_count_every_trip():
    w, x = np.ones((64, 64), np.float32), np.ones((8, 64), np.float32)
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


# --- costs


def test_costs_are_measured_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "MEASURE_SECONDS", 0.0)
    monkeypatch.setattr(timing.jax, "clear_caches", lambda: None)  # of the tests that follow
    monkeypatch.setattr(timing, "REFERENCE", "bc")
    monkeypatch.setattr(timing, "ROUND_SECONDS", 1e-3)
    chosen = {name: config.assign_all(algorithms.find(name)(), {"policy.batch_size": 8}) for name in ("bc", "bc-diffusion")}
    rows = timing.measure(chosen, timing.random_data(3000), timing.Effort(9), Bars(quiet=True))
    found = Costs(rows)
    one_pass = 2 * (11 * 256 + 256 * 256 + 256 * 3)
    five_passes = 5 * 2 * ((11 + 3 + 16) * 256 + 2 * 256 * 256 + 256 * 3)
    operations = found.values(costs.OPERATIONS)
    assert operations["bc"] == pytest.approx(one_pass, rel=0.05)
    assert five_passes < operations["bc-diffusion"] < 1.2 * five_passes
    assert found.of(costs.OPERATIONS)["bc-diffusion"]["ratio"] == operations["bc-diffusion"] / operations["bc"]
    assert found.names == ["bc", "bc-diffusion"] and found.batches == [1, 256]
    assert found.of(costs.TIME, 256)["bc"]["ratio"] == 1 and found.of(costs.TIME)["bc-diffusion"]["ratio"] > 1
    assert found.by_stage(costs.STEPS, "bc")["policy"] > 0
    write_csv(tmp_path / "costs.csv", rows, costs.COLUMNS)
    assert fig5.page(costs.read(tmp_path / "costs.csv")) == fig5.page(found)


def test_a_slow_policy_gets_a_smaller_batch():
    assert timing.fitting(1e-3, 256) == 256 and timing.fitting(0.1, 256) == 64 and timing.fitting(60.0, 256) == 1


def test_figures_and_table_of_the_documentation_are_those_of_its_costs(tmp_path, capsys):
    page = PAGES / "results.md"
    shutil.copy(page, tmp_path)
    given = ("--costs", str(PAGES / "costs.csv"), "--out", str(tmp_path), "--json")
    assert cli.main(["paper", "fig5", *given, "--into", str(tmp_path / "results.md")]) == 0
    assert (tmp_path / "results.md").read_text() == page.read_text()
    assert (tmp_path / "fig5.png").stat().st_size > 10_000


def test_fig1_shows_published_scores_or_those_of_a_suite(tmp_path, capsys):
    given = ("--costs", str(PAGES / "costs.csv"))
    means = {
        r["algorithm"]: float(r["mean"]) for r in read(PAGES / "scores" / "scores.csv") if r["data"] == "mean of the suite"
    }
    rows = make(capsys, "fig1", PAGES / "scores", tmp_path, *given)
    assert len(rows) > 1 and all(r["score"] == round(means[r["system"]], 1) for r in rows)
    assert cli.main(["paper", "fig1", *given, "--out", str(tmp_path)]) == 0
    rows = {r["system"]: float(r["score"]) for r in read(tmp_path / "fig1.csv")}
    assert rows["srpo"] == 87.1 and len(rows) == 11 and (tmp_path / "fig1.png").stat().st_size > 10_000


def test_fig1_times_the_algorithms_of_a_suite_not_its_variants(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(timing, "costs_of", lambda job, names, effort: asked.extend(names) or costs.read(PAGES / "costs.csv"))
    found = SimpleNamespace(means={"srpo": 90.0, "srpo-bold": 95.0, "the data": 20.0})
    rows = fig1.make(Job(tmp_path, Bars(True), suite=SimpleNamespace(findings=lambda: found)))
    assert asked == ["srpo"] and [r["system"] for r in rows] == ["srpo"]


def test_dtqls_table_has_scores_and_times_of_its_systems(tmp_path, capsys):
    given = ("--costs", str(PAGES / "costs.csv"))
    made = {r["system"]: r for r in make(capsys, "dtql-table", PAGES / "scores", tmp_path, *given)}
    assert made["DTQL"]["mean of the suite"] == "-" and "±" in made["SRPO"]["halfcheetah-medium-replay"]
    assert cli.main(["paper", "dtql-table", *given, "--out", str(tmp_path)]) == 0
    rows = {r["system"]: r for r in read(tmp_path / "dtql-table.csv")}
    assert (rows["DTQL"]["mean"], rows["DTQL"]["x SRPO"], rows["SRPO"]["x SRPO"]) == ("88.7", "271", "1")
    assert rows["DTQL (KL)"]["mean"] == "-" and rows["IQL"]["hopper-medium-v2"] == "66.3"


PARTS = {  # of an earlier run's costs: which rows are there
    "time alone": lambda r: r["quantity"] == costs.TIME, "no core time": lambda r: not r["quantity"].startswith("core"),
    "no training": lambda r: r["stage"] == "" and r["quantity"] != costs.TRAINING,
    "one system acting one by one": lambda r: (r["algorithm"], r["batch"]) != ("iql", "256"),
    "no operations of one": lambda r: (r["algorithm"], r["quantity"]) != ("iql", costs.OPERATIONS),
    "operations and training of others": lambda r: r["algorithm"] != "iql" or r["quantity"] in (costs.TIME, costs.CORE_TIME),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_what_there_is_of_costs_is_shown(case, tmp_path, capsys):
    kept = [row for row in read(PAGES / "costs.csv") if PARTS[case](row)]
    write_csv(tmp_path / "costs.csv", kept, costs.COLUMNS)
    for figure in ("fig5", "fig1", "dtql-table"):
        assert cli.main(["paper", figure, "--costs", str(tmp_path / "costs.csv"), "--out", str(tmp_path)]) == 0
        assert "srpo" in capsys.readouterr().out.lower()
    assert (tmp_path / "fig5.png").stat().st_size > 10_000


def changed(**cells):
    return lambda head, row, *others: [
        head,
        ",".join(cells.get(n, c) for n, c in zip(head.split(","), row.split(","), strict=True)),
        *others,
    ]


BROKEN = {  # what an edit made of the lines
    "cut off": lambda *lines: [*lines[:9], lines[9][:20]], "empty": lambda *lines: [], "no rows": lambda head, *lines: [head],
    "no ratio": changed(ratio=""), "no value": changed(value=""), "a value that is none": changed(value="nan"),
    "below zero": changed(value="-1"), "endless": changed(value="inf"), "another kind": changed(kind="magic"),
    "another algorithm": changed(algorithm="spro"), "another quantity": changed(quantity="time per acting"),
    "a stage that acts": changed(stage="policy"), "no batch": changed(batch=""), "a huge cell": changed(unit="x" * 200_000),
    "a column more": lambda head, *lines: [head + ",more", *(line + ",1" for line in lines)],
    "a cell more": lambda head, row, *lines: [head, row + ",1", *lines], "bytes": lambda *lines: ["\0" * 99],
    "a quote that does not end": lambda head, *lines: [head, '"' + lines[0], *lines[1:]],
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_costs_that_no_run_wrote_are_one_line(case, tmp_path, capsys):
    lines = (PAGES / "costs.csv").read_text().replace('"cpu, 2 cores"', "cpu").splitlines()
    (tmp_path / "costs.csv").write_text("\n".join(BROKEN[case](*lines)))
    for figure in ("fig5", "fig1", "dtql-table"):
        said = refusal(capsys, figure, "--costs", tmp_path / "costs.csv", "--out", tmp_path / "new")
        assert "cannot read costs from" in said and "give the costs.csv that srpo paper fig5 wrote" in said
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_timed_or_shown(tmp_path, capsys):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    out = ("--out", tmp_path / "new")
    assert "costs.csv that srpo paper fig5 wrote" in refusal(capsys, "fig1", "--costs", tmp_path / "other.csv", *out)
    assert "did you mean 'srpo'" in refusal(capsys, "fig5", "--algos", "spro", *out)
    assert "--into is for fig5" in refusal(capsys, "fig3", "--into", "page.md", *out)
    assert "leave one out" in refusal(capsys, "fig5", "--algos", "srpo", "--costs", PAGES / "costs.csv", *out)
    assert not (tmp_path / "new").exists()
