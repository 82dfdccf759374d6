"""Orders as JSON, and back; nothing that is read is believed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate_engine.errors import CorruptStoreError
from storegate_engine.orders import (
    ArrayIndex,
    Concat,
    Permute,
    Range,
    RowIndex,
    RowOrder,
    Slice,
    Take,
    from_json,
    n_nodes,
    to_json,
)
from storegate_engine.orders import json as order_json
from storegate_engine.streams.epochs import Epochs
from storegate_engine.streams.shares import Share
from tests.order_cases import KINDS, Rows, StoredIndex, assert_rows, nested


def no_index(name: object) -> RowIndex:
    raise KeyError(name)


def indexes_of(order: RowOrder) -> dict[str, RowIndex]:
    match order:
        case Concat(children):
            return {name: index for child in children for name, index in indexes_of(child).items()}
        case Slice(child) | Permute(child):
            return indexes_of(child)
        case Take(child, index):
            assert isinstance(index, StoredIndex)
            index.name = f"index {id(index)}"
            return {index.name: index, **indexes_of(child)}
        case _:
            return {}


@given(nested())
def test_json_round_trip(pair: tuple[RowOrder, Rows]) -> None:
    order, expected = pair
    known = indexes_of(order)

    def resolve(name: object) -> RowIndex:
        assert isinstance(name, dict)
        return known[name["array"]]

    back = from_json(json.loads(json.dumps(to_json(order))), resolve)
    assert back == order
    assert_rows(back, expected)


def test_json_form_never_changes() -> None:
    order = Concat((Range(0, 3), Slice(Permute(Range(5, 9), "numpy", 7), 1, 3)))
    written = ["concat", [["range", 0, 3], ["slice", ["permute", ["range", 5, 9], "numpy", 7], 1, 3]]]
    assert to_json(order) == written
    assert from_json(written, no_index) == order
    take = Take(Range(0, 3), StoredIndex([2, 0], "p"))
    assert to_json(take) == ["take", ["range", 0, 3], {"array": "p"}]
    with pytest.raises(TypeError, match="store it first"):
        to_json(Take(Range(0, 3), ArrayIndex([2, 0])))


def test_an_order_of_a_stream_has_no_stored_form() -> None:
    for order in (share := Share(Range(0, 9), Epochs(9, 4)), Slice(share, 0, 2), Concat((Range(0, 3), share))):
        with pytest.raises(TypeError, match=r"^an order of type Share has no stored form$"):
            to_json(order)


def deep(levels: int) -> object:
    obj: object = ["range", 0, 4]
    for _ in range(levels - 1):
        obj = ["slice", obj, 0, 4]
    return obj


def test_json_nests_up_to_the_limit() -> None:
    order = from_json(deep(order_json.MAX_NESTING), no_index)
    assert to_json(order) == deep(order_json.MAX_NESTING)
    with pytest.raises(ValueError, match="flatten"):
        to_json(Slice(order, 0, 4))
    with pytest.raises(CorruptStoreError, match="nests deeper"):
        from_json(deep(order_json.MAX_NESTING + 1), no_index)
    with pytest.raises(CorruptStoreError, match="nests deeper"):
        from_json(deep(100_000), no_index)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda obj: ["concat", [obj]],
        lambda obj: ["slice", obj, 0, 4],
        lambda obj: ["permute", obj, "numpy", 1],
        lambda obj: ["take", obj, [2, 3, 0, 1]],
    ],
)
def test_every_form_is_a_level(wrapped: Callable[[object], object]) -> None:
    obj: object = ["take", RANGE, [3, 1, 0, 2]]
    for _ in range(order_json.MAX_NESTING - 2):
        obj = wrapped(obj)
    order = from_json(obj, lambda name: ArrayIndex(name))  # type: ignore[arg-type]
    assert to_json(order, lambda index: index.slice(0, 4).tolist()) == obj
    with pytest.raises(CorruptStoreError, match="^a stored order nests deeper than 64$"):
        from_json(wrapped(obj), lambda name: ArrayIndex(name))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^an order nested deeper than 64 cannot be stored; flatten it first$"):
        to_json(Concat((order,)), lambda index: [])


RANGE = ["range", 0, 4]


@pytest.mark.parametrize(
    "obj",
    [
        None,
        3,
        "range",
        {},
        [],
        ["range"],
        ["range", 0],
        ["range", 0, 4, 5],
        ("range", 0, 4),
        ["Range", 0, 4],
        [["range", 0, 4]],
        ["range", True, 4],
        ["range", 0, True],
        ["range", 0, 4.0],
        ["range", "0", "4"],
        ["range", -1, 4],
        ["range", 4, 0],
        ["range", 0, 2**63],
        ["range", 0, 10**5000],
        ["range", None, None],
        ["concat"],
        ["concat", RANGE],
        ["concat", RANGE, RANGE],
        ["concat", {"0": RANGE}],
        ["concat", "range"],
        ["concat", [["range", 0, 2**62], ["range", 0, 2**62]]],
        ["slice", RANGE, 0],
        ["slice", RANGE, 0, 5],
        ["slice", RANGE, 3, 2],
        ["slice", RANGE, -1, 2],
        ["slice", RANGE, False, 2],
        ["slice", None, 0, 0],
        ["permute", RANGE, "numpy"],
        ["permute", RANGE, "feistel3", 1],
        ["permute", RANGE, ["numpy"], 1],
        ["permute", RANGE, None, 1],
        ["permute", RANGE, "numpy", -1],
        ["permute", RANGE, "numpy", 2**32],
        ["permute", RANGE, "numpy", True],
        ["permute", RANGE, "numpy", 1.0],
        ["permute", ["range", 0, 2**30 + 1], "numpy", 1],
        ["permute", ["range", 0, 2**62 + 1], "feistel8-v1", 1],
        ["take", RANGE],
        ["take", RANGE, "unknown"],
        ["take", RANGE, [4]],
        ["take", RANGE, [-1]],
        ["take", RANGE, [0.5]],
        ["take", RANGE, [[1]]],
        ["take", ["take", RANGE, [0]], [1]],
    ],
)
def test_hostile_json_is_a_corrupt_store(obj: object) -> None:
    def resolve(name: object) -> RowIndex:
        return ArrayIndex(name) if isinstance(name, list) else no_index(name)

    with pytest.raises(CorruptStoreError, match="a stored order"):
        from_json(obj, resolve)


@pytest.mark.parametrize(
    ("obj", "what"),
    [
        (["Range", 0, 4], "a stored order is not understood: ['Range', 0, 4]"),
        (("range", 0, 4), "a stored order is not understood: ('range', 0, 4)"),
        (["range", 0, 4.0], "a stored order is wrong: an integer is needed, not float: ['range', 0, 4.0]"),
        (["permute", RANGE, 3, 1], f"a stored order is wrong: a text is needed, not int: ['permute', {RANGE}, 3, 1]"),
        (["take", RANGE, "a"], f"a stored order is wrong: 'a': ['take', {RANGE}, 'a']"),
    ],
)
def test_what_is_wrong_is_said_and_shown(obj: object, what: str) -> None:
    with pytest.raises(CorruptStoreError) as caught:
        from_json(["slice", obj, 0, 4], no_index)
    assert str(caught.value) == what


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**64) | st.floats() | st.sampled_from([*KINDS, "range", "x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(st.sampled_from(["range", "concat", "slice", "permute", "take"]), inner, inner, inner).flatmap(
            lambda four: st.integers(2, 4).map(lambda k: list(four[:k]))
        )
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_an_order_or_a_corrupt_store(obj: object) -> None:
    def resolve(name: object) -> RowIndex:
        return ArrayIndex(name) if isinstance(name, list) else no_index(name)

    try:
        order = from_json(obj, resolve)
    except CorruptStoreError:
        return
    assert isinstance(order, RowOrder)


def lists_of_orders(obj: object) -> int:
    match obj:
        case [str(), *inner]:
            return 1 + sum(map(lists_of_orders, inner))
        case list():
            return sum(map(lists_of_orders, obj))
        case _:
            return 0


@given(nested())
def test_as_many_orders_are_counted_as_are_written(pair: tuple[RowOrder, Rows]) -> None:
    assert n_nodes(pair[0]) == lists_of_orders(to_json(pair[0], lambda index: {}))


def test_orders_that_share_their_parts_are_counted_at_once() -> None:
    order: RowOrder = Range(0, 1)
    for _ in range(60):
        order = Concat((order, order))
    assert n_nodes(order) == 2**61 - 1
