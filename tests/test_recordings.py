"""Whatever the layout of a recording: either training sees exactly the transitions that happened, or one line refuses it.

Recordings are generated as they happened, step by step, and then written as different tools write them.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srpo.data import DataError, from_arrays, load_dataset
from srpo.data.checks import FIELDS
from srpo.data.info import warnings_about
from srpo.data.treated import treat

OBS, ACT = 3, 2


class Happened:
    """Episodes as they were lived: T + 1 observations, T actions and rewards, and how each ended."""

    def __init__(self, episodes, seed):
        rng = np.random.default_rng(seed)
        self.episodes = [
            (
                rng.normal(size=(length + 1, OBS)).astype(np.float32),
                np.append(np.tanh(rng.normal(size=(length - 1, ACT))), [[1.0, -1.0]], 0).astype(np.float32),
                rng.normal(size=length).astype(np.float32),
                end,
            )
            for length, end in episodes
        ]

    def rows(self):
        """In D4RL's layout."""
        obs, action, reward, ends = zip(*self.episodes, strict=True)
        last = [np.arange(len(r)) == len(r) - 1 for r in reward]
        flag = {kind: np.concatenate([x & (e == kind) for x, e in zip(last, ends, strict=True)]) for kind in ("end", "cut")}
        return {
            "obs": np.concatenate([x[:-1] for x in obs]),
            "action": np.concatenate(action),
            "reward": np.concatenate(reward),
            "terminal": flag["end"],
            "timeout": flag["cut"],
            "next_obs": np.concatenate([x[1:] for x in obs]),
        }

    def transitions(self):
        """What a learner may see: all steps but those after which nothing comes in the recording."""
        out = []
        for obs, action, reward, end in self.episodes:
            for i in range(len(reward)):
                final = i == len(reward) - 1
                if not final or end == "end":
                    out.append((obs[i], action[i], reward[i], None if final else obs[i + 1]))
        return out


EPISODES = st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["end", "cut"])), min_size=2, max_size=7)
HAPPENED = st.builds(Happened, EPISODES.filter(lambda e: sum(n for n, _ in e) > len(e)), st.integers(0, 99))


def without(fields, *names):
    return {key: x for key, x in fields.items() if key not in names}


def columns(fields):
    """Flags and rewards as (N, 1), as Stable-Baselines3 and robomimic may store them."""
    return {key: x[:, None] if x.ndim == 1 else x for key, x in fields.items()}


def nan_after_the_end(fields):
    """TorchRL's compact buffers."""
    end = (fields["terminal"] | fields["timeout"])[:, None]
    return fields | {"next_obs": np.where(end, np.nan, fields["next_obs"])}


def doubly_marked(fields):
    """d3rlpy, and everybody who marks the last step of each episode in both fields."""
    return fields | {"timeout": fields["timeout"] | fields["terminal"]}


EXACT = {  # layouts that must be read rightly
    "D4RL": lambda f: f,
    "no next observations": lambda f: without(f, "next_obs"),
    "columns": columns,
    "double precision": lambda f: {k: x.astype(np.float64) for k, x in f.items()},
    "lists": lambda f: {k: x.tolist() for k, x in without(f, "next_obs").items()},
    "masked arrays with nothing masked": lambda f: {k: np.ma.masked_array(x) for k, x in f.items()},
    "both flags at the end": doubly_marked,
    "NaN after the end": nan_after_the_end,
    "no timeouts, but next observations": lambda f: without(f, "timeout"),
}


def seen(data):
    """The transitions that training sees, in recorded units."""
    table = treat(data, on_device=False).all_transitions
    batch = table.take(np.arange(len(table)))
    action = np.asarray(batch.action) if data.action_range is None else data.action_range.recorded(np.asarray(batch.action))
    obs, following = (np.asarray(x) + (0 if data.obs_offset is None else data.obs_offset) for x in (batch.obs, batch.next_obs))
    return zip(obs, action, np.asarray(batch.reward), following, np.asarray(batch.mask), strict=True)


