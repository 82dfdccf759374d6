"""Types: the public types for annotations, in one place; nothing but names.

>>> from storegate.types import Array, View
>>> def mean(rows: View[Array]) -> float:
...     return float(rows[:].mean())
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from storegate.contents import Metadata
from storegate.foldable import Fold
from storegate.leaks import Leaks
from storegate.parsing import (
    Backend,
    BackendArgs,
    BatchArgs,
    Data,
    DropLast,
    ExportFormat,
    First,
    ForeignFormat,
    Index,
    Mode,
    OpenArgs,
    Phase,
    PhaseName,
    RowsLike,
    ShuffleBatches,
    VarNames,
)
from storegate.readers import ReadOptions
from storegate.report import Report
from storegate.views import View
from storegate.windows import Windows
from storegate_engine.streams import Stream, StreamState

__all__ = [
    "Array",
    "Backend",
    "BackendArgs",
    "BatchArgs",
    "Data",
    "DropLast",
    "ExportFormat",
    "First",
    "Fold",
    "ForeignFormat",
    "Index",
    "Leaks",
    "Metadata",
    "Mode",
    "OpenArgs",
    "Phase",
    "PhaseName",
    "ReadOptions",
    "Report",
    "RowsLike",
    "ShuffleBatches",
    "Stream",
    "StreamState",
    "VarNames",
    "View",
    "Windows",
]

Array: TypeAlias = np.ndarray[Any, Any]
"""Rows, of any shape and dtype."""
