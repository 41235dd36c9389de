"""The shapes in the annotations hold: every algorithm's stages and policy are traced with every call checked.

Nothing is compiled or computed. Presets count by their choices, at the sizes of the algorithm's trial. The check has to be there before srpo is imported, and
the other tests put stand-ins in the places of networks: hence a process of its own.
"""

import gc
import os
import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).parent.parent / "src" / "srpo"
ROOMS = ["core", "losses", "policies", "networks", "diffusion", "stages", "data.views", "data.treated"]
ROOMS += [f"algorithms.{file.stem}" for file in (HOME / "algorithms").glob("[a-z]*.py")]


def test_annotated_shapes_hold_in_every_algorithm_and_preset():
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(HOME.parent), *sys.path]), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, __file__], env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    from srpo import algorithms

    assert {line.split()[0] for line in done.stdout.splitlines()} == {"checked", *algorithms.ALGORITHMS}


def install() -> None:
    """Check the annotations of these rooms from now on."""
    from types import ModuleType

    from beartype import BeartypeConf, beartype
    from jaxtyping import install_import_hook

    checker = sys.modules["shape_check"] = ModuleType("shape_check")
    checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number is a float, too
    install_import_hook([f"srpo.{room}" for room in ROOMS], "shape_check.check")


def undifferentiated(fun, has_aux=False):
    """A gradient has the shape of what it is taken by, which is enough here, and half of all tracing was to find it."""

    def grad(x):
        found = fun(x)
        assert (found[0] if has_aux else found).shape == ()
        return (x, found[1]) if has_aux else x

    return grad


def trace(algorithm, data, seen: dict) -> None:
    """Every stage's init, update and result, then the policy, by their shapes alone; what was `seen` before is not traced again."""
    import jax
    import jax.numpy as jnp

    from srpo.data.treated import treat

    def shapes(tree):
        return tuple((jnp.shape(x), str(jnp.result_type(x))) for x in jax.tree.leaves(tree))

    def of_stage(key, step, stage, view, given):
        state = jax.eval_shape(lambda given, key: stage.init(view, given, key), given, key)
        batch = jax.eval_shape(lambda key: view.take(view.rows(key, stage.batch_size)), key)
        after, _ = jax.eval_shape(stage.update, state, batch, given, key, step)
        return jax.eval_shape(stage.result, after)

    key, step, given = jax.random.key(0), jnp.zeros((), jnp.int32), {}
    treated = treat(data, algorithm.data)
    for name, stage in algorithm.stages.items():
        view, needed = stage.view(treated), {need: given[need] for need in stage.needs}
        asked = jax.tree.structure((stage, needed)), view.n_rows, shapes((view, needed))
        if asked not in seen:
            seen[asked] = of_stage(key, step, stage, view, needed)
        given[name] = seen[asked]
    policy = jax.eval_shape(algorithm.make_policy, given)
    asked = jax.tree.structure(policy), shapes(policy)
    if asked not in seen:
        seen[asked] = jax.eval_shape(
            lambda policy, obs: policy.act(obs, key), policy, jax.ShapeDtypeStruct((5, 3), jnp.float32)
        )
    assert seen[asked].shape == (5, 2), seen[asked]


def main() -> None:
    gc.disable()  # thousands of programs are traced, and little of that is garbage
    install()
    import jax
    import jax.numpy as jnp
    import numpy as np

    jax.grad = undifferentiated
    from srpo import algorithms, config
    from srpo.data import from_arrays
    from srpo.losses import gaussian_log_prob

    rng, end = np.random.default_rng(0), np.arange(240) % 40 == 39
    obs, action = rng.normal(size=(240, 3)).astype(np.float32), rng.uniform(-1, 1, (240, 2)).astype(np.float32)
    data = from_arrays(obs, action, rng.normal(size=240), end, np.zeros(240, bool))
    traced: dict = {}
    for name in algorithms.ALGORITHMS:
        cls, seen = algorithms.find(name), []
        for values in (config.preset(cls.presets, preset, "unknown") for preset in cls.presets):
            made = config.assign_all(cls.default(), values | cls.trial.settings)
            choices = {p: s.value for p, s in config.settings(made).items() if isinstance(s.value, (bool, str))}
            if choices not in seen:
                seen.append(choices)
                trace(made, data, traced)
        print(name, len(seen), flush=True)
    try:
        gaussian_log_prob(jnp.zeros((4, 2)), jnp.zeros((4, 3)), jnp.zeros(2))
    except Exception as e:
        print("checked", type(e).__name__)  # that it is: two actions beside three


if __name__ == "__main__":
    main()
