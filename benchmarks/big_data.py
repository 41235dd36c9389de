"""Training on a recording larger than the memory it may take, beside training on rows on the device.

A built-in recording is repeated, each time jittered anew, until it has the size asked for. Two processes then train
SRPO's critic at the sizes of the preset `paper`, in turns: one draws from that file, the other from the built-in
recording on the device. The first may not allocate more than `--memory` GiB (RLIMIT_DATA); the largest resident memory it
had from its start to the end of training (VmHWM, which counts pages of mapped files, too) must be below that as well, and
is read after loading and at the end. Every turn first trains until what was gathered ahead is used up.

Before the turns "as loaded" the file is read through once, as loading reads it for its hash: they find of it in the system's cache
what the memory can hold. As many "cold" ones follow: the file is dropped from the cache before each, so that rows come from the disk.

  python benchmarks/big_data.py --file big.hdf5 --gigabytes 20 --json big_data.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

NAME = "halfcheetah-medium-replay-mini"
JITTER = 1e-3
ROUNDS, STEPS = 6, 1024


def make(path: Path, gigabytes: float, compressed: bool) -> None:
    """The built-in recording over and over, observations and actions moved a little each time; plain arrays in one HDF5 file, or
    compressed ones."""
    from srpo.data import load_dataset
    from srpo.data.checks import FIELDS

    data, rng = load_dataset(NAME), np.random.default_rng(0)
    fields = {key: getattr(data, key) for key in ("obs", "action", "reward", "terminal", "timeout")}
    fields["timeout"] = fields["timeout"].copy()
    fields["timeout"][-1] |= not fields["terminal"][-1]  # the next copy is another episode
    copies = int(gigabytes * 1e9 / sum(array.nbytes for array in fields.values())) + 1
    noise = JITTER * rng.standard_normal(2 * data.obs.size, np.float32)  # every copy gets another piece of it
    part = path.with_name(f".{path.name}.part")
    with h5py.File(part, "w") as file:
        file.attrs["env_id"] = data.env_id
        how = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if compressed else {}
        made = {
            key: file.create_dataset(FIELDS[key], (copies * len(data), *x.shape[1:]), x.dtype, **how)
            for key, x in fields.items()
        }
        for copy in range(copies):
            for key, array in fields.items():
                if key in ("obs", "action"):
                    start = rng.integers(array.size)
                    array = array + noise[start : start + array.size].reshape(array.shape)
                array = np.clip(array, -1, 1) if key == "action" else array
                made[key][copy * len(data) : (copy + 1) * len(data)] = array
    os.replace(part, path)


def unchecked(path: str) -> Any:
    """The recording in a file of `make`, without its hash and without looking at every number first."""
    from srpo.data.recording import Dataset
    from srpo.data.sources.files import read_file

    return Dataset("halfcheetah", **read_file(Path(path))[0])


def trainer(pipe: Any, source: str, data_in: str, gibibytes: float | None, trust: bool) -> None:
    """A process that trains so many steps when it is told to, and answers with the seconds they took by the clock and of processors."""
    import resource

    if gibibytes is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(gibibytes * 2**30),) * 2)
    import srpo
    from srpo.data.placing import placed
    from srpo.data.treated import treat
    from srpo.runs.grid import Grid
    from srpo.training.loop import StageLoop

    begin = time.perf_counter()
    data, on_device, _ = placed(unchecked(source) if trust else srpo.load_dataset(source), data_in)
    algorithm = srpo.configure("srpo", data)
    view = algorithm.stages["critic"].view(treat(data, algorithm.data, on_device))
    loop = StageLoop("critic", Grid.create(algorithm, 1, None), view, {}, Path("never written"))
    loop.start()
    loop.advance(1)  # compiles
    pipe.send({"rows": len(data), "loading_s": time.perf_counter() - begin, "loading_gib": memory()["VmHWM"]})
    while steps := pipe.recv():
        begin = time.perf_counter(), time.process_time()
        loop.advance(loop.step + steps)
        pipe.send((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    loop.close()
    pipe.send(memory())


def memory() -> dict[str, float]:
    """GiB of this process that are resident: at most, now of its own, and now of mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(status[key].split()[0]) / 2**20 for key in ("VmHWM", "RssAnon", "RssFile")}


