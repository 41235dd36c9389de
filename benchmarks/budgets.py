"""How scores.py spends gradient steps: the same total for every algorithm, and the settings that follow.

The total is split over an algorithm's stages in proportion to `SHARES`; a step of a stage that trains several networks
jointly counts as one. Drawing tables of actions (`support` of SfBC and QGPO) trains nothing and is not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srpo import algorithms, config
from srpo.core import Algorithm

# 10 : 4 : 3 is how the preset `quick` of SRPO (docs/quick.md) divides its samples over critic, behavior and extraction
SHARES = {"critic": 10, "behavior": 4, "policy": 3, "energy": 3}
OTHER_SHARES = {
    "diffuser": {"trajectories": 5, "value": 1},  # as its paper
    "sfbc": {"behavior": 1, "critic": 1},  # its critic regresses on returns, its actions are the behavior model's
    "dtql": {"warm_up": 1, "policy": 9},  # its policy stage goes on training critic and behavior
    "dtql-kl": {"warm_up": 1, "policy": 9},
}
UNCOUNTED = ("support",)

# Of each data set: the D4RL task of the same kind, whose published temperature it gets
KIN = {
    "hopper-medium-replay-zoo-v0": "hopper-medium-replay-v2", "hopper-medium-zoo-v0": "hopper-medium-v2",
    "hopper-medium-expert-zoo-v0": "hopper-medium-expert-v2", "hopper-mixed-zoo-v0": "hopper-medium-replay-v2",
    "halfcheetah-medium-replay-zoo-v0": "halfcheetah-medium-replay-v2", "halfcheetah-medium-zoo-v0": "halfcheetah-medium-v2",
    "halfcheetah-medium-expert-zoo-v0": "halfcheetah-medium-expert-v2",
}  # fmt: skip
# Settings that an algorithm's paper chose for each task: only these are taken from there
BY_TASK = {
    "srpo": ("policy.beta",),
    "qgpo": ("guidance.scale",),
    "diffusion-ql": ("policy.eta", "policy.clip_norm"),
    "dtql": (
        "data.reward",
        "policy.alpha",
        "policy.lr",
        "policy.lr_decay",
        "warm_up.behavior.lr",
    ),  # alpha is for unscaled rewards
    "dtql-kl": ("data.reward", "policy.alpha", "policy.lr", "policy.lr_decay", "warm_up.behavior.lr"),
}
# Settings that count steps follow the length of their stage, in the proportion of the preset
FOLLOWING = {"sfbc": {"critic.replan_every": 1 / 2}, "bear": {"policy.warmup": 1 / 10}}


@dataclass(frozen=True)
class Budget:
    steps: int | None  # gradient steps in all; None: the paper's, which differ from one algorithm to another
    largest_batch: int | None
    meaning: str


BUDGETS = {
    "tiny": Budget(300, 32, "to try the command: the scores mean nothing"),
    "short": Budget(20_000, 256, "much reduced: 30 to 225 times fewer steps than the papers take; for two cores"),
    "small": Budget(100_000, 256, "reduced: 6 to 45 times fewer steps than the papers take"),
    "paper": Budget(None, None, "each algorithm's preset `paper` with its own steps and batches, which are not equal"),
}


def split(total: int, shares: dict[str, int]) -> dict[str, int]:
    """`total` steps in proportion to `shares`; what rounding leaves goes to the last stage."""
    steps = {name: total * share // sum(shares.values()) for name, share in shares.items()}
    steps[list(steps)[-1]] += total - sum(steps.values())
    return steps


def settings(name: str, data: str, budget: Budget) -> dict[str, Any]:
    """The settings of algorithm `name` on the data set called `data`, by path."""
    cls, kin = algorithms.find(name), KIN.get(data, data)
    paper = config.preset(cls.presets, "paper", kin)
    if budget.steps is None:
        return paper
    values = config.preset(cls.presets, "quick", data) | task_settings(name, data)
    algorithm = config.assign_all(cls(), values)
    counted = [stage for stage in algorithm.stages if stage not in UNCOUNTED]
    shares = OTHER_SHARES.get(name) or ({"policy": 1} if counted == ["policy"] else {stage: SHARES[stage] for stage in counted})
    for stage, steps in split(budget.steps, shares).items():
        batch = min(algorithm.stages[stage].batch_size, budget.largest_batch)
        values |= {f"{stage}.steps": steps, f"{stage}.batch_size": batch}
    for path, part in FOLLOWING.get(name, {}).items():
        values[path] = max(1, round(part * values[path.split(".")[0] + ".steps"]))
    return values


def task_settings(name: str, data: str) -> dict[str, Any]:
    """What algorithm `name` takes from the D4RL task of the same kind as `data`."""
    cls, kin = algorithms.find(name), KIN.get(data)
    if kin is None:
        return {}
    algorithm = config.assign_all(cls(), config.preset(cls.presets, "paper", kin))
    return {path: config.lookup(algorithm, path).value for path in BY_TASK.get(name, ())}


def configured(name: str, data: str, budget: Budget) -> Algorithm:
    return config.assign_all(algorithms.find(name)(), settings(name, data, budget))


def explain(names: list[str], data: list[str], budget_name: str) -> str:
    """The budget in words, and how it is split, as Markdown."""
    budget = BUDGETS[budget_name]
    lines = [f"Budget `{budget_name}` ({budget.meaning})."]
    if budget.steps is not None:
        lines[0] += (
            f" Every algorithm takes {budget.steps:,} gradient steps in all, with batches of at most {budget.largest_batch}; a step of a stage"
            " that trains several networks counts once, drawing tables of proposed actions not at all. Networks, candidates and learning"
            " rates are those of the preset `quick`. Nothing was tuned on these data sets but what docs/quick.md says: temperatures are the"
            " published ones of the D4RL task of the same kind (QGPO's guidance scales another implementation's, DTQL's with its treatment of"
            " rewards and its rates)."
        )
    lines.append("")
    for name in names:
        stages = configured(name, data[0], budget).stages
        parts = ", ".join(f"{n} {s.steps:,} x {s.batch_size}" for n, s in stages.items() if n not in UNCOUNTED)
        taken = [task_settings(name, d) for d in data] if budget.steps is not None else []
        shown = [p for p in BY_TASK.get(name, ()) if taken and all(isinstance(v.get(p), float) for v in taken)]
        tuned = [f"{p} " + " / ".join(f"{v[p]:g}" for v in taken) for p in shown]
        lines.append(f"- `{name}`: {parts}" + (f"; {', '.join(tuned)}" if tuned else ""))
    return "\n".join(lines)
