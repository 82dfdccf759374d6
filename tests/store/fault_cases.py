"""Rows that tests of faults store."""

from __future__ import annotations

import numpy as np

X = np.random.default_rng(0).random((48, 3))
T = np.array(["a", "bc"] * 24)
