"""Summary: an outline as text that fits a terminal, phases side by side."""

from __future__ import annotations

from storegate.display.outline import Outline
from storegate.display.widths import cut, fitted, padded, terminal_width, width_of, wrapped

__all__ = ["summary"]


def summary(outline: Outline) -> str:
    """Return an outline as text no wider than the terminal.

    ::

        <StoreGate events.zarr · run1 · version 5 · 10,000 samples · 438 KiB>
                     train   valid    test
        samples      8,000   1,000   1,000   shuffled, seed 7
        x   (4,)   float32   stored float64
        y   (3,)   float64   one-hot of int64, 3 classes
    """
    title = wrapped(f"<{outline.facts[0]}", outline.facts[1:])
    return "\n".join([*title[:-1], f"{title[-1]}>", *fitted([*_sizes(outline), *_variables(outline)])])


def _sizes(outline: Outline) -> list[str]:
    """Return two lines: the phases, and the number of samples of each with their order."""
    if not outline.phases:
        return []
    widths = [max(len(line.phase), len(line.samples)) for line in outline.phases]
    phases = [line.phase.rjust(width) for line, width in zip(outline.phases, widths, strict=True)]
    samples = [line.samples.rjust(width) for line, width in zip(outline.phases, widths, strict=True)]
    return ["   ".join([" " * len("samples"), *phases]), "   ".join(["samples", *samples, outline.order]).rstrip()]


def _variables(outline: Outline) -> list[str]:
    """Return a line per variable; several if it differs between phases."""
    cells = [(cut(line.name, terminal_width() // 3), line.shape, line.dtype, line.notes) for line in outline.lines]
    widths = [max((width_of(row[at]) for row in cells), default=0) for at in range(3)]
    padding = (*widths, 0)
    lines = [
        "   ".join(padded(cell, width) for cell, width in zip(row, padding, strict=True)).rstrip() for row in cells
    ]
    return [*lines, f"... and {outline.n_more} more variables"] if outline.n_more else lines
