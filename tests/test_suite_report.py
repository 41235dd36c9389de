"""What a suite comes to as a whole: the measures against their published formulas, and the page that shows them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from srpo import cli
from srpo.suite import charts, measures, scoring, tables
from srpo.suite.findings import findings, short_names
from srpo.suite.html_page import html_page
from srpo.suite.keep import Keep
from srpo.suite.page import cell, page

RNG = np.random.default_rng(0)
SCORES = {n: np.round(RNG.normal(mean, 15, (seeds, 4))) for n, mean, seeds in (("a", 60, 5), ("b", 50, 3), ("c", 40, 6))}


# --- measures, as rliable's metrics.py has them (Agarwal et al., 2021)


def rliable_improvement(x, y):
    wins = [stats.mannwhitneyu(x[:, m], y[:, m], alternative="greater").statistic for m in range(x.shape[1])]
    return np.mean(wins) / (len(x) * len(y))


@pytest.mark.parametrize("x", SCORES)
@pytest.mark.parametrize("y", SCORES)
def test_measures_are_those_of_rliable(x, y):
    x, y = SCORES[x], SCORES[y]
    assert measures.interquartile_mean(x) == pytest.approx(stats.trim_mean(x, proportiontocut=0.25, axis=None))
    assert measures.improvement(x, y) == pytest.approx(rliable_improvement(x, y))
    at = np.array([0.0, 45.0, 60.0])
    np.testing.assert_allclose(measures.profile(x, at), [np.mean(x > tau) for tau in at])


def test_a_stack_of_scores_is_measured_one_by_one():
    many = measures.drawn(SCORES["a"], 0, 5)
    other = measures.drawn(SCORES["b"], 1, 5)
    np.testing.assert_allclose(measures.interquartile_mean(many), [stats.trim_mean(s, 0.25, axis=None) for s in many])
    np.testing.assert_allclose(measures.improvement(many, other), list(map(rliable_improvement, many, other)))


def test_seeds_are_drawn_within_each_data_set():
    scores = np.array([[0.0, 100.0], [1.0, 101.0]])  # (seed, data set)
    many = measures.drawn(scores, 0)
    assert set(many[..., 0].flat) == {0.0, 1.0} and set(many[..., 1].flat) == {100.0, 101.0}
    assert len(np.unique(many.reshape(len(many), -1), axis=0)) == 16  # every data set by itself
    # the mean of n seeds: all 4 draws of 2 in 2 data sets are equally likely
    low, high = measures.interval(many.mean((1, 2)))
    assert (low, high) == (50.0, 51.0)


def test_one_seed_has_no_interval():
    found = measures.compare(["p", "q"], {"a": np.array([[1.0, 3.0]]), "b": np.array([[0.0, 2.0]])})
    assert found.middle["a"] == measures.Estimate(np.float64(2.0)) and found.improvements["a", "b"].value == 1.0
    assert all(row["low"] == row["high"] == "" for row in found.rows())


def test_the_best_interquartile_mean_comes_first_and_profiles_fall():
    found = measures.compare(["p", "q", "r", "s"], dict(reversed(SCORES.items())))
    assert found.names == ("a", "b", "c")
    for e in found.profiles.values():
        assert e.value[0] >= 0.9 and e.value[-1] == 0.0 and (np.diff(e.value) <= 0).all() and (e.low <= e.high).all()
    opposite = found.improvements["b", "a"].value
    assert found.improvements["a", "b"].value == pytest.approx(1 - opposite)


def test_a_profile_has_a_hundred_places_however_high_scores_are():
    for highest, last in ((30.0, 100.0), (105.0, 104.0), (200.0, 200.0), (1e6, 1e6)):
        found = measures.compare(["p"], {"a": np.array([[highest], [1.0]])})
        assert found.at[-1] == last and len(found.at) <= 101


# --- the page


RECORDED = {"rows": 9, "sha256": "", "env_id": None}
PLAYED = {"step": 20, "env_seed": 1001, "return": 100.0, "length": 9}


def result(algorithm, data, level, status="finished", error="", curve=True):
    about = {
        "data": data,
        "algorithm": algorithm,
        "seeds": "0 1",
        "status": status,
        "train_seconds": 60.0,
        "eval_seconds": 6.0,
        "time_incomplete": False,
        "error": error,
        "command": "srpo suite run small",
        "iterations": 20,
        "batch_factor": 1,
        "run": f"../{data}/{algorithm}/0-1",
        "device": "a chip",
    }
    if status != "finished":
        return tables.Result(about, [])
    episodes = [
        PLAYED | {"data": data, "algorithm": algorithm, "seed": s, "episode": e, "score": level + s + e}
        for s in (0, 1)
        for e in (0, 1)
    ]
    before = [{c: e[c] for c in tables.CURVE_COLUMNS} | {"step": 10, "score": 0.5 * e["score"]} for e in episodes]
    return tables.Result(about, episodes, before if curve else [])


@pytest.fixture
def keep(tmp_path):
    about = {
        "name": "small",
        "title": "small <suite>",
        "preset": "paper",
        "budget": {"iterations": 20, "batch_factor": 1},
        "episodes": 2,
        "algorithms": ["srpo", "bc", "dtql"],
        "data": [{"name": n, "task": n, **RECORDED, "mean_score": 30.0} for n in ("x-v0", "y-v0")],
        "seeds": [0, 1],
        "curve": 1,
        "first": {},
        "settings": {},
    }
    kept = Keep(tmp_path / "results")
    kept.folder.mkdir()
    (kept.folder / "suite.json").write_text(json.dumps(about))
    found = [result(n, d, level) for n, level in (("srpo", 60.0), ("bc", 40.0)) for d in ("x-v0", "y-v0")]
    found.append(result("dtql", "x-v0", 10.0, "failed", "<script>alert(1)</script>"))
    run = tmp_path / "x-v0" / "srpo" / "0-1"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    kept.update(found)
    return kept


class Page(HTMLParser):
    """Whether every tag is closed, the tags, and what they point at."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.targets = [], set(), []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.targets += [value for name, value in attrs if name in ("href", "src", "action", "data", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)


