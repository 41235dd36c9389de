"""The three ideas of this library.

An algorithm is a few named stages; a stage is `init` and a pure `update`; one loop (`srpo.steps`) runs any stage; what
comes out is a policy with one `act`. Everything here is a pytree whose leaves are arrays (or floats, in
the settings of a stage), so that plain `jax.jit`, `vmap`, `grad` and `lax` loops work everywhere.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar, overload, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, ScalarLike

from srpo import config
from srpo.errors import ConfigError

M = TypeVar("M")
T = TypeVar("T")  # of TrainState: M, or None
S = TypeVar("S")
B = TypeVar("B")
R = TypeVar("R")
B_co = TypeVar("B_co", covariant=True)
Metrics = dict[str, Array]
Given = Mapping[str, Any]
Step = Int[Array, ""]
Updated = tuple[S, Metrics]  # what a step gives
Moments = tuple[Float[Array, " columns"], Float[Array, " columns"]]  # mean, standard deviation


class Batch(NamedTuple):
    """Transitions. A data set is a Batch with leading axis N, a minibatch one with leading axis B."""

    obs: Float[Array, "... obs"]
    action: Float[Array, "... act"]  # in [-1, 1]
    reward: Float[Array, "..."]
    next_obs: Float[Array, "... obs"]
    mask: Float[Array, "..."]  # 0 where the episode terminated, 1 elsewhere (time-outs included)
    index: Int[Array, "..."]  # type: ignore[assignment]  # row in the data set, for per-row tables (hides a tuple's method)
    next_action: Float[Array, "... act"] | None = None  # of the next row, in the view `sarsa`; nothing where mask is 0

    # all of a data set is a view of itself

    @property
    def n_rows(self) -> int:
        return self.index.shape[0]

    @property
    def obs_size(self) -> int:
        return self.obs.shape[-1]

    @property
    def action_size(self) -> int:
        return self.action.shape[-1]

    def rows(self, key: PRNGKeyArray, size: int) -> Int[Array, " B"]:
        return uniform_rows(key, size, self.n_rows)

    def take(self, rows: Int[Array, "..."]) -> Batch:
        return jax.tree.map(lambda x: x[rows], self)

    def moments(self, field: str) -> Moments:
        x = getattr(self, field)
        mean, std = jnp.mean(x, 0), jnp.std(x, 0)
        size = jnp.max(jnp.abs(x - mean), 0)  # squares of small numbers would underflow
        careful = size * jnp.std((x - mean) / jnp.where(size > 0, size, 1.0), 0)
        return mean, jnp.where(std < 1e-15, careful, std)


def uniform_rows(key: PRNGKeyArray, size: int, n: int) -> Int[Array, " size"]:
    """`size` of the rows 0 to n - 1, drawn independently and uniformly."""
    return jax.random.randint(key, (size,), 0, n, jnp.int32)


@runtime_checkable
class View(Protocol[B_co]):
    """What a stage draws its batches from: `rows` says which ones, from nothing but a key and how many there are; `take` gathers them."""

    @property
    def n_rows(self) -> int: ...
    @property
    def obs_size(self) -> int: ...
    @property
    def action_size(self) -> int: ...
    def rows(self, key: PRNGKeyArray, size: int) -> Int[Array, " B"]: ...
    def take(self, rows: Int[Array, " B"]) -> B_co: ...
    def moments(self, field: str) -> Moments:
        """Mean and standard deviation of each column of "obs" or "action" over all rows."""


class Frozen(eqx.Module):
    """An array inside a model that no optimizer may touch."""

    value: Array


def _trainable(model):
    spec = jax.tree.map(lambda x: not isinstance(x, Frozen), model, is_leaf=lambda x: isinstance(x, Frozen))
    return eqx.partition(model, spec)


def _require_arrays(model: Any) -> None:
    for path, leaf in jax.tree.leaves_with_path(model):
        if not eqx.is_array_like(leaf):
            found = f"{type(leaf).__name__} at {type(model).__name__}{jax.tree_util.keystr(path)}"
            raise ConfigError(f"found {found}, expected arrays; make it eqx.field(static=True), or take srpo.networks.layers")


class TrainState(eqx.Module, Generic[M, T]):
    """One network under training. `target` is a moving average of `model` (`Followed`), or None (`Alone`)."""

    model: M
    target: T
    opt_state: optax.OptState

    @overload
    @classmethod
    def create(cls, model: M, tx: optax.GradientTransformation, target: Literal[False] = False) -> TrainState[M, None]: ...
    @overload
    @classmethod
    def create(cls, model: M, tx: optax.GradientTransformation, target: Literal[True]) -> TrainState[M, M]: ...
    @overload
    @classmethod
    def create(cls, model: M, tx: optax.GradientTransformation, target: bool) -> TrainState[M, M | None]: ...
    @classmethod
    def create(cls, model: Any, tx: optax.GradientTransformation, target: bool = False) -> Any:
        """Raises ConfigError for a model with a leaf that is no array."""
        _require_arrays(model)
        return TrainState(model, model if target else None, tx.init(_trainable(model)[0]))

    def follow(self, rate: ScalarLike, due: Bool[Array, ""] | None = None) -> TrainState[M, T]:
        """The same, `target` moved towards `model` by the fraction `rate`; only where it is `due`, if that is said."""

        def moved() -> T:
            return average(self.target, self.model, rate)

        target = moved() if due is None else lax.cond(due, moved, lambda: self.target)
        return TrainState(self.model, target, self.opt_state)


Alone = TrainState[M, None]
Followed = TrainState[M, M]


def descend(
    state: TrainState[M, T],
    tx: optax.GradientTransformation,
    loss: Callable[[M], tuple[Array, Metrics]],
    ema: ScalarLike | None = None,
) -> Updated[TrainState[M, T]]:
    """One step of `tx` down the gradient of `loss(model)`; with `ema`, the target then follows at that rate."""
    params, frozen = _trainable(state.model)
    grads, metrics = jax.grad(lambda p: loss(eqx.combine(p, frozen)), has_aux=True)(params)
    updates, opt_state = tx.update(grads, state.opt_state, params)
    model = eqx.combine(optax.apply_updates(params, updates), frozen)
    state = TrainState(model, state.target, opt_state)
    return state if ema is None else state.follow(ema), metrics


def average(target: T, model: Any, rate: ScalarLike) -> T:
    """Exponential moving average: `target` moved towards `model` by the fraction `rate`."""
    return jax.tree.map(lambda t, m: t + rate * (m - t), target, model)


@runtime_checkable
class Policy(Protocol):
    """What training produces: a pytree that acts on one observation, or on any leading axes of them."""

    def act(self, obs: Float[Array, "... obs"], key: PRNGKeyArray | None = None) -> Float[Array, "... act"]: ...


class Stage(eqx.Module, Generic[S, B, R]):
    """One training phase; its fields are its hyper-parameters. Generic in its state, its batches and its result.

    `needs` names the results of earlier stages that it reads through `given`. `update` must be pure and
    take everything random from `key`; `step` counts from 0.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    trains: ClassVar[bool] = True  # False: its steps fill a table, and no budget of training counts them
    steps: eqx.AbstractVar[int]
    batch_size: eqx.AbstractVar[int]

    def view(self, dataset: Any) -> View[B]:
        """What the stage draws from: transitions, unless it says otherwise."""
        return dataset.transitions

    def draw(self, view: View[B], key: PRNGKeyArray, step: Int[Array, ""]) -> Int[Array, " B"]:
        """Which rows of its view a step takes: drawn at random, unless the stage says otherwise."""
        return view.rows(key, self.batch_size)

    @abc.abstractmethod
    def init(self, data: Any, given: Given, key: PRNGKeyArray) -> S:
        """The state before the first step: a pytree of arrays."""

    @abc.abstractmethod
    def update(self, state: S, batch: B, given: Given, key: PRNGKeyArray, step: Step) -> Updated[S]:
        """One step."""

    @abc.abstractmethod
    def result(self, state: S) -> R:
        """The frozen thing that later stages and the policy see."""


