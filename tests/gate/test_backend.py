"""xarray opens stores itself; what it opens can be chunked, selected, trained on, and stored again."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from storegate import StoreGate, errors
from tests.examples import in_turns
from tests.gate.test_datasets import N, weather
from tests.processes import environment

ORDER = np.random.RandomState(3).permutation(N)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "events.zarr"
    with StoreGate("zarr", {"output_dir": path}, data_id="run1") as gate:
        gate.add_data(weather(), shuffle=3)
        gate.add_data(weather(5, "2021-01-01"), phase="valid")
    return path


@pytest.fixture
def path(tmp_path, written):
    """The path of a store that a test may change."""
    return shutil.copytree(written, tmp_path / "events.zarr")


@pytest.fixture(scope="module")
def expected(written):
    return StoreGate.open(written).to_xarray().compute()


CHUNKS = [None, {}, "auto", -1, 4, {"time": 5, "lat": 1}]


class TestOpening:
    @pytest.mark.parametrize(
        ("options", "chunks"),
        in_turns([{}, {"engine": "storegate"}, {"group": "run1/train"}, {"group": "train"}], CHUNKS),
        ids=str,
    )
    @pytest.mark.filterwarnings("ignore:The specified chunks separate the stored chunks")
    def test_a_phase_is_opened_lazily(self, path, expected, options, chunks):
        if chunks == "auto":  # of which xarray makes none for text
            options, expected = {**options, "drop_variables": "station"}, expected.drop_vars("station")
        found = xr.open_dataset(path, chunks=chunks, **options)
        assert (found.t2m.chunks is None) == (chunks is None)
        if chunks == 4:
            assert found.t2m.chunks == ((4, 4, 4), (3,), (4,))
        xr.testing.assert_identical(found.compute(), expected)
        assert found.encoding["data_id"] == "run1"

    @pytest.mark.parametrize(
        ("chunks", "index"),
        in_turns(
            [None, {}],
            [
                {"time": 3},
                {"time": -1},
                {"time": slice(2, 9)},
                {"time": slice(None, None, -2)},
                {"time": [5, 1, 1]},
                {"time": [], "lat": 0},
                {"time": slice(4, 2)},
                {"time": [3, 1], "lat": slice(None, None, 2), "lon": [3, 0]},
                {"time": 2, "lon": -1},
                {"time": xr.DataArray([1, 2], dims="p"), "lat": xr.DataArray([0, 2], dims="p")},
                {"time": np.arange(N) % 2 == 0},
            ],
        ),
    )
    def test_selections_read_their_rows(self, path, expected, chunks, index):
        found = xr.open_dataset(path, chunks=chunks).isel(index)
        xr.testing.assert_identical(found.compute(), expected.isel(index))

    @pytest.mark.parametrize(
        ("chunks", "dtype", "index"),
        in_turns(
            [None, {}],
            [np.dtypes.StringDType(), "U9", "S9", "M8[s]", "bool"],
            [
                {"time": 3},
                {"time": -1, "k": 0},
                {"k": 1},
                {"time": [4, 0], "k": 1},
                {"time": 2, "k": slice(None, None, -1)},
            ],
            every=3,
        ),
        ids=str,
    )
    def test_single_values_are_selected_too(self, tmp_path, chunks, dtype, index):
        values = np.arange(10).reshape(5, 2)
        values = values.astype("U9").astype(dtype) if np.dtype(dtype).kind in "SUT" else values.astype(dtype)
        data = xr.Dataset({"text": ("time", values[:, 0]), "grid": (("time", "k"), values)})
        data.storegate.to_store(tmp_path / "texts.zarr", "run1")
        found = xr.open_dataset(tmp_path / "texts.zarr", chunks=chunks)
        for name in data if "time" in index else ["grid"]:
            chosen = {dim: part for dim, part in index.items() if dim in data[name].dims}
            np.testing.assert_array_equal(found[name].isel(chosen).values, data[name].isel(chosen).values)

    def test_selections_of_selections(self, path, expected):
        found = xr.open_dataset(path).isel(time=slice(1, 11)).isel(time=[7, 2], lat=[1]).transpose("lon", ...)
        wanted = expected.isel(time=slice(1, 11)).isel(time=[7, 2], lat=[1]).transpose("lon", ...)
        xr.testing.assert_identical(found.compute(), wanted)

    def test_only_chosen_rows_are_read(self, path, monkeypatch):
        from storegate_engine.table import Variable

        read = []
        whole = Variable.read
        monkeypatch.setattr(
            Variable, "read", lambda self, lo, hi, **o: read.append(hi - lo) or whole(self, lo, hi, **o)
        )
        found = xr.open_dataset(path)
        assert read == [1] * 5  # what has no samples
        read.clear()
        found.t2m.isel(time=[1, 4]).load()
        assert read == [2, 2]  # with the coordinate that has no index

    def test_trees(self, path):
        tree = xr.open_datatree(path)
        assert tree.groups == ("/", "/train", "/valid")
        gate = StoreGate.open(path)
        xr.testing.assert_identical(tree["valid"].to_dataset().compute(), gate.to_xarray("valid").compute())
        weather().storegate.to_store(path, "run2")
        assert xr.open_datatree(path).groups == ("/", "/run1", "/run2", "/run1/train", "/run1/valid", "/run2/train")
        assert xr.open_datatree(path, group="run2").groups == ("/", "/train")

    def test_versions_and_variables(self, path):
        with StoreGate.open(path, mode="a") as gate:
            gate.delete_data("u10")
        assert "u10" not in xr.open_dataset(path)
        assert "u10" in xr.open_dataset(path, version=1)
        assert "t2m" not in xr.open_dataset(path, drop_variables="t2m")

    def test_errors_name_the_groups_there_are(self, path):
        with pytest.raises(errors.PhaseNotFoundError, match="no rows in phase 'test'; others: group='run1/train'"):
            xr.open_dataset(path, group="run1/test")
        with pytest.raises(errors.DataIdNotFoundError, match="no data_id 'run3'"):
            xr.open_dataset(path, group="run3")
        with pytest.raises(errors.ArgumentError, match="a group is 'data_id/phase'"):
            xr.open_dataset(path, group="a/b/c")
        weather().storegate.to_store(path, "run2")
        with pytest.raises(errors.DataIdError, match="2 data_ids; open one: group='run1/train', group='run2/train'"):
            xr.open_dataset(path)

    def test_others_are_left_to_others(self, path, tmp_path):
        engine = xr.backends.list_engines()["storegate"]
        data = xr.Dataset({"x": ("t", [1.0, 2.0])})
        data.to_zarr(tmp_path / "plain.zarr", consolidated=False)
        data.to_netcdf(tmp_path / "plain.nc")
        (tmp_path / "empty").mkdir()
        for other in ["plain.zarr", "plain.nc", "empty", "missing"]:
            assert not engine.guess_can_open(tmp_path / other)
            assert not engine.guess_can_open(str(tmp_path / other))
        for other in ["s3://bucket/events.zarr", b"CDF", 3, None, (tmp_path / "plain.nc").open("rb")]:
            assert not engine.guess_can_open(other)
            getattr(other, "close", lambda: None)()
        assert engine.guess_can_open(path)
        assert engine.guess_can_open(str(path))
        xr.testing.assert_identical(xr.open_dataset(tmp_path / "plain.nc"), data)

    def test_a_fresh_process_finds_it_without_an_import(self, path):
        script = f"import xarray as xr; print(xr.open_dataset({str(path)!r}).t2m.shape)"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        assert (done.stdout, done.stderr) == ("(12, 3, 4)\n", "")


class TestAccessor:
    @pytest.mark.parametrize("chunks", [None, {}], ids=str)
    def test_batches_of_what_xarray_opened(self, path, expected, chunks):
        opened = xr.open_dataset(path, chunks=chunks)
        stream = opened.storegate.batches(5, var_names=["t2m", "rain"], seed=1)
        direct = StoreGate.open(path)["train"].batches(5, var_names=["t2m", "rain"], seed=1)
        for (t2m, rain), (t, r) in zip(stream, direct, strict=True):
            np.testing.assert_array_equal(t2m, t)
            np.testing.assert_array_equal(rain, r)
        (batch,) = opened.storegate.batches(N, shuffle=False)
        assert batch.keys() == expected.data_vars.keys()
        np.testing.assert_array_equal(batch["u10"], expected.u10)

    def test_batches_of_rows_in_memory(self):
        data = weather()
        found = np.concatenate(list(data.storegate.batches(5, var_names="t2m", shuffle=False)))
        np.testing.assert_array_equal(found, data.t2m)

    @pytest.mark.parametrize("opening", [xr.open_dataset, xr.load_dataset, lambda at: xr.open_dataset(at, chunks={})])
    def test_what_has_no_samples_is_in_no_batch(self, tmp_path, opening):
        data = xr.Dataset({"x": (("t", "u"), np.arange(12.0).reshape(4, 3)), "mask": ("u", [1, 0, 1]), "crs": 7})
        data.storegate.to_store(tmp_path / "store", "run1", sample_dim="t")
        opened = opening(tmp_path / "store")
        if opening is xr.load_dataset:  # nothing says any more which axis is that of the samples
            with pytest.raises(errors.ShapeError, match=r"do not all begin .*; name those that do, as in var_names="):
                opened.storegate.batches(4)
            opened = opened[["x", "crs"]]
        (batch,) = opened.storegate.batches(4, shuffle=False)
        assert batch.keys() == {"x"}
        np.testing.assert_array_equal(batch["x"], data.x)

    @pytest.mark.parametrize("names", [None, ["a", "b"], ("a", "b")])
    def test_axes_of_one_size_are_not_mixed(self, names):
        data = xr.Dataset({"a": (("t", "u"), np.eye(3)), "b": (("u", "t"), np.eye(3))})
        with pytest.raises(errors.ShapeError, match=r"\(a: \('t', 'u'\), b: \('u', 't'\)\); name those that do"):
            data.storegate.batches(3, var_names=names)

    def test_what_is_computed_or_a_part_is_stored_first(self, path):
        opened = xr.open_dataset(path, chunks={})
        for bad in [opened * 2, opened.isel(time=slice(3)).chunk(time=2), xr.open_dataset(path).isel(time=slice(3))]:
            with pytest.raises(errors.ArgumentError, match="'t2m' of the Dataset is computed or read lazily.*to_store"):
                bad.storegate.batches(5, var_names="t2m")
        with pytest.raises(errors.VariableNotFoundError, match="no variable 't2n'; did you mean 't2m'"):
            opened.storegate.batches(5, var_names="t2n")
        with pytest.raises(errors.ShapeError, match="'height' of the Dataset has no dimension"):
            opened.storegate.batches(5, var_names="height")

    def test_explain_names_every_lazy_variable(self, path):
        for chunks in (None, {}):
            lines = xr.open_dataset(path, chunks=chunks).storegate.explain().splitlines()
            assert [line.split()[0] for line in lines[::2]] == ["t2m", "u10", "rain", "day"]

    @pytest.mark.parametrize("chunks", [None, {}, {"time": 5}], ids=str)
    @pytest.mark.filterwarnings("ignore:The specified chunks separate the stored chunks")
    def test_to_store(self, path, expected, tmp_path, chunks):
        opened = xr.open_dataset(path, chunks=chunks)
        opened.storegate.to_store(tmp_path / "copy", "a")
        xr.testing.assert_identical(StoreGate.open(tmp_path / "copy").to_xarray().compute(), expected)
        with StoreGate(data_id="mine") as gate:
            opened.storegate.to_store(gate, "other", "valid", shuffle=1)
            assert gate.data_id == "mine"
            gate.set_data_id("other")
            order = np.random.RandomState(1).permutation(N)
            xr.testing.assert_identical(gate.to_xarray("valid").compute(), expected.isel(time=order))

    def test_to_store_says_what_it_lacks(self, tmp_path):
        with pytest.raises(errors.DataIdError, match="needs a name for what you put there: data_id="):
            weather().storegate.to_store(tmp_path / "new")
        with pytest.raises(errors.ArgumentTypeError, match="takes a gate, or the path of a store, found 3"):
            weather().storegate.to_store(3)
        assert not (tmp_path / "new").exists()
