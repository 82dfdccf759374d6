"""Spill files: segments of rows in one checksummed file, written under a fresh name and renamed; knows no order."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from google_crc32c import value as crc32c

from storegate_engine.budget import format_nbytes
from storegate_engine.buffers import Workspace, as_bytes, write_all
from storegate_engine.errors import CorruptStoreError, SpillError

__all__ = ["SegmentFile", "write_segments"]

Array: TypeAlias = np.ndarray[Any, Any]

_MAGIC = np.frombuffer(b"SGSPILL1", "u1")
_WRITE_NBYTES = 8 * 2**20
"""Rows are gathered and written this many bytes at a time."""


def write_segments(
    path: Path, values: Array, rows: Array, counts: Array, space: Workspace, *, spare: Path | None = None
) -> None:
    """Write ``values[rows]`` as consecutive segments of ``counts`` rows, under a fresh name, then rename.

    ``spare`` is a file that is no longer needed, if it is there: it is written over, which takes no new memory and no
    new place on the disk.
    """
    row_nbytes = values.nbytes // len(values) if len(values) else 0
    ends = np.cumsum(counts)
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    checksums = np.zeros(len(counts), np.uint32)
    header_nbytes = _header_nbytes(len(counts))
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(fresh, "r+b" if _moved(spare, fresh) else "wb", buffering=0) as file:
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
            file.truncate()
            body = np.concatenate([offsets.view("u1"), checksums.view("u1")])
            file.seek(0)
            write_all(file, np.concatenate([_MAGIC, body, np.array([_checksum(body, path)], np.uint32).view("u1")]))
        os.replace(fresh, path)
    except BaseException as err:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        if not isinstance(err, OSError):
            raise
        needed = header_nbytes + len(rows) * row_nbytes
        if not path.parent.is_dir():
            raise SpillError(f"spill file {path} cannot be written: whoever asked for it has ended") from err
        raise SpillError(
            f"spill file {path} of {format_nbytes(needed)} cannot be written: {err.strerror or err}; free space there, "
            "or set storegate.scratch-directory to a larger disk"
        ) from err


def _moved(source: Path | None, target: Path) -> bool:
    """Give a file another name, if it is there."""
    if source is not None:
        with contextlib.suppress(OSError):  # it is not there, or somebody has it open
            os.replace(source, target)
            return True
    return False


def _checksum(body: Array, path: Path) -> int:
    """Return the checksum of a header, which belongs to one file of one plan: what was written over is not taken."""
    plan = path.parent.name.partition(".")[0]
    return int(crc32c(body.tobytes() + f"{plan}/{path.name}".encode()))


def _header_nbytes(n_segments: int) -> int:
    return len(_MAGIC) + 8 * (n_segments + 1) + 4 * n_segments + 4


def _open_to_read(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


class SegmentFile:
    """An open spill file of so many segments, whose header was checked.

    Raises
    ------
    CorruptStoreError
        The file is missing, shorter than it was, or not what was written; it is named.
    """

    def __init__(self, path: Path, n_segments: int, *, owner: int | None = None) -> None:
        self._path = path
        try:
            self._file = open(path, "rb", buffering=0, opener=_open_to_read)  # noqa: SIM115 (closed by __exit__)
        except (FileNotFoundError, NotADirectoryError) as err:
            raise CorruptStoreError(f"spill file {path} is missing") from err
        except OSError as err:
            if err.errno != errno.ELOOP:
                raise
            raise CorruptStoreError(f"spill file {path} is a link, which is not followed") from err
        try:
            status = os.fstat(self._file.fileno())
            if not stat.S_ISREG(status.st_mode) or (owner is not None and status.st_uid != owner):
                raise CorruptStoreError(f"spill file {path} is not what was written: another user has made it")
            header = np.empty(_header_nbytes(n_segments), "u1")
            self._read_exactly(header)
            body = header[len(_MAGIC) : -4]
            wanted = int(header[-4:].view(np.uint32)[0])
            if (header[: len(_MAGIC)] != _MAGIC).any() or _checksum(body, path) != wanted:
                raise CorruptStoreError(
                    f"spill file {path} is not what was written: its header does not match its checksum"
                )
        except BaseException:
            self._file.close()
            raise
        split = 8 * (n_segments + 1)
        self._begin = header.nbytes
        self._offsets = body[:split].copy().view(np.int64)
        self._checksums = body[split:].copy().view(np.uint32)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self._file.close()

    def n_rows(self, number: int) -> int:
        """Return the rows of a segment."""
        return int(self._offsets[number + 1] - self._offsets[number])

    def read(self, number: int, out: Array) -> None:
        """Read a segment into ``out``; check its length and checksum."""
        n_rows = self.n_rows(number)
        if n_rows != len(out):
            raise CorruptStoreError(f"spill file {self._path}: segment {number} has {n_rows} rows, expected {len(out)}")
        if not out.size:
            return
        content = out.reshape(-1).view("u1")
        self._file.seek(self._begin + int(self._offsets[number]) * (out.nbytes // n_rows))
        self._read_exactly(content)
        if crc32c(content) != int(self._checksums[number]):
            raise CorruptStoreError(f"spill file {self._path}: segment {number} is not what was written")

    def _read_exactly(self, out: Array) -> None:
        view = out.data
        while view:
            count = self._file.readinto(view)
            if not count:
                raise CorruptStoreError(f"spill file {self._path} is shorter than what was written")
            view = view[count:]
