"""The authors' checkpoints: equal to what PyTorch computes, and a run to train policies from; refused in one line."""

import json
import shlex
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from torch_files import NoTorch, tensors, write_legacy, write_zip

import srpo
from srpo.cli import main
from srpo.convert.torch_file import read_tensors
from srpo.runs.checkpoint import CheckpointError

FIXTURES = Path(__file__).parent / "fixtures"
BEHAVIOR, CRITIC = FIXTURES / "official_behavior.pth", FIXTURES / "official_critic.pth"  # written by PyTorch: make_official.py
WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])


@pytest.fixture(autouse=True)
def no_torch(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [NoTorch, *sys.meta_path])


@pytest.fixture(scope="module")
def models():
    return srpo.convert.official(behavior=BEHAVIOR, critic=CRITIC)


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(FIXTURES / "official_expected.npz"))


def recording(path, center=0.0, **more):
    rng, n = np.random.default_rng(0), 120
    rows = {"rewards": rng.normal(size=n), "terminals": np.zeros(n, bool), "timeouts": np.arange(n) % 20 == 19}
    obs = rng.normal(size=(n, 3)) + np.array([center, 0, 0])
    np.savez(path, observations=obs, actions=rng.uniform(-0.9, 0.9, (n, 2)), **rows, **more)
    return path


@pytest.fixture
def data(tmp_path):
    return recording(tmp_path / "tiny.npz")


@jax.jit
def computed(models, e):
    behavior, critic = models["behavior"], models["critic"]
    q, target = critic.q(e["obs"], e["action"]), critic.q_target(e["obs"], e["action"])
    return {"noise": behavior(e["x"], e["t"], e["obs"]), "q": q, "q_target": target, "v": critic.v(e["obs"])}


def test_networks_equal_those_of_pytorch(models, expected):
    for what, found in computed(models, expected).items():
        assert found.shape == expected[what].shape, what
        np.testing.assert_allclose(found, expected[what], rtol=0, atol=1e-5, err_msg=what)
    assert expected["q"].shape == (2, 16) and np.abs(expected["q"] - expected["q_target"]).max() > 0.1


@WRITERS
@pytest.mark.parametrize("precision, atol", [("f8", 1e-5), ("f2", 2e-3)])
def test_both_layouts_and_other_precisions(write, precision, atol, expected, tmp_path):
    behavior = {k: x.astype("f8") for k, x in read_tensors(BEHAVIOR).items()}
    critic = {k: x.astype(precision) for k, x in read_tensors(CRITIC).items()}
    found = srpo.convert.official(write(tmp_path / "b.pth", tensors(behavior)), write(tmp_path / "c.pth", tensors(critic)))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found))
    for what, x in computed(found, expected).items():
        np.testing.assert_allclose(x, expected[what], rtol=0, atol=1e-5 if what == "noise" else atol, err_msg=what)


def test_more_blocks_and_layers_are_read_off_the_files(tmp_path):
    rng = np.random.default_rng(0)
    arrays = dict(read_tensors(CRITIC))
    for net in ("q0.q1", "q0.q2", "q0_target.q1", "q0_target.q2"):
        arrays |= {f"{net}.6.weight": arrays[f"{net}.4.weight"], f"{net}.6.bias": arrays[f"{net}.4.bias"]}
        arrays |= {f"{net}.4.weight": rng.normal(size=(8, 8)).astype("f4"), f"{net}.4.bias": rng.normal(size=8).astype("f4")}
    critic = write_zip(tmp_path / "critic.pth", tensors(arrays))
    found = srpo.convert.official(BEHAVIOR, critic)["critic"]
    x = np.concatenate([action := rng.normal(size=(5, 2)), obs := rng.normal(size=(5, 3))], -1)
    for i in (0, 2, 4, 6):
        x = x @ arrays[f"q0.q2.{i}.weight"].T + arrays[f"q0.q2.{i}.bias"]
        x = np.maximum(x, 0) if i < 6 else x
    values = np.asarray(jax.jit(lambda q: q(obs, action))(found.q))
    np.testing.assert_allclose(values[1], x[:, 0], rtol=1e-5, atol=1e-5)


