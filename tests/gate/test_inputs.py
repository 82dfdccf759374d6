"""Inputs beyond ndarrays: each is stored as numpy would have it, streamed block by block and read once."""

from __future__ import annotations

import tracemalloc

import dask.array as da
import h5py
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore

from storegate import StoreGate
from tests.examples import in_turns
from tests.gate.input_cases import N, X


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


class TestEqualsNumpy:
    @pytest.mark.parametrize(("small_backend", "kind"), in_turns(["numpy", "zarr"], KINDS, every=3, first=0))
    def test_single_name(self, small, make, kind):
        small.add_data("x", make(kind, X))
        dtype = np.dtype("f8") if kind == "nested_list" else X.dtype
        equal(small.get_data("x"), X, dtype)
        equal(small["train"]["x"][[999, 0, 599, 600]], X[[999, 0, 599, 600]], dtype)
        equal(small.get_data("x", index=(590, 620)), X[590:620], dtype)

    @pytest.mark.parametrize(("small_backend", "kind"), in_turns(["numpy", "zarr"], KINDS, every=3, first=0))
    def test_append(self, small, make, kind):
        small.add_data("x", X[:7])
        small.add_data("x", make(kind, X))
        np.testing.assert_array_equal(small.get_data("x"), np.concatenate([X[:7], X]))

    @pytest.mark.parametrize(("small_backend", "kind"), in_turns(["numpy", "zarr"], KINDS, every=3, first=1))
    def test_list_of_names_split_and_shuffled(self, small, make, kind):
        y = np.arange(N) * 3
        before = X.copy()
        small.add_data(["x", "y"], [make(kind, X), make(kind, y)], phase=(0.5, 0.25, 0.25), shuffle=7, do_compile=True)
        order = np.random.RandomState(7).permutation(N)
        np.testing.assert_array_equal(small.get_data("x", "all"), X[order])
        equal(small.get_data("y", "valid"), y[order][500:750])
        np.testing.assert_array_equal(small["test"].to_xarray()["x"].values, X[order][750:])
        np.testing.assert_array_equal(X, before)

    @pytest.mark.parametrize(("small_backend", "kind"), in_turns(["numpy", "zarr"], KINDS, first=1))
    def test_counts_and_another_order_of_reading(self, small, make, kind):
        small.add_data("x", make(kind, X), phase=(1, 0, 999), shuffle=True)
        order = np.random.RandomState(1).permutation(N)
        np.testing.assert_array_equal(small.get_data("x", "train"), X[order][:1])
        assert small.get_var_names("valid") == []
        np.testing.assert_array_equal(small["test"]["x"][::-50], X[order][1:][::-50])

    @pytest.mark.parametrize(("small_backend", "kind"), in_turns(["numpy", "zarr"], KINDS, every=3, first=2))
    def test_update_of_all_rows_and_of_a_range(self, small, make, kind):
        small.add_data("x", np.zeros((N, 3), "f4"))
        small.update_data("x", make(kind, X))
        np.testing.assert_array_equal(small.get_data("x"), X)
        small.add_data("z", np.zeros((N + 5, 3), "f4"), "valid")
        small.update_data("z", make(kind, X), "valid", index=(2, N + 2))
        np.testing.assert_array_equal(small.get_data("z", "valid")[2:-3], X)


TUPLES = [kind for kind in KINDS if not kind.startswith(("generator", "iterator")) and kind != "big_endian_blocks"]


@pytest.mark.parametrize(("small_backend", "kind"), in_turns(["numpy", "zarr"], TUPLES, every=3))
def test_tuple_of_names_takes_the_second_axis(small, make, kind):
    rows = np.arange(N * 2 * 4, dtype="f4").reshape(N, 2, 4)
    small.add_data(("a", "b"), make(kind, rows), phase=(500, 400, 100), shuffle=3, do_compile=True)
    order = np.random.RandomState(3).permutation(N)
    np.testing.assert_array_equal(small.get_data("a", "all"), rows[order][:, 0])
    np.testing.assert_array_equal(small.get_data(("a", "b"), "valid"), rows[order][500:900])


def test_entries_of_different_kinds_in_one_list(small, make):
    names = list(KINDS)
    small.add_data(names, [make(kind, X) for kind in names])
    for name in names:
        np.testing.assert_array_equal(small.get_data(name), X)


def test_torch_tensors(small):
    torch = pytest.importorskip("torch")
    small.add_data(["x", "y"], [torch.tensor(X.copy()), torch.arange(N)], shuffle=2)
    order = np.random.RandomState(2).permutation(N)
    equal(small.get_data("x"), X[order])
    equal(small.get_data("x", index=torch.tensor([3, 0])), X[order][[3, 0]])


