"""Selections of lazy rows: what numpy gives, in the chunks that dask gives, from the wanted rows alone."""

from __future__ import annotations

import pickle

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine import budget
from storegate_engine.exchange import plans
from storegate_engine.graphs.dask_arrays import PickedRows, RowsArray, layers_of
from storegate_engine.orders import RowOrder
from tests.array_forms import IS_EXPRESSION, from_array, lacking
from tests.examples import examples

N_ROWS = 4000


@pytest.fixture(scope="module", params=["in order", "shuffled"])
def lazy(request, tmp_path_factory):
    """A lazy array of many blocks, dask's own of the same rows and blocks, and the rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "BLOCK_NBYTES", 2**13)
        patch.setattr(plans, "MIN_PART_NBYTES", 2**8)
        rows = np.random.default_rng(0).random((N_ROWS, 3))
        args = {"output_dir": tmp_path_factory.mktemp("store"), "chunk": 50}
        with StoreGate("zarr", args, "a") as gate:
            gate.add_data("x", rows)
            if request.param == "shuffled":
                gate.shuffle("train", 5)
                rows = rows[np.random.RandomState(5).permutation(N_ROWS)]
            array = gate["train"].to_xarray()["x"].data
            assert isinstance(array, PickedRows)
            assert array.numblocks[0] > 5
            yield array, from_array(rows, chunks=array.chunks), rows


ROWS = st.one_of(
    st.integers(-N_ROWS, N_ROWS - 1),
    st.slices(N_ROWS),
    st.builds(slice, st.integers(-5, N_ROWS), st.integers(0, N_ROWS + 5)),
    st.lists(st.integers(-N_ROWS, N_ROWS - 1), max_size=40),
    st.lists(st.integers(0, N_ROWS - 1), min_size=1, max_size=40).map(np.array),
    st.lists(st.integers(0, N_ROWS - 1), min_size=1, max_size=40).map(sorted),
    st.lists(st.integers(0, N_ROWS - 1), min_size=1, max_size=4).map(lambda rows: np.array(rows, np.uint16)),
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random(N_ROWS) < 0.01),
    st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).permutation(N_ROWS)),
    st.just(np.arange(N_ROWS)),
    st.just(np.zeros(N_ROWS, bool)),
    st.just(Ellipsis),
)
REST = st.sampled_from([(), (1,), (slice(0, 2),), (slice(None),), (Ellipsis,), (None,), (slice(None, None, -1),)])


@given(ROWS, REST)
@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_selection_is_numpys_in_dasks_chunks(lazy, rows, rest):
    array, of_dask, values = lazy
    if rows is Ellipsis and Ellipsis in rest:
        rest = ()
    assume(not (rest == (None,) and np.array_equal(rows, np.arange(N_ROWS))))  # dask 2026.8 raises AttributeError
    key = (rows, *rest) if rest else rows
    try:
        expected = of_dask[key]
    except AttributeError:
        assert IS_EXPRESSION  # which have no rows by their numbers
    else:
        assert array[key].chunks == expected.chunks
    found = array[key]
    assert found.shape == values[key].shape
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found.compute(), values[key])


@pytest.mark.parametrize(
    "key", [N_ROWS, -N_ROWS - 1, [N_ROWS], [0.5], np.zeros(3, bool), "x", slice(0.5, 2), (0, 1, 2), (0, 3)]
)
def test_what_is_no_selection_is_refused_as_dask_does(lazy, key):
    array, of_dask, _ = lazy
    with pytest.raises((LookupError, TypeError, NotImplementedError)) as wanted:
        of_dask[key]
    with pytest.raises(wanted.type):
        array[key]


def test_selections_of_selections(lazy):
    array, _, values = lazy
    rng = np.random.default_rng(1)
    first, second = rng.permutation(N_ROWS), rng.integers(0, N_ROWS, 700)
    picked = array[first][second]
    assert isinstance(picked, PickedRows)
    np.testing.assert_array_equal(picked[3:90].compute(), values[first][second][3:90])
    np.testing.assert_array_equal((picked[::-1] * 2)[5].compute(), values[first][second][::-1][5] * 2)
    mean = dask.compute(picked.mean(axis=0), picked[[1, 1]].sum())
    np.testing.assert_allclose(mean[0], values[first][second].mean(axis=0))


def test_a_selection_has_one_name_and_few_tasks(lazy):
    array, _, values = lazy
    order = np.random.default_rng(2).permutation(N_ROWS)
    assert array[order].name == array[order].name
    assert array[order].name != array[order[::-1]].name
    assert len(layers_of(array[order])) == 1
    (optimized,) = dask.optimize(array[order])
    assert len(dict(optimized.dask)) <= 3 * array.numblocks[0]
    copied = pickle.loads(pickle.dumps(array[order]))
    np.testing.assert_array_equal(copied.compute(), values[order])


def test_a_few_rows_read_their_chunks_alone(lazy, monkeypatch):
    from storegate_engine.arrays import StoredArray

    taken = []
    take_into, read_into = StoredArray.take_into, StoredArray.read_into
    monkeypatch.setattr(
        StoredArray, "take_into", lambda s, rows, out, **_: taken.append(len(rows)) or take_into(s, rows, out)
    )
    monkeypatch.setattr(
        StoredArray, "read_into", lambda s, lo, hi, out, **k: taken.append(hi - lo) or read_into(s, lo, hi, out, **k)
    )
    array, _, values = lazy
    np.testing.assert_array_equal(array[[3, 3990, 17]].compute(), values[[3, 3990, 17]])
    np.testing.assert_array_equal(array[11].compute(), values[11])
    np.testing.assert_array_equal(array[20:25].compute(), values[20:25])
    assert sum(taken) == 3 + 1 + 5


@lacking("rows by their numbers (Shuffle._token)")
def test_xarray_selects_with_derived_variables_beside(lazy):
    array, _, values = lazy
    dataset = xr.Dataset({"x": (("sample", "k"), array)})
    dataset["double"] = dataset["x"] * 2
    dataset = dataset.assign_coords(sample=np.arange(N_ROWS) * 10)
    rows = np.random.default_rng(3).integers(0, N_ROWS, 900)
    for key in (slice(5, 13), rows, 7, rows < 30, [0]):
        if isinstance(key, np.ndarray) and key.dtype == bool:
            key = np.flatnonzero(key)
        part = dataset.isel(sample=key)
        assert part["x"].chunks == part["double"].chunks
        assert part.chunks is not None
        np.testing.assert_array_equal(part["x"].values, values[key])
        np.testing.assert_array_equal(part["double"].values, values[key] * 2)
    np.testing.assert_array_equal(dataset["x"].sel(sample=[70, 20]).values, values[[7, 2]])
    pairs = dataset["x"].isel(sample=xr.DataArray([4, 5], dims="p"), k=xr.DataArray([0, 2], dims="p"))
    np.testing.assert_array_equal(pairs.values, values[[4, 5], [0, 2]])
    np.testing.assert_array_equal(array[array[:, 0] > 0.9].compute(), values[values[:, 0] > 0.9])


def _larger(*arrays: xr.DataArray) -> xr.DataArray:
    return xr.apply_ufunc(np.maximum, *arrays, dask="parallelized", output_dtypes=["f8"])


@pytest.mark.parametrize(
    "call",
    [
        lambda dataset, _: dataset.compute(),
        lambda dataset, _: dataset.copy().load(),
        lambda dataset, _: dataset.persist(),
        lambda dataset, _: dataset.unify_chunks(),
        lambda dataset, _: dataset.isel(sample=slice(0, None)),
        lambda dataset, _: dataset.map_blocks(lambda block: block),
        lambda dataset, path: dataset.to_zarr(path, consolidated=False) and xr.open_zarr(path, consolidated=False),
        lambda dataset, _: dataset.assign(y=_larger(dataset["x"], dataset["y"])),
    ],
    ids="compute load persist unify_chunks isel map_blocks to_zarr apply_ufunc".split(),
)
@pytest.mark.parametrize("picked", [slice(None), slice(3, 7), [5, 3, 900]], ids=str)
def test_rows_and_what_is_derived_from_them_stand_in_one_dataset(request, lazy, tmp_path, call, picked):
    is_computed = request.node.callspec.id.endswith(("compute", "load")) and isinstance(picked, slice)
    if not is_computed:
        request.applymarker(lacking("store, unify_chunks, apply_ufunc, arrays as values, and rows by their numbers"))
    array, _, rows = lazy
    dims = ("sample", "axis")
    dataset = xr.Dataset({"x": (dims, array), "y": (dims, array * 2)}).isel(sample=picked)
    found = call(dataset, tmp_path / "saved.zarr")
    np.testing.assert_array_equal(found["x"].values, rows[picked])
    np.testing.assert_array_equal(found["y"].values, rows[picked] * 2)


def test_the_class_of_rows_is_dasks_to_those_who_compare_classes():
    assert len({RowsArray, da.Array}) == len({da.Array, RowsArray}) == 1
    assert RowsArray == da.Array
    assert da.Array == RowsArray
    assert RowsArray != np.ndarray


def test_many_blocks_are_planned_with_few_questions(monkeypatch):
    """Each plan asked the order about each of 100,000 blocks, and some twenty plans are made."""
    asked = []
    runs = RowOrder.runs
    monkeypatch.setattr(RowOrder, "runs", lambda order, lo, hi: asked.append((lo, hi)) or runs(order, lo, hi))
    x = np.arange(2 * 10**6)
    gate = StoreGate("numpy", {"budget": "2MiB"}, data_id="a")
    gate.add_data("x", x)
    array = gate["train"]["x"].data
    assert array.numblocks[0] > 100
    assert len(asked) < 100
    np.testing.assert_array_equal(array[-5:].compute(scheduler="sync"), x[-5:])