def assert_exact(data, happened, tolerance=0.0):
    found, wanted = list(seen(data)), happened.transitions()
    assert len(found) == len(wanted)
    for (obs, action, reward, following, mask), (o, a, r, n) in zip(found, wanted, strict=True):
        assert reward == r and mask == (n is not None)
        np.testing.assert_allclose(obs, o, rtol=0, atol=tolerance)
        np.testing.assert_allclose(action, a, rtol=0, atol=1e-6)
        if n is not None:
            np.testing.assert_allclose(following, n, rtol=0, atol=tolerance)


@pytest.mark.parametrize("layout", EXACT)
@settings(max_examples=15, deadline=None)
@given(happened=HAPPENED)
def test_the_transitions_are_exactly_those_that_happened(layout, happened):
    fields = EXACT[layout](happened.rows())
    if layout == "no timeouts, but next observations" and happened.episodes[-1][3] == "cut":
        happened.episodes[-1] = (*happened.episodes[-1][:3], "open")  # the end of the data is no time-out
    assert_exact(from_arrays(**fields), happened)


@pytest.mark.parametrize("name", ["truncations", "truncateds", "truncated", "episode_terminals", "dones"])
@settings(max_examples=10, deadline=None)
@given(happened=HAPPENED)
def test_ends_under_other_names_are_found_and_said(tmp_path_factory, name, happened):
    rows = happened.rows()
    flag = rows.pop("timeout") | (rows["terminal"] if name in ("episode_terminals", "dones") else False)
    path = tmp_path_factory.mktemp("ends") / "logs.npz"
    np.savez(path, **{FIELDS[key]: x for key, x in without(rows, "next_obs").items()}, **{name: flag})
    data = load_dataset(path)
    assert_exact(data, happened)
    assert sum(name in line for line in warnings_about(data)) == 1


@settings(max_examples=15, deadline=None)
@given(happened=HAPPENED.filter(lambda h: len(h.episodes) >= 3), extra=st.integers(0, 9))
def test_rows_that_only_reset_are_left_out(happened, extra):
    """Gymnasium's vector environments (NEXT_STEP): after each end one more row, whose action did nothing."""
    rng, parts = np.random.default_rng(extra), []
    episodes = happened.episodes
    for (obs, action, reward, end), following in zip(episodes, [*episodes[1:], None], strict=True):
        last = np.arange(len(reward)) == len(reward) - 1
        parts.append((obs[:-1], action, reward, last & (end == "end"), last & (end == "cut"), obs[1:]))
        if following is not None:
            idle = np.tanh(rng.normal(size=(1, ACT))).astype(np.float32)
            parts.append((obs[-1:], idle, np.zeros(1, np.float32), [False], [False], following[0][:1]))
    fields = dict(zip(FIELDS, map(np.concatenate, zip(*parts, strict=True)), strict=True))
    data = from_arrays(**fields)
    assert_exact(data, happened)
    assert any("autoreset" in line for line in warnings_about(data))


def refusal(**fields):
    with pytest.raises(DataError) as caught:
        from_arrays(**fields)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 450
    for harmful in ("flatten", "cut the longer", "delete"):
        assert harmful not in message
    return message


@settings(max_examples=15, deadline=None)
@given(happened=HAPPENED, envs=st.integers(2, 5), rank=st.booleans())
def test_environments_side_by_side_are_refused_with_the_right_conversion(happened, envs, rank):
    """And the conversion that the message names is right."""
    rows = without(happened.rows(), "next_obs")
    rows["timeout"][-1] |= not rows["terminal"][-1]
    n = len(rows["obs"])
    if n < envs:
        return
    beside = {key: np.stack([x] * envs, axis=1) for key, x in rows.items()}
    message = refusal(**beside)
    assert f"{envs} environments side by side" in message and "swapaxes(0, 1)" in message
    mended = {key: x.swapaxes(0, 1).reshape(n * envs, *x.shape[2:]) for key, x in beside.items()}
    happened.episodes = happened.episodes * envs
    assert_exact(from_arrays(**mended), happened)


