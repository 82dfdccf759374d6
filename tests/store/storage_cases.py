"""Stores on disk and elsewhere: what several tests use."""

from __future__ import annotations

from pathlib import Path

import numpy as np

ROWS = {
    "f": np.random.default_rng(0).standard_normal((300, 4)).astype("f4"),
    "half": np.arange(300, dtype="f2"),
    "b": np.arange(300) % 2 == 0,
    "c": np.arange(300) * (1 + 2j),
    "t": np.array(["2024-02-29T12:00:01", "NaT", "1969-12-31"] * 100, "M8[s]"),
    "d": np.array([1, -5, "NaT"] * 100, "m8[ms]"),
    "u": np.array(["a", "é", "longer"] * 100),
    "s": np.array([b"a", b"\xff\x80", b""] * 100),
}


def segment_paths(store):
    return sorted(path.parent for path in Path(store).glob("*/segments/*/zarr.json"))
