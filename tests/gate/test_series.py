"""A Series is one column: it comes in under its own name, as a DataArray does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

from storegate import StoreGate, errors

SERIES = {
    "pandas": pd.Series([1.5, 2.5], name="x"),
    "polars": pl.Series("x", [1.5, 2.5]),
    "rows in another order": pd.Series([2.5, 1.5], [1, 0], name="x")[[0, 1]],
}


@pytest.mark.parametrize("kind", SERIES)
def test_a_series_comes_in_under_its_name(kind):
    gate = StoreGate(data_id="a")
    gate.add_data(SERIES[kind])
    gate.add_data(SERIES[kind], phase="valid")
    for phase in ("train", "valid"):
        assert gate[phase].var_names == ("x",)
        np.testing.assert_array_equal(gate[phase]["x"][:], [1.5, 2.5])
    gate.add_data("y", SERIES[kind])
    np.testing.assert_array_equal(gate["train"]["y"][:], [1.5, 2.5])


def test_categories_of_a_series_are_kept():
    gate = StoreGate(data_id="a")
    series = pd.Series(["b", "a", "b"], name="kind", dtype="category")
    gate.add_data(series)
    pd.testing.assert_series_equal(gate["train"].to_pandas()["kind"], series)


@pytest.mark.parametrize("series", [pd.Series([1, 2]), pl.Series([1, 2])])
def test_a_series_without_a_name_is_refused_with_the_remedy(series):
    gate = StoreGate(data_id="a")
    with pytest.raises(errors.ArgumentTypeError, match=r"has no name; give one: gate.add_data\('x', data\)"):
        gate.add_data(series)
    assert gate["train"].var_names == ()


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(TypeError, match="3"):
        StoreGate(data_id="a").add_data(pd.Series([1, 2], name=3))
