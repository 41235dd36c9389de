"""Of SRPO (arXiv 2310.07297, Table 2) and its variant."""

from __future__ import annotations

from srpo.algorithms.tables.critic import QUICK_CRITIC, TRIAL_CRITIC
from srpo.config import Overrides, Tasks

TEMPERATURE = {  # Table 2
    "halfcheetah-medium-expert-v2": 0.01,
    "halfcheetah-medium-v2": 0.2,
    "halfcheetah-medium-replay-v2": 0.2,
    "hopper-medium-expert-v2": 0.01,
    "hopper-medium-v2": 0.05,
    "hopper-medium-replay-v2": 0.2,
    "walker2d-medium-expert-v2": 0.1,
    "walker2d-medium-v2": 0.05,
    "walker2d-medium-replay-v2": 0.5,
    "antmaze-umaze-v2": 0.02,
    "antmaze-umaze-diverse-v2": 0.04,
    "antmaze-medium-play-v2": 0.08,
    "antmaze-medium-diverse-v2": 0.05,
    "antmaze-large-play-v2": 0.06,
    "antmaze-large-diverse-v2": 0.05,
}
ANTMAZE: Overrides = {"data.reward": "minus-one", "critic.expectile": 0.9, "policy.hidden": (256,) * 4}
# For a data set that no table names: rewards scaled by the spread of the returns, so that beta does not depend on
# the reward's unit, and a preconditioned behavior model (docs/algorithms/srpo.md).
UNKNOWN: Overrides = {"data.reward": "return-range", "behavior.parametrization": "preconditioned"}
MAZES = "antmaze-*|pointmaze-*"
CAUTIOUS = 0.01  # the smallest of Table 2: for data that no table names, and the recordings of an expert
QUICK: Overrides = QUICK_CRITIC | {  # chosen by experiment: docs/quick.md
    "data.normalize_obs": True,
    "behavior.steps": 10_000,
    "behavior.batch_size": 512,
    "behavior.width": 128,
    "behavior.lr": 1e-3,
    "policy.steps": 60_000,
    "policy.lr": 1e-3,
}
BOLD: Overrides = {"data.normalize_obs": False, "policy.steps": 15_000}  # where a larger temperature is published


def presets(beta: str) -> dict[str, Tasks]:
    """The paper's settings by data set, the authors' code's and those for a small machine; `beta`: the temperature's path."""
    unknown = UNKNOWN | {beta: 0.2}
    temperatures: Tasks = {name: {beta: value} for name, value in TEMPERATURE.items()}
    table_2 = {name: values | {"behavior.parametrization": "noise"} for name, values in temperatures.items()}
    quick = {
        "*": unknown | QUICK | {beta: CAUTIOUS},
        MAZES: ANTMAZE | BOLD | {"policy.normalize": "2-norm", beta: 0.05},  # of a gradient of length one
        "pointmaze-*": {beta: 0.2},  # docs/mazes.md
    }
    return {
        "paper": {"*": unknown, MAZES: ANTMAZE | {"policy.normalize": "2-norm"}} | table_2,
        "authors-code": {
            "*": unknown | {"data.reward": "return-range-authors", "policy.baseline": False},
            MAZES: ANTMAZE | {"policy.normalize": "rms"},
        }
        | table_2,
        "quick": quick | {name: values | (BOLD if values[beta] > CAUTIOUS else {}) for name, values in temperatures.items()},
    }


TRIAL: Overrides = TRIAL_CRITIC | {
    "behavior.steps": 30,
    "behavior.batch_size": 32,
    "behavior.width": 12,
    "behavior.blocks": 1,
    "behavior.lr": 1e-2,
    "policy.steps": 30,
    "policy.batch_size": 32,
    "policy.hidden": (12,),
    "policy.lr": 1e-2,
}
