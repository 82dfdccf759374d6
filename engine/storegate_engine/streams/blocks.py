"""Block orders: adjacent rows are read together, and mixed within rounds; pure, reads nothing.

The order of an epoch, whose positions are those of `epochs`::

    rows are cut into M blocks of b; sigma is a permutation of the blocks, keyed (seed, epoch)
    R rounds share the blocks evenly: round j = the rows of blocks sigma[M·j//R : M·(j+1)//R], concatenated
    position p belongs to lane p % 64
    the rows of a round are cut into 64 slices, one per lane, as long as the lane has positions in the round
    tau = which slice each lane takes, a permutation keyed (seed, epoch, j)
    lane l takes its slice in a permutation keyed (seed, epoch, j, l)

R is chosen so that rounds have about the intended number of blocks: a last round with less than half of them
is shared out over the others, because a batch of a short round mixes few blocks.

The n positions of a step are sorted by lane in the order 0, 32, 16, 48, … (bits from right to left) and then by
position; rank r takes ``n·r//world`` to ``n·(r+1)//world - 1`` of them. Neighbouring positions are far apart in that
order, so that a rank takes nearly the same lanes in every step: if the world divides 64 and the rows of a step, it
takes those with the same ``l % world``, and reads no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import ArgumentError
from storegate_engine.orders import Span
from storegate_engine.streams.epochs import LANES, ORDER_VERSION, Epochs, Load, keyed_permutation

__all__ = ["Blocks", "default_blocks"]

Int64Array: TypeAlias = npt.NDArray[np.int64]
Rows: TypeAlias = npt.NDArray[np.integer[Any]]

BLOCK_NBYTES = 512 * 2**10
"""Bytes of one block, over all variables: enough for a disk's full rate at random places."""
ROUND_NBYTES = 64 * 2**20
"""Bytes of one round, with the order's data about each row."""
ROW_NBYTES = 64
"""Bytes of the order's data about each row of a round, as its definition counts them."""
EVEN_VERSION = 3
"""From this version of orders on, rounds are even; before, all but the last had ``buffer_blocks`` blocks."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """The block order of every epoch."""

    epochs: Epochs
    """Rows, steps and rank."""
    seed: int
    """The seed of the order."""
    block_rows: int
    """Rows of a block (b)."""
    buffer_blocks: int
    """Intended blocks of a round (m)."""
    version: int = ORDER_VERSION
    """The version of the order, see `ORDER_VERSION`."""

    def __post_init__(self) -> None:
        if self.block_rows < 1 or self.buffer_blocks < 1:
            raise ArgumentError(
                "blocks have one row at least, and buffers one block, found "
                f"block_rows={self.block_rows} and buffer_blocks={self.buffer_blocks}"
            )

    @property
    def n_blocks(self) -> int:
        """Number of blocks of the phase (M)."""
        return -(-self.epochs.n_rows // self.block_rows)

    @property
    def round_blocks(self) -> Int64Array:
        """The number of blocks before each round, and of all."""
        whole, rest = divmod(self.n_blocks, self.buffer_blocks)
        if self.version < EVEN_VERSION:
            return np.minimum(np.arange(whole + (rest > 0) + 1) * self.buffer_blocks, self.n_blocks)
        n_rounds = whole + (2 * rest >= self.buffer_blocks) if whole else min(1, rest)
        return np.arange(n_rounds + 1) * self.n_blocks // max(1, n_rounds)

    @property
    def round_rows(self) -> int:
        """The most rows of a round."""
        return min(self.epochs.n_rows, self.block_rows * int(np.diff(self.round_blocks).max(initial=0)))

    @property
    def share_rows(self) -> int:
        """The most rows of a round that this rank reads."""
        epochs = self.epochs
        if self.version < EVEN_VERSION or epochs.world == 1:
            lanes = -(-LANES // epochs.world)
        else:
            starts, stops = _dealt(epochs)
            lanes = int((stops > starts).any(axis=0).sum())
        return min(self.round_rows, lanes * -(-self.round_rows // LANES))

    def loads(self, epoch: int, step: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield the arguments of `load` for the batches of an epoch, starting at a step."""
        position, stop = step * self.epochs.batch_rows, self.epochs.n_positions
        ends = _rounds(self, epoch)[1]
        while position < stop:
            turn, at = divmod(position, self.epochs.n_rows)
            number = int(np.searchsorted(ends, at, side="right")) - 1
            upto = min(stop, turn * self.epochs.n_rows + int(ends[number + 1]))
            yield epoch, number, position, upto
            position = upto

    def load(self, epoch: int, number: int, position: int, stop: int) -> Load:
        """Return the load of one round: this rank's part of the positions ``position .. stop - 1``."""
        sigma, ends = _rounds(self, epoch)
        first, last = ends[number : number + 2].tolist()
        lo, hi = self.round_blocks[number : number + 2]
        make = self._load if self.version >= EVEN_VERSION else self._uneven_load
        return make(epoch, number, sigma[lo:hi], first, last, position, stop)

    def _load(
        self, epoch: int, number: int, blocks: Int64Array, first: int, last: int, position: int, stop: int
    ) -> Load:
        # The round's blocks, concatenated and cut into slices; only the slices of this rank's lanes are read:
        #
        #     blocks    | sigma[lo]   | sigma[lo+1] |  ...        | sigma[hi-1] |
        #     slices    | 0     | 1       | 2       |  ...  | 62       | 63     |     bounds
        #     lane l takes slice tau[l]; read in ascending order, so that a chunk of two slices is read once
        #
        # `_spans` returns the logical rows of these slices, and the place of each part of a slice among the rows read,
        # since blocks are read in the order in which they are stored, not in that of sigma.
        epochs, k = self.epochs, self.epochs.batch_rows
        begin = position % epochs.n_rows
        own = _own(epochs, position, stop)
        lanes = np.arange(LANES)
        if own is not None:
            lanes = np.unique((begin + np.flatnonzero(own)) % LANES)
        # a slice is as long as its lane has positions in this round
        counts = _before(last, np.arange(LANES)) - _before(first, np.arange(LANES))
        tau = keyed_permutation(LANES, self.seed, epoch, number, version=self.version)
        bounds = np.zeros(LANES + 1, np.int64)
        bounds[tau + 1] = counts
        np.cumsum(bounds, out=bounds)
        ascending = np.sort(tau[lanes])
        spans, begins, moved = self._spans(blocks, bounds[ascending], bounds[ascending + 1])
        read = np.concatenate([[0], np.cumsum(np.diff(bounds)[ascending])])
        # lane after lane, a row for every 64th position; a load that begins in the middle of its round, because it
        # repeats the first rows or resumes from a state, skips the rows that the lane has given before
        mixed: Rows = np.empty(stop - position, np.uint32 if read[-1] <= 2**32 else np.int64)
        for lane in lanes.tolist():
            lo, hi = read[np.searchsorted(ascending, tau[lane]) :][:2].tolist()
            order = keyed_permutation(hi - lo, self.seed, epoch, number, lane, version=self.version)
            at = (lane - begin) % LANES
            turn = _before(begin, lane) - _before(first, lane)
            taken = order[turn : turn + len(mixed[at::LANES])]
            mixed[at::LANES] = _placed(lo, hi, begins, moved)[taken]
        steps = np.clip(np.arange(position // k, -(-stop // k) + 1) * k, position, stop) - position
        if own is not None:
            mixed = mixed[own]
            steps = np.concatenate([[0], np.cumsum(np.add.reduceat(own, steps[:-1], dtype=np.int64))])
        return Load(spans, mixed, steps, closed=stop % k == 0 or stop == epochs.n_positions)

    def _uneven_load(
        self, epoch: int, number: int, blocks: Int64Array, first: int, end: int, position: int, stop: int
    ) -> Load:
        """Return the load of a round in versions 1 and 2.

        Slice l of n rows is ``l·n//64 .. (l+1)·n//64 - 1``, lane l takes slice tau[l], the round takes one row of every
        lane in turn, the remaining rows of longer lanes come last, and rank r has the lanes with ``l % world == r``.
        """
        n = end - first
        lanes = np.arange(self.epochs.rank, LANES, self.epochs.world)
        bounds = np.arange(LANES + 1) * n // LANES
        tau = keyed_permutation(LANES, self.seed, epoch, number, version=self.version)
        ascending = np.sort(tau[lanes])
        spans, begins, moved = self._spans(blocks, bounds[ascending], bounds[ascending + 1])
        own = np.concatenate([[0], np.cumsum(np.diff(bounds)[ascending])])
        least, longer = n // LANES, np.flatnonzero(np.diff(bounds)[tau] > n // LANES)
        mixed: Rows = np.empty(int(own[-1]), np.uint32 if own[-1] <= 2**32 else np.int64)
        turns = mixed[: least * len(lanes)].reshape(least, len(lanes))
        rest = iter(range(turns.size, mixed.size))
        for at, lane in enumerate(lanes.tolist()):
            lo, hi = own[np.searchsorted(ascending, tau[lane]) :][:2].tolist()
            order = keyed_permutation(hi - lo, self.seed, epoch, number, lane, version=self.version)
            of_lane = _placed(lo, hi, begins, moved)[order]
            turns[:, at] = of_lane[:least]
            if len(of_lane) > least:
                mixed[next(rest)] = of_lane[least]
        base = stop - (stop - 1) % self.epochs.n_rows - 1 + first
        k = self.epochs.batch_rows
        places = np.clip(np.arange(position // k, -(-stop // k) + 1) * k, position, stop) - base
        turn = np.minimum(places // LANES, least)
        left = places - turn * LANES  # lanes that had their turn, or longer lanes that came before
        come = np.where(
            turn < least,
            np.searchsorted(lanes, np.minimum(left, LANES)),
            np.searchsorted(np.flatnonzero(np.isin(longer, lanes)), left),
        )
        cuts = turn * len(lanes) + come
        rows = mixed[cuts[0] : cuts[-1]]
        return Load(spans, rows, cuts - cuts[0], closed=stop % k == 0 or stop == self.epochs.n_positions)

    def _spans(
        self, blocks: Int64Array, starts: Int64Array, stops: Int64Array
    ) -> tuple[tuple[Span, ...], Int64Array, Int64Array]:
        """Return the logical rows of slices of a round, ascending, and how far each part of the slices moves there.

        Parts are given by their first rows among the concatenated rows of the slices, and the end of the last one.
        """
        if not len(starts):
            return (), np.zeros(1, np.int64), np.empty(0, np.int64)
        # Cut at the ends of blocks and of slices, the round consists of parts that lie within one of each:
        #
        #     blocks    | 7           | 2           | 5           |       sigma[lo:hi]
        #     slices    | 0       | 1         | 2                 |       say that 0 and 2 are this rank's
        #     parts     | a       | b | c     | d   | e           |
        #
        # Here a, d and e are read, as d e a: in the order of their blocks, which is that of storage. Each part moves by
        # the difference between its place there and its place among the slices.
        firsts = blocks * self.block_rows
        sizes = np.minimum(self.block_rows, self.epochs.n_rows - firsts)
        ends = np.cumsum(sizes)
        # cut the slices where blocks end
        edges = np.unique(np.concatenate([[0], ends, starts, stops]))
        lane = np.searchsorted(starts, edges[:-1], side="right") - 1
        kept = (lane >= 0) & (edges[:-1] < stops[lane])
        at, size = edges[:-1][kept], np.diff(edges)[kept]
        block = np.searchsorted(ends, at, side="right")
        logical = firsts[block] + at - (ends[block] - sizes[block])
        ascending = np.argsort(logical)
        offsets = np.empty_like(at)
        offsets[ascending] = np.cumsum(size[ascending]) - size[ascending]
        begins = np.concatenate([[0], np.cumsum(size)])
        merged: list[Span] = []
        for start, stop in zip(logical[ascending].tolist(), (logical + size)[ascending].tolist(), strict=True):
            if merged and merged[-1].stop == start:
                merged[-1] = Span(merged[-1].start, stop)
            else:
                merged.append(Span(start, stop))
        return tuple(merged), begins, offsets - begins[:-1]


def _placed(first: int, last: int, begins: Int64Array, moved: Int64Array) -> Int64Array:
    """Return the places of rows first .. last - 1 of the slices of a round among its logical rows."""
    # a part moves as a whole: by one distance for all of its rows
    lo, hi = np.searchsorted(begins, [first, last], side="right") - 1
    cuts = np.clip(begins[lo : hi + 2], first, last)
    return np.arange(first, last) + np.repeat(moved[lo : hi + 1], np.diff(cuts)[: len(moved) - lo])


@lru_cache(maxsize=8)
def _rounds(blocks: Blocks, epoch: int) -> tuple[Int64Array, Int64Array]:
    """Return the permutation of the blocks, and the number of positions before each round, and of all."""
    sigma = keyed_permutation(blocks.n_blocks, blocks.seed, epoch, version=blocks.version)
    sizes = np.minimum(blocks.block_rows, blocks.epochs.n_rows - sigma * blocks.block_rows)
    return sigma, np.concatenate([[0], np.cumsum(sizes)])[blocks.round_blocks]


# ------------------------------------------------------------------------------
# Ranks
# ------------------------------------------------------------------------------

_DEAL_ORDER = np.argsort([int(f"{lane:06b}"[::-1], 2) for lane in range(LANES)])
"""The lanes in the order in which ranks take the rows of a step."""


def _before(positions: Any, lanes: Any) -> Any:
    """Return the number of positions 0 .. p-1 of an epoch that belong to each lane."""
    return (positions - lanes + LANES - 1) // LANES


def _before_in_turns(epochs: Epochs, positions: Any, lanes: Any) -> Any:
    """Return the same if positions from the number of rows on are the first ones again."""
    turns, rest = np.divmod(positions, max(1, epochs.n_rows))
    return turns * _before(epochs.n_rows, lanes) + _before(rest, lanes)


@lru_cache(maxsize=8)
def _dealt(epochs: Epochs) -> tuple[Int64Array, Int64Array]:
    """Return which rows of each lane in a step are this rank's: shape (65, 64), the first one and the end.

    Steps differ by ``start % 64``, the row of the tables; the last row is for the last step, which may not be full.
    """
    k, stop = epochs.batch_rows, epochs.n_positions
    last = max(0, epochs.n_steps - 1) * k
    begins = np.append(np.arange(LANES), last)[:, None]
    sizes = np.append(np.full(LANES, k), stop - last)[:, None]
    counts = _before(begins + sizes, _DEAL_ORDER) - _before(begins, _DEAL_ORDER)
    counts[-1] = _before_in_turns(epochs, stop, _DEAL_ORDER) - _before_in_turns(epochs, last, _DEAL_ORDER)
    dealt = np.cumsum(counts, axis=1) - counts  # rows of the lanes before
    # a start that no step has would include lanes that this rank never reads
    present = np.arange(min(LANES, epochs.n_steps - 1)) * k % LANES
    counts[np.setdiff1d(np.arange(LANES), present)] = 0
    starts, stops = np.empty_like(counts), np.empty_like(counts)
    starts[:, _DEAL_ORDER] = np.clip(sizes * epochs.rank // epochs.world - dealt, 0, counts)
    stops[:, _DEAL_ORDER] = np.clip(sizes * (epochs.rank + 1) // epochs.world - dealt, 0, counts)
    return starts, stops


def _own(epochs: Epochs, position: int, stop: int) -> npt.NDArray[np.bool_] | None:
    """Return which positions of one round are this rank's, None for all of them."""
    if epochs.world == 1:
        return None
    k = epochs.batch_rows
    starts, stops = _dealt(epochs)
    own = np.zeros(stop - position, np.bool_)
    for lane in range(LANES):
        if not stops[:, lane].any():
            continue
        at = (lane - position % epochs.n_rows) % LANES
        # the positions of the lane; the number before them in the step gives the index of each
        positions = np.arange(position + at, stop, LANES)
        steps = positions // k
        table = np.where(steps == epochs.n_steps - 1, LANES, steps * k % LANES)
        turns = _before_in_turns(epochs, positions, lane) - _before_in_turns(epochs, steps * k, lane)
        own[at::LANES] = (turns >= starts[table, lane]) & (turns < stops[table, lane])
    return own


# ------------------------------------------------------------------------------
# Sizes
# ------------------------------------------------------------------------------


def default_blocks(n_rows: int, row_nbytes: int, chunk_rows: int, version: int = ORDER_VERSION) -> tuple[int, int]:
    """Return the rows of a block and the blocks of a round, from the data alone.

    Parameters
    ----------
    n_rows : int
        Rows of the phase.
    row_nbytes : int
        Bytes of a row, over all variables.
    chunk_rows : int
        Rows that the variable with the largest chunks decodes together.
    version : int
        The version of the order.

    Examples
    --------
    >>> default_blocks(4_000_000, 1024, 128)
    (512, 121)
    """
    enough = max(1, n_rows // LANES)  # a block for every lane
    rows = max(1, min(BLOCK_NBYTES // max(1, row_nbytes), enough))
    block_rows = max(1, rows // chunk_rows) * chunk_rows if chunk_rows <= enough else rows
    n_blocks = max(1, -(-n_rows // block_rows))
    n_rounds = max(1, -(-n_rows * (row_nbytes + ROW_NBYTES) // ROUND_NBYTES))
    if version < EVEN_VERSION:
        return block_rows, min(n_blocks, -(-n_blocks // (n_rounds * LANES)) * LANES)
    return block_rows, -(-n_blocks // n_rounds)
