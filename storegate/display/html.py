"""HTML: outlines and records for notebooks, in xarray's manner; every text is escaped, and there are no scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files

from storegate.display.outline import DETAILS, Outline, VariableLine
from storegate.display.widths import one_line, width_of

__all__ = ["outline_html", "table_html"]

NUMBERS = frozenset({"samples", "share", "bytes", "version", "n_rows", "nbytes"})
"""Columns of numbers, which stand on the right."""
MAX_NAME = 32
"""Most characters of the column of names; longer names are cut until their line is opened."""


def outline_html(outline: Outline, plain: str) -> str:
    """Return an outline with its phases and variables as sections that open and close.

    Parameters
    ----------
    outline : Outline
        What is shown.
    plain : str
        The same as text, which is shown where styles are removed, as in notebooks that are not trusted.
    """
    title, *facts = map(_text, outline.facts)
    head = f"<header><b>{title}</b>{''.join(f' <span>{fact}</span>' for fact in facts)}</header>"
    return _styled(head + _phases(outline) + _variables(outline), plain)


def table_html(header: Sequence[str], rows: Iterable[Sequence[str]], plain: str) -> str:
    """Return records as a table; ``plain`` is the same as text."""
    return _styled(_table(header, rows), plain)


def _styled(body: str, plain: str) -> str:
    return (
        f'<div><style>{_style()}</style><div class="storegate" style="display:none">{body}</div>'
        f"<pre>{escape(plain)}</pre></div>"
    )


@cache
def _style() -> str:
    return files("storegate.display").joinpath("style.css").read_text(encoding="utf-8")


def _text(text: str) -> str:
    return escape(one_line(text))


def _phases(outline: Outline) -> str:
    if not outline.phases:
        return ""
    has_order = bool(outline.order)
    header = ("phase", "samples", "order") if has_order else ("phase", "samples")
    rows = [(line.phase, line.samples, line.order or "as stored")[: len(header)] for line in outline.phases]
    return _section("Phases", len(rows), _table(header, rows))


def _variables(outline: Outline) -> str:
    if not outline.lines:
        return ""
    widths = {
        "name": min(MAX_NAME, max(width_of(one_line(line.name)) for line in outline.lines)),
        "dtype": max(len(line.dtype) for line in outline.lines),
        "shape": max(len(line.shape) for line in outline.lines),
    }
    style = "; ".join(f"--sg-{part}: {width + 1}ch" for part, width in widths.items())
    lines = "".join(map(_variable, outline.lines))
    more = f'<div class="sg-more sg-muted">... and {outline.n_more} more variables</div>' if outline.n_more else ""
    n_variables = len({line.name for line in outline.lines}) + outline.n_more
    return _section("Variables", n_variables, f'<div style="{style}">{lines}</div>{more}')


def _variable(line: VariableLine) -> str:
    name = _text(line.name)
    cells = "".join(f'<code class="sg-{part}">{_text(getattr(line, part))}</code>' for part in ("shape", "dtype"))
    summary = (
        f'<code class="sg-name" title="{name}">{name}</code>{cells}<span class="sg-notes">{_text(line.notes)}</span>'
    )
    categories = f'<p><span class="sg-muted">categories</span> {_text(line.categories)}</p>' if line.categories else ""
    table = _table(DETAILS, line.details)
    return f'<details class="sg-variable"><summary>{summary}</summary>{table}{categories}</details>'


def _section(title: str, n: int, body: str) -> str:
    return f'<details class="sg-section" open><summary>{title} <span>({n})</span></summary>{body}</details>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    classes = [' class="sg-number"' if name in NUMBERS else "" for name in header]

    def line(cells: Sequence[str], tag: str, first: str) -> str:
        tags = [first, *[tag] * (len(cells) - 1)]
        return "".join(
            f"<{tag}{kind}>{_text(cell)}</{tag}>" for tag, kind, cell in zip(tags, classes, cells, strict=True)
        )

    body = "".join(f"<tr>{line(row, 'td', 'th')}</tr>" for row in rows)
    return f"<table><thead><tr>{line(header, 'th', 'th')}</tr></thead><tbody>{body}</tbody></table>"