@settings(max_examples=15, deadline=None)
@given(happened=HAPPENED.filter(lambda h: len(h.rows()["obs"]) > OBS), flat=st.booleans())
def test_transposed_arrays_are_refused(happened, flat):
    rows = without(happened.rows(), "next_obs")
    turned = {key: x.T if x.ndim == 2 or flat else x[None] for key, x in rows.items()}
    assert "transposed" in refusal(**turned)


@settings(max_examples=15, deadline=None)
@given(happened=HAPPENED)
def test_one_more_observation_per_episode_is_refused_and_named(happened):
    rows = without(happened.rows(), "next_obs")
    rows["timeout"][-1] |= not rows["terminal"][-1]
    rows["obs"] = np.concatenate([obs for obs, *_ in happened.episodes])
    assert "one more observation per episode" in refusal(**rows)


@settings(max_examples=15, deadline=None)
@given(happened=HAPPENED, field=st.sampled_from(["action", "reward", "terminal"]), lost=st.integers(1, 3))
def test_fields_that_broke_off_are_not_paired(happened, field, lost):
    rows = without(happened.rows(), "next_obs")
    rows[field] = rows[field][: max(len(rows[field]) - lost, 1)]
    assert "find out which rows are missing" in (text := refusal(**rows)) or "transposed" in text or "one more" in text


@settings(max_examples=15, deadline=None)
@given(happened=HAPPENED, offset=st.sampled_from([1e4, -3e5, 1.7e9]), at=st.integers(0, OBS - 1))
def test_large_offsets_are_taken_off_in_double_precision(happened, offset, at):
    """What is left is as precise as if the offset had never been there."""
    shift = np.zeros(OBS)
    shift[at] = offset
    rows = happened.rows()
    moved = rows | {key: rows[key].astype(np.float64) + shift for key in ("obs", "next_obs")}
    data, plain = from_arrays(**moved), from_arrays(**rows)
    if data.obs_offset is None:  # a column that does not move at all
        return
    np.testing.assert_allclose(data.obs + (data.obs_offset.astype(np.float64) - shift), plain.obs, atol=2e-6)
    assert any("large beside how they vary" in line for line in warnings_about(data))
    assert any("float32 can hold" in line for line in warnings_about(data)) or offset < 1e9


def test_an_array_that_the_caller_reuses_changes_nothing():
    rows = Happened([(9, "end"), (5, "cut")], 0).rows()
    data = from_arrays(**rows)
    before = data.obs.copy()
    for array in rows.values():
        array[:] = 0
    np.testing.assert_array_equal(data.obs, before)


def test_masked_entries_are_refused():
    rows = Happened([(9, "end"), (5, "cut")], 0).rows()
    rows["obs"] = np.ma.masked_array(rows["obs"], np.arange(14 * OBS).reshape(14, OBS) == 7)
    assert "1 masked entries" in refusal(**rows)


def test_nan_inside_an_episode_is_refused_and_at_its_end_accepted():
    rows = Happened([(9, "end"), (5, "cut")], 0).rows()
    rows["next_obs"][4] = np.nan
    assert "next_obs[4] is NaN in the middle of an episode; leave the field out" in refusal(**rows)


@pytest.mark.parametrize("kind", ["?", "<f2", ">f2", ">f4", ">f8", "i1", "u1", ">i8"])
def test_numbers_of_any_type_are_read_alike_and_without_a_word(kind, recwarn):
    """Whole numbers that are 0 or 1; ends are found by next observations, which are subtracted."""
    rows = without(Happened([(9, "end"), (15, "cut"), (8, "cut"), (12, "end")], 0).rows(), "timeout")
    single = {key: (x > 0).astype(np.float32) for key, x in rows.items()}
    data, wanted = (from_arrays(**{key: x.astype(t) for key, x in single.items()}) for t in (kind, np.float32))
    for key in ("obs", "action", "reward", "terminal", "timeout", "next_obs"):
        np.testing.assert_array_equal(getattr(data, key), getattr(wanted, key))
    assert data.obs.dtype == data.action.dtype == np.float32 and data.timeout.dtype == bool and data.timeout.any()
    assert data.notes == wanted.notes and not recwarn.list


