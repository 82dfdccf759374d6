"""Delimited: CSV and other text files with a line for each row, with pyarrow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storegate.optional import require_package
from storegate.parsing import parse_dtype
from storegate.readers.batches import batches_of, wanted_in
from storegate_engine.encodings import is_text
from storegate_engine.errors import DtypeError, MissingValueError, VariableNotFoundError, near_match

__all__ = ["CsvReader"]

BLOCK_NBYTES = 2**18
"""Bytes that are parsed at a time; pyarrow has some dozens of such blocks at once."""
PACKED = ("", ".gz", ".bz2", ".zst")


class CsvReader:
    """CSV: a variable for each column; the first line names them, its first block tells their dtypes."""

    suffixes = tuple(f"{suffix}{packed}" for suffix in (".csv", ".tsv") for packed in PACKED)
    options = ("delimiter", "dtypes")

    def holds(self, path: Path) -> bool:
        """Return False: text could be anything."""
        return False

    @contextlib.contextmanager
    def open(self, path: Path, names: Sequence[str] | None, options: Mapping[str, Any]) -> Iterator[object]:
        """Open a file, as a table of batches that are parsed one after the other."""
        pa = require_package("pyarrow", "arrow", str(path))
        csv = require_package("pyarrow.csv", "arrow", str(path))
        types = {name: _type(pa, dtype) for name, dtype in options.get("dtypes", {}).items()}
        parsed = csv.ParseOptions(delimiter=options.get("delimiter", "\t" if ".tsv" in path.name.lower() else ","))

        def opened(wanted: list[str] | None) -> Any:
            converted = csv.ConvertOptions(column_types=types, include_columns=wanted)
            file = pa.input_stream(str(path), compression="detect")
            read = csv.ReadOptions(block_size=BLOCK_NBYTES)
            return csv.open_csv(file, read_options=read, parse_options=parsed, convert_options=converted)

        with opened(None) as reader:
            for name in types:
                if name not in reader.schema.names:
                    raise VariableNotFoundError(
                        f"dtypes names the column {name!r}{near_match(name, reader.schema.names)} "
                        f"(columns: {', '.join(reader.schema.names)})"
                    )
            wanted = wanted_in(reader.schema, names)
        with opened(wanted) as reader:
            for name in wanted:
                if pa.types.is_null(reader.schema.field(name).type):
                    raise DtypeError(
                        f"column {name!r} has no values, so that its dtype is not known; leave the file out, or give "
                        f"dtypes={{{name!r}: 'float64'}}"
                    )
            with batches_of(reader.schema, lambda: _batches(pa, reader)) as table:
                yield table


def _type(pa: Any, dtype: Any) -> Any:
    """Return the type of Arrow for a dtype."""
    parsed = parse_dtype(dtype)
    try:
        return pa.string() if is_text(parsed) else pa.from_numpy_dtype(parsed)
    except pa.ArrowNotImplementedError as err:
        raise DtypeError(f"a column of CSV cannot be of {parsed}; read it as text, then cast it with astype") from err


def _batches(pa: Any, reader: Any) -> Iterator[Any]:
    """Yield batches in which numbers that are missing are NaN.

    Raises
    ------
    DtypeError
        A value is not of the dtype of its column.
    MissingValueError
        A value is missing in a column that has no NaN.
    """
    compute = require_package("pyarrow.compute", "arrow", "CSV")
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except pa.ArrowInvalid as err:
            raise DtypeError(
                f"{err}; the first rows told the dtypes of the columns, give others as in dtypes={{'x': 'float64'}}"
            ) from err
        for at, name in enumerate(batch.schema.names):
            column = batch.column(at)
            if not column.null_count or pa.types.is_temporal(column.type):
                continue
            if not pa.types.is_floating(column.type):
                raise MissingValueError(
                    f"column {name!r} has no value in {column.null_count} rows, and {column.type} cannot say so; give "
                    f"dtypes={{{name!r}: 'float64'}} to have NaN there"
                )
            batch = batch.set_column(at, batch.schema.field(at), compute.fill_null(column, float("nan")))
        yield batch
