"""What appends and updates do to dtypes: every stored value stays what it was, every new one is what was given."""

from __future__ import annotations

import itertools
import math
import tempfile
import warnings

import dask.array as da
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine.casts import combined, holds
from storegate_engine.errors import ConflictError, DtypeError, StoreGateError
from tests.examples import examples

TEXT = np.dtypes.StringDType()
WHOLE = [0, 1, 7, 2**24 + 1, 2**53, 2**53 + 1, 2**62 + 1, 2**63 - 1]
POOLS = {
    "?": [False, True],
    **{name: [n for n in WHOLE if n <= np.iinfo(name).max] + [np.iinfo(name).min] for name in ("i1", "i4", "i8")},
    **{name: [n for n in [*WHOLE, 255, 2**64 - 1] if n <= np.iinfo(name).max] for name in ("u1", "u4", "u8")},
    "f2": [0.5, -2.0, 2048.0, math.inf, math.nan],
    "f4": [0.5, 1.0, -3.0, 2.0**24, 3e38, math.nan],
    "f8": [0.1, 1.0, -7.0, 2.0**53, 2.0**63, 2.0**64, 1e300, -math.inf, math.nan],
    "c8": [1, 0.5 + 1j],
    "c16": [1.0, 0.1 + 1j, 1e300],
    "M8[D]": [0, 1, -1, 10**7, 10**15],
    "M8[s]": [0, 86400, 1, 10**12],
    "M8[ns]": [0, 10**9, 1, 2**63 - 1],
    "m8[D]": [0, 1, 10**15],
    "m8[s]": [0, 86400, 1],
    "m8[ms]": [0, 1000, 1],
    "U3": ["", "a", "é", "xyz", "12"],
    "U9": ["longer", "a"],
    "S3": [b"", b"a", b"\xff", b"xyz", b"12"],
    "T": ["", "a", "é" * 9, "a\0"],
}
NANOSECONDS = {"D": 86400 * 10**9, "s": 10**9, "ms": 10**6, "ns": 1}


def dtype_of(name):
    return TEXT if name == "T" else np.dtype(name)


@st.composite
def columns(draw):
    name = draw(st.sampled_from(sorted(POOLS)))
    values = draw(st.lists(st.sampled_from(POOLS[name]), min_size=1, max_size=4))
    return np.array(values, "i8" if name[0] in "mM" else dtype_of(name)).astype(dtype_of(name))


def exact(values):
    """Return values as Python compares them exactly: the same number, moment or text is equal in every dtype."""
    kind, found = values.dtype.kind, values.reshape(-1)
    if kind in "mM":
        unit = NANOSECONDS[np.datetime_data(values.dtype)[0]]
        return [(kind, int(tick) * unit) for tick in found.view("i8")]
    if kind in "UT":
        return [("text", text) for text in found.tolist()]
    if kind == "S":
        return [("text", text.decode()) if text.isascii() else ("bytes", text) for text in found.tolist()]
    numbers = found.tolist()
    return [("number", "nan" if value != value else value) for value in numbers]


def one_of(backend, directory):
    return StoreGate(backend, {"output_dir": directory} if backend == "zarr" else None, data_id="a")


def attempt(gate, change):
    """Return whether a change was made; a refused one is typed, and leaves everything as it was."""
    before, version = gate.get_data("x"), gate.repository().version
    try:
        change()
    except StoreGateError as err:
        refused = err
    else:
        return True
    assert isinstance(refused, (TypeError, ValueError))
    assert "'x'" in str(refused) or "iterator" in str(refused)
    assert gate.repository().version == version
    after = gate.get_data("x")
    assert after.dtype == before.dtype
    assert exact(after) == exact(before)
    return False


def wrapped(rows, how):
    if how == "dask":
        return da.from_array(rows, chunks=1)
    return iter(np.split(rows, len(rows))) if how == "iterator" else rows


