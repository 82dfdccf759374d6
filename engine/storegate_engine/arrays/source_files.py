"""Source files: files of other programs that arrays refer to; opens them only where it is allowed, and unchanged.

A list of files is stored as an array of texts. It is a way out of the store, so files are opened only below directories
that the one who opens the store allows, and only if they are as they were when they were attached. Both are checked
when a file is opened; that it is still the same, whenever it is read.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from storegate_engine.arrays.byte_ranges import RangeFile, Ranges, open_file_at
from storegate_engine.arrays.file_states import FileState, RemoteFile, is_url, state_of
from storegate_engine.arrays.foreign_formats import ForeignFile, close_hdf5_files, open_foreign
from storegate_engine.arrays.kerchunk import ReferencedChunks
from storegate_engine.arrays.rows import RowArray
from storegate_engine.arrays.shards import RowSpan
from storegate_engine.errors import (
    CorruptStoreError,
    SourceChangedError,
    SourceError,
    SourceNotAllowedError,
    StoreError,
)

__all__ = [
    "Inside",
    "SourceFile",
    "close_files",
    "files_in",
    "list_of",
    "opened",
    "problems_of",
    "read_source",
    "source_file",
]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """The files that references name; compared by identity, since there can be many."""

    states: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """The size of each, and when it was last changed."""


_NO_TARGETS = Targets()


class SourceFile(NamedTuple):
    """One of the files of an array, as it was when it was attached."""

    path: str
    """Its absolute path, without links, or its URL."""
    n_rows: int
    """Its rows."""
    nbytes: int
    """Its size; of a directory, that of its metadata."""
    changed: int
    """When it was last changed, in nanoseconds, or a hash of its version."""
    targets: Targets = _NO_TARGETS
    """The other files that hold its rows."""


class Inside(NamedTuple):
    """What is read from each file of a list, and where these may lie."""

    form: str
    """The format, a key of `FORMATS`."""
    name: str
    """Which array of each file, in words of the format."""
    dtype: np.dtype[Any]
    """The dtype of the rows."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    roots: tuple[str, ...]
    """The directories, and beginnings of URLs, below which files may be opened."""


class Opened(Protocol):
    """Rows of an open file."""

    @property
    def is_parallel(self) -> bool:
        """Whether several threads read faster than one."""

    def read_spans(self, spans: Sequence[RowSpan], out: Array) -> None:
        """Read ascending spans of rows to their places in ``out``, C-contiguous and of the array's dtype."""

    def will_read(self, spans: Sequence[tuple[int, int]]) -> None:
        """Ask the system to fetch ascending spans of rows: a hint."""


class _Placed(NamedTuple):
    """Rows at known places."""

    ranges: Ranges
    file: RangeFile
    is_parallel: bool = True

    def read_spans(self, spans: Sequence[RowSpan], out: Array) -> None:
        self.ranges.read_spans(self.file, spans, out)

    def will_read(self, spans: Sequence[tuple[int, int]]) -> None:
        self.ranges.will_read(self.file, spans)


class _Referenced(NamedTuple):
    """Rows at known places of other files, each of which may be opened, and is as it was."""

    chunks: ReferencedChunks
    source: SourceFile
    roots: tuple[str, ...]
    is_parallel: bool = True

    def read_spans(self, spans: Sequence[RowSpan], out: Array) -> None:
        paths = self.chunks.targets_of(spans)
        files = {path: (self.opened(path), self.source.targets.states[path][0]) for path in paths}
        try:
            self.chunks.read_spans(files, spans, out)
        finally:  # that a file has changed is why it cannot be read
            for path in paths:
                self._identity(path)

    def opened(self, path: str) -> RangeFile:
        """Return an open file, if it may be opened and is as it was."""
        if is_url(path):  # before a server is asked
            _require_allowed(path, self.roots)
            self._identity(path)
            return RemoteFile(path)
        identity = self._identity(path)
        _require_target_allowed(path, self.roots, identity)
        return open_file_at(path, identity)

    def _identity(self, path: str) -> tuple[int, int]:
        found = self.source.targets.states.get(path)
        if found is None:
            raise CorruptStoreError(f"the list of attached files lacks {path}, which {self.source.path} names")
        return _unchanged(path, *found)

    def will_read(self, spans: Sequence[tuple[int, int]]) -> None:
        """Do nothing: ranges of other files are fetched when they are read."""


