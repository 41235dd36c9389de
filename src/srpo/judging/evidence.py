"""What the data say of a panel of policies: fitted Q values, and checks on episodes that nobody trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from srpo.config import static
from srpo.core import Batch
from srpo.data.recording import Dataset
from srpo.data.treated import Treated, treat
from srpo.data.treatments import Treatment
from srpo.data.windows import values_to_go
from srpo.diffusion.likelihood import likelihood_bound
from srpo.diffusion.solver import Solver
from srpo.judging.fitted_q import FittedQ, ScaledQ, fit_each, fit_one
from srpo.judging.model import FittedModel, Known, imagine
from srpo.judging.panel import Panel
from srpo.losses import backup
from srpo.networks.layers import Normalizer
from srpo.policies import DiffusionPolicy
from srpo.runs.mapping import default_mapping, entry
from srpo.runs.run import Run
from srpo.runs.units import Normalized
from srpo.stages.diffusion_behavior import DiffusionBehavior

Progress = Callable[[str, int, int], None]  # what is being done, how far, of how much
HORIZON_LEFT = 0.05  # returns to go are known where the discount leaves at most this of what was not recorded


class Judging(eqx.Module):
    """How policies are judged; every field is a setting of `srpo judge --set`."""

    q: FittedQ = FittedQ()
    behavior: DiffusionBehavior = DiffusionBehavior(
        steps=5_000, batch_size=256, width=64, parametrization="preconditioned", lr=1e-3
    )
    model: FittedModel = FittedModel()
    rows: int = static(30_000, "transitions that Q is fitted to, drawn from those that were trained on if there are more")
    held_rows: int = static(5_000, "held-out transitions that are looked at, drawn if there are more")
    states: int = static(500, "held-out states at which the likelihood of actions is measured")


@dataclass(frozen=True)
class Evidence:
    """Arrays with a leading axis over the policies; the last entry is the behavior itself."""

    start_value: Float[np.ndarray, "policies members episodes"]  # at the first states of the held-out episodes
    value: Float[np.ndarray, "policies members drawn"]  # mean over the states of each held-out episode that some were drawn of
    td_error: Float[np.ndarray, " policies"]  # root mean square on held-out transitions, in deviations of the returns
    likelihood: Float[np.ndarray, "policies states"]  # at most log mu(pi(s) | s), in nats
    returns: Float[np.ndarray, " episodes"]  # discounted, of the held-out episodes: what the behavior's value should be
    settled: Bool[np.ndarray, " episodes"]  # whether an episode's end, or its length, settles its return
    slope: float  # of held-out returns to go against the behavior's Q: 1 if it is calibrated
    correlation: float  # of the two
    loose: Float[np.ndarray, "policies members starts"]  # return in the learned model, not discounted
    known: Float[np.ndarray, "policies members starts"]  # the steps of it of which something is known
    doubt: Float[np.ndarray, "policies members starts"]  # how much the members disagree along the way, a mean over steps
    horizon: int  # steps that policies were let loose for, at most
    record: float  # the largest return of a recorded episode, not discounted


class Split:
    """The transitions that Q is fitted to and the held-out ones, each with the action that the behavior took next."""

    def __init__(self, data: Dataset, holdout: float, judging: Judging):
        """`holdout`: the fraction of the episodes that no policy was trained on."""
        seen, aside = data.split(holdout)
        if aside is None:
            raise ValueError(f"{data.source}: no episode is set aside, so there is nothing to judge by")
        self.name, self.aside = data.name, aside
        self.fitted: dict[str, Any] = {}  # what was fitted to the data alone, for the next policies
        rng = np.random.default_rng(0)
        treated = treat(seen)
        self.train, self.train_next, _ = _some(treated, judging.rows, rng)
        self.held, self.held_next, self.held_rows = _some(treat(self.aside), judging.held_rows, rng)
        first, stop = self.aside.episodes.T
        of_row = np.searchsorted(stop, self.held_rows, "right")
        _, self.episode, self.drawn = np.unique(of_row, return_inverse=True, return_counts=True)  # of each row; rows of each
        self.start, self.start_action = self.aside.obs[first], self.aside.action[first]
        self.states = np.sort(rng.permutation(len(self.held.reward))[: judging.states])
        discount = judging.q.discount
        self.to_go = values_to_go(self.aside.reward, self.aside.episodes, self.aside.ended, discount, 0.0)
        self.returns = self.to_go[first]
        left = np.repeat(stop, stop - first) - np.arange(len(self.aside))
        self.settled = np.repeat(self.aside.ended, stop - first) | (discount**left <= HORIZON_LEFT)  # rows whose to_go is known
        train_to_go = values_to_go(seen.reward, seen.episodes, seen.ended, discount, 0.0)
        self.mean, self.std = float(train_to_go.mean()), float(max(train_to_go.std(), 1e-6))
        self.many, _, _ = _some(treated, judging.model.rows, np.random.default_rng(1))
        spread = np.linspace(0, len(first) - 1, min(judging.model.starts, len(first))).astype(int)
        self.loose_from = jnp.asarray(self.start[spread])
        self.record = float(data.returns.max())
        self.horizon = min(judging.model.horizon, int(np.diff(data.episodes).max()))


def _some(treated: Treated, most: int, rng: np.random.Generator) -> tuple[Batch, np.ndarray, np.ndarray]:
    """At most so many transitions, the recorded actions that followed them, and their rows."""
    chosen = np.sort(rng.permutation(treated.n_transitions)[:most])
    taken, rows = treated.all_transitions.take(chosen), treated.rows(chosen)
    batch = jax.device_put(taken)._replace(index=jax.device_put(np.arange(len(chosen), dtype=np.int32)))
    data = treated.recording
    return batch, data.action[np.minimum(rows + 1, len(data) - 1)], rows


def gather(split: Split, panel: Panel, runs: Sequence[Run], judging: Judging, progress: Progress) -> Evidence:
    """Everything that is measured."""
    k_act, k_q, k_behavior, k_noise = jax.random.split(jax.random.key(0), 4)

    def acts(obs, recorded, what: int):
        progress("what the policies do", what, 4)
        return np.concatenate([panel.act(np.asarray(obs), jax.random.fold_in(k_act, what)), np.asarray(recorded)[None]])

    next_action = acts(split.train.next_obs, split.train_next, 0)
    held = split.held
    actions = {
        "here": acts(held.obs, held.action, 1),
        "after": acts(held.next_obs, split.held_next, 2),
        "start": acts(split.start, split.start_action, 3),
    }
    q = _fit(split, next_action, judging.q, k_q, progress)
    looked = _look(q, actions, split.start, held, split.episode, split.drawn, judging.q.discount)
    start_value, value, td_error = jax.device_get(looked)
    behavior, see = _behavior(runs, split, judging.behavior, k_behavior, progress)
    likelihood = np.asarray(_likelihood(behavior, actions["here"][:, split.states], see(held.obs[split.states]), k_noise))
    own = np.asarray(_values(entry(q, -1), held)).mean(0)
    slope, correlation = _calibration(split, own)
    clone = DiffusionPolicy(behavior, Solver(order=1, evaluations=10))
    cloned = Normalized(see, clone) if isinstance(see, Normalizer) else clone
    loose, known, doubt = let_loose(split, panel, cloned, judging.model, jax.random.fold_in(k_behavior, 1), progress)
    error = td_error / split.std
    return Evidence(
        start_value,
        value,
        error,
        likelihood,
        split.returns,
        split.settled[split.aside.episodes[:, 0]],
        slope,
        correlation,
        loose,
        known,
        doubt,
        split.horizon,
        split.record,
    )


def let_loose(split: Split, panel: Panel, cloned: Any, stage: FittedModel, key, progress: Progress) -> tuple[np.ndarray, ...]:
    """What all policies, and as the last one the behavior as `cloned`, come to in a model of what was recorded, for how many
    steps that is known, and the doubt along the way; each (policies, members, starts)."""
    k_model, k_act = jax.random.split(key)
    if "model" not in split.fitted:
        given, told = {"start": stage.fresh(split.many, k_model)}, "a model of the data"
        split.fitted["model"] = fit_one(stage, split.many, given, k_model, lambda step: progress(told, step, stage.steps))
    model = split.fitted["model"]
    known, found = Known.of(model, split.many, split.held), []
    groups = [*panel.groups, entry(cloned, None)]
    for i, group in enumerate(groups):
        progress("policies let loose in it", i, len(groups))
        found.append(jax.device_get(imagine(model, group, split.loose_from, known, k_act, split.horizon)))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _fit(split: Split, next_action: np.ndarray, stage: FittedQ, key, progress: Progress) -> ScaledQ:
    """The Q of every policy, each started at that of the behavior."""
    obs, returns = Normalizer.of(split.train.moments("obs")), Normalizer(jnp.float32(split.mean), jnp.float32(split.std))
    fresh = stage.fresh(obs, returns, next_action.shape[-1], key)
    given = {"start": fresh, "next_action": jnp.asarray(next_action[-1])}
    if "q" not in split.fitted:
        told = "Q of the behavior"
        split.fitted["q"] = fit_one(stage, split.train, given, key, lambda step: progress(told, step, stage.steps))
    shared, each, what = (
        {"start": split.fitted["q"]},
        {"next_action": jnp.asarray(next_action)},
        f"Q of {len(next_action) - 1} policies",
    )
    return fit_each(stage, split.train, shared, each, key, lambda step: progress(what, step, stage.steps))


@jax.jit
def _values(q: ScaledQ, batch: Batch) -> Float[Array, "members N"]:
    return q(batch.obs, batch.action)


@jax.jit
def _look(q: ScaledQ, actions: dict[str, Array], start: Array, held: Batch, episode: Array, drawn: Array, discount):
    """Values at the starts and everywhere, and the error of one step, of every policy. episode: of each row of `held`; drawn: how
    many rows each has there."""

    def one(q, actions):
        here = q(held.obs, held.action)
        error = backup(held.reward, held.mask, q(held.next_obs, actions["after"]), discount) - here
        rms = jnp.sqrt(jnp.mean(jnp.mean(error, 0) ** 2))
        values = jax.vmap(lambda x: jnp.bincount(episode, x, length=len(drawn)))(q(held.obs, actions["here"]))
        return q(start, actions["start"]), values / drawn, rms

    return default_mapping()(one, [True, True])(q, actions)


def _behavior(runs: Sequence[Run], split: Split, stage: DiffusionBehavior, key, progress: Progress):
    """A diffusion model of the behavior, and how it sees observations: one that a run has, or one trained now."""
    for run, name, at in _models(runs):
        return entry(run.results[name], at), run.units.normalizer or (lambda obs: obs)
    train = split.train
    see = Normalizer.of(train.moments("obs"))
    if "behavior" not in split.fitted:
        seen = train._replace(obs=see(train.obs), next_obs=see(train.next_obs))
        split.fitted["behavior"] = fit_one(stage, seen, {}, key, lambda step: progress("behavior", step, stage.steps))
    return split.fitted["behavior"], see


def _models(runs: Sequence[Run]) -> Iterator[tuple[Run, str, tuple[int, int]]]:
    """The diffusion models of the behavior that runs have, each with where in its result one is that did not fail."""
    for run in runs:
        alive = [(s, point) for s, seed in enumerate(run.seeds) for point in run.points if not run.failed(seed, point)]
        for name, stage in run.algorithm.stages.items():
            trained = isinstance(stage, DiffusionBehavior) and run.stage_file(name).exists()
            if trained and alive and _of_all(run.algorithm.data):
                yield run, name, (alive[0][0], run.grid.where(name, alive[0][1]))


def _of_all(treatment: Treatment) -> bool:
    """Whether who trains on data so treated sees all episodes, and actions as they were recorded."""
    return treatment.best_fraction == 1 and treatment.episodes == "all" and treatment.clip_action == 1


@jax.jit
def _likelihood(behavior, actions: Float[Array, "policies N act"], obs: Float[Array, "N obs"], key):
    return jax.lax.map(lambda action: likelihood_bound(behavior, behavior.schedule, action, obs, key), actions)


def _calibration(split: Split, q: np.ndarray) -> tuple[float, float]:
    """Slope and correlation of returns to go against Q, where what was recorded settles them."""
    rows = split.settled[split.held_rows]
    x, y = q[rows], split.to_go[split.held_rows][rows]
    if len(x) < 2 or x.std() == 0 or y.std() == 0:
        return float("nan"), float("nan")
    correlation = float(np.corrcoef(x, y)[0, 1])
    return correlation * float(y.std() / x.std()), correlation
