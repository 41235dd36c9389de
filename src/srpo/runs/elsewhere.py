"""What a program has registered, told to other processes by name, where they import it again.

Only what a person named in the first process is told, nothing that was read from a file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from srpo import algorithms
from srpo.data import sources
from srpo.system.surroundings import imported

Known = dict[str, Any]


def known(names: Iterable[str], env_ids: Iterable[str | None]) -> Known:
    """Where the registered ones of these algorithms live, the registered sources, and the modules of these environments."""
    places = {name: algorithms.home(algorithms.registered[name]) for name in names if name in algorithms.registered}
    modules = {env_id.rpartition(":")[0] for env_id in env_ids if env_id is not None}
    return {
        "algorithms": {name: place for name, place in places.items() if "<" not in place},  # not one made inside a function
        "sources": [place for source in sources.registered if (place := sources.place(source))],
        "modules": sorted(module for module in modules if module in sys.modules),
    }


def know(told: Known) -> None:
    """Import and register in this process what another one knows. Raises ConfigError for what cannot be imported here."""
    for module in told["modules"]:
        imported(module, "the module of an environment")
    for place in told["sources"]:
        sources.register(imported(place, "a module with the functions matches and read"))
    for name, place in told["algorithms"].items():
        algorithms.registered[name] = imported(place, algorithms.CLASS)
