"""Order JSON: row orders as the nested lists of a manifest, and back; trusts nothing it reads."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Final

from storegate_engine.errors import CorruptStoreError, StoreGateError, shown
from storegate_engine.orders.concats import Concat
from storegate_engine.orders.indexes import RowIndex
from storegate_engine.orders.nested import Permute, Slice, Take
from storegate_engine.orders.order import Range, RowOrder

__all__ = ["MAX_NESTING", "from_json", "n_nodes", "to_json"]

MAX_NESTING: Final = 64
"""Orders nested deeper than this are neither written nor read."""


def to_json(order: RowOrder, index_to_json: Callable[[RowIndex], object] = operator.methodcaller("to_json")) -> object:
    """Return an order as nested lists for a manifest: ``["slice", ["range", 0, 9], 2, 4]``.

    Parameters
    ----------
    order : RowOrder
        The order to write.
    index_to_json : callable
        Returns the JSON of an index; default: its name in a manifest.

    Raises
    ------
    TypeError
        An index is only in memory.
    ValueError
        The order nests deeper than `MAX_NESTING`.
    """
    return _to_json(order, index_to_json, 1)


def _to_json(order: RowOrder, index_to_json: Callable[[RowIndex], object], level: int) -> object:
    if level > MAX_NESTING:
        raise ValueError(f"an order nested deeper than {MAX_NESTING} cannot be stored; flatten it first")
    match order:
        case Range(start, stop):
            return ["range", start, stop]
        case Concat(orders):
            return ["concat", [_to_json(child, index_to_json, level + 1) for child in orders]]
        case Slice(child, start, stop):
            return ["slice", _to_json(child, index_to_json, level + 1), start, stop]
        case Permute(child, kind, seed):
            return ["permute", _to_json(child, index_to_json, level + 1), kind, seed]
        case Take(child, index):
            return ["take", _to_json(child, index_to_json, level + 1), index_to_json(index)]
        case _:
            raise TypeError(f"an order of type {type(order).__name__} has no stored form")


def n_nodes(order: RowOrder) -> int:
    """Return the number of orders in the JSON of one; shared ones count each time.

    >>> n_nodes(Concat((Slice(Range(0, 9), 2, 4), Range(0, 9))))
    4
    """
    known: dict[int, int] = {}  # parts of one order often share their parents

    def count(order: RowOrder) -> int:
        if id(order) not in known:
            known[id(order)] = 1 + sum(map(count, order.children))
        return known[id(order)]

    return count(order)


def from_json(obj: object, resolve_index: Callable[[object], RowIndex]) -> RowOrder:
    """Return the order that `to_json` wrote.

    Parameters
    ----------
    obj : object
        JSON from a manifest, which is not trusted.
    resolve_index : callable
        Returns the index of the name in ``["take", order, name]``.

    Raises
    ------
    CorruptStoreError
        The JSON is not an order: a type, bound, kind or length is wrong, or it nests deeper than `MAX_NESTING`.

    Examples
    --------
    >>> from_json(["slice", ["range", 0, 9], 2, 4], resolve_index=lambda name: None)
    Slice(order=Range(start=0, stop=9), start=2, stop=4)
    """
    return _from_json(obj, resolve_index, 1)


def _from_json(obj: object, resolve_index: Callable[[object], RowIndex], level: int) -> RowOrder:
    if level > MAX_NESTING:
        raise CorruptStoreError(f"a stored order nests deeper than {MAX_NESTING}")
    match obj:
        case ["range", start, stop]:
            return _build(obj, lambda: Range(_json_int(start), _json_int(stop)))
        case ["concat", list(items)]:
            children = [_from_json(item, resolve_index, level + 1) for item in items]
            return _build(obj, lambda: Concat(tuple(children)))
        case ["slice", inner, start, stop]:
            child = _from_json(inner, resolve_index, level + 1)
            return _build(obj, lambda: Slice(child, _json_int(start), _json_int(stop)))
        case ["permute", inner, kind, seed]:
            child = _from_json(inner, resolve_index, level + 1)
            return _build(obj, lambda: Permute(child, _json_str(kind), _json_int(seed)))
        case ["take", inner, name]:
            child = _from_json(inner, resolve_index, level + 1)
            return _build(obj, lambda: Take(child, resolve_index(name)))
        case _:
            raise CorruptStoreError(f"a stored order is not understood: {shown(obj)}")


def _build(obj: object, make: Callable[[], RowOrder]) -> RowOrder:
    if not isinstance(obj, list):  # a tuple would match the same patterns, but JSON has none
        raise CorruptStoreError(f"a stored order is not understood: {shown(obj)}")
    try:
        return make()
    except StoreGateError:
        raise
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as err:
        raise CorruptStoreError(f"a stored order is wrong: {err}: {shown(obj)}") from err


def _json_int(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"an integer is needed, not {type(value).__name__}")
    return value


def _json_str(value: object) -> str:
    if type(value) is not str:
        raise TypeError(f"a text is needed, not {type(value).__name__}")
    return value
