"""Inputs beyond ndarrays: each is stored as numpy would have it, streamed block by block and read once."""

from __future__ import annotations

import tracemalloc
import weakref
from pathlib import Path

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

from storegate import StoreGate
from storegate_engine.budget import WRITES_IN_FLIGHT, plan_layout
from storegate_engine.errors import MemoryBudgetError, StoreGateError

N = 1000
X = np.random.default_rng(0).standard_normal((N, 3)).astype("f4")
X.flags.writeable = False


@pytest.fixture(params=["numpy", "zarr"])
def backend(request):
    return request.param


@pytest.fixture
def gate(backend, tmp_path):
    """A gate that stores a few dozen rows of ``X`` at a time, so that everything below is many blocks."""
    args = None if backend == "numpy" else {"output_dir": tmp_path / "store", "chunk": 10, "budget": 40_000}
    with StoreGate(backend, args, data_id="test_id") as opened:
        yield opened


def memmap(rows, directory, mode):
    path = directory / f"{len(list(directory.iterdir()))}.raw"
    rows.tofile(path)
    return np.memmap(path, rows.dtype, mode, shape=rows.shape)


def zarr_array(rows, directory, **options):
    array = zarr.create_array(
        directory / f"{len(list(directory.iterdir()))}.zarr", shape=rows.shape, dtype=rows.dtype, **options
    )
    array[...] = rows
    return array


def dataset(rows, directory, **options):
    file = h5py.File(directory / f"{len(list(directory.iterdir()))}.h5", "w")
    return file.create_dataset("rows", data=rows, **options)


def irregular(rows, directory):
    chunks = dict.fromkeys(range(1, rows.ndim), -1)
    return da.from_array(rows, chunks={0: (1, 599, 7, 0, 193, 200), **chunks})


def split_in_columns(rows, directory):
    return da.from_array(rows, chunks=(90, *(1 for _ in rows.shape[1:])))


KINDS = {
    "dask": irregular,
    "dask_columns": split_in_columns,
    "dask_of_zarr": lambda rows, directory: da.from_zarr(zarr_array(rows, directory, chunks=(130, *rows.shape[1:]))),
    "zarr": lambda rows, directory: zarr_array(rows, directory, chunks=(77, *rows.shape[1:])),
    "zarr_sharded": lambda rows, directory: zarr_array(
        rows, directory, chunks=(7, *rows.shape[1:]), shards=(35, *rows.shape[1:])
    ),
    "zarr_one_shard": lambda rows, directory: zarr_array(
        rows, directory, chunks=(50, *rows.shape[1:]), shards=(N, *rows.shape[1:])
    ),
    "zarr_v2": lambda rows, directory: zarr_array(rows, directory, chunks=(90, *rows.shape[1:]), zarr_format=2),
    "h5py": dataset,
    "h5py_chunked": lambda rows, directory: dataset(rows, directory, chunks=(33, *rows.shape[1:]), compression="gzip"),
    "memmap_r": lambda rows, directory: memmap(rows, directory, "r"),
    "memmap_r+": lambda rows, directory: memmap(rows, directory, "r+"),
    "memmap_c": lambda rows, directory: memmap(rows, directory, "c"),
    "xarray": lambda rows, directory: xr.DataArray(rows),
    "xarray_dask": lambda rows, directory: xr.DataArray(irregular(rows, directory)),
    "xarray_with_coords": lambda rows, directory: xr.DataArray(
        rows, dims=("sample", *"ab"[: rows.ndim - 1]), coords={"sample": np.arange(len(rows))[::-1]}, name="other"
    ),
    "generator": lambda rows, directory: (rows[lo : lo + 130] for lo in range(0, len(rows), 130)),
    "iterator_of_single_rows": lambda rows, directory: iter(np.split(rows, len(rows))),
    "iterator_of_one_block": lambda rows, directory: iter([rows]),
    "iterator_with_empty_blocks": lambda rows, directory: iter([rows[:0], rows[:700], rows[:0], rows[700:], rows[:0]]),
    "nested_list": lambda rows, directory: rows.tolist(),
    "tuple_of_rows": lambda rows, directory: tuple(rows),
    "big_endian": lambda rows, directory: rows.astype(rows.dtype.newbyteorder(">")),
    "big_endian_blocks": lambda rows, directory: (
        part.astype(part.dtype.newbyteorder(">")) for part in np.split(rows, 8)
    ),
    "reversed_view": lambda rows, directory: rows[::-1].copy()[::-1],
    "strided_view": lambda rows, directory: np.repeat(rows, 3, axis=0)[::3],
    "fortran": lambda rows, directory: np.asfortranarray(rows),
    "broadcast_view": lambda rows, directory: np.broadcast_to(rows, rows.shape),
    "subclass": lambda rows, directory: rows.view(type("Sub", (np.ndarray,), {})),
}


