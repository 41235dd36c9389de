"""Figure 2: which ways of extracting a policy leave the support of the data, on a bandit whose density is known.

All three aim at pi*(a) = mu(a) exp(beta Q(a)) / Z (eq. 1). Forward KL with a Gaussian is weighted regression (eq. 2),
here in closed form: the weighted mean and covariance. Forward KL with a diffusion model is the same regression with
the diffusion loss, here trained on actions drawn in proportion to their weight. Reverse KL is SRPO (eq. 10).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from srpo.diffusion.dpm_solver import multistep, uniform_times
from srpo.paper import panels
from srpo.paper.bandits import BANDITS, NO_OBS, Bandit, Quadratic, find, fit
from srpo.paper.job import Job
from srpo.paper.study import OUTSIDE, climb, grid_points

DATA = ("8gaussians",)
ALLOWED = tuple(name for name, bandit in BANDITS.items() if bandit.mixture)
BETA = 0.5
TARGET = (0.04, 0.02)  # of the greedy policy, as a share of the half-width: in the middle, a little to the right
SHOWN = 2000  # actions per policy
METHODS = ("behavior", "forward KL (Gaussian)", "forward KL (diffusion)", "reverse KL (SRPO)")


def make(job: Job) -> list[dict]:
    """Trains, draws fig2.png and writes the actions of every policy to fig2.csv; returns a row per policy."""
    bandit = find((job.data or DATA)[0])
    mixture, target = bandit.density(), np.array(TARGET, np.float32) * bandit.extent
    drawn = _drawn(job, bandit, target)
    floor = np.quantile(mixture.log_density(jnp.asarray(bandit.actions(100_000, job.seed + 2))), OUTSIDE)
    density = {name: np.asarray(mixture.log_density(jnp.asarray(a, jnp.float32))) for name, a in drawn.items()}
    value = {name: -((a - target) ** 2).sum(-1) for name, a in drawn.items()}
    table = {"policy": np.repeat(METHODS, SHOWN).astype(object), "x": _all(drawn)[:, 0], "y": _all(drawn)[:, 1]}
    scores = {"q": _all(value), "log_density": _all(density), "in_support": _all(density) >= floor}
    job.csv("fig2", table | scores)
    outside = {name: 100 * float(np.mean(d < floor)) for name, d in density.items()}
    with panels.style():
        job.picture("fig2", draw(bandit.extent, mixture, floor, target, drawn, outside))
    return [
        {"policy": m, "out of support, %": round(outside[m], 1), "mean Q": round(float(value[m].mean()), 2)} for m in METHODS
    ]


def _drawn(job: Job, bandit: Bandit, target: np.ndarray) -> dict[str, np.ndarray]:
    """`SHOWN` actions of each policy, for Q that is highest at `target`."""
    actions = bandit.actions(job.budget.rows, job.seed)
    weight = np.exp(-BETA * ((actions - target) ** 2).sum(-1).astype(np.float64))
    weight /= weight.sum()
    rng = np.random.default_rng(job.seed)
    behavior = fit(job.budget.behavior(), actions, job.key(0), job.bars, "behavior")
    likely = actions[rng.choice(len(actions), len(actions), p=weight)]
    weighted = fit(job.budget.behavior(), likely, job.key(1), job.bars, "weighted diffusion")
    found = (
        bandit.actions(SHOWN, job.seed + 1),
        rng.multivariate_normal(weight @ actions, np.cov(actions.T, aweights=weight), SHOWN),
        _diffusion_samples(weighted, job.key(2)),
        _srpo(job, behavior, target),
    )
    return dict(zip(METHODS, found, strict=True))


def _all(parts):
    return np.concatenate(list(parts.values()))


@jax.jit
def _diffusion_samples(model, key):
    def predict(x, t):
        return model(x, jnp.full(len(x), t), NO_OBS)

    return multistep(predict, model.schedule, jax.random.normal(key, (SHOWN, 2)), uniform_times(100))


def _srpo(job, behavior, target):
    """The actions of `SHOWN` deterministic policies, each from its own random start."""
    job.bars.open("SRPO", 1)
    start = jax.random.normal(job.key(3), (SHOWN, 2))
    critic, inverse_beta = Quadratic(jnp.asarray(target)), jnp.full(5, 1 / BETA)
    action = np.asarray(climb(behavior, critic, start, inverse_beta, job.key(4), steps=job.budget.climbs)[-1])
    job.bars.update(1)
    return action


def draw(extent, mixture, floor, target, drawn, outside):
    """The four panels side by side; gray is the support of the behavior."""
    figure = panels.page(panels.TEXT_WIDTH, 2.1)
    axes = figure.subplots(1, 4, sharey=True)
    points = grid_points(extent, 200)
    support = np.asarray(mixture.log_density(jnp.asarray(points)) >= floor).reshape(200, 200)

    def value(a):
        return np.asarray(Quadratic(target).q_target(None, a)[0])

    titles = [
        "(a) Behavior data",
        "(b) Forward KL,\nunimodal policy",
        "(c) Forward KL,\nexpressive policy",
        "(d) Reverse KL,\nunimodal policy",
    ]
    for axis, title, (name, actions) in zip(axes, titles, drawn.items(), strict=True):
        axis.contourf(support, [0.5, 1], colors="#dddddd", extent=(-extent, extent, -extent, extent))
        alone = name == METHODS[-1]  # its actions lie on top of each other
        marks = {"s": 9, "linewidths": 0.4, "edgecolors": "black"} if alone else {"s": 1.2, "linewidths": 0}
        shown = axis.scatter(*actions.T, c=value(actions), cmap=panels.VALUE, vmin=-20, vmax=0, rasterized=True, **marks)
        axis.plot(*target, marker="*", color=panels.RED, markersize=6, markeredgewidth=0)
        panels.square(axis, extent)
        axis.set_title(title)
        axis.set_xlabel(f"$a_1$\nout of support: {outside[name]:.1f} %")
    axes[0].set_ylabel("$a_2$")
    axes[-1].annotate(r"$\arg\max_a\,Q(a)$", target, (0, -5), textcoords="offset points", ha="center", va="top", fontsize=6)
    figure.colorbar(shown, ax=axes, label="$Q(a)$", aspect=25, pad=0.01, shrink=0.8)
    return figure
