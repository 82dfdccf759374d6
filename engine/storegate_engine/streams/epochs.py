"""Stream orders: the rows of each batch of each rank, in every epoch; pure, reads nothing.

An epoch is a sequence of *positions*, each of which stands for a logical row, and *step* s is the positions
``s·k .. (s+1)·k - 1`` of all ranks together. The row at a position depends on the seed, the epoch, the number of rows
and, for blocks, on their sizes; never on ranks, threads, memory or time::

    in order   position p is row p
    uniform    position p is row permutation(seed, epoch)[p], see `uniform`
    drawn      position p is a row drawn with its weight, keyed (seed, epoch); rows may be drawn twice or never
    blocks     see `blocks`

Of a step of n positions, rank r has ``n·(r+1)//world - n·r//world``; unless in blocks, they are consecutive, from
``n·r//world`` on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import ArgumentError
from storegate_engine.orders import ArrayIndex, Permute, RowOrder, Span, Take

__all__ = [
    "LANES",
    "MAX_KEY",
    "ORDER_VERSION",
    "Epochs",
    "Last",
    "Load",
    "batch_generator",
    "draw",
    "keyed_permutation",
    "uniform",
]

Int64Array: TypeAlias = npt.NDArray[np.int64]
Last: TypeAlias = Literal["split", "drop", "pad"]

LANES = 64
"""Number of lanes of a round of blocks, and so the most ranks that can share an epoch."""
DRAWN_ROWS = 2**20
"""Number of rows that are drawn together."""
TABLE_MAX_ROWS = 2**16
"""Up to this many rows, the permutation of an epoch is a list of rows; above, `permutations` computes it in little
memory. numpy's kind is not used: its tables would be cached for every epoch."""


# ------------------------------------------------------------------------------
# Keyed randomness
# ------------------------------------------------------------------------------


ORDER_VERSION = 3
"""The version of how seeds and epochs become orders; states of all versions resume. In version 1 the numbers of a key
were the words of a SeedSequence, which reads (5, 3) and (5, 3, 0), or (2**32, 0) and (0, 1), as one key. Up to
version 2 the last round of blocks could be short, see `blocks`."""
MAX_KEY = 2**64
"""Numbers of a key are below this: each takes two words."""
_Use: TypeAlias = Literal["permutation", "uniform", "draw", "transform"]
_USES: dict[_Use, int] = {"permutation": 1, "uniform": 2, "draw": 3, "transform": 4}


def _sequence(key: tuple[int, ...], use: _Use, version: int) -> np.random.SeedSequence:
    """Return the seed sequence of a key: different for each key, of any length, and each use."""
    if version == 1:
        return np.random.SeedSequence(key)
    if not all(0 <= number < MAX_KEY for number in key):
        raise ArgumentError(f"seeds, epochs and other numbers of a key are 0 .. 2**64 - 1, found {key}")
    words = [_USES[use], len(key), *(word for number in key for word in (number & 0xFFFFFFFF, number >> 32))]
    return np.random.SeedSequence(np.array(words, np.uint32))


def _random_bits(n: int, key: tuple[int, ...], use: _Use, version: int) -> npt.NDArray[np.uint64]:
    # raw bits: numpy guarantees the streams of bit generators, but not of its distributions
    return np.random.PCG64(_sequence(key, use, version)).random_raw(n)


