"""A suite on a Ray cluster: every cell is a task with its cores and its part of a GPU.

Ray places the tasks, starts one again on another node if its own dies, and shows them on its dashboard. Runs, records and
locks are where they are without Ray (`cells.py`), in folders that all nodes share: a task that is started again goes on
from the last checkpoint. Cells that share a stage wait for each other; only the driver writes the tables.
"""

from __future__ import annotations

import os
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srpo.errors import ConfigError
from srpo.runs.checkpoint import CheckpointError
from srpo.suite import tables
from srpo.suite.cells import Cell
from srpo.suite.clock import Clock, stopping
from srpo.suite.keep import Keep
from srpo.suite.plan import load_data
from srpo.suite.sharing import relatives
from srpo.suite.work import WAIT_SECONDS, Work
from srpo.text import tell

RETRIES = 5  # of a task whose node or process died; errors of training are recorded and not tried again
STOP_SECONDS = 60.0  # for tasks to save their state


@dataclass(frozen=True)
class Resources:
    """What a cell has for itself. `gpus`: a fraction below one shares a GPU. Raises ConfigError."""

    cores: int = 1
    gpus: float = 0.0

    def __post_init__(self):
        if self.cores < 1:
            raise ConfigError(f"--cores {self.cores}: expected one core or more for each cell")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus % 1):
            raise ConfigError(f"--gpus {self.gpus:g}: expected a fraction of one GPU, or a whole number, for each cell")

    @property
    def surroundings(self) -> dict[str, str]:
        """Environment variables of the process that trains a cell: it keeps to its share."""
        if not self.gpus:
            return {"NPROC": str(self.cores), "JAX_PLATFORMS": "cpu"}  # XLA begins as many threads
        part = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 * self.gpus:.3f}"} if self.gpus < 1 else {}
        return {"NPROC": str(self.cores), **part}

    def __str__(self):
        return f"{self.cores} core{'s' * (self.cores > 1)}" + (f" and {self.gpus:g} GPU" if self.gpus else "")


def through(work: Work, data_dir: Path | None, resources: Resources, address: str | None = None) -> int:
    """Work through all cells. address: of a running cluster ("auto" finds this machine's); None: one of this machine's
    cores and GPUs, for as long as it takes. Returns how many cells failed. Raises ConfigError, CheckpointError."""
    work = replace(work, out=work.out.absolute(), keep=Keep(work.keep.folder.absolute()))
    cells = work.cells(together=resources.gpus > 0)
    work.check(cells)
    with connected(address) as ray:
        _require_room(ray, resources, wait=address is not None)
        with work.keep.locked():
            work.keep.describe(work.suite, work.data)
        left = [cell for cell in cells if not work.settled(cell, _known(work, cells))]
        tell(f"{len(left)} of {len(cells)} cells on {len(_alive(ray))} nodes, each with {resources}")
        tasks = started(ray, work, left, data_dir and data_dir.absolute(), resources)
        with stopping(work.clock):
            return _finished(ray, work, cells, tasks)
    return sum(cell.log["error"] is not None for cell in left)  # the time was over


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, with a cluster; one that was connected before stays connected. Raises ConfigError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as e:
        raise ConfigError(f"--on ray needs Ray ({e}); install srpo[ray]") from None
    if ray.is_initialized():
        yield ray
        return
    try:
        _require_answer(address)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # Ray starts programs, and goes on with none of JAX
            found = ray.init(address=address or "local", log_to_driver=False, logging_level="error")
    except (OSError, ValueError) as e:
        raise ConfigError(f"--address {address}: no Ray cluster answers there ({str(e).splitlines()[0]})") from None
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


def _alive(ray: Any) -> list[dict[str, float]]:
    """The resources of each node that can have tasks."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _require_room(ray: Any, resources: Resources, wait: bool) -> None:
    """Raises ConfigError if no node can have a cell; `wait`: the cluster may still grow."""
    if any(n["CPU"] >= resources.cores and n.get("GPU", 0) >= resources.gpus for n in _alive(ray)):
        return
    if not wait:
        raise ConfigError(f"no node has {resources} for a cell; ask for less with --cores and --gpus")
    tell(f"no node has {resources} for a cell; waiting for one")


def _known(work: Work, cells: Sequence[Cell]) -> list[tables.Result]:
    return tables.merged(work.results(cells), tables.read(work.keep.folder))


def started(ray: Any, work: Work, cells: Sequence[Cell], data_dir: Path | None, resources: Resources) -> dict[Any, Cell]:
    """A task for each cell; it begins when those before it that share a stage with it are done."""
    task = ray.remote(cell_task)
    sent = ray.put((replace(work, data={}, clock=Clock(), quiet=True), data_dir))
    tasks: dict[Any, Cell] = {}
    for cell in cells:
        near = {ref: other for ref, other in tasks.items() if other in relatives(cell, cells)}
        options = task.options(
            name=_name(cell),
            num_cpus=resources.cores,
            num_gpus=resources.gpus,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": resources.surroundings},
        )
        tasks[options.remote(sent, replace(cell), [replace(other) for other in near.values()], *near)] = cell
    return tasks


def cell_task(sent: tuple[Work, Path | None], cell: Cell, near: Sequence[Cell], *after: bool) -> bool:
    """Train and evaluate one cell on the node where this runs; False if it failed. `after`: what it waited for."""
    work, data_dir = sent
    data = load_data(cell.data, data_dir)
    if data.sha256 != cell.sha256:
        raise ConfigError(f"{data.source} differs between nodes; put the same file there, or use a folder that all share")
    here = replace(work, data={cell.data: data}, clock=Clock())
    while True:
        with cell.claimed() as mine:  # what was lost from sight may still be at work
            if mine:
                return here.settled(cell, here.results([cell])) or here.one(cell, [*near, cell])
        time.sleep(WAIT_SECONDS)


def _finished(ray: Any, work: Work, cells: Sequence[Cell], tasks: dict[Any, Cell]) -> int:
    """Wait for all tasks and keep the tables up to date. Stopped, it lets them save their state."""
    failed, left = 0, list(tasks)
    try:
        while left:
            ready, left = ray.wait(left, timeout=1.0)
            for ref in ready:
                failed += not _outcome(ray, ref, f"{_name(tasks[ref])} ({len(tasks) - len(left)} of {len(tasks)})", tasks[ref])
            if ready:
                work.keep.update(work.results(cells))
    except BaseException:
        for ref in left:
            ray.cancel(ref)
        if left:
            ray.wait(left, num_returns=len(left), timeout=STOP_SECONDS)
        raise
    return failed


def _outcome(ray: Any, ref: Any, name: str, cell: Cell) -> bool:
    """Say how a task ended. Raises CheckpointError: the disk is full, and the others would fail as well."""
    try:
        ok = ray.get(ref)
    except ray.exceptions.RayError as e:
        cause = getattr(e, "cause", None) or e
        if isinstance(cause, CheckpointError):
            raise cause from None
        tell(f"{name}: failed: {str(cause).splitlines()[0]}; the same command goes on")
        return False
    log = cell.log
    tell(f"{name}: {log['train_seconds']:.0f} s of training" if ok else f"{name}: failed: {log['error']}")
    return ok


def _name(cell: Cell) -> str:
    return f"{cell.data} {cell.algorithm} {'-'.join(map(str, cell.seeds))}"