@pytest.fixture
def make(tmp_path, request):
    """Return a function that makes data of the kind that a test is parametrized with."""
    directory = tmp_path / "inputs"
    directory.mkdir()
    made = []

    def build(kind, rows):
        made.append(KINDS[kind](rows, directory))
        return made[-1]

    yield build
    for data in made:
        if isinstance(data, h5py.Dataset):
            data.file.close()


def equal(found, expected, dtype=None):
    assert type(found) is np.ndarray
    assert found.dtype == (dtype or expected.dtype.newbyteorder("="))
    np.testing.assert_array_equal(found, expected)


# ------------------------------------------------------------------------------ as numpy has it


@pytest.mark.parametrize("kind", KINDS)
class TestEqualsNumpy:
    def test_single_name(self, gate, make, kind):
        gate.add_data("x", make(kind, X))
        dtype = np.dtype("f8") if kind == "nested_list" else X.dtype
        equal(gate.get_data("x"), X, dtype)
        equal(gate["train"]["x"][[999, 0, 599, 600]], X[[999, 0, 599, 600]], dtype)
        equal(gate.get_data("x", index=(590, 620)), X[590:620], dtype)

    def test_append(self, gate, make, kind):
        gate.add_data("x", X[:7])
        gate.add_data("x", make(kind, X))
        np.testing.assert_array_equal(gate.get_data("x"), np.concatenate([X[:7], X]))

    def test_list_of_names_split_and_shuffled(self, gate, make, kind):
        y = np.arange(N) * 3
        before = X.copy()
        gate.add_data(["x", "y"], [make(kind, X), make(kind, y)], phase=(0.5, 0.25, 0.25), shuffle=7, do_compile=True)
        order = np.random.RandomState(7).permutation(N)
        np.testing.assert_array_equal(gate.get_data("x", "all"), X[order])
        equal(gate.get_data("y", "valid"), y[order][500:750])
        np.testing.assert_array_equal(gate["test"].to_xarray()["x"].values, X[order][750:])
        np.testing.assert_array_equal(X, before)

    def test_counts_and_another_order_of_reading(self, gate, make, kind):
        gate.add_data("x", make(kind, X), phase=(1, 0, 999), shuffle=True)
        order = np.random.RandomState(1).permutation(N)
        np.testing.assert_array_equal(gate.get_data("x", "train"), X[order][:1])
        assert gate.get_var_names("valid") == []
        np.testing.assert_array_equal(gate["test"]["x"][::-50], X[order][1:][::-50])

    def test_update_of_all_rows_and_of_a_range(self, gate, make, kind):
        gate.add_data("x", np.zeros((N, 3), "f4"))
        gate.update_data("x", make(kind, X))
        np.testing.assert_array_equal(gate.get_data("x"), X)
        gate.add_data("z", np.zeros((N + 5, 3), "f4"), "valid")
        gate.update_data("z", make(kind, X), "valid", index=(2, N + 2))
        np.testing.assert_array_equal(gate.get_data("z", "valid")[2:-3], X)


TUPLES = [kind for kind in KINDS if not kind.startswith(("generator", "iterator")) and kind != "big_endian_blocks"]


@pytest.mark.parametrize("kind", TUPLES)
def test_tuple_of_names_takes_the_second_axis(gate, make, kind):
    rows = np.arange(N * 2 * 4, dtype="f4").reshape(N, 2, 4)
    gate.add_data(("a", "b"), make(kind, rows), phase=(500, 400, 100), shuffle=3, do_compile=True)
    order = np.random.RandomState(3).permutation(N)
    np.testing.assert_array_equal(gate.get_data("a", "all"), rows[order][:, 0])
    np.testing.assert_array_equal(gate.get_data(("a", "b"), "valid"), rows[order][500:900])


