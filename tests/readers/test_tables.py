"""Parquet, Arrow, CSV and numpy's own files: the laws that hold for every table of columns, numpy as oracle."""

from __future__ import annotations

import gzip
import itertools
import sys
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from storegate import StoreGate
from storegate_engine.errors import (
    ArgumentError,
    DtypeError,
    MissingValueError,
    UnreadableFileError,
    VariableNotFoundError,
)
from tests.examples import examples, in_turns
from tests.readers.measuring import MIB, grown


def table_of(columns):
    texts = {name: pa.array(rows.tolist(), pa.string()) for name, rows in columns.items() if rows.dtype.kind == "T"}
    return pa.table({name: texts.get(name, rows) for name, rows in columns.items()})


def write_parquet(path, columns):
    pyarrow.parquet.write_table(table_of(columns), path, row_group_size=100)


def write_arrow(path, columns):
    table = table_of(columns)
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table, max_chunksize=70)


def write_stream(path, columns):
    table = table_of(columns)
    with pa.ipc.new_stream(path, table.schema) as file:
        file.write_table(table, max_chunksize=70)


def write_feather(path, columns):
    pyarrow.feather.write_feather(table_of(columns), path, compression="lz4")


def write_csv(path, columns):
    pyarrow.csv.write_csv(table_of(columns), path)


def write_npz(path, columns):
    np.savez(path, **{name: rows.astype("U9") if rows.dtype.kind == "T" else rows for name, rows in columns.items()})


def write_compressed_npz(path, columns):
    rows = {name: rows.astype("U9") if rows.dtype.kind == "T" else rows for name, rows in columns.items()}
    with open(path, "wb") as file:
        np.savez_compressed(file, **rows)


FORMATS = {
    "parquet": write_parquet,
    "arrow": write_arrow,
    "arrows": write_stream,
    "feather": write_feather,
    "csv": write_csv,
    "npz": write_npz,
    "compressed.npz": write_compressed_npz,
}


