"""Reports: what ``gate.report()`` returns: the facts of a table, as a page, in notebooks, and as JSON."""

from __future__ import annotations

import os
import uuid
from html import escape
from pathlib import Path
from typing import Any

from storegate.plain import as_json
from storegate.report.facts import Facts
from storegate.report.page import page
from storegate_engine.errors import ArgumentError, ArgumentTypeError, shown

__all__ = ["Report", "require_place"]


class Report:
    """What a table holds, for people to look at; made by ``gate.report()``, and shown by notebooks.

    Parameters
    ----------
    facts : Facts
        What it says.

    Examples
    --------
    >>> import os, tempfile
    >>> from storegate import StoreGate
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data("x", [0.0, 0.5, 1.0])
    >>> report = gate.report()
    >>> report
    <Report on in memory · example · version 1: 3 samples, 1 variables; save('report.html') writes it>
    >>> report.save(os.path.join(tempfile.mkdtemp(), "report.html"))
    >>> report.to_html().startswith("<!doctype html>"), report.facts.data_id, report.to_json()["version"]
    (True, 'example', 1)
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        """What it says, as values."""

    def to_html(self) -> str:
        """Return the page: one document with its styles and pictures, which loads nothing and runs no script."""
        return page(self.facts)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as dicts, lists, texts and numbers; infinities and NaN as texts."""
        document: dict[str, Any] = as_json(self.facts)
        return document

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page to a file, whole or not at all; an earlier file is replaced.

        Parameters
        ----------
        path : path or str
            A local path; its folder must exist.

        Raises
        ------
        ArgumentError
            The path is a URL or a folder, or is in no folder (a ValueError).
        """
        target = require_place(path)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.partial")
        try:
            partial.write_text(self.to_html(), encoding="utf-8")
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def __repr__(self) -> str:
        facts = self.facts
        n_rows = sum(phase.n_rows for phase in facts.phases)
        return (
            f"<Report on {facts.place} · {facts.data_id} · version {facts.version}: {n_rows:,} samples, "
            f"{len(facts.variables)} variables; save('report.html') writes it>"
        )

    def _repr_html_(self) -> str:
        # a document of its own, so that neither its styles nor those of the notebook reach the other
        return (
            f'<iframe title="{escape(repr(self))}" sandbox srcdoc="{escape(self.to_html())}" '
            'style="width: 100%; height: 640px; border: 1px solid #8884"></iframe>'
        )


def require_place(path: object) -> Path:
    """Return the place of a report as a path.

    Raises
    ------
    ArgumentError
        It is a URL or a folder, or its folder does not exist.
    ArgumentTypeError
        It is no path.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ArgumentTypeError(f"a report is saved at a path, found {shown(path)}")
    if "://" in text:
        raise ArgumentError(f"a report is saved as a local file, but {shown(text)} is a URL; save it, then copy it")
    target = Path(text).expanduser()
    if target.is_dir():
        raise ArgumentError(f"a report is saved as a file, but {shown(text)} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise ArgumentError(f"a report is saved in a folder, but there is none at {shown(str(target.parent))}; make it")
    return target
