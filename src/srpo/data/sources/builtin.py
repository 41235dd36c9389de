"""The small data sets inside the package; `benchmarks/make_builtin.py` makes them.

All were recorded in Gymnasium's -v4 environments and hold one in k episodes of a larger recording. They are
not D4RL's data: scores on them compare with nothing published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from srpo.data.sources import Attributes
from srpo.data.sources.files import read_recording

FOLDER = Path(__file__).parent.parent / "files"


class Builtin(NamedTuple):
    rows: int
    meaning: str


BUILTIN = {
    "halfcheetah-medium-replay-mini": Builtin(
        75_000, "HalfCheetah-v4: half of the replay buffer of soft actor-critic (150k steps from scratch)"
    ),
    "hopper-medium-expert-mini": Builtin(
        69_026, "Hopper-v4: a third of the episodes of a medium (SAC) and an expert (TQC) policy, sampled actions"
    ),
}


def builtin_path(name: str) -> Path:
    """The file of a built-in data set."""
    return FOLDER / f"{name}.hdf5"


def matches(source: str) -> bool:
    return source in BUILTIN


def read(source: str) -> tuple[dict[str, Any], Attributes]:
    fields, about = read_recording(builtin_path(source), source)
    return fields, about._replace(d4rl=True)


def listing() -> list[dict[str, Any]]:
    return [
        {"name": name, "kind": "built-in", "meaning": entry.meaning, "path": str(builtin_path(name)), "here": True}
        for name, entry in BUILTIN.items()
    ]
