"""Spilled: the rows of an epoch in any order, by an exchange over spill files, ahead of the batches."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from storegate_engine.arrays import FETCHED_NBYTES
from storegate_engine.budget import ROW_OVERHEAD_NBYTES, cacheable_nbytes, require, reserved_nbytes
from storegate_engine.buffers import Workspace
from storegate_engine.clusters import active_client
from storegate_engine.errors import LabelError
from storegate_engine.exchange import COPIES, SHARE, Exchange, Spills, Step, spill_row_nbytes
from storegate_engine.orders import Range, RowOrder, Span
from storegate_engine.streams.epochs import Epochs
from storegate_engine.streams.loaders import (
    MOST_WAITING,
    READERS,
    EpochOrder,
    Loader,
    Ready,
    Threads,
    are_remote,
    copied_nbytes,
    free_one,
    picked,
    row_nbytes_of,
)
from storegate_engine.streams.shares import Chained, Dealt, Share
from storegate_engine.table import Variable, is_stored, token_of
from storegate_engine.threads import Pending

__all__ = ["ExchangeLoader"]

REMOTE_TASKS = 4
"""Most scatter tasks at a time that read an object store."""
COUNTS_NBYTES = 24
"""Bytes per bucket of a scatter task: its count, and the begin and end of its part."""
EXCHANGE_UNITS = 5.5
"""Buckets in memory besides those that are ready: those being placed, and the copies of one task of the next scatter
(measured)."""
FETCHING_NBYTES = 16 * 2**20
"""Memory for the requests of scatter tasks to an object store, and what their threads decode."""
REUSING_EPOCHS = 3
"""For so many epochs new pages of the page cache, which may cost a virtual machine much, pay: they are used again."""
PATIENCE_S, POLL_S = 0.1, 0.005
"""A rank that has ended an epoch waits so long for a bucket of any other one before it collects one for them."""
CHAINED_ROW_NBYTES = 256
"""Narrower rows are read again for every epoch: many fit in one file, and chained they would have one a bucket."""
FIRST_SHARE = 1 / 4
"""The first step of an epoch is picked where its rows are stored if its chunks are no larger a share of what is still
to be scattered: the epoch then takes a few percent longer, since all rows are moved three times or four, and its first
batch does not wait for that."""
PICKED_SHARE = 1 / 32
"""More steps are picked up to this share, for consumers that need the time of the scatter for them; from an object
store the first one, too, because a link takes as much longer as there are more bytes."""


class ExchangeLoader(Loader):
    """Rows spilled in the order of their epoch; the next epoch is scattered while this one is collected.

    It is scattered from the buckets of this one, while these are in memory, so that stored rows are read for the first
    epoch alone; or from the stored rows, if an epoch has not all rows, or some twice, or there are ranks elsewhere.

    The ranks of one machine share a spill: each scatters a part of the stored rows for all of them, and what another
    one has not done in the end, because it began later, was killed or has stopped.
    """

    loads_at_once = 2

    def __init__(
        self,
        variables: Sequence[Variable],
        epochs: Epochs,
        order: EpochOrder,
        budget_nbytes: int,
        prefetch: int,
        *,
        n_epochs: int | None,
        n_local: int,
        repeats: bool,
        name: str,
    ) -> None:
        self.variables = variables
        self.epochs = epochs
        self.order = order
        self.prefetch = prefetch
        self.n_epochs = n_epochs
        first = epochs.rank // n_local * n_local
        together = Span(first, min(first + n_local, epochs.world)) if all(map(is_stored, variables)) else None
        self.ranks = together or Span(epochs.rank, epochs.rank + 1)
        """The first of the ranks that share the spill, and the end."""
        self.n_ranks = self.ranks[1] - self.ranks[0]
        chains = not repeats and self.n_ranks == epochs.world and epochs.n_positions == epochs.n_rows
        wide = [at for at, each in enumerate(variables) if spill_row_nbytes(each) >= CHAINED_ROW_NBYTES]
        self.wide = wide if chains else []
        """Variables whose rows are scattered from the epoch before, which has all of them once."""
        self.name = name
        self.steps, self.map_rows = self._plan(budget_nbytes)
        self._spills = Spills()
        self._following: Pending[None] | None = None
        self._waiting: deque[Callable[[], object]] = deque()
        self._last: Callable[[], None] = _nothing
        self._scattering: deque[Workspace] = deque()
        self._collecting: deque[list[Workspace]] = deque()
        require(
            reserved_nbytes(budget_nbytes) + self.projected_nbytes,
            budget_nbytes,
            what=f"an exchange for batches of {epochs.batch_rows} rows",
            remedy="raise budget= (or storegate.memory-limit), or lower prefetch= or the batch size",
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without spill and memory."""
        empty: dict[str, Any] = {name: deque() for name in ("_waiting", "_scattering", "_collecting")}
        return {**self.__dict__, "_following": None, "_last": _nothing, **empty}

    def _plan(self, budget_nbytes: int) -> tuple[int, list[int]]:
        """Return the steps per bucket, and the rows of a scatter task of each variable."""
        free = budget_nbytes - reserved_nbytes(budget_nbytes)
        free -= min(free // 4, copied_nbytes(self.variables, self.epochs))
        self.fetching_nbytes = min(free // 8, FETCHING_NBYTES) if are_remote(self.variables) else 0
        free -= self.fetching_nbytes
        unit = SHARE * free / (self.prefetch + EXCHANGE_UNITS)
        step_rows = max(1, -(-self.epochs.batch_rows // self.epochs.world))
        steps = int(unit / (row_nbytes_of(self.variables) + ROW_OVERHEAD_NBYTES)) // step_rows
        map_rows = []
        for variable in self.variables:
            chunk_rows = max([1, *(piece.array.chunk_rows for piece in variable.pieces)])
            fitting = max(1, int(unit / (spill_row_nbytes(variable) + ROW_OVERHEAD_NBYTES)))
            map_rows.append(fitting // chunk_rows * chunk_rows if fitting >= chunk_rows else fitting)
        return max(1, min(steps, self.epochs.n_steps)), map_rows

    @property
    def reads_at_once(self) -> int:
        """Scatter tasks at a time; from an object store more, where there is memory for them: each has to wait.

        Each has its rows and a copy; what has come of an answer is in memory, too.
        """
        if not are_remote(self.variables):
            return READERS
        task = max(self._map_nbytes())
        numbers = range(REMOTE_TASKS, READERS, -1)
        fitting = (n for n in numbers if 2 * n * task + min(FETCHED_NBYTES, n * task) <= self.projected_nbytes)
        return next(fitting, READERS)

    def _map_nbytes(self) -> Iterator[int]:
        """Yield the bytes of a scatter task of each variable."""
        for rows, variable in zip(self.map_rows, self.variables, strict=True):
            yield min(rows, variable.offsets[-1]) * (spill_row_nbytes(variable) + ROW_OVERHEAD_NBYTES)

    @property
    def projected_nbytes(self) -> int:
        """The bytes of the ready buckets, one being placed, and one task of the next scatter with its counts."""
        step_rows = max(1, -(-self.epochs.batch_rows // self.epochs.world))
        bucket = self.steps * step_rows * (row_nbytes_of(self.variables) + ROW_OVERHEAD_NBYTES)
        counts = COUNTS_NBYTES * self.n_ranks * -(-self.epochs.n_steps // self.steps)
        units = (self.prefetch + EXCHANGE_UNITS - COPIES) * bucket + COPIES * (max(self._map_nbytes()) + counts)
        return self.fetching_nbytes + int(units / SHARE)

    def close(self, spill_from: int | None = None) -> None:
        """Remove the spill, or leave it for a later process; and release the memory."""
        if spill_from is not None and all(map(is_stored, self.variables)):
            self._spills.keep(lambda key: key[0] >= spill_from)
        self._following = None
        self._last = _nothing
        self._spills.clear()
        for kept in (self._waiting, self._scattering, self._collecting):
            kept.clear()

    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Scatter what remains, then yield a task per bucket."""
        # While an epoch is collected the next one is scattered, into files of the one before, which are no longer
        # needed:
        #
        #     epoch 0    scatter | collect ...........| files become those of 2
        #     epoch 1            | scatter .......... | collect ...........|
        #     epoch 2                                 | scatter .......... | collect ...
        #
        # A chained epoch has a file for each bucket of the one before, written when that is collected. Buckets that are
        # not, because the epoch was resumed after them, wait for `_prepare`, and those that other ranks have not
        # collected for `end`.
        share = Share(self.order(Range(0, self.epochs.n_rows), epoch), self.epochs)
        exchange = self._beginning(epoch)
        end = step + self._n_picked(exchange, share, step)
        chains = bool(self.wide) and end < self.epochs.n_steps
        following = None if epoch + 1 == self.n_epochs else self.exchange_of(epoch + 1, chained=chains)
        heir = self._key(epoch) if following is None else (epoch + 1, chains)
        self._spills.hand_down(self._spills.keys - {self._key(epoch), heir}, heir=heir)
        self._waiting.clear()
        self._following, self._last = None, _nothing
        step, scattered = yield from self._begin(exchange, share, epoch, (step, end), threads)
        n_buckets = -(-self.epochs.n_steps // self.steps)
        first = step // self.steps if step < self.epochs.n_steps else n_buckets
        chained = following if chains else None
        if following is not None:
            tasks = [self._tasks_of(each, following, epoch + 1) for each in following.steps()]
            if chained is not None:
                own = [self._bucket(number) for number in range(n_buckets)]
                late = (partial(self._chain, exchange, epoch, bucket, chained) for bucket in own[:first])
                tasks[-1] = chain(tasks[-1], late)
                others = set(range(n_buckets * self.n_ranks)) - set(own)
                self._last = partial(self._chain_others, exchange, epoch, sorted(others), chained)
            self._following = threads.loads.submit(threads.wanted(partial(self._prepare, tasks, threads, scattered)))
        for number in range(first, n_buckets):
            begin = max(step, number * self.steps)
            yield partial(self._collect, exchange, epoch, share, number, begin, scattered, chained)

    def _begin(
        self, exchange: Exchange, share: Share, epoch: int, picked_steps: tuple[int, int], threads: Threads
    ) -> Generator[Callable[[], Ready], None, tuple[int, Pending[None] | None]]:
        """Yield tasks for steps that need not wait for the scatter; return the next step, and the scatter if it runs.

        Their rows are picked where they are stored.
        """
        step, end = picked_steps
        if step == end:
            self._scatter(exchange, epoch, threads)
            return step, None
        first = self._pick(share, step)  # at once, because it is waited for: the scatter would take the cores
        scattered = None
        if end < self.epochs.n_steps:
            scattered = threads.loads.submit(partial(self._scatter, exchange, epoch, threads, self.reads_at_once + 1))
        yield partial(_same, first)
        del first
        step += 1
        while step < end and not (scattered and scattered.done()):
            yield partial(self._pick, share, step)
            step += 1
        return step, scattered

    def _n_picked(self, exchange: Exchange, share: Share, step: int) -> int:
        """Return how many steps may be picked, from one on."""
        pieces = [piece for variable in self.variables for piece in variable.pieces]
        chunk = max((piece.chunk_nbytes for piece in pieces), default=0)
        bucket = self.steps * share.step_rows * row_nbytes_of(self.variables)
        if active_client() is not None or 2 * READERS * chunk > bucket:  # picking needs the threads, and chunks
            return 0
        step_nbytes, stored_nbytes = 0, 0
        for variable in self.variables:
            stored = variable.offsets[-1] * spill_row_nbytes(variable)
            stored_nbytes += stored
            step_nbytes += min(share.step_rows * max(piece.chunk_nbytes for piece in variable.pieces), stored)
        missing_nbytes = stored_nbytes * exchange.missing
        steps = missing_nbytes / max(1, step_nbytes * self.n_ranks)
        left = self.epochs.n_steps - step
        most = int((PICKED_SHARE if are_remote(self.variables) else FIRST_SHARE) * steps)
        if left <= most:  # nearly done: then nothing need be scattered
            return left
        return min(most, max(1, int(PICKED_SHARE * steps)))

    def _pick(self, share: Share, step: int) -> Ready:
        return picked(self.variables, share, step, step + 1, share.step_rows * row_nbytes_of(self.variables))

    def end(self, epoch: int) -> None:
        """Help to scatter the next epoch, and wait until that is done; also what is missing of other ranks."""
        self._work(lambda: False)
        if self._following is not None:
            self._following.result()
        self._last()
        self._spills.clear_spare(self._key(epoch + 1))

    def _key(self, epoch: int) -> tuple[int, bool]:
        """Return the key of the spill of an epoch: its number, and whether it is chained."""
        return epoch, (epoch, True) in self._spills.keys

    def _beginning(self, epoch: int) -> Exchange:
        """Return the exchange of an epoch that begins: chained if all of that is there, else from the stored rows."""
        if self._key(epoch)[1] and not (chained := self.exchange_of(epoch, chained=True)).missing:
            return chained
        stored = self.exchange_of(epoch, chained=False)
        if self.wide and epoch:
            # one of the two is released while the other is held: the last one of all would take the leftovers of
            # killed processes with it
            chained = self.exchange_of(epoch, chained=True)
            is_better = not chained.missing and bool(stored.missing)
            self._spills.release((epoch, not is_better))
            return chained if is_better else stored
        return stored

    def exchange_of(self, epoch: int, *, chained: bool | None = None) -> Exchange:
        """Return the exchange of an epoch, reusing what this or a killed process has scattered of it.

        ``chained`` scatters it from the epoch before; default: as it is being made.
        """
        chained = self._key(epoch)[1] if chained is None else chained
        name = partial(self._plan_name, epoch, chained)
        spill = self._spills.open((epoch, chained), self.variables[0], name, shared=self.n_ranks > 1)
        orders = {
            order: self._order_of(order, epoch)
            for order in dict.fromkeys(variable.order for variable in self.variables)
        }
        variables = [replace(variable, order=orders[variable.order]) for variable in self.variables]
        of_any = self._order_of(Range(0, self.epochs.n_rows), epoch)
        bucket_rows = max(1, self.steps * of_any.step_rows)
        map_rows = list(self.map_rows)
        sources: list[int | None] = [None] * len(variables)
        if chained:
            order = Chained(of_any, self._order_of(Range(0, self.epochs.n_rows), epoch - 1))
            for at in self.wide:
                variables[at] = replace(variables[at], order=order)
                map_rows[at], sources[at] = bucket_rows, self.epochs.n_rows
        return Exchange.of(
            variables,
            [spill] * len(variables),
            map_rows=map_rows,
            bucket_rows=bucket_rows,
            prefixes=[f"{number:04d}-map" for number in range(len(variables))],
            source_rows=sources,
            bounds=of_any.begins,
            map_bounds=of_any.begins,  # every epoch has the same
            past_cache=self._past_cache(epoch),
        )

    def _past_cache(self, epoch: int) -> bool | None:
        """Return whether an epoch is spilled past the page cache; None does what is faster.

        While an epoch is read, the next one is written, over the files of the one before: pages that are there from the
        first epochs on serve all later ones.
        """
        nbytes = sum(len(variable) * spill_row_nbytes(variable) for variable in self.variables)
        n_held = 2 if self.n_epochs is None else min(2, self.n_epochs - epoch)
        if nbytes * self.n_ranks // self.epochs.world * n_held > cacheable_nbytes():
            return True
        return False if self.n_epochs is None or self.n_epochs >= REUSING_EPOCHS else None

    def _order_of(self, rows: RowOrder, epoch: int) -> Share | Dealt:
        """Return rows as an exchange has them, bucket after bucket."""
        return _order_of(self.order, self.epochs, self.ranks, self.steps, rows, epoch)

    def _bucket(self, number: int) -> int:
        """Return the bucket of an exchange that has a bucket of this rank."""
        return number * self.n_ranks + self.epochs.rank - self.ranks[0]

    def _plan_name(self, epoch: int, chained: bool) -> str:
        """Return a name for the spill of an epoch, equal in every process that would write the same spill."""
        if not all(map(is_stored, self.variables)):
            return uuid.uuid4().hex
        rows = [token_of(variable, map_rows) for variable, map_rows in zip(self.variables, self.map_rows, strict=True)]
        epochs = repr(replace(self.epochs, rank=self.ranks[0]))
        return Spills.plan(self.name, epochs, self.n_ranks, self.steps, epoch, rows, *["chained"] * chained)

    def _tasks_of(self, step: Step, exchange: Exchange, epoch: int) -> Iterator[Callable[[], object]]:
        """Yield the tasks of a step, each made when it begins: a store may claim any number of rows.

        Ranks that share a spill begin at different ones.
        """
        everything = Range(0, self.epochs.n_rows)
        order = partial(_order_of, self.order, self.epochs, self.ranks, self.steps, everything, epoch)
        first = step.n_tasks * (self.epochs.rank - self.ranks[0]) // self.n_ranks
        for number in range(first, first + step.n_tasks):
            yield partial(_run_task, exchange, step, number % step.n_tasks, order, self._scattering)

    def _scatter(self, exchange: Exchange, epoch: int, threads: Threads, waiting: int = MOST_WAITING) -> None:
        """Run all steps in the reading threads, and wait."""
        for each in exchange.steps():
            threads.run(self._tasks_of(each, exchange, epoch), waiting=waiting)
        self._spills.clear_spare(self._key(epoch))

    def _prepare(
        self, steps: Sequence[Iterator[Callable[[], object]]], threads: Threads, after: Pending[None] | None
    ) -> None:
        """Run all steps in one thread while another epoch streams; its end helps with the last step, see `end`."""
        if after is not None:
            after.result()
        *before, last = steps
        for step in before:
            for task in step:
                if threads.stopping.is_set():
                    return
                task()
        self._waiting.extend(last)
        self._work(threads.stopping.is_set)

    def _chain(self, exchange: Exchange, epoch: int, bucket: int, chained: Exchange) -> None:
        """Scatter one bucket to the next epoch that is not collected for its batches here."""
        if not chained.has(bucket):
            with chained.claimed("chain", bucket):
                if not chained.has(bucket):
                    self._rows_of(exchange, epoch, bucket, chained).release()

    def _chain_others(self, exchange: Exchange, epoch: int, buckets: list[int], chained: Exchange) -> None:
        """Scatter what other ranks have not collected; as long as some of them go on, they are waited for."""
        waited_since = time.monotonic()
        while True:
            missing = [bucket for bucket in buckets if not chained.has(bucket)]
            if not missing:
                return
            if len(missing) < len(buckets):
                waited_since = time.monotonic()
            buckets = missing
            if time.monotonic() - waited_since < PATIENCE_S:
                time.sleep(POLL_S)
            else:  # the last one, which they would come to last
                self._chain(exchange, epoch, buckets.pop(), chained)

    def _work(self, stopped: Callable[[], bool]) -> None:
        """Run waiting tasks; several threads may."""
        while not stopped():
            try:
                task = self._waiting.popleft()
            except IndexError:
                return
            task()

    def _collect(
        self,
        exchange: Exchange,
        epoch: int,
        share: Share,
        number: int,
        step: int,
        after: Pending[None] | None,
        chained: Exchange | None,
    ) -> Ready:
        # one thread of two scatters until then, so that only one other can wait for it, as a Pending demands
        if after is not None:
            after.result()
        ready = self._rows_of(exchange, epoch, self._bucket(number), chained)
        begin = share.start(number * self.steps)
        last = min((number + 1) * self.steps, self.epochs.n_steps)
        ready.cuts = [share.start(at) - begin for at in range(step, last + 1)]
        return ready

    def _rows_of(self, exchange: Exchange, epoch: int, bucket: int, chained: Exchange | None) -> Ready:
        """Return the rows of a bucket, and scatter them to the next epoch."""
        spaces = free_one(self._collecting, lambda: [Workspace() for _ in self.variables])
        with _named_rows(partial(self._order_of, Range(0, self.epochs.n_rows), epoch)):
            arrays = list(exchange.collect(bucket, spaces, following=chained))
        return Ready(arrays, None, [], release=partial(self._collecting.append, spaces))


def _nothing() -> None:
    pass


def _same(ready: Ready) -> Ready:
    return ready


def _order_of(order: EpochOrder, epochs: Epochs, ranks: Span, steps: int, rows: RowOrder, epoch: int) -> Share | Dealt:
    """Return rows as an exchange of some ranks has them in an epoch, bucket after bucket of some steps."""
    whole = order(rows, epoch)
    return Share(whole, epochs) if ranks[1] - ranks[0] == 1 else Dealt(whole, epochs, ranks, steps)


@contextlib.contextmanager
def _named_rows(order: Callable[[], RowOrder]) -> Iterator[None]:
    """Name the logical row of a bad label, if an exchange knows its place in the epoch."""
    try:
        yield
    except LabelError as err:
        raise err.at_row(int(order().take(np.array([err.row]))[0])) from err


def _run_task(
    exchange: Exchange, step: Step, number: int, order: Callable[[], RowOrder], spaces: deque[Workspace]
) -> None:
    """Run one task; it waits in a list of its stream, and must not keep that alive."""
    space = free_one(spaces, Workspace)
    with _named_rows(order):
        exchange.run(step, number, space, alone=True)
    spaces.append(space)
