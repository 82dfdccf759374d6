"""Statistics of arrays: what is counted while rows are written is what numpy finds in them, to the bit."""

from __future__ import annotations

import json
import math

import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storegate import StoreGate
from storegate_engine import testing
from storegate_engine.arrays import Statistics, Tally
from storegate_engine.errors import CorruptStoreError
from storegate_engine.table import table_to_state
from tests.examples import examples, in_turns

KINDS = "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16 M8[s] m8[ns] M8[W] m8[M]".split()
BACKENDS = ("numpy", "zarr")


def numpys(values):
    """Return the statistics of values by numpy alone, slowly."""
    values = values.reshape(-1)
    kind = values.dtype.kind
    if kind == "c":
        is_nan = np.isnan(values)
        return Statistics(n_missing=int(is_nan.sum()), n_infinite=int((np.isinf(values) & ~is_nan).sum()))
    if kind in "mM":
        ticks = values[~np.isnat(values)].view("i8").tolist()
        return Statistics(min(ticks, default=None), max(ticks, default=None), values.size - len(ticks))
    if kind == "f":
        there = values[~np.isnan(values)].astype("f8").tolist()
        key = lambda value: (value, math.copysign(1, value))  # noqa: E731
        ends = min(there, key=key, default=None), max(there, key=key, default=None)
        return Statistics(*ends, values.size - len(there), sum(map(math.isinf, there)))
    numbers = [int(value) for value in values.tolist()]
    return Statistics(min(numbers, default=None), max(numbers, default=None))


def same(a, b):
    """Return whether statistics are equal to the bit: 0.0 is not -0.0."""
    return repr(a) == repr(b)


def any_bits(dtype):
    """Return arrays of any bit patterns: NaN of any payload, subnormal numbers, NaT, extremes."""
    dtype = np.dtype(dtype)
    shapes = hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=6)
    if dtype.kind == "b":
        return hnp.arrays(dtype, shapes)
    size = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    infinity = 0 if dtype.kind not in "fc" else int(np.array(np.inf, f"f{size}").view(f"u{size}"))
    top = 1 << (8 * size - 1)
    edges = [0, 1, top, top - 1, 2 * top - 1, top + 1, infinity, infinity | top, infinity + 1, max(infinity, 1) - 1]
    bits = st.sampled_from(edges) | st.integers(0, 2 * top - 1)
    wide = shapes.map(lambda shape: (*shape[:-1], shape[-1] * (2 if dtype.kind == "c" else 1)))
    return wide.flatmap(lambda shape: hnp.arrays(f"u{size}", shape, elements=bits)).map(lambda a: a.view(dtype))


@pytest.mark.parametrize("dtype", in_turns(KINDS, first=1))
def test_counting_equals_numpy_in_any_blocks(dtype):
    @settings(max_examples=examples(100), deadline=None)
    @given(any_bits(dtype), st.integers(1, 9))
    def check(values, n_blocks):
        tally = Tally(values.dtype)
        for part in np.array_split(values, n_blocks):
            if part.size:
                tally.add(part)
        assert same(tally.found(), numpys(values))

    check()


def test_windows_within_a_block_are_joined(monkeypatch):
    monkeypatch.setattr("storegate_engine.arrays.statistics.WINDOW_NBYTES", 16)
    values = np.array([3.0, np.nan, -np.inf, 5.0, -0.0, np.nan, np.nan, np.nan], "f4")
    tally = Tally(values.dtype)
    tally.add(values)
    assert same(tally.found(), numpys(values))


@pytest.mark.parametrize("dtype", in_turns(KINDS))
def test_json_is_exact(dtype):
    @settings(max_examples=examples(100), deadline=None)
    @given(any_bits(dtype))
    def check(values):
        found = numpys(values)
        text = json.dumps(found.to_json())
        assert same(Statistics.from_json(json.loads(text), values.dtype, values.size), found)
        assert not any(isinstance(item, float) for item in json.loads(text).values())
        ends = found.extremes(values.dtype)
        assert ends is None or ends.dtype == values.dtype

    check()


