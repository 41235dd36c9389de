"""Settings: every field of an algorithm has a path (`policy.beta`), a meaning and a type.

The path is the field's name everywhere: on the command line, in presets, as sweep axis and in `run.json`.
A field declared with `setting` is a number that may be swept inside one compiled program; one declared
with `static` is a size or a choice, fixed when the program is compiled.
"""

from __future__ import annotations

import fnmatch
import math
import operator
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

import equinox as eqx

from srpo.errors import ConfigError, closest

Overrides = dict[str, Any]  # of settings, by path
Tasks = dict[str, Overrides]  # by pattern of data sets' names: one preset

# intervals where nothing else is said: of real numbers (what single precision holds), of whole ones, of those in a list, which are sizes of layers
NUMBERS, COUNTS, WIDTHS = "[0, 3.4e38]", "[1, 2147483647]", "[1, 65536]"
FROM_ZERO = "[0, 2147483647]"  # of whole ones that may be zero
LEAST = {NUMBERS: "zero or more", COUNTS: "one or more", WIDTHS: "one or more"}  # in words, to whom is below
MOST = 100  # numbers in a list


def setting(default: float, meaning: str, within: str | None = None, scales: bool = False):
    """A floating-point hyper-parameter: a pytree leaf, so it can be swept without compiling again.

    `within` is the interval of its values, such as "(0, 1]"; without it they are zero or more. `scales`: it counts steps, so
    that a budget with fewer steps for its stage makes it smaller, too.
    """
    return eqx.field(default=default, metadata={"meaning": meaning, "within": within, "scales": scales})


def static(
    default: Any, meaning: str, within: str | None = None, choices: Mapping[str, Any] | None = None, scales: bool = False
):
    """A size or a choice: part of the program's structure, so it cannot be swept.

    `within` is the interval of its numbers; without it whole numbers are one or more, others zero or more. `choices` is
    a registry of names with a `meaning` each, which may grow: those in it when a value is read are the ones to choose from.
    `scales`: as above.
    """
    about = {"meaning": meaning, "within": within, "choices": choices, "scales": scales}
    return eqx.field(default=default, static=True, metadata=about)


@dataclass(frozen=True)
class Setting:
    path: str
    value: Any
    type: Any
    meaning: str
    sweepable: bool
    within: str | None
    choices: Mapping[str, Any] | None = None
    scales: bool = False  # it counts steps, and follows those of its stage

    def read(self, value: Any) -> Any:
        """`value` as this setting's type; strings are read. Raises ConfigError for another type, a number out of range, an unknown choice."""
        found = convert(value, self.type, self.path)
        if self.choices is not None and found not in self.choices:
            raise ConfigError(f"{self.path}: {closest(found, self.choices, 'choice')} (one of {', '.join(self.choices)})")
        for number in found if isinstance(found, tuple) else (found,):
            if isinstance(number, (int, float)) and not isinstance(number, bool):
                whole = WIDTHS if isinstance(found, tuple) else COUNTS
                within = self.within or (whole if isinstance(number, int) else NUMBERS)
                if not inside(number, within):
                    expected = LEAST.get(within) if number < 1 else None
                    raise ConfigError(f"{self.path}: found {number:g}, expected {expected or f'a number in {within}'}")
        if isinstance(found, tuple) and len(found) > MOST:
            raise ConfigError(f"{self.path}: found {len(found)} numbers, expected at most {MOST}")
        return found


def inside(x: float, interval: str) -> bool:
    """Whether `x` is in an interval such as "[0, 1)"."""
    low, high = map(float, interval[1:-1].split(","))
    return (low <= x if interval[0] == "[" else low < x) and (x <= high if interval[-1] == "]" else x < high)


def whole(value: Any, what: str, least: int = 1, most: int = 2**31 - 1, none: str = "one or more") -> int:
    """`value` as a whole number, of whatever type; `what` it counts and `none`, what is at least expected, for messages. Raises ConfigError."""
    number: Any = None if isinstance(value, bool) else value  # a truth would pass for 0 or 1
    try:
        found = operator.index(number)
    except TypeError:
        raise ConfigError(f"found {value!r} {what}, expected a whole number, {none}") from None
    if not least <= found <= most:
        raise ConfigError(f"found {found} {what}, expected {none if found < least else f'at most {most}'}")
    return found


_hints: dict[type, dict[str, Any]] = {}


def hints_of(cls: type) -> dict[str, Any]:
    """The types of a class's fields, worked out once: that takes longer than all the rest of reading settings."""
    if cls not in _hints:
        _hints[cls] = typing.get_type_hints(cls)
    return _hints[cls]


