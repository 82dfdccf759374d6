"""IO: files of other programs: read in place, beside their libraries; copied, beside one raw file of their bytes."""

from __future__ import annotations

import argparse
import importlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import disk, harness
from benchmarks.core import write_raw
from benchmarks.harness import Line, Table, Turns, compared, interleave, isolated
from storegate import StoreGate
from storegate.types import BatchArgs, ShuffleBatches
from storegate_engine.arrays import close_files
from storegate_engine.budget import format_nbytes, parse_nbytes

WIDTH, BATCH_ROWS, N_FILES = 64, 1024, 8
CHUNK_ROWS = 2048
N_COLUMNS = 16
"""Columns of Parquet, of as many more rows."""
STEP_ROWS = 64 * CHUNK_ROWS
"""Rows that a library reads at a time: 32 MiB."""
FORMS = ("contiguous", "gzip", "npy", "parquet")
ENDS = {"contiguous": "h5", "gzip": "h5", "npy": "npy", "parquet": "parquet", "root": "root"}
PEERS_SHARE = 8
"""Other software gets this part of the bytes: it can take a hundred times as long."""
Array = np.ndarray[Any, Any]


def run(arguments: argparse.Namespace) -> None:
    """Print the tables."""
    nbytes = parse_nbytes(arguments.size) if arguments.size else (64 if arguments.quick else 1024) * harness.MIB
    repeat = arguments.repeat or (3 if arguments.quick else 7)
    cases: dict[str, Callable[[Path], Iterator[Line]]] = {
        "attach": lambda at: _attached(at, nbytes, repeat),
        "peers": lambda at: _beside_peers(at, nbytes, repeat),
        "read": lambda at: _copied(at, nbytes, repeat),
    }
    wanted = arguments.only.split(",") if arguments.only else list(cases)
    title = f"{format_nbytes(nbytes)} of random float32 in {N_FILES} files, in the page cache"
    table = Table(title, markdown=arguments.markdown)
    with disk.workplace(arguments.directory) as at:
        for name in wanted:
            table.add(cases[name](at))


def written(directory: Path, form: str, nbytes: int) -> list[Path]:
    """Write the files of a format, where they are not there: random bits, which no codec can shorten."""
    n_rows = nbytes // (4 * WIDTH) // N_FILES // CHUNK_ROWS * CHUNK_ROWS
    place = directory / f"{form}-{n_rows}"
    paths = [place / f"{at}.{ENDS[form]}" for at in range(N_FILES)]
    if not place.exists():
        fresh = directory / f"{form}.new"
        fresh.mkdir()
        for at, path in enumerate(paths):
            rows = np.random.default_rng(at).random((n_rows, WIDTH), "f4")
            _write(fresh / path.name, form, rows)
        fresh.rename(place)
    return paths


def _write(path: Path, form: str, rows: Array) -> None:
    match form:
        case "contiguous" | "gzip":
            import h5py

            options = {"chunks": (CHUNK_ROWS, WIDTH), "compression": "gzip"} if form == "gzip" else {}
            with h5py.File(path, "w") as file:
                file.create_dataset("x", data=rows, **options)
        case "npy":
            np.save(path, rows)
        case "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            columns = rows.reshape(-1, N_COLUMNS).T
            pq.write_table(pa.table({f"c{at}": column for at, column in enumerate(columns)}), path)
        case "root":
            import uproot

            with uproot.recreate(path, compression=None) as file:
                file["events"] = {"x": rows}


def blocks_of(form: str, path: Path) -> Iterator[Array]:
    """Yield the rows of a file as its own library reads them."""
    match form:
        case "contiguous" | "gzip":
            import h5py

            with h5py.File(path, "r") as file:
                data = file["x"]
                for start in range(0, len(data), STEP_ROWS):
                    yield data[start : start + STEP_ROWS]
        case "npy":
            yield np.load(path)
        case "parquet":
            import pyarrow.parquet as pq

            for column in pq.read_table(path).columns:
                yield from (chunk.to_numpy() for chunk in column.chunks)
        case "root":
            import uproot

            with uproot.open(path) as file:
                yield file["events"]["x"].array(library="np")


def scan(form: str, paths: list[Path]) -> None:
    """Read all rows with the library of the format."""
    for path in paths:
        for _ in blocks_of(form, path):
            pass


def epoch(gate: StoreGate, shuffle: ShuffleBatches, seed: int = 0) -> None:
    """Take all batches of an epoch."""
    names = list(gate.table["train"])
    view = gate["train"][names[0]] if len(names) == 1 else gate["train"][names]
    options: BatchArgs = {"shuffle": shuffle, "seed": seed} if shuffle else {"shuffle": False}
    for _ in view.batches(BATCH_ROWS, **options):
        pass


# ------------------------------------------------------------------------------------------------------------- attached


def _attached(at: Path, nbytes: int, repeat: int) -> Iterator[Line]:
    for form in ("contiguous", "gzip", "npy"):
        outcome = isolated(epochs, str(at), form, nbytes, repeat)
        what = {"contiguous": "contiguous HDF5", "gzip": "gzip HDF5", "npy": "npy"}[form]
        yield compared(f"{what}, attached: in order", outcome, "in order", "scan", "", "the library's scan")
        reference = ("scan", "the library's scan") if form == "gzip" else ("native blocks", "the store's own rows")
        yield compared(f"{what}, attached: block epoch", outcome, "blocks", reference[0], "≤ 1.11", reference[1])
        yield compared(
            f"{what}, attached: uniform epoch", outcome, "uniform", "native uniform", "", "the store's own rows"
        )


