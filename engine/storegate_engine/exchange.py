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

import contextlib
import math
import os
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from google_crc32c import value as crc32c

from storegate_engine.arrays import ConstantArray, MemoryArray, StoredArray
from storegate_engine.budget import format_nbytes
from storegate_engine.errors import CorruptStoreError, NotInvertibleError, SpillError
from storegate_engine.orders import Concat, Permute, Range, RowOrder, Slice, Take
from storegate_engine.plans import COPIES, Plan, Rows, choose
from storegate_engine.settings import scratch_directory, shuffle_plan
from storegate_engine.table import Piece, Variable

__all__ = [
    "Exchange",
    "Workspace",
    "collect",
    "destinations",
    "is_invertible",
    "pass_row_nbytes",
    "placement",
    "plan_rows",
    "request",
    "scatter",
    "scratch_of",
    "split",
]

Array: TypeAlias = np.ndarray[Any, Any]

_MAGIC = np.frombuffer(b"SGSPILL1", "u1")
_WRITE_NBYTES = 8 * 2**20
"""Rows are gathered and written this many bytes at a time."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What every task of one exchange knows; small and picklable."""

    variable: Variable
    """The rows and their order."""
    map_rows: int
    """Stored rows of one scatter task (R1)."""
    bucket_rows: int
    """Logical rows of one bucket (R2)."""
    directory: str
    """Where the spill lies."""
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
        first = self.variable.pieces[0]
        return (
            bool(first.transforms) and self.variable.is_uniform and first.source_row_nbytes < self.variable.row_nbytes
        )

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
    """
    is_fixed = bool(variable.pieces) and variable.dtype.kind != "T"  # variable-length text cannot be spilled
    rows = Rows(
        n_rows,
        variable.offsets[-1],
        pass_row_nbytes(variable),
        in_order=in_order or not is_fixed,
        random_access=all(isinstance(piece.array, (MemoryArray, ConstantArray)) for piece in variable.pieces),
    )
    return choose(
        rows,
        budget_nbytes=budget_nbytes,
        workers=workers,
        align=-(-max([align, *(piece.array.chunk_rows for piece in variable.pieces)]) // align) * align,
        bucket_rows=bucket_rows,
        force=shuffle_plan(),
        copies=copies,
        passes=passes,
    )


def pass_row_nbytes(variable: Variable) -> int:
    """Return the bytes of one row in a pass: the wider one of stored and wanted."""
    return max(variable.row_nbytes, *(piece.source_row_nbytes for piece in variable.pieces), 1)


def is_invertible(order: RowOrder) -> bool:
    """Return whether no stored row is wanted twice, as far as the order's form tells."""
    match order:
        case Concat(parts):
            return all(is_invertible(part) for part in parts)
        case Slice(inner) | Permute(inner):
            return is_invertible(inner)
        case Take():
            return False
    return True


def scratch_of(variable: Variable) -> Path:
    """Return where the spill of a variable lies: where it is configured, in its store, or in the system's scratch."""
    if (configured := scratch_directory()) is not None:
        return configured
    for piece in variable.pieces:
        if isinstance(piece.array, StoredArray) and (segment := piece.array.location.path) is not None:
            table = segment.parents[1]
            if os.access(table, os.W_OK):
                return table / "scratch"
    return Path(tempfile.gettempdir()) / "storegate-scratch"


class Workspace:
    """Arrays that the tasks of one thread use one after the other: memory that is touched already is fast."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def array(self, use: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array with any content, valid until the next one for the same use."""
        nbytes = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(use)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self._buffers[use] = np.empty(nbytes, "u1")
        return buffer[:nbytes].view(dtype).reshape(shape)


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
    source, counts = found or destinations(exchange, number)
    spilled = exchange.spilled
    space = workspace or Workspace()
    if rows is None:
        lo, hi = _map_span(exchange, number)
        rows = space.array("rows", (hi - lo, *spilled.row_shape), spilled.dtype)
        if len(source):
            spilled.read_into(lo, hi, rows)
    _write(path, rows, source, counts, space)
    return path.name


