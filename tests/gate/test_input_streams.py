"""Inputs that come in pieces: which are refused with nothing left, and how much of them is in memory."""

from __future__ import annotations

import weakref
from pathlib import Path

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr

from storegate import StoreGate
from storegate_engine.budget import WRITES_IN_FLIGHT, plan_layout
from storegate_engine.errors import MemoryBudgetError, StoreGateError
from tests.gate.input_cases import N, X


def breaks():
    yield X[:500]
    raise RuntimeError("the source broke")


def files(tmp_path):
    return sorted(Path(tmp_path).rglob("*"))


BAD_STREAMS = {
    "another shape": (lambda: iter([X[:500], X[500:, :2]]), ValueError, r"block 1 .*\(2,\).*\(3,\)"),
    "another number of axes": (lambda: iter([X[:500], X[500]]), ValueError, r"block 1 .*\(\).*\(3,\)"),
    "scalars": (lambda: iter([np.arange(3), 3]), (TypeError, ValueError), "block 1"),
    "a wider dtype": (lambda: iter([X[:500], X[500:].astype("f8")]), TypeError, "block 1 .*float64.*float32"),
    "floats after integers": (lambda: iter([np.arange(3), np.array([0.5])]), TypeError, "block 1 .*float64.*int64"),
    "objects": (lambda: iter([np.arange(3), np.array([None])]), TypeError, "object"),
    "objects first": (lambda: iter([np.array([None])]), TypeError, "object"),
    "text after numbers": (lambda: iter([np.arange(3), np.array(["a"])]), TypeError, "block 1"),
    "numbers after text": (lambda: iter([np.array(["a" * 21]), np.arange(3)]), TypeError, "block 1"),
    "nothing": (lambda: iter([]), ValueError, "no block"),
}


@pytest.mark.parametrize("case", BAD_STREAMS)
def test_a_bad_stream_is_a_typed_error_and_nothing_is_left(small, tmp_path, case):
    make, error, message = BAD_STREAMS[case]
    small.add_data("old", [1, 2, 3])
    version, before = small.repository().version, files(tmp_path)
    for names, data in (("x", make()), (["other", "x"], [np.arange(6), make()])):
        with pytest.raises(error, match=message) as caught:
            small.add_data(names, data)
        assert isinstance(caught.value, StoreGateError)
    assert small.repository().version == version
    assert small.get_var_names() == ["old"]
    assert files(tmp_path) == before


def test_a_source_that_breaks_leaves_nothing(small, tmp_path):
    """Blocks that are being written when it breaks are waited for; else they would come back after the removal."""
    small.add_data("old", [1, 2, 3])
    before = files(tmp_path)
    for _ in range(10):
        with pytest.raises(RuntimeError, match="the source broke"):
            small.add_data(["y", "x"], [np.arange(N), breaks()])
    assert small.get_var_names() == ["old"]
    assert files(tmp_path) == before


def test_streams_of_different_lengths_leave_nothing(small, tmp_path):
    small.add_data("old", [1, 2, 3])
    before = files(tmp_path)
    with pytest.raises(ValueError, match="different numbers of rows"):
        small.add_data(["y", "x"], [iter([np.arange(9)]), iter([X[:9], X[:1]])])
    with pytest.raises(ValueError, match="sum to 10"):
        small.add_data("x", iter([X[:9]]), phase=(5, 3, 2))
    assert small.get_var_names() == ["old"]
    assert files(tmp_path) == before


def test_rows_of_an_unknown_number_of_a_dask_array_are_refused_with_the_remedy(small):
    array = da.from_array(X, chunks=(100, 3))
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        small.add_data("x", array[array[:, 0] > 0])


@pytest.mark.parametrize(
    "make_bad", [lambda: da.from_array(np.array([None, {}]), chunks=1), lambda: xr.DataArray(np.array([None]))]
)
def test_lazy_objects_are_refused(small, make_bad):
    with pytest.raises(TypeError, match="object"):
        small.add_data("x", make_bad())
    assert small.get_var_names() == []


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("chunks", [None, (2,)])
def test_texts_of_h5py_are_text(small, tmp_path, encoding, chunks):
    words = ["a", "bcd", "" if encoding == "ascii" else "é"]
    with h5py.File(tmp_path / "text.h5", "w") as file:
        texts = file.create_dataset("text", data=words, dtype=h5py.string_dtype(encoding), chunks=chunks)
        small.add_data("x", texts)
        small.add_data("y", texts.asstr()[:].astype("U"))
    assert small.get_data("x").tolist() == small.get_data("y").tolist() == words
    assert small.get_data("x").dtype.kind == "T"


# -------------------------------------------------------------------------------------- streaming


