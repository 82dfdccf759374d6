"""Orders of every form, with what numpy makes of them."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from storegate_engine.orders import (
    ArrayIndex,
    Concat,
    Permute,
    Range,
    RowOrder,
    Slice,
    Take,
)

Rows = npt.NDArray[np.int64]


KINDS = ("numpy", "feistel8-v1")


class StoredIndex(ArrayIndex):
    """An index with a name, as one on disk has."""

    def __init__(self, values: npt.ArrayLike, name: str) -> None:
        super().__init__(values)
        self.name = name

    def to_json(self) -> object:
        return {"array": self.name}


def oracle(kind: str, n: int, seed: int) -> Rows:
    if kind == "numpy":
        return np.random.RandomState(seed).permutation(n).astype(np.int64)
    return np.array([slow_feistel(n, seed, i) for i in range(n)], dtype=np.int64)


def slow_feistel(n: int, seed: int, index: int) -> int:
    """The documented algorithm in Python integers."""
    a = isqrt(n - 1) + 1
    b = -(-n // a)
    state = [int(word) for word in np.random.SeedSequence(entropy=seed, spawn_key=(n,)).generate_state(24, np.uint64)]

    def mixed(r: int, v: int, m: int) -> int:
        hashed = ((state[3 * r] | 1) * v + state[3 * r + 1]) % 2**64
        hashed = (hashed ^ (hashed >> 32)) * (state[3 * r + 2] | 1) % 2**64
        return ((hashed >> 32) * m) >> 32

    x = index
    while True:
        left, right = divmod(x, b)
        for r in range(0, 8, 2):
            left = (left + mixed(r, right, a)) % a
            right = (right + mixed(r + 1, left, b)) % b
        x = left * b + right
        if x < n:
            return x


@st.composite
def nested(draw: st.DrawFn, max_level: int = 4) -> tuple[RowOrder, Rows]:
    """A random order without repeated rows, and the stored rows that it stands for."""
    after = 0

    def build(level: int) -> tuple[RowOrder, Rows]:
        nonlocal after
        what = draw(st.sampled_from(["range", "concat", "slice", "permute", "take"])) if level else "range"
        if what == "range":
            start = after + draw(st.integers(0, 5))
            after = start + draw(st.integers(0, 20))
            return Range(start, after), np.arange(start, after)
        if what == "concat":
            children = [build(level - 1) for _ in range(draw(st.integers(0, 4)))]
            children = draw(st.permutations(children))
            return Concat(tuple(order for order, _ in children)), np.concatenate(
                [np.empty(0, np.int64), *(rows for _, rows in children)]
            )
        order, rows = build(level - 1)
        n = len(order)
        if what == "slice":
            lo = draw(st.integers(0, n))
            hi = draw(st.integers(lo, n))
            return Slice(order, lo, hi), rows[lo:hi]
        if what == "permute":
            kind, seed = draw(st.sampled_from(KINDS)), draw(st.integers(0, 2**32 - 1))
            return Permute(order, kind, seed), rows[oracle(kind, n, seed)] if n else rows
        some = draw(st.permutations(range(n)))[: draw(st.integers(0, n))]
        index = np.array(some, dtype=np.int64)
        return Take(order, StoredIndex(index, f"{n}-{level}")), rows[index]

    return build(draw(st.integers(0, max_level)))


def spans(draw: st.DrawFn | Callable[..., Any], n: int) -> tuple[int, int]:
    lo = draw(st.integers(0, n))
    return lo, draw(st.integers(lo, n))


def assert_rows(order: RowOrder, expected: npt.ArrayLike) -> None:
    found = order.rows(0, len(order))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, np.asarray(expected, dtype=np.int64))
