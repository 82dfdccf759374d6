"""Markup: tables, sections and texts of a page; every text is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape

from storegate_engine.budget import format_nbytes
from storegate_engine.errors import printable

__all__ = ["Cell", "details", "number", "section", "size", "table", "text"]

Cell = str | int | float | None
"""A text, or a number, which stands on the right."""


def text(value: object) -> str:
    """Return a text escaped for HTML and SVG; control characters are visible."""
    return escape(printable(str(value)))


def number(value: Cell, *, digits: int = 4) -> str:
    """Return a value as people read it, not yet escaped.

    >>> number(1234567), number(0.000012345), number(2.5), number(None)
    ('1,234,567', '1.234e-5', '2.5', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 10**6:
        return f"{int(value):,}"
    return f"{value:.{digits}g}".replace("e+0", "e").replace("e-0", "e-")


def size(nbytes: int | None) -> str:
    """Return a number of bytes as people read it."""
    return "–" if nbytes is None else format_nbytes(nbytes)


def table(
    header: Sequence[str], rows: Iterable[Sequence[Cell]], caption: str, *, is_caption_shown: bool = False
) -> str:
    """Return a table whose first column names the rows; wide ones scroll by themselves.

    Parameters
    ----------
    header : sequence of str
        The names of the columns.
    rows : iterable of sequence of str, int, float or None
        The cells.
    caption : str
        What it shows.
    is_caption_shown : bool
        Whether readers see the caption; those who hear the page have it in any case.
    """
    lines = list(rows)
    are_numbers = [bool(lines) and all(not isinstance(line[at], str) for line in lines) for at in range(len(header))]
    kinds = [' class="n"' if is_number else "" for is_number in are_numbers]
    names = "".join(f'<th scope="col"{kind}>{text(name)}</th>' for name, kind in zip(header, kinds, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row"{kind}>{text(number(cell))}</th>' if not at else f"<td{kind}>{text(number(cell))}</td>"
            for at, (cell, kind) in enumerate(zip(line, kinds, strict=True))
        )
        + "</tr>"
        for line in lines
    )
    hidden = "" if is_caption_shown else ' class="hidden"'
    return (
        f'<div class="scroll" role="group" tabindex="0" aria-label="{text(caption)}"><table>'
        f"<caption{hidden}>{text(caption)}</caption>"
        f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    """Return what is shown only if readers ask for it."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def section(title: str, body: str, about: str = "") -> str:
    """Return a section of the page, which its contents link to."""
    place = re.sub("[^a-z]+", "-", title.lower())
    said = f"<p>{text(about)}</p>" if about else ""
    return f'<section aria-labelledby="{place}"><h2 id="{place}">{text(title)}</h2>{said}{body}</section>'
