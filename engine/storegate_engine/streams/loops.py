"""Loops: one pass over a stream, and batches cut out of loads; reads nothing."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np

from storegate_engine.errors import IterationError
from storegate_engine.streams.loaders import Ready

__all__ = ["LEFT_OUT", "Loop", "batches_of", "transformed"]

Array: TypeAlias = np.ndarray[Any, Any]

LEFT_OUT = object()
"""Stands for a batch that a worker does not give."""

T = TypeVar("T")


class Loop(Iterator[T]):
    """One loop over a stream; ends with its epoch, and raises if the stream has moved before that."""

    def __init__(self, batches: Generator[T, None, None], n_left: int) -> None:
        self._batches = batches
        self._n_left = n_left
        self._reason: str | None = None

    def __next__(self) -> T:
        """Return the next batch."""
        if self._reason is not None:
            raise IterationError(
                f"a loop over a stream continues, but {self._reason}: {self._n_left} batches of its epoch would be "
                "missing; a stream has one loop at a time: leave the first one, or give each its own stream "
                "(copy.copy(stream))"
            )
        try:
            batch = next(self._batches)
        except StopIteration:  # a worker gives fewer batches than steps
            self._n_left = 0
            raise
        self._n_left -= 1
        return batch

    def stop(self, reason: str | None) -> None:
        """End the threads; the next call then raises an error with this reason, or ends the loop if it is None."""
        try:
            self._batches.close()
        except ValueError as err:  # raised by a running generator
            raise IterationError(
                "a stream is read by another thread; give each thread its own stream (copy.copy(stream))"
            ) from err
        if self._n_left:
            self._reason = reason


def batches_of(ready: Ready, n_rows: int) -> Iterator[list[Array]]:
    """Yield the batches of a load as copies; small ones share an array of about ``n_rows`` rows."""
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


def transformed(
    batch: Any,
    step: int,
    transform: Callable[[Any, np.random.Generator], Any] | None,
    generator: Callable[[int], np.random.Generator],
    then: Callable[[Any], Any] | None,
) -> Any:
    """Return the transform of a batch, with the generator of its step, and what follows it; an error names the step."""
    if batch is LEFT_OUT:
        return batch
    where = "transform= of batches()"
    try:
        if transform is not None:
            batch = transform(batch, generator(step))
        if then is not None:
            where = "map() of a stream"
            batch = then(batch)
    except Exception as err:
        err.add_note(f"in {where}, at step {step}")
        raise
    return batch
