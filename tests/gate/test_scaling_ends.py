"""Scalings of values that float64 hardly, or does not, tell apart, and of other shapes; numpy is the oracle."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from storegate import errors

NEAR = {
    "large integers": np.array([2**63 - 1, 2**63 - 1001, 2**63 - 2001, 2**63 - 4001]),
    "large uint64": np.array([2**64 - 1, 2**64 - 10_000, 2**63], "u8"),
    "a large offset": 1e9 + np.arange(4) * 1.2e-7,
    "subnormal": np.array([0, 5e-324, 1e-323]),
    "both signs": np.array([-1e300, 1e300, 0]),
    "float32": np.array([1, 1 + 2**-23, 1 + 2**-22], "f4"),
}


@pytest.mark.parametrize("name", NEAR)
def test_the_smallest_becomes_0_and_the_largest_1(gate, name):
    values = NEAR[name]
    gate.add_data("x", values[:2])
    gate.add_data("x", values[2:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate.normalize("x")
        found = gate["train"]["x"][:]
    wide = values.astype("f8")
    np.testing.assert_allclose(found, (wide - wide.min()) / (wide.max() - wide.min()), rtol=1e-6)
    assert (found[values.argmin()], found[values.argmax()]) == (0, 1)


@pytest.mark.parametrize("name", ["large integers", "a large offset", "float32"])
def test_what_hardly_varies_gets_a_deviation_of_1(gate, name):
    values = NEAR[name]
    gate.add_data("x", values)
    gate.standardize("x")
    wide = values.astype("f8")
    found = gate["train"]["x"][:]
    np.testing.assert_allclose(np.std(found, dtype="f8"), 1, rtol=1e-6)
    assert abs(found.mean()) <= np.spacing(wide.mean()) / (wide - wide[0]).std()  # the mean itself is rounded


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "u1", "?"])
@pytest.mark.parametrize("kind", ["standardize", "normalize"])
def test_what_never_varies_becomes_0_exactly(gate, kind, dtype):
    rows = np.stack([np.arange(1000) % 2, np.full(1000, 0.1 if dtype[0] == "f" else 1)], axis=1).astype(dtype)
    for lo in range(0, 1000, 300):
        gate.add_data("x", rows[lo : lo + 300])
    getattr(gate, kind)("x")
    found = gate["train"]["x"][:]
    assert not found[:, 1].any()
    assert found[:, 0].max() == 1
    gate.add_data("large", np.full(3, 1.7e308))  # whose sum is infinite
    getattr(gate, kind)("large")
    assert gate["train"]["large"][:].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("standardize", [1e300, -1e300]),
        ("standardize", [1e-200, 3e-200]),
        ("standardize", [1.7e308, 1.7e308, 1.6e308]),
        ("normalize", [1.7e308, -1.7e308]),
        ("normalize", [2**63 - 1, 2**63 - 2]),
        ("standardize", [2**63 - 1, 2**63 - 2]),
    ],
)
def test_what_float64_cannot_scale_is_refused(gate, kind, values):
    gate.add_data("x", values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(errors.ArgumentError, match=r"'x' of phase 'train' has values from .*gate.assign\(x="):
            getattr(gate, kind)("x")
    np.testing.assert_array_equal(gate["train"]["x"][:], values)


@pytest.mark.parametrize("kind", ["standardize", "normalize"])
def test_columns_without_values_stay_missing(gate, kind):
    rows = np.array([[1.0, np.nan, np.nan], [3.0, np.nan, 5.0]])
    gate.add_data("x", rows)
    gate.add_data("x", rows + 1, phase="test")
    getattr(gate, kind)("x")
    low, high = (0, 1) if kind == "normalize" else (-1, 1)
    np.testing.assert_array_equal(gate["train"]["x"][:], [[low, np.nan, np.nan], [high, np.nan, 0]])
    np.testing.assert_array_equal(gate["test"]["x"].inverse(gate["test"]["x"][:]), rows + 1)


def test_columns_without_values_are_scaled_as_scikit_learn_does(gate):
    scaler = pytest.importorskip("sklearn.preprocessing").StandardScaler()
    rows = np.where(np.arange(40).reshape(10, 4) % 4 == 2, np.nan, np.random.default_rng(0).normal(size=(10, 4)))
    gate.add_data("x", rows)
    gate.standardize("x")
    with np.errstate(invalid="ignore"):  # scikit-learn divides no sum by no values
        expected = scaler.fit_transform(rows)
    np.testing.assert_allclose(gate["train"]["x"][:], expected, rtol=1e-12)


def test_scaled_values_have_the_shape_of_rows(gate):
    gate.add_data({"x": np.arange(12.0).reshape(4, 3), "n": [0, 1, 2, 4]})
    gate.standardize("x")
    gate.quantile_bins("n", 2)
    gate.onehot("n", 2)
    view = gate["train"]["x"]
    for act in (view.scaled, view.inverse):
        for shape in ((2, 4), (2, 1), (), (2,)):
            with pytest.raises(errors.ShapeError, match=r"'x' has rows of shape \(3,\), and .*\(n, 3\)"):
                act(np.zeros(shape))
        assert act(np.zeros((2, 3))).shape == (2, 3)
        assert act(np.zeros(3)).shape == (3,)
    gate.argmax("x", axis=1)
    with pytest.raises(errors.ArgumentError, match="holds labels, from which no values come back"):
        gate["train"]["x"].inverse([[0, 0, 0]])
    assert gate["train"]["n"].scaled([0, 4]).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("n_bins", [3, 5, 10])
@pytest.mark.parametrize("values", [[2.0, 1, 1, 0, 0, 0, 0], [0, 0, 1, 5, 5, 5, 9], [0.0, np.nan, 1, np.inf, 1, 2]])
def test_no_bin_is_without_values(gate, values, n_bins):
    gate.add_data("x", values)
    gate.quantile_bins("x", n_bins)
    found = gate["train"]["x"][:]
    finite = np.isfinite(values)
    assert np.bincount(found[finite]).all()
    assert 2 <= len(set(found[finite])) <= n_bins
    order = np.argsort(np.asarray(values)[finite], kind="stable")
    assert (np.diff(found[finite][order]) >= 0).all()


def test_bins_of_integers_that_float64_does_not_tell_apart_are_refused(gate):
    gate.add_data("x", np.arange(2**60, 2**60 + 4))
    with pytest.raises(errors.ArgumentError, match="cannot tell 1152921504606846976 and 1152921504606846979 apart"):
        gate.quantile_bins("x", 2)


def test_infinite_limits_are_none(gate):
    gate.add_data({"x": [-5.0, 1.0, 7.0], "time": np.array(["2020", "2021", "2022"], "M8[s]")})
    gate.clip("x", low=-np.inf, high=np.float32(5))
    assert gate["train"]["x"][:].tolist() == [-5, 1, 5]
    gate.clip("x", low=0, high=np.inf)
    assert gate["train"]["x"][:].tolist() == [0, 1, 5]
    with pytest.raises(errors.ArgumentError, match="needs a limit"):
        gate.clip("x", -np.inf, np.inf)
    with pytest.raises(errors.ArgumentError, match="finite number"):
        gate.clip("x", np.inf)
    with pytest.raises(errors.DtypeError, match="clip takes numbers, not datetime64"):
        gate.clip("time", 0)


def test_a_condition_without_some_rows_is_refused(gate):
    gate.add_data("x", np.arange(6))
    for condition in (lambda ds: ds.x[:3] > 0, lambda ds: ds.x.data[ds.x.data > 3] > 0):
        with pytest.raises(errors.ShapeError, match="give a value for every row"):
            gate.filter(condition)
