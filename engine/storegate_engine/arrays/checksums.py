"""Checksums: of the rows of a shard, independent of its codec; pure, reads nothing.

The checksum of a shard is the crc32c of its stored values, so that it also detects a shard replaced by another valid
one. That of an array is the crc32c of the checksums of its shards, in order; a manifest holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from storegate_engine.arrays.statistics import WINDOW_NBYTES, Statistics, Tally, joined
from storegate_engine.buffers import crc32c
from storegate_engine.encodings import canonical_bytes
from storegate_engine.errors import CorruptStoreError

__all__ = ["SHARDS_KEY", "Written", "of_array", "of_rows", "of_written", "pack", "unpack"]

Array: TypeAlias = np.ndarray[Any, Any]

SHARDS_KEY = "shards.crc32c"
"""Name of the file, below an array of several shards, with their checksums: four little-endian bytes each."""


class Written(NamedTuple):
    """What a task wrote of a new array."""

    first: int
    """The number of its first shard."""
    shards: list[int]
    """The checksums of its shards."""
    statistics: Statistics
    """The statistics of its stored values."""


def of_rows(values: Array, tally: Tally) -> int:
    """Return the checksum of the stored values of one shard, which are counted while they are in a core's cache."""
    nbytes = max(1, values[:1].nbytes)
    step = len(values) if values.dtype.kind == "T" else max(1, WINDOW_NBYTES // nbytes)
    return of_parts((values[lo : lo + step] for lo in range(0, len(values), step)), tally)


def of_parts(parts: Iterable[Array], tally: Tally | None = None) -> int:
    """Return the checksum of a shard from its rows, in parts; the bytes of all texts are held meanwhile.

    >>> of_parts([np.arange(3), np.arange(3, 5)]) == of_parts([np.arange(5)])
    True
    """
    checksum, texts = 0, []
    for values in parts:
        content = canonical_bytes(values)
        if values.dtype.kind == "T":  # the lengths of all texts come before the first text
            content, text = np.split(content, [8 * values.size])
            texts.append(text)
        checksum = crc32c(content, checksum)
        if tally is not None and values.dtype.kind == "T":
            tally.add_text(texts[-1].size)
        elif tally is not None and values.size:
            tally.add(values)
    for text in texts:
        checksum = crc32c(text, checksum)
    return int(checksum)


def of_array(shards: Sequence[int]) -> int:
    """Return the checksum of an array from those of its shards.

    >>> of_array([1, 2]) == of_array([2, 1])
    False
    """
    return int(crc32c(pack(shards)))


def pack(shards: Sequence[int]) -> bytes:
    """Return the checksums of shards in their stored form."""
    return np.asarray(shards, "<u4").tobytes()


def unpack(content: bytes) -> list[int]:
    """Return the checksums that :func:`pack` packed.

    Raises
    ------
    CorruptStoreError
        The bytes are not a list of checksums.
    """
    if len(content) % 4:
        raise CorruptStoreError(f"{len(content)} bytes are not a list of checksums")
    return [int(value) for value in np.frombuffer(content, "<u4")]


def of_written(written: Iterable[Written]) -> tuple[list[int], Statistics | None]:
    """Return the checksums of an array's shards, and its statistics, from the results of its tasks, in any order."""
    parts = sorted(written, key=lambda part: part.first)
    return [checksum for part in parts for checksum in part.shards], joined(part.statistics for part in parts)
