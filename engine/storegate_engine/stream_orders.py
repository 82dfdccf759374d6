"""Stream orders: which rows make which batch of which rank, in every epoch; pure, reads nothing.

An epoch is a sequence of *positions*, each of which stands for a logical row, and *step* s is the positions
``s·k .. (s+1)·k - 1`` of all ranks together. Which row stands at a position depends on the seed, the epoch, the
number of rows and, for blocks, on their sizes; never on ranks, threads, memory or time::

    in order   position p is row p
    uniform    position p is row permutation(seed, epoch)[p], see `uniform`
    drawn      position p is a row drawn with its weight, keyed (seed, epoch); rows may come twice or never
    blocks     rows are cut into M blocks of b; sigma is a permutation of the blocks, keyed (seed, epoch)
               round j = the rows of blocks sigma[j·m : (j+1)·m], end to end: n of them
               tau    = a permutation of the 64 slices l·n//64 .. (l+1)·n//64 - 1 of these, keyed (seed, epoch, j)
               lane l = the rows of slice tau[l], in a permutation keyed (seed, epoch, j, l)
               the round takes one row of every lane in turn; what the longer lanes have left comes last

Of a step of n positions that is in order, uniform or drawn, rank r takes the positions ``n·r//world`` to
``n·(r+1)//world - 1``; of blocks it takes the rows of the lanes l with ``l % world == r``, and reads only those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import ArgumentError, NotInvertibleError
from storegate_engine.indexes import ArrayIndex
from storegate_engine.orders import Permute, RowOrder, Take, join_runs

__all__ = [
    "LANES",
    "MAX_KEY",
    "ORDER_VERSION",
    "Blocks",
    "Epochs",
    "Last",
    "Load",
    "Share",
    "default_blocks",
    "draw",
    "keyed_permutation",
    "uniform",
    "variance_factor",
]

Int64Array: TypeAlias = npt.NDArray[np.int64]
Last: TypeAlias = Literal["split", "drop", "pad"]

LANES = 64
"""The streams of a round: the most ranks that can share it."""
BLOCK_NBYTES = 512 * 2**10
"""Rows of one block, over all variables: as much as a disk reads at its full rate from anywhere."""
ROUND_NBYTES = 64 * 2**20
"""Rows of one round, and what is known of each of them."""
ROW_NBYTES = 64
"""What is known of each row of a round, as the definition of the order counts it."""
SUMMED = 2**16
"""Places of a step in a round that are summed up together."""
TABLE_MAX_ROWS = 2**16
"""Up to here an epoch's permutation is a list of rows; above, `permutations` computes it from next to nothing. The
tables of numpy's kind would be kept in a cache, those of every epoch."""


# ------------------------------------------------------------------------------
# Keyed randomness
# ------------------------------------------------------------------------------


ORDER_VERSION = 2
"""How numbers become the keys of orders. In version 1 they were the words of a SeedSequence as they are, which reads
(5, 3) and (5, 3, 0) as one key, and so (2**32, 0) and (0, 1); states of that version still resume."""
MAX_KEY = 2**64
"""Numbers of a key are below this: each is two words."""
_Use: TypeAlias = Literal["permutation", "uniform", "draw"]
_USES: dict[_Use, int] = {"permutation": 1, "uniform": 2, "draw": 3}


def _sequence(key: tuple[int, ...], use: _Use, version: int) -> np.random.SeedSequence:
    """Return what the random bits of a key come from: another for every key, of whatever length, and every use."""
    if version == 1:
        return np.random.SeedSequence(key)
    if not all(0 <= number < MAX_KEY for number in key):
        raise ArgumentError(f"seeds, epochs and other numbers of a key are 0 .. 2**64 - 1, found {key}")
    words = [_USES[use], len(key), *(word for number in key for word in (number & 0xFFFFFFFF, number >> 32))]
    return np.random.SeedSequence(np.array(words, np.uint32))


