"""Laws of row orders; numpy on materialised arrays is the oracle."""

from __future__ import annotations

import copy
import json
import os
import pickle
import threading
import zlib
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from itertools import pairwise
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate_engine.errors import CorruptStoreError, NotInvertibleError
from storegate_engine.orders import (
    ArrayIndex,
    Concat,
    Permute,
    Range,
    RowIndex,
    RowOrder,
    Slice,
    Take,
    concat,
    cut,
    flatten,
    from_json,
    permutations,
    permute,
    replace_rows,
    to_json,
)
from storegate_engine.orders import json as order_json
from storegate_engine.orders.permutations import forward_rows, inverse_rows

Rows = npt.NDArray[np.int64]
KINDS = ("numpy", "feistel8-v1")


class StoredIndex(ArrayIndex):
    """An index with a name, as one on disk has."""

    def __init__(self, values: npt.ArrayLike, name: str) -> None:
        super().__init__(values)
        self.name = name

    def to_json(self) -> object:
        return {"array": self.name}


def no_index(name: object) -> RowIndex:
    raise KeyError(name)


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


# ------------------------------------------------------------------------------ reading, against numpy


@given(nested(), st.data())
def test_rows_and_take_equal_the_materialised_order(pair: tuple[RowOrder, Rows], data: st.DataObject) -> None:
    order, expected = pair
    assert len(order) == len(expected)
    lo, hi = spans(data.draw, len(order))
    rows = order.rows(lo, hi)
    assert rows.dtype == np.int64
    assert rows.flags.writeable
    np.testing.assert_array_equal(rows, expected[lo:hi])
    if len(order):
        indices = np.array(data.draw(st.lists(st.integers(0, len(order) - 1))), dtype=np.int64)
        before = indices.copy()
        np.testing.assert_array_equal(order.take(indices), expected[indices])
        np.testing.assert_array_equal(indices, before)


@given(nested(), st.data())
def test_positions_and_find_invert_rows(pair: tuple[RowOrder, Rows], data: st.DataObject) -> None:
    order, expected = pair
    where = {int(row): position for position, row in enumerate(expected)}
    lo = data.draw(st.integers(0, 60))
    hi = data.draw(st.integers(lo, 120))
    found = order.positions(lo, hi)
    assert found.dtype == np.int64
    assert found.tolist() == [where.get(row, -1) for row in range(lo, hi)]
    np.testing.assert_array_equal(order.find(expected), np.arange(len(order)))
    stored = data.draw(st.lists(st.integers(0, 200)))
    assert order.find(np.array(stored, np.int64)).tolist() == [where.get(row, -1) for row in stored]


@given(nested(), st.data())
def test_runs_spell_the_rows_or_are_none(pair: tuple[RowOrder, Rows], data: st.DataObject) -> None:
    order, expected = pair
    lo, hi = spans(data.draw, len(order))
    runs = order.runs(lo, hi)
    if order.depth == 0 or lo == hi:
        assert runs is not None
    if runs is None:
        return
    assert all(start < stop for start, stop in runs)
    assert all(before[1] != after[0] for before, after in pairwise(runs))
    spelled = [row for start, stop in runs for row in range(start, stop)]
    assert spelled == expected[lo:hi].tolist()


def test_runs_are_none_only_where_rows_are_scattered() -> None:
    order = concat(Range(0, 10), permute(Range(10, 20), 3), Range(30, 40), Range(50, 60))
    assert order.runs(2, 10) == [(2, 10)]
    assert order.runs(20, 40) == [(30, 40), (50, 60)]
    assert order.runs(25, 35) == [(35, 40), (50, 55)]
    assert order.runs(9, 11) is None
    assert order.runs(19, 30) is None
    assert order.runs(15, 15) == []
    assert Take(Range(0, 9), ArrayIndex([1, 2])).runs(0, 2) is None
    assert Concat((Range(0, 3), Range(3, 5), Slice(Range(0, 9), 5, 7))).runs(1, 7) == [(1, 7)]


def test_runs_of_a_trillion_rows_cost_nothing() -> None:
    order = Concat(tuple(Range(2 * k * 10**9, (2 * k + 1) * 10**9) for k in range(1000)))
    assert order.runs(0, 10**9) == [(0, 10**9)]
    assert len(order.runs(5, 10**12 - 5) or []) == 1000


