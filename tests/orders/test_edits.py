"""Orders out of other orders, against numpy, in the shortest form."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
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
    flatten,
    permute,
    relocated,
    replace_rows,
    replace_runs,
)
from tests.examples import examples
from tests.order_cases import Rows, assert_rows, nested, spans


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


@given(nested(), st.data())
def test_replace_runs_equals_numpy(pair: tuple[RowOrder, Rows], data: st.DataObject) -> None:
    """The last one counts where they overlap, as in one assignment after the other."""
    order, expected = pair
    wanted, runs, one_by_one = expected.copy(), [], order
    for number in range(data.draw(st.integers(0, 6))):
        lo, hi = spans(data.draw, len(order))
        new = permute(Range(1000 * number, 1000 * number + hi - lo), number)
        runs.append((lo, new))
        wanted[lo:hi] = new.rows(0, hi - lo)
        one_by_one = replace_rows(one_by_one, lo, hi, new)
    result = replace_runs(order, runs)
    assert_rows(result, wanted)
    assert len(result.parts) <= max(1, len(concat(one_by_one).parts))


def test_many_runs_are_replaced_in_one_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand scattered rows of an order of thousands of parts: each part is looked at once."""
    looked_at = 0
    bounds = Range.bounds.fget

    def counted(order: Range) -> object:
        nonlocal looked_at
        looked_at += 1
        return bounds(order)

    order = concat(*(Range(3 * at, 3 * at + 2) for at in range(2000)))
    runs = [(4 * at, Range(10_000 + at, 10_001 + at)) for at in range(1000)]
    monkeypatch.setattr(Range, "bounds", property(counted))
    result = replace_runs(order, runs)
    assert looked_at < 20_000
    wanted = np.array([row for at in range(2000) for row in (3 * at, 3 * at + 1)])
    wanted[::4] = np.arange(10_000, 11_000)
    np.testing.assert_array_equal(result.rows(0, 4000), wanted)
    with pytest.raises(IndexError):
        replace_runs(order, [(3999, Range(0, 2))])


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
    assert permute(Range(7, 9), 5) == Permute(Range(7, 9), "numpy", 5)
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


@pytest.mark.parametrize("number", range(1, 5))
def test_any_of_the_runs_may_begin_the_order(number: int) -> None:
    runs = [(0 if at == number else 10 + 2 * at, Range(100 * at, 100 * at + 2)) for at in range(1, 5)]
    expected = np.arange(30)
    for start, new in runs:
        expected[start : start + 2] = new.rows(0, 2)
    assert_rows(replace_runs(Range(0, 30), runs), expected)


def test_orders_have_as_many_rows_as_numbers() -> None:
    order = Concat((Range(0, 2**62), Range(0, 2**62 - 1)))
    assert len(order) == len(Range(0, 2**63 - 1)) == 2**63 - 1
    assert order.rows(2**63 - 2, 2**63 - 1).tolist() == [2**62 - 2]


