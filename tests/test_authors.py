"""The benchmark that trains the authors' classes: with classes of the same names in the place of theirs, and without PyTorch."""

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import srpo
from srpo.errors import ConfigError
from srpo.suite.budget import Budget, configured

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import authors
import authors_code
import authors_report

TASK = "hopper-medium-replay-v2"
SETTINGS = {"policy.beta": 0.3} | {
    f"{stage}.{what}": value
    for stage, steps in (("critic", 3), ("behavior", 2), ("policy", 4))
    for what, value in (("steps", steps), ("batch_size", 10 * steps), ("lr", steps / 100))
}
SRPO = """
import d4rl, gym, wandb
import numpy as np
from utils import LOG

class Array:
    def __init__(self, x): self.x = x
    def cpu(self): return self
    def numpy(self): return self.x

class Optimizer:
    def __init__(self): self.param_groups = [{"lr": 3e-4}]

class Net:
    def __init__(self, sizes=()):
        pairs = zip(sizes[:-1], sizes[1:])
        self.own = {f"{i}.{k}": Array(np.full(s, 0.1 * (i + 1), np.float32)) for i, (a, b) in enumerate(pairs)
                    for k, s in (("weight", (b, a)), ("bias", (b,)))}
    def state_dict(self): return self.own
    def load_state_dict(self, state): self.own = state
    def to(self, device): return self

class Critic(Net):
    def __init__(self):
        super().__init__((2, 2))
        self.q_optimizer, self.v_optimizer, self.v = Optimizer(), Optimizer(), 0.5
    def update_q0(self, batch): LOG.append(("critic", batch, self.q_optimizer.param_groups[0]["lr"]))

class SRPO_IQL(Net):
    def __init__(self, both, act, args):
        super().__init__()
        self.q = [Critic()]
        self.q[0].own["0.bias"].x += 7

class SRPO_Behavior(Net):
    def __init__(self, both, act, std, args):
        super().__init__()
        self.diffusion_behavior, self.diffusion_optimizer, self.loss = Net((2, 2)), Optimizer(), 0.7
        self.diffusion_behavior.own["0.bias"].x += 5
    def update_behavior(self, batch): LOG.append(("behavior", batch, self.diffusion_optimizer.param_groups[0]["lr"]))

class SRPO(Net):
    def __init__(self, both, act, std, args):
        super().__init__()
        self.args, self.q, self.diffusion_behavior = args, [Critic()], Net((2, 2))
        self.SRPO_policy = Net((both - act, 4, act))
        self.SRPO_policy_optimizer = Optimizer()
        self.SRPO_policy_lr_scheduler = Optimizer()
    def update_SRPO_policy(self, batch):
        given = self.diffusion_behavior.own["0.bias"].x[0], self.q[0].own["0.bias"].x[0], self.args.beta, self.args.n_policy_epochs
        LOG.append(("policy", batch, self.SRPO_policy_optimizer.param_groups[0]["lr"], *given))
"""
UTILS = """
import argparse, sys
import numpy as np
LOG = []

def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--env")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--beta", type=float)
    args = parser.parse_args()
    args.device = "cpu"
    print("chatter")
    return args

def marginal_prob_std(t, device, beta_1): pass

class ReplayBuffer:
    def __init__(self, obs, act): pass
    def convert_D4RL(self, rows): self.obs = rows["observations"]
    def normalize_states(self):
        mean, std = self.obs.mean(0, keepdims=True), self.obs.std(0, keepdims=True)
        self.obs = (self.obs - mean) / std
        return mean, std
    def sample(self, size): return np.full(size, 2.0), np.full(size, 4.0), None
"""
DATASET = """
import d4rl, gym

class D4RL_dataset:
    def __init__(self, args):
        rows = d4rl.qlearning_dataset(gym.make(args.env))
        self.states, self.actions = rows["observations"], rows["actions"]
    def sample(self, size): return size
"""
TD3_BC = """
from SRPO import LOG, Net, Optimizer

class TD3_BC:
    def __init__(self, obs, act, most, alpha):
        self.actor, self.actor_optimizer, self.critic_optimizer = Net((obs, 4, act)), Optimizer(), Optimizer()
    def critic(self, state, action): return state * action, state + action
    def train(self, memory, size): LOG.append((size, memory.obs.mean(), self.critic_optimizer.param_groups[0]["lr"]))
"""


@pytest.fixture
def checkout(tmp_path):
    for name, text in {"SRPO": SRPO, "utils": UTILS, "dataset": DATASET, "TD3_BC": TD3_BC}.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return {"observations": rng.normal(3, 2, (50, 3)), "actions": rng.uniform(-1, 1, (50, 2))}


