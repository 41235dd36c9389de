"""Everything that goes into the files of one export."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from srpo.deploy.graph import Network
from srpo.deploy.safety import Support


@dataclass(frozen=True, eq=False)
class Bundle:
    network: Network
    golden: tuple[
        np.ndarray, np.ndarray
    ]  # rows (n, obs), with a dial followed by beta, and the actions (n, act) of the JAX policy
    support: Support | None = None
    contract: dict[str, Any] = field(default_factory=dict)  # what is known before anything is measured

    @property
    def contract_text(self) -> str:
        return json.dumps(self.contract, allow_nan=False)

    @classmethod
    def bare(cls, network: Network) -> Bundle:
        """The network alone: nothing to test with."""
        sizes = network.layers[0][0].shape[0], network.action_size
        rows, actions = (np.empty((0, size), np.float32) for size in sizes)
        return cls(network, (rows, actions))
