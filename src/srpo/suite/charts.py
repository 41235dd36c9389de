"""Charts as SVG for a page that needs nothing else: colors come from its style sheet, by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

COLORS = 7  # in the style sheet; the next seven have dashed lines, and so on
STROKES = ("", " dashed", " dotted", " mixed", " long")
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 460.0, 44.0, 12.0, 10.0, 40.0
LINE = 26.0  # height of a row of `dots`
LETTER = 6.8  # width of a letter, about


@dataclass(frozen=True)
class Line:
    """One algorithm's: `index` decides its color. low, high: a band around it."""

    name: str
    index: int
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True)
class Dot:
    """A value with its interval."""

    name: str
    index: int
    value: float
    low: float | None = None
    high: float | None = None


def color(index: int) -> str:
    """The classes of an algorithm's strokes and fills."""
    return f"c{index % COLORS}{STROKES[index // COLORS % len(STROKES)]}"


def ticks(low: float, high: float, wanted: int = 5) -> np.ndarray:
    """Round numbers from `low` to `high`, about as many as wanted."""
    rough = max(high - low, 1e-9) / wanted
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step + 0.0  # no -0


def short_number(x: float) -> str:
    """50000 as 50k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(x) >= size:
            return f"{x / size:g}{letter}"
    return f"{x:g}"


@dataclass(frozen=True)
class Frame:
    """Where data are on the paper."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / max(self.x[1] - self.x[0], 1e-9)
        up = (y - self.y[0]) / max(self.y[1] - self.y[0], 1e-9)
        return LEFT + across * (WIDTH - LEFT - RIGHT), self.height - BOTTOM - up * (self.height - TOP - BOTTOM)

    def path(self, x: np.ndarray, y: np.ndarray) -> str:
        points = (self.at(float(a), float(b)) for a, b in zip(x, y, strict=True))
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)

    def grid(self, x_label: str, y_label: str) -> list[str]:
        bottom, out = self.height - BOTTOM, []
        for value in ticks(*self.y):
            _, y = self.at(self.x[0], value)
            out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="end">{short_number(round(value, 9))}</text>')
        for value in ticks(*self.x):
            x, _ = self.at(value, self.y[0])
            out.append(f'<text x="{x:.1f}" y="{bottom + 16:.1f}" class="mid">{short_number(round(value, 9))}</text>')
        out.append(f'<path class="axis" d="M{LEFT} {bottom}H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{self.height - 6}" class="mid">{escape(x_label)}</text>')
        middle = (TOP + bottom) / 2
        turned = f'transform="rotate(-90 11 {middle})"'
        return [*out, f'<text x="11" y="{middle}" class="mid" {turned}>{escape(y_label)}</text>']


def lines(found: Sequence[Line], title: str, x_label: str, y_label: str, level: float | None = None) -> str:
    """Lines with bands; `level`: a dashed line across, such as the data's own score."""
    xs = np.concatenate([line.x for line in found])
    ends = [part for line in found for part in (line.y, line.low, line.high) if part is not None]
    ys = np.concatenate([*ends, [0.0], [] if level is None else [level]])
    frame = Frame((min(0.0, float(xs.min())), float(xs.max())), (float(ys.min()), float(ys.max()) or 1.0), 300.0)
    out = frame.grid(x_label, y_label)
    if level is not None:
        _, y = frame.at(0.0, level)
        out.append(f'<path class="level" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"><title>the data: {level:.1f}</title></path>')
    for line in found:
        if line.low is not None and line.high is not None:
            edge = frame.path(np.concatenate([line.x, line.x[::-1]]), np.concatenate([line.low, line.high[::-1]]))
            out.append(f'<path class="band {color(line.index)}" d="{edge}Z"/>')
    for line in found:
        way = frame.path(line.x, line.y)
        out.append(f'<path class="line {color(line.index)}" d="{way}"><title>{escape(line.name)}</title></path>')
    return _svg(out, frame.height, title)


def dots(found: Sequence[Dot], title: str, label: str) -> str:
    """One row for each: its name, a dot and its interval."""
    height = LINE * len(found) + BOTTOM + TOP
    ends = [x for d in found for x in (d.value, d.low, d.high) if x is not None]
    low, high = min(0.0, *ends), max(0.0, *ends) or 1.0
    longest = int((WIDTH / 2 - 10) / LETTER)  # letters of a name: half of the width
    start, stop = max(112.0, 10 + LETTER * min(longest, max(len(d.name) for d in found))), WIDTH - 52.0

    def across(value: float) -> float:
        return start + (value - low) / (high - low) * (stop - start)

    out = []
    for value in ticks(low, high):
        x = across(float(value))
        out.append(f'<path class="grid" d="M{x:.1f} {TOP}V{height - BOTTOM}"/>')
        out.append(f'<text x="{x:.1f}" y="{height - BOTTOM + 16}" class="mid">{short_number(round(float(value), 9))}</text>')
    out.append(f'<text x="{(start + stop) / 2:g}" y="{height - 6}" class="mid">{escape(label)}</text>')
    for i, d in enumerate(found):
        y, x = TOP + LINE * (i + 0.5), across(d.value)
        name = escape(d.name if len(d.name) <= longest else d.name[: longest - 3] + "...")
        out.append(f'<text x="{start - 10:g}" y="{y + 4}" class="end name">{name}<title>{escape(d.name)}</title></text>')
        if d.low is not None and d.high is not None:
            out.append(f'<path class="whisker c{d.index % COLORS}" d="M{across(d.low):.1f} {y}H{across(d.high):.1f}"/>')
        out.append(f'<circle class="c{d.index % COLORS}" cx="{x:.1f}" cy="{y}" r="4.5"/>')
        out.append(f'<text x="{WIDTH}" y="{y + 4}" class="end">{d.value:.1f}</text>')
    return _svg(out, height, title)


def _svg(parts: Sequence[str], height: float, title: str) -> str:
    head = f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"
