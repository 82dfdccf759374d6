"""Pools of workers: the processes of a DataLoader agree on the epoch to read, through shared memory, without locks.

A DataLoader starts worker processes for a loop, or keeps them between loops, and tells their copies of the dataset
nothing. All that they must know of one another, of earlier loops and of the main process is in one table::

    for all                          whether a state was loaded
    order of the main process        number · epoch · step
    for each worker                  order · loop · epoch · step · check     its loop, and where that began
                                     loop                                    the last loop whose batches are all made

Each process writes only its own records. ``check`` is the exclusive or of the words before it, so that a record read
while it is written is read again. All workers of a loop find the same place, whichever comes first: that of a record
of this loop; else the beginning of the epoch after the last one read; else the place set by the main process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from storegate_engine.optional import require_package
from storegate_engine.streams import LANES

torch = require_package("torch", "torch", "storegate.adapters.torch")

__all__ = ["Loop", "Pools"]

_HEAD = 4
_RECORD = 6
_TRIES = 1000


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of a pool of workers, as seen by one of them."""

    order: int
    """A hash of the main process's last order and its place."""
    number: int
    """The number of the loop, the same for all its workers."""
    epoch: int
    """The epoch that the loop reads."""
    step: int
    """The step at which the loop began."""


class Pools:
    """The table of a dataset, shared with its copies in workers and with earlier pools."""

    def __init__(self) -> None:
        self._table = torch.zeros(_HEAD + LANES * _RECORD, dtype=torch.int64).share_memory_()
        self._number = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Share memory with the origin if torch starts a worker; elsewhere start a new table."""
        self.__dict__.update(state)
        if not self._table.is_shared():
            self._table = self._table.clone().share_memory_()

    def send(self, epoch: int, step: int) -> None:
        """Tell the next loop where to begin; called in the main process."""
        self._number += 1
        self._table[1:_HEAD] = torch.tensor([self._number, epoch, step])

    @property
    def resumed(self) -> bool:
        """Whether a state was loaded, by the main process or by a worker."""
        return bool(self._table[0].item())

    def resume(self) -> None:
        """Record that a state was loaded."""
        self._table[0] = 1

    def ordered(self, epoch: int, step: int) -> tuple[int, int, int]:
        """Return the number and place of the order that holds for a process that was at a place when it started."""
        number, *place = self._table[1:_HEAD].tolist()
        if number != self._number:  # sent after this worker had started
            epoch, step = place
        return _number_of(number, epoch, step), epoch, step

    def begin(
        self, worker: int, seed: int, turn: int, at: tuple[int, int], loaded: tuple[int, int] | None
    ) -> tuple[Loop, Loop | None]:
        """Record that a worker begins a loop; return that loop, and its previous loop if that was left early.

        Parameters
        ----------
        worker : int
            The number of the worker.
        seed : int
            The seed that torch drew for this pool.
        turn : int
            Number of loops of this pool so far.
        at : (int, int)
            The epoch and step of the dataset when it came into this process.
        loaded : (int, int) or None
            The epoch and step of a state loaded for this loop.
        """
        order, *place = self.ordered(*at)
        number, own = _number_of(seed, turn), self._read(worker)
        if own is not None and own.number == number:  # torch was seeded like the previous pool
            number = _number_of(number)
        known = [loop for loop in map(self._read, range(LANES)) if loop is not None and loop.order == order]
        if own is not None and own.order != order:
            own = None
        of_this = [loop for loop in known if loop.number == number]
        if loaded is not None:
            place = list(loaded)
        elif of_this:
            place = [of_this[0].epoch, of_this[0].step]
        elif own is not None and turn > 1:
            place = [own.epoch + 1, 0]
        elif ahead := [loop.epoch - 1 for loop in known if loop.number == _number_of(seed, turn + 1)]:
            place = [ahead[0], 0]  # this worker is slow: another one of this pool has begun the next loop already
        elif known:  # of earlier pools, in the last of which this worker need not have been
            place = [max(loop.epoch for loop in known) + 1, 0]
        loop = Loop(order, number, *place)
        left = own if own is not None and self._table[self._at(worker) + 5].item() != own.number else None
        self.write(worker, loop)
        return loop, left

    def write(self, worker: int, loop: Loop) -> None:
        """Record where a worker is."""
        words = [loop.order, loop.number, loop.epoch, loop.step]
        at = self._at(worker)
        self._table[at : at + 5] = torch.tensor([*words, _check(words)])

    def end(self, worker: int, loop: Loop) -> None:
        """Record that a worker has made all batches of its loop."""
        self._table[self._at(worker) + 5] = loop.number

    def all_ended(self, loop: Loop, n_workers: int) -> bool:
        """Return whether all workers of a loop began it at the end of its epoch, or have gone on from there."""
        ends = loop, replace(loop, epoch=loop.epoch + 1, step=0)
        return all(self._read(worker) in ends for worker in range(n_workers))

    def last(self, epoch: int, step: int) -> Loop | None:
        """Return the last loop begun since the order that holds for a place."""
        order = self.ordered(epoch, step)[0]
        known = [loop for loop in map(self._read, range(LANES)) if loop is not None and loop.order == order]
        return max(known, key=lambda loop: loop.epoch, default=None)

    def _read(self, worker: int) -> Loop | None:
        at = self._at(worker)
        for _ in range(_TRIES):
            *words, check = self._table[at : at + 5].tolist()
            if check == _check(words):
                return Loop(*words) if words[0] else None
        return None  # its writer was killed

    def _at(self, worker: int) -> int:
        return _HEAD + worker * _RECORD


def _check(words: list[int]) -> int:
    check = 0
    for word in words:
        check ^= word
    return check


def _number_of(*parts: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "little") | 1
