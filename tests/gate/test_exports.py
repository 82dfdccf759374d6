"""Rows go out as tables of other libraries and come back as they were; numpy has the values to compare with."""

from __future__ import annotations

import subprocess
import sys

import datasets
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from storegate import StoreGate, errors
from tests.processes import environment

N = 20
RNG = np.random.default_rng(0)
TEXT = np.dtypes.StringDType()
VALUES = {
    **{f"u{size}": RNG.integers(0, 200, N).astype(f"u{size}") for size in (1, 2, 4, 8)},
    **{f"i{size}": RNG.integers(-100, 100, N).astype(f"i{size}") for size in (1, 2, 4, 8)},
    **{f"f{size}": RNG.normal(size=N).astype(f"f{size}") for size in (2, 4, 8)},
    "bool": RNG.integers(0, 2, N).astype(bool),
    "text": np.array(["", "a", "bé", "longer than sixteen bytes"] * 5, TEXT),
    "fixed": np.array(["a", "bcd"] * 10),
    "bytes": np.array([b"a", b"bcd"] * 10),
    **{f"M{unit}": np.arange(N).astype(f"M8[{unit}]") for unit in ("D", "s", "ms", "us", "ns")},
    **{f"m{unit}": np.arange(N).astype(f"m8[{unit}]") for unit in ("s", "ms", "us", "ns")},
    "nat": np.array(["2020-01-01", "NaT"] * 10, "M8[us]"),
    "nan": np.array([0.5, np.nan] * 10),
}
SHAPED = {
    "vector": RNG.normal(size=(N, 3)).astype("f4"),
    "image": RNG.integers(0, 255, (N, 2, 3, 4)).astype("u1"),
    "flags": RNG.integers(0, 2, (N, 5)).astype(bool),
    "texts": np.array([["a", "b"]] * N, TEXT),
    "empty": np.empty((N, 2, 0)),
}
CATEGORIES = pd.Categorical(["low", "high", "low", "mid"] * 5, categories=["low", "mid", "high"], ordered=True)
COLOURS = pd.Categorical(["red", "blue"] * 10)


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data({**VALUES, **SHAPED})
        gate.add_data(pd.DataFrame({"level": CATEGORIES, "colour": COLOURS}))
        gate.shuffle("train", seed=3)
        yield gate


def assert_same(gate: StoreGate, table: object, names: object) -> None:
    again = StoreGate(data_id="b")
    again.add_data(table)
    assert again.variables == tuple(names)
    for name in names:
        found, values = again["train"][name][:], gate["train"][name][:]
        about, old = again.table["train"][name].about, gate.table["train"][name].about
        assert about.is_ordered == old.is_ordered
        if old.is_ordered:
            assert about.categories == old.categories
        elif old.categories is not None:  # which polars puts in an order of its own
            found, values = np.array(about.categories)[found], np.array(old.categories)[values]
        np.testing.assert_array_equal(found, values)


def test_arrow_and_back(gate):
    names = [name for name in gate.variables if name not in ("bytes", "texts", "empty")]
    view = gate["train"][names]
    table = view.to_arrow()
    assert table.num_rows == N
    assert_same(gate, table, names)
    for name in names:
        if name in ("level", "colour", "f2") or gate["train"][name].dtype.kind in "MTU":
            continue
        assert again_dtype(table, name) == gate["train"][name].dtype


def again_dtype(table: pa.Table, name: str) -> np.dtype:
    gate = StoreGate(data_id="c")
    gate.add_data([name], table)
    return gate["train"][name].dtype


def test_what_arrow_has_and_we_do_not_take_back(gate):
    """Bytes of any length, texts and nothing in rows: they go out as they are."""
    table = gate["train"][["bytes", "texts", "empty"]].to_arrow()
    assert table["bytes"].to_pylist() == gate["train"]["bytes"][:].tolist()
    assert table["texts"].to_pylist() == [["a", "b"]] * N
    assert table["empty"].to_pylist() == [[[], []]] * N


def test_pandas_and_back(gate):
    names = [name for name in gate.variables if name not in SHAPED and name not in ("bytes", "MD")]
    assert_same(gate, gate["train"][names].to_pandas(), names)


