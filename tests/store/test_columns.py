"""Many variables of one array: written one after the other within a small budget, in few files."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import SpillError

NAMES = tuple(f"v{at}" for at in range(40))


@pytest.fixture
def rows():
    return np.random.default_rng(0).random((30_000, 40, 2), dtype="f4")


def given_as(form, rows):
    """The same rows in every form that is taken."""
    blocks = [rows[lo : lo + 1700] for lo in range(0, len(rows), 1700)]
    return {"array": rows, "dask": da.from_array(rows, chunks=(1700, 7, 2)), "iterator": iter(blocks)}[form]


@pytest.mark.parametrize("form", ["array", "dask", "iterator"])
def test_each_variable_gets_its_column(tmp_path, rows, form):
    args = {"output_dir": tmp_path / "store", "budget": "24MiB"}
    with StoreGate("zarr", args, "a") as gate, dask.config.set(scheduler="sync"):
        gate.add_data(NAMES, given_as(form, rows), phase="train")
        for at in (0, 17, 39):
            np.testing.assert_array_equal(gate["train"][f"v{at}"][:], rows[:, at])
        np.testing.assert_array_equal(gate["train"][NAMES][100:120], rows[100:120])
        assert len(list((tmp_path / "store").rglob("c/*/*"))) <= 2 * len(NAMES)
        assert not list((tmp_path / "store").rglob("columns"))
        assert not gate.verify().problems


def test_a_scratch_that_cannot_be_written_changes_nothing(tmp_path, rows):
    (tmp_path / "file").write_bytes(b"")
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "24MiB"}, "a") as gate:
        gate.add_data("old", [1])
        before = sorted(tmp_path.rglob("*"))
        inside = {"storegate.scratch-directory": str(tmp_path / "file" / "scratch")}
        with dask.config.set(inside), pytest.raises(SpillError, match="scratch-directory"):
            gate.add_data(NAMES, iter([rows]))
        assert sorted(tmp_path.rglob("*")) == before
        assert gate.get_var_names() == ["old"]


def test_text_and_few_variables_need_no_scratch(tmp_path, rows, monkeypatch):
    from storegate_engine.store import ingest

    monkeypatch.setattr(ingest, "turned", lambda *args: pytest.fail("turned on disk"))
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "64MiB"}, "a") as gate:
        gate.add_data(("x", "y"), iter([rows[:, :2]]))
        words = np.array([["a", "bb"], ["ccc", ""]], dtype=np.dtypes.StringDType())
        gate.add_data(("s", "t"), iter([words]))
        np.testing.assert_array_equal(gate["train"]["y"][:], rows[:, 1])
        assert gate["train"]["t"][:].tolist() == ["bb", ""]
