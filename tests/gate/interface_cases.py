"""The documented interface: what several tests use."""

from __future__ import annotations

import numpy as np


def filled(gate):
    """x: 10 rows of shape (2,), y: 10 labels, split 6/2/2, compiled."""
    x = np.arange(20, dtype="f4").reshape(10, 2)
    y = np.arange(10) % 3
    gate.add_data(["x", "y"], [x, y], phase=(6, 2, 2), do_compile=True)
    return x, y
