"""How rows drawn at random are read from a file: through its map, or by system calls; announced to the disk before, or not.

Each way reads pairs of rows of 17 numbers, as an observation and the next one, in as many threads as training has (--threads: in others); once with the
file in the system's cache and once after it was dropped from there. What the process keeps resident of the file is printed, too.

  python benchmarks/reading_rows.py --file rows.bin --gigabytes 1
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from srpo.data.mapped import gathered, map_array, map_of
from srpo.training.feed import READERS, ROWS_PER_READER

SIZE, DRAWS = 17, 1 << 15

Take = Callable[[np.ndarray, np.ndarray], np.ndarray]


def make(path: Path, gigabytes: float) -> None:
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for _ in range(int(gigabytes * 1e9) >> 24):
            file.write(rng.bytes(1 << 24))
        os.fsync(file.fileno())


@contextlib.contextmanager
def unannounced() -> Iterator[None]:
    """As on a system without that call."""
    announce = os.posix_fadvise
    del os.posix_fadvise
    try:
        yield
    finally:
        os.posix_fadvise = announce


class Way(NamedTuple):
    take: Take
    announced: bool = True
    ordered: bool = False


WAYS = {
    "the map": Way(lambda array, rows: array[rows]),
    "preadv": Way(gathered, announced=False),
    "preadv, announced": Way(gathered),
    "preadv, announced, sorted": Way(gathered, ordered=True),
}


def resident() -> float:
    """MiB of mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssFile"].split()[0]) / 1024


def measure(path: Path, way: Way, warm: bool, seed: int, threads: int) -> tuple[float, float, float]:
    """Microseconds of wall time and of CPU time per pair, and MiB that became resident."""
    array = map_array(path, np.dtype(np.float32), (path.stat().st_size // (4 * SIZE), SIZE))
    rows = np.random.default_rng(seed).integers(0, len(array) - 1, DRAWS)
    rows = np.sort(rows) if way.ordered else rows
    pairs = np.stack([rows, rows + 1], axis=1)
    content = map_of(array)
    assert content is not None and content.descriptor is not None
    if warm:
        path.read_bytes()
    else:
        os.posix_fadvise(content.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    before, wall, cpu = resident(), time.perf_counter(), time.process_time()
    silence = contextlib.nullcontext() if way.announced else unannounced()
    with silence, ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: way.take(array, part), np.array_split(pairs, -(-DRAWS // ROWS_PER_READER))))
    taken = time.perf_counter() - wall, time.process_time() - cpu
    return 1e6 * taken[0] / DRAWS, 1e6 * taken[1] / DRAWS, resident() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="made if it is not there; delete it afterwards")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=READERS)
    args = parser.parse_args()
    if not args.file.exists():
        make(args.file, args.gigabytes)
    for warm in (True, False):
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in WAYS}
        for turn in range(args.turns):
            for name, way in WAYS.items():
                found[name].append(measure(args.file, way, warm, turn, args.threads))
        for name, turns in found.items():
            wall, cpu, kept = np.median(turns, axis=0)
            where = "in the cache of files" if warm else "on disk"
            print(f"{where}, {name}: {wall:.1f} us per pair, {cpu:.1f} of them CPU; {kept:.0f} MiB resident", flush=True)


if __name__ == "__main__":
    main()