@pytest.mark.parametrize(
    ("document", "dtype"),
    [
        ({"least": 5, "most": 4}, "i8"),
        ({"least": "0x0.0p+0", "most": "-0x0.0p+0"}, "f8"),
        ({"least": 5}, "i8"),
        ({"least": 0, "most": 256}, "u1"),
        ({"least": -1, "most": 0}, "u8"),
        ({"least": 0, "most": 2}, "b1"),
        ({"least": -(2**63), "most": 0}, "M8[s]"),
        ({"least": 0.0, "most": 1.0}, "f8"),
        ({"least": 0, "most": 1}, "f8"),
        ({"least": "0x1.0p+0", "most": "0x1.000001p+0"}, "f2"),
        ({"least": "0x1.0p+0", "most": "nan"}, "f8"),
        ({"least": "0x1.0p+0", "most": "0x1.0p+99999"}, "f8"),
        ({"least": True, "most": True}, "b1"),
        ({"least": 0, "most": 1}, "c8"),
        ({"least": 0, "most": 1}, "U3"),
        ({"missing": 9}, "f8"),
        ({"missing": -1}, "f8"),
        ({"missing": 5, "infinite": 5}, "f8"),
        ({"missing": True}, "f8"),
        ({"other": 1}, "f8"),
        ([], "f8"),
        (None, "f8"),
    ],
)
def test_statistics_that_are_not_ours_are_refused(document, dtype):
    with pytest.raises(CorruptStoreError):
        Statistics.from_json(document, np.dtype(dtype), 8)


def kept(gate, name="x", phase="train"):
    """Return what is known of each piece."""
    return [piece.array.statistics for piece in gate.table[phase][name].pieces]


WAYS = {
    "array": lambda x: x,
    "dask": lambda x: da.from_array(x, chunks=(5, *x.shape[1:])),
    "iterator": lambda x: iter([x[:4], x[4:]]),
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
}


@pytest.mark.parametrize(("backend", "dtype", "way"), in_turns(BACKENDS, KINDS, WAYS))
def test_every_way_in_keeps_them(tmp_path, backend, dtype, way):
    bits = np.random.default_rng(0).integers(0, 256, (40, 3, 16), "u1")
    rows = bits.view("b1" if dtype == "b1" else dtype) if dtype != "b1" else (bits & 1).view("b1")
    if dtype in ("M8[W]", "m8[M]"):
        rows = (rows.view("i8") % 10_000).view(dtype)
    elif rows.dtype.kind in "mM":
        rows = (rows.view("i8") >> 20).view(dtype)
    args = {"output_dir": tmp_path, "chunk": 7} if backend == "zarr" else None
    gate = StoreGate(backend, args, "a")
    gate.add_data("x", WAYS[way](rows))
    assert same(kept(gate)[0], numpys(rows))
    if backend == "zarr":
        again = StoreGate.open(tmp_path)
        assert same(kept(again)[0], numpys(rows))


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(testing.dtypes(text=False).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=2, max_side=5))))
def test_of_any_rows_on_both_backends(tmp_path_factory, rows):
    for args in (None, {"output_dir": tmp_path_factory.mktemp("store"), "chunk": 2}):
        gate = StoreGate("numpy" if args is None else "zarr", args, "a")
        gate.add_data("x", rows)
        assert same(kept(gate)[0], numpys(rows))


@pytest.mark.parametrize("dtype", ["U9", "S9", "T"])
def test_bytes_of_text(tmp_path, dtype):
    texts = ["", "a", "bcd", "héé" if dtype != "S9" else "hee", "\N{GRINNING FACE}" if dtype != "S9" else "x"]
    rows = np.array(texts * 5, np.dtypes.StringDType() if dtype == "T" else dtype)
    gate = StoreGate("zarr", {"output_dir": tmp_path, "chunk": 3}, "a")
    gate.add_data("x", rows)
    (found,) = kept(gate)
    assert found == Statistics(text_nbytes=5 * sum(len(text.encode()) for text in texts))


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_rows_there_are_no_ends(tmp_path, backend):
    gate = StoreGate(backend, {"output_dir": tmp_path} if backend == "zarr" else None, "a")
    gate.add_data("x", np.zeros((0, 3)))
    gate.add_data("e", np.zeros((4, 0), "i4"))
    assert kept(gate) == kept(gate, "e") == [Statistics()]


