"""Tables: a Parquet file that goes into a store, beside reading it and writing one raw file of the same bytes."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import disk
from benchmarks.core import write_raw
from benchmarks.harness import Line, Table, Turns, compared, interleave, isolated
from storegate import StoreGate

N_COLUMNS = 10


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    n_rows = arguments.rows or (100_000 if arguments.quick else 1_000_000)
    repeat = arguments.repeat or (3 if arguments.quick else 9)
    title = f"A Parquet file of {n_rows:,} rows and {N_COLUMNS} random columns, in the page cache"
    table = Table(title, markdown=arguments.markdown)
    with disk.workplace(arguments.directory) as at:
        table.add(_lines(at, n_rows, repeat))


def _lines(at: Path, n_rows: int, repeat: int) -> Iterator[Line]:
    for dtype in ("float64", "float32"):
        outcome = isolated(tables, str(at), n_rows, dtype, repeat)
        reference = "read with pyarrow, and one raw file, synced"
        yield compared(f"add_data of {N_COLUMNS} columns of {dtype}", outcome, "add_data", "raw", "≤ 1.3", reference)


def tables(directory: str, n_rows: int, dtype: str, repeat: int) -> Turns:
    """Put a Parquet file into a new store, and its bytes into a new file; both are on the disk when the clock stops."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    path, store, raw = (Path(directory, f"{dtype}{end}") for end in (".parquet", ".zarr", ".raw"))
    pq.write_table(pa.table({f"c{at}": rng.random(n_rows).astype(dtype) for at in range(N_COLUMNS)}), path)

    def add_data() -> None:
        with StoreGate("zarr", {"output_dir": store, "durability": "power"}, data_id="bench") as gate:
            gate.add_data(pq.read_table(path))

    def read_and_write() -> None:
        columns = pq.read_table(path).columns
        write_raw(raw, *(chunk.to_numpy() for column in columns for chunk in column.chunks))

    def clear(_: str) -> None:
        shutil.rmtree(store, ignore_errors=True)
        raw.unlink(missing_ok=True)

    add_data()  # modules are imported, and the file is in the page cache
    with StoreGate.open(store) as gate:
        assert gate["train"].to_arrow().equals(pq.read_table(path))
    clear("")
    return interleave({"raw": read_and_write, "add_data": add_data}, repeat=repeat, before=clear, after=clear)