def settings(tree: Any, prefix: str = "") -> dict[str, Setting]:
    """All settings of an algorithm or stage by path, in the order in which they are declared."""
    out: dict[str, Setting] = {}
    hints = hints_of(type(tree))
    for f in (f for f in fields(tree) if f.init):
        path, value = prefix + f.name, getattr(tree, f.name)
        if is_dataclass(value):
            out |= settings(value, path + ".")
        else:
            about = f.metadata
            meaning, choices = about.get("meaning", ""), about.get("choices")
            if choices is not None:
                meaning += ": " + "; ".join(f"{name}: {choice.meaning}" for name, choice in choices.items())
            more = {"within": about.get("within"), "choices": choices, "scales": about.get("scales", False)}
            out[path] = Setting(path, value, hints[f.name], meaning, not about.get("static", False), **more)
    return out


def present(tree: Any, path: str) -> str:
    """What is called now what an earlier version called `path` (an algorithm's `renamed`); else `path`."""
    return getattr(tree, "renamed", {}).get(path, path)


def lookup(tree: Any, path: str) -> Setting:
    """The setting at `path`, or at what it is called now. Raises ConfigError, naming the closest path, if there is none."""
    return _known(settings(tree), present(tree, path))


def _known(known: Mapping[str, Setting], path: str) -> Setting:
    if path not in known:
        tails = [p for p in known if p.rpartition(".")[2] == path]
        raise ConfigError(f"unknown setting {path!r}; did you mean {tails[0]!r}?" if tails else closest(path, known, "setting"))
    return known[path]


def assign(tree: Any, path: str, value: Any) -> Any:
    """A copy of `tree` with the setting at `path` replaced; strings are read as the field's type."""
    return assign_all(tree, {path: value})


def assign_all(tree: Any, values: Mapping[str, Any]) -> Any:
    """`assign` for several paths at once: what must fit together is judged when all of them are there."""
    known = settings(tree)
    found = [(_known(known, present(tree, path)), value) for path, value in values.items()]
    return _replace(tree, {tuple(setting.path.split(".")): setting.read(value) for setting, value in found})


def _replace(tree, values):
    here = {path[0]: value for path, value in values.items() if len(path) == 1}
    for head in dict.fromkeys(path[0] for path in values if len(path) > 1):
        here[head] = _replace(getattr(tree, head), {path[1:]: value for path, value in values.items() if path[0] == head})
    return replace(tree, **here)


def convert(value: Any, kind: Any, path: str) -> Any:
    """`value` as an instance of the annotated type `kind`. Raises ConfigError with both."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        for choice in args:
            if value == choice or str(choice) == str(value):
                return choice
        raise ConfigError(f"{path}: {closest(str(value), map(str, args), 'choice')} (one of {', '.join(map(str, args))})")
    if origin in (typing.Union, types.UnionType):
        if value is None or str(value).lower() == "none":
            return None
        return convert(value, next(a for a in args if a is not type(None)), path)
    if origin is tuple:
        parts = [p for p in value.strip("()[] ").replace(" ", "").split(",") if p] if isinstance(value, str) else value
        parts = parts if isinstance(parts, (list, tuple)) else (parts,)
        return tuple(convert(p, args[0], path) for p in parts)
    try:
        return _scalar(value, kind)
    except (TypeError, ValueError, OverflowError):
        name = {float: "a finite number", int: "a whole number", bool: "true or false"}.get(kind, kind)
        raise ConfigError(f"{path}: found {value!r}, expected {name}") from None


def _scalar(value, kind):
    if kind is bool:
        if isinstance(value, bool):
            return value
        return {"true": True, "false": False}[str(value).lower()] if str(value).lower() in ("true", "false") else _fail()
    if kind is int:
        number = float(value)
        if isinstance(value, bool) or number != int(number):
            _fail()
        return int(number)
    if kind is float:
        number = float(value)
        if isinstance(value, bool) or not math.isfinite(number):
            _fail()
        return number
    return kind(value)


def _fail():
    raise ValueError


def preset(presets: Mapping[str, Mapping[str, Mapping[str, Any]]], name: str, data_id: str) -> dict[str, Any]:
    """The values of preset `name` for a data set: all patterns that match `data_id`, later ones winning.

    A preset maps patterns of data set names (as in file globs; several with | between them) to settings, from general
    to specific.
    """
    if name not in presets:
        raise ConfigError(closest(name, presets, "preset"))
    values: dict[str, Any] = {}
    for pattern, chosen in presets[name].items():
        if any(fnmatch.fnmatchcase(data_id, each) for each in pattern.split("|")):
            values |= chosen
    return values
