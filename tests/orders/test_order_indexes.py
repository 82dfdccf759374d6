"""Lists of rows in orders."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate_engine.errors import CorruptIndexError, NotInvertibleError
from storegate_engine.orders import (
    ArrayIndex,
    Range,
    RowIndex,
    Take,
    permute,
)
from tests.order_cases import Rows, assert_rows


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
    what = r"index ArrayIndex\(<2 rows below 2, uint32>\) is not what was written: index {} asked of 4 rows"
    with pytest.raises(CorruptIndexError, match=what.format(101)):
        order.rows(0, 2)
    with pytest.raises(CorruptIndexError, match=what.format(-100)):
        order.take([0])


class UnreadIndex(ArrayIndex):
    """Entries that nobody has looked at, as on disk."""

    @property
    def stop(self) -> int:
        raise AttributeError


def test_entries_that_nobody_has_looked_at_are_checked_when_they_are_read() -> None:
    assert len(Take(Range(0, 0), UnreadIndex([]))) == 0
    order = Take(Range(0, 4), UnreadIndex([3, 4]))
    assert order.rows(0, 1).tolist() == [3]
    with pytest.raises(CorruptIndexError, match="index 4 asked of 4 rows"):
        order.rows(0, 2)
