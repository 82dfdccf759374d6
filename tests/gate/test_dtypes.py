"""Every dtype that can be stored, on every backend and through every path: what goes in comes out, bit for bit."""

from __future__ import annotations

import warnings
from dataclasses import replace
from datetime import date

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from storegate import StoreGate
from storegate_engine.encodings import canonical_bytes, encoding_of
from storegate_engine.errors import DtypeError
from tests.examples import in_turns

TEXT = np.dtypes.StringDType()
BACKENDS = ["numpy", "zarr", "hybrid"]
UNITS = "Y M W D h m s ms us ns".split()


def floats(dtype):
    found = np.array([0.1, -0.0, np.inf, -np.inf, np.finfo(dtype).tiny, np.finfo(dtype).max, np.nan], dtype)
    found.view(f"u{found.itemsize}")[-1] += 5  # a NaN with a payload
    return found


def integers(dtype):
    limits = np.iinfo(dtype)
    return np.array([limits.min, limits.max, 0, 1, limits.max - 1], dtype)


VALUES = {
    "bool": np.array([True, False, True]),
    **{name: integers(name) for name in "i1 i2 i4 i8 u1 u2 u4 u8".split()},
    **{name: floats(name) for name in "f2 f4 f8".split()},
    "c8": floats("f4") + np.complex64(1j),
    "c16": floats("f8") - 1j,
    **{f">{name}": integers(name).astype(f">{name}") for name in ("i2", "u8")},
    ">f8": np.array([0.1, -0.0, np.nan, 1e308], ">f8"),
    **{f"M8[{unit}]": np.array([0, 1, -1, 12, 2**20, "NaT"], f"M8[{unit}]") for unit in UNITS},
    **{f"m8[{unit}]": np.array([1, 2, 12, -1, 2**20, "NaT"], f"m8[{unit}]") for unit in UNITS},
    "far m8[M]": np.array([2**63 - 1, -(2**63) + 1], "m8[M]"),
    "far M8[s]": np.array([2**63 - 1, -(2**63) + 1], "i8").view("M8[s]"),
    "far M8[D]": np.array([2**63 - 1, -(2**63) + 1], "i8").view("M8[D]"),
    ">M8[ns]": np.array([0, 2**62], ">M8[ns]"),
    "U": np.array(["", "a", "é", "Ā", "\U0001f600", "a\0b", "longest text"]),
    ">U1": np.array(["Ā", "a", ""], ">U1"),
    "S": np.array([b"", b"a", b"\xff\x80", b"a\0b", b"longest"]),
    "T": np.array(["", "a", "é" * 300, "Ā", "\U0001f600", "a\0b", "end\0"], TEXT),
    "T, strict": np.array(["a", "b"], np.dtypes.StringDType(coerce=False)),
}


def native(values):
    return values.astype(TEXT) if values.dtype.kind == "T" else values.astype(values.dtype.newbyteorder("="))


def require_same(found, wanted):
    wanted = native(wanted)
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert bytes(canonical_bytes(found)) == bytes(canonical_bytes(wanted))


def reopened(gate, tmp_path):
    """Return a gate that has seen nothing of what this one did."""
    if gate.backend == "numpy":
        return gate
    return StoreGate(gate.backend, {"output_dir": tmp_path / "store"}, data_id="test_id")


def whole(gate, x):
    gate.add_data("x", x)
    return x


def appended(gate, x):
    gate.add_data("x", x)
    gate.add_data("x", x[::-1])
    return np.concatenate([x, x[::-1]])


def from_iterator(gate, x):
    gate.add_data("x", iter([x[:1], x[1:]]))
    return x


def from_dask(gate, x):
    gate.add_data("x", da.from_array(x, chunks=2))
    return x


def updated_row(gate, x):
    gate.add_data("x", x)
    gate["train"]["x"][1] = x[0]
    return x[[0, 0, *range(2, len(x))]]


def updated_rows(gate, x):
    gate.add_data("x", x)
    gate.update_data("x", x[[1, 0]], index=(0, 2))
    return x[[1, 0, *range(2, len(x))]]


def updated_scattered(gate, x):
    gate.add_data("x", x[::-1].copy())
    gate["train"]["x"][np.arange(len(x))[::-1]] = x
    return x[::-1]


