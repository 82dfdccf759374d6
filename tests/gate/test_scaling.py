"""Scaled variables: fitted to train, the same in every phase, lazy, stored, and invertible."""

from __future__ import annotations

import numpy as np
import pytest

from storegate import StoreGate, errors
from tests.examples import in_turns

RNG = np.random.default_rng(0)
ROWS = {
    "x": RNG.normal(50, 7, (300, 4)).astype("f4"),
    "image": RNG.integers(0, 256, (300, 3, 5, 4)).astype("u1"),
    "n": RNG.integers(-20, 20, 300),
    "f": np.where(RNG.random(300) < 0.2, np.nan, RNG.normal(size=300)),
}
PHASES = {"train": slice(0, 200), "valid": slice(200, 240), "test": slice(240, 300)}


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store", "chunk": 16}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data(ROWS, phase=(200, 40, 60))
        gate.compile()
        yield gate


@pytest.mark.parametrize(
    ("gate", "variable", "kind", "is_shuffled"),
    in_turns(
        ["numpy", "zarr"],
        [("x", 0), ("x", None), ("image", (0, 2, 3)), ("image", 0), ("n", 0), ("f", 0)],
        ["standardize", "normalize"],
        [False, True],
        every=3,
    ),
    indirect=["gate"],
)
def test_every_phase_is_scaled_by_train(gate, variable, kind, is_shuffled):
    name, axis = variable
    if is_shuffled:
        gate.shuffle("all", seed=1)
    getattr(gate, kind)(name, axis=axis)
    train = ROWS[name][PHASES["train"]].astype("f8")
    axes = tuple(range(train.ndim)) if axis is None else axis
    if kind == "standardize":
        offset, scale = np.nanmean(train, axes, keepdims=True), np.nanstd(train, axes, keepdims=True)
    else:
        offset = np.nanmin(train, axes, keepdims=True)
        scale = np.nanmax(train, axes, keepdims=True) - offset
    for phase, rows in PHASES.items():
        raw = ROWS[name][rows]
        if is_shuffled:
            raw = raw[np.random.RandomState(1).permutation(len(raw))]
        found = gate[phase][name][:]
        assert found.dtype == (np.float32 if name == "x" else np.float64)
        np.testing.assert_allclose(found, (raw - offset) / scale, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(gate[phase][name].inverse(found), raw, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(gate[phase][name].scaled(raw), found, rtol=1e-6, equal_nan=True)
        np.testing.assert_array_equal(gate.to_xarray(phase)[name], found)
        np.testing.assert_array_equal(np.concatenate(list(gate[phase][name].batches(7, shuffle=False))), found)


def test_what_was_scaled_is_there_again(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.add_data(ROWS, phase=(200, 40, 60))
        gate.standardize(["x", "n"])
        gate.clip("x", -2, 2)
        gate.quantile_bins("f", 4)
        before = {phase: {name: gate[phase][name][:] for name in ROWS} for phase in PHASES}
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        for phase, rows in before.items():
            for name, expected in rows.items():
                np.testing.assert_array_equal(gate[phase][name][:], expected)
        gate.compact()
        for phase, rows in before.items():
            for name, expected in rows.items():
                np.testing.assert_array_equal(gate[phase][name][:], expected)
        assert np.abs(before["train"]["x"]).max() <= 2
        for _ in range(4):
            gate.undo()
        np.testing.assert_array_equal(gate["test"]["x"][:], ROWS["x"][PHASES["test"]])


def test_clipped_and_bins(gate):
    gate.clip("n", low=0)
    np.testing.assert_array_equal(gate["valid"]["n"][:], np.maximum(ROWS["n"][PHASES["valid"]], 0))
    gate.quantile_bins("x", 5)
    train = ROWS["x"][PHASES["train"]]
    edges = np.quantile(train.astype("f8"), [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_array_equal(gate["train"]["x"][:], np.digitize(train, edges))
    assert np.bincount(gate["train"]["x"][:].ravel()).tolist() == [160] * 5
    gate.quantile_bins("f", 3)
    assert (gate["train"]["f"][:][np.isnan(ROWS["f"][PHASES["train"]])] == -1).all()
    gate.onehot("x", 5, phase="all")
    np.testing.assert_array_equal(gate["train"]["x"][:].argmax(-1), np.digitize(train, edges))


def test_constant_values_become_zero(gate):
    gate.add_data("c", np.full((200, 2), 0.1))
    gate.standardize("c", phase="train")
    assert np.abs(gate["train"]["c"][:]).max() < 1e-15
    np.testing.assert_allclose(gate["train"]["c"].inverse(gate["train"]["c"][:]), np.full((200, 2), 0.1), rtol=1e-15)


def test_a_scale_is_written_out(gate):
    gate.standardize("n")
    gate.clip("x", high=60)
    shown = repr(gate)
    assert "standardized int64" in shown
    assert "clipped to ..60" in shown


def test_rows_added_beside_scaled_ones_are_warned_of(gate):
    gate.standardize("n")
    with pytest.warns(UserWarning, match=r"with gate\['train'\]\['n'\].scaled\(rows\)"):
        gate.add_data("n", gate["valid"]["n"].scaled([3, 4]), phase="valid")
    n = ROWS["n"][PHASES["train"]]
    np.testing.assert_allclose(gate["valid"]["n"][-2:], (np.array([3, 4]) - n.mean()) / n.std())


def test_rows_of_a_new_phase_are_warned_of_and_the_inverse_stays():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(10.0))
    gate.standardize("x")
    with pytest.warns(UserWarning, match="of phase test as they are, and those of phase train were scaled"):
        gate.add_data("x", gate["train"]["x"].scaled([4.5]), phase="test")
    with pytest.warns(UserWarning, match="scaled"):
        gate.add_data("x", gate["train"]["x"].scaled([20.0]))
    np.testing.assert_allclose(gate["train"]["x"].inverse(gate["train"]["x"][:]), [*range(10), 20.0])
    np.testing.assert_allclose(gate["test"]["x"][:], [0.0])


def test_bins_of_frequent_values_have_some_of_each():
    gate = StoreGate(data_id="a")
    gate.add_data({"x": [0.0] * 6 + [1.0] + [2.0] * 3, "c": np.ones(10)})
    gate.quantile_bins("x", 4)
    assert gate["train"]["x"][:].tolist() == [0] * 7 + [1] * 3
    with pytest.raises(errors.ArgumentError, match="too few values for two bins: most are 1.0"):
        gate.quantile_bins("c")


def test_describe_of_scaled_values(gate):
    gate.standardize("x")
    line = gate["train"]["x"].describe().loc["x"]
    assert abs(line["mean"]) < 1
    assert 0.9 < line["std"] < 1.1
    found = gate["train"]["x"][:]
    assert (line["min"], line["max"]) == (found.min(), found.max())


REFUSED = [
    (lambda gate: gate.standardize("text"), TypeError, "numbers"),
    (lambda gate: gate.standardize("x", fit="all"), ValueError, "fit takes one phase"),
    (lambda gate: gate.standardize("x", axis=1), ValueError, "axis=1 has not the samples"),
    (lambda gate: gate.standardize("x", axis=(0, 5)), ValueError, "which has 2 axes"),
    (lambda gate: gate.standardize("nothing"), KeyError, "no variable 'nothing'"),
    (lambda gate: gate.standardize("inf"), ValueError, "infinite values; clip them first"),
    (lambda gate: gate.standardize("nan"), ValueError, "no values to fit to"),
    (lambda gate: gate.normalize("unlike"), ValueError, "make them alike first"),
    (lambda gate: gate.clip("x"), ValueError, "needs a limit"),
    (lambda gate: gate.clip("n", 0.5), TypeError, "0.5 is no int64"),
    (lambda gate: gate.quantile_bins("x", 1), ValueError, "two or more"),
    (lambda gate: gate["train"]["x"].inverse([1.0]), ValueError, "is not scaled"),
    (lambda gate: gate["train"]["x"].scaled([1.0]), ValueError, "is not scaled"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_is_refused_changes_nothing(gate, call, error, message):
    gate.add_data("text", np.array(["a"] * 200))
    gate.add_data("inf", np.full(200, np.inf))
    gate.add_data("nan", np.full(200, np.nan))
    gate.add_data("unlike", np.zeros(200))
    gate.add_data("unlike", np.zeros((40, 2)), phase="valid")
    with pytest.raises(error, match=message):
        call(gate)
    np.testing.assert_array_equal(gate["train"]["x"][:], ROWS["x"][PHASES["train"]])
    np.testing.assert_array_equal(gate["train"]["n"][:], ROWS["n"][PHASES["train"]])


def test_bins_have_no_inverse_and_quantiles_a_budget(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "budget": "1MiB"}, data_id="a") as gate:
        gate.add_data({"x": RNG.random(100_000), "y": RNG.random(100)[np.arange(100_000) % 100]})
        with pytest.raises(errors.MemoryBudgetError, match="quantiles of variable 'x' of 100000 rows"):
            gate.quantile_bins("x")
        gate.standardize("x")
    gate = StoreGate(data_id="b")
    gate.add_data("x", [1.0, 2.0])
    gate.quantile_bins("x", 2)
    with pytest.raises(errors.ArgumentError, match="numbers of bins, from which no values come back"):
        gate["train"]["x"].inverse([0])


def test_clips_are_scales_too():
    gate = StoreGate(data_id="a")
    gate.add_data("x", [0.0, 5.0, 50.0])
    gate.clip("x", 0, 10)
    assert gate["train"]["x"].scaled([50.0, 3.0]).tolist() == [10.0, 3.0]
    with pytest.warns(UserWarning, match="were scaled; bring them to the same scale first"):
        gate.add_data("x", [100.0])
    gate = StoreGate(data_id="a")
    gate.add_data("x", [0.0, 5.0, 50.0])
    gate.clip("x", 0, 10)
    gate.normalize("x")
    assert gate["train"]["x"].scaled([50.0, 5.0]).tolist() == [1.0, 0.5]


@pytest.mark.parametrize("dtype", [">f8", ">i4", ">f4", ">M8[s]"])
@pytest.mark.parametrize("backend", ["numpy", "zarr"])
def test_a_cast_to_another_byte_order_is_in_that_of_the_machine(tmp_path, backend, dtype):
    with StoreGate(backend, {} if backend == "numpy" else {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.add_data("x", [-5, 7, 3])
        gate.astype("x", dtype)
        assert gate["train"]["x"].dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(gate["train"]["x"][:], np.array([-5, 7, 3]).astype(dtype))
        ends = gate["train"].describe().loc["x", ["min", "max"]].tolist()
        assert np.array(ends, gate["train"]["x"].dtype).tolist() == np.array([-5, 7]).astype(dtype).tolist()


@pytest.mark.parametrize("values", [[np.inf], [np.inf, -np.inf], [-np.inf]])
@pytest.mark.parametrize("n_rows", [1000, 3_000_000])
def test_infinite_values_count_however_many_rows_there_are(values, n_rows):
    rows = np.ones(n_rows)
    rows[3 : 3 + len(values)] = values
    rows[-1] = values[-1]
    gate = StoreGate(data_id="a")
    gate.add_data("x", rows)
    with np.errstate(invalid="ignore"):
        np.testing.assert_equal(gate["train"].describe().loc["x", "mean"], rows.mean())
