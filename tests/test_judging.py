"""Judging: known values are found, far-off policies are not trusted, and what data cannot tell is not told."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from made_up import layers
from matplotlib.figure import Figure

import srpo
from srpo.cli import main
from srpo.core import Batch
from srpo.data import from_arrays
from srpo.diffusion.likelihood import likelihood_bound
from srpo.diffusion.schedules import VP
from srpo.judging.evidence import Evidence, Judging, Split, _look, _models
from srpo.judging.fitted_q import FittedQ, fit_each, fit_one
from srpo.judging.judge import JudgingError, comparable
from srpo.judging.model import FittedModel, Known, imagine
from srpo.judging.panel import Candidate, Panel, labels
from srpo.judging.picture import _bars, draw
from srpo.judging.ranking import bootstrap, weigh
from srpo.judging.verdict import judgement
from srpo.networks.actors import DialedActor
from srpo.networks.layers import Normalizer
from srpo.policies import DialedPolicy
from srpo.runs.run import RunError
from srpo.runs.units import Units
from srpo.stages.diffusion_behavior import DiffusionBehavior
from srpo.text import exact


def batch(obs, action, reward, next_obs, mask):
    return jax.device_put(
        Batch(*(np.float32(x) for x in (obs, action, reward, next_obs, mask)), np.arange(len(obs), dtype=np.int32))
    )


def scale(mean, std):
    return Normalizer(*map(jax.device_put, np.float32([mean, std])))


def test_fitted_q_finds_the_values_of_known_policies():
    """Reward s + a, s' = -s whatever is done, discount 0.5, policies that always take c: V(s) = 2 c + s / 1.5."""
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-1, 1, (2, 2000, 1))
    data = batch(obs, action, (obs + action)[:, 0], -obs, np.ones(2000))
    stage = FittedQ(steps=1000, batch_size=32, hidden=(24,), lr=1e-2, discount=0.5, ema=0.1)
    start = stage.fresh(scale([0], [1]), scale(0, 1), 1, jax.random.key(0))
    constants = np.float32([-0.8, 0.0, 0.5])
    each = {"next_action": np.broadcast_to(constants[:, None, None], (3, 2000, 1))}
    q = fit_each(stage, data, {"start": start}, each, jax.random.key(1))
    s, a = np.array([[-0.6], [0.3]], np.float32), np.array([[0.2], [-0.7]], np.float32)
    found = jax.jit(jax.vmap(lambda q: q(s, a)))(q)  # (policies, members, 2)
    for c, values in zip(constants, found, strict=True):
        # Q = s + a + 0.5 V(-s), V(s) = s + c + 0.5 V(-s): V(s) = 2 c + s / 1.5
        wanted = s[:, 0] + a[:, 0] + 0.5 * (2 * float(c) - s[:, 0] / 1.5)
        np.testing.assert_allclose(values, np.broadcast_to(wanted, (2, 2)), atol=0.04)


class Exact(eqx.Module):
    """The noise of N(obs, 0.3^2)."""

    def __call__(self, x, t, obs):
        alpha, sigma = (a[..., None] for a in VP()(t))
        return sigma * (x - alpha * obs) / (0.09 * alpha**2 + sigma**2)


def test_the_bound_is_the_likelihood_where_the_model_is_perfect():
    obs = np.tile(np.float32([0.2, -0.4]), (400, 1))
    x = obs + np.repeat(np.float32([[0.0, 0.0], [0.3, -0.3], [1.2, 0.9], [0.1, 0.6]]), 100, 0)
    bound = jax.jit(lambda x, obs, key: likelihood_bound(Exact(), VP(), x, obs, key, draws=64))
    found = np.asarray(bound(x, obs, jax.random.key(0))).reshape(4, 100)
    wanted = scipy.stats.norm.logpdf(x, obs, 0.3).sum(-1).reshape(4, 100)
    np.testing.assert_allclose(found.mean(1), wanted.mean(1), atol=0.15)


