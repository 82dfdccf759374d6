"""Stores that the tests of streams share."""

from __future__ import annotations

import importlib
import warnings

import dask
import numpy as np
import pytest

from storegate import StoreGate
from tests.streams import adapter_cases, trainer_cases


@pytest.fixture
def scratch(tmp_path):
    with dask.config.set({"storegate.scratch-directory": tmp_path / "scratch"}):
        yield tmp_path / "scratch"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Gates by number of rows and chunk rows; x is the row's number, z its negative in a wider row."""
    gates = {}

    def open_gate(n_rows, chunk=None):
        if (n_rows, chunk) not in gates:
            args = {"output_dir": tmp_path_factory.mktemp("streams") / "store", "chunk": chunk}
            gate = StoreGate("zarr" if chunk else "numpy", args if chunk else None, data_id="a")
            gate.add_data(["x", "z"], [np.arange(n_rows), -np.arange(2.0 * n_rows).reshape(n_rows, 2)])
            gates[n_rows, chunk] = gate
        return gates[n_rows, chunk]

    yield open_gate
    for gate in gates.values():
        gate.close()


@pytest.fixture
def stored_rows(tmp_path):
    """1,000 rows in chunks of 10."""
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 10}, data_id="a") as gate:
        gate.add_data("x", np.arange(1000))
        yield gate


@pytest.fixture
def filled(tmp_path):
    """Rows to train on, for adapters."""
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 16}, data_id="a") as gate:
        n_rows = adapter_cases.N_ROWS
        x = np.random.default_rng(0).standard_normal((n_rows, 4)).astype("f4")
        gate.add_data(["x", "y", "row"], [x, (x.sum(axis=1) > 0).astype("i8"), np.arange(n_rows)])
        yield gate


@pytest.fixture
def adapter():
    """The adapter for torch."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return importlib.import_module("storegate.adapters.torch")


@pytest.fixture
def keras_adapter(monkeypatch):
    """The adapter for Keras over torch."""
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras's own
        pytest.importorskip("keras")
        return importlib.import_module("storegate.adapters.keras")


@pytest.fixture
def numbered(tmp_path):
    """Rows that are their own numbers."""
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 16}, data_id="a") as gate:
        gate.add_data("row", np.arange(trainer_cases.N_ROWS))
        gate.add_data("row", np.arange(60), phase="valid")
        yield gate
