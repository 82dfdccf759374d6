"""Exchange: an exact permutation of more rows than memory holds, in passes over spill files; knows no graph.

::

    scatter(p)   stored rows p·R1 .. (p+1)·R1: their destinations, counting-sorted by bucket (stable)
                 -> one file: header, then K segments of rows, one for every bucket
    collect(k)   logical rows k·R2 .. (k+1)·R2: their stored rows, sorted; segment k of every file, placed

Segments are in ascending order of stored rows, so those of all files, end to end, are a bucket's rows sorted by
where they are stored: no row number is ever written. Files are written under fresh names and renamed; a file that
is there is whole. Every task can be run again, anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrays import ConstantArray, MemoryArray, StoredArray
from storegate_engine.buffers import Workspace
from storegate_engine.errors import LabelError
from storegate_engine.exchange.plans import COPIES, Plan, Rows, choose
from storegate_engine.exchange.spill_files import SegmentFile, write_parts, write_segments
from storegate_engine.integers import stable_argsort
from storegate_engine.orders import Range
from storegate_engine.scratch import SPARE, Spill, Visit, user_scratch
from storegate_engine.settings import scratch_directory, shuffle_plan
from storegate_engine.table import Piece, Variable

__all__ = [
    "Arrangement",
    "Exchange",
    "arrangement",
    "collect",
    "destinations",
    "moved_row_nbytes",
    "placement",
    "plan_rows",
    "request",
    "scatter",
    "scratch_of",
    "spill_row_nbytes",
    "split",
]

PART_NBYTES = 8 * 2**20
"""Rows of a segment that are read and placed together."""

Array: TypeAlias = np.ndarray[Any, Any]
Arrangement: TypeAlias = tuple[Array, Array]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What every task of one exchange knows; small and picklable."""

    variable: Variable
    """The rows and their order."""
    map_rows: int
    """Stored rows of one scatter task (R1)."""
    bucket_rows: int
    """Logical rows of one bucket (R2)."""
    directory: str | Spill | Visit
    """Where the spill lies: a directory of the caller's, or of a plan, which is there for as long as this is."""
    buckets: tuple[int, int]
    """The first wanted bucket, and the one after the last."""
    prefix: str = "map"
    """How its files are called."""

    @property
    def n_maps(self) -> int:
        """The number of scatter tasks (P)."""
        return -(-self.variable.offsets[-1] // self.map_rows)

    @property
    def n_buckets(self) -> int:
        """The number of wanted buckets (K)."""
        return self.buckets[1] - self.buckets[0]

    @property
    def transforms_last(self) -> bool:
        """Whether rows are spilled as they are stored and transformed when they are collected."""
        return _transforms_last(self.variable)

    @property
    def spilled(self) -> Variable:
        """The stored rows in the form in which they are spilled: the narrower one of stored and transformed."""
        variable = self.variable
        everything = Range(0, variable.offsets[-1])
        if not self.transforms_last:
            return variable.stored_rows()
        raw = tuple(Piece(piece.array, piece.start, piece.stop) for piece in variable.pieces)
        return Variable(variable.name, raw[0].array.dtype, raw[0].array.row_shape, raw, everything)

    def path(self, name: str) -> Path:
        """Return the path of one spill file."""
        return Path(self.directory, name)

    def make_directory(self) -> None:
        """Make a directory of the caller's; that of a plan is there, or its user has ended."""
        if isinstance(self.directory, str):
            os.makedirs(self.directory, mode=0o700, exist_ok=True)

    def request_path(self, bucket: int) -> Path:
        """Return the path of what one bucket asks for."""
        return self.path(f"{self.prefix}-request-{bucket:06d}")

    def open(self, name: str, number: int, n_segments: int) -> SegmentFile:
        """Open a segment of a spill file to read; in a plan's directory nobody else's is believed."""
        owner = None if isinstance(self.directory, str) else self.directory.owner
        return SegmentFile(self.path(name), number, n_segments, owner=owner)

    def open_map(self, number: int, bucket: int) -> SegmentFile:
        """Open what one scatter task wrote for a bucket."""
        return self.open(self.map_path(number).name, bucket - self.buckets[0], self.n_buckets)

    def map_path(self, number: int) -> Path:
        """Return the path of what one scatter task writes."""
        return self.path(f"{self.prefix}-{number:06d}")


def plan_rows(
    variable: Variable,
    n_rows: int,
    budget_nbytes: int,
    workers: int,
    *,
    in_order: bool,
    align: int = 1,
    bucket_rows: int | None = None,
    copies: float = COPIES,
    passes: int = 2,
    force: str | None = None,
) -> Plan:
    """Return how ``n_rows`` rows of a variable are read; see `plans`.

    Parameters
    ----------
    variable : Variable
        Whose rows.
    n_rows : int
        How many of them.
    budget_nbytes, workers : int
        Memory, and tasks that share it.
    in_order : bool
        Whether they are wanted as they are stored.
    align : int
        Rows of a shard that is written.
    bucket_rows : int, optional
        Rows of a block of a dask graph.
    copies : float
        Copies of its rows that a task holds.
    passes : {2, 3}
        The most passes of an exchange.
    force : str, optional
        See `choose`; default: what is configured.
    """
    is_fixed = bool(variable.pieces) and variable.dtype.kind != "T"  # variable-length text cannot be spilled
    rows = Rows(
        n_rows,
        variable.offsets[-1],
        moved_row_nbytes(variable),
        in_order=in_order or not is_fixed,
        random_access=all(isinstance(piece.array, (MemoryArray, ConstantArray)) for piece in variable.pieces),
        spill_row_nbytes=spill_row_nbytes(variable),
        chunk_rows=max((piece.array.chunk_rows for piece in variable.pieces), default=1),
        chunk_nbytes=max((piece.chunk_nbytes for piece in variable.pieces), default=0),
    )
    return choose(
        rows,
        budget_nbytes=budget_nbytes,
        workers=workers,
        align=align,
        bucket_rows=bucket_rows,
        force=shuffle_plan() if force is None else force,
        copies=copies,
        passes=passes,
    )


TEXT_COPIES = 2.5
"""What a row of text takes while it is decoded or encoded, for each copy of it that is counted: as Python's texts, as
numpy's and as bytes (measured)."""


def moved_row_nbytes(variable: Variable) -> int:
    """Return the bytes of one row in a pass, for each copy of it that is counted."""
    return max(1, int(variable.row_nbytes * (TEXT_COPIES if variable.dtype.kind == "T" else 1)))


def spill_row_nbytes(variable: Variable) -> int:
    """Return the bytes of one row as it is spilled: as it is stored, or as it is wanted where that is narrower."""
    return max(1, variable.pieces[0].source_row_nbytes if _transforms_last(variable) else variable.row_nbytes)


def _transforms_last(variable: Variable) -> bool:
    """Return whether rows are spilled as they are stored and transformed when they are collected."""
    if not variable.pieces or not variable.pieces[0].transforms or not variable.is_uniform:
        return False
    return variable.pieces[0].source_row_nbytes < variable.row_nbytes


def scratch_of(variable: Variable, configured: Path | None = None) -> Path:
    """Return where the spill of a variable lies: where it is configured, in its store, or in the system's scratch."""
    if (place := configured or scratch_directory()) is not None:
        return place
    for piece in variable.pieces:
        if isinstance(piece.array, StoredArray) and (segment := piece.array.location.path) is not None:
            table = segment.parents[1]
            if os.access(table, os.W_OK):
                return table / "scratch"
    return user_scratch()


def scatter(
    exchange: Exchange,
    number: int,
    found: tuple[Array, Array] | None = None,
    *,
    rows: Array | None = None,
    workspace: Workspace | None = None,
) -> str:
    """Write the rows of one scatter task by destination bucket; a file that is there already is left.

    Parameters
    ----------
    exchange : Exchange
        The plan.
    number : int
        Which of the ``n_maps`` tasks.
    found : tuple of ndarray, optional
        What :func:`destinations` returned for it.
    rows : ndarray, optional
        Its stored rows, where they are at hand.
    workspace : Workspace, optional
        Memory of an earlier task to use again.

    Returns
    -------
    str
        The file's name.

    Raises
    ------
    SpillError
        The file cannot be written (an OSError); it says how much was needed where.
    """
    path = exchange.map_path(number)
    if path.exists():
        return path.name
    exchange.make_directory()
    source, counts = found or destinations(exchange, number)
    spilled = exchange.spilled
    space = workspace or Workspace()
    if rows is None:
        lo, hi = _map_span(exchange, number)
        rows = space.array("rows", (hi - lo, *spilled.row_shape), spilled.dtype)
        if len(source):
            _read_spilled(exchange, number, spilled, source, rows)
    write_segments(path, rows, source, counts, space, spare=exchange.path(SPARE) / path.name)
    return path.name


def _read_spilled(exchange: Exchange, number: int, spilled: Variable, wanted: Array, out: Array) -> None:
    """Read the rows of a scatter task; a bad label is an error only in a row that somebody wants, which is named."""
    lo, hi = _map_span(exchange, number)
    try:
        spilled.read_into(lo, hi, out)
    except LabelError:
        for row in np.unique(wanted).tolist():
            try:
                out[row] = spilled.read(lo + row, lo + row + 1)[0]
            except LabelError as err:
                raise err.at_row(_logical_row(exchange, number, row), exchange.variable.name) from err


def _logical_row(exchange: Exchange, number: int, row: int) -> int:
    """Return the first logical row for which a stored row of a scatter task is wanted."""
    order = exchange.variable.order
    if order.is_injective:
        lo, _ = _map_span(exchange, number)
        return int(order.positions(lo + row, lo + row + 1)[0])
    source, logical = _read_requests(exchange, number)
    return int(logical[source == row].min())


def destinations(exchange: Exchange, number: int) -> tuple[Array, Array]:
    """Return the wanted rows of a scatter task, counted from its first, by bucket, and how many each bucket gets."""
    first, last = exchange.buckets
    lo, hi = _map_span(exchange, number)
    if exchange.variable.order.is_injective:
        logical = exchange.variable.order.positions(lo, hi)
        source = np.arange(hi - lo, dtype=np.int64)
    else:
        source, logical = _read_requests(exchange, number)
    bucket = logical // exchange.bucket_rows
    wanted = (logical >= 0) & (bucket >= first) & (bucket < last)
    return _by_bucket(source[wanted], bucket[wanted] - first, exchange.n_buckets)


def _by_bucket(rows: Array, bucket: Array, n_buckets: int) -> tuple[Array, Array]:
    """Return rows sorted by bucket, those of one bucket in the order in which they came, and their counts."""
    return rows[stable_argsort(bucket)], np.bincount(bucket, minlength=n_buckets)


def split(coarse: Exchange, fine: Exchange, number: int, *, workspace: Workspace | None = None) -> None:
    """Sort one bucket of an exchange into the smaller buckets of another: the pass between scatter and collect.

    Parameters
    ----------
    coarse : Exchange
        Its spill is read.
    fine : Exchange
        Its spill is written, in place of a scatter; its buckets are those within the one of ``coarse``.
    number : int
        The bucket of ``coarse``.
    workspace : Workspace, optional
        Memory of an earlier task to use again.

    Raises
    ------
    CorruptStoreError, SpillError
        As :func:`collect` and :func:`scatter`.
    """
    missing = [at for at in range(fine.n_maps) if not fine.map_path(at).exists()]
    if not missing:
        return
    fine.make_directory()
    places, cuts = placement(coarse, number)
    space = workspace or Workspace()
    spilled = coarse.spilled
    maps = fine.map_rows // coarse.map_rows
    step = max(1, PART_NBYTES // max(1, spilled.row_nbytes))
    buffer = space.array("part", (min(step, len(places)), *spilled.row_shape), spilled.dtype)
    bucket = places // fine.bucket_rows

    def parts(first: int, last: int) -> Iterator[tuple[Array, Array]]:
        for source in range(first, last):
            n_rows = int(cuts[source + 1] - cuts[source])
            if n_rows:
                with coarse.open_map(source, number) as file:
                    file.require_rows(n_rows)
                    for lo, rows in file.parts(buffer):
                        begin = int(cuts[source]) + lo
                        yield rows, bucket[begin : begin + len(rows)]

    for at in missing:
        first, last = at * maps, min((at + 1) * maps, coarse.n_maps)
        counts = np.bincount(bucket[int(cuts[first]) : int(cuts[last])], minlength=fine.n_buckets)
        write_parts(fine.map_path(at), counts, spilled.row_nbytes, parts(first, last))


def request(exchange: Exchange, number: int) -> str:
    """Write which stored rows the logical rows of one bucket ask for, by scatter task: for orders with repeats."""
    path = exchange.request_path(number)
    if not path.exists():
        exchange.make_directory()
        lo, hi = _bucket_span(exchange, number)
        stored = exchange.variable.order.rows(lo, hi)
        maps = stored // exchange.map_rows
        sorting = stable_argsort(maps)
        # counted from the first row of the map and of the bucket, they are short numbers
        pairs = np.empty((hi - lo, 2), np.uint32)
        pairs[:, 0] = stored - maps * exchange.map_rows
        pairs[:, 1] = np.arange(hi - lo)
        counts = np.bincount(maps, minlength=exchange.n_maps)
        write_segments(path, pairs, sorting, counts, Workspace(), spare=exchange.path(SPARE) / path.name)
    return path.name


def _read_requests(exchange: Exchange, number: int) -> tuple[Array, Array]:
    """Return the stored rows of one scatter task, ascending, counted from its first, and who wants them."""
    sources, logical = [], []
    for bucket in range(*exchange.buckets):
        with exchange.open(exchange.request_path(bucket).name, number, exchange.n_maps) as file:
            part = np.empty((file.n_rows, 2), np.uint32)
            file.read(part)
        sources.append(part[:, 0].copy())
        logical.append(part[:, 1].astype(np.int64) + bucket * exchange.bucket_rows)
    source, wanted = np.concatenate(sources), np.concatenate(logical)
    sorting = stable_argsort(source)  # who wants a row twice is in logical order already
    return source[sorting].astype(np.int64), wanted[sorting]


def collect(
    exchange: Exchange,
    number: int,
    found: tuple[Array, Array] | None = None,
    *,
    workspace: Workspace | None = None,
) -> Array:
    """Return the logical rows of one bucket, from segment ``number`` of every spill file.

    With a ``workspace`` the rows are in its memory, and valid until its next task. ``found`` is what
    :func:`placement` returned for the bucket.

    Raises
    ------
    CorruptStoreError
        A file is missing, shorter than it was, or not what was written; it is named.
    LabelError
        A label is outside of its classes; its logical row is named.
    """
    lo, hi = _bucket_span(exchange, number)
    spilled = exchange.spilled
    places, cuts = found or placement(exchange, number)
    space = workspace or Workspace()
    out = space.array("rows", (hi - lo, *spilled.row_shape), spilled.dtype)
    # a segment is as long as the bucket where rows hardly move: it is placed part by part
    widest = min(int(np.diff(cuts).max(initial=0)), max(1, PART_NBYTES // max(1, spilled.row_nbytes)))
    buffer = space.array("part", (widest, *spilled.row_shape), spilled.dtype)
    for source in range(exchange.n_maps):
        first, last = int(cuts[source]), int(cuts[source + 1])
        if first == last:
            continue
        with exchange.open_map(source, number) as file:
            file.require_rows(last - first)
            for at, rows in file.parts(buffer):
                out[places[first + at : first + at + len(rows)]] = rows
    return exchange.variable.transformed_rows(out, lo) if exchange.transforms_last else out


def placement(exchange: Exchange, number: int, found: Arrangement | None = None) -> tuple[Array, Array]:
    """Return the places of a bucket's rows, in the order of their spill, and where each spill file's begin there."""
    places, ascending = found or arrangement(exchange, number)
    bounds = np.arange(exchange.n_maps + 1, dtype=np.int64) * exchange.map_rows
    return places, np.searchsorted(ascending, bounds)


def arrangement(exchange: Exchange, number: int) -> Arrangement:
    """Return the places of a bucket's rows as they are sorted by where they are stored, and where that is.

    It is the same for all exchanges of an order in buckets of one size, and a large part of collecting narrow rows.
    """
    stored = exchange.variable.order.rows(*_bucket_span(exchange, number))
    places = stable_argsort(stored)
    return places, stored[places]


def _map_span(exchange: Exchange, number: int) -> tuple[int, int]:
    lo = number * exchange.map_rows
    return lo, min(lo + exchange.map_rows, exchange.variable.offsets[-1])


def _bucket_span(exchange: Exchange, number: int) -> tuple[int, int]:
    lo = number * exchange.bucket_rows
    return lo, min(lo + exchange.bucket_rows, len(exchange.variable))
