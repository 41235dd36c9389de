"""Training as a whole: what is on disk, resuming, sharing of stages, failures, evaluation, and every refusal."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import srpo
from srpo import algorithms, config
from srpo.cli import main
from srpo.data import from_arrays
from srpo.data.treated import treat
from srpo.errors import ConfigError
from srpo.evaluation import rollouts, video
from srpo.evaluation.evaluator import Evaluator
from srpo.evaluation.rollouts import Rollouts
from srpo.evaluation.scores import bootstrap
from srpo.runs.checkpoint import CheckpointError, NotWritten
from srpo.runs.run import RunError, load_run
from srpo.runs.tables import evals_table
from srpo.training import curves, execution, progress
from srpo.training.curves import draw_curves
from srpo.training.progress import Bars, Reporter

SWEEP = {"policy.beta": [0.1, 0.5]}
TINY = {
    "critic.steps": 12,
    "critic.batch_size": 8,
    "critic.hidden": (8,),
    "behavior.steps": 9,
    "behavior.batch_size": 8,
    "behavior.width": 8,
    "behavior.blocks": 1,
    "behavior.parametrization": "noise",  # with or without a preset, so that all here train with the same programs
    "policy.steps": 10,
    "policy.batch_size": 8,
    "policy.hidden": (8,),
    "data.reward": "none",
}


def arrays(n=120, seed=0):
    rng = np.random.default_rng(seed)
    timeout = np.arange(n) % 20 == 19
    obs, action = rng.normal(size=(n, 11)), rng.uniform(-0.9, 0.9, (n, 3))
    return {"obs": obs, "action": action, "reward": rng.normal(size=n), "terminal": np.zeros(n, bool), "timeout": timeout}


@pytest.fixture(scope="module")
def data():
    return from_arrays(**arrays(), env_id="Hopper-v4", name="tiny")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    a = arrays()
    names = {"obs": "observations", "action": "actions", "reward": "rewards", "terminal": "terminals", "timeout": "timeouts"}
    np.savez(path, **{names[k]: v for k, v in a.items()})
    return path


@pytest.fixture(scope="module")
def algorithm():
    return srpo.config.assign_all(srpo.SRPO(), TINY)


@pytest.fixture(scope="module")
def swept(data, algorithm, tmp_path_factory):
    """Two seeds and two temperatures, evaluated twice while training."""
    out = tmp_path_factory.mktemp("runs") / "swept"
    options = {"seeds": (3, 1), "sweep": SWEEP, "eval_every": 5, "eval_episodes": 2, "keep": 2}
    return srpo.train(algorithm, data, out=out, quiet=True, **options)


def rows(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def leaves_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_a_run_is_whole_on_disk(swept):
    files = {p.relative_to(swept.path).as_posix() for p in swept.path.rglob("*") if p.is_file()}
    stages = {f"stages/{name}.safetensors" for name in ("critic", "behavior", "policy@5", "policy")}
    assert files == {"run.json", "metrics.csv", "evals.csv", "lock"} | stages
    info = json.loads((swept.path / "run.json").read_text())
    assert info["settings"]["policy.beta"] == 0.05 and info["sweep"] == {"policy.beta": [0.1, 0.5]} and info["seeds"] == [3, 1]
    assert {"jax", "gymnasium", "mujoco", "python"} <= info["versions"].keys()
    metrics = rows(swept.path / "metrics.csv")
    assert {r["policy.beta"] for r in metrics if r["stage"] == "critic"} == {""}  # shared by both temperatures
    assert {r["policy.beta"] for r in metrics if r["stage"] == "policy"} == {"0.1", "0.5"}
    assert [r["step"] for r in metrics if (r["stage"], r["seed"], r["metric"]) == ("critic", "3", "v_loss")] == [
        str(i + 1) for i in range(12)
    ]


def test_a_run_ends_with_its_curves(swept, monkeypatch):
    def drawn(run):
        draw_curves(run)
        picture = (run.path / "curves.png").read_bytes()
        (run.path / "curves.png").unlink()
        return picture

    whole = drawn(swept)
    assert whole.startswith(b"\x89PNG") and len(whole) > 20_000
    with monkeypatch.context() as patch:
        patch.setattr(curves, "evals_table", lambda run: SimpleNamespace(read=list))
        assert drawn(swept) != whole
    asked = []
    monkeypatch.setattr(progress, "draw_curves", lambda run: asked.append(run.path))
    srpo.resume(swept.path)  # complete, but for its curves
    assert asked == [swept.path]
    (swept.path / curves.CURVES).write_bytes(whole)
    srpo.resume(swept.path)  # nothing is done
    assert asked == [swept.path]
    (swept.path / curves.CURVES).unlink()
    Reporter(swept, True, ()).finished(swept)
    assert asked == [swept.path] * 2


def test_curves_that_cannot_be_written_keep_nobody_from_the_run(swept, monkeypatch, capsys):
    def full(run):
        raise NotWritten("cannot write curves.png: No space left on device")

    monkeypatch.setattr(progress, "draw_curves", full)
    assert srpo.resume(swept.path).complete
    assert "warning: curves.png is not drawn: cannot write curves.png: No space left" in capsys.readouterr().err


def test_earlier_stages_are_shared_and_later_ones_differ(swept):
    assert jax.tree.leaves(swept.results["critic"])[0].shape[:2] == (2, 1)
    assert jax.tree.leaves(swept.results["policy"])[0].shape[:2] == (2, 2)
    weights = jax.tree.leaves(swept.results["policy"])[-1]
    assert not np.allclose(weights[:, 0], weights[:, 1])


def test_a_run_of_the_grid_is_the_run_alone(swept, data, algorithm, tmp_path):
    alone = srpo.train(algorithm.set("policy.beta", 0.5), data, seeds=(1,), out=tmp_path / "alone", eval_every=0, quiet=True)
    a, b = alone.policy(1), swept.policy(1, **{"policy.beta": 0.5})
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-6)


def test_with_normalized_observations_their_units_do_not_matter(algorithm, tmp_path):
    recorded, acts, options = arrays(), [], {"seeds": (3, 1), "sweep": SWEEP, "quiet": True}

    def acted(run):
        return jax.jit(jax.vmap(run.policy(1, **{"policy.beta": 0.5}).act))(data.obs[:5])

    for name, unit in (("plain", np.ones(11)), ("odd", 2.0 ** np.arange(-8, 14, 2))):
        data = from_arrays(**recorded | {"obs": recorded["obs"] * unit}, name=name)
        run = srpo.train(algorithm.set("data.normalize_obs", True), data, out=tmp_path / name, **options)
        again = srpo.load_run(run.path)
        np.testing.assert_array_equal(again.info["data"]["obs_statistics"], treat(data, run.algorithm.data).obs_statistics)
        acts.append(acted(run))
        np.testing.assert_array_equal(acts[-1], acted(again))
    np.testing.assert_allclose(*acts, atol=1e-5)
    unlike = srpo.train(algorithm, data, out=tmp_path / "as recorded", **options)
    assert not np.allclose(acts[-1], acted(unlike), atol=1e-2)


def test_every_episode_is_kept(swept):
    kept = rows(swept.path / "evals.csv")
    assert len(kept) == 2 * 2 * 2 * 2  # evaluations, seeds, temperatures, episodes
    assert {r["env_seed"] for r in kept} == {"1001", "1002"} and {r["step"] for r in kept} == {"5", "10"}
    assert all(r["mujoco"] and r["gymnasium"] for r in kept)
    score = 100 * (float(kept[0]["return"]) + 20.272305) / (3234.3 + 20.272305)
    assert float(kept[0]["score"]) == pytest.approx(score)


def test_the_bootstrap_draws_seeds_and_then_episodes():
    """Two seeds that never vary: their mean is 1, 2 or 3 with probability 1/4, 1/2 and 1/4, however many episodes they have."""
    assert bootstrap(np.repeat([[1.0], [3.0]], 50, 1)) == (1.0, 3.0)
    low, high = bootstrap(np.tile([1.0, -1.0], 200)[None])  # one seed: 400 episodes of deviation 1
    assert (low, high) == (pytest.approx(-1.96 / 20, abs=0.01), pytest.approx(1.96 / 20, abs=0.01))


def test_what_is_kept_at_a_step_is_what_was_evaluated_then(swept, monkeypatch):
    """Bit for bit, also where the runs act in blocks."""
    assert swept.kept == [5, 10]
    for step in swept.kept:
        returns = Rollouts("Hopper-v4", (2, 2), 2)(swept.policies_at(step)).returns
        told = [float(r["return"]) for r in rows(swept.path / "evals.csv") if (r["kind"], r["step"]) == ("training", str(step))]
        np.testing.assert_allclose(returns.ravel(), told)
        monkeypatch.setattr(rollouts, "MOST", 3)  # of 8: a block for each run
        played = Rollouts("Hopper-v4", (2, 2), 2)
        np.testing.assert_array_equal(played(swept.policies_at(step)).returns, returns)
        assert (played.blocks, len(played.envs)) == (4, 2)
        played.close()
        monkeypatch.undo()
    assert leaves_equal(swept.policies_at(10), swept.policies)
    one = {"policy.beta": 0.5}
    assert not leaves_equal(swept.policy(1, 5, **one), swept.policy(1, **one))
    with pytest.raises(RunError, match="found step 7, expected one of 5, 10; train with --keep N"):
        swept.policy(1, 7, **one)


def test_episodes_of_a_kept_policy_outlive_a_resumption(swept, tmp_path):
    shutil.copytree(swept.path, tmp_path / "run")
    run = load_run(tmp_path / "run")
    found = [r for r in evals_table(run).read() if r["kind"] == "training"]
    evals_table(run).rewrite(found + [r | {"kind": kind} for kind in ("kept", "final") for r in found])
    Evaluator(run, {}).forget_after(5)  # as a training does that goes on after step 5
    left = {(r["kind"], r["step"]) for r in evals_table(run).read()}
    assert left == {("training", "5"), ("kept", "5"), ("kept", "10")}


def test_evaluate_summarizes_all_runs(swept):
    evaluation = srpo.evaluate(swept, episodes=3)
    assert len(evaluation.summaries) == 2 and evaluation.episodes == 3
    for s in evaluation.summaries:
        assert s.seeds == (3, 1) and s.mean == pytest.approx(np.mean(s.means)) and s.low <= s.mean <= s.high
    kinds = [r["kind"] for r in rows(swept.path / "evals.csv")]
    assert kinds.count("training") == 16 and kinds.count("final") == 12
    again = srpo.evaluate(str(swept.path), episodes=3)
    assert again.summaries == evaluation.summaries  # same start states, deterministic policy
    assert len(str(evaluation).splitlines()) == 3
    for _ in range(2):  # earlier policies have rows of their own, again in the place of those before
        kept = srpo.evaluate(swept, episodes=3, step=5)
        kinds = [(r["kind"], r["step"]) for r in rows(swept.path / "evals.csv")]
        assert [kinds.count(x) for x in (("kept", "5"), ("final", "10"))] == [12, 12] and kept.step == 5
    assert kept.summaries != evaluation.summaries
    told = [float(r["return"]) for r in rows(swept.path / "evals.csv") if (r["kind"], r["step"]) == ("training", "5")]
    both = [float(r["return"]) for r in rows(swept.path / "evals.csv") if r["kind"] == "kept" and int(r["episode"]) < 2]
    np.testing.assert_allclose(both, told)


def test_tensorboard_is_told_what_metrics_csv_and_evals_csv_hold(data, algorithm, tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    run = srpo.train(
        algorithm, data, seeds=(3,), out=tmp_path / "run", eval_every=5, eval_episodes=2, quiet=True, sinks=["tensorboard"]
    )
    (file,) = (run.path / "tensorboard" / "seed=3").iterdir()
    content, told = file.read_bytes(), {}
    while content:  # a record: length (8 bytes), its checksum (4), event, checksum (4)
        length = int.from_bytes(content[:8], "little")
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        told |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
        content = content[16 + length :]
    wanted = {(f"{r['stage']}/{r['metric']}", int(r["step"])): float(r["value"]) for r in rows(run.path / "metrics.csv")}
    for step in (5, 10):
        episodes = [r for r in rows(run.path / "evals.csv") if int(r["step"]) == step]
        wanted |= {(f"evaluation/{k}", step): np.mean([float(r[k]) for r in episodes]) for k in ("return", "score")}
    assert told.keys() == wanted.keys() and all(told[k] == pytest.approx(v, rel=1e-6) for k, v in wanted.items())


def test_wandb_is_told_scores_by_seed_and_swept_value(monkeypatch, tmp_path, algorithm):
    told, axes = [], {}
    here = SimpleNamespace(log=told.append, define_metric=lambda name, step_metric: axes.update({name: step_metric}))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: here))
    grid = SimpleNamespace(sweep={"policy.beta": (1.0,)})
    run = SimpleNamespace(path=tmp_path, info={"created": "today"}, algorithm=algorithm, grid=grid, seeds=(20240503,))
    episodes = [{"step": 5, "seed": 20240503, "policy.beta": 1.0, "return": r, "score": r / 4} for r in (8.0, 16.0)]
    Reporter(run, True, ["wandb"]).scored(episodes)
    label = "seed=20240503,policy.beta=1"  # in full: another seed has another
    assert told == [{f"evaluation/return/{label}": 12.0, f"evaluation/score/{label}": 3.0, "evaluation/step": 5}]
    assert axes["evaluation/*"] == "evaluation/step"


def test_a_film_of_an_episode(swept, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    film = tmp_path / "film.mp4"
    try:
        video.record(swept, film, seed=3, frames=3)
    except video.VideoError as e:  # a machine without EGL and OSMesa
        assert list(tmp_path.iterdir()) == [] and "MUJOCO_GL" in str(e)
        return
    assert list(tmp_path.iterdir()) == [film] and b"ftyp" in film.read_bytes()[:16]


def test_the_loaded_policy_acts(swept, data):
    policy = srpo.load_run(swept.path).policy(3, **{"policy.beta": 0.1})
    action = policy.act(data.obs[0])
    assert action.shape == (3,) and np.all(np.abs(action) < 1)
    with pytest.raises(RunError, match="swept: choose one of policy.beta=0.1; policy.beta=0.5"):
        swept.policy(3)
    with pytest.raises(RunError, match="found seed 2, expected one of 3, 1"):
        swept.policy(2)


@pytest.mark.parametrize("stop_at", [("critic", 5), ("behavior", 9), ("policy", 7)])
def test_resuming_equals_not_stopping(swept, data, algorithm, tmp_path, monkeypatch, stop_at):
    """Interrupted as by Ctrl-C in the middle of each stage, with a torn last line as after a kill."""
    step_of = execution.Reporter.step

    def step(self, loop, means):
        step_of(self, loop, means)
        if (loop.name, loop.step) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(execution.Reporter, "step", step)
    options = {"seeds": (3, 1), "sweep": SWEEP, "eval_every": 5, "eval_episodes": 2, "keep": 2}
    with pytest.raises(
        execution.Interrupted, match=f"stopped at step {stop_at[1]} of stage {stop_at[0]}; continue with: srpo train --resume"
    ):
        srpo.train(algorithm, data, out=tmp_path / "run", quiet=True, **options)
    monkeypatch.undo()
    with open(tmp_path / "run" / "metrics.csv", "a") as f:
        f.write(f"{stop_at[0]},{stop_at[1] + 1},3,")  # torn
    run = srpo.resume(tmp_path / "run", data, quiet=True)
    assert leaves_equal(run.results, swept.results) and leaves_equal(run.policies_at(5), swept.policies_at(5))
    assert (run.path / "metrics.csv").read_text() == (swept.path / "metrics.csv").read_text()

    def trained(r):
        return [x for x in rows(r.path / "evals.csv") if x["kind"] == "training"]

    assert trained(run) == trained(swept)
    assert not list((run.path / "state").iterdir())


def test_training_says_what_is_odd_about_the_data(file, tmp_path, capsys):
    arrays = dict(np.load(file))
    arrays["observations"] = arrays["observations"] * np.array([1e4] + [1] * 10)
    np.savez(tmp_path / "odd.npz", **arrays)
    command = ["train", "--algo", "bc-gaussian", "--set", "policy.steps=2", "--set", "policy.hidden=8"]
    normalized = ["--set", "data.normalize_obs=true"]
    for i, (source, more, told) in enumerate(
        [("odd.npz", [], True), ("odd.npz", normalized, False), ("odd.npz", ["--quiet"], False), (file, [], False)]
    ):
        assert main([*command, str(tmp_path / source), *more, "--out", str(tmp_path / f"run-{i}")]) == 0
        assert ("warning: observation columns 0 have a standard deviation of" in capsys.readouterr().err) is told
    assert main([*command, str(tmp_path / "odd.npz"), "--sweep", "policy.hidden=4,8"]) == 2
    assert capsys.readouterr().err.count("\n") == 1  # a mistake is one line, whatever the data


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_how_to_go_on(file, tmp_path, monkeypatch, capsys, sent, code):
    sets = [x for path, value in TINY.items() for x in ("--set", f"{path}={value}")]
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(execution.Reporter, "step", lambda self, loop, means: os.kill(os.getpid(), sent))
        assert main(["train", str(file), *sets, "--no-eval", "--quiet", "--tensorboard", "--out", str(out)]) == code
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.endswith(f"continue with: srpo train --resume {out} --tensorboard\n")
    assert main(["train", "--resume", str(out), "--quiet"]) == 0
    assert srpo.load_run(out).complete


def test_a_killed_process_resumes_bit_for_bit(file, tmp_path, monkeypatch):
    sets = [x for value in ("steps=4000", "batch_size=8", "hidden=8") for x in ("--set", f"policy.{value}")]
    command = ["train", str(file), "--algo", "bc", *sets, "--no-eval", "--quiet"]
    often = ["--checkpoint-every", "0", "--out", str(tmp_path / "killed")]
    process = subprocess.Popen([sys.executable, "-m", "srpo", *command, *often])
    state = tmp_path / "killed" / "state" / "policy.safetensors"
    while not state.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "stages").exists()
    assert main(["train", "--resume", str(tmp_path / "killed"), "--quiet"]) == 0
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    assert leaves_equal(srpo.load_run(tmp_path / "killed").results, srpo.load_run(tmp_path / "whole").results)


def test_a_run_goes_on_with_its_own_data_alone_be_it_finished_or_not(swept, data):
    others = arrays()
    others["reward"] = others["reward"] + 1
    assert srpo.resume(swept.path, data).complete
    with pytest.raises(RunError, match=r"is not the data that .* was trained on \(its hash differs\); restore it"):
        srpo.resume(swept.path, srpo.from_arrays(**others, name="other"))


def test_from_reuses_critic_and_behavior(swept, data, algorithm, tmp_path):
    options = {"seeds": (3, 1), "eval_every": 0, "quiet": True, "start_from": swept.path}
    run = srpo.train(algorithm, data, sweep=swept.grid.sweep, out=tmp_path / "new", **options)
    assert {r["stage"] for r in rows(run.path / "metrics.csv")} == {"policy"}
    assert leaves_equal(run.policies, swept.policies)
    with pytest.raises(RunError, match="its critic.lr is 0.0003, not 0.001"):
        srpo.train(algorithm.set("critic.lr", 1e-3).set("behavior.lr", 1e-3), data, out=tmp_path / "other", **options)
    with pytest.raises(RunError, match="it has no stage policy of this kind"):
        srpo.train(srpo.configure("bc", data), data, out=tmp_path / "other", **options)
    with pytest.raises(RunError, match="has seeds 3, 1"):
        srpo.train(algorithm, data, out=tmp_path / "other", **options | {"seeds": 2})
    assert not (tmp_path / "other").exists()


def test_from_a_run_with_the_same_settings_shares_also_what_it_kept_on_the_way(swept, data, algorithm, tmp_path, capsys):
    options = {"seeds": (3, 1), "eval_every": 0, "quiet": True}
    first = srpo.train(algorithm, data, out=tmp_path / "first", start_from=swept.path, keep=2, **options)
    again = srpo.train(algorithm, data, out=tmp_path / "again", start_from=first.path, keep=2, **options)
    assert not rows(again.path / "metrics.csv") and again.kept == [5, 10]
    assert leaves_equal(again.policies_at(5), first.policies_at(5)) and leaves_equal(again.policies, first.policies)
    assert not leaves_equal(again.policies_at(5), again.policies)
    assert "on the way" not in capsys.readouterr().err
    told = srpo.train(
        algorithm, data, out=tmp_path / "told", start_from=first.path, keep=2, **options | {"eval_every": 5, "quiet": False}
    )
    assert leaves_equal(told.policies, first.policies)
    assert "policy is not trained anew, so that no policy on the way is evaluated" in capsys.readouterr().err
    more = srpo.train(algorithm, data, out=tmp_path / "more", start_from=first.path, keep=5, **options)  # not all are there
    assert {r["stage"] for r in rows(more.path / "metrics.csv")} == {"policy"}
    assert leaves_equal(more.policies, first.policies) and more.kept == [2, 4, 6, 8, 10] and more.policies_at(2)


def test_a_run_that_diverges_stops_alone(swept, data, algorithm, tmp_path, capsys):
    options = {"seeds": (3, 1), "start_from": swept.path, "sweep": {"policy.lr": [1e-3, 1e38]}}
    run = srpo.train(algorithm, data, out=tmp_path / "run", eval_every=5, eval_episodes=1, **options)
    message = capsys.readouterr().err
    assert (
        "policy.lr=1e+38" in message
        and "not finite" in message
        and "of stage policy; the state before is kept, the other" in message
    )
    assert [f["seed"] for f in run.failures] == [3, 1]
    assert all((f["stage"], f["point"]) == ("policy", [["policy.lr", 1e38]]) for f in run.failures)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.results["policy"]))  # the last good state
    good = run.policy(1, **{"policy.lr": 1e-3})
    assert np.isfinite(good.act(data.obs[0])).all()
    with pytest.raises(RunError, match="seed 1 failed"):
        run.policy(1, **{"policy.lr": 1e38})
    assert {r["policy.lr"] for r in rows(run.path / "evals.csv")} == {"0.001"}
    for failure in run.failures:
        mine = ("1e+38", str(failure["seed"]))
        told = [int(r["step"]) for r in rows(run.path / "metrics.csv") if (r["policy.lr"], r["seed"]) == mine]
        assert max(told) <= failure["step"]  # what is no longer trained reports nothing
    with pytest.raises(execution.TrainingFailed, match="no run is left .*; lower the learning rate"):
        srpo.train(algorithm.set("critic.lr", 1e38), data, out=tmp_path / "all", eval_every=0)
    assert "seed 0: " in (message := capsys.readouterr().err) and "the other runs" not in message


def test_a_seed_that_failed_stays_failed_in_what_starts_from_it(swept, data, algorithm, tmp_path):
    path = tmp_path / "failed"
    shutil.copytree(swept.path, path)
    info = json.loads((path / "run.json").read_text())
    failure = {"stage": "critic", "step": 7, "metric": "v_loss", "seed": 3, "point": []}
    (path / "run.json").write_text(json.dumps(info | {"failures": [failure]}))
    options = {"seeds": (3, 1), "sweep": SWEEP, "eval_every": 10, "eval_episodes": 1, "quiet": True}
    run = srpo.train(algorithm, data, start_from=path, out=tmp_path / "run", **options)
    assert run.failures == [failure] and {r["seed"] for r in rows(run.path / "evals.csv")} == {"1"}
    with pytest.raises(RunError, match="seed 3 failed"):
        run.policy(3, **{"policy.beta": 0.1})


def test_a_state_that_is_not_finite_at_the_start_is_named(data, tmp_path, monkeypatch):
    other = srpo.configure("bc", data, **{"policy.hidden": (9,)})  # whose first state nobody has made
    kind = type(other.policy)

    def spoil(x):
        return x * np.nan if x.dtype == "float32" else x

    monkeypatch.setattr(kind, "init", lambda self, *args, init=kind.init: jax.tree.map(spoil, init(self, *args)))
    with pytest.raises(FloatingPointError, match="state of stage policy is not finite before its first step"):
        srpo.train(other, data, out=tmp_path / "run", eval_every=0, quiet=True)


def test_a_full_disk_leaves_the_state_before(data, algorithm, tmp_path, monkeypatch):
    replace = os.replace

    def full(source, target):
        if str(target).endswith("behavior.safetensors"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        CheckpointError, match=r"No space left on device; .* make room, then continue with: srpo train --resume"
    ):
        srpo.train(algorithm, data, out=tmp_path / "run", eval_every=0, quiet=True)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.part"))
    assert srpo.resume(tmp_path / "run", data, quiet=True).complete


REFUSALS = {
    "unknown algorithm": (["--algo", "srop"], "unknown algorithm 'srop'; did you mean 'srpo'?"),
    "unknown preset": (["--preset", "papre"], "unknown preset 'papre'; did you mean 'paper'?"),
    "unknown path": (["--set", "policy.bta=1"], "unknown setting 'policy.bta'; did you mean 'policy.beta'?"),
    "path without stage": (["--set", "beta=1"], "did you mean 'policy.beta'?"),
    "no equals sign": (["--set", "policy.beta"], "expected PATH=VALUE"),
    "wrong type": (["--set", "policy.beta=much"], "policy.beta: found 'much', expected a finite number"),
    "not whole": (["--set", "policy.steps=1.5"], "policy.steps: found '1.5', expected a whole number"),
    "no step": (["--set", "critic.steps=0"], "critic.steps: found 0, expected one or more"),
    "endless": (["--set", "critic.steps=inf"], "critic.steps: found 'inf', expected a whole number"),
    "absurd depth": (["--set", "behavior.blocks=100000000"], "behavior.blocks: found 1e+08, expected a number in [1, 1000]"),
    "absurd width": (["--set", "critic.hidden=1000000000"], "critic.hidden: found 1e+09, expected a number in [1, 65536]"),
    "too many layers": (["--set", "critic.hidden=" + "8," * 101], "critic.hidden: found 101 numbers, expected at most 100"),
    "steps beyond counting": (
        ["--set", "critic.steps=1e18"],
        "critic.steps: found 1e+18, expected a number in [1, 2147483647]",
    ),
    "width of zero": (["--set", "critic.hidden=8,0"], "critic.hidden: found 0, expected one or more"),
    "negative": (["--sweep", "policy.beta=0.1,-1"], "policy.beta: found -1, expected zero or more"),
    "out of range": (["--set", "critic.expectile=1"], "critic.expectile: found 1, expected a number in (0, 1)"),
    "beyond single precision": (["--set", "policy.lr=1e39"], "policy.lr: found 1e+39, expected a number in [0, 3.4e38]"),
    "times backwards": (["--set", "policy.min_time=0.99"], "min_time: found 0.99, expected at most max_time, 0.98"),
    "a sweep of times backwards": (["--sweep", "policy.max_time=0.5,0.01"], "min_time: found 0.02, expected at most max_time"),
    "swept beyond the dial": (["--algo", "srpo-dial", "--sweep", "beta=0.05,50"], "beta: found 50, expected a temperature"),
    "no blocks": (["--algo", "sfbc", "--set", "behavior.widths=()"], "widths: found none, expected one or more"),
    "no layers": (["--algo", "dtql", "--set", "warm_up.behavior.hidden=()"], "hidden: found none, expected one or more"),
    "half a wave": (["--algo", "idql", "--set", "behavior.time_size=3"], "time_size: found 3, expected an even number"),
    "a start beyond counting": (
        ["--algo", "diffusion-ql", "--set", "policy.ema_start=1e18"],
        "policy.ema_start: found 1e+18, expected a number in [0, 2147483647]",
    ),
    "dropout of all": (["--set", "behavior.dropout=1"], "behavior.dropout: found 1, expected a number in [0, 1)"),
    "more than there are": (["--algo", "sfbc", "--set", "average=33"], "expected no more than candidates, 32"),
    "wrong choice": (["--set", "policy.weight=sigma2"], "policy.weight: unknown choice 'sigma2'; did you mean 'sigma^2'?"),
    "sweep of a size": (["--sweep", "policy.hidden=8,16"], "policy.hidden is a size or a choice and cannot be swept"),
    "repeated seeds": (["--seeds", "1,1"], "seeds 1, 1: expected one or more different whole numbers"),
    "seeds of another kind": (["--seeds", "six"], "--seeds 'six': expected how many"),
    "a seed for how many": (["--seeds", "20240501"], "for one seed write --seeds 20240501, (with the comma)"),
    "repeated values": (["--sweep", "policy.beta=1,1"], "expected one or more different values"),
    "missing run": (["--from", "nowhere"], "nowhere holds no run (no run.json)"),
    "a file for a run": (["--from", __file__], "holds no run (no run.json)"),
    "set twice": (
        ["--set", "policy.beta=0.1", "--set", "policy.beta=0.2"],
        "--set policy.beta: found it twice, expected one value",
    ),
    "set and swept": (
        ["--set", "policy.beta=0.1", "--sweep", "policy.beta=0.2,0.3"],
        "policy.beta is both in --set and in --sweep; leave one of them out",
    ),
    "set and swept by an earlier name": (
        ["--algo", "diffusion-ql", "--set", "policy.critic_lr=0.1", "--sweep", "policy.lr_q=0.2,0.3"],
        "policy.lr_q is both in --set and in --sweep",
    ),
    "swept twice": (["--sweep", "policy.beta=0.1", "--sweep", "policy.beta=0.2"], "--sweep policy.beta: found it twice"),
    "evaluation backwards": (["--eval-every", "-1"], "found -1 steps between evaluations"),
    "nothing kept": (["--keep", "0"], "found 0 policies to keep, expected 1 to 10"),
    "no episodes": (["--eval-episodes", "0"], "found 0 episodes per evaluation"),
    "evaluated never": (["--eval-every", "3000000000"], "steps between evaluations, expected at most 2147483647"),
    "endless evaluations": (["--eval-episodes", "2000000"], "episodes per evaluation, expected at most 1000000"),
    "endless episodes": (["--max-steps", "3000000000"], "steps at most per episode, expected at most 2147483647"),
    "too many kept": (["--keep", "11000"], "found 11000 policies to keep, expected at most 10000"),
    "nothing to act in": (["--eval-every", "5"], "names no environment to evaluate in"),
    "a logger that is missing": (["--wandb"], "wandb is not installed"),
    "a logger that is missing, in a dry run": (["--dry-run", "--wandb"], "wandb is not installed"),
    "evaluated and not": (["--dry-run", "--eval-every", "5", "--no-eval"], "--no-eval for none; leave one of them out"),
    "nothing kept in a dry run": (["--dry-run", "--keep", "0"], "found 0 policies to keep, expected 1 to 10"),
    "nothing to act in, in a dry run": (["--dry-run", "--eval-every", "5"], "names no environment to evaluate in"),
    "no level of an expectile": (
        ["--dry-run", "--algo", "idql", "--sweep", "critic.level=0.7,1"],
        "level: found 1, expected less than 1 for the loss expectile",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_one_line_and_write_nothing(name, file, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    extra, message = REFUSALS[name]
    assert main(["train", str(file), *extra]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_logger_that_does_not_begin_is_one_line_and_leaves_nothing(file, tmp_path, capsys, monkeypatch):
    def init(**options):
        raise RuntimeError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    assert main(["train", str(file), "--algo", "bc", "--tensorboard", "--wandb", "--quiet", "--out", "run"]) == 2
    message = capsys.readouterr().err
    assert "wandb does not begin (RuntimeError: No API key configured" in message and message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_every_default_and_preset_is_in_the_range_that_its_setting_names(name):
    cls = algorithms.find(name)
    for path, found in config.settings(cls()).items():
        assert found.read(found.value) == found.value, path
    for patterns in cls.presets.values():
        for values in patterns.values():
            config.assign_all(cls(), values)


def test_run_folders_are_protected(swept, data, algorithm, file, tmp_path, capsys):
    with pytest.raises(RunError, match="holds another run; continue it with --resume"):
        srpo.train(algorithm, data, out=swept.path, quiet=True)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(RunError, match="not an empty folder"):
        srpo.train(algorithm, data, out=tmp_path, quiet=True)
    assert main(["train", "--resume", str(swept.path), "--set", "policy.beta=1"]) == 2
    assert "--resume continues a run with its own settings, found --set" in capsys.readouterr().err
    assert main(["train", str(file), "--dry-run", "--out", str(swept.path)]) == 2
    assert "holds another run; continue it with --resume" in capsys.readouterr().err
    defaults = ("--algo=srpo", "--preset=paper", "--seeds=1", "--keep=1", "--precision=float32")  # what is written counts
    for option in ("--dry-run", "--no-eval", "--from=x", "--eval-every=5", "--algo=bc", "--gap=5", "--reward=r", *defaults):
        assert main(["train", "--resume", str(swept.path), option]) == 2
        assert f"found {option.partition('=')[0]};" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["newer", "json", "stage", "shape", "setting", "key"])
def test_damaged_runs_are_refused(swept, tmp_path, damage, capsys):
    path = tmp_path / "run"
    shutil.copytree(swept.path, path)
    info = json.loads((path / "run.json").read_text())
    stage = path / "stages" / "policy.safetensors"
    change = {
        "newer": (
            lambda: (path / "run.json").write_text(json.dumps(info | {"format": 99})),
            "has format 99, this version reads up to",
        ),
        "json": (lambda: (path / "run.json").write_text("{"), "run.json is damaged"),
        "stage": (
            lambda: stage.write_bytes(stage.read_bytes()[:-100]),
            "policy.safetensors is not the file that its run wrote",
        ),
        "shape": (lambda: info["settings"].update({"policy.hidden": [9]}), "is of another run (settings: other than"),
        "setting": (lambda: info["settings"].update({"critic.depth": 3}), "unknown setting 'critic.depth'"),
        "key": (lambda: info["data"].pop("sha256"), "missing required field `sha256` - at `$.data`"),
    }
    act, message = change[damage]
    act()
    if damage in ("shape", "setting", "key"):
        (path / "run.json").write_text(json.dumps(info))
    assert main(["eval", str(path), "--quiet"]) == 2
    assert message in capsys.readouterr().err


def test_an_environment_that_is_not_there(data, algorithm, tmp_path):
    other = from_arrays(**arrays(), env_id="Walker9d-v4", name="tiny")
    with pytest.raises(srpo.errors.UserError, match="'Walker9d-v4' is not available"):
        srpo.train(algorithm, other, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_environment_that_is_gone_is_said_before_a_run_goes_on(swept, data, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(swept.path, path)
    (path / "stages" / "policy.safetensors").unlink()
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | {"data": info["data"] | {"env_id": "Walker9d-v4"}}))
    with pytest.raises(srpo.errors.UserError, match="'Walker9d-v4' is not available"):
        srpo.resume(path, data, quiet=True)
    assert not list((path / "state").glob("*"))


def test_time_left_does_not_count_compilation(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Bars() as bars:
        bars.open("policy", 100)
        for now, done in (  # noqa: B007  (the clock reads it)
            (20.0, 10),
            (30.0, 30),
            (36.0, 42),
            (60.0, 90),
            (65.0, 100),
        ):  # 20 s to compile, then two steps a second
            bars.update(done)
    said = ["10/100, 20 s", "42/100, 36 s, 29 s left", "90/100, 60 s, 5 s left", "100/100, 65 s"]
    assert capsys.readouterr().err.splitlines() == [f"policy: {line}" for line in said]


def test_json_prints_one_object(file, tmp_path, capsys):
    sets = [x for path, value in TINY.items() for x in ("--set", f"{path}={value}")]
    assert main(["train", str(file), *sets, "--out", str(tmp_path / "run"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"run": str(tmp_path / "run"), "evaluation": None, "failures": []}
    assert "critic" in captured.err
    assert main(["train", str(file), *sets, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    beta = next(s for s in plan["settings"] if s["path"] == "policy.beta")
    assert beta["meaning"].startswith("temperature") and beta["source"] == "preset paper"
    assert plan["stages"].keys() == {"critic", "behavior", "policy"}


def test_scores_are_normalized_only_where_the_reference_holds(swept, data, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(swept.path, path)
    assert srpo.evaluate(str(path), 1).unit == "normalized score"
    assert srpo.evaluate(str(path), 1, "Hopper-v5").unit == "return"  # D4RL's references were measured in the versions before
    info = json.loads((path / "run.json").read_text())
    info["data"] |= {"env_id": "Walker2d-v4", "reference": [1.629008, 4592.3]}  # other numbers for the same sizes as Hopper's
    (path / "run.json").write_text(json.dumps(info))
    assert srpo.evaluate(str(path), 1, "Hopper-v4").unit == "return"
    assert {r["score"] for r in rows(path / "evals.csv") if r["kind"] == "final"} == {""}
    for env_id, complaint in {
        "Walker2d-v4": "observations have 11 columns, but Walker2d-v4 has 17",
        "CartPole-v1": "observations have 11 columns, but CartPole-v1 has 4",
        "nowhere:Hopper-v4": "needs the module 'nowhere'",
    }.items():
        assert main(["eval", str(path), "--env", env_id, "--quiet"]) == 2
        told = capsys.readouterr().err
        assert complaint in told and told.count("\n") == 1


def test_a_run_resumes_where_its_data_are_now(file, tmp_path, monkeypatch):
    """DATA was given as a relative path; then the file moves."""
    shutil.copy(file, tmp_path / "here.npz")
    monkeypatch.chdir(tmp_path)
    sets = [x for path, value in TINY.items() for x in ("--set", f"{path}={value}")]
    assert main(["train", "here.npz", *sets, "--quiet", "--out", "run"]) == 0
    (tmp_path / "run" / "stages" / "policy.safetensors").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--resume", "../run", "--quiet"]) == 0
    (tmp_path / "run" / "stages" / "policy.safetensors").unlink()
    (tmp_path / "here.npz").rename(tmp_path / "there.npz")
    assert main(["train", "--resume", "../run", "--quiet"]) == 2
    assert main(["train", "--resume", "../run", "../there.npz", "--quiet"]) == 0


def test_help_and_import_need_no_jax():
    code = "import sys; import srpo, srpo.cli; srpo.cli.main([]); assert not {'jax', 'numpy'} & set(sys.modules)"
    text = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "srpo train" in text
    with pytest.raises(ConfigError, match="did you mean"):
        srpo.configure("srop", None)
