"""Scalings and moments: numpy in two passes of float64 as the oracle, also on data that one naive pass gets wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storegate_engine import errors
from storegate_engine.table import Affine, Bins, Clip, Moments
from storegate_engine.table.scalings import scaling_from_json
from tests.examples import examples

RNG = np.random.default_rng(0)
HARD = {
    "a large offset": (1e9 + RNG.normal(size=(50_000, 3))),
    "a tiny deviation": (1e9 + 1e-3 * RNG.normal(size=(50_000, 3))),
    "an outlier first": np.concatenate([[[1e8, 0, 0]], RNG.normal(size=(50_000, 3))]),
    "missing values": np.where(RNG.random((50_000, 3)) < 0.3, np.nan, RNG.normal(3, 2, (50_000, 3))),
    "one value": np.full((1000, 3), 0.1),
    "float32": RNG.normal(1e4, 1e-1, (50_000, 3)).astype("f4"),
    "float16": RNG.normal(1, 2, (5_000, 3)).astype("f2"),
    "integers": RNG.integers(-(2**62), 2**62, (5_000, 3)),
    "bools": RNG.random((5_000, 3)) < 0.1,
}


@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize("axes", [(0,), (0, 1)])
def test_moments_are_those_of_two_passes(kind, axes):
    rows = HARD[kind]
    wide = rows.astype(np.longdouble)
    parts = [Moments.of(part, axes, ends=True) for part in np.array_split(rows, [3, 4, 1000])]
    found = parts[0]
    for part in parts[1:]:
        found = found.joined(part)
    np.testing.assert_array_equal(found.count.ravel(), np.count_nonzero(~np.isnan(wide), axis=axes))
    np.testing.assert_allclose(found.mean.ravel(), np.nanmean(wide, axis=axes).astype("f8"), rtol=1e-13)
    np.testing.assert_allclose(found.std.ravel(), np.nanstd(wide, axis=axes).astype("f8"), rtol=1e-7, atol=1e-16)
    np.testing.assert_array_equal(found.least.ravel(), np.nanmin(rows, axis=axes).astype("f8"))
    np.testing.assert_array_equal(found.most.ravel(), np.nanmax(rows, axis=axes).astype("f8"))


def test_moments_of_a_thousand_million_rows_by_repetition():
    block = Moments.of(1e6 + RNG.normal(size=(1000, 1)), (0,))
    found = block
    for _ in range(20):  # 1000 * 2**20 rows
        found = found.joined(found)
    assert found.count.item() == 1000 * 2**20
    np.testing.assert_allclose(found.mean, block.mean, rtol=1e-15)
    np.testing.assert_allclose(found.std, block.std, rtol=1e-9)


def test_moments_of_nothing():
    none = Moments.none((2,))
    assert none.count.tolist() == [0, 0]
    one = Moments.of(np.array([[1.0, np.nan]]), (0,))
    for found in (none.joined(one), one.joined(none)):
        assert (found.count.tolist(), found.mean.tolist(), found.std.tolist()) == ([1, 0], [1.0, 0.0], [0.0, 0.0])
    assert Moments.of(np.empty((0, 2)), (0,)).count.tolist() == [0, 0]


@given(
    hnp.arrays("f8", st.tuples(st.integers(1, 20), st.integers(1, 3)), elements=st.floats(-1e6, 1e6)),
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e3),
)
@settings(max_examples=examples(100), deadline=None)
def test_an_affine_scaling_and_its_inverse(rows, offset, scale):
    transform = Affine.of("standardize", np.array([offset]), np.array([scale]))
    scaled = transform.apply(rows)
    np.testing.assert_array_equal(scaled, (rows - offset) / scale)
    np.testing.assert_allclose(transform.invert(scaled), rows, rtol=1e-9, atol=1e-6)
    again = scaling_from_json(*transform.to_json())
    assert again == transform
    assert hash(again) == hash(transform)


@pytest.mark.parametrize("dtype", ["b1", "i1", "u8", "i8", "f2", "f4", "f8"])
def test_dtypes(dtype):
    rows = np.array([[0, 1], [1, 0]]).astype(dtype)
    affine = Affine.of("normalize", np.array([0.0, 1.0]), np.array([2.0, 4.0]))
    found = affine.apply(rows)
    assert found.dtype == affine.out_dtype(rows.dtype) == (np.float32 if dtype in ("f2", "f4") else np.float64)
    np.testing.assert_array_equal(found, (rows.astype("f8") - [0, 1]) / [2, 4])
    if dtype != "b1":
        clipped = Clip(0, 0).apply(rows)
        assert clipped.dtype == rows.dtype
        assert not clipped.any()
    assert Bins((0.5,)).apply(rows).tolist() == [[0, 1], [1, 0]]


def test_limits_beyond_the_dtype_change_nothing():
    rows = np.array([-128, 127], "i1")
    np.testing.assert_array_equal(Clip(-1000, 1000).apply(rows), rows)
    np.testing.assert_array_equal(Clip(None, 300).apply(np.array([255], "u1")), [255])


REFUSED = [
    (lambda: Affine.of("standardize", np.zeros(1), np.zeros(1)), ValueError, "to divide by not 0"),
    (lambda: Affine.of("standardize", np.array([np.inf]), np.ones(1)), ValueError, "finite"),
    (lambda: Affine.of("standardize", np.zeros(10**5), np.ones(10**5)), ValueError, "too many"),
    (lambda: Affine.of("standardize", np.zeros(2), np.ones(2)).out_row_shape((3,)), ValueError, "another|shape"),
    (lambda: Affine.of("standardize", np.zeros(2), np.ones(2)).out_dtype(np.dtype("M8[s]")), TypeError, "numbers"),
    (lambda: Clip(None, None), ValueError, "needs a limit"),
    (lambda: Clip(2, 1), ValueError, "first limit is the smaller"),
    (lambda: Clip(float("nan"), 1), ValueError, "finite number"),
    (lambda: Clip(True, 1), ValueError, "finite number"),
    (lambda: Clip(0.5, 1).out_dtype(np.dtype("i8")), TypeError, "0.5 is no int64"),
    (lambda: Clip(0, 1).out_dtype(np.dtype("U3")), TypeError, "clip takes numbers"),
    (lambda: Bins(()), ValueError, "1 to 65536 edges"),
    (lambda: Bins((2.0, 1.0)), ValueError, "ascend"),
    (lambda: Bins((1.0,)).out_dtype(np.dtype("S3")), TypeError, "bins takes numbers"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("standardize", [[1], "AAAA", "AAAA"]),
        ("standardize", [[-1], "", ""]),
        ("standardize", [[1], "no base64 ", "AAAAAAAA8D8="]),
        ("standardize", [[1], "AAAAAAAA8D8=", "AAAAAAAAAAA="]),
        ("normalize", [[2**40], "", ""]),
        ("clip", [1]),
        ("clip", ["a", 1]),
        ("bins", [True]),
        ("bins", ["1"]),
        ("bins", []),
    ],
)
def test_hostile_json_is_refused(name, value):
    with pytest.raises((errors.StoreGateError, ValueError)):
        scaling_from_json(name, value)
    assert scaling_from_json("other", value) is None
