"""Lists: rows of various lengths in groups of arrays, as AnnData and awkward lay them out; reads them as asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from storegate_engine.ragged import Ragged
from storegate_engine.store import column_dtype
from storegate_engine.table import Kind

__all__ = ["SparseRows", "lists_in"]


@dataclass(frozen=True, slots=True, eq=False)
class SparseRows:
    """A sparse matrix in a file, in the layout ``csr_matrix`` of AnnData."""

    group: Any
    """Its arrays ``indptr``, ``data`` and ``indices``."""
    shape: tuple[int, ...]
    """``(n_rows, n_columns)``."""
    kind: Kind = "sparse"

    @classmethod
    def of(cls, group: Any) -> SparseRows:
        """Return the matrix of a group."""
        return cls(group, tuple(int(size) for size in group.attrs["shape"]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of its values."""
        dtype: np.dtype[Any] = self.group["data"].dtype
        return dtype

    @property
    def row_nbytes(self) -> int:
        """The average bytes of a row."""
        item_nbytes: int = self.dtype.itemsize + self.group["indices"].dtype.itemsize
        n_items: int = self.group["data"].shape[0]
        return item_nbytes * n_items // max(1, self.shape[0]) + 1

    def __getitem__(self, rows: slice) -> Ragged:
        """Read a slice of rows."""
        ends = self.group["indptr"][rows.start : rows.stop + 1].astype(np.int64)
        of = slice(int(ends[0]), int(ends[-1]))
        columns, n_columns = self.group["indices"][of], self.shape[1]
        return Ragged(ends - ends[0], self.group["data"][of], columns.astype(column_dtype(n_columns)), n_columns)


@dataclass(frozen=True, slots=True, eq=False)
class _ListRows:
    """Lists of numbers in a file, in the layout ``awkward-array`` of AnnData."""

    offsets: Any
    items: Any
    kind: Kind = "ragged"

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_rows,)``."""
        return (self.offsets.shape[0] - 1,)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the items."""
        dtype: np.dtype[Any] = self.items.dtype
        return dtype

    @property
    def row_nbytes(self) -> int:
        """The average bytes of a row."""
        n_items: int = self.items.shape[0]
        return self.dtype.itemsize * n_items // max(1, self.shape[0]) + 1

    def __getitem__(self, rows: slice) -> Ragged:
        """Read a slice of rows."""
        ends = self.offsets[rows.start : rows.stop + 1].astype(np.int64)
        return Ragged(ends - ends[0], self.items[int(ends[0]) : int(ends[-1])])


def lists_in(items: Mapping[str, Any]) -> dict[str, Any]:
    """Return those members of a group that are sparse matrices, or lists of numbers."""
    found = {name: _lists(item) for name, item in items.items() if not hasattr(item, "dtype")}
    return {name: rows for name, rows in found.items() if rows is not None}


def _lists(group: Any) -> SparseRows | _ListRows | None:
    kind = group.attrs.get("encoding-type")
    if kind == "csr_matrix":
        return SparseRows.of(group)
    if kind != "awkward-array":
        return None
    form = json.loads(group.attrs["form"])
    content = form.get("content", {})
    if form.get("class") != "ListOffsetArray" or content.get("class") != "NumpyArray" or content.get("inner_shape"):
        return None
    return _ListRows(group[f"{form['form_key']}-offsets"], group[f"{content['form_key']}-data"])
