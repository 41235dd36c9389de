"""What a training costs, judged without compiling it: its matrix products, counted, over this machine's rate of such products.

Elementwise work, random numbers and optimizers are not counted, and nothing is said of how well products follow each
other: a real step takes longer (docs/performance.md says how much for SRPO's stages).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from srpo.core import Stage
from srpo.data.treated import Treated
from srpo.networks.precision import Precision, computing_in
from srpo.runs.devices import local_devices
from srpo.runs.grid import Grid

RATE_SECONDS = 0.2  # of products of one shape, to find their rate, in at most so many calls, each of twice as many products
CALLS = 16


@dataclass(frozen=True)
class Product:
    """A matrix product: the shapes and types of both sides, which axes meet (`lax.dot_general`) and the type of the result; a
    convolution has none of them."""

    flops: int
    sides: tuple[jax.ShapeDtypeStruct, ...] = ()
    axes: Any = None
    gives: Any = None


def product_flops(fn: Callable, *args: Any) -> int:
    """2 m k n, summed over all matrix products and convolutions that `fn(*args)` computes; nothing is computed."""
    return sum(p.flops * times for p, times in products(fn, *args).items())


def products(fn: Callable, *args: Any) -> Counter[Product]:
    """How often `fn(*args)` computes which product. Bodies of loops count as often as they run, or once where that is
    not known before; of branches the most expensive one counts. `args` may be shapes."""
    return _inside(jax.make_jaxpr(fn)(*args).jaxpr)


def _inside(jaxpr: Any) -> Counter[Product]:
    found: Counter[Product] = Counter()
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            found[_dot(equation)] += 1
        elif name == "conv_general_dilated":
            found[_convolution(equation)] += 1
        elif name == "cond":
            found += _largest(_inside(branch.jaxpr) for branch in params["branches"])
        else:
            times = params["length"] if name == "scan" else 1
            for inner in _programs(params):
                for product, count in _inside(inner).items():
                    found[product] += times * count
    return found


def _largest(found: Iterable[Counter[Product]]) -> Counter[Product]:
    return max(found, key=_total)


def _total(found: Counter[Product]) -> int:
    return sum(p.flops * times for p, times in found.items())


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        inner = getattr(value, "jaxpr", value)
        if hasattr(inner, "eqns"):
            yield inner


def _dot(equation: Any) -> Product:
    axes = equation.params["dimension_numbers"]
    left, right = (jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars)
    met = math.prod(left.shape[i] for i in axes[0][0])
    out = equation.outvars[0].aval
    return Product(2 * math.prod(out.shape) * met, (left, right), axes, out.dtype)


def _convolution(equation: Any) -> Product:
    kernel, out_feature = equation.invars[1].aval.shape, equation.params["dimension_numbers"].rhs_spec[0]
    return Product(2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // kernel[out_feature])


def rate(product: Product, copies: int = 1) -> float:
    """Operations per second of this machine in `copies` of one product at once, measured."""
    dot = jax.vmap(lambda x, y: lax.dot_general(x, y, product.axes, preferred_element_type=product.gives))

    def again(_, x, y):
        out = lax.optimization_barrier(dot(x, y))  # the next product needs this one
        return x.at[(0,) * x.ndim].set((out.ravel()[0] * 1e-9).astype(x.dtype))

    run = jax.jit(lambda count, x, y: lax.fori_loop(0, count, lambda i, x: again(i, x, y), x))
    sides = [jnp.full((copies, *side.shape), 0.5, side.dtype) for side in product.sides]
    jax.block_until_ready(run(1, *sides))  # compiles
    best, begin = 0.0, time.perf_counter()
    for count in (2**i for i in range(CALLS)):  # the best of them: others may be at work on these cores
        called = time.perf_counter()
        jax.block_until_ready(run(count, *sides))
        now = time.perf_counter()
        best = max(best, count / (now - called))
        if now - begin > RATE_SECONDS and count >= 8:
            break
    return copies * best * product.flops


@dataclass(frozen=True)
class Share:
    """What a device has of a stage: so many runs (padding included), and their states with optimizers and averages."""

    devices: int
    runs: int
    state_mib: float


def estimated(
    grid: Grid, data: Treated, devices: int | None = None, precision: Precision = "float32"
) -> dict[str, dict[str, float]]:
    """Stage -> what each device has of it (`Share`), operations per step of a run, milliseconds per step and hours for all runs."""
    results: dict[str, Any] = {}
    rates: dict[tuple[Product, int], float] = {}  # measured once
    out: dict[str, dict[str, float]] = {}
    for name, stage in grid.algorithm.stages.items():
        with computing_in(precision):
            state, begins, steps = traced(stage, data, {need: results[need] for need in stage.needs})
        share = shared(grid, name, state, devices)
        at_once, runs = share.runs, share.runs
        if jax.default_backend() == "cpu":  # one after the other, and forced devices have the same cores
            at_once, runs = 1, share.devices * share.runs
        shapes = Counter({p: p.flops * n for p, n in steps.items() if p.sides})
        per_second = math.inf
        for most, _ in shapes.most_common(1):
            per_second = rates[most, at_once] = rates.get((most, at_once)) or rate(most, at_once)
        seconds = _total(steps) * runs / per_second
        whole = stage.steps * seconds + _total(begins) * runs / per_second
        out[name] = {"ms_per_step": 1e3 * seconds, "hours": whole / 3600, "gflop_per_step": _total(steps) / 1e9, **vars(share)}
        results[name] = jax.eval_shape(stage.result, state)
    return out


def traced(stage: Stage, data: Treated, given: dict[str, Any]) -> tuple[Any, Counter[Product], Counter[Product]]:
    """The shapes of a stage's state, and the products of its beginning and of a step; `given` may be shapes."""
    view, key = stage.view(data), jax.random.key(0)

    def step(state: Any, view: Any, given: Any, key: Any, i: Any) -> Any:
        return stage.update(state, view.take(stage.draw(view, key, i)), given, key, i)

    begins, state = jax.make_jaxpr(stage.init, return_shape=True)(view, given, key)
    return state, _inside(begins.jaxpr), products(step, state, view, given, key, jnp.int32(0))


def shared(grid: Grid, name: str, state: Any, devices: int | None) -> Share:
    """How the runs of a stage lie on the devices, from the shapes of one run's state."""
    runs = len(grid.seeds) * len(grid.stage_points(name))
    on = len(local_devices(devices, runs))
    size = sum(math.prod(x.shape) * getattr(x.dtype, "itemsize", 4) for x in jax.tree.leaves(state))
    return Share(on, -(-runs // on), -(-runs // on) * size / 2**20)
