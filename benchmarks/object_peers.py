"""Object peers: other software over the same rows in an S3 server, where it is installed; knows no case of ours."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import zarr

from storegate_engine.locations import Location

__all__ = ["NAMES", "of_objects", "write_for_peers"]

BLOCK_CHUNKS = 4
"""Objects of 16 MiB that insitubatch mixes: as many rows as a buffer of ours."""
IN_FLIGHT = 8
"""Objects that it gets at the same time, as the reference does: its memory is in proportion to them."""
PARQUET, GROUP_NBYTES = "rows.parquet", 16 * 2**20
"""The file, and bytes of a group of its rows."""
ZARR_NBYTES = 64 * 2**20
"""Bytes that zarr-python is asked for at a time: several shards, whose requests it sends together."""
NAMES = ("zarr-python, in order", "insitubatch, blocks", "Lance, in order", "HF datasets of Parquet, in order")


def of_objects(
    location: Location, arrays: list[str], batch_rows: int, n_rows: int, options: dict[str, Any]
) -> dict[str, Callable[[], None]]:
    """Return functions that read all rows once, by the name of the software.

    Parameters
    ----------
    location : Location
        The store.
    arrays : list of str
        The keys of its arrays, which all are in one group.
    batch_rows : int
        Rows of a batch.
    n_rows : int
        Rows of each array.
    options : dict
        The storage options of the server.
    """

    def zarr_python() -> None:
        store = zarr.storage.ObjectStore(location.objects, read_only=True)
        for key in arrays:
            array = zarr.open_array(store, path=location.key(key), mode="r")
            step = ZARR_NBYTES // (array.dtype.itemsize * int(np.prod(array.shape[1:])))
            for lo in range(0, array.shape[0], step):
                array[lo : lo + step]

    def insitubatch() -> None:
        import insitubatch as loader

        (group,) = {key.rpartition("/")[0] for key in arrays}
        store = loader.obstore_store(f"{location.url}/{location.key(group)}", **options)
        geometries = loader.open_geometries(store, [key.rpartition("/")[2] for key in arrays])
        widest = max(geometries.values(), key=lambda geometry: geometry.chunk_bytes)
        dataset = loader.InSituDataset(
            store,
            loader.split_by_chunk(widest, fractions=(1.0, 0.0, 0.0)),
            geometries,
            batch_size=batch_rows,
            block_chunks=BLOCK_CHUNKS,
            max_inflight=IN_FLIGHT,
        )
        n_seen = sum(len(batch.sample_indices) for batch in dataset.train)
        assert n_seen == n_rows

    def lance() -> None:
        import lance as format_of

        dataset = format_of.dataset(_lance_uri(location), storage_options=_for_lance(options))
        assert sum(len(batch) for batch in dataset.to_batches(batch_size=batch_rows)) == n_rows

    def hf_datasets() -> None:
        import datasets

        datasets.disable_progress_bars()
        rows = datasets.load_dataset(
            "parquet",
            data_files=f"s3://{_bucket(location)}/{PARQUET}",
            storage_options=_for_fsspec(options),
            streaming=True,
            split="train",
        )
        # tables of Arrow, which are not copied
        assert sum(len(table) for table in rows.with_format("arrow").iter(batch_rows)) == n_rows

    found: dict[str, Callable[[], None]] = {NAMES[0]: zarr_python}
    if _has("insitubatch"):
        found[NAMES[1]] = insitubatch
    if _has("lance"):
        found[NAMES[2]] = lance
    if _has("datasets", "s3fs"):
        found[NAMES[3]] = hf_datasets
    return found


def write_for_peers(location: Location, rows: Any, labels: Any, options: dict[str, Any]) -> None:
    """Write the rows for Lance, and as Parquet, if what reads them is installed."""
    if not (_has("lance") or _has("datasets", "s3fs")):
        return
    import pyarrow as pa

    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    table = pa.table({"x": values, "y": labels})
    if _has("lance"):
        import lance as format_of

        format_of.write_dataset(table, _lance_uri(location), storage_options=_for_lance(options))
    if _has("datasets", "s3fs"):
        import fsspec
        import pyarrow.parquet as pq

        group_rows = GROUP_NBYTES // (rows.nbytes // len(rows))
        with fsspec.open(f"s3://{_bucket(location)}/{PARQUET}", "wb", **_for_fsspec(options)) as file:
            pq.write_table(table, file, row_group_size=group_rows, compression="none", use_dictionary=False)


def _has(*packages: str) -> bool:
    return all(find_spec(package) for package in packages)


def _bucket(location: Location) -> str:
    return location.url.partition("://")[2].partition("/")[0]


def _lance_uri(location: Location) -> str:
    return f"s3://{_bucket(location)}/rows.lance"


def _for_fsspec(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "key": options["access_key_id"],
        "secret": options["secret_access_key"],
        "client_kwargs": {"endpoint_url": options["endpoint"], "region_name": options["region"]},
    }


def _for_lance(options: dict[str, Any]) -> dict[str, str]:
    return {
        "aws_endpoint": str(options["endpoint"]),
        "aws_access_key_id": str(options["access_key_id"]),
        "aws_secret_access_key": str(options["secret_access_key"]),
        "aws_region": str(options["region"]),
        "allow_http": "true",
    }
