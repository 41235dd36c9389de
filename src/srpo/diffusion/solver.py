"""How SfBC (arXiv 2209.14548) and QGPO (arXiv 2304.12824) turn a diffusion model, guided or not, into actions."""

from __future__ import annotations

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from srpo.config import static
from srpo.diffusion.dpm_solver import Form, Model, block_orders, singlestep, uniform_times
from srpo.diffusion.schedules import Schedule


class Solver(eqx.Module):
    """Settings of DPM-Solver as SfBC and QGPO use it, and the sampler that they make."""

    form: Form = static("noise", "DPM-Solver (noise) or DPM-Solver++ (data)")
    order: int = static(3, "order of the solver's steps: 1, 2 or 3", "[1, 3]")
    evaluations: int = static(15, "evaluations of the network per action")

    def __call__(
        self, predict_noise: Model, schedule: Schedule, key: PRNGKeyArray, shape: tuple[int, ...]
    ) -> Float[Array, "..."]:
        """Actions of the given shape from predict_noise(x, t), not clipped; the times run from 1 to 1e-3, uniformly."""
        orders = block_orders(self.evaluations, self.order, single_tail=self.form == "data")
        return singlestep(
            predict_noise, schedule, jax.random.normal(key, shape), uniform_times(self.evaluations), orders, self.form
        )
