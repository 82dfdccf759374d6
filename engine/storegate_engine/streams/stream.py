"""Streams: batches of rows for a training loop, resumable and shared by ranks; never reads through dask.

What is in which batch is decided by `stream_orders`, and how the rows come into memory by `stream_loads`. A stream
holds its variables, which are immutable: what happens to the table later does not reach it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import weakref
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from storegate_engine.budget import reserved_nbytes
from storegate_engine.errors import ArgumentError, IterationError, ShapeError, StreamStateError, shown
from storegate_engine.orders import RowOrder, as_int
from storegate_engine.settings import shuffle_plan
from storegate_engine.streams.blocks import Blocks, default_blocks, variance_factor
from storegate_engine.streams.epochs import (
    LANES,
    ORDER_VERSION,
    Epochs,
    batch_generator,
    draw,
    keyed_permutation,
    uniform,
)
from storegate_engine.streams.loaders import (
    BlockSource,
    GatherSource,
    MemorySource,
    Ready,
    RunSource,
    Source,
    Threads,
    ahead,
    copied_nbytes,
    row_nbytes_of,
    together,
)
from storegate_engine.streams.spilled import ExchangeSource
from storegate_engine.table import Variable, is_stored, key_of, temporaries_of

__all__ = ["QUALITY_LIMIT", "Shuffle", "Stream", "class_weights"]

Array: TypeAlias = np.ndarray[Any, Any]
Form: TypeAlias = Callable[[list[Array]], Any]
Transform: TypeAlias = Callable[[Any, np.random.Generator], Any]

FORMAT = 2
"""The version of `Stream.state_dict`. In version 1 the names of the data depended on where the store lay: they are not
compared, but the version of the table is."""
QUALITY_LIMIT = 1.1
"""A block order whose batches have means of more than so many times the variance of uniform ones gets a warning."""
_LEFT_OUT = object()
"""In the place of a batch that a worker does not give."""
SAMPLED_BLOCKS = 32
"""Blocks from which the correlation of a label within a block is estimated."""


@dataclass(frozen=True, slots=True, eq=False)
class Shuffle:
    """How a stream orders rows."""

    kind: Literal["none", "uniform", "blocks"]
    """In logical order, in a uniform order of every epoch, or in blocks."""
    seed: int = 0
    """Of all epochs."""
    block_rows: int | None = None
    """Rows of a block; None follows from the data."""
    buffer_blocks: int | None = None
    """Blocks of a buffer; None follows from the data."""
    label: Variable | None = None
    """What the quality of a block order is judged by; None supposes the worst."""
    weights: Array | None = None
    """Draw rows with these weights, instead of taking each once; uniform only."""
    version: int = ORDER_VERSION
    """How seeds and epochs become orders, see `stream_orders`."""


class Stream:
    """Batches of some variables, epoch after epoch; iterate over it once for every epoch.

    Made by ``gate[phase][var_names].batches(...)``. ``for batch in stream`` gives the rest of the current epoch. With
    its last batch the stream goes on to the next epoch, whether or not the loop asks for more. ``len(stream)`` is the
    number of batches of a whole epoch, the same on every rank. A stream has one loop at a time.

    Parameters
    ----------
    variables : sequence of Variable
        With equal numbers of rows.
    epochs : Epochs
        The rows of a batch, and which part of it is wanted.
    shuffle : Shuffle
        The order of the rows.
    form : callable
        Makes what is given out of the list of arrays of a batch.
    budget_nbytes : int
        The memory limit.
    epoch : int
        The first epoch.
    prefetch : int
        Loads that are read ahead.
    version : int
        The version of the table that the variables are of.
    transform : callable, optional
        Makes what is given out of a batch and a random generator of its own, in the reading threads.

    Raises
    ------
    ShapeError
        The variables have different numbers of rows, or the weights another one.
    MemoryBudgetError
        The buffers do not fit the budget.
    """

    def __init__(
        self,
        variables: Sequence[Variable],
        epochs: Epochs,
        shuffle: Shuffle,
        *,
        form: Form,
        budget_nbytes: int,
        epoch: int = 0,
        prefetch: int = 2,
        version: int = 0,
        transform: Transform | None = None,
    ) -> None:
        if prefetch < 0 or epoch < 0 or shuffle.seed < 0:
            raise ArgumentError(
                f"prefetch, epoch and seed are not negative, found prefetch={prefetch}, epoch={epoch}, "
                f"seed={shuffle.seed}"
            )
        counts = {variable.name: len(variable) for variable in variables}
        if len(set(counts.values())) > 1:
            raise ShapeError(f"the variables of a stream have different numbers of rows: {counts}")
        self._variables = tuple(variables)
        self._held = tuple(held for variable in variables for held in temporaries_of(variable))
        self._batch_rows = epochs.batch_rows
        self._epochs = epochs.within_rows()
        self._shuffle = shuffle
        self._form = form
        self._transform = transform
        self._budget_nbytes = budget_nbytes
        self._prefetch = prefetch
        self._version = version
        self._epoch = epoch
        self._step = 0
        self._blocks: Blocks | None = None
        self._quality: float | None = None
        self._gives = (True, True)
        """Whether there is a batch of a full step, and of the last one, where no row of it is of this part."""
        self._source = self._choose()
        self._running: weakref.ref[_Loop] | None = None

    def _choose(self) -> Source:
        """Return where the rows come from: the cheapest source that can give their order."""
        variables, epochs, shuffle = self._variables, self._epochs, self._shuffle
        in_runs = all(variable.order.runs(0, len(variable)) is not None for variable in variables)
        if shuffle.kind == "blocks":
            if not in_runs:
                raise ArgumentError(
                    "shuffle='blocks' reads blocks of rows that lie together, but these are shuffled lazily; use "
                    "shuffle=True, or compact() the phase after shuffle()"
                )
            self._blocks = self._make_blocks(shuffle.version)
            return BlockSource(variables, self._blocks, self._budget_nbytes, self._prefetch)
        if shuffle.kind == "none" and in_runs:
            return RunSource(variables, epochs, self._budget_nbytes, self._prefetch)
        order = partial(_in_epoch, shuffle)
        memory = MemorySource(variables, epochs, order)
        fits = reserved_nbytes(self._budget_nbytes) + memory.projected_nbytes <= self._budget_nbytes
        if fits and shuffle_plan() != "exchange":
            return memory
        if any(variable.dtype.kind == "T" for variable in variables):  # text has no width, and cannot be spilled
            return GatherSource(variables, epochs, order, self._budget_nbytes, self._prefetch)
        return ExchangeSource(
            variables,
            epochs,
            order,
            self._budget_nbytes,
            self._prefetch,
            name=json.dumps(self._order(shuffle.version)),
        )

    def _make_blocks(self, version: int) -> Blocks:
        widest = max(self._variables, key=lambda variable: variable.row_nbytes)
        chunk_rows = max([1, *(piece.array.chunk_rows for piece in widest.pieces)])
        row_nbytes = row_nbytes_of(self._variables)
        block_rows, buffer_blocks = default_blocks(self._epochs.n_rows, row_nbytes, chunk_rows, version)
        if (asked := self._shuffle.block_rows) is not None:
            buffer_blocks = max(1, -(-block_rows * buffer_blocks // max(1, asked)))  # as many rows
            block_rows = asked
        if self._shuffle.buffer_blocks is not None:
            buffer_blocks = self._shuffle.buffer_blocks
        return Blocks(self._epochs, self._shuffle.seed, block_rows, buffer_blocks, version)

    # What it is

    @property
    def epoch(self) -> int:
        """The epoch that is read, or that the next iteration begins."""
        return self._epoch

    @property
    def step(self) -> int:
        """The batches of the current epoch that were given out."""
        return self._step

    @property
    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """The dtype of each variable."""
        return {variable.name: variable.dtype for variable in self._variables}

    @property
    def is_shuffled(self) -> bool:
        """Whether epochs differ."""
        return self._shuffle.kind != "none"

    @property
    def names(self) -> tuple[str, ...]:
        """The variables, in the order in which a batch has them."""
        return tuple(variable.name for variable in self._variables)

    @property
    def world(self) -> tuple[int, int]:
        """The rank, and the number of ranks."""
        return self._epochs.rank, self._epochs.world

    @property
    def projected_nbytes(self) -> int:
        """The peak memory of an epoch, the batches that the consumer keeps not included."""
        copied = copied_nbytes(self._variables, self._epochs)
        return reserved_nbytes(self._budget_nbytes) + self._source.projected_nbytes + copied

    @property
    def quality(self) -> float:
        """The variance of a batch's mean over that of a uniform batch; 1 unless in blocks, see `block_orders`.

        Rows of a block are taken to be equal, the worst case, or as correlated as those of the label are.
        """
        if self._quality is None:
            self._quality = 1.0
            if self._blocks is not None:
                label = self._shuffle.label
                self._quality = variance_factor(
                    self._blocks, 1.0 if label is None else _correlation(label, self._blocks)
                )
        return self._quality

    def warn_of_quality(self, *, stacklevel: int = 2) -> None:
        """Warn where the quality is not good enough."""
        if self.quality > QUALITY_LIMIT:
            assert self._blocks is not None
            known = "if rows of a block are alike" if self._shuffle.label is None else "as far as the label tells"
            warnings.warn(
                f"shuffle='blocks', {self._blocks.buffer_blocks} blocks of {self._blocks.block_rows} rows a buffer: "
                f"the means of batches vary {self.quality:.2f} times as much as in a uniform order, {known}; "
                "shuffle() and then compact() the phase once (and name a variable with label=, to see that it is "
                "enough), raise buffer_blocks= and budget=, or use shuffle=True",
                UserWarning,
                stacklevel=stacklevel + 1,
            )

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, on every rank."""
        return self._epochs.n_steps

    def __repr__(self) -> str:
        return (
            f"Stream({', '.join(self.names)}: {self._epochs.n_rows} rows in batches of {self._batch_rows}, "
            f"shuffle {self._shuffle.kind}, epoch {self._epoch}, {self._step} of {len(self)} batches given out)"
        )

    def on_rank(self, rank: int, world: int, *, processes: int = 1) -> Stream:
        """Return a stream at the same place for another part of every step.

        Parameters
        ----------
        rank, world : int
            Which part, of how many.
        processes : int
            Streams that share the memory limit of this one.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3, 4, 5])
        >>> list(gate["train"]["x"].batches(4, shuffle=False).on_rank(1, 2))
        [array([2, 3]), array([5])]
        """
        other = Stream(
            self._variables,
            replace(self._epochs, batch_rows=self._batch_rows, rank=as_int(rank, "rank"), world=as_int(world, "world")),
            self._shuffle,
            form=self._form,
            budget_nbytes=max(1, self._budget_nbytes // processes),
            epoch=self._epoch,
            prefetch=self._prefetch,
            version=self._version,
            transform=self._transform,
        )
        other._step = self._step
        return other

    def on_worker(self, worker: int, n_workers: int) -> Stream:
        """Return a stream at the same place for a worker of this rank, which shares its part and memory limit.

        Of a step at which a worker gives none, see `workers_with_batches`, there is no batch, nor for ``transform``.
        """
        rank, world = self.world
        other = self.on_rank(rank * n_workers + worker, world * n_workers, processes=n_workers)
        steps = (0, max(0, len(self) - 1))
        full, last = (worker in self.workers_with_batches(step, n_workers) for step in steps)
        other._gives = full, last
        return other

    def gives_after(self, step: int) -> bool:
        """Return whether a batch of an epoch comes from a step on."""
        full, last = self._gives
        return (full and step < len(self) - 1) or (last and step < len(self))

    @property
    def n_batches(self) -> int:
        """The batches of a whole epoch that this stream gives: of each step, but for a worker."""
        full, last = self._gives
        return full * (len(self) - 1) + last if len(self) else 0

    def workers_with_batches(self, step: int, n_workers: int) -> list[int]:
        """Return which of so many workers of this rank give a batch of a step, see `stream_orders.Epochs`."""
        return self._epochs.workers_with_batches(step, n_workers)

    def __copy__(self) -> Stream:
        """Return a stream at the same place with threads, rows and spill of its own."""
        other = self.on_rank(*self.world)
        other._gives = self._gives
        return other

    # Batches

    def __iter__(self) -> Iterator[Any]:
        """Yield the rest of the current epoch; a loop that was left before its end cannot be gone on with."""
        self._stop("another loop over it was begun")
        loop = _Loop(self._batches(), len(self) - self._step)
        self._running = weakref.ref(loop)
        return loop

    def _batches(self) -> Generator[Any, None, None]:
        epoch, step = self._epoch, self._step
        with Threads(self._source.loads_at_once) as threads:
            batches = self._formed(epoch, step, threads)
            if (transform := self._transform) is not None:
                key = partial(batch_generator, self._shuffle.seed, epoch, rank=self._epochs.rank)
                tasks = (partial(_transformed, transform, batch, key, at) for at, batch in enumerate(batches, step))
                batches = ahead(tasks, threads.reads, self._prefetch)
            for batch in batches:
                self._set_place(epoch, self._step + 1)
                if batch is not _LEFT_OUT:
                    yield batch
                del batch
            self._source.end(epoch)
        if not len(self):
            self._epoch += 1

    def _formed(self, epoch: int, step: int, threads: Threads) -> Iterator[Any]:
        """Yield batches in the form that is asked for, from a step on."""
        pending: list[list[Array]] = []
        tasks = self._source.tasks(epoch, step, threads)
        for ready in ahead(tasks, threads.loads, self._prefetch):
            for at, parts in enumerate(_batches_of(ready, together(self._variables)), start=2):
                if at == len(ready.cuts) and not ready.closed:
                    pending.append(parts)
                    continue
                if pending:
                    pending.append(parts)
                    parts = [np.concatenate(several) for several in zip(*pending, strict=True)]
                    pending = []
                step += 1
                gives = self._gives[step == len(self)] or len(parts[0])
                yield self._form(parts) if gives else _LEFT_OUT
                del parts
            ready.release()
            del ready

    def _set_place(self, epoch: int, step: int) -> None:
        """Be at a step; the one after the last is the first of the next epoch."""
        at_end = step and step == len(self)
        self._epoch, self._step = (epoch + 1, 0) if at_end else (epoch, step)

    def _stop(self, reason: str | None = None) -> None:
        running = self._running() if self._running is not None else None
        self._running = None
        if running is not None:
            running.stop(reason)

    def close(self, *, keep_spill: bool = False) -> None:
        """End an iteration that was left, and let go of the rows and the spill that were kept for later epochs.

        Parameters
        ----------
        keep_spill : bool
            Leave the spill on the disk, so that a stream that goes on with this one's state, on this machine and with
            the same limit and ranks, reads one bucket again instead of spilling the epoch. Who never goes on removes
            it with ``storegate vacuum``, or by hand from ``storegate.scratch-directory``.
        """
        self._stop()
        self._source.close(self._epoch if keep_spill else None)

    def __enter__(self) -> Self:
        """Return the stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Travel at its place, without threads, rows and spill."""
        return {**self.__dict__, "_running": None}

    # State

    def seek(self, epoch: int, step: int = 0) -> None:
        """Go to a step of an epoch, the first one by default; a loop that runs cannot be gone on with.

        Raises
        ------
        ValueError
            The epoch is negative, or the step is not one of an epoch.
        """
        epoch, step = as_int(epoch, "epoch"), as_int(step, "step")
        if epoch < 0 or not 0 <= step <= len(self):
            raise ArgumentError(f"step {step} of epoch {epoch} was asked for; epochs have the steps 0 .. {len(self)}")
        self._stop("it went to another place")
        self._set_place(epoch, step)

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is, as a small dict of JSON; valid after each batch.

        It does not depend on the rank: with the state of any rank, a stream of any number of ranks goes on with the
        step after the last one whose batch was given out.
        """
        return {
            "format": FORMAT,
            "epoch": self._epoch,
            "step": self._step,
            "version": self._version,
            "data": self._data(),
            "order": self._order(self._shuffle.version),
        }

    def _order(self, version: int) -> dict[str, Any]:
        """Return everything that the order of the rows depends on, as orders of a version have it."""
        weights = self._shuffle.weights
        blocks = self._make_blocks(version) if self._shuffle.kind == "blocks" else None
        return {
            "rows": self._epochs.n_rows,
            "batch_size": self._batch_rows,
            "last": self._epochs.last,
            "shuffle": self._shuffle.kind,
            "seed": self._shuffle.seed,
            "streams": LANES,
            "keys": version,
            "block_rows": blocks.block_rows if blocks else None,
            "buffer_blocks": blocks.buffer_blocks if blocks else None,
            "weights": None if weights is None else hashlib.sha256(weights.astype("<f8").tobytes()).hexdigest()[:32],
        }

    def _data(self) -> list[list[Any]]:
        """Return a name for each variable's content, None for what cannot be known again: rows in memory."""
        return [[variable.name, key_of(variable) if is_stored(variable) else None] for variable in self._variables]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place that a stream of the same rows and order was at, on any number of ranks.

        Raises
        ------
        StreamStateError
            The state is of another format, of other data or of another order (a ValueError); it is named.
        """
        _require_state(state)
        theirs = {"keys": 1, **state["order"]}  # the first version did not name itself
        own = self._order(theirs["keys"] if theirs["keys"] in range(1, ORDER_VERSION) else self._shuffle.version)
        if differing := [name for name in own if own[name] != theirs.get(name)]:
            listed = ", ".join(f"{name} {theirs.get(name)!r} (here {own[name]!r})" for name in differing)
            raise StreamStateError(f"the state is of another order: {listed}; make the stream with these values")
        self._require_data(state)
        if state["step"] > len(self):
            raise StreamStateError(f"the state is of step {state['step']}, and epochs have the steps 0 .. {len(self)}")
        if theirs["keys"] != self._shuffle.version:  # rows go on in the order of the version that began with them
            self.close()
            self._shuffle = replace(self._shuffle, version=theirs["keys"])
            self._source = self._choose()
        self.seek(state["epoch"], state["step"])

    def _require_data(self, state: Mapping[str, Any]) -> None:
        """Refuse the state of a stream of other variables, or of other rows of these."""
        names = list(self.names)
        if (found := [name for name, _ in state["data"]]) != names:
            raise StreamStateError(
                f"the state is of other data: of {found}, here are {names}; make the stream of these variables"
            )
        if state["format"] == 1:
            differing = [] if state["version"] == self._version else names
        else:
            differing = [name for (name, own), (_, key) in zip(self._data(), state["data"], strict=True) if own != key]
        if differing:
            raise StreamStateError(
                f"the state is of other data: the rows of {differing} are not those of version {state['version']}, "
                f"which it is of; here is version {self._version}; open that version, or begin a new epoch"
            )


def _require_state(state: Any) -> None:
    """Refuse what no stream returned as its state."""
    found = state.get("format") if isinstance(state, Mapping) else shown(state)
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise StreamStateError(f"the state of a stream has format {FORMAT}, found {found!r}; it was not made here")
    kinds = {"epoch": int, "step": int, "version": int, "order": Mapping, "data": Sequence}
    wrong = [key for key, kind in kinds.items() if not isinstance(state.get(key), kind) or isinstance(state[key], bool)]
    wrong += [key for key in ("epoch", "step") if key not in wrong and state[key] < 0]
    if "data" not in wrong and not all(isinstance(item, Sequence) and len(item) == 2 for item in state["data"]):
        wrong.append("data")
    if wrong:
        listed = ", ".join(f"{key} {shown(state.get(key))}" for key in wrong)
        raise StreamStateError(f"the state of a stream is damaged: {listed}; load what state_dict() returned")


class _Loop(Iterator[Any]):
    """One loop over a stream: ends with its epoch, and raises where the stream has gone elsewhere before."""

    def __init__(self, batches: Generator[Any, None, None], n_left: int) -> None:
        self._batches = batches
        self._n_left = n_left
        self._reason: str | None = None

    def __next__(self) -> Any:
        """Return the next batch."""
        if self._reason is not None:
            raise IterationError(
                f"a loop over a stream goes on, but {self._reason}: {self._n_left} batches of its epoch would be "
                "missing; a stream has one loop at a time: leave the first one, or give each a stream of its own "
                "(copy.copy(stream))"
            )
        try:
            batch = next(self._batches)
        except StopIteration:  # a worker gives fewer than there are steps
            self._n_left = 0
            raise
        self._n_left -= 1
        return batch

    def stop(self, reason: str | None) -> None:
        """End the threads; the next batch, if one is left, is an error for this reason, or the end without one."""
        try:
            self._batches.close()
        except ValueError as err:  # of a generator that runs
            raise IterationError(
                "a stream is read by another thread; give each thread a stream of its own (copy.copy(stream))"
            ) from err
        if self._n_left:
            self._reason = reason


def _transformed(transform: Transform, batch: Any, generator: Callable[[int], np.random.Generator], step: int) -> Any:
    if batch is _LEFT_OUT:
        return batch
    try:
        return transform(batch, generator(step))
    except Exception as err:
        err.add_note(f"in transform= of batches(), at step {step}")
        raise


def _batches_of(ready: Ready, n_rows: int) -> Iterator[list[Array]]:
    """Yield the batches of a load as copies, of which small ones share an array of about ``n_rows`` rows."""
    rows, cuts, first = ready.rows, ready.cuts, 0
    while first < len(cuts) - 1:
        last = max(first + 1, bisect_right(cuts, cuts[first] + n_rows) - 1)
        start, stop = cuts[first], cuts[last]
        if rows is None:
            copies = [array[start:stop].copy() for array in ready.arrays]
        else:
            copies = [array.take(rows[start:stop], axis=0) for array in ready.arrays]
        for lo, hi in pairwise(cuts[first : last + 1]):
            yield [copy[lo - start : hi - start] for copy in copies]
        first = last


def _in_epoch(shuffle: Shuffle, order: RowOrder, epoch: int) -> RowOrder:
    """Return rows in the order of an epoch that is not in blocks."""
    if shuffle.kind == "none":
        return order
    if shuffle.weights is None:
        return uniform(order, shuffle.seed, epoch, shuffle.version)
    return draw(order, shuffle.weights, shuffle.seed, epoch, shuffle.version)


def class_weights(labels: Array) -> Array:
    """Return weights that draw every class equally often: one over the rows of the row's class.

    Parameters
    ----------
    labels : ndarray
        Shape ``(n_rows,)`` or ``(n_rows, 1)``, or one-hot rows of shape ``(n_rows, n_classes)``.

    Raises
    ------
    ShapeError
        Rows are not of one class each.

    Examples
    --------
    >>> class_weights(np.array([7, 7, 7, 9]))
    array([0.33333333, 0.33333333, 0.33333333, 1.        ])
    """
    if labels.ndim > 2:
        raise ShapeError(f"balance= takes a variable of labels or of one-hot rows, found rows of {labels.shape[1:]}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        labels = _classes(labels)
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights: Array = 1.0 / counts[inverse]
    return weights


def _classes(one_hot: Array) -> Array:
    """Return the class of every row."""
    if one_hot.dtype.kind not in "biuf":
        raise ShapeError(f"balance= takes one label a row, found rows of {one_hot.shape[1:]} {one_hot.dtype}")
    is_hot = one_hot != 0
    wrong = (is_hot.sum(axis=1) != 1) | (one_hot.max(axis=1, initial=0) != 1)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise ShapeError(
            f"balance= takes rows of one class each: labels, or one-hot rows of zeros and a single one; row {at} is "
            f"{shown(one_hot[at].tolist())}; give weights= for samples of several classes"
        )
    classes: Array = is_hot.argmax(axis=1)
    return classes


def _correlation(label: Variable, blocks: Blocks) -> float:
    """Return the correlation of a label's rows within blocks: the intraclass correlation of an analysis of variance."""
    b = blocks.block_rows
    whole = blocks.epochs.n_rows // b
    if whole < 2 or b < 2:
        return 1.0
    sample = np.sort(keyed_permutation(whole, blocks.seed)[:SAMPLED_BLOCKS]).tolist()
    values = np.stack([label.read(at * b, (at + 1) * b).reshape(b, -1).astype(np.float64) for at in sample])
    means = values.mean(axis=1)
    between = b * ((means - means.mean(axis=0)) ** 2).sum() / (len(sample) - 1)
    within = ((values - means[:, None]) ** 2).sum() / (len(sample) * (b - 1))
    total = between + (b - 1) * within
    return float(np.clip((between - within) / total, 0, 1)) if total else 0.0
