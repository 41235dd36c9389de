"""The policies that the authors' own classes train, beside ours: same data, steps, batches, rates, temperature and seeds, one judge.

  srpo train DATA --preset authors-code --out RUN --set ...; srpo eval RUN --episodes 20                          # ours
  git clone https://github.com/thu-ml/SRPO CODE; sed -i 's/"cuda"/"cpu"/' CODE/*.py                               # without a GPU
  python benchmarks/authors.py train RUN --code CODE --task hopper-medium-replay-v2 --keep KEEP                   # theirs
  python benchmarks/authors.py compare RUN... --keep KEEP --into docs/results.md

Policies of so few steps swing from one thousand steps to the next. With --every STEPS those on the way act, too, as ours do
with `srpo train --eval-every STEPS --eval-episodes 20`, and `compare` shows the mean of the later half of them.

`train` needs PyTorch. It reads from RUN what is to be the same (RUN may be of SRPO, or of TD3+BC with a checkout of
sfujim/TD3_BC), calls the authors' classes in the order of their training scripts, and lets their last policy act in our
environment, from the start states of `srpo eval`. Their weights are taken as arrays: what acts is our policy. A setting that
is written into their code and is another in RUN is refused. `compare` adds the episodes of our runs, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from authors_code import FREE, REPOSITORIES, SYSTEMS, Rows, Settings, Weights, code
from authors_report import EPISODES, EVERY, METRICS, curve_table, keep, ours, table, way_table

import srpo
from srpo import config
from srpo.cli import guarded
from srpo.data.treated import treat
from srpo.data.treatments import Treatment
from srpo.errors import ConfigError
from srpo.evaluation.rollouts import FIRST_SEED, Rollouts
from srpo.networks.actors import DeterministicActor
from srpo.networks.layers import Normalizer
from srpo.policies import DeterministicPolicy
from srpo.runs.description import versions
from srpo.suite.budget import Budget, configured
from srpo.suite.pages import check_place, insert


def policy_of(weights: Weights) -> DeterministicPolicy:
    """Our policy with their weights."""
    sizes = [weights.layers[0][0].shape[1], *(len(bias) for _, bias in weights.layers)]
    seen = Normalizer(*(jnp.asarray(x, jnp.float32).reshape(sizes[0]) for x in weights[1:]))
    actor = DeterministicActor(sizes[0], sizes[-1], sizes[1:-1], jax.random.key(0), seen)
    for layer, (weight, bias) in enumerate(weights.layers):
        new = (jnp.asarray(weight.T), jnp.asarray(bias))
        actor = eqx.tree_at(lambda a, i=layer: (a.net.layers[i].weight, a.net.layers[i].bias), actor, new)
    return DeterministicPolicy(actor)


def settings_of(run: srpo.Run, task: str) -> Settings:
    """Of a run, if the authors' code can have them. Raises ConfigError."""
    name = run.info["algorithm"]
    if name not in SYSTEMS or run.grid.sweep:
        raise ConfigError(
            f"{run.path}: found {name}{' with a sweep' * bool(run.grid.sweep)}, expected {' or '.join(SYSTEMS)} without"
        )
    mine = {path: s.value for path, s in config.settings(run.algorithm).items()}
    theirs = config.settings(configured(name, task, "authors-code", Budget(), {}))
    for path, value in mine.items():
        if path not in FREE[name] and value != theirs[path].value:
            raise ConfigError(
                f"{run.path}: {path} is {value}, and {theirs[path].value} in the authors' code; train it with that"
            )
    return {path: mine[path] for path in FREE[name]}


def transitions_of(data: srpo.Dataset) -> Rows:
    """What d4rl.qlearning_dataset makes of a recording."""
    batch = treat(data, Treatment(), on_device=False).all_transitions
    taken = batch.take(np.arange(len(batch)))
    names = {"observations": taken.obs, "actions": taken.action, "rewards": taken.reward, "next_observations": taken.next_obs}
    return names | {"terminals": taken.mask == 0}


class Curves(list[dict[str, Any]]):
    """Rows of curves.csv, and only of their steps: a tensor is a number after the device has been waited for."""

    def __call__(self, stage: str, step: int, value: Callable[[], Any]) -> None:
        if (step + 1) % EVERY == 0:
            self.append({"stage": stage, "step": step + 1, "metric": METRICS[stage], "value": float(value().detach())})
            print(f"{stage} {step + 1}: {METRICS[stage]} {self[-1]['value']:.4g}", file=sys.stderr, flush=True)


