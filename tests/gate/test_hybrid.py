"""The hybrid backend: two namespaces, moves between them, and rows in the memory of a cluster's workers."""

from __future__ import annotations

import gc
import pickle
import sys
import time
import weakref
from pathlib import Path

import cloudpickle
import dask
import distributed
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.arrays import MemoryArray, PersistedArray, StoredArray
from storegate_engine.budget import plan_layout
from storegate_engine.errors import ShapeError, VariableNotFoundError
from storegate_engine.graphs.dask_arrays import layers_of
from storegate_engine.graphs.persisted import BlocksLayer
from tests.array_forms import lacking

X = np.random.default_rng(0).standard_normal((100, 3)).astype("f4")
Y = np.arange(100) % 5


@pytest.fixture
def hybrid(tmp_path):
    """x and y in storage, split 60/30/10, compiled."""
    with StoreGate("hybrid", {"output_dir": tmp_path / "store"}, data_id="test_id") as gate:
        gate.add_data(["x", "y"], [X, Y], phase=(60, 30, 10), do_compile=True)
        yield gate


def names(gate, mode, phase="train"):
    gate.set_mode(mode)
    return gate.get_var_names(phase)


def everything(gate):
    """All that can be seen of both namespaces."""
    seen = {}
    mode = gate.mode
    for at in ("numpy", "zarr"):
        table = gate.repository(at).table
        for phase in ("train", "valid", "test"):
            for name, variable in table[phase].items():
                rows = variable.read(0, len(variable))
                seen[at, phase, name] = (rows.dtype, rows.shape, rows.tobytes())
    return mode, seen


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


@pytest.mark.parametrize("case", BAD_MOVES)
@pytest.mark.parametrize("direction", ["to_memory", "to_storage"])
@pytest.mark.parametrize("mode", ["numpy", "zarr"])
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


# -------------------------------------------------------------------------------------- clusters


@pytest.fixture(scope="module", params=["in this process", "of its own"])
def cluster(request, tmp_path_factory, of_processes):
    """Two worker processes on loopback, with a scheduler here or in a process too; something to connect to."""
    if request.param == "of its own":
        with of_processes(tmp_path_factory.mktemp("dask"), memory_limit="512MiB") as starter:
            address = starter.scheduler.address
            starter.close()  # it would be the active client of all tests
            yield address
        return
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit="512MiB",
    ) as running:
        yield running


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster) as connected:
        yield connected


def workers_of(client, array):
    """Return the workers that hold each block of a persisted array, by key."""
    held = {str(key): workers for key, workers in client.who_has().items()}
    return {str(future.key): held.get(str(future.key), ()) for future in distributed.futures_of(array.values)}


N = 4000
EVENTS = np.random.default_rng(3).standard_normal((N, 20)).astype("f4")
LABELS = np.random.default_rng(4).integers(0, 4, N)


@pytest.fixture
def events(tmp_path, client):
    """Rows in storage whose budget makes ten blocks of a phase."""
    args = {"output_dir": tmp_path / "store", "chunk": 100, "budget": "256KiB"}
    with StoreGate("hybrid", args, data_id="test_id") as gate:
        gate.add_data(["x", "y"], [EVENTS, LABELS], phase=(3000, 600, 400), do_compile=True)
        yield gate


