"""Tables of other libraries come in with their names, whole or not at all; numpy has the values to compare with."""

from __future__ import annotations

import collections
import subprocess
import sys

import anndata
import awkward
import duckdb
import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import uproot
import xarray as xr

from storegate import StoreGate, errors
from tests.examples import in_turns
from tests.processes import environment

N = 10
RNG = np.random.default_rng(0)
COLUMNS = {
    "i": RNG.integers(-5, 5, N),
    "f": RNG.normal(size=N).astype("f4"),
    "b": RNG.integers(0, 2, N).astype(bool),
    "t": RNG.integers(0, 10**9, N).astype("M8[us]"),
    "d": RNG.integers(0, 10**9, N).astype("m8[ms]"),
    "s": np.array(["", "a", "bé", "much longer than the others " * 20] * 3)[:N].astype(np.dtypes.StringDType()),
}


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        yield gate


def arrow() -> pa.Table:
    return pa.table(
        {name: pa.array(values.astype(object) if name == "s" else values) for name, values in COLUMNS.items()}
    )


def pandas() -> pd.DataFrame:
    return pd.DataFrame({name: values.astype(object) if name == "s" else values for name, values in COLUMNS.items()})


def records() -> list[dict[str, object]]:
    return [{name: values[row] for name, values in COLUMNS.items()} for row in range(N)]


FRAMES = {
    "dict": lambda: dict(COLUMNS),
    "ordered dict": lambda: collections.OrderedDict(COLUMNS),
    "pandas": pandas,
    "pandas, arrow dtypes": lambda: pandas().convert_dtypes(dtype_backend="pyarrow"),
    "pyarrow": arrow,
    "pyarrow, batch": lambda: arrow().to_batches()[0],
    "pyarrow, small batches": lambda: pa.Table.from_batches(arrow().to_batches(max_chunksize=3)),
    "pyarrow, stream": lambda: pa.RecordBatchReader.from_batches(arrow().schema, arrow().to_batches(max_chunksize=4)),
    "pyarrow, views": lambda: arrow().set_column(5, "s", arrow()["s"].cast(pa.string_view())),
    "polars": lambda: pl.DataFrame(arrow()),
    "duckdb": lambda: duckdb.from_arrow(arrow().set_column(4, "d", pa.array(COLUMNS["d"].astype("i8")))).project(
        "i, f, b, t, d, s"
    ),
    "xarray": lambda: xr.Dataset({name: ("sample", values) for name, values in COLUMNS.items()}),
    "records": records,
    "dask": lambda: xr.Dataset({name: ("sample", values) for name, values in COLUMNS.items()}).chunk(sample=3),
}


@pytest.mark.parametrize(
    ("gate", "how", "kind"), in_turns(["numpy", "zarr"], ["alone", "data=", "None"], FRAMES, every=3), indirect=["gate"]
)
def test_names_and_values_come_from_the_data(gate, kind, how):
    frame = FRAMES[kind]()
    if how == "alone":
        gate.add_data(frame, phase=(0.5, 0.2, 0.3))
    elif how == "data=":
        gate.add_data(data=frame, phase=(0.5, 0.2, 0.3))
    else:
        gate.add_data(None, frame, phase=(0.5, 0.2, 0.3))
    gate.compile()
    assert gate.variables == tuple(COLUMNS)
    assert gate.sizes == {"train": 5, "valid": 2, "test": 3}
    for name, values in COLUMNS.items():
        found = gate.get_data(name, phase="all")
        np.testing.assert_array_equal(found.astype(values.dtype), values)
        assert found.dtype.kind == values.dtype.kind or (kind, name) == ("duckdb", "d")  # which has intervals only
    assert gate.repository().version == 2  # one commit for all columns, and one of compile


@pytest.mark.parametrize("kind", FRAMES)
def test_a_list_of_names_picks_columns(gate, kind):
    gate.add_data(["t", "i"], FRAMES[kind]())
    assert gate.variables == ("t", "i")
    np.testing.assert_array_equal(gate["train"]["i"][:], COLUMNS["i"])


@pytest.mark.parametrize("kind", FRAMES)
def test_a_name_that_is_no_column(gate, kind):
    with pytest.raises(errors.VariableNotFoundError, match=r"no column 'ii'; did you mean 'i'\? \(columns: i, f"):
        gate.add_data(["f", "ii"], FRAMES[kind]())
    assert gate.variables == ()


