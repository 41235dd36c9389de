"""Runs over all local devices: each takes its share of them, and nothing passes between devices while they train.

Runs (seeds x points) are laid out in one row, padded to a multiple of the devices with runs whose results are dropped, and
split; what all runs share is copied to every device. Inside a device the usual mapping applies, so that a run's numbers
are those of one device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from srpo.config import whole
from srpo.errors import ConfigError
from srpo.runs.mapping import Axes, Mapping


def local_devices(wanted: int | None, runs: int) -> tuple[jax.Device, ...]:
    """The devices that `runs` runs train on: `wanted` of them, or all there are, and no more than runs. Raises ConfigError."""
    found = jax.local_devices()
    here = f"1 to {len(found)}, what this machine has"
    if wanted is not None and whole(wanted, "devices to train on", none=here) > len(found):
        raise ConfigError(f"found {wanted} devices to train on, expected {here}")
    return tuple(found[: min(wanted or len(found), runs)])


def over_devices(
    fn: Callable[..., Any], axes: Sequence[Axes], mapping: Mapping, devices: Sequence[jax.Device]
) -> Callable[..., Any]:
    """`mapping.over_runs`, each device with its share of the runs."""
    mesh, moves = Mesh(np.array(devices), ("runs",)), [of is not Axes.SHARED for of in axes]
    specs = tuple(PartitionSpec("runs") if move else PartitionSpec() for move in moves)
    share = jax.shard_map(mapping(fn, moves), mesh=mesh, in_specs=specs, out_specs=PartitionSpec("runs"), check_vma=False)

    def program(*args: Any) -> Any:
        seeds, points = _shape(args, axes)
        runs = seeds * points
        row = np.arange(-(-runs // len(devices)) * len(devices)) % runs
        laid = (jax.tree.map(_laid(of, row // points, row % points), arg) for arg, of in zip(args, axes, strict=True))
        return jax.tree.map(lambda x: x[:runs].reshape(seeds, points, *x.shape[1:]), share(*laid))

    return program


def _laid(of: Axes, seed: np.ndarray, point: np.ndarray) -> Callable[[Any], Any]:
    """An array with the leading axes `of` as one with the axis of the row of runs, whose seed and point are given."""
    at = {Axes.SHARED: (), Axes.SEED: (seed,), Axes.POINT: (point,), Axes.RUN: (seed, point)}[of]
    return lambda x: jnp.asarray(x)[at] if at else x


def _shape(args: Sequence[Any], axes: Sequence[Axes]) -> tuple[int, int]:
    """How many seeds and points, from the arguments that have these axes."""
    sizes = {"seed": 1, "point": 1}
    for arg, of in zip(args, axes, strict=True):
        for leaf in jax.tree.leaves(arg):
            for name, size in zip([n for n in sizes if n in of.value], jnp.shape(leaf), strict=False):
                sizes[name] = size
    return sizes["seed"], sizes["point"]
