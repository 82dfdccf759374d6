"""Checks: the stored rows of an array exist, decode, and are unchanged; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from storegate_engine.arrays import checksums
from storegate_engine.arrays.shards import shard_key
from storegate_engine.arrays.stored import StoredArray
from storegate_engine.encodings import encoding_of, row_nbytes
from storegate_engine.errors import StoreError
from storegate_engine.orders import spans

__all__ = ["Found", "check_array"]

Array: TypeAlias = np.ndarray[Any, Any]

STEP_NBYTES = 16 * 2**20
"""Rows are read this many bytes at a time, so that a shard that claims too many rows is found before all are held."""
MAX_WRONG = 1_000
"""Number of damaged shards of one array after which the others are not checked."""


class Found(NamedTuple):
    """The result for an array, or for one of its files."""

    key: str
    """The key of the file below the array; empty for the array as a whole."""
    problem: str
    """What is wrong; empty if nothing is."""


def check_array(array: StoredArray) -> Iterator[Found]:
    """Read all rows of an array; yield the problem of each damaged file, or one result without a problem."""
    try:
        array.inspect()
    except StoreError as err:  # every shard would raise it, and the array may claim any number of shards
        yield Found("", str(err))
        return
    expected, problem = _expected(array)
    if problem:
        yield Found(checksums.SHARDS_KEY, problem)
    found: list[int] = []
    wrong = 0
    for shard in range(array.n_shards):
        if wrong == MAX_WRONG:
            yield Found("", f"{wrong} shards are damaged; those after them were not checked")
            return
        try:
            found.append(_checksum(array, shard))
        except StoreError as err:
            wrong += 1
            found.append(-1)
            yield Found(shard_key(shard, array.row_shape), str(err))
            continue
        if expected and found[shard] != expected[shard]:
            wrong += 1
            yield Found(
                shard_key(shard, array.row_shape),
                "its rows are not those that were written: the shard was changed or exchanged for another one",
            )
    if not wrong and checksums.of_array(found) != array.checksum:
        wrong += 1
        yield Found("", "its rows are not those that were written: their checksum does not match")
    if not wrong and not problem:
        yield Found("", "")


def _expected(array: StoredArray) -> tuple[list[int], str]:
    """Return the checksums of the shards, and what is wrong with them; no checksums if the manifest's is enough."""
    if array.n_shards <= 1:
        return [], ""
    try:
        content = array.location.read(f"{array.name}/{checksums.SHARDS_KEY}", max_nbytes=4 * array.n_shards)
        if content is None:
            return [], "it is missing"
        shards = checksums.unpack(content)
    except StoreError as err:
        return [], str(err)
    if len(shards) != array.n_shards or checksums.of_array(shards) != array.checksum:
        return [], "it is not what was written: its checksum is not the manifest's"
    return shards, ""


def _checksum(array: StoredArray, shard: int) -> int:
    start = shard * array.layout.shard_rows
    stop = min(start + array.layout.shard_rows, array.n_rows)
    chunk_nbytes = array.chunk_rows * max(1, row_nbytes(array.dtype, array.row_shape))
    step = array.chunk_rows * max(1, STEP_NBYTES // chunk_nbytes)
    return checksums.of_parts(_rows(array, start + lo, start + hi) for lo, hi in spans(stop - start, step))


def _rows(array: StoredArray, lo: int, hi: int) -> Array:
    rows = np.empty((hi - lo, *array.row_shape), array.dtype)
    array.read_original(lo, hi, rows)
    return encoding_of(array.dtype).encode(rows)
