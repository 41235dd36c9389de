"""A suite on a Ray cluster: every cell is a task with its cores and its part of a GPU.

Ray places the tasks, starts one again on another node if its own dies, and shows them on its dashboard. Runs, records and
locks are where they are without Ray (`cells.py`), in folders that all nodes share, or copies of them are in a storage: a task
that is started again goes on from the last checkpoint. Cells that share a stage wait for each other; only the driver
writes the tables.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srpo.data import Dataset
from srpo.errors import ConfigError
from srpo.runs.checkpoint import NotWritten
from srpo.runs.elsewhere import Known, know
from srpo.runs.storage import Storage
from srpo.suite import tables
from srpo.suite.cells import Cell
from srpo.suite.keep import Keep
from srpo.suite.plan import load_data
from srpo.suite.sharing import relatives
from srpo.suite.work import WAIT_SECONDS, Work
from srpo.system.clock import Clock, stopping
from srpo.system.cluster import Resources, alive, connected, require_room
from srpo.text import tell
from srpo.training.saving import Saving

RETRIES = 5  # of a task whose node or process died; errors of training are recorded and not tried again
STOP_SECONDS = 60.0  # for tasks to save their state


def through(
    work: Work, data_dir: Path | None, resources: Resources, address: str | None = None, storage: Storage | None = None
) -> int:
    """Work through all cells. address: of a running cluster ("auto" finds this machine's); None: one of this machine's
    cores and GPUs, for as long as it takes. storage: through which nodes exchange what they make, if they share no folders.
    Returns how many cells failed. Raises ConfigError, CheckpointError."""
    work = replace(work, out=work.out.absolute(), keep=Keep(work.keep.folder.absolute()))
    cells = work.cells(together=resources.gpus > 0)
    work.check(cells)
    fetch(work, cells, storage)
    with connected(address) as ray:
        require_room(ray, resources, wait=address is not None)
        with work.keep.locked():
            work.keep.describe(work.suite, work.data)
        left = [cell for cell in cells if not work.settled(cell, _known(work, cells))]
        tell(f"{len(left)} of {len(cells)} cells on {len(alive(ray))} nodes, each with {resources}")
        alone = replace(work, data={}, clock=Clock(), quiet=True)
        job = Job(alone, data_dir and data_dir.absolute(), storage, work.known)
        tasks = started(ray, job, work.data, left, resources)
        with stopping(work.clock):
            return _finished(ray, work, cells, tasks, storage)
    return sum(cell.log["error"] is not None for cell in left)  # the time was over


def _known(work: Work, cells: Sequence[Cell]) -> list[tables.Result]:
    return tables.merged(work.results(cells), tables.read(work.keep.folder))


@dataclass(frozen=True)
class Job:
    """What all tasks are given. data_dir: where nodes find data sets, if they do not come with the tasks."""

    work: Work
    data_dir: Path | None
    storage: Storage | None
    known: Known


def started(ray: Any, job: Job, data: Mapping[str, Dataset], cells: Sequence[Cell], resources: Resources) -> dict[Any, Cell]:
    """A task for each cell; it begins when those before it that share a stage with it are done."""
    task = ray.remote(cell_task)
    sent = ray.put(job)
    given = {name: ray.put(each) for name, each in data.items()} if job.storage is not None else {}
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
        others = [replace(other) for other in near.values()]
        tasks[options.remote(sent, given.get(cell.data), replace(cell), others, *near)] = cell
    return tasks


def cell_task(job: Job, data: Dataset | None, cell: Cell, near: Sequence[Cell], *after: bool) -> bool:
    """Train and evaluate one cell on the node where this runs; False if it failed. `after`: what it waited for."""
    know(job.known)
    data = load_data(cell.data, job.data_dir) if data is None else data
    if data.sha256 != cell.sha256:
        raise ConfigError(f"{data.source} differs between nodes; put the same file there, or use a folder that all share")
    here = replace(job.work, data={cell.data: data}, clock=Clock())
    if job.storage is not None:
        return _by_storage(here, cell, near, job.storage)
    while True:
        with cell.claimed() as mine:  # what was lost from sight may still be at work
            if mine:
                return here.settled(cell, here.results([cell])) or here.one(cell, [*near, cell])
        time.sleep(WAIT_SECONDS)


def _by_storage(work: Work, cell: Cell, near: Sequence[Cell], storage: Storage) -> bool:
    """`cell_task` in a folder of this node alone, filled from the storage and copied to it whenever something is new."""
    with tempfile.TemporaryDirectory(prefix="srpo-") as folder:
        out, keep = Path(folder, "runs"), Keep(Path(folder, "results"))
        mine, *others = (replace(each, out=out) for each in (cell, *near))

        def copy(*new: Any) -> None:
            storage.push(f"runs/{mine.place}", out, [mine.folder, mine.record])

        here = replace(work, out=out, keep=keep, saving=Saving(work.saving.seconds, copy))
        for each in (mine, *others):
            storage.pull(f"runs/{each.place}", out)
        storage.pull(f"policies/{mine.place}", keep.folder)
        ok = here.settled(mine, here.results([mine])) or here.one(mine, [*others, mine])
        copy()
        kept = keep.policies(mine.data, mine.algorithm, mine.seeds)
        if kept.exists():
            storage.push(f"policies/{mine.place}", keep.folder, [kept])
        return ok


def fetch(work: Work, cells: Sequence[Cell], storage: Storage | None) -> None:
    """Put what the storage has of cells, but for states of training, where it would be without one."""
    if storage is None:
        return
    for cell in cells:
        storage.pull(f"runs/{cell.place}", work.out, without="state")
        storage.pull(f"policies/{cell.place}", work.keep.folder)


def _finished(ray: Any, work: Work, cells: Sequence[Cell], tasks: dict[Any, Cell], storage: Storage | None) -> int:
    """Wait for all tasks and keep the tables up to date. Stopped, it lets them save their state."""
    failed, left = 0, list(tasks)
    try:
        while left:
            ready, left = ray.wait(left, timeout=1.0)
            for ref in ready:
                fetch(work, [tasks[ref]], storage)
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
    """Say how a task ended. Raises NotWritten: the disk is full, and the others would fail as well."""
    try:
        ok = ray.get(ref)
    except ray.exceptions.RayError as e:
        cause = getattr(e, "cause", None) or e
        if isinstance(cause, NotWritten):
            raise cause from None
        tell(f"{name}: failed: {str(cause).splitlines()[0]}; the same command goes on")
        return False
    log = cell.log
    tell(f"{name}: {log['train_seconds']:.0f} s of training" if ok else f"{name}: failed: {log['error']}")
    return ok


def _name(cell: Cell) -> str:
    return f"{cell.data} {cell.algorithm} {'-'.join(map(str, cell.seeds))}"
