"""A state machine of calls, after each of which the store opens."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from storegate_engine.errors import CorruptStoreError, StoreGateError
from tests.examples import examples
from tests.store.reopening_cases import TEXT, opened

DTYPES = ["?", "i1", "u8", "f2", "c16", "M8[Y]", "M8[ns]", "m8[M]", "U1", "U3000", "S1", "S9000", TEXT, "U", "S"]


SHAPES = [(), (1,), (0,), (3, 0), (2, 2), (5000,), (1,) * 20]


ROWS = [0, 1, 2, 3, 200]


class Extremes(RuleBasedStateMachine):
    """Extreme dtypes, widths and shapes; after each step the store is opened anew, and holds what numpy does."""

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.model = {}
        self.version = 0

    def teardown(self):
        shutil.rmtree(self.directory)

    def gate(self):
        return opened(self.directory, budget="256MiB")

    @initialize()
    def start(self):
        with self.gate() as gate:
            gate.add_data("x", [1])
        self.model["x"] = np.array([1])

    def rows(self, data, dtype=None, shape=None, n_rows=None):
        dtype = np.dtype(data.draw(st.sampled_from(DTYPES)) if dtype is None else dtype)
        shape = data.draw(st.sampled_from(SHAPES)) if shape is None else shape
        n_rows = data.draw(st.sampled_from(ROWS)) if n_rows is None else n_rows
        n_rows = min(n_rows, 2**22 // max(1, dtype.itemsize * int(np.prod(shape))))
        if dtype.kind in "UST":
            length = data.draw(st.sampled_from([0, 1, 3, 600])) if shape != (5000,) else 1
            letter = {"U": "é", "T": "\U0001f600", "S": b"\xff"}[dtype.kind]
            found = np.full((n_rows, *shape), letter * length, dtype)
            return found if dtype.itemsize else found.astype(f"{dtype.kind}1")
        return (np.arange(n_rows * int(np.prod(shape))) % 97).reshape((n_rows, *shape)).astype("i8").astype(dtype)

    def attempt(self, change):
        """Return whether it was done; a refusal is typed and changes nothing."""
        with self.gate() as gate:
            try:
                change(gate)
            except CorruptStoreError:
                raise
            except StoreGateError:
                return False
        return True

    @rule(data=st.data(), name=st.sampled_from("xyz"), how=st.sampled_from(["array", "dask", "blocks"]))
    def add(self, data, name, how):
        old = self.model.get(name)
        again = data.draw(st.booleans()) and old is not None
        rows = self.rows(data, old.dtype if again else None, old.shape[1:] if again else None)
        blocks = [rows, self.rows(data, rows.dtype, rows.shape[1:])] if how == "blocks" else [rows]
        given = {"array": rows, "blocks": iter(blocks), "dask": None}[how]
        if how == "dask":
            given = da.from_array(rows, chunks=(max(1, len(rows) // 2), *(max(1, n) for n in rows.shape[1:])))
        if self.attempt(lambda gate: gate.add_data(name, given)):
            joined = blocks if old is None else [old, *blocks]
            with self.gate() as gate:
                dtype = gate.get_data(name, index=slice(0)).dtype
            self.model[name] = np.concatenate([part.astype(dtype) for part in joined])

    @rule(data=st.data(), name=st.sampled_from("xyz"))
    def update(self, data, name):
        old = self.model.get(name)
        if old is None or not len(old):
            return
        rows = self.rows(data, None, old.shape[1:], min(2, len(old)))
        if self.attempt(lambda gate: gate.update_data(name, rows, index=(0, len(rows)), do_compile=False)):
            with self.gate() as gate:
                got = gate.get_data(name)
            if old[len(rows) :].size:
                assert (got[len(rows) :] == old[len(rows) :]).all()
            self.model[name] = got

    @rule(data=st.data(), name=st.sampled_from("pq"))
    def create_empty(self, data, name):
        dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
        shape = (
            data.draw(st.sampled_from([*ROWS, -1, 10**6])),
            *data.draw(st.sampled_from([*SHAPES, (-2,), (2**40,)])),
        )
        if self.attempt(lambda gate: gate.create_empty(name, shape, dtype=dtype)):
            self.model[name] = None

    @rule(name=st.sampled_from("xyz"), dtype=st.sampled_from(DTYPES))
    def astype(self, name, dtype):
        old = self.model.get(name)
        is_possible = old is not None and old.dtype.kind in "biu" and np.dtype(dtype).kind in "biuU"
        if is_possible and self.attempt(lambda gate: gate.astype(name, dtype)):
            self.model[name] = old.astype(dtype)

    @rule(name=st.sampled_from("xyz"))
    def compact(self, name):
        if name in self.model:
            self.attempt(lambda gate: gate.compact("train", name))

    @invariant()
    def opens(self):
        with self.gate() as gate:
            assert gate.repository().version >= self.version
            self.version = gate.repository().version
            for name, wanted in self.model.items():
                got = gate.get_data(name, index=slice(3))
                if wanted is None:
                    assert not (got.view("i8") if got.dtype.kind in "mM" else got != np.zeros((), got.dtype)).any()
                    continue
                got = gate.get_data(name)
                assert got.dtype == wanted.dtype
                assert got.shape == wanted.shape
                assert got.tolist() == wanted.tolist()


@pytest.mark.hypothesis
@pytest.mark.filterwarnings("ignore::UserWarning")  # blocks that could be samples
def test_a_store_opens_after_every_step():
    limits = settings(
        max_examples=examples(25), stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Extremes, settings=limits)


@pytest.mark.slow
@pytest.mark.parametrize("n_runs", [3, 100, 2000])
def test_manifests_stay_short_whatever_is_updated(tmp_path, n_runs):
    """Variables, updates and shuffles add to what a manifest holds; they do not multiply it."""
    n_variables, n_rows = 20, 3000
    rng = np.random.default_rng(n_runs)
    names = [f"v{number}" for number in range(n_variables)]
    rows = {name: rng.integers(0, 9, n_rows).astype("i1") for name in names}
    with opened(tmp_path) as gate:
        gate.add_data(names, list(rows.values()))
        for step in range(4):
            index = np.sort(rng.choice(n_rows, n_runs, replace=False))
            new = rng.integers(0, 9, n_runs).astype("i1")
            before = len(list((tmp_path / "store" / "a" / "segments").iterdir()))
            gate["train"][names][index] = [new] * n_variables
            gate["train"][names][5] = [np.int8(step)] * n_variables
            for values in rows.values():
                values[index], values[5] = new, step
            assert len(list((tmp_path / "store" / "a" / "segments").iterdir())) <= before + 4, "one index for all"
            gate.shuffle("train", step)
            order = np.random.RandomState(step).permutation(n_rows)
            rows = {name: values[order] for name, values in rows.items()}
    paths = sorted((tmp_path / "store" / "a" / "manifests").iterdir())
    n_values = [sum(map(path.read_bytes().count, (b",", b"[", b"{"))) for path in paths]
    assert max(n_values) < 300_000
    with opened(tmp_path) as gate:
        for name in (names[0], names[-1]):
            np.testing.assert_array_equal(gate.get_data(name), rows[name])
        gate.shuffle("train", 9)


@pytest.mark.slow
def test_a_thousand_variables_and_scattered_updates(tmp_path):
    n_variables, n_rows = 1100, 3000
    names = [f"v{number}" for number in range(n_variables)]
    rows = np.zeros(n_rows, "i1")
    with opened(tmp_path) as gate:
        gate.add_data(names, [rows] * n_variables)
        for step in (1, 2):
            index = np.arange(step, 800, 3)
            gate["train"][names][index] = [np.full(len(index), step, "i1")] * n_variables
            rows[index] = step
    with opened(tmp_path) as gate:
        for name in (names[0], names[-1]):
            np.testing.assert_array_equal(gate.get_data(name), rows)
