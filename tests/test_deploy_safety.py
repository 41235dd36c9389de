"""The guard around a policy: what it notices, what it does then, and what it cannot notice."""

import numpy as np
import pytest
from deploy_cases import ACT, DATA, OBS, POLICIES

from srpo.core import Frozen
from srpo.deploy import DeployError, Policy, SafePolicy, Support, export_policy
from srpo.runs.units import InUnits


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("safe") / "policy.safetensors"
    export_policy(POLICIES["bc"], path, data=DATA, calls=0)
    return Policy(path)


def test_distance_of_a_gaussian():
    """The squared distance of Gaussian data is chi-squared: mean n, and the quantile is that of the table."""
    rows = np.random.default_rng(0).normal([3, -1, 0], [1, 5, 0.1], (200_000, 3))
    support = Support.of(rows, quantile=0.99)
    assert np.mean(support.distance(rows) ** 2) == pytest.approx(3, rel=0.03)
    assert support.limit**2 == pytest.approx(11.345, rel=0.03)  # chi-squared, 3 degrees of freedom, 0.99
    fresh = np.random.default_rng(1).normal([3, -1, 0], [1, 5, 0.1], (20_000, 3))
    assert np.mean(support.distance(fresh) > support.limit) == pytest.approx(0.01, abs=0.003)


@pytest.mark.parametrize("n, signals", [(120, 150), (400, 60), (3000, 5)])
def test_few_rows_of_many_signals_do_not_make_everything_new_look_far(n, signals):
    rng = np.random.default_rng(0)
    support = Support.of(rng.normal(size=(n, signals)).astype(np.float32))
    refused = np.mean([support.complaint(x) is not None for x in rng.normal(size=(300, signals)).astype(np.float32)])
    assert refused <= 0.03
    assert support.complaint(np.full(signals, 30, np.float32)) is not None


def test_what_is_noticed(policy):
    support, mean = policy.support, policy.support.mean
    assert support.complaint(mean) is None
    assert sum(support.complaint(row) is not None for row in DATA) == pytest.approx(0.001 * len(DATA), abs=1)
    apart = mean.copy()  # each signal within its range, but not as the two go together
    apart[1] += 5
    apart[16] -= 5
    assert (support.low < apart).all() and (apart < support.high).all() and "distance" in support.complaint(apart)
    outside = mean.copy()
    outside[2] = 100
    assert "obs[2] = 100 is outside" in support.complaint(outside)
    outside[2] = np.nan
    assert support.complaint(outside) == "obs[2] is nan"


def test_constant_signals_stay_usable():
    rows = DATA[:, :3].copy()
    rows[:, 1] = 7
    support = Support.of(rows)
    assert support.complaint(rows[0]) is None and np.isfinite(support.limit)
    assert support.complaint(rows[0] + np.array([0, 1, 0], np.float32)) is not None


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e4])
def test_units_do_not_matter(unit):
    """Two signals that go together; one point within both ranges, but far from what goes together."""
    x = np.random.default_rng(0).normal(size=(5000, 1))
    rows = np.concatenate([x, x + 0.1 * np.random.default_rng(1).normal(size=(5000, 1))], 1)
    support = Support.of((unit * rows).astype(np.float32))
    assert support.distance(unit * np.array([1.0, -1.0])) > 3 * support.limit
    assert support.complaint((unit * np.array([1.0, 1.0])).astype(np.float32)) is None


def test_what_cannot_be_noticed():
    """Between two groups of data there is none, but one ellipsoid holds both: docs/deployment.md says so."""
    rng = np.random.default_rng(0)
    groups = rng.normal(0, 0.1, (2000, 2)) + rng.choice([-5, 5], (2000, 1))
    assert Support.of(groups).complaint(np.zeros(2, np.float32)) is None


def test_near_the_data_the_policy_acts(policy):
    safe = SafePolicy(policy)
    np.testing.assert_array_equal(safe.act(DATA[0]), policy.act(DATA[0]))
    assert safe.reason is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_far_from_the_data_the_fallback_acts(policy, bad):
    obs = DATA[0].astype(np.float64)
    obs[4] = bad
    held = np.full(ACT, 0.25)
    safe = SafePolicy(policy, fallback=held)
    held += 1  # theirs again
    np.testing.assert_array_equal(safe.act(obs), np.full(ACT, 0.25))
    assert safe.reason.startswith("obs[4]")
    brake = SafePolicy(policy, fallback=lambda obs: np.nan_to_num(-0.1 * obs[:ACT]))
    np.testing.assert_allclose(brake.act(obs), np.clip(np.nan_to_num(-0.1 * np.float32(obs[:ACT])), -1, 1))
    beyond = SafePolicy(policy, fallback=lambda obs: np.full(ACT, 3.0))
    np.testing.assert_array_equal(beyond.act(obs), np.ones(ACT))  # what a function gives is clamped


