"""Inspection: checks that stored metadata and shards are as this library writes them, before a codec sees them.

Nothing in a store is trusted: its claims are compared with limits and with the manifest, so that nothing is
allocated, decoded or followed that could not have been written here. Reads no rows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numcodecs import blosc, zstd

from storegate_engine import documents
from storegate_engine.budget import Layout, format_nbytes
from storegate_engine.dtypes import dtype_to_text
from storegate_engine.encodings import is_text, row_nbytes
from storegate_engine.errors import CorruptStoreError, ShapeError, shown
from storegate_engine.locations import Location

__all__ = [
    "CHECKSUM_NBYTES",
    "COMPRESSORS",
    "MAX_CHUNK_NBYTES",
    "max_frame_nbytes",
    "require_legal_frame",
    "require_legal_metadata",
    "require_within_limits",
    "zstd_content_nbytes",
    "zstd_frame_nbytes",
]

CHECKSUM_NBYTES: Final = 4
"""Bytes of a crc32c, after a chunk or an index."""
MAX_CHUNK_NBYTES: Final = 64 * 2**20
"""The largest chunk of several rows, decoded."""
MAX_ROW_NBYTES: Final = 2**31 - 2**16
"""The largest row that the codecs can hold."""
MAX_DIMENSIONS: Final = 32
MAX_METADATA_NBYTES: Final = 2**20
COMPRESSORS: Final = ("blosc", "gzip", "zstd")
"""Codecs allowed between ``bytes`` or ``vlen-utf8`` and ``crc32c`` inside a shard."""

_HEADER_NBYTES: Final = 18
_GZIP_NBYTES: Final = 2**20
_LEAST_BLOCK_NBYTES: Final = 256
"""Least mean content of the blocks of a zstd frame; compressors write more, and many blocks take long to walk."""
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


def require_within_limits(dtype: np.dtype[Any], row_shape: tuple[int, ...], n_rows: int, layout: Layout) -> None:
    """Refuse an array that is too large to handle, both when it is written and when it is read.

    Raises
    ------
    ShapeError
        There are too many dimensions, or a row, a chunk or the array has too many bytes.
    """
    nbytes = row_nbytes(dtype, ()) * _product(row_shape)
    if len(row_shape) > MAX_DIMENSIONS:
        raise ShapeError(f"rows have {len(row_shape)} dimensions, and at most {MAX_DIMENSIONS} can be stored")
    if nbytes > MAX_ROW_NBYTES:
        raise ShapeError(f"a row has {nbytes} bytes, and at most {MAX_ROW_NBYTES} can be stored; split it")
    if layout.chunk_rows > 1 and layout.chunk_rows * nbytes > MAX_CHUNK_NBYTES:
        raise ShapeError(
            f"{layout.chunk_rows} rows of {nbytes} bytes make a chunk of more than {format_nbytes(MAX_CHUNK_NBYTES)}; "
            "choose fewer rows for backend_args['chunk']"
        )
    if max(n_rows, layout.shard_rows) * max(1, nbytes) >= 2**62:
        raise ShapeError(f"{n_rows} rows of {nbytes} bytes are more than any store holds")


def _product(sizes: Iterable[int]) -> int:
    """Return the product of Python ints, which do not wrap around."""
    product = 1
    for size in sizes:
        product *= size
    return product


def require_legal_metadata(
    location: Location, name: str, stored: np.dtype[Any], shape: tuple[int, ...], layout: Layout
) -> tuple[dict[str, Any], str | None]:
    """Refuse an array whose ``zarr.json`` does not match the manifest.

    Returns
    -------
    dict, str or None
        The content, and the compression of its chunks.

    Raises
    ------
    CorruptStoreError
        It is missing, not a zarr v3 array, has another shape, dtype or layout, or names a codec that is not allowed.
    """
    where = location / f"{name}/zarr.json"
    content = location.read(f"{name}/zarr.json", max_nbytes=MAX_METADATA_NBYTES)
    if content is None:
        raise CorruptStoreError(f"{where} is missing")
    return require_legal_document(content, where, stored, shape, layout)


def require_legal_document(
    content: bytes, where: object, stored: np.dtype[Any], shape: tuple[int, ...], layout: Layout
) -> tuple[dict[str, Any], str | None]:
    """Do the same for the content of a ``zarr.json``."""
    document = documents.load(content, where)
    tail = [max(1, size) for size in shape[1:]]
    expected = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype_to_text(stored, "zarr"),
        "chunk_grid": _named("regular", chunk_shape=[layout.shard_rows, *tail]),
        "chunk_key_encoding": _named("default", separator="/"),
    }
    for key, value in expected.items():
        if document.get(key) != value:
            raise CorruptStoreError(f"{where}: {key} is {shown(document.get(key))}, and the manifest means {value!r}")
    if document.get("storage_transformers"):
        raise CorruptStoreError(f"{where}: storage transformers are not read")
    match document.get("codecs"):
        case [{"name": "sharding_indexed", "configuration": dict(sharding)}]:
            return document, _require_legal_sharding(sharding, [layout.chunk_rows, *tail], stored, where)
        case other:
            raise CorruptStoreError(f"{where}: codecs are {shown(other)}, and only shards are read")


def _named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}


def _require_legal_sharding(
    sharding: dict[str, Any], chunk_shape: list[int], stored: np.dtype[Any], where: object
) -> str | None:
    if sharding.get("chunk_shape") != chunk_shape:
        raise CorruptStoreError(f"{where}: chunks are {shown(sharding.get('chunk_shape'))}, not {chunk_shape}")
    names = _codec_names(sharding.get("codecs"))
    first = "vlen-utf8" if is_text(stored) else "bytes"
    between = names[1:-1]
    if names[:1] != [first] or names[-1] != "crc32c" or len(between) > 1 or any(n not in COMPRESSORS for n in between):
        raise CorruptStoreError(
            f"{where}: codecs {shown(names)} are not allowed; allowed are {first}, one of {', '.join(COMPRESSORS)} or "
            "none, and crc32c"
        )
    if _codec_names(sharding.get("index_codecs")) != ["bytes", "crc32c"] or (
        sharding.get("index_location", "end") != "end"
    ):
        raise CorruptStoreError(f"{where}: the index of the shards is not one of ours")
    return str(between[0]) if between else None


def _codec_names(codecs: Any) -> list[Any]:
    if not isinstance(codecs, list) or not all(isinstance(codec, dict) for codec in codecs):
        return []
    return [codec.get("name") for codec in codecs]


def max_frame_nbytes(chunk_nbytes: int) -> int:
    """Return the most bytes that a chunk can have in a file: codecs add little to incompressible data."""
    return chunk_nbytes + chunk_nbytes // 64 + 1024


def require_legal_frame(
    frame: memoryview, compressor: str | None, chunk_nbytes: int, where: object, n_texts: int | None = None
) -> None:
    """Refuse a chunk that would decode to too many bytes, or is more than one frame; a crc32c ends it.

    Parameters
    ----------
    frame : memoryview
        The chunk as stored in a shard.
    compressor : {"blosc", "gzip", "zstd"} or None
        The compression of the chunk.
    chunk_nbytes : int
        Most bytes that it may decode to.
    where : object
        Its shard, for errors.
    n_texts : int, optional
        Number of texts that it must claim to hold: memory for them is allocated before they are checked.

    Raises
    ------
    CorruptStoreError
        Decoding would exceed the limit, the size is unknown, or there is more than one frame.
    """
    content = frame[:-CHECKSUM_NBYTES]
    declared, head = _declared(compressor, content, chunk_nbytes)
    if declared is None or declared > chunk_nbytes:
        raise CorruptStoreError(f"{where}: a chunk would decode to {declared} bytes, and has {chunk_nbytes}")
    if n_texts is not None:
        head = _first_bytes(compressor, content) if head is None else head
        if len(head) < 4 or int.from_bytes(head[:4], "little") != n_texts:
            raise CorruptStoreError(f"{where}: a chunk does not hold {n_texts} texts")


def _declared(compressor: str | None, content: memoryview, limit: int) -> tuple[int | None, bytes | None]:
    """Return the number of bytes that a frame decodes to and its first bytes, None for each that is not known."""
    if compressor is None:
        return len(content), bytes(content[:4])
    if compressor == "blosc":
        return (int(struct.unpack_from("<I", content, 4)[0]) if len(content) >= 16 else None), None
    if compressor == "zstd":
        is_one = zstd_frame_nbytes(content) == len(content)
        return zstd_content_nbytes(bytes(content[:_HEADER_NBYTES])) if is_one else None, None
    return _gzip_nbytes(content, limit)


def _gzip_nbytes(content: memoryview, limit: int) -> tuple[int | None, bytes]:
    """Return the decoded bytes of one gzip member, which does not state its size; at most a bit over the limit."""
    decoder, data = zlib.decompressobj(31), bytes(content)
    nbytes, head = 0, b""
    try:
        while not decoder.eof and nbytes <= limit:
            part = decoder.decompress(data, _GZIP_NBYTES)
            nbytes, head = nbytes + len(part), head or part[:4]
            data = decoder.unconsumed_tail
            if not part and not data and not decoder.eof:
                return None, head  # it is truncated
    except zlib.error:
        return None, head
    return (nbytes if nbytes > limit or not decoder.unused_data else None), head


def _first_bytes(compressor: str | None, content: memoryview) -> bytes:
    """Return the first bytes of a chunk whose decoded size is known to be legal."""
    try:
        return bytes((blosc if compressor == "blosc" else zstd).decompress(bytes(content))[:4])
    except (ValueError, RuntimeError):
        return b""


def zstd_frame_nbytes(frame: memoryview) -> int | None:
    """Return the length of the first zstd frame (RFC 8878, 3.1.1), None if it is not complete."""
    content = zstd_content_nbytes(bytes(frame[:_HEADER_NBYTES]))
    if content is None:
        return None
    # magic, 4 | descriptor, 1 | window, 0 or 1 | dictionary, 0 to 4 | content size, 0 to 8 | blocks | checksum, 0 or 4
    # In the descriptor, bits 7 and 6 give the length of the content size, bit 5 means that there is no window, bit 2
    # that a checksum follows, bits 1 and 0 give the length of the dictionary's id.
    descriptor = frame[4]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3] + ((1 if single else 0), 2, 4, 8)[flag]
    for _ in range(content // _LEAST_BLOCK_NBYTES + 64):
        if at + 3 > len(frame):
            return None
        # bit 0: the last block; bits 2 and 1: its kind, where 1 is one byte, repeated; the rest: its length
        header = int.from_bytes(frame[at : at + 3], "little")
        at += 3 + (1 if header >> 1 & 3 == 1 else header >> 3)
        if header & 1:
            return at + (CHECKSUM_NBYTES if descriptor >> 2 & 1 else 0)
    return None


def zstd_content_nbytes(header: bytes) -> int | None:
    """Return the frame content size of a zstd frame (RFC 8878, 3.1.1.1)."""
    if len(header) < 5 or header[:4] != _ZSTD_MAGIC:
        return None
    descriptor = header[4]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    size = ((1 if single else 0), 2, 4, 8)[flag]
    if not size or len(header) < at + size:
        return None
    value = int.from_bytes(header[at : at + size], "little")
    # two bytes count from 256 on: smaller sizes fit in one
    return value + 256 if size == 2 else value
