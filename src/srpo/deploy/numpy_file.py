"""policy.safetensors, which `srpo.deploy.Policy` reads."""

from __future__ import annotations

from pathlib import Path

from safetensors.numpy import save

from srpo.deploy.bundle import Bundle
from srpo.deploy.runtime import FORMAT, VERSION


def write(bundle: Bundle, path: Path) -> None:
    """All arrays, statistics of the data, observations to test with, and the contract."""
    tensors = bundle.network.tensors() | (bundle.support.tensors() if bundle.support else {})
    tensors |= {"golden.obs": bundle.golden[0], "golden.action": bundle.golden[1]}
    meta = {
        "format": FORMAT,
        "version": str(VERSION),
        "activation": bundle.network.activation,
        "contract": bundle.contract_text,
    }
    path.write_bytes(save(tensors, meta))
