"""What is wrong with an algorithm of another package is said in one line, before anything is written."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import srpo
from srpo import Algorithm, Stage, TrainState, Treatment, algorithms, descend, setting, static
from srpo.errors import ConfigError
from srpo.networks.layers import MLP
from srpo.optim import adam
from srpo.policies import Chain


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setattr(algorithms, "registered", {})


class Cloning(Stage):
    steps: int = static(3, "gradient steps")
    batch_size: int = static(4, "transitions per step")
    lr: float = setting(1e-2, "learning rate")

    def init(self, data, given, key):
        return TrainState.create(MLP((data.obs_size, data.action_size), key), adam(self.lr))

    def update(self, state, batch, given, key, step):
        def loss(net):
            value = jnp.mean((net(batch.obs) - batch.action) ** 2)
            return value, {"loss": value}

        return descend(state, adam(self.lr), loss)

    def result(self, state):
        return state.model


class Clipped(eqx.Module):
    net: MLP

    def act(self, obs, key=None):
        return jnp.clip(self.net(jnp.asarray(obs)), -1.0, 1.0)

    @property
    def chain(self):
        return Chain(self.net, squash="clip")


class Mine(Algorithm):
    data: Treatment = Treatment()
    policy: Stage = Cloning()

    def make_policy(self, trained):
        return Clipped(trained["policy"])


def with_stage(**methods):
    """The algorithm with a stage that does something else."""
    return type("Other", (Mine,), {"__annotations__": {"policy": Stage}, "policy": type("Odd", (Cloning,), methods)()})


def with_policy(**methods):
    return type("Other", (Mine,), {"make_policy": lambda self, trained: type("Odd", (Clipped,), methods)(trained["policy"])})


def without_metrics(self, state, batch, given, key, step):
    return state, {}


def narrow(self, obs, key=None):
    return self.net(obs)[..., :1]


def alone(self, obs, key=None):
    return jnp.stack([self.net(obs)[0], self.net(obs)[1]])


def unkept(self, data, given, key):
    jnp.sum(data.take(jnp.arange(3)).reward)


def equinox_net(self, data, given, key):
    return TrainState.create(eqx.nn.MLP(data.obs_size, data.action_size, 4, 1, key=key), adam(self.lr))


@pytest.fixture(scope="module")
def logs():
    rng = np.random.default_rng(0)
    fields = {"obs": rng.normal(size=(20, 3)), "action": rng.uniform(-1, 1, (20, 2)), "reward": rng.normal(size=20)}
    return srpo.from_arrays(**fields, terminal=np.zeros(20, bool), timeout=np.arange(20) % 10 == 9)


CASES = {
    "no pair": (with_stage(update=lambda self, state, *others: state), "update gave TrainState, expected the next state and"),
    "another state": (
        with_stage(update=lambda self, state, *others: ((state, state), {})),
        "update gave another structure of state than init",
    ),
    "another type": (
        with_stage(
            init=lambda self, data, given, key: {"x": jnp.zeros(3)},
            update=lambda self, state, *others: ({"x": jnp.zeros(2)}, {}),
        ),
        r"state\['x'\] is float32\[3\] after init and float32\[2\] after update",
    ),
    "a row of metrics": (
        with_stage(update=lambda self, state, batch, *others: (state, {"r": batch.reward})),
        r"metric r is float32\[4\], expected one number",
    ),
    "a name that no table holds": (
        with_stage(update=lambda self, state, *others: (state, {"a,b": jnp.zeros(())})),
        "metric 'a,b': expected a name of letters",
    ),
    "an exception": (
        with_stage(update=lambda self, state, *others: 1 / 0),
        r"stage policy: update failed \(ZeroDivisionError: division by zero, test_sound.py line \d+\); mend it",
    ),
    "rows that a run cannot be read back without": (
        with_stage(init=unkept),
        r"init failed \(NotImplementedError: only the sizes of this data set are known, test_sound.py line \d+\)",
    ),
    "a function in a network": (with_stage(init=equinox_net), r"found custom_jvp at MLP.activation, expected arrays"),
    "a result of text": (
        with_stage(result=lambda self, state: (state.model, "x")),
        r"result gave str at \[1\], expected a tree of arrays",
    ),
    "a result that is not there": (
        type("Other", (Mine,), {"make_policy": lambda self, trained: Clipped(trained["actor"])}),
        r"make_policy failed \(KeyError: 'actor', test_sound.py line \d+\)",
    ),
    "no policy": (type("Other", (Mine,), {"make_policy": lambda self, trained: None}), "make_policy gave NoneType, expected"),
    "too few actions": (
        with_policy(act=narrow),
        r"act of Odd gave float32\[1\] for observations float32\[3\], expected float32\[2\]",
    ),
    "one observation only": (
        with_policy(act=alone),
        r"gave float32\[2,2\] for observations float32\[4,3\], expected float32\[4,2\]",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_training_cannot_take_is_refused_before_it_begins(case, logs, tmp_path):
    cls, said = CASES[case]
    srpo.register("mine", cls)
    with pytest.raises(ConfigError, match=said) as refusal:
        srpo.train(srpo.configure("mine", logs), logs, out=tmp_path / "run", quiet=True)
    assert "\n" not in str(refusal.value) and not (tmp_path / "run").exists()


def test_a_stage_may_report_nothing(logs, tmp_path):
    cls = with_stage(update=without_metrics)
    srpo.register("mine", cls)
    run = srpo.train(cls(), logs, out=tmp_path / "run", quiet=True)
    assert srpo.load_run(run.path).policy().act(logs.obs[:5]).shape == (5, 2)
    assert (run.path / "metrics.csv").read_text().count("\n") == 1


@pytest.mark.parametrize(
    "attributes, said",
    [
        ({"acts_with": ("polcy",)}, "acts_with has 'polcy', which is none of its stages policy"),
        ({"acts_with": "policy"}, r"acts_with: found the text 'policy', expected a tuple of names, such as \('policy',\)"),
        ({"presets": {"paper": {"ant-*": {"policy.lrr": 1}}}}, "preset 'paper', 'ant-.': unknown setting 'policy.lrr'"),
        ({"presets": {"paper": {"policy.lr": 1}}}, "preset 'paper': found 1 for 'policy.lr', expected settings by pattern"),
        ({"policy": type("Needy", (Cloning,), {"needs": "critic"})()}, "needs of stage policy: found the text 'critic'"),
    ],
)
def test_a_class_that_would_fail_after_training_is_not_registered(attributes, said):
    kinds = {"__annotations__": {"policy": Stage} if "policy" in attributes else {}}
    with pytest.raises(ConfigError, match=said):
        srpo.register("mine", type("Other", (Mine,), kinds | attributes))


def test_a_class_without_make_policy_is_told_so():
    class Unfinished(Algorithm):
        data: Treatment = Treatment()
        policy: Stage = Cloning()
        presets: ClassVar = {"paper": {}}

    with pytest.raises(ConfigError, match="Unfinished lacks make_policy; write it"):
        srpo.register("mine", Unfinished)
