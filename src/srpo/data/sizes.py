"""The views of a data set whose sizes alone are known, as a finished run remembers them."""

from __future__ import annotations

from typing import Any

import jax

from srpo.core import Batch
from srpo.data.treatments import Treatment
from srpo.data.views import Windows


class ShapeOnly:
    """A data set of which only the sizes are known: enough to shape networks."""

    def __init__(self, info: dict[str, Any], treatment: Treatment):
        self.info, self.treatment = info, treatment

    def _batch(self, n: int) -> Batch:
        obs, act = self.info["obs_size"], self.info["action_size"]
        return Batch(_shape(n, obs), _shape(n, act), _shape(n), _shape(n, obs), _shape(n), _shape(n, of="int32"))

    @property
    def transitions(self) -> Batch:
        return self._batch(self.info["transitions"])

    @property
    def sarsa(self) -> Batch:
        return self.transitions._replace(next_action=self.transitions.action)

    @property
    def steps(self) -> Batch:
        return self._batch(self.info["rows"])

    @property
    def last(self):
        return _shape(self.info["rows"], of="bool")

    def windows(self, horizon: int, **_: Any) -> Windows:
        steps, one = self.steps, _shape(1, of="int32")
        return Windows(steps.obs, steps.action, steps.reward, one, one, horizon)

    def require_episodes(self, who: str) -> None:
        """They were there when the run was trained."""


def _shape(*shape: int, of: str = "float32"):
    return jax.ShapeDtypeStruct(shape, of)
