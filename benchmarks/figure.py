"""Figure: the picture of the README, drawn from the table of an exact shuffle in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "benchmarks.md", DOCS / "shuffle.svg"

WIDTH, ROW, TOP, LEFT, GAP, BAR = 776, 30, 66, 212, 292, 178
"""Pixels: the picture, a row, above the rows, before the bars, from the bars of time to those of memory, a bar."""

STYLE = """
  .page { fill: #ffffff } .text { fill: #1f2328 } .muted { fill: #59636e } .bar { fill: #afb8c1 } .own { fill: #0969da }
  text { font: 13px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif } .strong { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #f0f6fc } .muted { fill: #9198a1 } .bar { fill: #4b535d }
    .own { fill: #4493f8 }
  }
"""
_CELLS = r"\| ([\d.,]+) s[^|]*\|[^|]*\|[^|]*\|[^|]*\| ([\d,]+) MiB \|"
_OWN = re.compile(r"\| compact\(\) of the shuffled rows, budget 953.7 MiB " + _CELLS)
_PEER = re.compile(r"\| (.+): the same rows shuffled and written " + _CELLS)


@dataclass(frozen=True)
class Measured:
    """One way to shuffle."""

    name: str
    seconds: float
    mib: int


def measured(page: str) -> list[Measured]:
    """Return the measurements of a page, the fastest first; StoreGate is the first of them."""
    own = _OWN.search(page)
    assert own is not None, "the page has no line of compact() within 1 GB"
    found = [("StoreGate, budget 1 GB", *own.groups()), *_PEER.findall(page)]
    several = [Measured(name, float(seconds), int(mib.replace(",", ""))) for name, seconds, mib in found]
    return sorted(several, key=lambda one: one.seconds)


def svg(several: list[Measured]) -> str:
    """Return bars of seconds and of memory, legible on light and on dark pages."""
    height = TOP + ROW * len(several) + 14
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'role="img">',
        f"<title>{escape(in_words(several))}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        '<text class="text strong" x="16" y="26">An exact shuffle of 4 GB on 2 cores, written out again</text>',
        f'<text class="muted" x="{LEFT}" y="52">seconds</text>',
        f'<text class="muted" x="{LEFT + GAP}" y="52">peak memory, MiB</text>',
    ]
    most_s, most_mib = max(one.seconds for one in several), max(one.mib for one in several)
    for at, one in enumerate(several):
        y, own = TOP + ROW * at, one.name.startswith("StoreGate")
        strong, kind = (" strong", "own") if own else ("", "bar")
        name = one.name.partition(",")[0] if not own else one.name
        lines.append(f'<text class="text{strong}" x="16" y="{y + 15}">{escape(name)}</text>')
        for x, share, label in (
            (LEFT, one.seconds / most_s, f"{one.seconds:.1f}"),
            (LEFT + GAP, one.mib / most_mib, f"{one.mib:,}"),
        ):
            width = max(2, round(BAR * share))
            lines.append(f'<rect class="{kind}" x="{x}" y="{y + 2}" width="{width}" height="18" rx="2"/>')
            lines.append(f'<text class="text{strong}" x="{x + width + 6}" y="{y + 15}">{label}</text>')
    return "\n".join([*lines, "</svg>", ""])


def in_words(several: list[Measured]) -> str:
    """Return what the picture shows, for those who do not see it."""
    listed = "; ".join(f"{one.name} {one.seconds:.1f} s and {one.mib:,} MiB" for one in several)
    return f"An exact shuffle of 4 GB, written out again: {listed}"


def run(_: argparse.Namespace) -> None:
    """Draw the picture."""
    PICTURE.write_text(svg(measured(PAGE.read_text("utf-8"))), "utf-8")
    print(f"drawn: {PICTURE}")
