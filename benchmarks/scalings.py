"""Scalings: means and deviations of every column within the budget, beside dask's over the same zarr array."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import disk, harness
from benchmarks.harness import Line, Table, Turns, compared, interleave, isolated
from storegate import StoreGate
from storegate_engine.budget import format_nbytes, parse_nbytes

WIDTH = 256
"""float32 values of a row: 1 kB."""
CHUNK_ROWS = 2**13
"""Rows of a chunk of the zarr array that dask reads, which is written as dask likes it: 8 MiB, without shards."""


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    nbytes = parse_nbytes(arguments.size) if arguments.size else (64 if arguments.quick else 4096) * harness.MIB
    repeat = arguments.repeat or (2 if arguments.quick else 3)
    table = Table(f"Means and deviations of {format_nbytes(nbytes)}, in the page cache", markdown=arguments.markdown)
    with disk.workplace(arguments.directory) as at:
        table.add(_lines(at, nbytes // (4 * WIDTH), repeat))


def _lines(at: Path, n_rows: int, repeat: int) -> Iterator[Line]:
    outcome = isolated(fits, str(at), n_rows, repeat)
    yield compared("standardize", outcome, "standardize", "zarr", "≤ 1.25", "da.from_zarr(…).mean(0)")
    yield compared("standardize", outcome, "standardize", "both", "", "dask's mean and std of the view")
    yield compared("standardize", outcome, "standardize", "mean", "", "dask's mean of the view")
    yield compared("normalize", outcome, "normalize", "both", "", "dask's mean and std of the view")


def fits(directory: str, n_rows: int, repeat: int) -> Turns:
    """Fit scalings, and let dask compute means and deviations of the same rows."""
    import dask.array as da
    from dask.base import compute

    path = Path(directory, f"{n_rows}.zarr")
    if not path.exists():
        parts = (disk.random_rows(min(2**16, n_rows - lo), WIDTH, seed=lo) for lo in range(0, n_rows, 2**16))
        with StoreGate("zarr", {"output_dir": path}, data_id="bench") as gate:
            gate.add_data("x", parts)
    with StoreGate.open(path, mode="a") as gate:
        of_view, chunked = gate["train"].to_xarray()["x"].data, Path(directory, f"{n_rows}-chunked.zarr")
        if not chunked.exists():
            of_view.rechunk((CHUNK_ROWS, WIDTH)).to_zarr(str(chunked))
        of_zarr = da.from_zarr(str(chunked))
        cases: dict[str, Callable[[], object]] = {
            "mean": lambda: of_view.mean(axis=0).compute(),
            "both": lambda: compute(of_view.mean(axis=0), of_view.std(axis=0)),
            "zarr": lambda: of_zarr.mean(axis=0).compute(),
            "standardize": lambda: gate.standardize("x"),
            "normalize": lambda: gate.normalize("x"),
        }
        cases["mean"]()  # the files are in the page cache

        def after(name: str) -> None:
            if name in ("standardize", "normalize"):
                gate.undo()

        return interleave(cases, repeat=repeat, after=after)
