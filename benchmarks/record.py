"""Records data sets of the open suite from scratch by D4RL's recipe: soft actor-critic, its buffer, and its policies with their noise.

  python benchmarks/record.py walker2d --to DIR                     hours on a CPU; halfcheetah, hopper likewise
  python benchmarks/record.py walker2d --to DIR --expert-steps 0    no expert: the medium sets alone

One soft actor-critic of Stable-Baselines3 (extra: record) learns from scratch. When its sampled actions reach the medium
score it writes two files, at the end a third:

  ROBOT-medium-open-v0.hdf5         its sampled actions at that moment
  ROBOT-medium-replay-open-v0.hdf5  all it had seen until then
  ROBOT-medium-expert-open-v0.hdf5  half of it medium, half the sampled actions of the last policy, whole episodes

Files are complete or not there, and `srpo train` takes them. They are not D4RL's: scores on them compare with nothing
published. Where an episode falls at its last step it is terminal, not a time-out.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from srpo.cli import guarded
from srpo.data.reference import ENVIRONMENTS, Environment, normalized
from srpo.data.writing import check_destination, write_hdf5
from srpo.errors import ConfigError
from srpo.training.progress import Bars
from srpo.worlds.environments import make_env

ROBOTS = ("halfcheetah", "hopper", "walker2d")
EVALUATION_SEED = 10_000
Fields = dict[str, np.ndarray]


class Agent(Protocol):
    """What is recorded: something that learns by acting."""

    def learn(self, steps: int) -> None:
        """Act and learn for so many more steps."""

    def act(self, obs: np.ndarray) -> np.ndarray:
        """A sampled action (act,) for an observation (obs,)."""

    def seen(self) -> Fields:
        """All steps so far, in order."""


class SoftActorCritic:
    """Stable-Baselines3's, with D4RL's sizes: 2 x 256, batch 256, rate 3e-4, one update a step."""

    def __init__(self, env_id: str, steps: int, seed: int):
        """`steps`: how many it will take at most. Raises ConfigError where the package is missing."""
        try:
            from stable_baselines3 import SAC
        except ImportError as e:
            raise ConfigError(f"stable-baselines3 is not installed ({e}); pip install 'srpo[record]'") from e
        first = min(10_000, steps // 10)  # random actions
        self.model = SAC("MlpPolicy", make_env(env_id), buffer_size=steps, learning_starts=first, seed=seed, device="auto")

    def learn(self, steps: int) -> None:
        self.model.learn(steps, reset_num_timesteps=False)

    def act(self, obs: np.ndarray) -> np.ndarray:
        return self.model.predict(obs, deterministic=False)[0]

    def seen(self) -> Fields:
        buffer = self.model.replay_buffer
        done, timeout = (x[: buffer.pos, 0].astype(bool) for x in (buffer.dones, buffer.timeouts))
        rows = {
            "obs": buffer.observations,
            "action": buffer.actions,
            "reward": buffer.rewards,
            "next_obs": buffer.next_observations,
        }
        flags = {"terminal": done & ~timeout, "timeout": timeout}
        return {key: x[: buffer.pos, 0].astype(np.float32) for key, x in rows.items()} | flags


def record(env: Any, agent: Agent, rows: int, seed: int) -> Fields:
    """`rows` steps of an agent's sampled actions, one episode after the other; the last one may be cut."""
    out: dict[str, list] = {key: [] for key in ("obs", "action", "reward", "terminal", "timeout", "next_obs")}
    obs, _ = env.reset(seed=seed)
    for _ in range(rows):
        action = np.clip(agent.act(obs), -1.0, 1.0)
        following, reward, terminated, truncated, _ = env.step(action)
        row = (obs, action, reward, terminated, truncated and not terminated, following)
        for values, value in zip(out.values(), row, strict=True):
            values.append(value)
        obs = env.reset()[0] if terminated or truncated else following
    return {key: np.array(x, bool if key in ("terminal", "timeout") else np.float32) for key, x in out.items()}


def whole_episodes(fields: Fields, rows: int) -> Fields:
    """The first rows, at most `rows`, that end with an episode. Raises ConfigError if not even one fits."""
    ends = np.flatnonzero((fields["terminal"] | fields["timeout"])[:rows]) + 1
    if len(ends) == 0:
        raise ConfigError(f"no episode ends within {rows} rows; ask for more with --rows")
    return {key: x[: ends[-1]] for key, x in fields.items()}


