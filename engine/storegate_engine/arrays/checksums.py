"""Checksums: what the rows of a shard sum up to, whatever its codec; pure, reads nothing.

The checksum of a shard is the crc32c of its stored values, so that it also tells a shard that was exchanged for
another whole one. That of an array is the crc32c of those of its shards, one after the other; a manifest holds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.buffers import crc32c
from storegate_engine.encodings import canonical_bytes
from storegate_engine.errors import CorruptStoreError

__all__ = ["SHARDS_KEY", "Written", "of_array", "of_rows", "pack", "shard_checksums", "unpack"]

SHARDS_KEY = "shards.crc32c"
"""Below an array of several shards: their checksums, four little-endian bytes each."""
Written: TypeAlias = tuple[int, list[int]]
"""The number of the first shard that a task wrote, and the checksums of all that it wrote."""


def of_rows(values: np.ndarray[Any, Any]) -> int:
    """Return the checksum of the stored values of one shard."""
    return of_parts([values])


def of_parts(parts: Iterable[np.ndarray[Any, Any]]) -> int:
    """Return the checksum of a shard from its rows, some at a time; of text all bytes are kept, and no more.

    >>> of_parts([np.arange(3), np.arange(3, 5)]) == of_rows(np.arange(5))
    True
    """
    checksum, texts = 0, []
    for values in parts:
        content = canonical_bytes(values)
        if values.dtype.kind == "T":  # the lengths of all texts come before the first of them
            content, text = np.split(content, [8 * values.size])
            texts.append(text)
        checksum = crc32c(content, checksum)
    for text in texts:
        checksum = crc32c(text, checksum)
    return int(checksum)


def of_array(shards: Sequence[int]) -> int:
    """Return the checksum of an array whose shards have these.

    >>> of_array([1, 2]) == of_array([2, 1])
    False
    """
    return int(crc32c(pack(shards)))


def pack(shards: Sequence[int]) -> bytes:
    """Return the checksums of shards as they are stored."""
    return np.asarray(shards, "<u4").tobytes()


def unpack(content: bytes) -> list[int]:
    """Return the checksums that :func:`pack` packed.

    Raises
    ------
    CorruptStoreError
        The bytes are no list of checksums.
    """
    if len(content) % 4:
        raise CorruptStoreError(f"{len(content)} bytes are no list of checksums")
    return [int(value) for value in np.frombuffer(content, "<u4")]


def shard_checksums(written: Iterable[Written]) -> list[int]:
    """Return the checksums of an array's shards from what its tasks wrote, in whatever order they did."""
    return [checksum for _, shards in sorted(written) for checksum in shards]
