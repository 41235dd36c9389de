"""The views of a data set whose sizes alone are known, as a finished run remembers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from srpo.core import Batch, Moments
from srpo.data.treatments import Treatment
from srpo.data.views import TableView


@dataclass(frozen=True)
class Sizes:
    """As many rows (or windows) of these sizes, of which nothing can be taken."""

    n: int
    obs_size: int
    action_size: int
    horizon: int = 1

    def __len__(self) -> int:
        return self.n

    def moments(self, field: str) -> tuple[np.ndarray, np.ndarray]:
        zero = np.zeros({"obs": self.obs_size, "action": self.action_size}[field], np.float32)
        return zero, zero

    def take(self, numbers: np.ndarray) -> Batch:
        raise NotImplementedError("only the sizes of this data set are known")


def sized(view: TableView, found: dict[str, Moments] | None = None) -> TableView:
    """The view with sizes in place of its table: a program that is given it serves all data of these sizes, and keeps none alive."""
    horizon = getattr(view.table, "horizon", 1)
    return TableView(Sizes(view.n_rows, view.obs_size, view.action_size, horizon), view.held, found)


class ShapeOnly:
    """A data set of which only the sizes are known: enough to shape networks."""

    def __init__(self, info: dict[str, Any], treatment: Treatment):
        self.info, self.treatment = info, treatment

    def _view(self, n: int, **more: int) -> TableView:
        return TableView(Sizes(n, self.info["obs_size"], self.info["action_size"], **more))

    @property
    def transitions(self) -> TableView:
        return self._view(self.info["transitions"])

    @property
    def sarsa(self) -> TableView:
        return self.transitions

    @property
    def steps(self) -> TableView:
        return self._view(self.info["rows"])

    @property
    def held_steps(self) -> Batch:
        n, obs, act = self.info["rows"], self.info["obs_size"], self.info["action_size"]
        columns: Any = (_shape(n, obs), _shape(n, act), _shape(n), _shape(n, obs), _shape(n), _shape(n, of="int32"))
        return Batch(*columns)

    @property
    def last(self) -> jax.ShapeDtypeStruct:
        return _shape(self.info["rows"], of="bool")

    def windows(self, horizon: int, **_: Any) -> TableView:
        return self._view(1, horizon=horizon)

    def require_device_room(self, size: int, what: str) -> None:
        """It was there when the run was trained."""

    def require_episodes(self, who: str) -> None:
        """They were there when the run was trained."""


def _shape(*shape: int, of: str = "float32") -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, of)