SCALES = [1e-12, 1e-7, 1.0, 1e5, 1e9]
PRECISIONS = [(a, b) for a in (np.float32, np.float64) for b in (np.float32, np.float64)]


@pytest.mark.parametrize("obs, following", PRECISIONS)
@settings(max_examples=15, deadline=None)
@given(
    happened=HAPPENED.filter(lambda h: len(h.rows()["obs"]) > len(h.episodes) + 1),
    scale=st.sampled_from(SCALES),
    offset=st.sampled_from([0.0, 1e3]),
)
def test_cuts_are_found_in_any_units_and_precision(obs, following, happened, scale, offset):
    """By what is taken as a time-out without the field, and by what is doubted with an empty one."""
    rows = happened.rows()
    apart = rows["timeout"].copy()
    apart[-1] = False  # the end of the data is no time-out
    moved = {key: (rows[key].astype(np.float64) + offset) * scale / 3 for key in ("obs", "next_obs")}
    fields = without(rows, "timeout") | {"obs": moved["obs"].astype(obs), "next_obs": moved["next_obs"].astype(following)}
    np.testing.assert_array_equal(from_arrays(**fields).timeout, apart)
    doubts = [
        line for line in warnings_about(from_arrays(**fields, timeout=np.zeros(len(apart), bool))) if "time-outs miss" in line
    ]
    assert len(doubts) == apart.any() and all(f"in {apart.sum()} rows" in line for line in doubts)


def lines(**changes):
    rng = np.random.default_rng(0)
    n = 400
    fields = dict(obs=rng.normal(size=(n, OBS)), action=np.tanh(rng.normal(size=(n, ACT))), reward=rng.normal(size=n))
    fields |= dict(terminal=np.isin(np.arange(n), (70, 130, 222, 300)), timeout=np.isin(np.arange(n), (180, 399)))
    return warnings_about(from_arrays(**fields | changes))


SAID = {
    "time limit": dict(terminal=np.arange(400) % 50 == 49, timeout=np.zeros(400, bool)),
    "rows are time-outs, and hold 100 % of the reward": dict(
        terminal=np.zeros(400, bool), timeout=np.arange(400) % 57 == 56, reward=(np.arange(400) % 57 == 56) * 1.0
    ),
    "nearly equal": dict(reward=np.full(400, -1000.0), terminal=np.arange(400) % 50 == 49) | dict(timeout=np.zeros(400, bool)),
    "train with --set data.reward=standardize, or subtract it": dict(reward=-1e3 + 1e-3 * np.arange(400)),
    "rewards are more than float32 can hold": dict(reward=1e9 + np.arange(400) % 7),
    "resets of a vector environment": dict(reward=np.where(np.isin(np.arange(400), (71, 131, 181, 223, 301)), 0.0, 1.5)),
    "those of 4 environments in turn": dict(
        obs=np.stack([np.sin(np.arange(400) // 4 / 9 + 2 * (np.arange(400) % 4) + k) for k in range(OBS)], 1)
    ),
    "both terminal and time-out": dict(timeout=np.isin(np.arange(400), (70, 180))),
}


@pytest.mark.parametrize("text", SAID)
def test_what_may_be_wrong_is_said(text):
    if text == "nearly equal":
        SAID[text]["reward"] = -1000 + 1e-3 * np.random.default_rng(0).normal(size=400)
    assert any(text in line for line in lines(**SAID[text])), lines(**SAID[text])


def test_nothing_is_said_of_good_data():
    assert lines() == []


def test_rows_of_transitions_are_used_as_an_array():
    rows = Happened([(4, "end"), (3, "cut"), (5, "end")], 0).rows()
    data = from_arrays(**rows)
    wanted = [i for i in range(12) if i != 6]
    assert data.transition_rows.tolist() == list(data.transition_rows) == wanted
    np.testing.assert_array_equal(data.reward[data.transition_rows], rows["reward"][wanted])
