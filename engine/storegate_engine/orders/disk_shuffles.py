"""Disk shuffles: numpy's permutation of more rows than fit in memory, and its inverse, exactly, as files.

``RandomState(seed).shuffle`` swaps position i with a random position j <= i, for i from the last down to 1, and needs
all positions in memory. Here they are cut into blocks, one of which is in memory at a time, from the last to the first.
The effect of a step on another block is a message, kept on disk until that block's turn::

    step i, j in the same block      is done at once: these are few
    step i, j in an earlier block    the value at i becomes a message to j's block, and position i waits
    the turn of j's block            its messages are applied in the order of the steps: each puts its value at j,
                                     and the old value goes back into the message
    at the end                       waiting positions take the values that came back

Messages are 12 bytes per row, written once and read twice in long runs. A row takes about 150 ns, two to three times
as long as in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.buffers import as_bytes
from storegate_engine.integers import stable_argsort

__all__ = ["write_inverse", "write_permutation"]

Ints: TypeAlias = npt.NDArray[np.int64]
UInts: TypeAlias = npt.NDArray[np.uint32]

BLOCK_ROWS = 2**18
"""Positions of a block, more if there would be few messages between blocks: about 80 bytes each in memory."""
FEWEST_MESSAGES = 1024
"""Mean number of messages from one block to another."""
DRAWN = 2**16
"""Random numbers that are processed together."""
APPLIED = 2**15
"""Messages that are applied together: few of them are for the same position."""


def _block_rows(n: int) -> int:
    rows = BLOCK_ROWS
    while rows * rows < FEWEST_MESSAGES * n:
        rows *= 2
    return rows


class _Draws:
    """The random positions of the steps, as numpy draws them: with as many bits as i has, until one is <= i."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = np.random.RandomState(seed)
        self._raw = np.empty(0, np.uint32)
        self._n_drawn = 0

    def take(self, high: int, low: int) -> Ints:
        """Return the positions of the steps high, high - 1, ..., low, the next ones to be drawn.

        All these numbers have as many bits: blocks are powers of two, and start at multiples of their size.
        """
        mask = np.uint32((1 << high.bit_length()) - 1)
        out = np.empty(high - low + 1, np.int64)
        done = 0
        while done < len(out):
            if not len(self._raw):
                self._raw = self._random.randint(0, 2**32, DRAWN, dtype=np.uint32)
                self._n_drawn += DRAWN
            numbers = (self._raw & mask).astype(np.int64)
            # each accepted number lowers the bound of later ones: guess all bounds until they agree
            taken = numbers <= high - done
            while True:
                bounds = high - done - (np.cumsum(taken) - taken)
                agreed = numbers <= bounds
                if np.array_equal(agreed, taken):
                    break
                taken = agreed
            places = np.flatnonzero(taken)[: len(out) - done]
            out[done : done + len(places)] = numbers[places]
            done += len(places)
            used = len(numbers) if done < len(out) or not len(places) else int(places[-1]) + 1
            self._raw = self._raw[used:]
        return out

    def rest(self) -> np.random.RandomState:
        """Return a generator for the numbers that come next."""
        random = np.random.RandomState(self._seed)
        left = self._n_drawn - len(self._raw)
        while left:
            step = min(left, 2**20)
            random.randint(0, 2**32, step, dtype=np.uint32)
            left -= step
        return random