def test_the_page_needs_nothing_else_and_holds_everything(keep):
    text = (keep.folder / "report.html").read_text()
    read = Page(text)
    assert read.targets == ["../x-v0/srpo/0-1"]  # the one run that is there
    assert not read.tags & {"script", "link", "img", "iframe"} and "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text
    assert "small &lt;suite&gt;" in text.replace("Small", "small") and "&lt;script&gt;alert(1)" in text
    for heading in (
        "Scores",
        "Means over the suite",
        "Performance profiles",
        "Probability of improvement",
        "Learning curves",
        "Time",
        "Runs",
        "Made by",
    ):
        assert f"<h2>{heading}</h2>" in text
    assert "<b>61.0</b> ± 0.5<small>" in text and "<pre>srpo suite run small</pre>" in text


def test_the_tables_hold_the_measures(keep, capsys):
    with open(keep.folder / "measures.csv") as file:
        lines = file.read().splitlines()
    assert lines[0] == ",".join(measures.COLUMNS) and "probability of improvement,srpo,bc,,1.0,1.0,1.0" in lines
    assert cli.main(["suite", "report", str(keep.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["measures"]
    [middle] = [m for m in found if (m["measure"], m["algorithm"]) == ("interquartile mean", "srpo")]
    assert middle["value"] == 61.0 and 60.0 < middle["low"] <= 61.0
    assert "| 61.0 [60.5, 61.5] |" in (keep.folder / "scores.md").read_text()


def test_one_seed_has_no_deviation():
    row = {"seeds": 1, "episodes": 20, "mean": 61.0, "std": 0.0, "low": 60.0, "high": 62.0}
    assert cell(row) == "61.0 [60.0, 62.0]" and cell(row | {"seeds": 2, "std": 0.5}) == "61.0 ± 0.5 [60.0, 62.0]"


def test_one_episode_has_no_interval(keep):
    one = tables.Result(result("bc", "x-v0", 5.0).about | {"seeds": "0"}, [{"seed": 0, "score": 35.25}])
    found = findings(keep.about, [one])
    assert "| bc | 35.2 | 35.2 | 35.2 |" in page(found) and "35.2 to" not in html_page(found, keep.folder)


def test_means_over_some_of_the_data_sets(keep, capsys):
    keep.update([result("iql", "x-v0", 50.0)])
    assert "iql" not in keep.update([]).means
    spent = html_page(keep.update([]), keep.folder).split("<h2>Time</h2>")[1]
    assert "<th>iql</th><td>1.1</td><td>-</td>" in spent  # minutes; on y-v0 it was not trained
    assert cli.main(["suite", "report", str(keep.folder), "--data", "x-v0"]) == 0
    told = capsys.readouterr().out
    assert "Means and comparisons are over x." in told and re.search(r"iql \| 51.0 ± 0.5 \[.*\] \| - \| 51.0 ±", told)
    assert keep.update([]).means["iql"] == 51.0  # remembered
    assert cli.main(["suite", "report", str(keep.folder), "--data", "z-v0"]) == 2
    assert "did you mean 'y-v0'" in capsys.readouterr().err and keep.about["compared"] == ["x-v0"]


def test_seeds_and_settings_of_earlier_commands_stay(keep, tmp_path):
    later, own = Keep(tmp_path / "later"), {"iql": {"critic.lr": 0.1}}
    later.folder.mkdir()
    (later.folder / "suite.json").write_text(json.dumps(keep.about | {"seeds": [7], "settings": own}))
    before = keep.about
    keep.adopt(later)
    assert 7 not in before["seeds"] and keep.about["seeds"] == [*before["seeds"], 7]
    assert not before["settings"] and keep.about["settings"] == own
    (later.folder / "suite.json").write_text(json.dumps(before))
    keep.adopt(later)
    assert keep.about["settings"] == own


def test_names_that_would_be_the_same_stay_as_they_are(keep, capsys):
    about = keep.about
    other = about["data"][0] | {"name": "x-open-v0"}
    (keep.folder / "suite.json").write_text(json.dumps(about | {"data": [*about["data"], other]}))
    keep.update([result("bc", "x-open-v0", 7.0)])
    for name in ("report.html", "scores.md"):
        text = (keep.folder / name).read_text()
        assert "x-v0" in text and "x-open-v0" in text and "| x |" not in text and "<th>x</th>" not in text
    assert list(short_names(["x-v0", "y-open-v0"]).values()) == ["x", "y"]


def test_a_link_leads_to_the_run_whatever_its_folder_is_called(keep, tmp_path):
    folder = tmp_path / "50% #1?"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    odd = result("bc", "x-v0", 5.0)
    text = html_page(findings(keep.about, [tables.Result(odd.about | {"run": "../50% #1?"}, odd.episodes)]), keep.folder)
    assert Page(text).targets == ["../50%25%20%231%3F"] and ">../50% #1?</a>" in text


def test_learning_curves_end_with_the_last_policies(keep):
    steps, values = scoring.curves("x-v0", tables.read(keep.folder))["srpo"]
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_array_equal(values, [[30.25, 60.5], [30.75, 61.5]])


def test_a_suite_with_one_seed_and_no_curves_or_nothing_at_all_has_a_page(keep):
    one = tables.Result(result("bc", "x-v0", 5.0).about | {"seeds": "0"}, [{"seed": 0, "score": -3.0}])
    for results in ([one], [result("bc", "x-v0", 5.0, "failed", "no luck")], []):
        text = html_page(findings(keep.about, results), keep.folder)
        assert "nan" not in re.sub("<style>.*</style>", "", text, flags=re.S) and Page(text).targets == []


def test_the_page_of_results_is_current():
    docs = Path(__file__).parent.parent / "docs"
    within = (docs / "results.md").read_text().split("<!-- scores -->")[1].split("<!-- /scores -->")[0]
    kept = Keep(docs / "scores")
    found = findings(kept.about, tables.read(kept.folder))
    assert within.strip() == page(found), "run: srpo suite report docs/scores --into docs/results.md --pages docs/algorithms"
    assert (kept.folder / "scores.md").read_text().strip() == page(found)
    assert (kept.folder / "report.html").read_text() == html_page(found, kept.folder)


# --- charts


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (-3, 7, [-2, 0, 2, 4, 6]), (0, 0.9, [0, 0.2, 0.4, 0.6, 0.8])],
)
def test_ticks_are_round(low, high, wanted):
    np.testing.assert_allclose(charts.ticks(low, high), wanted)


def test_lines_are_where_their_values_are():
    text = charts.lines([charts.Line("a", 0, np.array([0.0, 10.0]), np.array([0.0, 50.0]))], "t", "x", "y")
    bottom, right = 300 - charts.BOTTOM, charts.WIDTH - charts.RIGHT
    assert f'd="M{charts.LEFT:.1f} {bottom:.1f}L{right:.1f} {charts.TOP:.1f}"' in text


def test_many_algorithms_differ_and_long_names_fit():
    assert len({charts.color(i) for i in range(35)}) == 35
    style = (Path(charts.__file__).parent / "report.css").read_text()
    assert all(f"svg .{stroke.strip()}.line" in style for stroke in charts.STROKES if stroke)
    for name in ("a", "srpo-normalized-swept", "x" * 200):
        text = charts.dots([charts.Dot(name, 0, 50.0)], "t", "score")
        [(right, shown)] = re.findall(r'<text x="([\d.]+)" y="[\d.]+" class="end name">([^<]*)<', text)
        assert (
            float(right) - charts.LETTER * len(shown) >= 0
            and float(right) < charts.WIDTH / 2
            and f"<title>{name}</title>" in text
        )
