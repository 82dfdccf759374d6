"""Shuffle: an exact permutation of more rows than memory holds, beside copies of the files and other software."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import disk, peers, scale
from benchmarks.core import small_gate
from benchmarks.disk import copy_synced, evict, read_all
from benchmarks.harness import Line, Outcome, Table, Turns, compared, in_seconds, interleave, isolated
from storegate import StoreGate
from storegate_engine.budget import BLOCK_NBYTES, format_nbytes, parse_nbytes
from storegate_engine.clusters import Capacity
from storegate_engine.graphs import to_dataset
from storegate_engine.orders import Range
from storegate_engine.table import Table as Stored
from storegate_engine.table import Variable

WIDTH = 256
"""float32 values of a row: 1 kB."""
ROWS, BUDGET_NBYTES = 4_000_000, 10**9
SEED = 7
WORKER_NBYTES = 700 * 10**6


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    n_rows = arguments.rows or (ROWS // 20 if arguments.quick else ROWS)
    in_proportion = max(256 * 10**6, BUDGET_NBYTES * n_rows // ROWS)
    budget_nbytes = parse_nbytes(arguments.budget) if arguments.budget else in_proportion
    repeat = arguments.repeat or (1 if arguments.quick else 3)
    title = f"Shuffle: {n_rows:,} rows of {WIDTH} float32 and an int64 label, {format_nbytes(n_rows * (4 * WIDTH + 8))}"
    table = Table(title, markdown=arguments.markdown)
    with disk.workplace(arguments.directory) as at:
        case = Case(at, n_rows, budget_nbytes, repeat)
        cases: dict[str, Callable[[], Iterator[Line]]] = {
            "compact": case.compact,
            "warm": case.compact_warm,
            "fitting": case.compact_in_memory,
            "mean": case.mean,
            "peek": case.peek,
            "graph": case.graph,
        }
        if arguments.cluster:
            cases["cluster"] = case.cluster
        if wanted_peers := peers.chosen(arguments.peers, peers.PEERS):
            cases["peers"] = lambda: case.peers(wanted_peers, arguments.limit)
        wanted = arguments.only.split(",") if arguments.only else list(cases)
        if unknown := set(wanted) - set(cases):
            raise SystemExit(f"no case {', '.join(sorted(unknown))} (cases: {', '.join(cases)})")
        for name in wanted:
            table.add(cases[name]())


class Case:
    """The cases of one run, which share the files and the times of some of them."""

    def __init__(self, at: Path, n_rows: int, budget_nbytes: int, repeat: int) -> None:
        self.at = at
        self.n_rows = n_rows
        self.budget_nbytes = budget_nbytes
        self.repeat = repeat
        self.raw = at / "rows.raw"
        self.base = at / "base.zarr"
        self._exchange_s: float | None = None

    @property
    def store(self) -> Path:
        """The shuffled store that no case changes."""
        if not self.base.exists():
            made = isolated(make_store, str(self.base), str(self.raw), self.n_rows)
            if made.value is None:
                raise SystemExit(f"the store could not be made: {made.error}")
        return self.base

    def compact(self) -> Iterator[Line]:
        """Write the shuffled rows out in order within the budget, and copy the files twice, in turns."""
        yield self._compact(self.budget_nbytes, copies=2, target="≤ 0.9, peak ≤ the budget")

    def compact_warm(self) -> Iterator[Line]:
        """Write out a quarter of the rows in 0.3 of the budget, all files in the page cache, and copy them twice."""
        part = Case(self.at / "warm", self.n_rows // 4, max(256 * 10**6, 3 * self.budget_nbytes // 10), self.repeat)
        part.at.mkdir()
        yield part._compact(part.budget_nbytes, copies=2, target="≤ 1.2, peak ≤ the budget", is_warm=True)
        shutil.rmtree(part.at)

    def compact_in_memory(self) -> Iterator[Line]:
        """Write out rows that fit the memory limit, and copy the files once."""
        yield self._compact(3 * self.n_rows * (4 * WIDTH + 8), copies=1, target="≤ 1.3")

    def _compact(self, budget_nbytes: int, *, copies: int, target: str, is_warm: bool = False) -> Line:
        case = f"compact() of the shuffled rows, budget {format_nbytes(budget_nbytes)}"
        if is_warm:
            case = (
                f"compact() of {self.n_rows:,} shuffled rows in the page cache, budget {format_nbytes(budget_nbytes)}"
            )
        prepare = read_all if is_warm else evict
        outcomes: list[Outcome] = []
        copied: list[float] = []
        for _ in range(self.repeat):
            work = linked_copy(self.store, self.at / "work.zarr")
            prepare(work)
            outcome = isolated(compact, str(work), budget_nbytes, self.n_rows)
            shutil.rmtree(work)
            if outcome.value is None:
                return Line(case, outcome.error, target=target, peak_nbytes=outcome.peak_nbytes)
            outcomes.append(outcome)
            copied.append(copy_synced(self.store, self.at / "copies", copies, prepare))
        seconds = statistics.median(outcome.seconds_of("compact") for outcome in outcomes)
        if copies == 2:
            self._exchange_s = seconds
        raw = statistics.median(copied)
        reference = f"the files copied {'twice' if copies == 2 else 'once'}, synced {in_seconds(raw)}"
        peak = max(outcome.peak_of("compact") for outcome in outcomes)
        return Line(case, f"{in_seconds(seconds)}, exact", reference, seconds / raw, target, peak)

    def mean(self) -> Iterator[Line]:
        """Reduce the shuffled phase without compacting it, and the phase as it is stored."""
        outcomes: dict[str, list[Outcome]] = {"shuffled": [], "as stored": []}
        for _ in range(self.repeat):
            for name, found in outcomes.items():
                evict(self.store)
                found.append(isolated(mean, str(self.store), self.budget_nbytes, name == "shuffled"))
        case = f'to_xarray()["x"].mean(), budget {format_nbytes(self.budget_nbytes)}'
        failed = [outcome for found in outcomes.values() for outcome in found if outcome.value is None]
        if failed:
            yield Line(case, failed[0].error, peak_nbytes=failed[0].peak_nbytes)
            return
        seconds = {name: statistics.median(o.seconds_of("mean") for o in found) for name, found in outcomes.items()}
        peaks = {name: max(outcome.peak_of("mean") for outcome in found) for name, found in outcomes.items()}
        yield Line(f"{case}, as stored", in_seconds(seconds["as stored"]), peak_nbytes=peaks["as stored"])
        line = Line(f"{case}, shuffled", in_seconds(seconds["shuffled"]), peak_nbytes=peaks["shuffled"])
        if self._exchange_s is None:
            yield replace(line, reference="run the case compact too to compare")
            return
        allowed = 3 * seconds["as stored"] + self._exchange_s
        reference = f"3 × as stored + one compact() {in_seconds(allowed)}"
        target = "≤ 1, peak ≤ the budget"
        yield replace(line, reference=reference, ratio=seconds["shuffled"] / allowed, target=target)

    def peek(self) -> Iterator[Line]:
        """Look at the first rows of the shuffled phase, and read the stored rows once."""
        outcome = isolated(peek, str(self.store), self.budget_nbytes, self.repeat)
        case = "isel(sample=slice(0, 256)) of the shuffled rows"
        yield compared(case, outcome, "peek", "read", "≤ 1.2", "one full read, cold")
        if outcome.value is not None:
            yield Line(f"{case}: its graph", in_seconds(outcome.seconds_of("graph")), target="< 50 ms")

    def graph(self) -> Iterator[Line]:
        """Build the graph of many large variables that exist on paper only."""
        outcome = isolated(graph_of_many, 10, 3000, limit_s=120)
        case = "Dataset of 10 shuffled variables × 3,000 blocks"
        if outcome.value is None:
            yield Line(case, outcome.error, target="< 0.5 s to build, < 3 s to cull and make tasks")
            return
        n_tasks = outcome.value.pop("tasks")
        yield Line(f"{case}: built", in_seconds(outcome.seconds_of("build")), target="< 0.5 s")
        culled = f"{in_seconds(outcome.seconds_of('cull'))}, {n_tasks:,} tasks"
        yield Line(f"{case}: culled, tasks made", culled, target="< 3 s", peak_nbytes=outcome.peak_of("cull"))

    def cluster(self) -> Iterator[Line]:
        """Compact on two worker processes, one of which is killed in each pass."""
        work = linked_copy(self.store, self.at / "cluster.zarr")
        evict(work)
        outcome = isolated(compact_on_cluster, str(work), self.budget_nbytes, self.n_rows, limit_s=3600)
        shutil.rmtree(work)
        case = "compact() on 2 workers of 700 MB, killed once in each pass"
        if outcome.value is None:
            yield Line(case, outcome.error, target="finishes, exact", peak_nbytes=outcome.peak_nbytes)
            return
        killed = outcome.value.pop("killed")
        measured = f"{in_seconds(outcome.seconds_of('compact'))}, exact; killed in {', '.join(killed) or 'no pass'}"
        yield Line(case, measured, target="finishes, exact", peak_nbytes=outcome.peak_of("compact"))

    def peers(self, names: list[str], limit_s: float) -> Iterator[Line]:
        """Shuffle the same rows with other software: from files on disk to files on disk, cold."""
        disk.random_file(self.raw, self.n_rows, WIDTH)
        for name in names:
            peer = peers.PEERS[name]
            case = f"{peer.title}: the same rows shuffled and written"
            if missing := peer.missing():
                yield Line(case, f"not run: python -m pip install {' '.join(missing)}")
                continue
            directory = self.at / f"peer-{name}"
            directory.mkdir()
            prepared = isolated(peer.prepare, str(directory), str(self.raw), self.n_rows, WIDTH)
            if prepared.value is None:
                yield Line(case, f"its input was not written: {prepared.error}")
            else:
                evict(directory, self.raw)
                outcome = isolated(
                    peers.timed, name, str(directory), str(self.raw), self.n_rows, WIDTH, limit_s=limit_s
                )
                measured = outcome.error or in_seconds(outcome.seconds_of("run"))
                line = Line(case, measured, peak_nbytes=outcome.peak_nbytes)
                if self._exchange_s is not None and not outcome.error:
                    ratio = outcome.seconds_of("run") / self._exchange_s
                    line = replace(line, reference=f"compact() {in_seconds(self._exchange_s)}", ratio=ratio)
                yield line
            shutil.rmtree(directory)


# ---------------------------------------------------------------------------------------------------------- the disk


def linked_copy(store: Path, work: Path) -> Path:
    """Return a store that shares the segments of another one; they are never changed."""

    def copy(source: str, target: str) -> None:
        if "segments" in Path(source).parts:
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(store, work, copy_function=copy)
    return work


# --------------------------------------------------------------------------------------------------------- in a child


def make_store(store: str, raw: str, n_rows: int) -> bool:
    """Store rows that know their numbers, with labels that are these numbers, and shuffle them."""
    rows = disk.random_file(Path(raw), n_rows, WIDTH)
    with StoreGate("zarr", {"output_dir": store}, data_id="bench") as gate:
        gate.add_data(["x", "y"], [rows, np.arange(n_rows)])
        gate.shuffle("train", seed=SEED)
    return True


def compact(store: str, budget_nbytes: int, n_rows: int) -> Turns:
    """Time compact(), then check every row."""
    with small_gate() as small:
        small.compact()
    gate = StoreGate("zarr", {"output_dir": store, "budget": budget_nbytes}, data_id="bench")
    turns = interleave({"compact": gate.compact}, repeat=1)
    check(gate, n_rows)
    return turns


def check(gate: StoreGate, n_rows: int) -> None:
    """Raise unless rows and labels lie in the order that numpy gives for the seed."""
    expected = np.random.RandomState(SEED).permutation(n_rows)
    variables = gate.table["train"]
    for start in range(0, n_rows, 2**16):
        stop = min(start + 2**16, n_rows)
        numbers = expected[start:stop]
        if (variables["y"].read(start, stop) != numbers).any():
            raise AssertionError(f"labels {start}..{stop} are not those of the permutation")
        if (variables["x"].read(start, stop)[:, 0] != (numbers % 2**24).astype(np.float32)).any():
            raise AssertionError(f"rows {start}..{stop} are not those of the permutation")


def mean(store: str, budget_nbytes: int, shuffled: bool) -> Turns:
    """Time the mean of the phase, in its shuffled order or as it is stored."""
    with small_gate() as small:
        small["train"].to_xarray()["x"].mean().compute()
    gate = StoreGate("zarr", {"output_dir": store, "budget": budget_nbytes}, data_id="bench")
    dataset = gate["train"].to_xarray() if shuffled else to_dataset(gate.table, as_stored(gate), (), gate.capacity)
    return interleave({"mean": lambda: dataset["x"].mean().compute()}, repeat=1)


def as_stored(gate: StoreGate) -> dict[str, Variable]:
    """Return the stored rows of the phase, without their order."""
    phase = gate.table["train"]
    return {name: replace(variable, order=Range(0, variable.offsets[-1])) for name, variable in phase.items()}


def peek(store: str, budget_nbytes: int, repeat: int) -> Turns:
    """Time the first rows in shuffled order beside a read of all stored rows."""
    from dask.base import optimize

    with small_gate() as small:
        small["train"].to_xarray()["x"].compute()
    gate = StoreGate("zarr", {"output_dir": store, "budget": budget_nbytes}, data_id="bench")
    stored = as_stored(gate)["x"]
    block = np.empty((2**15, WIDTH), np.float32)

    def read() -> None:
        for start in range(0, len(stored), len(block)):
            stop = min(start + len(block), len(stored))
            stored.read_into(start, stop, block[: stop - start])

    def first_rows() -> Any:
        return gate["train"].to_xarray()["x"].isel(sample=slice(0, 256))

    def graph() -> None:
        dict(optimize(first_rows())[0].__dask_graph__())

    cases = {"peek": lambda: first_rows().compute(), "read": read, "graph": graph}
    graph()  # the permutation of the order is made once in a process
    return interleave(cases, repeat=repeat, before=lambda _: evict(store))


def graph_of_many(n_variables: int, n_blocks: int) -> dict[str, Any]:
    """Time the Dataset of many shuffled variables on paper, and the tasks of a pass over all of it."""
    with tempfile.TemporaryDirectory(prefix="storegate-bench-") as directory:
        Path(directory, "bench").mkdir()
        n_rows = n_blocks * BLOCK_NBYTES // (4 * WIDTH)
        phase = {
            f"x{at}": scale.paper_variable(f"x{at}", n_rows, (WIDTH,), np.float32, directory)
            for at in range(n_variables)
        }
        capacity = Capacity(12 * 2**30, 2)
        built: list[Any] = []
        table = Stored({**Stored().phases, "train": phase})
        turns: dict[str, Any] = interleave(
            {"build": lambda: built.append(to_dataset(table, phase, (), capacity))}, repeat=1
        )
        found = len(built[0].chunks["sample"])
        if abs(found - n_blocks) > n_blocks // 2:
            raise AssertionError(f"{found} blocks where {n_blocks} were meant")
        keys = built[0].__dask_keys__()
        graph = built[0].__dask_graph__()
        tasks: list[int] = []
        turns.update(interleave({"cull": lambda: tasks.append(len(dict(graph.cull(keys))))}, repeat=1))
        return {**turns, "tasks": tasks[0]}


def compact_on_cluster(store: str, budget_nbytes: int, n_rows: int) -> dict[str, Any]:
    """Time compact() on two worker processes, while one is killed in the first pass and one in the second."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=2,
            threads_per_worker=1,
            memory_limit=WORKER_NBYTES,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        gate = StoreGate("zarr", {"output_dir": store, "budget": min(budget_nbytes, WORKER_NBYTES)}, data_id="bench")
        ended = threading.Event()
        killed: list[str] = []
        killer = threading.Thread(target=_kill_in_each_pass, args=(client, Path(store), ended, killed), daemon=True)
        killer.start()
        turns: dict[str, Any] = interleave({"compact": gate.compact}, repeat=1)
        ended.set()
        killer.join()
    check(gate, n_rows)
    return {**turns, "killed": killed}


def _kill_in_each_pass(client: Any, store: Path, ended: threading.Event, killed: list[str]) -> None:
    """Kill a worker once some spill files are there, and one once some shards of the new rows are."""
    before = set(store.glob("bench/segments/*/x"))

    def shards() -> int:
        return sum(1 for new in set(store.glob("bench/segments/*/x")) - before for _ in new.glob("c/*/*"))

    signs: list[tuple[str, Callable[[], bool]]] = [
        ("scatter", lambda: len(list(store.glob("bench/scratch/*/map-*"))) >= 2),
        ("collect", lambda: shards() >= 2),
    ]
    for name, has_begun in signs:
        while not has_begun():
            if ended.wait(0.02):
                return
        with contextlib.suppress(Exception):  # it may die of itself meanwhile
            pids = client.run(os.getpid)
            os.kill(next(iter(pids.values())), signal.SIGKILL)
            killed.append(name)