def _random_bits(n: int, key: tuple[int, ...], use: _Use, version: int) -> npt.NDArray[np.uint64]:
    # raw bits: numpy guarantees the streams of bit generators, but not what its distributions make of them
    return np.random.PCG64(_sequence(key, use, version)).random_raw(n)


def keyed_permutation(n: int, *key: int, version: int = ORDER_VERSION) -> Int64Array:
    """Return a permutation of 0 .. n-1 that depends on nothing but ``n`` and the key.

    Every entry gets 64 random bits, of which the lowest give way to its number, so that no two are equal and
    their sorted order is one and the same for every sorting algorithm.

    Parameters
    ----------
    n : int
        The length.
    *key : int
        Numbers below 2**64, how many of them counts too.
    version : {2, 1}
        How they are read, see `ORDER_VERSION`.

    Examples
    --------
    >>> keyed_permutation(6, 0, 1)
    array([5, 4, 1, 0, 2, 3])
    """
    width = np.uint64(max(1, n - 1).bit_length())
    bits = _random_bits(n, key, "permutation", version)
    bits >>= width
    bits <<= width
    bits |= np.arange(n, dtype=np.uint64)
    bits.sort()
    bits &= (np.uint64(1) << width) - np.uint64(1)
    return bits.view(np.int64)


def uniform(order: RowOrder, seed: int, epoch: int, version: int = ORDER_VERSION) -> RowOrder:
    """Return the rows of an order in the uniform order of one epoch."""
    n = len(order)
    if n <= TABLE_MAX_ROWS:
        return Take(order, ArrayIndex(keyed_permutation(n, seed, epoch, version=version), is_distinct=True))
    state = _sequence((seed, epoch), "uniform", version).generate_state(2)
    return Permute(order, "feistel8-v1", int(state[0]) << 32 | int(state[1]))


def draw(
    order: RowOrder, weights: npt.NDArray[np.float64], seed: int, epoch: int, version: int = ORDER_VERSION
) -> RowOrder:
    """Return as many rows as an order has, each drawn with its weight and put back."""
    ends = np.cumsum(weights)
    fractions = (_random_bits(len(order), (seed, epoch), "draw", version) >> np.uint64(11)) * 2.0**-53
    drawn = np.searchsorted(ends, fractions * ends[-1], side="right")
    np.minimum(drawn, np.flatnonzero(weights)[-1], out=drawn)  # rounding may reach the end
    return Take(order, ArrayIndex(drawn))


# ------------------------------------------------------------------------------
# Steps and ranks
# ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Epochs:
    """How many rows there are, and how they make steps."""

    n_rows: int
    """Rows of the phase."""
    batch_rows: int
    """Rows of one step of all ranks (k)."""
    last: Last = "split"
    """A last step that is not full: shorter, dropped, or filled up with the first rows of the epoch."""
    rank: int = 0
    """Which part of every step is wanted."""
    world: int = 1
    """Into how many parts steps are divided."""

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise ArgumentError(f"a batch has one row at least, found batch_size={self.batch_rows}")
        if not 0 <= self.rank < self.world:
            raise ArgumentError(f"a rank is 0 .. world-1, found rank={self.rank} of world={self.world}")
        if self.world > LANES:
            raise ArgumentError(f"at most {LANES} ranks (and their workers) share a stream, found world={self.world}")

    @property
    def n_steps(self) -> int:
        """Batches of an epoch, the same number on every rank."""
        return self.n_rows // self.batch_rows if self.last == "drop" else -(-self.n_rows // self.batch_rows)

    @property
    def n_positions(self) -> int:
        """Positions of an epoch; from ``n_rows`` on they start again with the first."""
        full = self.n_steps * self.batch_rows
        return min(full, self.n_rows) if self.last == "split" else full

    def part(self, step: int) -> tuple[int, int]:
        """Return the positions of a step that are this rank's, where ranks take slices of steps."""
        start = step * self.batch_rows
        n = min(self.batch_rows, self.n_positions - start)
        return start + n * self.rank // self.world, start + n * (self.rank + 1) // self.world


