"""What the rewritten formulas of srpo.networks gain: each beside the plain one, in turn, in one process.

    python benchmarks/rewrites.py            # single operations, at the behavior model's sizes
    python benchmarks/rewrites.py --stage    # the whole step of SRPO's behavior stage, paper sizes

Times are processor time of all threads, which other programs on the machine disturb least. `ratio` is the median, with
quartiles, over rounds of rewritten / plain within the same round.
"""

from __future__ import annotations

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from srpo.core import Batch
from srpo.networks import derivatives, layers, score
from srpo.stages.diffusion_behavior import DiffusionBehavior
from srpo.steps import Log, advance, metric_names

REWRITTEN = {"mish": derivatives.mish, "dropout": layers.dropout, "affine": derivatives.affine}
RULES = {"mish": derivatives.mish_jvp, "affine": derivatives.affine_jvp}  # the derivatives that are written out


def plain_mish(x):
    e = jnp.exp(jnp.minimum(x, 20.0))
    n = e * (e + 2.0)
    return x * (n / (n + 2.0))


def plain_dropout(x, rate, key):
    if key is None:
        return x
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= jnp.asarray(rate * 65536, jnp.uint16)
    return jnp.where(keep, x / (1 - rate), 0.0)


PLAIN = {"mish": plain_mish, "dropout": plain_dropout, "affine": lambda x, w, b: x @ w + b}


def compare(name, plain, rewritten, rounds):
    """Print the ratio of the processor times of two calls without arguments, made in turn."""

    def seconds(call):
        start = time.process_time()
        jax.block_until_ready(call())
        return time.process_time() - start

    seconds(plain), seconds(rewritten)
    times = np.array([(seconds(plain), seconds(rewritten)) for _ in range(rounds)])
    ratio = np.quantile(times[:, 1] / times[:, 0], [0.25, 0.5, 0.75])
    ms = 1e3 * np.median(times, 0)
    print(
        f"{name:34s} plain {ms[0]:8.2f} ms  rewritten {ms[1]:8.2f} ms  ratio {ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f})",
        flush=True,
    )


def operations(rounds):
    key = jax.random.key(0)

    def normal(*shape):
        return jax.random.normal(key, shape)

    def looped(fn):  # buffers are allocated once per call: eight times inside it
        return jax.jit(lambda *args: lax.fori_loop(0, 8, lambda _, a: fn(*a), args))

    def case(name, step, *args):
        plain, rewritten = (looped(step(f)) for f in (PLAIN[name.split()[0]], REWRITTEN[name.split()[0]]))
        compare(name, lambda: plain(*args), lambda: rewritten(*args), rounds)

    for rows, n_in, n_out in ((256, 256, 256), (256, 14, 256), (2048, 256, 1024), (2048, 1024, 256)):

        def step(f):
            return lambda x, w, dy: (x, w + 1e-6 * jax.grad(lambda w: jnp.vdot(f(x, w, jnp.zeros(w.shape[1])), dy))(w), dy)

        case(
            f"affine weight gradient {rows}x{n_in}x{n_out}", step, normal(rows, n_in), normal(n_in, n_out), normal(rows, n_out)
        )

    def step(f):
        return lambda x, w: (x + 1e-6 * jax.grad(lambda x: jnp.vdot(f(x), w))(x) + 1e-6 * f(x), w)

    case("mish with gradient 2048x1024", step, normal(2048, 1024), normal(2048, 1024))

    def step(f):
        return lambda x, i: (f(x, 0.1, jax.random.fold_in(key, i)) * 0.9 + 0.1 * x, i + 1)

    case("dropout 2048x256", step, normal(2048, 256), jnp.int32(0))


def stage(rounds):
    obs, action, key = jnp.ones((20_000, 11)), jnp.zeros((20_000, 3)), jax.random.key(0)
    data = Batch(obs, action, obs[:, 0], obs, obs[:, 0], jnp.arange(20_000, dtype=jnp.int32))
    behavior = jax.tree.map(jnp.float32, DiffusionBehavior())

    def program(dropout, rules):
        derivatives.mish.defjvp(rules["mish"])
        derivatives.affine.defjvp(rules["affine"], symbolic_zeros=rules is RULES)
        score.dropout = dropout
        jax.clear_caches()
        state = behavior.init(data, {}, key)
        log = Log.create(metric_names(behavior, state, data, {}, key))
        compiled = jax.jit(advance).lower(behavior, state, log, data, {}, key, 0, 2).compile()
        return lambda: compiled(behavior, state, log, data, {}, key, 0, 2)

    def automatic(fn):
        return lambda primals, tangents: jax.jvp(fn, primals, tangents)

    # compiled in this order, so that the library's own rules are back in place at the end
    plain = program(PLAIN["dropout"], {name: automatic(PLAIN[name]) for name in RULES})
    rewritten = program(REWRITTEN["dropout"], RULES)
    compare("behavior stage, 2 steps", plain, rewritten, rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", action="store_true", help="the whole behavior stage instead of single operations")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of measurements")
    args = parser.parse_args()
    stage(args.rounds) if args.stage else operations(args.rounds)


if __name__ == "__main__":
    main()
