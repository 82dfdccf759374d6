"""Widths: how many columns of a terminal text takes, and text that fits; knows nothing of what it says."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence

from storegate_engine.errors import printable

__all__ = ["aligned", "cut", "fitted", "padded", "terminal_width", "width_of", "wrapped"]

FALLBACK_WIDTH = 80
"""Columns of a summary where no terminal tells how many it has."""
LEAST_WIDTH = 20
"""Columns that are used in any case."""
LEAST_CELL = 5
"""Columns that a cell of a table keeps."""


def terminal_width() -> int:
    """Return how many columns a summary may have."""
    return max(LEAST_WIDTH, shutil.get_terminal_size((FALLBACK_WIDTH, 24)).columns)


def width_of(text: str) -> int:
    """Return the columns that a text takes in a terminal: wide characters of East Asia take two, marks none."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    marks = sum(unicodedata.combining(character) != 0 for character in text)
    return len(text) + wide - marks


def padded(text: str, width: int) -> str:
    """Return a text with spaces behind it, as wide as ``width`` or itself."""
    return text + " " * max(0, width - width_of(text))


def fitted(lines: Iterable[str]) -> list[str]:
    """Return lines cut to the width of the terminal; nothing in them moves the cursor."""
    width = terminal_width()
    return [cut(_one_line(line), width) for line in lines]


def wrapped(first: str, facts: Iterable[str]) -> list[str]:
    """Return facts in lines that fit the terminal, the first of which begins with ``first``."""
    width = terminal_width()
    lines = [_one_line(first)]
    for fact in map(_one_line, facts):
        if width_of(f"{lines[-1]} · {fact} ·>") <= width:
            lines[-1] += f" · {fact}"
        else:
            lines[-1] += " ·"
            lines.append(f" {fact}")
    return [cut(line, width - 1) for line in lines]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as lines of a table; the first one is its header. Nothing in a cell moves the cursor.

    In a terminal no line is wider than it is: the widest columns are cut. What goes to a file or a pipe is whole.
    """
    rows = [[_one_line(cell) for cell in row] for row in rows]
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


def _one_line(text: str) -> str:
    return printable(text).replace("\n", "\\n")


def cut(line: str, width: int) -> str:
    """Return a line as wide as ``width`` at most, with an ellipsis where it was longer."""
    if width_of(line) <= width:
        return line
    kept, used = [], 0
    for character in line:
        used += width_of(character)
        if used > width - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"
