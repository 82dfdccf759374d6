"""What every public call takes of memory: cases for tables of every kind, and the program that measures them.

``python budget_cases.py KIND DIRECTORY BUDGET SCALE`` prints a line of JSON for each call: how much the resident memory
of the process grew during it, at its peak, and how much more than before the first call there was when it began.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from storegate import StoreGate
from storegate_engine.errors import MemoryBudgetError

MIB = 2**20
THREADS = 2
Gate = StoreGate
Calls = Iterator[tuple[str, Callable[[], object]]]


# ------------------------------------------------------------------------------------------- rows


def numbers(n_rows, row_shape=(), dtype="f4", seed=0):
    """Yield incompressible rows, at most 2 MiB at a time."""
    size = int(np.prod(row_shape, dtype=int)) * np.dtype(dtype).itemsize
    rng = np.random.default_rng(seed)
    for lo in range(0, n_rows, max(1, 2 * MIB // size)):
        rows = min(max(1, 2 * MIB // size), n_rows - lo)
        if np.dtype(dtype).kind == "f":
            yield rng.random((rows, *row_shape), dtype=dtype)
        else:
            yield np.frombuffer(rng.bytes(rows * size), dtype).reshape(rows, *row_shape)


def texts(n_rows, length, seed=0):
    """Yield rows of text that is hard to compress."""
    rng = np.random.default_rng(seed)
    alphabet = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz0123456789-_ABCDEFGHIJKLMNOPQRSTUVWXYZ", "S1")
    step = max(1, MIB // length)
    for lo in range(0, n_rows, step):
        rows = min(step, n_rows - lo)
        letters = alphabet[rng.integers(0, 64, (rows, length))]
        yield np.array(letters.view(f"S{length}").ravel().astype(str), dtype=np.dtypes.StringDType())


def labels(n_rows, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    for lo in range(0, n_rows, MIB):
        yield rng.integers(0, n_classes, min(MIB, n_rows - lo)).astype("u2")


# ------------------------------------------------------------------------------------------ calls


def consume(stream):
    for _ in stream:
        pass
    if hasattr(stream, "close"):
        stream.close()


def scanned(gate, name, step):
    view = gate["train"][name]
    for lo in range(0, len(gate.table["train"][name]), step):
        view[lo : lo + step]


def reading(gate: Gate, name: str, step: int, *, is_number: bool = True) -> Calls:
    """Every way to read a variable; ``step`` rows are a small part of the budget."""
    n_rows = len(gate.table["train"][name])
    batch = max(1, min(step // 8, 4096))
    rng = np.random.default_rng(1)
    some = rng.integers(0, n_rows, min(step, 1000))
    sparse = np.zeros(n_rows, bool)
    sparse[some] = True
    yield "one row", lambda: gate["train"][name][n_rows // 2]
    yield "a range", lambda: gate["train"][name][5 : 5 + step]
    yield "rows of a list", lambda: gate["train"][name][some]
    yield "rows of a mask", lambda: gate["train"][name][sparse]
    yield "get_data(compute=False)", lambda: gate.get_data(name, index=sparse, compute=False)[:10].compute()
    yield "iteration", lambda: consume(itertools.islice(gate["train"][name], min(3 * step, 300_000)))
    yield "scan", lambda: scanned(gate, name, step)
    yield "isel", lambda: gate["train"].to_xarray()[name].isel(sample=some).values
    if is_number:
        yield "mean", lambda: gate["train"].to_xarray()[name].mean("sample").values
    yield "report", lambda: gate.report()
    yield "batches in order", lambda: consume(gate["train"][name].batches(batch, shuffle=False))
    yield "batches, uniform", lambda: consume(gate["train"][name].batches(batch, seed=2))
    yield "fingerprint", lambda: gate.fingerprint(name)
    yield "verify", lambda: gate.verify()


def changing(gate: Gate, name: str, rows: Callable[[int], Iterator[np.ndarray]], n_rows: int, step: int) -> Calls:
    """Every way to change a variable; it is shuffled and compacted at the end."""
    some = np.zeros(n_rows, bool)
    some[np.random.default_rng(3).integers(0, n_rows, step)] = True
    few = int(some.sum())
    yield "update of a row", lambda: gate.update_data(name, next(rows(1))[0], index=3)
    yield "update of a range", lambda: gate.update_data(name, rows(step), index=(1, 1 + step))
    yield "update of a mask", lambda: gate.update_data(name, rows(few), index=some)
    yield "one row after it", lambda: gate["train"][name][n_rows - 2]
    yield "scan after it", lambda: scanned(gate, name, step)
    yield "compact of it", lambda: gate.compact()
    yield "batches, blocks", lambda: consume(gate["train"][name].batches(max(1, step // 8), shuffle="blocks"))
    yield "shuffle", lambda: gate.shuffle("train", seed=5)
    yield "one shuffled row", lambda: gate["train"][name][n_rows // 3]
    yield "a shuffled range", lambda: gate["train"][name][7 : 7 + step]
    yield "shuffled isel", lambda: gate["train"].to_xarray()[name].isel(sample=[1, n_rows - 1]).values
    yield "shuffled report", lambda: gate.report()
    yield "shuffled scan, lazily", lambda: lazily(gate, name)
    yield "shuffled batches", lambda: consume(gate["train"][name].batches(max(1, step // 8), seed=4))
    yield "shuffled, into another store", lambda: copied(gate, name)
    yield "assign", lambda: gate.assign(new=lambda ds: ds[name] == ds[name])
    gate.delete_data("new")
    for form in ("zarr", "parquet", "hdf5"):
        yield f"shuffled, exported as {form}", lambda form=form: exported(gate, name, form)
    yield "compact of shuffled rows", lambda: gate.compact()
    yield "append", lambda: gate.add_data(name, rows(step))
    yield (
        "history, diff, rollback",
        lambda: (gate.diff(1, 2), gate.rollback(gate.history()[-2].version)),
    )
    yield "vacuum", lambda: gate.vacuum(older_than=0)
    yield "delete", lambda: gate.delete_data(name)


def lazily(gate, name):
    """Compute every block, and keep a number of each."""
    array = gate["train"].to_xarray()[name].data
    array.map_blocks(lambda block: np.full((1,) * block.ndim, len(block)), chunks=(1,) * array.ndim).compute()


def exported(gate, name, form):
    path = gate.repository().location.path.parents[1] / f"exported.{form}"
    gate.export(path, format=form, var_names=name)
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def copied(gate, name):
    args = {
        "output_dir": gate.repository().location.path.parents[1] / "copy",
        "mode": "w",
        "budget": gate.budget_nbytes,
    }
    with StoreGate("zarr", args, data_id="copy") as other:
        other.add_data(name, gate["train"].to_xarray()[name].data)


# ------------------------------------------------------------------------------------------ kinds


def narrow(gate: Gate, scale: float) -> Calls:
    """Scalars of four bytes: a row number is as large as two rows."""
    n_rows = max(4000, int(60_000_000 * scale))
    step = min(n_rows // 4, 200_000)
    yield "add", lambda: gate.add_data("x", numbers(n_rows))
    yield from reading(gate, "x", step)
    yield from changing(gate, "x", lambda n: numbers(n, seed=9), n_rows, step)


def masks(gate: Gate, scale: float) -> Calls:
    """Single bytes, half of which are replaced."""
    n_rows = max(4000, int(40_000_000 * scale))
    mask = np.random.default_rng(4).random(n_rows) < 0.5
    half = int(mask.sum())
    yield "add", lambda: gate.add_data("x", numbers(n_rows, (), "u1"))
    yield "view[mask] = rows", lambda: gate.update_data("x", numbers(half, (), "u1", 5), index=mask)
    yield "one row after it", lambda: gate["train"]["x"][n_rows // 2]
    yield from reading(gate, "x", min(n_rows // 4, 500_000))
    yield "half of it, lazily", lambda: gate.add_data("half", gate.get_data("x", index=mask, compute=False), "test")
    yield "compact", lambda: gate.compact()


def wide(gate: Gate, scale: float) -> Calls:
    """Rows of a megabyte."""
    n_rows = max(12, int(500 * scale))
    yield "add", lambda: gate.add_data("x", numbers(n_rows, (2**18,)))
    yield from reading(gate, "x", 3)
    yield from changing(gate, "x", lambda n: numbers(n, (2**18,), seed=9), n_rows, 3)


def rows_of_4_kb(gate: Gate, scale: float) -> Calls:
    n_rows = max(200, int(120_000 * scale))
    step = min(n_rows // 4, 500)
    yield "add", lambda: gate.add_data("x", numbers(n_rows, (1024,)))
    yield from reading(gate, "x", step)
    yield from changing(gate, "x", lambda n: numbers(n, (1024,), seed=9), n_rows, step)


def text(gate: Gate, scale: float) -> Calls:
    """Variable-length text of 9 kB."""
    n_rows = max(40, int(40_000 * scale))
    step = min(n_rows // 4, 200)
    yield "add", lambda: gate.add_data("x", texts(n_rows, 9000))
    yield from reading(gate, "x", step, is_number=False)
    yield from changing(gate, "x", lambda n: texts(n, 9000, seed=9), n_rows, step)


def many_variables(gate: Gate, scale: float) -> Calls:
    """500 columns of one array."""
    n_rows = max(100, int(160_000 * scale))
    names = tuple(f"v{at}" for at in range(500))

    def rows():
        return numbers(n_rows, (500,))

    yield "add a tuple", lambda: gate.add_data(names, rows())
    yield "one row of each", lambda: gate["train"][names][5]
    yield "a range of each", lambda: gate["train"][names][5:200]
    yield "report on each", lambda: gate.report()
    yield "mean of each", lambda: gate["train"].to_xarray().mean("sample").compute()
    yield "batches of each", lambda: consume(gate["train"][names].batches(256, seed=1))
    yield "shuffle", lambda: gate.shuffle("train", seed=5)
    yield "batches of each, shuffled", lambda: consume(gate["train"][names].batches(256, seed=1))
    yield "compact", lambda: gate.compact()
    yield "verify", lambda: gate.verify()


def many_classes(gate: Gate, scale: float) -> Calls:
    """Labels as one-hot rows of 1,000 classes, and back."""
    n_rows = max(2000, int(300_000 * scale))
    yield "add", lambda: gate.add_data("x", labels(n_rows, 1000))
    yield "onehot", lambda: gate.onehot("x", 1000)
    yield from reading(gate, "x", 300)
    yield "shuffle", lambda: gate.shuffle("train", seed=5)
    yield from reading(gate, "x", 300)
    yield "compact", lambda: gate.compact()
    yield "argmax", lambda: gate.argmax("x", 1)
    yield "compact of it", lambda: gate.compact()
    yield "scan", lambda: scanned(gate, "x", n_rows // 4)


def large_chunks(gate: Gate, scale: float) -> Calls:
    """Chunks of 2 MiB, as the user asked for them."""
    n_rows = max(4096, int(400_000 * scale))
    yield "add", lambda: gate.add_data("x", numbers(n_rows, (256,)))
    yield from reading(gate, "x", 1000)
    yield from changing(gate, "x", lambda n: numbers(n, (256,), seed=9), n_rows, 1000)


def attached(gate: Gate, scale: float) -> Calls:
    """Rows of files: contiguous ones, deflated ones in chunks of 2 MiB, and a column of Parquet."""
    n_rows = max(4096, int(400_000 * scale))
    directory = gate.repository().location.path.parents[1]
    for at, options in enumerate(({}, {"chunks": (2048, 256), "compression": "gzip", "compression_opts": 1})):
        with h5py.File(directory / f"{at}.h5", "w") as file:
            data = file.create_dataset("x", (n_rows // 2, 256), "f4", **options)
            done = 0
            for rows in numbers(n_rows // 2, (256,), seed=at):
                data[done : done + len(rows)] = rows
                done += len(rows)
    yield "attach", lambda: gate.attach([directory / "0.h5", directory / "1.h5"], "x")
    yield from reading(gate, "x", 1000)
    yield from changing(gate, "x", lambda n: numbers(n, (256,), seed=9), 2 * (n_rows // 2), 1000)
    schema = pa.schema([("p", pa.float64())])
    with pyarrow.parquet.ParquetWriter(directory / "p.parquet", schema) as file:
        for rows in numbers(64 * n_rows, (), "f8"):
            file.write_table(pa.table([rows], schema), row_group_size=2**17)
    yield "attach Parquet", lambda: gate.attach(directory / "p.parquet", phase="valid")
    yield "a range of it", lambda: gate["valid"]["p"][5:70_000]
    yield "batches of it", lambda: consume(gate["valid"]["p"].batches(4096, shuffle=False))
    yield "uniform batches of it", lambda: consume(gate["valid"]["p"].batches(4096, seed=1))


KINDS: dict[str, tuple[Callable[[Gate, float], Calls], dict[str, object]]] = {
    "narrow": (narrow, {}),
    "masks": (masks, {}),
    "wide": (wide, {}),
    "rows of 4 kB": (rows_of_4_kb, {}),
    "text": (text, {}),
    "many variables": (many_variables, {}),
    "many classes": (many_classes, {}),
    "large chunks": (large_chunks, {"chunk": 2048}),
    "attached": (attached, {}),
}


# -------------------------------------------------------------------------------------- measuring


def status_nbytes(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def settle():
    """Give back what nobody uses, and let the peak start again from here."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return status_nbytes("VmRSS")
    except (AttributeError, OSError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_nbytes():
    try:
        return status_nbytes("VmHWM")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_calls(kind: str, directory: Path, budget: int, scale: float) -> Iterator[dict[str, object]]:
    calls, args = KINDS[kind]
    with StoreGate("zarr", {"output_dir": directory / "store", "budget": budget, **args}, data_id="a") as gate:
        steps = calls(gate, scale)
        start = None
        while True:
            step = next(steps, None)  # makes what the call is given, from what the calls before have done
            if step is None:
                return
            name, call = step
            settled = settle()
            start = settled if start is None else start
            began = time.perf_counter()
            try:
                call()
                refused = ""
            except MemoryBudgetError as err:
                refused = str(err)
            seconds = time.perf_counter() - began
            grown, kept = peak_nbytes() - settled, settled - start
            yield {"call": name, "grown": grown, "kept": kept, "seconds": round(seconds, 2), "refused": refused}


def main(kind: str, directory: str, budget: str, scale: str) -> None:
    settings = {"storegate.progress": False, "scheduler": "threads", "num_workers": THREADS}
    with dask.config.set(settings):
        for place, size in (("warm", 0.0), ("large", float(scale))):
            (Path(directory) / place).mkdir()
            for found in run_calls(kind, Path(directory) / place, int(budget), size):
                if place == "large":
                    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
