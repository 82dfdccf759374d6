"""Lists and sparse matrices of tables, arrays and files of other libraries: what goes in comes out equal."""

from __future__ import annotations

import anndata
import awkward as ak
import datasets
import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
import xarray as xr
import zarr
from scipy import sparse

from storegate import Ragged, StoreGate, errors
from tests.gate.list_cases import LISTS, MATRIX, N, require_lists, require_matrix

PLAIN = [row.tolist() for row in LISTS]
TABLES = {
    "mapping": lambda: {"t": LISTS, "row": np.arange(N)},
    "mapping of lists": lambda: {"t": PLAIN, "row": list(range(N))},
    "objects": lambda: {"t": np.array(LISTS, object), "row": np.arange(N)},
    "records": lambda: [{"t": row, "row": number} for number, row in enumerate(PLAIN)],
    "pyarrow": lambda: pa.table({"t": PLAIN, "row": range(N)}),
    "large lists": lambda: pa.table({"t": pa.array(PLAIN, pa.large_list(pa.int64())), "row": range(N)}),
    "a slice": lambda: pa.table({"t": [[9], *PLAIN, [9]], "row": range(-1, N + 1)}).slice(1, N),
    "chunks": lambda: pa.concat_tables([pa.table({"t": PLAIN[:9], "row": range(9)}), TABLES["a rest"]()]),
    "a rest": lambda: pa.table({"t": PLAIN[9:], "row": range(9, N)}),
    "polars": lambda: pl.DataFrame({"t": PLAIN, "row": range(N)}),
    "pandas": lambda: pd.DataFrame({"t": PLAIN, "row": range(N)}),
    "pandas of arrays": lambda: pd.DataFrame({"t": LISTS, "row": range(N)}),
    "datasets": lambda: datasets.Dataset.from_dict({"t": PLAIN, "row": list(range(N))}),
    "awkward": lambda: {"t": ak.Array(PLAIN), "row": np.arange(N)},
    "a part of awkward": lambda: {"t": ak.Array([[9], *PLAIN])[1:], "row": np.arange(N)},
}


@pytest.mark.parametrize("kind", [kind for kind in TABLES if kind != "a rest"])
def test_lists_of_tables_come_back(kind):
    gate = StoreGate(data_id="a")
    gate.add_data(TABLES[kind]())
    require_lists(gate["train"]["t"][:], LISTS)
    assert gate["train"]["t"].dtype == np.int64
    np.testing.assert_array_equal(gate["train"]["row"][:], np.arange(N))


@pytest.mark.parametrize("convert", ["to_arrow", "to_polars", "to_pandas"])
def test_lists_go_out_as_lists(convert):
    gate = StoreGate(data_id="a")
    gate.add_data({"t": LISTS, "words": [["a", "bb"]] * (N - 1) + [[]], "pairs": [row.reshape(-1, 1) for row in LISTS]})
    gate.shuffle(seed=1, phase="train")
    order = np.random.RandomState(1).permutation(N)
    table = getattr(gate["train"][["t", "words"]], convert)()
    column = table["t"].to_pylist() if convert == "to_arrow" else table["t"].to_list()
    require_lists([np.asarray(row, np.int64) for row in column], [LISTS[at] for at in order])
    words = table["words"].to_pylist() if convert == "to_arrow" else table["words"].to_list()
    assert [list(row) for row in words] == [[] if at == N - 1 else ["a", "bb"] for at in order]
    rows = gate["train"]["pairs"][:]
    assert rows.item_shape == (1,)
    again = StoreGate(data_id="a")
    again.add_data(table)
    require_lists(again["train"]["t"][:], gate["train"]["t"][:])


def test_awkward_and_numpy_take_what_is_read():
    gate = StoreGate(data_id="a")
    gate.add_data("t", LISTS)
    rows = gate["train"]["t"][:]
    assert rows.to_awkward().to_list() == PLAIN
    assert ak.sum(rows[5:9].to_awkward()) == sum(map(sum, PLAIN[5:9]))
    assert np.asarray(rows).shape == (N,)
    with pytest.raises(errors.DtypeError, match="pad them"):
        np.asarray(rows, np.float32)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (pa.table({"t": [[1], None]}), errors.MissingValueError, "1 lists are null"),
        (pa.table({"t": [[1, None]]}), errors.MissingValueError, "1 items are null"),
        (pa.table({"t": [[[1], [2]], [[3]]]}), errors.DtypeError, "each level"),
        (pa.table({"t": [[{"a": 1}], []]}), errors.DtypeError, "lists hold numbers or text"),
        ({"t": ak.Array([[1, None], []])}, errors.MissingValueError, "fill_none"),
        ({"t": ak.Array([[[1]], []])}, errors.DtypeError, "each level"),
        ({"t": ak.Array([[{"a": 1}], []])}, errors.DtypeError, "each field"),
        ({"t": [np.zeros((1, 2)), np.zeros((2, 3))]}, errors.ShapeError, "more than their length"),
        ({"t": [[1, "a"], []]}, errors.DtypeError, "'t'"),
    ],
)
def test_lists_that_cannot_be_stored_say_why(data, kind, message):
    gate = StoreGate(data_id="a")
    with pytest.raises(kind, match=message):
        gate.add_data(data)
    assert gate.variables == ()