def test_structured_arrays(gate, tmp_path):
    rows = np.zeros(N, [("i", "i8"), ("v", "f4", (2, 3))])
    rows["i"], rows["v"] = COLUMNS["i"], RNG.normal(size=(N, 2, 3))
    gate.add_data(rows)
    rows.tofile(tmp_path / "rows")
    gate.add_data(np.memmap(tmp_path / "rows", rows.dtype, mode="r"))
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        gate.add_data(file.create_dataset("rows", data=rows, chunks=(3,)))
    for name in ("i", "v"):
        np.testing.assert_array_equal(gate["train"][name][:], np.concatenate([rows[name]] * 3))


def test_shapes_of_arrow(gate):
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(24.0).reshape(4, 2, 3))
    lists = pa.array(np.arange(16).reshape(4, 2, 2).tolist(), pa.list_(pa.list_(pa.int32(), 2), 2))
    table = pa.table({"tensor": tensors, "list": lists})
    gate.add_data(pa.Table.from_batches(table.to_batches(max_chunksize=3)))
    np.testing.assert_array_equal(gate["train"]["tensor"][:], np.arange(24.0).reshape(4, 2, 3))
    np.testing.assert_array_equal(gate["train"]["list"][:], np.arange(16).reshape(4, 2, 2))
    assert gate["train"]["list"].dtype == np.int32


def test_tensors_in_another_order_of_dimensions_are_refused(gate):
    kind = pa.fixed_shape_tensor(pa.float64(), (2, 3), permutation=(1, 0))
    stored = pa.array(np.arange(12.0).reshape(2, 6).tolist(), pa.list_(pa.float64(), 6))
    with pytest.raises(errors.DtypeError, match=r"stored in the order \[1, 0\]"):
        gate.add_data(pa.table({"x": pa.ExtensionArray.from_storage(kind, stored)}))
    assert gate.variables == ()


@pytest.mark.parametrize("make", ["mktree", "mkrntuple"])
def test_a_tree_of_uproot(gate, tmp_path, make):
    rows = {"i": COLUMNS["i"], "v": RNG.normal(size=(N, 3))}
    ragged = awkward.Array([[1] * (row % 3 + 1) for row in range(N)])
    with uproot.recreate(tmp_path / "file.root") as file:
        if make == "mktree":
            file.mktree("tree", {"i": "int64", "v": ("f8", (3,)), "ragged": "var * int32"})
            file["tree"].extend({**rows, "ragged": ragged})
        else:
            data = {"i": rows["i"], "v": awkward.from_numpy(rows["v"], regulararray=True), "ragged": ragged}
            file.mkrntuple("tree", {**data, "s": awkward.Array([f"s{row}" for row in range(N)])})
    with uproot.open(f"{tmp_path}/file.root:tree") as tree:
        gate.add_data(["i", "v", "ragged"], tree)
        assert gate["train"]["ragged"][:].tolist() == ragged.to_list()
        gate.delete_data("ragged", phase="train")
        gate.add_data(tree.arrays(["i", "v"], library="np"))
        for name, values in rows.items():
            np.testing.assert_array_equal(gate["train"][name][:], np.concatenate([values, values]))
        if make == "mkrntuple":
            gate.add_data("s", tree, phase="test")
            assert gate["test"]["s"][:].tolist() == [f"s{row}" for row in range(N)]


def test_anndata(gate):
    obs = pd.DataFrame({"kind": pd.Categorical(["b", "a", "b"]), "n": [1, 2, 3]}, index=["c1", "c2", "c3"])
    data = anndata.AnnData(np.arange(6.0).reshape(3, 2), obs=obs, layers={"counts": np.ones((3, 2), "i4")})
    gate.add_data(data)
    assert gate.variables == ("X", "counts", "obs_names", "kind", "n")
    np.testing.assert_array_equal(gate["train"]["X"][:], data.X)
    assert gate["train"]["obs_names"][:].tolist() == ["c1", "c2", "c3"]


