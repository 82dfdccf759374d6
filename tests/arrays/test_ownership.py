"""Whose memory rows lie in: a caller's is copied before it is checked or written, and never looked at again."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.arrays import checksums
from storegate_engine.arrays.shards import Shards
from tests.examples import in_turns

TEXT = np.dtypes.StringDType()
BLOCK = 24
N_BLOCKS = 4
DTYPES = {
    "f4": np.dtype("f4"),
    "big-endian": np.dtype(">i8"),
    "dates": np.dtype("M8[s]"),
    "text": np.dtype("U7"),
    "bytes": np.dtype("S5"),
    "variable text": TEXT,
}


GATES = ["numpy", "numpy without copies", "zarr", "hybrid"]


@pytest.fixture(params=GATES)
def gate(request, tmp_path):
    """A gate whose shards have fewer rows than a block or more, by the bytes of a row."""
    args = {"output_dir": tmp_path / "store", "budget": 800_000}
    if request.param.startswith("numpy"):
        args = {"copy": request.param == "numpy"}
    with StoreGate(request.param.split()[0], args, data_id="a") as opened:
        yield opened


def values(dtype, number, rows=BLOCK, shape=()):
    found = np.full((rows, *shape), number, "i8").astype("M8[s]" if dtype.kind == "M" else dtype)
    return found.astype(dtype)


def reusing(dtype, *, shape=(), buffer=None, start=0):
    """Yield blocks in one piece of memory, which is filled with something else when all is read."""
    memory = np.empty((BLOCK, *shape), dtype) if buffer is None else buffer
    for number in range(start, start + N_BLOCKS):
        memory[...] = values(dtype, number, shape=shape)
        yield memory
        memory[...] = values(dtype, 77, shape=shape)


def expected(dtype, *, shape=(), start=0):
    return np.concatenate([values(dtype, number, shape=shape) for number in range(start, start + N_BLOCKS)])


def require(gate, wanted, name="x"):
    got = gate.get_data(name)
    assert got.shape == wanted.shape
    assert (got == wanted).all()
    if gate.backend != "numpy":
        assert not gate.verify().problems


class TestIteratorsThatUseTheirMemoryAgain:
    @pytest.mark.parametrize(
        ("gate", "shape", "dtype"),
        [*in_turns(GATES, ((), (300,)), DTYPES.values(), every=5), *in_turns(GATES, [(2000,)], [DTYPES["f4"]])],
        indirect=["gate"],
        ids=str,
    )
    def test_one_variable(self, gate, dtype, shape):
        gate.add_data("x", reusing(dtype, shape=shape))
        require(gate, expected(dtype, shape=shape))
        gate.update_data("x", reusing(dtype, shape=shape, start=20))
        require(gate, expected(dtype, shape=shape, start=20))
        gate.update_data("x", reusing(dtype, shape=shape, start=40), index=slice(None, None, -1))
        require(gate, expected(dtype, shape=shape, start=40)[::-1])

    def test_a_tuple_of_names(self, gate):
        dtype = np.dtype("f4")
        gate.add_data(("x", "y"), reusing(dtype, shape=(2, 64)))
        for name in "xy":
            require(gate, expected(dtype, shape=(64,)), name)

    def test_a_list_whose_iterators_fill_the_same_memory(self, gate):
        dtype = np.dtype("f4")
        memory = np.empty((BLOCK, 64), dtype)
        gate.add_data(["x", "y"], [reusing(dtype, shape=(64,), buffer=memory, start=at) for at in (0, 30)])
        require(gate, expected(dtype, shape=(64,)), "x")
        require(gate, expected(dtype, shape=(64,), start=30), "y")


@pytest.mark.parametrize("wrap", [np.asarray, lambda x: da.from_array(x, chunks=(100, 64)), lambda x: iter([x])])
@pytest.mark.parametrize("when", ["before a shard is written", "before its checksum is made"])
def test_what_is_checked_and_what_is_written_are_the_same_bytes(tmp_path, monkeypatch, wrap, when):
    """A thread may change the rows at any moment: whatever was stored must be sound."""
    rows = np.zeros((1000, 64), "f4")

    def changing(function):
        def changed(*args, **options):
            rows[...] += 1
            return function(*args, **options)

        return changed

    if when.startswith("before a shard"):
        monkeypatch.setattr(Shards, "write", changing(Shards.write))
    else:
        monkeypatch.setattr(checksums, "of_rows", changing(checksums.of_rows))
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 50}, data_id="a") as gate:
        gate.add_data("x", wrap(rows))
        assert rows.any()
        assert not gate.verify().problems
        assert len(gate.get_data("x")) == 1000


@pytest.mark.parametrize("compute", [True, False])
def test_an_index_may_change_after_the_call(gate, compute):
    gate.add_data("x", np.arange(100))
    for index in (np.array([5, 9]), np.arange(100) == 7):
        wanted = gate.get_data("x", index=index.copy())
        got = gate.get_data("x", index=index, compute=compute)
        index[...] = 0
        np.testing.assert_array_equal(np.asarray(got), wanted)
