"""Drawing: how streams visit the rows of their phases, as pictures; reads no rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from storegate_engine.optional import require_package

__all__ = ["draw_orders"]

MOST_POINTS = 20_000
"""Points of a picture: more cannot be told apart."""


def draw_orders(orders: Sequence[tuple[str, np.ndarray[Any, Any]]]) -> Any:
    """Draw orders, given as titles and rows, beside one another; return the axes."""
    pyplot = require_package("matplotlib.pyplot", "plot", "plot_order")
    width = 3.2 * len(orders)
    _, grid = pyplot.subplots(1, len(orders), figsize=(width, 3.2), squeeze=False, sharey=True, layout="constrained")
    for axes, (title, rows) in zip(grid[0], orders, strict=True):
        step = max(1, -(-len(rows) // MOST_POINTS))
        # many points hide each other, few are hard to see
        axes.scatter(np.arange(0, len(rows), step), rows[::step], s=min(8, max(0.3, 4000 / max(1, len(rows)))), lw=0)
        axes.set(title=title, xlabel="place in the epoch")
    grid[0][0].set_ylabel("row of the phase")
    return grid[0]
