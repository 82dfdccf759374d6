"""Windows: pairs of adjacent rows in batches, shuffled in blocks, beside gathering the same windows in memory."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import disk, harness
from benchmarks.harness import Line, Table, Turns, compared, interleave, isolated
from storegate import StoreGate
from storegate_engine.budget import format_nbytes, parse_nbytes

WIDTH, LENGTH, BATCH = 250, 24, 256
PEERS_SHARE = 64
"""xbatcher gets this part of the rows: it makes each window by itself."""
Array = np.ndarray[Any, Any]


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    nbytes = parse_nbytes(arguments.size) if arguments.size else (64 if arguments.quick else 4096) * harness.MIB
    budget = 64 * harness.MIB if nbytes < 2**30 else 600 * 10**6
    repeat = arguments.repeat or (2 if arguments.quick else 3)
    n_rows = nbytes // (4 * WIDTH)
    title = f"Windows of {LENGTH} rows, stride 1, over {format_nbytes(nbytes)} within {format_nbytes(budget)}"
    table = Table(title, markdown=arguments.markdown)
    with disk.workplace(arguments.directory) as at:
        table.add(_lines(at, n_rows, budget, repeat))


def _lines(at: Path, n_rows: int, budget: int, repeat: int) -> Iterator[Line]:
    outcome = isolated(in_blocks, str(at), n_rows, budget, repeat)
    yield compared("shuffled in blocks", outcome, "windows", "memory", "≤ 2.86", "gathered in memory")
    outcome = isolated(rows_of_epochs, str(at), n_rows, budget, repeat)
    yield compared("an epoch of windows", outcome, "windows", "rows", "", "an epoch of rows in blocks")
    outcome = isolated(uniform, str(at), n_rows // PEERS_SHARE, budget, repeat)
    yield compared("uniform, from the page cache", outcome, "uniform", "blocks", "", "shuffled in blocks")
    if find_spec("xbatcher"):
        outcome = isolated(beside_xbatcher, str(at), n_rows // PEERS_SHARE, budget, repeat)
        yield compared("in order", outcome, "windows", "xbatcher", "≤ 0.02", "xbatcher")
        yield compared("in order", outcome, "windows", "copies", "", "copied from rows in memory")


def written(directory: str, n_rows: int) -> Path:
    """Write rows, where they are not there: random bits, which no codec can shorten."""
    path = Path(directory, f"{n_rows}.zarr")
    if not path.exists():
        rng = np.random.default_rng(0)
        parts = (rng.random((min(100_000, n_rows - lo), WIDTH), "f4") for lo in range(0, n_rows, 100_000))
        with StoreGate("zarr", {"output_dir": path}, data_id="bench") as gate:
            gate.add_data("x", parts)
    return path


def consume(batches: Iterable[Any]) -> None:
    """Take all batches, and touch each."""
    for given, wanted in batches:
        assert given[0, 0, 0] >= 0
        assert wanted[-1, 0, 0] >= 0


def in_blocks(directory: str, n_rows: int, budget: int, repeat: int) -> Turns:
    """Shuffled blocks of windows from storage, and windows at random gathered from as many rows in memory."""
    rows = np.random.default_rng(1).random((min(n_rows, 100_000), WIDTH), "f4")
    view = np.moveaxis(np.lib.stride_tricks.sliding_window_view(rows, LENGTH, axis=0), -1, 1)

    def memory() -> None:
        order = np.random.default_rng(2)
        for _ in range(max(1, (n_rows - LENGTH) // BATCH)):
            batch = view[order.integers(0, len(view), BATCH)]
            assert batch[0, 0, 0] >= 0

    with StoreGate.open(written(directory, n_rows), budget=budget) as gate:
        windows = gate["train"]["x"].windows(LENGTH - 1, 1)
        stream = windows.batches(BATCH, shuffle="blocks", seed=1)
        return interleave({"memory": memory, "windows": lambda: consume(stream)}, repeat=repeat)


def rows_of_epochs(directory: str, n_rows: int, budget: int, repeat: int) -> Turns:
    """An epoch of windows, and one of rows, in blocks."""
    with StoreGate.open(written(directory, n_rows), budget=budget) as gate:
        stream = gate["train"]["x"].windows(LENGTH - 1, 1).batches(BATCH, shuffle="blocks", seed=1)
        rows = gate["train"]["x"].batches(BATCH, shuffle="blocks", seed=1)

        def take_rows() -> None:
            for batch in rows:
                assert batch[0, 0] >= 0

        return interleave({"rows": take_rows, "windows": lambda: consume(stream)}, repeat=repeat)


def uniform(directory: str, n_rows: int, budget: int, repeat: int) -> Turns:
    """Windows anywhere, and in blocks."""
    with StoreGate.open(written(directory, n_rows), budget=budget) as gate:
        windows = gate["train"]["x"].windows(LENGTH - 1, 1)
        streams = {
            "blocks": windows.batches(BATCH, shuffle="blocks", seed=1),
            "uniform": windows.batches(BATCH, shuffle=True, seed=1),
        }
        return interleave({name: partial(consume, of) for name, of in streams.items()}, repeat=repeat)


def beside_xbatcher(directory: str, n_rows: int, budget: int, repeat: int) -> Turns:
    """Windows in order, and those of xbatcher over the same rows."""
    import xarray as xr
    import xbatcher

    with StoreGate.open(written(directory, n_rows), budget=budget) as gate:
        stream = gate["train"]["x"].windows(LENGTH - 1, 1).batches(BATCH, shuffle=False)
        dataset = xr.open_dataset(written(directory, n_rows), engine="storegate")[["x"]].load()
        inputs = {"sample": LENGTH}

        def take() -> None:
            for window in xbatcher.BatchGenerator(dataset, inputs, input_overlap={"sample": LENGTH - 1}):
                assert window.x.values[0, 0] >= 0

        rows = dataset.x.values
        view = np.moveaxis(np.lib.stride_tricks.sliding_window_view(rows, LENGTH, axis=0), -1, 1)

        def copy() -> None:  # the least that batches take
            for lo in range(0, len(view), BATCH):
                batch = view[lo : lo + BATCH].copy()
                assert batch[0, 0, 0] >= 0

        return interleave({"xbatcher": take, "windows": lambda: consume(stream), "copies": copy}, repeat=repeat)
