"""OGBench's files, in their real layout: the last state of a trajectory is a next observation, never a transition."""

import numpy as np
import pytest

from srpo.data import DataError, load_dataset

STATES = np.arange(18.0).reshape(9, 2)  # of two trajectories, of 5 and 4 states
LAST = np.isin(np.arange(9), [4, 8])


def stored(**changes):
    rng = np.random.default_rng(0)
    base = {
        "observations": STATES.astype(np.float32),
        "actions": rng.uniform(-1, 1, (9, 2)).astype(np.float32),
        "terminals": LAST,
        "qpos": np.zeros((9, 15)),
    }
    return {k: v for k, v in (base | changes).items() if v is not None}


def goal(obs, action, next_obs):
    return -np.linalg.norm(next_obs - STATES[3], axis=1)


def test_a_downloaded_file(tmp_path):
    np.savez(tmp_path / "play.npz", **stored())
    data = load_dataset(tmp_path / "play.npz", reward=goal)
    np.testing.assert_array_equal(data.obs, STATES[~LAST])
    np.testing.assert_array_equal(data.next_obs, STATES[[1, 2, 3, 4, 6, 7, 8]])
    assert np.flatnonzero(data.timeout).tolist() == [3, 6] and not data.terminal.any()
    np.testing.assert_allclose(data.reward, goal(None, None, data.next_obs), rtol=1e-6)
    assert any("qpos" in note for note in data.notes)
    assert any("taken as OGBench's: terminals marks where a trajectory was cut" in note for note in data.notes)
    with pytest.raises(DataError, match="no reward is recorded; .*--reward module:function"):
        load_dataset(tmp_path / "play.npz")


SOLVED = np.array([1, 1, 0, 1, 1, 1, 0.0])


@pytest.mark.parametrize("compact", [False, True])
def test_a_singletask_set_as_its_loader_hands_it_out(tmp_path, compact):
    """Solved where masks is zero; terminals is the last transition, not an end by itself."""
    reward = np.where(SOLVED == 0, 0.0, -1.0)
    if compact:
        full = np.zeros(9)
        full[~LAST] = reward
        masks = np.ones(9)
        masks[~LAST] = SOLVED
        ends = LAST | np.append(LAST[1:], True)
        found = stored(rewards=full, masks=masks, valids=1.0 - LAST, terminals=ends.astype(np.float32))
    else:
        found = {key: value[~LAST] for key, value in stored(terminals=np.append(LAST[1:], True), qpos=None).items()}
        found |= {"next_observations": STATES[[1, 2, 3, 4, 6, 7, 8]], "rewards": reward, "masks": SOLVED}
    np.savez(tmp_path / "single.npz", **found)
    data = load_dataset(tmp_path / "single.npz")
    np.testing.assert_array_equal(data.obs, STATES[~LAST])
    np.testing.assert_array_equal(data.next_obs, STATES[[1, 2, 3, 4, 6, 7, 8]])
    np.testing.assert_array_equal(data.reward, reward)
    assert np.flatnonzero(data.terminal).tolist() == [2, 6] and np.flatnonzero(data.timeout).tolist() == [3]


EXTRA = {"qpos": np.zeros((9, 15)), "valids": np.ones(9), "masks": 1.0 - LAST, "truncations": np.zeros(9)}
EXTRA["next_observations"] = np.concatenate([STATES[1:], STATES[-1:]])


@pytest.mark.parametrize(
    "extra",
    [["qpos"], ["valids"], ["masks"], ["next_observations", "qpos"], ["qpos", "masks"], ["masks", "valids", "truncations"]],
)
def test_a_file_in_d4rls_layout_with_arrays_of_these_names_keeps_its_terminals(tmp_path, extra):
    """OGBench writes rewards with masks and what follows alone, and never time-outs."""
    found = stored(qpos=None, rewards=LAST) | {name: EXTRA[name] for name in extra}
    np.savez(tmp_path / "robot.npz", **found)
    data = load_dataset(tmp_path / "robot.npz")
    np.testing.assert_array_equal(data.obs, STATES)
    np.testing.assert_array_equal(data.terminal, LAST)
    np.testing.assert_array_equal(data.reward, LAST)
    assert not data.timeout.any() and not any("OGBench" in note for note in data.notes)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"actions": np.zeros((8, 2))}, r"actions has shape \(8, 2\), expected 9 rows"),
        ({"terminals": np.zeros(9)}, "the last row ends no trajectory"),
        ({"actions": None}, "field 'actions' is missing"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, changes, said):
    np.savez(tmp_path / "a.npz", **stored(**changes))
    with pytest.raises(DataError, match=said) as found:
        load_dataset(tmp_path / "a.npz", reward=goal)
    assert "\n" not in str(found.value)