class TestForms:
    """A table is taken by the names of its columns, however they are given and wherever they go."""

    FRAMES = (
        lambda: pd.DataFrame({"a": [0, 10, 20], "b": [5, 15, 25], "c": [1, 2, 3]}),
        lambda: pl.DataFrame({"a": [0, 10, 20], "b": [5, 15, 25], "c": [1, 2, 3]}),
        lambda: pa.table({"a": [0, 10, 20], "b": [5, 15, 25], "c": [1, 2, 3]}),
        lambda: {"a": [0, 10, 20], "b": [5, 15, 25], "c": [1, 2, 3]},
    )

    @pytest.mark.parametrize("make", FRAMES)
    @pytest.mark.parametrize("names", [["b", "a"], ("b", "a"), ["b", "a", "c"], "b"], ids=str)
    def test_names_pick_columns(self, gate, make, names):
        gate.add_data(names, make())
        assert gate["train"]["b"][:].tolist() == [5, 15, 25]
        if not isinstance(names, str):
            assert gate["train"]["a"][:].tolist() == [0, 10, 20]
        gate.update_data(names, make())
        gate["train"][names][:] = make()
        whole = make()
        part = {name: values[1:] for name, values in whole.items()} if isinstance(whole, dict) else whole[1:]
        gate["train"][names][1:3] = part
        assert gate["train"]["b"][:].tolist() == [5, 15, 25]

    def test_one_row(self, gate):
        gate.add_data(pd.DataFrame({"a": [1, 2], "c": pd.Categorical(["x", "y"])}))
        gate.update_data(pd.DataFrame({"a": [9], "c": pd.Categorical(["z"])}), index=0)
        gate.update_data(pl.DataFrame({"a": [8]}), index=1)
        assert gate["train"]["a"][:].tolist() == [9, 8]
        assert gate["train"].to_pandas()["c"].tolist() == ["z", "y"]

    def test_a_column_that_stands_alone_in_a_mapping(self, gate):
        frame = pd.DataFrame({"c": pd.Categorical(["x", "y"], ordered=True)})
        gate.add_data({"c": frame["c"], "d": frame["c"].values})
        assert gate["train"]["c"][:].tolist() == gate["train"]["d"][:].tolist() == [0, 1]
        assert gate["train"].to_pandas()["d"].cat.ordered

    def test_groups_in_groups(self, gate, tmp_path):
        with h5py.File(tmp_path / "groups.h5", "w") as file:
            file["train/x"], file["valid/x"] = [1, 2], [3]
            with pytest.raises(errors.DtypeError, match=r"'train' is itself a mapping, of x.*data\['train'\]"):
                gate.add_data(file)
            gate.add_data(file["train"])
        assert gate["train"]["x"][:].tolist() == [1, 2]

    def test_a_phase_in_place_of_the_data(self, gate):
        with pytest.raises(errors.ArgumentTypeError, match="phase='valid'"):
            gate.add_data(pd.DataFrame({"a": [1]}), "valid")
        with pytest.raises(errors.ArgumentTypeError, match=r"LazyFrame; call its collect\(\)"):
            gate.add_data(pl.DataFrame({"a": [1]}).lazy())

    def test_a_reader_is_read_once(self, gate):
        reader = arrow().to_reader(max_chunksize=4)
        gate.add_data(reader)
        version = gate.repository().version
        with pytest.raises(errors.IterationError, match="was read before"):
            gate.add_data(reader)
        assert gate.repository().version == version

    def test_a_reader_that_failed_is_not_read_on(self, gate):
        batches = [pa.record_batch({"a": values}) for values in ([1], pa.array([None], pa.int64()), [3])]
        reader = pa.RecordBatchReader.from_batches(batches[0].schema, batches)
        with pytest.raises(errors.MissingValueError):
            gate.add_data(reader)
        with pytest.raises(errors.IterationError, match="was read before"):
            gate.add_data(reader)
        assert gate.variables == ()


class TestPandasIndex:
    def test_one_that_says_something_is_a_variable(self, gate):
        frame = pd.DataFrame({"x": [1.0, 2.0]}, index=pd.Index(["a", "b"], name="key"))
        gate.add_data(frame)
        assert gate.variables == ("key", "x")
        assert gate["train"]["key"][:].tolist() == ["a", "b"]

    def test_one_of_texts_without_a_name_is_called_index(self, gate):
        gate.add_data(pd.DataFrame({"x": [1.0, 2.0]}, index=["b", "a"]))
        assert gate["train"]["index"][:].tolist() == ["b", "a"]

    def test_row_numbers_are_left_out(self, gate):
        frame = pd.DataFrame({"x": np.arange(10.0)})
        for part in (frame, frame[5:], frame[frame["x"] % 2 == 0], frame.sample(frac=1, random_state=0)):
            gate.add_data(part)
        assert gate.variables == ("x",)
        assert gate.sizes == {"train": 30}

    def test_several_levels_are_refused(self, gate):
        index = pd.MultiIndex.from_tuples([(0, 1), (1, 2)])
        with pytest.raises(errors.DtypeError, match="reset_index"):
            gate.add_data(pd.DataFrame({"x": [1.0, 2.0]}, index=index))


def weather() -> xr.Dataset:
    fields = {name: (("time", "lat"), RNG.normal(size=(N, 3))) for name in ("t2m", "u10")}
    coords = {"time": np.arange(N), "lat": np.arange(3.0), "station": ("time", np.arange(N))}
    return xr.Dataset(fields, coords)