@given(nested())
def test_bounds_hold_every_row(pair: tuple[RowOrder, Rows]) -> None:
    order, expected = pair
    first, last = order.bounds
    assert 0 <= first <= last
    assert not len(expected) or (first <= expected.min() and expected.max() < last)


def test_bounds_and_depth_of_a_nest() -> None:
    inner = concat(Range(100, 110), Range(5, 9), Range(500, 500))
    assert inner.bounds == (5, 110)
    order = Take(Slice(permute(inner, 1), 2, 8), ArrayIndex([0, 1]))
    assert order.bounds == (5, 110)
    assert order.depth == 2
    assert concat(order, Range(200, 201)).depth == 2
    assert concat(order, Range(200, 201)).bounds == (5, 201)
    assert Concat((Range(3, 3), Range(10, 12))).bounds == (10, 12)
    assert Concat(()).bounds == (0, 0)


@pytest.mark.parametrize(
    "order",
    [
        Range(3, 8),
        Concat((Range(0, 3), Range(7, 9))),
        Slice(Permute(Range(0, 9), "numpy", 1), 2, 7),
        Permute(Range(0, 5), "feistel8-v1", 1),
        Take(Range(0, 9), ArrayIndex([4, 0, 3, 1, 2])),
    ],
)
@pytest.mark.parametrize(("lo", "hi"), [(-1, 2), (3, 2), (0, 6), (6, 6)])
def test_spans_outside_are_refused(order: RowOrder, lo: int, hi: int) -> None:
    assert len(order) == 5
    for call in (order.rows, order.runs, lambda lo, hi: cut(order, lo, hi)):
        with pytest.raises(IndexError, match="asked of 5 rows"):
            call(lo, hi)
    for index in (-1, 5):
        with pytest.raises(IndexError, match=f"index {index} asked of 5 rows"):
            order.take([0, index])
    with pytest.raises(TypeError):
        order.rows(0, 2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        order.take([0.5])
    with pytest.raises(TypeError):
        order.take([True, False])


def test_indices_of_any_integer_type_and_shape() -> None:
    order = concat(Range(10, 15), permute(Range(0, 5), 2))
    expected = order.rows(0, 10)
    for dtype in (np.uint8, np.uint64, np.int32):
        np.testing.assert_array_equal(order.take(np.array([[1, 7], [9, 0]], dtype)), expected[[[1, 7], [9, 0]]])
        assert order.take(np.array([1], dtype)).dtype == np.int64
    assert order.take([]).shape == (0,)
    with pytest.raises(IndexError):
        order.take(np.array([2**64 - 1], np.uint64))
    assert order.find(np.array([[12]], np.uint16)).tolist() == [[2]]


def test_rows_beyond_32_bits_stay_exact() -> None:
    far = 2**53 + 1  # float64 cannot hold it
    order = permute(concat(Range(far, far + 50), Range(2**62, 2**62 + 50)), 4)
    rows = order.rows(0, 100)
    assert sorted(rows.tolist()) == [*range(far, far + 50), *range(2**62, 2**62 + 50)]
    np.testing.assert_array_equal(order.find(rows), np.arange(100))
    np.testing.assert_array_equal(order.find(rows.astype(np.uint64)), np.arange(100))


def test_a_later_child_never_hides_an_earlier_hit() -> None:
    order = Concat((Range(0, 5), Range(3, 9)))
    assert order.positions(0, 10).tolist() == [0, 1, 2, 3, 4, 7, 8, 9, 10, -1]


# --------------------------------------------------------------------------------------------- edits


@given(nested(), st.data())
def test_cut_is_a_slice_and_cuts_compose(pair: tuple[RowOrder, Rows], data: st.DataObject) -> None:
    order, expected = pair
    lo, hi = spans(data.draw, len(order))
    part = cut(order, lo, hi)
    assert_rows(part, expected[lo:hi])
    first, last = spans(data.draw, len(part))
    assert_rows(cut(part, first, last), expected[lo:hi][first:last])
    assert_rows(cut(order, lo + first, lo + last), expected[lo:hi][first:last])


@given(nested(max_level=3), nested(max_level=3), nested(max_level=2))
def test_concat_is_associative(a: tuple[RowOrder, Rows], b: tuple[RowOrder, Rows], c: tuple[RowOrder, Rows]) -> None:
    left = concat(concat(a[0], b[0]), c[0])
    right = concat(a[0], concat(b[0], c[0]))
    assert left == right == concat(a[0], b[0], c[0])
    assert hash(left) == hash(right)
    assert_rows(left, np.concatenate([a[1], b[1], c[1]]))


@given(nested(), st.data())
def test_index_of_an_index_is_one_index(pair: tuple[RowOrder, Rows], data: st.DataObject) -> None:
    order, expected = pair
    if not len(order):
        return
    p = np.array(data.draw(st.lists(st.integers(0, len(order) - 1), min_size=1)))
    q = np.array(data.draw(st.lists(st.integers(0, len(p) - 1))), dtype=np.int64)
    assert_rows(Take(Take(order, ArrayIndex(p)), ArrayIndex(q)), expected[p[q]])
    assert_rows(Take(order, ArrayIndex(p[q])), expected[p[q]])


@given(nested(), st.data())
def test_replace_rows_equals_numpy(pair: tuple[RowOrder, Rows], data: st.DataObject) -> None:
    order, expected = pair
    lo, hi = spans(data.draw, len(order))
    new = Range(1000, 1000 + data.draw(st.integers(0, 5)))
    result = replace_rows(order, lo, hi, new)
    wanted = np.concatenate([expected[:lo], np.arange(new.start, new.stop), expected[hi:]])
    assert_rows(result, wanted)
    np.testing.assert_array_equal(result.find(wanted), np.arange(len(wanted)))


def test_edits_return_the_shortest_form() -> None:
    shuffled = permute(Range(0, 10), 1)
    assert concat() == concat(Range(4, 4)) == Range(0, 0)
    assert concat(Range(0, 4), Range(4, 9)) == Range(0, 9)
    assert concat(shuffled, Range(3, 3)) is shuffled
    assert concat(Concat((Range(0, 2), Concat((Range(2, 3), shuffled))))) == Concat((Range(0, 3), shuffled))
    assert cut(shuffled, 0, 10) is shuffled
    assert cut(Range(10, 20), 2, 4) == Range(12, 14)
    assert cut(Slice(shuffled, 2, 8), 1, 3) == Slice(shuffled, 3, 5)
    assert cut(Slice(Range(10, 20), 2, 8), 1, 3) == Range(13, 15)
    assert cut(Concat((Range(0, 5), shuffled, Range(20, 25))), 5, 15) is shuffled
    assert cut(Concat((Range(0, 5), shuffled, Range(20, 25))), 3, 7) == Concat((Range(3, 5), Slice(shuffled, 0, 2)))
    assert cut(shuffled, 4, 4) == Range(0, 0)
    assert replace_rows(Range(0, 6), 6, 6, Range(6, 9)) == Range(0, 9)
    assert permute(Range(7, 8), 5) == Range(7, 8)
    assert permute(Range(0, 0), 5) == Range(0, 0)
    with pytest.raises(IndexError):
        replace_rows(Range(0, 6), 4, 2, Range(0, 1))
    with pytest.raises(IndexError):
        replace_rows(Range(0, 6), 4, 7, Range(0, 1))


@given(nested())
def test_flatten_keeps_rows_in_one_level(pair: tuple[RowOrder, Rows]) -> None:
    order, expected = pair
    flat = flatten(order)
    assert_rows(flat, expected)
    assert flat.depth == 1
    assert flat.order == Range(*order.bounds)
    np.testing.assert_array_equal(flat.find(expected), np.arange(len(expected)))


def test_flatten_of_a_deep_nest_and_of_wide_bounds() -> None:
    order: RowOrder = Range(0, 1000)
    for seed in range(30):
        order = permute(order, seed)
    assert order.depth == 30
    expected = np.arange(1000)
    for seed in range(30):
        expected = expected[np.random.RandomState(seed).permutation(1000)]
    assert_rows(flatten(order), expected)
    assert isinstance(flatten(order).index, ArrayIndex)
    wide = flatten(concat(Range(2**40, 2**40 + 3), Range(7, 9)))
    assert_rows(wide, [2**40, 2**40 + 1, 2**40 + 2, 7, 8])


def test_flatten_of_many_slices_of_work() -> None:
    order = permute(permute(Range(5, 2_500_005), 1), 2)
    np.testing.assert_array_equal(flatten(order).rows(0, 2_500_000), order.rows(0, 2_500_000))


# ------------------------------------------------------------------------------------------- values


def test_orders_are_values() -> None:
    one = concat(Range(0, 3), Slice(permute(Range(10, 20), 1), 2, 4))
    two = concat(Range(0, 3), Slice(permute(Range(10, 20), np.int64(1)), np.int32(2), 4))  # type: ignore[arg-type]
    assert one == two
    assert hash(one) == hash(two)
    assert one != concat(Range(0, 3), Slice(permute(Range(10, 20), 2), 2, 4))
    assert len({one, two}) == 1
    with pytest.raises((FrozenInstanceError, AttributeError)):
        one.orders = ()  # type: ignore[attr-defined]
    index = ArrayIndex([1, 2])
    assert index != ArrayIndex([1, 2])
    assert Take(Range(0, 3), index) == Take(Range(0, 3), index)


@given(nested())
def test_pickle_and_copy_keep_the_rows(pair: tuple[RowOrder, Rows]) -> None:
    order, expected = pair
    for other in (pickle.loads(pickle.dumps(order)), copy.deepcopy(order)):
        assert type(other) is type(order)
        assert_rows(other, expected)


def test_a_pickled_order_is_small() -> None:
    order = cut(permute(concat(*(Range(10**9 * k, 10**9 * k + 10**4) for k in range(20))), 3), 5, 10**5)
    order.rows(0, 10)
    assert len(pickle.dumps(order)) < 1000
    assert pickle.loads(pickle.dumps(order)) == order


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Range(-1, 2), ValueError),
        (lambda: Range(3, 2), ValueError),
        (lambda: Range(0, 2**63), ValueError),
        (lambda: Range(0, True), TypeError),
        (lambda: Range(0.0, 1), TypeError),  # type: ignore[arg-type]
        (lambda: Concat((Range(0, 1), [1])), TypeError),  # type: ignore[arg-type]
        (lambda: Concat((Range(0, 2**62), Range(0, 2**62))), ValueError),
        (lambda: Slice(Range(0, 4), 2, 5), IndexError),
        (lambda: Slice(Range(0, 4), 3, 2), IndexError),
        (lambda: Permute(Range(0, 4), "pcg", 1), ValueError),
        (lambda: Permute(Range(0, 4), "numpy", 2**32), ValueError),
        (lambda: Permute(Range(0, 4), "numpy", -1), ValueError),
        (lambda: Permute(Range(0, 4), "feistel8-v1", -1), ValueError),
        (lambda: Permute(Range(0, 2**30 + 1), "numpy", 1), ValueError),
        (lambda: Permute(Range(0, 2**62 + 1), "feistel8-v1", 1), ValueError),
        (lambda: permute(Range(0, 4), 1.0), TypeError),  # type: ignore[arg-type]
        (lambda: permute(Range(0, 4), True), TypeError),
        (lambda: permute(Range(0, 4), 2**32), ValueError),
        (lambda: permute(Range(0, 1), -1), ValueError),
        (lambda: Take(Range(0, 4), ArrayIndex([4])), IndexError),
        (lambda: Take(Range(0, 4), [1]), TypeError),  # type: ignore[arg-type]
        (lambda: ArrayIndex([-1]), ValueError),
        (lambda: ArrayIndex([[1]]), ValueError),
        (lambda: ArrayIndex([1.0]), TypeError),
    ],
)
def test_wrong_orders_cannot_be_built(make: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_permute_chooses_the_kind_by_length_alone() -> None:
    assert permute(Range(0, 2**30), 1) == Permute(Range(0, 2**30), "numpy", 1)
    assert permute(Range(0, 2**30 + 1), 2**40) == Permute(Range(0, 2**30 + 1), "feistel8-v1", 2**40)


# ------------------------------------------------------------------------------------------ indexes


def test_array_index_copies_and_is_narrow() -> None:
    values = np.array([3, 1, 2**32 - 1])
    index = ArrayIndex(values)
    values[0] = 99
    assert index.values.dtype == np.uint32
    assert not index.values.flags.writeable
    assert index.slice(0, 2).tolist() == [3, 1]
    assert index.slice(0, 3).dtype == index.take(np.array([2])).dtype == np.int64
    assert index.take(np.array([2, 0])).tolist() == [2**32 - 1, 3]
    assert ArrayIndex([2**32]).values.dtype == np.int64
    assert ArrayIndex([2**32]).slice(0, 1).tolist() == [2**32]
    other = pickle.loads(pickle.dumps(index))
    assert other.slice(0, 3).tolist() == index.slice(0, 3).tolist()
    assert not other.values.flags.writeable
    assert isinstance(index, RowIndex)
    assert hash(index) != hash(other)
    with pytest.raises(TypeError, match="store it first"):
        index.to_json()


@given(st.lists(st.one_of(st.integers(0, 50), st.integers(0, 2**62)), unique=True), st.lists(st.integers(0, 60)))
def test_array_index_find_equals_a_dictionary(values: list[int], others: list[int]) -> None:
    index = ArrayIndex(np.array(values, np.int64))
    wanted = [*values, *others, -1]
    where = {value: position for position, value in enumerate(values)}
    assert index.find(np.array(wanted, np.int64)).tolist() == [where.get(value, -1) for value in wanted]


@pytest.mark.parametrize("values", [[4, 2, 0, 2], [2**40, 5, 2**40]])
def test_an_index_with_repeats_reads_but_has_no_inverse(values: list[int]) -> None:
    order = Take(Range(0, 2**41), ArrayIndex(values))
    assert_rows(order, values)
    with pytest.raises(NotInvertibleError, match=r"stands at both \d and \d of an index of \d rows"):
        order.positions(0, 5)
    with pytest.raises(NotInvertibleError):
        order.find([5])
    with pytest.raises(NotInvertibleError):
        permute(order, 1).positions(0, 5)


class LyingIndex(ArrayIndex):
    """Entries that are not what was checked, as on a damaged disk."""

    def slice(self, lo: int, hi: int, /) -> Rows:
        return super().slice(lo, hi) + 100

    def take(self, rows: Rows, /) -> Rows:
        return super().take(rows) - 100


def test_entries_outside_are_refused_when_they_are_read() -> None:
    order = Take(Range(0, 4), LyingIndex([0, 1]))
    with pytest.raises(IndexError):
        order.rows(0, 2)
    with pytest.raises(IndexError):
        order.take([0])


# ------------------------------------------------------------------------------------- permutations


@pytest.mark.parametrize("n", [1, 2, 3, 10, 255, 256, 257, 65_535, 65_536, 65_537, 300_001])
@pytest.mark.parametrize("seed", [0, 1, 7, 2**32 - 1])
def test_numpy_order_equals_numpy(n: int, seed: int) -> None:
    expected = np.random.RandomState(seed).permutation(n)
    np.testing.assert_array_equal(Permute(Range(0, n), "numpy", seed).rows(0, n), expected)
    rows = np.arange(n)
    np.random.RandomState(seed).shuffle(rows)  # what the predecessor called
    np.testing.assert_array_equal(forward_rows("numpy", n, seed, np.arange(n)), rows)
    np.testing.assert_array_equal(inverse_rows("numpy", n, seed, expected), np.arange(n))


def test_global_random_state_stays() -> None:
    before = pickle.dumps(np.random.get_state())
    permutations._cache.clear()
    permute(Range(0, 1000), 3).rows(0, 1000)
    permute(Range(0, 2**31), 3).rows(0, 1000)
    assert pickle.dumps(np.random.get_state()) == before


@pytest.mark.parametrize("seed", [0, 1, 2**64 + 3])
def test_feistel_is_a_bijection_at_every_small_length(seed: int) -> None:
    for n in range(1, 4097):
        found = forward_rows("feistel8-v1", n, seed, np.arange(n))
        assert np.bincount(found, minlength=n).tolist() == [1] * n, n
        if n % 3 == 0:
            np.testing.assert_array_equal(inverse_rows("feistel8-v1", n, seed, found), np.arange(n))


@given(
    st.one_of(st.integers(1, 2**40), st.integers(2**40, 2**62), st.integers(1, 2**31).map(lambda root: root**2)),
    st.integers(0, 2**80),
    st.data(),
)
@settings(max_examples=200)
def test_feistel_inverts_itself_at_any_length(n: int, seed: int, data: st.DataObject) -> None:
    lo = data.draw(st.integers(0, n - 1))
    indices = np.arange(lo, min(lo + 300, n))
    found = forward_rows("feistel8-v1", n, seed, indices)
    assert found.min() >= 0
    assert found.max() < n
    assert len(np.unique(found)) == len(indices)
    np.testing.assert_array_equal(inverse_rows("feistel8-v1", n, seed, found), indices)
    np.testing.assert_array_equal(
        forward_rows("feistel8-v1", n, seed, inverse_rows("feistel8-v1", n, seed, indices)), indices
    )


@given(
    st.one_of(st.integers(1, 100), st.integers(1, 2**62)),
    st.one_of(st.integers(0, 10), st.integers(0, 2**80)),
    st.data(),
)
def test_feistel_equals_the_documented_algorithm(n: int, seed: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, n - 1))
    assert forward_rows("feistel8-v1", n, seed, np.array([index])).tolist() == [slow_feistel(n, seed, index)]


