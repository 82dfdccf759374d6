"""Forms of dask arrays: graphs, dask's expressions and those of dask-array are given and taken alike."""

from __future__ import annotations

import copy
import gc
import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from storegate import StoreGate, explain
from storegate_engine import budget
from storegate_engine.errors import ArrayExpressionError
from storegate_engine.exchange import plans
from storegate_engine.graphs import in_full_pass, layers, variable_of
from storegate_engine.graphs.dask_arrays import PickedRows
from tests.array_forms import IS_DASK_ARRAY, IS_EXPRESSION, from_array, lacking, layer_of
from tests.clusters import gone

N_ROWS = 30_000
needs_dask_array = pytest.mark.skipif(importlib.util.find_spec("dask_array") is None, reason="without dask-array")

in_graphs = pytest.mark.skipif(IS_EXPRESSION or IS_DASK_ARRAY, reason="runs the other forms in processes of their own")


@pytest.fixture
def shuffled(tmp_path, monkeypatch):
    """A shuffled variable of some 30 blocks, which a full pass exchanges, and its rows."""
    monkeypatch.setattr(budget, "BLOCK_NBYTES", 2**16)
    monkeypatch.setattr(plans, "MIN_PART_NBYTES", 2**8)
    rows = np.random.default_rng(0).random((N_ROWS, 16)).astype("f4")
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "1500KiB", "chunk": 500}, "test_id") as gate:
        gate.add_data("x", rows)
        gate.shuffle("train", seed=3)
        with dask.config.set(num_workers=2):
            yield gate, rows[np.random.RandomState(3).permutation(N_ROWS)]


@pytest.fixture
def scattered(monkeypatch):
    """What tasks of dask scatter, which only an exchange does."""
    calls = []
    original = layers.run_task

    def counted(exchange, step, number, *given):
        if step.name == "scatter":
            calls.append((exchange.sorts[0], number))
        return original(exchange, step, number, *given)

    monkeypatch.setattr(layers, "run_task", counted)
    return calls


def spilled(gate):
    return sorted(Path(gate.repository().location.path).rglob("scratch/*"))


def test_a_dataset_has_what_xarray_takes_and_a_view_what_dask_has(shuffled):
    gate, expected = shuffled
    data = gate["train"].to_xarray()["x"].data
    assert isinstance(data, PickedRows)
    assert isinstance(data, da.Array) != IS_DASK_ARRAY
    for lazy in (gate["train"]["x"].data, gate.get_data("x", compute=False)):
        assert isinstance(lazy, da.Array)
        assert hasattr(lazy, "expr") == IS_EXPRESSION
        np.testing.assert_array_equal(lazy.compute(), expected)
    assert data.shape == expected.shape
    assert data.dtype == expected.dtype
    assert data.numblocks[0] > 20
    assert gate["train"].to_xarray()["x"].data.name == data.name
    assert gate["train"]["x"].data.name == gate["train"]["x"].data.name


def test_a_full_pass_exchanges_and_a_peek_does_not(shuffled, scattered):
    gate, expected = shuffled
    dataset = gate["train"].to_xarray()
    x = dataset["x"].data
    assert layer_of(x).plan(range(x.numblocks[0])).kind == "exchange"
    rows = np.array([5, N_ROWS - 1, 3])
    for key in (7, slice(3, 5), slice(0, 1), slice(N_ROWS - 2, None), (slice(3, 5), 2), rows, slice(4, 4), []):
        found = x[key]
        np.testing.assert_array_equal(found.compute(), expected[key if isinstance(key, tuple) else np.s_[key]])
    # as long as a few blocks, which are gathered
    step = x.chunks[0][0]
    for key in (slice(step - 5, 2 * step), slice(2 * step, 0, -3), slice(0, step, 7)):
        np.testing.assert_array_equal(x[key].compute(), expected[key])
        np.testing.assert_array_equal(dataset.isel(sample=key)["x"].compute(), expected[key])
    np.testing.assert_array_equal(dataset.head(sample=3)["x"].values, expected[:3])
    assert scattered == []
    np.testing.assert_array_equal(x.compute(), expected)
    assert len(scattered) == layer_of(x).plan(range(x.numblocks[0])).n_maps


@lacking("slices that are pushed into what is computed")
def test_a_peek_of_what_is_computed_does_not_exchange(shuffled, scattered):
    gate, expected = shuffled
    x = gate["train"].to_xarray()["x"].data
    np.testing.assert_array_equal((x * x)[3:5].compute(), (expected * expected)[3:5])
    assert scattered == []


