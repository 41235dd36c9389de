"""Two ends per column, low and high: what float32 makes of them, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from srpo.data.checks import ACTION_ERROR

Bounds = tuple[np.ndarray, np.ndarray]


def step(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(act,) the largest step of float32 between bounds."""
    return np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(np.float32)).astype(np.float64)


def slack(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(act,) how far beyond bounds an action may be: rounding, also that of the bounds to float32."""
    return ACTION_ERROR * (high - low) / 2 + step(low, high)


def text(bounds: Sequence[Any], which: np.ndarray | slice = slice(None)) -> str:
    """The bounds of some columns, all of them unless told; what follows the first two, low and high, is not shown."""
    low, high = (np.asarray(bound)[which] for bound in bounds[:2])
    shown = (f"[{a:.{d}g}, {b:.{d}g}]" for a, b, d in zip(low, high, digits(low, high), strict=True))
    pairs = list(dict.fromkeys(shown))
    return ", ".join(pairs[:4]) + (" ..." if len(pairs) > 4 else "")


def digits(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(act,) decimal digits that show a thousandth of the distance between two numbers, or nearly so."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    share = np.maximum(np.abs(low), np.abs(high)) / np.maximum(high - low, np.finfo(np.float64).tiny)
    return np.clip(4 + np.ceil(np.log10(np.maximum(share, 1.0))), 4, 17).astype(int)


def named(which: np.ndarray) -> str:
    """Which columns, by number."""
    numbers = np.flatnonzero(which)
    return (
        ("column " if len(numbers) == 1 else "columns ")
        + ", ".join(map(str, numbers[:10]))
        + (" ..." if len(numbers) > 10 else "")
    )
