"""Delimited: CSV and other text files with a line for each row, with pyarrow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from storegate.parsing import parse_dtype
from storegate.readers.batches import batches_of, wanted_in
from storegate_engine.encodings import is_text
from storegate_engine.errors import DtypeError, MissingValueError, VariableNotFoundError, near_match
from storegate_engine.optional import require_package

__all__ = ["CsvReader"]

BLOCK_NBYTES = 2**18
"""Bytes that are parsed at a time; pyarrow has some dozens of such blocks at once."""
FLOAT_DIGITS = 15
"""Digits that float64 always holds."""
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

        def opened(wanted: list[str] | None, others: Mapping[str, Any] = MappingProxyType({})) -> Any:
            converted = csv.ConvertOptions(column_types={**types, **others}, include_columns=wanted)
            file = pa.input_stream(str(path), compression="detect")
            read = csv.ReadOptions(block_size=BLOCK_NBYTES)
            try:
                return csv.open_csv(file, read_options=read, parse_options=parsed, convert_options=converted)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as err:
                if "conversion" not in str(err):
                    raise
                raise DtypeError(f"{err}; give another dtype in dtypes=, or read the column as text") from err

        with opened(None) as reader:
            for name in types:
                if name not in reader.schema.names:
                    raise VariableNotFoundError(
                        f"dtypes names the column {name!r}{near_match(name, reader.schema.names)} "
                        f"(columns: {', '.join(reader.schema.names)})"
                    )
            wanted = wanted_in(reader.schema, names)
            kinds = {name: reader.schema.field(name).type for name in wanted if name not in types}
            told = [name for name, kind in kinds.items() if pa.types.is_floating(kind)]
        if told:  # whole numbers beyond int64 are taken for floats
            with opened(told, dict.fromkeys(told, pa.string())) as reader:
                _require_exact(reader)
        with opened(wanted) as reader:
            for name in wanted:
                if pa.types.is_null(reader.schema.field(name).type):
                    raise DtypeError(
                        f"column {name!r} has no values, so that its dtype is not known; leave the file out, or give "
                        f"dtypes={{{name!r}: 'float64'}}"
                    )
            with batches_of(reader.schema, lambda: _batches(pa, reader)) as table:
                yield table


def _require_exact(reader: Any) -> None:
    """Refuse whole numbers that float64 does not hold, in the rows that tell the dtypes of columns.

    Raises
    ------
    DtypeError
        There is one.
    """
    try:
        batch = reader.read_next_batch()
    except StopIteration:
        return
    for name in batch.schema.names:
        for text in batch.column(name).to_pylist():
            digits = (text or "").strip().lstrip("+-")
            if len(digits) > FLOAT_DIGITS and digits.isdecimal() and int(digits) != int(float(digits)):
                raise DtypeError(
                    f"column {name!r} has whole numbers, such as {text}, that float64 does not hold exactly; say what "
                    f"they are, as in dtypes={{{name!r}: 'uint64'}}, or 'float64' to round them"
                )


def _type(pa: Any, dtype: Any) -> Any:
    """Return the type of Arrow for a dtype."""
    parsed = parse_dtype(dtype)
    try:
        if parsed.kind == "S":
            return pa.binary()
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