def test_arithmetic_reductions_and_persisted_rows(shuffled):
    gate, expected = shuffled
    dataset = gate["train"].to_xarray()
    x = dataset["x"].data
    np.testing.assert_array_equal((x * x).compute(), expected * expected)
    np.testing.assert_allclose(x.mean(axis=0).compute(), expected.mean(axis=0), rtol=1e-4)
    np.testing.assert_array_equal((x > 0.5).sum(axis=1).compute(), (expected > 0.5).sum(axis=1))
    np.testing.assert_array_equal(dataset["x"].values, expected)
    np.testing.assert_array_equal(dataset["x"].persist().compute(), expected)
    np.testing.assert_array_equal(dataset.persist()["x"].compute(), expected)
    (computed,) = dask.compute(dataset)
    np.testing.assert_array_equal(computed["x"], expected)
    np.testing.assert_array_equal(dataset.chunk(sample=10_000)["x"].compute(), expected)
    np.testing.assert_array_equal(da.stack([gate["train"]["x"].data[:9]] * 2).compute(), [expected[:9]] * 2)


@lacking("mean, where and concat of xarray, and no store")
def test_functions_of_xarray(shuffled, tmp_path):
    gate, expected = shuffled
    dataset = gate["train"].to_xarray()
    np.testing.assert_allclose(dataset.mean("sample")["x"].values, expected.mean(axis=0), rtol=1e-4)
    np.testing.assert_array_equal(
        dataset["x"].where(dataset["x"] > 0.5, 0).values, np.where(expected > 0.5, expected, 0)
    )
    both = xr.concat([dataset, dataset], "sample")
    np.testing.assert_array_equal(
        both["x"][N_ROWS - 2 : N_ROWS + 3].values, np.concatenate([expected[-2:], expected[:3]])
    )
    dataset.to_zarr(tmp_path / "written", zarr_format=2)
    np.testing.assert_array_equal(xr.open_zarr(tmp_path / "written")["x"].values, expected)


def test_copies_and_pickles_have_the_same_rows(shuffled):
    gate, expected = shuffled
    dataset = gate["train"].to_xarray()
    x = dataset["x"].data
    for copied in (pickle.loads(pickle.dumps(x)), copy.copy(x), copy.deepcopy(x), dataset.copy(deep=True)["x"].data):
        assert copied.name == x.name
        np.testing.assert_array_equal(copied.compute(), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(x[5:9] * 2)).compute(), expected[5:9] * 2)


def test_settings_are_those_of_the_time_at_which_an_array_was_made(shuffled, tmp_path):
    gate, expected = shuffled
    lazy = {}
    for name in "ab":
        with dask.config.set({"storegate.scratch-directory": str(tmp_path / name)}):
            x = gate["train"].to_xarray()["x"].data
            lazy[name] = x * x
            del x
    for name, other in ("ab", "ba"):
        result = lazy.pop(name)
        kept = {at: sorted((tmp_path / at).rglob("map-*")) for at in "ab"}
        np.testing.assert_array_equal(result.compute(), expected * expected)
        assert sorted((tmp_path / other).rglob("map-*")) == kept[other]
        assert sorted((tmp_path / name).rglob("map-*")) != kept[name]
        del result
        gc.collect()


def test_no_spill_is_left(shuffled):
    gate, expected = shuffled
    before = spilled(gate)
    for _ in range(3):
        lazy = gate["train"].to_xarray()
        np.testing.assert_array_equal(lazy["x"].compute(), expected)
        squares = (lazy["x"].data * lazy["x"].data)[:40]
        np.testing.assert_array_equal(squares.compute(), expected[:40] ** 2)
        del lazy, squares
        gc.collect()
        assert spilled(gate) == before


