"""Where the rows that training draws from are: on the device, in the host's memory, or on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import jax
import numpy as np

from srpo.data.checks import DataError
from srpo.data.recording import Dataset
from srpo.data.spilled import spilled
from srpo.errors import ConfigError, closest
from srpo.system.files import amount, free_memory

DataIn = Literal["auto", "device", "memory", "disk"]
SHARE = 0.4  # of the memory that is free: what the rows may take on the device
PLACES = {"device": "in device memory", "memory": "in memory", "disk": "on disk"}


def rows_size(data: Dataset) -> int:
    """Bytes of the rows that training draws from, on the device."""
    return len(data) * 4 * (2 * data.obs_size + data.action_size + 3)


def placed(data: Dataset, asked: DataIn = "auto") -> tuple[Dataset, bool, str]:
    """The recording where it is asked to be, whether its rows go to the device, and what to say. Raises ConfigError, DataError."""
    if asked not in get_args(DataIn):
        raise ConfigError(f"--data-in: {closest(str(asked), get_args(DataIn), 'place')}")
    size, room = rows_size(data), SHARE * device_memory()
    why = "as asked"
    if asked == "auto":
        asked = "device" if size <= room else "disk" if data.on_disk else "memory"
        why = f"{amount(size)} of {amount(room)} that they may take on the device"
    if asked == "memory" and data.on_disk:
        data = _each(data, np.array)
    if asked == "disk" and not data.on_disk:
        data = _each(data, spilled)
    return data, asked == "device", f"rows {PLACES[asked]} ({why})"


def require_device_room(size: int, what: str) -> None:
    """Raises DataError if `what`, of so many bytes, does not fit on the device."""
    if size > (free := device_memory()):
        raise DataError(
            f"{what} takes {amount(size)} on the device, {amount(free)} are free; train on fewer rows (data.best_fraction), "
            "propose fewer actions, or choose an algorithm without such a table"
        )


def _each(data: Dataset, move: Callable[[np.ndarray], np.ndarray]) -> Dataset:
    next_obs = None if data.next_obs is None else move(data.next_obs)
    return replace(data, obs=move(data.obs), action=move(data.action), next_obs=next_obs)


def device_memory() -> float:
    """Bytes that are free there."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return free_memory()
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit", float("inf")) - stats.get("bytes_in_use", 0)
