"""Shard writes: rows as whole shards of a new array, here or by zarr-python; from any process, and in any order."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from storegate_engine.arrays import checksums
from storegate_engine.arrays.inspection import MAX_CHUNK_NBYTES
from storegate_engine.arrays.shard_objects import files_of
from storegate_engine.arrays.shards import Shards, shards_of
from storegate_engine.arrays.statistics import Tally
from storegate_engine.arrays.stored import StoredArray
from storegate_engine.budget import Layout
from storegate_engine.encodings import Encoding, encoding_of, is_text
from storegate_engine.errors import DtypeError, ShapeError
from storegate_engine.locations import Location, writing
from storegate_engine.texts import row_text_nbytes

if TYPE_CHECKING:
    import zarr

__all__ = ["MAX_TEXT_NBYTES", "encoded", "new_shards", "open_with_zarr", "too_much_text", "write_rows"]

Array: TypeAlias = np.ndarray[Any, Any]

MAX_TEXT_NBYTES = MAX_CHUNK_NBYTES - 64
"""Most bytes of the texts of a chunk, without the number of them."""


def write_rows(array: StoredArray, start: int, rows: Array) -> checksums.Written:
    """Write whole shards of a new array, from any process; the same rows may be written again.

    Returns
    -------
    Written
        The first shard's number, the checksums of all shards and the statistics of the rows, for :meth:`Segment.seal`.

    Raises
    ------
    WriteError
        The rows cannot be written.
    """
    if start % array.layout.shard_rows or (len(rows) % array.layout.shard_rows and start + len(rows) < array.n_rows):
        raise ValueError(f"rows {start}..{start + len(rows)} are not whole shards of {array.layout.shard_rows} rows")
    tally = Tally(array.dtype)
    shards: list[int] = []
    if rows.size:
        with writing(array.location / array.name):
            shards = _write_shards(array, start, rows, tally)
    return checksums.Written(start // array.layout.shard_rows, shards, tally.found())


def _write_shards(array: StoredArray, start: int, rows: Array, tally: Tally) -> list[int]:
    values = encoded(array.name, encoding_of(array.dtype), rows)
    metadata = json.loads(array.location.read(f"{array.name}/zarr.json") or b"")
    shards = new_shards(array.location, array.name, array.dtype, array.layout, metadata)
    parts = {lo: values[lo : lo + array.layout.shard_rows] for lo in range(0, len(rows), array.layout.shard_rows)}
    if array.dtype.kind == "T":
        _require_chunks(array.name, row_text_nbytes(values), array.layout.chunk_rows)
    if shards is None:
        open_with_zarr(array.location, array.name)[start : start + len(rows)] = values
    else:
        for lo, part in parts.items():
            shards.write((start + lo) // array.layout.shard_rows, part)
    return [checksums.of_rows(part, tally) for part in parts.values()]


def encoded(name: str, encoding: Encoding, rows: Array) -> Array:
    """Return rows in their stored form; an error names the variable."""
    try:
        return encoding.encode(rows)
    except DtypeError as err:
        raise DtypeError(f"variable {name!r}: {err}") from err


def _require_chunks(name: str, nbytes: Array, chunk_rows: int) -> None:
    """Refuse chunks of text that readers would refuse; the rows begin with a chunk."""
    largest = int(np.add.reduceat(nbytes, np.arange(0, len(nbytes), chunk_rows)).max()) if len(nbytes) else 0
    if largest > MAX_TEXT_NBYTES:
        raise too_much_text(name, chunk_rows, largest)


def too_much_text(name: str, chunk_rows: int, nbytes: int) -> ShapeError:
    """Return the error for a chunk of text that readers would refuse."""
    remedy = "split its texts" if chunk_rows == 1 else "choose fewer rows for backend_args['chunk']"
    return ShapeError(
        f"variable {name!r}: {chunk_rows} rows of text take {nbytes} bytes, and a chunk at most {MAX_TEXT_NBYTES}; "
        f"{remedy}"
    )


def new_shards(
    location: Location, name: str, dtype: np.dtype[Any], layout: Layout, metadata: dict[str, Any]
) -> Shards | None:
    """Return the shards of a new array if this library writes them, None if zarr-python does."""
    files = None if is_text(dtype) else files_of(location, name)
    return None if files is None else shards_of(files, metadata, layout.chunk_rows, layout.shard_rows)


def open_with_zarr(location: Location, name: str) -> zarr.Array[Any]:
    """Return a new array to write with zarr-python, including chunks of zeros."""
    import zarr  # deferred on purpose: numbers in local files do without it
    from zarr.storage import StorePath

    with zarr.config.set({"array.write_empty_chunks": True}):  # an opened array reads this setting
        return zarr.open_array(StorePath(location.store, location.key(name)), mode="r+")
