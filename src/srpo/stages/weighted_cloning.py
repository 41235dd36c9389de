"""A Gaussian policy by weighted maximum likelihood: shared by IQL (advantage weights) and Gaussian cloning (weight 1).

The actor is IQL's: tanh of a ReLU network as mean, standard deviation independent of the state, orthogonal
initialization, Adam whose rate decays to 0 along a cosine.
"""

from __future__ import annotations

import abc

import jax.numpy as jnp
from jaxtyping import Array, Float

from srpo.config import setting, static
from srpo.core import Alone, Batch, Given, Stage, TrainState, Updated, descend
from srpo.losses import gaussian_log_prob
from srpo.networks.actors import GaussianActor
from srpo.networks.layers import Init
from srpo.optim import adam, cosine


class WeightedCloning(Stage[Alone[GaussianActor], Batch, GaussianActor]):
    """Minimizes E[-w log pi(a|s)] over the data; a concrete stage says what w is.

    Of the metrics, `effective_share` is (E w)^2 / E w^2 within a batch: the share of its rows (1: all alike) from which
    unweighted cloning would be as noisy.
    """

    steps: int = static(1_000_000, "gradient steps")
    batch_size: int = static(256, "transitions per step")
    hidden: tuple[int, ...] = static((256, 256), "widths of the policy's hidden layers")
    layer_init: Init = static("orthogonal sqrt2", "initialization of the layers")
    dropout: float = static(0.0, "dropout rate during training", "[0, 1)")
    lr: float = setting(3e-4, "learning rate (Adam), decayed to 0 along a cosine")

    @abc.abstractmethod
    def weight(self, given: Given, batch: Batch) -> Float[Array, " B"]:
        """The weight of each row of the batch."""

    def _optimizer(self):
        return adam(cosine(self.lr, self.steps))

    def init(self, data, given, key) -> Alone[GaussianActor]:
        actor = GaussianActor(data.obs_size, data.action_size, self.hidden, key, init=self.layer_init)
        return TrainState.create(actor, self._optimizer())

    def update(self, state: Alone[GaussianActor], batch: Batch, given: Given, key, step) -> Updated[Alone[GaussianActor]]:
        weight = self.weight(given, batch)
        share = jnp.mean(weight) ** 2 / jnp.maximum(jnp.mean(weight**2), 1e-30)

        def loss(actor):
            mean, log_std = actor(batch.obs, self.dropout, key if self.dropout else None)
            log_prob = gaussian_log_prob(batch.action, mean, log_std)
            value = -jnp.mean(weight * log_prob)
            return value, {"loss": value, "log_prob": jnp.mean(log_prob), "weight": jnp.mean(weight), "effective_share": share}

        return descend(state, self._optimizer(), loss)

    def result(self, state: Alone[GaussianActor]) -> GaussianActor:
        return state.model
