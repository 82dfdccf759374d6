"""Foreign: rows of files that other programs wrote, as one array; nothing is copied, and nothing written.

Many files are one array: the rows of the first, then those of the second, and so on. Their list is itself stored as an
array of texts, once for all variables of the files, so that it is versioned and vacuumed like rows. A list is a way out
of the store, so files are opened only below directories that the one who opens the store allows, and only if they are
as they were when they were attached.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from storegate_engine.arrays.foreign_formats import ForeignFile, known_format, open_foreign
from storegate_engine.arrays.inspection import require_within_limits
from storegate_engine.arrays.rows import Fileless, RowArray
from storegate_engine.budget import Layout
from storegate_engine.dtypes import dtype_from_text, dtype_to_text
from storegate_engine.encodings import row_nbytes
from storegate_engine.errors import (
    CorruptStoreError,
    SourceChangedError,
    SourceError,
    SourceNotAllowedError,
    StoreError,
)
from storegate_engine.locations import Location

if TYPE_CHECKING:
    pass

__all__ = ["ForeignArray", "SourceFile", "found_at", "list_of", "source_file"]

Array: TypeAlias = np.ndarray[Any, Any]

READ_NBYTES = 16 * 2**20
"""Rows that are read from a file at a time."""


class SourceFile(NamedTuple):
    """One of the files of an array, as it was when it was attached."""

    path: str
    """Its absolute path, without links."""
    n_rows: int
    """Its rows."""
    nbytes: int
    """Its size; of a directory, that of its entries' names."""
    changed: int
    """When it was last changed, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class ForeignArray(Fileless):
    """Rows of files of another format, one after the other; pickled as their list."""

    form: str
    """The format, a key of `FORMATS`."""
    inside: str
    """Which array of each file, in words of the format."""
    files: RowArray
    """The files, each as a text of JSON."""
    dtype: np.dtype[Any]
    """The dtype of the rows."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    n_rows: int
    """The number of rows of all files."""
    chunk_rows: int
    """Most rows that a file decodes together."""
    roots: tuple[str, ...] = field(default=(), compare=False)
    """The directories below which files may be opened."""

    def __hash__(self) -> int:
        """Hash what identifies an array quickly."""
        return hash((self.form, self.inside, self.files))

    def __str__(self) -> str:
        """Return the format, and which array of each file."""
        return f"{self.form}:{self.inside}"

    @property
    def is_stored(self) -> bool:  # type: ignore[override] # of arrays without files it is a constant
        """Whether any process can find the files by the result of `to_json`."""
        return self.files.is_stored

    @property
    def location(self) -> Location | None:
        """The segment with the list of files; None if that is in memory."""
        return self.files.location

    @property
    def sources(self) -> RowArray:
        """The list of files."""
        return self.files

    def to_json(self) -> dict[str, Any]:
        """Return the array as JSON for a manifest."""
        return {
            "foreign": self.form,
            "inside": self.inside,
            "files": self.files.to_json(),
            "dtype": dtype_to_text(self.dtype),
            "row_shape": list(self.row_shape),
            "n_rows": self.n_rows,
            "chunk_rows": self.chunk_rows,
        }

    @classmethod
    def from_json(cls, document: Any, files: RowArray, roots: Sequence[str]) -> ForeignArray:
        """Return the array from its JSON in a manifest, with its list of files.

        Raises
        ------
        CorruptStoreError
            The JSON was not made by :meth:`to_json`.
        """
        try:
            counts = (document["n_rows"], document["chunk_rows"], *document["row_shape"])
            if any(type(n) is not int or n < 0 for n in counts) or not isinstance(document["inside"], str):
                raise ValueError("an invalid size or name")
            if files.dtype.kind != "T" or files.row_shape:
                raise ValueError(f"a list of files of {files.dtype}")
            dtype, row_shape = dtype_from_text(document["dtype"]), tuple(document["row_shape"])
            require_within_limits(dtype, row_shape, document["n_rows"], Layout(1, 1))
            return cls(
                known_format(document["foreign"]),
                document["inside"],
                files,
                dtype,
                row_shape,
                document["n_rows"],
                max(1, document["chunk_rows"]),
                tuple(roots),
            )
        except (KeyError, TypeError, ValueError) as err:
            raise CorruptStoreError(f"the manifest refers to files in a way that is not ours: {err}") from err

    # Reading

    def read_into(self, start: int, stop: int, out: Array, /, *, alone: bool = False) -> None:
        """Read rows ``start..stop`` into ``out``."""
        for at, lo, hi, first in self._parts(start, stop):
            self._read_file(at, lo, hi, out[first - start : first - start + hi - lo])

    def take_into(self, rows: Array, out: Array, /, *, alone: bool = False) -> None:
        """Read ``rows`` into ``out``; what is decoded together is read once."""
        if not len(rows) or not out.size:
            return
        order = np.argsort(rows, kind="stable")
        wanted = rows[order]
        # rows that share a chunk of a file, or lie close together, are one read
        _, starts = _files_in(self.files)
        file_of = np.searchsorted(starts, wanted, side="right") - 1
        chunk = max(1, self.chunk_rows)
        group = (wanted - starts[file_of]) // chunk
        cuts = np.flatnonzero((np.diff(file_of) != 0) | (np.diff(group) != 0)) + 1
        for part in np.split(np.arange(len(wanted)), cuts):
            lo, hi = int(wanted[part[0]]), int(wanted[part[-1]]) + 1
            block = np.empty((hi - lo, *self.row_shape), self.dtype)
            self.read_into(lo, hi, block)
            out[order[part]] = block[wanted[part] - lo]

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield the file, its first and last row, and the row of the array, of each part of a span."""
        _, starts = _files_in(self.files)
        at = int(np.searchsorted(starts, start, side="right")) - 1
        while start < stop:
            last = min(stop, int(starts[at + 1]))
            if last > start:
                yield at, start - int(starts[at]), last - int(starts[at]), start
                start = last
            at += 1

    def _read_file(self, at: int, lo: int, hi: int, out: Array) -> None:
        source = _files_in(self.files)[0][at]
        opened = self._opened(source)
        step = max(1, READ_NBYTES // max(1, row_nbytes(self.dtype, self.row_shape)))
        step = max(self.chunk_rows, step // self.chunk_rows * self.chunk_rows)
        try:
            for first in range(lo, hi, step):
                last = min(hi, first + step)
                out[first - lo : last - lo] = opened.read(first, last)
        except Exception as err:  # each library has errors of its own for damaged files
            raise SourceError(f"rows {lo} to {hi} of {source.path} cannot be read: {str(err) or repr(err)}") from err

    def _opened(self, source: SourceFile) -> ForeignFile:
        self.require_allowed([source])
        if found_at(source.path) != (source.nbytes, source.changed):
            raise SourceChangedError(
                f"{source.path} is not as it was when it was attached: it was changed, replaced or removed; restore "
                "it, or attach it anew"
            )
        opened = _open(os.getpid(), self.form, self.inside, source)
        if opened.shape != (source.n_rows, *self.row_shape) or opened.dtype != self.dtype:
            raise SourceChangedError(
                f"array {self.inside!r} of {source.path} has shape {opened.shape} and dtype {opened.dtype}, and was "
                f"attached with {(source.n_rows, *self.row_shape)} and {self.dtype}; attach it anew"
            )
        return opened

    def require_allowed(self, sources: Iterable[SourceFile] | None = None) -> None:
        """Refuse files outside of the directories that are allowed.

        Raises
        ------
        SourceNotAllowedError
            Some are; the message lists their directories.
        """
        wanted = _files_in(self.files)[0] if sources is None else sources
        outside = [source.path for source in wanted if not _is_below(os.path.realpath(source.path), self.roots)]
        if outside:
            places = sorted({os.path.dirname(path) for path in outside})
            more = f" and {len(places) - 3} more" if len(places) > 3 else ""
            raise SourceNotAllowedError(
                f"the store refers to files in {', '.join(places[:3])}{more}, which nobody has allowed; if you trust "
                f"it, open it with backend_args={{'references': {places[:3]}}}"
            )

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with each file: it cannot be opened, or was changed."""
        for source in _files_in(self.files)[0]:
            try:
                self._opened(source)
            except StoreError as err:
                yield str(err)


