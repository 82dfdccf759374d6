"""Verify: whether all that the kept versions of a data_id refer to is there, decodes, and is what was written.

Reads every stored row once and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrays import checksums
from storegate_engine.arrays.rows import StoredArray
from storegate_engine.encodings import encoding_of, row_nbytes
from storegate_engine.errors import StoreError
from storegate_engine.orders.indexes import spans
from storegate_engine.store.manifests import Unreadable
from storegate_engine.store.stored import StoredRepository
from storegate_engine.table.json import stored_arrays

__all__ = ["Checked", "verify"]

Array: TypeAlias = np.ndarray[Any, Any]


STEP_NBYTES = 16 * 2**20
"""Rows are read so many bytes at a time: a shard that claims more than lies there is found before they are all held."""
MAX_WRONG = 1_000
"""Wrong shards of one array after which the others are not looked at."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One manifest or array, and what is wrong with it."""

    key: str
    """Where it lies, below the data_id; the shard's key where one is known to be wrong."""
    used_by: str
    """The variables of the newest version that read it; empty where only older versions do."""
    nbytes: int
    """Bytes of its rows."""
    problem: str = ""
    """What is wrong; empty where nothing is."""


def verify(repository: StoredRepository) -> Iterator[Checked]:
    """Check every manifest, and every array that one of them refers to; yield a result for each.

    An array with several wrong shards gives a result for each of them.
    """
    arrays: dict[StoredArray, list[str]] = {}
    kept = repository.log.kept()
    for manifest in kept:
        key = repository.log.key(manifest.version)
        if isinstance(manifest, Unreadable):
            yield Checked(key, "", 0, manifest.problem)
            continue
        try:
            table = repository.table_at(manifest.version)
        except StoreError as err:
            yield Checked(key, "", 0, str(err))
            continue
        yield Checked(key, "", 0)
        newest = manifest is kept[-1]
        for array, users in stored_arrays(table).items():
            arrays[array] = users if newest else arrays.get(array, [])
    for array, users in arrays.items():
        yield from _checked(array, ", ".join(users))


def _checked(array: StoredArray, users: str) -> Iterator[Checked]:
    key = f"segments/{array.segment}/{array.name}"
    nbytes = array.n_rows * row_nbytes(array.dtype, array.row_shape)
    try:
        array.inspect()
    except StoreError as err:  # so would every shard say, of which it may claim any number
        yield Checked(key, users, nbytes, str(err))
        return
    expected, problem = _expected(array)
    if problem:
        yield Checked(f"{key}/{checksums.SHARDS_KEY}", users, nbytes, problem)
    found: list[int] = []
    wrong = 0
    for shard in range(array.n_shards):
        if wrong == MAX_WRONG:
            yield Checked(key, users, nbytes, f"{wrong} shards are wrong; those behind them were not looked at")
            return
        try:
            found.append(_checksum(array, shard))
        except StoreError as err:
            wrong += 1
            found.append(-1)
            yield Checked(f"{key}/{shard_key(array, shard)}", users, nbytes, str(err))
            continue
        if expected and found[shard] != expected[shard]:
            wrong += 1
            yield Checked(
                f"{key}/{shard_key(array, shard)}",
                users,
                nbytes,
                "its rows are not those that were written: the shard was changed or exchanged for another one",
            )
    if not wrong and checksums.of_array(found) != array.checksum:
        wrong += 1
        yield Checked(key, users, nbytes, "its rows are not those that were written: their checksum does not match")
    if not wrong and not problem:
        yield Checked(key, users, nbytes)


def _expected(array: StoredArray) -> tuple[list[int], str]:
    """Return the checksums of the shards, and what is wrong with them; none where the manifest's own is enough."""
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


def shard_key(array: StoredArray, shard: int) -> str:
    """Return the key of a shard's file below its array."""
    return "/".join(["c", str(shard), *("0" for _ in array.row_shape)])


def _checksum(array: StoredArray, shard: int) -> int:
    start = shard * array.layout.shard_rows
    stop = min(start + array.layout.shard_rows, array.n_rows)
    chunk_nbytes = array.chunk_rows * max(1, row_nbytes(array.dtype, array.row_shape))
    step = array.chunk_rows * max(1, STEP_NBYTES // chunk_nbytes)
    return checksums.of_parts(_rows(array, start + lo, start + hi) for lo, hi in spans(stop - start, step))


def _rows(array: StoredArray, lo: int, hi: int) -> Array:
    rows = np.empty((hi - lo, *array.row_shape), array.dtype)
    array.read_into(lo, hi, rows)
    return encoding_of(array.dtype).encode(rows)