def epochs(directory: str, form: str, nbytes: int, repeat: int) -> Turns:
    """Take epochs of attached files, of the same rows in a store, and the library's scan, in turns."""
    at = Path(directory)
    paths = written(at, form, nbytes)
    attached = StoreGate.open(at / f"{form}-attached.zarr", "a", mode="w")
    native = StoreGate.open(at / f"{form}-native.zarr", "a", mode="w")
    with attached, native:
        for gate in (attached, native):
            gate.attach(paths, "x")
        native.compact()
        cases = {
            "scan": partial(scan, form, paths),
            "in order": partial(epoch, attached, False),
            "blocks": partial(epoch, attached, "blocks"),
            "native blocks": partial(epoch, native, "blocks"),
            "uniform": partial(epoch, attached, True),
            "native uniform": partial(epoch, native, True),
        }

        def before(name: str) -> None:
            if name == "scan":  # HDF5 would take chunks from the cache of a file that is open already
                close_files()

        turns = interleave(
            {name: _quiet(case) for name, case in cases.items()}, repeat=repeat, before=before, warm=True
        )
    shutil.rmtree(at / f"{form}-native.zarr")
    return turns


def _quiet(case: Callable[[], None]) -> Callable[[], None]:
    """Return a case without the warning that rows of a block may be alike."""

    def run() -> None:
        import warnings

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "shuffle='blocks'")
            case()

    return run


# ---------------------------------------------------------------------------------------------------------------- peers


def _beside_peers(at: Path, nbytes: int, repeat: int) -> Iterator[Line]:
    share = nbytes // PEERS_SHARE
    for package, function, form, cases in (
        ("virtualizarr", beside_virtualizarr, "contiguous HDF5", ("in order",)),
        ("datasets", beside_datasets, "Parquet", ("in order", "uniform")),
    ):
        if find_spec(package) is None:
            yield Line(f"{form}, attached", f"{package} is not installed")
            continue
        outcome = isolated(function, str(at), share, min(3, repeat))
        for case in cases:
            label = f"{form}, attached: {case} ({format_nbytes(share)})"
            yield compared(label, outcome, case, f"{package} {case}", "", package)


def beside_virtualizarr(directory: str, nbytes: int, repeat: int) -> Turns:
    """Read the rows of HDF5 files in order, opened as references each time."""
    zarr = importlib.import_module("zarr")
    parsers, registries = (importlib.import_module(name) for name in ("virtualizarr.parsers", "obspec_utils.registry"))
    local = importlib.import_module("obstore.store").LocalStore
    paths = written(Path(directory), "contiguous", nbytes)

    def theirs() -> None:
        registry = registries.ObjectStoreRegistry({"file://": local()})
        for path in paths:
            data = zarr.open_group(parsers.HDFParser()(url=f"file://{path}", registry=registry), mode="r")["x"]
            for start in range(0, data.shape[0], STEP_ROWS):
                data[start : start + STEP_ROWS]

    def ours() -> None:
        with StoreGate(data_id="a") as gate:
            gate.attach(paths, "x")
            epoch(gate, False)

    theirs()  # modules are imported
    return interleave({"virtualizarr in order": theirs, "in order": ours}, repeat=repeat)


def beside_datasets(directory: str, nbytes: int, repeat: int) -> Turns:
    """Take shuffled epochs of Parquet files; each converts or attaches them once, before the clock."""
    datasets = importlib.import_module("datasets")
    paths = written(Path(directory), "parquet", nbytes)
    cache = str(Path(directory, "datasets"))
    data = datasets.load_dataset("parquet", data_files=[str(path) for path in paths], split="train", cache_dir=cache)
    data = data.with_format("numpy")
    gate = StoreGate(data_id="a")
    gate.attach(paths)

    def theirs(rows: Any) -> None:
        for _ in rows.iter(BATCH_ROWS):
            pass

    cases: dict[str, Callable[[], object]] = {
        "datasets in order": partial(theirs, data),
        "in order": partial(epoch, gate, False),
        "datasets uniform": lambda: theirs(data.shuffle(seed=0)),
        "uniform": partial(epoch, gate, True),
    }
    return interleave(cases, repeat=repeat)


# --------------------------------------------------------------------------------------------------------------- copied


def _copied(at: Path, nbytes: int, repeat: int) -> Iterator[Line]:
    for form in (*FORMS, "root"):
        outcome = isolated(copies, str(at), form, nbytes, repeat)
        yield compared(f"read of {form}", outcome, "read", "raw", "≤ 1.3", "the library, and one raw file, synced")


def copies(directory: str, form: str, nbytes: int, repeat: int) -> Turns:
    """Copy files into a new store, and their rows into a new file; both are on the disk when the clock stops."""
    at = Path(directory)
    paths, store, raw = written(at, form, nbytes), at / "copy.zarr", at / "copy.raw"

    def read() -> None:
        with StoreGate("zarr", {"output_dir": store, "durability": "power"}, data_id="bench") as gate:
            gate.read(paths, None if form == "parquet" else "x")

    def read_and_write() -> None:
        write_raw(raw, *(rows for path in paths for rows in blocks_of(form, path)))

    def clear(_: str) -> None:
        shutil.rmtree(store, ignore_errors=True)
        raw.unlink(missing_ok=True)

    cases = {"raw": read_and_write, "read": read}
    return interleave(cases, repeat=repeat, before=clear, after=clear, warm=True)
