"""Deals: classes are shared out exactly, groups stay whole, and values and hashes are in the parts of their bounds."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate_engine import orders
from storegate_engine.errors import ArgumentError
from tests.examples import examples


@st.composite
def codes_and_totals(draw):
    codes = np.array(draw(st.lists(st.integers(0, draw(st.integers(0, 9))), max_size=60)), np.int64)
    _, codes = np.unique(codes, return_inverse=True)
    n_parts = draw(st.integers(1, 5))
    parts = draw(st.lists(st.integers(0, n_parts - 1), min_size=len(codes), max_size=len(codes)))
    return codes, np.bincount(np.array(parts, np.int64), minlength=n_parts).tolist()


def assert_shared_out(codes, totals, seed):
    """Each class and each total is exact within one row, and a class is dealt in the order of the shuffle."""
    parts = orders.deal_classes(codes, totals, seed)
    assert np.bincount(parts, minlength=len(totals)).tolist() == list(totals)
    found = np.zeros((codes.max(initial=-1) + 1, len(totals)))
    np.add.at(found, (codes, parts), 1)
    assert (np.abs(found - np.bincount(codes)[:, None] * np.array(totals) / max(1, len(codes))) < 1).all()
    shuffled = np.random.RandomState(seed).permutation(len(codes))
    of_classes = shuffled[np.argsort(codes[shuffled], kind="stable")]
    np.testing.assert_array_equal(
        parts[of_classes], parts[of_classes][np.lexsort((parts[of_classes], codes[of_classes]))]
    )


@given(codes_and_totals(), st.integers(0, 2**32 - 1))
@settings(max_examples=examples(300), deadline=None)
def test_classes_and_totals_are_exact_within_one_row(case, seed):
    assert_shared_out(*case, seed)


@pytest.mark.parametrize("n_classes", [256, 257, 50_000, 65_536, 65_537])
def test_many_classes_of_few_rows_are_shared_out_over_each_other(n_classes):
    codes = np.random.default_rng(0).permutation(np.arange(2 * n_classes) % n_classes)
    n_rows = len(codes)
    assert_shared_out(codes, (n_rows - n_rows // 5, n_rows // 5 - n_rows // 20, n_rows // 20), 3)
    assert_shared_out(codes, (n_classes, n_classes), 3)


@pytest.mark.parametrize(
    ("sizes", "totals"),
    [
        ([2, 2, 2, 3, 3], (2, 6, 4)),
        ([8, 4, 8, 8, 4, 8, 4, 8, 8, 4], (9, 15, 8, 11, 10, 11)),
        ([3, 3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1], (1, 0, 4, 8, 4, 8)),
    ],
)
def test_rows_move_over_several_parts_where_no_class_can_be_rounded_otherwise(sizes, totals):
    assert_shared_out(np.repeat(np.arange(len(sizes)), sizes), totals, 0)


@pytest.mark.parametrize("deal", [orders.deal_classes, orders.deal_groups])
def test_the_seed_alone_decides(deal):
    codes = np.arange(1000) % 100
    first, same, other = (deal(codes, (500, 300, 200), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("deal", "totals", "checksum"),
    [
        (orders.deal_classes, (300, 120, 80), 830852489),
        (orders.deal_classes, (160, 140, 120, 11, 60, 9), 70206204),
        (orders.deal_classes, (52, 61, 58, 58, 71, 200), 3481528252),
        (orders.deal_groups, (300, 120, 80), 305661356),
        (orders.deal_groups, (160, 140, 120, 11, 60, 9), 1645426779),
    ],
)
def test_rows_are_dealt_as_they_always_were(deal, totals, checksum):
    """A split or folds with a seed are the same with every version."""
    _, codes = np.unique(np.arange(500) ** 3 // 7 % 67, return_inverse=True)
    assert zlib.crc32(deal(codes, totals, 5).astype("u1").tobytes()) == checksum


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


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.data(), st.integers(0, 2**32 - 1))
@settings(max_examples=examples(200), deadline=None)
def test_every_part_gets_a_group_if_there_are_enough(sizes, data, seed):
    codes = np.repeat(np.arange(len(sizes)), sizes)
    cuts = data.draw(st.lists(st.integers(0, len(codes)), max_size=3), "cuts")
    totals = np.diff([0, *sorted(cuts), len(codes)]).tolist()
    if len(sizes) < np.count_nonzero(totals):
        with pytest.raises(ArgumentError, match="one would get no group"):
            orders.deal_groups(codes, totals, seed)
        return
    parts = orders.deal_groups(codes, totals, seed)
    assert set(parts.tolist()) == set(np.flatnonzero(totals).tolist())
    assert all(len(set(parts[codes == one].tolist())) == 1 for one in range(len(sizes)))


@pytest.mark.parametrize("seed", range(8))
def test_the_last_groups_go_to_parts_that_have_none_the_largest_to_the_largest(seed):
    parts = orders.deal_groups(np.repeat([0, 1, 2, 3], [6, 5, 5, 5]), (10, 10, 1), seed)
    assert np.bincount(parts).tolist() in ([6, 10, 5], [10, 6, 5])
    parts = orders.deal_groups(np.repeat([0, 1, 2], [3, 5, 1]), (1, 3, 5), seed)
    assert np.bincount(parts).tolist() == [1, 3, 5]


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
    np.testing.assert_array_equal(parts[np.random.RandomState(7).permutation(1003)], np.arange(1003) % 5)
    assert orders.deal_evenly(70_000, 2**16, 0).max() == 2**16 - 1
    with pytest.raises(ArgumentError, match="65536 parts at most"):
        orders.deal_evenly(70_000, 2**16 + 1, 0)


@given(st.lists(st.integers(-5, 5), max_size=30), st.lists(st.integers(-6, 6), max_size=5))
def test_a_value_is_in_the_part_of_the_last_threshold_that_it_has_reached(values, thresholds):
    expected = np.searchsorted(sorted(thresholds), values, side="right")
    np.testing.assert_array_equal(orders.deal_by_threshold(np.array(values), sorted(thresholds)), expected)


@pytest.mark.parametrize(("n_parts", "dtype"), [(1, "u1"), (256, "u1"), (257, "u2")])
def test_numbers_of_parts_are_as_narrow_as_they_can_be(n_parts, dtype):
    values = np.arange(n_parts)
    for parts in (
        orders.deal_by_threshold(values, values[1:].tolist()),
        orders.parts_of_hashes(((values + 0.5) / n_parts * 2.0**64).astype("u8"), [1 / n_parts] * n_parts),
    ):
        np.testing.assert_array_equal(parts, values)
        assert parts.dtype == dtype
    for deal in (orders.deal_classes, orders.deal_groups):
        parts = deal(values, [1] * n_parts, 0)
        np.testing.assert_array_equal(np.sort(parts), values)
        assert parts.dtype == dtype
    assert orders.deal_evenly(n_parts, n_parts, 0).dtype == dtype


def test_a_part_begins_where_the_one_before_ends():
    hashes = np.array([0, 2**63 - 2**11, 2**63, 2**64 - 1], "u8")
    assert orders.parts_of_hashes(hashes, (0.5, 0.5)).tolist() == [0, 0, 1, 1]


def test_hashes_are_in_the_shares():
    parts = orders.parts_of_hashes(orders.hash_rows([np.arange(10**5)], 3), (0.7, 0.2, 0.1))
    np.testing.assert_allclose(np.bincount(parts) / 10**5, (0.7, 0.2, 0.1), atol=0.005)
