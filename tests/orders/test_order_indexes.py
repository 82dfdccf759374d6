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
    MaskIndex,
    Range,
    RangeIndex,
    RowIndex,
    Take,
    as_int64,
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
    for is_distinct in (False, True):
        assert pickle.loads(pickle.dumps(ArrayIndex(values, is_distinct=is_distinct))).is_distinct is is_distinct
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


def test_rows_that_no_float_tells_apart_are_found() -> None:
    rows = np.arange(2**60 + 5, 2**60 - 5, -1)
    for few in (ArrayIndex([3, *rows]), ArrayIndex(rows)):
        np.testing.assert_array_equal(few.take(few.find(rows)), rows)
        assert few.find(np.array([2**60 + 6, 2**60 - 5])).tolist() == [-1, -1]


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


def test_numbers_of_rows_have_64_bits_and_are_copied_only_if_they_had_not() -> None:
    rows = np.array([3, 2**63 - 1])
    assert as_int64(rows, "rows") is rows
    for other in (rows.astype("u8"), rows.astype(">i8"), rows.tolist()):
        found = as_int64(other, "rows")
        assert found.dtype == np.int64
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, rows)
    for empty in ([], [[]], np.empty((0, 3))):
        assert as_int64(empty, "rows").dtype == np.int64
        assert as_int64(empty, "rows").shape == np.shape(empty)
    with pytest.raises(IndexError, match=r"^rows go up to 9223372036854775808; rows end at 9223372036854775807$"):
        as_int64(np.array([3, 2**63], "u8"), "rows")
    with pytest.raises(TypeError, match=r"^rows must be integers, not bool$"):
        as_int64([True], "rows")


@pytest.mark.parametrize(
    ("index", "shown"),
    [
        (ArrayIndex([3, 1]), "ArrayIndex(<2 rows below 4, uint32>)"),
        (ArrayIndex([2**40]), "ArrayIndex(<1 rows below 1099511627777, int64>)"),
        (MaskIndex(np.array([True, False, True])), "MaskIndex(<2 of 3 rows>)"),
        (RangeIndex(range(8, 0, -3)), "RangeIndex(range(8, 0, -3))"),
    ],
)
def test_an_index_shows_its_size_and_is_not_written_before_it_is_stored(index: RowIndex, shown: str) -> None:
    assert repr(index) == shown
    assert index.stop == max(index.slice(0, len(index))) + 1  # type: ignore[attr-defined]
    what = rf"^an index of {len(index)} rows in memory cannot be put in a manifest; store it first$"
    with pytest.raises(TypeError, match=what):
        index.to_json()