class Recorder:
    """Rows that exist only while they are asked for; remembers every slice."""

    def __init__(self, n_rows, row_shape, dtype="f4"):
        self.shape = (n_rows, *row_shape)
        self.dtype = np.dtype(dtype)
        self.asked = []

    def rows(self, start, stop):
        size = int(np.prod(self.shape[1:], dtype=int))
        return (np.arange(start * size, stop * size) % 1009).astype(self.dtype).reshape(-1, *self.shape[1:])

    def __getitem__(self, item):
        assert isinstance(item, slice)
        assert item.step in (None, 1)
        self.asked.append((item.start, item.stop))
        return self.rows(item.start, item.stop)

    def assert_streamed(self, block_rows):
        """Every row was asked for once, in order, and never more than a block at a time."""
        starts, stops = zip(*self.asked, strict=True)
        assert starts == (0, *stops[:-1])
        assert stops[-1] == self.shape[0]
        assert len(self.asked) >= 4
        assert max(stop - start for start, stop in self.asked) <= block_rows


def block_rows_of(small_backend, row_nbytes, n_rows):
    if small_backend == "numpy":
        return 2**22 // row_nbytes
    return plan_layout(row_nbytes, n_rows, budget_nbytes=2**26).shard_rows


@pytest.fixture
def roomy(small_backend, tmp_path):
    args = None if small_backend == "numpy" else {"output_dir": tmp_path / "store", "budget": "64MiB"}
    with StoreGate(small_backend, args, data_id="test_id") as opened:
        yield opened


class TestStreaming:
    def test_one_source(self, roomy, small_backend):
        source = Recorder(10_000, (1000,))
        roomy.add_data("x", source, phase=(0.8, 0.1, 0.1), shuffle=3)
        source.assert_streamed(block_rows_of(small_backend, 4000, 10_000))
        order = np.random.RandomState(3).permutation(10_000)
        np.testing.assert_array_equal(roomy.get_data("x", index=0), source.rows(order[0], order[0] + 1)[0])

    def test_a_list_of_sources(self, roomy, small_backend):
        sources = [Recorder(10_000, (1000,)), Recorder(10_000, (50, 10), "f8")]
        roomy.add_data(["x", "y"], sources)
        for source in sources:
            source.assert_streamed(block_rows_of(small_backend, 4000, 10_000))

    def test_a_tuple_of_names(self, roomy, small_backend):
        source = Recorder(10_000, (4, 250))
        roomy.add_data(("a", "b", "c", "d"), source)
        np.testing.assert_array_equal(roomy.get_data("c", index=(40, 45)), source.rows(40, 45)[:, 2])
        source.assert_streamed(block_rows_of(small_backend, 4000, 10_000))

    def test_an_update(self, roomy, small_backend):
        roomy.create_empty("x", (10_000, 1000))
        source = Recorder(10_000, (1000,))
        roomy.update_data("x", source)
        source.assert_streamed(block_rows_of(small_backend, 4000, 10_000))

    def test_a_source_of_the_wrong_length_is_not_read(self, roomy):
        roomy.create_empty("x", (10, 3))
        source, other = Recorder(11, (3,)), Recorder(11, (2,))
        for call in (
            lambda: roomy.update_data("x", source),
            lambda: roomy.update_data("x", source, index=(0, 5)),
            lambda: roomy.add_data("x", source, phase=(5, 5, 5)),
            lambda: roomy.add_data("x", other),
            lambda: roomy.add_data(["y", "z"], [source, np.arange(3)]),
        ):
            with pytest.raises(ValueError, match=r"rows|shape"):
                call()
        assert source.asked == other.asked == []

    def test_blocks_of_an_iterator_are_let_go(self, roomy):
        alive = []
        most = []

        def blocks():
            for number in range(40):
                block = np.full((1024, 1024), number, "f4")
                alive.append(weakref.ref(block))
                most.append(sum(ref() is not None for ref in alive))
                yield block
                del block

        roomy.add_data("x", blocks())
        assert len(most) == 40
        # those being written, the first (it says what the rest must be), the one that is made
        assert max(most) <= WRITES_IN_FLIGHT + 4
        np.testing.assert_array_equal(roomy.get_data("x", index=slice(None, None, 1024))[:, 0], np.arange(40))

    def test_chunks_of_a_dask_array_are_computed_once(self, roomy):
        computed = []

        def compute(block, block_info=None):
            computed.append(block_info[0]["chunk-location"])
            return block

        chunks = (*(700 for _ in range(14)), 200)
        array = da.zeros((10_000, 1000), chunks=(chunks, 500), dtype="f4").map_blocks(compute, dtype="f4")
        computed.clear()  # of the inference of its dtype
        roomy.add_data("x", array)
        assert sorted(computed) == [(row, column) for row in range(15) for column in range(2)]


def test_a_chunk_of_the_data_that_cannot_fit_is_refused(tmp_path):
    gate = StoreGate("zarr", {"output_dir": tmp_path, "budget": "4MiB"}, data_id="a")
    with pytest.raises(MemoryBudgetError, match="rechunk"):
        gate.add_data("x", da.zeros((10_000, 128), chunks=(10_000, 128)))
    gate.add_data("x", da.zeros((10_000, 128), chunks=(100, 128)))
    assert len(gate.table["train"]["x"]) == 10_000