def destinations(exchange: Exchange, number: int) -> tuple[Array, Array]:
    """Return the wanted rows of a scatter task, counted from its first, by bucket, and how many each bucket gets."""
    first, last = exchange.buckets
    lo, hi = _map_span(exchange, number)
    try:
        logical = exchange.variable.order.positions(lo, hi)
        source = np.arange(hi - lo, dtype=np.int64)
    except NotInvertibleError:
        requested = _read_requests(exchange, number)
        sorting = np.lexsort((requested[1], requested[0]))
        source, logical = requested[0][sorting] - lo, requested[1][sorting]
    bucket = logical // exchange.bucket_rows
    wanted = (logical >= 0) & (bucket >= first) & (bucket < last)
    return _by_bucket(source[wanted], bucket[wanted] - first, exchange.n_buckets)


def _by_bucket(rows: Array, bucket: Array, n_buckets: int) -> tuple[Array, Array]:
    """Return rows sorted by bucket, those of one bucket in the order in which they came, and their counts."""
    keys = bucket.astype(np.uint16 if n_buckets <= 2**16 else np.int64)  # 16 bits are sorted in linear time
    return rows[np.argsort(keys, kind="stable")], np.bincount(keys, minlength=n_buckets)


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
    places, cuts = placement(coarse, number)
    space = workspace or Workspace()
    spilled = coarse.spilled
    maps = fine.map_rows // coarse.map_rows
    for at in missing:
        first, last = at * maps, min((at + 1) * maps, coarse.n_maps)
        lo, hi = int(cuts[first]), int(cuts[last])
        rows = space.array("rows", (hi - lo, *spilled.row_shape), spilled.dtype)
        for source in range(first, last):
            _read_part(coarse, source, number, rows[cuts[source] - lo : cuts[source + 1] - lo])
        bucket = places[lo:hi] // fine.bucket_rows
        _write(fine.map_path(at), rows, *_by_bucket(np.arange(hi - lo), bucket, fine.n_buckets), space)


def request(exchange: Exchange, number: int) -> str:
    """Write which stored rows the logical rows of one bucket ask for, by scatter task: for orders with repeats."""
    name = f"request-{number:06d}"
    path = exchange.path(name)
    if not path.exists():
        lo, hi = _bucket_span(exchange, number)
        stored = exchange.variable.order.rows(lo, hi)
        maps = stored // exchange.map_rows
        sorting = np.argsort(maps, kind="stable")
        pairs = np.stack([stored, np.arange(lo, hi)], axis=1)
        _write(path, pairs, sorting, np.bincount(maps, minlength=exchange.n_maps), Workspace())
    return name