@pytest.mark.parametrize("backend", ["numpy", "zarr"])
@pytest.mark.parametrize("how", ["array", "dask", "iterator"])
class TestLaws:
    @given(old=columns(), new=columns())
    @example(np.array([1], "u8"), np.array([-1], "i8"))
    @example(np.array([2**53 + 1]), np.array([0.5]))
    @example(np.array([0.5]), np.array([2**53 + 1]))
    @example(np.array([b"\xff"]), np.array(["a"]))
    @settings(max_examples=examples(60), deadline=None)
    def test_an_append_changes_no_value(self, backend, how, old, new):
        with tempfile.TemporaryDirectory() as directory, one_of(backend, directory) as gate:
            gate.add_data("x", old)
            if attempt(gate, lambda: gate.add_data("x", wrapped(new, how))):
                assert exact(gate.get_data("x")) == exact(old) + exact(new)

    @given(old=columns(), new=columns(), at=st.integers(0, 3))
    @example(np.array([2**63], "u8"), np.array([7], "i8"), 0)
    @example(np.array([5, 6]), np.array(["hi"]), 0)
    @example(np.array([2**53 + 1, 0]), np.array([0.5]), 1)
    @example(np.array([1, 2], "M8[D]"), np.array([1], "M8[s]"), 0)
    @example(np.array([1.0, 2.0]), np.array([2**53 + 1]), 0)
    @settings(max_examples=examples(60), deadline=None)
    def test_an_update_changes_no_other_value(self, backend, how, old, new, at):
        at, new = at % len(old), new[: len(old) - at % len(old)]
        index = slice(at, at + len(new))
        with tempfile.TemporaryDirectory() as directory, one_of(backend, directory) as gate:
            gate.add_data("x", old)
            gate.add_data("x", old, shuffle=3)
            before = gate.get_data("x")
            done = attempt(gate, lambda: gate.update_data("x", wrapped(new, how), index=(at, at + len(new))))
            if fits(old.dtype, new):
                assert done
                assert gate.get_data("x").dtype == old.dtype
            if done:
                after = gate.get_data("x")
                wanted = exact(before)
                wanted[index] = exact(new)
                rounded = exact(before)
                if np.can_cast(new.dtype, old.dtype, "same_kind") and new.dtype.kind in "fc":
                    with np.errstate(all="ignore"):
                        rounded[index] = exact(new.astype(old.dtype))
                assert exact(after) in (wanted, rounded)


def fits(dtype, new):
    """Return whether a variable has the new values in the dtype that it is, by another way than the library's."""
    try:
        with np.errstate(all="ignore"):
            return exact(np.array(new.tolist(), dtype)) == exact(new) and dtype.kind not in "mM"
    except (OverflowError, ValueError, TypeError, UnicodeError):
        return False


def test_what_is_held_comes_back():
    """`holds` says of every value of a pool what Python's exact comparison says after the cast."""
    for first, second in itertools.product(POOLS, repeat=2):
        source, target = dtype_of(first), dtype_of(second)
        try:
            combined(source, target)
        except DtypeError:
            continue
        require_held_comes_back(first, second)


def require_held_comes_back(first, second):
    source, target = dtype_of(first), dtype_of(second)
    for value in POOLS[first]:
        rows = np.array([value], "i8" if first[0] in "mM" else source).astype(source)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
            try:
                cast = rows.astype(target)
            except (UnicodeError, OverflowError):  # numpy 2.5 refuses dates that wrapped around before
                assert not holds(target, rows), (first, second, rows)
                continue
        comes_back = exact(cast) == exact(rows) and not (second == "U3" and exact(rows)[0][1] == "a\0")
        if first[0] in "mM":
            comes_back = np.array_equal(cast.astype(source).view("i8"), rows.view("i8"))
        assert holds(target, rows) == comes_back, (first, second, rows, cast)