def test_actions_change_slowly(policy):
    most = np.full(ACT, 0.05)
    safe = SafePolicy(policy, max_change=most, fallback=np.ones(ACT))
    most += 1  # theirs again
    safe.reset(np.zeros(ACT))
    far = np.full(OBS, 1e6)
    actions = np.array([np.zeros(ACT)] + [safe.act(obs) for obs in (*DATA[:20], far, far, *DATA[20:40])])
    assert np.abs(np.diff(actions, axis=0)).max() <= 0.05 + 1e-6
    assert np.abs(np.diff([policy.act(row) for row in DATA[:20]], axis=0)).max() > 0.05


def test_actions_are_the_callers_own(policy):
    """Changing one in place does not move what the next change is measured against."""
    safe = SafePolicy(policy, max_change=0.05)
    safe.reset(np.zeros(ACT))
    before = np.zeros(ACT)
    for obs in (*DATA[:20], np.full(OBS, 1e6)):
        action = safe.act(obs)
        assert np.abs(action - before).max() <= 0.05 + 1e-6
        before = action.copy()
        action *= 20


def test_the_first_action_is_near_what_the_actuators_hold(policy):
    safe = SafePolicy(policy, max_change=0.1)
    safe.reset(np.full(ACT, 5.0))  # a measurement may lie beyond the bounds: the actions may not
    assert (safe.act(DATA[0]) >= 0.9 - 1e-6).all() and (safe.act(DATA[0]) <= 1).all()
    for action in (np.full(ACT, np.nan), np.zeros(ACT + 1)):
        with pytest.raises(DeployError, match="reset was given"):
            safe.reset(action)
    changes = (-0.1, np.nan, np.ones(ACT + 1), "fast", [[1.0], [1.0, 2.0]])
    for limits in (*({"max_change": change} for change in changes), *({"hold": hold} for hold in (-1, np.nan, 1.5, "long"))):
        with pytest.raises(DeployError, match="expected"):
            SafePolicy(policy, **limits)


def test_hold_waits_for_a_row_of_fine_observations(policy):
    safe = SafePolicy(policy, hold=2)
    far = np.full(OBS, 1e6)
    used = []
    for obs in (DATA[0], far, DATA[0], far, DATA[0], DATA[0], DATA[0], DATA[0]):
        safe.act(obs)
        used.append(safe.reason is None)
    assert used == [True, False, False, False, False, False, True, True]
    assert safe.reason is None


def test_mistakes_of_the_caller_are_raised(policy, tmp_path):
    safe = SafePolicy(policy)
    for obs in (np.zeros(OBS - 1), np.zeros(OBS, int), np.zeros((1, OBS))):
        with pytest.raises(DeployError):
            safe.act(obs)
    with pytest.raises(DeployError, match="the fall-back gave .* expected 6 finite numbers"):
        SafePolicy(policy, lambda obs: np.full(ACT, np.nan)).act(np.full(OBS, 1e6))
    for fallback in (np.zeros(ACT + 1), 0.0, np.full(ACT, np.nan), np.full(ACT, np.inf), "brake", [[0.0], [0.0, 1.0]]):
        with pytest.raises(DeployError, match="the fall-back is .* expected 6 finite numbers"):
            SafePolicy(policy, fallback)
    for fallback in (np.full(ACT, 3.0), np.eye(ACT)[2] * -1.01):
        with pytest.raises(DeployError, match=r"the fall-back is -?[13.01]+ for action [02], expected -1 to 1; give fallback="):
            SafePolicy(policy, fallback)
    export_policy(
        InUnits(*(Frozen(np.full(ACT, x, np.float32)) for x in (0.5, 3.0)), POLICIES["bc"]),
        tmp_path / "p.safetensors",
        data=DATA,
        calls=0,
    )
    with pytest.raises(DeployError, match=r"the fall-back is 0 for action 0, expected 0\.5 to 3; give fallback="):
        SafePolicy(Policy(tmp_path / "p.safetensors"))  # nobody said what is safe where zero is out of bounds
    export_policy(POLICIES["bc"], tmp_path / "bare.safetensors", calls=0)
    with pytest.raises(DeployError, match="no statistics of the data"):
        SafePolicy(Policy(tmp_path / "bare.safetensors"))
