"""Spill files: parts of rows, one per bucket, in one checksummed file that is complete or absent; knows no order.

::

    magic, 8 bytes | an entry per part, 24 bytes | rows of the parts, concatenated
    entry: first row and end, int64 | CRC-32C of the rows, uint32 | CRC-32C of the entry, uint32

Every task of a later pass reads one part of every file, and so one entry, which can be checked alone. Its checksum
includes the plan, the file's name and the part's number, so that overwritten files are not mistaken for others.
"""

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

from storegate_engine.budget import format_nbytes
from storegate_engine.buffers import Workspace, as_bytes, crc32c, write_all
from storegate_engine.errors import CorruptStoreError, SpillError, StoreGateError
from storegate_engine.exchange.appending import Appender, forget_pages
from storegate_engine.integers import groups_of

__all__ = ["SPILL_FORMAT", "PartFile", "write_from_slices", "write_parts"]

Array: TypeAlias = np.ndarray[Any, Any]

SPILL_FORMAT = "SGSPILL2"
"""The first bytes of a spill file. Plans are also named by it, so that spills of another format are not reused."""
_MAGIC = np.frombuffer(SPILL_FORMAT.encode(), "u1")
ENTRY = np.dtype([("first", "<i8"), ("last", "<i8"), ("rows_crc", "<u4"), ("entry_crc", "<u4")])
_WRITE_NBYTES = 4 * 2**20
"""Rows are gathered and written this many bytes at a time."""


