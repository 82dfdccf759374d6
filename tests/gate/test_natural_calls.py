"""What natural calls get: indices, views as arrays, new variables through views, modes, misspelled phases."""

from __future__ import annotations

import warnings

import dask.array as da
import numpy as np
import pytest

from storegate import StoreGate, errors

X = np.arange(6.0)


@pytest.fixture
def filled(gate):
    gate.add_data(["x", "y"], [X, np.arange(12).reshape(6, 2)])
    gate.compile()
    return gate


# ---------------------------------------------------------------------------------------- indices


@pytest.mark.parametrize("index", [(1, 2), (1, slice(None)), (slice(None), 0), ([0], [1]), (), (0,)])
def test_an_index_of_several_axes_is_refused_with_the_remedy(filled, index):
    view = filled["train"]["y"]
    with pytest.raises(IndexError, match=r"view\["):
        view[index]
    with pytest.raises(IndexError, match=r"view\["):
        view[index] = 0
    np.testing.assert_array_equal(view[:], np.arange(12).reshape(6, 2))


@pytest.mark.parametrize("names", ["x", ("x", "x"), ["x", "y"]])
@pytest.mark.parametrize("index", [(4, 99), (2, None), (None, 3), (-2, None), (0, 6), (5, 5), (99, 120), (None, None)])
def test_a_range_stops_at_the_end_as_a_slice_does(filled, names, index):
    found = filled.get_data(names, index=index)
    first = found[0] if isinstance(names, list) else found
    column = first[:, 0] if isinstance(names, tuple) else first
    np.testing.assert_array_equal(column, X[slice(*index)])
    lazy = filled.get_data("x", index=index, compute=False)
    np.testing.assert_array_equal(lazy.compute(), X[slice(*index)])


def test_a_program_loops_to_the_end_by_ranges(filled):
    parts = [filled.get_data("x", index=(at, at + 4)) for at in range(0, 6, 4)]
    np.testing.assert_array_equal(np.concatenate(parts), X)
    filled.update_data("x", [7.0, 8.0], index=(4, 99))
    assert filled.get_data("x").tolist() == [0, 1, 2, 3, 7, 8]


# ------------------------------------------------------------------------------- views as arrays


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x == 3,
        lambda x: x != 3,
        lambda x: 3 == x,  # noqa: SIM300 (the other side)
        lambda x: x > 2,
        lambda x: 2 <= x,  # noqa: SIM300
        lambda x: x + 1,
        lambda x: 1 - x,
        lambda x: x * x,
        lambda x: x / 2,
        lambda x: 7 // (x + 1),
        lambda x: x % 4,
        lambda x: x**2,
        lambda x: -x,
        lambda x: abs(x - 3),
        lambda x: (x > 1) & (x < 4),
        lambda x: ~(x > 1),
        lambda x: np.arange(6) + x,
        lambda x: np.sin(x),
        lambda x: np.maximum(x, 3),
    ],
)
def test_comparisons_and_arithmetic_are_those_of_lazy_rows(filled, call):
    found = call(filled["train"]["x"])
    assert isinstance(found, da.Array)
    np.testing.assert_array_equal(found.compute(), call(X))


def test_rows_are_selected_by_what_they_are(filled):
    x = filled["train"]["x"]
    np.testing.assert_array_equal(x[x == 3], [3])
    np.testing.assert_array_equal(filled["train"]["y"][x > 2], np.arange(12).reshape(6, 2)[3:])
    np.testing.assert_array_equal((filled["train"][("x", "x")] == 2).compute(), np.stack([X == 2] * 2, axis=1))


def test_views_without_one_array_are_equal_to_themselves_alone(filled):
    for view in (filled["train"], filled["x"], filled["train"][["x", "y"]]):
        assert view == view
        assert not view != view  # noqa: SIM202
        assert (view == 3) is False
        with pytest.raises(TypeError):
            view + 1
    assert len({filled["train"], filled["train"]["x"], filled["train"]["x"]}) == 3


# --------------------------------------------------------------------------------- new variables


