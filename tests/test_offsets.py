"""Columns that are large beside how they vary: their offset, from the recording to the policy and to the exported file."""

import json

import jax
import numpy as np
import pytest

import srpo
from srpo.data import from_arrays
from srpo.deploy import DeployError, Policy, export_policy, export_run
from srpo.runs.run import load_run

N = 400
RNG = np.random.default_rng(0)
Z, ACTION = RNG.normal(size=(N, 3)), RNG.uniform(-0.9, 0.9, (N, 2))
SMALL = {"steps": 20, "batch_size": 16, "hidden": (8,)}


def trained(path, algorithm, mean, deviation, **changes):
    """A run on data whose first column is `mean` +- `deviation`, and the recorded observations in double precision."""
    obs = Z * np.array([deviation, 1, 1]) + np.array([mean, 0, 0])
    end = np.arange(N) % 20 == 19
    data = from_arrays(obs, ACTION, RNG.normal(size=N), np.zeros(N, bool), end)
    assert data.obs_offset is not None
    stages = srpo.configure(algorithm, data).stages
    small = {f"{stage}.{key}": value for stage in stages for key, value in SMALL.items()}
    return srpo.train(srpo.configure(algorithm, data, **small, **changes), data, out=path, quiet=True), obs


@pytest.fixture(scope="module")
def stamped(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("stamped") / "run", "bc", 1.7e9, 3.0)


def test_whatever_holds_observations_they_are_read_in_double_precision(stamped):
    run, obs = stamped
    policy = run.policy()
    network, offset = policy.policy, np.asarray(policy.normalizer.mean.value, np.float64)
    wanted = np.asarray(network.act(jax.device_put((obs[0] - offset).astype(np.float32))))
    assert np.abs(np.asarray(network.act(jax.device_put((obs[1] - offset).astype(np.float32)))) - wanted).max() > 1e-3
    for given in (obs[0], obs[0].tolist(), tuple(obs[0]), obs[0].astype(">f8"), memoryview(obs[0]), np.longdouble(obs[0])):
        np.testing.assert_allclose(policy.act(given), wanted, atol=1e-6)
    for many in (obs[:3], obs[:3].tolist(), list(obs[:3])):
        np.testing.assert_allclose(policy.act(many)[0], wanted, atol=1e-6)
    single = obs[0].astype(np.float32)
    for given in (single.astype(">f4"), single.tolist(), jax.device_put(single)):
        np.testing.assert_allclose(policy.act(given), policy.act(single), atol=1e-6)
    for wrong in (obs[0, :1], [1.7e9]):
        with pytest.raises(ValueError, match=r"found an array of shape \(1,\), expected \(..., 3\)"):
            policy.act(wrong)


def test_what_float32_cannot_hold_is_not_exported(stamped, tmp_path):
    run, obs = stamped
    for export in (lambda to: export_run(run, to), lambda to: export_policy(run.policy(), to, data=obs)):
        with pytest.raises(DeployError, match=r"obs\[0\] varies by (2.9|3|3.1) around 1.7e\+09, which float32"):
            export(tmp_path / "policy.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("algorithm", ["bc", "iql"])
def test_what_it_holds_is_exported_whether_the_algorithm_normalizes_or_not(algorithm, normalize, tmp_path):
    run, obs = trained(tmp_path / "run", algorithm, 1e6, 5e3, **{"data.normalize_obs": normalize})
    assert load_run(run.path).info["data"]["obs_deviation"] == pytest.approx(obs.std(0), rel=1e-5)
    export_run(run, tmp_path / "without.safetensors", calls=0)  # its data are not at hand
    export_policy(run.policy(), tmp_path / "with.safetensors", data=obs, calls=0)
    for name in ("without", "with"):
        found = Policy(tmp_path / f"{name}.safetensors").act(obs)
        np.testing.assert_allclose(found, run.policy().act(obs.astype(np.float32)), atol=1e-4)


def test_a_run_that_does_not_know_the_deviation_still_loads(tmp_path):
    run, obs = trained(tmp_path / "run", "bc", 1e6, 5e3)
    file = run.path / "run.json"
    info = json.loads(file.read_text())
    del info["data"]["obs_deviation"]
    file.write_text(json.dumps(info))
    old = load_run(run.path)
    np.testing.assert_array_equal(old.policy().act(obs), run.policy().act(obs))
    export_run(old, tmp_path / "policy.safetensors", calls=0)
