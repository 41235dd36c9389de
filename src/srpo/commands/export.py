"""Write a trained policy as files that act without JAX; each is verified against the policy before it gets its name.

What can be exported: policies that are one network, the mean action of Gaussian ones, and what has a `chain` (docs/extending.md).

  srpo export RUN --to policy.onnx                       ONNX, for onnxruntime and TensorRT
  srpo export RUN --to policy.safetensors                for srpo.deploy.Policy, which needs only NumPy
  srpo export RUN --to policy.c                          one C99 file without dependencies
  srpo export RUN --seed 0 --to robot/                   all of them, contract.json and a test program for the target
  srpo export RUN --step 50000 --to policy.onnx          what --keep kept then, such as the choice of srpo judge
  srpo export RUN --seed 3 --set-point policy.beta=0.1 --to robot/ --formats onnx,c --force
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from srpo.commands import add_algo, add_source, add_step, open_run, same_environment
from srpo.system import strict_json
from srpo.text import plain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a finished run")
    add("--to", required=True, metavar="TARGET", help="policy.onnx, policy.safetensors, policy.c, or a folder for all")
    add("--seed", type=int, help="which seed, if the run has several")
    add(
        "--set-point",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="which swept value, if the run has several (repeatable)",
    )
    add_step(add)
    add("--formats", metavar="F1,F2", help="onnx, numpy, c: only some of them into a folder")
    add("--data", metavar="DATA", help="the data set, if it is no longer where it was at training")
    add_source(add)
    add("--env", metavar="ID", help="the environment of the data again, for its module to be imported, such as module:Name-v0")
    add("--force", action="store_true", help="replace files that are there")
    add_algo(add)
    add("--json", action="store_true", help="print the contract on standard output and nothing else there")


def main(args: argparse.Namespace) -> int:
    """Raises DeployError, RunError and DataError; then nothing was written."""
    from rich.console import Console

    from srpo.deploy.export import export_run

    run = open_run(args.run, args.algo)
    if args.env is not None:
        same_environment(args.env, run.info["data"]["env_id"])
    point = read_point(args.set_point)
    formats = args.formats.split(",") if args.formats else None
    with Console(stderr=True).status("writing the files, verifying each, timing it"):
        contract = export_run(
            run, args.to, seed=args.seed, point=point, step=args.step, formats=formats, data=args.data, force=args.force
        )
    print(strict_json.dumps(contract) if args.json else summary(contract))
    return 0


def read_point(texts: list[str]) -> dict[str, float]:
    """{"policy.beta": 0.1} of ["policy.beta=0.1"]. Raises ConfigError."""
    from srpo.commands.reading import pair
    from srpo.config import convert

    return {path: convert(value, float, path) for path, value in (pair(text, "--set-point") for text in texts)}


def summary(contract: dict[str, Any]) -> str:
    """What was exported, as a few lines of text."""
    sizes = [contract["input"]["shape"][1], *contract["network"]["hidden"], contract["output"]["shape"][1]]
    lines = [
        f"{contract['algorithm']}, seed {contract['seed']}: {' -> '.join(map(str, sizes))}, {contract['network']['activation']}"
    ]
    parity = contract["parity"]
    lines.append(f"largest error against the JAX policy on {sum(parity['observations'].values())} observations:")
    lines.append(f"  {'':<22}" + "".join(f"{name:>17}" for name in parity["observations"]))
    for name, errors in (parity["errors"] | {"tolerated": parity["tolerated"]}).items():
        lines.append(f"  {name:<22}" + "".join(f"{errors[s]:>17.1e}" for s in parity["observations"]))
    lines += [f"  {row['label']:<28} {row['median_us']:.1f} us per action" for row in contract["latency"] if "median_us" in row]
    lines += [plain(f"note: {note}") for note in contract["notes"]]
    return "\n".join([*lines, "written: " + ", ".join(contract["files"]) + " and the contract"])