@pytest.mark.parametrize("phase", ["train", "all"])
@pytest.mark.parametrize("everything", [slice(None), Ellipsis, slice(0, None)])
def test_a_view_of_a_new_name_adds_a_variable(gate, phase, everything):
    rows = np.arange(10) if phase == "all" else np.arange(6)
    gate.add_data("x", np.arange(10.0), phase=(6, 2, 2))
    gate.compile()
    gate[phase]["new"][everything] = rows
    np.testing.assert_array_equal(gate.get_data("new", phase), rows)
    gate[phase][["a", "b"]][everything] = [rows, rows + 0.5]
    np.testing.assert_array_equal(gate.get_data("b", phase), rows + 0.5)
    gate[phase]["new"][everything] = rows * 2
    np.testing.assert_array_equal(gate.get_data("new", phase), rows * 2)


def test_rows_of_a_variable_that_is_not_there_are_refused(filled):
    with pytest.raises(errors.VariableNotFoundError, match="new"):
        filled["train"]["new"][1:3] = [1, 2]
    with pytest.raises(ValueError, match="rows"):
        filled["train"]["new"][:] = [1, 2, 3]  # not as many as the phase has
    assert filled.get_var_names() == ["x", "y"]


# ----------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(("wrong", "meant"), [("val", "valid"), ("tran", "train"), ("tests", "test"), ("y_", None)])
def test_a_misspelled_phase_is_named(filled, wrong, meant):
    for call in (lambda: filled[wrong]["y"][:2], lambda: filled["y"][wrong]["x"], lambda: filled[wrong][:2]):
        with pytest.raises((KeyError, ValueError), match=f"no phase or variable '{wrong}'") as caught:
            call()
        assert meant is None or f"did you mean '{meant}'" in str(caught.value)
        assert isinstance(caught.value, KeyError)
        assert isinstance(caught.value, ValueError)


# ----------------------------------------------------------------------------------------- modes


@pytest.mark.parametrize("backend", ["zarr", "hybrid"])
def test_modes_are_those_of_zarr(tmp_path, backend):
    place = tmp_path / "store"

    def opened(mode, data_id="a"):
        return StoreGate(backend, {"output_dir": place, "mode": mode}, data_id)

    for mode in ("r", "r+"):
        with pytest.raises(errors.NotAStoreError, match="no store") as caught:
            opened(mode)
        assert isinstance(caught.value, FileNotFoundError)
    assert not place.exists()
    opened("x").add_data("x", [1, 2])
    for mode in ("x", "w-"):
        with pytest.raises(FileExistsError, match="already"):
            opened(mode)
    opened("r+").add_data("x", [3])
    assert opened("r").get_data("x").tolist() == [1, 2, 3]
    opened("r+", "new").add_data("x", [5])
    opened("w").add_data("x", [4])
    assert opened("a").get_data("x").tolist() == [4]
    with pytest.raises(ValueError, match="mode"):
        opened("rw")


def test_an_unknown_data_id_of_a_store_that_is_only_read_is_refused(tmp_path):
    place = {"output_dir": tmp_path / "store"}
    for data_id in ("run1", "run2"):
        StoreGate("zarr", place, data_id).add_data("x", [1])
    with pytest.raises(errors.DataIdError, match=r"did you mean 'run\d'\? \(data_ids: run1, run2\)") as caught:
        StoreGate("zarr", {**place, "mode": "r"}, "run3")
    assert isinstance(caught.value, KeyError)
    empty = {"output_dir": tmp_path / "empty"}
    StoreGate("zarr", empty)
    waiting = StoreGate("zarr", {**empty, "mode": "r"}, "run1")  # nothing can be misspelled: a reader may wait
    StoreGate("zarr", empty, "run1").add_data("x", [7])
    assert waiting.get_data("x").tolist() == [7]
    gate = StoreGate("zarr", {**place, "mode": "r"}, "run1")
    with pytest.raises(errors.DataIdError, match="run1, run2"):
        gate.set_data_id("other")
    assert gate.data_id == "run1"
    assert gate.get_data("x").tolist() == [1]


# ------------------------------------------------------------------------------------- alignment


def compiled(gate):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        gate.compile()
    return [str(warning.message) for warning in found if issubclass(warning.category, errors.AlignmentWarning)]


def test_rows_that_were_added_in_different_orders_are_named(gate):
    gate.add_data("x", X, shuffle=1)
    gate.add_data("id", np.arange(6))
    (said,) = compiled(gate)
    assert "x: rows 0..6 of 6 shuffled with seed 1; id: as they came" in said
    assert "'train'" in said
    assert len(compiled(gate)) == 1, "each compile says so"


