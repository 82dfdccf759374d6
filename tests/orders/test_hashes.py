"""Hashes: equal for equal values of any dtype and form, and what they have always been."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from storegate_engine import orders
from storegate_engine.errors import DtypeError
from storegate_engine.ragged import Ragged

HASHES = {
    "integers": ([np.array([1, 0, -1])], [16247700015443706586, 18074882946671919669, 13169544908547790070]),
    "floats": ([np.array([1.0, -0.0, -1.0], "f4")], [16247700015443706586, 18074882946671919669, 13169544908547790070]),
    "texts": ([np.array(["a", "b"])], [9666048258119555135, 2348670711951096382]),
    "long texts": ([np.array(["a", "b"], np.dtypes.StringDType())], [9666048258119555135, 2348670711951096382]),
    "bytes": ([np.array([b"a", b"b"])], [9666048258119555135, 2348670711951096382]),
    "seconds": ([np.array([1, 0, -1], "M8[s]")], [16247700015443706586, 18074882946671919669, 13169544908547790070]),
    "fractions": ([np.array(["2020-01-01T00:00:00.5"], "M8[ms]")], [2562084880721924079]),
    "years": ([np.array([1], "m8[Y]")], [6017511660006262138]),
    "large": ([np.array([2**64 - 1], "u8")], [17384442245906498587]),
    "complex": ([np.array([1 + 2j])], [15124599169368813600]),
    "lists": ([Ragged.of([[1, 2], []])], [5401404999087720680, 17286874536754031684]),
    "sparse": (
        [Ragged(np.array([0, 2, 2, 3]), np.array([5.0, 2.0, 1.0]), np.array([1, 3, 2**53 + 1]), 2**60)],
        [1471070258174510498, 18074882946671919669, 13805247853643765667],
    ),
}


@pytest.mark.parametrize("kind", HASHES)
def test_hashes_are_what_they_were(kind):
    columns, expected = HASHES[kind]
    assert orders.hash_rows(columns, 5).tolist() == expected


def test_hashes_of_several_columns_and_of_rows_depend_on_each_value_and_place():
    one, two = np.array([1, 2, 1]), np.array([2, 1, 2])
    found = orders.hash_rows([one, two], 0)
    assert found[0] == found[2] != found[1]
    np.testing.assert_array_equal(found, orders.hash_rows([np.stack([one, two], axis=1)], 0))
    assert (found != orders.hash_rows([one, two], 1)).all()
    lists = Ragged.of([[7], [7], [7]])
    assert len(set(orders.hash_rows([lists, one], 0).tolist())) == 2
    assert len(set(orders.hash_rows([np.array([np.nan, np.inf, -np.inf, 0.5, 2.0**70])], 0).tolist())) == 5
    with pytest.raises(DtypeError, match="values of object have no hash"):
        orders.hash_rows([np.zeros(2, object)], 0)


def test_equal_values_have_equal_hashes():
    payloads = np.array([0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8000000000000], "u8").view("f8")
    assert len(set(orders.hash_rows([payloads], 0).tolist())) == 1, "NaN"
    whole = np.array([0, 7, -3, 2**52, 1 - 2**53])
    for dtype in ("f8", "i8", "M8[s]"):
        np.testing.assert_array_equal(orders.hash_rows([whole.astype(dtype)], 0), orders.hash_rows([whole], 0))
    assert orders.hash_rows([np.array([2.0**63, -(2.0**63)])], 5).tolist() == [
        14030394629194918163,
        13274499779903279518,
    ], "no integers"


DAYS = np.array(["1969-12-31", "1970-01-01", "2020-02-29", "1600-01-01", "NaT"], "M8[D]")


@pytest.mark.parametrize("unit", ["h", "m", "s", "ms", "us", "2ms", "10ms", "7s", "ns", ">s"])
def test_times_are_hashed_without_their_unit(unit):
    days = DAYS[np.array([0, 1, 2, 4])] if unit in ("ns", "7s") else DAYS  # numpy wraps around before 1677
    if unit == "7s":
        days = days[1:2]
    dtype = f">M8[{unit[1:]}]" if unit[0] == ">" else f"M8[{unit}]"
    np.testing.assert_array_equal(orders.hash_rows([days.astype(dtype)], 0), orders.hash_rows([days], 0))
    durations = dtype.replace("M8", "m8")
    ticks = np.array([0, 1, -3, 100]).astype("m8[D]") * (7 if unit == "7s" else 1)
    np.testing.assert_array_equal(orders.hash_rows([ticks.astype(durations)], 0), orders.hash_rows([ticks], 0))


FINE = ["ms", "us", "ns", "ps", "fs", "as"]


@pytest.mark.parametrize("unit", FINE)
def test_instants_of_fine_units_are_exact(unit):
    ticks = np.array([0, 1, -1, 7, 2**62, -(2**62) + 1])
    found = orders.hash_rows([ticks.astype(f"M8[{unit}]")], 0).tolist()
    assert len(set(found)) == len(ticks)
    for finer in FINE[FINE.index(unit) + 1 :]:
        times = ticks[:4].astype(f"M8[{unit}]")
        assert orders.hash_rows([times.astype(f"M8[{finer}]")], 0).tolist() == found[:4]


@pytest.mark.parametrize("kind", ["M8", "m8"])
@pytest.mark.parametrize(("ticks", "unit"), [(2**59 + 1, "ns"), (100 * (2**55 + 1), "us"), (-100 * (2**55 + 1), "us")])
def test_instants_of_many_fine_units_are_exact_though_numpy_cannot_count_them(kind, ticks, unit):
    """Of 10 ns each: more nanoseconds than 53 bits, and than 63."""
    same = ticks * 10 // {"ns": 1, "us": 1000}[unit]
    counted, one_by_one = np.array([ticks]).astype(f"{kind}[10ns]"), np.array([same]).astype(f"{kind}[{unit}]")
    assert orders.hash_rows([counted], 0) == orders.hash_rows([one_by_one], 0)


def test_months_and_years_are_hashed_by_their_first_day_and_durations_of_them_apart():
    months = np.array(["1600-03", "1969-12", "1970-01", "2000-02", "2100-03", "NaT"], "M8[M]")
    np.testing.assert_array_equal(orders.hash_rows([months], 0), orders.hash_rows([months.astype("M8[s]")], 0))
    years = np.array([-(2**62), -400, 0, 30, 2**62]).astype("M8[Y]")
    assert len(set(orders.hash_rows([years], 0).tolist())) == len(years)
    quarters = np.array([-1, 4, 1]).astype("M8[3M]")
    np.testing.assert_array_equal(orders.hash_rows([quarters], 0), orders.hash_rows([quarters.astype("M8[D]")], 0))
    twelve, one = np.array([12]).astype("m8[M]"), np.array([1]).astype("m8[Y]")
    assert orders.hash_rows([twelve], 0) == orders.hash_rows([one], 0)
    assert orders.hash_rows([twelve], 0) == orders.hash_rows([np.array([4]).astype("m8[3M]")], 0)
    assert orders.hash_rows([twelve], 0) != orders.hash_rows([np.array([12])], 0)


def test_numbers_are_hashed_by_value():
    large = np.array([2**64 - 1, 2**63, 2**63 + 1], "u8")
    signed = large.view("i8")
    assert len(set(orders.hash_rows([large], 0).tolist())) == 3
    assert not set(orders.hash_rows([large], 0).tolist()) & set(orders.hash_rows([signed], 0).tolist())
    assert orders.hash_rows([large[1:2]], 0) == orders.hash_rows([np.array([2.0**63])], 0)
    positive = np.array([0, 1, 4, 1000, 2**63 - 1])
    for beside in ([], [2**63]):
        unsigned = np.array([*positive.tolist(), *beside], "u8")
        np.testing.assert_array_equal(orders.hash_rows([unsigned], 0)[:5], orders.hash_rows([positive], 0))
    assert orders.hash_rows([np.array([2.0**64])], 0) != orders.hash_rows([large[:1]], 0)
    reals = np.array([1.5, -0.0, 3.0, np.nan])
    np.testing.assert_array_equal(orders.hash_rows([reals.astype("c8")], 0), orders.hash_rows([reals], 0))
    assert len(set(orders.hash_rows([np.array([1 + 2j, 2 + 1j, 1 - 2j, 1j, 1])], 0).tolist())) == 5
    missing = np.array([complex(np.nan, 1), complex(2, np.nan), complex(np.nan, np.nan)])
    assert len(set(orders.hash_rows([missing, missing.conj()], 0).tolist())) == 1


LISTS = [[1, 2], [2, 1], [], [1], [1, 2, 0], [0], [1, 2]]


def test_lists_are_hashed_by_their_values_and_lengths():
    rows = Ragged.of(LISTS)
    found = orders.hash_rows([rows], 0)
    assert len(set(found.tolist())) == 6
    assert found[0] == found[-1]
    np.testing.assert_array_equal(orders.hash_rows([rows.astype("f4")], 0), found)
    np.testing.assert_array_equal(orders.hash_rows([rows[2:6]], 0), found[2:6])
    long = Ragged.of([np.arange(300_000), [], np.arange(300_000) % 7, np.arange(300_000)])
    assert [len(set(orders.hash_rows([long], 0)[list(at)].tolist())) for at in ((0, 3), (0, 1, 2))] == [1, 3]
    texts = Ragged.of([["a", "b"], ["ab"], ["a", "b"]])
    assert [orders.hash_rows([texts], 0)[0] == other for other in orders.hash_rows([texts], 0)] == [True, False, True]
    assert len(set(orders.hash_rows([Ragged.of([np.zeros((0, 2)), np.zeros((1, 2)), np.zeros((2, 2))])], 0))) == 3


def test_sparse_rows_are_hashed_by_what_is_not_zero():
    entries = [
        [(1, 5.0), (3, 2.0)],
        [(3, 2.0), (1, 5.0)],
        [(0, 0.0), (1, 5.0), (3, 2.0)],
        [(1, 4.0), (3, 2.0), (1, 1.0)],
    ]
    others = [[], [(2, 0.0)], [(1, 2.0), (3, 5.0)], [(1, 5.0)], [(2, 5.0)], []]
    items = [value for row in entries + others for _, value in row]
    columns = [column for row in entries + others for column, _ in row]
    offsets = np.cumsum([0, *(len(row) for row in entries + others)])
    rows = Ragged(offsets, np.array(items), np.array(columns), 4)
    found = orders.hash_rows([rows], 0).tolist()
    dense = np.zeros((len(rows), 4))
    np.add.at(dense, (np.repeat(np.arange(len(rows)), rows.lengths), rows.columns), rows.items)
    assert [found.index(one) for one in found] == [dense.tolist().index(row) for row in dense.tolist()]


@given(
    st.sampled_from(["?", "i1", "u2", "f4"]),
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 120)), max_size=5), min_size=1, max_size=6),
)
def test_sparse_rows_are_hashed_as_scipy_sums_them(dtype, entries):
    values = np.array([value for row in entries for _, value in row]).astype(dtype)
    columns = np.array([column for row in entries for column, _ in row], np.int64)
    offsets = np.cumsum([0, *map(len, entries)])
    matrix = sp.csr_matrix((values, columns, offsets), (len(entries), 4), copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    summed = Ragged(matrix.indptr.astype("i8"), matrix.data, matrix.indices.astype("i8"), 4)
    found = orders.hash_rows([Ragged(offsets, values, columns, 4)], 0)
    np.testing.assert_array_equal(found, orders.hash_rows([summed], 0))
