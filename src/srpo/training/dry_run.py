"""What a training would do: every setting with its meaning, what each device has of it, and the time, estimated or measured."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from srpo import config
from srpo.data import Dataset
from srpo.data.doubts import warnings_about
from srpo.data.placing import DataIn, placed
from srpo.data.treated import Treated, treat
from srpo.networks.precision import Precision
from srpo.runs.grid import Grid
from srpo.system import strict_json
from srpo.text import plain
from srpo.training.estimate import estimated
from srpo.training.inherit import inherited_from
from srpo.training.loop import StageLoop
from srpo.training.progress import Bars
from srpo.training.sound import require_sound

MEASURE_SECONDS = 2.0


def expected(
    grid: Grid,
    data: Treated,
    quiet: bool = False,
    devices: int | None = None,
    precision: Precision = "float32",
    finished: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """Stage -> seconds to compile, milliseconds per step (and of them all cores' work) and hours for all runs of it, from a few real steps.

    finished: results of stages that are not to be trained."""
    results = dict(finished or {})
    out = {}
    with tempfile.TemporaryDirectory() as folder, Bars(quiet) as bars:
        for name, stage in grid.algorithm.stages.items():
            if name in results:
                continue
            bars.say(f"{name}: compiling and timing a few steps")
            loop = StageLoop(name, grid, stage.view(data), results, Path(folder, name), precision=precision, devices=devices)
            begin = time.perf_counter()
            loop.start()
            calls = loop.calls()
            next(calls)
            compiled, worked, first = time.perf_counter(), time.process_time(), loop.step
            while loop.step < stage.steps and time.perf_counter() - compiled < MEASURE_SECONDS:
                next(calls)
            ms, cpu_ms = (
                1e3 * t / max(loop.step - first, 1) for t in (time.perf_counter() - compiled, time.process_time() - worked)
            )
            out[name] = {
                "compile_s": compiled - begin,
                "ms_per_step": ms,
                "cpu_ms_per_step": cpu_ms,
                "hours": ms * stage.steps / 3.6e6,
            }
            results[name] = loop.result()
    return out


def dry_run(
    grid: Grid,
    data: Dataset,
    sources: dict[str, str],
    *,
    as_json: bool,
    quiet: bool = False,
    data_in: DataIn = "auto",
    devices: int | None = None,
    precision: Precision = "float32",
    measure: bool = False,
    start_from: Path | None = None,
    keep: int = 1,
) -> int:
    """`measure`: compile and time real steps too; otherwise nothing is compiled but single products. `start_from`, `keep`: as in
    `srpo.train`; stages that are used from that run take no time. Writes nothing."""
    data, on_device, where = placed(data, data_in)
    treated = treat(data, grid.algorithm.data, on_device)
    require_sound(grid, treated)
    with Bars(quiet) as bars:
        for line in warnings_about(treated.recording, treated.treatment.normalize_obs):
            bars.warn(line)
    inherited = {} if start_from is None else inherited_from(start_from, grid, data, precision, keep)[0]
    finished = {name: result for (name, step), result in inherited.items() if step is None}
    stages = {name: s for name, s in estimated(grid, treated, devices, precision).items() if name not in finished}
    if measure:
        times = expected(grid, treated, quiet, devices, precision, finished)
        stages = {name: stages[name] | found for name, found in times.items()}
    peak = peak_memory() if measure else None
    rows = settings_of(grid, sources)
    runs = {"seeds": list(grid.seeds), "points": len(grid.points)}
    if as_json:
        told = {"settings": rows, "runs": runs, "times": "measured" if measure else "estimated", "stages": stages}
        told |= {"from": {name: str(start_from) for name in finished}}
        print(strict_json.dumps(told | {"data_in": where, "peak_memory_mib": peak and round(peak)}))
        return 0
    _print_settings(rows, f"{type(grid.algorithm).__name__} on {data.name}")
    for name in finished:
        print(f"{name}: from {plain(start_from)}, not trained again")
    _print_times(grid, stages, measure)
    _print_total(stages, f"{data.name}: {where}", peak)
    return 0


def settings_of(grid: Grid, sources: dict[str, str]) -> list[dict[str, Any]]:
    """Every setting with its value or values, where they are from and what it means."""
    return [
        {
            "path": s.path,
            "value": list(grid.sweep.get(s.path, ())) or s.value,
            "source": sources.get(s.path, "default"),
            "meaning": s.meaning,
        }
        for s in config.settings(grid.algorithm).values()
    ]


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _print_settings(rows: list[dict[str, Any]], title: str) -> None:
    table = Table("path", "value", "from", "meaning", title=escape(plain(title)), title_justify="left")
    for row in rows:
        table.add_row(*(escape(str(row[key])) for key in ("path", "value", "source", "meaning")))
    _console().print(table)


def _print_times(grid: Grid, times: dict[str, dict[str, float]], measured: bool) -> None:
    console = _console()
    for name, t in times.items():
        points = len(grid.stage_points(name))
        many = f"{len(grid.seeds)} seed{'s' * (len(grid.seeds) > 1)}" + (f" x {points} values" if points > 1 else "")
        on = f"{t['devices']:.0f} devices with {t['runs']:.0f} runs each" if t["devices"] > 1 else f"one device with {many}"
        console.print(
            f"{name}: {grid.algorithm.stages[name].steps} steps, {'' if measured else 'about '}{t['ms_per_step']:.3g} ms each "
            f"for {many}: {clock(t['hours'])}; {on}, {t['state_mib']:.3g} MiB of state"
        )
    if not measured:
        console.print(
            "times are an estimate: matrix products, counted, over this machine's rate of them; real steps take longer, small "
            "networks many times (--measure compiles and times them)"
        )


def _print_total(times: dict[str, dict[str, float]], where: str, peak: float | None) -> None:
    """`peak`: of a measurement."""
    console = _console()
    console.print(plain(where), highlight=False, markup=False)
    total = clock(sum(t["hours"] for t in times.values()))
    if peak is None:
        console.print(f"in all at least about {total} on this machine, without evaluation")
    else:
        console.print(
            f"in all about {total} on this machine, without evaluation; {peak:.0f} MiB of memory at the peak of this measurement"
        )


def peak_memory() -> float | None:
    """MiB that this process has held at most, where the system counts them (not on Windows)."""
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 / (1024 if sys.platform == "darwin" else 1)


def clock(hours: float) -> str:
    minutes = hours * 60
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.1f} min" if minutes >= 1 else f"{minutes * 60:.0f} s"