def _read_requests(exchange: Exchange, number: int) -> Array:
    parts = []
    for at in range(exchange.n_buckets):
        path = exchange.path(f"request-{exchange.buckets[0] + at:06d}")
        offsets, checksums = _read_header(path, exchange.n_maps)
        part = np.empty((int(offsets[number + 1] - offsets[number]), 2), np.int64)
        _read_segment(path, number, offsets, checksums, part)
        parts.append(part)
    return np.concatenate(parts).T


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
    """
    lo, hi = _bucket_span(exchange, number)
    spilled = exchange.spilled
    places, cuts = found or placement(exchange, number)
    space = workspace or Workspace()
    out = space.array("rows", (hi - lo, *spilled.row_shape), spilled.dtype)
    widest = int(np.diff(cuts).max(initial=0))
    buffer = space.array("part", (widest, *spilled.row_shape), spilled.dtype)
    for at in range(exchange.n_maps):
        rows = buffer[: cuts[at + 1] - cuts[at]]
        _read_part(exchange, at, number, rows)
        out[places[cuts[at] : cuts[at + 1]]] = rows
    return exchange.variable.transformed_rows(out, lo) if exchange.transforms_last else out


def placement(exchange: Exchange, number: int) -> tuple[Array, Array]:
    """Return the places of a bucket's rows, in the order of their spill, and where each spill file's begin there."""
    stored = exchange.variable.order.rows(*_bucket_span(exchange, number))
    places = np.argsort(stored, kind="stable")
    bounds = np.arange(exchange.n_maps + 1, dtype=np.int64) * exchange.map_rows
    return places, np.searchsorted(stored[places], bounds)


def _read_part(exchange: Exchange, source: int, bucket: int, out: Array) -> None:
    """Read the rows that one spill file has for a bucket."""
    if len(out):
        path = exchange.map_path(source)
        offsets, checksums = _read_header(path, exchange.n_buckets)
        _read_segment(path, bucket - exchange.buckets[0], offsets, checksums, out)


def _map_span(exchange: Exchange, number: int) -> tuple[int, int]:
    lo = number * exchange.map_rows
    return lo, min(lo + exchange.map_rows, exchange.variable.offsets[-1])


def _bucket_span(exchange: Exchange, number: int) -> tuple[int, int]:
    lo = number * exchange.bucket_rows
    return lo, min(lo + exchange.bucket_rows, len(exchange.variable))


def _write(path: Path, values: Array, rows: Array, counts: Array, space: Workspace) -> None:
    """Write ``values[rows]`` as consecutive segments of ``counts`` rows, under a fresh name, then rename."""
    row_nbytes = values.nbytes // len(values) if len(values) else 0
    ends = np.cumsum(counts)
    offsets = np.concatenate([[0], ends]).astype(np.int64)
    checksums = np.zeros(len(counts), np.uint32)
    header_nbytes = _header_nbytes(len(counts))
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(fresh, "wb", buffering=0) as file:
            file.seek(header_nbytes)
            first = 0
            while first < len(counts):  # as many whole segments as are gathered at a time, one at least
                room = offsets[first] + max(1, min(_WRITE_NBYTES, values.nbytes // 4) // max(1, row_nbytes))
                last = max(first + 1, int(np.searchsorted(ends, room, side="right")))
                wanted = rows[offsets[first] : offsets[last]]
                gathered = space.array("part", (len(wanted), *values.shape[1:]), values.dtype)
                np.take(values, wanted, axis=0, out=gathered, mode="clip")  # "raise" would go through a buffer
                for at in range(first, last):
                    part = gathered[offsets[at] - offsets[first] : offsets[at + 1] - offsets[first]]
                    checksums[at] = crc32c(_as_bytes(part))
                _write_all(file, _as_bytes(gathered))
                first = last
            body = np.concatenate([offsets.view("u1"), checksums.view("u1")])
            file.seek(0)
            _write_all(file, np.concatenate([_MAGIC, body, np.array([crc32c(body)], np.uint32).view("u1")]))
        os.replace(fresh, path)
    except OSError as err:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        needed = header_nbytes + len(rows) * row_nbytes
        raise SpillError(
            f"spill file {path} of {format_nbytes(needed)} cannot be written: {err.strerror or err}; free space there, "
            "or set storegate.scratch-directory to a larger disk"
        ) from err


def _write_all(file: Any, content: Array) -> None:
    view = memoryview(content.data)
    while view:
        view = view[file.write(view) :]


def _as_bytes(rows: Array) -> Array:
    return np.ascontiguousarray(rows).reshape(-1).view("u1") if rows.size else np.empty(0, "u1")


def _header_nbytes(n_segments: int) -> int:
    return len(_MAGIC) + 8 * (n_segments + 1) + 4 * n_segments + 4


def _read_header(path: Path, n_segments: int) -> tuple[Array, Array]:
    """Return the offsets and checksums of a spill file's segments."""
    header = np.empty(_header_nbytes(n_segments), "u1")
    _read_exactly(path, 0, header)
    body = header[len(_MAGIC) : -4]
    if (header[: len(_MAGIC)] != _MAGIC).any() or crc32c(body) != int(header[-4:].view(np.uint32)[0]):
        raise CorruptStoreError(f"spill file {path} is not what was written: its header does not match its checksum")
    split = 8 * (n_segments + 1)
    return body[:split].copy().view(np.int64), body[split:].copy().view(np.uint32)


def _read_segment(path: Path, number: int, offsets: Array, checksums: Array, out: Array) -> None:
    """Read one segment into ``out``; check its length and checksum."""
    n_rows = int(offsets[number + 1] - offsets[number])
    if n_rows != len(out):
        raise CorruptStoreError(f"spill file {path}: segment {number} has {n_rows} rows, expected {len(out)}")
    if not out.size:
        return
    row_nbytes = out.nbytes // len(out)
    content = out.reshape(-1).view("u1")
    _read_exactly(path, _header_nbytes(len(checksums)) + int(offsets[number]) * row_nbytes, content)
    if crc32c(content) != int(checksums[number]):
        raise CorruptStoreError(f"spill file {path}: segment {number} is not what was written")


def _read_exactly(path: Path, start: int, out: Array) -> None:
    view = memoryview(out.data)
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            while view:
                count = file.readinto(view)
                if not count:
                    raise CorruptStoreError(f"spill file {path} is shorter than what was written")
                view = view[count:]
    except FileNotFoundError as err:
        raise CorruptStoreError(f"spill file {path} is missing") from err