def test_own_variables_are_known_again(shuffled, scattered, tmp_path):
    gate, expected = shuffled
    dataset = gate["train"].to_xarray()
    x = dataset["x"].data
    for data in (x, dataset["x"], x[10:20], gate["train"]["x"].data):
        assert variable_of(data).name == "x"
    assert variable_of(x * x) is None
    assert variable_of(in_full_pass(x * x)) is None
    full, peek = explain(dataset).splitlines()
    assert "exchange" in full
    assert "gather" in peek
    with StoreGate("zarr", {"output_dir": tmp_path / "other", "budget": "3MiB", "chunk": 500}, "test_id") as other:
        other.add_data("x", dataset["x"])
        assert scattered == []  # as compact does it
        other.add_data("squares", x * x)
        n_maps = layer_of(x).plan(range(x.numblocks[0])).n_maps
        # one exchange, whatever the number of blocks: who asks again finds it done
        assert len({(str(of.directory), of.prefix, number) for of, number in scattered}) == n_maps
        other.update_data("x", x[10:20], index=(0, 10))
        np.testing.assert_array_equal(other.get_data("x"), np.concatenate([expected[10:20], expected[10:]]))
        np.testing.assert_array_equal(other.get_data("squares"), expected * expected)


def forms():
    """Return makers of lazy arrays, in all forms that there are here."""
    made = {"dask": lambda rows: da.from_array(rows, chunks=(300, *rows.shape[1:]))}
    if importlib.util.find_spec("dask_array") is not None:

        def of_dask_array(rows):
            import dask_array

            return dask_array.from_array(rows, chunks=(300, *rows.shape[1:]))

        made["dask_array"] = of_dask_array
    return made


computed: list[int] = []


def counted(block):
    """Return twice a block; of the module, as expressions with equal functions are one object."""
    if block.size:
        computed.append(len(block))
    return block * 2


@pytest.mark.parametrize("form", forms())
def test_lazy_arrays_of_any_form_are_taken_block_by_block(gate, form):
    if form == "dask" and IS_DASK_ARRAY:
        pytest.skip("xarray takes arrays of dask-array alone then")
    rows = np.arange(3000.0).reshape(1000, 3)
    lazy = forms()[form](rows).map_blocks(counted, dtype=rows.dtype)
    computed.clear()
    gate.add_data("x", lazy)
    assert sorted(computed) == [100, 300, 300, 300]
    np.testing.assert_array_equal(gate.get_data("x"), rows * 2)
    gate.add_data(["a", "b"], [lazy, lazy[:, 0]], phase="test", shuffle=2)
    order = np.random.RandomState(2).permutation(1000)
    np.testing.assert_array_equal(gate.get_data("a", "test"), rows[order] * 2)
    np.testing.assert_array_equal(gate.get_data("b", "test"), rows[order, 0] * 2)
    gate.update_data("x", lazy[5:600], index=(100, 695))
    np.testing.assert_array_equal(gate.get_data("x", index=(100, 695)), rows[5:600] * 2)
    gate["train"]["x"][0:5] = lazy[10:15]
    np.testing.assert_array_equal(gate.get_data("x", index=(0, 5)), rows[10:15] * 2)
    gate.add_data(("p", "q"), lazy[:, 1:], phase="valid")
    np.testing.assert_array_equal(gate.get_data("q", "valid"), rows[:, 2] * 2)


@pytest.mark.parametrize("form", ["xarray", "variable"])
def test_lazy_arrays_within_xarray_are_taken(gate, form):
    rows = np.arange(3000.0).reshape(1000, 3)
    array = xr.DataArray(from_array(rows, (300, 3)), dims=("sample", "k"))
    gate.add_data("x", array * 2 if form == "xarray" else (array * 2).variable)
    np.testing.assert_array_equal(gate.get_data("x"), rows * 2)


@pytest.mark.parametrize("form", forms())
def test_lazy_masks_and_row_numbers(gate, form):
    rows = np.arange(30.0)
    gate.add_data("x", rows)
    make = forms()[form]
    for index in (rows > 7, np.array([3, 29, 3])):
        np.testing.assert_array_equal(gate["train"]["x"][make(index)], rows[index])
        np.testing.assert_array_equal(gate["train"].subset(make(index))["x"][:], rows[index])


@pytest.mark.parametrize("form", forms())
def test_lazy_results_of_callbacks(tmp_path, form):
    rows = np.arange(3000.0).reshape(1000, 3)

    def double(var_names, data):
        return "twice", forms()[form](np.asarray(data)) * 2

    with StoreGate("hybrid", {"output_dir": tmp_path / "store"}, "test_id") as gate:
        gate.add_data("x", rows)
        gate.to_memory("x", callback=double)
        gate.set_mode("numpy")
        np.testing.assert_array_equal(gate.get_data("twice"), rows * 2)


