"""Floating-point operations of a compiled program, loops included.

XLA's cost analysis of a compiled program counts the body of a loop once, however often it runs (a test holds it to
that). The number of trips is known from the traced program, where every loop of a policy is a `scan`: so each body is
compiled by itself, and its own count is added for every trip but the one that was counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

# of machine code, which comes after what is counted
FAST: dict[str, str | bool] = {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": True}


def flops(fn: Callable, *args: Any) -> float:
    """Operations of one call of `fn(*args)` as XLA counts them; random bits and other integer arithmetic count too."""
    return _total(jax.make_jaxpr(fn)(*args))


def counted_once(fn: Callable, *args: Any) -> float:
    """What the cost analysis of the compiled program says: bodies of loops once."""
    found: Any = jax.jit(fn).lower(*args).compile(compiler_options=FAST).cost_analysis()
    return float(found["flops"])


def _total(program: ClosedJaxpr) -> float:
    count = _once(program)
    for trips, body in _loops(program.jaxpr):
        count += trips * _total(body) - _once(body)
    return count


def _once(program: ClosedJaxpr) -> float:
    return counted_once(jaxpr_as_fun(program), *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.in_avals))


def _loops(jaxpr: Jaxpr) -> Iterator[tuple[int, ClosedJaxpr]]:
    """The loops of a program that are not inside another loop. Raises NotImplementedError where trips are not known."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["length"], equation.params["jaxpr"]
        elif equation.primitive.name in ("while", "cond"):
            raise NotImplementedError(f"the operations of a {equation.primitive.name} depend on its inputs")
        else:
            for value in equation.params.values():
                inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
                if isinstance(inner, Jaxpr):
                    yield from _loops(inner)
