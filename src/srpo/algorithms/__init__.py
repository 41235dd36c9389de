"""The algorithms by name. Each is imported when it is asked for."""

from __future__ import annotations

import importlib

from srpo.config import ConfigError, closest

ALGORITHMS = {
    "bc": "srpo.algorithms.bc:BC",
    "bc-gaussian": "srpo.algorithms.bc:GaussianBC",
    "bc-diffusion": "srpo.algorithms.bc_diffusion:DiffusionBC",
    "iql": "srpo.algorithms.iql:IQL",
    "td3-bc": "srpo.algorithms.td3_bc:TD3BC",
    "bear": "srpo.algorithms.bear:BEAR",
    "srpo": "srpo.algorithms.srpo:SRPO",
    "srpo-dial": "srpo.algorithms.srpo_dial:SRPODial",
    "idql": "srpo.algorithms.idql:IDQL",
    "sfbc": "srpo.algorithms.sfbc:SfBC",
    "qgpo": "srpo.algorithms.qgpo:QGPO",
    "diffuser": "srpo.algorithms.diffuser:Diffuser",
    "diffusion-ql": "srpo.algorithms.diffusion_ql:DiffusionQL",
    "dtql": "srpo.algorithms.dtql:DTQL",
    "dtql-kl": "srpo.algorithms.dtql_kl:DTQLKL",
}


def find(name: str) -> type:
    """The algorithm's class. Raises ConfigError, naming the closest one, for an unknown name."""
    if name not in ALGORITHMS:
        raise ConfigError(closest(name, ALGORITHMS, "algorithm"))
    module, _, attribute = ALGORITHMS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def name_of(algorithm) -> str:
    """The name under which the class of `algorithm` is listed. Raises ConfigError if it is not."""
    cls = type(algorithm)
    here = f"{cls.__module__}:{cls.__qualname__}"
    for name, home in ALGORITHMS.items():
        if home == here:
            return name
    raise ConfigError(
        f"the algorithm {here} has no name, so that its runs could not be read; add it to srpo.algorithms.ALGORITHMS"
    )
