"""Undo: the last change is taken back, whatever it was, on every backend, and nothing else is lost."""

from __future__ import annotations

import pickle
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from storegate import StoreGate
from storegate_engine.errors import ConflictError, ReadOnlyError, SnapshotExpired, VersionNotFoundError
from tests.examples import examples

BACKENDS = ("numpy", "zarr", "hybrid", "memory of hybrid")


def made(backend, path):
    if backend == "numpy":
        return StoreGate("numpy", None, "a")
    gate = StoreGate("zarr" if backend == "zarr" else "hybrid", {"output_dir": path}, "a")
    if backend == "memory of hybrid":
        gate.set_mode("numpy")
    return gate


@pytest.fixture(params=BACKENDS)
def gate(request, tmp_path):
    gate = made(request.param, tmp_path)
    rng = np.random.default_rng(0)
    gate.add_data(["x", "y"], [rng.normal(size=(100, 3)), rng.integers(0, 3, 100)], phase=(0.5, 0.3, 0.2), shuffle=2)
    gate.compile()
    return gate


def seen(gate):
    """Return everything that a gate shows of its current mode."""
    rows = {
        (at, variable.name): (variable.dtype, variable.shape, variable.read(0, len(variable)).tolist())
        for at, variable in gate.table
    }
    return gate.table.compiled, gate.get_var_names("train"), rows


