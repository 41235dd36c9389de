"""The benchmark that feeds the authors' TD3+BC with our start, rows and noise: with stand-ins for their classes, and without PyTorch."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import srpo

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import authors_follow

TD3_BC = """
import numpy as np

class Tensor:
    def __init__(self, x): self.x = x
    def copy_(self, other): self.x[:] = other
    def cpu(self): return self
    def numpy(self): return self.x

class torch:
    as_tensor = np.asarray
    randn_like = "theirs"
    set_num_threads = int

class Optimizer:
    def __init__(self): self.param_groups = [{"lr": 3e-4}]

class Net:
    def __init__(self, *sizes):
        self.own = {(i, k): Tensor(np.zeros(s, np.float32)) for i, pair in enumerate(sizes) for k, s in (("w", pair), ("b", pair[:1]))}
    def state_dict(self): return self.own

LOG = []

class TD3_BC:
    def __init__(self, obs, act, most, alpha):
        q, policy = ((8, obs + act), (1, 8)), ((8, obs), (act, 8))
        self.critic, self.critic_target, self.actor, self.actor_target = Net(*q, *q), Net(*q, *q), Net(*policy), Net(*policy)
        self.actor_optimizer, self.critic_optimizer = Optimizer(), Optimizer()
    def train(self, memory, size):
        LOG.append((memory.sample(size), torch.randn_like(None), self.actor_optimizer.param_groups[0]["lr"], self.actor_target.own[0, "w"].x))
"""
UTILS = """
class ReplayBuffer:
    def __init__(self, obs, act): pass
    def convert_D4RL(self, rows):
        self.state, self.action, self.next_state = rows["observations"], rows["actions"], rows["next_observations"]
        self.reward, self.not_done = rows["rewards"][:, None], 1 - rows["terminals"][:, None]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    data = srpo.load_dataset("hopper-medium-expert-mini")
    sizes = {"policy.hidden": (8,), "policy.batch_size": 16, "policy.steps": 4, "policy.lr": 0.01}
    algorithm = srpo.configure("td3-bc", data, "authors-code", **sizes)
    return srpo.train(algorithm, data, out=tmp_path_factory.mktemp("run") / "run", eval_every=0, quiet=True)


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "TD3_BC.py").write_text(TD3_BC)
    (tmp_path / "utils.py").write_text(UTILS)
    return tmp_path


def test_theirs_has_our_start_and_is_handed_what_ours_draws(run, checkout):
    data = srpo.load_dataset("hopper-medium-expert-mini")
    ours, rows = authors_follow.Ours(run, data), authors_follow.transitions_of(data)
    with authors_follow.code(checkout, {}) as module:
        start, normalized = ours.weights(), ours.normalized(rows)
        theirs = authors_follow.Theirs(module, start, normalized, {"policy.alpha": 2.5, "policy.lr": 0.01})
        assert [authors_follow.distance(theirs.weights()[name], start[name]) for name in ("Q", "policy")] == [0.0, 0.0]
        drawn, noise = map(np.asarray, ours.draw(jnp.int32(3)))
        theirs.step(drawn, noise)
        (batch, seen, lr, target), *more = module("TD3_BC").LOG
    assert not more and lr == 0.01 and len(drawn) == 16
    np.testing.assert_array_equal(seen, noise)
    np.testing.assert_array_equal(target, start["policy"][0])
    np.testing.assert_array_equal(batch[0], normalized["observations"][drawn])
    np.testing.assert_array_equal(batch[1], rows["actions"][drawn])
    np.testing.assert_allclose(normalized["observations"].mean(0), 0, atol=1e-3)


def test_a_training_of_ours_goes_as_the_run_did(run):
    data = srpo.load_dataset("hopper-medium-expert-mini")
    ours, shaken = authors_follow.Ours(run, data), authors_follow.Ours(run, data, 1e-4)
    begun = authors_follow.distance(shaken.weights()["policy"], ours.weights()["policy"])
    assert begun == pytest.approx(1e-4, rel=0.2)
    ours.train(1)
    ours.train(4)
    trained = authors_follow.arrays(run.policy(0).actor.net.layers)
    assert authors_follow.distance(ours.weights()["policy"], trained) < 1e-5


def test_by_command(run, checkout, capfd):
    task = ["--task", "hopper-medium-expert-v2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(authors_follow, "settings_of", lambda run, task: {"policy.alpha": 2.5, "policy.lr": 0.01})
        assert authors_follow.main([str(run.path), "--code", str(checkout), *task, "--steps", "2"]) == 0
    head, *lines = capfd.readouterr().out.splitlines()
    assert head.startswith("step   theirs: Q") and [line.split()[0] for line in lines] == ["1", "2"]
    first, second = ([float(x) for x in line.split()[1:]] for line in lines)
    assert first[0] > 1e-3 and second[1] > 1e-3  # the stand-in does not learn
    assert first[2] < 1e-4 and first[3] < 1e-6  # and ours does what it did


def test_another_system_is_refused(checkout, monkeypatch, capfd):
    monkeypatch.setattr(srpo, "load_run", lambda path: SimpleNamespace(path=path, info={"algorithm": "iql"}))
    assert authors_follow.main(["RUN", "--code", str(checkout), "--task", "hopper-medium-v2"]) == 2
    assert "RUN: found iql, expected td3-bc" in capfd.readouterr().err