def test_entries_of_different_kinds_in_one_list(gate, make):
    names = list(KINDS)
    gate.add_data(names, [make(kind, X) for kind in names])
    for name in names:
        np.testing.assert_array_equal(gate.get_data(name), X)


def test_torch_tensors(gate):
    torch = pytest.importorskip("torch")
    gate.add_data(["x", "y"], [torch.tensor(X.copy()), torch.arange(N)], shuffle=2)
    order = np.random.RandomState(2).permutation(N)
    equal(gate.get_data("x"), X[order])
    equal(gate.get_data("x", index=torch.tensor([3, 0])), X[order][[3, 0]])


def test_a_changed_copy_on_write_memmap_keeps_its_changes(gate, tmp_path):
    (tmp_path / "inputs").mkdir()
    rows = memmap(X, tmp_path / "inputs", "c")
    rows[::2] = -1
    expected = np.array(rows)
    gate.add_data("x", rows)
    np.testing.assert_array_equal(gate.get_data("x"), expected)
    np.testing.assert_array_equal(rows, expected)


def test_a_changed_memmap_keeps_its_changes(gate, tmp_path):
    """Pages of a file that is written to are dropped from memory too, but never lost."""
    (tmp_path / "inputs").mkdir()
    rows = memmap(X, tmp_path / "inputs", "r+")
    rows[::2] = -1
    expected = np.array(rows)
    gate.add_data("x", rows[5:])
    np.testing.assert_array_equal(gate.get_data("x"), expected[5:])
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("name", ["shards", "chunks", "dtype", "shape"])
def test_attributes_of_an_xarray_variable_are_no_layout(gate, name):
    gate.add_data("x", xr.DataArray(X, attrs={name: 4}))
    np.testing.assert_array_equal(gate.get_data("x"), X)


@pytest.fixture
def file_of_chunks(tmp_path):
    """A store that xarray wrote, in chunks of 1,000 rows, and its rows."""
    rows = np.random.default_rng(0).random((40_000, 25))
    dataset = xr.Dataset({"x": (("sample", "a"), rows)})
    dataset.to_zarr(tmp_path / "other.zarr", zarr_format=2, encoding={"x": {"chunks": (1000, 25)}})
    return tmp_path / "other.zarr", rows


def test_a_dataarray_of_a_file_is_streamed_and_stays_on_the_disk(backend, file_of_chunks, tmp_path):
    path, rows = file_of_chunks
    args = None if backend == "numpy" else {"output_dir": tmp_path / "store", "chunk": 100, "budget": "4MiB"}
    gate = StoreGate(backend, args, "test_id")
    with xr.open_zarr(path, chunks=None) as dataset:
        gate.add_data("first", dataset["x"][:2000])  # what the first call imports and keeps for all
        tracemalloc.start()
        gate.add_data("x", dataset["x"])
        held = sum(trace.size for trace in tracemalloc.take_snapshot().traces)
        tracemalloc.stop()
        stored = gate.table["train"]["x"].nbytes if gate.backend == "numpy" else 0
        assert held < stored + rows.nbytes / 4
    np.testing.assert_array_equal(gate.get_data("x"), rows)


def test_a_chunk_of_a_file_is_decoded_once(file_of_chunks, tmp_path, monkeypatch):
    """Blocks that are written follow the chunks of the file, where xarray knows them, as it does without dask."""
    path, rows = file_of_chunks
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100, "budget": "4MiB"}, "test_id")
    reads = []
    get = LocalStore.get

    async def counted(self, key, *args, **kwargs):
        if key[:2] == "x/" and key[2].isdigit():
            reads.append(key)
        return await get(self, key, *args, **kwargs)

    with xr.open_zarr(path, chunks=None) as dataset:
        monkeypatch.setattr(LocalStore, "get", counted)
        gate.add_data("x", dataset["x"])
        gate.add_data("y", dataset["x"].variable[500:])
    assert 40 <= len(reads) <= 40 + 2 * 40  # the second does not begin where a chunk does
    np.testing.assert_array_equal(gate.get_data("x"), rows)
    np.testing.assert_array_equal(gate.get_data("y"), rows[500:])


