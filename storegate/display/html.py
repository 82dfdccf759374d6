"""HTML: the tables of `text`, for notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence

from storegate.display.text import DETAILS, Cells

__all__ = ["table_html"]


def table_html(title: str, lines: Cells | None) -> str:
    """Return a title over a table of details."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(cells, "td") for cells in lines or ())
    return f"<div><strong>{html.escape(title)}</strong><table>{line(DETAILS, 'th')}{body}</table></div>"
