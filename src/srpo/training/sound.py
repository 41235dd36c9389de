"""What an algorithm of another package owes training, tried on shapes alone: nothing is computed, and nothing is written before.

The library's own are tried by its tests. What goes wrong in another's code is said in one line that names the stage, the
function and the line of that code; the exception is its cause.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import srpo
from srpo import algorithms
from srpo.core import Stage
from srpo.data.sizes import ShapeOnly
from srpo.data.treated import Treated
from srpo.errors import ConfigError, UserError
from srpo.runs.grid import Grid
from srpo.runs.schema import require_metrics
from srpo.text import NAME, plain, said

PACKAGES = tuple(str(Path(str(package.__file__)).parent) + os.sep for package in (srpo, eqx, jax, np, optax))


def require_sound(grid: Grid, data: Treated) -> None:
    """Raises ConfigError where a stage or a policy of another package's algorithm is not what training takes."""
    if "class" not in algorithms.origin(grid.algorithm):
        return
    obs, action = data.recording.obs_size, data.recording.action_size
    known = {"rows": len(data.recording), "transitions": data.n_transitions, "obs_size": obs, "action_size": action}
    sizes = ShapeOnly(known, grid.algorithm.data)  # by which the run is read back
    results: dict[str, Any] = {}
    for name, stage in grid.algorithm.stages.items():
        given = {need: results[need] for need in stage.needs}
        alone = jax.tree.map(lambda x: x[0], grid.stacked_stage(name))
        results[name] = _result(f"stage {name}", alone, sizes, stage.view(data), given)
    _check_policy(grid, results, obs, action)


def _result(who: str, stage: Stage, sizes: Any, view: Any, given: dict[str, Any]) -> Any:
    """The shapes of what a stage leaves."""
    key, step = jax.random.key(0), jnp.zeros((), jnp.int32)

    def init(stage, given, key):
        return stage.init(stage.view(sizes), given, key)

    def draw(stage, view, key, step):
        return view.take(stage.draw(view, key, step))

    def update(stage, state, batch, given, key, step):
        return stage.update(state, batch, given, key, step)

    def result(stage, state):
        return stage.result(state)

    state = _shapes(f"{who}: init", init, stage, given, key)
    batch = _shapes(f"{who}: draw", draw, stage, view, key, step)
    found = _shapes(f"{who}: update", update, stage, state, batch, given, key, step)
    _check_update(who, state, found)
    return _shapes(f"{who}: result", result, stage, state)


def _shapes(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """The shapes of what a function of another package gives. Raises ConfigError for whatever goes wrong in it."""

    def checked(*args: Any) -> Any:
        given = function(*args)
        for path, leaf in jax.tree.leaves_with_path(given):
            if not eqx.is_array_like(leaf):
                at = jax.tree_util.keystr(path)
                raise ConfigError(f"{what} gave {type(leaf).__name__} at {at or 'its top'}, expected a tree of arrays alone")
        return given

    try:
        return jax.eval_shape(checked, *args)
    except (UserError, MemoryError):
        raise
    except Exception as e:
        raise ConfigError(f"{what} failed ({plain(said(e), 200)}{_place(e)}); mend it") from e


def _place(error: Exception) -> str:
    """The line of another package's code in which it happened."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(PACKAGES)]
    theirs = [f for f in frames if Path(f.filename).parent != Path(os.__file__).parent]
    return f", {plain(Path(theirs[-1].filename).name, NAME)} line {theirs[-1].lineno}" if theirs else ""


def _check_update(who: str, state: Any, found: Any) -> None:
    """Raises ConfigError unless it is (the state as init shapes it, metrics: one number each, by plain names)."""
    if not (type(found) is tuple and len(found) == 2 and isinstance(found[1], dict)):
        given = f"({', '.join(type(part).__name__ for part in found)})" if type(found) is tuple else type(found).__name__
        raise ConfigError(f"{who}: update gave {given}, expected the next state and a dict of metrics")
    after, metrics = found
    if len({jax.tree.structure(state), jax.tree.structure(after)}) > 1:
        raise ConfigError(
            f"{who}: update gave another structure of state than init; give back what it was given, with other numbers"
        )
    for (path, old), new in zip(jax.tree.leaves_with_path(state), jax.tree.leaves(after), strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            at = jax.tree_util.keystr(path)
            raise ConfigError(f"{who}: state{at} is {_array(old)} after init and {_array(new)} after update, expected the same")
    require_metrics(who, tuple(metrics))
    for name, value in metrics.items():
        if value.shape != ():
            raise ConfigError(f"{who}: metric {name} is {_array(value)}, expected one number, such as its mean")


def _check_policy(grid: Grid, results: dict[str, Any], obs: int, action: int) -> None:
    """Raises ConfigError unless what make_policy gives acts on one observation, and on several at once."""
    algorithm = grid.at(grid.points[0])
    policy = _shapes("make_policy", algorithm.make_policy, {name: results[name] for name in grid.acting})
    if not callable(getattr(policy, "act", None)):
        raise ConfigError(f"make_policy gave {type(policy).__name__}, expected a policy, with act(obs, key=None)")

    def act(policy, obs, key):
        return policy.act(obs, key)

    for lead in ((), (action + 2,)):  # as many as no action has numbers
        seen = jax.ShapeDtypeStruct((*lead, obs), jnp.float32)
        found = _shapes(f"act of {type(policy).__name__} on {_array(seen)}", act, policy, seen, jax.random.key(0))
        if getattr(found, "shape", None) != (*lead, action) or not jnp.issubdtype(found.dtype, jnp.floating):
            given = _array(found) if hasattr(found, "shape") else type(found).__name__
            raise ConfigError(
                f"act of {type(policy).__name__} gave {given} for observations {_array(seen)}, expected {_array(jax.ShapeDtypeStruct((*lead, action), jnp.float32))}"
            )


def _array(x: Any) -> str:
    """Type and shape, such as float32[2,17]."""
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"