class _Decoded(NamedTuple):
    """Rows that the library of the format reads."""

    file: ForeignFile
    is_parallel: bool = False

    def read_spans(self, spans: Sequence[RowSpan], out: Array) -> None:
        for together in _sharing_chunks(spans, self.file.chunk_rows):
            if len(together) == 1:
                lo, hi, place = together[0]
                self.file.read_into(lo, hi, out[place : place + hi - lo])
                continue
            first, last = together[0][0], max(hi for _, hi, _ in together)
            rows = np.empty((last - first, *out.shape[1:]), out.dtype)
            self.file.read_into(first, last, rows)
            for lo, hi, place in together:
                out[place : place + hi - lo] = rows[lo - first : hi - first]

    def will_read(self, spans: Sequence[tuple[int, int]]) -> None:
        """Do nothing: libraries read what they decode."""


def _sharing_chunks(spans: Sequence[RowSpan], chunk_rows: int) -> Iterator[list[RowSpan]]:
    """Yield spans in groups, ascending, each of which lies in one chunk or is a single span."""
    group: list[RowSpan] = []
    shared = -1
    for span in sorted(spans):
        first, last = span[0] // chunk_rows, (span[1] - 1) // chunk_rows
        if group and (chunk_rows == 1 or last != shared):
            yield group
            group = []
        if not group:
            shared = first if first == last else -1
        group.append(span)
    if group:
        yield group


# ------------------------------------------------------------------------------
# Opening
# ------------------------------------------------------------------------------


def read_source(inside: Inside, source: SourceFile, spans: Sequence[RowSpan], out: Array) -> None:
    """Read spans of rows of a file to their places in ``out``.

    Raises
    ------
    SourceChangedError
        The file was changed since it was attached, or while it was read.
    SourceNotAllowedError
        It lies nowhere where files may be opened.
    SourceError
        It cannot be read.
    """
    found = opened(inside, source)
    try:
        found.read_spans(spans, out)
    except (SourceChangedError, SourceNotAllowedError):
        raise
    except Exception as err:  # each library has errors of its own for damaged files
        _identity(source)
        lo, hi = min(lo for lo, _, _ in spans), max(hi for _, hi, _ in spans)
        raise SourceError(f"rows {lo} to {hi} of {source.path} cannot be read: {str(err) or repr(err)}") from err
    _identity(source)


def opened(inside: Inside, source: SourceFile) -> Opened:
    """Return a file as it is open in this process.

    Raises
    ------
    SourceChangedError, SourceNotAllowedError, SourceError
        As for :func:`read_source`.
    """
    if is_url(source.path):  # before a server is asked
        _require_allowed(source.path, inside.roots)
    identity = _identity(source)
    ranges = _ranges(inside, source, identity)
    if isinstance(ranges, ReferencedChunks):
        return _Referenced(ranges, source, inside.roots)
    if ranges is not None:
        return _Placed(ranges, RemoteFile(source.path) if is_url(source.path) else open_file_at(source.path, identity))
    return _Decoded(_file(os.getpid(), inside, source, identity))


def problems_of(inside: Inside, source: SourceFile) -> Iterator[str]:
    """Yield what is wrong with a file, or those it refers to: it cannot be opened, or was changed."""
    try:
        found = opened(inside, source)
    except StoreError as err:
        yield str(err)
        return
    if isinstance(found, _Referenced):
        for path in source.targets.states:
            try:
                found.opened(path)
            except (StoreError, OSError) as err:
                yield str(err)


# Keyed by device and inode, so that a file that takes the place of another is opened, and looked at, anew. The places
# of rows take little memory, so that they are kept for more files than may be open.


@functools.lru_cache(maxsize=4096)
def _ranges(inside: Inside, source: SourceFile, identity: tuple[int, int]) -> Ranges | ReferencedChunks | None:
    opened_file = _file(os.getpid(), inside, source, identity)
    return opened_file.ranges() if hasattr(os, "preadv") else None  # not on Windows


@functools.lru_cache(maxsize=64)
def _file(process: int, inside: Inside, source: SourceFile, identity: tuple[int, int]) -> ForeignFile:
    """Open a file once in a process: a forked child has handles of its own."""
    _require_allowed(source.path, inside.roots)
    found = open_foreign(inside.form, source.path, inside.name)
    if found.shape != (source.n_rows, *inside.row_shape) or found.dtype != inside.dtype:
        raise SourceChangedError(
            f"array {inside.name!r} of {source.path} has shape {found.shape} and dtype {found.dtype}, and was "
            f"attached with {(source.n_rows, *inside.row_shape)} and {inside.dtype}; attach it anew"
        )
    return found


