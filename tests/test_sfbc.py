"""SfBC: planned returns worked by hand, the table and its renewal, the stored proposals, and its policy on a bandit."""

import jax
import numpy as np
import pytest
from bandits import BEST, acts, bandit, fit, start
from exact import GaussianBehavior, TwoModes

from srpo.algorithms.sfbc import PlannedCritic, Recorded, SfBC, planned_returns
from srpo.core import Batch
from srpo.data import DataError, from_arrays
from srpo.data.treated import treat
from srpo.data.treatments import Treatment
from srpo.diffusion.solver import Solver
from srpo.losses import softmax_mean
from srpo.stages.support import Proposals, SupportActions

REWARD = np.float32([1.0, 2.0, 4.0, 1.0, 1.0])  # an episode of three steps, then one of two
LAST = np.array([False, False, True, False, True])
VALUE = np.float32([9.0, 1.0, 8.0, 0.0, 4.0])


planned = jax.jit(planned_returns, static_argnums=4)


@pytest.mark.parametrize(
    "maximum, value, returns",
    [
        ("next state", -np.inf, [3, 4, 4, 1.5, 1]),  # returns of the data
        ("same state", -np.inf, [3, 4, 4, 1.5, 1]),
        ("next state", VALUE, [1 + 6 / 2, 2 + 8 / 2, 4, 1 + 4 / 2, 1]),
        ("same state", VALUE, [9, 2 + 8 / 2, 8, 1 + 4 / 2, 4]),
    ],
)
def test_planned_returns_by_hand(maximum, value, returns):
    value = np.broadcast_to(np.float32(value), (5,))
    np.testing.assert_allclose(planned(REWARD, LAST, value, 0.5, maximum), returns)


def test_the_planned_value_lies_between_mean_and_maximum():
    q, mean = np.float32([0.0, 1.0]), jax.jit(softmax_mean)
    assert mean(q, 0.0) == 0.5 and mean(q, 100.0) == pytest.approx(1.0)
    assert mean(q, 1.0) == pytest.approx(np.e / (1 + np.e), rel=1e-6)


@pytest.fixture(scope="module")
def recorded():
    rng = np.random.default_rng(0)
    obs, action = rng.standard_normal((5, 2), np.float32), rng.uniform(-1, 1, (5, 1)).astype(np.float32)
    return Recorded(Batch(obs, action, REWARD, obs, np.ones(5, np.float32), np.arange(5)), LAST)


@jax.jit
def updated(stage, state, data, given, step):
    """The state after a step on four rows, and what Q said before it of the proposed actions."""
    rows = data.take(data.rows(jax.random.key(step), 4))
    q = jax.vmap(lambda a: state.q.model(data.steps.obs, a)[0], 1, 1)(given["support"].here)  # (5, 6)
    return stage.update(state, rows, given, jax.random.key(9), step)[0], q


@pytest.mark.parametrize("maximum", ["next state", "same state"])
def test_the_table_is_planned_anew_from_the_critic_which_starts_again(recorded, maximum):
    stage = PlannedCritic(steps=9, batch_size=4, hidden=(8,), replan_every=3, maximum=maximum, discount=0.5, lr=1e-2)
    support = np.random.default_rng(3).uniform(-1, 1, (5, 6, 1)).astype(np.float32)
    given = {"support": Proposals(support, None)}
    state = start(stage, recorded, given, jax.random.key(1))
    np.testing.assert_allclose(state.target, [3, 4, 4, 1.5, 1])
    assert float(state.mean) == pytest.approx(2.7) and float(state.std) == pytest.approx(np.std([3, 4, 4, 1.5, 1]))
    for step in range(3):
        state = updated(stage, state, recorded, given, step)[0]
        np.testing.assert_allclose(state.target, [3, 4, 4, 1.5, 1])  # not yet
    renewed, q = jax.tree.map(np.asarray, updated(stage, state, recorded, given, 3))
    state = jax.tree.map(np.asarray, state)
    weight = np.exp(20 * (q - q.max(1, keepdims=True)))
    value = state.mean + state.std * (weight * q).sum(1) / weight.sum(1)
    np.testing.assert_allclose(renewed.target, planned(REWARD, LAST, value, 0.5, maximum), rtol=1e-5)
    assert float(renewed.mean) == pytest.approx(float(renewed.target.mean())) and not np.allclose(renewed.target, state.target)

    # the critic is the first one after a single step: further from the trained one than from the fresh one
    def distance(a, b):
        return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    assert distance(renewed.q.model, state.fresh.model) <= 1.01e-2 and distance(state.q.model, state.fresh.model) > 1.01e-2
    assert int(renewed.q.opt_state[0].count) == 1


