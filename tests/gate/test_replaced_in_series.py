"""Rows that were corrected stay neighbours of those around them, also where rows were added; numpy has the windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from tests.examples import examples


@given(st.data())
@settings(max_examples=examples(60), deadline=None)
def test_appends_and_updates_end_no_series(data):
    gate, rows = StoreGate(data_id="a"), []
    for _ in range(data.draw(st.integers(1, 6), "edits")):
        if rows and data.draw(st.booleans(), "updates"):
            lo = data.draw(st.integers(0, len(rows) - 1), "first")
            hi = data.draw(st.integers(lo + 1, len(rows)), "end")
            gate.update_data("x", np.full(hi - lo, 99), index=(lo, hi))
            rows[lo:hi] = [99] * (hi - lo)
        else:
            more = list(range(len(rows), len(rows) + data.draw(st.integers(1, 5), "more")))
            gate.add_data("x", more)
            rows += more
    if len(rows) < 3 or all(row == 99 for row in rows):  # where all were replaced, nothing tells their order
        return
    windows = gate["train"]["x"].windows(2, 1)
    assert windows.starts.tolist() == list(range(len(rows) - 2))
    inputs, targets = (np.concatenate(list(side)) for side in zip(*windows.batches(2, shuffle=False), strict=True))
    expected = np.lib.stride_tricks.sliding_window_view(rows, 3)
    np.testing.assert_array_equal(inputs, expected[:, :2])
    np.testing.assert_array_equal(np.ravel(targets), expected[:, 2])


@pytest.mark.parametrize("updated", [None, 3, 5])
def test_rows_that_were_left_out_end_one(updated):
    gate = StoreGate(data_id="a")
    gate.add_data("x", range(8))
    if updated is not None:
        gate.update_data("x", 99, index=updated)
    gate.select([0, 1, 2, 4, 5, 6])
    assert gate["train"]["x"].windows(2, 1).starts.tolist() == [0, 3]


def test_neighbours_given_in_any_order_end_none():
    gate = StoreGate(data_id="a")
    gate.add_data("x", range(8))
    gate.update_data("x", [9, 8], index=[4, 3])
    gate.update_data("x", 7, index=5)
    assert gate["train"]["x"].windows(2, 1).starts.tolist() == list(range(6))


def test_rows_added_after_all_were_replaced_go_on():
    gate = StoreGate(data_id="a")
    gate.add_data("x", range(2))
    gate.update_data("x", [98, 99], index=(0, 2))
    gate.add_data("x", range(2, 5))  # stored right after the rows that replaced others
    gate.update_data("x", 97, index=0)
    assert gate["train"]["x"].windows(2, 1).starts.tolist() == [0, 1, 2]
