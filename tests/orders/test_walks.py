"""Orders walk themselves: their children, their parts end to end, and every list of rows inside of them."""

from __future__ import annotations

import numpy as np
import pytest

from storegate_engine.orders import ArrayIndex, Concat, Permute, Range, Slice, Take

INNER, OUTER = ArrayIndex(np.array([2, 0, 1])), ArrayIndex(np.array([1, 0]))
TAKEN = Take(Range(0, 9), INNER)


@pytest.mark.parametrize(
    ("order", "form", "children", "parts", "indices"),
    [
        (Range(0, 3), "range", (), (Range(0, 3),), []),
        (Concat((Range(0, 3), TAKEN)), "concat", (Range(0, 3), TAKEN), (Range(0, 3), TAKEN), [INNER]),
        (Slice(TAKEN, 0, 2), "slice", (TAKEN,), (Slice(TAKEN, 0, 2),), [INNER]),
        (Permute(TAKEN, "feistel8-v1", 3), "permute", (TAKEN,), (Permute(TAKEN, "feistel8-v1", 3),), [INNER]),
        (Take(Slice(TAKEN, 0, 2), OUTER), "take", (Slice(TAKEN, 0, 2),), (Take(Slice(TAKEN, 0, 2), OUTER),), None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_walks(order, form, children, parts, indices):
    assert order.form == form
    assert order.children == children
    assert order.parts == parts
    assert list(order.indices()) == ([OUTER, INNER] if indices is None else indices)
