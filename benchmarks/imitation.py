"""What decides how fast a regression onto recorded actions becomes precise: inputs, head, rate and weights, one changed at a time.

  python benchmarks/imitation.py halfcheetah-medium-expert-open-v0.hdf5 --out runs/imitation
  python benchmarks/imitation.py DATA --out DIR --only as-iql,normalized --into docs/quick.md

The same network (2 x 256 ReLU) clones the data, all rows alike, by the recipe of IQL's policy and by changes of it; then with IQL's
weights, of the critic of its preset `quick`, and with the same weights given to other rows, which tells what they say from how
unequal they are. A tenth of the episodes is set aside; the error is that of the policy's mean on their actions, on the better and
the worse half of the episodes, the score that of the policy in the environment. Runs are kept in DIR; a stopped command goes on
where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import srpo
from srpo import config
from srpo.algorithms.iql import IQL, AdvantageWeightedPolicy
from srpo.cli import guarded
from srpo.config import setting, static
from srpo.core import Algorithm, Alone, Batch, Stage, TrainState, Updated, descend
from srpo.data import Dataset
from srpo.data.treatments import Treatment
from srpo.errors import ConfigError, closest
from srpo.losses import gaussian_log_prob
from srpo.networks.actors import GaussianActor
from srpo.networks.layers import Init, Normalizer
from srpo.optim import adam, cosine
from srpo.policies import GaussianPolicy
from srpo.runs.tables import metrics_table, write_csv
from srpo.suite.pages import check_place, insert, markdown, number
from srpo.suite.tables import rows_of

HOLDOUT = 0.1
COLUMNS = ("recipe", "seed", "error", "error_better", "error_worse", "log_prob", "log_std", "share", "score")


class Regression(Stage[Alone[GaussianActor], Batch, GaussianActor]):
    """IQL's policy with all weights one, and what may be another than there."""

    steps: int = static(15_000, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256), "widths of the hidden layers")
    normalized: bool = static(False, "observations with mean 0 and deviation 1")
    likelihood: bool = static(True, "the Gaussian's log-likelihood, not the squared error of its mean")
    decay: bool = static(True, "the rate falls to 0 along a cosine")
    layer_init: Init = static("orthogonal sqrt2", "initialization of the layers")
    log_std: float = setting(0.0, "the log standard deviation at the start", "[-5, 2]")
    lr: float = setting(3e-4, "learning rate (Adam)")

    def _optimizer(self):
        return adam(cosine(self.lr, self.steps) if self.decay else self.lr)

    def init(self, data, given, key) -> Alone[GaussianActor]:
        normalizer = Normalizer.of(data.moments("obs")) if self.normalized else None
        actor = GaussianActor(data.obs_size, data.action_size, self.hidden, key, normalizer, init=self.layer_init)
        actor = eqx.tree_at(lambda a: a.log_std, actor, actor.log_std + self.log_std)
        return TrainState.create(actor, self._optimizer())

    def update(self, state: Alone[GaussianActor], batch: Batch, given, key, step) -> Updated[Alone[GaussianActor]]:
        def loss(actor):
            mean, log_std = actor(batch.obs)
            error = jnp.mean((mean - batch.action) ** 2)
            log_prob = jnp.mean(gaussian_log_prob(batch.action, mean, log_std))
            return -log_prob if self.likelihood else error, {"error": error, "log_prob": log_prob}

        return descend(state, self._optimizer(), loss)

    def result(self, state: Alone[GaussianActor]) -> GaussianActor:
        return state.model


class Cloning(Algorithm):
    acts_with: ClassVar = ("policy",)

    data: Treatment = Treatment(clip_action=1 - 1e-5, holdout=HOLDOUT)
    policy: Regression = Regression()

    def make_policy(self, trained):
        return GaussianPolicy(trained["policy"])


class ShuffledWeightsPolicy(AdvantageWeightedPolicy):
    """IQL's with the weight of the row before: as unequal, and they say nothing of the row."""

    def weight(self, given, batch: Batch):
        return jnp.roll(super().weight(given, batch), 1)


class ShuffledIQL(IQL):
    policy: ShuffledWeightsPolicy = ShuffledWeightsPolicy()


RECIPES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "as-iql": ("IQL's policy with all weights one", {}),
    "narrow": ("its log standard deviation starts at -2", {"policy.log_std": -2.0}),
    "squared": ("squared error in place of the likelihood", {"policy.likelihood": False}),
    "constant": ("constant rate", {"policy.decay": False}),
    "faster": ("rate 1e-3", {"policy.lr": 1e-3}),
    "normalized": ("normalized observations", {"policy.normalized": True}),
    "normalized-faster": ("normalized observations, rate 1e-3", {"policy.normalized": True, "policy.lr": 1e-3}),
    "normalized-narrow": (
        "normalized observations, rate 1e-3, log standard deviation from -2",
        {"policy.normalized": True, "policy.lr": 1e-3, "policy.log_std": -2.0},
    ),
    "torch": (
        "normalized observations, rate 1e-3, layers as PyTorch starts them",
        {"policy.normalized": True, "policy.lr": 1e-3, "policy.layer_init": "torch"},
    ),
}
WEIGHTED: dict[str, tuple[str, type[Algorithm]]] = {
    "weighted": ("normalized observations, IQL's weights", IQL),
    "shuffled": ("the same, each weight on another row", ShuffledIQL),
}
TITLES = {name: about[0] for name, about in [*RECIPES.items(), *WEIGHTED.items()]}