def write_parts(
    path: Path,
    values: Array,
    rows: Array,
    counts: Array,
    space: Workspace,
    *,
    spare: Path | None = None,
    past_cache: bool | None = None,
) -> None:
    """Write ``values[rows]`` as consecutive parts of ``counts`` rows, under a fresh name, then rename.

    ``spare`` is a file that is no longer needed, if there is one: overwriting it takes no new memory and no new space
    on the disk. ``past_cache`` is whether it is written past the page cache, see `Appender`.
    """
    row_nbytes = values.nbytes // len(values) if len(values) else 0
    ends = np.cumsum(counts)
    with (
        _new_file(path, counts, row_nbytes, spare) as (file, offsets, checksums),
        Appender(file, space, past_cache) as out,
    ):
        # Gathering is worth a call, and so is writing, only for many rows: short parts are gathered together, several
        # whole ones at a time, and a part that is longer than a step is gathered in slices.
        first = 0
        step = max(1, min(_WRITE_NBYTES, values.nbytes // 4) // max(1, row_nbytes))
        while first < len(counts):  # several whole parts, or a slice of a long one
            last = max(first + 1, int(np.searchsorted(ends, offsets[first] + step, side="right")))
            for lo in range(int(offsets[first]), int(offsets[last]), step):
                wanted = rows[lo : min(lo + step, int(offsets[last]))]
                gathered = out.rows((len(wanted), *values.shape[1:]), values.dtype)
                np.take(values, wanted, axis=0, out=gathered, mode="clip")  # "raise" would go through a buffer
                for at in range(first, last):
                    within = gathered[max(0, offsets[at] - lo) : max(0, offsets[at + 1] - lo)]
                    checksums[at] = crc32c(as_bytes(within), int(checksums[at]))
                out.add(gathered.nbytes)
            first = last
        out.finish()


def write_from_slices(path: Path, counts: Array, row_nbytes: int, slices: Iterable[tuple[Array, Array]]) -> None:
    """Write parts of ``counts`` rows, like :func:`write_parts`, from slices that contain rows of several parts.

    The begin of each part is known from the start, so each slice is cut up and its pieces are put where they belong: a
    part grows from slice to slice, and its checksum with it::

        parts            | 0            | 1       | 2              |
        after slice 1    | xxxx         | xx      | xxx            |
        after slice 2    | xxxxyyyyyy   | xxyyy   | xxxyyy         |

    Parameters
    ----------
    path : Path
        The file.
    counts : ndarray
        Rows of each part.
    row_nbytes : int
        Bytes of a row.
    slices : iterable of (rows, parts)
        Rows, and the part that each belongs to; those of one part are in order.
    """
    with _new_file(path, counts, row_nbytes, None) as (file, offsets, checksums):
        begin = file.tell()
        ends = offsets[:-1].copy()
        for rows, parts in slices:
            places, cuts, numbers = groups_of(parts)
            for number, lo, hi in zip(numbers, cuts, cuts[1:], strict=False):
                content = as_bytes(rows[places[lo:hi]])
                file.seek(begin + int(ends[number]) * row_nbytes)
                write_all(file, content)
                checksums[number] = crc32c(content, int(checksums[number]))
                ends[number] += hi - lo
        file.seek(begin + int(offsets[-1]) * row_nbytes)


@contextlib.contextmanager
def _new_file(path: Path, counts: Array, row_nbytes: int, spare: Path | None) -> Iterator[tuple[Any, Array, Array]]:
    """Open a file under a fresh name at its first part; at the end, write its header and rename it.

    Yields the file, the begins of parts, in rows, and their checksums, which the caller fills in.
    """
    # The header is written last, when its checksums are known. Its room is left free until then, and the file is not
    # visible before it has its name.
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    checksums = np.zeros(len(counts), np.uint32)
    header_nbytes = _header_nbytes(len(counts))
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(fresh, "r+b" if _moved(spare, fresh) else "wb", buffering=0) as file:
            file.seek(header_nbytes)
            yield file, offsets, checksums
            file.truncate()
            entries = np.empty(len(counts), ENTRY)
            entries["first"], entries["last"], entries["rows_crc"] = offsets[:-1], offsets[1:], checksums
            entries["entry_crc"] = _entry_checksums(entries, path)
            file.seek(0)
            write_all(file, np.concatenate([_MAGIC, entries.view("u1")]))
        os.replace(fresh, path)
    except BaseException as err:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        if not isinstance(err, OSError) or isinstance(err, StoreGateError):
            raise
        needed = header_nbytes + int(offsets[-1]) * row_nbytes
        if not path.parent.is_dir():
            raise SpillError(f"spill file {path} cannot be written: the process that requested it has ended") from err
        raise SpillError(
            f"spill file {path} of {format_nbytes(needed)} cannot be written: {err.strerror or err}; free space there, "
            "or set storegate.scratch-directory to a larger disk"
        ) from err


def _moved(source: Path | None, target: Path) -> bool:
    """Rename a file, if it exists."""
    if source is not None:
        with contextlib.suppress(OSError):  # it does not exist, or is open
            os.replace(source, target)
            return True
    return False


def _entry_checksums(entries: Array, path: Path, first: int = 0) -> list[int]:
    """Return the checksums of the entries of parts, starting with the given first one."""
    plan = path.parent.name.partition(".")[0]
    of_file = int(crc32c(_MAGIC.tobytes() + f"{plan}/{path.name}".encode()))
    checked = ENTRY.itemsize - 4
    content = entries.tobytes()
    return [
        int(crc32c(content[at : at + checked] + number.to_bytes(8, "little"), of_file))
        for number, at in enumerate(range(0, len(content), ENTRY.itemsize), start=first)
    ]


def _header_nbytes(n_parts: int) -> int:
    return len(_MAGIC) + n_parts * ENTRY.itemsize


def _open_to_read(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


class PartFile:
    """One of the ``n_parts`` parts of a spill file, open to be read; only its entry was read and checked.

    Raises
    ------
    CorruptStoreError
        The file is missing, too short or damaged; the message names it.
    """

    def __init__(
        self, path: Path, number: int, n_parts: int, *, owner: int | None = None, past_cache: bool | None = None
    ) -> None:
        self._path = path
        self._past_cache = past_cache
        self._number = number
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
                raise CorruptStoreError(f"spill file {path} is not what was written: it belongs to another user")
            self._file.seek(_header_nbytes(number))
            entry = np.empty(1, ENTRY)
            self._read_exactly(entry.view("u1"))
            if _entry_checksums(entry, path, number) != entry["entry_crc"].tolist():
                raise CorruptStoreError(
                    f"spill file {path} is not what was written: the entry of part {number} does not match its checksum"
                )
        except BaseException:
            self._file.close()
            raise
        self._begin = _header_nbytes(n_parts)
        self._first, last, self._checksum, _ = entry[0].tolist()
        self.n_rows: int = last - self._first
        """The rows of the part."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file, which may be closed."""
        self._file.close()

    def will_read(self, row_nbytes: int) -> None:
        """Ask the disk for the part."""
        if hasattr(os, "posix_fadvise"):
            begin = self._begin + self._first * row_nbytes
            os.posix_fadvise(self._file.fileno(), begin, self.n_rows * row_nbytes, os.POSIX_FADV_WILLNEED)

    def require_rows(self, n_rows: int) -> None:
        """Raise CorruptStoreError unless the part has ``n_rows`` rows."""
        if self.n_rows != n_rows:
            raise CorruptStoreError(
                f"spill file {self._path}: part {self._number} has {self.n_rows} rows, expected {n_rows}"
            )

    def read(self, out: Array) -> None:
        """Read the part into ``out``; check its length and checksum."""
        self.require_rows(len(out))
        for _ in self.slices(out):
            pass

    def slices(self, buffer: Array) -> Iterator[tuple[int, Array]]:
        """Yield the part in slices that fit in a buffer, each with its first row; check the checksum at the end."""
        if not self.n_rows or not buffer.size:
            return
        checksum, row_nbytes = 0, buffer.nbytes // len(buffer)
        self._file.seek(self._begin + self._first * row_nbytes)
        for lo in range(0, self.n_rows, len(buffer)):
            rows = buffer[: min(len(buffer), self.n_rows - lo)]
            content = rows.reshape(-1).view("u1")
            self._read_exactly(content)
            checksum = crc32c(content, checksum)
            yield lo, rows
        forget_pages(self._file, self._begin + self._first * row_nbytes, self.n_rows * row_nbytes, self._past_cache)
        if checksum != self._checksum:
            raise CorruptStoreError(f"spill file {self._path}: part {self._number} is not what was written")

    def _read_exactly(self, out: Array) -> None:
        view = out.data
        while view:
            count = self._file.readinto(view)
            if not count:
                raise CorruptStoreError(f"spill file {self._path} is shorter than what was written")
            view = view[count:]
