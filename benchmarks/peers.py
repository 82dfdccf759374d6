"""Peers: other software that can shuffle rows on disk, each as its documentation would have it done.

Each peer writes its input in its own preferred form first, which is not timed, and is then given the time limit for
the shuffle from files to files. Imports are deferred on purpose: a peer that is not installed is skipped.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Turns, interleave

__all__ = ["PEERS", "Peer", "chosen", "missing_packages", "timed"]

BLOCK_ROWS = 2**15
SEED = 7
MEMORY_LIMIT = "4GB"
"""For peers that can be told."""

Prepare = Callable[[str, str, int, int], bool]
Shuffle = Callable[[str, str, int, int], None]


@dataclass(frozen=True)
class Peer:
    """One way to shuffle rows on disk."""

    title: str
    """Its name in the table."""
    packages: tuple[str, ...]
    """What it imports, and what to install for it where that has another name, as ``module:package``."""
    prepare: Prepare
    """Writes its input; arguments are its directory, the raw rows, their number and their width."""
    shuffle: Shuffle
    """Shuffles the input into new files."""

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return missing_packages(self.packages)


def missing_packages(names: Iterable[str]) -> list[str]:
    """Return the packages that are not installed, of names like ``module`` or ``module:package``."""
    pairs = [(name.partition(":")[0], name.rpartition(":")[2]) for name in names]
    return [package for module, package in pairs if importlib.util.find_spec(module) is None]


def chosen(names: str, known: Iterable[str]) -> list[str]:
    """Return the peers that the command line asks for: ``all``, ``none``, or some by their names."""
    known = list(known)
    wanted = {"all": known, "none": []}.get(names, names.split(","))
    if unknown := set(wanted) - set(known):
        raise SystemExit(f"no peer {', '.join(sorted(unknown))} (peers: {', '.join(known)})")
    return wanted


def timed(name: str, directory: str, raw: str, n_rows: int, width: int) -> Turns:
    """Time one peer."""
    peer = PEERS[name]
    return interleave({"run": lambda: peer.shuffle(directory, raw, n_rows, width)}, repeat=1)


def rows_of(raw: str, n_rows: int, width: int) -> np.ndarray[Any, Any]:
    """Return the raw rows as a memmap."""
    return np.memmap(raw, np.float32, "r", shape=(n_rows, width))


# ---------------------------------------------------------------------------------------------------------- dask arrays


def write_zarr(directory: str, raw: str, n_rows: int, width: int) -> bool:
    """Write the rows as a zarr array of uncompressed chunks of 32 MiB."""
    import zarr

    rows = rows_of(raw, n_rows, width)
    array = zarr.create_array(
        f"{directory}/in.zarr", shape=rows.shape, chunks=(BLOCK_ROWS, width), dtype="f4", compressors=None
    )
    for start in range(0, n_rows, BLOCK_ROWS):
        array[start : start + BLOCK_ROWS] = rows[start : start + BLOCK_ROWS]
    return True


def take_with_dask(directory: str, raw: str, n_rows: int, width: int) -> None:
    """Index a dask array with a permutation."""
    import dask.array as da

    permutation = np.random.default_rng(SEED).permutation(n_rows)
    shuffled = da.from_zarr(f"{directory}/in.zarr")[permutation].rechunk((BLOCK_ROWS, width))
    shuffled.to_zarr(f"{directory}/out.zarr")


def shuffle_dask_frame(directory: str, raw: str, n_rows: int, width: int) -> None:
    """Shuffle a dask DataFrame by random numbers, then the rows of every partition."""
    import dask.dataframe as dd
    import pandas as pd
    from dask.base import compute
    from dask.delayed import delayed

    names = [f"x{at}" for at in range(width)]
    meta = pd.DataFrame({name: np.empty(0, np.float32) for name in names}).assign(
        y=np.empty(0, np.int64), key=np.empty(0, np.int64)
    )

    def read(start: int) -> Any:
        stop = min(start + BLOCK_ROWS, n_rows)
        frame = pd.DataFrame(np.array(rows_of(raw, n_rows, width)[start:stop]), columns=names)
        keys = np.random.default_rng((SEED, start)).integers(0, 2**62, stop - start)
        return frame.assign(y=np.arange(start, stop), key=keys)

    def write(frame: Any, number: int) -> int:
        np.save(f"{directory}/out-{number}.npy", frame.sort_values("key")[names].to_numpy())
        return len(frame)

    frame = dd.from_map(read, list(range(0, n_rows, BLOCK_ROWS)), meta=meta)
    parts = frame.shuffle(on="key").to_delayed()
    total = sum(compute(*(delayed(write)(part, number) for number, part in enumerate(parts))))
    _require(total, n_rows)


# -------------------------------------------------------------------------------------------------------- Arrow tables


def write_parquet(directory: str, raw: str, n_rows: int, width: int) -> bool:
    """Write rows and labels as one uncompressed parquet file, the rows as a column of fixed-size lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = rows_of(raw, n_rows, width)
    schema = pa.schema([("x", pa.list_(pa.float32(), width)), ("y", pa.int64())])
    with pq.ParquetWriter(f"{directory}/in.parquet", schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, n_rows, BLOCK_ROWS):
            block = np.array(rows[start : start + BLOCK_ROWS])
            lists = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), width)
            labels = pa.array(np.arange(start, start + len(block)))
            writer.write_table(pa.table({"x": lists, "y": labels}, schema=schema))
    return True