@pytest.mark.parametrize("form", ["csr_matrix", "csr_array", "csc_array", "lil_array", "twice"])
def test_sparse_matrices_come_back(form):
    entries = MATRIX.tocoo()
    places = np.tile(entries.row, 2), np.tile(entries.col, 2)
    twice = sparse.csr_array((np.tile(entries.data, 2), places), MATRIX.shape)
    given, expected = (twice / 2, MATRIX) if form == "twice" else (getattr(sparse, form)(MATRIX), MATRIX)
    gate = StoreGate(data_id="a")
    gate.add_data("m", given.astype("f4"))
    require_matrix(gate["train"]["m"][:], expected)
    gate.add_data("m", (MATRIX[lo : lo + 60] for lo in range(0, N, 60)))
    require_matrix(gate["train"]["m"][N:], MATRIX)


def anndata_of(n_rows):
    obs = pd.DataFrame({"row": np.arange(n_rows)}, index=[f"cell {number}" for number in range(n_rows)])
    counts = sparse.csr_matrix((MATRIX[:n_rows] * 100).astype("i4"))
    return anndata.AnnData(X=sparse.csr_matrix(MATRIX[:n_rows]), obs=obs, layers={"counts": counts})


@pytest.mark.parametrize("how", ["add", "read", "files"])
def test_anndata_comes_back_sparse(gate, tmp_path, how):
    data = anndata_of(N)
    if how == "add":
        gate.add_data(data)
    elif how == "read":
        data.write_h5ad(tmp_path / "a.h5ad")
        gate.read(tmp_path / "a.h5ad")
    else:
        data[:70].copy().write_h5ad(tmp_path / "0.h5ad")
        data[70:].copy().write_h5ad(tmp_path / "1.h5ad")
        gate.read(tmp_path / "*.h5ad")
    require_matrix(gate["train"]["X"][:], MATRIX)
    require_matrix(gate["train"]["counts"][:], sparse.csr_array(data.layers["counts"]))
    np.testing.assert_array_equal(gate["train"]["row"][:], np.arange(N))


def test_matrices_by_column_are_refused_with_the_remedy(gate, tmp_path):
    data = anndata_of(9)
    data.X = sparse.csc_matrix(data.X)
    data.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(errors.DtypeError, match="write it as a csr_matrix"):
        gate.read(tmp_path / "a.h5ad")
    gate.read(tmp_path / "a.h5ad", ["row"])


