"""What is wanted of the plant, as a function of what its logs hold."""

import numpy as np


def level(obs, action, next_obs):
    """Minus the distance from the set point in cm, less a little for the voltage: (N,) of (N, 3), (N, 1), (N, 3)."""
    return -np.abs(next_obs[:, 1] - obs[:, 2]) - 0.02 * action[:, 0]
