"""The rows of several ranks, bucket after bucket: numpy puts together the same from the rows of each rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate_engine import errors
from storegate_engine.orders import ArrayIndex, Permute, Range, Span, Take
from storegate_engine.streams.epochs import Epochs
from storegate_engine.streams.shares import Dealt, Share


@st.composite
def dealt(draw):
    world = draw(st.integers(1, 9))
    first = draw(st.integers(0, world - 1))
    epochs = Epochs(
        draw(st.integers(1, 60)),
        draw(st.integers(1, 20)),
        draw(st.sampled_from(["split", "drop", "pad"])),
        world=world,
    )
    rows = Permute(Range(5, 5 + epochs.n_rows), "numpy", draw(st.integers(0, 9)))
    return Dealt(rows, epochs, Span(first, draw(st.integers(first + 1, world))), draw(st.integers(1, 4)))


def put_together(order):
    """Return the rows of each bucket of each rank."""
    shares = [
        Share(order.order, Epochs(of.n_rows, of.batch_rows, of.last, rank, of.world))
        for of in [order.epochs]
        for rank in range(*order.ranks)
    ]
    n_steps, steps = order.epochs.n_steps, order.steps
    return [
        share.rows(share.start(step), share.start(min(step + steps, n_steps)))
        for step in range(0, n_steps, steps)
        for share in shares
    ]


@given(dealt())
def test_each_rank_has_its_rows_of_a_bucket_together(order):
    expected = put_together(order)
    assert len(order) == sum(map(len, expected))
    assert np.diff(order.begins).tolist() == [len(rows) for rows in expected]
    whole = np.concatenate([np.empty(0, np.int64), *expected])
    np.testing.assert_array_equal(order.rows(0, len(order)), whole)
    np.testing.assert_array_equal(order.take(np.arange(len(order))[::-3]), whole[::-3])
    assert order.runs(0, len(order)) is None or not len(order)


@given(dealt())
def test_stored_rows_find_their_places(order):
    rows = order.rows(0, len(order))
    if order.epochs.last == "pad" and order.epochs.n_positions > order.epochs.n_rows:
        assert not order.is_injective
        with pytest.raises(errors.NotInvertibleError):
            order.positions(5, 6)
        return
    assert order.is_injective
    expected = np.full(5 + order.epochs.n_rows, -1)
    expected[rows] = np.arange(len(rows))
    np.testing.assert_array_equal(order.positions(0, len(expected)), expected)


def test_rows_that_are_drawn_twice_cannot_be_found():
    drawn = Take(Range(0, 4), ArrayIndex(np.array([1, 1, 3, 0])))
    assert not Dealt(drawn, Epochs(4, 2, world=2), Span(0, 2), 1).is_injective