def test_a_changed_copy_on_write_memmap_keeps_its_changes(small, tmp_path):
    (tmp_path / "inputs").mkdir()
    rows = memmap(X, tmp_path / "inputs", "c")
    rows[::2] = -1
    expected = np.array(rows)
    small.add_data("x", rows)
    np.testing.assert_array_equal(small.get_data("x"), expected)
    np.testing.assert_array_equal(rows, expected)


def test_a_changed_memmap_keeps_its_changes(small, tmp_path):
    """Pages of a file that is written to are dropped from memory too, but never lost."""
    (tmp_path / "inputs").mkdir()
    rows = memmap(X, tmp_path / "inputs", "r+")
    rows[::2] = -1
    expected = np.array(rows)
    small.add_data("x", rows[5:])
    np.testing.assert_array_equal(small.get_data("x"), expected[5:])
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("name", ["shards", "chunks", "dtype", "shape"])
def test_attributes_of_an_xarray_variable_are_no_layout(small, name):
    small.add_data("x", xr.DataArray(X, attrs={name: 4}))
    np.testing.assert_array_equal(small.get_data("x"), X)


@pytest.fixture
def file_of_chunks(tmp_path):
    """A store that xarray wrote, in chunks of 1,000 rows, and its rows."""
    rows = np.random.default_rng(0).random((40_000, 25))
    dataset = xr.Dataset({"x": (("sample", "a"), rows)})
    dataset.to_zarr(tmp_path / "other.zarr", zarr_format=2, encoding={"x": {"chunks": (1000, 25)}})
    return tmp_path / "other.zarr", rows


def test_a_dataarray_of_a_file_is_streamed_and_stays_on_the_disk(small_backend, file_of_chunks, tmp_path):
    path, rows = file_of_chunks
    args = None if small_backend == "numpy" else {"output_dir": tmp_path / "store", "chunk": 100, "budget": "4MiB"}
    gate = StoreGate(small_backend, args, "test_id")
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
def test_no_rows(small, make, kind):
    rows = np.empty((0, 3), "i2")
    small.add_data("x", make(kind, rows))
    assert small.get_data("x").shape == (0, 3)
    assert small.get_data("x").dtype == np.int16
    small.add_data("x", [[1, 2, 3]])
    np.testing.assert_array_equal(small.get_data("x"), [[1, 2, 3]])


def test_no_rows_of_a_split(small):
    small.add_data("x", iter([np.empty((0, 2))]), phase=(0.5, 0.25, 0.25))
    assert [small.get_var_names(phase) for phase in ("train", "valid", "test")] == [[], [], []]


@pytest.mark.parametrize(
    ("small_backend", "shape", "kind"),
    in_turns(
        ["numpy", "zarr"], [(9, 300, 300), (3, 1500, 1500)], ["dask", "memmap", "generator", "h5py", "zarr"], every=4
    ),
)
def test_rows_larger_than_a_chunk(small_backend, tmp_path, kind, shape):
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
    args = None if small_backend == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(small_backend, args, "test_id") as gate:
        gate.add_data("x", data, shuffle=5)
        order = np.random.RandomState(5).permutation(len(rows))
        equal(gate.get_data("x"), rows[order])
        equal(gate.get_data("x", index=1), rows[order[1]])
    if kind == "h5py":
        data.file.close()


# ------------------------------------------------------------------------------------------ text


def test_text_blocks_of_growing_width(small):
    blocks = [np.array(["a", "bc"]), np.array(["déf"] * 200), np.array(["", "a much longer text"])]
    expected = np.concatenate(blocks)
    small.add_data("u", iter(blocks), shuffle=4)
    order = np.random.RandomState(4).permutation(len(expected))
    equal(small.get_data("u"), expected[order])
    assert small.get_data("u", index=0) == expected[order[0]]


def test_bytes_of_growing_width(small):
    blocks = [np.array([b"a", b"\xff"]), np.array([b"longer", b""])]
    small.add_data("s", iter(blocks))
    equal(small.get_data("s"), np.concatenate(blocks))


def test_variable_length_text(small):
    text = np.array(["a", "longer", "é" * 40], np.dtypes.StringDType())
    small.add_data("t", iter([text, text[::-1]]))
    assert small.get_data("t").tolist() == [*text.tolist(), *text[::-1].tolist()]
    assert small.get_data("t").dtype == np.dtypes.StringDType()


def test_text_of_other_libraries(small, make):
    text = np.array(["a", "bcd", "é", ""] * (N // 4))
    variable = text.astype(np.dtypes.StringDType())
    small.add_data(["zarr", "xarray"], [make("zarr_one_shard", variable), xr.DataArray(text)])
    for name in ("zarr", "xarray"):
        assert small.get_data(name).tolist() == text.tolist()
