"""Plots with two logarithmic axes, as SVG (https://www.w3.org/TR/SVG11/)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final

from benchmarks.pairs import exponent

NAMESPACE: Final = "http://www.w3.org/2000/svg"
WIDTH: Final = 720
HEIGHT: Final = 420
LEFT, RIGHT, TOP, BOTTOM = 80, 20, 40, 60
MARGIN: Final = 0.1
"""The decades before the first point of the x axis and behind the last one."""
COLOURS: Final = ("#1b6ca8", "#c4472b", "#3a8f4f", "#7a4fa3")
Points = Sequence[tuple[float, float]]


def plot(
    title: str, x_name: str, y_name: str, series: Mapping[str, Points], x_text: Callable[[float], str]
) -> str:
    """Series of positive points with their lines, each with the exponent of its fit in the legend."""
    points = [point for line in series.values() for point in line]
    x_low, x_high = (
        math.log10(min(x for x, _ in points)) - MARGIN,
        math.log10(max(x for x, _ in points)) + MARGIN,
    )
    y_low, y_high = _decades([y for _, y in points])

    def x_at(x: float) -> float:
        return LEFT + (math.log10(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(y) - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="{NAMESPACE}" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(WIDTH / 2, 22, title, 'text-anchor="middle" font-size="15"'),
        _text(WIDTH / 2, HEIGHT - 14, x_name, 'text-anchor="middle"'),
        _text(
            0,
            0,
            y_name,
            f'text-anchor="middle" transform="translate(18 {(HEIGHT + TOP - BOTTOM) / 2}) rotate(-90)"',
        ),
    ]
    for x in sorted({x for x, _ in points}):
        parts += [
            _line(x_at(x), TOP, x_at(x), HEIGHT - BOTTOM),
            _text(x_at(x), HEIGHT - BOTTOM + 18, x_text(x), 'text-anchor="middle"'),
        ]
    for power in range(y_low, y_high + 1):
        at = y_at(10.0**power)
        parts.append(_line(LEFT, at, WIDTH - RIGHT, at))
        parts.append(_text(LEFT - 8, at + 4, f"{10.0**power:g}", 'text-anchor="end"'))
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{colour}"/>' for x, y in line]
        fitted = exponent(line)
        legend = name if fitted is None else f"{name}: exponent {fitted:.2f}"
        parts.append(_text(LEFT + 12, TOP + 18 + 18 * number, legend, f'fill="{colour}"'))
    return "\n".join([*parts, "</svg>", ""])


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The logarithms of the ends of an axis: whole powers of ten, at least one apart."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, attributes: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'
