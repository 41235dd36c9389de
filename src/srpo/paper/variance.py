"""What the baseline and the ensemble over diffusion times do to the policy's gradient, and where the score is wrong.

The score term of eq. 15, w(t) (noise_hat - noise) with w = sigma^2, is measured at actions a little off the data, as
a policy under training has them: its variance with and without the subtracted noise, at single times and with
t ~ U(0.02, 0.98), its noise relative to its mean, and how far the trained model's mean is from that of the exact score.
The score error is E |noise_hat - E[noise | x_t]|^2 on held-out actions; the data are a mixture, whose E is known.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from srpo.diffusion.schedules import VP, perturb
from srpo.paper import panels
from srpo.paper.bandits import BANDITS, Quadratic, find, fit
from srpo.paper.job import Job
from srpo.stages.diffusion_behavior import PARAMETRIZATIONS
from srpo.stages.score_regularized import policy_direction

DATA = ("8gaussians",)
ALLOWED = tuple(name for name, bandit in BANDITS.items() if bandit.mixture)
PLACES = 64  # actions at which the gradient is measured
MARKED = (0.02, 0.5, 0.98)  # the paper's single times
LEVELS = np.unique(np.concatenate([np.geomspace(0.002, 0.98, 25), np.linspace(0.1, 0.98, 12), MARKED])).astype(np.float32)
ENSEMBLE = "U(0.02, 0.98)"


def score_terms(behavior, action, t, noise, baseline: bool):
    """w(t) (noise_hat [- noise]) at each of n actions for m draws of t and noise: (n, m, 2)."""
    n, m = noise.shape[:2]
    direction = policy_direction(
        Quadratic(jnp.zeros(2)),
        behavior,
        behavior.schedule,
        jnp.zeros((n * m, 0)),
        jnp.repeat(action, m, 0),
        t.reshape(-1),
        noise.reshape(-1, 2),
        beta=0.0,
        weight="sigma^2",
        baseline=baseline,
    )
    return direction.reshape(n, m, 2)


@jax.jit
def moments(behavior, exact, action, t, noise) -> dict:
    """Variances (trace of the covariance), squared mean, and squared difference of the means of model and exact, over actions."""
    with_baseline = score_terms(behavior, action, t, noise, True)

    def variance(g):
        return jnp.mean(jnp.sum(jnp.var(g, 1), -1))

    mean, true = (jnp.mean(g, 1) for g in (with_baseline, score_terms(exact, action, t, noise, True)))
    return {
        "without_baseline": variance(score_terms(behavior, action, t, noise, False)),
        "with_baseline": variance(with_baseline),
        "mean_square": jnp.mean(jnp.sum(true**2, -1)),
        "bias_square": jnp.mean(jnp.sum((mean - true) ** 2, -1)),
    }


@jax.jit
def score_error(behavior, exact, action, t, noise):
    """E |noise_hat - E[noise | x_t]|^2 at one time."""
    time = jnp.full(len(action), t)
    x = perturb(action, noise, *VP()(time))
    return jnp.mean(jnp.sum((behavior(x, time, jnp.zeros(0)) - exact(x, time)) ** 2, -1))


def make(job: Job) -> list[dict]:
    """Trains a noise-predicting and a preconditioned model, draws variance.png, writes variance.csv; rows per single time."""
    bandit = find((job.data or DATA)[0])
    exact, actions = bandit.density(), bandit.actions(job.budget.rows, job.seed)
    models = {
        kind: fit(job.budget.behavior(kind), actions, job.key(i), job.bars, f"{kind} model")
        for i, kind in enumerate(PARAMETRIZATIONS)
    }
    k_place, k_noise, k_time, k_held = jax.random.split(job.key(2), 4)
    held = jnp.asarray(bandit.actions(4096, job.seed + 1))
    place = held[:PLACES] + 0.5 * jax.random.normal(k_place, (PLACES, 2))
    noise = jax.random.normal(k_noise, (PLACES, job.budget.draws, 2))
    single = [moments(models["noise"], exact, place, jnp.full(noise.shape[:2], t), noise) for t in LEVELS]
    ensemble = moments(
        models["noise"], exact, place, jax.random.uniform(k_time, noise.shape[:2], minval=0.02, maxval=0.98), noise
    )
    table = {name: np.array([float(m[name]) for m in [*single, ensemble]]) for name in ensemble}
    spread = jax.random.normal(k_held, held.shape)
    error = {
        kind: np.array([float(score_error(model, exact, held, t, spread)) for t in LEVELS]) for kind, model in models.items()
    }
    job.csv(
        "variance",
        {
            "t": np.array([*(f"{t:.4g}" for t in LEVELS), ENSEMBLE.replace(",", " to")], object),
            **table,
            **{f"score_error_{kind}": np.append(e, np.nan) for kind, e in error.items()},
        },
    )
    with panels.style():
        job.picture("variance", draw(table, error))
    return _report(table, error)


def _report(table, error):
    rows = []
    for i in [*(int(np.argmin(abs(LEVELS - t))) for t in MARKED), len(LEVELS)]:
        one = {name: column[i] for name, column in table.items()}
        rows.append(
            {
                "t": f"{LEVELS[i]:.2f}" if i < len(LEVELS) else ENSEMBLE,
                "variance without baseline": f"{one['without_baseline']:.3g}",
                "with": f"{one['with_baseline']:.3g}",
                "noise / mean": f"{np.sqrt(one['with_baseline'] / one['mean_square']):.3g}",
                "model bias / mean": f"{np.sqrt(one['bias_square'] / one['mean_square']):.3g}",
                **{f"score error, {kind}": f"{e[i]:.2g}" if i < len(LEVELS) else "" for kind, e in error.items()},
            }
        )
    return rows


def draw(table, error):
    """Variance, noise relative to the mean, and score error, over t."""
    figure = panels.page(panels.TEXT_WIDTH, 2.0)
    axes = figure.subplots(1, 3)
    bare, kept = table["without_baseline"], table["with_baseline"]
    noise, bias = (np.sqrt(table[name] / table["mean_square"]) for name in ("with_baseline", "bias_square"))
    lines = [
        (axes[0], bare, panels.RED, "without baseline"),
        (axes[0], kept, panels.DARK, "with baseline"),
        (axes[1], np.sqrt(bare / table["mean_square"]), panels.RED, "noise, without baseline"),
        (axes[1], noise, panels.DARK, "noise, with baseline"),
        (axes[1], bias, "#2ca02c", "error of the model"),
    ]
    for axis, values, color, label in lines:
        axis.plot(LEVELS, values[:-1], color=color, label=label)
        axis.axhline(values[-1], color=color, linestyle=":", linewidth=0.9)
        marks = [int(np.argmin(abs(LEVELS - t))) for t in MARKED]
        axis.plot(LEVELS[marks], values[marks], "o", color=color, markersize=2.5)
    for (kind, values), color in zip(error.items(), (panels.DARK, panels.ORANGE), strict=True):
        axes[2].plot(LEVELS, values, color=color, label={"noise": "noise prediction"}.get(kind, kind))
    titles = ["(a) Variance of the score term", "(b) Relative to its mean", "(c) Score error, held-out actions"]
    names = [r"$\mathrm{tr\,Cov}[w(t)(\hat\epsilon-\epsilon)]$", "size / size of the mean", r"$E\,|\hat\epsilon-\epsilon^*|^2$"]
    for axis, title, name in zip(axes, titles, names, strict=True):
        axis.set(title=title, ylabel=name, xlabel="diffusion time $t$", yscale="log", xlim=(0, 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(1e-7, 10)
    axes[0].plot([], [], ":", color=panels.GRAY, linewidth=0.9, label=r"$t\sim U(0.02,\,0.98)$")
    for axis in axes:
        axis.legend()
    return figure
