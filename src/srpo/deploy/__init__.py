"""Policies as files that act in microseconds.

`Policy` and `SafePolicy` need NumPy and nothing else; what writes the files is loaded on first use.
"""

import importlib

from srpo.deploy.graph import DeployError, Network
from srpo.deploy.runtime import Policy
from srpo.deploy.safety import SafePolicy, Support

_HOME = {
    "export_policy": "srpo.deploy.export",
    "export_run": "srpo.deploy.export",
    "describe": "srpo.deploy.describe",
    "measure": "srpo.deploy.latency",
}
__all__ = ["DeployError", "Network", "Policy", "SafePolicy", "Support", *_HOME]


def __getattr__(name):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'srpo.deploy' has no attribute {name!r}")
