"""The authors' classes, called in the order of their training scripts: what `authors.py` needs of them. Needs PyTorch.

Nothing of their code is here: it is imported from a checkout, with answers in the place of the libraries that only their data and
evaluation need.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from srpo.errors import ConfigError

STUBS = ("d4rl", "gym", "wandb")  # imported by their files; of these only two functions are called, and answered here

Settings = dict[str, Any]
Rows = dict[str, np.ndarray]  # of d4rl.qlearning_dataset
Said = Callable[[str, int, Callable[[], Any]], None]  # told the stage, its step and what gives a tensor: mean V, loss or mean Q


class Weights(NamedTuple):
    """Of a ReLU network with a tanh at its end: (weight (out, in), bias (out,)) by layer; what observations are normalized by."""

    layers: Sequence[tuple[np.ndarray, np.ndarray]]
    mean: np.ndarray
    std: np.ndarray


Policies = Iterator[tuple[int, Callable[[], Weights]]]  # after each step of the policy: how many, and what reads its weights


def layers_of(module: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """The linear layers of a PyTorch module, in its order."""
    arrays = [x.cpu().numpy() for x in module.state_dict().values()]
    return list(zip(arrays[::2], arrays[1::2], strict=True))


@contextlib.contextmanager
def code(folder: Path, rows: Rows) -> Iterator[Callable[[str], Any]]:
    """Gives the function that imports a module of a checkout; d4rl answers with `rows`, and what the modules print goes to stderr."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; give the checkout of the authors' code with --code")
    stubs = {name: ModuleType(name) for name in STUBS}
    vars(stubs["gym"])["make"] = str
    vars(stubs["d4rl"])["qlearning_dataset"] = lambda env: rows
    before = dict(sys.modules)
    sys.modules.update(stubs)
    sys.path.insert(0, str(folder))

    def module(name: str) -> Any:
        if not (folder / f"{name}.py").exists():
            raise ConfigError(f"{folder} has no {name}.py; give the checkout of the authors' code with --code")
        return importlib.import_module(name)

    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield module
    finally:
        sys.path.remove(str(folder))
        for name in [*STUBS, *(n for n in sys.modules if (folder / f"{n}.py").exists())]:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]


def set_rate(optimizer: Any, lr: float, schedule: Any = None) -> None:
    """Another rate than the one written into their code, before the first step."""
    for group in optimizer.param_groups:
        group.update(lr=lr, **({"initial_lr": lr} if schedule else {}))
    if schedule:
        schedule.base_lrs = [lr]


def train_srpo(module: Callable[[str], Any], seed: int, task: str, s: Settings, said: Said) -> Policies:
    """Their critic, behavior model and policy, as train_critic.py, train_behavior.py and train_policy.py call them."""
    utils, classes = module("utils"), module("SRPO")
    argv, sys.argv = sys.argv, ["authors", "--env", task, "--seed", str(seed), "--beta", str(s["policy.beta"])]
    try:
        args = utils.get_args()
    finally:
        sys.argv = argv
    args.n_policy_epochs = s["policy.steps"] / 10_000  # its cosine ends there
    args.marginal_prob_std_fn = functools.partial(utils.marginal_prob_std, device=args.device, beta_1=20.0)
    data = module("dataset").D4RL_dataset(args)
    act, both = data.actions.shape[1], data.states.shape[1] + data.actions.shape[1]

    critic = classes.SRPO_IQL(both, act, args).q[0]
    set_rate(critic.q_optimizer, s["critic.lr"])
    set_rate(critic.v_optimizer, s["critic.lr"])
    for step in range(s["critic.steps"]):
        critic.update_q0(data.sample(s["critic.batch_size"]))
        said("critic", step, lambda: critic.v)

    behavior = classes.SRPO_Behavior(both, act, args.marginal_prob_std_fn, args).to(args.device)
    set_rate(behavior.diffusion_optimizer, s["behavior.lr"])
    for step in range(s["behavior.steps"]):
        behavior.update_behavior(data.sample(s["behavior.batch_size"]))
        said("behavior", step, lambda: behavior.loss)

    model = classes.SRPO(both, act, args.marginal_prob_std_fn, args).to(args.device)
    model.diffusion_behavior.load_state_dict(behavior.diffusion_behavior.state_dict())
    model.q[0].load_state_dict(critic.state_dict())
    set_rate(model.SRPO_policy_optimizer, s["policy.lr"], model.SRPO_policy_lr_scheduler)
    unchanged = np.zeros(both - act), np.ones(both - act)
    for step in range(s["policy.steps"]):
        model.update_SRPO_policy(data.sample(s["policy.batch_size"]))
        yield step + 1, lambda: Weights(layers_of(model.SRPO_policy), *unchanged)


def train_td3_bc(module: Callable[[str], Any], seed: int, task: str, s: Settings, said: Said) -> Policies:
    """Their TD3+BC, as main.py calls it."""
    classes, utils = module("TD3_BC"), module("utils")
    rows = sys.modules["d4rl"].qlearning_dataset(task)
    obs, act = rows["observations"].shape[1], rows["actions"].shape[1]
    model = classes.TD3_BC(obs, act, 1.0, alpha=s["policy.alpha"])
    set_rate(model.actor_optimizer, s["policy.lr"])
    set_rate(model.critic_optimizer, s["policy.lr"])
    memory = utils.ReplayBuffer(obs, act)
    memory.convert_D4RL(rows)
    mean, std = memory.normalize_states()

    def mean_q():
        first, second = model.critic(*memory.sample(s["policy.batch_size"])[:2])
        return (first.mean() + second.mean()) / 2

    for step in range(s["policy.steps"]):
        model.train(memory, s["policy.batch_size"])
        said("policy", step, mean_q)
        yield step + 1, lambda: Weights(layers_of(model.actor), mean, std)


REPOSITORIES = {"srpo": "thu-ml/SRPO", "td3-bc": "sfujim/TD3_BC"}
SYSTEMS = {"srpo": train_srpo, "td3-bc": train_td3_bc}
FREE = {  # what their classes take from whoever calls them; all else is written into their code
    "srpo": (
        "policy.beta",
        *(f"{stage}.{what}" for stage in ("critic", "behavior", "policy") for what in ("steps", "batch_size", "lr")),
    ),
    "td3-bc": ("policy.steps", "policy.batch_size", "policy.lr", "policy.alpha"),
}
