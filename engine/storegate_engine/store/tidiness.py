"""Tidiness: which variables have too many pieces, or orders that are too deep, and what to merge; changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from storegate_engine.orders import RowOrder, n_nodes
from storegate_engine.table import Table, Variable

__all__ = ["is_nested", "is_untidy", "max_parts", "to_merge"]

MAX_PIECES = 50
"""A variable with more pieces is merged (208 pieces made a read 7 times slower)."""
MAX_DEPTH = 8
"""An order composes this many nested permutations when it is read; a deeper one becomes an index array."""
MAX_PARTS = 1024
"""Orders that one order may contain, concatenated or nested; one with more becomes an index array."""
LEAST_PARTS = 8
"""Parts that any order may have, however many variables there are: an index array, sliced and shuffled."""
MAX_ALL_PARTS = 64 * MAX_PARTS
"""Parts of the orders of all variables: a manifest lists each of them."""


def max_parts(table: Table) -> int:
    """Return the most parts that an order may have, given the number of variables."""
    return min(MAX_PARTS, MAX_ALL_PARTS // max(1, sum(1 for _ in table)))


def is_untidy(variable: Variable, max_parts: int) -> bool:
    """Return whether a variable has too many pieces or parts."""
    return bool(_long_runs(variable)) or is_nested(variable.order, max_parts)


def is_nested(order: RowOrder, max_parts: int) -> bool:
    """Return whether an order is too deep, or has too many parts."""
    return order.depth > MAX_DEPTH or n_nodes(order) > max(LEAST_PARTS, max_parts)


def _long_runs(variable: Variable) -> list[tuple[int, int]]:
    """Return the runs of too many pieces, as firsts and ends.

    Pieces of attached files are never copied, and part the others.
    """
    attached = [at for at, piece in enumerate(variable.pieces) if piece.array.sources is not None]
    edges = [-1, *attached, len(variable.pieces)]
    return [(lo + 1, hi) for lo, hi in pairwise(edges) if hi - lo - 1 > MAX_PIECES]


def to_merge(variable: Variable) -> list[tuple[int, int]]:
    """Return the pieces to merge, as firsts and ends: the last ones of each run that is too long."""
    sizes = [piece.n_rows for piece in variable.pieces]
    return [(lo + _first_to_merge(sizes[lo:hi]), hi) for lo, hi in _long_runs(variable)]


def _first_to_merge(sizes: Sequence[int]) -> int:
    """Return the index of the first piece to merge: no merged piece is much larger than all pieces after it.

    A row is rewritten only when its piece grows by at least half, so n appends cost O(n log n).
    """
    first, total = len(sizes) - 1, sizes[-1]
    while first > 0 and (sizes[first - 1] <= 2 * total or len(sizes) - first < 2):
        first -= 1
        total += sizes[first]
    return first
