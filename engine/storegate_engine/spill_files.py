"""Spill files: segments of rows in one checksummed file, written under a fresh name and renamed; knows no order."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from google_crc32c import extend
from google_crc32c import value as crc32c

from storegate_engine.budget import format_nbytes
from storegate_engine.buffers import Workspace, as_bytes, write_all
from storegate_engine.errors import CorruptStoreError, SpillError, StoreGateError
from storegate_engine.integers import groups_of

__all__ = ["SegmentFile", "write_parts", "write_segments"]

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
    with _new_file(path, counts, row_nbytes, spare) as (file, offsets, checksums):
        first = 0
        step = max(1, min(_WRITE_NBYTES, values.nbytes // 4) // max(1, row_nbytes))
        while first < len(counts):  # as many whole segments as are gathered at a time, or a part of a long one
            last = max(first + 1, int(np.searchsorted(ends, offsets[first] + step, side="right")))
            for lo in range(int(offsets[first]), int(offsets[last]), step):
                wanted = rows[lo : min(lo + step, int(offsets[last]))]
                gathered = space.array("part", (len(wanted), *values.shape[1:]), values.dtype)
                np.take(values, wanted, axis=0, out=gathered, mode="clip")  # "raise" would go through a buffer
                for at in range(first, last):
                    part = gathered[max(0, offsets[at] - lo) : max(0, offsets[at + 1] - lo)]
                    checksums[at] = extend(int(checksums[at]), as_bytes(part))
                write_all(file, as_bytes(gathered))
            first = last


def write_parts(path: Path, counts: Array, row_nbytes: int, parts: Iterable[tuple[Array, Array]]) -> None:
    """Write segments of ``counts`` rows, as :func:`write_segments` does, from parts that have rows of several.

    Parameters
    ----------
    path : Path
        The file.
    counts : ndarray
        Rows of each segment.
    row_nbytes : int
        Bytes of a row.
    parts : iterable of (rows, segments)
        Rows, and which segment each belongs to; those of one segment are in order.
    """
    with _new_file(path, counts, row_nbytes, None) as (file, offsets, checksums):
        begin = file.tell()
        ends = offsets[:-1].copy()
        for rows, segments in parts:
            places, cuts, numbers = groups_of(segments)
            for number, lo, hi in zip(numbers, cuts, cuts[1:], strict=False):
                content = as_bytes(rows[places[lo:hi]])
                file.seek(begin + int(ends[number]) * row_nbytes)
                write_all(file, content)
                checksums[number] = extend(int(checksums[number]), content)
                ends[number] += hi - lo
        file.seek(begin + int(offsets[-1]) * row_nbytes)


@contextlib.contextmanager
def _new_file(path: Path, counts: Array, row_nbytes: int, spare: Path | None) -> Iterator[tuple[Any, Array, Array]]:
    """Open a file under a fresh name where its first segment begins; write its header and rename it at the end.

    Gives the file, where segments begin, in rows, and their checksums, which the caller fills in.
    """
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    checksums = np.zeros(len(counts), np.uint32)
    header_nbytes = _header_nbytes(len(counts))
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(fresh, "r+b" if _moved(spare, fresh) else "wb", buffering=0) as file:
            file.seek(header_nbytes)
            yield file, offsets, checksums
            file.truncate()
            body = np.concatenate([offsets.view("u1"), checksums.view("u1")])
            file.seek(0)
            write_all(file, np.concatenate([_MAGIC, body, np.array([_checksum(body, path)], np.uint32).view("u1")]))
        os.replace(fresh, path)
    except BaseException as err:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        if not isinstance(err, OSError) or isinstance(err, StoreGateError):
            raise
        needed = header_nbytes + int(offsets[-1]) * row_nbytes
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

    def require_rows(self, number: int, n_rows: int) -> None:
        """Raise CorruptStoreError unless a segment has so many rows."""
        if self.n_rows(number) != n_rows:
            raise CorruptStoreError(
                f"spill file {self._path}: segment {number} has {self.n_rows(number)} rows, expected {n_rows}"
            )

    def read(self, number: int, out: Array) -> None:
        """Read a segment into ``out``; check its length and checksum."""
        self.require_rows(number, len(out))
        if not out.size:
            return
        content = out.reshape(-1).view("u1")
        self._file.seek(self._begin + int(self._offsets[number]) * (out.nbytes // len(out)))
        self._read_exactly(content)
        if crc32c(content) != int(self._checksums[number]):
            raise CorruptStoreError(f"spill file {self._path}: segment {number} is not what was written")

    def parts(self, number: int, buffer: Array) -> Iterator[tuple[int, Array]]:
        """Yield a segment as parts that fit a buffer, each with its first row; check the checksum at the end."""
        n_rows, checksum = self.n_rows(number), 0
        if not n_rows or not buffer.size:
            return
        self._file.seek(self._begin + int(self._offsets[number]) * (buffer.nbytes // len(buffer)))
        for lo in range(0, n_rows, len(buffer)):
            rows = buffer[: min(len(buffer), n_rows - lo)]
            content = rows.reshape(-1).view("u1")
            self._read_exactly(content)
            checksum = extend(checksum, content)
            yield lo, rows
        if checksum != int(self._checksums[number]):
            raise CorruptStoreError(f"spill file {self._path}: segment {number} is not what was written")

    def _read_exactly(self, out: Array) -> None:
        view = out.data
        while view:
            count = self._file.readinto(view)
            if not count:
                raise CorruptStoreError(f"spill file {self._path} is shorter than what was written")
            view = view[count:]
