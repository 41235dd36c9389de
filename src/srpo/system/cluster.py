"""Ray: a connection to a cluster, and what each task has of it. Nothing of Ray is imported before it is asked for."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from srpo.errors import ConfigError
from srpo.text import plain, tell


@dataclass(frozen=True)
class Resources:
    """What a task has for itself. `gpus`: a fraction below one shares a GPU. Raises ConfigError."""

    cores: int = 1
    gpus: float = 0.0

    def __post_init__(self):
        if self.cores < 1:
            raise ConfigError(f"--cores {self.cores}: expected one core or more for each task")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus % 1):
            raise ConfigError(f"--gpus {self.gpus:g}: expected a fraction of one GPU, or a whole number, for each task")

    @property
    def surroundings(self) -> dict[str, str]:
        """Environment variables of the process of a task: it keeps to its share."""
        if not self.gpus:
            return {"NPROC": str(self.cores), "JAX_PLATFORMS": "cpu"}  # XLA begins as many threads
        part = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 * self.gpus:.3f}"} if self.gpus < 1 else {}
        return {"NPROC": str(self.cores), **part}

    def __str__(self):
        return f"{self.cores} core{'s' * (self.cores > 1)}" + (f" and {self.gpus:g} GPU" if self.gpus else "")


@contextmanager
def connected(address: str | None, surroundings: Mapping[str, str] | None = None) -> Iterator[Any]:
    """Ray, with a cluster; one that was connected before stays connected. surroundings: environment variables of all its
    processes. Raises ConfigError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as e:
        raise ConfigError(f"this needs Ray ({e}); install srpo[ray]") from None
    if ray.is_initialized():
        yield ray
        return
    try:
        _require_answer(address)
        env = {"env_vars": dict(surroundings)} if surroundings else None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # Ray starts programs, and goes on with none of JAX
            found = ray.init(address=address or "local", log_to_driver=False, logging_level="error", runtime_env=env)
    except Exception as e:  # Ray has no kind of its own for a node that does not start in time
        ray.shutdown()
        what = "Ray does not start on this machine" if address is None else f"--address {address}: no Ray cluster answers there"
        raise ConfigError(f"{what} ({plain(e, 200) or type(e).__name__}); see that it runs, and try again") from None
    if found.dashboard_url:
        tell(f"dashboard: http://{found.dashboard_url}")
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str | None) -> None:
    """Raises OSError, ValueError if nothing listens at HOST:PORT; Ray itself would try for minutes."""
    if address is not None and address != "auto" and "://" not in address:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()


def alive(ray: Any) -> list[dict[str, float]]:
    """The resources of each node that can have tasks."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def require_room(ray: Any, resources: Resources, wait: bool) -> None:
    """Raises ConfigError if no node can have a task; `wait`: the cluster may still grow."""
    if any(n["CPU"] >= resources.cores and n.get("GPU", 0) >= resources.gpus for n in alive(ray)):
        return
    if not wait:
        raise ConfigError(f"no node has {resources} for a task; ask for less with --cores and --gpus")
    tell(f"no node has {resources} for a task; waiting for one")