# one for both plants, so that it is compiled once
MODEL = FittedModel(steps=800, batch_size=64, hidden=(24, 24), members=2, lr=1e-2)


class Plant(eqx.Module):
    """Pushes a point by a constant, or by what it is given beside it."""

    push: jax.Array

    def act(self, obs, key=None):
        return jnp.broadcast_to(self.push, (*obs.shape[:-1], 1))


def test_policies_are_let_loose_in_a_model_of_the_plant_as_far_as_it_is_known():
    """s' = s + a / 4, reward s', the end where s' > 1; recorded with -1 < a < 0.5 from -1 < s < 1."""
    rng = np.random.default_rng(0)
    obs, action = rng.uniform(-1, 1, (4000, 1)), rng.uniform(-1, 0.5, (4000, 1))
    following = obs + action / 4
    data = batch(obs, action, following[:, 0], following, following[:, 0] <= 1)
    model = fit_one(MODEL, data, {"start": MODEL.fresh(data, jax.random.key(1))}, jax.random.key(0))
    known = Known.of(model, data, data)
    policies = Plant(np.float32([[0.0], [0.42], [-0.5]]))  # stands; runs to the end; runs to where nothing was recorded
    found = jax.device_get(imagine(model, policies, np.float32([[0.0], [-0.65]]), known, jax.random.key(2), 20))
    stands, runs, leaves = found.value.mean(1)
    np.testing.assert_allclose(stands, [0.0, -13.0], atol=1.5)
    wanted = [0.105 * sum(range(1, 11)), sum(-0.65 + 0.105 * i for i in range(1, 17))]  # with the reward of the last step
    np.testing.assert_allclose(runs, wanted, atol=1.6)  # without an end: 22
    assert float(known.unknown) < -0.8 and (found.known[0] > 19).all() and (found.known[2] < 15).all()
    assert (leaves < -0.7 * 10).all()  # nothing good is promised there
    assert (found.doubt[2] > 2 * found.doubt[0]).all()


class Feedback(eqx.Module):
    """Pushes a point by a constant, and against where it is."""

    gain: jax.Array
    push: jax.Array

    def act(self, obs, key=None):
        return jnp.clip(self.push - self.gain * obs, -1, 1)


def balance(gain, push, s, steps=60):
    """The true return of `Feedback`: s' = 1.1 s + 0.2 a, reward 1 + a, until |s| > 1; (gains,)."""
    total, alive = np.zeros(len(gain)), np.ones(len(gain))
    for _ in range(steps):
        a = np.clip(push - gain * s, -1, 1)
        total, s = total + alive * (1 + a), 1.1 * s + 0.2 * a
        alive = alive * (np.abs(s) <= 1)
    return total


def test_a_policy_that_falls_does_not_win_however_much_each_of_its_steps_earns():
    rng = np.random.default_rng(0)
    s = rng.uniform(-1, 1, (4000, 1))
    a = np.clip(rng.normal(0, 0.4, (4000, 1)) - s, -1, 1)  # recorded by one that holds it, more or less
    after = 1.1 * s + 0.2 * a
    data = batch(s, a, 1 + a[:, 0], after, np.abs(after[:, 0]) <= 1)
    model = fit_one(MODEL, data, {"start": MODEL.fresh(data, jax.random.key(1))}, jax.random.key(0))
    # two hold it, one falls at once, one holds it less, one falls late
    gain, push = np.array([1.0, 1.0, 0.0, 0.45, 0.0]), np.array([0.0, -0.2, 1.0, 0.0, 0.02])
    truth = np.mean([balance(gain, push, s) for s in (-0.1, 0.05, 0.1)], 0)
    policies, start = Feedback(*(np.float32(x)[:, None] for x in (gain, push))), np.float32([[-0.1], [0.05], [0.1]])
    found = imagine(model, policies, start, Known.of(model, data, data), jax.random.key(2), 60)
    promised = np.asarray(found.value).mean((1, 2))
    np.testing.assert_allclose(np.delete(promised, 2), np.delete(truth, 2), rtol=0.1)
    assert promised[2] < truth[2] < 10  # a push that was hardly ever recorded: less is promised
    assert promised.argmax() == truth.argmax() == 1


