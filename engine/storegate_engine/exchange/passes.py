"""Passes: whole exchanges of variables that share an order, in two or three passes; decides nothing, runs a plan.

::

    two passes     scatter -> files of K segments                          -> collect(k) for every bucket
    three passes   scatter -> files of K/F segments, one a coarse bucket
                   split   -> for every coarse bucket, files of F segments -> collect(k) for every bucket

The third pass is for more data than two can sort in segments that a disk reads well: with memory M for a task,
two passes reach M²/s bytes in segments of s, three reach M³/s². Row numbers are found and sorted once for all
variables of the order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.buffers import Workspace
from storegate_engine.clusters import active_client, unseen_by
from storegate_engine.errors import SpillError
from storegate_engine.exchange.driver import (
    Exchange,
    collect,
    destinations,
    placement,
    request,
    scatter,
    scratch_of,
    split,
)
from storegate_engine.exchange.plans import Plan
from storegate_engine.exchange.spill_files import SPILL_FORMAT
from storegate_engine.exchange.tasks import run, workspace
from storegate_engine.scratch import LOCK, SHARED_RULE, Spill, Visit, open_spill
from storegate_engine.table import Variable, token_of

__all__ = ["Passes", "open_passes"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Passes:
    """Exchanges of variables with the same order, by one plan; small and picklable."""

    variables: tuple[Variable, ...]
    """Whose rows, all in the same order."""
    plan: Plan
    """Sizes of every pass."""
    directories: tuple[Visit, ...]
    """Where the spill of each variable lies."""
    is_last: bool = False
    """Whether the stored rows are read for the last time, and leave the page cache."""

    @property
    def coarse_rows(self) -> int:
        """Rows of what the first pass sorts into."""
        return self.plan.bucket_rows * self.plan.coarse

    @property
    def n_coarse(self) -> int:
        """How many of them there are."""
        return -(-self.plan.n_buckets // self.plan.coarse)

    def first(self) -> list[Exchange]:
        """Return the exchanges of the first pass."""
        return [
            Exchange(variable, self.plan.map_rows, self.coarse_rows, directory, (0, self.n_coarse))
            for variable, directory in zip(self.variables, self.directories, strict=True)
        ]

    def last(self, bucket: int) -> list[Exchange]:
        """Return the exchanges from whose files a bucket is collected."""
        if self.plan.coarse == 1:
            return self.first()
        coarse = bucket // self.plan.coarse
        low = coarse * self.plan.coarse
        buckets = (low, min(low + self.plan.coarse, self.plan.n_buckets))
        # as many stored rows a file as one task of the first pass read
        map_rows = self.plan.map_rows * self.n_coarse
        return [
            Exchange(variable, map_rows, self.plan.bucket_rows, directory, buckets, prefix=f"split-{coarse:06d}")
            for variable, directory in zip(self.variables, self.directories, strict=True)
        ]

    def scatter(self, number: int) -> None:
        """Do one task of the first pass."""
        exchanges = [exchange for exchange in self.first() if not exchange.map_path(number).exists()]
        if exchanges:
            found = destinations(exchanges[0], number)
            for exchange in exchanges:
                scatter(exchange, number, found, workspace=workspace())
                if self.is_last:
                    lo = number * exchange.map_rows
                    exchange.variable.drop(lo, lo + exchange.map_rows)

    def split(self, coarse: int) -> None:
        """Do one task of the second pass of three."""
        for first, last in zip(self.first(), self.last(coarse * self.plan.coarse), strict=True):
            split(first, last, coarse, workspace=workspace())

    def collect(self, bucket: int, space: Workspace) -> Iterator[Array]:
        """Yield the rows of one bucket, variable by variable; they are valid until the next."""
        exchanges = self.last(bucket)
        found = placement(exchanges[0], bucket)
        return (collect(exchange, bucket, found, workspace=space) for exchange in exchanges)

    def run_first(self, done: Callable[[float], object] = lambda share: None) -> None:
        """Run all passes but the last, and tell the share of one pass that is done; what a killed run wrote is used."""
        workers, n_maps = self.plan.workers, self.plan.n_maps
        if not self.variables[0].order.is_injective:
            (exchange,) = self.first()
            run((partial(request, exchange, number) for number in range(self.n_coarse)), workers)
        run((partial(self.scatter, number) for number in range(n_maps)), workers, lambda: done(1 / n_maps))
        if self.plan.coarse > 1:
            splits = (partial(self.split, coarse) for coarse in range(self.n_coarse))
            run(splits, workers, lambda: done(1 / self.n_coarse))


@contextlib.contextmanager
def open_passes(variables: Sequence[Variable], plan: Plan, *, is_last: bool = False) -> Iterator[Passes]:
    """Give the passes of variables of one order, over what a killed run left; their spill is let go of at the end."""
    sizes = (plan.map_rows, plan.bucket_rows, plan.coarse)
    spills = [open_spill(scratch_of(variable), token_of(variable, SPILL_FORMAT, *sizes)) for variable in variables]
    try:
        _require_shared(spills)
        yield Passes(tuple(variables), plan, tuple(spill.visited() for spill in spills), is_last)
    finally:
        spills.clear()  # removes them, unless another thread runs the same plan


def _require_shared(spills: Sequence[Spill]) -> None:
    """Refuse workers that do not see the spill, before they read any rows."""
    client = active_client()
    if client is None:
        return
    for place, spill in {spill.path.parent: spill for spill in spills}.items():
        if blind := unseen_by(client, spill.path / LOCK):
            raise SpillError(
                f"scratch directory {place} of the client is not seen from {len(blind)} workers "
                f"({', '.join(blind[:3])}): {SHARED_RULE}"
            )
