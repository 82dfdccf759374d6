"""Batches: rows a second to a consumer that does nothing, beside a memmap that is read in blocks, in turns."""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Line, Outcome, Table, Turns, evict, in_seconds, isolated
from storegate import StoreGate

BUDGET = "600MB"
BLOCK_ROWS = 512
"""Rows of one block of the memmap that is the reference."""
ROUND_NBYTES = 64 * 2**20
"""Bytes of rows that the reference mixes at a time."""


@dataclass(frozen=True)
class Data:
    """One of the tables."""

    n_rows: int
    row_shape: tuple[int, ...]
    dtype: str
    batches: tuple[int, ...]
    cold: bool
    target: str
    """Of the rows a second, block shuffle."""
    ratio_target: str
    """Of the rows a second over the reference's."""

    @property
    def title(self) -> str:
        """Its name in the table."""
        shape = "×".join(map(str, self.row_shape))
        return f"{self.n_rows:,} × {shape} {self.dtype}, {'cold' if self.cold else 'in the page cache'}"


DATA = {
    "narrow": Data(1_000_000, (64,), "float32", (256, 4096), False, "≥ 2.5 M rows/s", "≥ 0.5"),
    "wide": Data(4_000_000, (256,), "float32", (256, 4096), True, "", "≥ 0.85"),
    "images": Data(50_000, (3, 32, 32), "uint8", (256, 4096), False, "≥ 1.0 M rows/s steady", ""),
}


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    repeat = arguments.repeat or (1 if arguments.quick else 3)
    wanted = arguments.only.split(",") if arguments.only else list(DATA)
    if unknown := set(wanted) - set(DATA):
        raise SystemExit(f"no case {', '.join(sorted(unknown))} (cases: {', '.join(DATA)})")
    table = Table(f"Batches, budget {BUDGET}", markdown=arguments.markdown)
    with harness.workplace(arguments.directory) as at:
        for name in wanted:
            data = DATA[name]
            if arguments.quick:
                data = replace(data, n_rows=data.n_rows // 10)
            made = isolated(make, str(at), name, data)
            if made.value is None:
                raise SystemExit(f"the rows could not be made: {made.error}")
            for batch_rows in data.batches:
                outcome = isolated(measure, str(at), name, data, batch_rows, repeat)
                table.add(lines(data, batch_rows, outcome))


def lines(data: Data, batch_rows: int, outcome: Outcome) -> Iterator[Line]:
    """Return what was measured of each order."""
    case = f"{data.title}, batches of {batch_rows}"
    if outcome.value is None:
        yield Line(case, outcome.error, peak_nbytes=outcome.peak_nbytes)
        return
    firsts, later = outcome.value.pop("firsts"), outcome.value.pop("later")
    rates = {name: data.n_rows / outcome.seconds_of(name) / 1e6 for name in outcome.value}
    reference = f"memmap in blocks {rates['memmap']:.2f} M rows/s"
    row_mb = int(np.prod(data.row_shape)) * np.dtype(data.dtype).itemsize
    for name in ("blocks", "uniform"):
        measured = f"{rates[name]:.2f} M rows/s, {rates[name] * row_mb:,.0f} MB/s"
        if name == "blocks":
            against, ratio = reference, rates[name] / rates["memmap"]
            target = ", ".join(part for part in (data.target, data.ratio_target) if part)
        else:
            against, ratio = f"blocks {rates['blocks']:.2f} M rows/s", rates[name] / rates["blocks"]
            target = "≥ 1.0" if data.cold else ""
        yield Line(f"{case}, {name}", measured, against, ratio, target, outcome.peak_of(name))
        first = statistics.median(firsts[name])
        yield Line(f"{case}, {name}: first batch", in_seconds(first), target="≤ 0.5 s" if data.cold else "≤ 0.1 s")
    yield Line(f"{case}, uniform: first batch of the second epoch", in_seconds(later), target="< 1 s")


def make(directory: str, name: str, data: Data) -> bool:
    """Write the rows as a raw file and as a store."""

    def blocks() -> Iterator[np.ndarray[Any, Any]]:
        random = np.random.default_rng(0)
        with open(Path(directory, f"{name}.raw"), "wb") as file:
            for start in range(0, data.n_rows, 50_000):
                shape = (min(50_000, data.n_rows - start), *data.row_shape)
                if data.dtype == "uint8":
                    rows: np.ndarray[Any, Any] = random.integers(0, 256, shape, np.uint8)
                else:
                    rows = random.standard_normal(shape, dtype=np.float32)
                file.write(rows.data)
                yield rows

    with StoreGate("zarr", {"output_dir": Path(directory, f"{name}.zarr")}, data_id="bench") as gate:
        gate.add_data("x", blocks())
        gate.add_data("y", np.arange(data.n_rows) % 10)
    return True


def measure(directory: str, name: str, data: Data, batch_rows: int, repeat: int) -> dict[str, Any]:
    """Time an epoch of every order and of the reference, in turns."""
    warnings.simplefilter("ignore", UserWarning)  # of the quality of a block order
    raw, store = Path(directory, f"{name}.raw"), Path(directory, f"{name}.zarr")
    firsts: dict[str, list[float]] = {"blocks": [], "uniform": [], "memmap": []}
    turns: Turns = {case: [] for case in firsts}
    with StoreGate("zarr", {"output_dir": store, "mode": "r"}, data_id="bench") as gate:
        view = gate["train"][["x", "y"]]
        cases: dict[str, Callable[[], Any]] = {
            "blocks": lambda: view.batches(batch_rows, shuffle="blocks", budget=BUDGET),
            "uniform": lambda: view.batches(batch_rows, budget=BUDGET),
            "memmap": lambda: memmap_batches(raw, data, batch_rows),
        }
        later = []
        for _ in range(repeat):
            for case, start in cases.items():
                if data.cold:
                    evict(raw, store)
                begin = time.perf_counter()
                stream = start()
                firsts[case].append(consume(stream, data.n_rows, begin))
                turns[case].append((begin, time.perf_counter()))
                if case == "uniform":
                    begin = time.perf_counter()
                    next(iter(stream))
                    later.append(time.perf_counter() - begin)
                if case != "memmap":
                    stream.close()
    return {**turns, "firsts": firsts, "later": statistics.median(later)}


def consume(batches: Any, n_rows: int, begin: float) -> float:
    """Take all batches, and return when the first one came."""
    first, seen = 0.0, 0
    for batch in batches:
        first = first or time.perf_counter() - begin
        seen += len(batch[0])
    assert seen == n_rows
    return first


def memmap_batches(raw: Path, data: Data, batch_rows: int) -> Iterator[list[np.ndarray[Any, Any]]]:
    """Yield shuffled rows of a raw file as a plain loop would: blocks in random order, mixed a buffer at a time."""
    rows = np.memmap(raw, data.dtype, "r", shape=(data.n_rows, *data.row_shape))
    labels = np.arange(data.n_rows) % 10
    random = np.random.default_rng(0)
    starts = random.permutation(np.arange(0, data.n_rows, BLOCK_ROWS))
    n_blocks = max(1, ROUND_NBYTES // (BLOCK_ROWS * rows[:1].nbytes))
    for at in range(0, len(starts), n_blocks):
        spans = [(lo, min(lo + BLOCK_ROWS, data.n_rows)) for lo in starts[at : at + n_blocks].tolist()]
        buffer = np.concatenate([rows[lo:hi] for lo, hi in spans])
        label = np.concatenate([labels[lo:hi] for lo, hi in spans])
        order = random.permutation(len(buffer))
        for lo in range(0, len(buffer), batch_rows):
            taken = order[lo : lo + batch_rows]
            yield [buffer.take(taken, axis=0), label.take(taken)]