def test_what_dasks_expressions_lack_is_said(shuffled):
    gate, expected = shuffled
    x = gate["train"]["x"].data
    if not IS_EXPRESSION:
        np.testing.assert_array_equal(x[:9, [0, 2]].compute(), expected[:9, [0, 2]])
        return
    with pytest.raises(ArrayExpressionError, match="query-planning"):
        x[:, [0, 2]]


@pytest.mark.slow
def test_a_cluster_has_the_same_rows_and_no_spill_is_left(cluster, shuffled):
    gate, expected = shuffled
    for _ in range(2):
        dataset = gate["train"].to_xarray()
        future = cluster.compute(dataset["x"].data)
        np.testing.assert_array_equal(future.result(), expected)
        np.testing.assert_array_equal(dataset["x"].isel(sample=slice(5, 30)).compute(), expected[5:30])
        np.testing.assert_array_equal((dataset["x"].data > 0.5).compute(), expected > 0.5)
        del dataset, future
        gc.collect()
        cluster.run_on_scheduler(gc.collect)  # one of this process shares its objects
        assert gone(Path(gate.repository().location.path) / "scratch")


@pytest.mark.slow
def test_rows_of_workers_are_exchanged_between_them_and_no_spill_is_left(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "BLOCK_NBYTES", 2**16)
    monkeypatch.setattr(plans, "MIN_PART_NBYTES", 2**8)
    rows = np.random.default_rng(0).random((20_000, 16)).astype("f4")
    expected = rows[np.random.RandomState(3).permutation(len(rows))]
    scratch = tmp_path / "scratch"
    settings = {"storegate.scratch-directory": str(scratch), "storegate.shuffle": "exchange"}
    with dask.config.set(settings), StoreGate("hybrid", {"output_dir": tmp_path / "store"}, "test_id") as gate:
        gate.add_data("x", rows)
        gate.to_memory("x", phase="train")
        gate.set_mode("numpy")
        gate.shuffle("train", seed=3)
        for _ in range(2):
            data = gate["train"].to_xarray()["x"].data
            np.testing.assert_array_equal(data.compute(), expected)
            np.testing.assert_array_equal((data * 2)[5:30].compute(), expected[5:30] * 2)
            assert layer_of(data).plan(range(data.numblocks[0])).kind == "exchange"
            del data
            gc.collect()
            cluster.run_on_scheduler(gc.collect)  # one of this process shares its objects
            assert gone(scratch)


def in_form(code, **environment):
    """Run code in a process with another form of arrays, and return what it prints."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join(map(str, (root, root / "engine")))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


ROUND_TRIP = """
import numpy as np
from storegate import StoreGate
from storegate_engine.graphs import variable_of
gate = StoreGate(data_id="a")
gate.add_data("x", np.arange(20))
gate.shuffle("train", seed=1)
lazy = gate["train"].to_xarray()["x"]
assert variable_of(lazy.data).name == "x"
gate.add_data(["y", "z"], [lazy, lazy.data * 2], phase="valid")
order = np.random.RandomState(1).permutation(20)
assert (gate.get_data("y", "valid") == order).all() and (gate.get_data("z", "valid") == 2 * order).all()
assert (lazy[3:5].values == order[3:5]).all() and (lazy.values == order).all()
print(type(lazy.data.expr).__name__)
"""


@pytest.mark.slow
@in_graphs
def test_expressions_of_dask_are_given_and_taken():
    assert in_form(ROUND_TRIP, DASK_ARRAY__QUERY_PLANNING="true") == "DaskRows\n"


REGISTERED = """
import dask_array.xarray
dask_array.xarray.register()
"""
REGISTERED_LATER = f"""
import numpy as np
from storegate import StoreGate
gate = StoreGate(data_id="a")
gate.add_data("x", np.arange(20))
dataset = gate["train"].to_xarray()
{REGISTERED}
assert type(dataset["x"].chunk(sample=5).data).__module__ == "dask_array._collection"
assert int(dataset["x"].sum()) == dataset["x"].values.sum() == 190
"""


@in_graphs
@needs_dask_array
@pytest.mark.slow
@pytest.mark.parametrize(("planning", "registered"), [("false", REGISTERED_LATER), ("true", REGISTERED)])
def test_expressions_of_dask_array_are_given_and_taken(planning, registered):
    """Also where an array of graphs was made before they were registered."""
    assert in_form(registered + ROUND_TRIP, DASK_ARRAY__QUERY_PLANNING=planning) == "DaskArrayRows\n"
