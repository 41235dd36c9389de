"""Of DTQL (arXiv 2405.19690) and its KL variant, for which the authors publish no table of its own."""

from __future__ import annotations

from srpo.config import Overrides, Tasks

# lr of behavior and policy, alpha, learning rate decayed, steps, batch, expectile (authors' main.py, the same for antmaze v0 and v2)
TABLE = {
    "halfcheetah-medium": (3e-4, 1.0, False, 1_000_000, 256, 0.7),
    "halfcheetah-medium-replay": (3e-4, 5.0, False, 1_000_000, 256, 0.7),
    "halfcheetah-medium-expert": (3e-4, 50.0, False, 1_000_000, 256, 0.7),
    "hopper-medium": (1e-4, 5.0, True, 1_000_000, 256, 0.7),
    "hopper-medium-replay": (3e-4, 5.0, False, 1_000_000, 256, 0.7),
    "hopper-medium-expert": (3e-4, 20.0, False, 1_000_000, 256, 0.7),
    "walker2d-medium": (3e-4, 5.0, True, 1_000_000, 256, 0.7),
    "walker2d-medium-replay": (3e-4, 5.0, True, 1_000_000, 256, 0.7),
    "walker2d-medium-expert": (3e-4, 5.0, True, 1_000_000, 256, 0.7),
    "antmaze-umaze": (3e-4, 1.0, False, 500_000, 2048, 0.9),
    "antmaze-umaze-diverse": (3e-5, 1.0, True, 500_000, 2048, 0.9),
    "antmaze-medium-play": (3e-4, 1.0, False, 400_000, 2048, 0.9),
    "antmaze-medium-diverse": (3e-4, 1.0, False, 400_000, 2048, 0.9),
    "antmaze-large-play": (3e-4, 1.0, False, 350_000, 2048, 0.9),
    "antmaze-large-diverse": (3e-4, 0.5, False, 300_000, 2048, 0.9),
    "pen-human": (3e-5, 1500.0, True, 300_000, 256, 0.9),
    "pen-cloned": (1e-5, 1500.0, False, 200_000, 256, 0.7),
    "kitchen-complete": (1e-4, 200.0, True, 500_000, 256, 0.7),
    "kitchen-partial": (1e-4, 100.0, True, 1_000_000, 256, 0.7),
    "kitchen-mixed": (3e-4, 200.0, True, 500_000, 256, 0.7),
}


def task(lr, alpha, lr_decay, steps, batch_size, expectile) -> Overrides:
    return {
        "warm_up.behavior.lr": lr,
        "policy.lr": lr,
        "policy.alpha": alpha,
        "policy.lr_decay": lr_decay,
        "policy.steps": steps,
        "warm_up.batch_size": batch_size,
        "policy.batch_size": batch_size,
        "warm_up.critic.expectile": expectile,
    }


# For a data set that no table names: rewards scaled by the spread of the returns, so that alpha does not depend on their unit.
UNKNOWN: Overrides = {"data.reward": "return-range", "policy.alpha": 2.0}
TASKS: Tasks = {f"{name}-v*": {"data.reward": "none"} | task(*row) for name, row in TABLE.items()}
QUICK: Overrides = {"warm_up.steps": 10_000, "warm_up.batch_size": 256, "policy.steps": 30_000, "policy.batch_size": 256}


def presets(antmaze: Overrides) -> dict[str, Tasks]:
    """The presets of DTQL or its variant; `antmaze` holds further settings for those tasks."""
    mazes = {"data.reward": "minus-one", "warm_up.critic.expectile": 0.9, **antmaze}
    paper = {"*": UNKNOWN, "pointmaze-*": {"policy.alpha": 1.0}} | TASKS | {"antmaze-*|pointmaze-*": mazes}
    return {
        "paper": paper,
        "authors-code": paper | {"*": UNKNOWN | {"warm_up.critic.v_from": "online"}},
        "quick": {pattern: values | QUICK for pattern, values in paper.items()},
    }


TRIAL: Overrides = {
    "warm_up.steps": 30,
    "warm_up.batch_size": 32,
    "warm_up.critic.hidden": (12,),
    "warm_up.critic.lr": 1e-2,
    "warm_up.behavior.hidden": (12,),
    "warm_up.behavior.lr": 1e-2,
    "policy.steps": 20,
    "policy.batch_size": 32,
    "candidates": 8,
}