@functools.lru_cache(maxsize=256)
def _files_in(files: RowArray) -> tuple[list[SourceFile], Array]:
    """Return the files of a list, and the first row of each, and the end of the last."""
    texts = np.empty(files.n_rows, files.dtype)
    files.read_into(0, files.n_rows, texts)
    found = []
    try:
        for text in texts.tolist():
            path, n_rows, nbytes, changed = json.loads(text)
            if not isinstance(path, str) or any(type(n) is not int or n < 0 for n in (n_rows, nbytes, changed)):
                raise ValueError(f"it has {text!r}")
            found.append(SourceFile(path, n_rows, nbytes, changed))
    except (TypeError, ValueError) as err:
        raise CorruptStoreError(f"a list of attached files is not ours: {err}") from err
    return found, np.cumsum([0, *(source.n_rows for source in found)], dtype=np.int64)


def list_of(sources: Iterable[SourceFile]) -> Array:
    """Return the list of files as it is stored: texts of JSON."""
    return np.array([json.dumps(list(source)) for source in sources], dtype=np.dtypes.StringDType())


def source_file(path: str, n_rows: int) -> SourceFile:
    """Return a file as it is now."""
    place = os.path.realpath(path)
    nbytes, changed = found_at(place)
    return SourceFile(place, n_rows, nbytes, changed)


def found_at(path: str) -> tuple[int, int]:
    """Return the size of a file and when it was changed; (0, 0) if there is none.

    Of a directory, such as a zarr store, it is that of the metadata in it.
    """
    try:
        if not os.path.isdir(path):
            status = os.stat(path)
            return status.st_size, status.st_mtime_ns
        names = [name for name in ("zarr.json", ".zarray", ".zgroup") if os.path.exists(os.path.join(path, name))]
        found = [os.stat(os.path.join(path, name)) for name in names]
        return sum(status.st_size for status in found), max((status.st_mtime_ns for status in found), default=0)
    except OSError:
        return 0, 0


def _is_below(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in map(os.path.realpath, roots))


@functools.lru_cache(maxsize=128)
def _open(process: int, form: str, inside: str, source: SourceFile) -> ForeignFile:
    """Open an array of a file once in a process: a forked child has handles of its own."""
    return open_foreign(form, source.path, inside)
