"""In which units the actions of a recording are, and the map from their range to [-1, 1], which training sees.

Policies act in the recorded units again. The range is told, stated by the recording, or that of its environment; where
none of these is known it is read off the data, with a warning. Nothing is taken for [-1, 1] that does not look like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from srpo.data import extent, spilled
from srpo.data.checks import ACTION_ERROR, DataError
from srpo.data.extent import Bounds
from srpo.data.mapped import columns, map_of, pieces
from srpo.data.precision import STEPS
from srpo.worlds.environments import UNBOUNDED

TOLD = "as told"
NARROW = 0.5  # columns that never leave +- this are taken to have bounds of their own
LEVELS = 16  # whole numbers of at most so many values look discrete
ASK = "say --action-range LOW,HIGH (per column LOW,HIGH/LOW,HIGH/...), env or recorded; in Python action_range="


class ActionRange(NamedTuple):
    """The recorded actions that training sees as -1 and 1, and where the numbers are from."""

    low: np.ndarray  # (act,) float32
    high: np.ndarray  # (act,) float32
    origin: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"low": self.low.tolist(), "high": self.high.tolist(), "origin": self.origin}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> ActionRange:
        """What `as_dict` gave."""
        return cls(np.asarray(found["low"], np.float32), np.asarray(found["high"], np.float32), str(found["origin"]))

    def recorded(self, action: np.ndarray) -> np.ndarray:
        """Actions of [-1, 1] in the recorded units."""
        return self.low + (action + 1) * ((self.high - self.low) / 2)


Asked = str | Sequence[Any] | None


def read_range(asked: Asked, size: int, where: str) -> str | Bounds | None:
    """What was asked for: None, "recorded", "env", or the bounds (act,) and (act,). Raises DataError for anything else."""
    if asked is None or asked in ("recorded", "env"):
        return asked
    try:
        if isinstance(asked, str):
            pairs = [[float(x) for x in pair.split(",")] for pair in asked.split("/")]
            low, high = np.array(pairs * (size if len(pairs) == 1 else 1), float).T
        else:
            low, high = (np.broadcast_to(np.asarray(bound, float), size) for bound in asked)
        if low.shape != (size,) or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
            raise ValueError
    except (ValueError, TypeError):
        raise DataError(
            f"{where}: --action-range {asked}: expected recorded, env, or LOW,HIGH with LOW < HIGH, once or for each of {size} "
            "columns, such as --action-range=-2,2 or --action-range=0,1/-0.5,0.5"
        ) from None
    return low, high


def choose(
    action: np.ndarray, asked: str | Bounds | None, stated: ActionRange | None, env: tuple[str, Bounds] | None, where: str
) -> tuple[ActionRange | None, list[str]]:
    """The range of recorded actions (N, act), None for [-1, 1] itself, and what must be said about it. Raises DataError.

    asked: by the user. stated: by the recording. env: the environment's id and bounds, if it is here.
    """
    low, high = columns(action)[:2]
    notes: list[str] = []
    if isinstance(asked, tuple):
        chosen: ActionRange | None = made(asked, TOLD, where)
    elif asked == "env":
        if env is None:
            raise DataError(
                f"{where}: --action-range env: no environment is known, it is not installed, or its actions have no bounds; name it "
                "with --env ID, or say --action-range LOW,HIGH"
            )
        chosen = made(env[1], f"the bounds of {env[0]}", where)
    elif asked == "recorded" and stated is None:
        chosen = made(_widened(low, high), "the smallest and largest recorded action", where)
        notes.append(f"the range of the actions is that of the data, {extent.text(chosen)}: policies never go beyond it")
    elif stated is not None:
        chosen = stated
    else:
        chosen, notes = _guess(action, low, high, env, where)
    if chosen is None or ((chosen.low == -1).all() and (chosen.high == 1).all()):
        chosen = None
    _require_inside(action, chosen, where)
    return chosen, notes + _coarse(chosen)


def to_unit(action: np.ndarray, chosen: ActionRange | None) -> np.ndarray:
    """Recorded actions as float32 in [-1, 1]; what rounding left beyond is clipped, in a file when its rows are taken."""
    if chosen is None and action.dtype == np.float32 and map_of(action) is not None:
        return action

    def mapped(action: np.ndarray) -> np.ndarray:
        if chosen is not None:
            low, high = chosen.low.astype(np.float64), chosen.high.astype(np.float64)
            action = (np.asarray(action, np.float64) - low) / (high - low) * 2 - 1
        return np.clip(np.ascontiguousarray(action, np.float32), -1.0, 1.0)

    return spilled.of(action, mapped)


def made(bounds: Bounds, origin: str, where: str) -> ActionRange:
    """The range of these bounds (act,) in float32, as policies have it. Raises DataError where float32 cannot hold one."""
    unbounded = np.maximum(*np.abs(bounds)) > UNBOUNDED
    if unbounded.any():
        raise DataError(
            f"{where}: the range of action {extent.named(unbounded)} is {extent.text(bounds, unbounded)} ({origin}), which stands for "
            "no bounds at all; say --action-range LOW,HIGH (per column LOW,HIGH/LOW,HIGH/...) with those that are meant; in Python action_range="
        )
    fixed = np.equal(*bounds)
    if fixed.any():
        raise DataError(
            f"{where}: the range of action {extent.named(fixed)} is {extent.text(bounds, fixed)} ({origin}), a single number, of which "
            "nothing can be learned; record the other columns alone, or give it a range with --action-range LOW,HIGH/LOW,HIGH/... (one "
            "for each column); in Python action_range="
        )
    low, high = (np.asarray(bound, np.float32).copy() for bound in bounds)
    flat = ~((high - low) / 2 >= np.finfo(np.float32).tiny)
    if flat.any():
        raise DataError(
            f"{where}: the range of action {extent.named(flat)} is {extent.text(bounds, flat)} ({origin}), whose ends float32, which "
            "policies act in, cannot tell apart; record these actions less a fixed offset, or in other units"
        )
    return ActionRange(low, high, origin)


def _coarse(chosen: ActionRange | None) -> list[str]:
    """What must be said of a range that is small beside its numbers: actions leave in steps of float32."""
    if chosen is None:
        return []
    step = extent.step(chosen.low, chosen.high)
    coarse = step * STEPS > (chosen.high - chosen.low) / 2
    if not coarse.any():
        return []
    return [
        f"action {extent.named(coarse)}: the range {extent.text(chosen, coarse)} is more than float32, which policies act in, can hold: "
        f"they act in steps of {step[coarse].max():.2g}, above a thousandth of half the range, and cannot be exported; record these "
        "actions less a fixed offset"
    ]


def _widened(low: np.ndarray, high: np.ndarray) -> Bounds:
    """A column that never changes gets a range, so small that nothing else can be commanded."""
    room = np.where(high > low, 0.0, np.maximum(1e-3 * np.abs(low), 1e-6))
    return low - room, high + room


def _guess(action, low, high, env, where: str) -> tuple[ActionRange | None, list[str]]:
    """By the bounds of the environment, else by the numbers themselves."""
    unit = bool((low >= -1 - ACTION_ERROR).all() and (high <= 1 + ACTION_ERROR).all())
    if env is None:
        return (None, _discrete(action)) if not unit else _guess_columns(action, low, high, where)
    name, bounds = env
    if (bounds[0] == -1).all() and (bounds[1] == 1).all():
        return None, _discrete(action)
    slack = extent.slack(*bounds)
    fits = bool((low >= bounds[0] - slack).all() and (high <= bounds[1] + slack).all())
    own = made(bounds, f"the bounds of {name}", where)
    if fits and unit:
        raise DataError(
            f"{where}: actions span [{low.min():.4g}, {high.max():.4g}], which may be in {name}'s own units, {extent.text(own)}, or "
            "already mapped to [-1, 1]; say --action-range env, or --action-range=-1,1"
        )
    if fits:
        return own, [f"actions are taken in the units of {name}, {extent.text(own)}: policies act in them, too"]
    if unit:
        return None, [
            f"actions go beyond the bounds of {name}, {extent.text(own)}, so they are taken as mapped to [-1, 1] before"
        ]
    raise DataError(
        f"{where}: actions span [{low.min():.4g}, {high.max():.4g}], beyond [-1, 1] and beyond the bounds of {name}, {extent.text(own)}; "
        f"name the environment that was recorded, or {ASK}"
    )


def _guess_columns(action, low, high, where: str) -> tuple[ActionRange | None, list[str]]:
    """Of actions within [-1, 1] without an environment: columns that use one side only, or never leave the middle."""
    moves = high > low
    up, down = moves & (low >= 0), moves & (high <= 0)
    narrow = moves & ~up & ~down & (np.maximum(-low, high) <= NARROW)
    notes = _discrete(action)
    if not (up | down | narrow).any():
        return None, notes
    far = np.maximum(-low, high)
    bounds = np.where(up, 0.0, np.where(narrow, -far, -1.0)), np.where(down, 0.0, np.where(narrow, far, 1.0))
    chosen = made(bounds, "read off the data", where)
    for which in (up, down, narrow):
        if which.any():
            notes.append(
                f"action {extent.named(which)}: the data stay within {extent.text(chosen, which)}, which is taken as their range, so "
                "that policies cannot leave it; if their bounds are -1 and 1, say --action-range=-1,1"
            )
    return chosen, notes


def _discrete(action: np.ndarray) -> list[str]:
    """Whole numbers of few values are choices, which no algorithm here is made for."""
    some = action[: 1 << 16]
    whole = (some == np.round(some)).all(axis=0)
    few = np.array([len(np.unique(column)) <= LEVELS for column in some.T])
    found = whole & few & (some.max(axis=0) > some.min(axis=0))
    if not found.any():
        return []
    return [
        f"action {extent.named(found)}: whole numbers look discrete, which no algorithm here is made for; they are trained as "
        "levels of one continuous quantity, and the policy acts in between: round its actions, if that makes sense at all"
    ]


def _require_inside(action: np.ndarray, chosen: ActionRange | None, where: str) -> None:
    size = action.shape[1]
    low, high = (-np.ones(size), np.ones(size)) if chosen is None else (x.astype(np.float64) for x in chosen[:2])
    slack = extent.slack(low, high)
    outside = ((start, (piece < low - slack) | (piece > high + slack)) for start, (piece,) in pieces(action))
    start, bad = next(((start, bad) for start, bad in outside if bad.any()), (0, None))
    if bad is None:
        return
    row, column = (int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
    row += start
    digits = max(6, extent.digits(low, high)[column])
    numbers = (f"{float(x):.{digits}g}" for x in (action[row, column], action.min(), action.max()))
    span = f"{where}[{row}, {column}] is {next(numbers)}, actions span [{', '.join(numbers)}]"
    discrete = "; they look discrete, which no algorithm here is made for" if _discrete(action) else ""
    if chosen is None:
        raise DataError(f"{span}, expected [-1, 1]{discrete}; to rescale them, {ASK}")
    raise DataError(f"{span}, beyond the range {extent.text(chosen)} ({chosen.origin}){discrete}; {ASK}")
