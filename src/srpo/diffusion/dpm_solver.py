"""DPM-Solver (Lu et al., arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095): the probability-flow ODE in few evaluations.

Both are exponential integrators in lambda = log(alpha / sigma). One formula serves both: the noise form of
DPM-Solver turns into the data form of DPM-Solver++ when alpha and sigma trade places, lambda changes its sign and
the predicted noise is replaced by the predicted x_0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from srpo.diffusion.schedules import Schedule

X = Float[Array, "..."]
Scalar = Float[Array, ""]
Model = Callable[[X, Scalar], X]
Form = Literal["noise", "data"]


class _Point(NamedTuple):
    """One time: a and b of x_t = a (the part that is integrated exactly) + b (the predicted part), and lambda."""

    t: Scalar
    a: Scalar
    b: Scalar
    log_ratio: Scalar


def uniform_times(steps: int, start: float = 1.0, stop: float = 1e-3) -> Float[Array, " {steps}+1"]:
    """The grid of SfBC and QGPO: uniform in t."""
    return jnp.linspace(start, stop, steps + 1)


def block_orders(evaluations: int, order: int, single_tail: bool = False) -> tuple[int, ...]:
    """Orders of the single-step blocks that spend `evaluations` network calls, the last ones lower.

    Order 2 with an even number: twos only (SfBC), or with `single_tail` the last one as two of order 1 (QGPO).
    """
    blocks, rest = divmod(evaluations, order)
    if order == 3:
        return (3,) * (blocks - 1) + (2, 1) if rest == 0 else (3,) * blocks + (rest,)
    if order == 2 and rest == 0 and single_tail:
        return (2,) * (blocks - 1) + (1, 1)
    return (order,) * blocks + ((rest,) if rest else ())


def singlestep(
    predict_noise: Model, schedule: Schedule, x: X, times: Float[Array, " points"], orders: Sequence[int], form: Form = "noise"
) -> X:
    """Solve from times[0] to times[-1]; a block of order p spends p intervals of the grid, its inner times are the grid's.

    `predict_noise(x, t)` takes a scalar t. `sum(orders)` must be `len(times) - 1`, else ValueError.
    """
    if sum(orders) != len(times) - 1:
        raise ValueError(f"orders {tuple(orders)} spend {sum(orders)} intervals, the grid has {len(times) - 1}")
    predict = _prediction(predict_noise, schedule, form)
    start = 0
    for order, group in groupby(orders):  # equal blocks in one loop: the network is compiled once for them
        n = len(list(group))
        grid = start + order * jnp.arange(n)[:, None] + jnp.arange(order + 1)
        x = _repeated(partial(_block, predict, schedule, form, order), x, times[grid])
        start += order * n
    return x


def multistep(predict_noise: Model, schedule: Schedule, x: X, times: Float[Array, " points"], form: Form = "data") -> X:
    """The second-order multistep solver (2M): one evaluation per interval, the first step of first order."""
    predict = _prediction(predict_noise, schedule, form)

    def body(carry, ts):
        x, previous, h_previous = carry
        s, t = _point(schedule, form, ts[0]), _point(schedule, form, ts[1])
        h, p = t.log_ratio - s.log_ratio, predict(x, s)
        return (_first(x, p + h / (2 * h_previous) * (p - previous), s, t), p, h), None

    s = _point(schedule, form, times[0])
    p = predict(x, s)  # as the previous prediction too, it makes the first step one of first order
    return jax.lax.scan(body, (x, p, jnp.ones(())), jnp.stack([times[:-1], times[1:]], 1))[0][0]


def _point(schedule, form, t):
    alpha, sigma = schedule(t)
    log_snr = jnp.log(alpha) - jnp.log(sigma)
    return _Point(t, alpha, sigma, log_snr) if form == "noise" else _Point(t, sigma, alpha, -log_snr)


def _prediction(predict_noise, schedule, form):
    """The noise, or x_0, at a point."""

    def predict(x, point):
        noise = predict_noise(x, point.t)
        return noise if form == "noise" else (x - point.a * noise) / point.b

    return predict


def _first(x, p, s, t):
    return t.a / s.a * x - t.b * jnp.expm1(t.log_ratio - s.log_ratio) * p


def _repeated(block: Callable[[X, Array], X], x: X, grids: Array) -> X:
    return jax.lax.scan(lambda x, times: (block(x, times), None), x, grids)[0]


def _block(predict, schedule, form, order, x, times):
    s, *inner, t = (_point(schedule, form, time) for time in times)
    h = t.log_ratio - s.log_ratio
    p = predict(x, s)
    if order == 1:
        return _first(x, p, s, t)
    s1 = inner[0]
    r1 = (s1.log_ratio - s.log_ratio) / h
    change = predict(_first(x, p, s, s1), s1) - p
    if order == 2:
        return _first(x, p + change / (2 * r1), s, t)
    s2 = inner[1]
    r2 = (s2.log_ratio - s.log_ratio) / h

    def bend(u):
        return jnp.expm1(u) / u - 1

    x2 = _first(x, p, s, s2) - r2 / r1 * s2.b * bend(r2 * h) * change
    return _first(x, p, s, t) - t.b / r2 * bend(h) * (predict(x2, s2) - p)