def measure(path: Path, gibibytes: float, rounds: int, steps: int, trust: bool) -> dict[str, Any]:
    """Milliseconds per step of both, turn by turn, and the memory of the one on disk in GiB."""
    context = multiprocessing.get_context("spawn")
    pipes, told = {}, {}
    for name, source, memory in (("device", NAME, None), ("disk", str(path), gibibytes)):
        pipes[name], other = context.Pipe()
        arguments = other, source, name, memory, trust and name == "disk"
        context.Process(target=trainer, args=arguments, daemon=True).start()
        told[name] = pipes[name].recv()
        print(f"{name}: {told[name]}", file=sys.stderr, flush=True)
    read_through(path)
    found = {name: in_turns(pipes, path, name == "cold", rounds, steps) for name in ("as loaded", "cold")}
    for pipe in pipes.values():
        pipe.send(0)
    taken = {name: pipe.recv() for name, pipe in pipes.items()}
    out = {"told": told, "speed": found, "memory_gib": taken["disk"], "file_gb": path.stat().st_size / 1e9}
    return out | {"limit_gib": gibibytes, "cores": os.cpu_count(), "load": os.getloadavg()}


def in_turns(pipes: dict[str, Any], path: Path, cold: bool, rounds: int, steps: int) -> dict[str, Any]:
    """Milliseconds per step, by the clock and of processors, and the speed of the one on disk as a share of the other's, turn by
    turn. On a busy machine the clock measures the others, too; processor time hardly does."""
    from srpo.training.feed import AHEAD, HOST_STEPS

    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in pipes}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            if cold:
                drop(path)
            for count in ((AHEAD + 1) * HOST_STEPS, steps):
                pipe.send(count)
                clock, processors = pipe.recv()
            turns[name].append((1e3 * clock / steps, 1e3 * processors / steps))
        last = (f"{name} {ms[-1][0]:.2f} ms per step ({ms[-1][1]:.2f} of processors);" for name, ms in turns.items())
        print(*last, "cold" * cold, file=sys.stderr, flush=True)
    shares = [a[0] / b[0] for a, b in zip(turns["device"], turns["disk"], strict=True)]
    of_processors = [statistics.median(ms[1] for ms in turns[name]) for name in ("device", "disk")]
    found = {"ms_per_step": turns, "shares": shares, "share": statistics.median(shares)}
    return found | {"processor_ms": dict(zip(("device", "disk"), of_processors, strict=True))}


def read_through(path: Path) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def drop(path: Path) -> None:
    """Take the file out of the system's cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True, help="made if it is not there; delete it afterwards")
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB that the process on disk may take")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="timed per turn")
    parser.add_argument("--unchecked", action="store_true", help="neither hash nor check the file before training")
    parser.add_argument("--compressed", action="store_true", help="compress the file (its cache: SRPO_CACHE_DIR)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not args.file.exists():
        make(args.file, args.gigabytes, args.compressed)
    found = measure(args.file, args.memory, args.rounds, args.steps, args.unchecked)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    peak = found["memory_gib"]["VmHWM"]
    for name, speed in found["speed"].items():
        low, high = min(speed["shares"]), max(speed["shares"])
        used = ", ".join(f"{where} {ms:.2f}" for where, ms in speed["processor_ms"].items())
        print(f"{name}: {speed['share']:.0%} of the speed on the device ({low:.0%} to {high:.0%} over {args.rounds} turns)")
        print(f"{name}: processor ms per step: {used}")
    print(
        f"{found['file_gb']:.1f} GB, {found['told']['disk']['rows']} rows: {peak:.2f} GiB resident at most, of {args.memory:g}; "
        f"load of the machine {found['load'][1]:.1f}"
    )
    return 0 if peak < args.memory else 1


if __name__ == "__main__":
    raise SystemExit(main())
