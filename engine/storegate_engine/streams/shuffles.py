"""Shuffles: the order of a stream's rows, and the cheapest loader for it; reads no rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from storegate_engine.budget import reserved_nbytes
from storegate_engine.errors import ArgumentError, MemoryBudgetError
from storegate_engine.identifiers import hex_id_of
from storegate_engine.orders import Range, RowOrder
from storegate_engine.settings import shuffle_plan
from storegate_engine.streams.blocks import Blocks, default_blocks
from storegate_engine.streams.buckets import Bucketed
from storegate_engine.streams.copied import WindowLoader, can_be_copied
from storegate_engine.streams.epochs import LANES, ORDER_VERSION, Epochs, draw, uniform
from storegate_engine.streams.loaders import Loader, row_nbytes_of
from storegate_engine.streams.memory_loaders import GatherLoader, MemoryLoader
from storegate_engine.streams.shares import Share
from storegate_engine.streams.span_loaders import BlockLoader, RunLoader, StoredFirst
from storegate_engine.streams.spilled import ExchangeLoader
from storegate_engine.streams.states import StreamOrder
from storegate_engine.table import Variable

__all__ = ["Shuffle", "blocks_of", "loader_of", "order_of", "rows_of"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Shuffle:
    """How a stream orders its rows."""

    kind: Literal["none", "uniform", "blocks"]
    """In logical order, in a uniform permutation per epoch, or in blocks."""
    seed: int = 0
    """The seed of the order."""
    block_rows: int | None = None
    """Rows of a block; derived from the data if None."""
    buffer_blocks: int | None = None
    """Blocks of a buffer; derived from the data if None."""
    label: Variable | None = None
    """The variable that the quality of a block order is judged by; None assumes the worst case."""
    weights: Array | None = None
    """Draw rows with these weights instead of taking each once; uniform only."""
    version: int = ORDER_VERSION
    """The version of how seeds and epochs become orders, see `epochs`."""
    lengths: Array | None = None
    """The length of each row, if steps have rows of about the same length."""
    first: Literal["stored"] | None = None
    """Whether epoch 0 is the order of the phase, whose rows are stored in a uniform one; uniform only."""


def loader_of(
    variables: Sequence[Variable],
    epochs: Epochs,
    shuffle: Shuffle,
    blocks: Blocks | None,
    budget_nbytes: int,
    prefetch: int,
    *,
    n_epochs: int | None,
    n_local: int,
    name: Callable[[], str],
) -> Loader:
    """Return the cheapest loader that can give the rows in their order.

    Parameters
    ----------
    variables : sequence of Variable
        The rows.
    epochs : Epochs
        The steps, and the rank.
    shuffle : Shuffle
        The order.
    blocks : Blocks or None
        The result of :func:`blocks_of`.
    budget_nbytes : int
        The memory limit.
    prefetch : int
        Number of loads to read ahead.
    n_epochs : int or None
        The number of epochs, from epoch 0 on.
    n_local : int
        The number of ranks on each machine, which have adjacent numbers.
    name : callable
        Returns a name for an order, equal in every process with the same order.

    Raises
    ------
    MemoryBudgetError
        The buffers do not fit in the budget.
    ValueError
        A block order was requested for rows that are not stored in blocks.
    """
    in_runs = all(variable.order.runs(0, len(variable)) is not None for variable in variables)
    if blocks is not None:
        if not in_runs:
            raise ArgumentError(
                "shuffle='blocks' reads blocks of adjacent rows, but these rows are shuffled lazily; use "
                "shuffle=True, or compact() the phase after shuffle()"
            )
        return BlockLoader(variables, blocks, budget_nbytes, prefetch)
    if shuffle.kind == "none" and in_runs and shuffle.lengths is None:
        return RunLoader(variables, epochs, budget_nbytes, prefetch)
    if shuffle.first == "stored":
        known = epochs.n_rows <= 1 or any(variable.shuffled_by is not None for variable in variables)
        if not in_runs or not known:
            raise ArgumentError(
                "first='stored' reads epoch 0 in the order in which rows are stored, and these are not known to be "
                "stored in a random one; call shuffle() and compact() of the phase, or leave first= out"
            )
        if n_epochs == 1:
            return RunLoader(variables, epochs, budget_nbytes, prefetch)
    order = partial(_in_epoch, shuffle, epochs.batch_rows)
    memory = MemoryLoader(variables, epochs, order)
    fits = reserved_nbytes(budget_nbytes) + memory.projected_nbytes <= budget_nbytes
    if fits and shuffle_plan() != "exchange":
        return memory
    # windows would be spilled with each of their rows many times
    if all(map(can_be_copied, variables)):
        with contextlib.suppress(MemoryBudgetError):  # else they are read where they are stored, a load less at a time
            return WindowLoader(variables, epochs, order, budget_nbytes, prefetch, n_epochs=n_epochs)
    # text has no width, and cannot be spilled
    if any(variable.dtype.kind == "T" or variable.is_overlapping for variable in variables):
        return GatherLoader(variables, epochs, order, budget_nbytes, prefetch)
    later = ExchangeLoader(
        variables,
        epochs,
        order,
        budget_nbytes,
        prefetch,
        n_epochs=n_epochs,
        n_local=n_local,
        repeats=shuffle.weights is not None,
        name=name(),
    )
    if shuffle.first is None:
        return later
    return StoredFirst(RunLoader(variables, epochs, budget_nbytes, prefetch), later)


def _in_epoch(shuffle: Shuffle, step_rows: int, order: RowOrder, epoch: int) -> RowOrder:
    """Return rows in the order of an epoch; not for blocks."""
    found = _drawn(shuffle, order, epoch)
    if shuffle.lengths is None:
        return found
    return Bucketed(found, shuffle.lengths, step_rows, shuffle.seed, epoch, shuffle.version)


def _drawn(shuffle: Shuffle, order: RowOrder, epoch: int) -> RowOrder:
    if shuffle.kind == "none" or (shuffle.first == "stored" and epoch == 0):
        return order
    if shuffle.weights is None:
        return uniform(order, shuffle.seed, epoch, shuffle.version)
    return draw(order, shuffle.weights, shuffle.seed, epoch, shuffle.version)


def rows_of(epochs: Epochs, shuffle: Shuffle, blocks: Blocks | None, epoch: int) -> Array:
    """Return the rows of the phase that this rank takes in an epoch, in the order of its batches.

    >>> rows_of(Epochs(6, 4, rank=1, world=2), Shuffle("none"), None, 0)
    array([2, 3, 5])
    """
    if epoch < 0:
        raise ArgumentError(f"epochs are numbered from 0, found {epoch}")
    if blocks is not None:
        loads = (blocks.load(*load) for load in blocks.loads(epoch, 0))
        return np.concatenate([np.empty(0, np.int64), *(load.logical(0, len(load.rows)) for load in loads)])
    own = Share(_in_epoch(shuffle, epochs.batch_rows, Range(0, epochs.n_rows), epoch), epochs)
    return own.rows(0, len(own))


def blocks_of(variables: Sequence[Variable], epochs: Epochs, shuffle: Shuffle) -> Blocks | None:
    """Return the blocks of a shuffle, with sizes derived from the rows unless given; None without blocks."""
    if shuffle.kind != "blocks":
        return None
    widest = max(variables, key=lambda variable: variable.row_nbytes)
    chunk_rows = max([1, *(piece.array.chunk_rows for piece in widest.pieces)])
    row_nbytes = row_nbytes_of(variables)
    block_rows, buffer_blocks = default_blocks(epochs.n_rows, row_nbytes, chunk_rows, shuffle.version)
    if (asked := shuffle.block_rows) is not None:
        buffer_blocks = max(1, -(-block_rows * buffer_blocks // max(1, asked)))  # as many rows
        block_rows = asked
    if shuffle.buffer_blocks is not None:
        buffer_blocks = shuffle.buffer_blocks
    return Blocks(epochs, shuffle.seed, block_rows, buffer_blocks, shuffle.version)


def order_of(epochs: Epochs, batch_rows: int, shuffle: Shuffle, blocks: Blocks | None) -> StreamOrder:
    """Return everything that the order of the rows depends on, for the state of a stream.

    Parameters
    ----------
    epochs : Epochs
        The rows.
    batch_rows : int
        The requested rows of a step, which may exceed those of the phase.
    shuffle : Shuffle
        The order.
    blocks : Blocks or None
        The result of :func:`blocks_of`.
    """
    weights, lengths = shuffle.weights, shuffle.lengths
    return {
        "rows": epochs.n_rows,
        "batch_size": batch_rows,
        "last": epochs.last,
        "shuffle": shuffle.kind,
        "seed": shuffle.seed,
        "streams": LANES,
        "keys": shuffle.version,
        "block_rows": blocks.block_rows if blocks else None,
        "buffer_blocks": blocks.buffer_blocks if blocks else None,
        "weights": None if weights is None else hex_id_of(weights.astype("<f8").tobytes()),
        "lengths": None if lengths is None else hex_id_of(lengths.astype("<i8").tobytes()),
        "first": shuffle.first,
    }
