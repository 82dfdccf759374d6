"""Sorts: what the tasks of one sort into buckets share: their rows, sizes and spill files; runs none of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.exchange.planning import transforms_last
from storegate_engine.exchange.spill_files import PartFile
from storegate_engine.orders import Range, Span
from storegate_engine.scratch import SPARE, Spill, Visit
from storegate_engine.table import Piece, Variable

__all__ = ["BucketSort"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class BucketSort:
    """Everything that the tasks of one sort need; small and picklable."""

    variable: Variable
    """The rows and their order."""
    map_rows: int
    """Stored rows of one scatter task (R1)."""
    bucket_rows: int
    """Logical rows of one bucket (R2)."""
    directory: str | Spill | Visit
    """Where the spill is: a directory of the caller, or of a plan, which lives at least as long as this."""
    buckets: tuple[int, int]
    """The first wanted bucket, and the end."""
    prefix: str = "map"
    """The prefix of its file names."""
    source_rows: int | None = None
    """Rows of an exchange before that are scattered, and named by the order, instead of stored ones."""
    bounds: Array | None = field(default=None, compare=False)
    """The first logical row of each bucket, and the end, if buckets differ in size: ``bucket_rows`` is the largest."""
    map_bounds: Array | None = field(default=None, compare=False)
    """The same for the rows of scatter tasks: the buckets of the exchange before, if these differ."""
    past_cache: bool | None = None
    """Whether spill files are written past the page cache; what was faster if None."""

    @property
    def n_maps(self) -> int:
        """The number of scatter tasks (P)."""
        return -(-self._n_rows // self.map_rows) if self.map_bounds is None else len(self.map_bounds) - 1

    @property
    def _n_rows(self) -> int:
        return self.source_rows or self.variable.offsets[-1]

    @property
    def n_buckets(self) -> int:
        """The number of wanted buckets (K)."""
        return self.buckets[1] - self.buckets[0]

    @property
    def transforms_last(self) -> bool:
        """Whether rows are spilled as stored, and transformed when they are collected."""
        return transforms_last(self.variable)

    @property
    def spilled(self) -> Variable:
        """The rows as they are spilled: stored or transformed, whichever is narrower."""
        variable = self.variable
        everything = Range(0, variable.offsets[-1])
        if not self.transforms_last:
            return variable.stored_rows()
        raw = tuple(Piece(piece.array, piece.start, piece.stop) for piece in variable.pieces)
        return Variable(variable.name, raw[0].array.dtype, raw[0].array.row_shape, raw, everything)

    def path(self, name: str) -> Path:
        """Return the path of one spill file."""
        return Path(self.directory, name)

    def spare(self, path: Path) -> Path:
        """Return the path of a file that is no longer needed, if there is one, to be overwritten as ``path``."""
        return self.path(SPARE) / path.name

    def make_directory(self) -> None:
        """Create a directory of the caller; that of a plan exists, or its user has ended."""
        if isinstance(self.directory, str):
            os.makedirs(self.directory, mode=0o700, exist_ok=True)

    def request_path(self, bucket: int) -> Path:
        """Return the path of the request of one bucket."""
        return self.path(f"{self.prefix}-request-{bucket:06d}")

    def map_path(self, number: int) -> Path:
        """Return the path of the output of one scatter task."""
        return self.path(f"{self.prefix}-{number:06d}")

    def open_request(self, bucket: int, number: int) -> PartFile:
        """Open the request of a bucket to one scatter task."""
        return self._open(self.request_path(bucket), number, self.n_maps)

    def open_map(self, number: int, bucket: int) -> PartFile:
        """Open the output of one scatter task for a bucket."""
        return self._open(self.map_path(number), bucket - self.buckets[0], self.n_buckets)

    def _open(self, path: Path, number: int, n_parts: int) -> PartFile:
        """Open a part of a spill file to read; in a plan's directory, files of other users are not trusted."""
        owner = None if isinstance(self.directory, str) else self.directory.owner
        return PartFile(path, number, n_parts, owner=owner, past_cache=self.past_cache)

    def map_span(self, number: int) -> Span:
        """Return the stored rows of a scatter task."""
        if self.map_bounds is not None:
            return Span(*self.map_bounds[number : number + 2].tolist())
        lo = number * self.map_rows
        return Span(lo, min(lo + self.map_rows, self._n_rows))

    def bucket_span(self, bucket: int) -> Span:
        """Return the logical rows of a bucket."""
        if self.bounds is not None:
            return Span(*self.bounds[bucket : bucket + 2].tolist())
        lo = bucket * self.bucket_rows
        return Span(lo, min(lo + self.bucket_rows, len(self.variable)))

    def buckets_of(self, logical: Array) -> Array:
        """Return the buckets of logical rows; -1 of -1."""
        if self.bounds is not None:
            found: Array = np.searchsorted(self.bounds, logical, side="right") - 1
            return found
        return logical // self.bucket_rows