def replaced(gate, x):
    gate.add_data("x", np.zeros(len(x)))
    gate.update_data("x", x)
    return x


def filled(gate, x):
    gate.create_empty("x", (len(x) + 1,), dtype=native(x).dtype)
    gate.update_data("x", x, index=(0, len(x)))
    return np.concatenate([x, np.zeros(1, x.dtype)])


def compacted(gate, x):
    gate.add_data("x", x)
    gate.shuffle(seed=3)
    for _ in range(2):
        gate.compact()
    return x[np.random.RandomState(3).permutation(len(x))]


def renamed(gate, x):
    gate.add_data("old", x)
    gate.add_data("x", gate.get_data("old", compute=False))
    return x


def of_rows(gate, x):
    gate.add_data("x", np.stack([x, x[::-1]], axis=1))
    return np.stack([x, x[::-1]], axis=1)


PATHS = [
    whole,
    appended,
    from_iterator,
    from_dask,
    updated_row,
    updated_rows,
    updated_scattered,
    replaced,
    filled,
    compacted,
    renamed,
    of_rows,
]


@pytest.mark.parametrize("turn", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", VALUES)
def test_every_path(backend, tmp_path, name, turn):
    """A dtype takes each path on one of the backends in a turn, which is another one for the next dtype."""
    turn += BACKENDS.index(backend) + list(VALUES).index(name)
    for number, path in enumerate(PATHS[turn % 3 :: 3]):
        with StoreGate(backend, {"output_dir": tmp_path / "store"} if backend != "numpy" else None) as gate:
            gate.set_data_id(f"{number}")
            wanted = path(gate, VALUES[name])
            require_same(gate.get_data("x"), wanted)
            if backend != "numpy":
                with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id=f"{number}") as again:
                    require_same(again.get_data("x"), wanted)
                    rows = [again.get_data("x", index=row) for row in range(len(wanted))]
                    require_same(np.array(rows, TEXT) if native(wanted).dtype == TEXT else np.stack(rows), wanted)


@pytest.mark.parametrize("name", VALUES)
def test_moves_and_fingerprints(tmp_path, name):
    x = VALUES[name]
    with StoreGate("hybrid", {"output_dir": tmp_path / "store"}, data_id="a") as gate, StoreGate(data_id="a") as memory:
        gate.add_data("x", x)
        memory.add_data("x", x)
        kept = gate.fingerprint("x")
        assert memory.fingerprint("x") == kept
        gate.to_memory("x")
        gate.set_mode("numpy")
        require_same(gate.get_data("x"), x)
        assert gate.fingerprint("x") == kept
        gate.to_storage("x", output_var_names="y")
        gate.set_mode("zarr")
        require_same(gate.get_data("y"), x)
        assert gate.fingerprint("y") == kept
        assert not gate.verify().problems


