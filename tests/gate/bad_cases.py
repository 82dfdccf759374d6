"""What tests of bad calls and of bad openings share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SURROGATE = "a\ud800"


BACKENDS = ["numpy", "zarr", "hybrid"]
NO_INTEGERS: list[Any] = [1.5, "1", True, None, [1], np.float64(2)]
"""What is taken for no integer anywhere."""


def files_in(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
