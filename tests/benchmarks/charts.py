"""Line charts with logarithmic axes, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, log10

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 16, 40, 76
# Told apart by people who see colours otherwise too, and by their marks.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


class _Axis:
    """From values to places, by powers of ten.

    Args:
        values: what is shown.
        start: the place of the least.
        end: the place of the greatest.
        whole_decades: whether it begins and ends at a power of ten.
    """

    def __init__(
        self, values: Sequence[float], start: float, end: float, *, whole_decades: bool
    ) -> None:
        low, high = log10(min(values)), log10(max(values))
        if whole_decades:
            low, high = floor(low), max(ceil(high), floor(low) + 1)
        self._low, self._span = low, high - low or 1
        self._start, self._length = start, end - start
        self.ticks = [
            digit * 10.0**power
            for power in range(floor(low), ceil(high) + 1)
            for digit in (1, 2, 5)
            if low - 1e-9 <= log10(digit * 10.0**power) <= high + 1e-9
        ]

    def place(self, value: float) -> float:
        return self._start + (log10(value) - self._low) / self._span * self._length


def line_chart(title: str, x_label: str, y_label: str, lines: Mapping[str, Points]) -> str:
    """Return a chart of some lines, each under its name.

    Args:
        title: what is shown.
        x_label: what grows.
        y_label: what is measured, with its unit.
        lines: points by the name of their line; every value is more than 0.
    """
    points = [point for line in lines.values() for point in line]
    x_axis = _Axis([x for x, _ in points], _LEFT, _WIDTH - _RIGHT - 16, whole_decades=False)
    y_axis = _Axis([y for _, y in points], _HEIGHT - _BOTTOM, _TOP, whole_decades=True)
    style = 'role="img" font-family="sans-serif" font-size="12" fill="#222"'
    turned = _text(16, _HEIGHT / 2, y_label, anchor="middle")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {style}>',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        _text(_LEFT, 22, title, size=14),
        _text((_LEFT + _WIDTH) / 2, _HEIGHT - _BOTTOM + 36, x_label, anchor="middle"),
        f'<g transform="rotate(-90 16 {_HEIGHT / 2})">{turned}</g>',
    ]
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        parts.append(_rule(_LEFT, y, _WIDTH - _RIGHT, y))
        parts.append(_text(_LEFT - 6, y + 4, _short(tick), anchor="end"))
    # What was measured is marked, not round numbers between.
    for value in sorted({x for x, _ in points}):
        x = x_axis.place(value)
        parts.append(_rule(x, _TOP, x, _HEIGHT - _BOTTOM))
        parts.append(_text(x, _HEIGHT - _BOTTOM + 16, _short(value), anchor="middle"))
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        places = [(x_axis.place(x), y_axis.place(y)) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [_mark(number, x, y, colour) for x, y in places]
        legend_x = _LEFT + number * (_WIDTH - _LEFT - _RIGHT) / len(lines)
        parts.append(_mark(number, legend_x + 4, _HEIGHT - 16, colour))
        parts.append(_text(legend_x + 14, _HEIGHT - 12, name))
    return "\n".join([*parts, "</svg>\n"])


def _rule(x: float, y: float, to_x: float, to_y: float) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {place}>{escape(text)}</text>"


def _mark(number: int, x: float, y: float, colour: str) -> str:
    if number % 2:
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'


def _short(value: float) -> str:
    """Write 20000 as 20k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
