"""Foreign: rows of files that other programs wrote, as one array; nothing is copied, and nothing written.

Many files are one array: the rows of the first, then those of the second, and so on. Their list is itself stored, once
for all variables of the files, so that it is versioned and vacuumed like rows; see `source_files`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrays.foreign_formats import known_format
from storegate_engine.arrays.inspection import require_within_limits
from storegate_engine.arrays.reading_threads import run_tasks
from storegate_engine.arrays.rows import Fileless, RowArray
from storegate_engine.arrays.shards import RowSpan
from storegate_engine.arrays.source_files import Inside, files_in, opened, problems_of, read_source
from storegate_engine.budget import Layout
from storegate_engine.dtypes import dtype_from_text, dtype_to_text
from storegate_engine.encodings import row_nbytes
from storegate_engine.errors import CorruptStoreError, StoreError
from storegate_engine.locations import Location
from storegate_engine.orders import spans
from storegate_engine.texts import TextSize, row_text_nbytes

__all__ = ["ForeignArray"]

Array: TypeAlias = np.ndarray[Any, Any]

TASK_NBYTES = 4 * 2**20
"""Rows that one thread reads at a time."""
NEAR_NBYTES = 64 * 2**10
"""Picked rows that lie this close together are one read."""
COUNTED_ROWS = 4096
"""Rows whose texts are counted at a time."""
TASK_GROUPS = 16
"""Groups of picked rows that one thread reads at a time."""


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
    text: TextSize | None = field(default=None, compare=False)
    """The size of variable-length text, counted when the files were attached; None for other dtypes."""

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
            **({} if self.text is None else {"text_nbytes": [self.text.nbytes, self.text.largest_nbytes]}),
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
            text = None
            if dtype.kind == "T":
                text = TextSize(*document["text_nbytes"])
                if any(type(n) is not int or not 0 <= n < 2**62 for n in (text.nbytes, text.largest_nbytes)):
                    raise ValueError("invalid sizes of its texts")
            return cls(
                known_format(document["foreign"]),
                document["inside"],
                files,
                dtype,
                row_shape,
                document["n_rows"],
                max(1, document["chunk_rows"]),
                tuple(roots),
                text,
            )
        except (KeyError, TypeError, ValueError) as err:
            raise CorruptStoreError(f"the manifest refers to files in a way that is not ours: {err}") from err

    def with_counted_text(self) -> ForeignArray:
        """Return the array with the size of its variable-length text, which no format tells: all texts are read."""
        if self.dtype.kind != "T":
            return self
        size = TextSize(0, 0)
        for lo, hi in spans(self.n_rows, max(self.chunk_rows, COUNTED_ROWS)):
            rows = np.empty((hi - lo, *self.row_shape), self.dtype)
            self.read_into(lo, hi, rows)
            size = size.with_rows(TextSize.of(row_text_nbytes(rows)))
        return replace(self, text=size)

    # Reading

    def read_into(self, start: int, stop: int, out: Array, /, *, alone: bool = False) -> None:
        """Read rows ``start..stop`` into ``out``."""
        self.read_spans([(start, stop, 0)], out, alone=alone)

    def read_spans(self, spans: Sequence[RowSpan], out: Array, /, *, alone: bool = False) -> None:
        """Read spans of rows to their places in ``out``; what a file decodes together is decoded once, if possible."""
        if not out.size:
            return
        if out.dtype != self.dtype or not out.flags.c_contiguous:
            rows = np.empty(out.shape, self.dtype)
            self.read_spans(spans, rows, alone=alone)
            out[...] = rows
            return
        here, elsewhere = [], []
        for at, parts in self._by_file(spans).items():
            source = files_in(self.files)[0][at]
            read = partial(read_source, self._inside, source)
            if alone or not opened(self._inside, source).is_parallel:
                here.append(partial(read, parts, out))
            else:
                elsewhere += [partial(read, part, out) for part in self._in_steps(parts)]
        run_tasks(here, here=True)
        if elsewhere:
            run_tasks(elsewhere)

    def take_into(self, rows: Array, out: Array, /, *, alone: bool = False) -> None:
        """Read ``rows`` into ``out``; what is decoded together is read once."""
        if not len(rows) or not out.size:
            return
        order = np.argsort(rows, kind="stable")
        wanted = rows[order]
        # rows that share a chunk of a file, or lie close together, are one read
        _, starts = files_in(self.files)
        file_of = np.searchsorted(starts, wanted, side="right") - 1
        chunk = max(self.chunk_rows, NEAR_NBYTES // max(1, self._row_nbytes))
        group = (wanted - starts[file_of]) // chunk
        cuts = [0, *(np.flatnonzero((np.diff(file_of) != 0) | (np.diff(group) != 0)) + 1).tolist(), len(wanted)]

        def take(groups: Sequence[int]) -> None:
            for first, last in pairwise(groups):
                lo = int(wanted[first])
                block = np.empty((int(wanted[last - 1]) + 1 - lo, *self.row_shape), self.dtype)
                self.read_into(lo, lo + len(block), block, alone=True)
                out[order[first:last]] = block[wanted[first:last] - lo]

        parts = range(0, len(cuts) - 1, TASK_GROUPS)
        run_tasks([partial(take, cuts[at : at + TASK_GROUPS + 1]) for at in parts], here=alone)

    def will_read(self, spans: Sequence[tuple[int, int]]) -> None:
        """Ask the system to fetch rows, given as firsts and ends, in ascending order: a hint."""
        for at, parts in self._by_file([(start, stop, 0) for start, stop in spans]).items():
            with contextlib.suppress(StoreError, OSError):  # reading raises it later
                opened(self._inside, files_in(self.files)[0][at]).will_read([(lo, hi) for lo, hi, _ in parts])

    def _by_file(self, spans: Sequence[RowSpan]) -> dict[int, list[RowSpan]]:
        """Return the rows of each file that spans name, with their places."""
        found: dict[int, list[RowSpan]] = {}
        _, starts = files_in(self.files)
        for start, stop, place in spans:
            lo, at = start, int(np.searchsorted(starts, start, side="right")) - 1
            while lo < stop:
                first, hi = int(starts[at]), min(stop, int(starts[at + 1]))
                if lo < hi:
                    found.setdefault(at, []).append((lo - first, hi - first, place + lo - start))
                lo, at = hi, at + 1
        return found

    def _in_steps(self, spans: Sequence[RowSpan]) -> Iterator[list[RowSpan]]:
        """Yield spans of a file in parts for threads; what is decoded together stays together."""
        step = max(1, TASK_NBYTES // max(1, self._row_nbytes) // self.chunk_rows) * self.chunk_rows
        parts: dict[int, list[RowSpan]] = {}
        for start, stop, place in spans:
            for number in range(start // step, -(-stop // step)):
                lo, hi = max(start, number * step), min(stop, (number + 1) * step)
                parts.setdefault(number, []).append((lo, hi, place + lo - start))
        yield from parts.values()

    @property
    def _inside(self) -> Inside:
        return Inside(self.form, self.inside, self.dtype, self.row_shape, self.roots)

    @property
    def _row_nbytes(self) -> int:
        return row_nbytes(self.dtype, self.row_shape)

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with each file: it cannot be opened, or was changed."""
        for source in files_in(self.files)[0]:
            yield from problems_of(self._inside, source)