CHANGES = {
    "add_data to a variable": lambda g: g.add_data("x", np.ones((5, 3)), phase=(0.2, 0.4, 0.4)),
    "add_data of a variable": lambda g: g.add_data("z", np.ones(100), (0.5, 0.3, 0.2), shuffle=2, do_compile=True),
    "add_data that widens": lambda g: g.add_data("y", [0.5]),
    "update_data of rows": lambda g: g.update_data("y", [7, 7], index=[1, 3]),
    "update_data of all": lambda g: g.update_data("x", np.zeros((100, 3)), phase="all"),
    "assignment": lambda g: g["valid"]["x"].__setitem__(slice(2, 4), np.zeros((2, 3))),
    "delete_data": lambda g: g.delete_data(["x", "y"], phase="all"),
    "del": lambda g: g["test"].__delitem__("x"),
    "clear_data": lambda g: g.clear_data(),
    "create_empty": lambda g: g.create_empty("e", (4, 2)),
    "shuffle": lambda g: g.shuffle("all", 3),
    "astype": lambda g: g.astype("x", "f2", "all"),
    "onehot": lambda g: g.onehot("y", 3, "all"),
    "argmax": lambda g: g.argmax("x", 1, "valid"),
    "compact": lambda g: g.compact(),
    "compile(reset=True)": lambda g: g.compile(reset=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_taken_back(gate, change):
    before = seen(gate)
    CHANGES[change](gate)
    if change != "compact":
        assert seen(gate) != before
    gate.undo()
    assert seen(gate) == before


@pytest.mark.parametrize("change", CHANGES)
def test_compiling_is_no_change(gate, change):
    gate.shuffle("train", 9)
    before = seen(gate)
    CHANGES[change](gate)
    if not change.startswith(("add_data", "create", "del")):
        gate.compile()
    gate.undo()
    assert seen(gate) == before


def test_another_undo_goes_further_back(gate):
    states = []
    for change in ("update_data of rows", "shuffle", "astype", "delete_data"):
        states.append(seen(gate))
        CHANGES[change](gate)
    for state in reversed(states):
        gate.undo()
        assert seen(gate) == state
    CHANGES["onehot"](gate)
    gate.undo()
    assert seen(gate) == states[0]
    gate.undo()
    assert not gate.variables
    with pytest.raises(VersionNotFoundError, match="no change to take back"):
        gate.undo()


def test_changes_of_nothing_do_not_count(gate):
    before = seen(gate)
    CHANGES["shuffle"](gate)
    gate.delete_data("there is none")
    gate.compile()
    gate.undo()
    assert seen(gate) == before


def test_merged_pieces_belong_to_the_change_before(gate):
    for number in range(49):
        gate.add_data("y", [number % 3])
    rows = gate.get_data("y").tolist()
    gate.add_data("y", [2])
    assert len(gate.table["train"]["y"].pieces) < 49
    gate.undo()
    assert gate.get_data("y").tolist() == rows


def test_without_any_change():
    with pytest.raises(ValueError, match="no change to take back"):
        StoreGate(data_id="a").undo()


class TestStored:
    @pytest.fixture
    def gate(self, tmp_path):
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, "a") as gate:
            gate.add_data("x", [1, 2, 3])
            gate.update_data("x", [9], index=0)
            yield gate

    def test_history_tells_it_and_can_restore_it(self, gate):
        gate.undo()
        last = gate.history()[-1]
        assert (last.operation, last.arguments) == ("undo", {"version": 1})
        gate.rollback(2)
        assert gate.get_data("x").tolist() == [9, 2, 3]
        gate.undo()
        assert gate.get_data("x").tolist() == [1, 2, 3]

    def test_a_later_process_takes_back_what_it_finds(self, gate, tmp_path):
        gate.undo()
        again = StoreGate.open(tmp_path / "store", mode="a")
        again.undo()
        assert not again.variables

    def test_changes_of_another_writer_are_not_lost(self, gate, tmp_path):
        other = StoreGate.open(tmp_path / "store", mode="a")
        other.add_data("x", [4])
        for _ in range(2):
            with pytest.raises(ConflictError, match=r"add_data \(version 3\) of another writer.*rollback"):
                gate.undo()
        assert gate.get_data("x").tolist() == [9, 2, 3, 4]
        gate.shuffle("train", 1)
        gate.undo()
        assert gate.get_data("x").tolist() == [9, 2, 3, 4]
        with pytest.raises(ConflictError):
            gate.undo()
        with pytest.raises(ConflictError):  # the undo of another writer, too
            other.undo()

    def test_a_commit_in_between_is_a_conflict(self, gate, tmp_path, monkeypatch):
        other = StoreGate.open(tmp_path / "store", mode="a")
        repository = gate.repository()
        table_at = repository.table_at

        def overtaken(version):
            if len(other.history()) < 3:
                other.add_data("z", [4])
            return table_at(version)

        monkeypatch.setattr(repository, "table_at", overtaken)
        with pytest.raises(ConflictError):
            gate.undo()
        assert other.get_data("z").tolist() == [4]
        assert gate.get_data("x").tolist() == [9, 2, 3]

    def test_compiling_elsewhere_is_no_conflict(self, gate, tmp_path):
        StoreGate.open(tmp_path / "store", mode="a").compile()
        gate.undo()
        assert gate.get_data("x").tolist() == [1, 2, 3]

    def test_what_was_vacuumed_cannot_be_restored(self, gate):
        gate.vacuum(older_than=timedelta(0))
        with pytest.raises(SnapshotExpired, match="undo: .*cannot be taken back"):
            gate.undo()
        assert gate.get_data("x").tolist() == [9, 2, 3]

    def test_readers_are_refused(self, gate, tmp_path):
        for options in ({}, {"version": 1}):
            with pytest.raises(ReadOnlyError, match="undo"):
                StoreGate.open(tmp_path / "store", **options).undo()

    def test_a_pickled_gate_knows_its_changes(self, gate):
        again = pickle.loads(pickle.dumps(gate))
        again.undo()
        assert again.get_data("x").tolist() == [1, 2, 3]


class TestMemory:
    def test_former_rows_are_kept_only_within_the_limit(self):
        gate = StoreGate("numpy", {"budget": "16MiB"}, "a")
        gate.add_data("small", np.zeros(1000))
        gate.add_data("x", np.zeros((1000, 1000)))
        gate.delete_data("x")
        with pytest.raises(VersionNotFoundError, match=r"before delete_data were.* 7\.6 MiB.* 1\.0 MiB.*zarr"):
            gate.undo()
        gate.delete_data("small")
        gate.undo()
        assert gate.variables == ("small",)

    def test_what_is_held_is_counted(self):
        gate = StoreGate("numpy", {"budget": "64MiB"}, "a")
        kept = gate.repository().former_tables
        for number in range(200):
            gate.add_data("x", np.zeros((1000, 100)))
            if number % 3 == 1:
                gate.update_data("x", np.ones((100, 100)), index=(0, 100))
            if number % 5 == 4:
                gate.delete_data("x")
            held = {array for former in kept for array in arrays_of(former.table)} - arrays_of(gate.table)
            assert sum(array.values.nbytes for array in held) <= kept.nbytes <= kept.limit_nbytes

    def test_the_limit_is_a_share_of_the_budget_up_to_a_constant(self):
        limits = {}
        for budget in ("64MiB", "1GiB", "64GiB"):
            gate = StoreGate("numpy", {"budget": budget}, "a")
            limits[budget] = gate.repository().former_tables.limit_nbytes
        assert limits == {"64MiB": 4 * 2**20, "1GiB": 64 * 2**20, "64GiB": 256 * 2**20}

    def test_appends_hold_nothing_more(self):
        gate = StoreGate(data_id="a")
        for _ in range(10):
            gate.add_data("x", np.zeros((1000, 100)))
        assert gate.repository().former_tables.nbytes < 100_000

    def test_former_rows_do_not_travel(self):
        gate = StoreGate(data_id="a")
        gate.add_data("x", np.zeros((1000, 100)))
        gate.delete_data("x")
        content = pickle.dumps(gate)
        assert len(content) < 50_000
        again = pickle.loads(content)
        with pytest.raises(VersionNotFoundError):
            again.undo()
        gate.undo()
        assert len(gate.get_data("x")) == 1000


def arrays_of(table):
    return {piece.array for _, variable in table for piece in variable.pieces if not piece.array.is_stored}


class TestHybrid:
    @pytest.fixture
    def gate(self, tmp_path):
        with StoreGate("hybrid", {"output_dir": tmp_path}, "a") as gate:
            gate.add_data(["x", "y"], [np.arange(6), np.arange(6.0)], phase=(3, 2, 1), do_compile=True)
            yield gate

    def both(self, gate):
        mode, found = gate.mode, []
        for one in ("zarr", "numpy"):
            gate.set_mode(one)
            found.append(seen(gate)[1:])
        gate.set_mode(mode)
        return found

    @pytest.mark.parametrize("mode", ["zarr", "numpy"])
    def test_a_copy_to_memory(self, gate, mode):
        before = self.both(gate)
        gate.to_memory("x", phase="all")
        gate.set_mode(mode)
        gate.undo()
        assert self.both(gate) == before

    @pytest.mark.parametrize("mode", ["zarr", "numpy"])
    def test_a_move_to_storage_is_one_change_of_both(self, gate, mode):
        gate.to_memory(["x", "y"], phase="all")
        before = self.both(gate)
        gate.to_storage("x", phase="all", output_var_names="z")
        gate.set_mode(mode)
        gate.undo()
        assert self.both(gate) == before
        with pytest.raises(VersionNotFoundError, match="to_storage has released"):  # with all former rows
            gate.undo()
        assert self.both(gate) == before

    def test_the_last_change_of_either(self, gate):
        gate.set_mode("numpy")
        gate.add_data("m", [1])
        gate.set_mode("zarr")
        gate.shuffle("all", 1)
        states = [self.both(gate)]
        gate.set_mode("numpy")
        gate.update_data("m", [2])
        gate.undo()
        assert self.both(gate) == states[0]
        gate.undo()
        gate.set_mode("zarr")
        assert gate.get_data("x", "train").tolist() == [0, 1, 2]
        gate.undo()
        gate.set_mode("numpy")
        assert not gate.variables

    def test_rows_that_a_callback_changed_are_not_there_to_be_taken_back(self, gate):
        gate.to_memory("x", phase="all")
        gate.to_storage("x", phase="all", callback=lambda names, data: ("z", data + 1))
        before = self.both(gate)
        with pytest.raises(VersionNotFoundError, match="to_storage has released the rows from memory.*to_memory"):
            gate.undo()
        assert self.both(gate) == before

    def test_a_move_back_keeps_dtype_order_and_texts(self, gate):
        gate.to_memory(["x", "y"], phase="all")
        gate.set_mode("numpy")
        gate.add_data("t", np.array(["a", "bcd", "é"]))
        gate.shuffle("train", 3)
        gate.astype("x", "f4", "train")
        gate.onehot("x", 9, "valid")
        before = self.both(gate)
        gate.to_storage(["x", "t"], phase="train")
        gate.undo()
        assert self.both(gate) == before


class UndoMachine(RuleBasedStateMachine):
    """Any changes and undos: a gate shows what a list of states says."""

    def __init__(self):
        super().__init__()
        self.gate = StoreGate("numpy", None, "a")
        self.states = []

    def change(self, call):
        before, table = seen(self.gate), self.gate.table
        call(self.gate)
        if self.gate.table.phases != table.phases:  # rows that are replaced by equal ones are a change, too
            self.states.append(before)

    @rule(n=st.integers(1, 4), name=st.sampled_from("xy"))
    def add(self, n, name):
        self.change(lambda gate: gate.add_data(name, np.arange(n), do_compile=False))

    @precondition(lambda self: "x" in self.gate.variables)
    @rule(value=st.integers(0, 9))
    def update(self, value):
        self.change(lambda gate: gate.update_data("x", [value + 10], index=0, do_compile=False))

    @rule(name=st.sampled_from("xy"))
    def delete(self, name):
        self.change(lambda gate: gate.delete_data(name, do_compile=False))

    @rule()
    def clear(self):
        self.change(lambda gate: gate.clear_data())

    @precondition(lambda self: self.states)
    @rule()
    def undo(self):
        expected = self.states.pop()
        self.gate.undo()
        assert seen(self.gate) == expected

    @invariant()
    def nothing_else_is_kept(self):
        if not self.states:
            with pytest.raises(VersionNotFoundError):
                self.gate.undo()


TestMachine = UndoMachine.TestCase
TestMachine.settings = settings(max_examples=examples(100), stateful_step_count=25, deadline=None)