class TestCluster:
    def test_rows_lie_on_the_workers(self, events, client):
        events.to_memory(["x", "y"], "all")
        events.set_mode("numpy")
        for phase, size in (("train", 3000), ("valid", 600), ("test", 400)):
            (piece,) = events.table[phase]["x"].pieces
            assert isinstance(piece.array, PersistedArray)
            assert piece.n_rows == size
            held = workers_of(client, piece.array)
            assert len(held) == piece.array.values.numblocks[0]
            assert all(held.values())
        (piece,) = events.table["train"]["x"].pieces
        assert piece.array.values.numblocks[0] > 2
        assert set(workers_of(client, piece.array)) <= {str(key) for keys in client.has_what().values() for key in keys}
        assert sum(client.run(lambda dask_worker: dask_worker.data.memory.total_weight).values()) >= EVENTS.nbytes

    def test_rows_are_read_by_every_index(self, events):
        events.to_memory(["x", "y"], "all")
        events.set_mode("numpy")
        x = EVENTS[:3000]
        mask = LABELS[:3000] == 2
        for index in (0, 2999, slice(3, 2000, 7), slice(None, None, -1), [5, 5, 2999, 0], np.array([-1, 17]), mask, []):
            expected = x[np.asarray(index, int)] if isinstance(index, list) else x[index]
            found = events["train"]["x"][index]
            assert type(found) is np.ndarray
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(events.get_data("x", index=index), expected)
        np.testing.assert_array_equal(events.get_data("x"), x)
        np.testing.assert_array_equal(events.get_data("x", index=(290, 1311)), x[290:1311])
        np.testing.assert_array_equal(events.get_data("x", "all", [3999, 0, 3000]), EVENTS[[3999, 0, 3000]])
        np.testing.assert_array_equal(events.get_data(("y", "y"), index=7), LABELS[[7, 7]])
        assert isinstance(events.get_data("y", index=3), np.int64)
        found = events.get_data("x", index=4)
        found[...] = 0
        np.testing.assert_array_equal(events.get_data("x", index=4), x[4])

    @lacking("mean of xarray")
    def test_datasets_are_computed_there(self, events):
        events.to_memory(["x", "y"])
        events.set_mode("numpy")
        dataset = events["train"].to_xarray()
        np.testing.assert_array_equal(dataset["x"].compute().values, EVENTS[:3000])
        np.testing.assert_allclose(
            dataset["x"].mean("sample").compute(), EVENTS[:3000].mean(axis=0), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_array_equal(dataset.isel(sample=slice(10, 20))["y"].values, LABELS[10:20])
        lazy = events.get_data("x", index=[7, 3], compute=False)
        np.testing.assert_array_equal(lazy.compute(), EVENTS[[7, 3]])

    def test_shuffle_and_onehot_on_top(self, events):
        events.to_memory(["x", "y"])
        events.set_mode("numpy")
        events.onehot("y", 4)
        events.shuffle("train", 6)
        events.astype("x", "f8")
        order = np.random.RandomState(6).permutation(3000)
        encoded = np.identity(4)[LABELS[:3000]][order]
        np.testing.assert_array_equal(events.get_data("y"), encoded)
        np.testing.assert_array_equal(events["train"]["y"][[2, 1500]], encoded[[2, 1500]])
        dataset = events["train"].to_xarray()
        np.testing.assert_array_equal(dataset["y"].compute(), encoded)
        np.testing.assert_array_equal(dataset["x"].compute(), EVENTS[:3000].astype("f8")[order])
        assert dataset["x"].dtype == np.float64

    @pytest.mark.parametrize("plan", ["gather", "exchange"])
    def test_shuffled_rows_are_moved_between_workers(self, events, plan, tmp_path):
        events.to_memory(["x", "y"])
        events.set_mode("numpy")
        events.shuffle("train", 6)
        order = np.random.RandomState(6).permutation(3000)
        with dask.config.set({"storegate.shuffle": plan, "storegate.scratch-directory": str(tmp_path / "spill")}):
            lazy = events["train"].to_xarray()["x"]
            data = events["train"]["x"].data
            (layer,) = (layer for layer in layers_of(data) if isinstance(layer, BlocksLayer))
            everything = layer.get_output_keys()
            tasks, _ = layer.cull(everything, everything)
            assert layer.plan(range(len(everything))).kind == plan
            if plan == "exchange":
                assert len(tasks) == layer.n_sources + 1 + len(everything)
            assert max(len(cloudpickle.dumps(task)) for task in tasks.values()) < 8 * len(EVENTS), "no permutation"
            np.testing.assert_array_equal(lazy.values, EVENTS[:3000][order])
            np.testing.assert_array_equal(lazy[70:90].values, EVENTS[:3000][order][70:90])
            np.testing.assert_allclose(data.mean().compute(), EVENTS[:3000].mean(), rtol=1e-4, atol=1e-6)

    def test_changes_beside_persisted_rows(self, events):
        events.to_memory("x")
        events.set_mode("numpy")
        events.add_data("x", EVENTS[:5])
        events.update_data("x", np.zeros((2, 20), "f4"), index=(10, 12))
        expected = np.concatenate([EVENTS[:3000], EVENTS[:5]])
        expected[10:12] = 0
        np.testing.assert_array_equal(events.get_data("x"), expected)
        np.testing.assert_array_equal(events["train"]["x"].data.compute(), expected)
        np.testing.assert_array_equal(events["train"]["x"][[3004, 11, 0]], expected[[3004, 11, 0]])

    def test_back_to_storage(self, events, client):
        events.to_memory(["x", "y"], "all", output_var_names=["mx", "my"])
        events.set_mode("numpy")
        events.shuffle("train", 2)
        (piece,) = events.table["train"]["mx"].pieces
        keys = set(workers_of(client, piece.array))
        del piece
        events.to_storage(["mx", "my"], "all")
        events.set_mode("zarr")
        order = np.random.RandomState(2).permutation(3000)
        np.testing.assert_array_equal(events.get_data("mx"), EVENTS[:3000][order])
        np.testing.assert_array_equal(events.get_data("my", "test"), LABELS[3600:])
        assert all(isinstance(piece.array, StoredArray) for _, variable in events.table for piece in variable.pieces)
        gc.collect()
        wait_until(lambda: not keys & {str(key) for key in client.who_has()})

    def test_callbacks(self, events):
        def double(var_names, data):
            return "twice", data * 2

        events.to_memory("x", callback=double)
        double.accepts_lazy = True
        events.to_memory("x", "valid", callback=double)
        events.set_mode("numpy")
        np.testing.assert_array_equal(events.get_data("twice"), EVENTS[:3000] * 2)
        np.testing.assert_array_equal(events.get_data("twice", "valid"), EVENTS[3000:3600] * 2)

    @lacking("groupby of xarray")
    @lacking("groupby of flox", dask_array=True)
    def test_a_stored_gate_is_computed_on_the_workers(self, events, client):
        dataset = events["train"].to_xarray()
        assert len(dataset.chunks["sample"]) > 2
        np.testing.assert_array_equal(dataset["x"].compute(), EVENTS[:3000])
        mean = dataset["x"].groupby(dataset["y"].compute()).mean().compute()
        expected = [EVENTS[:3000][LABELS[:3000] == label].mean(axis=0) for label in range(4)]
        np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)
        events.shuffle("train", 8)
        order = np.random.RandomState(8).permutation(3000)
        np.testing.assert_array_equal(events["train"].to_xarray()["y"].compute(), LABELS[:3000][order])
        np.testing.assert_array_equal(
            events["train"].to_xarray().isel(sample=slice(50, 60))["x"].values, EVENTS[:3000][order][50:60]
        )

    def test_a_gate_is_used_inside_a_task(self, events, client):
        def total(gate, phase):
            return float(gate.get_data("x", phase).astype("f8").sum())

        futures = [client.submit(total, events, phase, pure=False) for phase in ("train", "valid", "test")]
        assert sum(client.gather(futures)) == pytest.approx(EVENTS.astype("f8").sum())


def test_without_a_cluster_rows_stay_in_this_process(hybrid):
    assert "distributed" in sys.modules, "its import alone must not matter"
    hybrid.to_memory("x")
    (piece,) = hybrid.repository("numpy").table["train"]["x"].pieces
    assert isinstance(piece.array, MemoryArray)


def wait_until(holds, seconds=10):
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
