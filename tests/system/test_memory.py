"""Bounded memory: measured peak <= projected <= budget, on incompressible data of ten times the budget.

Every case runs in a fresh process: the same calls on tiny data first, then the peak of its resident memory above
what it had before the calls on large data. This file is also the program that the process runs.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.budget import ingest_nbytes, plan_layout, reserved_nbytes
from storegate_engine.errors import MemoryBudgetError
from storegate_engine.graphs import plans_of
from storegate_engine.store import VariableSource
from storegate_engine.store.rewriting import plan_rewrite
from tests.processes import environment

MIB = 2**20
THREADS = 2
WIDTH = 1024
"""float32 of one sample: rows of 4 KiB."""


# --------------------------------------------------------------------------------------- the data


ANY = np.uint32(0x9FFFFFFF), np.uint32(0x20000000)
"""Masks for random bits whose exponent is not extreme."""
FIT_FLOAT16 = np.uint32(0x87FFFFFF), np.uint32(0x38000000)
"""The same for numbers from 2e-5 to 2."""


def blocks(n_rows, row_shape=(WIDTH,), seed=0, bits_of=ANY):
    """Yield incompressible float32 rows, 4 MiB at a time."""
    size = int(np.prod(row_shape, dtype=int))
    step = max(1, MIB // size)
    random = np.random.default_rng(seed)
    for start in range(0, n_rows, step):
        bits = random.integers(0, 2**32, (min(step, n_rows - start), *row_shape), np.uint32)
        bits &= bits_of[0]
        bits |= bits_of[1]
        yield bits.view(np.float32)


def memmap(directory, n_rows, row_shape=(WIDTH,)):
    path = directory / "rows.raw"
    with open(path, "wb") as file:
        for block in blocks(n_rows, row_shape):
            file.write(block)
    return np.memmap(path, np.float32, "r", shape=(n_rows, *row_shape))


def open_gate(directory, backend="zarr"):
    return StoreGate(backend, {"output_dir": directory / "store"}, data_id="memory")


def filled(directory, n_rows, bits_of=ANY):
    gate = open_gate(directory)
    gate.add_data("x", blocks(n_rows, bits_of=bits_of))
    return gate


def projected_ingest(gate, n_rows, row_nbytes=4 * WIDTH):
    return ingest_nbytes(
        row_nbytes, plan_layout(row_nbytes, n_rows, budget_nbytes=gate.budget_nbytes), gate.budget_nbytes
    )


# -------------------------------------------------------------------------------------- the cases
# Each makes its data, then yields (to be measured from here), and then returns the projected memory.


def ingest_memmap(directory, n_rows):
    gate, rows = open_gate(directory), memmap(directory, n_rows)
    yield
    gate.add_data("x", rows, phase=(0.8, 0.1, 0.1), shuffle=3)
    return projected_ingest(gate, n_rows)


def ingest_memmap_of_numbers(directory, n_rows):
    """Samples of one float32: as many bytes, 1024 times as many rows."""
    gate, rows = open_gate(directory), memmap(directory, n_rows * WIDTH, ())
    yield
    gate.add_data("x", rows, phase=(0.8, 0.1, 0.1), shuffle=3)
    return projected_ingest(gate, n_rows * WIDTH, 4)


def ingest_iterator(directory, n_rows):
    gate = open_gate(directory)
    yield
    gate.add_data("x", blocks(n_rows))
    return projected_ingest(gate, None)


def scan(directory, n_rows):
    """Block by block through the direct reader."""
    gate = filled(directory, n_rows)
    step = min(n_rows, gate.budget_nbytes // 8 // (4 * WIDTH))
    total = 0.0
    yield
    for start in range(0, n_rows, step):
        total += float(gate.get_data("x", index=(start, min(start + step, n_rows))).max())
    assert total > 0
    return reserved_nbytes(gate.budget_nbytes) + step * 4 * WIDTH  # the result, which is the caller's, and nothing else


def mean(directory, n_rows):
    gate = filled(directory, n_rows)
    yield
    dataset = gate["train"].to_xarray()
    found = dataset["x"].mean("sample").compute().values
    assert found.shape == (WIDTH,)
    full_pass, _ = plans_of(dataset, 1)["x"]
    return full_pass.projected_nbytes


def cast_encode_compact(directory, n_rows):
    gate = filled(directory, n_rows, FIT_FLOAT16)
    gate.add_data("y", np.arange(n_rows, dtype="i2") % 10)
    yield
    gate.astype("x", "f2")
    gate.onehot("y", 10)
    projected = projected_compact(gate, "x")
    gate.compact()
    (piece,) = gate.table["train"]["x"].pieces
    assert piece.array.dtype == np.float16
    assert gate.get_data("y", index=13).tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]
    return projected


def compact_shuffled(directory, n_rows):
    gate = filled(directory, n_rows)
    yield
    gate.shuffle("train", 3)
    projected = projected_compact(gate, "x")
    gate.compact()
    return projected


def projected_compact(gate, name):
    variable = gate.table["train"][name]
    shard_rows = gate.repository().spec(name, VariableSource(variable)).layout.shard_rows
    return plan_rewrite(variable, shard_rows, gate.capacity).projected_nbytes


def spill(directory, n_rows):
    """Rows that are in memory already go to storage; they are the user's, what comes on top is measured."""
    gate, rows = open_gate(directory, "hybrid"), memmap(directory, n_rows)
    gate.set_mode("numpy")
    gate.add_data("x", rows)
    yield
    gate.to_storage("x")
    return projected_ingest(gate, n_rows)


