"""The first script of somebody who has data of their own: six lines to the first batch, and no warning."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import awkward
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
import uproot
import xarray as xr
from PIL import Image

from tests.processes import environment

N = 100
SCRIPTS = sorted(Path(__file__).parent.glob("from_*.py"))
RNG = np.random.default_rng(0)


def hdf5() -> None:
    with h5py.File("events.h5", "w") as file:
        file.create_dataset("x", data=RNG.normal(size=(N, 4)), chunks=(10, 4))
        file["label"] = RNG.integers(0, 3, N)
        file["name"] = [f"event {number}" for number in range(N)]


def parquet() -> None:
    table = pa.table({"x": RNG.normal(size=N), "n": RNG.integers(0, 9, N), "name": [f"event {at}" for at in range(N)]})
    pq.write_table(table, "events.parquet", row_group_size=30)


def root() -> None:
    with uproot.recreate("events.root") as file:
        file["tree"] = {"pt": RNG.normal(size=N), "hits": RNG.integers(0, 9, (N, 3))}


def netcdf() -> None:
    fields = {name: (("time", "lat", "lon"), RNG.normal(size=(N, 3, 4)).astype("f4")) for name in ("t2m", "u10")}
    coords = {"time": pd.date_range("2020", periods=N), "lat": np.arange(3.0), "lon": np.arange(4.0)}
    xr.Dataset(fields, coords).to_netcdf("weather.nc", engine="h5netcdf")


def sparse() -> None:
    scipy.sparse.save_npz("counts.npz", scipy.sparse.random(N, 20, 0.1, "csr", random_state=0))


def images() -> None:
    for number in range(N):
        path = Path("images") / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 255, (8, 8, 3)).astype("u1")).save(path)


def frames() -> None:
    frame = pd.DataFrame(
        {"age": RNG.integers(0, 90, N), "name": [f"p{at}" for at in range(N)], "port": ["S", "C"] * 50}
    )
    frame.to_csv("passengers.csv", index=False)


def tokens() -> None:
    RNG.integers(0, 50_000, N * 128).astype("uint16").tofile("tokens.bin")


def lists() -> None:
    lines = ({"tokens": list(range(number % 9 + 1)), "label": number % 2} for number in range(N))
    Path("texts.jsonl").write_text("\n".join(map(json.dumps, lines)))


DATA: dict[str, Callable[[], None]] = {
    make.__name__: make for make in (hdf5, parquet, root, netcdf, sparse, images, frames, tokens, lists)
}


def test_every_kind_of_data_has_a_script() -> None:
    assert [path.stem.removeprefix("from_") for path in SCRIPTS] == sorted(DATA)
    assert awkward.__version__  # uproot needs it for branches of any kind


ALL_TWICE = """
import os, runpy, sys
for script in sys.argv[1:]:
    os.chdir(os.path.splitext(os.path.basename(script))[0])
    for _ in range(2):
        runpy.run_path(script, run_name="__main__")
    print("of", script)
    os.chdir("..")
"""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_there_are_six_lines(script: Path) -> None:
    body = ast.parse(script.read_text()).body[1:]  # without the docstring
    statements = [node for node in body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    assert statements[-1].end_lineno - statements[0].lineno + 1 <= 6


def output_of(*arguments: str | Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.slow
def test_all_of_them_come_to_a_batch_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins anew in the same process, which imports for all of them once."""
    for script in SCRIPTS:
        (tmp_path / script.stem).mkdir()
        monkeypatch.chdir(tmp_path / script.stem)
        DATA[script.stem.removeprefix("from_")]()
    monkeypatch.chdir(tmp_path)
    rest = output_of("-c", ALL_TWICE, *SCRIPTS)
    for script in SCRIPTS:
        own, _, rest = rest.partition(f"of {script}\n")
        assert own.count("(32") >= 2, script
    assert rest == ""


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_six_lines_to_the_first_batch(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run begins anew, in a process that imports only what this script needs."""
    monkeypatch.chdir(tmp_path)
    DATA[script.stem.removeprefix("from_")]()
    for _ in range(2):
        assert output_of(script).count("(32") >= 1
