"""The hybrid backend: two namespaces, and moves between them."""

from __future__ import annotations

import gc
import pickle
import weakref
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.arrays import MemoryArray, StoredArray
from storegate_engine.budget import plan_layout
from storegate_engine.errors import ShapeError, VariableNotFoundError
from tests.examples import in_turns
from tests.gate.hybrid_cases import X, Y, everything


def names(gate, mode, phase="train"):
    gate.set_mode(mode)
    return gate.get_var_names(phase)


class TestNamespaces:
    def test_starts_in_storage(self, hybrid, tmp_path):
        assert hybrid.backend == "hybrid"
        assert hybrid.get_var_names() == ["x", "y"]
        assert names(hybrid, "numpy") == []
        other = StoreGate("zarr", {"output_dir": tmp_path / "store", "mode": "r"}, "test_id")
        np.testing.assert_array_equal(other.get_data("x"), X[:60])

    def test_the_two_do_not_see_each_other(self, hybrid, tmp_path):
        hybrid.set_mode("numpy")
        with pytest.raises(KeyError, match="no variable 'x'"):
            hybrid.get_data("x")
        hybrid.add_data("x", [7, 8], do_compile=True)
        assert hybrid.get_metadata()["total_events"] == [2, 0, 0]
        hybrid.update_data("x", [9], index=0)
        np.testing.assert_array_equal(hybrid.get_data("x"), [9, 8])
        hybrid.delete_data("y")
        hybrid.set_mode("zarr")
        np.testing.assert_array_equal(hybrid.get_data("x", "all"), X)
        assert hybrid.get_metadata()["total_events"] == [60, 30, 10]
        hybrid.delete_data("x", "all")
        assert hybrid.get_var_names() == ["y"]
        hybrid.set_mode("numpy")
        np.testing.assert_array_equal(hybrid["train"]["x"][:], [9, 8])
        hybrid.clear_data()
        assert names(hybrid, "zarr") == ["y"]

    def test_set_mode_compiles(self, hybrid):
        hybrid.delete_data("y", "all", do_compile=False)
        hybrid.set_mode("zarr")
        assert hybrid.get_metadata()["compiled"]

    @pytest.mark.parametrize("mode", ["memory", "hybrid", "", None, 3])
    def test_a_wrong_mode_changes_nothing(self, hybrid, mode):
        for current, expected in (("zarr", ["x", "y"]), ("numpy", [])):
            hybrid.set_mode(current)
            with pytest.raises(ValueError, match="numpy, zarr"):
                hybrid.set_mode(mode)
            assert hybrid.get_var_names() == expected

    def test_a_mode_that_does_not_compile_is_not_entered(self, hybrid):
        hybrid.set_mode("numpy")
        hybrid.add_data("a", [1, 2])
        hybrid.add_data("b", [1])
        hybrid.compile = lambda: None  # only to leave the uneven mode
        hybrid.set_mode("zarr")
        del hybrid.compile
        with pytest.raises(ValueError, match="a: 2, b: 1"):
            hybrid.set_mode("numpy")
        assert hybrid.get_var_names() == ["x", "y"]

    def test_data_ids_have_their_own_memory(self, hybrid):
        hybrid.to_memory("x")
        hybrid.set_data_id("other")
        assert names(hybrid, "numpy") == []
        hybrid.set_data_id("test_id")
        assert hybrid.get_var_names() == ["x"]


