"""Attributes come back from JSON as they were, types included; what is not one of them is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from storegate_engine.errors import CorruptStoreError, DtypeError
from storegate_engine.table import attributes_of, values_of
from storegate_engine.table.attributes import attributes_from_json, attributes_to_json

VALUES = {
    "text": "é\n",
    "whole": 2**70,
    "nan": float("nan"),
    "infinite": [float("-inf"), -0.0],
    "bytes": b"\0\xff",
    "pair": (1, (2.5, None)),
    "nested": {"": {"b": np.array([1.5, np.nan], ">f4")}, "1": [True]},
    "scalar": np.float32(0.1),
    "time": np.datetime64("NaT", "ns"),
    "texts": np.array([["a", "bé"]]),
    "empty": np.empty((0, 2), "i2"),
    "zero_d": np.array(3, "u1"),
    "complex": np.array([1j]),
}


def same(a, b) -> bool:
    if isinstance(a, np.ndarray | np.generic):
        return (
            type(a) is type(b)
            and a.dtype.newbyteorder("=") == b.dtype
            and a.shape == b.shape
            and (a.astype(b.dtype).tobytes() == b.tobytes())
        )
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


def test_every_value_comes_back_as_it_was():
    kept = attributes_of(VALUES, "x")
    hash(kept)
    again = attributes_from_json(json.loads(json.dumps(attributes_to_json(kept), allow_nan=False)))
    assert again == kept
    assert same(VALUES, values_of(again))


@pytest.mark.parametrize("value", [object(), {1: 2}, np.array([object()]), {"a": [set()]}, 1j, "\ud800"])
def test_other_values_are_refused(value):
    with pytest.raises(DtypeError, match=r"x: attribute 'a' cannot be stored .* remove it with del x.attrs\['a'\]"):
        attributes_of({"a": value}, "x")


@pytest.mark.parametrize(
    "document",
    [
        1, [1], [["a"]], [[1, 2]], [["a", {}]], [["a", {"float": "1"}]], [["a", {"float": "nan", "bytes": ""}]],
        [["a", {"bytes": "?"}]], [["a", {"tuple": 1}]], [["a", {"dict": [1]}]],
        [["a", {"array": {"dtype": "float32", "shape": [2], "values": "AAAAAA=="}}]],
        [["a", {"array": {"dtype": "object", "shape": [1], "values": ""}}]],
        [["a", {"array": {"dtype": "float32", "shape": [2**40], "values": "AAAAAA=="}}]],
    ],
)  # fmt: skip
def test_other_documents_are_refused(document):
    with pytest.raises(CorruptStoreError, match="attributes are not understood"):
        attributes_from_json(document)
