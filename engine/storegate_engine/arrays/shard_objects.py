"""Shard objects: the shards of an array in an object store, fetched by ranges and put whole; knows no rows."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np

from storegate_engine.arrays.shard_cache import ShardCache, configured_cache
from storegate_engine.arrays.shard_files import Flush, LocalFiles, LocalShard, Parts, ShardFiles
from storegate_engine.arrays.shard_index import IndexForm, ShardIndex, Span, forget_index, kept_index, parsed_index
from storegate_engine.errors import CorruptStoreError
from storegate_engine.locations import Location, first_line

__all__ = ["answers_kept", "files_of"]

Array: TypeAlias = np.ndarray[Any, Any]

GAP_NBYTES = 512 * 2**10
"""Bytes between chunks that are fetched, too: a request takes longer."""
REQUEST_NBYTES = 16 * 2**20
"""Most bytes of a request: a whole shard of the usual size, and one of several under way."""
PIECE_NBYTES = 2**20
"""A longer answer is taken in pieces of this many bytes: joined by the client, it would be in memory twice."""
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
        """Yield the bytes and the chunks of each request for chunks of one object."""
        if (copy := self._copy(key)) is not None:
            if copy[1].exists():
                yield 0, list(chunks)
                return
            if _is_worth_a_copy(index, chunks):
                yield index.file_nbytes, list(chunks)
                return
        yield from index.merged(chunks, GAP_NBYTES, REQUEST_NBYTES)

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
        """Open the copy of one object, or fetch some of its chunks, with what is between them, in one request."""
        copy = self._copy(key)
        with contextlib.nullcontext() if copy is None else copy[0].turn(copy[1]):
            if copy is not None and (opened := _opened_copy(copy[1])) is not None:
                return opened
            shard = FetchedShard(self, key, copy)
            if chunks:
                try:
                    shard.fetch(form, chunks)
                except BaseException as err:
                    shard.__exit__(type(err), err, None)
                    raise
            return shard

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
        """Yield a range of one object in pieces; for errors see `call`."""
        found = self.call("get", key, options={"range": (start, end)})
        with self._naming(key):
            yield from found.stream(min_chunk_size=PIECE_NBYTES)

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


class _Memory:
    """Memory of answers that were read, for the next ones; released when no answer is left, and nobody expects more.

    It is mapped: allocators keep large blocks that were freed in other threads, several times what is in use.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Array] = []
        self._n_taken = 0

    def take(self, nbytes: int) -> Array:
        """Return memory of at least some bytes."""
        with self._lock:
            self._n_taken += 1
            fitting = [at for at, memory in enumerate(self._free) if len(memory) >= nbytes]
            if fitting:
                return self._free.pop(min(fitting, key=lambda at: len(self._free[at])))
            self._free = self._free[1:]  # too short: the new one takes its place
        return np.frombuffer(mmap.mmap(-1, -(-nbytes // PIECE_NBYTES) * PIECE_NBYTES), "u1")

    def give_back(self, *memory: Array) -> None:
        """Take memory back."""
        with self._lock:
            self._n_taken -= 1
            self._free = [*self._free, *memory] if self._n_taken else []

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep memory meanwhile, also while there is no answer."""
        with self._lock:
            self._n_taken += 1
        pid = os.getpid()
        try:
            yield
        finally:
            if os.getpid() == pid:  # a forked child has memory of its own, and this lock as another thread had it
                self.give_back()


_memory = _Memory()


def answers_kept() -> contextlib.AbstractContextManager[None]:
    """Return a context that keeps the memory of answers for the next ones: new memory costs as much as a copy."""
    return _memory.kept()


def _after_fork_in_child() -> None:
    global _memory
    _memory = _Memory()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


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
    """A range of one object, fetched to memory."""

    can_fill = False
    __slots__ = ("_content", "_copy", "_files", "_key", "_memory", "_start")

    def __init__(self, files: ShardObjects, key: str, copy: tuple[ShardCache, Path] | None) -> None:
        self._files = files
        self._key = key
        self._copy = copy
        self._start = 0
        self._content = np.empty(0, "u1")
        self._memory: Array | None = None

    def __enter__(self) -> Self:
        """Return the shard."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the memory."""
        self._content = np.empty(0, "u1")
        if self._memory is not None:
            _memory.give_back(self._memory)
            self._memory = None

    def index(self, path: str, form: IndexForm) -> ShardIndex:
        """Return the index of the object, fetched once; past the copies, as it is now."""
        if not self._files.has_copies:
            return self._read_index(path, form)
        return kept_index((self._files, self._key), lambda: self._read_index(path, form))

    def _read_index(self, path: str, form: IndexForm) -> ShardIndex:
        exceptions = import_module("obstore.exceptions")
        try:
            found = self._files.call("get", self._key, options={"range": {"suffix": form.nbytes}})
            nbytes = found.meta["size"]
        except exceptions.NotSupportedError:  # Azure gives no last bytes
            found, nbytes = None, self._files.call("head", self._key)["size"]
        except FileNotFoundError:
            raise
        except OSError:  # an empty object has no range, either
            found, nbytes = None, self._files.call("head", self._key)["size"]
            if nbytes:
                raise
        if form.nbytes > nbytes:  # before they are fetched
            raise CorruptStoreError(f"{path} is shorter than what was written")
        content = self._range(nbytes - form.nbytes, nbytes) if found is None else found.bytes()
        return parsed_index(np.frombuffer(content, "u1"), nbytes, form, path)

    def fetch(self, form: IndexForm, chunks: Sequence[int]) -> None:
        """Fetch the bytes from the first of some chunks to the last; reading one that is not legal raises it."""
        index = self.index(self._files.path(self._key), form)
        spans = [index.span(at) for at in chunks if index.is_legal(at)]
        if self._copy is not None and _is_worth_a_copy(index, chunks):
            self._content = self._fetched(0, index.file_nbytes)
            cache, path = self._copy
            cache.put(path, self._content.data)
        elif spans:
            self._start = min(begin for begin, _ in spans)
            self._content = self._fetched(self._start, max(map(sum, spans)))

    def _fetched(self, start: int, end: int) -> Array:
        """Return a range, in memory of an earlier one if it is long; it ends where the object does."""
        if end - start <= PIECE_NBYTES:
            return np.frombuffer(self._range(start, end), "u1")
        self._memory = _memory.take(end - start)
        done = 0
        for piece in self._files.pieces(self._key, start, end):
            self._memory[done : done + len(piece)] = np.frombuffer(piece, "u1")
            done += len(piece)
        return self._memory[:done]

    def _range(self, start: int, end: int) -> Any:
        return self._files.call("get_range", self._key, start=start, end=end)

    def view(self, start: int, nbytes: int, path: str) -> Array:
        """Return bytes of the range."""
        found = self._content[start - self._start : start - self._start + nbytes]
        if len(found) != nbytes:
            raise CorruptStoreError(f"{path} is shorter than what was written")
        return found

    def fill(self, buffers: Sequence[memoryview], start: int) -> int:
        """Raise TypeError: bytes are copied from where they were fetched to."""
        raise TypeError("bytes of a fetched range are viewed")

    def will_read(self, spans: Iterable[Span]) -> None:
        """Do nothing: the range is here."""