def test_pandas_gives_a_frame_back_as_it_came():
    frame = pd.DataFrame(
        {
            "x": RNG.normal(size=5),
            "s": pd.Series(["a", "b", "", "d", "é"]),
            "c": pd.Categorical(["u", "v", "u", "u", "w"], categories=["w", "u", "v"], ordered=True),
            "t": pd.date_range("2020", periods=5),
        }
    )
    gate = StoreGate(data_id="a")
    gate.add_data(frame)
    pd.testing.assert_frame_equal(gate["train"].to_pandas(), frame)
    pd.testing.assert_frame_equal(gate["train"].to_pandas(2), frame.head(2))
    pd.testing.assert_frame_equal(gate["train"].to_pandas(99), frame)
    assert gate["train"].to_pandas(0).empty
    for wrong in (-1, 1.5, "2"):
        with pytest.raises((ValueError, TypeError), match="to_pandas"):
            gate["train"].to_pandas(wrong)


def test_rows_of_several_values_are_arrays_in_pandas(gate):
    column = gate["train"].to_pandas()["image"]
    np.testing.assert_array_equal(np.stack(column.tolist()), gate["train"]["image"][:])


def test_polars_and_back(gate):
    names = [name for name in gate.variables if name not in SHAPED and name not in ("bytes", "f2")]
    frame = gate["train"][names].to_polars()
    assert isinstance(frame, pl.DataFrame)
    assert frame.schema["level"] == pl.Enum(["low", "mid", "high"])
    assert frame["level"].sort().to_list()[:: N // 4] == ["low", "low", "mid", "high"]
    assert_same(gate, frame, names)


def test_hf_datasets_and_back(gate):
    names = [name for name in gate.variables if name not in ("bytes", "texts", "empty", "level", "colour", "fixed")]
    view = gate["train"][names]
    found = datasets.Dataset(view.to_arrow(tensors=False))
    assert found["text"][:] == view["text"][:].tolist()
    for name in ("i8", "f4", "vector", "image", "Mms"):
        np.testing.assert_array_equal(found.with_format("numpy")[name], view[name][:])
    assert_same(gate, found, names)
    shown = found.shuffle(seed=0).select(range(5))  # in another order than its table
    again = StoreGate(data_id="b")
    again.add_data(shown)
    assert again["train"]["i8"][:].tolist() == shown["i8"][:]
    # row by row, never whole in memory
    by_rows = datasets.IterableDataset.from_generator(lambda: iter(again["train"]))
    assert [row["i8"] for row in by_rows] == shown["i8"][:]


def test_a_view_is_read_by_who_speaks_arrow(gate):
    view = gate["train"][["i8", "text", "colour"]]
    values = gate["train"]["i8"][:].tolist()
    assert pa.table(view)["i8"].to_pylist() == values
    assert pl.DataFrame(view)["i8"].to_list() == values
    assert duckdb.sql("select i8 from view").fetchnumpy()["i8"].tolist() == values
    counts = dict(duckdb.sql("select colour, count(*) from view group by colour").fetchall())
    assert counts == {"red": 10, "blue": 10}


def test_a_view_goes_into_another_gate(gate):
    assert_same(gate, gate["train"][["i8", "vector", "level"]], ["i8", "vector", "level"])


def test_batches_are_small_and_read_when_they_are_asked_for(tmp_path, monkeypatch):
    with StoreGate.open(tmp_path / "store", "a", mode="w", budget="64MiB") as gate:
        gate.add_data({"x": np.arange(4_000_000.0).reshape(-1, 8)})
        reader = pa.RecordBatchReader.from_stream(gate["train"])
        first = reader.read_next_batch()
        assert first.nbytes < 16 * 2**20  # of 32 MB: what one task may hold
        rest = list(reader)
        assert first.num_rows + sum(batch.num_rows for batch in rest) == 500_000
        assert max(batch.nbytes for batch in rest) <= first.nbytes


def test_subsets_go_out_too(gate):
    subset = gate["train"].subset([5, 3, 3])
    assert subset["i8"].to_pandas()["i8"].tolist() == gate["train"]["i8"][[5, 3, 3]].tolist()


@pytest.mark.parametrize("how", ["to_arrow", "to_polars"])
def test_dtypes_that_arrow_does_not_have(how):
    gate = StoreGate(data_id="a")
    gate.add_data({"c": np.ones(3, complex), "x": np.ones(3)})
    gate.add_data("m", np.ones(3, "m8[M]"))
    for name in ("c", "m"):
        with pytest.raises(errors.DtypeError, match=f"variable '{name}' is"):
            getattr(gate["train"][["x", name]], how)()


def test_variables_of_different_lengths_are_no_table():
    gate = StoreGate(data_id="a")
    gate.add_data("x", [1, 2])
    gate.add_data("y", [1])
    for how in ("to_arrow", "to_pandas", "to_polars"):
        with pytest.raises(errors.ShapeError, match="equal numbers of rows"):
            getattr(gate["train"], how)()


def test_a_name_that_stands_twice_is_refused_by_pandas():
    gate = StoreGate(data_id="a")
    gate.add_data("x", [1, 2])
    with pytest.raises(errors.ShapeError, match="one column for each name"):
        gate["train"][["x", "x"]].to_pandas()


def test_codes_without_a_category_are_refused():
    gate = StoreGate(data_id="a")
    gate.add_data(pd.DataFrame({"c": pd.Categorical(["a", "b"])}))
    gate["train"]["c"][0] = 7
    with pytest.raises(errors.DtypeError, match="2 categories, and codes from 1 to 7"):
        gate["train"].to_pandas()


def test_ordered_categories_keep_their_order():
    gate = StoreGate(data_id="a")
    gate.add_data(pd.DataFrame({"level": CATEGORIES}))
    gate.add_data(pd.DataFrame({"level": CATEGORIES[:3]}))
    for other in (
        pd.Categorical(["top"], categories=["low", "mid", "high", "top"], ordered=True),
        pd.Categorical(["low"], categories=["high", "mid", "low"], ordered=True),
        pd.Categorical(["low"]),
    ):
        with pytest.raises(errors.DtypeError, match="ordered"):
            gate.add_data(pd.DataFrame({"level": other}))
    assert len(gate["train"]["level"][:]) == N + 3
    assert gate["train"].to_pandas()["level"].cat.ordered


@pytest.mark.parametrize(
    ("package", "call", "extra"),
    [
        ("pyarrow", "to_arrow", "storegate[arrow]"),
        pytest.param("polars", "to_polars", "storegate[polars]", marks=pytest.mark.slow),
    ],
)
def test_what_is_not_installed_is_named(package, call, extra):
    program = f"""
import sys
sys.modules[{package!r}] = None
from storegate import StoreGate
gate = StoreGate(data_id="a")
gate.add_data("x", [1, 2])
try:
    gate["train"].{call}()
except ModuleNotFoundError as err:
    print(err)
print(gate["train"].to_pandas()["x"].tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True
    )
    assert f'pip install "{extra}"' in done.stdout
    assert "[1, 2]" in done.stdout


@pytest.mark.parametrize("unit", ["Y", "M"])
def test_months_have_no_length(unit):
    gate = StoreGate(data_id="a")
    gate.add_data("t", np.arange(3).astype(f"m8[{unit}]"))
    for how in ("to_pandas", "to_arrow", "to_polars"):
        with pytest.raises(errors.DtypeError, match="months have no length; cast it to int64"):
            getattr(gate["train"], how)()
    gate.add_data("when", np.arange(3).astype(f"M8[{unit}]"))
    assert len(gate["train"][["when"]].to_pandas()) == 3


@pytest.mark.parametrize("shape", [(N, 0), (N, 2, 0), (N, 0, 3)])
def test_rows_of_no_values_go_out(tmp_path, shape):
    with StoreGate.open(tmp_path / "store", "a", mode="w") as gate:
        gate.add_data({"e": np.zeros(shape), "i": np.arange(N)})
        view = gate["train"]
        for table in (view.to_arrow(), pa.table(view), view.to_arrow(tensors=False)):
            assert len(table) == N
        for frame in (view.to_polars(), pl.DataFrame(view), view.to_pandas(), view.head(N)):
            assert len(frame["e"]) == N
        assert [len(batch["e"]) for batch in view.batches(7)] == [7, 7, 6]
        assert view.to_xarray().compute()["e"].shape == shape
        assert view["e"][:].shape == shape