def test_returns_that_hardly_differ_are_divided_by_a_tenth():
    rows, ones = np.zeros((4, 1), np.float32), np.ones(4, np.float32)
    data = Recorded(Batch(rows, rows, ones, rows, 0 * ones, np.arange(4)), np.ones(4, bool))
    state = start(PlannedCritic(hidden=(8,)), data, {}, jax.random.key(0))
    assert float(state.std) == pytest.approx(0.1)


@pytest.mark.parametrize("next_states", [False, True])
def test_every_state_is_given_actions_of_the_behavior(next_states):
    obs, solver = np.linspace(-1, 1, 13, dtype=np.float32)[:, None], Solver("data", 2, 60)
    data = Batch(obs, 0 * obs, 0 * obs[:, 0], obs + 5, 0 * obs[:, 0] + 1, np.arange(13))
    stage = SupportActions(steps=4, count=400, next_states=next_states, solver=solver)  # parts of 4, 4, 4 and 1
    table = jax.tree.map(np.asarray, fit(stage, data, {"behavior": GaussianBehavior(np.float32([0.5]), 0.04)})[0])
    assert table.here.shape == (13, 400, 1) and (table.after is None) != next_states
    for found, shift in [(table.here, 0.5), (table.after, 5.5)][: 1 + next_states]:
        np.testing.assert_allclose(found.mean((1, 2)), obs[:, 0] + shift, atol=0.05)
        np.testing.assert_allclose(found.std((1, 2)), 0.2, atol=0.03)
    assert len(np.unique(table.here - obs[:, None])) > 5000  # no two parts share their noise


def test_on_a_bandit_the_candidate_next_to_the_optimum_is_chosen():
    rows = bandit()
    critic = PlannedCritic(steps=600, batch_size=128, hidden=(32,), replan_every=10_000, lr=1e-2)
    support = Proposals(np.zeros((len(rows.obs), 1, 1), np.float32), None)
    q, _ = fit(critic, Recorded(rows, np.ones(len(rows.obs), bool)), {"support": support})
    algorithm, trained = SfBC(), {"behavior": TwoModes(), "critic": q}
    action = acts(algorithm.make_policy(trained))
    assert np.mean(np.abs(action - BEST) < 0.2) > 0.95
    averaged = acts(algorithm.set("average", 4).make_policy(trained))
    assert abs(averaged.mean() - BEST) < 0.1 and averaged.std() < action.std()
    idle = acts(algorithm.set("sharpness", 1e-6).make_policy(trained))
    assert abs(np.mean(idle < 0) - 0.5) < 0.15  # without Q, both modes


def test_trajectories_are_required_by_name():
    n = 30
    data = from_arrays(np.zeros((n, 2)), np.zeros((n, 1)), np.arange(n), np.zeros(n, bool), name="flat")
    with pytest.raises(DataError, match="SfBC needs whole trajectories"):
        SfBC().critic.view(treat(data, SfBC().data))


def test_episodes_are_trimmed_and_labels_checked_as_on_antmaze():
    """Episodes of 6 (timed out), 4 (too short), 5 (ended) and 6 rows (cut by the end of the data)."""
    terminal, timeout = np.zeros(21, bool), np.zeros(21, bool)
    timeout[[5, 9]], terminal[14] = True, True
    obs = np.stack([np.arange(21.0), 30 - np.arange(21.0)], 1)
    data = from_arrays(obs, np.zeros((21, 1)), np.ones(21), terminal, timeout, name="antmaze-like")
    chosen = treat(data, Treatment(episodes="trimmed"))
    left = chosen.recording
    assert left.obs[:, 0].tolist() == [0, 1, 2, 3, 4, *range(10, 20)]
    assert np.flatnonzero(chosen.last).tolist() == [4, 9, 14] and left.terminal.sum() == 1
    assert left.episodes.tolist() == [[0, 5], [5, 10], [10, 15]]
    far = treat(data, Treatment(reward="beyond-19"))
    assert (
        np.flatnonzero(far.held_steps.reward).tolist() == [] and not far.recording.terminal.any()
    )  # nowhere are both beyond 19
    assert far.recording.episodes.tolist() == [[0, 6], [6, 10], [10, 21]]  # the goal was not reached: the episode goes on
    up = from_arrays(obs[:, :1] * [1, 2], np.zeros((21, 1)), np.ones(21), terminal, timeout, name="antmaze-like")
    assert np.flatnonzero(treat(up, Treatment(reward="beyond-19")).held_steps.reward).tolist() == [20]
    with pytest.raises(DataError, match="no episode has five rows"):
        treat(from_arrays(obs[:4], np.zeros((4, 1)), np.ones(4), terminal[:4], timeout[:4]), Treatment(episodes="trimmed"))