def test_feistel_slices_of_work_leave_no_seam() -> None:
    n = 100_003
    expected = np.concatenate(
        [forward_rows("feistel8-v1", n, 5, np.arange(lo, min(lo + 999, n))) for lo in range(0, n, 999)]
    )
    np.testing.assert_array_equal(forward_rows("feistel8-v1", n, 5, np.arange(n)), expected)
    np.testing.assert_array_equal(inverse_rows("feistel8-v1", n, 5, expected), np.arange(n))


def chi_square_per_degree(counts: npt.NDArray[np.int64]) -> float:
    expected = counts.sum() / counts.size
    return float((((counts - expected) ** 2) / expected).sum() / (counts.size - 1))


@pytest.mark.parametrize("n", [65_536, 65_537, 2**20])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_feistel_neighbours_look_independent(n: int, seed: int) -> None:
    """Ideal shuffles have 1.0, with a standard deviation of sqrt(2 / 1023) = 0.044; bad rounds have 140."""
    found = forward_rows("feistel8-v1", n, seed, np.arange(n))
    b = -(-n // (isqrt(n - 1) + 1))
    for lag in (1, 2, b - 1, b, b + 1):  # rows b apart share one half of the network's input
        apart = (found[lag:] - found[:-lag]) % n
        assert chi_square_per_degree(np.bincount(apart * 1024 // n, minlength=1024)) < 1.25, lag
    corner = (found[b + 1 :] - found[1:-b] - found[b:-1] + found[: -b - 1]) % n
    assert chi_square_per_degree(np.bincount(corner * 1024 // n, minlength=1024)) < 1.25
    grid = np.bincount((np.arange(n) * 64 // n) * 64 + found * 64 // n, minlength=4096)
    assert chi_square_per_degree(grid) < 1.25


@pytest.mark.parametrize("n", [100_000, 2**20 - 500, 2**40 - 9])
def test_feistel_orders_of_two_lengths_are_unrelated(n: int) -> None:
    """An append is never a longer permutation: both lengths have the same halves, so it is the keys that differ."""
    assert isqrt(n - 1) == isqrt(n)
    assert -(-n // (isqrt(n - 1) + 1)) == -(-(n + 1) // (isqrt(n) + 1))
    some = np.arange(0, 100_000)
    one, other = (forward_rows("feistel8-v1", length, 3, some) for length in (n, n + 1))
    assert np.count_nonzero(one == other) < 12  # about 100,000 / n of them are equal by chance
    near = np.abs(one - other) < n // 1000
    assert near.mean() < 0.003


@pytest.mark.parametrize(
    ("kind", "n", "seed", "checksum"),
    [
        ("numpy", 10, 0, 2797121094),
        ("numpy", 1000, 7, 683566468),
        ("numpy", 65_537, 1, 1476243518),
        ("numpy", 200_000, 2**32 - 1, 4111584116),
        ("feistel8-v1", 10, 0, 2974505904),
        ("feistel8-v1", 1000, 7, 3178110444),
        ("feistel8-v1", 65_537, 1, 844057076),
        ("feistel8-v1", 1_000_003, 2**70, 1106441292),
        ("feistel8-v1", 2**40 + 1, 5, 569428455),  # its last 1,000 rows
        ("feistel8-v1", 2**62, 11, 521915751),
    ],
)
def test_orders_never_change(kind: str, n: int, seed: int, checksum: int) -> None:
    """Stored tables depend on these; a kind that changes needs a new name."""
    found = forward_rows(kind, n, seed, np.arange(0 if n < 2**30 else n - 1000, n))
    assert zlib.crc32(found.astype("<i8").tobytes()) == checksum


def test_first_rows_never_change() -> None:
    assert forward_rows("numpy", 10, 7, np.arange(10)).tolist() == [8, 5, 0, 2, 1, 9, 7, 3, 6, 4]
    assert forward_rows("feistel8-v1", 10, 7, np.arange(10)).tolist() == [3, 8, 9, 4, 2, 7, 1, 0, 6, 5]


def test_permuted_orders_check_what_they_get() -> None:
    with pytest.raises(IndexError):
        Permute(Range(0, 10), "numpy", 0).take([10])
    with pytest.raises(IndexError):
        Permute(Range(0, 10), "feistel8-v1", 0).take([-1])
    with pytest.raises(ValueError, match="known: numpy, feistel8-v1"):
        Permute(Range(0, 10), "feistel9-v1", 0)
    for kind in ("numpy", "feistel8-v1"):
        assert Permute(Range(0, 2), kind, 0).take([]).shape == (0,)
        assert Permute(Range(0, 10), kind, 0).take([[1, 2]]).shape == (1, 2)
        assert Permute(Range(0, 10), kind, 0).find([[1, 2]]).shape == (1, 2)


# -------------------------------------------------------------------------------------------- cache


def test_cache_is_bounded_and_keeps_the_newest() -> None:
    cache = permutations._PermutationCache(limit_nbytes=1000)
    small = cache.forward(100, 1)
    assert cache.forward(100, 1) is small
    cache.forward(100, 2)
    assert cache.forward(100, 1) is small  # now the most recent of the two
    cache.forward(100, 3)
    assert cache.nbytes == 800
    assert cache.forward(100, 1) is small
    large = cache.forward(5000, 1)  # more than the limit: the others go, it stays
    assert cache.nbytes == large.nbytes == 20_000
    assert cache.forward(5000, 1) is large
    cache.forward(10, 1)
    assert cache.nbytes == 40
    with pytest.raises(ValueError, match="read-only"):
        large[0] = 1
    cache.clear()
    assert cache.nbytes == 0


def test_concurrent_callers_build_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    gate = threading.Event()
    real = permutations._build_forward

    def slow(n: int, seed: int) -> permutations.UInt32Array:
        built.append(seed)
        gate.wait(10)
        return real(n, seed)

    monkeypatch.setattr(permutations, "_build_forward", slow)
    cache = permutations._PermutationCache(limit_nbytes=10)
    found: list[permutations.UInt32Array] = []
    threads = [threading.Thread(target=lambda: found.append(cache.forward(1000, 5))) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(10)
    assert built == [5]
    assert len(found) == 8
    assert len({id(table) for table in found}) == 1


def test_no_rows_need_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> permutations.UInt32Array:
        raise AssertionError

    monkeypatch.setattr(permutations, "_build_forward", fail)
    order = Permute(Range(0, 4321), "numpy", 987)
    assert order.rows(7, 7).size == order.take([]).size == order.positions(5, 5).size == 0
    assert order.positions(5000, 5002).tolist() == [-1, -1]


def test_a_failed_build_leaves_the_cache_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = permutations._PermutationCache(limit_nbytes=10**6)

    def fail(n: int, seed: int) -> permutations.UInt32Array:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(permutations, "_build_forward", fail)
        with pytest.raises(MemoryError):
            cache.forward(100, 1)
    np.testing.assert_array_equal(cache.forward(100, 1), np.random.RandomState(1).permutation(100))


def test_a_forked_child_does_not_wait_for_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = permutations._PermutationCache(limit_nbytes=10**6)
    cache._lock.acquire()  # another thread holds it at the fork, and a build is under way
    cache._pending[("forward", 100, 1)] = permutations._Pending()
    cache.after_fork()
    np.testing.assert_array_equal(cache.forward(100, 1), np.random.RandomState(1).permutation(100))
    assert hasattr(os, "register_at_fork")


# --------------------------------------------------------------------------------------------- json


def indexes_of(order: RowOrder) -> dict[str, RowIndex]:
    match order:
        case Concat(children):
            return {name: index for child in children for name, index in indexes_of(child).items()}
        case Slice(child) | Permute(child):
            return indexes_of(child)
        case Take(child, index):
            assert isinstance(index, StoredIndex)
            index.name = f"index {id(index)}"
            return {index.name: index, **indexes_of(child)}
        case _:
            return {}


@given(nested())
def test_json_round_trip(pair: tuple[RowOrder, Rows]) -> None:
    order, expected = pair
    known = indexes_of(order)

    def resolve(name: object) -> RowIndex:
        assert isinstance(name, dict)
        return known[name["array"]]

    back = from_json(json.loads(json.dumps(to_json(order))), resolve)
    assert back == order
    assert_rows(back, expected)


def test_json_form_never_changes() -> None:
    order = Concat((Range(0, 3), Slice(Permute(Range(5, 9), "numpy", 7), 1, 3)))
    written = ["concat", [["range", 0, 3], ["slice", ["permute", ["range", 5, 9], "numpy", 7], 1, 3]]]
    assert to_json(order) == written
    assert from_json(written, no_index) == order
    take = Take(Range(0, 3), StoredIndex([2, 0], "p"))
    assert to_json(take) == ["take", ["range", 0, 3], {"array": "p"}]
    with pytest.raises(TypeError, match="store it first"):
        to_json(Take(Range(0, 3), ArrayIndex([2, 0])))


def deep(levels: int) -> object:
    obj: object = ["range", 0, 4]
    for _ in range(levels - 1):
        obj = ["slice", obj, 0, 4]
    return obj


def test_json_nests_up_to_the_limit() -> None:
    order = from_json(deep(order_json.MAX_NESTING), no_index)
    assert to_json(order) == deep(order_json.MAX_NESTING)
    with pytest.raises(ValueError, match="flatten"):
        to_json(Slice(order, 0, 4))
    with pytest.raises(CorruptStoreError, match="nests deeper"):
        from_json(deep(order_json.MAX_NESTING + 1), no_index)
    with pytest.raises(CorruptStoreError, match="nests deeper"):
        from_json(deep(100_000), no_index)


RANGE = ["range", 0, 4]


@pytest.mark.parametrize(
    "obj",
    [
        None,
        3,
        "range",
        {},
        [],
        ["range"],
        ["range", 0],
        ["range", 0, 4, 5],
        ("range", 0, 4),
        ["Range", 0, 4],
        [["range", 0, 4]],
        ["range", True, 4],
        ["range", 0, True],
        ["range", 0, 4.0],
        ["range", "0", "4"],
        ["range", -1, 4],
        ["range", 4, 0],
        ["range", 0, 2**63],
        ["range", 0, 10**5000],
        ["range", None, None],
        ["concat"],
        ["concat", RANGE],
        ["concat", RANGE, RANGE],
        ["concat", {"0": RANGE}],
        ["concat", "range"],
        ["concat", [["range", 0, 2**62], ["range", 0, 2**62]]],
        ["slice", RANGE, 0],
        ["slice", RANGE, 0, 5],
        ["slice", RANGE, 3, 2],
        ["slice", RANGE, -1, 2],
        ["slice", RANGE, False, 2],
        ["slice", None, 0, 0],
        ["permute", RANGE, "numpy"],
        ["permute", RANGE, "feistel3", 1],
        ["permute", RANGE, ["numpy"], 1],
        ["permute", RANGE, None, 1],
        ["permute", RANGE, "numpy", -1],
        ["permute", RANGE, "numpy", 2**32],
        ["permute", RANGE, "numpy", True],
        ["permute", RANGE, "numpy", 1.0],
        ["permute", ["range", 0, 2**30 + 1], "numpy", 1],
        ["permute", ["range", 0, 2**62 + 1], "feistel8-v1", 1],
        ["take", RANGE],
        ["take", RANGE, "unknown"],
        ["take", RANGE, [4]],
        ["take", RANGE, [-1]],
        ["take", RANGE, [0.5]],
        ["take", RANGE, [[1]]],
        ["take", ["take", RANGE, [0]], [1]],
    ],
)
def test_hostile_json_is_a_corrupt_store(obj: object) -> None:
    def resolve(name: object) -> RowIndex:
        return ArrayIndex(name) if isinstance(name, list) else no_index(name)

    with pytest.raises(CorruptStoreError, match="a stored order"):
        from_json(obj, resolve)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**64) | st.floats() | st.sampled_from([*KINDS, "range", "x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(st.sampled_from(["range", "concat", "slice", "permute", "take"]), inner, inner, inner).flatmap(
            lambda four: st.integers(2, 4).map(lambda k: list(four[:k]))
        )
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_an_order_or_a_corrupt_store(obj: object) -> None:
    def resolve(name: object) -> RowIndex:
        return ArrayIndex(name) if isinstance(name, list) else no_index(name)

    try:
        order = from_json(obj, resolve)
    except CorruptStoreError:
        return
    assert isinstance(order, RowOrder)
