"""The data set: D4RL's transition rule, episodes, reward treatments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srpo import config
from srpo.algorithms.srpo import SRPO
from srpo.data import DataError, from_arrays, recording, treatments
from srpo.data.load import build
from srpo.data.sources import Attributes
from srpo.data.sources.d4rl import counted_timeouts
from srpo.data.treated import treat
from srpo.data.treatments import Treatment, authors_returns
from srpo.errors import ConfigError


def arrays(rows=20, seed=0, terminal=(), timeout=(), reward=None, sizes=(3, 2)):
    """Random rows, with flags at the given rows."""
    rng = np.random.default_rng(seed)
    flags = {key: np.isin(np.arange(rows), at) for key, at in (("terminal", terminal), ("timeout", timeout))}
    reward = rng.normal(size=rows) if reward is None else np.asarray(reward)
    return dict(obs=rng.normal(size=(rows, sizes[0])), action=rng.uniform(-1, 1, (rows, sizes[1])), reward=reward, **flags)


def d4rl_rule(obs, action, reward, terminal, timeout, limit):
    """`d4rl.qlearning_dataset`, written out row by row from its description; `timeout` may be None."""
    kept, step = [], 0
    for i in range(len(reward) - 1):
        final = bool(timeout[i]) if timeout is not None else step == limit - 1
        if final:
            step = 0
            continue
        if terminal[i]:
            step = 0
        kept.append((obs[i], action[i], reward[i], obs[i + 1], bool(terminal[i])))
        step += 1
    return [np.array(column) for column in zip(*kept, strict=True)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["", "", "", "end", "cut", "both"]), min_size=2, max_size=40), st.integers(0, 9))
def test_transitions_follow_d4rl_bit_for_bit(flags, seed):
    terminal = [i for i, f in enumerate(flags) if f in ("end", "both")]
    timeout = [i for i, f in enumerate(flags) if f in ("cut", "both")]
    raw = arrays(len(flags), seed, terminal, timeout, sizes=(11, 3))
    data = build(raw, Attributes("hopper-medium-v2", "D4RL's own file", d4rl=True))
    assert data.d4rl and not data.notes
    if all(raw["timeout"][:-1]):
        with pytest.raises(DataError, match="no transition is left"):
            treat(data)
        return
    single = {key: x.astype(np.float32) for key, x in raw.items() if key in ("obs", "action", "reward")}
    obs, action, reward, next_obs, done = d4rl_rule(**single, terminal=raw["terminal"], timeout=raw["timeout"], limit=None)
    batch = treat(data).transitions.held[:6]
    for found, expected in zip(
        batch, (obs, action, reward, next_obs, 1 - done.astype(np.float32), np.arange(len(obs))), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(found), expected)
        assert np.asarray(found).dtype in (np.float32, np.int32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(2, 7))
def test_missing_timeouts_are_counted_as_d4rl_does(terminal, limit):
    raw = arrays(len(terminal), terminal=np.flatnonzero(terminal))
    expected = d4rl_rule(raw["obs"], raw["action"], raw["reward"], terminal, None, limit)[0]
    rows = np.flatnonzero(~counted_timeouts(np.array(terminal), limit)[:-1])
    np.testing.assert_array_equal(raw["obs"][rows], expected)


def test_a_timed_out_episode_loses_its_last_row_and_a_terminated_one_none():
    data = from_arrays(**arrays(10, terminal=[3], timeout=[7]))
    assert treat(data).transitions.held.index.shape == (8,)  # rows 0 to 6 and 8
    np.testing.assert_array_equal(np.asarray(treat(data).transitions.held.mask), [1, 1, 1, 0, 1, 1, 1, 1])


def test_episodes_returns_and_ends():
    data = from_arrays(**arrays(10, terminal=[3], timeout=[7], reward=np.arange(10)))
    np.testing.assert_array_equal(data.episodes, [[0, 4], [4, 8], [8, 10]])
    np.testing.assert_array_equal(data.ended, [True, False, False])
    np.testing.assert_array_equal(data.complete, [True, True, False])
    np.testing.assert_array_equal(data.returns, [0 + 1 + 2 + 3, 4 + 5 + 6 + 7])


@pytest.mark.parametrize("terminal, returns", [([], []), ([9], [45]), ([3, 9], [6, 39])])
def test_returns_of_episodes_longer_than_what_is_summed_at_once(monkeypatch, terminal, returns):
    monkeypatch.setattr(recording, "AT_ONCE", 2)
    data = from_arrays(**arrays(10, terminal=terminal, reward=np.arange(10)))
    np.testing.assert_array_equal(data.returns, returns)


def test_steps_hold_every_row_and_never_look_into_the_next_episode():
    data = from_arrays(**arrays(10, terminal=[3], timeout=[7]))
    steps = treat(data).held_steps
    assert steps.obs.shape == (10, 3)
    following = np.asarray(steps.next_obs)
    for row in (0, 1, 2, 3, 4, 5, 6, 8):
        np.testing.assert_array_equal(following[row], data.obs[row + 1])
    for row in (7, 9):
        np.testing.assert_array_equal(following[row], data.obs[row])
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(steps.mask) == 0), [3])


def test_data_without_episode_ends_names_the_algorithm_that_needs_them():
    data = from_arrays(**arrays(10))
    with pytest.raises(DataError, match="SfBC needs whole trajectories"):
        data.require_episodes("SfBC")
    from_arrays(**arrays(10, timeout=[4])).require_episodes("SfBC")


# --- treatments


def reward_of(treatment, **kwargs):
    return np.asarray(treat(from_arrays(**arrays(**kwargs)), Treatment(**treatment)).held_steps.reward)


def test_affine_rewards():
    rewards = [0.0, 1.0, 0.0, 1.0]
    for option, expected in (("none", rewards), ("minus-one", [-1, 0, -1, 0]), ("four-centered", [-2, 2, -2, 2])):
        np.testing.assert_array_equal(reward_of({"reward": option}, rows=4, reward=rewards), np.float32(expected))


@pytest.mark.parametrize("terminal, reward", [([], None), ([49], None), ([49], np.arange(50) == 49)])
def test_standardized_rewards_have_mean_zero_and_unit_sample_deviation_over_the_transitions(terminal, reward):
    data = treat(from_arrays(**arrays(50, terminal=terminal, timeout=[20], reward=reward)), Treatment(reward="standardize"))
    reward = np.asarray(data.transitions.held.reward)
    assert abs(reward.mean()) < 1e-6 and abs(reward.std(ddof=1) - 1) < 1e-6


def test_return_range_uses_complete_episodes():
    reward = [1, 1, 1, 2, 2, 100]  # returns 3 and 4; the last row belongs to no complete episode
    found = reward_of({"reward": "return-range"}, rows=6, terminal=[2], timeout=[4], reward=reward)
    np.testing.assert_allclose(found, 1000 * np.array(reward), rtol=1e-6)


def test_the_authors_cuts_drift_through_timed_out_episodes():
    """Two time-outs of 1000 rows leave 999 transitions each: the first cut takes one row of the second episode."""
    reward = np.concatenate([np.ones(1000), np.full(1000, 5.0), np.full(1000, 2.0)])
    data = from_arrays(**arrays(3000, timeout=[999, 1999, 2999], reward=reward))
    rows = np.flatnonzero(~data.timeout[:-1])
    returns = authors_returns(data.reward[rows], data.terminal[rows])
    assert returns == [999 + 5, 998 * 5 + 2 * 2]  # and the last 997 rows are ignored
    scaled = np.asarray(treat(data, Treatment(reward="return-range-authors")).transitions.held.reward)
    np.testing.assert_allclose(scaled[0], 1000 / (4994 - 1004), rtol=1e-6)
    correct = np.asarray(treat(data, Treatment(reward="return-range")).transitions.held.reward)
    np.testing.assert_allclose(correct[0], 1000 / (5000 - 1000), rtol=1e-6)


def test_authors_cuts_end_at_terminals():
    assert authors_returns(np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.array([0, 1, 0, 0, 0], bool), length=2) == [3.0, 12.0]


@pytest.mark.parametrize("option", ["return-range", "return-range-authors", "standardize"])
def test_rewards_that_cannot_be_scaled_are_refused(option):
    data = from_arrays(**arrays(10, terminal=[4, 9], reward=np.ones(10)))
    with pytest.raises(DataError, match="cannot be"):
        treat(data, Treatment(reward=option))


def test_best_fraction_keeps_whole_episodes_by_discounted_return():
    reward = np.zeros(12)
    reward[[3, 4, 11]] = 1.0  # late in episode 0, early in episode 1 (better), late in episode 2
    data = from_arrays(**arrays(12, terminal=[3, 7, 11], reward=reward))
    best = treat(data, Treatment(best_fraction=0.4))
    np.testing.assert_array_equal(best.recording.obs, data.obs[4:8])
    np.testing.assert_array_equal(best.recording.episodes, [[0, 4]])
    assert len(data) == 12
    two = treat(data, Treatment(best_fraction=0.7)).recording
    assert len(two) == 8 and 4 in np.flatnonzero((data.obs[:, None] == two.obs).all(-1).any(1))


def test_held_out_episodes_are_whole_disjoint_and_nested():
    ends = [4, 9, 14, 19, 24, 29, 34, 39]
    data = from_arrays(**arrays(42, terminal=ends[::2], timeout=ends[1::2]))  # nine episodes, the last one not complete
    assert len(treat(data).recording) == 42 and data.split(0.0) == (data, None)
    aside = set()
    for fraction, count in ((0.01, 1), (0.34, 3), (0.5, 4), (0.99, 8)):
        kept, held = data.split(fraction)
        again = treat(data, Treatment(holdout=fraction))
        np.testing.assert_array_equal(again.recording.obs, kept.obs)
        rows = {x.tobytes() for x in held.obs}
        assert len(held.episodes) == count and len(kept.episodes) == 9 - count
        assert aside <= rows and rows.isdisjoint(x.tobytes() for x in kept.obs) and len(held) + len(kept) == 42
        assert {x.tobytes() for x in np.asarray(again.transitions.held.obs)}.isdisjoint(rows)
        aside = rows


def test_returns_of_held_out_episodes_scale_no_reward():
    ends = [1, 3, 5, 7]
    for big in range(4):
        data = from_arrays(**arrays(8, terminal=ends, reward=np.repeat(np.where(np.arange(4) == big, 90.0, np.arange(4)), 2)))
        kept, held = data.split(0.25)
        scaled = np.asarray(treat(data, Treatment(reward="return-range", holdout=0.25)).transitions.held.reward)
        spread = kept.returns.max() - kept.returns.min()
        np.testing.assert_allclose(scaled[0], kept.reward[0] / spread * 1000, rtol=1e-6)
        assert (held.reward.max() < 90) == (kept.reward.max() == 90)


def test_one_episode_cannot_be_set_aside():
    with pytest.raises(DataError, match="found one episode, expected two or more"):
        from_arrays(**arrays(8, terminal=[7])).split(0.2)
    with pytest.raises(DataError, match="data.holdout needs whole trajectories"):
        treat(from_arrays(**arrays(8)), Treatment(holdout=0.2))


def test_normalized_observations_have_mean_zero_and_unit_deviation_over_the_transitions():
    raw = arrays(60, terminal=[9], timeout=[30, 59])
    raw["obs"] = raw["obs"] * [1e3, 1, 0] + [5e3, 19, 7]  # the last column is constant
    recorded = from_arrays(**raw)
    data = treat(recorded, Treatment(normalize_obs=True, reward="beyond-19"))
    seen, mean, std = np.asarray(data.transitions.held.obs), *data.obs_statistics
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(seen.std(0), [1, 1, 0], atol=1e-5)
    for view in ("transitions", "steps"):
        before, after = getattr(treat(recorded), view).held, getattr(data, view).held
        for now, was in ((after.obs, before.obs), (after.next_obs, before.next_obs)):
            np.testing.assert_allclose(np.asarray(now) * std + mean, np.asarray(was), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(data.recording.obs, recorded.obs)  # what was recorded stays
    assert treat(recorded).obs_statistics is None
    wrong = (recorded.reward > 0) & ~(recorded.obs[:, :2] > 19).all(1)  # by recorded positions
    assert 0 < wrong.sum() < (recorded.reward > 0).sum()
    np.testing.assert_array_equal(data.held_steps.reward, np.where(wrong, 0, recorded.reward))


def test_actions_are_clipped_only_in_what_training_sees():
    data = treat(from_arrays(**arrays(20)), Treatment(clip_action=0.5))
    assert np.abs(np.asarray(data.transitions.held.action)).max() == 0.5
    assert np.abs(data.recording.action).max() > 0.5


def test_timed_out_transitions_are_kept_with_their_recorded_next_observation():
    raw = arrays(10, terminal=[3], timeout=[7, 9])
    recorded = np.vstack([raw["obs"][1:], np.zeros((1, 3))])
    recorded[[7, 9]] = [[7, 7, 7], [9, 9, 9]]
    data = from_arrays(**raw, next_obs=recorded)
    assert treat(data).transitions.held.obs.shape[0] == 8  # off by default, as D4RL does
    kept = treat(data, Treatment(keep_timeouts=True)).transitions.held
    assert kept.obs.shape[0] == 10
    np.testing.assert_array_equal(np.asarray(kept.next_obs)[[7, 9]], recorded[[7, 9]])
    np.testing.assert_array_equal(np.asarray(kept.next_obs)[:3], np.float32(raw["obs"][1:4]))
    np.testing.assert_array_equal(np.asarray(kept.mask)[[7, 9]], [1, 1])


def test_data_of_cut_rows_alone_can_be_trained_on_by_keeping_them():
    raw = arrays(10, timeout=range(10))
    with pytest.raises(DataError, match="record longer episodes$"):
        treat(from_arrays(**raw))
    data = from_arrays(**raw, next_obs=raw["obs"] + 1)
    with pytest.raises(DataError, match="or train with --set data.keep_timeouts=true$"):
        treat(data)
    batch = treat(data, Treatment(keep_timeouts=True)).all_transitions.take(np.arange(10))
    np.testing.assert_array_equal(batch.next_obs, data.next_obs)


def test_keeping_timeouts_needs_next_observations_that_were_really_recorded():
    raw = arrays(10, timeout=[4, 9])
    with pytest.raises(DataError, match="'next_observations', which was not recorded"):
        treat(from_arrays(**raw), Treatment(keep_timeouts=True))
    shifted = np.vstack([raw["obs"][1:], raw["obs"][-1:]])  # row 4 holds the first row of the next episode
    with pytest.raises(DataError, match=r"next_observations\[4\] at a time-out is a copy"):
        treat(from_arrays(**raw, next_obs=shifted), Treatment(keep_timeouts=True))


def test_a_reward_treatment_is_added_by_its_name(monkeypatch):
    monkeypatch.setattr(treatments, "REWARDS", treatments.REWARDS.copy())
    own = treatments.RewardTreatment("the reward, halved", treatments.affine(0.5))
    treatments.register_reward("halved", own)
    np.testing.assert_array_equal(reward_of({"reward": "halved"}, rows=3, reward=[2.0, 4.0, 6.0]), np.float32([1, 2, 3]))
    with pytest.raises(ConfigError, match="'halved' is there already"):
        treatments.register_reward("halved", own)


def test_unknown_reward_treatments_are_answered_with_the_closest():
    said = "unknown choice 'return-rang'; did you mean 'return-range'?"
    with pytest.raises(ConfigError, match=f"data.reward: {said}"):
        config.assign(SRPO(), "data.reward", "return-rang")
    with pytest.raises(ConfigError, match=f"data.reward: {said}"):
        treat(from_arrays(**arrays(10)), Treatment(reward="return-rang"))
    assert "minus-one: r - 1; four-centered" in config.lookup(SRPO(), "data.reward").meaning


def test_next_actions_are_those_of_the_rows_that_follow_within_an_episode():
    raw = arrays(12, terminal=[4], timeout=[8])
    raw["next_obs"] = raw["obs"] + 1  # recorded, so that time-outs may be kept
    batch = treat(from_arrays(**raw), Treatment(clip_action=0.5)).sarsa.held
    rows = np.array([0, 1, 2, 3, 4, 5, 6, 7, 9, 10])
    np.testing.assert_array_equal(batch.next_action, np.clip(raw["action"][rows + 1], -0.5, 0.5).astype(np.float32))
    np.testing.assert_array_equal(batch.obs, raw["obs"][rows].astype(np.float32))
    with pytest.raises(DataError, match="no action was recorded after a time-out"):
        _ = treat(from_arrays(**raw), Treatment(keep_timeouts=True)).sarsa


def test_a_recording_gives_what_training_sees_of_it():
    n = 40
    data = from_arrays(np.zeros((n, 2)), np.zeros((n, 1)), np.arange(n, dtype=float), np.arange(n) % 10 == 9)
    treatment = Treatment(reward="minus-one")
    np.testing.assert_array_equal(data.treated(treatment).transitions.reward, treat(data, treatment).transitions.reward)