def test_stages_are_trained_in_order_with_the_settings_and_handed_on(checkout, rows, capsys):
    told: list[tuple] = []

    def curves(stage, step, value):
        told.append((stage, step, value()))

    argv, modules = list(sys.argv), set(sys.modules)
    with authors_code.code(checkout, rows) as module:
        log = module("utils").LOG
        seen = [(step, len(log), weights()) for step, weights in authors_code.train_srpo(module, 5, TASK, SETTINGS, curves)]
    assert [(step, done) for step, done, _ in seen] == [(i, 5 + i) for i in range(1, 5)]  # after each step of the policy
    weights = seen[-1][-1]
    handed = np.float32(0.1) + np.float32(5), np.float32(0.1) + np.float32(7)  # biases of behavior model and critic
    policy = ("policy", 40, 0.04, *handed, 0.3, 4 / 10_000)
    assert log == [("critic", 30, 0.03)] * 3 + [("behavior", 20, 0.02)] * 2 + [policy] * 4
    assert told == [("critic", i, 0.5) for i in range(3)] + [("behavior", i, 0.7) for i in range(2)]
    assert [w.shape for w, _ in weights.layers] == [(4, 3), (2, 4)]
    assert sys.argv == argv and set(sys.modules) == modules and str(checkout) not in sys.path  # as if it had not been
    assert capsys.readouterr().out == ""


def test_td3_bc_learns_from_normalized_observations_and_gives_the_statistics(checkout, rows):
    told: list[tuple] = []
    settings = {"policy.steps": 2, "policy.batch_size": 8, "policy.lr": 0.5, "policy.alpha": 2.5}
    with authors_code.code(checkout, rows) as module:
        trained = authors_code.train_td3_bc(
            module, 0, TASK, settings, lambda stage, step, value: told.append((stage, step, value()))
        )
        seen = [(step, weights()) for step, weights in trained]
        log = module("utils").LOG
    weights = seen[-1][-1]
    assert [step for step, _ in seen] == [1, 2]
    assert told == [("policy", 0, 7.0), ("policy", 1, 7.0)]  # the mean of 8 and 6, what the heads say of the data
    assert log == [(8, pytest.approx(0, abs=1e-6), 0.5)] * 2
    np.testing.assert_allclose(weights.mean, rows["observations"].mean(0, keepdims=True))
    np.testing.assert_allclose(weights.std, rows["observations"].std(0, keepdims=True))