def columns(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    text = np.array([f"é{at % 13}," for at in range(n_rows)], np.dtypes.StringDType())
    return {"x": rng.random(n_rows), "y": rng.integers(-9, 9, n_rows), "t": text}


def joined(*parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_rows(gate, expected, phase="train"):
    assert gate.get_var_names(phase) == list(expected)
    for name, rows in expected.items():
        found = gate.get_data(name, phase)
        assert found.dtype == rows.dtype or {found.dtype.kind, rows.dtype.kind} == {"U", "T"}
        assert found.tolist() == rows.tolist()


@pytest.fixture(params=FORMATS)
def form(request):
    return request.param


def test_globs_of_unequal_files(gate, tmp_path, form):
    sizes = {1: 250, 2: 1, 10: 33} if form == "csv" else {1: 250, 2: 0, 3: 1, 10: 33}
    parts = [columns(n_rows, at) for at, n_rows in sizes.items()]
    for at, part in zip(sizes, parts, strict=True):
        FORMATS[form](tmp_path / f"part{at}.{form}", part)
    gate.read(tmp_path / f"part*.{form}")
    gate.read(tmp_path / f"part2.{form}", ["t", "y"], "test")
    assert_rows(gate, joined(*parts))
    assert_rows(gate, {name: parts[1][name] for name in ("t", "y")}, "test")


def test_columns_in_another_order(gate, tmp_path, form):
    a, b = columns(20, 1), columns(30, 2)
    FORMATS[form](tmp_path / f"a.{form}", a)
    FORMATS[form](tmp_path / f"b.{form}", dict(reversed(b.items())))
    gate.read(tmp_path / f"*.{form}")
    assert_rows(gate, joined(a, b))


def test_other_columns_and_dtypes_are_named(gate, tmp_path, form, unchanged):
    whole = columns(20)
    FORMATS[form](tmp_path / f"1.{form}", whole)
    FORMATS[form](tmp_path / f"3.{form}", whole)
    cases = (
        ({name: whole[name] for name in "xt"}, VariableNotFoundError, "does not have 'y'.*by var_names"),
        ({**whole, "z": whole["x"]}, VariableNotFoundError, "has also 'z'"),
        ({**whole, "y": whole["x"]}, DtypeError, "'y' is of float64, and of int64 in .*1"),
        ({**whole, "t": whole["x"]}, DtypeError, "'t' is of float64"),
    )
    with unchanged(gate):
        for other, kind, message in cases:
            FORMATS[form](tmp_path / f"2.{form}", other)
            with pytest.raises(kind, match=f"^{tmp_path}/2.{form}: .*{message}"):
                gate.read(tmp_path / f"*.{form}")
        with pytest.raises(VariableNotFoundError, match=f"1.{form}: .*no column 'xs'; did you mean 'x'.*x, y, t"):
            gate.read(tmp_path / f"*.{form}", ["xs"])
    FORMATS[form](tmp_path / f"2.{form}", {**whole, "z": whole["x"]})
    gate.read(tmp_path / f"*.{form}", ["x", "y"])
    assert gate.sizes["train"] == 60


@pytest.mark.parametrize(("form", "share"), in_turns(FORMATS, [0.0, 0.5, 0.98]), indirect=["form"])
def test_a_truncated_file_in_the_middle(gate, tmp_path, form, share, unchanged):
    if form == "csv" and share:
        pytest.skip("a text file does not tell where it ends")
    parts = [columns(3000, at) for at in range(3)]
    for at, part in enumerate(parts):
        FORMATS[form](tmp_path / f"{at}.{form}", part)
    whole = (tmp_path / f"1.{form}").read_bytes()
    (tmp_path / f"1.{form}").write_bytes(whole[: int(share * len(whole))])
    with unchanged(gate), pytest.raises(UnreadableFileError, match=f"^{tmp_path}/1.{form} "):
        gate.read(tmp_path / f"*.{form}")
    (tmp_path / f"1.{form}").write_bytes(whole)
    gate.read(tmp_path / f"*.{form}")
    assert_rows(gate, joined(*parts))


@pytest.mark.parametrize("form", ["parquet", "arrow", "npy"])
def test_the_first_bytes_tell_the_format(gate, tmp_path, form):
    rows = columns(5)
    if form == "npy":
        with open(tmp_path / "data", "wb") as file:
            np.save(file, rows["x"])
        gate.read(tmp_path / "data", "x")
        assert_rows(gate, {"x": rows["x"]})
    else:
        FORMATS[form](tmp_path / "data", rows)
        gate.read(tmp_path / "data")
        assert_rows(gate, rows)


@pytest.mark.parametrize("form", ["parquet", "arrow", "feather"])
def test_types_of_arrow(gate, tmp_path, form):
    kinds = ["i1", "u2", "i4", "u8", "f4", "?", "M8[us]", "m8[ns]", "M8[D]"]
    table = pa.table({f"v{at}": np.arange(9).astype(kind) for at, kind in enumerate(kinds)})
    table = table.append_column("vector", pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(18.0).reshape(9, 2)))
    table = table.append_column("c", pa.array(list("abcabcabc")).dictionary_encode())
    other = table.set_column(table.num_columns - 1, "c", pa.array(list("dcbadcbad")).dictionary_encode())
    for name, part in (("1", table), ("2", other)):
        if form == "parquet":
            pyarrow.parquet.write_table(part, tmp_path / f"{name}.parquet")
        else:
            how = "lz4" if form == "feather" else "uncompressed"
            pyarrow.feather.write_feather(part, tmp_path / f"{name}.{form}", how)
    gate.read(tmp_path / f"*.{form}")
    for at, kind in enumerate(kinds):
        found = gate.get_data(f"v{at}")
        assert found.dtype == np.dtype(kind)
        np.testing.assert_array_equal(found, np.tile(np.arange(9).astype(kind), 2))
    np.testing.assert_array_equal(gate.get_data("vector"), np.tile(np.arange(18.0).reshape(9, 2), (2, 1)))
    codes = gate.get_data("c")
    values = gate.table["train"]["c"].about.categories
    assert [values[code] for code in codes] == list("abcabcabcdcbadcbad")


@pytest.mark.parametrize("form", ["parquet", "arrow", "feather"])
def test_what_no_dtype_can_say_names_the_file(gate, tmp_path, form, unchanged):
    write = pyarrow.parquet.write_table if form == "parquet" else pyarrow.feather.write_feather
    write(pa.table({"x": pa.array([1, 2, 3])}), tmp_path / f"1.{form}")
    with unchanged(gate):
        write(pa.table({"x": pa.array([1, None, 3])}), tmp_path / f"2.{form}")
        with pytest.raises(MissingValueError, match=f"2.{form}: variable 'x'.*1 values are null"):
            gate.read(tmp_path / f"*.{form}")
        write(pa.table({"x": pa.array([[[1]], [[2, 3]]])}), tmp_path / f"2.{form}")
        with pytest.raises(DtypeError, match=f"2.{form}: column 'x' is of list.*fixed_size_list"):
            gate.read(tmp_path / f"*.{form}")
        with pytest.raises(ArgumentError, match="no option 'group'"):
            gate.read(f"{tmp_path}/1.{form}:x")


def test_csv_of_other_delimiters_and_compressed(gate, tmp_path):
    (tmp_path / "a.tsv").write_text("x\ty\n1\t0.5\n2\tnan\n")
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write("x;y\n3;1.5\n4;\n")
    gate.read(tmp_path / "a.tsv")
    gate.read(tmp_path / "b.csv.gz", delimiter=";")
    assert gate.get_data("x").tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(gate.get_data("y"), [0.5, np.nan, 1.5, np.nan])


def test_dtypes_of_csv_are_told_where_the_first_rows_do_not(gate, tmp_path, unchanged):
    late = "x,name\n" + "1,2\n" * 400_000 + "0.5,b\n"
    (tmp_path / "late.csv").write_text(late)
    (tmp_path / "none.csv").write_text("x,name\n")
    (tmp_path / "gap.csv").write_text("x,name\n1,a\n,b\n")
    with unchanged(gate):
        with pytest.raises(DtypeError, match=r"late\.csv: .*invalid value '0\.5'.*dtypes={'x': 'float64'}"):
            gate.read(tmp_path / "late.csv", ["x"])
        with pytest.raises(DtypeError, match=r"none\.csv: column 'x' has no values.*dtypes={'x'"):
            gate.read(tmp_path / "none.csv", ["x"])
        with pytest.raises(MissingValueError, match=r"gap\.csv: column 'x' has no value in 1 rows.*dtypes={'x'"):
            gate.read(tmp_path / "gap.csv")
        with pytest.raises(VariableNotFoundError, match="dtypes names the column 'namee'; did you mean 'name'"):
            gate.read(tmp_path / "gap.csv", dtypes={"namee": "str"})
    gate.read(tmp_path / "*.csv", dtypes={"x": "float32", "name": "str"})
    x, name = gate.get_data("x"), gate.get_data("name")
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, [1, np.nan, *[1] * 400_000, 0.5])
    assert name[[0, 1, 2, -1]].tolist() == ["a", "b", "2", "b"]


