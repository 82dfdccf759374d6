"""Guards: a zarr store that refuses chunks that are missing or claim impossible sizes before a codec gets them.

zarr-python asks a store for the index of a shard and then for chunks, or for whole shards. All of these pass here, and
their headers are checked before anything is decoded; nothing else is fetched.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import numpy as np
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import WrapperStore

from storegate_engine.arrays.inspection import CHECKSUM_NBYTES, MAX_CHUNK_NBYTES, require_legal_frame
from storegate_engine.arrays.shard_index import ShardIndex, Span, index_nbytes
from storegate_engine.errors import CorruptStoreError

__all__ = ["GuardedStore"]

_CHUNK_KEY = re.compile(r"/c(/[0-9]+)+$")
KEPT = 256
"""Number of shards whose indices are kept."""
SLACK_NBYTES = 2**20
"""A shard may be twice as long as the chunks of its index, and this many bytes longer."""
_BEYOND = 2**63
"""Stands for the unknown length of a shard of which only the index was read."""


class GuardedStore(WrapperStore[Any]):
    """A store that checks the shards of one array.

    Parameters
    ----------
    store : Store
        The store to read.
    n_chunks : int
        Number of chunks of a shard.
    chunk_nbytes : int
        Most bytes that a chunk decodes to.
    compressor : {"blosc", "gzip", "zstd"} or None
        The compression of the chunks.
    metadata : bytes
        The checked ``zarr.json``; it is not read again, nor is anything beside it.
    n_texts : int, optional
        Number of texts in each chunk, for variable-length text.
    """

    def __init__(
        self,
        store: Store,
        n_chunks: int,
        chunk_nbytes: int,
        compressor: str | None,
        metadata: bytes,
        n_texts: int | None = None,
    ) -> None:
        super().__init__(store)
        self._n_chunks = n_chunks
        self._chunk_nbytes = chunk_nbytes
        self._compressor = compressor
        self._metadata = metadata
        self._n_texts = n_texts
        self._spans: OrderedDict[str, list[Span]] = OrderedDict()

    def _with_store(self, store: Store) -> GuardedStore:
        return type(self)(store, self._n_chunks, self._chunk_nbytes, self._compressor, self._metadata, self._n_texts)

    @property
    def _supports_sync_io(self) -> bool:  # newer versions of zarr would bypass `get`
        return False

    if hasattr(Store, "get_ranges"):
        get_ranges: Any = Store.get_ranges  # the wrapper's bypasses `get`, too; versions disagree on its type

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the metadata, or the bytes of a chunk, which must exist and be legal.

        Raises
        ------
        CorruptStoreError
            A chunk is missing or not legal.
        """
        if not _CHUNK_KEY.search(key):
            return prototype.buffer.from_bytes(self._metadata) if key.endswith("/zarr.json") else None
        if byte_range is None:
            return await self._whole(key, prototype)
        found = await super().get(key, prototype, byte_range)
        if found is None:
            raise CorruptStoreError(f"chunk {key} is missing")
        if isinstance(byte_range, SuffixByteRequest):
            self._keep(key, found.to_bytes(), _BEYOND)
            return found
        start = byte_range.start if isinstance(byte_range, RangeByteRequest) else 0
        start = byte_range.offset if isinstance(byte_range, OffsetByteRequest) else start
        if key not in self._spans:
            await self._read_index(key, _BEYOND)
        self._require_legal(key, start, found)
        return found

    async def _whole(self, key: str, prototype: BufferPrototype) -> Buffer:
        """Return a whole shard, which must be as long as its index says; chunk by chunk if it is long."""
        try:
            nbytes = await self._store.getsize(key)
        except FileNotFoundError as err:
            raise CorruptStoreError(f"chunk {key} is missing") from err
        # a shard much longer than the chunks of its index would be read for nothing
        await self._read_index(key, nbytes)
        spans = sorted(self._spans[key])
        used = sum(length for _, length in spans)
        if used > nbytes or nbytes > 2 * used + self._index_nbytes + SLACK_NBYTES:
            raise CorruptStoreError(f"{key} has {nbytes} bytes, and its index names chunks of {used}")
        for start, length in spans if nbytes > MAX_CHUNK_NBYTES else ():  # before memory is taken for all of them
            part = await super().get(key, prototype, RangeByteRequest(start, start + length))
            self._require_legal(key, start, part)
        found = await super().get(key, prototype)
        self._require_legal(key, 0, found)
        assert found is not None
        return found

    def _require_legal(self, key: str, start: int, found: Buffer | None) -> None:
        """Refuse bytes of a shard, read from an offset, if a chunk that is whole in them is not legal."""
        if found is None:
            raise CorruptStoreError(f"chunk {key} is missing")
        content = found.as_numpy_array()
        for offset, nbytes in self._spans[key]:
            if start <= offset and offset + nbytes <= start + len(content):
                frame = content[offset - start : offset - start + nbytes].data
                require_legal_frame(frame, self._compressor, self._chunk_nbytes, key, self._n_texts)

    async def _read_index(self, key: str, shard_nbytes: int) -> None:
        index = await super().get(key, default_buffer_prototype(), SuffixByteRequest(self._index_nbytes))
        self._keep(key, b"" if index is None else index.to_bytes(), shard_nbytes)

    @property
    def _index_nbytes(self) -> int:
        return index_nbytes(self._n_chunks)

    def _keep(self, key: str, index: bytes, shard_nbytes: int) -> None:
        if len(index) != self._index_nbytes:
            raise CorruptStoreError(f"{key} has {len(index)} bytes where the index of {self._n_chunks} chunks belongs")
        content = np.frombuffer(index, "u1", index_nbytes(self._n_chunks) - CHECKSUM_NBYTES)
        self._spans[key] = ShardIndex.parse(content, shard_nbytes, self._chunk_nbytes).spans(key)
        while len(self._spans) > KEPT:
            self._spans.popitem(last=False)
