"""Laws of row orders: what is read of them; numpy on materialised arrays is the oracle."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate_engine.orders import (
    ArrayIndex,
    Concat,
    Permute,
    Range,
    RowOrder,
    Slice,
    Take,
    concat,
    cut,
    permute,
)
from tests.order_cases import Rows, nested, spans


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


def test_a_part_of_an_order_has_the_rows_from_its_start_to_its_stop_alone() -> None:
    inner = Permute(Range(100, 110), "numpy", 1)
    rows = inner.rows(0, 10)
    for start in range(11):
        for stop in range(start, 11):
            expected = np.where((np.arange(10) >= start) & (np.arange(10) < stop), np.arange(10) - start, -1)
            np.testing.assert_array_equal(Slice(inner, start, stop).find(rows), expected)
    assert Slice(Range(100, 110), 2, 9).runs(3, 6) == [(105, 108)]


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
    assert Concat(()).depth == 0
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
    with pytest.raises(TypeError, match=r"^hi must be an integer, not 2\.0$"):
        order.rows(0, 2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^lo must be an integer, not True$"):
        order.positions(True, 2)
    with pytest.raises(TypeError, match=r"^indices must be integers, not float64$"):
        order.take([0.5])
    with pytest.raises(TypeError, match=r"^indices must be integers, not bool$"):
        order.take([True, False])
    with pytest.raises(TypeError, match=r"^stored rows must be integers, not float64$"):
        order.find([0.5])


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
