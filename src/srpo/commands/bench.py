"""Time an exported policy on this machine: one core, one thread, NumPy, onnxruntime, C and jitted JAX side by side.

C is compiled on the spot and timed inside C; the others are timed around the call, in Python.

  srpo bench policy.onnx
  srpo bench robot/ --calls 10000                        a folder that srpo export wrote
  srpo bench RUN --seed 0                                a run that was not exported yet
  srpo bench policy.onnx --json | jq '.rows[] | [.label, .batch, .median_us]'
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from srpo.commands import add_algo, add_step, open_run
from srpo.errors import ConfigError
from srpo.system import strict_json
from srpo.text import plain

COLUMNS = ("median_us", "p99_us", "p99.9_us")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("policy", type=Path, metavar="POLICY", help="policy.onnx, policy.safetensors, the folder of an export, or a run")
    add("--calls", type=int, default=100_000, metavar="N", help="calls per row; default 100000")
    add("--batch", action="append", type=int, metavar="B", help="batch size (repeatable); default 1 and 256")
    add("--seed", type=int, help="which seed of a run, if it has several")
    add("--set-point", action="append", default=[], metavar="PATH=VALUE", help="which swept value of a run (repeatable)")
    add_step(add)
    add_algo(add)
    add("--json", action="store_true", help="print one JSON object on standard output and nothing else there")
    add("--quiet", action="store_true", help="no progress")


def main(args: argparse.Namespace) -> int:
    """Raises DeployError and RunError."""
    batches = tuple(args.batch or (1, 256))
    if args.calls < 100 or min(batches) < 1:
        raise ConfigError(
            f"--calls {args.calls} --batch {min(batches)}: expected at least 100 calls and batches of one or more"
        )
    with tempfile.TemporaryDirectory() as folder:
        rows = _measure(_file(args, Path(folder)), args.calls, batches, args.quiet)
    found = {"policy": str(args.policy), "processor": processor(), "calls": args.calls, "rows": rows}
    if args.json:
        print(strict_json.dumps(found))
    else:
        show(found)
    return 0


def _file(args: argparse.Namespace, folder: Path) -> Path:
    """The policy as a file; a run's is written into `folder`."""
    if not (args.policy / "run.json").exists():
        chosen = {"--seed": args.seed, "--step": args.step, "--set-point": args.set_point or None}
        if told := [option for option, value in chosen.items() if value is not None]:
            raise ConfigError(f"{told[0]} chooses a policy of a run, but {args.policy} is none; leave it out, or give the run")
        if args.policy.is_dir():
            from srpo.deploy.contract import require_vouched

            require_vouched(args.policy)  # before anything in the folder is read
        return args.policy
    from srpo.commands.export import read_point
    from srpo.deploy.bundle import Bundle
    from srpo.deploy.describe import describe
    from srpo.deploy.export import choose, deviation_of
    from srpo.deploy.numpy_file import write

    run = open_run(args.policy, args.algo)
    policy, about = choose(run, args.seed, read_point(args.set_point), args.step)
    network = describe(policy, deviation=deviation_of(about))
    write(Bundle.bare(network), folder / "policy.safetensors")
    return folder / "policy.safetensors"


def _measure(path: Path, calls: int, batches: tuple[int, ...], quiet: bool) -> list[dict[str, Any]]:
    from srpo.deploy.latency import measure
    from srpo.training.progress import Bars

    def tell(what: str, done: int, of: int) -> None:
        if done == 0:
            bars.open(what, of)
        bars.update(done)

    with Bars(quiet) as bars:
        return measure(path, calls, batches, progress=tell)


def processor() -> str:
    """The name of this machine's processor."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def show(found: dict[str, Any]) -> None:
    """A table on a terminal, aligned lines elsewhere."""
    from rich.console import Console
    from rich.table import Table

    title = f"microseconds per call, one core of {found['processor']}, {found['calls']} calls"
    cells = [[r["label"], str(r["batch"]), *(_number(r[c]) for c in COLUMNS)] for r in found["rows"] if "label" in r]
    heads = ["", "batch", "median", "p99", "p99.9"]
    console = Console(soft_wrap=True, highlight=False)
    if console.is_terminal:
        table = Table(*heads[:1], title=title)
        for head in heads[1:]:
            table.add_column(head, justify="right")
        for row in cells:
            table.add_row(*row)
        console.print(table)
    else:
        print(title)
        for row in [heads, *cells]:
            print(f"{row[0]:<28}" + "".join(f"{cell:>10}" for cell in row[1:]))
    for row in found["rows"]:
        if "skipped" in row:
            console.print(plain(f"not timed: {row['form']} ({row['skipped']})"), markup=False)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
