"""The hybrid backend: what several tests use."""

from __future__ import annotations

import numpy as np

X = np.random.default_rng(0).standard_normal((100, 3)).astype("f4")


Y = np.arange(100) % 5


def everything(gate):
    """All that can be seen of both namespaces."""
    seen = {}
    mode = gate.mode
    for at in ("numpy", "zarr"):
        table = gate.repository(at).table
        for phase in ("train", "valid", "test"):
            for name, variable in table[phase].items():
                rows = variable.read(0, len(variable))
                seen[at, phase, name] = (rows.dtype, rows.shape, rows.tobytes())
    return mode, seen
