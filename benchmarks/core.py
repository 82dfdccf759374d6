"""Core: writing, scanning, casting, single rows and opening a store, each beside the raw file or zarr-python."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import disk, harness
from benchmarks.disk import evict
from benchmarks.harness import MIB, Line, Table, Turns, compared, in_seconds, interleave, isolated
from storegate import StoreGate
from storegate.types import Backend, BackendArgs
from storegate_engine.budget import format_nbytes, parse_nbytes
from storegate_engine.table import stored_arrays

WIDTH = 256
"""float32 values of a row: 1 kB."""
BLOCK_NBYTES = 32 * MIB
"""What a scan holds at a time."""
CLASSES = 10


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    asked = arguments.size or ("64MiB" if arguments.quick else "256MiB,1GiB")
    sizes = [parse_nbytes(size) for size in asked.split(",")]
    repeat = arguments.repeat or (2 if arguments.quick else 5)
    table = Table("Core: times beside the raw file", markdown=arguments.markdown)
    groups: dict[str, Callable[[Path], Iterator[Line]]] = {
        "ingest": lambda at: _ingest(at, sizes, repeat),
        "scan": lambda at: _scan(at, sizes, repeat),
        "transforms": lambda at: _transforms(at, sizes[0], repeat),
        "rows": lambda at: _rows(at, 100_000 if arguments.quick else 1_000_000, repeat),
        "open": lambda at: _open(at, repeat),
        "lazy": lambda at: _lazy(at, 1_000_000 if arguments.quick else 10_000_000, repeat),
    }
    wanted = set(arguments.only.split(",")) if arguments.only else set(groups)
    if unknown := wanted - set(groups):
        raise SystemExit(f"no case {', '.join(sorted(unknown))} (cases: {', '.join(groups)})")
    for name, group in groups.items():
        if name in wanted:
            with disk.workplace(arguments.directory) as at:
                table.add(group(at))


@contextlib.contextmanager
def small_gate() -> Iterator[StoreGate]:
    """Give a few shuffled rows: what is done with these before the clock starts imports what it needs."""
    with (
        tempfile.TemporaryDirectory(prefix="storegate-bench-") as directory,
        StoreGate("zarr", {"output_dir": directory}, data_id="bench") as gate,
    ):
        gate.add_data("x", np.zeros((4, 1), np.float32))
        gate.shuffle("train", seed=1)
        yield gate


# ------------------------------------------------------------------------------------------------------------- ingest


def _ingest(at: Path, sizes: list[int], repeat: int) -> Iterator[Line]:
    for nbytes in sizes:
        for source in ("memory", "memmap"):
            outcome = isolated(ingest, str(at), nbytes, source, repeat)
            case = f"ingest of {format_nbytes(nbytes)} of float32 from {'a ' * (source == 'memmap')}{source}"
            yield compared(case, outcome, "add_data", "raw", "≤ 1.5", "one raw file, synced")


def ingest(directory: str, nbytes: int, source: str, repeat: int) -> Turns:
    """Write the same rows to a new store and to a new file; both are on the disk when the clock stops."""
    n_rows = nbytes // (4 * WIDTH)
    if source == "memmap":
        rows: np.ndarray[Any, Any] = disk.random_file(Path(directory, f"{nbytes}.raw"), n_rows, WIDTH)
        rows.sum()  # in the page cache for both
    else:
        rows = disk.random_rows(n_rows, WIDTH)
    store, raw = Path(directory, "ingest.zarr"), Path(directory, "ingest.raw")

    def add_data() -> None:
        with StoreGate("zarr", {"output_dir": store, "durability": "power"}, data_id="bench") as gate:
            gate.add_data("x", rows)

    def clear(_: str) -> None:
        shutil.rmtree(store, ignore_errors=True)
        raw.unlink(missing_ok=True)

    cases = {"raw": lambda: write_raw(raw, rows), "add_data": add_data}
    return interleave(cases, repeat=repeat, before=clear, after=clear, warm=True)


def write_raw(path: Path, *arrays: np.ndarray[Any, Any]) -> None:
    """Write arrays to one file, in blocks, and wait for the disk, as the store does."""
    with open(path, "wb", buffering=0) as file:
        for rows in arrays:
            step = max(1, BLOCK_NBYTES // (rows.nbytes // len(rows)))
            for start in range(0, len(rows), step):
                view = memoryview(np.ascontiguousarray(rows[start : start + step]).reshape(-1).view("u1").data)
                while view:
                    view = view[file.write(view) :]
        os.fsync(file.fileno())


# --------------------------------------------------------------------------------------------------------------- scan


def _scan(at: Path, sizes: list[int], repeat: int) -> Iterator[Line]:
    for nbytes in sizes:
        for cold in (False, True):
            outcome = isolated(scan, str(at), nbytes, cold, repeat)
            case = f"of {format_nbytes(nbytes)}, {'cold' if cold else 'in the page cache'}"
            yield compared(f"scan in blocks {case}", outcome, "read_into", "raw", "≤ 1.5", "readinto")
            yield compared(f'to_xarray()["x"].mean() {case}', outcome, "mean", "raw", "≤ 2.5", "readinto")


def scan(directory: str, nbytes: int, cold: bool, repeat: int) -> Turns:
    """Read a store and a file of the same rows, block by block into one buffer, and with dask."""
    n_rows = nbytes // (4 * WIDTH)
    raw, store = Path(directory, f"{nbytes}.raw"), Path(directory, f"{nbytes}.zarr")
    rows = disk.random_file(raw, n_rows, WIDTH)
    if not store.exists():
        with StoreGate("zarr", {"output_dir": store}, data_id="bench") as gate:
            gate.add_data("x", rows)
    del rows
    gate = StoreGate("zarr", {"output_dir": store, "mode": "r"}, data_id="bench")
    variable = gate.table["train"]["x"]
    block = np.empty((BLOCK_NBYTES // (4 * WIDTH), WIDTH), np.float32)

    def read_into() -> None:
        for start in range(0, n_rows, len(block)):
            stop = min(start + len(block), n_rows)
            variable.read_into(start, stop, block[: stop - start])

    def read_raw() -> None:
        view = memoryview(block.reshape(-1).view("u1").data)
        with open(raw, "rb", buffering=0) as file:
            while file.readinto(view):
                pass

    cases: dict[str, Callable[[], object]] = {
        "raw": read_raw,
        "read_into": read_into,
        "mean": lambda: gate["train"].to_xarray()["x"].mean().compute(),
    }
    for case in cases.values():
        case()  # arrays are opened, and the files are in the page cache

    def before(name: str) -> None:
        if cold:
            evict(raw if name == "raw" else store)

    return interleave(cases, repeat=repeat, before=before)


# --------------------------------------------------------------------------------------------------------- transforms


def _transforms(at: Path, nbytes: int, repeat: int) -> Iterator[Line]:
    outcome = isolated(transforms, str(at), nbytes, repeat)
    what = f"astype f4 to f2 of {format_nbytes(nbytes)}, onehot({CLASSES}) of a label and argmax back, written"
    raw = "the same bytes read and written raw, synced"
    yield compared(f"{what} by compact()", outcome, "compact", "raw", "≤ 1.8", raw)
    yield compared(f"{what} to a second store", outcome, "second", "raw", "≤ 1.8", raw)
    yield compared("the same graph by compact()", outcome, "compact", "to_zarr", "≤ 0.5", "xarray's to_zarr")
    yield compared("the same graph to a second store", outcome, "second", "to_zarr", "≤ 0.5", "xarray's to_zarr")


def transforms(directory: str, nbytes: int, repeat: int) -> Turns:
    """Write cast rows and labels that went to classes and back, by StoreGate, by xarray, and raw."""
    n_rows = nbytes // (4 * WIDTH)
    rows = disk.random_file(Path(directory, f"{nbytes}.raw"), n_rows, WIDTH)
    labels = np.random.default_rng(1).integers(0, CLASSES, n_rows)
    base, store, second = (Path(directory, name) for name in ("base.zarr", "cast.zarr", "second.zarr"))
    other, raw, raw_labels = (Path(directory, name) for name in ("xarray.zarr", "cast.raw", "labels.raw"))
    with StoreGate("zarr", {"output_dir": base}, data_id="bench") as gate:
        gate.add_data({"x": rows * np.float32(0.01), "y": labels})
        gate.astype("x", "float16")
        gate.onehot("y", CLASSES)
        gate.argmax("y", 1)
    write_raw(raw_labels, labels)
    opened: list[StoreGate] = []

    def before(name: str) -> None:
        for path in (store, second, other):
            shutil.rmtree(path, ignore_errors=True)
        raw.unlink(missing_ok=True)
        if name != "raw":
            shutil.copytree(base, store, copy_function=os.link)
            opened.append(StoreGate("zarr", {"output_dir": store, "durability": "power"}, data_id="bench"))

    def after(name: str) -> None:
        if name != "raw":
            opened.pop()

    def add_to_second() -> None:
        lazy = opened[0].get_data(["x", "y"], compute=False)
        with StoreGate("zarr", {"output_dir": second, "durability": "power"}, data_id="bench") as gate:
            gate.add_data(["x", "y"], lazy)

    def to_zarr() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened[0]["train"].to_xarray().to_zarr(other, zarr_format=3, consolidated=False)

    read_x, read_y = np.empty_like(rows, subok=False), np.empty_like(labels)

    def read_and_write() -> None:
        for path, out in ((raw_x, read_x), (raw_labels, read_y)):
            with open(path, "rb", buffering=0) as file:
                file.readinto(out.reshape(-1).view("u1").data)
        write_raw(raw, read_x[: n_rows // 2], read_y)  # half of the rows are as many bytes as all of float16

    raw_x = Path(directory, f"{nbytes}.raw")
    cases = {
        "raw": read_and_write,
        "compact": lambda: opened[0].compact(),
        "second": add_to_second,
        "to_zarr": to_zarr,
    }
    return interleave(cases, repeat=repeat, before=before, after=after, warm=True)


# --------------------------------------------------------------------------------------------------------------- rows


def _rows(at: Path, n_rows: int, repeat: int) -> Iterator[Line]:
    outcome = isolated(rows_at_random, str(at), n_rows, repeat)
    of = f"of {n_rows:,} rows of 1 kB"
    for name, label, target in [
        ("numpy", f"1,000 single rows {of}, numpy backend", "≥ 20,000 rows/s"),
        ("zarr", f"1,000 single rows {of}, zarr backend, new rows each time", "≥ 1,000 rows/s, ≤ 0.2"),
    ]:
        line = compared(label, outcome, name, "zarr-python", target, "zarr-python's array[i]")
        if outcome.value is not None:
            line = replace(line, measured=f"{1000 / outcome.seconds_of(name):,.0f} rows/s")
        yield line if name == "zarr" else replace(line, reference="", ratio=None)
    yield compared(f"256 random rows {of}", outcome, "256 rows", "256 by oindex", "≤ 50 ms", "zarr-python's oindex")


def rows_at_random(directory: str, n_rows: int, repeat: int) -> Turns:
    """Read rows that nobody has read before, one by one and 256 at a time."""
    import zarr

    rng = np.random.default_rng(2)
    store = Path(directory, "rows.zarr")
    rows = disk.random_file(Path(directory, "rows.raw"), n_rows, WIDTH)
    stored = StoreGate("zarr", {"output_dir": store}, data_id="bench")
    stored.add_data("x", rows)
    memory = StoreGate("numpy", data_id="bench")
    memory.add_data("x", rows[:100_000])
    (array,) = stored_arrays(stored.table)
    plain = zarr.open_array(f"{array.location / array.name}", mode="r")
    views: dict[str, Any] = {"numpy": memory["train"]["x"], "zarr": stored["train"]["x"], "zarr-python": plain}
    fresh: list[np.ndarray[Any, Any]] = []

    def one_by_one(view: Any) -> Callable[[], None]:
        def read() -> None:
            for row in fresh[0]:
                view[int(row)]

        return read

    def before(name: str) -> None:
        fresh[:] = [rng.integers(0, 100_000 if name == "numpy" else n_rows, 1000)]

    single = interleave({name: one_by_one(view) for name, view in views.items()}, repeat=repeat, before=before)
    many = {
        "256 rows": lambda: views["zarr"][fresh[0][:256]],
        "256 by oindex": lambda: plain.oindex[(np.sort(fresh[0][:256]),)],
    }
    return harness.merge_turns(single, interleave(many, repeat=max(repeat, 5), before=before))


# --------------------------------------------------------------------------------------------------------------- open


def _open(at: Path, repeat: int) -> Iterator[Line]:
    kinds = {
        "variables": "a store of 1,000 variables",
        "chunks": "a store of one variable with 10,000 chunks",
        "pieces": "a store of one variable with 50 pieces",
    }
    for kind, case in kinds.items():
        store = str(at / f"{kind}.zarr")
        made = isolated(make_store, store, kind)
        if made.value is None:
            yield Line(case, made.error)
            continue
        outcomes = [isolated(open_store, store) for _ in range(max(3, repeat))]
        failed = [outcome.error for outcome in outcomes if outcome.value is None]
        if failed:
            yield Line(case, failed[0])
            continue
        for name, target in [("opening", "< 0.5 s"), ("building the Dataset of", "< 1 s")]:
            seconds = sorted(outcome.seconds_of(name) for outcome in outcomes)
            peak = max(outcome.peak_nbytes for outcome in outcomes)
            yield Line(f"{name} {case}", in_seconds(seconds[len(seconds) // 2]), target=target, peak_nbytes=peak)


def make_store(store: str, kind: str) -> bool:
    """Make a store of many variables, chunks or pieces."""
    args: BackendArgs = {"output_dir": store}
    if kind == "chunks":
        args["chunk"] = 64
    with StoreGate("zarr", args, data_id="bench") as gate:
        if kind == "variables":
            names = [f"variable_{number}" for number in range(1000)]
            gate.add_data(names, [np.arange(10.0)] * 1000)
        elif kind == "chunks":
            gate.add_data("x", np.zeros((640_000, 16), np.float32))
        else:
            for _ in range(50):
                gate.add_data("x", np.zeros((1000, 16), np.float32))
            found = len(gate.table["train"]["x"].pieces)
            assert found == 50, found
    return True


def open_store(store: str) -> Turns:
    """Open a store for the first time in this process, and build its Dataset."""
    opened: list[StoreGate] = []
    with small_gate() as small:
        small["train"].to_xarray()
    first = interleave(
        {"opening": lambda: opened.append(StoreGate("zarr", {"output_dir": store, "mode": "r"}, data_id="bench"))},
        repeat=1,
    )
    second = interleave({"building the Dataset of": lambda: opened[0]["train"].to_xarray()}, repeat=1)
    return harness.merge_turns(first, second)


# --------------------------------------------------------------------------------------------------------------- lazy


def _lazy(at: Path, n_rows: int, repeat: int) -> Iterator[Line]:
    backends: tuple[Backend, ...] = ("numpy", "zarr")
    for backend in backends:
        outcome = isolated(lazy_calls, str(at / "lazy.zarr"), backend, n_rows, repeat)
        if outcome.value is None:
            yield Line(f"calls on {n_rows:,} rows, {backend} backend", outcome.error)
            continue
        for name in outcome.value:
            case = f"{name} on {n_rows:,} rows, {backend} backend"
            yield Line(case, in_seconds(outcome.seconds_of(name)), target="< 50 ms", peak_nbytes=outcome.peak_of(name))


def lazy_calls(store: str, backend: Backend, n_rows: int, repeat: int) -> Turns:
    """Call what must not depend on the number of rows."""
    gate = StoreGate(backend, {"output_dir": store} if backend == "zarr" else None, data_id="bench")
    labels = np.random.default_rng(3).integers(0, CLASSES, n_rows)
    cases: dict[str, Callable[[], object]] = {
        "shuffle": lambda: gate.shuffle("train", seed=7),
        "astype": lambda: gate.astype("x", "float64"),
        "onehot": lambda: gate.onehot("y", CLASSES),
        "argmax": lambda: gate.argmax("y", 1),
        "selection of variables": lambda: gate["train"][["x", "y"]],
        "lazy selection of rows": lambda: gate.get_data("x", index=(10, n_rows // 2), compute=False),
        "to_xarray": lambda: gate["train"].to_xarray(),
    }
    several: list[Turns] = []
    with small_gate() as small:
        small.get_data("x", index=(0, 2), compute=False)
    for _ in range(repeat):  # from the start each time: a shuffle of a shuffle is another case
        with contextlib.suppress(KeyError):
            gate.clear_data()
        gate.add_data({"x": np.arange(n_rows, dtype=np.float32), "y": labels})
        time.sleep(0.1)
        several.append(interleave(cases, repeat=1))
    return harness.merge_turns(*several)