def order_with_polars(directory: str, raw: str, n_rows: int, width: int) -> None:
    """Sort by random numbers, streaming."""
    import polars as pl

    keys = pl.Series("key", np.random.default_rng(SEED).permutation(n_rows))
    frame = pl.scan_parquet(f"{directory}/in.parquet").with_columns(keys).sort("key").drop("key")
    frame.sink_parquet(f"{directory}/out.parquet", compression="uncompressed")


def order_with_duckdb(directory: str, raw: str, n_rows: int, width: int) -> None:
    """Order by random()."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        connection.execute(f"SET temp_directory = '{directory}/spill'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(
            f"COPY (SELECT * FROM '{directory}/in.parquet' ORDER BY random()) "
            f"TO '{directory}/out.parquet' (FORMAT parquet, COMPRESSION uncompressed)"
        )


def flatten_with_datasets(directory: str, raw: str, n_rows: int, width: int) -> None:
    """Shuffle the indices of an Arrow dataset, and write the rows in their order."""
    import datasets

    loaded = datasets.Dataset.from_parquet(f"{directory}/in.parquet", cache_dir=f"{directory}/cache")
    shuffled = loaded.shuffle(seed=SEED).flatten_indices(cache_file_name=f"{directory}/out.arrow")
    _require(len(shuffled), n_rows)


def shuffle_with_ray(directory: str, raw: str, n_rows: int, width: int) -> None:
    """Shuffle a Ray dataset."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(include_dashboard=False, num_cpus=2, object_store_memory=2 * 10**9)
    ray.data.read_parquet(f"{directory}/in.parquet").random_shuffle(seed=SEED).write_parquet(f"{directory}/out")


# ------------------------------------------------------------------------------------------------------------- AnnData


def write_anndata(directory: str, raw: str, n_rows: int, width: int) -> bool:
    """Write the rows as AnnData files of about 500 MB."""
    import anndata as ad
    import pandas as pd

    rows = rows_of(raw, n_rows, width)
    step = 2**19
    for number, start in enumerate(range(0, n_rows, step)):
        block = np.array(rows[start : start + step])
        names = [str(row) for row in range(start, start + len(block))]
        obs = pd.DataFrame({"y": np.arange(start, start + len(block))}, index=names)
        ad.AnnData(block, obs=obs).write_h5ad(f"{directory}/in-{number:04d}.h5ad")
    return True


def shuffle_with_annbatch(directory: str, raw: str, n_rows: int, width: int) -> None:
    """Make a shuffled collection, which is what annbatch reads batches from."""
    from annbatch import DatasetCollection

    paths = sorted(str(path) for path in Path(directory).glob("in-*.h5ad"))
    DatasetCollection(f"{directory}/out.zarr").add_adatas(adata_paths=paths, shuffle=True)


def nothing(directory: str, raw: str, n_rows: int, width: int) -> bool:
    """Read the raw file as it is."""
    return True


def _require(found: int, n_rows: int) -> None:
    if found != n_rows:
        raise AssertionError(f"{found} rows came out of {n_rows}")


PEERS = {
    "dask-take": Peer("dask, x[permutation]", ("dask",), write_zarr, take_with_dask),
    "dask-dataframe": Peer("dask.dataframe.shuffle", ("dask", "pandas", "pyarrow"), nothing, shuffle_dask_frame),
    "polars": Peer("polars, sort by random numbers", ("polars", "pyarrow"), write_parquet, order_with_polars),
    "duckdb": Peer("duckdb, order by random()", ("duckdb", "pyarrow"), write_parquet, order_with_duckdb),
    "datasets": Peer("HF datasets, shuffle and flatten", ("datasets", "pyarrow"), write_parquet, flatten_with_datasets),
    "ray": Peer("Ray Data, random_shuffle", ("ray:'ray[data]'", "pyarrow"), write_parquet, shuffle_with_ray),
    "annbatch": Peer("annbatch, shuffled collection", ("annbatch", "anndata"), write_anndata, shuffle_with_annbatch),
}