class TestToMemory:
    def test_string(self, hybrid):
        hybrid.to_memory("x")
        assert hybrid.get_var_names() == ["x", "y"]
        hybrid.set_mode("numpy")
        np.testing.assert_array_equal(hybrid.get_data("x"), X[:60])
        assert hybrid.get_var_names("valid") == []
        (piece,) = hybrid.table["train"]["x"].pieces
        assert isinstance(piece.array, MemoryArray)

    @pytest.mark.parametrize("form", [list, tuple])
    def test_several(self, hybrid, form):
        hybrid.to_memory(form(["x", "y"]), phase="valid")
        assert names(hybrid, "numpy", "valid") == ["x", "y"]
        np.testing.assert_array_equal(hybrid.get_data("y", "valid"), Y[60:90])

    @pytest.mark.parametrize("phase", ["all", None, "auto"])
    def test_all_phases(self, hybrid, phase):
        hybrid.to_memory(["x", "y"], phase=phase)
        hybrid.set_mode("numpy")
        np.testing.assert_array_equal(hybrid.get_data("x", "all"), X)
        assert hybrid.get_metadata()["total_events"] == [60, 30, 10]

    def test_all_phases_that_have_rows(self, hybrid):
        for name in ("x", "y"):
            hybrid.delete_data(name, "valid", do_compile=False)
        hybrid.to_memory("x", "all")
        assert names(hybrid, "numpy", "valid") == []
        np.testing.assert_array_equal(hybrid.get_data("x", "test"), X[90:])

    @pytest.mark.parametrize(("given", "new"), [("x", "z"), (["x", "y"], ["z", "w"]), (("x", "y"), ("z", "w"))])
    def test_new_names(self, hybrid, given, new):
        hybrid.to_memory(given, output_var_names=new)
        expected = [new] if isinstance(new, str) else list(new)
        assert names(hybrid, "numpy") == expected
        np.testing.assert_array_equal(hybrid.get_data(expected[0]), X[:60])
        assert names(hybrid, "zarr") == ["x", "y"]

    def test_the_durable_copy_stays(self, hybrid, tmp_path):
        hybrid.to_memory(["x", "y"], "all")
        hybrid.set_mode("numpy")
        hybrid.update_data("x", np.zeros((60, 3)))
        again = StoreGate("zarr", {"output_dir": tmp_path / "store", "mode": "r"}, "test_id")
        np.testing.assert_array_equal(again.get_data("x", "all"), X)
        np.testing.assert_array_equal(again.get_data("y", "all"), Y)

    def test_shuffled_and_encoded_rows_move_as_they_are_read(self, hybrid):
        hybrid.shuffle("train", 4)
        hybrid.onehot("y", 5)
        hybrid.astype("x", "f8")
        order = np.random.RandomState(4).permutation(60)
        hybrid.to_memory(["x", "y"])
        hybrid.set_mode("numpy")
        np.testing.assert_array_equal(hybrid.get_data("y"), np.identity(5)[Y[:60]][order])
        found = hybrid.get_data("x")
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, X[:60][order])

    def test_a_variable_of_that_name_is_replaced(self, hybrid):
        hybrid.set_mode("numpy")
        hybrid.add_data("x", np.zeros((5, 9)))
        hybrid.set_mode("zarr")
        hybrid.to_memory("x")
        hybrid.set_mode("numpy")
        np.testing.assert_array_equal(hybrid.get_data("x"), X[:60])

    def test_works_in_either_mode_and_leaves_it(self, hybrid):
        for mode in ("numpy", "zarr"):
            hybrid.set_mode(mode)
            hybrid.to_memory("x")
            assert hybrid.get_var_names() == (["x"] if mode == "numpy" else ["x", "y"])

    def test_reading_memory_touches_no_storage(self, hybrid, tmp_path):
        hybrid.to_memory(["x", "y"], "all")
        hybrid.set_mode("numpy")
        for chunk in Path(tmp_path).rglob("c/*/*"):
            chunk.unlink()
        np.testing.assert_array_equal(hybrid["all"]["x"][[99, 0]], X[[99, 0]])
        np.testing.assert_array_equal(hybrid["train"].to_xarray()["y"].values, Y[:60])


