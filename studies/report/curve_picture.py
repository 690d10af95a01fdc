"""The losses of one run as a picture that a dashboard shows as it is: SVG, without a script.

What stands in it comes from a run's folder, which may be of another hand: it is escaped.
"""

from __future__ import annotations

import math
import re
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from optuna_mde_studies.wording import amount

from optuna_mde.visualization.palette import DOMAIN_COLOURS, GRID, INK, MUTED, OTHER, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from optuna_mde_studies.report.curves import Curve, Line

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 224, 24, 48
"""Margins in pixels; the legend stands on the right."""
LINE_HEIGHT = 16
MOST_NAMED = (HEIGHT - TOP) // LINE_HEIGHT
"""Lines that the legend has room for."""
STEPS = (1, 2, 5)
"""Between powers of ten, where a scale may have its marks."""
MARKS = 6
"""Of the scale of losses, at most."""


_NO_XML = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Named(NamedTuple):
    """A line with its name and colour."""

    name: str
    colour: str
    line: Line


class Frame(NamedTuple):
    """The ranges that are drawn: training tokens, logarithmic, and losses."""

    first: float
    last: float
    low: float
    high: float

    def x(self, tokens: float) -> float:
        """Pixels from the left."""
        share = math.log(max(tokens, self.first) / self.first) / math.log(self.last / self.first)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, loss: float) -> float:
        """Pixels from the top."""
        share = (self.high - loss) / (self.high - self.low)
        return round(TOP + share * (HEIGHT - TOP - BOTTOM), 1)


def svg(curve: Curve) -> str:
    """Training loss and the loss on every validation set, by training tokens."""
    colours = [*DOMAIN_COLOURS, *[OTHER] * len(curve.sets)]
    found = [Named("training", INK, curve.train)] if curve.train else []
    found += [
        Named(name, colour, line)
        for (name, line), colour in zip(curve.sets.items(), colours, strict=False)
    ]
    frame = _frame([line for *_, line in found])
    body = "".join([*_axes(frame), *_lines(frame, found), *_legend(found)])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="#fff"/>{body}</svg>\n'
    )


def _frame(lines: Sequence[Line]) -> Frame:
    tokens = [max(t, 1) for line in lines for t, _ in line]
    losses = [loss for line in lines for _, loss in line]
    first, low, high = min(tokens), min(losses), max(losses)
    room = 0.04 * (high - low) or 0.5
    return Frame(first, max(max(tokens), 2 * first), low - room, high + room)


def _axes(frame: Frame) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for loss in _even(frame.low, frame.high):
        y = frame.y(loss)
        yield f'<path d="M{LEFT} {y}H{right}" stroke="{GRID}"/>'
        yield _text(LEFT - 8, y + 4, f"{loss:.4g}", "end")
    for tokens in _by_powers(frame.first, frame.last):
        yield _text(frame.x(tokens), bottom + 18, amount(round(tokens)), "middle")
    yield _text((LEFT + right) / 2, HEIGHT - 8, "training tokens", "middle", MUTED)
    yield _text(8, 14, "nats per token", "start", MUTED)


def _lines(frame: Frame, found: Sequence[Named]) -> Iterator[str]:
    for _, colour, line in found:
        points = [(frame.x(tokens), frame.y(loss)) for tokens, loss in line]
        path = " ".join(f"{x},{y}" for x, y in points)
        x, y = points[-1]
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        yield f'<circle cx="{x}" cy="{y}" r="2.6" fill="{colour}"/>'


def _legend(found: Sequence[Named]) -> Iterator[str]:
    """Names with the last loss, the highest first, as the lines end."""
    left = WIDTH - RIGHT + 16
    ranked = sorted(found, key=lambda each: -each.line[-1][1])
    named = ranked if len(ranked) <= MOST_NAMED else ranked[: MOST_NAMED - 1]
    for i, (name, colour, line) in enumerate(named):
        y = TOP + i * LINE_HEIGHT
        yield f'<rect x="{left}" y="{y - 4}" width="10" height="3" fill="{colour}"/>'
        yield _text(left + 16, y + 2, f"{line[-1][1]:.3f}  {shortened(name)}", "start")
    if len(named) < len(ranked):
        rest = f"and {len(ranked) - len(named)} more"
        yield _text(left + 16, TOP + len(named) * LINE_HEIGHT + 2, rest, "start", MUTED)


def _text(x: float, y: float, text: str, anchor: str, colour: str = INK) -> str:
    shown = escape(_NO_XML.sub("\ufffd", text))
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{shown}</text>'


def _even(low: float, high: float) -> list[float]:
    """Round numbers between two, `MARKS` at most."""
    unit = 10.0 ** math.floor(math.log10((high - low) / MARKS))
    step = next(s * unit for s in (*STEPS, 10) if (high - low) / (s * unit) <= MARKS)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _by_powers(low: float, high: float) -> list[float]:
    """Powers of ten between two numbers, with 2 and 5 times these where they are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [step * 10.0**power for power in powers for step in STEPS]
    inside = [value for value in every if low <= value <= high]
    whole = [value for value in inside if math.log10(value).is_integer()]
    return whole if len(whole) > MARKS // 2 else inside
