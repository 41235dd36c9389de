"""Where episodes end: flags of other names, flags that contradict each other, rows that are no steps.

D4RL's own files keep D4RL's rule, by which a time-out wins; in all other data a terminal row is one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from srpo.data.mapped import columns, gathered, pieces
from srpo.data.spilled import taken

# other tools' names of what D4RL calls timeouts; with True the field marks every end, and terminal rows are taken out
TIMEOUTS = {
    "truncations": False,
    "truncated": False,
    "truncateds": False,
    "truncation": False,
    "timeout": False,
    "time_outs": False,
    "episode_terminals": True,
    "episode_ends": True,
    "dones_float": True,
    "dones": True,
    "done": True,
}

SAME = 1e-6  # of a column's deviation: as far as two readings of one observation may differ


def from_another_name(terminal: np.ndarray, others: dict[str, Any]) -> tuple[np.ndarray | None, list[str]]:
    """Time-outs (N,) from a field of another name among `others`, or None; and what must be said about it."""
    for name, every_end in TIMEOUTS.items():
        found = np.asarray(others[name]) if name in others else None
        if found is None or found.size != len(terminal) or not np.isin(found, (0, 1)).all():
            continue
        timeout = found.reshape(-1).astype(bool)
        what = "every end" if every_end else "time-outs"
        return timeout & ~terminal, [
            f"the field timeouts is missing; {name!r} is taken to mark {what}: rename it to timeouts if so"
        ]
    return None, []


def breaks(next_obs: np.ndarray, obs: np.ndarray, std: np.ndarray, offset: np.ndarray | float = 0.0) -> np.ndarray:
    """Rows (N - 1,) whose recorded next observation is not that of the next row.

    They are the same within what float32 rounds, and SAME of each column's deviation `std`: signals come in any units. `offset`: what
    was taken off the observations after they were rounded.
    """
    found = []
    for _, (recorded, following) in pieces(next_obs[:-1], obs[1:]):
        following = following.astype(np.float64)
        rounding = np.spacing(np.abs(following + offset).astype(np.float32))
        found.append((np.abs(recorded - following) > SAME * std + rounding).any(axis=1))
    return np.concatenate(found)


def from_next_observations(fields: dict[str, np.ndarray]) -> tuple[np.ndarray | None, list[str]]:
    """Time-outs (N,) where the recorded next observation is not that of the next row, or None; and what must be said about it."""
    if "next_obs" not in fields:
        return None, []
    jumps = breaks(fields["next_obs"], fields["obs"], columns(fields["obs"]).std)
    cut = np.append(jumps & ~fields["terminal"][:-1], False)
    if not cut.any():
        return None, []
    return cut, [
        f"the field timeouts is missing; {cut.sum()} rows whose next observation is not that of the next row are taken as time-outs"
    ]


def reconciled(fields: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Terminal wins over a time-out on the same row; rows of an autoreset, which are no steps, are left out. And what to say."""
    notes = []
    both = fields["terminal"] & fields["timeout"]
    if both.any():
        fields = fields | {"timeout": fields["timeout"] & ~both}
        notes.append(f"{both.sum()} rows are marked both terminal and time-out; they are taken as terminal")
    resets = reset_rows(fields)
    if len(resets):
        keep = np.ones(len(fields["obs"]), bool)
        keep[resets] = False
        fields = {key: taken(x, keep) for key, x in fields.items()}
        notes.append(
            f"{len(resets)} rows are resets of Gymnasium's vector environments (autoreset NEXT_STEP): their action was ignored; "
            "they are left out"
        )
    return fields, notes


def reset_rows(fields: dict[str, np.ndarray]) -> np.ndarray:
    """Rows that a vector environment spent on resetting: after every end comes the last observation once more, with reward 0."""
    if "next_obs" not in fields:
        return np.zeros(0, int)
    after = np.flatnonzero((fields["terminal"] | fields["timeout"])[:-1]) + 1
    if len(after) < 2:
        return np.zeros(0, int)
    repeats = (gathered(fields["next_obs"], after - 1) == gathered(fields["obs"], after)).all(axis=1)
    idle = fields["reward"][after] == 0
    usual = (np.delete(fields["reward"], after) == 0).mean() < 0.5  # where reward is rare, 0 says nothing
    return after if repeats.all() and idle.all() and usual else np.zeros(0, int)
