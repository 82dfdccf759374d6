"""Arrow: tables that come through the Arrow C stream, as columns of numpy; needs pyarrow, and reads no rows early."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrow import ArrowType, arrow_type, arrow_values, columns_of_schema, is_list
from storegate_engine.errors import DtypeError, IterationError, MissingValueError
from storegate_engine.optional import require_package
from storegate_engine.store import Categories, FieldSource, as_rows

__all__ = ["ArrowRows", "arrow_columns"]

Array: TypeAlias = np.ndarray[Any, Any]


def arrow_columns(data: Any) -> dict[str, Callable[[], FieldSource]]:
    """Return a function that makes each column of an Arrow stream, by name.

    Raises
    ------
    ModuleNotFoundError
        pyarrow is not installed.
    DtypeError
        Two columns have the same name; or one has a type without a numpy dtype, which is raised when it is made.
    """
    pa = require_package("pyarrow", "arrow", f"a {type(data).__name__}")
    fields = _Batches(data, pa.RecordBatchReader)
    schema = fields.schema
    names = columns_of_schema(schema)
    if type(data).__module__.partition(".")[0] in ("pyarrow", "polars") and fields.n_rows is not None:
        # in memory: each column by itself, so that one is read while others are written
        apart = {name: _Batches(data.select([name]), pa.RecordBatchReader) for name in names}
    else:
        apart = dict.fromkeys(names, fields)
    return {shown: partial(_column, apart[name], name, schema.field(name).type) for name, shown in names.items()}


ROWS_TOGETHER = 4096
"""Rows of a record batch of a Dataset of HF datasets."""


@dataclass(frozen=True, slots=True)
class ArrowRows:
    """A Dataset of HF datasets as an Arrow stream: the rows that it shows, in its order, however its table lies."""

    data: Any

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return int(self.data.num_rows)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the stream."""
        pa = require_package("pyarrow", "arrow", "a Dataset")
        tables = self.data.with_format("arrow").iter(batch_size=ROWS_TOGETHER)
        batches = (batch for table in tables for batch in table.to_batches())
        reader = pa.RecordBatchReader.from_batches(self.data.features.arrow_schema, batches)
        return reader.__arrow_c_stream__(requested_schema)


_USED: weakref.WeakSet[Any] = weakref.WeakSet()
"""Readers that were read: pyarrow gives what is left of them, be it nothing."""


@dataclass(slots=True, eq=False)
class _Batches:
    """The record batches of a stream, which can be read only once."""

    data: Any
    reader_type: Any
    reader: Any = field(init=False)

    def __post_init__(self) -> None:
        """Open the stream; rows are read later."""
        if hasattr(self.data, "read_next_batch") and self.data in _USED:
            raise IterationError("this reader was read before, all of it or a part; make another one of its data")
        try:
            self.reader = self.reader_type.from_stream(self.data)
        except ValueError as err:  # pyarrow's ArrowInvalid
            raise DtypeError(
                f"the {type(self.data).__name__} has a column of a type that pyarrow does not know ({err}); cast it to "
                "another one first, as in frame.cast({'name': polars.Int64})"
            ) from err

    @property
    def schema(self) -> Any:
        """The names and types of the columns."""
        return self.reader.schema

    @property
    def n_rows(self) -> int | None:
        """The number of rows, None if the table does not know it."""
        # pyarrow and polars know it; duckdb would have to run another query
        n_rows = getattr(self.data, "num_rows", getattr(self.data, "height", None))
        return n_rows if isinstance(n_rows, int) else None

    def blocks(self, names: Iterable[str], block_rows: int) -> Iterator[Mapping[str, Any]]:
        """Yield slices of record batches, as views."""
        reader, self.reader = self.reader, None
        if reader is None:
            reader = self.reader_type.from_stream(self.data)  # a table gives a new stream
        if hasattr(self.data, "read_next_batch"):
            _USED.add(self.data)
        wanted = list(names)
        for batch in reader:
            for start in range(0, batch.num_rows, block_rows):
                part = batch.slice(start, block_rows)
                yield {name: part.column(name) for name in wanted}


def _column(fields: _Batches, name: str, kind: Any) -> FieldSource:
    """Return one column as a source of ndarrays."""
    what = f"column {name!r}"
    if hasattr(kind, "index_type"):
        categories = Categories(is_ordered=kind.ordered)
        return FieldSource(fields, name, categories.dtype, (), partial(_codes, categories), categories)
    if is_list(kind):
        items = arrow_type(kind.value_type, what, within=kind)
        return FieldSource(fields, name, items.dtype, items.row_shape, as_rows, kind="ragged")
    found = arrow_type(kind, what)
    return FieldSource(fields, name, found.dtype, found.row_shape, partial(_values, found))


def _values(found: ArrowType, array: Any, what: str) -> Array:
    return arrow_values(array, found, what)


def _codes(categories: Categories, array: Any, what: str) -> Array:
    if array.null_count:
        raise MissingValueError(
            f"{what}: {array.null_count} values are null, which cannot be stored; replace them with fill_null(value)"
        )
    return categories.codes(array.dictionary.to_pylist(), array.indices.to_numpy(zero_copy_only=False), what)
