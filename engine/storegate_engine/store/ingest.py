"""Ingest: sources of rows as arrays of a new segment, one group at a time; commits nothing.

Variables of one source are written side by side, in one pass over it::

    block of the source     x0 x1 x2 | x0 x1 x2 | ...      shards of x0, x1 and x2 share the memory

If there are so many variables that their shards would be much too small, the blocks are turned on disk, and each
variable is written alone.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from storegate_engine import settings
from storegate_engine.arrays import MAX_TEXT_NBYTES, ArraySpec, RowArray, Segment, SegmentWriter
from storegate_engine.budget import WRITES_IN_FLIGHT, format_nbytes, ingest_nbytes, plan_layout, require
from storegate_engine.encodings import is_text, row_nbytes
from storegate_engine.exchange import task_nbytes
from storegate_engine.scratch import open_spill
from storegate_engine.store.columns import turned
from storegate_engine.store.lists import RaggedWriter, column_dtype, kind_in, part_names
from storegate_engine.store.sources import Source, blocks_of_group, grouped
from storegate_engine.store.table_sources import text_of

__all__ = ["Ingest"]

_BOUND = np.dtype(np.int64)
FEW_TOGETHER = 8
"""Up to this many variables of one source are written together, in shards that share the memory."""


@dataclass(frozen=True, slots=True)
class Ingest:
    """Writes rows within a memory limit, in chunks of a given size."""

    budget_nbytes: int
    """Memory limit."""
    chunk_rows: int | None
    """Rows of new chunks; chosen by bytes if None."""
    scratch: Callable[[], Path]
    """Returns the directory of scratch files, for rows that are turned on disk."""

    def write(self, sources: Mapping[str, Source], segment: Segment) -> dict[str, RowArray]:
        """Write sources block by block as arrays of one new segment, and return the arrays."""
        known = [source.n_rows for source in sources.values()]
        sizes = [row_nbytes(source.dtype, source.row_shape) for source in sources.values()]
        is_known = None not in known and all(kind_in(source) == "dense" for source in sources.values())
        total = None if not is_known else sum(n * size for n, size in zip(known, sizes, strict=True) if n)
        groups = grouped(sources)
        n_together = {name: 1 if self._is_turned(group) else len(group) for group in groups for name in group}
        specs = {name: self.spec(name, source, n_together[name]) for name, source in sources.items()}
        taken = set(sources)
        arrays: dict[str, RowArray] = {}
        with settings.progress_bar("store", total) as bar, _Closing(arrays) as closing:
            for group in groups:
                if self._is_turned(group):
                    for column in self._turned(group):
                        self._write(segment, column, specs, bar.update, closing, taken)
                else:
                    self._write(segment, group, specs, bar.update, closing, taken)
        return {name: arrays[name] for name in sources}

    def _is_turned(self, group: Mapping[str, Source]) -> bool:
        """Return whether writing the group together would need much smaller shards."""
        has_width = all(kind_in(source) == "dense" and not is_text(source.dtype) for source in group.values())
        if len(group) <= FEW_TOGETHER or not has_width:
            return False
        needed = 0
        for source in group.values():
            nbytes = row_nbytes(source.dtype, source.row_shape)
            layout = plan_layout(nbytes, source.n_rows, chunk_rows=self.chunk_rows)
            needed += ingest_nbytes(nbytes, layout, self.budget_nbytes)
        return needed > self.budget_nbytes

    def _turned(self, group: Mapping[str, Source]) -> Iterator[dict[str, Source]]:
        """Yield the variables of a group one after the other, from a scratch file."""
        spill = open_spill(self.scratch(), uuid.uuid4().hex)
        columns = turned(group, spill.path, task_nbytes(self.budget_nbytes, 1))
        yield from ({name: column} for name, column in columns.items())

    def _write(
        self,
        segment: Segment,
        group: Mapping[str, Source],
        specs: Mapping[str, ArraySpec],
        progress: Callable[[int], object],
        closing: _Closing,
        taken: set[str],
    ) -> None:
        """Write a group of sources as arrays of a segment, in one pass over their common data."""
        if not all(_is_one_shard(specs[name]) for name in group):
            closing.close(0)  # these will have as many shards in flight as memory is reserved for
        writers = {name: self._writer(segment, name, source, specs[name], taken) for name, source in group.items()}
        closing.writers.update(writers)
        for blocks in blocks_of_group(group, min(specs[name].layout.shard_rows for name in group)):
            for name, rows in blocks.items():
                writers[name].append(rows)
                progress(rows.nbytes)
        for writer in writers.values():
            writer.put_rest()
            closing.close(WRITES_IN_FLIGHT)

    def _writer(
        self, segment: Segment, name: str, source: Source, spec: ArraySpec, taken: set[str]
    ) -> SegmentWriter | RaggedWriter:
        """Return the writer of a new array; of several for rows of various lengths."""
        kind = kind_in(source)
        if kind == "dense":
            return segment.create(name, spec)
        names = part_names(name, taken)

        def make(part: int) -> SegmentWriter:
            if part == 0:
                return segment.create(names[0], spec)
            dtype, shape = (source.dtype, source.row_shape) if kind == "ragged" else (source.dtype, ())
            if part == 2:
                dtype = column_dtype(source.row_shape[0])
            layout = plan_layout(row_nbytes(dtype, shape), None, budget_nbytes=self.budget_nbytes // 3)
            return segment.create(names[part], ArraySpec(dtype, shape, layout, None))

        return RaggedWriter(make, kind, source.row_shape[0] if kind == "sparse" else 0)

    def spec(self, name: str, source: Source, n_together: int = 1) -> ArraySpec:
        """Return how rows would be stored as a new array of a segment, written together with others.

        Raises
        ------
        MemoryBudgetError
            Writing the rows does not fit in the memory limit.
        """
        if kind_in(source) != "dense":
            nbytes = row_nbytes(_BOUND, (2,))
            layout = plan_layout(
                nbytes, source.n_rows, chunk_rows=self.chunk_rows, budget_nbytes=self.budget_nbytes // 3
            )
            return ArraySpec(_BOUND, (2,), layout, source.n_rows, is_fixed=self.chunk_rows is not None)
        text_nbytes, text = text_of(source)
        nbytes = row_nbytes(source.dtype, source.row_shape) + int(text_nbytes)
        limit = self.budget_nbytes // n_together
        layout = plan_layout(nbytes, source.n_rows, chunk_rows=self.chunk_rows, budget_nbytes=limit)
        if text is not None and self.chunk_rows is None and layout.chunk_rows * text.largest_nbytes > MAX_TEXT_NBYTES:
            fitting = max(1, MAX_TEXT_NBYTES // text.largest_nbytes)  # even if the largest ones share a chunk
            layout = plan_layout(nbytes, source.n_rows, chunk_rows=fitting, budget_nbytes=limit)
        whole = getattr(source, "whole", source)
        chunk_nbytes = getattr(whole, "least_rows", 0) * nbytes * n_together
        given = f", given in chunks of {format_nbytes(chunk_nbytes)}" if chunk_nbytes else ""
        require(
            n_together * ingest_nbytes(nbytes, layout, limit) + chunk_nbytes,
            self.budget_nbytes,
            what=f"storing variable {name!r} (rows of {nbytes} bytes in chunks of {layout.chunk_rows} rows{given})",
            remedy="raise storegate.memory-limit, or make rows or chunks smaller (rechunk the data)",
        )
        return ArraySpec(
            source.dtype, source.row_shape, layout, source.n_rows, is_fixed=self.chunk_rows is not None, text=text
        )


def _is_one_shard(spec: ArraySpec) -> bool:
    return spec.n_rows is not None and spec.n_rows <= spec.layout.shard_rows and not is_text(spec.dtype)


@dataclass(frozen=True, slots=True)
class _Closing:
    """Writers whose last rows are being written, while others are filled."""

    arrays: dict[str, RowArray]
    """The arrays that are done."""
    writers: dict[str, SegmentWriter | RaggedWriter] = field(default_factory=dict)
    """The others, the first one first."""

    def __enter__(self) -> Self:
        return self

    def close(self, n_left: int) -> None:
        """Wait for all writers but some."""
        while len(self.writers) > n_left:
            name = next(iter(self.writers))
            self.arrays[name] = self.writers[name].close()
            del self.writers[name]

    def __exit__(self, kind: object, err: object, trace: object) -> None:
        try:
            if kind is None:
                self.close(0)
        finally:
            for writer in self.writers.values():
                writer.abandon()
