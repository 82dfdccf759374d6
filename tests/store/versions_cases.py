"""Versions of a table: what several tests use."""

from __future__ import annotations

import numpy as np

X = np.arange(40, dtype="f4").reshape(20, 2)
