"""What a search draws from: for some settings, by path, a range or a list of values.

  policy.beta=log:0.01,1          any number between, each factor equally likely
  critic.expectile=uniform:0.6,0.9    any number between
  critic.lr=choice:3e-4,1e-3      one of these
  critic.hidden=choice:64,64|256,256  one of these; values that hold commas are separated by |

Whole numbers stay whole. Numbers have three digits, so that what a table shows is what was trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srpo import config
from srpo.core import Algorithm
from srpo.errors import ConfigError, closest

KINDS = {"log": "log:LOW,HIGH", "uniform": "uniform:LOW,HIGH", "choice": "choice:A,B,..."}
Values = Mapping[str, Any]  # of settings, by path: one trial


@dataclass(frozen=True)
class Axis:
    """One setting: `values` are the two ends of a range, or what to choose from."""

    path: str
    kind: str
    values: tuple[Any, ...]

    def draw(self, rng: np.random.Generator) -> Any:
        if self.kind == "choice":
            return self.values[rng.integers(len(self.values))]
        low, high = self.values
        drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if self.kind == "log" else rng.uniform(low, high)
        return round(drawn) if isinstance(low, int) else min(max(float(f"{drawn:.3g}"), low), high)


def read_space(given: Sequence[str], algorithm: Algorithm) -> tuple[Axis, ...]:
    """The axes that a person wrote, such as "policy.beta=log:0.01,1". Raises ConfigError for what cannot be drawn from."""
    if not given:
        raise ConfigError("found no --space, expected one or more, such as --space policy.beta=log:0.01,1")
    axes = tuple(_axis(text, algorithm) for text in given)
    paths = [axis.path for axis in axes]
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(f"--space {path}: found it twice, expected all of its values at once")
    last = list(algorithm.stages)[-1]
    if f"{last}.steps" in paths:
        raise ConfigError(f"--space {last}.steps: trials are compared at the same steps, so these cannot differ; leave it out")
    return axes


def _axis(text: str, algorithm: Algorithm) -> Axis:
    path, _, rest = text.partition("=")
    kind, colon, values = rest.partition(":")
    if not path or not colon or not values:
        raise ConfigError(f"--space {text!r}: expected PATH={', PATH='.join(KINDS.values())}, such as policy.beta=log:0.01,1")
    if kind not in KINDS:
        raise ConfigError(f"--space {text!r}: {closest(kind, KINDS, 'kind')}")
    setting = config.lookup(algorithm, path.strip())
    parts = [part for part in values.split("|" if "|" in values else ",") if part]
    read = tuple(setting.read(part) for part in parts)
    if kind == "choice":
        if len(set(read)) < max(len(read), 2):
            raise ConfigError(f"--space {text!r}: expected two or more different values to choose from")
        return Axis(setting.path, kind, read)
    numbers = len(read) == 2 and all(type(value) in (int, float) for value in read)
    if not numbers or not read[0] < read[1] or (kind == "log" and read[0] <= 0):
        more = " above zero" if kind == "log" else ""
        raise ConfigError(f"--space {text!r}: expected the two ends of a range of numbers{more}, the lower one first")
    return Axis(setting.path, kind, read)


def drawn(axes: Sequence[Axis], samples: int, seed: int) -> list[Values]:
    """So many different points, or all there are if they are fewer. More samples of the same seed begin with the same points."""
    rng = np.random.default_rng(seed)
    found: dict[tuple[Any, ...], None] = {}
    for _ in range(100 * samples):
        found.setdefault(tuple(axis.draw(rng) for axis in axes))
        if len(found) == samples:
            break
    return [dict(zip((axis.path for axis in axes), values, strict=True)) for values in found]
