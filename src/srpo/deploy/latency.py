"""How long one call takes: every format in a process of its own, on one core, with one thread.

C is timed inside C (a loop around `policy_act` in the harness), the others around the call in Python, with the
observation at hand as a NumPy array and the action delivered as one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srpo.deploy.graph import DeployError, Network

FORMS = ("numpy", "onnx", "c", "jax")
BATCHES = (1, 256)
DISTINCT = 256  # different observations, taken in turn
PARTS = 10  # of a row, for progress
ONLY_SINGLE = ("C, -O2", "onnxruntime, bound buffers")
TAIL = 10_000  # calls from which on a p99.9 means something
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Row = dict[str, Any]
Timer = Callable[[np.ndarray, int], np.ndarray]  # (n, batch, obs), calls -> nanoseconds


def measure(
    path: str | Path,
    calls: int = 100_000,
    batches: Sequence[int] = BATCHES,
    forms: Sequence[str] = FORMS,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Row]:
    """Rows with microseconds (median, p99, p99.9 if there are calls enough) per way to call the policy in `path` and batch size.

    path: policy.onnx or policy.safetensors, whose weights the other formats are made of, or a folder of an export.
    Plain C and bound buffers, which differ from their neighbors at batch 1 only, are timed there only. A way that this
    machine lacks has the row `skipped` with the reason. `progress` is told what is timed, calls done, and calls in all.
    Raises DeployError if the file cannot be used.
    """
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    environ = os.environ | ONE_THREAD | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    job = json.dumps({"path": str(path), "calls": calls, "batches": list(batches), "forms": list(forms)})
    rows = []
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "srpo.deploy.latency", job],  # -P: nothing in the working folder is imported
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None and worker.stderr is not None  # they are pipes
        for line in worker.stdout:
            message = json.loads(line)
            if "error" in message:
                raise DeployError(message["error"])
            if "timing" not in message:
                rows.append(message)
            elif progress is not None:
                progress(message["timing"], message["done"], calls)
        complaint = worker.stderr.read().strip().splitlines()
    if worker.returncode:
        raise DeployError(f"timing {path} failed: {complaint[-1] if complaint else f'exit status {worker.returncode}'}")
    return rows


def _work(path: str, calls: int, batches: list[int], forms: list[str]) -> Iterator[dict[str, Any]]:
    from srpo.deploy.sources import Sources

    with tempfile.TemporaryDirectory() as folder:
        sources = Sources(Path(path), Path(folder))
        for form in forms:
            try:
                timers = TIMERS[form](sources)
            except DeployError as e:
                yield {"form": form, "skipped": str(e)}
                continue
            for (label, timer), batch in ((pair, batch) for batch in batches for pair in timers.items()):
                if batch == 1 or label not in ONLY_SINGLE:
                    yield from _row({"form": form, "label": label, "batch": batch, "calls": calls}, timer, sources.network)


def _row(about: Row, timer: Timer, network: Network) -> Iterator[Row]:
    """Progress, then the row."""
    batch, calls, rng = about["batch"], about["calls"], np.random.default_rng(0)
    obs = rng.normal(network.mean, network.std, (max(DISTINCT // batch, 4), batch, network.obs_size)).astype(np.float32)
    timer(obs, max(calls // 100, 10))  # warm
    found = np.empty(0)
    for stop in np.linspace(0, calls, PARTS + 1, dtype=int):
        found = np.append(found, timer(obs, int(stop) - len(found)))
        yield {"timing": f"{about['label']}, batch {batch}", "done": int(stop)}
    median, p99, p999 = (np.percentile(found, [50, 99, 99.9]) / 1e3).tolist()
    yield about | {"median_us": median, "p99_us": p99, "p99.9_us": p999 if calls >= TAIL else None}


def _around(act: Callable[[np.ndarray], Any]) -> Timer:
    """Times `act` from outside; a batch of one is passed as (1, obs)."""

    def timer(obs: np.ndarray, calls: int) -> np.ndarray:
        out, batches, clock = np.empty(calls), list(obs), time.perf_counter_ns
        for i in range(calls):
            x = batches[i % len(batches)]
            start = clock()
            act(x)
            out[i] = clock() - start
        return out

    return timer


def _numpy(sources) -> dict[str, Timer]:
    return {"NumPy": _around(sources.policy().act)}


def _onnx(sources) -> dict[str, Timer]:
    session, network = sources.session(), sources.network
    run, names = session.run, ["action"]
    return {
        "onnxruntime": _around(lambda x: run(names, {"obs": x, **_default(network, len(x))})),
        "onnxruntime, bound buffers": _bound(session, network),
    }


def _default(network: Network, batch: int) -> dict[str, np.ndarray]:
    """The further input of a policy with a dial: the beta at which it acts unless told."""
    return {} if network.dial is None else {"beta": np.full((batch, 1), network.dial[2])}


def _bound(session: Any, network: Network) -> Timer:
    """The observation is written into a buffer that onnxruntime reads, the action into one that it keeps."""

    def timer(obs: np.ndarray, calls: int) -> np.ndarray:
        binding, x = session.io_binding(), np.empty(obs.shape[1:], np.float32)
        action = np.empty((len(x), network.action_size), np.float32)
        binding.bind_input("obs", "cpu", 0, np.float32, x.shape, x.ctypes.data)
        beta = _default(network, len(x))
        for name, value in beta.items():
            binding.bind_input(name, "cpu", 0, np.float32, value.shape, value.ctypes.data)
        binding.bind_output("action", "cpu", 0, np.float32, action.shape, action.ctypes.data)

        def act(row):
            x[:] = row
            session.run_with_iobinding(binding)

        return _around(act)(obs, calls)

    return timer


def _c(sources) -> dict[str, Timer]:
    return {f"C, {name.removeprefix('c ')}": policy.time for name, policy in sources.compiled().items()}


def _jax(sources) -> dict[str, Timer]:
    import jax
    import jax.numpy as jnp

    act = jax.jit(lambda x: sources.network.forward(x, xp=jnp))
    return {"JAX, jitted": _around(lambda x: np.asarray(act(x)))}


TIMERS: dict[str, Callable[[Any], dict[str, Timer]]] = {"numpy": _numpy, "onnx": _onnx, "c": _c, "jax": _jax}


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        for message in _work(**json.loads(sys.argv[1])):
            print(json.dumps(message), flush=True)
    except DeployError as e:
        print(json.dumps({"error": str(e)}), flush=True)


if __name__ == "__main__":
    main()
