"""What a view is a view of, and what an index of it gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from storegate import StoreGate, explain
from storegate.types import Array, Fold, Leaks, PhaseName, Stream, View, Windows


def forms(gate: StoreGate, phase: PhaseName) -> None:
    assert_type(gate["train"], View[dict[str, Array]])
    assert_type(gate[phase], View[dict[str, Array]])
    assert_type(gate["x"], View[Array])
    assert_type(gate["x"]["train"], View[Array])
    assert_type(gate["train"]["x"], View[Array])
    assert_type(gate["train"]["x", "y"], View[Array])
    assert_type(gate["train"][["x", "y"]], View[list[Array]])
    assert_type(gate[["x", "y"]][phase], View[list[Array]])


def one(x: View[Array], mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
    assert_type(x[:], Array)
    assert_type(x[3], Array)
    assert_type(x[...], Array)
    assert_type(x[[0, 2]], Array)
    assert_type(x[mask], Array)
    assert_type(x[x == 3], Array)
    assert_type(x == 3, da.Array)
    assert_type(iter(x), Iterator[Array])
    assert_type(x.data, da.Array)
    assert_type(x.shape, tuple[int, ...])
    assert_type(x.head(3), Array)
    assert_type(x.to_pandas(), pd.DataFrame)
    assert_type(x.subset(slice(0, 10)), View[Array])
    assert_type(x.to_xarray(), xr.Dataset)
    assert_type(x.var_names, tuple[str, ...])


def several(pair: View[list[Array]]) -> None:
    assert_type(pair[0:10], list[Array])
    assert_type(iter(pair), Iterator[list[Array]])
    assert_type(pair.data, list[da.Array])
    assert_type(pair == 3, bool)
    for x, y in pair:
        assert_type(x, Array)
        assert_type(y, Array)


def phase(train: View[dict[str, Array]]) -> None:
    assert_type(train.subset([1, 2])["x"], View[Array])
    assert_type(explain(train), str)
    assert_type(len(train), int)


def chosen(gate: StoreGate, x: View[Array], train: View[dict[str, Array]]) -> None:
    assert_type(gate.check(groups="run"), Leaks)
    assert_type(x.folds(5, stratify="y"), list[Fold[View[Array]]])
    for fold in train.folds(3):
        assert_type(fold.train, View[dict[str, Array]])
        assert_type(fold.valid["y"][:], Array)
    assert_type(x.inverse(x[:5]), Array)


def windows(x: View[Array], train: View[dict[str, Array]]) -> None:
    assert_type(x.windows(4), Windows[Array])
    assert_type(x.windows(4, 2, within="run")[0], tuple[Array, Array])
    assert_type(train.windows(4), Windows[dict[str, Array]])
    assert_type(train.windows(4, var_names=["x", "y"]), Windows[list[Array]])
    assert_type(train.windows(4, var_names="x").batches(32), Stream[tuple[Array, Array]])
