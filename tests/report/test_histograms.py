"""Histograms: numpy counts the same in the same edges, whatever the values and the blocks in which they come."""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from storegate.report.histograms import FINE, Histogram

DTYPES = ["bool", "int8", "uint8", "int16", "int64", "uint64", "float16", "float32", "float64"]


def finite(dtype):
    return of_numpy.arrays(
        dtype,
        st.integers(1, 60),
        elements=None if dtype[0] != "f" else {"allow_nan": False, "allow_infinity": False},
    )


@given(st.sampled_from(DTYPES).flatmap(finite))
@example(np.array([sys.float_info.max, -sys.float_info.max]))
def test_counts_are_those_between_the_edges(values):
    found = Histogram.of(values)
    assert len(found.counts) <= FINE
    largest = sys.float_info.max
    for number, count in zip(found.numbers, found.counts.tolist(), strict=True):
        lo, hi = (at * Fraction(2) ** found.exponent for at in (number, number + 1))
        assert [found.edge(number), found.edge(number + 1)] == [max(-largest, lo), min(hi, largest)]
        assert count == sum(lo <= value < hi for value in values.tolist())
        assert count
    assert found.total == len(values)


@given(st.sampled_from(DTYPES).flatmap(finite), st.lists(st.integers(0, 60), max_size=4))
def test_blocks_and_their_order_do_not_matter(values, cuts):
    assert_joined(values, sorted({min(cut, len(values)) for cut in cuts}))


@pytest.mark.parametrize("seed", range(4))
def test_blocks_of_many_values_and_their_order_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    for values in (rng.normal(size=30_000), rng.standard_cauchy(30_000), rng.integers(-(2**40), 2**40, 20_000)):
        assert_joined(values, np.sort(rng.integers(0, len(values), 5)))
    assert_joined(np.array([0.25, 0.0]), [1])
    few = np.where(rng.random(20_000) < 0.5, -999.0, rng.random(20_000))
    assert_joined(few, [1, 2, 10_000])


def assert_joined(values, cuts):
    whole = Histogram.of(values)
    blocks = [block for block in np.split(values, cuts) if block.size]
    for parts in (blocks, blocks[::-1]):
        joined = Histogram.of(parts[0])
        for part in parts[1:]:
            joined = joined.joined(Histogram.of(part))
        assert (joined.exponent, joined.numbers) == (whole.exponent, whole.numbers)
        np.testing.assert_array_equal(joined.counts, whole.counts)


@given(st.sampled_from(DTYPES).flatmap(finite), st.integers(0, 1200))
def test_coarser_bins_are_unions_of_bins(values, by):
    fine = Histogram.of(values)
    coarse = fine.coarser(fine.exponent + by)
    expected = {}
    for number, count in zip(fine.numbers, fine.counts.tolist(), strict=True):
        expected[number // 2**by] = expected.get(number // 2**by, 0) + count
    assert dict(zip(coarse.numbers, coarse.counts.tolist(), strict=True)) == expected


def test_numpy_counts_the_same():
    rng = np.random.default_rng(0)
    for values in (rng.normal(3, 2, 100_000), rng.normal(size=50_000).astype("f4"), rng.integers(-50, 90_000, 70_000)):
        found = Histogram.of(values)
        assert FINE / 2 < len(found.counts) <= FINE
        start, step = found.first + 3, 17
        counts, below, above = found.between(start, step, 100)
        edges = np.array([found.edge(start + step * at) for at in range(101)])
        inside = values[(values >= edges[0]) & (values < edges[-1])]
        np.testing.assert_array_equal(counts, np.histogram(inside, edges)[0])
        assert (below, above) == ((values < edges[0]).sum(), (values >= edges[-1]).sum())


def test_far_values_take_no_room():
    rng = np.random.default_rng(0)
    values = rng.random(100_000)
    alone, with_far = Histogram.of(values), Histogram.of(np.concatenate([values, [-999.0, 1e12]]))
    assert with_far.exponent <= alone.exponent + 1
    assert with_far.total == 100_002


@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 2**64 - 1], np.uint64),
        np.array([2**64 - 1], np.uint64),
        np.array([-(2**63), 2**63 - 1]),
        np.array([-1.7e308, 1.7e308]),
        np.array([5e-324, 1e-323]),
        np.zeros(3),
        np.array([1e300, np.nextafter(1e300, np.inf)]),
    ],
)
def test_the_ends_of_dtypes(values):
    found = Histogram.of(values)
    assert found.total == len(values)
    assert found.edge(found.numbers[0]) <= values.min().item()
    assert values.max().item() < found.edge(found.numbers[-1] + 1)
