"""Ranks: a uniform order of more rows than memory, for ranks in processes that share a spill, beside one rank alone."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks import disk, harness
from benchmarks.disk import evict
from benchmarks.harness import Line, Table, Turns, in_seconds, interleave, isolated
from storegate import StoreGate
from storegate_engine.budget import format_nbytes, parse_nbytes

WIDTH = 256
"""float32 values of a row: 1 kB."""
BATCH_ROWS = 1024
N_EPOCHS = 2
BUDGET_NBYTES = 600 * 10**6
"""The memory limit of all ranks together."""
WORLDS = (1, 2, 4)


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    nbytes = parse_nbytes(arguments.size) if arguments.size else (512 if arguments.quick else 4096) * harness.MIB
    repeat = arguments.repeat or (1 if arguments.quick else 3)
    title = f"{N_EPOCHS} epochs of {format_nbytes(nbytes)} in {format_nbytes(BUDGET_NBYTES)} of all ranks, cold"
    table = Table(title, markdown=arguments.markdown)
    with disk.workplace(arguments.directory) as at:
        table.add(_lines(at, nbytes, repeat))


def _lines(at: Path, nbytes: int, repeat: int) -> Iterator[Line]:
    outcome = isolated(epochs, str(at), nbytes // (4 * WIDTH), repeat)
    if outcome.value is None:
        yield Line("ranks", outcome.error)
        return
    turns, read = outcome.value
    seconds = {world: statistics.median(hi - lo for lo, hi in turns[str(world)]) for world in WORLDS}
    for world in WORLDS:
        inside = [n for at, n in outcome.samples if any(lo <= at <= hi for lo, hi in turns[str(world)])]
        peak, label = max(inside, default=0), f"{world} {'rank' if world == 1 else 'ranks'}"
        yield Line(label, in_seconds(seconds[world]), f"1 rank {in_seconds(seconds[1])}", seconds[world] / seconds[1])
        if read[world]:
            passes = statistics.median(read[world]) / nbytes
            alone = statistics.median(read[1]) / nbytes
            yield Line(
                f"{label}: bytes read", f"{passes:.2f} × the rows", f"1 rank {alone:.2f}", passes / alone, "≤ 1.2", peak
            )


def epochs(directory: str, n_rows: int, repeat: int) -> tuple[Turns, dict[int, list[int]]]:
    """Give all epochs to one rank, and to several; return also what they read together."""
    store = Path(directory, "store")
    read: dict[int, list[int]] = {world: [] for world in WORLDS}
    parts = (disk.random_rows(min(2**16, n_rows - lo), WIDTH, seed=lo) for lo in range(0, n_rows, 2**16))
    with StoreGate("zarr", {"output_dir": store}, data_id="bench") as gate:
        gate.add_data("x", parts)

    started: list[subprocess.Popen[str]] = []

    def start(world: int) -> None:
        evict(store)
        started[:] = [_started(store, rank, world) for rank in range(world)]
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()  # it has imported what it needs

    def give(world: int) -> None:
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        outputs = [process.communicate()[0] for process in started]
        read[world].append(sum(int(output) for output in outputs))

    cases: dict[str, Callable[[], object]] = {str(world): partial(give, world) for world in WORLDS}
    return interleave(cases, repeat=repeat, before=lambda name: start(int(name))), read


def _started(store: Path, rank: int, world: int) -> subprocess.Popen[str]:
    program = f"from benchmarks.ranks import give_rank; give_rank({str(store)!r}, {rank}, {world})"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def give_rank(store: str, rank: int, world: int) -> None:
    """Give all epochs of one rank, and print the bytes that this process has read for them; 0 where nobody counts."""
    with StoreGate.open(store) as gate:
        budget = BUDGET_NBYTES // world
        view = gate["train"]["x"]
        with view.batches(BATCH_ROWS, seed=1, epochs=N_EPOCHS, budget=budget, rank=rank, world=world) as stream:
            print("ready", flush=True)
            sys.stdin.readline()
            before = _read_nbytes()
            for _ in range(N_EPOCHS):
                for _ in stream:
                    pass
            print(_read_nbytes() - before, flush=True)


def _read_nbytes() -> int:
    counted = Path("/proc/self/io")
    if not counted.exists():
        return 0
    return int(counted.read_text().partition("rchar: ")[2].split()[0])