def halves(medium: Fields, expert: Fields, rows: int) -> Fields:
    """Whole episodes of both, about half of `rows` each, one after the other."""
    parts = [whole_episodes(fields, rows // 2) for fields in (medium, expert)]
    return {key: np.concatenate([part[key] for part in parts]) for key in medium}


def score(env: Any, agent: Agent, known: Environment, episodes: int = 5) -> float:
    """Mean normalized score of an agent's sampled actions."""
    total = 0.0
    for episode in range(episodes):
        (obs, _), done = env.reset(seed=EVALUATION_SEED + episode), False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(np.clip(agent.act(obs), -1.0, 1.0))
            total += float(reward)
            done = terminated or truncated
    return float(normalized(total / episodes, (known.random, known.expert)))


class Plan(NamedTuple):
    """How much is learned and recorded."""

    rows: int  # of each file, the buffer's aside
    medium_score: float  # the policy that first has it is the medium one
    medium_steps: int  # by then at the latest
    expert_steps: int  # of the whole training; 0: no expert
    every: int  # steps between two looks at the score
    seed: int


def destinations(robot: str, folder: Path, plan: Plan) -> dict[str, Path]:
    """The files that will be written, by kind. Raises DataError if one is there already."""
    kinds = ("medium", "medium-replay", "medium-expert") if plan.expert_steps else ("medium", "medium-replay")
    paths = {kind: folder / f"{robot}-{kind}-open-v0.hdf5" for kind in kinds}
    for path in paths.values():
        check_destination(path)
    return paths


def run(agent: Agent, known: Environment, paths: Mapping[str, Path], plan: Plan, bars: Bars) -> None:
    """Train the agent and write the files of `destinations`. Raises ConfigError if it never becomes a medium one."""
    env, about = make_env(known.env_id), {"env_id": known.env_id, "seed": plan.seed}
    medium, taken, last = None, 0, max(plan.expert_steps, plan.medium_steps)
    bars.open("steps of soft actor-critic", last)
    while taken < (plan.expert_steps if medium else plan.medium_steps):
        agent.learn(plan.every)
        taken += plan.every
        reached = score(env, agent, known)
        bars.update(min(taken, last), f"score {reached:.1f}")
        if medium is None and reached >= plan.medium_score:
            medium = record(env, agent, plan.rows, plan.seed)
            behavior = f"soft actor-critic after {taken} steps, sampled actions, score {reached:.1f} in 5 episodes"
            write_hdf5(paths["medium"], medium, about | {"behavior": behavior})
            seen = f"replay buffer of soft actor-critic, its first {taken} steps"
            write_hdf5(paths["medium-replay"], agent.seen(), about | {"behavior": seen})
            bars.say(f"{paths['medium']} and {paths['medium-replay'].name}: after {taken} steps, score {reached:.1f}")
    if medium is None:
        raise ConfigError(
            f"the score was {reached:.1f} after {taken} steps, expected {plan.medium_score:g}; give it more --medium-steps, "
            "or ask for less with --medium-score"
        )
    if plan.expert_steps:
        expert = record(env, agent, plan.rows, plan.seed + 1)
        behavior = f"half {behavior}; half the same after {taken} steps, score {reached:.1f}"
        write_hdf5(paths["medium-expert"], halves(medium, expert, plan.rows), about | {"behavior": behavior})
        bars.say(f"{paths['medium-expert']}: after {taken} steps, score {reached:.1f}")


def checked(plan: Plan, known: Environment) -> Plan:
    """Raises ConfigError for numbers that make no sense, or that would fail after hours of training."""
    for name in ("rows", "medium_steps", "every"):
        if getattr(plan, name) < 2:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(plan, name)}: expected two or more")
    if plan.expert_steps and plan.expert_steps < plan.medium_steps:
        raise ConfigError(
            f"--expert-steps {plan.expert_steps}: expected 0 (no expert), or --medium-steps, {plan.medium_steps}, or more"
        )
    if plan.expert_steps and plan.rows < 2 * known.max_steps:
        raise ConfigError(
            f"--rows {plan.rows}: expected {2 * known.max_steps} or more, as half of the medium-expert set must hold a whole episode; or say "
            "--expert-steps 0"
        )
    if not math.isfinite(plan.medium_score):
        raise ConfigError(f"--medium-score {plan.medium_score}: expected a finite number")
    if not 0 <= plan.seed < 2**32:
        raise ConfigError(f"--seed {plan.seed}: expected zero or more, below {2**32}")
    return plan


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("robot", choices=ROBOTS, help="which robot, in Gymnasium's -v4 environment")
    add("--to", type=Path, required=True, metavar="DIR", help="folder of the files")
    add("--rows", type=int, default=200_000, metavar="N", help="rows of each file, the buffer's aside; default 200000")
    add("--medium-score", type=float, default=40.0, metavar="X", help="normalized score of the medium policy; default 40")
    add("--medium-steps", type=int, default=500_000, metavar="N", help="it must have that by then; default 500000")
    add(
        "--expert-steps",
        type=int,
        default=1_000_000,
        metavar="N",
        help="steps of the whole training; default 1000000; 0: no expert",
    )
    add("--every", type=int, default=10_000, metavar="N", help="steps between two looks at the score; default 10000")
    add("--seed", type=int, default=0, metavar="N", help="of everything random; default 0")
    add("--quiet", action="store_true", help="no progress")
    return parser


def command(args: argparse.Namespace) -> int:
    known = ENVIRONMENTS[args.robot]
    plan = checked(Plan(args.rows, args.medium_score, args.medium_steps, args.expert_steps, args.every, args.seed), known)
    paths = destinations(args.robot, args.to, plan)
    agent = SoftActorCritic(known.env_id, max(plan.expert_steps, plan.medium_steps) + plan.every, plan.seed)
    with Bars(args.quiet) as bars:
        run(agent, known, paths, plan, bars)
    return 0


def main(argv: list[str] | None = None) -> int:
    args = arguments().parse_args(argv)
    return guarded(lambda: command(args))


if __name__ == "__main__":
    sys.exit(main())
