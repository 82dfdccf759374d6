"""Opening a store by its path, and what is said to those who forget something."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from storegate import StoreGate, errors
from storegate_engine.store import Root
from tests.processes import environment


@pytest.fixture
def store(tmp_path):
    path = tmp_path / "events.zarr"
    with StoreGate("zarr", {"output_dir": path}, data_id="run1") as gate:
        gate.add_data("x", np.arange(6))
    return path


def files(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*")) if path.exists() else None


def test_the_only_data_id_is_taken(store):
    with StoreGate.open(store) as gate:
        assert (gate.data_id, gate.backend) == ("run1", "zarr")
        np.testing.assert_array_equal(gate["train"]["x"][:], np.arange(6))
        with pytest.raises(errors.ReadOnlyError):
            gate.add_data("x", [1])


@pytest.mark.parametrize("mode", ["r", "r+", "a"])
def test_several_data_ids_are_listed(store, mode):
    with StoreGate.open(store, "run2", mode="a") as gate:
        gate.add_data("x", [1])
    before = files(store)
    with pytest.raises(errors.DataIdError, match=r"has 2 data_ids: run1, run2; give data_id="):
        StoreGate.open(store, mode=mode)
    assert files(store) == before
    with StoreGate.open(store, "run2", mode=mode) as gate:
        assert len(gate["train"]["x"][:]) == 1


@pytest.mark.parametrize("mode", ["w", "w-", "x"])
def test_an_empty_store_is_not_begun_without_a_name(store, mode):
    before = files(store)
    with pytest.raises(errors.DataIdError, match=f"mode='{mode}' starts an empty store: give data_id="):
        StoreGate.open(store, mode=mode)
    assert files(store) == before


def test_a_store_that_is_not_there(tmp_path):
    path = tmp_path / "none.zarr"
    for mode in ("r", "r+"):
        with pytest.raises(errors.StoreNotFoundError):
            StoreGate.open(path, mode=mode)
    with pytest.raises(errors.DataIdError, match="there is no store at .*none.zarr yet: give data_id="):
        StoreGate.open(path, mode="a")
    assert not path.exists()


def test_a_store_without_a_data_id(tmp_path):
    path = tmp_path / "empty.zarr"
    StoreGate("zarr", {"output_dir": path}).close()
    with pytest.raises(errors.DataIdError, match="has no data_id yet; give data_id="):
        StoreGate.open(path)


def test_versions_and_options(store):
    with StoreGate.open(store, mode="a", budget="64MiB", chunk=3, durability="power", compressor="zstd") as gate:
        gate.add_data("x", [7])
        assert gate.budget_nbytes == 64 * 2**20
    with StoreGate.open(store, version=1) as gate:
        assert len(gate["train"]["x"][:]) == 6
    with pytest.raises(TypeError, match="unknown backend_args key 'budgett'; did you mean 'budget'"):
        StoreGate.open(store, budgett=3)


def test_opening_a_subclass_gives_one(store):
    class Mine(StoreGate):
        pass

    assert type(Mine.open(store)) is Mine


@pytest.mark.parametrize(
    "place", ["events.zarr", "./events", "/data/events", "s3://bucket/events", pathlib.Path("events"), "C:\\events"]
)
def test_a_path_in_place_of_the_backend(place):
    with pytest.raises(errors.BackendNotFoundError) as caught:
        StoreGate(place)
    assert f"StoreGate.open({os.fspath(place)!r})" in str(caught.value)
    assert "backends: numpy, zarr, hybrid" in str(caught.value)


def test_a_directory_that_is_there_in_place_of_the_backend(store, monkeypatch):
    store.rename(store.with_name("events"))
    monkeypatch.chdir(store.parent)
    with pytest.raises(errors.BackendNotFoundError, match=r"StoreGate.open\('events'\)"):
        StoreGate("events")


def test_a_misspelled_backend_is_one():
    with pytest.raises(errors.BackendNotFoundError, match="no backend 'zar'; did you mean 'zarr'"):
        StoreGate("zar")


def test_without_a_data_id_those_there_are_are_listed(store):
    with StoreGate("zarr", {"output_dir": store}) as gate:
        for call in (lambda: gate["train"]["x"][:], gate.show_info, lambda: gate.add_data("y", [1])):
            with pytest.raises(errors.DataIdError, match=r"please set default data_id.*\(data_ids: run1\)"):
                call()
    with pytest.raises(ValueError, match=r"\(data_ids: none yet\)"):
        StoreGate().add_data("x", [1])


def test_python_m_storegate_is_the_command(store):
    done = subprocess.run(
        [sys.executable, "-m", "storegate", "info", str(store)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "run1" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize(("mode", "data_id"), [("r", None), ("r+", None), ("a", None), ("r", "run1"), ("r+", "run1")])
def test_a_store_is_opened_once(store, monkeypatch, mode, data_id):
    opened = []
    real = Root.open
    monkeypatch.setattr(Root, "open", lambda self, *given: (opened.append(given), real(self, *given))[1])
    with StoreGate.open(store, data_id, mode=mode) as gate:
        assert gate.data_id == "run1"
        if mode != "r":
            gate.add_data("x", [7])
            assert gate["train"]["x"][-1] == 7
    assert len(opened) == 1


def test_a_misspelled_data_id_of_a_store_to_change(store):
    before = files(store)
    with pytest.raises(errors.DataIdNotFoundError, match="did you mean 'run1'"):
        StoreGate.open(store, "run2", mode="r+")
    with pytest.raises(ValueError, match="mode"):
        StoreGate.open(store, mode="rw")
    assert files(store) == before
