"""Widths: the columns that text takes in a terminal, and text cut or padded to fit."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence

from storegate_engine.errors import printable

__all__ = ["aligned", "cut", "fitted", "one_line", "padded", "terminal_width", "width_of", "wrapped"]

FALLBACK_WIDTH = 80
"""Columns of a summary if the width of the terminal is unknown."""
LEAST_WIDTH = 20
"""Least columns of a summary."""
LEAST_CELL = 5
"""Least columns of a cell of a table."""


def terminal_width() -> int:
    """Return the number of columns that a summary may use."""
    return max(LEAST_WIDTH, shutil.get_terminal_size((FALLBACK_WIDTH, 24)).columns)


def width_of(text: str) -> int:
    """Return the columns that a text takes in a terminal: wide characters of East Asia take two, marks none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    marks = sum(unicodedata.combining(character) != 0 for character in text)
    return len(text) + wide - marks


def padded(text: str, width: int) -> str:
    """Return a text padded with spaces to at least ``width`` columns."""
    return text + " " * max(0, width - width_of(text))


def fitted(lines: Iterable[str]) -> list[str]:
    """Return lines cut to the width of the terminal; control characters are escaped."""
    width = terminal_width()
    return [cut(one_line(line), width) for line in lines]


def wrapped(first: str, facts: Iterable[str]) -> list[str]:
    """Return facts in lines that fit the terminal; the first line begins with ``first``."""
    width = terminal_width()
    lines = [one_line(first)]
    for fact in map(one_line, facts):
        if width_of(f"{lines[-1]} · {fact} ·>") <= width:
            lines[-1] += f" · {fact}"
        else:
            lines[-1] += " ·"
            lines.append(f" {fact}")
    return [cut(line, width - 1) for line in lines]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as lines of a table, the first one as header; control characters are escaped.

    In a terminal, the widest columns are cut so that lines fit; in a file or a pipe, nothing is cut.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(width_of(row[at]) for row in rows) for at in range(len(rows[0]))]
    if sys.stdout.isatty():
        room = max(LEAST_WIDTH, shutil.get_terminal_size().columns) - 2 * (len(widths) - 1)
        while sum(widths) > room and max(widths) > LEAST_CELL:
            widths[widths.index(max(widths))] -= 1
    rule = "  ".join("-" * width for width in widths)
    lines = [
        "  ".join(padded(cut(cell, width), width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], rule, *lines[1:]])


def one_line(text: str) -> str:
    """Return a text with its control characters and ends of lines escaped."""
    return printable(text).replace("\n", "\\n")


def cut(line: str, width: int) -> str:
    """Return a line of at most ``width`` columns, with an ellipsis if it was cut."""
    if width_of(line) <= width:
        return line
    kept, used = [], 0
    for character in line:
        used += width_of(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"
