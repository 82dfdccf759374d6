"""Report: what a table holds, on one page: counted in one pass over the rows, within the memory limit.

What its files know:

    report      the object that people get
    page        facts as one document of HTML, with its style.css
    sections    the parts of the page
    figures     counts, shares and curves as inline SVG
    pictures    images as PNG
    markup      tables and escaped texts
    collecting  the facts of a table
    facts       what a report says, as values and as JSON
    bars        bins and classes that all phases have in common
    drift       how far phases are apart, in one number
    scanning    the one pass over the rows
    counting    what the values of rows are
    histograms  counts in bins that join in any order
"""

from __future__ import annotations

from storegate.report.collecting import Source, bars_in_one_pass, collect
from storegate.report.report import Report, require_place

__all__ = ["Report", "Source", "bars_in_one_pass", "collect", "require_place"]