def train(args: argparse.Namespace) -> int:
    run = srpo.load_run(args.run)
    settings, name = settings_of(run, args.task), run.info["algorithm"]
    data = srpo.load_dataset(args.data or run.info["data"]["source"])
    if data.sha256 != run.info["data"]["sha256"]:
        raise ConfigError(f"{data.source} is not what {run.path} was trained on; give that file with --data")
    if data.obs_offset is not None or data.action_range is not None:
        raise ConfigError(f"{data.source} is in units of its own; their code reads observations and actions as they are")
    data.score(0.0)  # without an environment nothing is compared
    import torch

    torch.set_num_threads(args.threads)
    for seed in run.seeds:
        torch.manual_seed(seed)
        np.random.seed(seed)
        curves, episodes = Curves(), []
        with code(args.code, transitions_of(data)) as module:
            for step, weights in SYSTEMS[name](module, seed, args.task, settings, curves):
                if step == settings["policy.steps"] or (args.every and step % args.every == 0):
                    episodes += played(weights(), data, step)
        about = {"data": data.name, "algorithm": name, "code": "authors", "seed": seed, "settings": json.dumps(settings)}
        about |= {"made_with": f"PyTorch {torch.__version__}", "source": f"{REPOSITORIES[name]} {commit(args.code)}"}
        keep(args.keep, about, episodes, curves)
    return 0


def commit(folder: Path) -> str:
    """Of a checkout; nothing where git knows none."""
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def played(weights: Weights, data: srpo.Dataset, step: int) -> list[dict[str, Any]]:
    """Episodes of their policy after a step, a row each."""
    policy = jax.tree.map(lambda x: x[None, None], policy_of(weights))
    rollouts = Rollouts(data.env_id, (1, 1), EPISODES)
    found = rollouts(policy)
    rollouts.close()
    where = {"step": step, "env_id": data.env_id} | {name: versions()[name] for name in ("gymnasium", "mujoco")}
    pairs = zip(found.returns[0, 0].tolist(), found.lengths[0, 0].tolist(), strict=True)
    rows = [
        where | {"episode": i, "env_seed": FIRST_SEED + i, "return": total, "length": length, "score": data.score(total)}
        for i, (total, length) in enumerate(pairs)
    ]
    print(f"policy {step}: score {np.mean([row['score'] for row in rows]):.1f}", file=sys.stderr, flush=True)
    return rows


def steps(text: str) -> int:
    """Of --every."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of steps, one or more")
    return int(text)


def compare(args: argparse.Namespace) -> int:
    if args.into is not None:
        check_place(args.into, args.keep.name)
    for path in args.runs:
        ours(srpo.load_run(path), args.keep)
    tables = (table(args.keep), way_table(args.keep), curve_table(args.keep))
    text = "\n\n".join(t for t in tables if t)
    if args.into is not None:
        insert(args.into, args.keep.name, text)
    print(text)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="train|compare")
    one = commands.add_parser("train", help="train and judge the authors' classes as a run of ours was trained")
    one.add_argument("run", type=Path, metavar="RUN", help="a run of srpo or td3-bc; its settings, data and seeds are taken")
    one.add_argument("--code", type=Path, required=True, metavar="FOLDER", help="checkout of the authors' code")
    one.add_argument(
        "--task", required=True, metavar="TASK", help="D4RL's task of the same kind, such as hopper-medium-replay-v2"
    )
    one.add_argument("--data", metavar="FILE", help="the data of RUN, if they were moved")
    one.add_argument("--threads", type=int, default=1, metavar="N", help="of PyTorch; default 1")
    one.add_argument("--every", type=steps, metavar="STEPS", help="steps between policies that act on the way; default none")
    one.set_defaults(does=train)
    both = commands.add_parser("compare", help="add the evaluated runs of ours, and print both side by side")
    both.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="runs that `train` was given")
    both.add_argument(
        "--into", type=Path, metavar="PAGE", help="replace the tables in this page, between marks of the name of DIR"
    )
    both.set_defaults(does=compare)
    for each in (one, both):
        each.add_argument(
            "--keep", type=Path, required=True, metavar="DIR", help="runs.csv, curves.csv and episodes.csv of both codes"
        )
    args = parser.parse_args(argv)
    return guarded(lambda: args.does(args))


if __name__ == "__main__":
    sys.exit(main())
