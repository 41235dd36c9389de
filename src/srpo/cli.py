"""The command line: one command for each wish. Imports nothing heavy until a command needs it."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import srpo
from srpo.errors import UserError, closest
from srpo.text import plain

COMMANDS = {
    "train": "train a policy from logged data",
    "eval": "evaluate a trained policy in its environment",
    "data": "look into a data set: table, warnings, histograms",
    "export": "write the policy as ONNX, NumPy or C, verified",
    "bench": "time an exported policy on this machine",
    "suite": "compare algorithms on many data sets with one fair budget",
    "paper": "remake the paper's figures and tables",
    "convert": "read checkpoints of the authors' PyTorch code",
    "demo": "the whole way on a small data set, in minutes",
}

HELP = """Offline reinforcement learning from logged data to a deployed policy: SRPO and its relatives.

  srpo demo                                        the whole way in a few minutes
  srpo data info LOGS.hdf5                         what is in a file, and what is wrong with it
  srpo train LOGS.hdf5 --preset quick              train; the run lands in runs/
  srpo eval runs/LOGS/srpo/RUN --episodes 100      score it in its environment
  srpo export RUN --to policy.onnx                 a file that acts without JAX

commands:
"""


class Parser(argparse.ArgumentParser):
    """argparse, with messages that hold nothing but plain text: arguments may be names of files."""

    def error(self, message: str) -> NoReturn:
        super().error(plain(message))


def parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:<10}{what}" for name, what in COMMANDS.items())
    top = Parser(
        "srpo",
        description=HELP + listing + "\n\nsrpo COMMAND --help shows examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="srpo COMMAND ...",
    )
    top.add_argument("--version", action="version", version=f"srpo {srpo.__version__}")
    top.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    return top


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0].startswith("-"):
        parser().parse_args(argv)
        parser().print_help()
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise UserError(closest(name, COMMANDS, "command"))
    module = importlib.import_module(f"srpo.commands.{name}")
    sub = Parser(f"srpo {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(sub)
    return module.main(sub.parse_args(rest))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command line."""
    return guarded(lambda: _run(sys.argv[1:] if argv is None else argv))


def guarded(command: Callable[[], int]) -> int:
    """The exit code: 0, 2 for what the user can mend, 1 if training failed, 130 after Ctrl-C."""
    try:
        return command()
    except UserError as e:
        print(f"srpo: error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as e:
        print(plain(f"srpo: {str(e) or 'stopped'}"), file=sys.stderr)
        return 128 + getattr(e, "signum", 2)
    except FloatingPointError as e:
        print(plain(f"srpo: training failed: {e}"), file=sys.stderr)
        return 1
    except MemoryError as e:
        print(plain(f"srpo: error: out of memory ({e or 'no details'}); use less data or smaller sizes"), file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
