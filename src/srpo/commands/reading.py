"""What is written after an option, read: PATH=VALUE, the values of a sweep, seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from srpo.errors import ConfigError


def pair(text: str, option: str) -> tuple[str, str]:
    path, equals, value = text.partition("=")
    if not equals or not path or not value:
        raise ConfigError(f"{option} {text!r}: expected PATH=VALUE, such as policy.beta=0.1")
    return path.strip(), value.strip()


def refuse_one_seed(text: str | None) -> None:
    """Raises ConfigError for --seed, which other tools have."""
    if text is not None:
        raise ConfigError(
            f"found --seed {text}, expected --seeds: --seeds {text}, (with the comma) for that one, --seeds N for 0 to N - 1"
        )


def parse_seeds(text: str) -> int | tuple[int, ...]:
    """How many, or which ones. Raises ConfigError."""
    from srpo.runs.schema import require_few

    try:
        if "," in text:
            return tuple(int(s) for s in text.split(",") if s.strip())
        count = int(text)
    except ValueError:
        raise ConfigError(f"--seeds {text!r}: expected how many, such as 6, or which ones, such as 3,5,8") from None
    require_few(count)
    return count


def changes_of(texts: Sequence[str]) -> dict[str, str]:
    """Values by path, of several --set. Raises ConfigError for a path that comes twice."""
    return _once([pair(text, "--set") for text in texts], "--set", "one value for it")


def sweep_of(texts: Sequence[str]) -> dict[str, list[str]]:
    """Values by path, of several --sweep. Raises ConfigError for a path that comes twice."""
    axes = _once([pair(text, "--sweep") for text in texts], "--sweep", "all values at once, such as policy.beta=0.1,0.2")
    return {path: values.split(",") for path, values in axes.items()}


def _once(pairs: Sequence[tuple[str, str]], option: str, expected: str) -> dict[str, str]:
    for path, count in Counter(path for path, _ in pairs).items():
        if count > 1:
            raise ConfigError(f"{option} {path}: found it {'twice' if count == 2 else f'{count} times'}, expected {expected}")
    return dict(pairs)