@pytest.mark.parametrize("dtype", ["f4", ">i2", "c16", "?", "U3", "S4", "M8[s]", "f2"])
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (7, 3), (0, 3), (5, 2, 2), (4, 0)])
def test_arrays_of_numpy(tmp_path, dtype, shape):
    rows = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    np.save(tmp_path / "x.npy", rows)
    np.savez(tmp_path / "y.npz", y=rows)
    with StoreGate(data_id="a") as gate:
        gate.read(tmp_path / "x.npy")
        gate.read(tmp_path / "x.npy", "z")
        gate.read(tmp_path / "y.npz")
        for name in "xyz":
            found = gate.get_data(name)
            assert found.dtype == rows.dtype.newbyteorder("=")
            np.testing.assert_array_equal(found, rows)


def test_many_npy_files_are_one_variable(gate, tmp_path):
    parts = [np.asfortranarray(np.random.default_rng(at).random((50, 3))) for at in range(12)]
    for at, rows in enumerate(parts):
        np.save(tmp_path / f"x{at}.npy", rows)
    gate.read(tmp_path / "x*.npy", "x")
    np.testing.assert_array_equal(gate.get_data("x"), np.concatenate(parts))
    with pytest.raises(VariableNotFoundError, match=r"x1\.npy: it does not have 'x0' and has also 'x1'.*var_names"):
        gate.read(tmp_path / "x*.npy")
    with pytest.raises(ArgumentError, match=r"x0\.npy: it has one array of shape \(50, 3\); give it one name"):
        gate.read(tmp_path / "x*.npy", ["a", "b"])


def test_structured_arrays_and_what_numpy_pickles(gate, tmp_path, unchanged):
    rows = np.zeros(30, [("x", "f4", 2), ("id", "i8")])
    rows["id"] = np.arange(30)
    np.save(tmp_path / "rows.npy", rows)
    gate.read(tmp_path / "rows.npy")
    np.testing.assert_array_equal(gate.get_data("id"), rows["id"])
    np.testing.assert_array_equal(gate.get_data("x"), rows["x"])
    np.save(tmp_path / "objects.npy", np.array([{}, 1], object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1], object))
    np.savez(tmp_path / "columns.npz", x=np.asfortranarray(np.zeros((3, 2))), n=3)
    with unchanged(gate):
        with pytest.raises(UnreadableFileError, match=r"objects\.npy .*allow_pickle"):
            gate.read(tmp_path / "objects.npy")
        with pytest.raises(DtypeError, match=r"objects\.npz: array 'x\.npy' has objects"):
            gate.read(tmp_path / "objects.npz")
        with pytest.raises(DtypeError, match=r"columns\.npz: array 'x\.npy' lies column by column"):
            gate.read(tmp_path / "columns.npz", "x")
        with pytest.raises(DtypeError, match=r"columns\.npz: .*'n'.*sample axis"):
            gate.read(tmp_path / "columns.npz", ["n"])


def large_table(rng):
    return pa.table({"x": rng.random(400_000), "y": rng.integers(0, 2**60, 400_000), "z": rng.random(400_000)})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a single call is known on Linux alone")
