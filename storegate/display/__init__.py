"""Display: the contents of a gate, for people to read; takes values, and never reads a row.

What its files know:

    outline    the contents of a gate or view, in words
    summary    outlines as text, phases side by side
    html       outlines and records for notebooks, with their style.css
    text       the table of show_info
    widths     text that fits a terminal
    plans      how lazy variables would be read
    plots      rows and orders as pictures of xarray and matplotlib
    alignment  the warning about variables whose rows may not belong together
"""

from __future__ import annotations

from storegate.display.alignment import warn_of_misaligned
from storegate.display.html import outline_html, table_html
from storegate.display.outline import Outline, outline
from storegate.display.plans import explain, plans_of
from storegate.display.plots import Drawn, Looks, Plots, looks_like
from storegate.display.summary import summary
from storegate.display.text import table_text
from storegate.display.widths import aligned, cut, terminal_width

__all__ = [
    "Drawn",
    "Looks",
    "Outline",
    "Plots",
    "aligned",
    "cut",
    "explain",
    "looks_like",
    "outline",
    "outline_html",
    "plans_of",
    "summary",
    "table_html",
    "table_text",
    "terminal_width",
    "warn_of_misaligned",
]
