"""Bucket sorts: the rows of one variable, sorted into buckets by spill files; what one task does to bytes.

::

    request(k)   logical rows k·R2 .. (k+1)·R2: the stored rows they need, by scatter task; for orders with repeats
    scatter(p)   stored rows p·R1 .. (p+1)·R1: their destinations, counting-sorted by bucket (stable)
                 -> one file: header, then K parts of rows, one per bucket
    split(k)     parts k of all files of a coarse sort -> the files of a fine sort of the rows of bucket k
    collect(k)   logical rows k·R2 .. (k+1)·R2: their stored rows, sorted; part k of every file, placed

Parts are in ascending order of stored rows, so those of all files, concatenated, are a bucket's rows sorted by where
they are stored: no row number is ever written. Files are written under fresh names and renamed; a file that exists
is complete, and is not written again. Every task can be run again, anywhere.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.buffers import Workspace
from storegate_engine.errors import LabelError
from storegate_engine.exchange.sorts import BucketSort
from storegate_engine.exchange.spill_files import PartFile, write_from_slices, write_parts
from storegate_engine.integers import stable_argsort
from storegate_engine.table import Variable

__all__ = [
    "Destinations",
    "Placement",
    "Ranks",
    "collect",
    "destinations",
    "placement",
    "ranks",
    "request",
    "scatter",
    "split",
]

SLICE_NBYTES = 8 * 2**20
"""Rows of a part that are read and placed together."""
PARTS_AHEAD = 8
"""Parts that the disk is asked for before they are read."""

Array: TypeAlias = np.ndarray[Any, Any]
Destinations: TypeAlias = tuple[Array, Array]
"""The wanted rows of a scatter task, by bucket, and their number per bucket."""
Ranks: TypeAlias = tuple[Array, Array]
"""The places of a bucket's rows in stored order, and their stored rows."""
Placement: TypeAlias = tuple[Array, Array]
"""The places of a bucket's rows in the order of their spill, and the first one of each spill file."""


# ------------------------------------------------------------------------------
# Requests: for orders with repeated rows, whose inverse is not unique
# ------------------------------------------------------------------------------


def request(sort: BucketSort, bucket: int) -> None:
    """Write the stored rows that the logical rows of one bucket need, by scatter task; an existing file is kept."""
    path = sort.request_path(bucket)
    if path.exists():
        return
    sort.make_directory()
    lo, hi = sort.bucket_span(bucket)
    stored = sort.variable.order.rows(lo, hi)
    maps = stored // sort.map_rows
    sorting = stable_argsort(maps)
    # relative to the first row of the map and of the bucket, numbers are short
    pairs = np.empty((hi - lo, 2), np.uint32)
    pairs[:, 0] = stored - maps * sort.map_rows
    pairs[:, 1] = np.arange(hi - lo)
    counts = np.bincount(maps, minlength=sort.n_maps)
    write_parts(path, pairs, sorting, counts, Workspace(), spare=sort.spare(path))


def _requested(sort: BucketSort, number: int) -> tuple[Array, Array]:
    """Return the wanted stored rows of one scatter task, ascending and relative to its first, and their requesters."""
    sources, logical = [np.empty(0, np.uint32)], [np.empty(0, np.int64)]  # an epoch of no steps has no buckets
    for bucket in range(*sort.buckets):
        with sort.open_request(bucket, number) as file:
            pairs = np.empty((file.n_rows, 2), np.uint32)
            file.read(pairs)
        sources.append(pairs[:, 0].copy())
        logical.append(pairs[:, 1].astype(np.int64) + sort.bucket_span(bucket)[0])
    source, wanted = np.concatenate(sources), np.concatenate(logical)
    sorting = stable_argsort(source)  # requests for the same row are in logical order already
    return source[sorting].astype(np.int64), wanted[sorting]


# ------------------------------------------------------------------------------
# Scatter
# ------------------------------------------------------------------------------