class Linear(eqx.Module):
    """Q(s, a) = slope a, in two members."""

    slope: jax.Array

    def __call__(self, obs, action):
        return self.slope * jnp.stack([action[..., 0]] * 2)


@pytest.mark.parametrize("held_rows", [7, 40, 200], ids=["a few episodes", "most of them", "all"])
def test_the_gain_by_q_is_what_it_is_however_few_of_the_held_out_rows_are_drawn(held_rows):
    n, end = 400, np.arange(400) % 4 == 3
    recorded = from_arrays(np.ones((n, 1)), np.linspace(-0.9, 0.9, n)[:, None], np.ones(n), 0 * end, end, name="short")
    judging = Judging(held_rows=held_rows, rows=50, model=FittedModel(rows=50))
    split = Split(recorded, 0.5, judging)
    episodes = len(np.unique(split.held_rows // 4))
    assert len(split.drawn) == episodes and split.drawn.sum() == len(split.held_rows) and split.drawn.min() > 0
    here, after, start = split.held.action, split.held_next, split.start_action
    actions = {name: np.stack([x + 1, x]) for name, x in (("here", here), ("after", after), ("start", start))}
    q = Linear(np.full(2, 2.0, np.float32))
    _, value, _ = jax.device_get(_look(q, actions, split.start, split.held, split.episode, split.drawn, 0.5))
    assert value.shape == (2, 2, episodes)
    np.testing.assert_allclose(bootstrap(value[:1] - value[1:]), 2.0, atol=1e-5)


def evidence(gain, known=50.0, predicted=10.0, correlation=0.8, q_gain=None, record=20.0, doubt=1.0):
    """Of policies with these gains over a behavior that comes to 10, in two members and 12 episodes that differ a little."""
    gain, shape = np.append(np.asarray(gain, float), 0.0), (len(gain) + 1, 2, 12)
    noise = np.linspace(-0.2, 0.2, 12)
    loose = np.broadcast_to(gain[:, None, None] * (1 + noise), shape) + 10
    steps = np.broadcast_to(np.append(np.broadcast_to(known, len(gain) - 1), 60.0)[:, None, None], shape)
    by_q = gain if q_gain is None else np.append(np.asarray(q_gain, float), 0.0)
    value = np.broadcast_to(by_q[:, None, None] * (1 + noise), shape) + 10
    nats, errors = np.zeros((len(gain), 7)), np.ones(len(gain))
    doubts = np.broadcast_to(np.append(np.broadcast_to(doubt, len(gain) - 1), 1.0)[:, None, None], shape)
    start = value + predicted - 10
    settled = np.ones(12, bool)
    return Evidence(start, value, errors, nats, 10 + 3 * noise, settled, 1.0, correlation, loose, steps, doubts, 100, record)


def judged(*args, steps=None, **options):
    found = evidence(*args, **options)
    n = len(found.td_error) - 1
    candidates = [Candidate("run", "srpo", 0, s, (("policy.beta", 0.1 * (i + 1)),)) for i, s in enumerate(steps or [5] * n)]
    return judgement("tiny", 0.99, candidates, found, [None] * n)


def test_the_policy_that_promises_most_for_sure_is_taken():
    found = judged([1.0, 3.0, -5.0], known=[50.0, 40.0, 5.0])
    assert found.answer == "take" and dict(found.choice.point) == {"policy.beta": pytest.approx(0.2)}
    assert [j.trusted for j in found.ranking] == [True, True, False]
    assert "it is known for 5 steps, the behavior for 60" in found.ranking[-1].objection
    assert found.advice[-1].startswith("better than cloning by 3 ")
    assert (
        "1 of 3 policies are not trusted" in " ".join(found.advice)
        and "comes to 10, and is known for 60 of 100" in found.advice[0]
    )


def test_of_policies_that_come_to_the_same_the_one_that_the_networks_doubt_least_is_first():
    found = evidence([3.0, 3.0, 3.0, 1.0, 3.1], doubt=[1.5, 0.7, 0.2, 0.1, 2.0], known=[50.0, 50.0, 5.0, 50.0, 50.0])
    turned = np.linspace(-1, 1, 12) * np.array([0, 1, 0, 0, 0, 0])[:, None, None]  # as good, at other starts
    found = replace(found, loose=found.loose + turned)
    candidates = [Candidate("run", "srpo", seed, 5, ()) for seed in range(5)]
    ranking = weigh(candidates, found, [None] * 5)
    assert [(j.candidate.seed, j.tied) for j in ranking] == [(1, True), (4, True), (0, False), (2, False), (3, False)]
    said = judgement("tiny", 0.99, candidates, found, [None] * 5)
    assert "its return cannot be told from that of 1 more" in " ".join(said.advice) and said.choice.seed == 1
    alone = judgement("tiny", 0.99, candidates[:2], evidence([3.0, 1.0], doubt=[2.0, 0.1]), [None] * 2)
    assert alone.choice.seed == 0 and "cannot be told" not in " ".join(alone.advice)


def test_what_data_cannot_tell():
    even = judged([0.0, -0.1])
    assert even.answer == "cannot tell" and "whether it is better than cloning" in even.advice[-1]
    against = judged([3.0], q_gain=[-4.0])
    assert against.answer == "cannot tell" and "by fitted Q it is worse than the behavior, by 4" in against.advice[-1]
    for options in ({"predicted": 40.0}, {"correlation": -0.2}):  # where Q does not give back what was recorded
        wrong = judged([3.0], q_gain=[-4.0], **options)
        assert wrong.answer == "take" and any(line.endswith("it is not heard") for line in wrong.advice)
    far = judged([3.0, 1.0], known=[5.0, 60.0])
    assert far.answer == "cannot tell" and "it is known for 5 steps" in far.advice[-1]


def test_a_promise_above_all_that_was_recorded_is_said():
    def said(record):
        return [line for line in judged([30.0], record=record).advice if line.endswith("doubt it")]

    assert said(40.0) == [] and said(30.0) == ["it promises 37.91 or more, and no recorded episode has more than 30: doubt it"]


def test_no_policy_can_be_trusted_or_beats_cloning():
    far = judged([5.0, 7.0], known=[3.0, 2.0])
    assert far.answer == "none" and far.choice is None and "none can be trusted" in far.advice[-1]
    worse = judged([-5.0, -2.0])
    assert worse.answer == "none" and "none is better than cloning" in worse.advice[-1]
    broken = judged([np.nan, 1.0])
    assert broken.ranking[-1].objection == "its return in the model is not finite" and broken.answer == "take"


def told(found, runs=("run", "other"), **point):
    candidates = [Candidate(run, "srpo", 0, 5, tuple(point.items())) for run in runs]
    return judgement("tiny", 0.99, candidates, found, [None] * len(runs))


def test_nothing_is_better_than_a_clone_whose_return_is_not_finite():
    found = evidence([3.0, 1.0])
    for lost in (found.loose[-1:], found.loose):  # of the clone; of all, as by a model that diverged
        loose = found.loose.copy()
        loose[-len(lost) :] = np.nan
        said = told(replace(found, loose=loose))
        assert said.answer == "none" and said.choice is None and "--set model.lr=" in said.advice[-1]


def test_one_start_does_not_tell_what_is_better_than_cloning():
    found = evidence([3.0, -1.0])
    one = {name: getattr(found, name)[..., :1] for name in ("loose", "known", "doubt", "start_value", "value", "returns")}
    for gain in (found.loose[:, :, :1], 20 - found.loose[:, :, :1]):
        said = told(replace(found, **one | {"loose": gain, "settled": found.settled[:1]}))
        assert said.answer == "cannot tell" and said.advice[-1].endswith("set more episodes aside (data.holdout)")


def test_episodes_that_were_cut_too_soon_do_not_speak_against_q():
    found = evidence([3.0], q_gain=[-4.0])
    cut = np.arange(12) % 4 != 1
    returns = np.where(cut, 1.0, found.returns)  # most timed out with little of their reward
    assert told(replace(found, returns=returns), ["run"]).answer == "take"
    said = told(replace(found, returns=returns, settled=~cut), ["run"])
    assert said.answer == "cannot tell" and "by fitted Q it is worse" in said.advice[-1]
    assert said.returned == pytest.approx(found.returns[~cut].mean()) and said.predicted == pytest.approx(10.0, abs=0.1)
    none = told(replace(found, returns=returns, settled=np.zeros(12, bool)), ["run"])
    assert any("cut too soon" in line for line in none.advice) and none.answer == "take"


def test_returns_are_settled_by_an_end_or_by_their_length():
    """Episodes of 40 rows: every other one ends by itself, the others are cut; 0.9^29 < 0.05 < 0.9^28."""
    last, n = np.arange(400) % 40 == 39, 400
    ends = last & (np.arange(n) // 40 % 2 == 0)
    data = from_arrays(np.ones((n, 1)), np.linspace(-0.9, 0.9, n)[:, None], np.ones(n), ends, last & ~ends, name="cut")
    split = Split(data, 0.5, Judging(q=FittedQ(discount=0.9), rows=50, model=FittedModel(rows=50)))
    settled = split.settled.reshape(-1, 40)
    assert settled[split.aside.ended].all() and 0 < split.aside.ended.sum() < len(settled)
    assert (settled[~split.aside.ended].sum(1) == 12).all()


def test_runs_with_the_same_recipe_are_told_apart():
    found = evidence([3.0, 1.0, 2.0])
    candidates = [Candidate(run, "iql", 0, 5, ()) for run in ("a/one", "a/two")] + [Candidate("a/two", "bc", 0, 5, ())]
    lines = str(judgement("tiny", 0.99, candidates, found, [None] * 3)).splitlines()
    assert lines[2].startswith("iql @5 (one) ") and lines[3].startswith("bc @5  ") and lines[4].startswith("iql @5 (two) ")
    assert labels([replace(c, run=f"{c.run}/x") for c in candidates])[:2] == ["iql @5 (a/one/x)", "iql @5 (a/two/x)"]
    both = Candidate("run", "iql", 0, 5, (("critic.lr", 0.001), ("policy.lr", 0.00123456789), ("policy.beta", 1.0)))
    assert both.recipe == "iql critic.lr=0.001 policy.lr=0.00123456789 beta=1 @5"


def test_swept_values_are_printed_as_they_can_be_given_back():
    said = told(evidence([3.0]), ["run"], **{"policy.lr": 0.00123456789})
    assert "first: run, seed 0, policy.lr=0.00123456789 step 5" in said.advice
    assert [exact(x) for x in (0.1, 3.0, 1e-4, 0.1 + 0.2)] == ["0.1", "3", "0.0001", "0.30000000000000004"]


def test_the_picture_shows_the_intervals_of_the_gains_and_whatever_can_be_shown(tmp_path):
    found = evidence([3.0, 1.0])
    said = told(found)
    axes = Figure().subplots()
    _bars(axes, list(said.ranking))
    (lines,) = axes.collections
    shown = np.array([[(x0, x1) for (x0, _), (x1, _) in lines.get_segments()]])[0]
    np.testing.assert_allclose(shown, [(j.gain_low, j.gain_high) for j in said.ranking])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["srpo @5 (run) seed 0", "srpo @5 (other) seed 0"]
    for changed in (replace(found, loose=found.loose * np.nan), replace(found, likelihood=found.likelihood * np.nan)):
        draw(told(changed), tmp_path / "judge.png")


class Begun:
    """A run that has a diffusion model of the behavior, of two seeds, some of which failed."""

    path, seeds, points, units = "run", (0, 1), [()], Units(None, None, None)
    grid = SimpleNamespace(where=lambda stage, point: 0)

    def __init__(self, failed=(), **treatment):
        data = srpo.algorithms.find("srpo").default().data
        self.algorithm = SimpleNamespace(stages={"behavior": DiffusionBehavior()}, data=replace(data, **treatment))
        self.failures = failed

    def stage_file(self, name):
        return SimpleNamespace(exists=lambda: True)

    def failed(self, seed, point):
        return seed in self.failures


def test_the_model_of_the_behavior_is_one_that_saw_it_all_and_did_not_fail():
    whole, failed, dead = Begun(), Begun(failed=[0]), Begun(failed=[0, 1])
    others = [Begun(best_fraction=0.1), Begun(episodes="trimmed"), Begun(clip_action=0.5)]
    assert [(run, at) for run, _, at in _models([*others, dead, failed, whole])] == [(failed, (1, 0)), (whole, (0, 0))]


def test_an_earlier_checkpoint_can_be_the_choice():
    found = evidence([3.0, 1.0])
    candidates = [Candidate("run", "srpo", 0, step, ()) for step in (5, 10)]
    advice = judgement("tiny", 0.99, candidates, found, [None, None]).advice
    assert "checkpoint: step 5, not the last, 10 (gain 1 for 3)" in advice


def test_the_bootstrap_draws_members_and_episodes_for_all_policies_alike():
    gain = np.stack([np.repeat([[1.0], [3.0]], 20, 1), np.repeat([[2.0], [4.0]], 20, 1)])
    drawn = bootstrap(gain)
    np.testing.assert_allclose(drawn[:, 1] - drawn[:, 0], 1.0)
    assert set(np.round(drawn[:, 0], 6)) == {1.0, 2.0, 3.0}


def run_of(sha="a", holdout=0.1, complete=True):
    def require_complete():
        assert complete

    data = SimpleNamespace(holdout=holdout)
    info = {"data": {"sha256": sha, "name": f"data-{sha}"}}
    return SimpleNamespace(
        path=f"runs/{sha}", info=info, algorithm=SimpleNamespace(data=data), require_complete=require_complete
    )


def test_runs_that_cannot_be_judged():
    assert comparable([run_of(holdout=0.3), run_of(holdout=0.2)]) == 0.2
    with pytest.raises(JudgingError, match="was trained on data-b, runs/a on data-a; judge them one by one"):
        comparable([run_of(), run_of("b")])
    with pytest.raises(JudgingError, match=r"so none is left to judge by; train with --set data.holdout=0.1"):
        comparable([run_of(), run_of(holdout=0.0)])
    with pytest.raises(JudgingError, match="found no run to judge"):
        comparable([])


TINY = (
    "q.steps=30",
    "q.hidden=8",
    "model.steps=30",
    "model.hidden=8",
    "model.members=2",
    "behavior.steps=5",
    "behavior.width=8",
    "behavior.blocks=1",
    "states=16",
)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(200, 3)), rng.uniform(-1, 1, (200, 2))
    timeout = np.arange(200) % 20 == 19
    return from_arrays(obs, action, action.sum(1), np.zeros(200, bool), timeout, name="tiny")


def test_runs_are_judged_by_command(data, tmp_path, capsys, monkeypatch):
    options = {"seeds": 2, "keep": 2, "eval_every": 0, "quiet": True}
    small = {"policy.steps": 8, "policy.hidden": (8,), "policy.batch_size": 8}
    path = tmp_path / "data.npz"
    names = {"observations": data.obs, "actions": data.action, "rewards": data.reward, "terminals": data.terminal}
    np.savez(path, timeouts=data.timeout, **names)
    recorded = srpo.load_dataset(path)
    made = srpo.configure("bc", recorded, **small | {"data.holdout": 0.2})
    srpo.train(made, recorded, out=tmp_path / "bc", **options)
    sets = [part for text in TINY for part in ("--set", text)]
    assert main(["judge", str(tmp_path / "bc"), "--quiet", *sets]) == 0
    told, said = capsys.readouterr()
    assert "4 policies on data, judged by 2 held-out episodes" in told and (tmp_path / "bc/judge.png").exists()
    lines = [line.split() for line in told.splitlines() if line.startswith("bc ")]
    assert {(row[2], row[1]) for row in lines} == {(seed, step) for seed in "01" for step in ("@4", "@8")}
    if "none can be trusted" not in told and "none is better" not in told:
        assert (
            f"next: srpo export {tmp_path / 'bc'} --seed {lines[0][2]} --step {lines[0][1][1:]} --to policy.safetensors\n"
            in said
        )
    shutil.copytree(tmp_path / "bc", tmp_path / "all")
    info = (tmp_path / "all/run.json").read_text()
    (tmp_path / "all/run.json").write_text(info.replace('"data.holdout": 0.2', '"data.holdout": 0.0'))
    before = sorted(tmp_path.rglob("*"))
    assert main(["judge", str(tmp_path / "bc"), str(tmp_path / "all")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "was trained on all episodes" in error and sorted(tmp_path.rglob("*")) == before
    for options, why in (
        (["--png", "missing/x.png"], "does not exist"),
        (["--set", "model.members=1"], "expected a number in [2,"),
    ):
        assert main(["judge", str(tmp_path / "bc"), *options]) == 2  # before minutes are spent
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and why in error
    with pytest.raises(RunError, match="--action-range"):
        srpo.judge(tmp_path / "bc", srpo.load_dataset(path, action_range=(-2, 2)))
    monkeypatch.setattr("srpo.judging.judge.judge_on", lambda split, runs, *more: [run.path for run in runs])
    assert len(srpo.judge([tmp_path / "bc", tmp_path / "all" / ".." / "bc"])) == 1  # the same one, named twice


def test_a_dial_is_judged_at_several_temperatures_unless_they_were_swept():
    @jax.jit
    @jax.vmap
    def made(key, layers):
        return DialedPolicy(DialedActor(3, 2, (4,), key, 0.02, 0.5, layers=layers), 0.1)

    two = jax.tree.map(lambda *x: np.stack(x), layers(4, 4, 2, seed=0), layers(4, 4, 2, seed=1))
    policies = made(jax.random.split(jax.random.key(0)), two)
    stacked = jax.tree.map(lambda x: np.asarray(x)[:, None], policies)
    whole = {"kept": [5], "seeds": (3, 8), "points": [()], "path": "runs/dial", "info": {"algorithm": "srpo-dial"}}
    calls = {"failed": lambda seed, point: None, "policies_at": lambda step: stacked, "units": Units(None, None, None)}
    panel = Panel.of([SimpleNamespace(**whole, **calls, grid=SimpleNamespace(sweep={}))])
    beta = np.geomspace(0.02, 0.5, 5)
    assert [(c.seed, c.step) for c in panel.candidates] == [(3, 5), (8, 5)] * 5
    np.testing.assert_allclose([c.beta for c in panel.candidates], np.repeat(beta, 2), rtol=1e-5)
    obs = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    found = panel.act(obs, jax.random.key(0))
    each = jax.jit(jax.vmap(lambda policy, beta: policy.act(obs, beta=beta), (0, None)))
    wanted = np.concatenate([each(policies, np.float32(turn)) for turn in beta])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    swept = Panel.of([SimpleNamespace(**whole, **calls, grid=SimpleNamespace(sweep={"beta": (0.1,)}))])
    assert [c.beta for c in swept.candidates] == [None, None]
