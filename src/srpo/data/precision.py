"""Columns whose numbers are large beside how they vary: what float32 makes of them, and the offset that is taken off before.

Time stamps, positions on a map, 1e4 +- 1: a network sees such a column as a constant, and float32 rounds it. The offset is
subtracted in double precision, before the cast; policies subtract it again from what they are given.
"""

from __future__ import annotations

import numpy as np

from srpo.data import spilled
from srpo.data.mapped import columns, map_of

FAR = 100.0  # deviations from zero at which a column gets an offset
STEPS = 1000.0  # steps of float32 that a deviation should have


def centered(
    obs: np.ndarray, next_obs: np.ndarray | None, stated: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, list[str]]:
    """Observations and next observations as float32, the offset (obs,) float32 taken off them or None, and what to say.
    `stated`: the offset, where the recording says it."""
    low, high, mean, std = columns(obs)
    far = (std > 0) & (high > low) & (np.abs(mean) > FAR * std) if stated is None else stated != 0
    if not far.any():
        return float32(obs), None if next_obs is None else float32(next_obs), None, []
    offset = _rounded(mean, std, far) if stated is None else stated
    notes = [
        f"observation columns {_listed(far)} are large beside how they vary ({mean[far][0]:.6g} +- {std[far][0]:.2g}): training sees "
        "them less an offset, which policies take off again"
    ]
    coarse = far & (np.spacing(np.abs(mean).astype(np.float32)) * STEPS > std)
    if coarse.any():
        notes.append(
            f"observation columns {_listed(coarse)} are more than float32 can hold (it rounds {mean[coarse][0]:.6g} by up to "
            f"{np.spacing(np.float32(mean[coarse][0])) / 2:.2g}): give policies float64, and record them less a fixed offset if you want to export"
        )

    def near(x: np.ndarray) -> np.ndarray:
        return spilled.of(x, lambda rows: _single(np.asarray(rows, np.float64) - offset))

    return near(obs), None if next_obs is None else near(next_obs), offset, notes


def _rounded(mean: np.ndarray, std: np.ndarray, far: np.ndarray) -> np.ndarray:
    """The means of the columns that are `far`, to the first digit of their deviation, as float32; zero for the others."""
    digit = 10.0 ** np.floor(np.log10(np.where(far, std, 1.0)))
    return np.where(far, np.round(mean / digit) * digit, 0.0).astype(np.float32)


def rewards(reward: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Rewards as float32, and what to say if that loses how they differ."""
    single = _single(reward)
    low, high, _, spread = map(float, columns(reward))
    step = float(np.spacing(np.float32(max(-low, high))))
    if spread == 0 or step * STEPS <= spread:
        return single, []
    return single, [
        f"rewards are more than float32 can hold: they differ by {spread:.2g} and are rounded to steps of {step:.2g}; "
        "subtract a constant before recording"
    ]


def float32(x: np.ndarray) -> np.ndarray:
    """As it is trained on; a mapped array of this type stays in its file."""
    return x if x.dtype == np.float32 and map_of(x) is not None else spilled.of(x, _single)


def _single(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.astype(np.float32, copy=False))


def _listed(which: np.ndarray) -> str:
    numbers = np.flatnonzero(which)
    return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
