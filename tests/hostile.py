"""What every hostile input must meet: one plain line, in bounded time and memory."""

import subprocess
import sys
import time

import pytest

from srpo.errors import UserError

MEMORY = 6 << 30  # bytes of address space, of which JAX's libraries take most
ESCAPES = "x\x1b[31m\x07\x9b2J\u202e\r\nRED\x00"  # colors, a bell, right to left, a second line


def refused(do, seconds: float = 10) -> str:
    """The one line with which `do()` is refused; it fails if it is not, or slowly."""
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        do()
    assert time.monotonic() - began < seconds
    return one_line(str(caught.value))


def one_line(message: str) -> str:
    assert message.isascii() and message.isprintable() and 20 < len(message) <= 600, ascii(message[:1000])
    return message


def bounded(code: str, *args: object, memory: int = MEMORY, seconds: int = 60) -> subprocess.CompletedProcess:
    """A Python program that may take so much memory and time, and what it said."""
    limits = f"import resource as r; r.setrlimit(r.RLIMIT_AS, {(memory,) * 2}); r.setrlimit(r.RLIMIT_CPU, {(seconds,) * 2})\n"
    command = [sys.executable, "-c", limits + code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=4 * seconds, check=False)
