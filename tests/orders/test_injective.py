"""An order that says so names no stored row twice; those that come of splits, appends and updates say so."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate_engine.orders import (
    ArrayIndex,
    Concat,
    Range,
    RowOrder,
    Take,
    concat,
    cut,
    from_json,
    permute,
    replace_rows,
    to_json,
)
from tests.order_cases import Rows, nested, spans

N = 60
SHUFFLED = permute(Range(0, N), 3)
TAKEN = Take(Range(0, N), ArrayIndex(np.random.default_rng(0).permutation(N), is_distinct=True))


@given(nested(), st.data())
def test_an_order_that_says_so_names_no_row_twice(pair: tuple[RowOrder, Rows], data: st.DataObject) -> None:
    order, _ = pair
    parts = [cut(order, *spans(data.draw, len(order))) for _ in range(data.draw(st.integers(1, 4)))]
    joined = concat(*parts)
    for each in (order, joined, permute(joined, 5), concat(joined, Range(1000, 1003)), concat(order, joined)):
        rows = each.rows(0, len(each))
        assert not each.is_injective or len(np.unique(rows)) == len(rows)


@pytest.mark.parametrize("order", [Range(0, N), SHUFFLED, TAKEN, permute(TAKEN, 7)], ids=lambda order: order.form)
def test_parts_of_an_order_are_known_to_differ(order):
    thirds = [cut(order, 0, 20), cut(order, 20, 31), cut(order, 31, N)]
    assert concat(*thirds).is_injective
    assert concat(*thirds[::-1]).is_injective
    assert permute(concat(thirds[2], thirds[0]), 1).is_injective
    assert concat(thirds[1], Range(N, N + 9), permute(Range(N + 9, N + 20), 5), thirds[0]).is_injective
    assert replace_rows(order, 5, 6, Range(N, N + 1)).is_injective
    assert pickle.loads(pickle.dumps(concat(*thirds))).is_injective


@pytest.mark.parametrize("order", [Range(0, N), SHUFFLED, TAKEN], ids=lambda order: order.form)
def test_parts_that_overlap_are_not(order):
    assert not concat(cut(order, 0, 20), cut(order, 19, 31)).is_injective
    assert not concat(cut(order, 0, 2), cut(order, 0, 3), cut(order, 40, 50)).is_injective
    assert not Concat((order, cut(order, 5, 6))).is_injective
    assert not concat(cut(order, 3, 5), Range(N, N + 2), cut(order, 3, 5)).is_injective


def test_orders_from_a_manifest_are_known_to_differ():
    order = concat(cut(SHUFFLED, 0, 20), cut(SHUFFLED, 20, 50))
    assert from_json(to_json(order), ArrayIndex).is_injective
