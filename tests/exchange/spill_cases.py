"""Rows that are spilled, and the plan of a place."""

from __future__ import annotations

import numpy as np

ROWS = np.random.default_rng(0).random((20_000, 16), dtype="f4")
PLAN = "0" * 32


EXPECTED = ROWS[np.random.RandomState(3).permutation(len(ROWS))]