def test_coordinates_of_the_samples_are_variables(gate):
    gate.add_data(weather().drop_vars("lat"))
    assert sorted(gate.variables) == ["station", "t2m", "time", "u10"]
    gate.add_data(["t2m", "time"], weather())
    assert len(gate["train"]["t2m"].head(99)) == 2 * N


def test_many_columns_of_all_kinds_within_a_small_budget(tmp_path):
    """They are turned on disk, each in its own dtype; texts are written side by side."""
    rng = np.random.default_rng(1)
    columns = {f"c{at}": rng.integers(0, 100, 5000).astype(("i8", "f4", "u1", "M8[s]")[at % 4]) for at in range(200)}
    with StoreGate.open(tmp_path / "store", "a", mode="w", budget="64MiB") as gate:
        gate.add_data(pa.Table.from_batches(pa.table(columns).to_batches(max_chunksize=700)))
        for name, values in columns.items():
            np.testing.assert_array_equal(gate["train"][name][:], values)


def test_texts_of_one_long_and_many_short_are_of_variable_length(gate):
    texts = ["a"] * 50 + ["long " * 100]
    gate.add_data("list", texts)
    gate.add_data("even", ["abc", "abcd"] * 20 + ["abc"] * 11)
    assert gate.table["train"]["list"].dtype.kind == "T"
    assert gate.table["train"]["even"].dtype == "<U4"
    assert gate["train"]["list"][:].tolist() == texts


def test_without_pyarrow_the_extra_is_named(tmp_path):
    program = """
import sys
sys.modules["pyarrow"] = None
from storegate import StoreGate
class Stream:
    def __arrow_c_stream__(self, requested_schema=None):
        raise AssertionError
try:
    StoreGate(data_id="a").add_data(Stream())
except ModuleNotFoundError as err:
    print(err)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    assert 'pip install "storegate[arrow]"' in done.stdout


def test_rows_of_several_values_come_back_from_pandas(gate):
    times = np.array([["2020", "NaT"], ["2021", "2022"]], "M8[s]")
    values = {"x": np.arange(12.0).reshape(2, 3, 2), "t": times, "s": np.array([["a", "b"], ["c", "d"]], "T")}
    gate.add_data(values)
    again = StoreGate(data_id="b")
    again.add_data(gate["train"].to_pandas())
    for name, rows in values.items():
        np.testing.assert_array_equal(again["train"][name][:], rows)


@pytest.mark.parametrize("unit", ["D", "s", "ns"])
@pytest.mark.parametrize("kind", "mM")
def test_times_that_are_missing_in_rows_of_several_times(gate, kind, unit):
    values = np.array([[[1, 2], [3, "NaT"]], [["NaT", 5], [6, 7]]], f"{kind}8[{unit}]")
    gate.add_data("t", values)
    for how in ("to_arrow", "to_polars", "to_pandas"):
        again = StoreGate(data_id="b")
        again.add_data(getattr(gate["train"], how)())
        found = again["train"]["t"][:]
        assert found.shape == values.shape
        np.testing.assert_array_equal(found.astype(values.dtype), values)


@pytest.mark.parametrize(
    "of", [list, pd.Series, lambda values: np.array(values, object)], ids=["list", "pandas", "numpy"]
)
def test_bytes_have_their_fixed_length(of):
    gate = StoreGate(data_id="a")
    gate.add_data({"x": of([b"a", b"", b"abc"])})
    np.testing.assert_array_equal(gate["train"]["x"][:], np.array([b"a", b"", b"abc"]), strict=True)
    again = StoreGate(data_id="b")
    again.add_data(gate["train"].to_pandas())
    np.testing.assert_array_equal(again["train"]["x"][:], gate["train"]["x"][:], strict=True)
    with pytest.raises(errors.DtypeError, match="zeros at their end"):
        gate.add_data({"y": of([b"a\0", b"b"])})
    assert gate.variables == ("x",)


def test_texts_keep_zeros_at_their_end():
    gate = StoreGate(data_id="a")
    gate.add_data({"x": ["a\0", "b"], "pairs": [["a", "b"], ["c", "d\0"]]})
    assert gate["train"]["x"][:].tolist() == ["a\0", "b"]
    assert gate["train"]["pairs"][:].tolist() == [["a", "b"], ["c", "d\0"]]


def test_names_of_numpy_become_plain():
    gate = StoreGate(data_id="a")
    gate.add_data(list(np.array(["x", "y"])), [[1, 2], [3, 4]])
    assert [type(name) for name in gate.variables] == [str, str]
    assert gate["train"][np.str_("x")][:].tolist() == [1, 2]