def recipe(name: str, steps: int) -> Algorithm:
    if name in RECIPES:
        return config.assign_all(Cloning(), {"policy.steps": steps, **RECIPES[name][1]})
    algorithm = WEIGHTED[name][1]
    quick = config.preset(algorithm.presets, "quick", "")
    return config.assign_all(
        algorithm(), {**quick, "policy.lr": Regression().lr, "policy.steps": steps, "data.holdout": HOLDOUT}
    )


def trained(name: str, data: Dataset, args: argparse.Namespace) -> srpo.Run:
    """The evaluated run of a recipe, as it is or made now."""
    path = args.out / name
    if (path / "run.json").exists():
        run = srpo.load_run(path)
        run = run if run.complete else srpo.resume(path, data, quiet=True)
    else:
        critic = args.out / "weighted" if name == "shuffled" and (args.out / "weighted" / "run.json").exists() else None
        run = srpo.train(
            recipe(name, args.steps), data, seeds=args.seeds, out=path, start_from=critic, eval_every=0, quiet=True
        )
    if len(rows_of(run)) < args.seeds * args.episodes:
        srpo.evaluate(run, args.episodes)
    return srpo.load_run(path)


def measured(name: str, run: srpo.Run, held: Dataset) -> list[dict[str, Any]]:
    """Rows by seed: mean squared errors on the episodes set aside, and the mean score."""
    episode = np.repeat(np.arange(len(held.episodes)), np.diff(held.episodes)[:, 0])
    better = (held.returns >= np.median(held.returns))[episode]
    out = []
    for seed in run.seeds:
        actor = run.policy(seed=seed)
        error = np.concatenate([_errors(actor, *pair) for pair in zip(_pieces(held.obs), _pieces(held.action), strict=True)])
        last = {r["metric"]: r["value"] for r in _metrics(run, seed)}
        model = jax.tree.map(lambda x, i=run.seeds.index(seed): x[i, 0], run.results["policy"])
        scores = [float(r["score"]) for r in rows_of(run) if int(r["seed"]) == seed]
        row = {"recipe": name, "seed": seed, "error": error.mean(), "error_better": error[better].mean()}
        row |= {"error_worse": error[~better].mean(), "log_prob": float(last["log_prob"]), "score": np.mean(scores)}
        out.append(row | {"log_std": float(np.mean(model.log_std)), "share": float(last.get("effective_share", 1.0))})
    return out


def _pieces(x: np.ndarray) -> list[np.ndarray]:
    return np.array_split(x, -(-len(x) // 4096))


def _errors(policy, obs: np.ndarray, action: np.ndarray) -> np.ndarray:
    return np.mean((np.asarray(jax.vmap(policy.act)(jnp.asarray(obs, jnp.float32))) - action) ** 2, -1)


def _metrics(run: srpo.Run, seed: int) -> list[dict[str, str]]:
    return [r for r in metrics_table(run).read() if int(r["seed"]) == seed]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over seeds, a recipe a row."""
    cells = []
    for name in dict.fromkeys(r["recipe"] for r in rows):
        here = [r for r in rows if r["recipe"] == name]
        mean = {c: float(np.mean([r[c] for r in here])) for c in COLUMNS[2:]}
        scores = ", ".join(f"{r['score']:.1f}" for r in here)
        errors = [f"{mean[c]:.4f}" for c in ("error", "error_better", "error_worse")]
        cells.append(
            [
                TITLES[name],
                *errors,
                number(mean["log_prob"]),
                f"{mean['log_std']:.2f}",
                f"{mean['share']:.2f}",
                f"{mean['score']:.1f} ({scores})",
            ]
        )
    header = [
        "recipe",
        "squared error",
        "of the better half",
        "of the worse half",
        "log-likelihood",
        "log std",
        "effective share of the rows",
        "score (by seed)",
    ]
    return markdown(header, cells)


def run(args: argparse.Namespace) -> int:
    names = args.only.split(",") if args.only else list(TITLES)
    for name in names:
        if name not in TITLES:
            raise ConfigError(closest(name, TITLES, "recipe"))
    if args.into is not None:
        check_place(args.into, "imitation")
    srpo.register("imitation", Cloning)
    srpo.register("imitation-shuffled", ShuffledIQL)
    data = srpo.load_dataset(args.data)
    _, held = data.split(HOLDOUT)
    rows: list[dict[str, Any]] = []
    for name in names:
        rows += measured(name, trained(name, data, args), held)
        print(table(rows[-args.seeds :]).splitlines()[-1], file=sys.stderr, flush=True)
    write_csv(args.out / "imitation.csv", rows, COLUMNS)
    if args.into is not None:
        insert(args.into, "imitation", table(rows))
    print(table(rows))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a recording with an environment")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the runs, and imitation.csv")
    parser.add_argument("--only", metavar="NAMES", help=f"some of {', '.join(TITLES)}")
    for name, default in {"steps": 15_000, "seeds": 2, "episodes": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default {default}")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="replace the table in this page")
    args = parser.parse_args(argv)
    return guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