class TestToStorage:
    @pytest.fixture
    def inverse(self, tmp_path):
        """The same variables, in memory only."""
        with StoreGate("hybrid", {"output_dir": tmp_path / "store"}, data_id="test_id") as gate:
            gate.set_mode("numpy")
            gate.add_data(["x", "y"], [X, Y], phase=(60, 30, 10), do_compile=True)
            yield gate

    @pytest.mark.parametrize(("given", "new"), [("x", None), ("x", "z"), (["x", "y"], None), (("x", "y"), ("z", "w"))])
    @pytest.mark.parametrize("phase", ["train", "all", None])
    def test_every_form(self, inverse, tmp_path, given, new, phase):
        inverse.to_storage(given, phase, output_var_names=new)
        assert inverse.get_var_names() == [name for name in ("x", "y") if name not in given]
        moved = new or given
        moved = [moved] if isinstance(moved, str) else list(moved)
        stored = StoreGate("zarr", {"output_dir": tmp_path / "store", "mode": "r"}, "test_id")
        assert stored.get_var_names() == moved
        np.testing.assert_array_equal(stored.get_data(moved[0]), X[:60])
        assert stored.get_var_names("test") == ([] if phase == "train" else moved)
        if phase != "train":
            np.testing.assert_array_equal(stored.get_data(moved[0], "all"), X)

    def test_memory_is_released(self, inverse):
        kept = [weakref.ref(piece.array.values) for _, old in inverse.table for piece in old.pieces]
        inverse.to_storage(["x", "y"], "all")
        gc.collect()
        assert [ref() is None for ref in kept] == [True] * len(kept)

    def test_memory_of_other_phases_stays(self, inverse):
        inverse.to_storage("x", "valid")
        np.testing.assert_array_equal(inverse.get_data("x"), X[:60])
        assert inverse.get_var_names("valid") == ["y"]

    def test_rows_are_written_block_by_block(self, tmp_path, counted_reads):
        args = {"output_dir": tmp_path / "store", "chunk": 10, "budget": 8000}
        with StoreGate("hybrid", args, data_id="test_id") as gate:
            gate.set_mode("numpy")
            gate.add_data("x", np.zeros((1000, 3), "f4"))
            counted_reads.clear()
            gate.to_storage("x")
            block_rows = plan_layout(12, 1000, chunk_rows=10, budget_nbytes=8000).shard_rows
            assert block_rows <= 80
            assert len(counted_reads) == -(-1000 // block_rows)

    def test_there_and_back(self, hybrid):
        hybrid.to_memory("x", "all", output_var_names="m")
        hybrid.set_mode("numpy")
        hybrid.update_data("m", -X[:60])
        hybrid.to_storage("m", "all", output_var_names="x")
        assert hybrid.get_var_names("all") == []
        hybrid.set_mode("zarr")
        np.testing.assert_array_equal(hybrid.get_data("x", "all"), np.concatenate([-X[:60], X[60:]]))
        (piece,) = hybrid.table["train"]["x"].pieces
        assert isinstance(piece.array, StoredArray)

    def test_views_taken_before_keep_their_rows(self, inverse):
        held, lazy = inverse["train"].to_xarray(), inverse["train"]["x"].data
        inverse.to_storage("x", "all")
        np.testing.assert_array_equal(held["x"].values, X[:60])
        np.testing.assert_array_equal(lazy.compute(), X[:60])


class TestCallbacks:
    def test_gets_names_and_ndarrays(self, hybrid):
        seen = []

        def callback(var_names, data):
            seen.append((var_names, type(data), data.shape))
            return var_names, data * 2

        hybrid.to_memory("x", "all", callback=callback)
        assert seen == [("x", np.ndarray, (n, 3)) for n in (60, 30, 10)]
        hybrid.set_mode("numpy")
        np.testing.assert_array_equal(hybrid.get_data("x", "all"), X * 2)

    def test_list_and_tuple(self, hybrid):
        seen = []

        def callback(var_names, data):
            seen.append((var_names, [part.shape for part in data]))
            return var_names, data

        hybrid.to_memory(["x", "y"], callback=callback)
        hybrid.to_memory(("y", "y"), "test", callback=lambda given, data: (given[0], data[:, 0] + data[:, 1]))
        assert seen == [(["x", "y"], [(60, 3), (60,)])]
        hybrid.set_mode("numpy")
        np.testing.assert_array_equal(hybrid.get_data("y"), Y[:60])
        np.testing.assert_array_equal(hybrid.get_data("y", "test"), Y[90:] * 2)

    def test_what_it_returns_wins(self, hybrid):
        hybrid.to_memory(
            "x", output_var_names="z", callback=lambda given, data: (["a", "b"], [data[:, 0], data[:, 1:]])
        )
        assert names(hybrid, "numpy") == ["a", "b"]
        np.testing.assert_array_equal(hybrid.get_data("b"), X[:60, 1:])

    def test_to_storage(self, hybrid):
        hybrid.to_memory(["x", "y"])
        hybrid.to_storage(["x", "y"], callback=lambda given, data: ("sum", data[0].sum(axis=1) + data[1]))
        assert names(hybrid, "numpy") == []
        hybrid.set_mode("zarr")
        np.testing.assert_array_equal(hybrid.get_data("sum"), X[:60].sum(axis=1) + Y[:60])

    @pytest.mark.parametrize("direction", ["to_memory", "to_storage"])
    def test_lazy(self, hybrid, direction):
        class Scale:
            accepts_lazy = True

            def __call__(self, var_names, data):
                assert [type(part).__module__.partition(".")[0] for part in data] == ["dask", "dask"]
                return ["scaled"], [data[0] * 2 + data[1][:, None]]

        if direction == "to_storage":
            hybrid.to_memory(["x", "y"], "all")
        getattr(hybrid, direction)(["x", "y"], "all", callback=Scale())
        hybrid.set_mode("numpy" if direction == "to_memory" else "zarr")
        np.testing.assert_array_equal(hybrid.get_data("scaled", "test"), X[90:] * 2 + Y[90:, None])
        np.testing.assert_array_equal(hybrid.get_data("scaled", "train"), X[:60] * 2 + Y[:60, None])

    def test_lazy_with_a_string_and_a_tuple(self, hybrid):
        def callback(var_names, data):
            return var_names, data

        callback.accepts_lazy = True
        hybrid.to_memory("x", callback=callback)
        hybrid.to_memory(("y", "y"), "valid", callback=lambda given, data: ("yy", data))
        hybrid.set_mode("numpy")
        np.testing.assert_array_equal(hybrid.get_data("x"), X[:60])
        np.testing.assert_array_equal(hybrid.get_data("yy", "valid"), np.stack([Y[60:90]] * 2, axis=1))


def returns_none(var_names, data):
    return None


def fails(var_names, data):
    raise ZeroDivisionError


def fails_late(var_names, data):
    if len(data) == 10:
        raise ZeroDivisionError
    return var_names, data


BAD_MOVES = {
    "unknown": ({"var_names": "missing"}, VariableNotFoundError),
    "one of them unknown": ({"var_names": ["x", "missing"]}, VariableNotFoundError),
    "unknown phase": ({"var_names": "x", "phase": "tran"}, KeyError),
    "a split": ({"var_names": "x", "phase": (0.5, 0.25, 0.25)}, ValueError),
    "too few new names": ({"var_names": ["x", "y"], "output_var_names": "z"}, ShapeError),
    "an illegal new name": ({"var_names": "x", "output_var_names": "a/b"}, ValueError),
    "a new name twice": ({"var_names": ["x", "y"], "output_var_names": ["z", "z"]}, ValueError),
    "no names": ({"var_names": []}, ValueError),
    "no string": ({"var_names": 3}, TypeError),
    "callback raises": ({"var_names": "x", "callback": fails}, ZeroDivisionError),
    "callback raises late": (
        {"var_names": "x", "phase": "all", "callback": fails_late},
        ZeroDivisionError,
    ),
    "callback returns nothing": ({"var_names": "x", "callback": returns_none}, TypeError),
    "callback returns an illegal name": ({"var_names": "x", "callback": lambda n, d: ("..", d)}, ValueError),
    "callback returns too little": ({"var_names": "x", "callback": lambda n, d: (["a", "b"], [d])}, ValueError),
    "callback returns uneven rows": ({"var_names": "x", "callback": lambda n, d: (["a", "b"], [d, d[1:]])}, ValueError),
    "callback returns objects": ({"var_names": "x", "callback": lambda n, d: ("a", d.astype(object))}, TypeError),
    "callback returns a scalar": ({"var_names": "x", "callback": lambda n, d: ("a", 3)}, TypeError),
}


@pytest.mark.parametrize(
    ("case", "direction", "mode"), in_turns(BAD_MOVES, ["to_memory", "to_storage"], ["numpy", "zarr"])
)
def test_a_failed_move_leaves_everything_as_it_was(hybrid, tmp_path, case, direction, mode):
    arguments, error = BAD_MOVES[case]
    hybrid.to_memory(["x", "y"], "all")
    hybrid.set_mode(mode)
    before, files = everything(hybrid), sorted(tmp_path.rglob("*"))
    with pytest.raises(error):
        getattr(hybrid, direction)(**arguments)
    assert everything(hybrid) == before
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.parametrize("backend", ["numpy", "zarr"])
def test_other_backends_warn_and_refuse(gate):
    gate.add_data("x", X, do_compile=True)
    for mode in ("numpy", "zarr", "nonsense"):
        with pytest.warns(UserWarning, match="does nothing"):
            gate.set_mode(mode)
    for move in (gate.to_memory, gate.to_storage):
        with pytest.raises(ValueError, match="hybrid"):
            move("x")
    np.testing.assert_array_equal(gate.get_data("x"), X)


def test_reading_only(hybrid, tmp_path):
    gate = StoreGate("hybrid", {"output_dir": tmp_path / "store", "mode": "r"}, "test_id")
    gate.to_memory("x", "all")
    gate.set_mode("numpy")
    np.testing.assert_array_equal(gate.get_data("x", "all"), X)
    gate.add_data("z", [1])
    with pytest.raises(PermissionError, match="mode='r'"):
        gate.to_storage("z")
    np.testing.assert_array_equal(gate.get_data("z"), [1])


def test_a_gate_travels_with_its_memory_and_its_mode(hybrid):
    hybrid.to_memory("x", output_var_names="m")
    hybrid.set_mode("numpy")
    other = pickle.loads(pickle.dumps(hybrid))
    np.testing.assert_array_equal(other.get_data("m"), X[:60])
    other.set_mode("zarr")
    np.testing.assert_array_equal(other.get_data("x", "all"), X)
    assert hybrid.get_var_names() == ["m"]
