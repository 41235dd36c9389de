"""What an array of the wrong shape probably is: how other tools lay out their recordings, and what to do with each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SIDE_BY_SIDE = (
    "looks like {envs} environments side by side, (steps, environments, ...); put them one after the other in every field, such as "
    "x.swapaxes(0, 1).reshape(steps * environments, ...), and mark the last step of each in timeouts"
)
TRANSPOSED = "looks transposed, as column-major writers (MATLAB, Julia) leave arrays; transpose every field, x.T"
BATCHED = (
    "looks like {n} episodes of one length, (episodes, steps, ...); put them one after the other and mark their last steps"
)


def wrong_rank(shape: tuple[int, ...], rank: int, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Why a field has another number of axes than expected, and how to mend it. `shapes`: of all fields."""
    if rank == 1 and len(shape) == 2 and shape[0] == 1 and shape[1] > 1:
        return TRANSPOSED
    if len(shape) == rank + 1 and len(shape) >= 2:
        lead = shape[:2]
        alike = sum(other[:2] == lead for other in shapes.values() if len(other) >= 2)
        if alike > 1 and lead[1] <= lead[0]:
            return SIDE_BY_SIDE.format(envs=lead[1])
        if alike > 1:
            return BATCHED.format(n=lead[0])
        if shape[-1] == 1:
            return f"has a last axis of size one too many; take x[..., 0], which gives {shape[:-1]}"
    if rank == 2 and len(shape) > 2:
        return f"has rows of shape {shape[1:]}; make one vector of each row, x.reshape(len(x), -1), if it is no picture"
    if rank == 2 and len(shape) == 1:
        return "has one number per row; if that is meant, make it a column, x[:, None]"
    return "has another number of axes; the rows of all fields must be the steps, one after the other"


def wrong_length(key: str, shapes: Mapping[str, tuple[int, ...]], ends: int | None) -> str:
    """Why the field `key` may have another number of rows than the observations. `ends`: how many episodes end, if known."""
    rows = _common(shapes)
    more = shapes["obs"][0] - rows
    if more > 0 and (more == 1 or (ends is not None and more in (ends, ends + 1))):
        return (
            "looks like one more observation per episode, the one after its last step; leave it out of each episode "
            "(or give it as next_observations of that step)"
        )
    if any(len(shape) == 2 and shape[1] == rows != shape[0] for shape in shapes.values()):
        return TRANSPOSED
    return (
        "every field needs one row per step: a recording that broke off or is still being written has such fields; find out "
        "which rows are missing, as cutting anywhere else pairs wrong ones"
    )


def _common(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of rows that most fields have."""
    lengths = [shape[0] for shape in shapes.values()]
    return max(dict.fromkeys(lengths), key=lengths.count)


def interleaved(obs: np.ndarray, most: int = 64, rows: int = 20_000) -> int:
    """From how many sources the rows come in turn, by how much nearer row i + k is than row i + 1; 1 if there is no sign of it."""
    x = np.asarray(obs[:rows], np.float64)
    spread = x.std(axis=0)
    x = x[:, spread > 0] / spread[spread > 0]
    most = min(most, len(x) // 8)
    if most < 2 or x.shape[1] == 0:
        return 1
    jump = np.array([np.median(np.abs(x[k:] - x[:-k]).mean(axis=1)) for k in range(1, most + 1)])
    best = int(np.argmin(jump))
    return best + 1 if best > 0 and jump[best] < 0.25 * jump[0] and jump[0] > 0.3 else 1
