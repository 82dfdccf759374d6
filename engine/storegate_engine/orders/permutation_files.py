"""Permutation files: a numpy permutation or its inverse on disk, read by range; built in little memory."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine import settings
from storegate_engine.errors import SpillError
from storegate_engine.holds import user_scratch
from storegate_engine.integers import groups_of
from storegate_engine.orders.disk_shuffles import read_entries, write_inverse, write_permutation
from storegate_engine.scratch import open_spill

__all__ = ["PermutationFile"]

Int64Array: TypeAlias = npt.NDArray[np.int64]

PART_ROWS = 2**18
"""Entries that are read together if many are wanted."""
FEW = 64
"""If fewer entries than this are wanted of a part, each is read alone."""


class PermutationFile:
    """``n`` unsigned 32-bit numbers in a file of this process, which is deleted with this object.

    The file is in `storegate.scratch-directory`, or in the user's own scratch directory.
    """

    def __init__(self, n: int, write: Callable[[Path], None]) -> None:
        self.nbytes = 4 * n
        parent = settings.scratch_directory() or user_scratch()
        # with a name that no other process adopts: it would have to trust the content
        self._spill = open_spill(parent, uuid.uuid4().hex)
        path = Path(self._spill.path, "permutation")
        try:
            write(path)
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as err:
            raise SpillError(
                f"the permutation of {n} rows, {self.nbytes} bytes, cannot be written to {path.parent}: "
                f"{err.strerror or err}; free space there, or set storegate.scratch-directory to a larger disk"
            ) from err

    @classmethod
    def forward(cls, n: int, seed: int) -> PermutationFile:
        """Return ``RandomState(seed).permutation(n)``."""
        return cls(n, lambda path: write_permutation(path, n, seed))

    def inverse(self) -> PermutationFile:
        """Return the inverse."""
        n = self.nbytes // 4
        return PermutationFile(n, lambda path: write_inverse(path, self.descriptor, n))

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):  # the file was never created
            os.close(self.descriptor)

    def span(self, lo: int, hi: int) -> Int64Array:
        """Return the entries lo .. hi-1."""
        return read_entries(self.descriptor, lo, hi - lo).astype(np.int64)

    def take(self, rows: Int64Array) -> Int64Array:
        """Return the entries at rows, in any order."""
        out = np.empty(len(rows), np.int64)
        places, cuts, parts = groups_of(rows // PART_ROWS)
        for part, first, last in zip(parts, cuts, cuts[1:], strict=False):
            where = places[first:last]
            if len(where) < FEW:
                for at in where.tolist():
                    out[at] = read_entries(self.descriptor, int(rows[at]), 1)[0]
                continue
            lo = part * PART_ROWS
            entries = read_entries(self.descriptor, lo, min(PART_ROWS, self.nbytes // 4 - lo))
            out[where] = entries[rows[where] - lo]
        return out
