"""Orders walk themselves: their children, their parts end to end, and every list of rows inside of them."""

from __future__ import annotations

import numpy as np
import pytest

from storegate_engine.orders import ArrayIndex, Concat, Permute, Range, Slice, Span, Take
from storegate_engine.streams.epochs import Epochs
from storegate_engine.streams.shares import Dealt, Share

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


SHUFFLED = Permute(Range(0, 9), "feistel8-v1", 3)
PICKED = "rows picked from a list"
BOTH = f"shuffled, seed 3, then {PICKED}"


@pytest.mark.parametrize(
    "order",
    [
        SHUFFLED,
        Slice(SHUFFLED, 2, 7),
        Permute(Slice(SHUFFLED, 2, 7), "numpy", 5),
        Take(SHUFFLED, INNER),
        Concat((Range(9, 12), SHUFFLED)),
        Share(SHUFFLED, Epochs(9, 4)),
        Dealt(SHUFFLED, Epochs(9, 4, world=3), Span(0, 2), 2),
    ],
    ids=lambda order: order.form,
)
def test_whatever_is_inside_moves_and_is_limited(order):
    def permutations(order):
        found = [order] if isinstance(order, Permute) else []
        return found + [inner for child in order.children for inner in permutations(child)]

    rows = order.rows(0, len(order))
    np.testing.assert_array_equal(order.shifted(100).rows(0, len(order)), rows + 100)
    limited = order.within(2**19)
    assert limited == order
    assert limited.within(2**19) is limited
    assert [inner.table_nbytes for inner in permutations(limited)] == [2**19] * len(permutations(order))
    np.testing.assert_array_equal(limited.rows(0, len(order)), rows)
    assert type(limited) is type(order.shifted(100)) is type(order)


@pytest.mark.parametrize(
    ("order", "words", "seed"),
    [
        (Range(0, 3), (), None),
        (SHUFFLED, ("shuffled, seed 3",), 3),
        (Slice(SHUFFLED, 2, 7), ("shuffled, seed 3",), 3),
        (Take(SHUFFLED, INNER), ("shuffled, seed 3", "rows picked from a list"), None),
        (Permute(TAKEN, "numpy", 5), ("rows picked from a list", "shuffled, seed 5"), 5),
        (Concat(()), (), None),
        (Concat((SHUFFLED, Range(7, 7), Slice(SHUFFLED, 2, 7))), ("shuffled, seed 3",), None),
        (Concat((Range(0, 3), Take(SHUFFLED, INNER), TAKEN)), (f"in parts: as stored | {BOTH} | {PICKED}",), None),
        (
            Concat((TAKEN, SHUFFLED, Take(SHUFFLED, INNER), TAKEN, Range(0, 3))),
            (f"in parts: {PICKED} | shuffled, seed 3 | {BOTH} | ...",),
            None,
        ),
    ],
)
def test_an_order_says_in_words_how_it_came_about(order, words, seed):
    assert order.words == words
    assert order.shuffled_by == seed