class TestUpdates:
    @pytest.mark.parametrize(
        ("old", "value", "dtype"),
        [
            (np.array([2**63 + 1, 5], "u8"), 7, "u8"),
            (np.array([1, 2], "i4"), 1.0, "i4"),
            (np.array([1, 2], "i4"), 2**40, "i8"),
            (np.array([1, 2], "i8"), 0.5, "f8"),
            (np.array([1, 2], "f4"), 0.1, "f4"),
            (np.array([1, 2], "f4"), 1e300, "f8"),
            (np.array([1, 2], "f4"), 2**24 + 1, "f8"),
            (np.array([True, False]), 1, "?"),
            (np.array(["2020-01-01", "2021-01-01"], "M8[D]"), np.datetime64("2020-01-01T00:00:00"), "M8[D]"),
            (np.array(["2020-01-01", "2021-01-01"], "M8[D]"), np.datetime64("2020-01-01T00:00:01"), "M8[s]"),
            (np.array(["a", "b"]), "longer", "U6"),
            (np.array([b"a", b"\xff"]), "hi", "S2"),
        ],
        ids=str,
    )
    def test_one_row(self, gate, old, value, dtype):
        gate.add_data("x", old)
        gate["train"]["x"][0] = value
        got = gate.get_data("x")
        assert got.dtype == np.dtype(dtype)
        assert got[1] == old[1]
        assert got[0] == (b"hi" if value == "hi" else np.asarray(value).astype(dtype))

    @pytest.mark.parametrize(
        ("old", "value"),
        [
            (np.array([5, 6]), "hi"),
            (np.array(["a", "b"]), 5),
            (np.array([2**53 + 1, 6]), 0.5),
            (np.array([2**63, 6], "u8"), -1),
            (np.array([0.5, 6]), 2**53 + 1),
            (np.array(["2020-01-01"], "M8[D]"), np.timedelta64(1, "D")),
            (np.array(["2020-01-01"], "M8[D]"), 5),
            (np.array(["300000-01-01", "2020-01-01"], "M8[D]"), np.datetime64(1, "ns")),
            (np.array([b"a"]), "é"),
            (np.array(["a"]), b"\xff"),
            (np.array([1], "m8[M]"), np.timedelta64(1, "D")),
        ],
        ids=str,
    )
    def test_refused_with_the_remedy(self, gate, old, value):
        gate.add_data("x", np.concatenate([old, old]))
        version = gate.repository().version
        with pytest.raises(DtypeError, match=r"'x'.*astype"):
            gate["train"]["x"][0 if len(old) == 1 else len(old) - 1] = value
        assert gate.repository().version == version
        assert gate.get_data("x").tolist() == np.concatenate([old, old]).tolist()

    def test_rows_that_were_replaced_do_not_stand_in_the_way(self, gate):
        gate.add_data("x", [2**53 + 1, 2, 3])
        gate["train"]["x"][0] = 1
        gate["train"]["x"][1] = 0.5
        assert gate.get_data("x").tolist() == [1, 0.5, 3]

    def test_phases_that_an_update_does_not_touch_stay(self, gate):
        gate.add_data("x", np.array([1, 2]), "train", do_compile=True)
        gate.add_data("x", np.array([2**53 + 1]), "valid", do_compile=True)
        gate.update_data("x", [0.5], "all", index=(0, 1))
        assert gate.get_data("x").tolist() == [0.5, 2]
        assert gate.get_data("x", "valid").tolist() == [2**53 + 1]


def test_blocks_that_round_later_are_refused(gate):
    for first, later in [(np.array([0.5]), np.array([2**53 + 1])), (np.array([1], "M8[s]"), np.array([1], "m8[s]"))]:
        with pytest.raises(DtypeError, match="block 1"):
            gate.add_data("x", iter([first, later]))
    with pytest.raises(DtypeError, match="block 1"):
        gate.add_data("x", iter([np.array([1], "M8[ns]"), np.array([10**12], "M8[D]")]))
    gate.add_data("x", iter([np.array([0.5]), np.array([2**53])]))
    assert gate.get_data("x").tolist() == [0.5, 2**53]


def test_blocks_that_are_not_what_dask_says(gate):
    """The dtype that a dask array says it has is a promise of its maker."""
    blocks = da.from_array(np.arange(4), chunks=2)
    with pytest.raises(DtypeError, match=r"float64.*int64"):
        gate.add_data("x", blocks.map_blocks(lambda rows: rows + 0.5, dtype="i8"))
    with pytest.raises(ValueError, match="shape"):
        gate.add_data("x", blocks.map_blocks(lambda rows: rows[:, np.newaxis], dtype="i8"))
    assert gate.get_var_names() == []
    wide = blocks.map_blocks(lambda rows: np.array(["a", "longer"]), dtype="U1")
    gate.add_data("x", wide)
    assert gate.get_data("x").tolist() == ["a", "longer"] * 2


def test_a_variable_that_is_widened_must_still_be_what_was_looked_at(tmp_path):
    """Another writer appends what the wider dtype would change, between the look and the commit."""
    args = {"output_dir": tmp_path / "store"}
    with StoreGate("zarr", args, data_id="a") as gate, StoreGate("zarr", args, data_id="a") as other:
        gate.add_data("x", [1, 2])

        def blocks():
            yield np.array([0.5])
            other.add_data("x", [2**53 + 1])

        with pytest.raises(ConflictError):
            gate.add_data("x", blocks())
        assert gate.get_data("x").tolist() == [1, 2, 2**53 + 1]
