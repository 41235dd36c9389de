"""The authors' TD3+BC fed with our start, rows and noise: how far the weights of both codes come apart.

  python benchmarks/authors_follow.py RUN --code CODE --task hopper-medium-replay-v2 --steps 1000

RUN is a run of td3-bc of ours with the preset authors-code, CODE a checkout of sfujim/TD3_BC (`authors.py` says how). Training magnifies
roundings, so beside the distance of the two codes stands that of two trainings of ours whose starts differ by 1e-7: codes that compute the
same come apart no faster. Distances are 2-norms of all differences, over the norm of our weights. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from authors import settings_of, transitions_of
from authors_code import Rows, Settings, code, set_rate

import srpo
from srpo.algorithms.td3_bc import TD3BCState
from srpo.cli import guarded
from srpo.data.treated import treat
from srpo.errors import ConfigError
from srpo.networks.layers import Linear
from srpo.steps import Log, advance, step_keys
from srpo.training.programs import stage_keys

SHOWN = {1, 2, 5} | {a * 10**n for n in range(1, 6) for a in (1, 2, 5)}  # steps
SHAKE = 1e-7

Weights = dict[str, list[np.ndarray]]  # as PyTorch has them


class Ours:
    """A training of ours."""

    def __init__(self, run: srpo.Run, data: srpo.Dataset, shake: float = 0.0):
        self.stage, self.view = run.algorithm.stages["policy"], treat(data, run.algorithm.data).transitions
        init, key = (keys[0] for keys in stage_keys("policy", run.seeds[:1]))
        self.state: TD3BCState = jax.jit(lambda key: self.stage.init(self.view, {}, key))(init)
        if shake:
            rng = np.random.default_rng(0)
            nets = self.state.q.model, self.state.actor.model.net
            shaken = jax.tree.map(lambda x: x * (1 + shake * rng.choice([-1.0, 1.0], x.shape)).astype(x.dtype), nets)
            self.state = eqx.tree_at(lambda s: (s.q.model, s.actor.model.net), self.state, shaken)

        @jax.jit
        def draw(step):
            k_rows, k_update = step_keys(key, step)
            rows = self.stage.draw(self.view, k_rows, step)
            return rows, jax.random.normal(k_update, (self.stage.batch_size, self.view.action_size))

        @jax.jit
        def advanced(state, start, stop):
            return advance(self.stage, state, Log.create([]), self.view, {}, key, start, stop)[0]

        self.draw: Callable[[Any], tuple[jax.Array, jax.Array]] = draw
        self._advanced, self._step = advanced, 0

    def train(self, stop: int) -> None:
        """Up to step `stop` (exclusive)."""
        self.state, self._step = self._advanced(self.state, jnp.int32(self._step), jnp.int32(stop)), stop

    def normalized(self, rows: Rows) -> Rows:
        """By our moments: theirs are added up in float32, and differ in the fourth digit."""
        see = self.state.actor.model.normalizer
        return rows | {name: np.asarray(see(rows[name])) for name in ("observations", "next_observations")}

    def weights(self) -> Weights:
        q, actor = self.state.q.model, self.state.actor.model
        return {"Q": arrays([layer for member in q.members for layer in member.layers]), "policy": arrays(actor.net.layers)}


def arrays(layers: Sequence[Linear]) -> list[np.ndarray]:
    return [np.asarray(x) for layer in layers for x in (layer.weight.T, layer.bias)]


class Theirs:
    """Their TD3_BC from our start; its batches and its noise are handed to it."""

    def __init__(self, module: Callable[[str], Any], start: Weights, rows: Rows, settings: Settings):
        """`rows` with normalized observations."""
        classes, utils = module("TD3_BC"), module("utils")
        self.torch, sizes = classes.torch, (rows["observations"].shape[1], rows["actions"].shape[1])
        self.model, self.memory = classes.TD3_BC(*sizes, 1.0, alpha=settings["policy.alpha"]), utils.ReplayBuffer(*sizes)
        set_rate(self.model.actor_optimizer, settings["policy.lr"])
        set_rate(self.model.critic_optimizer, settings["policy.lr"])
        for name, nets in (
            ("Q", (self.model.critic, self.model.critic_target)),
            ("policy", (self.model.actor, self.model.actor_target)),
        ):
            for net in nets:
                for place, value in zip(net.state_dict().values(), start[name], strict=True):
                    place.copy_(self.torch.as_tensor(value.copy()))
        self.memory.convert_D4RL(rows)

    def step(self, rows: np.ndarray, noise: np.ndarray) -> None:
        m = self.memory
        batch = [self.torch.as_tensor(np.float32(x[rows])) for x in (m.state, m.action, m.next_state, m.reward, m.not_done)]
        m.sample = lambda size: batch
        self.torch.randn_like = lambda like: self.torch.as_tensor(noise.copy())
        self.model.train(m, len(rows))

    def weights(self) -> Weights:
        nets = {"Q": self.model.critic, "policy": self.model.actor}
        return {name: [x.cpu().numpy() for x in net.state_dict().values()] for name, net in nets.items()}


def distance(found: Sequence[np.ndarray], ours: Sequence[np.ndarray]) -> float:
    a, b = (np.concatenate([x.ravel() for x in each]) for each in (found, ours))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def follow(args: argparse.Namespace) -> int:
    run = srpo.load_run(args.run)
    if run.info["algorithm"] != "td3-bc":
        raise ConfigError(f"{run.path}: found {run.info['algorithm']}, expected td3-bc")
    settings, data = settings_of(run, args.task), srpo.load_dataset(run.info["data"]["source"])
    ours, shaken = Ours(run, data), Ours(run, data, SHAKE)
    with code(args.code, {}) as module:
        theirs = Theirs(module, ours.weights(), ours.normalized(transitions_of(data)), settings)
        theirs.torch.set_num_threads(1)
        original = theirs.torch.randn_like
        try:
            print(f"step   theirs: Q  policy   ours, {SHAKE:g} apart: Q  policy", file=sys.__stdout__)
            for step in range(args.steps):
                theirs.step(*map(np.asarray, ours.draw(jnp.int32(step))))
                if step + 1 in SHOWN:
                    ours.train(step + 1)
                    shaken.train(step + 1)
                    mine = ours.weights()
                    told = [f"{distance(o.weights()[n], mine[n]):.1e}" for o in (theirs, shaken) for n in mine]
                    print(f"{step + 1:<6} {'  '.join(told)}", file=sys.__stdout__, flush=True)
        finally:
            theirs.torch.randn_like = original
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run of td3-bc, trained or begun")
    parser.add_argument("--code", type=Path, required=True, metavar="FOLDER", help="checkout of sfujim/TD3_BC")
    parser.add_argument(
        "--task", required=True, metavar="TASK", help="D4RL's task of the same kind, such as hopper-medium-replay-v2"
    )
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args(argv)
    return guarded(lambda: follow(args))


if __name__ == "__main__":
    sys.exit(main())
