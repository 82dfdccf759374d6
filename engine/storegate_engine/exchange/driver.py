"""Driver: the steps of an exchange, in order, and their tasks; runs none of them.

::

    step      tasks         after
    request   a bucket      --                                    only if an order repeats rows
    scatter   a map         all requests
    split     a bucket      all scatters                          only with three passes
    collect   a bucket      all tasks of the step before

    two passes     scatter -> files of K parts                          -> collect(k) for every bucket
    three passes   scatter -> files of K/F parts, one a coarse bucket
                   split   -> for every coarse bucket, files of F parts -> collect(k) for every bucket

The third pass is for more data than two passes can sort in parts that a disk reads well: with memory M for a task,
two passes reach M²/s bytes in parts of s, three reach M³/s².

Three executors run the steps: `executor` in threads or on a cluster, the layers of `graphs` as tasks of dask, and
`streams` ahead of their batches. Each has its own barrier between two steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from storegate_engine.buffers import Workspace
from storegate_engine.exchange.bucket_sorts import (
    Destinations,
    Placement,
    collect,
    destinations,
    placement,
    ranks,
    request,
    scatter,
    split,
)
from storegate_engine.exchange.sorts import BucketSort
from storegate_engine.scratch import Spill, Visit
from storegate_engine.table import Variable

__all__ = ["Exchange", "Step"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """The tasks between two barriers; they run in any order, several at a time, each as often as needed."""

    name: Literal["request", "scatter", "split"]
    """The kind of step."""
    n_tasks: int
    """Number of tasks."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange of one or several variables over one spill; small and picklable, the same in every process."""

    sorts: tuple[BucketSort, ...]
    """The first sort of each variable; variables with the same order object share their places."""
    coarse: int = 1
    """Buckets of the last pass in one bucket of these sorts; if more than one, a pass in between splits them."""
    is_last: bool = False
    """Whether the stored rows are read for the last time, and leave the page cache."""

    @classmethod
    def of(
        cls,
        variables: Sequence[Variable],
        directories: Sequence[str | Spill | Visit],
        *,
        map_rows: Sequence[int],
        bucket_rows: int,
        buckets: tuple[int, int] | None = None,
        prefixes: Sequence[str] | None = None,
        coarse: int = 1,
        is_last: bool = False,
        source_rows: Sequence[int | None] | None = None,
        bounds: Array | None = None,
        map_bounds: Array | None = None,
        past_cache: bool | None = None,
    ) -> Exchange:
        """Return the exchange of some variables.

        Parameters
        ----------
        variables : sequence of Variable
            The rows and their orders; variables with the same order object share what is computed from it.
        directories : sequence of path or spill
            The spill directory of each.
        map_rows : sequence of int
            Stored rows of a scatter task of each.
        bucket_rows : int
            Logical rows of a bucket.
        buckets : tuple of int, optional
            The first wanted bucket, and the end; default: all.
        prefixes : sequence of str, optional
            The prefix of the file names of each, if several share a directory.
        coarse : int
            Buckets that the first of three passes keeps together.
        is_last : bool
            Whether the stored rows are read for the last time.
        source_rows : sequence of int, optional
            For each variable the rows of another exchange that are scattered instead of the stored ones, see
            :meth:`collect`, or None; orders then name these, and ``map_rows`` are the rows of its buckets.
        bounds : ndarray of shape (n_buckets + 1,), optional
            The first logical row of each bucket, and the end, if buckets differ in size.
        map_bounds : ndarray, optional
            The same for the buckets of the other exchange.
        past_cache : bool, optional
            Whether spill files are written past the page cache; default: what was faster.
        """
        n_rows = max((len(variable) for variable in variables), default=0)
        first_rows = bucket_rows * coarse
        n_buckets = max(1, -(-n_rows // first_rows)) if bounds is None else len(bounds) - 1
        sorts = tuple(
            BucketSort(
                variable,
                rows,
                first_rows,
                directory,
                buckets or (0, n_buckets),
                prefix,
                source,
                bounds,
                None if source is None else map_bounds,
                past_cache,
            )
            for variable, directory, rows, prefix, source in zip(
                variables,
                directories,
                map_rows,
                prefixes or ["map"] * len(variables),
                source_rows or [None] * len(variables),
                strict=True,
            )
        )
        return cls(sorts, coarse, is_last)

    # Steps

    def steps(self) -> list[Step]:
        """Return the steps before the buckets can be collected, in order; each begins when the one before has ended.

        They scatter stored rows; those of another exchange are scattered by its :meth:`collect`.
        """
        n_requests = sum(sort.n_buckets for sort in self._requesting())
        steps = [Step("request", n_requests)] if n_requests else []
        steps.append(Step("scatter", sum(sorts[0].n_maps for sorts in self._together())))
        if self.coarse > 1:
            steps.append(Step("split", self.sorts[0].n_buckets))
        return steps

    @property
    def missing(self) -> float:
        """The share of the scatter tasks that nobody has run yet, in this process or an earlier one."""
        paths = [sort.map_path(number) for sort in self.sorts for number in range(sort.n_maps)]
        return sum(not path.exists() for path in paths) / max(1, len(paths))

    def has(self, number: int) -> bool:
        """Return whether a bucket of the exchange before is scattered."""
        return all(sort.map_path(number).exists() for sort in self.sorts if sort.source_rows is not None)

    def run(self, step: Step, number: int, space: Workspace, rows: Array | None = None, *, alone: bool = False) -> None:
        """Run one task of a step; existing results are kept.

        Parameters
        ----------
        step : Step
            The step.
        number : int
            The number of the task.
        space : Workspace
            Memory of an earlier task, to be reused.
        rows : ndarray, optional
            The stored rows of a scatter task, if they are at hand.
        alone : bool
            Read stored rows in this thread, because other tasks run, too.
        """
        with self.claimed(step.name, number):
            if step.name == "request":
                sort, bucket = _at(number, [(sort, sort.n_buckets) for sort in self._requesting()])
                request(sort, sort.buckets[0] + bucket)
            elif step.name == "scatter":
                sorts, number = _at(number, [(sorts, sorts[0].n_maps) for sorts in self._together()])
                self._scatter(sorts, number, space, rows, alone=alone)
            else:
                for sort in self.sorts:
                    split(sort, self._fine(sort, number), number, space)

    def claimed(self, name: str, number: int) -> contextlib.AbstractContextManager[None]:
        """Return a context that no other process is in that shares the spill, for one task."""
        directory = self.sorts[0].directory
        return contextlib.nullcontext() if isinstance(directory, str) else directory.claimed(f"{name}-{number:06d}")

    def _requesting(self) -> list[BucketSort]:
        return [sort for sort in self.sorts if not sort.variable.order.is_injective]

    def _together(self) -> list[list[BucketSort]]:
        """Return the sorts of stored rows in lists of those with the same destinations."""
        groups: dict[tuple[int, int], list[BucketSort]] = {}
        for sort in self.sorts:
            if sort.source_rows is not None:
                continue
            shared = sort.variable.order.is_injective  # requests are read from the files of each
            groups.setdefault((id(sort.variable.order if shared else sort), sort.map_rows), []).append(sort)
        return list(groups.values())

    def _scatter(
        self, sorts: list[BucketSort], number: int, space: Workspace, rows: Array | None, *, alone: bool
    ) -> None:
        missing = [sort for sort in sorts if not sort.map_path(number).exists()]
        if not missing:
            return
        found = destinations(missing[0], number)
        for sort in missing:
            scatter(sort, number, space, found, rows=rows, alone=alone)
            if self.is_last:
                sort.variable.drop(*sort.map_span(number))

    def _fine(self, sort: BucketSort, number: int) -> BucketSort:
        """Return the sort of one bucket of another one into the buckets of the last pass."""
        bucket_rows = sort.bucket_rows // self.coarse
        low, n_buckets = number * self.coarse, -(-len(sort.variable) // bucket_rows)
        return replace(
            sort,
            map_rows=sort.map_rows * sort.n_buckets,  # so that a file has as many rows as a task of the first pass
            bucket_rows=bucket_rows,
            buckets=(low, min(low + self.coarse, n_buckets)),
            prefix=f"{sort.prefix.replace('map', 'split')}-{number:06d}",
        )

    # Buckets

    def collect(
        self, bucket: int, spaces: Iterable[Workspace], *, following: Exchange | None = None
    ) -> Iterator[Array]:
        """Yield the rows of one bucket, variable by variable, each in the memory of its space until that is reused.

        They are also scattered for a ``following`` exchange, of whose ``source_rows`` they are a part.

        Raises
        ------
        CorruptStoreError, LabelError
            See `bucket_sorts.collect`.
        """
        of_bucket = bucket // self.coarse
        sorts = self.sorts if self.coarse == 1 else [self._fine(sort, of_bucket) for sort in self.sorts]
        found: dict[tuple[int, int], Placement] = {}
        scattered = (lambda *rows: None) if following is None else following._scattering(bucket)
        for at, (sort, space) in enumerate(zip(sorts, spaces, strict=False)):
            order = sort.variable.order
            if (id(order), sort.map_rows) not in found:
                ranked = ranks(sort, bucket)  # once for all, because it takes as much memory as narrow rows
                alike = [other for other in sorts if other.variable.order is order]
                found |= {(id(order), other.map_rows): placement(other, ranked) for other in alike}
                del ranked
            placed = partial(scattered, at, space)
            yield collect(sort, bucket, space, found[id(order), sort.map_rows], placed=placed)

    def _scattering(self, number: int) -> Callable[[int, Workspace, Array], None]:
        """Return a function that writes the file of one task for one variable, from its rows; one order serves all."""
        found: list[Destinations] = []

        def scattered(at: int, space: Workspace, rows: Array) -> None:
            sort = self.sorts[at]
            if sort.source_rows is None or sort.map_path(number).exists():
                return
            if not found:
                found.append(destinations(sort, number))
            scatter(sort, number, space, found[0], rows=rows)

        return scattered


def _at(number: int, counted: list[tuple[Any, int]]) -> tuple[Any, int]:
    """Return the object that a global task number belongs to, and the number of the task within it."""
    for owner, n_tasks in counted:
        if number < n_tasks:
            return owner, number
        number -= n_tasks
    raise IndexError(number)
