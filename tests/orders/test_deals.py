"""Deals: classes are shared out exactly, groups stay whole, hashes never change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate_engine import orders
from storegate_engine.errors import ArgumentError, DtypeError
from storegate_engine.ragged import Ragged
from tests.examples import examples


@st.composite
def codes_and_totals(draw):
    codes = np.array(draw(st.lists(st.integers(0, draw(st.integers(0, 9))), max_size=60)), np.int64)
    _, codes = np.unique(codes, return_inverse=True)
    n_parts = draw(st.integers(1, 5))
    parts = draw(st.lists(st.integers(0, n_parts - 1), min_size=len(codes), max_size=len(codes)))
    return codes, np.bincount(np.array(parts, np.int64), minlength=n_parts).tolist()


@given(codes_and_totals(), st.integers(0, 2**32 - 1))
@settings(max_examples=examples(300), deadline=None)
def test_classes_and_totals_are_exact_within_one_row(case, seed):
    codes, totals = case
    parts = orders.deal_classes(codes, totals, seed)
    assert np.bincount(parts, minlength=len(totals)).tolist() == totals
    for one in np.unique(codes):
        found = np.bincount(parts[codes == one], minlength=len(totals))
        exact = np.count_nonzero(codes == one) * np.array(totals) / len(codes)
        assert (np.abs(found - exact) < 1).all()


def test_many_classes_of_few_rows_are_shared_out_over_each_other():
    codes = np.random.default_rng(0).integers(0, 50_000, 100_000)
    _, codes = np.unique(codes, return_inverse=True)
    totals = (80_000, 15_000, 5_000)
    parts = orders.deal_classes(codes, totals, 3)
    assert np.bincount(parts).tolist() == list(totals)
    found = np.zeros((codes.max() + 1, 3))
    np.add.at(found, (codes, parts), 1)
    assert (np.abs(found - np.bincount(codes)[:, None] * np.array(totals) / len(codes)) < 1).all()


@pytest.mark.parametrize("deal", [orders.deal_classes, orders.deal_groups])
def test_the_seed_alone_decides(deal):
    codes = np.arange(1000) % 100
    first, same, other = (deal(codes, (500, 300, 200), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@given(st.lists(st.integers(0, 200), min_size=60, max_size=200), st.integers(0, 2**32 - 1))
@settings(max_examples=examples(100), deadline=None)
def test_groups_are_whole_and_near_their_totals(groups, seed):
    _, codes = np.unique(groups, return_inverse=True)
    totals = [len(codes) - 2 * (len(codes) // 4), len(codes) // 4, len(codes) // 4]
    largest = int(np.bincount(codes).max())
    if largest > min(totals):
        return
    parts = orders.deal_groups(codes, totals, seed)
    assert all(len(set(parts[codes == one].tolist())) == 1 for one in np.unique(codes))
    assert (np.abs(np.bincount(parts, minlength=3) - totals) < largest).all()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=examples(200), deadline=None)
def test_every_part_gets_a_group_if_there_are_enough(sizes, n_parts, seed):
    codes = np.repeat(np.arange(len(sizes)), sizes)
    totals = [len(codes) // n_parts + (part < len(codes) % n_parts) for part in range(n_parts)]
    if len(sizes) < np.count_nonzero(totals):
        with pytest.raises(ArgumentError, match="one would get no group"):
            orders.deal_groups(codes, totals, seed)
        return
    parts = orders.deal_groups(codes, totals, seed)
    assert set(parts.tolist()) == set(np.flatnonzero(totals).tolist())
    assert all(len(set(parts[codes == one].tolist())) == 1 for one in range(len(sizes)))


def test_groups_fill_parts_exactly_where_they_can_at_random():
    codes = np.repeat(np.arange(10), [40, *[5] * 8, 20])
    found = [orders.deal_groups(codes, (80, 10, 10), seed) for seed in range(50)]
    assert all(np.bincount(parts).tolist() == [80, 10, 10] for parts in found)
    assert len({tuple(parts.tolist()) for parts in found}) > 30
    few = {tuple(orders.deal_groups(np.array([0, 1, 1, 2, 2, 2]), (2, 2, 2), seed).tolist()) for seed in range(50)}
    assert len(few) == 6


def test_groups_of_many_sizes_are_near_their_totals_and_differ_by_seed():
    sizes = np.random.default_rng(0).permutation(np.arange(1, 101))
    codes = np.repeat(np.arange(100), sizes)
    found = [orders.deal_groups(codes, (3030, 1010, 1010), seed) for seed in range(30)]
    assert max(np.abs(np.bincount(parts) - (3030, 1010, 1010)).max() for parts in found) < 30
    assert len({tuple(parts.tolist()) for parts in found}) == 30


def test_groups_that_leave_a_part_empty_are_refused():
    with pytest.raises(ArgumentError, match="2 groups cannot be dealt to parts of"):
        orders.deal_groups(np.repeat([0, 1], 5), (4, 3, 3), 0)


def test_folds_are_even():
    parts = orders.deal_evenly(1003, 5, 7)
    assert sorted(np.bincount(parts).tolist()) == [200, 200, 201, 201, 201]
    with pytest.raises(ArgumentError, match="65536 parts at most"):
        orders.deal_evenly(10, 70_000, 0)


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


@pytest.mark.parametrize("unit", ["h", "m", "s", "ms", "us", "10ms", "7s", "ns", ">s"])
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


def test_months_and_years_are_hashed_by_their_first_day_and_durations_of_them_apart():
    months = np.array(["1600-03", "1969-12", "1970-01", "2000-02", "2100-03", "NaT"], "M8[M]")
    np.testing.assert_array_equal(orders.hash_rows([months], 0), orders.hash_rows([months.astype("M8[s]")], 0))
    years = np.array([-(2**62), -400, 0, 30, 2**62]).astype("M8[Y]")
    assert len(set(orders.hash_rows([years], 0).tolist())) == len(years)
    quarters = np.array([-1, 4, 1]).astype("M8[3M]")
    np.testing.assert_array_equal(orders.hash_rows([quarters], 0), orders.hash_rows([quarters.astype("M8[D]")], 0))
    twelve, one = np.array([12]).astype("m8[M]"), np.array([1]).astype("m8[Y]")
    assert orders.hash_rows([twelve], 0) == orders.hash_rows([one], 0)
    assert orders.hash_rows([twelve], 0) != orders.hash_rows([np.array([12])], 0)


def test_numbers_are_hashed_by_value():
    large = np.array([2**64 - 1, 2**63, 2**63 + 1], "u8")
    signed = large.view("i8")
    assert not set(orders.hash_rows([large], 0).tolist()) & set(orders.hash_rows([signed], 0).tolist())
    assert orders.hash_rows([large[1:2]], 0) == orders.hash_rows([np.array([2.0**63])], 0)
    np.testing.assert_array_equal(orders.hash_rows([np.arange(5, dtype="u8")], 0), orders.hash_rows([np.arange(5)], 0))
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
    others = [[], [(2, 0.0)], [(1, 2.0), (3, 5.0)], [(1, 5.0)]]
    items = [value for row in entries + others for _, value in row]
    columns = [column for row in entries + others for column, _ in row]
    offsets = np.cumsum([0, *(len(row) for row in entries + others)])
    rows = Ragged(offsets, np.array(items), np.array(columns), 4)
    found = orders.hash_rows([rows], 0).tolist()
    dense = np.zeros((len(rows), 4))
    np.add.at(dense, (np.repeat(np.arange(len(rows)), rows.lengths), rows.columns), rows.items)
    assert [found.index(one) for one in found] == [dense.tolist().index(row) for row in dense.tolist()]


def test_a_part_begins_where_the_one_before_ends():
    hashes = np.array([0, 2**63 - 2**11, 2**63, 2**64 - 1], "u8")
    assert orders.parts_of_hashes(hashes, (0.5, 0.5)).tolist() == [0, 0, 1, 1]


def test_hashes_are_in_the_shares():
    parts = orders.parts_of_hashes(orders.hash_rows([np.arange(10**5)], 3), (0.7, 0.2, 0.1))
    np.testing.assert_allclose(np.bincount(parts) / 10**5, (0.7, 0.2, 0.1), atol=0.005)
