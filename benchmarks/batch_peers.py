"""Peers of the batches: other software that yields shuffled rows, each as its documentation would have it done.

Each peer writes the rows in its own preferred form first, which is not timed, and then yields batches ``[x, y]`` of
one epoch, shuffled as it shuffles. Imports are deferred on purpose: a peer that is not installed is skipped.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.batch_rows import BLOCK_ROWS, Rows
from benchmarks.peers import missing_packages

__all__ = ["PEERS", "BatchPeer"]

SEED = 7
BUFFER_ROWS = 10_000
"""Rows of the buffer from which a stream is shuffled, where a peer has one and leaves it to the user."""


Prepare = Callable[[str, Rows], None]
Batches = Callable[[str, Rows, int], Iterator[Sequence[Any]]]


@dataclass(frozen=True)
class BatchPeer:
    """One way to read shuffled batches."""

    title: str
    """Its name in the table."""
    packages: tuple[str, ...]
    """What it imports, and what to install for it where that has another name, as ``module:package``."""
    prepare: Prepare
    """Writes its input; arguments are its directory and the rows."""
    batches: Batches
    """Yields ``[x, y]`` of one epoch; arguments are its directory, the rows, and the rows of a batch."""

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return missing_packages(self.packages)

    @property
    def distributions(self) -> list[str]:
        """The names under which its packages are installed."""
        return [name.rpartition(":")[2] for name in self.packages]


def nothing(directory: str, rows: Rows) -> None:
    """Read the raw file as it is."""


# ---------------------------------------------------------------------------------------------------------------- zarr


def write_zarr(directory: str, rows: Rows) -> None:
    """Write zarr arrays in chunks of 1,000 rows, compressed as zarr does."""
    import zarr

    x = zarr.create_array(f"{directory}/x", shape=rows.x.shape, chunks=(1000, *rows.row_shape), dtype=rows.dtype)
    for start in range(0, rows.n_rows, 16_000):
        x[start : start + 16_000] = rows.x[start : start + 16_000]
    zarr.create_array(f"{directory}/y", data=rows.y, chunks=(1000,))


def oindex_of_zarr(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Read the rows of every batch by a sorted index: a uniform shuffle."""
    import zarr

    x, y = (zarr.open_array(f"{directory}/{name}", mode="r") for name in "xy")
    order = np.random.default_rng(SEED).permutation(rows.n_rows)
    for start in range(0, rows.n_rows, batch_rows):
        numbers = np.sort(order[start : start + batch_rows])
        yield [x.oindex[numbers], y.oindex[numbers]]


def write_dataset(directory: str, rows: Rows) -> None:
    """Write a zarr store of an xarray.Dataset, in chunks of 4,096 rows."""
    import dask.array as da
    import xarray as xr

    dims = ("sample", *(f"x_{at}" for at in range(len(rows.row_shape))))
    chunks = (4096, *rows.row_shape)
    dataset = xr.Dataset({"x": (dims, da.from_array(rows.x, chunks)), "y": ("sample", da.from_array(rows.y, 4096))})
    dataset.to_zarr(f"{directory}/in.zarr", consolidated=False)


