"""Display: the contents of a gate, for people to read; takes values, and never reads a row.

What its files know:

    summary    the contents of a gate or view, phases side by side
    text       tables of cells
    widths     text that fits a terminal
    html       the same for notebooks
    plans      how lazy variables would be read
    alignment  the warning about variables whose rows may not belong together
"""

from __future__ import annotations

from storegate.display.alignment import warn_of_misaligned
from storegate.display.html import table_html
from storegate.display.plans import explain
from storegate.display.summary import summary
from storegate.display.text import details, table_text
from storegate.display.widths import aligned

__all__ = ["aligned", "details", "explain", "summary", "table_html", "table_text", "warn_of_misaligned"]
