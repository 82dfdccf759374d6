"""Spill files: segments of rows in one checksummed file, written under a fresh name and renamed; knows no order."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from google_crc32c import value as crc32c

from storegate_engine.budget import format_nbytes
from storegate_engine.buffers import Workspace, as_bytes, write_all
from storegate_engine.errors import CorruptStoreError, SpillError

__all__ = ["read_header", "read_segment", "write_segments"]

Array: TypeAlias = np.ndarray[Any, Any]

_MAGIC = np.frombuffer(b"SGSPILL1", "u1")
_WRITE_NBYTES = 8 * 2**20
"""Rows are gathered and written this many bytes at a time."""


def write_segments(path: Path, values: Array, rows: Array, counts: Array, space: Workspace) -> None:
    """Write ``values[rows]`` as consecutive segments of ``counts`` rows, under a fresh name, then rename."""
    row_nbytes = values.nbytes // len(values) if len(values) else 0
    ends = np.cumsum(counts)
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    checksums = np.zeros(len(counts), np.uint32)
    header_nbytes = _header_nbytes(len(counts))
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(fresh, "wb", buffering=0) as file:
            file.seek(header_nbytes)
            first = 0
            while first < len(counts):  # as many whole segments as are gathered at a time, one at least
                room = offsets[first] + max(1, min(_WRITE_NBYTES, values.nbytes // 4) // max(1, row_nbytes))
                last = max(first + 1, int(np.searchsorted(ends, room, side="right")))
                wanted = rows[offsets[first] : offsets[last]]
                gathered = space.array("part", (len(wanted), *values.shape[1:]), values.dtype)
                np.take(values, wanted, axis=0, out=gathered, mode="clip")  # "raise" would go through a buffer
                for at in range(first, last):
                    part = gathered[offsets[at] - offsets[first] : offsets[at + 1] - offsets[first]]
                    checksums[at] = crc32c(as_bytes(part))
                write_all(file, as_bytes(gathered))
                first = last
            body = np.concatenate([offsets.view("u1"), checksums.view("u1")])
            file.seek(0)
            write_all(file, np.concatenate([_MAGIC, body, np.array([crc32c(body)], np.uint32).view("u1")]))
        os.replace(fresh, path)
    except OSError as err:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        needed = header_nbytes + len(rows) * row_nbytes
        raise SpillError(
            f"spill file {path} of {format_nbytes(needed)} cannot be written: {err.strerror or err}; free space there, "
            "or set storegate.scratch-directory to a larger disk"
        ) from err


def _header_nbytes(n_segments: int) -> int:
    return len(_MAGIC) + 8 * (n_segments + 1) + 4 * n_segments + 4


def read_header(path: Path, n_segments: int) -> tuple[Array, Array]:
    """Return the offsets and checksums of a spill file's segments."""
    header = np.empty(_header_nbytes(n_segments), "u1")
    _read_exactly(path, 0, header)
    body = header[len(_MAGIC) : -4]
    if (header[: len(_MAGIC)] != _MAGIC).any() or crc32c(body) != int(header[-4:].view(np.uint32)[0]):
        raise CorruptStoreError(f"spill file {path} is not what was written: its header does not match its checksum")
    split = 8 * (n_segments + 1)
    return body[:split].copy().view(np.int64), body[split:].copy().view(np.uint32)


def read_segment(path: Path, number: int, offsets: Array, checksums: Array, out: Array) -> None:
    """Read one segment into ``out``; check its length and checksum."""
    n_rows = int(offsets[number + 1] - offsets[number])
    if n_rows != len(out):
        raise CorruptStoreError(f"spill file {path}: segment {number} has {n_rows} rows, expected {len(out)}")
    if not out.size:
        return
    row_nbytes = out.nbytes // len(out)
    content = out.reshape(-1).view("u1")
    _read_exactly(path, _header_nbytes(len(checksums)) + int(offsets[number]) * row_nbytes, content)
    if crc32c(content) != int(checksums[number]):
        raise CorruptStoreError(f"spill file {path}: segment {number} is not what was written")


def _read_exactly(path: Path, start: int, out: Array) -> None:
    view = memoryview(out.data)
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            while view:
                count = file.readinto(view)
                if not count:
                    raise CorruptStoreError(f"spill file {path} is shorter than what was written")
                view = view[count:]
    except FileNotFoundError as err:
        raise CorruptStoreError(f"spill file {path} is missing") from err
