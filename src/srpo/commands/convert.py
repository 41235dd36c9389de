"""Turn checkpoints of the SRPO authors' PyTorch code into a run whose critic and behavior are finished.

PyTorch is not needed, and nothing that a file asks for is run: anything but tensors is refused.

  srpo convert --behavior behavior_ckpt200.pth --critic critic_ckpt150.pth --data hopper-medium-v2 --out runs/official
  srpo train hopper-medium-v2 --from runs/official --sweep policy.beta=0.02,0.05,0.1
  srpo convert --behavior a/b.pth b/b.pth --critic a/c.pth b/c.pth --data D --out R      two seeds in one run
  srpo convert ... --preset authors-code                  settings that no file holds as in their code
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from srpo import text
from srpo.system import strict_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    several: dict[str, Any] = {"type": Path, "required": True, "nargs": "+", "metavar": "FILE"}
    add("--behavior", **several, help="behavior_ckpt*.pth of the authors' code, one per seed")
    add("--critic", **several, help="critic_ckpt*.pth of the authors' code, in the same order")
    add("--data", required=True, metavar="DATA", help="what they were trained on: a built-in name, a file or a D4RL id")
    add("--out", type=Path, required=True, metavar="RUN", help="new folder of the run")
    add("--preset", default="paper", help="settings that the files do not hold: paper (default), authors-code or quick")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="change one of these settings (repeatable)")
    add("--json", action="store_true", help="print one JSON object on standard output and nothing else there")


def main(args: argparse.Namespace) -> int:
    """Raises CheckpointError, DataError, ConfigError and RunError."""
    from srpo.commands.reading import changes_of
    from srpo.convert.run import official_run, training_arguments

    changes = changes_of(args.set)
    run = official_run(args.behavior, args.critic, args.data, args.out, preset=args.preset, changes=changes)
    found = {path: run.info["settings"][path] for path, source in run.info["sources"].items() if source == "checkpoint"}
    command = text.command("srpo", *training_arguments(run, args.data, args.preset))
    if args.json:
        print(strict_json.dumps({"run": str(run.path), "finished": run.finished, "settings": found, "next": command}))
    else:
        print("found: " + ", ".join(f"{path}={value}" for path, value in found.items()))
        print(f"run: {text.plain(run.path)} (finished: {', '.join(run.finished)})")
        print(f"next: {command}")
    return 0
