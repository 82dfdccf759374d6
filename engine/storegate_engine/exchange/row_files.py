"""Row files: all rows of a variable in one spill file, in order, of which any run is read alone, and checked.

::

    rows        row 0, row 1, ...                         as they are in memory
    checksums   one CRC-32C for each few rows, uint32     in a second file

An order that needs each row many times, as windows anywhere do, reads less from such a file than from chunks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np

from storegate_engine.budget import format_nbytes
from storegate_engine.buffers import as_bytes, crc32c, write_all
from storegate_engine.errors import CorruptStoreError, SpillError, StoreGateError

__all__ = ["RowFile"]

Array: TypeAlias = np.ndarray[Any, Any]

CHECKED_NBYTES = 2**12
"""Bytes of the rows that have a checksum together: a run reads them whole."""


class RowFile:
    """The rows of a variable in a file, which :meth:`write` makes; used in a ``with`` block to be read by one thread.

    Parameters
    ----------
    path : Path
        The file; that of the checksums lies beside it.
    dtype : numpy.dtype
        The dtype of the rows, no objects.
    row_shape : tuple of int
        The shape of a row.
    n_rows : int
        The number of rows.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...], n_rows: int) -> None:
        self._path, self._checks_path = path, path.with_name(f"{path.name}-checks")
        self._dtype, self._row_shape, self._n_rows = dtype, row_shape, n_rows
        self._row_nbytes = dtype.itemsize * math.prod(row_shape)
        self.checked_rows = max(1, CHECKED_NBYTES // max(1, self._row_nbytes))
        """The rows that have a checksum together."""
        self._files: list[Any] = []

    def write(self, blocks: Iterable[Array]) -> bool:
        """Write blocks of rows, and return whether these were all rows; if not, the files are removed.

        Each block but the last one has a multiple of ``checked_rows`` rows.

        Raises
        ------
        SpillError
            The file cannot be written.
        """
        done = 0
        try:
            with open(self._path, "xb", buffering=0) as file, open(self._checks_path, "xb", buffering=0) as checks:
                for block in blocks:
                    write_all(file, as_bytes(block))
                    write_all(checks, as_bytes(np.array(self._checksums(as_bytes(block)), np.uint32)))
                    done += len(block)
        except OSError as err:
            self.remove()
            if isinstance(err, StoreGateError):
                raise
            needed = format_nbytes(self._n_rows * self._row_nbytes)
            raise SpillError(
                f"spill file {self._path} of {needed} cannot be written: {err.strerror or err}; free space there, or "
                "set storegate.scratch-directory to a larger disk"
            ) from err
        except BaseException:
            self.remove()
            raise
        if done < self._n_rows:
            self.remove()
        return done == self._n_rows

    def remove(self) -> None:
        """Remove the files."""
        for path in (self._path, self._checks_path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _checksums(self, content: Array) -> list[int]:
        view, step = content.data, self.checked_rows * self._row_nbytes
        return [crc32c(view[at : at + step]) for at in range(0, len(content), max(1, step))]

    def opened(self) -> RowFile:
        """Return the file for another thread to read."""
        return RowFile(self._path, self._dtype, self._row_shape, self._n_rows)

    def __enter__(self) -> Self:
        """Open the files.

        Raises
        ------
        CorruptStoreError
            One is missing.
        """
        try:
            for path in (self._path, self._checks_path):
                self._files.append(open(path, "rb", buffering=0))
        except FileNotFoundError as err:
            self.__exit__()
            raise CorruptStoreError(f"spill file {err.filename} is missing") from err
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        self._files.clear()

    def read_into(self, start: int, stop: int, out: Array) -> None:
        """Read rows ``start..stop`` into ``out``, which is C-contiguous.

        Raises
        ------
        CorruptStoreError
            They are not what was written.
        """
        first, last = start // self.checked_rows, -(-stop // self.checked_rows)
        lo, hi = first * self.checked_rows, min(last * self.checked_rows, self._n_rows)
        is_whole = (lo, hi) == (start, stop)
        rows = out if is_whole else np.empty((hi - lo, *self._row_shape), self._dtype)
        content, checks = as_bytes(rows), np.empty(last - first, np.uint32)
        self._read_exactly(0, lo * self._row_nbytes, content)
        self._read_exactly(1, first * checks.itemsize, as_bytes(checks))
        if len(content) and self._checksums(content) != checks.tolist():
            raise CorruptStoreError(f"spill file {self._path}: rows {lo} to {hi - 1} are not what was written")
        if not is_whole:
            out[...] = rows[start - lo : stop - lo]

    def _read_exactly(self, number: int, begin: int, out: Array) -> None:
        file = self._files[number]
        file.seek(begin)
        view = out.data
        while view:
            count = file.readinto(view)
            if not count:
                raise CorruptStoreError(f"spill file {self._path} is shorter than what was written")
            view = view[count:]
