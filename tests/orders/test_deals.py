"""Deals: classes are shared out exactly, groups stay whole, hashes never change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate_engine import orders
from storegate_engine.errors import ArgumentError, DtypeError
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
    assert (np.abs(np.bincount(parts, minlength=3) - totals) <= largest).all()


def test_groups_that_leave_a_part_empty_are_refused():
    with pytest.raises(ArgumentError, match="2 groups, the largest of 5 rows, cannot be dealt to parts of"):
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
    with pytest.raises(DtypeError, match="values of complex128 have no hash"):
        orders.hash_rows([np.zeros(2, complex)], 0)


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


def test_a_part_begins_where_the_one_before_ends():
    hashes = np.array([0, 2**63 - 2**11, 2**63, 2**64 - 1], "u8")
    assert orders.parts_of_hashes(hashes, (0.5, 0.5)).tolist() == [0, 0, 1, 1]


def test_hashes_are_in_the_shares():
    parts = orders.parts_of_hashes(orders.hash_rows([np.arange(10**5)], 3), (0.7, 0.2, 0.1))
    np.testing.assert_allclose(np.bincount(parts) / 10**5, (0.7, 0.2, 0.1), atol=0.005)
