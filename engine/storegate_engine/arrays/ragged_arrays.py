"""Ragged arrays: rows of various lengths, as bounds beside the items of all rows.

::

    bounds     (n_rows, 2)               row i is items[bounds[i, 0] : bounds[i, 1]]
    items      (n_items, *item_shape)
    columns    (n_items,)                of a sparse matrix only: the column of each item

Each of these is an array of its own, with its own chunks. Orders move bounds alone. Nothing reads the rows through the
protocol, whose rows have one shape: a variable reads its bounds, and then the items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from storegate_engine.arrays.rows import Fileless, RowArray
from storegate_engine.encodings import row_nbytes
from storegate_engine.errors import CorruptStoreError, shown
from storegate_engine.locations import Location

__all__ = ["RaggedArray"]


@dataclass(frozen=True, slots=True)
class RaggedArray(Fileless):
    """Rows of various lengths, or of a sparse matrix."""

    parts: tuple[RowArray, ...]
    """The bounds and the items; of a sparse matrix also the columns."""
    n_columns: int = 0
    """The number of columns of a sparse matrix; 0 for lists."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the items."""
        return self.parts[1].dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one item; of a sparse matrix the number of columns."""
        return (self.n_columns,) if len(self.parts) > 2 else self.parts[1].row_shape

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return self.parts[0].n_rows

    @property
    def chunk_rows(self) -> int:
        """About the number of rows whose items are decoded together."""
        items = self.parts[1]
        return max(1, items.chunk_rows * self.n_rows // max(1, items.n_rows))

    @property
    def shard_rows(self) -> int:  # type: ignore[override] # of arrays without files it is a constant
        """The number of rows whose bounds are in one file."""
        return self.parts[0].shard_rows

    @property
    def is_random_access(self) -> bool:  # type: ignore[override]
        """Whether any row can be read alone."""
        return all(part.is_random_access for part in self.parts)

    @property
    def is_remote(self) -> bool:  # type: ignore[override]
        """Whether a part is in an object store."""
        return any(part.is_remote for part in self.parts)

    @property
    def is_stored(self) -> bool:  # type: ignore[override]
        """Whether all parts are in storage."""
        return all(part.is_stored for part in self.parts)

    @property
    def held_row_nbytes(self) -> int:
        """The average bytes of a row, with its bounds."""
        bounds, *others = self.parts
        nbytes = sum(
            part.n_rows * row_nbytes(part.dtype, part.row_shape) + (0 if part.text is None else part.text.nbytes)
            for part in others
        )
        return row_nbytes(bounds.dtype, bounds.row_shape) - (-nbytes // max(1, bounds.n_rows))

    @property
    def location(self) -> Location | None:
        """The segment of the items."""
        return self.parts[1].location

    def will_read(self, spans: Sequence[tuple[int, int]]) -> None:
        """Ask storage to fetch the bounds of rows."""
        self.parts[0].will_read(spans)

    def to_json(self) -> dict[str, Any]:
        """Return the arrays as JSON for a manifest."""
        columns = {"n_columns": self.n_columns} if len(self.parts) > 2 else {}
        return {"ragged": [part.to_json() for part in self.parts], **columns}

    @classmethod
    def of(cls, parts: Sequence[RowArray], document: Any) -> RaggedArray:
        """Return the array of a manifest from its parts, which were opened already.

        Raises
        ------
        CorruptStoreError
            They do not belong together.
        """
        n_columns = document.get("n_columns", 0)
        is_sparse = len(parts) == 3
        if len(parts) not in (2, 3) or type(n_columns) is not int or n_columns < 0 or (n_columns and not is_sparse):
            raise CorruptStoreError(f"rows of various lengths that are not ours: {shown(document)}")
        bounds = parts[0]
        if bounds.dtype != np.int64 or bounds.row_shape != (2,):
            raise CorruptStoreError(f"bounds of rows are {bounds.dtype} of shape {bounds.row_shape}, not two int64")
        if is_sparse and (parts[2].dtype.kind not in "iu" or {parts[2].row_shape, parts[1].row_shape} != {()}):
            raise CorruptStoreError("the columns of a sparse matrix are not one integer for each item")
        if is_sparse and parts[1].n_rows != parts[2].n_rows:
            raise CorruptStoreError(f"{parts[1].n_rows} items have {parts[2].n_rows} columns")
        return cls(tuple(parts), n_columns)

    def read_into(self, *_: object, **__: object) -> NoReturn:
        """Raise TypeError: rows have no common shape."""
        raise TypeError("rows of various lengths are read by their variable, with Variable.read")

    take_into = read_into
