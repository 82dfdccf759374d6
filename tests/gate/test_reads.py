"""What is done to rows reads none of them, or a key once, or the values that it counts once: bytes are counted."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system counts what a process reads on Linux alone")

N_ROWS = 2**15
SLACK_NBYTES = 2**17
"""What the store says about itself, and libraries."""
RNG = np.random.default_rng(0)
ROWS = {
    "x": RNG.random((N_ROWS, 100), "f4"),
    "label": RNG.integers(0, 5, N_ROWS),
    "group": RNG.integers(0, 500, N_ROWS),
    "run": np.arange(N_ROWS) // 50,
    "time": RNG.random(N_ROWS),
}
KEY_NBYTES = ROWS["time"].nbytes
SHARES = (0.8, 0.1, 0.1)

NOTHING = {
    "filter": lambda gate: gate.filter(np.arange(len(gate["train"])) % 2 == 0),
    "select": lambda gate: gate.select(slice(None, None, 3)),
    "sample": lambda gate: gate.sample(100, seed=1),
    "shuffle": lambda gate: gate.shuffle(seed=1),
    "split": lambda gate: gate.split(SHARES, seed=1),
    "folds": lambda gate: list(gate["train"].folds(5, seed=1)),
    "windows": lambda gate: len(gate["train"]["x"].windows(4, 1)),
    "clip": lambda gate: gate.clip("x", 0.1, 0.9),
    "undo": lambda gate: gate.undo(),
}
A_KEY = {
    "quantile_bins": lambda gate: gate.quantile_bins("time", 10),
    "filter": lambda gate: gate.filter(lambda ds: ds.label > 1),
    "sort": lambda gate: gate.sort("time"),
    "stratify": lambda gate: gate.split(SHARES, stratify="label", seed=1),
    "groups": lambda gate: gate.split(SHARES, groups="group", seed=1),
    "by": lambda gate: gate.split(SHARES, by="time", purge=4),
    "hash": lambda gate: gate.split(SHARES, hash="group"),
    "folds": lambda gate: list(gate["train"].folds(5, stratify="label", seed=1)),
    "windows": lambda gate: len(gate["train"]["x"].windows(4, 1, within="run")),
}
EVERYTHING = {
    "standardize": lambda gate: gate.standardize("x"),
    "normalize": lambda gate: gate.normalize("x"),
    "hash": lambda gate: gate.split(SHARES, hash="x"),
    "check": lambda gate: gate.check(),
    "filter": lambda gate: gate.filter(lambda ds: ds.x.mean("x_1") > 0.5),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores to copy: of all rows, and of few."""
    path = tmp_path_factory.mktemp("reads")
    for name, n_rows in (("few", N_ROWS // 128), ("all", N_ROWS)):
        with StoreGate("zarr", {"output_dir": path / name, "compressor": "none"}, data_id="a") as gate:
            gate.add_data({name: rows[:n_rows] for name, rows in ROWS.items()})
            gate.compile()
    return path


@pytest.fixture
def nbytes_of(stores, tmp_path):
    """A function that returns the bytes that a call reads, of files in the page cache or not."""

    def read(call):
        shutil.copytree(stores, tmp_path / "copies")
        with StoreGate.open(tmp_path / "copies" / "few", mode="a") as few:
            call(few)  # what is imported when it is needed is read now
        with StoreGate.open(tmp_path / "copies" / "all", mode="a") as gate:
            before = int(Path("/proc/self/io").read_text().split()[1])
            call(gate)
            return int(Path("/proc/self/io").read_text().split()[1]) - before

    return read


@pytest.mark.parametrize("name", NOTHING)
def test_orders_and_transforms_read_no_rows(nbytes_of, name):
    assert nbytes_of(NOTHING[name]) < SLACK_NBYTES


@pytest.mark.parametrize("name", A_KEY)
def test_what_depends_on_a_key_reads_the_key_once(nbytes_of, name):
    assert nbytes_of(A_KEY[name]) < 1.1 * KEY_NBYTES + SLACK_NBYTES


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_depends_on_values_reads_them_once(nbytes_of, name):
    nbytes = sum(rows.nbytes for rows in ROWS.values())
    assert nbytes_of(EVERYTHING[name]) < 1.1 * nbytes + SLACK_NBYTES
