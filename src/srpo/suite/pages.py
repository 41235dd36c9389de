"""Tables of the benchmarks: CSV for programs, Markdown for people, and their place in a page of the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from srpo.errors import ConfigError
from srpo.runs.checkpoint import write_atomically


def markdown(header: Sequence[str], rows: Iterable[Sequence[Any]], text: int = 1) -> str:
    """A table whose first `text` columns are text and whose others are numbers."""

    def line(cells):
        return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

    return "\n".join([line(header), line(["---"] * text + ["---:"] * (len(header) - text)), *map(line, rows)])


def check_place(page: Path, name: str) -> None:
    """Raises ConfigError if `page` has no place called `name`."""
    _split(page, name)


def has_place(page: Path, name: str) -> bool:
    """Whether `page` can be read and has a place called `name`."""
    try:
        _split(page, name)
        return True
    except ConfigError:
        return False


def insert(page: Path, name: str, text: str) -> None:
    """Replace what stands between the marks `<!-- name -->` and `<!-- /name -->` of a page by `text`."""
    before, after = _split(page, name)
    write_atomically(page, f"{before}\n\n{text.strip()}\n\n{after}".encode())


def _split(page: Path, name: str) -> tuple[str, str]:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is no text in UTF-8"
        raise ConfigError(f"cannot read {page}: {why}; give a page that exists") from None
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ConfigError(
            f"{page} has no place for this table: expected one line {begin} and, after it, one line {end}; add them"
        )
    before, rest = text.split(begin)
    return before + begin, end + rest.split(end)[1]


def number(x: float) -> str:
    """Three digits, as people write them."""
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"