def scatter(
    sort: BucketSort,
    number: int,
    space: Workspace,
    found: Destinations | None = None,
    *,
    rows: Array | None = None,
    alone: bool = False,
) -> None:
    """Write the rows of one scatter task by destination bucket; an existing file is kept.

    Parameters
    ----------
    sort : BucketSort
        The sort.
    number : int
        The number of the task, below ``n_maps``.
    space : Workspace
        Memory of an earlier task, to be reused.
    found : tuple of ndarray, optional
        The result of :func:`destinations`, if known.
    rows : ndarray, optional
        The stored rows of the task, if they are at hand.
    alone : bool
        Read in this thread, because other tasks run, too.

    Raises
    ------
    SpillError
        The file cannot be written (an OSError); the message says where, and how much space it needs.
    LabelError
        A label of a wanted row is outside its classes; the message names the logical row.
    """
    path = sort.map_path(number)
    if path.exists():
        return
    sort.make_directory()
    source, counts = found or destinations(sort, number)
    if rows is None:
        spilled = sort.spilled
        lo, hi = sort.map_span(number)
        rows = space.array("rows", (hi - lo, *spilled.row_shape), spilled.dtype)
        if len(source):
            _read_spilled(sort, number, spilled, source, rows, alone=alone)
    write_parts(path, rows, source, counts, space, spare=sort.spare(path), past_cache=sort.past_cache)


def _read_spilled(sort: BucketSort, number: int, spilled: Variable, wanted: Array, out: Array, *, alone: bool) -> None:
    """Read the rows of a scatter task; a bad label is an error only in a wanted row, which is named."""
    lo, hi = sort.map_span(number)
    try:
        spilled.read_into(lo, hi, out, alone=alone)
    except LabelError:
        for row in np.unique(wanted).tolist():
            try:
                out[row] = spilled.read(lo + row, lo + row + 1)[0]
            except LabelError as err:
                raise err.at_row(_logical_row(sort, number, row), sort.variable.name) from err


def _logical_row(sort: BucketSort, number: int, row: int) -> int:
    """Return the first logical row that needs a stored row of a scatter task."""
    order = sort.variable.order
    if order.is_injective:
        lo, _ = sort.map_span(number)
        return int(order.positions(lo + row, lo + row + 1)[0])
    source, logical = _requested(sort, number)
    return int(logical[source == row].min())


def destinations(sort: BucketSort, number: int) -> Destinations:
    """Return the wanted rows of a scatter task, relative to its first, by bucket, and their number per bucket.

    They are the same for all sorts of an order with tasks and buckets of the same size. The sort is stable, so that
    rows of one bucket stay in stored order: :func:`collect` depends on it.
    """
    (first, last), (lo, hi) = sort.buckets, sort.map_span(number)
    if sort.variable.order.is_injective:
        logical = sort.variable.order.positions(lo, hi)
        source = np.arange(hi - lo, dtype=np.int64)
    else:
        source, logical = _requested(sort, number)
    bucket = sort.buckets_of(logical)
    wanted = (logical >= 0) & (bucket >= first) & (bucket < last)
    rows, bucket = source[wanted], bucket[wanted] - first
    return rows[stable_argsort(bucket)], np.bincount(bucket, minlength=sort.n_buckets)


# ------------------------------------------------------------------------------
# Split: the pass between scatter and collect, if there are three
# ------------------------------------------------------------------------------


