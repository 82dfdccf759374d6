"""Narrow: shuffled scalars, where row numbers cost more than rows; beside numpy's own indexing."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import disk
from benchmarks.harness import Line, Table, Turns, compared, interleave, isolated
from storegate import StoreGate

SEED = 3
PICKED = 1000


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    n_rows = arguments.rows or (2_000_000 if arguments.quick else 20_000_000)
    repeat = arguments.repeat or (2 if arguments.quick else 5)
    title = f"{n_rows:,} shuffled float32 scalars, in the page cache"
    table = Table(title, markdown=arguments.markdown)
    with disk.workplace(arguments.directory) as at:
        table.add(_lines(at, n_rows, repeat))


def _lines(at: Path, n_rows: int, repeat: int) -> Iterator[Line]:
    outcome = isolated(narrow, str(at), n_rows, repeat)
    reference = "numpy's rows[index], and one readinto"
    yield compared("view[:]", outcome, "view", "numpy", "≤ 4", reference)
    yield compared("ds.x.mean()", outcome, "mean", "numpy", "≤ 4", reference)
    yield compared(f"ds.isel of {PICKED} rows", outcome, "isel", "picked", "≤ 3", "view[index]")


def narrow(directory: str, n_rows: int, repeat: int) -> Turns:
    """Read shuffled scalars whole, their mean and some of them; their permutation is worked out before."""
    rows = np.random.default_rng(0).random(n_rows, dtype="f4")
    raw = Path(directory, "rows.raw")
    rows.tofile(raw)
    order = np.random.RandomState(SEED).permutation(n_rows)
    picked = np.sort(np.random.default_rng(1).integers(0, n_rows, PICKED))
    gate = StoreGate("zarr", {"output_dir": Path(directory, "store")}, data_id="bench")
    gate.add_data("x", rows)
    gate.shuffle("train", seed=SEED)
    view = gate["train"]["x"]
    assert np.array_equal(view[:], rows[order])
    scanned = np.empty_like(rows)

    def numpy() -> None:
        with open(raw, "rb", buffering=0) as file:
            file.readinto(scanned.data)
        scanned[order]

    cases = {
        "numpy": numpy,
        "view": lambda: view[:],
        "mean": lambda: gate["train"].to_xarray()["x"].mean().values,
        "picked": lambda: view[picked],
        "isel": lambda: gate["train"].to_xarray()["x"].isel(sample=picked).values,
    }
    return interleave(cases, repeat=repeat, warm=True)
