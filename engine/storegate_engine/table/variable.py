"""Variables: stored rows and their logical order, and pure operations on them; never writes.

The stored rows of a variable are those of its pieces, concatenated; its order gives the stored row of each logical row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from storegate_engine import orders
from storegate_engine.arrays import Held, RowArray, RowSpan
from storegate_engine.casts import combined
from storegate_engine.encodings import row_nbytes
from storegate_engine.errors import DtypeError, LabelError, MemoryBudgetError, ShapeError
from storegate_engine.orders import Range, RowIndex, RowOrder, Take, join_runs, spans
from storegate_engine.table.description import PLAIN, Description
from storegate_engine.table.gathers import SPARE_NBYTES, gather_into
from storegate_engine.table.pieces import Piece
from storegate_engine.table.ragged import BOUND, HeldRagged, bounds_of, columns_of, items_of
from storegate_engine.table.transforms import Cast, Transform, apply_all, fold

__all__ = ["Dealt", "Kind", "Variable", "kind_of", "rows_of"]

Array: TypeAlias = np.ndarray[Any, Any]
Kind: TypeAlias = Literal["dense", "ragged", "sparse"]
"""Whether rows have one shape, are lists of items, or are rows of a sparse matrix."""
SAMPLE = "sample"
"""The name of the sample axis, if none was given."""


class Dealt(NamedTuple):
    """Rows that were shuffled when they were added, and then split among phases."""

    first: int
    """The index of their first row among the rows of the phase."""
    n_rows: int
    """Number of rows that were shuffled together."""
    seed: int
    """The seed of the shuffle."""
    lo: int
    """The first of the shuffled rows in this phase."""
    hi: int
    """The end of the shuffled rows in this phase."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A named array with the sample axis first: stored rows plus an order."""

    name: str
    """The variable's name."""
    dtype: np.dtype[Any]
    """The dtype of the rows."""
    row_shape: tuple[int, ...]
    """The shape of one row; if rows are lists, of one item."""
    pieces: tuple[Piece, ...]
    """The stored rows, concatenated."""
    order: RowOrder
    """Logical row -> stored row."""
    history: tuple[Dealt, ...] = ()
    """The shuffles of rows when they were added, which show whether variables belong together."""
    about: Description = PLAIN
    """Metadata: dimension names, attributes, categories."""
    offsets: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """The first stored row of each piece, and the end of the last one."""

    def __post_init__(self) -> None:
        """Sum up the pieces once."""
        object.__setattr__(self, "offsets", (0, *accumulate(piece.n_rows for piece in self.pieces)))

    def __len__(self) -> int:
        """Return the number of logical rows."""
        return len(self.order)

    @property
    def kind(self) -> Kind:
        """Whether rows have one shape, are lists of items, or are rows of a sparse matrix."""
        return kind_of(self.pieces[0].array) if self.pieces else "dense"

    @property
    def is_scalar(self) -> bool:
        """Whether each row is one value."""
        return self.kind == "dense" and not self.row_shape

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_rows, *row_shape)``; lists are one object each."""
        return (len(self.order), *(() if self.kind == "ragged" else self.row_shape))

    @property
    def dims(self) -> tuple[str, ...]:
        """The names of the dimensions: those that were given, or ``sample``, ``<name>_1`` and so on."""
        if self.about.dims is not None:
            return self.about.dims
        return (SAMPLE, *(f"{self.name}_{axis}" for axis in range(1, len(self.shape))))

    @property
    def shuffled_by(self) -> int | None:
        """The seed, if the rows are in the order of a uniform shuffle, or stored in one; None in any other order."""
        if (seed := self.order.shuffled_by) is not None or len(self.pieces) != 1:
            return seed
        runs = self.order.runs(0, len(self))
        return self.pieces[0].shuffled_by if runs is not None and len(runs) == 1 else None

    @property
    def row_shape_in_words(self) -> str:
        """What one row is, for messages."""
        return _in_words(self.row_shape, self.kind)

    @property
    def dense_row_nbytes(self) -> int:
        """Bytes of one row in memory, with the zeros of a sparse one."""
        return max(self.row_nbytes, row_nbytes(self.dtype, self.row_shape))

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row in memory, with the average of variable-length texts."""
        if self.kind != "dense":
            return max(piece.array.held_row_nbytes or 1 for piece in self.pieces)
        texts = max((piece.text_nbytes for piece in self.pieces), default=0) if self.dtype.kind == "T" else 0
        return row_nbytes(self.dtype, self.row_shape) + texts

    @property
    def nbytes(self) -> int:
        """Bytes of all logical rows in memory."""
        return len(self) * self.row_nbytes

    # Rows of various lengths: bounds, which the order moves, and the items behind them.

    @property
    def bounds(self) -> Variable:
        """The bounds of rows of various lengths, among the items of :attr:`sources`, as a variable of two int64."""
        return replace(self, dtype=BOUND, row_shape=(2,), pieces=bounds_of(self.pieces), about=PLAIN)

    @property
    def sources(self) -> tuple[Variable, ...]:
        """The items of all pieces as a variable, and the columns of a sparse matrix as another."""
        parts = (items_of(self.pieces), columns_of(self.pieces) if self.kind == "sparse" else ())
        return tuple(
            Variable(self.name, of[0].dtype, of[0].row_shape, of, Range(0, sum(piece.n_rows for piece in of)))
            for of in parts
            if of
        )

    def holding(self, bounds: Array, memory: list[Array] | None = None) -> HeldRagged:
        """Return memory for rows with these bounds, which are still to be read; it may be that of earlier rows."""
        return HeldRagged(bounds, self.sources, self.row_shape[0] if self.kind == "sparse" else 0, memory)

    def lengths(self, lo: int, hi: int, *, spare_nbytes: int = SPARE_NBYTES) -> Array:
        """Return the number of items of each logical row ``lo..hi``."""
        bounds = self.bounds.read(lo, hi, spare_nbytes=spare_nbytes)
        lengths: Array = bounds[:, 1] - bounds[:, 0]
        return lengths

    def n_items(self) -> int:
        """Return the number of items of all rows; reads their bounds."""
        return sum(int(self.lengths(lo, hi).sum()) for lo, hi in spans(len(self)))

    def _allocated(self, n_rows: int) -> Array:
        try:
            return np.empty((n_rows, *self.row_shape), self.dtype)
        except (MemoryError, ValueError) as err:  # ValueError: too many for numpy
            raise MemoryBudgetError(
                f"{n_rows} rows of variable {self.name!r} take {n_rows * self.row_nbytes} bytes, which cannot be had: "
                "read fewer at a time, or use to_xarray()"
            ) from err

    def read(self, lo: int, hi: int, *, spare_nbytes: int = SPARE_NBYTES) -> Any:
        """Return logical rows ``lo..hi`` as a new array, or as `Ragged`."""
        if self.kind != "dense":
            return self.holding(self.bounds.read(lo, hi, spare_nbytes=spare_nbytes)).read()
        out = self._allocated(hi - lo)
        self.read_into(lo, hi, out, spare_nbytes=spare_nbytes)
        return out

    def read_into(self, lo: int, hi: int, out: Array, *, spare_nbytes: int = SPARE_NBYTES, alone: bool = False) -> None:
        """Read logical rows ``lo..hi`` into ``out`` of shape ``(hi - lo, *row_shape)``.

        Parameters
        ----------
        lo, hi : int
            The first row, and the end.
        out : ndarray
            C-contiguous, and of the variable's dtype.
        spare_nbytes : int
            Memory besides ``out`` for rows out of order: with more, stored rows are read fewer times.
        alone : bool
            Read in this thread: if other threads read, too, handing over costs more than it gains.

        Raises
        ------
        LabelError
            A transform met a label outside its classes; the message names the logical row.
        """
        runs = self.order.runs(lo, hi)
        if runs is None:
            try:
                rows = self.order.rows
                self._gather(lambda a, b: rows(lo + a, lo + b), out, spare_nbytes, alone=alone)
            except LabelError as err:
                raise err.at_row(lo + err.row, self.name) from err
            return
        for at, parts in groupby(self._parts(runs), key=itemgetter(0)):
            piece, spans = self.pieces[at], [(start, stop, place) for _, start, stop, place in parts]
            if len(spans) > 1 and not piece.transforms:
                piece.read_spans(spans, out, alone=alone)
                continue
            for start, stop, place in spans:  # each in turn: transforms need memory for the stored rows, too
                try:
                    piece.read_into(start, stop, out[place : place + stop - start], alone=alone)
                except LabelError as err:
                    raise err.at_row(lo + place + err.row, self.name) from err

    def take(self, indices: Array, *, spare_nbytes: int = SPARE_NBYTES) -> Any:
        """Return the logical rows at ``indices`` (int64, not negative), in that order, repeats included."""
        return self._picked(len(indices), lambda lo, hi: indices[lo:hi], spare_nbytes)

    def pick(self, index: RowIndex, *, spare_nbytes: int = SPARE_NBYTES) -> Any:
        """Return the logical rows of an index, in its order, as a new array."""
        return self._picked(len(index), index.slice, spare_nbytes)

    def _picked(self, n_rows: int, rows: Callable[[int, int], Array], spare_nbytes: int) -> Any:
        if self.kind != "dense":
            return self.holding(self.bounds._picked(n_rows, rows, spare_nbytes)).read()
        out = self._allocated(n_rows)
        try:
            self._gather(lambda lo, hi: self.order.take(rows(lo, hi)), out, spare_nbytes)
        except LabelError as err:
            raise err.at_row(int(rows(err.row, err.row + 1)[0]), self.name) from err
        return out

    def _gather(
        self, stored: Callable[[int, int], Array], out: Array, spare_nbytes: int, *, alone: bool = False
    ) -> None:
        if not len(out):
            return
        first = self.pieces[0]
        if all(piece.is_alike(first) for piece in self.pieces):  # the order of equal rows does not matter
            first.read_into(0, len(out), out, alone=alone)
            return
        bounds = self.order.bounds
        gather_into(self.pieces, self.offsets, stored, out, bounds=bounds, spare_nbytes=spare_nbytes, alone=alone)

    def stored_rows(self, first: int = 0, end: int | None = None) -> Variable:
        """Return the stored rows of the pieces ``first..end``, by default of all, in stored order, transformed."""
        pieces = self.pieces[first:end]
        return replace(self, pieces=pieces, order=Range(0, sum(piece.n_rows for piece in pieces)))

    def read_spans(self, spans: Sequence[tuple[int, int]], out: Array, *, alone: bool = False) -> None:
        """Read runs of logical rows, given as firsts and ends, concatenated into ``out``.

        A chunk that several spans touch is read once. Raises like :meth:`read_into`.
        """
        try:
            for piece, parts in self._by_piece(spans).items():
                self.pieces[piece].read_spans(parts, out, alone=alone)
        except LabelError as err:
            ends = list(accumulate(hi - lo for lo, hi in spans))
            at = bisect_right(ends, err.row)
            raise err.at_row(spans[at][1] - ends[at] + err.row, self.name) from err

    def will_read(self, spans: Sequence[tuple[int, int]]) -> None:
        """Ask storage to fetch logical rows stored in runs, while others are read: a hint."""
        for at, parts in self._by_piece(spans).items():
            piece = self.pieces[at]
            piece.array.will_read([(piece.start + lo, piece.start + hi) for lo, hi, _ in parts])

    def _by_piece(self, spans: Sequence[tuple[int, int]]) -> dict[int, list[RowSpan]]:
        """Return the rows of each piece that runs of logical rows name, with their places among these."""
        found: dict[int, list[RowSpan]] = {}
        for piece, start, stop, place in self._parts(join_runs(self.order.runs(lo, hi) for lo, hi in spans) or ()):
            found.setdefault(piece, []).append((start, stop, place))
        return found

    def _parts(self, runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
        """Yield runs of stored rows as piece, first and end within it, and the place of the first among the rows."""
        # a run may span several pieces
        done = 0
        for start, stop in runs:
            at = bisect_right(self.offsets, start) - 1
            while start < stop:
                offset, end = self.offsets[at], min(stop, self.offsets[at + 1])
                if start < end:
                    yield at, start - offset, end - offset, done
                done += end - start
                start, at = end, at + 1

    def drop(self, lo: int, hi: int) -> None:
        """Drop stored rows ``lo..hi``, read for the last time, from the page cache: a hint.

        The memory then serves later writes. It reduced an exchange of 4 GB from 17 s to 13.5 s, and a gather in memory
        from 13 s to 10 s.
        """
        for piece, offset in zip(self.pieces, self.offsets, strict=False):
            first, last = max(lo, offset), min(hi, offset + piece.n_rows)
            if first < last:
                piece.array.drop(piece.start + first - offset, piece.start + last - offset)

    @property
    def is_uniform(self) -> bool:
        """Whether all pieces have the same kind of stored rows and the same transforms."""
        return len({(piece.array.dtype, piece.array.row_shape, piece.transforms) for piece in self.pieces}) == 1

    @property
    def is_remote(self) -> bool:
        """Whether rows are in an object store, where reads should be large, and many under way."""
        return any(piece.array.is_remote for piece in self.pieces)

    @property
    def is_overlapping(self) -> bool:
        """Whether rows are held together in memory: they share bytes, as windows do, or differ in length."""
        return any(piece.array.held_row_nbytes is not None for piece in self.pieces)

    @property
    def held_row_nbytes(self) -> int:
        """Bytes of one row in memory, if rows that share bytes are held together."""
        found = max((piece.array.held_row_nbytes or 0 for piece in self.pieces), default=0)
        return found or self.row_nbytes

    def held(self, spans: Sequence[tuple[int, int]], memory: list[Array] | None = None) -> Held:
        """Return memory for spans of overlapping rows, one after the other, which are still to be read.

        ``memory`` is that of earlier rows, which lists use again.
        """
        if self.kind != "dense":
            bounds = self.bounds
            if self.order.runs(0, len(self)) is None:
                parts = [bounds.read(lo, hi) for lo, hi in spans]
                return self.holding(np.concatenate([*parts, np.empty((0, 2), np.int64)]), memory)
            found = np.empty((sum(hi - lo for lo, hi in spans), 2), np.int64)
            bounds.read_spans(spans, found, alone=True)
            return self.holding(found, memory)
        (piece,) = self.pieces
        rows = [self.order.rows(lo, hi) for lo, hi in spans]
        return piece.array.held(piece.start + np.concatenate([*rows, np.empty(0, np.int64)]))

    def transformed_rows(self, rows: Array, lo: int) -> Array:
        """Return stored rows of a uniform variable as logical rows, the first of which is ``lo``."""
        try:
            return apply_all(self.pieces[0].transforms, rows)
        except LabelError as err:
            raise err.at_row(lo + err.row, self.name) from err

    # Edits: each returns a new variable and reads no rows.

    def within(self, table_nbytes: int) -> Variable:
        """Return the variable with permutations of at most this memory; itself if they already are."""
        order = self.order.within(table_nbytes)
        return self if order is self.order else replace(self, order=order)

    def permuted(self, seed: int) -> Variable:
        """Return the variable with its rows in the order of ``RandomState(seed).permutation(n)``."""
        return replace(self, order=orders.permute(self.order, seed))

    def transformed(self, transform: Transform) -> Variable:
        """Return the variable with a transform on every piece.

        Raises
        ------
        ShapeError
            Rows are lists or sparse, and the transform is no cast.
        """
        if self.kind != "dense" and not isinstance(transform, Cast):
            what = "lists of various lengths" if self.kind == "ragged" else "those of a sparse matrix"
            raise ShapeError(
                f"the rows of variable {self.name!r} are {what}, whose items can be cast and not transformed otherwise"
            )
        dtype, row_shape = fold((transform,), self.dtype, self.row_shape)
        pieces = tuple(piece.with_transform(transform) for piece in self.pieces)
        about = self.about
        if not transform.keeps_attrs:  # other values, about which the attributes say nothing
            dims = None if about.dims is None else transform.out_dims(about.dims, f"{self.name}_{len(about.dims)}")
            about = replace(about.plain, dims=dims, attrs=())
        elif dtype.kind not in "iu" or not isinstance(transform, Cast):
            about = about.plain
        return replace(self, dtype=dtype, row_shape=row_shape, pieces=pieces, about=about)

    def cast(self, dtype: np.dtype[Any]) -> Variable:
        """Return the variable with its rows cast; itself if they have the dtype."""
        return self if dtype == self.dtype else self.transformed(Cast(dtype))

    def cut(self, lo: int, hi: int) -> Variable:
        """Return logical rows ``lo..hi`` as a variable."""
        return replace(self, order=orders.cut(self.order, lo, hi))

    def selected(self, index: RowIndex) -> Variable:
        """Return the logical rows of an index array, repeats included."""
        return replace(self, order=Take(self.order, index))

    def appended(self, new: Variable) -> Variable:
        """Return the variable with the rows of another one appended.

        Raises
        ------
        ShapeError
            The rows have another shape.
        """
        self.require_row_shape(new.row_shape, new.kind)
        joined = self.joined(new, lambda old, order: orders.concat(old, order))
        dealt = tuple(part._replace(first=len(self) + part.first) for part in new.history)
        return replace(joined, history=(*self.history, *dealt), about=self.about.joined(new.about))

    def united(self, other: Variable) -> Variable:
        """Return the variable with the rows of another one appended; pieces that both have are named once.

        Of a table whose rows were dealt to phases, each phase names all pieces. Were they named again by each deal,
        their number would triple every time. No row may be shown by both variables.

        Raises
        ------
        ShapeError
            The rows have another shape.
        """
        self.require_row_shape(other.row_shape, other.kind)
        dtype = self.joined(other, lambda old, order: old).dtype
        mine, theirs = self.cast(dtype), other.cast(dtype)
        places = dict(zip(mine.pieces, mine.offsets, strict=False))
        pieces, end, shifts = list(mine.pieces), mine.offsets[-1], []
        for piece, offset in zip(theirs.pieces, theirs.offsets, strict=False):
            if piece not in places:
                places[piece] = end
                pieces.append(piece)
                end += piece.n_rows
            shifts.append(places[piece] - offset)
        order = orders.concat(mine.order, orders.relocated(theirs.order, theirs.offsets, shifts))
        dealt = tuple(part._replace(first=len(self) + part.first) for part in theirs.history)
        about = self.about.joined(other.about)
        return replace(mine, pieces=tuple(pieces), order=order, history=(*mine.history, *dealt), about=about)

    def replaced(self, lo: int, hi: int, new: Variable) -> Variable:
        """Return the variable with logical rows ``lo..hi`` replaced by ``new``, which has ``hi - lo`` rows."""
        return self.updated(new, lambda old, order: orders.replace_rows(old, lo, hi, order))

    def updated(self, new: Variable, arrange: Callable[[RowOrder, RowOrder], RowOrder]) -> Variable:
        """Return a variable with rows of ``new`` in places of others; ``arrange`` makes its order from both orders."""
        pieces = tuple(replace(piece, is_update=True) for piece in new.pieces)
        return self.joined(replace(new, pieces=pieces), arrange)

    def joined(self, new: Variable, arrange: Callable[[RowOrder, RowOrder], RowOrder]) -> Variable:
        """Return a variable with the stored rows of both; ``arrange`` makes its order from their orders."""
        try:
            dtype = combined(self.dtype, new.dtype)
        except DtypeError as err:
            raise DtypeError(f"variable {self.name!r}: {err}") from err
        shifted = new.order.shifted(self.offsets[-1])
        pieces = self.cast(dtype).pieces + new.cast(dtype).pieces
        return replace(self, dtype=dtype, pieces=pieces, order=arrange(self.order, shifted))

    def require_row_shape(self, row_shape: tuple[int, ...], kind: Kind = "dense") -> None:
        """Raise ShapeError unless rows of this shape can join the variable."""
        if (row_shape, kind) != (self.row_shape, self.kind):
            new = f"have {row_shape}" if kind == self.kind else f"are {_in_words(row_shape, kind)}"
            is_dense = (self.kind, kind, self.row_shape) == ("sparse", "dense", row_shape)
            remedy = "make them sparse, with scipy.sparse.csr_array(rows)" if is_dense else "reshape them"
            raise ShapeError(
                f"variable {self.name!r} has {self.row_shape_in_words}, and the new ones {new}; "
                f"{remedy}, or replace the whole variable with update_data(index=-1)"
            )


def _in_words(row_shape: tuple[int, ...], kind: Kind) -> str:
    match kind:
        case "dense":
            return f"samples of shape {row_shape}"
        case "ragged":
            return "lists of various lengths" + (f" of items of shape {row_shape}" if row_shape else "")
        case "sparse":
            return f"rows of a sparse matrix of {row_shape[0]} columns"


def kind_of(array: RowArray) -> Kind:
    """Return whether the rows of an array have one shape, are lists, or are rows of a sparse matrix."""
    return "dense" if not array.parts else "ragged" if len(array.parts) == 2 else "sparse"


def rows_of(
    name: str,
    array: RowArray,
    lo: int = 0,
    hi: int | None = None,
    *,
    seed: int | None = None,
    shuffled_by: int | None = None,
) -> Variable:
    """Return rows ``lo..hi`` of an array as a variable; of the shuffled array if there is a seed.

    Without a seed the piece is just those rows; with one it is the whole array, whose permutation is cut.
    ``shuffled_by`` is the seed of the order in which the array was written, if a shuffle made it.
    """
    stop = array.n_rows if hi is None else hi
    if seed is None:
        piece = Piece(array, lo, stop, shuffled_by=shuffled_by)
        return Variable(name, array.dtype, array.row_shape, (piece,), Range(0, stop - lo))
    piece = Piece(array, 0, array.n_rows)
    order = orders.cut(orders.permute(Range(0, array.n_rows), seed), lo, stop)
    # Shuffling one row changes nothing, and without rows there is nothing to record.
    history = (Dealt(0, array.n_rows, seed, lo, stop),) if array.n_rows > 1 and stop > lo else ()
    return Variable(name, array.dtype, array.row_shape, (piece,), order, history)
