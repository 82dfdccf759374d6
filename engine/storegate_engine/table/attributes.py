"""Attributes: what ``attrs`` of xarray hold, as JSON that gives every value back as it was; pure."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.dtypes import dtype_from_text, dtype_to_text
from storegate_engine.errors import CorruptStoreError, DtypeError, shown

__all__ = ["Attributes", "attributes_from_json", "attributes_of", "attributes_to_json", "values_of"]

Attributes: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values in their order; each value as a text of JSON, so that they are immutable and can be compared."""


def attributes_of(attrs: Mapping[Any, Any], what: str) -> Attributes:
    """Return attributes as they are kept.

    Parameters
    ----------
    attrs : mapping
        Texts, numbers, bools, None, bytes, arrays and scalars of numpy, and lists, tuples and dicts of these.
    what : str
        Whose attributes they are, for messages.

    Raises
    ------
    DtypeError
        A value is of another type, or a name is not text.
    """
    found = []
    for name, value in attrs.items():
        if not isinstance(name, str):
            raise DtypeError(f"{what}: the name of an attribute is text, found {name!r}; rename or remove it")
        try:
            found.append((name, json.dumps(_to_json(value), ensure_ascii=False)))
            found[-1][1].encode()
        except (DtypeError, UnicodeEncodeError) as err:
            raise DtypeError(
                f"{what}: attribute {name!r} cannot be stored ({err}); attributes are texts, numbers, arrays, and "
                f"lists and dicts of them: convert it, or remove it with del x.attrs[{name!r}]"
            ) from err
    return tuple(found)


def values_of(attributes: Attributes) -> dict[str, Any]:
    """Return the values that were given to :func:`attributes_of`."""
    return {name: _from_json(json.loads(text)) for name, text in attributes}


def attributes_to_json(attributes: Attributes) -> list[list[Any]]:
    """Return the document of a manifest: names and values in their order."""
    return [[name, json.loads(text)] for name, text in attributes]


def attributes_from_json(document: Any) -> Attributes:
    """Return the attributes in a manifest, which is not trusted.

    Raises
    ------
    CorruptStoreError
        The document is not one that :func:`attributes_to_json` returns.
    """
    try:
        found = []
        for name, value in document:
            if not isinstance(name, str):
                raise ValueError(f"a name is {shown(name)}")
            _from_json(value)
            found.append((name, json.dumps(value, ensure_ascii=False)))
        return tuple(found)
    except (ArithmeticError, CorruptStoreError, LookupError, RecursionError, TypeError, ValueError) as err:
        raise CorruptStoreError(f"attributes are not understood ({err}): {shown(document)}") from err


# JSON has no infinities, bytes, tuples or arrays: each is a mapping of one key, which says what it is. So is a dict.


def _to_json(value: Any) -> Any:
    match value:
        # Text and bytes stand first: numpy's str_ and bytes_ are kinds of them, and np.float64 is a kind of float.
        case str():
            return str(value)
        case bytes():
            return {"bytes": base64.b64encode(value).decode()}
        case np.ndarray() | np.generic():
            return _array_to_json(value)
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else {"float": repr(value)}
        case list():
            return [_to_json(item) for item in value]
        case tuple():
            return {"tuple": [_to_json(item) for item in value]}
        case dict() if all(isinstance(key, str) for key in value):
            return {"dict": [[key, _to_json(item)] for key, item in value.items()]}
    raise DtypeError(f"it is {shown(value)}, of type {type(value).__name__}")


def _array_to_json(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind in "OTV":
        raise DtypeError(f"it is an array of {array.dtype}")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    document = {
        "dtype": dtype_to_text(array.dtype.newbyteorder("=")),
        "shape": None if isinstance(value, np.generic) else list(array.shape),
        "values": base64.b64encode(array.tobytes()).decode(),
    }
    return {"array": document}


def _from_json(document: Any) -> Any:
    match document:
        case None | bool() | int() | float() | str():
            return document
        case list():
            return [_from_json(item) for item in document]
        case {"float": "nan" | "inf" | "-inf" as text, **rest} if not rest:
            return float(text)
        case {"bytes": str(text), **rest} if not rest:
            return base64.b64decode(text, validate=True)
        case {"tuple": list(items), **rest} if not rest:
            return tuple(_from_json(item) for item in items)
        case {"dict": list(items), **rest} if not rest:
            return {str(key): _from_json(item) for key, item in items}
        case {"array": {"dtype": str(text), "shape": shape, "values": str(values)}, **rest} if not rest:
            dtype = dtype_from_text(text)
            array = np.frombuffer(base64.b64decode(values, validate=True), dtype.newbyteorder("<")).astype(dtype)
            return array.reshape(()).astype(dtype)[()] if shape is None else array.reshape(shape)
    raise ValueError(f"a value is {shown(document)}")