def test_a_policy_with_their_weights_acts_as_theirs():
    rng = np.random.default_rng(0)
    layers = [
        (rng.normal(size=s).astype(np.float32), rng.normal(size=s[0]).astype(np.float32)) for s in ((8, 3), (7, 8), (2, 7))
    ]
    mean, std, obs = rng.normal(size=(1, 3)), rng.uniform(1, 2, (1, 3)), rng.normal(size=(5, 3))
    x = (obs - mean) / std
    for weight, bias in layers[:-1]:
        x = np.maximum(x @ weight.T + bias, 0)
    expected = np.tanh(x @ layers[-1][0].T + layers[-1][1])
    found = authors.policy_of(authors_code.Weights(layers, mean, std)).act(obs.astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def run_of(**changes):
    """What is read of a run."""
    algorithm = configured("srpo", TASK, "authors-code", Budget(), {"critic.steps": 7, "policy.lr": 0.5, **changes})
    return SimpleNamespace(path="RUN", info={"algorithm": "srpo"}, algorithm=algorithm, grid=SimpleNamespace(sweep={}))


def test_settings_come_from_the_run_and_must_be_possible_in_their_code():
    found = authors.settings_of(run_of(), TASK)
    assert found["critic.steps"] == 7 and found["policy.lr"] == 0.5 and found["policy.beta"] == 0.2
    with pytest.raises(ConfigError, match=r"RUN: policy.baseline is True, and False in the authors' code"):
        authors.settings_of(run_of(**{"policy.baseline": True}), TASK)
    other = run_of()
    other.info["algorithm"] = "bc"
    with pytest.raises(ConfigError, match="found bc, expected srpo or td3-bc"):
        authors.settings_of(other, TASK)


def test_a_wrong_folder_is_one_line(tmp_path, rows):
    with pytest.raises(ConfigError, match="is no folder"), authors_code.code(tmp_path / "none", rows):
        pass
    with authors_code.code(tmp_path, rows) as module, pytest.raises(ConfigError, match=r"has no SRPO\.py"):
        module("SRPO")


def test_transitions_are_those_of_the_recording():
    data = srpo.load_dataset("hopper-medium-expert-mini")
    found = authors.transitions_of(data)
    rows = np.asarray(data.transition_rows)
    np.testing.assert_array_equal(found["observations"], data.obs[rows])
    np.testing.assert_array_equal(found["terminals"], data.terminal[rows])
    assert found["terminals"].any() and not found["terminals"].all()


def kept(folder, code, scores, seed=0, earlier=()):
    """A training whose last policy had `scores`, and earlier ones, each after 100 steps more, the same score in all episodes."""
    about = {"data": "d-v0", "algorithm": "srpo", "code": code, "seed": seed, "settings": json.dumps(SETTINGS), "source": "x"}
    policies = [*([s] * len(scores) for s in earlier), scores]
    rows = [
        {"step": 1000 - 100 * (len(policies) - 1 - i), "episode": e, "score": s, "of no column": 1}
        for i, policy in enumerate(policies)
        for e, s in enumerate(policy)
    ]
    authors_report.keep(folder, about, rows, [])


def test_both_codes_side_by_side(tmp_path, capsys):
    folder = tmp_path / "longer"
    for seed in (0, 1):
        kept(folder, "authors", [10.0 + seed] * 20, seed)
        kept(folder, "ours", [99.0] * 20, seed)
        kept(folder, "ours", [12.0, 14.0] * 10, seed)  # in the place of the one before
    page = tmp_path / "page.md"
    page.write_text("<!-- longer -->\n<!-- /longer -->\n")
    assert authors.main(["compare", "--keep", str(folder), "--into", str(page)]) == 0
    shown = capsys.readouterr().out
    assert shown.strip() in page.read_text()
    line = shown.splitlines()[2]
    assert "13.0 ± 1.0, 13.0 ± 1.0" in line and "10.0 ± 0.0, 11.0 ± 0.0" in line and line.endswith("| +2.5 |")
    with (folder / "episodes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 80


def test_the_later_half_of_the_policies_side_by_side(tmp_path):
    kept(tmp_path, "ours", [40.0] * 20, 0, earlier=(99.0, 20.0, 30.0, 10.0, 20.0))  # the first after half of the steps
    kept(tmp_path, "authors", [12.0] * 20, 3, earlier=(14.0, 16.0, 10.0, 18.0))
    assert authors_report.way_table(tmp_path).splitlines()[2] == (
        "| d-v0 | srpo | 5, after 600 to 1,000 steps | 24.0 [22.1, 26.0] | 24.0 ± 10.2 | 14.0 [13.4, 14.5] | 14.0 ± 2.8 | +10.0 |"
    )
    kept(tmp_path, "ours", [5.0] * 20, 1)  # only its last one acted
    assert "24.0 ± 10.2 | 14.0" in authors_report.way_table(tmp_path)
    assert "40.0 ± 0.0, 5.0 ± 0.0" in authors_report.table(tmp_path)
    kept(tmp_path, "ours", [30.0] * 20, 1, earlier=(20.0,))  # another step between them: what all have
    assert "2, after 900 to 1,000 steps | 27.5" in authors_report.way_table(tmp_path)


def test_ours_needs_the_episodes_of_the_steps_that_theirs_have(tmp_path, monkeypatch):
    rows = {
        "final": [{"seed": "0", "step": "1000"}] * 20,
        "training": [{"seed": "0", "step": str(s)} for s in (700, 800, 1000)],
    }
    monkeypatch.setattr(authors_report, "rows_of", lambda run, kind="final": rows[kind])
    run = SimpleNamespace(path="RUN")
    assert authors_report.episodes_of(run, 0, {"1000"}) == rows["final"]
    with pytest.raises(ConfigError, match="RUN has no 20 episodes after 800 steps, theirs has; train it with --eval-every"):
        authors_report.episodes_of(run, 0, {"800", "1000"})
    rows["training"] = [{"seed": "0", "step": "800"}] * 20 + rows["training"][:1]
    assert [row["step"] for row in authors_report.episodes_of(run, 0, {"800", "1000"})] == ["800"] * 20 + ["1000"] * 20


def test_a_comparison_of_one_side_is_refused(tmp_path, capsys):
    kept(tmp_path, "ours", [1.0] * 20)
    assert authors.main(["compare", "--keep", str(tmp_path)]) == 2
    assert "nothing of srpo on d-v0 by the authors' code; add it with authors.py train" in capsys.readouterr().err
    assert authors.main(["compare", "--keep", str(tmp_path / "none")]) == 2
    assert "has no episodes; begin with authors.py train" in capsys.readouterr().err


def test_curves_of_ours_are_read_nearest_to_every_thousandth_step():
    rows = [{"stage": "critic", "metric": "v", "step": str(75 * i), "value": "1"} for i in range(1, 41)]
    found = authors_report.evenly([*rows, {"stage": "critic", "metric": "q_loss", "step": "1000"}], "critic", "v")
    assert [row["step"] for row in found] == ["975", "2025", "3000"]
    assert authors_report.evenly(rows, "behavior", "loss") == []