def keyed_permutation(n: int, *key: int, version: int = ORDER_VERSION) -> Int64Array:
    """Return a permutation of 0 .. n-1 that depends only on ``n`` and the key.

    Every entry gets 64 random bits, the lowest of which are replaced by its number, so that no two are equal and
    every sorting algorithm gives the same order.

    Parameters
    ----------
    n : int
        The length.
    *key : int
        Numbers below 2**64; their count matters, too.
    version : {3, 2, 1}
        The version of keys, see `ORDER_VERSION`.

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


def batch_generator(seed: int, epoch: int, step: int, *, rank: int) -> np.random.Generator:
    """Return the random generator for the transform of one batch of one rank."""
    return np.random.Generator(np.random.PCG64(_sequence((seed, epoch, step, rank), "transform", ORDER_VERSION)))


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
    """Return a list of as many rows as an order has, drawn with replacement and with weights."""
    # a power of two scales the largest weight to 0.5 .. 1, without rounding: so the sum neither overflows nor is
    # a subnormal number
    ends = np.cumsum(np.ldexp(weights, -np.frexp(weights.max())[1]))
    last = np.flatnonzero(weights)[-1]
    drawn = np.empty(len(order), np.int64)
    bits = _random_bits(len(order), (seed, epoch), "draw", version)
    for lo in range(0, len(order), DRAWN_ROWS):
        fractions = (bits[lo : lo + DRAWN_ROWS] >> np.uint64(11)) * 2.0**-53
        # in ascending order, since a search that continues where the last one ended stays in the cache
        ascending = np.argsort(fractions)
        found = np.searchsorted(ends, fractions[ascending] * ends[-1], side="right")
        drawn[lo + ascending] = np.minimum(found, last)  # rounding may reach the end
    return Take(order, ArrayIndex(drawn))


# ------------------------------------------------------------------------------
# Steps and ranks
# ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Epochs:
    """The number of rows, and their division into steps."""

    n_rows: int
    """Rows of the phase."""
    batch_rows: int
    """Rows of one step of all ranks (k)."""
    last: Last = "split"
    """A last step that is not full is shorter, dropped, or filled with the first rows of the epoch."""
    rank: int = 0
    """The part of every step that this rank gets."""
    world: int = 1
    """The number of parts of a step."""

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise ArgumentError(f"a batch has one row at least, found batch_size={self.batch_rows}")
        if not 0 <= self.rank < self.world:
            raise ArgumentError(f"a rank is 0 .. world-1, found rank={self.rank} of world={self.world}")
        if self.world > LANES:
            raise ArgumentError(f"at most {LANES} ranks (and their workers) share a stream, found world={self.world}")

    def within_rows(self) -> Epochs:
        """Return the same steps with batches no larger than the rows, for use in plans."""
        most = {"split": max(1, self.n_rows), "drop": self.n_rows + 1, "pad": self.batch_rows}[self.last]
        return replace(self, batch_rows=min(self.batch_rows, most))

    @property
    def n_steps(self) -> int:
        """Number of batches of an epoch, the same on every rank."""
        return self.n_rows // self.batch_rows if self.last == "drop" else -(-self.n_rows // self.batch_rows)

    @property
    def n_positions(self) -> int:
        """Number of positions of an epoch; from ``n_rows`` on they repeat the first ones."""
        full = self.n_steps * self.batch_rows
        return min(full, self.n_rows) if self.last == "split" else full

    def part(self, step: int) -> Span:
        """Return the positions of a step that are this rank's, if ranks take slices of steps."""
        start = step * self.batch_rows
        n = min(self.batch_rows, self.n_positions - start)
        return Span(start + n * self.rank // self.world, start + n * (self.rank + 1) // self.world)

    def workers_with_batches(self, step: int, n_workers: int) -> list[int]:
        """Return the workers of this rank that have rows of a step, and so give a batch of it.

        Every rank has the same number of them, so that ranks stay in step: if one rank has fewer rows than another,
        some of its workers give empty batches.
        """
        rows = min(self.batch_rows, self.n_positions - step * self.batch_rows)
        ends = [rows * part // (self.world * n_workers) for part in range(self.world * n_workers + 1)]
        with_rows = [
            [worker for worker in range(n_workers) if ends[rank + worker] < ends[rank + worker + 1]]
            for rank in range(0, len(ends) - 1, n_workers)
        ]
        own = with_rows[self.rank]
        others = [worker for worker in range(n_workers) if worker not in own]
        return sorted(own + others[: max(map(len, with_rows)) - len(own)])


# ------------------------------------------------------------------------------
# Loads
# ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Rows that are read together, and their batches."""

    spans: tuple[Span, ...]
    """Logical rows to read, concatenated."""
    rows: npt.NDArray[np.integer[Any]]
    """Indices into these rows, batch after batch."""
    cuts: Int64Array
    """The first index of each batch in ``rows``, and the end of the last one."""
    closed: bool = True
    """Whether the last batch ends here; if not, the next load continues it."""

    @property
    def n_rows(self) -> int:
        """Number of rows to read."""
        return sum(stop - start for start, stop in self.spans)

    def logical(self, lo: int, hi: int) -> Int64Array:
        """Return the logical rows of ``rows[lo:hi]``."""
        spans = np.array(self.spans, np.int64).reshape(-1, 2)
        begins = np.cumsum(spans[:, 1] - spans[:, 0]) - (spans[:, 1] - spans[:, 0])
        wanted = self.rows[lo:hi].astype(np.int64)
        at = np.searchsorted(begins, wanted, side="right") - 1
        logical: Int64Array = spans[at, 0] + wanted - begins[at]
        return logical