@pytest.mark.parametrize("split", ["train", (0.5, 0.25, 0.25)])
def test_rows_that_belong_together_are_not_warned_of(gate, split):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate.add_data(["a", "b"], [np.arange(8), np.arange(8)], phase=split, shuffle=3)
        gate.add_data("c", np.arange(8), phase=split, shuffle=3)
        gate.add_data(["a", "b", "c"], [np.arange(4)] * 3, phase="train", shuffle=5)
        gate.compile()
        gate.shuffle("all", seed=4)
        gate.astype("a", "f4", phase="all")
        gate.update_data("a", [1, 2], index=(0, 2))
        gate["train"]["predicted"][:] = gate.get_data("a") * 2
        gate.create_empty("zeros", (len(gate["train"]),))
        gate.compact("all", ["a"])
        gate.compile(reset=True)
        gate.update_data("b", gate.get_data("b"))
        gate.compile()


@pytest.mark.parametrize("second", [{"shuffle": 2}, {"shuffle": False}, {"shuffle": 1, "phase": (0.5, 0.5, 0.0)}])
def test_other_seeds_and_splits_are_told_apart(gate, second):
    gate.add_data("x", np.arange(8), phase=(0.25, 0.75, 0.0), shuffle=1)
    gate.add_data("y", np.arange(8), **{"phase": (0.25, 0.75, 0.0), **second})
    if second.get("phase"):
        with pytest.raises(errors.ShapeError):
            gate.compile()
    else:
        assert [said.split("phase ")[1][:7] for said in compiled(gate)] == ["'train'", "'valid'"]


@pytest.mark.parametrize("split", ["train", (0.0, 0.0, 1.0)])
def test_a_row_alone_and_a_phase_without_rows_have_no_order(gate, split):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate.add_data("a", [1], phase=split, shuffle=3)
        gate.add_data("b", [2], phase=split)
        gate.compile()


def test_what_is_known_of_the_orders_is_stored(tmp_path):
    place = {"output_dir": tmp_path / "store"}
    gate = StoreGate("zarr", place, "a")
    gate.add_data("x", X, shuffle=1)
    gate.compact()
    again = StoreGate("zarr", place, "a")
    again.add_data("id", np.arange(6))
    assert len(compiled(again)) == 1


def test_moved_variables_keep_it(tmp_path):
    gate = StoreGate("hybrid", {"output_dir": tmp_path / "store"}, "a")
    gate.add_data("x", X, shuffle=1)
    gate.to_memory("x")
    gate.set_mode("numpy")
    gate.add_data("id", np.arange(6))
    assert len(compiled(gate)) == 1


def test_a_named_view_is_a_sequence_whatever_others_the_phase_has():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(5))
    gate.add_data("y", np.arange(3))
    assert list(gate["train"]["x"]) == [0, 1, 2, 3, 4]
    assert len(gate["train"]["y"]) == 3
    with pytest.raises(errors.NotCompiledError):
        len(gate["train"][["x", "y"]])
    with pytest.raises(errors.NotCompiledError):
        len(gate["train"])


@pytest.mark.parametrize(
    "index", [{1, 2}, 2.0, {"x": 1}, lambda ds: ds.x > 1], ids=["set", "float", "dict", "function"]
)
def test_what_is_no_index_says_what_is_one(index):
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(5))
    for call in (gate["train"]["x"].__getitem__, gate["train"].subset, gate.select):
        with pytest.raises(errors.ArgumentTypeError, match="not an index of rows; use an int, a slice, a list"):
            call(index)


def test_conditions_say_how_they_become_one_boolean_a_row():
    gate = StoreGate(data_id="a")
    gate.add_data({"x": np.arange(6), "z": np.ones((6, 2))})
    with pytest.raises(errors.DtypeError, match=r"compare it with something, as in ds\.x != 0"):
        gate.filter(lambda ds: ds.x)
    with pytest.raises(errors.DtypeError, match=r"reduce it, as in \(\.\.\.\)\.all\('z_1'\)"):
        gate.filter(lambda ds: ds.z > 0)
