"""Display: the contents of a gate, for people to read; takes values, and never reads a row.

What its files know:

    text       tables and titles as text
    html       tables and titles for notebooks
    plans      how lazy variables would be read
    alignment  the warning about variables whose rows may not belong together
"""

from __future__ import annotations

from storegate.display.alignment import warn_of_misaligned
from storegate.display.html import table_html
from storegate.display.plans import explain
from storegate.display.text import aligned, details, table_text, title_of_view, titled

__all__ = ["aligned", "details", "explain", "table_html", "table_text", "title_of_view", "titled", "warn_of_misaligned"]
