"""Batches: record batches of Arrow, made while a file is open, as a table that ``add_data`` takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from storegate_engine.arrow import columns_of_schema
from storegate_engine.optional import require_package

__all__ = ["batches_of", "rows_of_step", "slices_of", "wanted_in"]

STEP_NBYTES = 2 * 2**20
"""Bytes of rows that are made at a time."""


@dataclass(slots=True, eq=False)
class _Batches:
    """A table of batches that can be read once."""

    schema: Any
    make: Callable[[], Iterator[Any]]
    num_rows: int | None
    error: Exception | None = field(default=None, init=False)
    """What went wrong, since a stream of Arrow keeps only the text of an error."""

    def _batches(self) -> Iterator[Any]:
        try:
            yield from self.make()
        except Exception as err:
            self.error = err
            raise

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the stream."""
        pa = require_package("pyarrow", "arrow", "Arrow")
        return pa.RecordBatchReader.from_batches(self.schema, self._batches()).__arrow_c_stream__(requested_schema)


@contextlib.contextmanager
def batches_of(schema: Any, make: Callable[[], Iterator[Any]], n_rows: int | None = None) -> Iterator[object]:
    """Give batches as a table; errors of making them come out as they are.

    Parameters
    ----------
    schema : pyarrow.Schema
        The names and types of the columns of the batches.
    make : callable
        Returns an iterator of record batches.
    n_rows : int or None
        The number of rows, if it is known.
    """
    table = _Batches(schema, make, n_rows)
    try:
        yield table
    except Exception:
        if table.error is not None:
            raise table.error from None
        raise


def wanted_in(schema: Any, names: Sequence[str] | None) -> list[str]:
    """Return the columns to read, in the order of the file; all if one is missing, which is then reported."""
    known = list(columns_of_schema(schema))
    return known if names is None or not set(names) <= set(known) else [name for name in known if name in set(names)]


def rows_of_step(n_rows: int, n_bytes: int) -> int:
    """Return how many rows are made at a time, for rows of this average size."""
    return max(1, min(n_rows, STEP_NBYTES * n_rows // max(1, n_bytes)))


def slices_of(batch: Any) -> Iterator[Any]:
    """Yield a batch in parts of a few megabytes, as views."""
    step = rows_of_step(batch.num_rows, batch.nbytes)
    for start in range(0, batch.num_rows, step):
        yield batch.slice(start, step)
