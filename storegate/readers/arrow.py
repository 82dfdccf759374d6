"""Arrow: the columns of Feather files and of files and streams of Arrow's IPC format, with pyarrow."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storegate.readers.batches import batches_of, slices_of, wanted_in
from storegate.readers.paths import head_of
from storegate_engine.errors import UnreadableFileError
from storegate_engine.optional import require_package

__all__ = ["ArrowReader"]

MAGIC = b"ARROW1"


class ArrowReader:
    """Arrow and Feather: a variable for each column."""

    suffixes = (".arrow", ".arrows", ".feather", ".ipc")
    options = ()

    def holds(self, path: Path) -> bool:
        """Return whether the file begins as files of Arrow do."""
        return head_of(path, 6) == MAGIC

    @contextlib.contextmanager
    def open(self, path: Path, names: Sequence[str] | None, options: Mapping[str, Any]) -> Iterator[object]:
        """Open a file, as a table of its batches."""
        pa = require_package("pyarrow", "arrow", str(path))
        head = head_of(path)
        if head[:4] == b"FEA1":
            raise UnreadableFileError("it is of the first version of Feather; write it again with pyarrow.feather")
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # not closed here: batches may refer to it, and the last of them closes it
        opened = pa.ipc.open_file if head[:6] == MAGIC else pa.ipc.open_stream
        reader = opened(pa.BufferReader(pa.py_buffer(mapped)))
        wanted = wanted_in(reader.schema, names)
        schema = pa.schema([reader.schema.field(name) for name in wanted])
        with batches_of(schema, _slices(reader, wanted, mapped)) as table:
            yield table


def _slices(reader: Any, wanted: list[str], mapped: mmap.mmap) -> Callable[[], Iterator[Any]]:
    """Return a function that yields parts of batches; pages of the file leave memory after their part."""

    def make() -> Iterator[Any]:
        n_batches = getattr(reader, "num_record_batches", None)
        batches = reader if n_batches is None else map(reader.get_batch, range(n_batches))
        for batch in batches:
            # pyarrow copies batches if it is told which columns to read, and gives views otherwise
            for part in slices_of(batch.select(wanted)):
                yield part
                if hasattr(mmap, "MADV_DONTNEED"):
                    mapped.madvise(mmap.MADV_DONTNEED)

    return make
