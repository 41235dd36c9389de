"""How far SRPO's policy is from what it is trained towards, and what is lost by that.

  python benchmarks/optimum.py RUN --data FILE --out optimum.csv
  python benchmarks/optimum.py RUN --data FILE --out optimum.csv --episodes 6     # lets the optimum act as well: minutes a seed

Training moves the action of each state along eq. 15 until it vanishes. Where it does is found here for one state at a time, by descent
on the action itself with many diffusion times at once, from the policy's action: the optimum of the same critic, behavior model and
temperature, with no network between. On evenly spaced recorded states, by episodes of the better and the worse half: the squared
error on the recorded action, the squared distance from policy to optimum, and Q's gain over the recorded action.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

import srpo
from srpo.algorithms.srpo import SRPO, ScoreRegularizedPolicy
from srpo.cli import guarded
from srpo.data import Dataset
from srpo.data.reference import normalized
from srpo.errors import ConfigError
from srpo.evaluation.rollouts import Rollouts
from srpo.evaluation.scores import environment_of, limit_of, reference_in
from srpo.networks.actors import DeterministicActor
from srpo.optim import adam, cosine
from srpo.policies import DeterministicPolicy, each
from srpo.runs.mapping import entry
from srpo.runs.run import Run
from srpo.runs.tables import write_csv
from srpo.stages.score_regularized import policy_direction
from srpo.suite.pages import markdown
from srpo.training.progress import Bars

STEPS, DRAWS, RATE = 50, 16, 0.03
COLUMNS = ("seed", "acts", "half", "error", "distance", "q_gain", "score")


class Optimum(eqx.Module):
    """Acts where eq. 15 vanishes."""

    critic: Any
    behavior: Any
    actor: DeterministicActor  # where the descent starts
    beta: ScalarLike
    stage: ScoreRegularizedPolicy = eqx.field(static=True)

    def act(self, obs: Float[Array, "... obs"], key: PRNGKeyArray) -> Float[Array, "... act"]:
        return each(self._one, obs, key)

    def _one(self, obs: Float[Array, " obs"], key: PRNGKeyArray) -> Float[Array, " act"]:
        optimizer = adam(cosine(RATE, STEPS))

        def step(carry, key):
            action, state = carry
            change, state = optimizer.update(self._direction(obs, action, key), state)
            return (jnp.clip(action + change, -1.0, 1.0), state), None

        start = self.actor(obs)
        return jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, STEPS))[0][0]

    def _direction(self, obs, action, key):
        """The mean over `DRAWS` noises, each at a time of its own part of the range."""
        k_time, k_noise = jax.random.split(key)
        low, high = self.stage.min_time, self.stage.max_time
        part = (jnp.arange(DRAWS) + jax.random.uniform(k_time, (DRAWS,))) / DRAWS
        several = (jnp.broadcast_to(x, (DRAWS, *x.shape)) for x in (obs, action))
        directions = policy_direction(
            self.critic,
            self.behavior,
            self.behavior.schedule,
            *several,
            low + (high - low) * part,
            jax.random.normal(k_noise, (DRAWS, *action.shape)),
            beta=self.beta,
            weight=self.stage.weight,
            normalize=self.stage.normalize,
        )
        return jnp.mean(directions, 0)


def optimum_of(run: Run) -> Optimum:
    """Of every seed, with leading axes (seed, 1). Raises ConfigError for a run that is not one of SRPO at one temperature."""
    if not isinstance(run.algorithm, SRPO) or run.points != [()]:
        found = run.info["algorithm"] + (" with swept values" if run.points != [()] else "")
        raise ConfigError(f"{run.path}: found {found}, expected srpo without any; train with --set policy.beta=VALUE")
    stage, given = run.algorithm.policy, run.results
    beta = jnp.full((len(run.seeds), 1), stage.beta)
    return Optimum(given["critic"], given["behavior"], given["policy"], beta, stage)


def measured(run: Run, optimum: Optimum, data: Dataset, states: int) -> list[dict[str, Any]]:
    """Rows by seed, who acts, and half of the episodes."""
    rows = np.linspace(0, len(data) - 1, min(states, len(data))).astype(int)
    returns = np.full(len(data.episodes), np.nan)  # of those that are not whole, which are in no half
    returns[data.complete] = data.returns
    of_row = returns[np.searchsorted(data.episodes[:, 1], rows, side="right")]
    halves = {"better": of_row >= np.median(data.returns), "worse": of_row < np.median(data.returns)}
    obs, recorded = jnp.asarray(data.obs[rows], jnp.float32), jnp.asarray(data.action[rows])
    obs = obs if run.units.normalizer is None else run.units.normalizer(obs)
    act = jax.jit(lambda one, obs: one.act(obs, jax.random.key(0)))
    out = []
    for i, seed in enumerate(run.seeds):
        one = entry(optimum, (i, 0))
        best, q = act(one, obs), jnp.mean(one.critic.q_target(obs, recorded), 0)
        for acts, action in {"policy": one.actor(obs), "optimum": best}.items():
            found = {
                "error": jnp.mean((action - recorded) ** 2, -1),
                "distance": jnp.mean((action - best) ** 2, -1),
                "q_gain": jnp.mean(one.critic.q_target(obs, action), 0) - q,
            }
            for half, chosen in halves.items():
                means = {name: float(np.mean(np.asarray(values)[chosen])) for name, values in found.items()}
                out.append({"seed": seed, "acts": acts, "half": half, **means})
    return out


def scores(run: Run, policies: Any, episodes: int, name: str) -> dict[int, float]:
    """Mean normalized score of policies with leading axes (seed, 1) in the environment of the data, by seed."""
    env_id = environment_of(run)
    reference = reference_in(run, env_id)
    if reference is None:
        raise ConfigError(f"{run.path}: its data have no reference returns, by which scores are normalized")
    shape = (len(run.seeds), 1)
    rollouts = Rollouts(env_id, shape, episodes, units=run.units, limit=limit_of(run, env_id, None))
    with Bars() as bars:
        bars.open(name, 1000)
        found = rollouts(run.units.around(policies, shape), progress=bars.update)
    rollouts.close()
    return {
        seed: float(np.mean([normalized(r, reference) for r in returns]))
        for seed, returns in zip(run.seeds, found.returns[:, 0], strict=True)
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each seed and who acts; `rows` have the two halves one after the other."""
    cells = []
    forms = {"error": ".4f", "distance": ".4f", "q_gain": "+.2f"}
    for better, worse in zip(rows[::2], rows[1::2], strict=True):
        told = [f"{better[name]:{form}} / {worse[name]:{form}}" for name, form in forms.items()]
        cells.append([better["seed"], better["acts"], *told, f"{better['score']:.1f}" if "score" in better else "-"])
    return markdown(
        ["seed", "acts", "error, better / worse half", "distance to the optimum", "gain in Q", "score"], cells, text=2
    )


def run(args: argparse.Namespace) -> int:
    trained, data = srpo.load_run(args.run), srpo.load_dataset(args.data)
    optimum = optimum_of(trained)
    rows = measured(trained, optimum, data, args.states)
    if args.episodes:
        actors = DeterministicPolicy(trained.results["policy"])
        who = {"policy": actors, "optimum": optimum}
        found = {name: scores(trained, policies, args.episodes, name) for name, policies in who.items()}
        rows = [row | {"score": found[row["acts"]][row["seed"]]} for row in rows]
    write_csv(args.out, rows, COLUMNS)
    print(table(rows))
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of SRPO, with its critic and behavior model")
    parser.add_argument("--data", type=Path, required=True, help="the recording that it was trained on")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="what was measured")
    parser.add_argument("--states", type=int, default=2000, metavar="N", help="recorded states (default 2000)")
    parser.add_argument("--episodes", type=int, default=0, metavar="N", help="also act, policy and optimum, so many episodes")
    args = parser.parse_args(argv)
    return guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