# ---------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    "kind", ["dask_columns", "zarr", "h5py", "xarray", "iterator_of_one_block", "big_endian", "strided_view"]
)
def test_no_rows(gate, make, kind):
    rows = np.empty((0, 3), "i2")
    gate.add_data("x", make(kind, rows))
    assert gate.get_data("x").shape == (0, 3)
    assert gate.get_data("x").dtype == np.int16
    gate.add_data("x", [[1, 2, 3]])
    np.testing.assert_array_equal(gate.get_data("x"), [[1, 2, 3]])


def test_no_rows_of_a_split(gate):
    gate.add_data("x", iter([np.empty((0, 2))]), phase=(0.5, 0.25, 0.25))
    assert [gate.get_var_names(phase) for phase in ("train", "valid", "test")] == [[], [], []]


@pytest.mark.parametrize("kind", ["dask", "memmap", "generator", "h5py", "zarr"])
@pytest.mark.parametrize("shape", [(9, 300, 300), (3, 1500, 1500)])
def test_rows_larger_than_a_chunk(backend, tmp_path, kind, shape):
    """Samples of 360 kB and of 9 MB; a chunk is 256 kB."""
    rows = np.random.default_rng(1).random(shape, "f4")
    directory = tmp_path / "inputs"
    directory.mkdir()
    data = {
        "dask": lambda: da.from_array(rows, chunks=(2, 200, -1)),
        "memmap": lambda: memmap(rows, directory, "r"),
        "generator": lambda: (rows[at : at + 2] for at in range(0, len(rows), 2)),
        "h5py": lambda: dataset(rows, directory),
        "zarr": lambda: zarr_array(rows, directory, chunks=(1, 100, 1500)),
    }[kind]()
    args = None if backend == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(backend, args, "test_id") as gate:
        gate.add_data("x", data, shuffle=5)
        order = np.random.RandomState(5).permutation(len(rows))
        equal(gate.get_data("x"), rows[order])
        equal(gate.get_data("x", index=1), rows[order[1]])
    if kind == "h5py":
        data.file.close()


# ------------------------------------------------------------------------------------------ text


def test_text_blocks_of_growing_width(gate):
    blocks = [np.array(["a", "bc"]), np.array(["déf"] * 200), np.array(["", "a much longer text"])]
    expected = np.concatenate(blocks)
    gate.add_data("u", iter(blocks), shuffle=4)
    order = np.random.RandomState(4).permutation(len(expected))
    equal(gate.get_data("u"), expected[order])
    assert gate.get_data("u", index=0) == expected[order[0]]


def test_bytes_of_growing_width(gate):
    blocks = [np.array([b"a", b"\xff"]), np.array([b"longer", b""])]
    gate.add_data("s", iter(blocks))
    equal(gate.get_data("s"), np.concatenate(blocks))


def test_variable_length_text(gate):
    text = np.array(["a", "longer", "é" * 40], np.dtypes.StringDType())
    gate.add_data("t", iter([text, text[::-1]]))
    assert gate.get_data("t").tolist() == [*text.tolist(), *text[::-1].tolist()]
    assert gate.get_data("t").dtype == np.dtypes.StringDType()


