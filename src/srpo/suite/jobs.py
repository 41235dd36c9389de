"""Several processes on one suite, each with cores of its own: small networks do not fill two cores, two trainings do.

Each works through the suite as if it were alone and takes the next cell that nobody is at work on (`work.py`). Nothing here
imports JAX or NumPy before a process keeps to its cores, as both begin with a thread for each.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from srpo.system.files import free_memory

if TYPE_CHECKING:
    from srpo.data import Dataset

PROCESS_BYTES = 1 << 30  # what a training needs beside its data, at the papers' sizes


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def fitting(cells: int, data: Iterable[Dataset]) -> int:
    """One process a core, as far as there are cells and memory; one alone on an accelerator, which trains all seeds at once."""
    import jax

    if jax.default_backend() != "cpu":
        return 1
    each = PROCESS_BYTES + sum(2 * d.obs.nbytes + d.action.nbytes for d in data)
    return int(max(1, min(len(cores()), cells, free_memory() // each)))


def shares(jobs: int) -> list[list[int]]:
    """The cores of each of so many processes; with fewer cores than processes some have the same one."""
    mine = cores()
    return [mine[i::jobs] or [mine[i % len(mine)]] for i in range(jobs)]


def side_by_side(task: Callable[[list[int]], None], jobs: int) -> list[int]:
    """Run task(cores), a function of a module, in so many processes at once. Returns their exit codes.

    Interrupted, it stops them as Ctrl-C would, waits until they have saved their state, and goes on with the interrupt.
    """
    context = multiprocessing.get_context("spawn")  # nothing of JAX may be shared
    workers: list[BaseProcess] = [context.Process(target=task, args=(share,)) for share in shares(jobs)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
        for worker in workers:
            if worker.pid is not None:
                worker.join()
    return [worker.exitcode or 0 for worker in workers]


def keep_to(share: list[int]) -> None:
    """Use these cores alone, from here on; call it before JAX is imported. Does nothing where the system cannot."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share)