def test_orders_without_rows_are_not_touched() -> None:
    parts = Range(0, 2), Range(5, 5), Range(7, 9)
    assert Concat(parts).touched(0, 4) == [(parts[0], 0, 2), (parts[2], 0, 2)]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Range(-1, 2), ValueError, "a range takes 0 <= start <= stop < 2**63, but -1 and 2 were given"),
        (lambda: Range(3, 2), ValueError, "a range takes 0 <= start <= stop < 2**63, but 3 and 2 were given"),
        (
            lambda: Range(0, 2**63),
            ValueError,
            "a range takes 0 <= start <= stop < 2**63, but 0 and 9223372036854775808 were given",
        ),
        (lambda: Range(0, True), TypeError, "stop must be an integer, not True"),
        (
            lambda: Range(0.0, 1),  # type: ignore[arg-type]
            TypeError,
            "start must be an integer, not 0.0",
        ),
        (
            lambda: Concat((Range(0, 1), [1])),  # type: ignore[arg-type]
            TypeError,
            "Concat takes a RowOrder, not list",
        ),
        (
            lambda: Concat((Range(0, 2**62), Range(0, 2**62))),
            ValueError,
            "orders have less than 2**63 rows, but these have 9223372036854775808",
        ),
        (lambda: Slice(Range(0, 4), 2, 5), IndexError, "rows 2..5 asked of 4 rows; it takes 0 <= lo <= hi <= 4"),
        (lambda: Slice(Range(0, 4), 3, 2), IndexError, "rows 3..2 asked of 4 rows; it takes 0 <= lo <= hi <= 4"),
        (
            lambda: Permute(Range(0, 4), "pcg", 1),
            ValueError,
            "unknown kind of permutation 'pcg'; known: numpy, feistel8-v1",
        ),
        (
            lambda: Permute(Range(0, 4), "numpy", 2**32),
            ValueError,
            "a seed of numpy's permutation is below 2**32 (4294967296), but 4294967296 was given",
        ),
        (lambda: Permute(Range(0, 4), "numpy", -1), ValueError, "a seed is not negative, but -1 was given"),
        (lambda: Permute(Range(0, 4), "feistel8-v1", -1), ValueError, "a seed is not negative, but -1 was given"),
        (
            lambda: Permute(Range(0, 2**30 + 1), "numpy", 1),
            ValueError,
            "a permutation of kind 'numpy' has at most 1073741824 rows, not 1073741825",
        ),
        (
            lambda: Permute(Range(0, 2**62 + 1), "feistel8-v1", 1),
            ValueError,
            "a permutation of kind 'feistel8-v1' has at most 4611686018427387904 rows, not 4611686018427387905",
        ),
        (
            lambda: permute(Range(0, 4), 1.0),  # type: ignore[arg-type]
            TypeError,
            "a seed must be an integer, not 1.0",
        ),
        (lambda: permute(Range(0, 4), True), TypeError, "a seed must be an integer, not True"),
        (
            lambda: permute(Range(0, 4), 2**32),
            ValueError,
            "a seed of numpy's permutation is below 2**32 (4294967296), but 4294967296 was given",
        ),
        (lambda: permute(Range(0, 1), -1), ValueError, "a seed is not negative, but -1 was given"),
        (
            lambda: permute(Range(0, 1), 2**32),
            ValueError,
            "a seed of numpy's permutation is below 2**32 (4294967296), but 4294967296 was given",
        ),
        (lambda: Take(Range(0, 4), ArrayIndex([4])), IndexError, "index 4 asked of 4 rows"),
        (
            lambda: Take(Range(0, 4), [1]),  # type: ignore[arg-type]
            TypeError,
            "Take takes a RowIndex, like ArrayIndex, not list",
        ),
        (lambda: ArrayIndex([-1]), ValueError, "an index holds no negative rows, but -1 was given"),
        (lambda: ArrayIndex([[1]]), ValueError, "an index has one dimension, but the shape (1, 1) was given"),
        (lambda: ArrayIndex([1.0]), TypeError, "an index must be integers, not float64"),
    ],
)
def test_wrong_orders_cannot_be_built(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as refused:
        make()
    assert str(refused.value) == message


def test_permute_chooses_the_kind_by_length_alone() -> None:
    assert permute(Range(0, 2**30), 1) == Permute(Range(0, 2**30), "numpy", 1)
    assert permute(Range(0, 2**30 + 1), 2**40) == Permute(Range(0, 2**30 + 1), "feistel8-v1", 2**40)


def stored_rows(order):
    """Return how many rows must be stored for an order, also for rows that it does not show."""
    return max([order.bounds.stop, *map(stored_rows, order.children)])


@given(nested(), st.data())
@settings(max_examples=examples(200), deadline=None)
def test_relocated_rows_are_the_same_elsewhere(case, data):
    order, rows = case
    stop = stored_rows(order)
    cuts = sorted(set(data.draw(st.lists(st.integers(0, stop), max_size=4))) | {0, stop})
    shifts = [data.draw(st.integers(0, 50)) for _ in cuts[1:]]
    where = np.arange(stop)
    for lo, hi, by in zip(cuts, cuts[1:], shifts, strict=False):
        where[lo:hi] += by
    assert_rows(relocated(order, cuts, shifts), where[rows])
    assert relocated(order, cuts, [0] * len(shifts)) is order
