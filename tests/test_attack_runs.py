"""Hostile run folders: truncated, edited, swapped, of another algorithm, with numbers that cannot be; one plain line each."""

import hashlib
import json
import os
import shutil
import signal
import struct

import jax
import numpy as np
import pytest
from hostile import ESCAPES, one_line, refused
from safetensors.numpy import load, save

import srpo
from srpo.cli import main
from srpo.data import from_arrays
from srpo.evaluation.scores import training_scores
from srpo.runs.checkpoint import sweep_parts
from srpo.runs.run import load_run
from srpo.runs.tables import evals_table, metrics_table
from srpo.training import execution

POLICY = "stages/policy.safetensors"
STATE = "state/policy.safetensors"
TINY = {"policy.steps": 6, "policy.batch_size": 8, "policy.hidden": (8,)}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    end = np.arange(120) % 20 == 19
    return from_arrays(
        rng.normal(size=(120, 3)), rng.uniform(-1, 1, (120, 2)), rng.normal(size=120), end, 0 * end, name="tiny", env_id=None
    )


def trained(data, out, **options):
    algorithm = srpo.config.assign_all(srpo.configure("bc-gaussian", data), TINY)
    return srpo.train(algorithm, data, out=out, quiet=True, **{"seeds": (3, 1), "sweep": {"policy.lr": [1e-3, 1e-2]}} | options)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A finished run, with a row in each table."""
    run = trained(data, tmp_path_factory.mktemp("runs") / "whole")
    row = {"kind": "final", "step": 6, "seed": 3, "policy.lr": 1e-3, "episode": 0, "env_seed": 1001, "return": 1.5, "length": 9}
    evals_table(run).append([row | {"score": "", "env_id": "Hopper-v4", "gymnasium": "1.1", "mujoco": "3.2"}])
    return run


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A run that was stopped in the middle."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    step_of = execution.Reporter.step

    def step(self, loop, means):
        step_of(self, loop, means)
        if loop.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(execution.Interrupted):
        patched.setattr(execution.Reporter, "step", step)
        trained(data, out)
    return out


@pytest.fixture
def folder(whole, tmp_path):
    shutil.copytree(whole.path, tmp_path / "run")
    return tmp_path / "run"


def edited(folder, change):
    info = json.loads((folder / "run.json").read_text())
    change(info)
    (folder / "run.json").write_text(json.dumps(info))


def set_in(*path, to):
    def change(info):
        for key in path[:-1]:
            info = info[key]
        info[path[-1]] = to

    return change


def without(*path):
    def change(info):
        for key in path[:-1]:
            info = info[key]
        del info[path[-1]]

    return change


EDITS = {  # of run.json
    "newer": set_in("format", to=99), "format text": set_in("format", to="2"), "format zero": set_in("format", to=0),
    "unknown field": set_in("evil", to=1), "unknown in data": set_in("data", "evil", to=1),
    "no such algorithm": set_in("algorithm", to="nothing"), "algorithm is code": set_in("algorithm", to="os:system"),
    "algorithm with escapes": set_in("algorithm", to=ESCAPES), "another class": set_in("class", to="os:system"),
    "another algorithm": set_in("algorithm", to="bc"),
    "seeds text": set_in("seeds", to="31"), "no seeds": set_in("seeds", to=[]), "negative seed": set_in("seeds", to=[-1, 3]),
    "same seeds": set_in("seeds", to=[3, 3]), "other seeds": set_in("seeds", to=[3, 2]), "swapped seeds": set_in("seeds", to=[1, 3]),
    "float seeds": set_in("seeds", to=[3.5, 1]), "huge seed": set_in("seeds", to=[2**40, 1]),
    "sweep of a size": set_in("sweep", to={"policy.steps": [1]}), "sweep unknown": set_in("sweep", to={"policy.x": [1.0]}),
    "endless sweep": set_in("sweep", to={"policy.lr": list(range(1, 70_000)), "data.clip_action": [0.1, 0.2]}),
    "no sweep": set_in("sweep", to={}), "sweep another": set_in("sweep", "policy.lr", to=[1e-3, 2e-2]),
    "setting unknown": set_in("settings", ESCAPES, to=1), "setting text": set_in("settings", "policy.steps", to="many"),
    "setting missing": without("settings", "policy.steps"), "setting other": set_in("settings", "policy.weight_decay", to=0.5),
    "hidden huge": set_in("settings", "policy.hidden", to=[10**9] * 3), "hidden long": set_in("settings", "policy.hidden", to=[1] * 10**5),
    "steps huge": set_in("settings", "policy.steps", to=10**15), "steps negative": set_in("settings", "policy.steps", to=-3),
    "steps other": set_in("settings", "policy.steps", to=5),
    "no data": without("data"), "data text": set_in("data", to="x"), "no sha256": without("data", "sha256"),
    "sha256 short": set_in("data", "sha256", to="ab"), "sha256 other": set_in("data", "sha256", to="0" * 64),
    "obs size zero": set_in("data", "obs_size", to=0), "obs size huge": set_in("data", "obs_size", to=10**12),
    "obs size text": set_in("data", "obs_size", to="3"), "obs size other": set_in("data", "obs_size", to=4),
    "source endless": set_in("data", "source", to="x" * (2 << 20)),
    "rows negative": set_in("data", "rows", to=-5), "name empty": set_in("data", "name", to=""),
    "env_id runs": set_in("data", "env_id", to="a b;c"), "env_id escapes": set_in("data", "env_id", to=ESCAPES),
    "reference one": set_in("data", "reference", to=[1.0]), "statistics": set_in("data", "obs_statistics", to=[[0.0], [1.0]]),
    "range backwards": set_in("data", "action_range", to={"low": [1.0, 1.0], "high": [0.0, 2.0], "origin": ""}),
    "offset": set_in("data", "obs_offset", to=[1.0]), "deviation": set_in("data", "obs_deviation", to=[1.0]),
    "eval_every negative": set_in("eval_every", to=-1), "eval_episodes zero": set_in("eval_episodes", to=0),
    "keep zero": set_in("keep", to=0), "keep huge": set_in("keep", to=10**9), "keep beyond": set_in("keep", to=7),
    "failures text": set_in("failures", to="x"), "failure of nobody": set_in("failures", to=[{"stage": "policy", "step": 1, "metric": "loss", "seed": 9, "point": []}]),
    "failure beyond": set_in("failures", to=[{"stage": "policy", "step": 99, "metric": "loss", "seed": 3, "point": [["policy.lr", 1e-3]]}]),
    "failure nowhere": set_in("failures", to=[{"stage": "policy", "step": 1, "metric": "loss", "seed": 3, "point": [["policy.lr", 5.0]]}]),
    "failure paints": set_in("failures", to=[{"stage": "policy", "step": 1, "metric": ESCAPES, "seed": 3, "point": []}]),
    "hash short": set_in("stages", "policy", to="x"), "hash other": set_in("stages", "policy", to="0" * 64),
    "stage unknown": set_in("stages", "evil", to="0" * 64), "stage path": set_in("stages", "../evil", to="0" * 64),
    "versions": set_in("versions", to=[1]), "device": set_in("device", to="x" * 10**6),
    "not finished": set_in("stages", to={}),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_edited_run_json(folder, case):
    edited(folder, EDITS[case])
    refused(lambda: load_run(folder).policies)


TEXTS = {
    "empty": b"", "half": b'{"format": 2,', "a list": b"[]", "a number": b"7", "nested": b"[" * 200_000, "bytes": b"\xff\xfe\x00",
    "NaN": b'{"format": NaN}', "infinite": b'{"format": 1e999}', "null": b"null",
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_damaged_run_json(folder, case):
    (folder / "run.json").write_bytes(TEXTS[case])
    assert "run.json is damaged" in refused(lambda: load_run(folder))


def test_devices_pipes_and_links_are_no_run(folder, data, stopped, tmp_path):
    for name in ("run.json", POLICY, "metrics.csv"):
        place, content = folder / name, (folder / name).read_bytes()
        for make in (lambda p: p.symlink_to("/dev/zero"), os.mkfifo, lambda p: p.mkdir()):
            place.unlink()
            make(place)
            refused(lambda: (load_run(folder).policies, metrics_table(load_run(folder)).read()))
            place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
            place.write_bytes(content)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    shutil.copytree(stopped, tmp_path / "linked")
    (tmp_path / "linked/lock").unlink()
    (tmp_path / "linked/lock").symlink_to(victim)
    (tmp_path / "linked/run.json.part").symlink_to(victim)
    assert "lock" in refused(lambda: srpo.resume(tmp_path / "linked", data, quiet=True))
    assert victim.read_text() == "precious"


def rewritten(path, change=lambda arrays: None, **meta):
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    info = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["info"])
    arrays = load(content)
    change(arrays)
    path.write_bytes(save(arrays, {"info": json.dumps(info | meta)}))


def first(arrays):
    return min(arrays)


def nan(arrays):
    name = next(n for n in sorted(arrays) if arrays[n].dtype == np.float32 and arrays[n].size)
    arrays[name] = np.full_like(arrays[name], np.nan)


WEIGHTS = {
    "not a number": nan,
    "one missing": lambda a: a.pop(first(a)),
    "one more": lambda a: a.update({ESCAPES: np.zeros(3, "f4")}),
    "another shape": lambda a: a.update({first(a): np.zeros(3, "f4")}),
    "another type": lambda a: a.update({first(a): a[first(a)].astype("f8")}),
    "swapped": lambda a: a.update({first(a): a[first(a)][::-1].copy()}),
}


@pytest.mark.parametrize("old", [False, True], ids=["format 2", "format 1"])
@pytest.mark.parametrize("case", WEIGHTS)
def test_stage_files_that_are_not_what_was_written(folder, case, old):
    """In runs of format 1, which knew no hashes, numbers that merely differ are the one thing that cannot be noticed."""
    rewritten(folder / POLICY, WEIGHTS[case])
    if old:
        edited(folder, lambda info: (info.update(format=1), info.pop("stages")))
        rewritten(folder / POLICY, run=None)
        if case == "swapped":
            return
    refused(lambda: load_run(folder).policies)


def test_runs_of_format_1_still_load(folder, whole):
    edited(folder, lambda info: (info.update(format=1), [info.pop(key) for key in ("stages", "keep", "precision")]))
    rewritten(folder / POLICY, run=None)
    old = load_run(folder)
    assert old.complete
    for x, y in zip(jax.tree.leaves(old.policies), jax.tree.leaves(whole.policies), strict=True):
        np.testing.assert_array_equal(x, y)


DAMAGE = {"empty": lambda b: b"", "half": lambda b: b[: len(b) // 2], "a flip": lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:]}
DAMAGE |= {
    "a long header": lambda b: struct.pack("<Q", 1 << 50) + b[8:],
    "no header": lambda b: bytes(1000),
    "text": lambda b: b"no tensors",
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_stage_and_state_files(folder, stopped, data, tmp_path, case):
    (folder / POLICY).write_bytes(DAMAGE[case]((folder / POLICY).read_bytes()))
    refused(lambda: load_run(folder).policies)
    shutil.copytree(stopped, tmp_path / "stopped")
    path = tmp_path / "stopped" / STATE
    path.write_bytes(DAMAGE[case](path.read_bytes()))
    if case != "a flip":  # one bit of one weight: nothing can know
        refused(lambda: srpo.resume(tmp_path / "stopped", data, quiet=True))


STATES = {
    "a step beyond the end": {"step": 7}, "a negative step": {"step": -1}, "half a step": {"step": 1.5}, "a step as text": {"step": "1"},
    "failures as text": {"failures": "none"}, "a failure of nobody": {"failures": [{"stage": "policy", "step": 1, "metric": "x", "seed": 8, "point": []}]},
    "a failure of another stage": {"failures": [{"stage": "critic", "step": 1, "metric": "x", "seed": 3, "point": []}]},
    "nobody's": {"run": None}, "a list for a run": {"run": [1]}, "unknown": {"evil": 1},
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
def test_states_that_cannot_be(stopped, data, tmp_path, case):
    shutil.copytree(stopped, tmp_path / "run")
    rewritten(tmp_path / "run" / STATE, **STATES[case])
    refused(lambda: srpo.resume(tmp_path / "run", data, quiet=True))
    assert not (tmp_path / "run/stages").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stage", "critic"),
        ("seeds", [3, 2]),
        ("algorithm", "bc"),
        ("data", "0" * 64),
        ("sweep", {}),
        ("settings", {}),
        ("format", 1),
    ],
)
def test_states_of_other_runs(stopped, data, tmp_path, key, value):
    """With the same shapes: another stage, seed, algorithm, data set, sweep or setting."""
    shutil.copytree(stopped, tmp_path / "run")
    mine = load_run(stopped).identity("policy")
    rewritten(tmp_path / "run" / STATE, run=mine | {key: value})
    assert "of another run" in refused(lambda: srpo.resume(tmp_path / "run", data, quiet=True))


def test_files_of_a_run_whose_settings_were_renamed_since_are_still_its_own(
    folder, stopped, whole, data, tmp_path, monkeypatch
):
    shutil.copytree(stopped, tmp_path / "stopped")
    failure = {"stage": "policy", "step": 2, "metric": "loss", "seed": 1, "point": [["policy.rate", 1e-2]]}
    for path, file in ((folder, POLICY), (tmp_path / "stopped", STATE)):
        old = json.loads(json.dumps(load_run(path).identity("policy")).replace("policy.lr", "policy.rate"))
        rewritten(path / file, run=old, **({"failures": [failure]} if file == STATE else {}))
        told = (path / "run.json").read_text().replace("policy.lr", "policy.rate")
        (path / "run.json").write_text(told)
    edited(folder, set_in("stages", "policy", to=hashlib.sha256((folder / POLICY).read_bytes()).hexdigest()))
    monkeypatch.setattr(type(whole.algorithm), "renamed", {"policy.rate": "policy.lr"})
    for x, y in zip(jax.tree.leaves(load_run(folder).policies), jax.tree.leaves(whole.policies), strict=True):
        np.testing.assert_array_equal(x, y)
    assert srpo.resume(tmp_path / "stopped", data, quiet=True).failures == [failure | {"point": [["policy.lr", 1e-2]]}]


@pytest.mark.parametrize("case", ["not a number", "one missing", "one more", "another shape", "another type"])
def test_states_with_other_arrays(stopped, data, tmp_path, case):
    shutil.copytree(stopped, tmp_path / "run")
    rewritten(tmp_path / "run" / STATE, WEIGHTS[case])
    refused(lambda: srpo.resume(tmp_path / "run", data, quiet=True))


CELLS = {  # table: cells by column that its run cannot have written
    "metrics.csv": {
        "stage": ["critic", ""], "step": ["-1", "1.5", "x", "9" * 30], "seed": ["2", "", "3.0"], "policy.lr": ["0.5", "nan", "x"],
        "metric": [ESCAPES, "a" * 500], "value": ["", "x", "nan", "inf", "1e9999", "0x1", "1_0"],
    },
    "evals.csv": {
        "kind": ["", "last"], "step": ["-1", "6.0"], "seed": ["7"], "policy.lr": ["0.5"], "episode": ["x"], "env_seed": ["-2"],
        "return": ["", "x", "1,5"], "length": ["1e3"], "score": ["x"], "env_id": [ESCAPES], "mujoco": ["<script>"],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_tables_that_make_no_sense(folder, name):
    table = {"metrics.csv": metrics_table, "evals.csv": evals_table}[name](load_run(folder))
    good = table.read()
    assert good
    for column, texts in CELLS[name].items():
        for text in texts:
            table.rewrite([good[0] | {column: text}])
            said = refused(table.read)
            assert "line 2" in said and column in said and "restore it, or move it away" in said


@pytest.mark.parametrize("name", CELLS)
def test_damaged_tables(folder, name):
    run, path = load_run(folder), folder / name
    table = {"metrics.csv": metrics_table, "evals.csv": evals_table}[name](run)
    whole, good = path.read_bytes(), table.read()
    head, *rows = whole.splitlines(keepends=True)
    torn = [whole + rows[0][: len(rows[0]) // 2], whole + rows[0][:-1]]
    for content in torn:  # as a kill leaves it
        path.write_bytes(content)
        assert table.read() == good
    for content in (
        b"",
        b"\xff" * 99 + b"\n",
        b"a,b\n1,2\n",
        head.replace(b"seed", b"sad"),
        b"\0" * 99 + b"\n",
        head + b"1,2\n" + rows[0],
        head + b'"' + rows[0],
    ):
        path.write_bytes(content)
        assert f"{name} is damaged" in refused(table.read)


def test_what_reads_the_tables_answers_in_one_line(folder, capsys):
    (folder / "metrics.csv").write_text("x\n")
    assert main(["eval", str(folder), "--env", "Hopper-v4"]) == 2
    one_line(capsys.readouterr().err.rstrip("\n"))
    (folder / "evals.csv").write_text("x\n")
    edited(folder, set_in("eval_every", to=3))
    refused(lambda: training_scores(load_run(folder)))


LINES = {  # of the episodes in evals.csv: what an edit left of them
    "one is missing": lambda rows: rows[1:], "the last is missing": lambda rows: rows[:-1], "one is there twice": lambda rows: [rows[0], *rows],
    "of a value that is not named": lambda rows: [rows[0] | {"policy.lr": ""}, *rows[1:]],
    "of another number": lambda rows: [rows[0] | {"episode": "7"}, *rows[1:]],
}  # fmt: skip


@pytest.mark.parametrize("case", LINES)
def test_episodes_that_are_not_all_there_are_no_score(folder, case, capsys):
    edited(folder, set_in("eval_every", to=3))
    table = evals_table(load_run(folder))
    row = table.read()[0] | {"kind": "training"}
    each = [(seed, lr, episode) for seed in (3, 1) for lr in (1e-3, 1e-2) for episode in range(3)]
    table.rewrite([row | {"seed": seed, "policy.lr": lr, "episode": episode} for seed, lr, episode in each])
    assert main(["train", "--resume", str(folder)]) == 0 and "3 episodes per seed" in capsys.readouterr().out
    table.rewrite(LINES[case](table.read()))
    assert main(["train", "--resume", str(folder)]) == 2
    told = capsys.readouterr()
    assert "evals.csv is damaged" in one_line(told.err.rstrip("\n")) and told.out == ""


def test_what_a_kill_left_half_written_is_swept(stopped, data, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    parts = [tmp_path / "run" / name for name in ("run.json.part", "metrics.csv.part", "state/policy.safetensors.part")]
    for part in parts:
        part.write_bytes(b"half")
    srpo.resume(tmp_path / "run", data, quiet=True)
    assert not list((tmp_path / "run").rglob("*.part"))
    (tmp_path / "run/kept.part").mkdir()
    sweep_parts(tmp_path / "run")
    assert (tmp_path / "run/kept.part").is_dir()


NAMES = [ESCAPES.replace("\0", "").replace("/", ""), "\udcff\udcfe", "[red]x[/red]", "a\nb", "$(touch x)"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_file_names_never_reach_the_terminal_as_they_are(tmp_path, capsys, name):
    for command in (
        ["eval", name],
        ["train", f"{name}.hdf5"],
        ["data", "info", f"{name}.npz"],
        ["bench", f"{name}.onnx"],
        [name],
        ["train", "--x", name],
    ):
        assert main(command) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.isascii() and said.err.replace("\n", "").isprintable() and said.err.count("\n") <= 1