@pytest.mark.parametrize(
    ("backend", "name"), in_turns(BACKENDS, [name for name in VALUES if "far" not in name], every=3)
)
def test_xarray_saves_it(gate, tmp_path, name):
    x = native(VALUES[name])
    gate.add_data("x", x)
    dataset = gate.to_xarray()
    values = dataset["x"].values
    if x.dtype.kind in "mM":
        assert (values.astype(x.dtype).view("i8") == x.view("i8")).all()
    else:
        require_same(values, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr: dtypes that its format does not specify yet
        dataset.to_zarr(tmp_path / "saved.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "saved.zarr", consolidated=False, decode_timedelta=True) as again:
        if x.dtype.kind not in "UTSb" and "NaT" not in x.astype(str):
            np.testing.assert_array_equal(again["x"].values, values)


def test_xarray_refuses_dates_that_it_cannot_have(gate):
    gate.add_data("x", np.array([2**62], "i8").view("M8[D]"))
    with pytest.raises(DtypeError, match="coarser"):
        gate.to_xarray()["x"].compute()


@pytest.mark.parametrize(
    ("backend", "name"),
    in_turns(BACKENDS, [name for name in VALUES if not name.startswith(("far", "T,"))], every=3),
)
def test_create_empty_is_zeros(gate, tmp_path, name):
    dtype = native(VALUES[name]).dtype
    gate.create_empty("t", (3, 2), dtype=dtype)
    with reopened(gate, tmp_path) as again:
        require_same(again.get_data("t"), np.zeros((3, 2), dtype))
        gate.compact()
        require_same(again.get_data("t"), np.zeros((3, 2), dtype))


@pytest.mark.parametrize("dtype", ["U", "S"])
def test_text_without_a_width_gets_one(gate, tmp_path, dtype):
    gate.create_empty("t", (3,), dtype=dtype)
    gate["train"]["t"][0] = np.array("abc", dtype)
    with reopened(gate, tmp_path) as again:
        assert again.get_data("t").tolist() == np.array(["abc", "", ""], dtype).tolist()


REFUSED = {
    "object": np.array([None, 1], object),
    "longdouble": np.ones(2, np.longdouble),
    "fields": np.zeros(2, [("a", "i4"), ("b", "f4")]),
    "no unit": np.zeros(2, "M8"),
    "multiples of a unit": np.zeros(2, "m8[25s]"),
    "picoseconds": np.zeros(2, "m8[ps]"),
    "raw": np.zeros(2, "V3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(gate, name):
    values = REFUSED[name]
    gate.add_data("old", [1, 2])
    version = gate.repository().version
    for call in (
        lambda: gate.add_data("new", values),
        lambda: gate.add_data("new", iter([values])),
        lambda: gate.add_data("old", values),
        lambda: gate.update_data("old", values),
        lambda: gate.update_data("old", values, index=(0, 2)),
        lambda: gate.create_empty("new", (3,), dtype=values.dtype),
        lambda: gate.astype("old", values.dtype),
    ):
        with pytest.raises(DtypeError, match=r"convert|add each|store each|numbers"):
            call()
    assert gate.repository().version == version
    assert gate.get_var_names() == ["old"]


@pytest.mark.parametrize("values", [np.array(["\ud800"]), np.array([10**17], "i8").view("M8[Y]")], ids=["text", "far"])
def test_values_that_cannot_be_stored_are_refused_or_come_back(gate, tmp_path, values):
    before = gate.repository().version
    try:
        gate.add_data("x", values)
    except DtypeError as err:
        refused = str(err)
    else:
        assert gate.get_data("x").tobytes() == values.tobytes()
        return
    assert "'x'" in refused
    assert gate.repository().version == before
    assert not list((tmp_path / "store").rglob("x"))


def test_a_cast_of_dates_never_wraps_around(gate):
    gate.add_data("x", np.array(["3000-01-01", "2020-01-01"], "M8[D]"))
    gate.astype("x", "M8[s]")
    assert gate.get_data("x", index=0) == np.datetime64("3000-01-01")
    with pytest.raises(DtypeError, match="coarser"):
        gate.astype("x", "M8[ns]")
    gate.update_data("x", np.array(["2020-01-02"], "M8[D]"), index=[0])
    gate.astype("x", "M8[ns]")
    assert gate.get_data("x").astype("M8[D]").tolist() == [date(2020, 1, 2), date(2020, 1, 1)]


def test_durations_of_months_that_were_stored_as_days_are_read_as_such(tmp_path):
    """Stores of earlier versions have them in days, which their metadata say."""
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data("x", np.array([0, 30, 365], "m8[D]"))
    (file,) = (tmp_path / "store").rglob("x/zarr.json")
    assert '"days"' in file.read_text()
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        stored = gate.table.variable("train", "x").pieces[0].array
        found = np.empty(3, "m8[M]")
        replace(stored, dtype=np.dtype("m8[M]")).read_into(0, 3, found)
        assert found.tolist() == np.array([0, 30, 365], "m8[D]").astype("m8[M]").tolist()


@pytest.mark.parametrize("char", "bBhHiIlLqQ")
def test_every_integer_type_of_c_is_the_dtype_that_it_equals(tmp_path, char):
    encoding_of.cache_clear()  # equal dtypes share an entry, whichever came first
    values = np.arange(3).astype(char)
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data({"x": values, "y": values.astype("f4")})
        gate.astype("y", values.dtype, phase="train")
        gate.compact("train")
        np.testing.assert_array_equal(gate["train"]["x"][:], values)
        assert gate["train"]["x"].dtype == gate["train"]["y"].dtype == values.dtype


def test_a_list_of_large_integers_is_stored(tmp_path):
    encoding_of.cache_clear()
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data("x", [2**63, 2**64 - 1])
        assert gate["train"]["x"][:].tolist() == [2**63, 2**64 - 1]
