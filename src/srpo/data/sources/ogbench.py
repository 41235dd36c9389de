"""OGBench's .npz files (Park et al., ICLR 2025, arXiv 2410.20092), as they are downloaded or as its loader hands them out.

Downloaded: `observations, actions, terminals`, with `qpos` and others that are left out; `terminals` marks the last state of a
trajectory, whose action has no successor, so that its row gives the next observation of the row before and is no
transition. The trajectory was cut there and did not end. Play and navigate sets have no reward; that of a singletask set is computed
by the package ogbench from its environment: saved with it, as `rewards` and `masks`, it is read here, or a function
computes it. Where `masks` is zero the task was solved, which is what ends an episode for Q, and `terminals` is then
the last transition of a trajectory (`valids` is zero in the row behind it, where there are no `next_observations`).

A file with rewards is therefore OGBench's only with `masks` and one of the two; with others of these arrays beside it, such as
`qpos`, it is in D4RL's layout, where `terminals` ends an episode.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from srpo.data.checks import DataError
from srpo.data.ends import TIMEOUTS
from srpo.data.sources import DAMAGE, Attributes, npz
from srpo.data.sources.hashes import file_hash
from srpo.errors import UserError
from srpo.system.surroundings import expanded

NEEDED = {"observations", "actions", "terminals"}
OWN = {"qpos", "masks", "valids"}  # of which one is there without rewards, too
FOLLOWING = {"next_observations", "valids"}  # of which one is there with rewards, beside masks
OTHERS = {"timeouts", *TIMEOUTS}  # that none of its files has
TAKEN = "taken as OGBench's: terminals marks where a trajectory was cut, and only masks that are zero end an episode"


def matches(source: str) -> bool:
    """A .npz file that OGBench, and no recorder in D4RL's layout, writes."""
    path = expanded(source) or Path(source)
    if path.suffix.lower() != ".npz" or not os.path.isfile(path):
        return False
    try:
        there = set(npz.names(path))
    except (UserError, *DAMAGE):
        return False  # whoever reads it says what is wrong with it
    if not there >= NEEDED or there & OTHERS:
        return False
    return bool("masks" in there and there & FOLLOWING) if "rewards" in there else bool(there & OWN)


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    """The transitions of a file. Raises DataError."""
    path = expanded(source) or Path(source)
    there = npz.names(path)
    wanted = (*sorted(NEEDED), "rewards", "masks", "valids", "next_observations")
    found = npz.read_arrays(path, [name for name in wanted if name in there])
    rows = len(found["observations"])
    for name, array in found.items():
        if array.ndim == 0 or len(array) != rows:
            raise DataError(f"{path}: {name} has shape {array.shape}, expected {rows} rows as in observations; get it again")
    fields = _transitions(found, path)
    left = sorted(set(there) - set(wanted))
    notes = (TAKEN, *((f"left out: {', '.join(left)}",) if left else ()))
    if "reward" not in fields:
        notes += ("OGBench's rewards are made by its environment: compute them with --reward module:function",)
    return fields, Attributes(path.stem, str(path), sha256=file_hash(path), notes=notes)


def _transitions(found: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Rows that have a successor, by our names."""
    obs, last = found["observations"], found["terminals"].astype(bool).ravel()
    if "next_observations" in found:
        kept, end, following = np.ones(len(obs), bool), last, found["next_observations"]
    else:
        behind = found["valids"].ravel() == 0 if "valids" in found else last  # the last state of each trajectory
        if not behind[-1:].any():
            raise DataError(f"{path}: the last row ends no trajectory (terminals is 0 there); get it again")
        kept, end = ~behind, np.append(behind[1:], True)
        following = np.concatenate([obs[1:], obs[-1:]])
    fields = {"obs": obs[kept], "action": found["actions"][kept], "next_obs": following[kept]}
    if "rewards" in found:
        fields["reward"] = found["rewards"].ravel()[kept]
    solved = found["masks"].ravel()[kept] == 0 if "masks" in found else np.zeros(int(kept.sum()), bool)
    return fields | {"terminal": solved, "timeout": end[kept] & ~solved}