@dataclass(frozen=True, slots=True)
class Share(RowOrder):
    """A rank's slices of every step of an epoch, end to end."""

    order: RowOrder
    """The rows of the epoch."""
    epochs: Epochs
    """The steps, and the rank."""

    @property
    def step_rows(self) -> int:
        """Rows of this rank in a full step."""
        epochs = self.epochs
        k = epochs.batch_rows
        return k * (epochs.rank + 1) // epochs.world - k * epochs.rank // epochs.world

    def start(self, step: int) -> int:
        """Return the first row of a step; of the step after the last one, the number of rows."""
        if step < self.epochs.n_steps:
            return step * self.step_rows
        if not step:
            return 0
        first, last = self.epochs.part(step - 1)
        return (step - 1) * self.step_rows + last - first

    def __len__(self) -> int:
        return self.start(self.epochs.n_steps)

    def _describe(self) -> tuple[int, tuple[int, int]]:
        return self.order._describe()

    @property
    def is_injective(self) -> bool:
        """Whether no stored row is named twice: not where the first rows fill up the last step."""
        return self.epochs.n_positions <= self.epochs.n_rows and self.order.is_injective

    def shifted(self, by: int) -> Share:
        """Shift the rows of the epoch."""
        return replace(self, order=self.order.shifted(by))

    def _positions(self, own: Int64Array) -> Int64Array:
        """Return the positions of rows of this rank."""
        epochs, last = self.epochs, self.epochs.n_steps - 1
        steps = own // self.step_rows if self.step_rows else np.full(own.size, last)
        offset = epochs.batch_rows * epochs.rank // epochs.world
        positions = own - steps * self.step_rows + steps * epochs.batch_rows + offset
        at_end = own >= self.start(last)
        positions[at_end] = own[at_end] - self.start(last) + epochs.part(last)[0]
        return positions

    def _rows(self, lo: int, hi: int) -> Int64Array:
        return self._take(np.arange(lo, hi, dtype=np.int64))

    def _take(self, indices: Int64Array) -> Int64Array:
        if not indices.size:
            return np.empty(0, np.int64)
        return self.order._take(self._positions(indices) % len(self.order))

    def _find(self, stored: Int64Array) -> Int64Array:
        epochs = self.epochs
        if epochs.n_positions > epochs.n_rows:
            raise NotInvertibleError("an epoch that is filled up with its first rows has these twice")
        found = self.order._find(stored)
        steps = found // epochs.batch_rows
        out = np.full(found.size, -1, np.int64)
        last = epochs.n_steps - 1
        offset = epochs.batch_rows * epochs.rank // epochs.world
        within = found - steps * epochs.batch_rows - offset
        full = (found >= 0) & (steps < last) & (within >= 0) & (within < self.step_rows)
        out[full] = steps[full] * self.step_rows + within[full]
        if last >= 0:
            first, stop = epochs.part(last)
            at_end = (found >= first) & (found < stop)
            out[at_end] = found[at_end] - first + self.start(last)
        return out

    def _runs(self, lo: int, hi: int) -> list[tuple[int, int]] | None:
        return join_runs(self.order._runs(first, last) for first, last in self._spans(lo, hi))

    def _spans(self, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        """Yield the rows lo .. hi-1 as slices of the order."""
        n = len(self.order)
        step = min(lo // max(1, self.step_rows), self.epochs.n_steps - 1)
        while lo < hi:
            start = self.start(step)
            take = min(hi, self.start(step + 1)) - lo
            first = self.epochs.part(step)[0] + lo - start
            while take > 0:
                part = min(take, n - first % n)
                yield first % n, first % n + part
                first, take, lo = first + part, take - part, lo + part
            step += 1


# ------------------------------------------------------------------------------
# Loads
# ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Rows that are read together, and the batches that they make."""

    spans: tuple[tuple[int, int], ...]
    """Logical rows to read, end to end."""
    rows: npt.NDArray[np.integer[Any]]
    """Which of them the batches take, batch after batch."""
    cuts: Int64Array
    """Where each batch begins in ``rows``, and where the last one ends."""
    closed: bool = True
    """Whether the last batch ends here; else the next load goes on with it."""

    @property
    def n_rows(self) -> int:
        """Rows that are read."""
        return sum(stop - start for start, stop in self.spans)

    def logical(self, lo: int, hi: int) -> Int64Array:
        """Return the logical rows of ``rows[lo:hi]``."""
        spans = np.array(self.spans, np.int64).reshape(-1, 2)
        begins = np.cumsum(spans[:, 1] - spans[:, 0]) - (spans[:, 1] - spans[:, 0])
        wanted = self.rows[lo:hi].astype(np.int64)
        at = np.searchsorted(begins, wanted, side="right") - 1
        logical: Int64Array = spans[at, 0] + wanted - begins[at]
        return logical


@dataclass(frozen=True, slots=True)
class Blocks:
    """The block order of every epoch."""

    epochs: Epochs
    """Rows, steps and rank."""
    seed: int
    """The seed."""
    block_rows: int
    """Rows of a block (b)."""
    buffer_blocks: int
    """Blocks of a round (m)."""
    version: int = ORDER_VERSION
    """How keys are read."""

    def __post_init__(self) -> None:
        if self.block_rows < 1 or self.buffer_blocks < 1:
            raise ArgumentError(
                "blocks have one row at least, and buffers one block, found "
                f"block_rows={self.block_rows} and buffer_blocks={self.buffer_blocks}"
            )

    @property
    def n_blocks(self) -> int:
        """Blocks of the phase."""
        return -(-self.epochs.n_rows // self.block_rows)

    @property
    def round_rows(self) -> int:
        """Rows of a full round (W)."""
        return min(self.epochs.n_rows, self.block_rows * self.buffer_blocks)

    @property
    def share_rows(self) -> int:
        """The most rows of a round that are this rank's."""
        lanes = -(-LANES // self.epochs.world)
        return min(self.round_rows, lanes * -(-self.round_rows // LANES))

    def loads(self, epoch: int, step: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield what `load` takes, for the batches of an epoch from a step on."""
        position, stop = step * self.epochs.batch_rows, self.epochs.n_positions
        ends = _rounds(self, epoch)[1]
        while position < stop:
            turn, at = divmod(position, self.epochs.n_rows)
            number = int(np.searchsorted(ends, at, side="right"))
            upto = min(stop, turn * self.epochs.n_rows + int(ends[number]))
            yield epoch, number, position, upto
            position = upto

    def load(self, epoch: int, number: int, position: int, stop: int) -> Load:
        """Return the load of one round: what this rank has of the positions ``position .. stop - 1``."""
        sigma, ends = _rounds(self, epoch)
        n = int(ends[number]) - (int(ends[number - 1]) if number else 0)
        blocks = sigma[number * self.buffer_blocks : (number + 1) * self.buffer_blocks]
        lanes = np.arange(self.epochs.rank, LANES, self.epochs.world)
        bounds = np.arange(LANES + 1) * n // LANES
        tau = keyed_permutation(LANES, self.seed, epoch, number, version=self.version)
        ascending = np.sort(tau[lanes])
        spans, segments, moved = self._spans(blocks, bounds[ascending], bounds[ascending + 1])
        own = np.concatenate([[0], np.cumsum(np.diff(bounds)[ascending])])
        # rows of the lanes, one of each in turn
        least, longer = n // LANES, np.flatnonzero(np.diff(bounds)[tau] > n // LANES)
        mixed: npt.NDArray[np.integer[Any]] = np.empty(int(own[-1]), np.uint32 if own[-1] <= 2**32 else np.int64)
        turns = mixed[: least * len(lanes)].reshape(least, len(lanes))
        rest = iter(range(turns.size, mixed.size))
        for at, lane in enumerate(lanes.tolist()):
            first, last = own[np.searchsorted(ascending, tau[lane]) :][:2].tolist()
            places = _placed(first, last, segments, moved)
            key = self.seed, epoch, number, lane
            of_lane = places[keyed_permutation(last - first, *key, version=self.version)]
            turns[:, at] = of_lane[:least]
            if len(of_lane) > least:
                mixed[next(rest)] = of_lane[least]
        # the position of a row in the round says whose batch it is in
        base = stop - (stop - 1) % self.epochs.n_rows - 1 + int(ends[number]) - n
        k = self.epochs.batch_rows
        steps = np.arange(position // k, -(-stop // k) + 1) * k
        cuts = _before(np.clip(steps, position, stop) - base, lanes, least, longer)
        rows = mixed[cuts[0] : cuts[-1]]
        return Load(spans, rows, cuts - cuts[0], closed=stop % k == 0 or stop == self.epochs.n_positions)

    def _spans(
        self, blocks: Int64Array, starts: Int64Array, stops: Int64Array
    ) -> tuple[tuple[tuple[int, int], ...], Int64Array, Int64Array]:
        """Return the logical rows of slices of a round, ascending, and how far each part of the slices moves there.

        Parts are given by where they begin among the rows of the slices, end to end, and where the last one ends.
        """
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
        merged: list[tuple[int, int]] = []
        for start, stop in zip(logical[ascending].tolist(), (logical + size)[ascending].tolist(), strict=True):
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], stop)
            else:
                merged.append((start, stop))
        return tuple(merged), begins, offsets - begins[:-1]


def _placed(first: int, last: int, begins: Int64Array, moved: Int64Array) -> Int64Array:
    """Return where the rows first .. last - 1 of the slices of a round are among its logical rows."""
    lo, hi = np.searchsorted(begins, [first, last], side="right") - 1
    cuts = np.clip(begins[lo : hi + 2], first, last)
    return np.arange(first, last) + np.repeat(moved[lo : hi + 1], np.diff(cuts)[: len(moved) - lo])


@lru_cache(maxsize=8)
def _rounds(blocks: Blocks, epoch: int) -> tuple[Int64Array, Int64Array]:
    """Return the permutation of the blocks, and the position after each round."""
    sigma = keyed_permutation(blocks.n_blocks, blocks.seed, epoch, version=blocks.version)
    sizes = np.minimum(blocks.block_rows, blocks.epochs.n_rows - sigma * blocks.block_rows)
    ends = np.cumsum(sizes)
    lasts = np.arange(blocks.buffer_blocks, blocks.n_blocks + blocks.buffer_blocks, blocks.buffer_blocks)
    return sigma, ends[np.minimum(lasts, blocks.n_blocks) - 1]


def _before(positions: Int64Array, lanes: Int64Array, least: int, longer: Int64Array) -> Int64Array:
    """Return how many rows of some lanes come before positions of a round; ``longer`` lanes have one row more."""
    turn = np.minimum(positions // LANES, least)
    rest = positions - turn * LANES  # lanes that have had their turn, or longer lanes that have come
    come = np.where(
        turn < least,
        np.searchsorted(lanes, np.minimum(rest, LANES)),
        np.searchsorted(np.flatnonzero(np.isin(longer, lanes)), rest),
    )
    before: Int64Array = turn * len(lanes) + come
    return before


# ------------------------------------------------------------------------------
# Sizes and quality
# ------------------------------------------------------------------------------


def default_blocks(n_rows: int, row_nbytes: int, chunk_rows: int) -> tuple[int, int]:
    """Return rows of a block and blocks of a round, from the data alone.

    Parameters
    ----------
    n_rows : int
        Rows of the phase.
    row_nbytes : int
        Bytes of a row of all variables together.
    chunk_rows : int
        Rows that the widest variable decodes together.

    Examples
    --------
    >>> default_blocks(4_000_000, 1024, 128)
    (512, 128)
    """
    enough = max(1, n_rows // LANES)  # a block for every lane
    rows = max(1, min(BLOCK_NBYTES // max(1, row_nbytes), enough))
    block_rows = max(1, rows // chunk_rows) * chunk_rows if chunk_rows <= enough else rows
    n_blocks = max(1, -(-n_rows // block_rows))
    held = n_rows * (row_nbytes + ROW_NBYTES)
    n_rounds = max(1, -(-held // ROUND_NBYTES))
    return block_rows, min(n_blocks, -(-n_blocks // (n_rounds * LANES)) * LANES)


def variance_factor(blocks: Blocks, correlation: float) -> float:
    """Return the variance of the mean of a step's rows, over that of as many rows of a uniform order.

    With batches of k rows, blocks of b and rounds of W it is at most ``1 + ρ(k-1)(b-1)/(W-1)`` for the correlation
    ρ of rows of a block (Cochran, *Sampling Techniques*, 3rd edition, chapters 8 and 9), and exact here for N rows::

        p = the chance that two rows of a step are of one block
        c = -(1 + (b-1)ρ) / (N-b)                     correlation of rows of different blocks
        (1 + (k-1)(pρ + (1-p)c)) / (1 - (k-1)/(N-1))

    p is less than (b-1)/(W-1), because a step takes its rows evenly from all lanes.
    """
    n_rows, b = blocks.epochs.n_rows, blocks.block_rows
    k = min(blocks.epochs.batch_rows, n_rows)
    if k < 2 or k == n_rows or b >= n_rows:
        return 1.0
    same = _same_block_pairs(blocks) / (k * (k - 1))
    between = -(1 + (b - 1) * correlation) / (n_rows - b)
    return float((1 + (k - 1) * (same * correlation + (1 - same) * between)) / (1 - (k - 1) / (n_rows - 1)))


def _same_block_pairs(blocks: Blocks) -> float:
    """Return the expected ordered pairs of rows of one block in a step, over all steps of many rounds."""
    n, k = blocks.round_rows, min(blocks.epochs.batch_rows, blocks.epochs.n_rows)
    bounds = np.arange(LANES + 1) * n // LANES
    edges = np.unique(np.concatenate([bounds, np.arange(0, n, blocks.block_rows)]))
    slices = np.searchsorted(bounds, edges[:-1], side="right") - 1
    slice_rows = np.diff(bounds)[slices].astype(np.float64)
    shares, block = np.diff(edges) / slice_rows, edges[:-1] // blocks.block_rows
    # the chance that two rows of one lane, and of two lanes, are of one block
    alike = (shares * (np.diff(edges) - 1) / np.maximum(slice_rows - 1, 1)).sum() / LANES
    across = (np.bincount(block, shares) ** 2 - np.bincount(block, shares**2)).sum() / (LANES * (LANES - 1))

    def pairs(positions: Int64Array) -> npt.NDArray[np.float64]:
        turns, rest = np.divmod(positions, LANES)
        of_one_lane = rest * turns * (turns + 1) + (LANES - rest) * turns * (turns - 1)
        expected: npt.NDArray[np.float64] = of_one_lane * alike + (positions * (positions - 1) - of_one_lane) * across
        return expected

    if blocks.n_blocks <= blocks.buffer_blocks:
        return float(pairs(np.array([k]))[0])
    # a step begins with what is left of a round, goes on with whole ones, and ends in another
    unit, of_whole, total = gcd(n, k), pairs(np.array([n])), 0.0
    for lo in range(0, n // unit, SUMMED):
        left = np.minimum(np.arange(lo + 1, min(lo + SUMMED, n // unit) + 1) * unit, k)
        whole, rest = np.divmod(k - left, n)
        total += float((pairs(left) + whole * of_whole + pairs(rest)).sum())
    return total / (n // unit)
