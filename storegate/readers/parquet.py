"""Parquet: the columns of Parquet files, row group by row group, with pyarrow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storegate.readers.batches import batches_of, rows_of_step, wanted_in
from storegate.readers.paths import head_of
from storegate_engine.optional import require_package

__all__ = ["ParquetReader"]

BUFFER_NBYTES = 2**18
"""What is read of a column at a time; otherwise all its bytes in a row group are held while they are decoded."""


class ParquetReader:
    """Parquet: a variable for each column; only those that are asked for are decoded."""

    suffixes = (".parquet", ".parq", ".pq")
    options = ()

    def holds(self, path: Path) -> bool:
        """Return whether the file begins as Parquet files do."""
        return head_of(path, 4) == b"PAR1"

    @contextlib.contextmanager
    def open(self, path: Path, names: Sequence[str] | None, options: Mapping[str, Any]) -> Iterator[object]:
        """Open a file, as a table of batches that are decoded one after the other."""
        pa = require_package("pyarrow", "parquet", str(path))
        parquet = require_package("pyarrow.parquet", "parquet", str(path))
        with parquet.ParquetFile(path, buffer_size=BUFFER_NBYTES, pre_buffer=False) as file:
            wanted = wanted_in(file.schema_arrow, names)
            schema = pa.schema([file.schema_arrow.field(name) for name in wanted])
            step = _rows_together(file.metadata)
            with batches_of(
                schema, lambda: file.iter_batches(batch_size=step, columns=wanted), file.metadata.num_rows
            ) as table:
                yield table


def _rows_together(metadata: Any) -> int:
    """Return how many rows are decoded at a time."""
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    return min((rows_of_step(group.num_rows, group.total_byte_size) for group in groups if group.num_rows), default=1)