def spill_iterator(directory, n_rows):
    """A callback that makes rows one block after the other: they are never in memory together."""
    gate = open_gate(directory, "hybrid")
    gate.set_mode("numpy")
    gate.add_data("seed", np.arange(2))

    def callback(var_names, data):
        return "x", blocks(n_rows)

    yield
    gate.to_storage("seed", callback=callback)
    gate.set_mode("zarr")
    assert len(gate.table["train"]["x"]) == n_rows
    return projected_ingest(gate, None)


CASES = {
    case.__name__: case
    for case in (
        ingest_memmap,
        ingest_memmap_of_numbers,
        ingest_iterator,
        scan,
        mean,
        cast_encode_compact,
        compact_shuffled,
        spill,
        spill_iterator,
    )
}


# ------------------------------------------------------------------------------------- measuring


def status_nbytes(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def start_measuring():
    """Return the resident memory now, from where the peak is counted."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from here
        return status_nbytes("VmRSS")
    except OSError:
        return peak_nbytes()


def peak_nbytes():
    try:
        return status_nbytes("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(case, directory, n_rows):
    """Return the projected and the measured memory of a case."""
    for name, size in (("warm", 300), ("large", n_rows)):
        place = directory / name
        place.mkdir()
        steps = CASES[case](place, size)
        next(steps)
        before = start_measuring()
        try:
            next(steps)
        except StopIteration as end:
            projected = end.value
    return {"projected": projected, "measured": peak_nbytes() - before}


def main(case, directory, budget, n_rows):
    settings = {
        "storegate.memory-limit": budget,
        "storegate.progress": False,
        "scheduler": "threads",
        "num_workers": THREADS,
    }
    with dask.config.set(settings):
        print(json.dumps(measure(case, Path(directory), int(n_rows))))


def run(case, directory, budget, n_rows):
    command = [sys.executable, __file__, case, directory, str(budget), str(n_rows)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_bounded(case, directory, budget, n_rows):
    assert n_rows * 4 * WIDTH >= 10 * budget
    found = run(case, directory, budget, n_rows)
    shown = ", ".join(f"{what} {nbytes / MIB:.1f} MiB" for what, nbytes in found.items())
    print(f"{case}: budget {budget / MIB:.0f} MiB, {shown}")
    assert found["measured"] <= found["projected"] <= budget, shown


@pytest.mark.slow
@pytest.mark.parametrize("case", ["ingest_memmap"])
def test_memory_is_bounded(tmp_path, case):
    assert_bounded(case, tmp_path, 24 * MIB, 240 * MIB // (4 * WIDTH))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_memory_is_bounded_for_ten_times_the_budget(tmp_path, case):
    assert_bounded(case, tmp_path, 64 * MIB, 640 * MIB // (4 * WIDTH))


# ---------------------------------------------------------------------------------------- refusal


class Untouched:
    """Rows that must not be read."""

    def __init__(self, shape):
        self.shape = shape
        self.dtype = np.dtype("f4")

    def __getitem__(self, item):
        raise AssertionError("read")


@pytest.mark.parametrize("how", ["budget", "memory-limit"])
def test_rows_that_cannot_fit_are_refused_before_anything_is_read_or_written(tmp_path, how):
    args = {"output_dir": tmp_path / "store", **({"budget": "96MiB"} if how == "budget" else {})}
    limit = {"storegate.memory-limit": "96MiB"} if how == "memory-limit" else {}
    wide = (100, 8 * MIB)  # rows of 32 MiB
    with dask.config.set(limit), StoreGate("zarr", args, data_id="a") as gate:
        gate.add_data("old", [1, 2, 3])
        before = sorted(tmp_path.rglob("*"))
        for call in (
            lambda: gate.add_data("x", Untouched(wide)),
            lambda: gate.add_data(["small", "x"], [Untouched((100, 2)), Untouched(wide)]),
            lambda: gate.add_data("x", iter([np.broadcast_to(np.float32(0), (2, 8 * MIB))])),
            lambda: gate.update_data("x", Untouched(wide)),
        ):
            with pytest.raises(MemoryBudgetError, match=r"'x'.*32.*96\.0 MiB.*memory-limit") as caught:
                call()
            assert isinstance(caught.value, MemoryError)
        assert sorted(tmp_path.rglob("*")) == before
        assert gate.get_var_names() == ["old"]


def test_a_chunk_that_cannot_fit_is_refused(tmp_path):
    """Rows of a chunk are the user's choice; a shard is a chunk at least."""
    args = {"output_dir": tmp_path / "store", "budget": "8MiB", "chunk": 10_000}
    with StoreGate("zarr", args, data_id="a") as gate:
        with pytest.raises(MemoryBudgetError, match="chunks smaller"):
            gate.add_data("x", Untouched((100_000, WIDTH)))
        assert gate.get_var_names() == []


def test_a_rewrite_that_cannot_fit_is_refused(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data("x", np.zeros((4, MIB), "f4"))
    before = sorted(tmp_path.rglob("*"))
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "8MiB"}, data_id="a") as gate:
        with pytest.raises(MemoryBudgetError, match="needs about"):
            gate.compact()
        assert sorted(tmp_path.rglob("*")) == before


def test_a_larger_limit_lets_them_in(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "256MiB"}, data_id="a") as gate:
        gate.add_data("x", iter([np.ones((2, 4 * MIB), "f4")]))  # rows of 16 MiB
        assert gate.get_data("x", index=1).sum() == 4 * MIB


if __name__ == "__main__":
    main(*sys.argv[1:])
