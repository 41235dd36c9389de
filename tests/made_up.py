"""Networks with made-up weights: none of the programs that draw a network's start."""

import itertools

import equinox as eqx
import jax
import numpy as np

from srpo.networks.layers import Linear


def network(make, *args, seed=0, scale=0.3, **options):
    """What `make(*args, **options)` is, its arrays filled with NumPy's N(0, scale^2)."""
    rng = np.random.default_rng(seed)
    shapes = eqx.filter_eval_shape(make, *args, **options)
    return jax.tree.map(
        lambda x: (
            jax.device_put(rng.normal(0, scale, x.shape).astype(np.float32)) if isinstance(x, jax.ShapeDtypeStruct) else x
        ),
        shapes,
    )


def layers(*sizes, seed=0):
    """Linear layers between these widths, of the size with which PyTorch's start."""
    rng = np.random.default_rng(seed)
    return tuple(
        Linear(*(jax.device_put(rng.uniform(-1, 1, shape).astype(np.float32) * i**-0.5) for shape in ((i, o), (o,))))
        for i, o in itertools.pairwise(sizes)
    )