@pytest.mark.parametrize("form", ["parquet", "one.parquet", "arrow", "one.arrow", "feather", "csv", "npy", "npz"])
def test_large_files_are_read_within_the_budget(tmp_path, form):
    rng = np.random.default_rng(1)
    table = pa.concat_tables([large_table(rng) for _ in range(14)])  # 134 MB
    warm, large = tmp_path / f"warm.{form}", tmp_path / f"large.{form}"
    for path, part in ((warm, table.slice(0, 100)), (large, table)):
        match form:
            case "parquet":
                pyarrow.parquet.write_table(part, path, row_group_size=400_000)
            case "one.parquet":
                pyarrow.parquet.write_table(part, path, row_group_size=8_000_000)
            case "arrow" | "one.arrow":
                whole = part.combine_chunks() if form == "one.arrow" else part
                with pa.ipc.new_file(path, part.schema) as file:
                    file.write_table(whole)
            case "feather":
                pyarrow.feather.write_feather(part, path)
            case "csv":
                pyarrow.csv.write_csv(part, path)
            case "npy":
                np.save(path, np.stack([part["x"].to_numpy(), part["z"].to_numpy()], axis=1))
            case "npz":
                np.savez(path, **{name: part[name].to_numpy() for name in part.column_names})
    names = "x" if form == "npy" else None
    found = grown(tmp_path, large, warm, 64 * MIB, names)
    print(f"{form}: {found / MIB:.1f} MiB")
    assert found <= 64 * MIB
    with StoreGate.open(tmp_path / "store") as gate:
        assert gate.sizes["train"] == len(table)
        last = gate.get_data("x", index=(len(table) - 1000, len(table))).reshape(1000, -1)[:, 0]
        assert np.array_equal(last, table["x"][-1000:])


NUMBERS = hypothesis.extra.numpy.boolean_dtypes() | hypothesis.extra.numpy.integer_dtypes(endianness="=")
NUMBERS |= hypothesis.extra.numpy.floating_dtypes(endianness="=", sizes=(32, 64))


@st.composite
def tables(draw):
    """Draw columns of any numbers and texts, and where they are cut into files."""
    n_rows = draw(st.integers(0, 40))
    kinds = draw(st.lists(NUMBERS | st.just(np.dtypes.StringDType()), min_size=1, max_size=4))
    drawn = {}
    for at, kind in enumerate(kinds):
        if kind.kind == "T":
            letters = st.characters(codec="utf-8", exclude_characters="\0")
            texts = draw(st.lists(st.text(letters, max_size=9), min_size=n_rows, max_size=n_rows))
            drawn[f"v{at}"] = np.array(texts, kind)
        else:
            drawn[f"v{at}"] = draw(hypothesis.extra.numpy.arrays(kind, n_rows))
    return drawn, sorted(draw(st.lists(st.integers(0, n_rows), max_size=3)))


@pytest.mark.parametrize("form", ["parquet", "arrow", "feather", "npz"])
@hypothesis.given(tables(), st.integers(1, 9))
@hypothesis.settings(max_examples=examples(50), deadline=None)
def test_any_table_in_any_number_of_files(form, table, step):
    drawn, cuts = table
    with tempfile.TemporaryDirectory() as directory, StoreGate(data_id="a") as gate:
        path, n_rows = Path(directory), len(drawn["v0"])
        for number, (lo, hi) in enumerate(itertools.pairwise([0, *cuts, n_rows])):
            FORMATS[form](path / f"{number * step}.{form}", {name: rows[lo:hi] for name, rows in drawn.items()})
        gate.read(path / "*")
        for name, rows in drawn.items():
            found = gate.get_data(name)
            assert found.dtype == rows.dtype or {found.dtype.kind, rows.dtype.kind} == {"U", "T"}
            np.testing.assert_array_equal(found, rows)


def test_whole_numbers_of_csv_stay_exact_or_are_refused(gate, tmp_path, unchanged):
    large = [9223372036854775809, 18446744073709551615]
    (tmp_path / "id.csv").write_text("id,x\n" + "".join(f"{one},0.5\n" for one in large))
    with unchanged(gate), pytest.raises(DtypeError, match=r"id.csv: column 'id' .* 9223372036854775809.*'uint64'"):
        gate.read(tmp_path / "id.csv")
    gate.read(tmp_path / "id.csv", dtypes={"id": "uint64"})
    assert gate.get_data("id").tolist() == large
    gate.read(tmp_path / "id.csv", "id", phase="test", dtypes={"id": "float64"})
    assert gate.get_data("id", "test").tolist() == [float(one) for one in large]
    (tmp_path / "floats.csv").write_text("y\n1e30\n100000000000000000000\n0.1234567890123456789\n\n")
    gate.read(tmp_path / "floats.csv", phase="valid")
    np.testing.assert_array_equal(gate.get_data("y", "valid")[:3], [1e30, 1e20, 0.1234567890123456789])
