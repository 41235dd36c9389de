"""DTQL's toys (arXiv 2405.19690): its trust-region loss over the plane, and one-step policies under three regularizers.

Four rewards: far (the action's norm), near (its opposite), hard (far, doubled in one corner), same (none). The reward is
the critic. DTQL's Gaussian policies and SRPO's points, which follow eq. 10 (reverse KL by the score alone), start at the
same random actions; the KL variant is one implicit policy that starts at the behavior model (`toy_policies.py`).

Differences from the authors' toy code: the reward in place of a learned critic, and batches in place of all 10,000 rows.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from srpo.diffusion.denoising import denoising_loss
from srpo.paper import panels
from srpo.paper.bandits import find, fit, train
from srpo.paper.job import Job
from srpo.paper.study import OUTSIDE, climb, densities, grid_points
from srpo.paper.toy_policies import REWARDS, Denoising, Reward, gaussians, implicit
from srpo.stages.trust_region import levels_and_noise

DATA = ("25gaussians",)
ALLOWED = ("25gaussians", "swissroll")
BETA = 1.0
OUT = 1.2  # half-widths of the square beyond which no density is computed
COLORS = {"DTQL": panels.ORANGE, "DTQL (KL)": panels.RED, "SRPO": panels.DARK}


@partial(jax.jit, static_argnames="draws")
def landscape(denoiser, points, key, *, draws: int):
    """L_TR at each point: the mean over so many noise levels and noises, the same for all points."""
    obs = jnp.zeros((len(points), 0))

    def one(key):
        sigma, noise = levels_and_noise(key, jnp.zeros((1, 2)))
        return denoising_loss(denoiser, obs, points, jnp.broadcast_to(sigma, len(points)), noise, jnp.inf)

    return jnp.mean(jax.lax.map(one, jax.random.split(key, draws)), 0)


def make(job: Job) -> list[dict]:
    """Trains, draws dtql-toys.png, writes dtql-toys_policies.csv and dtql-toys_landscape.csv; returns a row per reward and method."""
    name = (job.data or DATA)[0]
    bandit, budget = find(name), job.budget
    actions, points = bandit.actions(budget.rows, job.seed), grid_points(bandit.extent, budget.grid)
    stage = Denoising(steps=budget.steps, batch_size=budget.batch_size)
    denoiser = train(stage, stage.init(None, {}, job.key(0)), actions, job.key(1), job.bars, "DTQL behavior")
    behavior = fit(budget.behavior(), actions, job.key(2), job.bars, "SRPO behavior")
    trust = np.asarray(landscape(denoiser, jnp.asarray(points), job.key(3), draws=min(256, budget.draws)))
    ends = _policies(job, bandit.extent, denoiser, behavior)
    names, placed = list(ends), np.concatenate(list(ends.values()))
    held_out = bandit.actions(1000, job.seed + 1)
    asked = np.concatenate([points, placed, held_out])
    inside = np.abs(asked).max(-1) <= OUT * bandit.extent  # nothing far out, where the flow is stiff, is in support
    found = np.full(len(asked), -np.inf)
    found[inside] = densities(behavior, asked[inside], actions, job.bars, "density")
    density, own, held = np.split(found, [len(points), len(points) + len(placed)])
    inside = own >= np.quantile(held, OUTSIDE)
    n = len(placed) // len(names)
    job.csv(
        "dtql-toys_policies",
        {
            "reward": np.repeat([r for r, _ in names], n),
            "method": np.repeat([m for _, m in names], n),
            "x": placed[:, 0],
            "y": placed[:, 1],
            "log_density": own,
            "in_support": inside,
        },
    )
    job.csv("dtql-toys_landscape", {"x": points[:, 0], "y": points[:, 1], "trust_region_loss": trust, "log_density": density})

    def square(values):
        return values.reshape(budget.grid, budget.grid)

    with panels.style():
        job.picture("dtql-toys", draw(bandit.extent, actions, square(trust), square(density), ends))
    value = np.concatenate([Reward(REWARDS.index(reward), bandit.extent)(a) for (reward, _), a in ends.items()])
    share, value = (np.mean(v.reshape(len(names), n), 1) for v in (inside, value))
    return [
        {"reward": r, "method": m, "in support, %": round(100 * float(s), 1), "mean reward": round(float(v), 2)}
        for (r, m), s, v in zip(names, share, value, strict=True)
    ]


def _policies(job, extent, denoiser, behavior):
    """Actions by reward and method, as many of each."""
    start = jax.random.uniform(job.key(4), (job.budget.targets**2, 2), minval=-0.9 * extent, maxval=0.9 * extent)
    options = {"steps": 8 * job.budget.climbs, "lr": 0.02 * extent}
    noise = jax.random.normal(job.key(8), start.shape)
    kl = {"steps": job.budget.steps // 10, "batch_size": job.budget.batch_size // 2, "lr": 1e-3}
    ends = {}
    job.bars.open("policies", len(REWARDS))
    for i, name in enumerate(REWARDS):
        reward = Reward(i, extent)
        ends[name, "DTQL"] = np.asarray(gaussians(denoiser, reward, start, job.key(5), **options))
        ends[name, "DTQL (KL)"] = np.asarray(implicit(denoiser, reward, noise, job.key(7), **kl))
        ends[name, "SRPO"] = np.asarray(climb(behavior, reward, start, jnp.full(1, 1 / BETA), job.key(6), **options)[-1])
        job.bars.update(i + 1)
    return ends


def draw(extent, actions, trust, density, ends):
    """Above: data, both landscapes and a cut through them; below: where the policies end, by reward."""
    figure = panels.page(panels.TEXT_WIDTH, 3.7)
    above, below = figure.subplots(2, 4)
    panels.samples(above[0], actions)
    shown = [
        panels.image(above[1], trust, extent, "viridis_r", vmax=float(np.quantile(trust, 0.98))),
        panels.image(above[2], -density, extent, "viridis_r", vmax=float(np.quantile(-density, 0.98))),
    ]
    for axis, image in zip(above[1:3], shown, strict=True):
        figure.colorbar(image, ax=axis, fraction=0.05, aspect=22, pad=0.02)
    _cut(above[3], extent, trust, density)
    for axis, reward in zip(below, REWARDS, strict=True):
        panels.samples(axis, actions, color="#bbbbbb")
        for method, color in COLORS.items():
            axis.scatter(*ends[reward, method].T, s=2.5, color=color, linewidths=0, label=method)
        axis.set_xlabel("$a_1$")
    titles = ["(a) Data samples", r"(b) DTQL: $L_{\mathrm{TR}}(a)$", r"(c) SRPO: $-\log\hat\mu(a)$"]
    titles += [f"({letter}) Policies, reward {name}" for letter, name in zip("efgh", REWARDS, strict=True)]
    for axis, title in zip([*above[:3], *below], titles, strict=True):
        panels.square(axis, extent)
        axis.set_title(title)
    above[0].set_ylabel("$a_2$")
    below[0].set_ylabel("$a_2$")
    figure.legend(*below[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLORS), markerscale=2)
    return figure


def _cut(axis, extent, trust, density):
    """Both landscapes along a_2 = 0, each with its own scale."""
    n = len(trust)
    line, row = ((np.arange(n) + 0.5) / n * 2 - 1) * extent, n // 2
    axis.plot(line, trust[row], color=panels.ORANGE)
    axis.set_ylabel(r"$L_{\mathrm{TR}}$", color=panels.ORANGE)
    other = axis.twinx()
    other.plot(line, -density[row], color=panels.DARK)
    other.set_ylabel(r"$-\log\hat\mu$", color=panels.DARK)
    axis.set(title="(d) Cut at $a_2=0$", xlabel="$a_1$", xlim=(-extent, extent), box_aspect=1)
    axis.tick_params(axis="y", colors=panels.ORANGE)
    other.tick_params(axis="y", colors=panels.DARK)
