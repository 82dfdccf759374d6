"""Driver: the steps of an exchange, in order, and what each of their tasks does; runs none of them.

::

    step      tasks         after
    request   a bucket      --                                    only where an order names a row twice
    scatter   a map         all requests
    split     a bucket      all scatters                          only where there are three passes
    collect   a bucket      all tasks of the last step before

    two passes     scatter -> files of K parts                          -> collect(k) for every bucket
    three passes   scatter -> files of K/F parts, one a coarse bucket
                   split   -> for every coarse bucket, files of F parts -> collect(k) for every bucket

The third pass is for more data than two can sort in parts that a disk reads well: with memory M for a task, two
passes reach M²/s bytes in parts of s, three reach M³/s².

Three executors run the steps: `passes` in threads or on a cluster, the layers of `graphs` as tasks of dask, and
`streams` ahead of their batches. Each puts what it has between two steps: a barrier.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from storegate_engine.buffers import Workspace
from storegate_engine.exchange.bucket_sorts import (
    BucketSort,
    Placement,
    collect,
    destinations,
    placement,
    ranks,
    request,
    scatter,
    split,
)
from storegate_engine.scratch import Spill, Visit
from storegate_engine.table import Variable

__all__ = ["Exchange", "Step"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """What comes between two barriers: tasks that run in any order, several at a time, each as often as it has to."""

    name: Literal["request", "scatter", "split"]
    """Which step."""
    n_tasks: int
    """How many tasks it has."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange of one or several variables over one spill; small and picklable, the same in every process."""

    sorts: tuple[BucketSort, ...]
    """The first sort of each variable; places are found once for those whose order is one object."""
    coarse: int = 1
    """Buckets of the last pass in one of these sorts: with more than one, a pass between them splits them."""
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
    ) -> Exchange:
        """Return the exchange of some variables.

        Parameters
        ----------
        variables : sequence of Variable
            The rows and their orders; those whose order is one object share what is worked out from it.
        directories : sequence of path or spill
            Where the spill of each lies.
        map_rows : sequence of int
            Stored rows of a scatter task of each.
        bucket_rows : int
            Logical rows of a bucket.
        buckets : tuple of int, optional
            The first wanted bucket, and the one after the last; default: all.
        prefixes : sequence of str, optional
            How the files of each are called, where several lie in one directory.
        coarse : int
            Buckets that the first of three passes keeps together.
        is_last : bool
            Whether the stored rows are read for the last time.
        """
        n_rows = max((len(variable) for variable in variables), default=0)
        first_rows = bucket_rows * coarse
        sorts = tuple(
            BucketSort(
                variable,
                rows,
                first_rows,
                directory,
                buckets or (0, max(1, -(-n_rows // first_rows))),
                prefix,
            )
            for variable, directory, rows, prefix in zip(
                variables, directories, map_rows, prefixes or ["map"] * len(variables), strict=True
            )
        )
        return cls(sorts, coarse, is_last)

    # Steps

    def steps(self) -> list[Step]:
        """Return the steps before the buckets can be collected, in order; each begins when the one before is done."""
        n_requests = sum(sort.n_buckets for sort in self._requesting())
        steps = [Step("request", n_requests)] if n_requests else []
        steps.append(Step("scatter", sum(sorts[0].n_maps for sorts in self._together())))
        if self.coarse > 1:
            steps.append(Step("split", self.sorts[0].n_buckets))
        return steps

    def run(self, step: Step, number: int, space: Workspace, rows: Array | None = None, *, alone: bool = False) -> None:
        """Do one task of a step; what is there already is not done again.

        Parameters
        ----------
        step : Step
            The step.
        number : int
            Which of its tasks.
        space : Workspace
            Memory of an earlier task to use again.
        rows : ndarray, optional
            The stored rows of a scatter task, where they are at hand.
        alone : bool
            Read stored rows in this thread, because other tasks run beside it.
        """
        if step.name == "request":
            sort, bucket = _at(number, [(sort, sort.n_buckets) for sort in self._requesting()])
            request(sort, sort.buckets[0] + bucket)
        elif step.name == "scatter":
            sorts, number = _at(number, [(sorts, sorts[0].n_maps) for sorts in self._together()])
            self._scatter(sorts, number, space, rows, alone=alone)
        else:
            for sort in self.sorts:
                split(sort, self._fine(sort, number), number, space)

    def _requesting(self) -> list[BucketSort]:
        return [sort for sort in self.sorts if not sort.variable.order.is_injective]

    def _together(self) -> list[list[BucketSort]]:
        """Return the sorts in lists of those whose destinations are the same."""
        groups: dict[tuple[int, int], list[BucketSort]] = {}
        for sort in self.sorts:
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
            map_rows=sort.map_rows * sort.n_buckets,  # as many stored rows a file as one task of the first pass read
            bucket_rows=bucket_rows,
            buckets=(low, min(low + self.coarse, n_buckets)),
            prefix=f"{sort.prefix.replace('map', 'split')}-{number:06d}",
        )

    # Buckets

    def collect(self, bucket: int, spaces: Iterable[Workspace]) -> Iterator[Array]:
        """Yield the rows of one bucket, variable by variable, each in the memory of its space until that is used again.

        Raises
        ------
        CorruptStoreError, LabelError
            As `bucket_sorts.collect`.
        """
        of_bucket = bucket // self.coarse
        sorts = self.sorts if self.coarse == 1 else [self._fine(sort, of_bucket) for sort in self.sorts]
        found: dict[tuple[int, int], Placement] = {}
        for sort, space in zip(sorts, spaces, strict=False):
            order = sort.variable.order
            if (id(order), sort.map_rows) not in found:
                ranked = ranks(sort, bucket)  # for all at once, because it takes as much memory as narrow rows
                alike = [other for other in sorts if other.variable.order is order]
                found |= {(id(order), other.map_rows): placement(other, ranked) for other in alike}
                del ranked
            yield collect(sort, bucket, space, found[id(order), sort.map_rows])


def _at(number: int, counted: list[tuple[Any, int]]) -> tuple[Any, int]:
    """Return what has the task of a number, of some that have a number of tasks each, and which of its own it is."""
    for owner, n_tasks in counted:
        if number < n_tasks:
            return owner, number
        number -= n_tasks
    raise IndexError(number)
