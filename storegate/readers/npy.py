"""Npy: the arrays of numpy's own files, one in ``.npy``, several in ``.npz``."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from storegate.readers.paths import head_of
from storegate_engine.buffers import as_bytes
from storegate_engine.errors import ArgumentError, DtypeError, UnreadableFileError

__all__ = ["NpyReader", "NpzReader"]

Array: TypeAlias = np.ndarray[Any, Any]
MAGIC = b"\x93NUMPY"


class NpyReader:
    """npy: one variable, called as the file or as asked for; those of a structured array by their names."""

    suffixes = (".npy",)
    options = ()

    def holds(self, path: Path) -> bool:
        """Return whether the file begins as those of numpy do."""
        return head_of(path, 6) == MAGIC

    @contextlib.contextmanager
    def open(self, path: Path, names: Sequence[str] | None, options: Mapping[str, Any]) -> Iterator[object]:
        """Map a file into memory."""
        with path.open("rb") as file:
            header = _Header.of(file)
        is_mapped = all(header.shape) and not header.dtype.hasobject
        array = np.load(path, mmap_mode="r" if is_mapped else None, allow_pickle=False)
        if array.dtype.names is not None:
            yield array
        elif names is not None and len(names) != 1:
            raise ArgumentError(f"it has one array of shape {array.shape}; give it one name")
        else:
            yield {path.stem if names is None else names[0]: array}


class NpzReader:
    """npz: a variable for each array."""

    suffixes = (".npz",)
    options = ()

    def holds(self, path: Path) -> bool:
        """Return False: archives could be anything."""
        return False

    @contextlib.contextmanager
    def open(self, path: Path, names: Sequence[str] | None, options: Mapping[str, Any]) -> Iterator[object]:
        """Open an archive, as a mapping of arrays that are read from front to back."""
        with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as files:
            members = {entry.removesuffix(".npy"): entry for entry in archive.namelist()}
            wanted = members if names is None else {name: members[name] for name in names if name in members}
            arrays = {name: files.enter_context(_Member(archive, entry)) for name, entry in wanted.items()}
            yield {**dict.fromkeys(members), **arrays}


@dataclass(frozen=True, slots=True)
class _Header:
    """What stands before the values of an array."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, file: IO[bytes]) -> _Header:
        """Read it."""
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return cls(*read(file))


@dataclass(slots=True, eq=False)
class _Member(contextlib.AbstractContextManager["_Member"]):
    """An array of an archive, whose rows are read from front to back."""

    archive: zipfile.ZipFile
    entry: str
    header: _Header = field(init=False)
    file: IO[bytes] = field(init=False)
    row: int = field(default=0, init=False)
    """The row at which the file is."""

    def __post_init__(self) -> None:
        """Read the header."""
        self._rewind()
        if self.header.dtype.hasobject:
            raise DtypeError(f"array {self.entry!r} has objects, which are pickled; save numbers or texts")
        if self.header.is_fortran and len(self.shape) > 1:
            raise DtypeError(
                f"array {self.entry!r} lies column by column, so that its rows cannot be read one after the other; "
                "save numpy.ascontiguousarray of it"
            )

    def _rewind(self) -> None:
        self.file, self.row = self.archive.open(self.entry), 0
        self.header = _Header.of(self.file)

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.file.close()

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_rows, *row_shape)``."""
        return self.header.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype."""
        return self.header.dtype

    def __getitem__(self, rows: slice) -> Array:
        """Read a slice of rows."""
        start, stop, _ = rows.indices(self.shape[0])
        if start < self.row:
            self.file.close()
            self._rewind()
        found = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        self._skip((start - self.row) * self.dtype.itemsize * math.prod(self.shape[1:]))
        if self.file.readinto(as_bytes(found).data) != found.nbytes:  # type: ignore[attr-defined]  # ZipExtFile has it
            raise UnreadableFileError(f"array {self.entry!r} ends before row {stop}; the archive is truncated")
        self.row = stop
        return found

    def _skip(self, n_bytes: int) -> None:
        while n_bytes > 0:
            n_bytes -= len(self.file.read(min(n_bytes, 2**20))) or n_bytes
