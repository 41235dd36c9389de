"""`srpo export` and `srpo bench`: from a run on disk to files, tables, and one clear line for what cannot be."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import srpo
from srpo.cli import main
from srpo.deploy import Policy, export_policy

OBS, ACT = 11, 3


def refused(capsys, *command):
    """Exit code 2, one line on standard error; returns the line."""
    assert main([str(part) for part in command]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("srpo: error: ") and said.err.count("\n") == 1 and not said.out
    return said.err


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    rng, n = np.random.default_rng(0), 200
    path = tmp_path_factory.mktemp("data") / "hopper-tiny.npz"
    timeouts = np.arange(n) % 20 == 19
    arrays = {
        "observations": rng.normal(size=(n, OBS)),
        "actions": rng.uniform(-0.9, 0.9, (n, ACT)),
        "rewards": rng.normal(size=n),
    }
    np.savez(path, **arrays, terminals=np.zeros(n, bool), timeouts=timeouts, env_id="Hopper-v4")
    return path


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    """Two seeds and two learning rates of behavior cloning, evaluated at the end."""
    tiny = srpo.configure("bc", srpo.load_dataset(file), **{"policy.steps": 20, "policy.hidden": (16,), "policy.batch_size": 8})
    out = tmp_path_factory.mktemp("runs") / "swept"
    options = {"seeds": (3, 5), "sweep": {"policy.lr": [1e-3, 1e-2]}, "eval_every": 20, "eval_episodes": 2, "keep": 2}
    return srpo.train(tiny, file, out=out, quiet=True, **options)


def test_export_of_one_seed_and_point(run, file, tmp_path, capsys):
    command = [
        "export",
        run.path,
        "--seed",
        5,
        "--set-point",
        "policy.lr=0.01",
        "--to",
        f"{tmp_path}/robot/",
        "--formats",
        "onnx,numpy",
    ]
    assert main([str(part) for part in command]) == 0
    said = capsys.readouterr().out
    assert "bc, seed 5: 11 -> 16 -> 3, relu" in said and "us per action" in said
    contract = json.loads((tmp_path / "robot" / "contract.json").read_text())
    assert sorted(p.name for p in (tmp_path / "robot").iterdir()) == ["contract.json", "policy.onnx", "policy.safetensors"]
    obs = np.random.default_rng(1).normal(size=OBS).astype(np.float32)
    policy = Policy(tmp_path / "robot" / "policy.safetensors")
    np.testing.assert_allclose(policy.act(obs), run.policy(5, **{"policy.lr": 0.01}).act(obs), atol=1e-5)
    assert np.abs(policy.act(obs) - run.policy(3, **{"policy.lr": 0.01}).act(obs)).max() > 1e-3
    assert policy.support is not None and contract["settings"]["policy.lr"] == 0.01 and contract["seed"] == 5
    assert contract["data"]["sha256"] == srpo.load_dataset(file).sha256 and contract["data"]["env_id"] == "Hopper-v4"
    assert contract["expected"]["episodes"] == 2 and np.isfinite(contract["expected"]["mean_score"])
    assert contract["input"]["signals"][0]["unit"] == "m"
    assert contract["notes"] == [note for note in contract["notes"] if "from 200 rows: too few" in note] != []


def test_export_of_c_alone(run, tmp_path, capsys):
    one = ["export", str(run.path), "--seed", "3", "--set-point", "policy.lr=0.001", "--to", str(tmp_path / "leg.c")]
    assert main(one) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["leg.c", "leg.c.contract.json"]
    contract = json.loads((tmp_path / "leg.c.contract.json").read_text())
    assert {row["form"] for row in contract["latency"]} == {"c"} and list(contract["files"]) == ["leg.c"]
    assert "policy_far" in (tmp_path / "leg.c").read_text()


def test_a_folder_holds_one_export_only(run, tmp_path, capsys):
    one = ["export", str(run.path), "--seed", "3", "--set-point", "policy.lr=0.001", "--to", f"{tmp_path}/robot/", "--formats"]
    assert main([*one, "numpy"]) == 0
    capsys.readouterr()
    assert "contract.json exists" in refused(capsys, *one, "onnx")
    assert main([*one, "onnx", "--force"]) == 0
    assert sorted(p.name for p in (tmp_path / "robot").iterdir()) == ["contract.json", "policy.onnx"]


def test_export_prints_json(run, tmp_path, capsys):
    command = ["export", run.path, "--seed", 3, "--set-point", "policy.lr=0.001", "--to", tmp_path / "p.safetensors", "--json"]
    assert main([str(part) for part in command]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "p.safetensors.contract.json").read_text())


def test_export_of_a_policy_that_was_kept_on_the_way(run, tmp_path, capsys):
    to = tmp_path / "p.safetensors"
    one = ["export", run.path, "--seed", "3", "--set-point", "policy.lr=0.01", "--to", to]
    assert "found step 7, expected one of 10, 20" in refused(capsys, *one, "--step", "7") and not to.exists()
    assert main([*map(str, one), "--step", "10"]) == 0
    contract, obs = json.loads((tmp_path / "p.safetensors.contract.json").read_text()), np.ones((1, OBS), np.float32)
    assert (contract["step"], contract["expected"]) == (10, None)  # what was evaluated are the last ones
    acts = [np.asarray(run.policy(3, step, **{"policy.lr": 0.01}).act(obs[0])) for step in (10, 20)]
    np.testing.assert_allclose(Policy(to).act(obs[0]), acts[0], atol=1e-5)
    assert np.abs(acts[1] - acts[0]).max() > 1e-3


def test_export_when_the_data_moved(run, file, tmp_path, capsys):
    folder, target = tmp_path / "run", tmp_path / "p.safetensors"
    shutil.copytree(run.path, folder)
    info = json.loads((folder / "run.json").read_text())
    info["data"]["source"] = "gone.npz"
    (folder / "run.json").write_text(json.dumps(info))
    one = ["export", str(folder), "--seed", "3", "--set-point", "policy.lr=0.001", "--to", str(target)]
    assert main(one) == 0
    assert "note: the data set gone.npz is not here" in capsys.readouterr().out and Policy(target).support is None
    assert main([*one, "--data", str(file), "--force"]) == 0
    assert Policy(target).support is not None
    capsys.readouterr()
    other = np.load(file)
    np.savez(tmp_path / "other.npz", **{name: other[name][:60] for name in other.files if name != "env_id"})
    assert "is not the run's data set" in refused(capsys, *one, "--data", tmp_path / "other.npz", "--force")


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--to", "p.onnx"], "holds the seeds 3, 5; choose one, such as --seed 3"),
        (["--seed", "4", "--to", "p.onnx"], "seed 4, expected one of 3, 5"),
        (["--seed", "3", "--to", "p.onnx"], "was swept: choose one of"),
        (["--seed", "3", "--set-point", "policy.lr=0.1", "--to", "p.onnx"], "was swept: choose one of"),
        (["--seed", "3", "--set-point", "policy.lr=x", "--to", "p.onnx"], "policy.lr: found 'x'"),
        (["--seed", "3", "--set-point", "policy.lr", "--to", "p.onnx"], "--set-point 'policy.lr': expected PATH=VALUE"),
        (["--seed", "3", "--set-point", "policy.lr=0.01", "--to", "p.onx"], "did you mean '.onnx'"),
        (["--seed", "3", "--set-point", "policy.lr=0.01", "--to", "there.onnx"], "there.onnx exists"),
        (["--seed", "3", "--set-point", "policy.lr=0.01", "--to", "out/", "--formats", "onnx,trt"], "unknown format 'trt'"),
    ],
)
def test_export_refuses(run, arguments, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").write_text("mine")
    assert complaint in refused(capsys, "export", run.path, *arguments)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]


def test_export_refuses_unfinished_and_missing_runs(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run.path, folder)
    (folder / "stages" / "policy.safetensors").unlink()
    one = ["--seed", "3", "--set-point", "policy.lr=0.001", "--to", tmp_path / "p.onnx"]
    assert "'policy' is not finished, so there is no policy yet" in refused(capsys, "export", folder, *one)
    assert "holds no run" in refused(capsys, "export", tmp_path / "nowhere", *one)


def test_bench_of_a_file_prints_aligned_lines_and_what_the_machine_lacks(run, tmp_path, monkeypatch, capsys):
    export = ["export", str(run.path), "--seed", "3", "--set-point", "policy.lr=0.001", "--to", str(tmp_path / "p.onnx")]
    assert main(export) == 0
    capsys.readouterr()
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert main(["bench", str(tmp_path / "p.onnx"), "--calls", "200", "--batch", "1"]) == 0
    title, heads, *rows, last = capsys.readouterr().out.splitlines()
    assert "one core of" in title and heads.split() == ["batch", "median", "p99", "p99.9"]
    assert [row[:26].strip() for row in rows][:3] == ["NumPy", "onnxruntime", "onnxruntime, bound buffers"]
    assert rows[-1].startswith("JAX, jitted") and len({len(row.rstrip()) for row in rows}) == 1
    assert "not timed: c (cannot run the C compiler '/nowhere/cc'" in last


def test_bench_of_a_run_as_json(run, capsys):
    command = ["bench", run.path, "--seed", 5, "--set-point", "policy.lr=0.001", "--json", "--quiet", "--calls", 100]
    command += ["--batch", 1, "--batch", 8]
    assert main([str(part) for part in command]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = [row for row in found["rows"] if "median_us" in row]
    forms = ("numpy", "onnx", "jax", *(["c"] if shutil.which("cc") else []))
    assert {(row["form"], row["batch"]) for row in rows} >= {(f, b) for f in forms for b in (1, 8)}
    assert all(0 < row["median_us"] <= row["p99_us"] for row in rows)


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("missing.onnx", None, "no such file"),
        ("p.c", b"int x;", "give policy.onnx"),
        ("p.onnx", b"junk", "not a readable ONNX file"),
        ("p.safetensors", b"junk", "is damaged"),
    ],
)
def test_bench_refuses(name, content, complaint, tmp_path, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert complaint in refused(capsys, "bench", tmp_path / name, "--quiet")
    assert "--calls 5" in refused(capsys, "bench", tmp_path, "--calls", "5")
    for option, value in {"--seed": 0, "--step": 10, "--set-point": "policy.lr=1"}.items():
        assert f"{option} chooses a policy of a run, but" in refused(capsys, "bench", tmp_path / name, option, value)


def test_bench_says_that_c_alone_cannot_be_timed(run, tmp_path, capsys):
    export_policy(run.policy(3, **{"policy.lr": 0.001}), tmp_path / "robot", formats=["c"], calls=0)
    for given in (tmp_path / "robot", tmp_path / "robot" / "policy.c"):
        assert "policy.c alone does not tell its weights" in refused(capsys, "bench", given, "--quiet")


def test_folders_that_may_not_be_entered(run, monkeypatch, capsys):
    def denied(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", denied)  # as it does where a folder above may not be entered; root may enter any
    for command in (["bench"], ["export", run.path, "--seed", 3, "--set-point", "policy.lr=0.001", "--to"]):
        assert "cannot use secret/p.onnx: Permission denied; give yourself" in refused(capsys, *command, "secret/p.onnx")


def test_c_is_not_exported_where_no_compiler_can_check_it(run, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("CC", "/nowhere/cc")
    one = ["export", run.path, "--seed", 3, "--set-point", "policy.lr=0.001", "--to", tmp_path / "p.c"]
    assert "cannot run the C compiler" in refused(capsys, *one)
    assert not list(tmp_path.iterdir())
