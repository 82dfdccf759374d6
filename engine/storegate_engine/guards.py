"""Guards: a zarr store through which a codec gets no chunk that is missing, or that claims to be what it cannot be.

zarr-python asks a store for the index of a shard and then for chunks, or for whole shards. All of these pass here, and
their headers are looked at before anything is decoded; nothing is fetched that was not asked for.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import WrapperStore

from storegate_engine.errors import CorruptStoreError
from storegate_engine.inspection import Span, legal_spans, require_legal_frame

__all__ = ["GuardedStore"]

_CHUNK_KEY = re.compile(r"/c(/[0-9]+)+$")
_KEPT = 256
"""Shards whose indices are kept."""
_BEYOND = 2**63
"""The length of a shard of which only the index is known."""


class GuardedStore(WrapperStore[Any]):
    """A store that guards the shards of one array.

    Parameters
    ----------
    store : Store
        What is read.
    n_chunks : int
        Chunks of a shard.
    chunk_nbytes : int
        The most bytes that one decodes to.
    compressor : {"blosc", "gzip", "zstd"} or None
        How they are compressed.
    """

    def __init__(self, store: Store, n_chunks: int, chunk_nbytes: int, compressor: str | None) -> None:
        super().__init__(store)
        self._n_chunks = n_chunks
        self._chunk_nbytes = chunk_nbytes
        self._compressor = compressor
        self._spans: OrderedDict[str, list[Span]] = OrderedDict()

    def _with_store(self, store: Store) -> GuardedStore:
        return type(self)(store, self._n_chunks, self._chunk_nbytes, self._compressor)

    @property
    def _supports_sync_io(self) -> bool:  # newer versions of zarr would go around `get`
        return False

    if hasattr(Store, "get_ranges"):
        get_ranges = Store.get_ranges  # the wrapper's goes around `get`, too

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the bytes of a key; a chunk must be there, and be legal.

        Raises
        ------
        CorruptStoreError
            It is not.
        """
        found = await super().get(key, prototype, byte_range)
        if not _CHUNK_KEY.search(key):
            return found
        if found is None:
            raise CorruptStoreError(f"chunk {key} is missing")
        if isinstance(byte_range, SuffixByteRequest):
            self._keep(key, found.to_bytes(), _BEYOND)
            return found
        start = byte_range.start if isinstance(byte_range, RangeByteRequest) else 0
        start = byte_range.offset if isinstance(byte_range, OffsetByteRequest) else start
        if byte_range is None:
            self._keep(key, found.to_bytes()[-self._index_nbytes :], len(found))
        elif key not in self._spans:
            index = await super().get(key, default_buffer_prototype(), SuffixByteRequest(self._index_nbytes))
            self._keep(key, b"" if index is None else index.to_bytes(), _BEYOND)
        content = found.as_numpy_array()
        for offset, nbytes in self._spans[key]:
            if start <= offset and offset + nbytes <= start + len(content):
                frame = content[offset - start : offset - start + nbytes].data
                require_legal_frame(frame, self._compressor, self._chunk_nbytes, key)
        return found

    @property
    def _index_nbytes(self) -> int:
        return 16 * self._n_chunks + 4

    def _keep(self, key: str, index: bytes, shard_nbytes: int) -> None:
        if len(index) != self._index_nbytes:
            raise CorruptStoreError(f"{key} has {len(index)} bytes where the index of {self._n_chunks} chunks belongs")
        self._spans[key] = legal_spans(index, shard_nbytes, self._chunk_nbytes, key)
        while len(self._spans) > _KEPT:
            self._spans.popitem(last=False)
