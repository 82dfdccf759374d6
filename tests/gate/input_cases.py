"""Rows that tests of inputs share."""

from __future__ import annotations

import numpy as np

N = 1000
X = np.random.default_rng(0).standard_normal((N, 3)).astype("f4")
X.flags.writeable = False
