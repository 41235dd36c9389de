"""policy.safetensors, which `srpo.deploy.Policy` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save

from srpo.deploy.bundle import Bundle
from srpo.deploy.runtime import FORMAT, version


def write(bundle: Bundle, path: Path) -> None:
    """All arrays, statistics of the data, observations to test with, and the contract."""
    tensors = bundle.network.tensors() | (bundle.support.tensors() if bundle.support else {})
    obs, beta = bundle.network.split(bundle.golden[0])
    tensors |= {"golden.obs": np.ascontiguousarray(obs), "golden.action": bundle.golden[1]}
    tensors |= {} if beta is None else {"golden.beta": np.ascontiguousarray(beta)}
    meta = {
        "format": FORMAT,
        "version": version(bundle.network),
        "activation": bundle.network.activation,
        "squash": bundle.network.squash,
        "contract": bundle.contract_text,
    }
    contiguous = {
        name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()
    }  # `save` assumes it
    path.write_bytes(save(contiguous, meta))