def close_files() -> None:
    """Close the files that nobody reads any more, so that other programs may write to them; a read opens them again."""
    _file.cache_clear()
    open_file_at.cache_clear()
    close_hdf5_files()


atexit.register(close_files)  # before the libraries end


def _require_allowed(path: str, roots: Sequence[str]) -> None:
    """Raise SourceNotAllowedError if a file lies outside of the directories that are allowed; links are resolved."""
    if is_url(path):
        is_allowed = any(is_url(root) and path.startswith(root.rstrip("/") + "/") for root in roots)
    else:
        is_allowed = _is_below(os.path.realpath(path), [root for root in roots if not is_url(root)])
    if not is_allowed:
        place = os.path.dirname(path)
        raise SourceNotAllowedError(
            f"the store refers to files in {place}, which nobody has allowed; if you trust it, open it with "
            f"backend_args={{'references': [{place!r}]}}"
        )


@functools.lru_cache(maxsize=4096)
def _require_target_allowed(path: str, roots: tuple[str, ...], identity: tuple[int, int]) -> None:
    """Raise as :func:`_require_allowed`, once for a file, whose links need not be looked up at each read."""
    _require_allowed(path, roots)


def _is_below(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in map(os.path.realpath, roots))


# ------------------------------------------------------------------------------
# States
# ------------------------------------------------------------------------------


def source_file(path: str, n_rows: int, targets: Iterable[str] = (), roots: Sequence[str] = ()) -> SourceFile:
    """Return a file as it is now, with those that it refers to.

    Raises
    ------
    SourceNotAllowedError
        It refers to a file that is outside of the directories that are allowed.
    SourceError
        It refers to a file that does not exist.
    """
    place = path if is_url(path) else os.path.realpath(path)
    state = state_of(place)
    states = {}
    for target in sorted(targets):
        _require_allowed(target, roots)
        found = state_of(target)
        if found == FileState(0, 0) or os.path.isdir(target):
            raise SourceError(f"{path} refers to {target}, where there is no file")
        states[target] = (found.nbytes, found.changed)
    return SourceFile(place, n_rows, state.nbytes, state.changed, Targets(states) if states else _NO_TARGETS)


def _identity(source: SourceFile) -> tuple[int, int]:
    """Return the device and the inode of a local file.

    Raises
    ------
    SourceChangedError
        The file is not as it was when it was attached.
    """
    return _unchanged(source.path, source.nbytes, source.changed)


def _unchanged(path: str, nbytes: int, changed: int) -> tuple[int, int]:
    state = state_of(path)
    if (state.nbytes, state.changed) != (nbytes, changed):
        raise SourceChangedError(
            f"{path} is not as it was when it was attached: it was changed, replaced or removed; restore "
            "it, or attach it anew"
        )
    return state.identity


# ------------------------------------------------------------------------------
# Lists
# ------------------------------------------------------------------------------


def list_of(sources: Iterable[SourceFile]) -> Array:
    """Return the list of files as it is stored: texts of JSON."""
    texts = [
        json.dumps([path, n_rows, nbytes, changed, *(of.states for of in targets if of.states)])
        for path, n_rows, nbytes, changed, *targets in sources
    ]
    return np.array(texts, dtype=np.dtypes.StringDType())


@functools.lru_cache(maxsize=256)
def files_in(files: RowArray) -> tuple[list[SourceFile], Array]:
    """Return the files of a list, and the first row of each, and the end of the last."""
    texts = np.empty(files.n_rows, files.dtype)
    files.read_into(0, files.n_rows, texts)
    found = []
    try:
        for text in texts.tolist():
            path, n_rows, nbytes, changed, *others = json.loads(text)
            states = {target: (size, when) for more in others for target, (size, when) in more.items()}
            numbers = (n_rows, nbytes, changed, *chain.from_iterable(states.values()))
            if not isinstance(path, str) or any(type(n) is not int or n < 0 for n in numbers):
                raise ValueError(f"it has {text!r}")
            targets = Targets(states) if states else _NO_TARGETS
            found.append(SourceFile(path, n_rows, nbytes, changed, targets))
    except (AttributeError, TypeError, ValueError) as err:
        raise CorruptStoreError(f"a list of attached files is not ours: {err}") from err
    return found, np.cumsum([0, *(source.n_rows for source in found)], dtype=np.int64)