class _Messages:
    """The messages of one block to others: columns in a file, by receiving block; the first are positions in it."""

    def __init__(self, path: Path, rows: int, to: Ints, *columns: UInts) -> None:
        blocks = to // rows
        places = stable_argsort(blocks)
        self.n = len(places)
        self._cuts = np.concatenate([[0], np.cumsum(np.bincount(blocks))]).astype(np.uint32)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        for column in ((to % rows).astype(np.uint32), *columns):
            _write(self._file, column[places])

    def span(self, block: int) -> tuple[int, int]:
        """Return the span of the messages for a block."""
        lo, hi = self._cuts[block : block + 2].tolist() if block < len(self._cuts) - 1 else (0, 0)
        return lo, hi

    def read(self, column: int, lo: int, hi: int) -> UInts:
        """Return a part of a column: 0 positions within their block, 1 values, 2 steps within theirs."""
        return read_entries(self._file, column * self.n + lo, hi - lo)

    def answer(self, lo: int, values: UInts) -> None:
        """Replace the values of messages by those that were at the positions."""
        _write(self._file, values, 4 * (self.n + lo))

    def close(self) -> None:
        os.close(self._file)


def _write(file: int, values: npt.NDArray[Any], offset: int | None = None) -> None:
    view = as_bytes(values).data
    while view:
        count = os.write(file, view) if offset is None else os.pwrite(file, view, offset)
        view, offset = view[count:], None if offset is None else offset + count


def read_entries(file: int, first: int, n: int) -> UInts:
    """Return unsigned 32-bit numbers of a file; OSError if it is too short."""
    content = b"".join(_read(file, 4 * first, 4 * n))
    return np.frombuffer(content, np.uint32)


def _read(file: int, offset: int, nbytes: int) -> Iterator[bytes]:
    while nbytes:
        part = os.pread(file, nbytes, offset)
        if not part:
            raise OSError("a file of a permutation is shorter than what was written")
        yield part
        offset, nbytes = offset + len(part), nbytes - len(part)


