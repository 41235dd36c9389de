"""Of algorithms with an implicit Q-learning critic."""

from __future__ import annotations

from srpo.config import Overrides

QUICK_CRITIC: Overrides = {"critic.steps": 50_000, "critic.lr": 1e-3}  # for the presets `quick`, by experiment: docs/quick.md
# one that is trained in seconds
TRIAL_CRITIC: Overrides = {"critic.steps": 30, "critic.batch_size": 32, "critic.hidden": (12,), "critic.lr": 5e-2}
