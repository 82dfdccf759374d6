"""Shard objects: the shards of an array in an object store, fetched by ranges and put whole; knows no rows."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np

from storegate_engine.arrays.reading_threads import require_wanted
from storegate_engine.arrays.shard_cache import ShardCache, configured_cache
from storegate_engine.arrays.shard_files import Flush, LocalFiles, LocalShard, Parts, ShardFiles, thread_workspace
from storegate_engine.arrays.shard_index import IndexForm, ShardIndex, Span, forget_index, kept_index, parsed_index
from storegate_engine.errors import CorruptStoreError
from storegate_engine.locations import Location, first_line

__all__ = ["files_of"]

Array: TypeAlias = np.ndarray[Any, Any]

GAP_NBYTES = 512 * 2**10
"""Bytes between chunks that are fetched, too: a request takes longer."""
REQUEST_NBYTES = 8 * 2**20
"""Most bytes of a request: servers give each connection a part of what the link carries, so that many share it."""
PIECE_NBYTES = 2**19
"""A long answer is read in pieces of at least so many bytes, as they arrive."""
HELD_NBYTES = 3 * PIECE_NBYTES
"""Most bytes of an answer in memory: all of a short one, or a piece, which is joined from what has come (measured)."""
_NOTHING: Array = np.empty(0, "u1")
COPIED_SHARE = 1 / 64
"""The part of a shard that must be wanted to fetch all of it for the cache: a row is not worth it."""


def files_of(segment: Location, name: str) -> ShardFiles | None:
    """Return the shards of an array of a segment; None where only zarr-python reads and writes."""
    if segment.is_local:
        return LocalFiles(f"{segment.url}/{segment.key(name)}", segment.url)
    return ShardObjects(segment / name) if segment.is_object_store else None


@dataclass(frozen=True, slots=True)
class ShardObjects:
    """The shards of one array as objects, which are never changed."""

    location: Location
    """The array's location."""

    has_copies: bool = True
    """Whether copies of the configured cache, and indices that were read before, are used."""

    is_remote = True  # without an annotation, which would make it a field

    def path(self, key: str) -> str:
        """Return the URL of one object."""
        return f"{self.location}/{key}"

    def _copy(self, key: str) -> tuple[ShardCache, Path] | None:
        """Return the cache, and the path of the copy of one object in it."""
        cache = configured_cache() if self.has_copies else None
        return None if cache is None else (cache, cache.path(self.location, key))

    def requests(self, key: str, index: ShardIndex, chunks: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield the memory and the chunks of each request for chunks of one object."""
        if (copy := self._copy(key)) is not None:
            if copy[1].exists():
                yield 0, list(chunks)
                return
            if _is_worth_a_copy(index, chunks):
                yield HELD_NBYTES, list(chunks)
                return
        for nbytes, group in index.merged(chunks, GAP_NBYTES, REQUEST_NBYTES):
            yield min(nbytes, HELD_NBYTES), group

    def forget(self, key: str) -> bool:
        """Remove the copy of one object; return whether there was one."""
        if (copy := self._copy(key)) is None:
            return False
        try:
            copy[1].unlink()
        except OSError:
            return False
        return True

    def forget_index(self, key: str) -> None:
        """Fetch the index of one object again when it is needed."""
        forget_index((self, key))

    def past_copies(self) -> ShardObjects:
        """Return the objects themselves."""
        return replace(self, has_copies=False)

    def open(self, key: str, form: IndexForm, chunks: Sequence[int]) -> FetchedShard | LocalShard:
        """Open an object to read some of its chunks, with what is between them, in one request; or its copy.

        The index is fetched here, and so is a copy; otherwise the request begins when the first of them is read.
        """
        copy = self._copy(key)
        with contextlib.nullcontext() if copy is None else copy[0].turn(copy[1]):
            if copy is not None and (opened := _opened_copy(copy[1])) is not None:
                return opened
            if not chunks:
                return FetchedShard(self, key)
            index = self.index(key, self.path(key), form)
            if copy is not None and _is_worth_a_copy(index, chunks):
                cache, path = copy
                nbytes = index.file_nbytes
                if cache.put(path, nbytes, self.pieces(key, 0, nbytes)) and (opened := _opened_copy(path)) is not None:
                    return opened
            # reading one that is not legal raises it
            return FetchedShard(self, key, max((sum(index.span(at)) for at in chunks if index.is_legal(at)), default=0))

    def index(self, key: str, path: str, form: IndexForm) -> ShardIndex:
        """Return the index of one object, fetched once; past the copies, as it is now."""
        if not self.has_copies:
            return self._read_index(key, path, form)
        return kept_index((self, key), lambda: self._read_index(key, path, form))

    def _read_index(self, key: str, path: str, form: IndexForm) -> ShardIndex:
        exceptions = import_module("obstore.exceptions")
        try:
            found = self.call("get", key, options={"range": {"suffix": form.nbytes}})
            nbytes = found.meta["size"]
        except exceptions.NotSupportedError:  # Azure gives no last bytes
            found, nbytes = None, self.call("head", key)["size"]
        except FileNotFoundError:
            raise
        except OSError:  # an empty object has no range, either
            found, nbytes = None, self.call("head", key)["size"]
            if nbytes:
                raise
        if form.nbytes > nbytes:  # before they are fetched
            raise CorruptStoreError(f"{path} is shorter than what was written")
        content = self._range(key, nbytes - form.nbytes, nbytes) if found is None else found.bytes()
        return parsed_index(np.frombuffer(content, "u1"), nbytes, form, path)

    def write(self, key: str, parts: Parts, flush: Flush) -> None:
        """Put one object, in several parts at once if it is large."""
        content = b"".join(piece if isinstance(piece, bytes) else piece.data for part in parts for piece in part)
        self.call("put", key, content)

    def drop(self, key: str) -> None:
        """Do nothing: there is no page cache."""

    def call(self, name: str, key: str, *args: Any, **options: Any) -> Any:
        """Call a function of obstore for one object, whose errors have pages for the library's developers.

        Raises
        ------
        FileNotFoundError
            The object does not exist.
        OSError
            The store refuses, or cannot be reached.
        """
        function = getattr(import_module("obstore"), name)
        with self._naming(key):
            return function(self.location.objects, self.location.key(key), *args, **options)

    def pieces(self, key: str, start: int, end: int) -> Iterator[Any]:
        """Yield a range of one object in pieces, as they arrive; for errors see `call` and `require_wanted`."""
        if end - start <= HELD_NBYTES:
            yield self._range(key, start, end)
            return
        found = self.call("get", key, options={"range": (start, end)})
        with self._naming(key):
            for piece in found.stream(min_chunk_size=PIECE_NBYTES):
                require_wanted()
                yield piece
                del piece  # while the next one comes

    def _range(self, key: str, start: int, end: int) -> Any:
        return self.call("get_range", key, start=start, end=end)

    @contextlib.contextmanager
    def _naming(self, key: str) -> Iterator[None]:
        """Name the object in errors of obstore."""
        exceptions = import_module("obstore.exceptions")
        try:
            yield
        except FileNotFoundError as err:
            raise FileNotFoundError(f"{self.path(key)} is missing") from err
        except exceptions.NotSupportedError:
            raise
        except exceptions.BaseError as err:
            raise OSError(f"{self.path(key)}: {first_line(err)}") from err


def _is_worth_a_copy(index: ShardIndex, chunks: Sequence[int]) -> bool:
    """Return whether chunks are so much of an object that all of it is fetched, if its chunks fill it."""
    nbytes = sum(index.lengths[at] for at in chunks if index.is_legal(at))
    used = sum(index.lengths[at] for at in range(len(index.lengths)) if index.is_legal(at))
    return nbytes >= index.file_nbytes * COPIED_SHARE and index.file_nbytes <= 2 * used


def _opened_copy(path: Path) -> LocalShard | None:
    """Return a copy, opened, which is now the one that was used last; None if there is none."""
    try:
        shard = LocalShard(path, "rb")
    except OSError:
        return None
    with contextlib.suppress(OSError):  # of another user
        os.utime(path, ns=(time.time_ns(), os.fstat(shard.fileno()).st_mtime_ns))
    return shard


class FetchedShard:
    """A range of one object, read as its answer arrives; who goes back asks again.

    No more of it is in memory than the piece that has come last.
    """

    can_fill = True
    __slots__ = ("_at", "_end", "_files", "_key", "_piece", "_pieces")

    def __init__(self, files: ShardObjects, key: str, end: int = 0) -> None:
        self._files = files
        self._key = key
        self._end = end
        self._at = 0
        self._pieces: Iterator[Any] | None = None
        self._piece = _NOTHING

    def __enter__(self) -> Self:
        """Return the shard."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the request, and release the memory."""
        self._pieces, self._piece = None, _NOTHING

    def index(self, path: str, form: IndexForm) -> ShardIndex:
        """Return the index of the object, fetched once; past the copies, as it is now."""
        return self._files.index(self._key, path, form)

    def view(self, start: int, nbytes: int, path: str) -> Array:
        """Return bytes of the range."""
        self._seek(start)
        if nbytes <= len(self._piece):
            return self._taken(nbytes)
        found = thread_workspace("encoded", nbytes)
        if self.fill([found.data], start) != nbytes:
            raise CorruptStoreError(f"{path} is shorter than what was written")
        return found

    def fill(self, buffers: Sequence[memoryview], start: int) -> int:
        """Copy bytes from an offset on to several buffers; return how many the object has."""
        self._seek(start)
        for buffer in buffers:
            into = np.frombuffer(buffer, "u1")
            while len(into):
                if not self._has_more():
                    return self._at - start
                piece = self._taken(min(len(into), len(self._piece)))
                into[: len(piece)] = piece
                into = into[len(piece) :]
        return self._at - start

    def _seek(self, start: int) -> None:
        """Make an offset the next one, or the end if the object ends before it."""
        if self._pieces is None or start < self._at:
            self._pieces, self._piece, self._at = self._files.pieces(self._key, start, self._end), _NOTHING, start
        while self._at < start and self._has_more():
            self._taken(min(start - self._at, len(self._piece)))

    def _has_more(self) -> bool:
        """Return whether there is a byte at hand, once the next piece has come."""
        assert self._pieces is not None
        while not len(self._piece):
            self._piece = _NOTHING  # while the next one comes
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._piece = np.frombuffer(piece, "u1")
        return True

    def _taken(self, nbytes: int) -> Array:
        """Return bytes of the last piece, and go on to those after them."""
        found, self._piece = self._piece[:nbytes], self._piece[nbytes:]
        self._at += nbytes
        return found

    def will_read(self, spans: Iterable[Span]) -> None:
        """Do nothing: one request asks for all of them."""