def generate_with_xbatcher(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Generate batches of consecutive rows in random order; rows that fill no batch are left out."""
    import xarray as xr
    import xbatcher

    dataset = xr.open_zarr(f"{directory}/in.zarr", consolidated=False)
    sizes = {**dataset["x"].sizes, "sample": batch_rows}
    generator = xbatcher.BatchGenerator(dataset, input_dims=sizes, preload_batch=False)
    for number in np.random.default_rng(SEED).permutation(len(generator)).tolist():
        batch = generator[number].load()
        yield [batch["x"].values, batch["y"].values]


def write_sharded_zarr(directory: str, rows: Rows) -> None:
    """Write a zarr array of shards of 16,384 rows in chunks of 64, the rows flat."""
    import zarr

    shape, chunks, shards = (rows.n_rows, rows.width), (64, rows.width), (BLOCK_ROWS, rows.width)
    x = zarr.create_array(f"{directory}/x", shape=shape, chunks=chunks, shards=shards, dtype=rows.dtype)
    start = 0
    for block, _ in rows.blocks():
        x[start : start + len(block)] = block.reshape(len(block), -1)
        start += len(block)


def load_with_annbatch(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Load slices of 64 rows in random order, and shuffle 16,384 rows at a time."""
    import pandas as pd
    import zarr
    from annbatch import Loader

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    random = np.random.default_rng(SEED)
    loader = Loader(batch_size=batch_rows, chunk_size=64, preload_nchunks=256, shuffle=True, rng=random)
    loader.add_dataset(zarr.open_array(f"{directory}/x", mode="r"), obs=pd.DataFrame({"y": rows.y}))
    for batch in loader:
        yield [batch["X"].reshape(-1, *rows.row_shape), batch["obs"]["y"].to_numpy()]


# --------------------------------------------------------------------------------------------------------------- torch


def load_memmap_with_torch(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Read a memmap by the numbers of a batch sampler: a uniform shuffle."""
    from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

    class MemmapDataset(Dataset):
        x, y = rows.x, rows.y

        def __len__(self) -> int:
            return rows.n_rows

        def __getitem__(self, numbers: list[int]) -> list[Any]:
            return [np.asarray(self.x[numbers]), self.y[numbers]]

    dataset = MemmapDataset()
    sampler = BatchSampler(RandomSampler(dataset), batch_rows, drop_last=False)
    return iter(DataLoader(dataset, sampler=sampler, batch_size=None))


# -------------------------------------------------------------------------------------------------------- Arrow tables


def arrow_batches(rows: Rows) -> Iterator[Any]:
    """Yield record batches: the rows as a column of fixed-size lists, and the labels."""
    import pyarrow as pa

    for x, y in rows.blocks():
        lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), rows.width)
        yield pa.record_batch({"x": lists, "y": pa.array(y)})


def from_arrow(batch: Any, rows: Rows) -> Sequence[Any]:
    """Return the columns of an Arrow table or record batch as arrays."""
    x = batch.column("x")
    if hasattr(x, "combine_chunks"):
        x = x.combine_chunks()
    return [x.flatten().to_numpy().reshape(-1, *rows.row_shape), batch.column("y").to_numpy()]


def write_arrow(directory: str, rows: Rows) -> None:
    """Write an Arrow dataset in the form of HF datasets."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches = arrow_batches(rows)
    first = next(batches)
    with pq.ParquetWriter(f"{directory}/in.parquet", first.schema, compression="none", use_dictionary=False) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
    loaded = datasets.Dataset.from_parquet(f"{directory}/in.parquet", cache_dir=f"{directory}/cache")
    assert loaded.data.schema.field("x").type == pa.list_(first.schema.field("x").type.value_type, rows.width)
    loaded.save_to_disk(f"{directory}/dataset")
    Path(directory, "in.parquet").unlink()


def map_with_datasets(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Iterate over a map-style dataset of shuffled indices: a uniform shuffle."""
    import datasets

    dataset = datasets.load_from_disk(f"{directory}/dataset").with_format("numpy", dtype=rows.dtype)
    for batch in dataset.shuffle(seed=SEED).iter(batch_size=batch_rows):
        yield [batch["x"].reshape(-1, *rows.row_shape), batch["y"]]


def iterate_with_datasets(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Iterate over 128 shards in random order, shuffled in a buffer of 10,000 rows."""
    import datasets

    stored = datasets.load_from_disk(f"{directory}/dataset")
    stream = stored.to_iterable_dataset(num_shards=128).shuffle(seed=SEED, buffer_size=BUFFER_ROWS)
    for batch in stream.with_format("numpy").iter(batch_size=batch_rows):
        x = batch["x"].astype(rows.dtype, copy=False)  # integers come as int64
        yield [x.reshape(-1, *rows.row_shape), batch["y"]]


def write_lance(directory: str, rows: Rows) -> None:
    """Write a Lance dataset."""
    import lance
    import pyarrow as pa

    batches = arrow_batches(rows)
    first = next(batches)
    reader = pa.RecordBatchReader.from_batches(first.schema, (batch for part in ([first], batches) for batch in part))
    lance.write_dataset(reader, f"{directory}/in.lance")


def scan_lance(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Read batches of consecutive rows in random order."""
    import lance
    from lance.sampler import ShardedBatchSampler

    sampler = ShardedBatchSampler(rank=0, world_size=1, randomize=True, seed=SEED)
    for batch in sampler(lance.dataset(f"{directory}/in.lance"), batch_size=batch_rows, columns=["x", "y"]):
        yield from_arrow(batch, rows)


def take_from_lance(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Take the rows of every batch by their numbers: a uniform shuffle."""
    import lance

    dataset = lance.dataset(f"{directory}/in.lance")
    order = np.random.default_rng(SEED).permutation(rows.n_rows)
    for start in range(0, rows.n_rows, batch_rows):
        yield from_arrow(dataset.take(order[start : start + batch_rows], columns=["x", "y"]), rows)


# -------------------------------------------------------------------------------------------------- files of samples


def write_tars(directory: str, rows: Rows) -> None:
    """Write tar files of 10,000 samples, two files each."""
    import webdataset

    with webdataset.ShardWriter(f"{directory}/in-%06d.tar", maxcount=10_000, maxsize=2**30, verbose=0) as writer:
        for number, row, label in rows.singles():
            writer.write({"__key__": f"{number:09d}", "x.npy": row, "y.cls": label})


def stream_with_webdataset(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Stream tar files in random order, shuffled in a buffer of 10,000 rows."""
    import webdataset

    paths = sorted(str(path) for path in Path(directory).glob("in-*.tar"))
    stream = webdataset.WebDataset(paths, shardshuffle=len(paths), seed=SEED, empty_check=False)
    return iter(stream.shuffle(BUFFER_ROWS).decode().to_tuple("x.npy", "y.cls").batched(batch_rows))


def write_mds(directory: str, rows: Rows) -> None:
    """Write MDS shards."""
    from streaming import MDSWriter

    shape = ",".join(map(str, rows.row_shape))
    columns = {"x": f"ndarray:{rows.dtype}:{shape}", "y": "int"}
    with MDSWriter(out=f"{directory}/mds", columns=columns) as writer:
        for _, row, label in rows.singles():
            writer.write({"x": row, "y": label})


def stream_with_mosaicml(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Stream MDS shards, shuffled as the peer does by default."""
    from streaming import StreamingDataLoader, StreamingDataset

    tempfile.tempdir = directory  # of its lock files
    dataset = StreamingDataset(local=f"{directory}/mds", shuffle=True, shuffle_seed=SEED, batch_size=batch_rows)
    for batch in StreamingDataLoader(dataset, batch_size=batch_rows):
        yield [batch["x"], batch["y"]]


def samples_of_block(rows: Rows, start: int) -> Iterator[dict[str, Any]]:
    """Yield the samples of one block, for a process that writes them."""
    x, y = rows.x, rows.y
    for number in range(start, min(start + BLOCK_ROWS, rows.n_rows)):
        yield {"x": np.array(x[number]), "y": int(y[number])}


def write_litdata(directory: str, rows: Rows) -> None:
    """Write chunks of 64 MB."""
    os.environ |= {"DATA_OPTIMIZER_CACHE_FOLDER": f"{directory}/cache", "LITDATA_DISABLE_VERSION_CHECK": "1"}
    import litdata

    litdata.optimize(
        fn=functools.partial(samples_of_block, rows),
        inputs=list(range(0, rows.n_rows, BLOCK_ROWS)),
        output_dir=f"{directory}/litdata",
        chunk_bytes="64MB",
        num_workers=1,
        verbose=False,
    )


def stream_with_litdata(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Stream chunks, shuffled as the peer does by default."""
    os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"
    import litdata

    dataset = litdata.StreamingDataset(f"{directory}/litdata", shuffle=True, seed=SEED)
    for batch in litdata.StreamingDataLoader(dataset, batch_size=batch_rows):
        yield [batch["x"], batch["y"]]


def write_array_record(directory: str, rows: Rows) -> None:
    """Write files of 16,384 records, one for each row: its bytes, then its label; of larger files, reads are slower."""
    from array_record.python.array_record_module import ArrayRecordWriter

    for number, (x, y) in enumerate(rows.blocks()):
        writer = ArrayRecordWriter(f"{directory}/in-{number:05d}.array_record", "group_size:1")
        for row, label in zip(x, y.tolist(), strict=True):
            writer.write(row.tobytes() + label.to_bytes(8, "little"))
        writer.close()


def load_with_grain(directory: str, rows: Rows, batch_rows: int) -> Iterator[Sequence[Any]]:
    """Read records in a global random order, a batch in each thread: a uniform shuffle."""
    import grain

    def parse(record: bytes) -> tuple[np.ndarray[Any, Any], int]:
        return (
            np.frombuffer(record, rows.dtype, rows.width).reshape(rows.row_shape),
            int.from_bytes(record[-8:], "little"),
        )

    paths = sorted(str(path) for path in Path(directory).glob("in-*.array_record"))
    source = grain.sources.ArrayRecordDataSource(paths)
    dataset = grain.MapDataset.source(source).shuffle(seed=SEED).map(parse).batch(batch_rows)
    # by default 16 threads, which is slower on few processors, and 500 batches ahead
    options = grain.ReadOptions(num_threads=os.cpu_count() or 1, prefetch_buffer_size=8)
    return iter(dataset.to_iter_dataset(options))


PEERS = {
    "zarr": BatchPeer("zarr, oindex per batch", ("zarr",), write_zarr, oindex_of_zarr),
    "torch": BatchPeer("torch DataLoader of a memmap, batch sampler", ("torch",), nothing, load_memmap_with_torch),
    "annbatch": BatchPeer(
        "annbatch, Loader of a zarr array", ("annbatch", "zarrs"), write_sharded_zarr, load_with_annbatch
    ),
    "datasets": BatchPeer("HF datasets, shuffle()", ("datasets", "pyarrow"), write_arrow, map_with_datasets),
    "datasets-iterable": BatchPeer(
        f"HF datasets, to_iterable_dataset().shuffle(buffer_size={BUFFER_ROWS:,})",
        ("datasets", "pyarrow"),
        write_arrow,
        iterate_with_datasets,
    ),
    "webdataset": BatchPeer(
        f"webdataset, shuffle({BUFFER_ROWS:,})", ("webdataset",), write_tars, stream_with_webdataset
    ),
    "mosaicml": BatchPeer(
        "MosaicML streaming", ("streaming:mosaicml-streaming", "torch"), write_mds, stream_with_mosaicml
    ),
    "litdata": BatchPeer("litData, StreamingDataset", ("litdata", "torch"), write_litdata, stream_with_litdata),
    "grain": BatchPeer("grain, shuffled ArrayRecord", ("grain", "array_record"), write_array_record, load_with_grain),
    "xbatcher": BatchPeer(
        "xbatcher, batches in random order", ("xbatcher", "dask"), write_dataset, generate_with_xbatcher
    ),
    "lance": BatchPeer("Lance, batches in random order", ("lance:pylance", "pyarrow"), write_lance, scan_lance),
    "lance-take": BatchPeer("Lance, take per batch", ("lance:pylance", "pyarrow"), write_lance, take_from_lance),
}
