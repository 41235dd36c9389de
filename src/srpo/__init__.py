"""Offline reinforcement learning from logged data to a deployed policy: SRPO and its relatives.

Names are looked up on first use, so that `import srpo` stays instant and imports no JAX.
"""

import importlib

__version__ = "0.1.0"

_HOME = {
    "load_dataset": "srpo.data",
    "from_arrays": "srpo.data",
    "Dataset": "srpo.data",
    "train": "srpo.training.train",
    "evaluate": "srpo.evaluation.scores",
    "judge": "srpo.judging.judge",
    "resume": "srpo.training.train",
    "configure": "srpo.training.train",
    "load_run": "srpo.runs.run",
    "Run": "srpo.runs.run",
    "SRPO": "srpo.algorithms.srpo",
    "register": "srpo.algorithms",
    "Stage": "srpo.core",
    "Algorithm": "srpo.core",
    "Treatment": "srpo.data.treatments",
    "TrainState": "srpo.core",
    "Batch": "srpo.core",
    "descend": "srpo.core",
    "setting": "srpo.config",
    "static": "srpo.config",
}
_ROOMS = ("algorithms", "convert", "data", "deploy", "worlds")
__all__ = [*_HOME, *_ROOMS]


def __getattr__(name):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"srpo.{name}")
    raise AttributeError(f"module 'srpo' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
