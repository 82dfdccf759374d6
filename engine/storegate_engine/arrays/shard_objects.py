"""Shard objects: the shards of an array in an object store, fetched by ranges and put whole; knows no rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np

from storegate_engine.arrays.shard_files import Flush, LocalFiles, Parts, ShardFiles
from storegate_engine.arrays.shard_index import IndexForm, ShardIndex, Span, forget_index, kept_index, parsed_index
from storegate_engine.errors import CorruptStoreError
from storegate_engine.locations import Location

__all__ = ["files_of"]

Array: TypeAlias = np.ndarray[Any, Any]


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

    is_remote = True  # without an annotation, which would make it a field

    def path(self, key: str) -> str:
        """Return the URL of one object."""
        return f"{self.location}/{key}"

    def open(self, key: str, form: IndexForm, chunks: Sequence[int]) -> FetchedShard:
        """Fetch some chunks of one object, with what is between them, in one request."""
        shard = FetchedShard(self, key)
        if chunks:
            try:
                shard.fetch(form, chunks)
            except BaseException:
                shard.forget()
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
        exceptions = import_module("obstore.exceptions")
        function = getattr(import_module("obstore"), name)
        try:
            return function(self.location.objects, self.location.key(key), *args, **options)
        except FileNotFoundError as err:
            raise FileNotFoundError(f"{self.path(key)} is missing") from err
        except exceptions.NotSupportedError:
            raise
        except exceptions.BaseError as err:
            raise OSError(f"{self.path(key)}: {(str(err).splitlines() or [repr(err)])[0]}") from err


class FetchedShard:
    """A range of one object, fetched to memory."""

    can_fill = False
    __slots__ = ("_content", "_files", "_key", "_start")

    def __init__(self, files: ShardObjects, key: str) -> None:
        self._files = files
        self._key = key
        self._start = 0
        self._content = np.empty(0, "u1")

    def __enter__(self) -> Self:
        """Return the shard."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the memory; after an error, which a stale index may have caused, that is read again."""
        self._content = np.empty(0, "u1")
        if kind is not None:
            self.forget()

    def forget(self) -> None:
        """Do not keep the index."""
        forget_index((self._files, self._key))

    def index(self, path: str, form: IndexForm) -> ShardIndex:
        """Return the index of the object, fetched once."""
        return kept_index((self._files, self._key), lambda: self._read_index(path, form))

    def _read_index(self, path: str, form: IndexForm) -> ShardIndex:
        exceptions = import_module("obstore.exceptions")
        try:
            found = self._files.call("get", self._key, options={"range": {"suffix": form.nbytes}})
            nbytes = found.meta["size"]
        except exceptions.NotSupportedError:  # Azure gives no last bytes
            found, nbytes = None, self._files.call("head", self._key)["size"]
        if form.nbytes > nbytes:  # before they are fetched
            raise CorruptStoreError(f"{path} is shorter than what was written")
        content = self._range(nbytes - form.nbytes, nbytes) if found is None else found.bytes()
        return parsed_index(np.frombuffer(content, "u1"), nbytes, form, path)

    def fetch(self, form: IndexForm, chunks: Sequence[int]) -> None:
        """Fetch the bytes from the first of some chunks to the last; reading one that is not legal raises it."""
        index = self.index(self._files.path(self._key), form)
        spans = [index.span(at) for at in chunks if index.is_legal(at)]
        if spans:
            self._start = min(begin for begin, _ in spans)
            content = self._range(self._start, max(map(sum, spans)))
            self._content = np.frombuffer(content, "u1")

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
