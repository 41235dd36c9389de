"""One bandit of Figures 3 and 7: behavior model, its density on a grid, and the policies at every target and temperature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from srpo.diffusion.density import log_density
from srpo.paper.bandits import NO_OBS, Bandit, Points, Quadratic, find, fit
from srpo.paper.job import Job
from srpo.paper.policy_shift import MOST, shift, target_grid
from srpo.training.progress import Bars

CHUNK = 1200  # rows whose ODEs share their steps
OUTSIDE = 0.01  # share of the behavior that its support leaves out


@dataclass(frozen=True)
class Study:
    name: str
    bandit: Bandit
    actions: Points
    log_density: np.ndarray  # (grid, grid), rows along y
    inverse_beta: np.ndarray  # (k,)
    targets: np.ndarray  # (n, 2)
    policies: np.ndarray  # (k, n, 2)
    inside: np.ndarray  # (2,) share of policies in support at the first and the last temperature

    @property
    def integral(self) -> float:
        """Of the density over the square; 1 if the flow was solved well and the square holds the data."""
        side = 2 * self.bandit.extent / len(self.log_density)
        return float(np.exp(self.log_density).sum() * side**2)

    def report(self) -> dict:
        """A row of numbers to print."""
        shares = {
            f"in support at 1/beta={k:g}, %": round(100 * float(s), 1)
            for k, s in zip(self.inverse_beta[[0, -1]], self.inside, strict=True)
        }
        return {"data": self.name, "density integral": round(self.integral, 4), **shares}


def grid_points(extent: float, n: int) -> Points:
    """The centers of `n` by `n` cells of the square, y slowest."""
    line = ((np.arange(n) + 0.5) / n * 2 - 1) * extent
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2).astype(np.float32)


_log_density = jax.jit(
    lambda model, x, mean, std: log_density(model, model.schedule, x, NO_OBS, mean=mean, std=std, tolerance=1e-3)
)
climb = jax.jit(shift, static_argnames=("steps", "gradient"))


def densities(model, points: Points, actions: Points, bars: Bars, name: str) -> np.ndarray:
    """The model's log-density at every point, solver tolerance 1e-3; `actions` are the training data."""
    mean, std = actions.mean(0), actions.std(0)
    out, padded = [], np.pad(points, ((0, -len(points) % CHUNK), (0, 0)), mode="edge")
    bars.open(name, len(padded) // CHUNK)
    for i, chunk in enumerate(padded.reshape(-1, CHUNK, 2)):
        out.append(np.asarray(_log_density(model, chunk, mean, std)))
        bars.update(i + 1)
    return np.concatenate(out)[: len(points)]


def study(job: Job, name: str, label: str = "") -> Study:
    """Trains on the bandit `name` and measures it; `label` names it in the progress."""
    bandit, budget, label = find(name), job.budget, label or name
    actions = bandit.actions(budget.rows, job.seed)
    model = fit(budget.behavior(), actions, job.key(0), job.bars, f"{label}: behavior")
    targets = target_grid(bandit.extent, budget.targets)
    placed = jnp.asarray(targets)
    inverse_beta = np.linspace(0, MOST[job.gradient], budget.temperatures, dtype=np.float32)
    job.bars.open(f"{label}: policies", 1)
    found = climb(
        model, Quadratic(placed), placed, jnp.asarray(inverse_beta), job.key(1), steps=budget.climbs, gradient=job.gradient
    )
    policies = np.asarray(found)
    job.bars.update(1)
    held_out = bandit.actions(budget.held_out, job.seed + 1)
    asked = [grid_points(bandit.extent, budget.grid), held_out, policies[0], policies[-1]]
    log_density = densities(model, np.concatenate(asked), actions, job.bars, f"{label}: density")
    grid, own, *ends = np.split(log_density, np.cumsum([len(a) for a in asked])[:-1])
    inside = np.array([np.mean(end >= np.quantile(own, OUTSIDE)) for end in ends])
    return Study(name, bandit, actions, grid.reshape(budget.grid, -1), inverse_beta, targets, policies, inside)


def write_numbers(job: Job, figure: str, studies: Sequence[Study]) -> None:
    """The policies and densities behind the pictures, as two CSV files."""
    tables: dict[str, list[dict]] = {"policies": [], "density": []}
    for s in studies:
        k, n = s.policies.shape[:2]
        tables["policies"].append(
            {
                "data": np.full(k * n, s.name),
                "inverse_beta": np.repeat(s.inverse_beta, n),
                "target_x": np.tile(s.targets[:, 0], k),
                "target_y": np.tile(s.targets[:, 1], k),
                "action_x": s.policies[..., 0].ravel(),
                "action_y": s.policies[..., 1].ravel(),
            }
        )
        points = grid_points(s.bandit.extent, len(s.log_density))
        density = s.log_density.ravel()
        tables["density"].append(
            {"data": np.full(len(density), s.name), "x": points[:, 0], "y": points[:, 1], "log_density": density}
        )
    for name, parts in tables.items():
        job.csv(f"{figure}_{name}", {column: np.concatenate([p[column] for p in parts]) for column in parts[0]})
