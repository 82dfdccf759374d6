"""Scans: the rows of phases, each with its number, in whatever order reads them fastest.

Phases of a split share their stored rows, and each names them in an order of its own. Read phase by phase, every chunk
would be read for many blocks of every phase. So rows out of order are read as they are stored, and the order of each
phase says which of them it has::

    stored rows   | a b c d | e f g h | ...     each block is read once
    train         | x   x   | x   x x |         RowOrder.positions: which rows of the block are in the phase
    test          |   x     |   x     |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from storegate.reading import blocks_in_order
from storegate_engine.table import Affine, ArgMax, Bins, Cast, Clip, Variable

__all__ = ["LEAST_SHARE", "can_be_scanned", "scanned_rows"]

Rows: TypeAlias = Any
"""An array, or rows of various lengths."""
K = TypeVar("K")

LEAST_SHARE = 1 / 4
"""Least share of stored rows in some phase; where it is less, rows are gathered instead."""
NUMBERS_SHARE = 16
"""Share of the memory limit for the numbers of rows."""


def can_be_scanned(variable: Variable) -> bool:
    """Return whether stored rows that no phase has can be read without an error."""
    kinds = (Affine, ArgMax, Bins, Cast, Clip)
    are_safe = all(
        isinstance(transform, kinds) and piece.array.dtype.kind in "biufcmM"
        for piece in variable.pieces
        for transform in piece.transforms
    )
    return are_safe and variable.order.is_injective


def scanned_rows(
    phases: Mapping[K, Sequence[Variable]], step: int, budget_nbytes: int
) -> Iterator[tuple[K, npt.NDArray[np.int64], list[Rows]]]:
    """Yield all rows of phases in blocks: the phase, the numbers of the rows in it, and the rows of each variable.

    Parameters
    ----------
    phases : mapping to sequences of Variable
        The variables of each phase, of equal lengths.
    step : int
        Most rows of a block.
    budget_nbytes : int
        Limit of memory where rows go through an exchange.
    """
    groups: list[dict[K, Sequence[Variable]]] = []
    for at, variables in phases.items():
        if _are_scattered_alike(variables):
            alike = next((group for group in groups if _share_rows(next(iter(group.values())), variables)), None)
            if alike is None:
                groups.append({at: variables})
            else:
                alike[at] = variables
        else:
            yield from _in_order(at, variables, step, budget_nbytes)
    for group in groups:
        orders = {at: variables[0].order for at, variables in group.items()}
        first = min(order.bounds[0] for order in orders.values())
        stop = max(order.bounds[1] for order in orders.values())
        if sum(map(len, orders.values())) < LEAST_SHARE * (stop - first):
            for at, variables in group.items():
                yield from _in_order(at, variables, step, budget_nbytes)
            continue
        stored = [variable.stored_rows() for variable in next(iter(group.values()))]
        # a long permutation is looked up for many rows at a time: its table may be dropped for that of another phase
        span = max(step, budget_nbytes // NUMBERS_SHARE // (8 * len(orders)))
        for lo in range(first, stop, span):
            numbers = {at: order.positions(lo, min(lo + span, stop)) for at, order in orders.items()}
            for begin in range(lo, min(lo + span, stop), step):
                end = min(begin + step, lo + span, stop)
                blocks = [variable.read(begin, end) for variable in stored]
                for at, found in numbers.items():
                    here = np.flatnonzero(found[begin - lo : end - lo] >= 0)
                    yield at, found[begin - lo + here], [block[here] for block in blocks]


def _are_scattered_alike(variables: Sequence[Variable]) -> bool:
    first = variables[0]
    return first.order.runs(0, len(first)) is None and all(
        can_be_scanned(variable) and variable.order == first.order for variable in variables
    )


def _share_rows(one: Sequence[Variable], other: Sequence[Variable]) -> bool:
    return all(first.pieces == second.pieces for first, second in zip(one, other, strict=True))


def _in_order(
    at: K, variables: Sequence[Variable], step: int, budget_nbytes: int
) -> Iterator[tuple[K, npt.NDArray[np.int64], list[Rows]]]:
    lo = 0
    for blocks in blocks_in_order(variables, step, budget_nbytes):
        hi = lo + len(blocks[0])
        yield at, np.arange(lo, hi), blocks
        lo = hi