class Trial(NamedTuple):
    """A training of seconds, by which the tests try what every algorithm owes its user."""

    settings: Mapping[str, Any]  # what makes it tiny, by path
    sweep: tuple[str, float, float]  # two values of a setting of the last stage, or of how it acts
    falls: tuple[str, ...]  # "stage.metric": what training lowers


class Algorithm(eqx.Module):
    """Its stages, as fields in training order: that is the whole recipe.

    `acts_with` names the stages whose results `make_policy` reads; all of them if it does not say.
    """

    title: ClassVar[str] = ""  # as papers print it; the class's name if there is none
    acts_with: ClassVar[tuple[str, ...]] = ()
    acts_by: ClassVar[Literal["one pass", "candidates", "diffusion", "other"]] = "other"  # what an action costs follows from it
    trial: ClassVar[Trial | None] = None
    presets: ClassVar[Mapping[str, config.Tasks]] = {"paper": {}}
    renamed: ClassVar[Mapping[str, str]] = {}  # what earlier versions called settings, by path: run folders still load
    data: eqx.AbstractVar[Any]  # a `srpo.data.treatments.Treatment`: how it wants the recorded data

    @abc.abstractmethod
    def make_policy(self, trained: Given) -> Policy:
        """The policy, from the results of the stages in `acts_with` by name."""

    @classmethod
    def default(cls) -> Algorithm:
        """With every setting at its default."""
        return cls()  # type: ignore[call-arg]  # an AbstractVar looks like a field without a default

    @property
    def stages(self) -> dict[str, Stage]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Stage)}

    def set(self, path: str, value: Any) -> Algorithm:
        """A copy with the setting at `path` (such as "policy.beta") replaced. Raises ConfigError."""
        return config.assign(self, path, value)
