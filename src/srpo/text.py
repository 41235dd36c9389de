"""The one way by which text from outside enters messages, terminals and documents. Imports nothing heavy.

Names, ids and paths come from files that anybody may have written. What they may hold is known after `plain`:
printable ASCII on one line, of a readable length.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence

MESSAGE = 600  # characters of a message
NAME = 100  # of a name within one

_OTHERS = re.compile(r"[\x00-\x1f\x7f]")


def plain(text: object, limit: int = MESSAGE) -> str:
    """`text` in printable ASCII on one line, everything else as backslash escapes, its middle cut out beyond `limit` characters.

    Again the same text if it was plain before.
    """
    text = _cut(str(text), limit).encode("ascii", "backslashreplace").decode()
    return _cut(_OTHERS.sub(lambda found: repr(found[0])[1:-1], text), limit)


def said(error: BaseException) -> str:
    """The kind of an error, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def encodable(text: str) -> str:
    """`text` as UTF-8 can hold it: what files of other encodings put into names becomes backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    tail = limit // 3
    return f"{text[: limit - tail - 5]} ... {text[-tail:]}"


def exact(value: float) -> str:
    """A number as short as it can be and still be read back as the same one."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value))


def command(*words: object) -> str:
    """A command line of these words that a shell reads back exactly; printable ASCII on one line, whatever they hold."""
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if word.isascii() and word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(chr(b) if 32 <= b < 127 and b not in b"'\\" else f"\\x{b:02x}" for b in os.fsencode(word)) + "'"


def aligned(rows: Sequence[Sequence[str]], text: int = 0) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell: the first `text` columns are text, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        places = enumerate(zip(row, widths, strict=True))
        return "  ".join(cell.ljust(width) if i < text else cell.rjust(width) for i, (cell, width) in places)

    return [line(row) for row in rows]


def tell(text: str) -> None:
    """One line on standard error, at once."""
    print(plain(text), file=sys.stderr, flush=True)
