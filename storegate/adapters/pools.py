"""Pools of workers: which epoch the processes of a DataLoader read, agreed on through shared memory, without locks.

A DataLoader starts worker processes for a loop, or keeps them from loop to loop, and tells their copies of the dataset
nothing. What they have to know of one another, of the loops before and of the main process stands in one table::

    of all                           whether a state was loaded
    the order of the main process    number · epoch · step
    of each worker                   order · loop · epoch · step · check     its loop, and where that began
                                     loop                                    the last loop whose batches it has all made

Each writes its own records alone. ``check`` is the exclusive or of the words before it, so that a record that is being
written is read again. All workers of a loop find the same place, whichever comes first: that of a record of this loop;
else the beginning of the epoch after the one that was read last; else where the main process said.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from storegate.adapters import require_package
from storegate_engine.streams import LANES

torch = require_package("torch", "torch")

__all__ = ["Loop", "Pools"]

_HEAD = 4
_RECORD = 6
_TRIES = 1000


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of a pool of workers, as one of them knows it."""

    order: int
    """What the main process said last, where it and its workers were then."""
    number: int
    """Which loop: the same for all workers of it."""
    epoch: int
    """What is read."""
    step: int
    """Where it began."""


class Pools:
    """The table of a dataset, its copies in workers, and the pools before them."""

    def __init__(self) -> None:
        self._table = torch.zeros(_HEAD + LANES * _RECORD, dtype=torch.int64).share_memory_()
        self._number = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Share memory with the origin where torch starts a worker, and be a table of one's own elsewhere."""
        self.__dict__.update(state)
        if not self._table.is_shared():
            self._table = self._table.clone().share_memory_()

    def send(self, epoch: int, step: int) -> None:
        """Have the next loop begin at a place; called in the main process."""
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
        """Return the order that is valid for who was at a place when this object came here, and its place."""
        number, *place = self._table[1:_HEAD].tolist()
        if number != self._number:  # given after this worker had started
            epoch, step = place
        return _number_of(number, epoch, step), epoch, step

    def begin(
        self, worker: int, seed: int, turn: int, at: tuple[int, int], loaded: tuple[int, int] | None
    ) -> tuple[Loop, Loop | None]:
        """Record that a worker begins a loop, and return that and its loop before, if it was left.

        Parameters
        ----------
        worker : int
            Which one.
        seed : int
            What torch has drawn for this pool.
        turn : int
            The loops of this pool so far.
        at : (int, int)
            The place of the dataset when it came into this process.
        loaded : (int, int) or None
            The place of a state that was loaded for this loop.
        """
        order, *place = self.ordered(*at)
        number, own = _number_of(seed, turn), self._read(worker)
        if own is not None and own.number == number:  # torch was seeded as for the pool before
            number = _number_of(number)
        known = [loop for loop in map(self._read, range(LANES)) if loop is not None and loop.order == order]
        if own is not None and own.order != order:
            own = None
        of_this = [loop for loop in known if loop.number == number]
        if loaded is not None:
            place = list(loaded)
        elif of_this:
            place = [of_this[0].epoch, of_this[0].step]
        elif known:
            place = [own.epoch + 1 if own is not None else max(loop.epoch for loop in known) + 1, 0]
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
        """Return whether all workers of a loop begin it at the end of its epoch, or went on from there already."""
        ends = loop, replace(loop, epoch=loop.epoch + 1, step=0)
        return all(self._read(worker) in ends for worker in range(n_workers))

    def last(self, epoch: int, step: int) -> Loop | None:
        """Return the last loop that was begun since the order that is valid for a place."""
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