def without(*gone):
    return lambda arrays: {k: x for k, x in arrays.items() if not any(k.startswith(g) for g in gone)}


NETWORK = "diffusion_behavior.main"
OTHER_NETWORKS = {
    "critic as behavior": (
        "behavior",
        lambda a: read_tensors(CRITIC),
        "no diffusion_behavior.*, so it is not a behavior model",
    ),
    "behavior as critic": ("critic", lambda a: read_tensors(BEHAVIOR), "no q0.*, so it is not a critic"),
    "no last layer": ("behavior", without(f"{NETWORK}.out_fc"), "main.out_fc.weight is missing"),
    "no norm": ("behavior", without(f"{NETWORK}.blocks.1.layer_norm"), "main.blocks.1.layer_norm.weight is missing"),
    "no target": ("critic", without("q0_target"), "q0_target.q1.0.weight is missing"),
    "no value": ("critic", without("vf"), "vf.v.0.weight is missing"),
    "shape": (
        "behavior",
        lambda a: a | {f"{NETWORK}.fc.bias": np.ones(7, "f4")},
        "main.fc.bias: found float32[7], expected floats[8]",
    ),
    "rank": ("critic", lambda a: a | {"vf.v.0.weight": np.ones(3, "f4")}, "vf.v.0.weight has shape (3,), expected two axes"),
    "integers": ("critic", lambda a: a | {"vf.v.0.bias": np.ones(8, "i8")}, "vf.v.0.bias: found int64[8], expected floats[8]"),
    "NaN": ("critic", lambda a: a | {"q0.q1.0.bias": np.full(8, np.nan, "f4")}, "q0.q1.0.bias holds NaN"),
    "too large": ("critic", lambda a: a | {"q0.q1.0.bias": np.full(8, 1e300)}, "q0.q1.0.bias holds NaN or infinity"),
    "a layer more": ("critic", lambda a: a | {"q0.q3.0.bias": np.ones(8, "f4")}, "q0.q3.0.bias is unknown here"),
    "no actions": ("critic", lambda a: a | {"vf.v.0.weight": np.ones((8, 5), "f4")}, "leave none for actions"),
    "no observations": (
        "behavior",
        lambda a: a | {f"{NETWORK}.fc.weight": np.ones((8, 130), "f4")},
        "leave none for observations",
    ),
    "another task": ("critic", lambda a: a | {"vf.v.0.weight": np.ones((8, 4), "f4")}, "of sizes (3, 2), "),
}


@pytest.mark.parametrize("case", OTHER_NETWORKS)
def test_other_networks_are_refused(case, tmp_path):
    which, change, message = OTHER_NETWORKS[case]
    files = {"behavior": BEHAVIOR, "critic": CRITIC}
    files[which] = write_zip(tmp_path / "changed.pth", tensors(change(read_tensors(files[which]))))
    with pytest.raises(CheckpointError) as e:
        srpo.convert.official(**files)
    assert message in str(e.value) and "\n" not in str(e.value)


def convert(*more, behavior=BEHAVIOR, critic=CRITIC):
    return main(["convert", "--behavior", str(behavior), "--critic", str(critic), *map(str, more)])