def test_of_constant_rows():
    gate = StoreGate(data_id="a")
    for dtype in ("f4", "i8", "b1", "M8[s]", "c8", "U3"):
        gate.create_empty(dtype, (4, 2), dtype=dtype)
    found = {dtype: kept(gate, dtype)[0] for dtype in gate.variables}
    zero = Statistics(0, 0)
    assert found["i8"] == found["b1"] == found["M8[s]"] == zero
    assert same(found["f4"], Statistics(0.0, 0.0))
    assert found["c8"] == Statistics()
    assert found["U3"] == Statistics(text_nbytes=0)


def test_arrays_that_their_owner_may_change_have_none():
    rows = np.arange(5)
    gate = StoreGate("numpy", {"copy": False}, "a")
    gate.add_data("x", rows)
    assert kept(gate) == [None]


@pytest.mark.parametrize("phase", ["train", "all"])
def test_compaction_counts_the_rows_that_it_writes(tmp_path, phase):
    rows = np.random.default_rng(0).normal(size=(4000, 5))
    rows[7, 2] = np.nan
    with StoreGate("zarr", {"output_dir": tmp_path, "chunk": 64}, "a") as gate:
        gate.add_data(["x", "y"], [rows, np.arange(4000)], phase=(0.5, 0.25, 0.25), shuffle=3, do_compile=True)
        gate.astype(["x", "y"], "f4", "all")
        gate.compact(phase)
        for at in ("train",) if phase == "train" else gate.phases:
            for name in gate.variables:
                assert same(kept(gate, name, at)[0], numpys(gate.get_data(name, at)))


def test_merged_pieces_are_counted(tmp_path):
    for args in (None, {"output_dir": tmp_path}):
        gate = StoreGate("numpy" if args is None else "zarr", args, "a")
        for number in range(60):
            gate.add_data("x", np.array([number, -number]))
        rows = gate.get_data("x")
        pieces = gate.table["train"]["x"].pieces
        assert 1 < len(pieces) < 60
        done = 0
        for piece in pieces:
            assert piece.array.statistics == numpys(rows[done : done + piece.n_rows])
            done += piece.n_rows


def test_moves_between_tiers_count_again(tmp_path):
    rows = np.arange(50.0)
    gate = StoreGate("hybrid", {"output_dir": tmp_path}, "a")
    gate.add_data("x", rows)
    gate.to_memory("x")
    gate.set_mode("numpy")
    assert same(kept(gate)[0], numpys(rows))
    gate.shuffle("train", 1)
    gate.to_storage("x", output_var_names="y")
    gate.set_mode("zarr")
    assert same(kept(gate, "y")[0], numpys(rows))


def test_stores_without_them_open(tmp_path, monkeypatch):
    with StoreGate("zarr", {"output_dir": tmp_path}, "a") as gate:
        monkeypatch.setattr(Statistics, "to_json", lambda self: {})
        gate.add_data("x", [1, 2])
        state = table_to_state(gate.table)
        for document in state["arrays"]:
            document.pop("statistics")
    assert StoreGate.open(tmp_path).get_data("x").tolist() == [1, 2]


def test_rows_in_memory_are_counted_on_first_demand_and_once(monkeypatch):
    counted = []
    monkeypatch.setattr(
        Tally, "add", lambda self, values, add=Tally.add: (counted.append(values.size), add(self, values))
    )
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(1000))
    assert not counted
    assert kept(gate) == kept(gate) == [Statistics(0, 999)]
    assert counted == [1000]


@pytest.mark.slow
def test_rows_that_workers_write_are_counted(cluster, tmp_path):
    rows = np.random.default_rng(0).normal(size=(3000, 4)).astype("f4")
    rows[5, 1], rows[2000, 3] = np.nan, np.inf
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100, "budget": "16MiB"}, "a") as gate:
        gate.add_data("x", rows)
        gate.shuffle("train", 3)
        gate.compact()
        assert gate.history()[-1].operation == "compact"
        assert same(kept(gate)[0], numpys(rows))
        gate.add_data("t", np.array(["2020-01-01", "NaT"], "M8[W]").repeat(1500))
        gate.compact(var_names="t")
        assert same(kept(gate, "t")[0], numpys(gate.get_data("t")))