def write_permutation(path: Path, n: int, seed: int) -> None:
    """Write ``RandomState(seed).permutation(n)`` to a new file, as unsigned 32-bit numbers.

    Parameters
    ----------
    path : Path
        The file, in a directory with temporary room for 16 bytes per row.
    n : int
        The number of rows, at most 2**32.
    seed : int
        The seed of numpy's RandomState.

    Raises
    ------
    OSError
        A file cannot be written.
    """
    rows = _block_rows(n)
    n_blocks = -(-n // rows)
    draws = _Draws(seed)
    sent: dict[int, _Messages] = {}
    with ExitStack() as stack:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        stack.callback(os.close, file)
        for block in range(n_blocks - 1, -1, -1):
            first, last = block * rows, min(n, (block + 1) * rows)
            current = np.arange(first, last, dtype=np.uint32)
            _apply_messages(current, [sent[other] for other in range(n_blocks - 1, block, -1)], block)
            if block == 0:
                draws.rest().shuffle(current)
                _write(file, current, 0)
                break
            targets = draws.take(last - 1, first)[::-1]  # of the positions first .. last - 1
            _swap_within(current, targets - first)
            away = np.flatnonzero(targets < first)[::-1]  # in the order of the steps
            messages = path.with_name(f"{path.name}.{block}")
            stack.callback(messages.unlink, missing_ok=True)
            sent[block] = _Messages(messages, rows, targets[away], current[away], away.astype(np.uint32))
            stack.callback(sent[block].close)
            _write(file, current, 4 * first)
        for block, answers in sent.items():
            first, last = block * rows, min(n, (block + 1) * rows)
            current = read_entries(file, first, last - first).copy()
            current[answers.read(2, 0, answers.n)] = answers.read(1, 0, answers.n)
            _write(file, current, 4 * first)


def _swap_within(current: UInts, targets: Ints) -> None:
    """Do the steps with both positions in a block; positions whose step leads to another block keep the value to send.

    Step i finds at i the value left there by the last step before it, that is the smallest k > i with target i, and at
    its target the value left by the last step with the same target.
    """
    local = np.flatnonzero((targets >= 0) & (targets != np.arange(len(targets))))[::-1]  # in the order of the steps
    to = targets[local]
    before = current.copy()
    # the origin of the value at a position: follow the steps that moved it down, back to the first
    origin = np.arange(len(current))
    origin[to] = local  # numpy keeps the last of several
    while True:
        further = origin[origin]
        if np.array_equal(further, origin):
            break
        origin = further
    current[:] = before[origin]  # the value that each step finds at its own position, and the others
    by_target = stable_argsort(to)
    again = np.flatnonzero(to[by_target[1:]] == to[by_target[:-1]]) + 1
    found = before[to]
    found[by_target[again]] = current[local[by_target[again - 1]]]
    current[local] = found


def _apply_messages(current: UInts, senders: list[_Messages], block: int) -> None:
    """Apply the messages for a block, in order, and answer each with the value that was at its position."""
    # A block may send only a few: messages of several senders are applied together, in their order, about `APPLIED` at
    # a time. With more, too many would be for the same position, which takes sorting.
    marks = np.zeros(len(current), np.uint32)
    is_shared = np.zeros(len(current), bool)
    waiting: list[tuple[_Messages, int, UInts, UInts]] = []
    n_waiting = 0
    for sender in [*senders, None]:
        if sender is not None:
            lo, hi = sender.span(block)
            for start in range(lo, hi, APPLIED):
                stop = min(start + APPLIED, hi)
                waiting.append((sender, start, sender.read(0, start, stop), sender.read(1, start, stop)))
                n_waiting += stop - start
        while n_waiting >= APPLIED or (sender is None and waiting):
            part = [waiting.pop(0)]
            while waiting and sum(len(of[2]) for of in part) + len(waiting[0][2]) <= 2 * APPLIED:
                part.append(waiting.pop(0))
            positions = np.concatenate([of[2] for of in part])
            values = np.concatenate([of[3] for of in part])
            n_waiting -= len(positions)
            answers = _applied(current, positions, values, marks, is_shared)
            done = 0
            for of, start, own, _ in part:
                of.answer(start, answers[done : done + len(own)])
                done += len(own)


def _applied(current: UInts, positions: UInts, values: UInts, marks: UInts, is_shared: npt.NDArray[np.bool_]) -> UInts:
    """Put values at positions, one after the other, and return what each found there."""
    # Most of them find the old value. If several are for one position, only the first finds it, and each of the others
    # finds the value of the one before: these few are found by marks, and sorted by position.
    found = current[positions]
    current[positions] = values  # numpy keeps the last of several
    marks[positions] = numbers = np.arange(len(positions), dtype=np.uint32)
    replaced = positions[marks[positions] != numbers]
    if len(replaced):
        is_shared[replaced] = True
        several = np.flatnonzero(is_shared[positions])
        is_shared[replaced] = False
        order = several[stable_argsort(positions[several])]
        again = np.flatnonzero(positions[order[1:]] == positions[order[:-1]]) + 1
        found[order[again]] = values[order[again - 1]]
    return found


def write_inverse(path: Path, permutation: int, n: int) -> None:
    """Write the inverse of a permutation to a new file.

    Parameters
    ----------
    path : Path
        The file, in a directory with temporary room for 12 bytes per row.
    permutation : int
        Descriptor of the file of :func:`write_permutation`.
    n : int
        The number of rows.

    Raises
    ------
    OSError
        A file cannot be written.
    """
    rows = _block_rows(n)
    n_blocks = -(-n // rows)
    with ExitStack() as stack:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        stack.callback(os.close, file)
        sent: dict[int, _Messages] = {}
        for block in range(n_blocks):
            first, last = block * rows, min(n, (block + 1) * rows)
            messages = path.with_name(f"{path.name}.{block}")
            stack.callback(messages.unlink, missing_ok=True)
            to = read_entries(permutation, first, last - first).astype(np.int64)
            sent[block] = _Messages(messages, rows, to, np.arange(first, last, dtype=np.uint32))
            stack.callback(sent[block].close)
        for block in range(n_blocks):
            current = np.empty(min(n, (block + 1) * rows) - block * rows, np.uint32)
            for sender in sent.values():
                lo, hi = sender.span(block)
                current[sender.read(0, lo, hi)] = sender.read(1, lo, hi)
            _write(file, current)
