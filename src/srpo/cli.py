"""The command line: one command for each wish. Imports nothing heavy until a command needs it."""

from __future__ import annotations

import argparse
import errno
import importlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import srpo
from srpo.commands import use_source
from srpo.errors import UserError, closest
from srpo.system.surroundings import missing, require_devices
from srpo.text import NAME, plain

COMMANDS = {
    "train": "train a policy from logged data",
    "eval": "evaluate a trained policy in its environment",
    "judge": "rank policies from held-out data alone, without a simulator",
    "data": "look into a data set: table, warnings, histograms",
    "export": "write the policy as ONNX, NumPy or C, verified",
    "bench": "time an exported policy on this machine",
    "tune": "search for good settings, stopping the poor ones early",
    "suite": "compare algorithms on many data sets with one fair budget",
    "paper": "remake the paper's figures and tables",
    "convert": "read checkpoints of the authors' PyTorch code",
    "demo": "the whole way on a small data set, in minutes",
}

WITHOUT_JAX = ("data",)

HELP = """Offline reinforcement learning from logged data to a deployed policy: SRPO and its relatives.

  srpo demo                                        the whole way in about eleven minutes
  srpo data info LOGS.hdf5                         what is in a file, and what is wrong with it
  srpo train LOGS.hdf5 --preset quick              train; the run lands in runs/
  srpo eval runs/LOGS/srpo/RUN --episodes 100      score it in its environment
  srpo export RUN --to policy.onnx                 a file that acts without JAX

commands:
"""


class Parser(argparse.ArgumentParser):
    """Takes options as they are written, never by their first letters, and answers a mistake with one line."""

    def __init__(self, **options: Any):
        super().__init__(**{"allow_abbrev": False} | options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; {self.prog} --help shows what there is")

    def parse_args(self, args=None, namespace=None):
        """Raises UserError, with the closest option, for what is none. `given`: the destinations of the options that were written."""
        found, others = self.parse_known_args(args, namespace)
        found.given = self._given(sys.argv[1:] if args is None else args)
        if others:
            option = next((word for word in others if word.startswith("-")), None)
            if option is None:
                self.error(f"found {others[0]!r}, expected nothing more")
            option, known = option.partition("=")[0], self._options()
            begun = [one for one in known if one.startswith(option)]  # an abbreviation: what it may stand for
            raise UserError(f"{self.prog}: {closest(option, begun or known, 'option')}")
        return found

    def _given(self, words: Sequence[str]) -> set[str]:
        written = {word.partition("=")[0] for word in itertools.takewhile(lambda word: word != "--", words)}
        return {action.dest for action in self._actions if written & set(action.option_strings)}

    def _options(self) -> list[str]:
        """All options, those of subcommands included."""
        nested = [p for a in self._actions if isinstance(a.choices, dict) for p in a.choices.values() if isinstance(p, Parser)]
        mine = [option for action in self._actions if action.help != argparse.SUPPRESS for option in action.option_strings]
        return list(dict.fromkeys([*mine, *(option for parser in nested for option in parser._options())]))


def parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:<10}{what}" for name, what in COMMANDS.items())
    top = Parser(
        prog="srpo",
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
    sub = Parser(prog=f"srpo {name}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(sub)
    args = sub.parse_args(rest)
    os.environ["JAX_ENABLE_X64"] = "0"  # nothing here is made for double precision
    if name not in WITHOUT_JAX:
        require_devices()
    use_source(args)
    return module.main(args)


def complete() -> None:
    """Answer the shell that asks what may follow (argcomplete), and end the process; nothing else happens without its question."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    top = Parser(prog="srpo")
    commands = top.add_subparsers()
    for name, what in COMMANDS.items():
        importlib.import_module(f"srpo.commands.{name}").add_arguments(commands.add_parser(name, help=what))
    argcomplete.autocomplete(top)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of a command line."""
    complete()
    return guarded(lambda: _run(sys.argv[1:] if argv is None else argv))


def guarded(command: Callable[[], int]) -> int:
    """The exit code: 0, 2 for what the user can mend, 1 if training failed, 130 after Ctrl-C."""
    try:
        return command()
    except UserError as e:
        print(plain(f"srpo: error: {e}"), file=sys.stderr)
        return 2
    except ModuleNotFoundError as e:
        print(f"srpo: error: {missing(e)}", file=sys.stderr)
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
    except OSError as e:
        if e.errno == errno.ENAMETOOLONG:
            what = f"{plain(e.filename or 'a name', NAME)} is longer than a path can be here; give a shorter one"
        elif e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            why = "make room, then do it again (a training: with --resume)"
            what = f"cannot write {e.filename or 'all of it'}: {e.strerror}; {why}"
        elif isinstance(e, PermissionError):
            what = f"cannot use {e.filename or 'a file'}: {e.strerror}; give yourself the right to, or name another"
        else:
            raise
        print(plain(f"srpo: error: {what}"), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
