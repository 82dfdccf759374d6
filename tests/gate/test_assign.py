"""New variables computed from a phase's Dataset, block by block; numpy has the values to compare with."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from storegate import StoreGate, errors

N = 1000
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 5)).astype("f4"), RNG.integers(0, 9, N)


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store", "chunk": 64}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data({"x": X, "y": Y}, phase=(0.5, 0.3, 0.2), shuffle=2)
        gate.compile()
        yield gate


def test_every_phase_gets_them_in_its_order(gate):
    gate.shuffle(seed=1)
    gate.onehot("y", 9, phase="valid")
    gate.assign(
        {"text": lambda ds: (ds.x.sum("x_1") > 0).astype("U5")},
        s=lambda ds: ds.x.sum("x_1"),
        w=lambda ds: (ds.x * 2).data,
        u=lambda ds: (ds.x.dims, (ds.x + 1).data)[1].rechunk((7, -1)),
    )
    for phase in ("train", "valid", "test"):
        rows = gate[phase]
        x = rows["x"][:]
        np.testing.assert_array_equal(rows["w"][:], x * 2)
        np.testing.assert_array_equal(rows["u"][:], x + 1)
        np.testing.assert_allclose(rows["s"][:], x.sum(1), rtol=1e-6)
        np.testing.assert_array_equal(rows["text"][:], (rows["s"][:] > 0).astype("U5"))
    assert gate.table.compiled
    assert gate.history()[-1].operation == "assign" if gate.backend == "zarr" else True


def test_labels_come_along(gate):
    gate.assign(z=lambda ds: ds.x.isel(x_1=slice(2)).rename(x_1="two").assign_attrs(units="m"))
    found = gate.to_xarray().z
    assert (found.dims, found.attrs) == (("sample", "two"), {"units": "m"})


def test_one_phase_and_new_values_of_an_old_variable(gate):
    before = gate["test"]["y"][:]
    gate.assign(phase="test", y=lambda ds: ds.y + 1)
    np.testing.assert_array_equal(gate["test"]["y"][:], before + 1)
    assert (np.sort(np.concatenate([gate["train"]["y"][:], gate["valid"]["y"][:], before])) == np.sort(Y)).all()


def test_rows_may_be_given_instead_of_a_function(gate):
    gate.assign(phase="test", z=np.arange(200), lazy=gate.to_xarray("test").x.sum("x_1"))
    np.testing.assert_array_equal(gate["test"]["z"][:], np.arange(200))


@pytest.mark.parametrize(
    ("computed", "error", "message"),
    [
        ({"z": lambda ds: ds.x.sum()}, errors.ShapeError, r"'z' has dimensions \{\}, and rows need 'sample' with 500"),
        ({"z": lambda ds: ds.x.T}, errors.ShapeError, "as the first; transpose it"),
        ({"z": lambda ds: ds.x[:3]}, errors.ShapeError, "'sample': 3"),
        ({"z": lambda ds: 3}, errors.ArgumentTypeError, "an array with rows for all samples, or a function .* found 3"),
        ({"z": lambda ds: ds.nope}, AttributeError, "nope"),
        ({"a/b": lambda ds: ds.x}, errors.InvalidNameError, "a/b"),
        ({}, errors.ArgumentError, r"gate\.assign\(z=lambda ds: ds\.x \+ ds\.y\)"),
        ({"z": lambda ds: ds.y, "w": lambda ds: 1 // 0}, ZeroDivisionError, "by zero"),
    ],
)
def test_what_is_wrong_changes_nothing(gate, computed, error, message):
    version = gate.repository().version
    with pytest.raises(error, match=message):
        gate.assign(computed)
    assert gate.repository().version == version
    assert gate.variables == ("x", "y")


def test_a_phase_without_rows_is_refused():
    with StoreGate(data_id="a") as gate, pytest.raises(errors.VariableNotFoundError, match="'all' has no variables"):
        gate.assign(z=lambda ds: ds.x)


def test_rows_that_another_writer_shuffles_meanwhile_are_a_conflict(tmp_path):
    args = {"output_dir": tmp_path / "store"}
    with StoreGate("zarr", args, data_id="a") as gate, StoreGate("zarr", args, data_id="a") as other:
        gate.add_data({"x": X, "y": Y})

        def shuffled_meanwhile(ds):
            other.shuffle(seed=5)
            return ds.y

        with pytest.raises(errors.ConflictError, match="assign: variable 'x' in phase 'train' was changed by shuffle"):
            gate.assign(z=shuffled_meanwhile)
        assert "z" not in gate["train"]


def test_a_reduction_is_computed_once_or_refused(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "64 MiB"}, data_id="a") as gate:
        gate.add_data("x", RNG.normal(size=(40_000, 100)))
        n_blocks = len(gate.to_xarray().x.chunks[0])
        gate.assign(z=lambda ds: ds.x - ds.x.mean().compute())
        assert abs(gate["train"]["z"][:].mean()) < 1e-12
        with pytest.raises(errors.ArgumentError, match="'w' reduces over samples.* compute the reduction"):
            gate.assign(w=lambda ds: ds.x - ds.x.mean())
        assert n_blocks > 8


def test_few_blocks_may_reduce(gate):
    gate.assign(c=lambda ds: ds.y - ds.y.mean())
    np.testing.assert_allclose(gate["train"]["c"][:], gate["train"]["y"][:] - gate["train"]["y"][:].mean())


def test_dask_arrays_of_views_are_datasets_too(gate):
    gate.assign(z=lambda ds: xr.where(ds.y > 4, 1, 0))
    np.testing.assert_array_equal(gate["train"]["z"][:], gate["train"]["y"][:] > 4)


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def labelled(request, tmp_path):
    """Return a gate of a shuffled Dataset with coordinates."""
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    rows = {
        "x": (("time", "lat"), X[:30, :3]),
        "text": ("time", np.array([f"é{n}" * (n % 3) for n in range(30)], object)),
    }
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data(xr.Dataset(rows, {"time": np.arange(30) * 2, "lat": [1.0, 2.0, 3.0]}))
        gate.shuffle("train", seed=1)
        yield gate


@pytest.mark.parametrize(
    ("computed", "dim"),
    [
        (lambda ds: ds.x[::-1], "time"),
        (lambda ds: ds.x.sortby("time"), "time"),
        (lambda ds: ds.x.assign_coords(time=ds.time + 1), "time"),
        (lambda ds: ds.x.sortby("time").compute(), "time"),
        (lambda ds: ds.x.isel(lat=[2, 1, 0]), "lat"),
        (lambda ds: ds.x.assign_coords(lat=[7, 8, 9]), "lat"),
    ],
)
def test_values_in_another_order_than_the_coordinates_are_refused(labelled, computed, dim):
    with pytest.raises(errors.ArgumentError, match=f"another coordinate '{dim}' .* as in .sel"):
        labelled.assign(z=computed)
    assert labelled.variables == ("x", "text", "time")


def test_values_are_stored_beside_their_coordinates(labelled):
    labelled.assign(
        same=lambda ds: ds.x.sortby("time").sel(time=ds.time) * 2,
        reversed=lambda ds: ds.x[::-1].drop_vars("time"),
        mean=lambda ds: ds.x.mean("lat"),
        upper=lambda ds: ds.text.str.upper(),
        text2=lambda ds: ds.text,
    )
    found = labelled.to_xarray().compute()
    np.testing.assert_array_equal(found.same, found.x * 2)
    np.testing.assert_array_equal(found.reversed, found.x[::-1])
    np.testing.assert_array_equal(found.upper.values.astype("U9"), np.char.upper(found.text.values.astype("U9")))
    np.testing.assert_array_equal(found.text2.values, found.text.values)
    np.testing.assert_array_equal(found.sortby("time").x, X[:30, :3])


def test_a_coordinate_without_an_index_is_compared_too(labelled, monkeypatch):
    monkeypatch.setattr("storegate_engine.graphs.datasets.INDEX_NBYTES", 0)
    labelled.assign(same=lambda ds: ds.x * 2)
    np.testing.assert_array_equal(labelled["train"]["same"][:], labelled["train"]["x"][:] * 2)
    with pytest.raises(errors.ArgumentError, match="another coordinate 'time'"):
        labelled.assign(z=lambda ds: ds.x[::-1])