def test_text_of_other_libraries(gate, make):
    text = np.array(["a", "bcd", "é", ""] * (N // 4))
    variable = text.astype(np.dtypes.StringDType())
    gate.add_data(["zarr", "xarray"], [make("zarr_one_shard", variable), xr.DataArray(text)])
    for name in ("zarr", "xarray"):
        assert gate.get_data(name).tolist() == text.tolist()


# ---------------------------------------------------------------------------------------- errors


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
def test_a_bad_stream_is_a_typed_error_and_nothing_is_left(gate, tmp_path, case):
    make, error, message = BAD_STREAMS[case]
    gate.add_data("old", [1, 2, 3])
    version, before = gate.repository().version, files(tmp_path)
    for names, data in (("x", make()), (["other", "x"], [np.arange(6), make()])):
        with pytest.raises(error, match=message) as caught:
            gate.add_data(names, data)
        assert isinstance(caught.value, StoreGateError)
    assert gate.repository().version == version
    assert gate.get_var_names() == ["old"]
    assert files(tmp_path) == before


def test_a_source_that_breaks_leaves_nothing(gate, tmp_path):
    """Blocks that are being written when it breaks are waited for; else they would come back after the removal."""
    gate.add_data("old", [1, 2, 3])
    before = files(tmp_path)
    for _ in range(10):
        with pytest.raises(RuntimeError, match="the source broke"):
            gate.add_data(["y", "x"], [np.arange(N), breaks()])
    assert gate.get_var_names() == ["old"]
    assert files(tmp_path) == before


def test_streams_of_different_lengths_leave_nothing(gate, tmp_path):
    gate.add_data("old", [1, 2, 3])
    before = files(tmp_path)
    with pytest.raises(ValueError, match="different numbers of rows"):
        gate.add_data(["y", "x"], [iter([np.arange(9)]), iter([X[:9], X[:1]])])
    with pytest.raises(ValueError, match="sum to 10"):
        gate.add_data("x", iter([X[:9]]), phase=(5, 3, 2))
    assert gate.get_var_names() == ["old"]
    assert files(tmp_path) == before


def test_rows_of_an_unknown_number_of_a_dask_array_are_refused_with_the_remedy(gate):
    array = da.from_array(X, chunks=(100, 3))
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        gate.add_data("x", array[array[:, 0] > 0])


@pytest.mark.parametrize(
    "make_bad", [lambda: da.from_array(np.array([None, {}]), chunks=1), lambda: xr.DataArray(np.array([None]))]
)
def test_lazy_objects_are_refused(gate, make_bad):
    with pytest.raises(TypeError, match="object"):
        gate.add_data("x", make_bad())
    assert gate.get_var_names() == []


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("chunks", [None, (2,)])
def test_texts_of_h5py_are_text(gate, tmp_path, encoding, chunks):
    words = ["a", "bcd", "" if encoding == "ascii" else "é"]
    with h5py.File(tmp_path / "text.h5", "w") as file:
        texts = file.create_dataset("text", data=words, dtype=h5py.string_dtype(encoding), chunks=chunks)
        gate.add_data("x", texts)
        gate.add_data("y", texts.asstr()[:].astype("U"))
    assert gate.get_data("x").tolist() == gate.get_data("y").tolist() == words
    assert gate.get_data("x").dtype.kind == "T"


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


def block_rows_of(backend, row_nbytes, n_rows):
    if backend == "numpy":
        return 2**22 // row_nbytes
    return plan_layout(row_nbytes, n_rows, budget_nbytes=2**26).shard_rows


@pytest.fixture
def roomy(backend, tmp_path):
    args = None if backend == "numpy" else {"output_dir": tmp_path / "store", "budget": "64MiB"}
    with StoreGate(backend, args, data_id="test_id") as opened:
        yield opened


class TestStreaming:
    def test_one_source(self, roomy, backend):
        source = Recorder(10_000, (1000,))
        roomy.add_data("x", source, phase=(0.8, 0.1, 0.1), shuffle=3)
        source.assert_streamed(block_rows_of(backend, 4000, 10_000))
        order = np.random.RandomState(3).permutation(10_000)
        np.testing.assert_array_equal(roomy.get_data("x", index=0), source.rows(order[0], order[0] + 1)[0])

    def test_a_list_of_sources(self, roomy, backend):
        sources = [Recorder(10_000, (1000,)), Recorder(10_000, (50, 10), "f8")]
        roomy.add_data(["x", "y"], sources)
        for source in sources:
            source.assert_streamed(block_rows_of(backend, 4000, 10_000))

    def test_a_tuple_of_names(self, roomy, backend):
        source = Recorder(10_000, (4, 250))
        roomy.add_data(("a", "b", "c", "d"), source)
        np.testing.assert_array_equal(roomy.get_data("c", index=(40, 45)), source.rows(40, 45)[:, 2])
        source.assert_streamed(block_rows_of(backend, 4000, 10_000))

    def test_an_update(self, roomy, backend):
        roomy.create_empty("x", (10_000, 1000))
        source = Recorder(10_000, (1000,))
        roomy.update_data("x", source)
        source.assert_streamed(block_rows_of(backend, 4000, 10_000))

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
