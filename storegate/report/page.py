"""Page: facts as one HTML document, which asks no host for anything and runs no script."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from storegate.report.facts import Facts
from storegate.report.markup import size, text
from storegate.report.sections import SECTIONS

__all__ = ["page"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What a browser lets the page do, even if a name got through unescaped."""


def page(facts: Facts) -> str:
    """Return the document."""
    sections = [body for section in SECTIONS if (body := section(facts))]
    heads = [re.search('<h2 id="([^"]+)">(.*?)</h2>', body) for body in sections]
    links = "".join(f'<li><a href="#{head[1]}">{head[2]}</a></li>' for head in heads if head)
    title = text(f"{facts.place} · {facts.data_id}")
    n_rows, nbytes = sum(of.n_rows for of in facts.phases), sum(of.nbytes for of in facts.phases)
    n_variables = len(facts.variables)
    said = (
        f"version {facts.version} · {n_rows:,} sample{'s' * (n_rows != 1)} · "
        f"{n_variables:,} variable{'s' * (n_variables != 1)} · {size(nbytes)} · "
        f'<time datetime="{facts.made.isoformat(timespec="seconds")}">{facts.made:%Y-%m-%d %H:%M} UTC</time>'
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{_style()}</style></head>\n"
        f"<body><header><h1>{title}</h1><p>{said}</p>"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav></header>\n'
        f"<main>{chr(10).join(sections)}</main>\n"
        "<footer><p>Made by StoreGate from the store alone. This file needs no network.</p></footer></body></html>\n"
    )


@cache
def _style() -> str:
    return files("storegate.report").joinpath("style.css").read_text(encoding="utf-8")
