"""Windows of trajectories against slices of the rows."""

import jax
import numpy as np
import pytest

from srpo.data import DataError, from_arrays
from srpo.data.treated import treat
from srpo.data.windows import values_to_go


def recording(lengths=(12, 3, 20), ended=(True, False, False), tail=5):
    """Episodes of the given lengths, and `tail` rows of one more that the data breaks off; the reward counts rows."""
    rows = sum(lengths) + tail
    last = np.cumsum(lengths) - 1
    terminal, timeout = np.zeros(rows, bool), np.zeros(rows, bool)
    terminal[last[list(ended)]] = True
    timeout[last[~np.array(ended)]] = True
    count = np.arange(1.0, rows + 1)
    return from_arrays(np.stack([count, -count], 1), np.stack([count / 100] * 3, 1), count, terminal, timeout)


def test_windows_start_where_diffuser_starts_them():
    data = recording()
    starts = np.asarray(treat(data).windows(4, max_length=1000).held.start)
    np.testing.assert_array_equal(starts, [*range(11), 12, 13, *range(15, 34)])  # length - 1 in each complete episode
    starts = np.asarray(treat(data).windows(4, max_length=10).held.start)
    np.testing.assert_array_equal(starts, [*range(6), 12, 13, *range(15, 21)])  # at most 10 - 4 in each


def test_windows_are_rows_of_one_episode_and_zero_past_its_end():
    data = recording()
    windows = treat(data).windows(6)
    batch = jax.device_get(jax.jit(lambda windows: windows.take(np.arange(windows.n_rows)))(windows))
    for n, (start, stop) in enumerate(zip(np.asarray(windows.held.start), np.asarray(windows.held.stop), strict=True)):
        inside = min(6, stop - start)
        for found, raw in ((batch.obs, data.obs), (batch.action, data.action)):
            np.testing.assert_array_equal(found[n, :inside], raw[start : start + inside])
            assert not found[n, inside:].any()
        np.testing.assert_array_equal(batch.inside[n], np.arange(6) < inside)
        assert batch.index[n] == start


def test_values_are_discounted_sums_to_the_end_of_the_episode():
    data = recording()
    value = np.asarray(treat(data).windows(4, discount=0.9, penalty=100.0).held.value)
    count = data.reward.astype(float).copy()
    count[11] -= 100  # the end of the only episode that really ended
    for start, stop in ((0, 12), (7, 12), (12, 15), (20, 35), (36, 40)):
        expected = sum(0.9**i * count[start + i] for i in range(stop - start))
        np.testing.assert_allclose(value[start], expected, rtol=1e-6)


def test_values_by_hand():
    value = values_to_go(np.array([1.0, 2.0, 4.0]), np.array([[0, 2], [2, 3]]), np.array([True, False]), 0.5, 10.0)
    np.testing.assert_allclose(value, [1 + 0.5 * (2 - 10), 2 - 10, 4])


def test_sampling_reaches_every_window_and_compiles():
    windows = treat(recording()).windows(4)
    sample = jax.jit(lambda w, key: w.take(w.rows(key, 4096)))
    batch = sample(windows, jax.random.key(0))
    assert batch.obs.shape == (4096, 4, 2) and batch.action.shape == (4096, 4, 3) and batch.value.shape == (4096,)
    found, counts = np.unique(np.asarray(batch.index), return_counts=True)
    np.testing.assert_array_equal(found, np.asarray(windows.held.start))
    assert counts.min() > 0.5 * 4096 / windows.n_rows
    assert all(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(windows))


def test_refusals():
    with pytest.raises(DataError, match="training on windows needs whole trajectories"):
        treat(from_arrays(np.ones((9, 2)), np.ones((9, 2)), np.ones(9), np.zeros(9))).windows(4)
    with pytest.raises(DataError, match="no window of 10 rows starts in episodes of at most 20 rows"):
        treat(recording()).windows(10, max_length=10)
