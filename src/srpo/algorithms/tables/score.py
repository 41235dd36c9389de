"""Of algorithms on the score model and the proposed actions that SfBC and QGPO share."""

from __future__ import annotations

from srpo.config import Overrides

TRIAL_SUPPORT: Overrides = {  # trained and drawn in seconds
    "behavior.steps": 30,
    "behavior.batch_size": 32,
    "behavior.widths": (12, 8),
    "behavior.lr": 1e-2,
    "support.steps": 6,
    "support.count": 3,
    "support.solver.evaluations": 5,
}
