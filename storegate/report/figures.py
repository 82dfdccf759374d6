"""Figures: counts, shares and curves as inline SVG, in the colours of the page; each has a title and a description."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from storegate.report.facts import Bars, Value
from storegate.report.markup import number, text

__all__ = ["classes", "curves", "histogram", "legend", "shares"]

Array: TypeAlias = np.ndarray[Any, Any]

WIDTH = 320
"""Units of a figure across; a card is about as many pixels wide."""
HEIGHT = 112
"""Units of the height of a histogram, without its axis."""
MOST_DRAWN = 12
"""Most classes that are drawn."""
LABEL_WIDTH = 96
"""Units of the names of classes."""
LABEL_LETTERS = 15
"""Most letters of a name of a class in a figure."""
MOST_POINTS = 160
"""Most points of a curve."""


def _svg(height: float, title: str, description: str, body: str) -> str:
    at = hashlib.blake2b(f"{title}\0{description}".encode(), digest_size=8).hexdigest()  # ids differ within a page
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-labelledby="t{at} d{at}">'
        f'<title id="t{at}">{text(title)}</title><desc id="d{at}">{text(description)}</desc>{body}</svg>'
    )


def _label(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.4g}" y="{y:.4g}" text-anchor="{anchor}">{text(words)}</text>'


def histogram(name: str, bars: Bars, totals: Mapping[str, int]) -> str:
    """Return the share of values in each bin, a line for each phase.

    Parameters
    ----------
    name : str
        The variable.
    bars : Bars
        The counts.
    totals : mapping of str to int
        All values of each phase, which shares are of.
    """
    shares = {at: [n / max(1, totals[at]) for n in counts] for at, counts in bars.counts.items()}
    highest = max((max(of) for of in shares.values() if of), default=0.0) or 1.0
    n_bins = len(bars.labels) - 1
    lines = []
    for at, of in shares.items():
        heights = [f"{HEIGHT - (HEIGHT - 12) * share / highest:.1f}" for share in of]
        steps = "".join(f"V{y}H{WIDTH * (i + 1) / n_bins:.4g}" for i, y in enumerate(heights))
        lines.append(f'<path class="line {at}" d="M0,{HEIGHT}{steps}V{HEIGHT}"/>')
    ends = [bars.labels[0], bars.labels[n_bins // 2] if n_bins > 1 else None, bars.labels[-1]]
    places = [(0.0, "start"), (WIDTH * (n_bins // 2) / n_bins, "middle"), (float(WIDTH), "end")]
    if any(isinstance(end, str) and len(end) > 12 for end in ends):
        ends[1] = None
    axis = f'<path class="axis" d="M0,{HEIGHT}H{WIDTH}"/>' + "".join(
        _label(x, HEIGHT + 13, number(end), anchor)
        for end, (x, anchor) in zip(ends, places, strict=True)
        if end is not None
    )
    top = _label(0, 9, f"{highest:.2g} of values" if highest < 0.01 else f"{highest:.0%}")
    described = (
        f"Share of values in {n_bins} bin{'s' * (n_bins != 1)} from {number(bars.labels[0])} to "
        f"{number(bars.labels[-1])}, a line for each of {', '.join(shares)}. The highest share is {highest:.2%}. The "
        "numbers are in the table below."
    )
    return _svg(HEIGHT + 18, f"Histogram of {name}", described, "".join(lines) + axis + top)


def classes(name: str, bars: Bars) -> str:
    """Return the share of each class in each phase, as bars beside one another; many are put together."""
    totals = {at: max(1, sum(of)) for at, of in bars.counts.items()}
    rows = [(str(label), {at: bars.counts[at][i] / totals[at] for at in totals}) for i, label in enumerate(bars.labels)]
    if len(rows) > MOST_DRAWN:
        rows.sort(key=lambda row: -sum(row[1].values()))
        rest = rows[MOST_DRAWN - 1 :]
        others = {at: sum(shares[at] for _, shares in rest) for at in totals}
        rows = [*rows[: MOST_DRAWN - 1], (f"{len(rest)} others", others)]
    thick, gap = 7, 9
    height = len(rows) * (thick * len(totals) + gap)
    highest = max((max(shares.values(), default=0) for _, shares in rows), default=0) or 1.0
    room = WIDTH - LABEL_WIDTH - 40
    drawn = []
    for i, (label, shares) in enumerate(rows):
        y = i * (thick * len(totals) + gap) + 2
        middle = y + thick * len(totals) / 2 + 3.5
        drawn.append(_label(LABEL_WIDTH - 6, middle, _short(label), "end"))
        for at, share in shares.items():
            width = max(0.0, room * share / highest)
            drawn.append(f'<rect class="{at}" x="{LABEL_WIDTH}" y="{y:g}" width="{width:.1f}" height="{thick - 1}"/>')
            y += thick
        first = next(iter(shares.values()), 0.0)
        drawn.append(_label(LABEL_WIDTH + room * max(shares.values(), default=0) / highest + 5, middle, f"{first:.1%}"))
    described = f"Share of {len(rows)} classes in {', '.join(totals)}. The numbers are in the table below."
    return _svg(height, f"Classes of {name}", described, "".join(drawn))


def _short(label: str) -> str:
    return label if len(label) <= LABEL_LETTERS else label[: LABEL_LETTERS - 1] + "…"


def shares(title: str, parts: Mapping[str, int]) -> str:
    """Return the shares of phases as one bar."""
    total, x, drawn = max(1, sum(parts.values())), 0.0, []
    for at, n in parts.items():
        width = WIDTH * n / total
        drawn.append(f'<rect class="{at}" x="{x:.5g}" y="0" width="{max(0.0, width - 1):.5g}" height="10"/>')
        x += width
    described = ", ".join(f"{at} {n / total:.1%}" for at, n in parts.items())
    return _svg(10, title, described, "".join(drawn))


def curves(name: str, rows: Array) -> tuple[str, list[list[Value]]]:
    """Return rows as curves, and the numbers of their points: the position, and a value for each row.

    Parameters
    ----------
    name : str
        The variable.
    rows : ndarray, shape (n_rows, length) or (n_rows, length, n_channels)
        Of several channels the first one is drawn.
    """
    values = rows.reshape(*rows.shape[:2], -1)[..., 0].astype(np.float64)
    step = -(-values.shape[1] // MOST_POINTS)
    values = values[:, ::step]
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    span = (most / 2 - least / 2) * 2 or 1.0
    width = WIDTH / max(1, values.shape[1] - 1)
    drawn = []
    for row, line in enumerate(values.tolist()):
        path, pen = [], "M"
        for i, value in enumerate(line):
            if not math.isfinite(value):
                pen = "M"
                continue
            path.append(f"{pen}{i * width:.4g},{4 + (HEIGHT - 8) * (most - value) / span:.1f}")
            pen = "L"
        drawn.append(f'<path class="curve" opacity="{1 - 0.13 * row:.2f}" d="{"".join(path)}"/>')
    axis = (
        f'<path class="axis" d="M0,{HEIGHT}H{WIDTH}"/>'
        + _label(0, HEIGHT + 13, "0")
        + _label(WIDTH, HEIGHT + 13, number(rows.shape[1] - 1), "end")
        + _label(WIDTH / 2, HEIGHT + 13, f"{number(least)} to {number(most)}", "middle")
    )
    described = f"{len(values)} rows as curves of {rows.shape[1]} values, from {number(least)} to {number(most)}."
    points: list[list[Value]] = [[i * step, *values[:, i].tolist()] for i in range(values.shape[1])]
    return _svg(HEIGHT + 18, f"First rows of {name}", described, "".join(drawn) + axis), points


def legend(phases: Sequence[str]) -> str:
    """Return which line is which phase."""
    items = "".join(
        f'<li><svg class="key" viewBox="0 0 28 12" aria-hidden="true">'
        f'<path class="line {at}" d="M1,11V2H27V11Z"/></svg>{text(at)}</li>'
        for at in phases
    )
    return f'<ul class="legend" aria-label="Phases">{items}</ul>'