def test_policies_train_from_a_converted_run(models, data, tmp_path, capsys):
    out = tmp_path / "official"
    assert convert("--data", data, "--out", out, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["finished"] == ["critic", "behavior"] and report["settings"]["critic.hidden"] == [8, 8]
    info = srpo.load_run(out).info
    assert info["converted"]["critic"][0]["file"] == str(CRITIC) and info["sources"]["behavior.width"] == "checkpoint"
    small = ["--set", "policy.steps=3", "--set", "policy.hidden=8", "--no-eval", "--quiet"]
    _, *arguments = shlex.split(report["next"])
    assert main([*arguments, *small, "--out", str(tmp_path / "policy")]) == 0
    run = srpo.load_run(tmp_path / "policy")
    for stage, model in models.items():
        for ours, theirs in zip(jax.tree.leaves(run.results[stage]), jax.tree.leaves(model), strict=True):
            np.testing.assert_array_equal(np.asarray(ours)[0, 0], theirs)
    assert run.policy().act(np.zeros(3, "f4")).shape == (2,)


def test_a_converted_critic_sees_what_was_recorded(models, tmp_path):
    """Data whose stated range changes nothing are taken, and its value of a recorded observation is that of the file."""
    data = srpo.load_dataset(recording(tmp_path / "told.npz", action_low=-1.0, action_high=1.0))
    run = srpo.convert.official_run(BEHAVIOR, CRITIC, data, tmp_path / "run")
    critic = jax.tree.map(lambda x: x[0, 0], run.results["critic"])
    np.testing.assert_allclose(critic.v(data.obs), models["critic"].v(data.recorded_obs), atol=1e-6)


def test_several_seeds_make_one_run(models, data, tmp_path, capsys):
    shifted = {k: x + 1 if k == "vf.v.4.bias" else x for k, x in read_tensors(CRITIC).items()}
    other = write_zip(tmp_path / "other.pth", tensors(shifted))
    out = tmp_path / "official"
    files = ["--behavior", str(BEHAVIOR), str(BEHAVIOR), "--critic", str(CRITIC), str(other)]
    assert (
        main(
            ["convert", *files, "--data", str(data), "--out", str(out), "--preset", "authors-code", "--set", "data.reward=none"]
        )
        == 0
    )
    command = capsys.readouterr().out
    assert "--preset authors-code --seeds 2 --from" in command and "--set data.reward=none" in command
    run = srpo.load_run(out)
    assert run.seeds == (0, 1) and run.info["settings"]["policy.baseline"] is False
    np.testing.assert_allclose(np.diff(np.asarray(run.results["critic"].v.net.layers[-1].bias), axis=0), 1, rtol=1e-6)


def test_refusals_of_the_command(data, tmp_path, capsys):
    def refused(*more, **files):
        assert convert(*more, **files) == 2
        error = capsys.readouterr().err
        assert error.startswith("srpo: error: ") and error.count("\n") == 1
        return error

    to = ("--out", tmp_path / "run")
    assert "cannot read nowhere.pth: No such file" in refused("--data", data, *to, behavior="nowhere.pth")
    assert "of sizes (3, 2), halfcheetah-medium-replay-mini of (17, 6)" in refused(
        "--data", "halfcheetah-medium-replay-mini", *to
    )
    assert "unknown data set" in refused("--data", "nothing", *to)
    assert "unknown preset 'papre'" in refused("--data", data, *to, "--preset", "papre")
    assert "behavior.width is read off the files (8)" in refused("--data", data, *to, "--set", "behavior.width=16")
    assert "data.normalize_obs: found true, expected false" in refused("--data", data, *to, "--set", "data.normalize_obs=true")
    far = recording(tmp_path / "far.npz", center=300.0)
    assert "training sees observations less an offset" in refused("--data", far, *to)
    wide = recording(tmp_path / "wide.npz", action_low=-2.0, action_high=2.0)
    assert "training sees actions mapped to [-1, 1] from another range" in refused("--data", wide, *to)
    assert "found 2 behavior and 1 critic files" in refused("--data", data, *to, "--behavior", BEHAVIOR, BEHAVIOR)
    deeper = {k.replace(".4.", ".6.") if k.startswith("vf") else k: x for k, x in read_tensors(CRITIC).items()}
    deeper |= {"vf.v.4.weight": np.ones((8, 8), "f4"), "vf.v.4.bias": np.ones(8, "f4")}
    deep = write_zip(tmp_path / "deep.pth", tensors(deeper))
    assert "(8, 8) in Q and (8, 8, 8) in V" in refused("--data", data, *to, critic=deep)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("keep")
    assert "exists and is not an empty folder" in refused("--data", data, *to)
    assert (tmp_path / "run" / "mine.txt").read_text() == "keep"