def test_hdf5_and_parquet_files_of_lists(gate, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("t", (N,), h5py.vlen_dtype("f4"))
        for number, row in enumerate(LISTS):
            made[number] = row
    gate.read(tmp_path / "a.h5")
    require_lists(gate["train"]["t"][:], LISTS)
    assert gate["train"]["t"].dtype == np.float32
    table = TABLES["pyarrow"]()
    pq.write_table(table.slice(0, 90), tmp_path / "0.parquet")
    pq.write_table(table.slice(90), tmp_path / "1.parquet", row_group_size=13)
    gate.read(tmp_path / "*.parquet", phase="valid")
    require_lists(gate["valid"]["t"][:], LISTS)
    pq.write_table(pa.table({"t": range(3), "row": range(3)}), tmp_path / "2.parquet")
    with pytest.raises((errors.ShapeError, errors.DtypeError), match="2.parquet.*lists"):
        gate.read(tmp_path / "*.parquet", phase="test")


@pytest.mark.parametrize("form", ["mktree", "mkrntuple"])
def test_jagged_branches_of_root(gate, tmp_path, form):
    with uproot.recreate(tmp_path / "a.root") as file:
        tree = getattr(file, form)("events", {"pt": "var * float64", "row": "int64"})
        for lo in range(0, N, 64):
            tree.extend({"pt": ak.Array(PLAIN[lo : lo + 64]) + 0.5, "row": np.arange(lo, min(lo + 64, N))})
    gate.read(tmp_path / "a.root")
    require_lists(gate["train"]["pt"][:], [row + 0.5 for row in LISTS])
    np.testing.assert_array_equal(gate["train"]["row"][:], np.arange(N))
    with uproot.open(tmp_path / "a.root") as file:
        gate.add_data(["row", "pt"], file["events"], phase="valid")
    require_lists(gate["valid"]["pt"][:], [row + 0.5 for row in LISTS])


def test_exported_lists_are_read_by_others(gate, tmp_path):
    gate.add_data({"t": LISTS, "m": MATRIX, "row": np.arange(N)})
    gate.compile()
    gate.export(tmp_path / "a.zarr", "train")
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    found = anndata.io.read_elem(group["t"])
    assert found.to_list() == PLAIN
    require_matrix(sparse.csr_array(anndata.io.read_elem(group["m"])), MATRIX)
    np.testing.assert_array_equal(group["row"][:], np.arange(N))
    gate.delete_data("m", phase="train")
    gate.export(tmp_path / "a.parquet", "train")
    assert pq.read_table(tmp_path / "a.parquet")["t"].to_pylist() == PLAIN
    gate.export(tmp_path / "a.h5", "train")
    with h5py.File(tmp_path / "a.h5") as file:
        require_lists(list(file["t"][:]), LISTS)
    with pytest.raises(errors.DtypeError, match="zarr, Parquet or HDF5"):
        gate.export(tmp_path / "a.nc", "train")


def test_empty_lists_at_the_start_of_an_iterator_have_no_dtype(gate):
    gate.add_data("t", iter([[[1.5], []], [[], []], [[2, 3], []]]))
    assert gate["train"]["t"][:].tolist() == [[1.5], [], [], [], [2.0, 3.0], []]
    with pytest.raises(errors.ShapeError, match="rows of one length"):
        gate.add_data("t", iter([[[1.5], []], [1, 2]]))


@pytest.mark.parametrize("names", [None, ["m"], ["t", "row"], "m"], ids=str)
def test_exported_lists_are_read_again(tmp_path, names):
    path, given = tmp_path / "a.zarr", {"t": LISTS, "m": MATRIX, "row": np.arange(N), "empty": [[]] * (N - 1) + [[1]]}
    gate = StoreGate(data_id="a")
    gate.add_data(given)
    gate.shuffle(seed=1)
    gate.export(path)
    again = StoreGate("zarr", {"chunk": 7}, data_id="b")
    again.read([path, path], names)
    order = np.tile(np.random.RandomState(1).permutation(N), 2)
    wanted = list(given) if names is None else [names] if isinstance(names, str) else names
    assert set(again.variables) == set(wanted)
    for name in wanted:
        found = again["train"][name][:]
        if name == "m":
            require_matrix(found, MATRIX[order])
        else:
            require_lists([np.atleast_1d(row) for row in found], [np.atleast_1d(given[name][at]) for at in order])


def test_lists_of_zarr_are_not_left_out_in_place(tmp_path):
    gate = StoreGate(data_id="a")
    gate.add_data({"t": LISTS, "row": np.arange(N)})
    gate.export(tmp_path / "a.zarr")
    again = StoreGate(data_id="b")
    with pytest.raises(errors.DtypeError, match=r"'t' of .* not read in place; copy all with gate\.read"):
        again.attach(tmp_path / "a.zarr")
    again.attach(tmp_path / "a.zarr", ["row"])
    np.testing.assert_array_equal(again["train"]["row"][:], np.arange(N))


def test_arrays_beside_groups_are_read_by_name(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_group("notes")
    group.create_array("x", data=np.arange(4))
    gate = StoreGate(data_id="a")
    gate.read(tmp_path / "a.zarr", ["x"])
    assert gate["train"]["x"][:].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", ["i4", "?", "c8", "f2", "S2", "M8[D]", "T"])
@pytest.mark.parametrize("lengths", [[2, 0, 1], [2, 2], [1], [1, 1], [0, 0]], ids=str)
def test_lists_of_any_lengths_are_exported_to_hdf5(tmp_path, dtype, lengths):
    items = np.arange(1, 1 + sum(lengths)) % 2
    texts = items.astype("U1").astype(np.dtypes.StringDType())
    items = texts if dtype == "T" else items.astype("U1").astype(dtype) if dtype == "S2" else items.astype(dtype)
    rows = Ragged(np.concatenate([[0], np.cumsum(lengths)]), items)
    gate = StoreGate(data_id="a")
    gate.add_data({"t": rows})
    gate.export(tmp_path / "a.h5")
    again = StoreGate(data_id="b")
    again.read(tmp_path / "a.h5")
    found = again["train"]["t"][:]
    assert found.dtype == rows.dtype
    assert found.tolist() == rows.tolist()


@pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning")
def test_rows_in_another_layout_beside_named_arrays_are_not_left_out(gate, tmp_path):
    xr.Dataset({"x": ("row", np.arange(3))}).to_zarr(tmp_path / "a.zarr", consolidated=False)
    anndata.io.write_elem(zarr.open_group(tmp_path / "a.zarr", mode="a"), "c", sparse.csc_matrix(np.eye(3)))
    with pytest.raises(errors.DtypeError, match="'c' is stored as csc_matrix, which is not read; write .* csr_matrix"):
        gate.read(tmp_path / "a.zarr")
    gate.read(tmp_path / "a.zarr", ["x"])
    assert gate.get_data("x").tolist() == [0, 1, 2]
