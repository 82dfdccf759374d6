"""Frames: one chunk of rows as the bytes of a file, and back; knows codecs and checksums, but opens no file.

A chunk is plain bytes, or compressed by blosc or zstd, with or without a crc32c after it. Checksums are verified, and
no length in a frame is trusted before that.

If blosc saves less than an eighth, a chunk is stored uncompressed, in blosc's own frame for that, like ZFS does:
numbers with noise in their last digits take much time to compress for little gain. Such frames are *plain*: a header of
fixed length, the bytes of the rows, a checksum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from numcodecs import blosc, zstd

from storegate_engine.arrays.inspection import CHECKSUM_NBYTES, zstd_content_nbytes, zstd_frame_nbytes
from storegate_engine.buffers import crc32c

__all__ = ["Frame", "FrameError", "Framing"]

Array: TypeAlias = np.ndarray[Any, Any]
Frame: TypeAlias = tuple[bytes, Array | bytes, bytes]
"""A header, the content, and the checksum of both; header and checksum may be empty."""

LEAST_SAVING = 1 / 8
"""Share of a chunk that blosc must save to be worth the time."""
TRIED = 16
"""One chunk in this many is compressed to find out whether those of a shard are worth it."""
_BLOSC_NBYTES = 16
"""The header of a blosc frame."""
_PLAIN_FLAG = 2
"""The bit in its third byte that marks uncompressed content."""
_WRONG_CHECKSUM = "its checksum does not match"
_ZSTD_NBYTES = 18
"""The longest header of a zstd frame."""


class FrameError(ValueError):
    """A frame is damaged; ``at`` is its index among those given."""

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(reason)
        self.at = at


@dataclass(frozen=True, slots=True)
class Framing:
    """The encoding of the chunks of one array."""

    nbytes: int
    """Bytes of a chunk."""
    codec: str
    """``blosc``, ``zstd`` or ``none``."""
    options: tuple[Any, ...]
    """Arguments of the codec's compressor after the rows."""
    is_checked: bool
    """Whether a frame ends with its crc32c."""

    @classmethod
    def of(cls, nbytes: int, codecs: Sequence[Mapping[str, Any]]) -> Self | None:
        """Return the framing of chunks with these zarr codecs, the first of which is ``bytes``; None if unsupported."""
        names = [codec["name"] for codec in codecs]
        is_checked = names[-1] == "crc32c"
        compressors = codecs[1 : len(codecs) - is_checked]
        if names[0] != "bytes" or codecs[0].get("configuration", {}).get("endian", "little") != "little":
            return None
        if not compressors:
            return cls(nbytes, "none", (), is_checked)
        (compressor,) = compressors
        if compressor["name"] not in ("blosc", "zstd"):
            return None
        options = _options(compressor["name"], compressor.get("configuration", {}))
        return cls(nbytes, compressor["name"], options, is_checked)

    @property
    def n_copies(self) -> int:
        """Most chunks in memory while one is read: the chunk itself, and its encoded bytes if it is compressed."""
        return 1 if self.codec == "none" else 2

    @property
    def head_nbytes(self) -> int:
        """Bytes of a plain frame before the rows."""
        return _BLOSC_NBYTES if self.codec == "blosc" else 0

    @property
    def tail_nbytes(self) -> int:
        """Bytes of a frame after the rows."""
        return CHECKSUM_NBYTES if self.is_checked else 0

    @property
    def plain_nbytes(self) -> int:
        """Bytes of a plain frame; 0 for zstd, whose frames must all be decoded."""
        return 0 if self.codec == "zstd" else self.head_nbytes + self.nbytes + self.tail_nbytes

    def frames(self, n_chunks: int, chunk: Callable[[int], Array]) -> Iterator[Frame]:
        """Yield the frames of the chunks of a shard; ``chunk`` returns them by number, C-contiguous and whole."""
        # if none of the tried chunks is worth compressing, the others are not tried
        tried = {at: self._compressed(chunk(at)) for at in range(0, n_chunks, TRIED)}
        is_worth = any(encoded is not None for encoded in tried.values())
        for at in range(n_chunks):
            rows = chunk(at)
            encoded = tried.pop(at) if at in tried else self._compressed(rows) if is_worth else None
            head, content = (self._plain_head(rows), rows.reshape(-1).view("u1")) if encoded is None else (b"", encoded)
            checksum = crc32c(content, crc32c(head)).to_bytes(CHECKSUM_NBYTES, "little")
            yield head, content, checksum if self.is_checked else b""

    def decode(self, frame: Array, out: Array) -> None:
        """Check and decode one frame; time spent here with Python's lock delays all threads.

        Raises
        ------
        ValueError, RuntimeError
            The frame is damaged.
        """
        end = len(frame) - self.tail_nbytes
        self._check(b"", frame[:end], frame[end:])
        frame = frame[:end]
        found = self._decoded_nbytes(frame.data)
        if found != len(out):
            raise ValueError(f"it holds {found} bytes, expected {len(out)}")
        if self.codec == "blosc":
            blosc.decompress(frame, out)
        elif self.codec == "zstd":
            zstd.decompress(frame, out)
        else:
            out[...] = frame

    def settle(self, between: Array, chunks: Sequence[Array]) -> None:
        """Check frames as long as plain ones, whose bytes are in place, and decode those that are not plain.

        Parameters
        ----------
        between : ndarray
            The bytes before, between and after the chunks: a row for the checksum of one and the header of the next.
        chunks : sequence of ndarray
            The bytes of the chunks.

        Raises
        ------
        FrameError
            A frame is damaged.
        """
        heads, tails = between[:-1, self.tail_nbytes :], between[1:, : self.tail_nbytes]
        if not (self._is_plain(heads[0]) and (heads == heads[0]).all()):
            for at, (head, chunk, tail) in enumerate(zip(heads, chunks, tails, strict=True)):
                try:
                    if self._is_plain(head):
                        self._check(head, chunk, tail)
                    else:  # compressed to the same length by chance
                        self.decode(np.concatenate([head, chunk, tail]), chunk)
                except (ValueError, RuntimeError) as err:
                    raise FrameError(str(err), at) from err
        elif self.is_checked:
            seed = crc32c(heads[0])
            checksums = tails.copy().view("<u4").ravel().tolist()
            for at, (chunk, checksum) in enumerate(zip(chunks, checksums, strict=True)):
                if crc32c(chunk, seed) != checksum:
                    raise FrameError(_WRONG_CHECKSUM, at)

    def _is_plain(self, head: Array) -> bool:
        """Return whether this is the header of uncompressed bytes, of the length of a chunk."""
        if self.codec != "blosc":
            return True
        length, total = int.from_bytes(head[4:8].data, "little"), int.from_bytes(head[12:16].data, "little")
        return bool(head[2] & _PLAIN_FLAG) and length == self.nbytes and total == self.nbytes + len(head)

    def _compressed(self, chunk: Array) -> bytes | None:
        """Return a chunk compressed, None if that is not worth it."""
        encoded: bytes
        if self.codec == "zstd":
            encoded = zstd.compress(chunk, *self.options)
            return encoded
        if self.codec == "blosc":
            encoded = blosc.compress(chunk, *self.options)
            return encoded if len(encoded) <= (1 - LEAST_SAVING) * self.nbytes else None
        return None

    def _plain_head(self, chunk: Array) -> bytes:
        """Return the header of an uncompressed frame, which for blosc has one block."""
        if self.codec != "blosc":
            return b""
        name, _, shuffle, _ = self.options
        return blosc_head(self.nbytes, chunk.dtype.itemsize, name, shuffle)

    def _check(self, head: Array | bytes, content: Array, tail: Array) -> None:
        if self.is_checked and crc32c(content, crc32c(head)) != int.from_bytes(tail.data, "little"):
            raise ValueError(_WRONG_CHECKSUM)

    def _decoded_nbytes(self, frame: memoryview) -> int:
        """Return the number of bytes that a frame claims to decode to; a blosc header must also have its own length."""
        if self.codec == "blosc":
            own = int.from_bytes(frame[12:16], "little")
            if own != len(frame):
                raise ValueError(f"it is {len(frame)} bytes long, and its header says {own}")
            return int.from_bytes(frame[4:8], "little")
        if self.codec == "zstd":
            found = zstd_content_nbytes(bytes(frame[:_ZSTD_NBYTES]))
            if found is None or zstd_frame_nbytes(frame) != len(frame):
                raise ValueError("it is not one frame that says how many bytes it holds")
            return found
        return len(frame)


@functools.lru_cache(maxsize=256)
def blosc_head(nbytes: int, itemsize: int, name: bytes, shuffle: int) -> bytes:
    level, blocksize = 0, nbytes
    frame: bytes = blosc.compress(np.zeros(nbytes // itemsize, f"V{itemsize}"), name, level, shuffle, blocksize)
    return frame[:_BLOSC_NBYTES]


def _options(codec: str, config: Mapping[str, Any]) -> tuple[Any, ...]:
    if codec == "zstd":
        return (config.get("level", 0),)
    shuffles: Mapping[Any, int] = {"noshuffle": blosc.NOSHUFFLE, "bitshuffle": blosc.BITSHUFFLE}
    shuffle = shuffles.get(config.get("shuffle"), blosc.SHUFFLE)
    return str(config.get("cname", "lz4")).encode(), config.get("clevel", 5), shuffle, config.get("blocksize", 0)