def split(coarse: BucketSort, fine: BucketSort, number: int, space: Workspace) -> None:
    """Sort one bucket of a sort into the smaller buckets of another, whose files are written instead of a scatter.

    Parameters
    ----------
    coarse : BucketSort
        Its files are read.
    fine : BucketSort
        Its files are written, except existing ones; its buckets are those within the one of ``coarse``.
    number : int
        The bucket of ``coarse``.
    space : Workspace
        Memory of an earlier task, to be reused.

    Raises
    ------
    CorruptStoreError, SpillError
        See :func:`collect` and :func:`scatter`.
    """
    # A bucket of the coarse sort is a part of each of its files. Several of these parts make one file of the fine sort:
    #
    #     coarse, this bucket    | of file 0 | of file 1 | of file 2 | of file 3 |      stored order
    #     fine files             | 0                     | 1                     |      maps = 2
    #     parts of each          | its buckets, in the order in which rows are stored
    missing = [at for at in range(fine.n_maps) if not fine.map_path(at).exists()]
    if not missing:
        return
    fine.make_directory()
    places, cuts = placement(coarse, ranks(coarse, number))
    spilled = coarse.spilled
    maps = fine.map_rows // coarse.map_rows
    step = max(1, SLICE_NBYTES // max(1, spilled.row_nbytes))
    buffer = space.array("slice", (min(step, len(places)), *spilled.row_shape), spilled.dtype)
    bucket = places // fine.bucket_rows

    def slices(first: int, last: int) -> Iterator[tuple[Array, Array]]:
        for source in range(first, last):
            n_rows = int(cuts[source + 1] - cuts[source])
            if n_rows:
                with coarse.open_map(source, number) as file:
                    file.require_rows(n_rows)
                    for lo, rows in file.slices(buffer):
                        begin = int(cuts[source]) + lo
                        yield rows, bucket[begin : begin + len(rows)]

    for at in missing:
        first, last = at * maps, min((at + 1) * maps, coarse.n_maps)
        counts = np.bincount(bucket[int(cuts[first]) : int(cuts[last])], minlength=fine.n_buckets)
        write_from_slices(fine.map_path(at), counts, spilled.row_nbytes, slices(first, last))


# ------------------------------------------------------------------------------
# Collect
# ------------------------------------------------------------------------------


def collect(
    sort: BucketSort,
    bucket: int,
    space: Workspace,
    found: Placement | None = None,
    *,
    placed: Callable[[Array], None] = lambda rows: None,
) -> Array:
    """Return the logical rows of one bucket, from its part of every spill file.

    They are in the memory of ``space``, valid until its next task. ``found`` is what :func:`placement` returns, and
    ``placed`` is called with the rows as they were spilled.

    Raises
    ------
    CorruptStoreError
        A file is missing, too short or damaged; the message names it.
    LabelError
        A label is outside its classes; the message names the logical row.
    """
    (lo, hi), spilled = sort.bucket_span(bucket), sort.spilled
    places, cuts = found or placement(sort, ranks(sort, bucket))
    out = space.array("rows", (hi - lo, *spilled.row_shape), spilled.dtype)
    # if rows hardly move, a part is as long as the bucket: it is placed slice by slice
    widest = min(int(np.diff(cuts).max(initial=0)), max(1, SLICE_NBYTES // max(1, spilled.row_nbytes)))
    buffer = space.array("slice", (widest, *spilled.row_shape), spilled.dtype)
    for first, file in _opened_ahead(sort, bucket, cuts):
        for at, rows in file.slices(buffer):
            out[places[first + at : first + at + len(rows)]] = rows
    placed(out)
    return sort.variable.transformed_rows(out, lo) if sort.transforms_last else out


def _opened_ahead(sort: BucketSort, bucket: int, cuts: Array) -> Iterator[tuple[int, PartFile]]:
    """Yield the parts of a bucket, with the place of their first rows; the disk reads the next ones meanwhile."""
    opened: deque[tuple[int, PartFile]] = deque()
    row_nbytes = sort.spilled.row_nbytes
    with contextlib.ExitStack() as stack:
        for source in range(sort.n_maps):
            first, last = int(cuts[source]), int(cuts[source + 1])
            if first == last:
                continue
            file = stack.enter_context(sort.open_map(source, bucket))
            file.require_rows(last - first)
            file.will_read(row_nbytes)
            opened.append((first, file))
            if len(opened) > PARTS_AHEAD:
                yield opened[0]
                opened.popleft()[1].close()
        while opened:
            yield opened[0]
            opened.popleft()[1].close()


def ranks(sort: BucketSort, bucket: int) -> Ranks:
    """Return the places of a bucket's rows in stored order, and their stored rows.

    They are the same for all sorts of an order with buckets of one size, and a large part of collecting narrow rows.
    """
    # Spill files have the rows of a bucket in stored order, without their places: sorted in the same way, the bucket's
    # own rows come in the same order, so the n-th row of the files belongs at places[n].
    stored = sort.variable.order.rows(*sort.bucket_span(bucket))
    places = stable_argsort(stored)
    return places, stored[places]


def placement(sort: BucketSort, found: Ranks) -> Placement:
    """Return the places of a bucket's rows in the order of their spill, and the first one of each spill file."""
    places, ascending = found
    bounds = sort.map_bounds
    if bounds is None:
        bounds = np.arange(sort.n_maps + 1, dtype=np.int64) * sort.map_rows
    return places, np.searchsorted(ascending, bounds)
