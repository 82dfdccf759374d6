"""Streams: batches of rows for a training loop, resumable and shared by ranks; never reads through dask.

`epochs` decides which rows are in which batch, and `loaders` bring them into memory. A stream holds its variables,
which are immutable: later changes of the table do not affect it.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

import numpy as np

from storegate_engine.budget import reserved_nbytes
from storegate_engine.errors import (
    ArgumentError,
    ArgumentTypeError,
    IterationError,
    ShapeError,
    StreamStateError,
    shown,
)
from storegate_engine.orders import as_int
from storegate_engine.ragged import concatenated
from storegate_engine.settings import local_ranks
from storegate_engine.streams.drawing import draw_orders
from storegate_engine.streams.epochs import Epochs, batch_generator
from storegate_engine.streams.loaders import Loader, Threads, ahead, copied_nbytes, together
from storegate_engine.streams.loops import LEFT_OUT, Loop, batches_of, transformed
from storegate_engine.streams.quality import quality_of, warn_of
from storegate_engine.streams.shuffles import Shuffle, blocks_of, loader_of, order_of, rows_of
from storegate_engine.streams.states import (
    StreamOrder,
    StreamState,
    require_data,
    require_order,
    require_state,
    state_of,
    version_in,
)
from storegate_engine.table import Variable, temporaries_of

__all__ = ["Stream"]

Array: TypeAlias = np.ndarray[Any, Any]
T = TypeVar("T")
"""The type of a batch: an array, a list of arrays, a dict of arrays, or the result of a transform."""
U = TypeVar("U")
Form: TypeAlias = Callable[[list[Array]], Any]
Transform: TypeAlias = Callable[[Any, np.random.Generator], Any]


class Stream(Generic[T]):
    """Batches of some variables, epoch after epoch; iterate over it once per epoch.

    Made by ``gate[phase][var_names].batches(...)``. ``for batch in stream`` gives the rest of the current epoch. After
    its last batch the stream is at the next epoch, whether or not the loop asks for more. ``len(stream)`` is the number
    of batches of a whole epoch, the same on every rank. A stream has one loop at a time.

    Parameters
    ----------
    variables : sequence of Variable
        Variables with equal numbers of rows.
    epochs : Epochs
        The rows of a step, and the part of this rank.
    shuffle : Shuffle
        The order of the rows.
    form : callable
        Makes the result from the list of arrays of a batch.
    budget_nbytes : int
        The memory limit.
    epoch : int
        The first epoch.
    n_epochs : int, optional
        The end: epochs ``0 .. n_epochs - 1`` are given, and nothing is prepared for later ones.
    prefetch : int
        Number of loads to read ahead.
    version : int
        The version of the table that the variables belong to.
    transform : callable, optional
        Makes the result from a batch and a random generator, in the reading threads.
    n_local : int, optional
        The number of ranks on each machine, which have adjacent numbers and share a spill; default: `local_ranks`.

    Raises
    ------
    ShapeError
        The variables, or the weights, have different numbers of rows.
    MemoryBudgetError
        The buffers do not fit in the budget.

    Examples
    --------
    >>> from storegate import StoreGate
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data({"x": [0.0, 0.1, 0.2, 0.3, 0.4], "y": [0, 1, 2, 3, 4]})
    >>> stream = gate["train"].batches(2, seed=1)
    >>> len(stream), stream.n_batches, stream.names, stream.kind, stream.world, stream.quality
    (3, 3, ('x', 'y'), 'uniform', (0, 1), 1.0)
    >>> stream.dtypes["y"], stream.projected_nbytes <= stream.budget_nbytes
    (dtype('int64'), True)
    >>> sorted(stream.rows(epoch=0).tolist())
    [0, 1, 2, 3, 4]
    >>> stream.seek(epoch=1, step=2)
    >>> len(list(stream)), stream.epoch, stream.step
    (1, 2, 0)
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
        n_epochs: int | None = None,
        prefetch: int = 2,
        version: int = 0,
        transform: Transform | None = None,
        n_local: int | None = None,
    ) -> None:
        if prefetch < 0 or epoch < 0 or shuffle.seed < 0:
            raise ArgumentError(
                f"prefetch, epoch and seed are not negative, found prefetch={prefetch}, epoch={epoch}, "
                f"seed={shuffle.seed}"
            )
        if n_epochs is not None and (n_epochs < 1 or epoch > n_epochs):
            raise ArgumentError(
                f"a stream of epochs={n_epochs} was requested, beginning with epoch {epoch}: epochs= is the number of "
                "all epochs, those before the first one included, and at least 1"
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
        self.budget_nbytes = budget_nbytes
        """The memory limit."""
        self.n_epochs = n_epochs
        """The number of epochs, counted from epoch 0; None if there is no end."""
        self._prefetch = prefetch
        self._n_local = local_ranks(epochs.world) if n_local is None else n_local
        self._version = version
        self._epoch = epoch
        self._step = 0
        self._quality: float | None = None
        self._gives = (True, True)
        """Whether a full step, and the last one, give a batch; not if this worker has no rows of it."""
        self._blocks = blocks_of(self._variables, self._epochs, shuffle)
        self.loader = self._choose()
        """The loader of the rows."""
        self._running: weakref.ref[Loop[Any]] | None = None

    def _choose(self) -> Loader:
        return loader_of(
            self._variables,
            self._epochs,
            self._shuffle,
            self._blocks,
            self.budget_nbytes,
            self._prefetch,
            n_epochs=self.n_epochs,
            n_local=self._n_local,
            name=lambda: json.dumps(self._order()),
        )

    def _order(self) -> StreamOrder:
        """Return everything that the order of the rows depends on."""
        return order_of(self._epochs, self._batch_rows, self._shuffle, self._blocks)

    # Attributes

    @property
    def epoch(self) -> int:
        """The current epoch, or the one that the next iteration begins."""
        return self._epoch

    @property
    def step(self) -> int:
        """Number of batches of the current epoch that were given."""
        return self._step

    @property
    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """The dtype of each variable."""
        return {variable.name: variable.dtype for variable in self._variables}

    @property
    def kind(self) -> str:
        """The order of the rows: ``none`` for that of the phase, ``uniform`` or ``blocks``."""
        return self._shuffle.kind

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the variables, in the order of a batch."""
        return tuple(variable.name for variable in self._variables)

    @property
    def world(self) -> tuple[int, int]:
        """The rank, and the number of ranks."""
        return self._epochs.rank, self._epochs.world

    @property
    def projected_nbytes(self) -> int:
        """The peak memory of an epoch, without the batches that the consumer keeps."""
        copied = copied_nbytes(self._variables, self._epochs)
        return reserved_nbytes(self.budget_nbytes) + self.loader.projected_nbytes + copied

    @property
    def quality(self) -> float:
        """The variance of a batch's mean relative to a uniform batch; 1 unless in blocks, see `blocks`.

        Rows of a block are assumed to be equal, the worst case, or as correlated as those of the label.
        """
        if self._quality is None:
            self._quality = quality_of(self._blocks, self._shuffle.label)
        return self._quality

    def warn_of_quality(self, *, stacklevel: int = 2) -> None:
        """Warn if the batches are much less random than uniform ones."""
        warn_of(self.quality, self._blocks, self._shuffle.label, stacklevel=stacklevel + 1)

    def rows(self, epoch: int = 0) -> Array:
        """Return the rows of the phase in the order in which batches of an epoch take them, int64; reads nothing."""
        return rows_of(self._epochs, self._shuffle, self._blocks, as_int(epoch, "epoch"))

    def plot_order(self, *others: Stream[Any], epoch: int = 0) -> Any:
        """Draw how this stream visits the rows of its phase in an epoch, with others beside it; reads no rows.

        A point is a row: its place in the epoch to the right, its place in the phase upwards. Rows in order are a line,
        blocks are small clouds, and a uniform shuffle has no pattern.

        Parameters
        ----------
        *others : Stream
            Other results of ``batches``. Of more than 20,000 rows, every n-th is drawn.
        epoch : int
            The epoch.

        Returns
        -------
        ndarray of matplotlib.axes.Axes, shape (1 + n_others,)

        Raises
        ------
        ModuleNotFoundError
            matplotlib is not installed.
        ArgumentTypeError
            One of the others is no stream.

        Examples
        --------
        >>> import matplotlib
        >>> from storegate import StoreGate
        >>> matplotlib.use("Agg")  # draws into files, without a screen
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", range(4000))
        >>> x = gate["train"]["x"]
        >>> axes = x.batches(64).plot_order(x.batches(64, shuffle="blocks", block_rows=4, buffer_blocks=200))
        >>> [at.get_title() for at in axes]
        ['uniform', 'blocks']
        """
        streams = [self, *others]
        for stream in streams:
            if not isinstance(stream, Stream):
                raise ArgumentTypeError(f"plot_order takes other streams of batches(), found {shown(stream)}")
        return draw_orders(
            [("in order" if stream.kind == "none" else stream.kind, stream.rows(epoch)) for stream in streams]
        )

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, the same on every rank."""
        return self._epochs.n_steps

    def __repr__(self) -> str:
        return (
            f"Stream({', '.join(self.names)}: {self._epochs.n_rows} rows in batches of {self._batch_rows}, "
            f"shuffle {self._shuffle.kind}, epoch {self._epoch}, {self._step} of {len(self)} batches given out)"
        )

    def on_rank(self, rank: int, world: int, *, processes: int = 1) -> Stream[T]:
        """Return a stream at the same place, for another part of every step.

        Parameters
        ----------
        rank, world : int
            The part, and the number of parts.
        processes : int
            Number of streams that share the memory limit of this one.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3, 4, 5])
        >>> list(gate["train"]["x"].batches(4, shuffle=False).on_rank(1, 2))
        [array([2, 3]), array([5])]
        """
        epochs = replace(
            self._epochs, batch_rows=self._batch_rows, rank=as_int(rank, "rank"), world=as_int(world, "world")
        )
        n_local = self._n_local if world == self._epochs.world else local_ranks(world // processes) * processes
        other: Stream[T] = Stream(
            self._variables,
            epochs,
            self._shuffle,
            form=self._form,
            budget_nbytes=max(1, self.budget_nbytes // processes),
            epoch=self._epoch,
            n_epochs=self.n_epochs,
            prefetch=self._prefetch,
            version=self._version,
            transform=self._transform,
            n_local=n_local,
        )
        other._step = self._step
        return other

    def on_worker(self, worker: int, n_workers: int) -> Stream[T]:
        """Return a stream at the same place for a worker of this rank, which shares its part and memory limit.

        Steps without rows of the worker, see `workers_with_batches`, give no batch, and ``transform`` is not called.
        """
        rank, world = self.world
        other = self.on_rank(rank * n_workers + worker, world * n_workers, processes=n_workers)
        steps = (0, max(0, len(self) - 1))
        full, last = (worker in self.workers_with_batches(step, n_workers) for step in steps)
        other._gives = full, last
        return other

    def gives_after(self, step: int) -> bool:
        """Return whether this stream gives a batch of an epoch from a step on."""
        full, last = self._gives
        return (full and step < len(self) - 1) or (last and step < len(self))

    @property
    def n_batches(self) -> int:
        """Number of batches of a whole epoch that this stream gives: one per step, fewer for a worker."""
        full, last = self._gives
        return full * (len(self) - 1) + last if len(self) else 0

    def workers_with_batches(self, step: int, n_workers: int) -> list[int]:
        """Return which of ``n_workers`` workers of this rank give a batch of a step, see `epochs.Epochs`."""
        return self._epochs.workers_with_batches(step, n_workers)

    def __copy__(self) -> Stream[T]:
        """Return a stream at the same place with its own threads, rows and spill."""
        other = self.on_rank(*self.world)
        other._gives = self._gives
        return other

    # Batches

    def __iter__(self) -> Iterator[T]:
        """Yield the rest of the current epoch; a loop that was left early cannot continue afterwards.

        Raises
        ------
        IterationError
            The stream has given all of its epochs (a RuntimeError): a loop over nothing would look like training.
        """
        return self._loop(None)

    def map(self, function: Callable[[T], U]) -> Iterator[U]:
        """Yield ``function(batch)`` for the rest of the current epoch: a loop like that over the stream itself.

        The function runs in the reading threads, at most ``prefetch`` batches ahead and in order, behind ``transform``.
        The place of the stream stays that of the batches given.

        Parameters
        ----------
        function : callable
            Takes a batch.

        Raises
        ------
        IterationError
            The stream has given all of its epochs (a RuntimeError).
        ArgumentTypeError
            The function cannot be called.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3, 4, 5])
        >>> stream = gate["train"]["x"].batches(4, shuffle=False)
        >>> for total in stream.map(lambda batch: int(batch.sum())):
        ...     print(total, stream.epoch, stream.step)
        6 0 1
        9 1 0
        """
        if not callable(function):
            raise ArgumentTypeError(f"map takes a function of a batch, found {shown(function)}")
        return self._loop(function)

    def _loop(self, function: Callable[[T], Any] | None) -> Iterator[Any]:
        if self._epoch == self.n_epochs:
            raise IterationError(
                f"a stream of epochs={self.n_epochs} has given all of them; make it with more epochs, or begin again "
                "with seek(0)"
            )
        self._stop("another loop over it was begun")
        loop = Loop(self._batches(function), len(self) - self._step)
        self._running = weakref.ref(loop)
        return loop

    def _batches(self, function: Callable[[T], Any] | None) -> Generator[Any, None, None]:
        epoch, step = self._epoch, self._step
        with Threads(self.loader.loads_at_once, self.loader.reads_at_once) as threads:
            batches = self._formed(epoch, step, threads)
            if (transform := self._transform) is not None or function is not None:
                key = partial(batch_generator, self._shuffle.seed, epoch, rank=self._epochs.rank)
                tasks = (
                    partial(transformed, batch, at, transform, key, function) for at, batch in enumerate(batches, step)
                )
                batches = ahead(tasks, threads.reads, self._prefetch, begin=0)
            for batch in batches:
                self._set_place(epoch, self._step + 1)
                if batch is not LEFT_OUT:
                    yield batch
                del batch
            self.loader.end(epoch)
        if not len(self):
            self._epoch += 1

    def _formed(self, epoch: int, step: int, threads: Threads) -> Iterator[Any]:
        """Yield batches in their final form, starting at a step."""
        pending: list[list[Array]] = []
        for ready in self.loader.loads(epoch, step, threads, self._prefetch):
            for at, parts in enumerate(batches_of(ready, together(self._variables)), start=2):
                if at == len(ready.cuts) and not ready.closed:
                    pending.append(parts)
                    continue
                if pending:
                    pending.append(parts)
                    parts = [concatenated(several) for several in zip(*pending, strict=True)]
                    pending = []
                step += 1
                gives = self._gives[step == len(self)] or len(parts[0])
                yield self._form(parts) if gives else LEFT_OUT
                del parts
            ready.release()
            del ready

    def _set_place(self, epoch: int, step: int) -> None:
        """Set the place to a step; the one after the last is the first of the next epoch."""
        at_end = step and step == len(self)
        self._epoch, self._step = (epoch + 1, 0) if at_end else (epoch, step)

    def _is_after_end(self, epoch: int, step: int) -> bool:
        return self.n_epochs is not None and (epoch, step) > (self.n_epochs, 0)

    def _stop(self, reason: str | None = None) -> None:
        running = self._running() if self._running is not None else None
        self._running = None
        if running is not None:
            running.stop(reason)

    def close(self, *, keep_spill: bool = False) -> None:
        """End an unfinished iteration, and release the rows and the spill kept for later epochs.

        Parameters
        ----------
        keep_spill : bool
            Leave the spill on the disk, so that a stream resumed from this one's state, on this machine and with the
            same limit and ranks, reads one bucket again instead of spilling the epoch. If none resumes, remove it with
            ``storegate vacuum``, or by hand from ``storegate.scratch-directory``.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3, 4, 5])
        >>> stream = gate["train"]["x"].batches(2, seed=1)
        >>> for batch in stream:
        ...     break
        >>> stream.close()
        """
        self._stop()
        self.loader.close(self._epoch if keep_spill else None)

    def __enter__(self) -> Self:
        """Return the stream itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the place, without threads, rows and spill."""
        return {**self.__dict__, "_running": None}

    # State

    def seek(self, epoch: int, step: int = 0) -> None:
        """Go to a step of an epoch, the first one by default; a running loop cannot continue.

        Raises
        ------
        ValueError
            The epoch is negative or after the end of the stream, or it has no such step.
        """
        epoch, step = as_int(epoch, "epoch"), as_int(step, "step")
        if self._is_after_end(epoch, step):
            raise ArgumentError(f"epoch {epoch} was requested; the stream ends after epochs={self.n_epochs}")
        if epoch < 0 or not 0 <= step <= len(self):
            raise ArgumentError(f"step {step} of epoch {epoch} was requested; epochs have the steps 0 .. {len(self)}")
        self._stop("it went to another place")
        self._set_place(epoch, step)

    def state_dict(self) -> StreamState:
        """Return the place of the stream as a small JSON dict; valid after each batch.

        It does not depend on the rank: with the state of any rank, a stream with any number of ranks continues after
        the last step whose batch was given.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3, 4, 5])
        >>> stream = gate["train"]["x"].batches(2, seed=1)
        >>> next(iter(stream)).shape
        (2,)
        >>> stream.state_dict()["step"]
        1
        """
        return state_of(self._epoch, self._step, self._version, self._variables, self._order())

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go to the place of a stream of the same rows and order, with any number of ranks.

        Raises
        ------
        StreamStateError
            The state has another format, or is of other data or another order; the message says which (a ValueError).

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3, 4, 5])
        >>> stream = gate["train"]["x"].batches(2, seed=1)
        >>> batches = iter(stream)
        >>> _ = next(batches)
        >>> state = stream.state_dict()
        >>> again = gate["train"]["x"].batches(2, seed=1)
        >>> again.load_state_dict(state)
        >>> bool((next(iter(again)) == next(batches)).all())
        True
        """
        theirs = require_state(state)
        shuffle = replace(self._shuffle, version=version_in(theirs, self._shuffle.version))
        blocks = blocks_of(self._variables, self._epochs, shuffle)
        require_order(theirs, order_of(self._epochs, self._batch_rows, shuffle, blocks))
        require_data(theirs, self._variables, self._version)
        if theirs["step"] > len(self):
            raise StreamStateError(f"the state is of step {theirs['step']}, and epochs have the steps 0 .. {len(self)}")
        if self._is_after_end(theirs["epoch"], theirs["step"]):
            raise StreamStateError(
                f"the state is of epoch {theirs['epoch']}, and this stream ends after epochs={self.n_epochs}; "
                "make it with more"
            )
        if shuffle.version != self._shuffle.version:  # the epoch continues in the order of its version
            self.close()
            self._shuffle, self._blocks = shuffle, blocks
            self.loader = self._choose()
        self.seek(theirs["epoch"], theirs["step"])
