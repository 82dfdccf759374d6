"""Batches: rows a second to a consumer that does nothing, beside a memmap read in blocks and other software."""

from __future__ import annotations

import argparse
import importlib
import math
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import batch_peers, disk, harness
from benchmarks.batch_peers import BatchPeer
from benchmarks.batch_rows import Rows
from benchmarks.core import small_gate
from benchmarks.disk import evict
from benchmarks.harness import Line, Outcome, Table, Turns, in_seconds, isolated
from benchmarks.peers import chosen
from storegate import StoreGate

TITLES = {"memmap": "memmap in blocks", "blocks": "blocks"}
BLOCK_ROWS = 512
"""Rows of one block of the memmap that is the reference."""
ROUND_NBYTES = 64 * 2**20
"""Bytes of rows that the reference mixes at a time."""
PREPARE_LIMIT_S = 3600
"""Seconds for a peer to write its input."""
LATE_S = 60
"""Seconds that a peer may take longer than its limit to yield its next batch, imports included."""


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
    "images": Data(50_000, (3, 32, 32), "uint8", (256, 4096), False, "≥ 1.0 M rows/s after the first batch", ""),
}


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    repeat = arguments.repeat or (1 if arguments.quick else 3)
    wanted = arguments.only.split(",") if arguments.only else list(DATA)
    if unknown := set(wanted) - set(DATA):
        raise SystemExit(f"no case {', '.join(sorted(unknown))} (cases: {', '.join(DATA)})")
    peers = chosen(arguments.peers, batch_peers.PEERS)
    packages = {package for name in peers for package in batch_peers.PEERS[name].distributions} - set(harness.PACKAGES)
    table = Table(f"Batches, budget {arguments.budget}", markdown=arguments.markdown, packages=sorted(packages))
    with disk.workplace(arguments.directory) as at:
        for name in wanted:
            data = DATA[name]
            if arguments.quick:
                data = replace(data, n_rows=data.n_rows // 10)
            made = isolated(make, str(at), name, data)
            if made.value is None:
                raise SystemExit(f"the rows could not be made: {made.error}")
            blocks_rates: dict[int, float] = {}
            for batch_rows in data.batches:
                outcome = isolated(measure, str(at), name, data, batch_rows, repeat, arguments.budget)
                if outcome.value is not None:
                    blocks_rates[batch_rows] = data.n_rows / outcome.seconds_of("blocks")
                table.add(lines(data, batch_rows, outcome))
            for peer in peers:
                table.add(peer_lines(at, name, data, peer, blocks_rates, arguments.limit))


def lines(data: Data, batch_rows: int, outcome: Outcome) -> Iterator[Line]:
    """Return what was measured of each order."""
    case = f"{data.title}, batches of {batch_rows}"
    if outcome.value is None:
        yield Line(case, outcome.error, peak_nbytes=outcome.peak_nbytes)
        return
    firsts = {name: statistics.median(seconds) for name, seconds in outcome.value.pop("firsts").items()}
    seconds = {name: outcome.seconds_of(name) for name in outcome.value}
    rates = {name: data.n_rows / seconds[name] / 1e6 for name in seconds}
    row_nbytes = int(np.prod(data.row_shape)) * np.dtype(data.dtype).itemsize
    for name, reference, target in [
        ("blocks", "memmap", ", ".join(part for part in (data.target, data.ratio_target) if part)),
        ("blocks, second epoch", "memmap", data.target),
        ("stored first", "blocks", "≥ 0.95" if data.cold else ""),
        ("uniform alone", "blocks", "≥ 0.5" if data.cold else ""),
        ("uniform", "blocks", "≥ 0.4" if data.cold else ""),
        ("uniform, second epoch", "blocks", "≥ 1.0" if data.cold else ""),
    ]:
        steady = (data.n_rows - batch_rows) / (seconds[name] - firsts[name]) / 1e6
        speed = f"{rates[name]:.2f} M rows/s, {rates[name] * row_nbytes:,.0f} MB/s"
        yield Line(
            f"{case}, {name}",
            f"{speed}; after the first batch {steady:.2f} M rows/s",
            f"{TITLES[reference]} {rates[reference]:.2f} M rows/s",
            rates[name] / rates[reference],
            target,
            outcome.peak_of(name),
        )
        limit = "< 1 s" if name.endswith("epoch") else "≤ 0.5 s" if data.cold else "≤ 0.1 s"
        yield Line(f"{case}, {name}: first batch", in_seconds(firsts[name]), target=limit)


def peer_lines(
    at: Path, name: str, data: Data, peer_name: str, blocks_rates: dict[int, float], limit_s: float
) -> Iterator[Line]:
    """Return what was measured of other software on the same rows, one epoch for each size of a batch."""
    peer = batch_peers.PEERS[peer_name]
    rows = Rows(str(at / f"{name}.raw"), data.n_rows, data.row_shape, data.dtype)
    directory = at / f"peer-{peer_name}"
    if missing := peer.missing():
        yield Line(f"{data.title}, {peer.title}", f"not run: python -m pip install {' '.join(missing)}")
        return
    directory.mkdir()
    prepared = isolated(prepare_peer, peer_name, str(directory), rows, limit_s=PREPARE_LIMIT_S)
    if prepared.value is None:
        yield Line(f"{data.title}, {peer.title}", f"its input was not written: {prepared.error}")
    else:
        for batch_rows in data.batches:
            if data.cold:
                evict(directory, rows.path)
            outcome = isolated(
                measure_peer, peer_name, str(directory), rows, batch_rows, limit_s, limit_s=limit_s + LATE_S
            )
            yield peer_line(data, peer, batch_rows, outcome, blocks_rates.get(batch_rows), limit_s)
    shutil.rmtree(directory)


def peer_line(
    data: Data, peer: BatchPeer, batch_rows: int, outcome: Outcome, blocks_rate: float | None, limit_s: float
) -> Line:
    """Return the line of other software; its epoch may have been stopped."""
    case = f"{data.title}, batches of {batch_rows}, {peer.title}"
    if outcome.value is None:
        return Line(case, outcome.error, peak_nbytes=outcome.peak_nbytes)
    n_rows, first = outcome.value.pop("rows"), outcome.value.pop("first")
    rate = n_rows / outcome.seconds_of("epoch")
    stopped = f" (stopped after {limit_s:.0f} s)" if n_rows + batch_rows <= data.n_rows else ""
    line = Line(
        case,
        f"{in_millions(rate)} M rows/s{stopped}, first batch {in_seconds(first)}",
        peak_nbytes=outcome.peak_of("epoch"),
    )
    if blocks_rate is None:
        return line
    return replace(line, reference=f"blocks {blocks_rate / 1e6:.2f} M rows/s", ratio=rate / blocks_rate)


def in_millions(rate: float) -> str:
    """Return a rate in millions with two decimals, or with three digits where that says more."""
    millions = rate / 1e6
    return f"{millions:.2f}" if millions >= 0.1 else f"{millions:.3g}"


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
        gate.shuffle("train", seed=1)
        gate.compact("train")  # so that a first epoch can be the stored order
        gate.vacuum(older_than=0)
    return True


def measure(directory: str, name: str, data: Data, batch_rows: int, repeat: int, budget: str) -> dict[str, Any]:
    """Time an epoch of every order and of the reference, in turns; a uniform one alone, and two of three."""
    warnings.simplefilter("ignore", UserWarning)  # of the quality of a block order
    raw, store = Path(directory, f"{name}.raw"), Path(directory, f"{name}.zarr")
    names = (
        "blocks",
        "blocks, second epoch",
        "stored first",
        "uniform alone",
        "uniform",
        "uniform, second epoch",
        "memmap",
    )
    firsts: dict[str, list[float]] = {name: [] for name in names}
    turns: Turns = {name: [] for name in names}

    def take(name: str, start: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        stream = start()
        first, seen = consume(stream, begin)
        turns[name].append((begin, time.perf_counter()))
        firsts[name].append(first)
        assert seen == data.n_rows
        return stream

    with StoreGate("zarr", {"output_dir": store, "mode": "r"}, data_id="bench") as gate:
        view = gate["train"][["x", "y"]]
        with small_gate() as small:
            small.compact()
            list(small["train"]["x"].batches(1, shuffle="blocks"))
        for _ in range(repeat):
            for name, options in (
                ("blocks", {"shuffle": "blocks"}),
                ("stored first", {"epochs": 1, "first": "stored"}),
                ("uniform alone", {"epochs": 1}),
                ("uniform", {"epochs": 3}),
                ("memmap", {}),
            ):
                if data.cold:
                    evict(raw, store)
                if name == "memmap":
                    take(name, lambda: memmap_batches(raw, data, batch_rows))
                    continue
                with take(name, partial(view.batches, batch_rows, budget=budget, **options)) as stream:
                    if options.get("epochs") != 1:
                        take(f"{name}, second epoch", partial(iter, stream))
    return {**turns, "firsts": firsts}


def prepare_peer(name: str, directory: str, rows: Rows) -> bool:
    """Let other software write its input."""
    batch_peers.PEERS[name].prepare(directory, rows)
    return True


def measure_peer(name: str, directory: str, rows: Rows, batch_rows: int, limit_s: float) -> dict[str, Any]:
    """Time an epoch of other software, or as much of it as the limit allows; imports are not timed."""
    peer = batch_peers.PEERS[name]
    for package in peer.packages:
        importlib.import_module(package.partition(":")[0])
    begin = time.perf_counter()
    first, n_rows = consume(peer.batches(directory, rows, batch_rows), begin, limit_s)
    return {"epoch": [(begin, time.perf_counter())], "first": first, "rows": n_rows}


def consume(batches: Any, begin: float, limit_s: float = math.inf) -> tuple[float, int]:
    """Take all batches, or as many as come before the limit; return when the first one came, and the rows taken."""
    first, seen = 0.0, 0
    for batch in batches:
        seconds = time.perf_counter() - begin
        first = first or seconds
        seen += len(batch[0])
        if seconds > limit_s:
            break
    return first, seen


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
