"""Scale: plans of terabytes on paper, by the functions that plan a real run; moves no byte of data."""

from __future__ import annotations

import argparse
import cProfile
import io
import pickle
import pstats
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Line, Table, in_seconds, isolated
from storegate_engine.arrays import StoredArray
from storegate_engine.budget import format_nbytes, plan_layout
from storegate_engine.clusters import Capacity
from storegate_engine.encodings import row_nbytes
from storegate_engine.graphs import blocks_of, to_dask
from storegate_engine.graphs.layers import RowsLayer
from storegate_engine.locations import parse_location
from storegate_engine.orders import Range, permute
from storegate_engine.store.rewriting import plan_rewrite
from storegate_engine.table import Piece, Variable

TB = 10**12
ROW_SHAPE = (256,)


@dataclass(frozen=True)
class Scenario:
    """Rows that exist on paper only, and what there is to shuffle them with."""

    name: str
    nbytes: int
    capacity: Capacity
    """Of one machine, or of one worker of a cluster."""
    target: str = ""


SCENARIOS = [
    Scenario("1 TB on one machine of 24 GB, 2 threads", TB, Capacity(24 * 10**9, 2)),
    Scenario("20 TB on one machine of 24 GB, 2 threads", 20 * TB, Capacity(24 * 10**9, 2)),
    Scenario(
        "100 TB on 100 workers of 16 GB, 1 thread each", 100 * TB, Capacity(16 * 10**9, 1), "planned in < 10 s and 1 GB"
    ),
]


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    table = Table("Scale: shuffles of float32 rows of 1 kB, planned and not run", markdown=arguments.markdown)
    for scenario in SCENARIOS:
        table.add(_lines(scenario))
        if arguments.profile:
            print(isolated(profile, scenario).value)


def _lines(scenario: Scenario) -> Iterator[Line]:
    outcome = isolated(planned, scenario, limit_s=120)
    if outcome.value is None:
        yield Line(scenario.name, outcome.error, target=scenario.target, peak_nbytes=outcome.peak_nbytes)
        return
    found: dict[str, Any] = outcome.value
    plan = found["plan"]
    yield Line(
        scenario.name,
        f"{plan.kind}, {plan.passes} passes: {plan.n_maps:,} + {plan.n_buckets:,} tasks of "
        f"{found['task']}, parts of {format_nbytes(plan.part_nbytes)}; reads {plan.read_nbytes / TB:,.0f} TB, "
        f"spills {plan.write_nbytes / TB:,.0f} TB; projected memory {format_nbytes(plan.projected_nbytes)}",
    )
    compact = found["compact"]
    yield Line(
        f"{scenario.name}: compact()",
        f"{compact.kind}, {compact.passes} passes, parts of {format_nbytes(compact.part_nbytes)}",
    )
    yield Line(
        f"{scenario.name}: planning",
        f"{in_seconds(found['seconds'])}: dask array {in_seconds(found['build'])}, cull of all {found['blocks']:,} "
        f"blocks {in_seconds(found['cull'])}, {found['tasks']:,} tasks ({format_nbytes(found['nbytes'])} pickled)",
        target=scenario.target,
        peak_nbytes=outcome.peak_nbytes,
    )


def paper_variable(
    name: str, n_rows: int, row_shape: tuple[int, ...], dtype: Any, directory: str, seed: int | None = 7
) -> Variable:
    """Return a variable of one stored array that nobody wrote, shuffled where a seed is given."""
    dtype = np.dtype(dtype)
    layout = plan_layout(row_nbytes(dtype, row_shape), n_rows)
    segments = parse_location(directory) / "bench" / "segments"
    array = StoredArray(segments / uuid.uuid4().hex, name, dtype, row_shape, n_rows, layout)
    order = Range(0, n_rows) if seed is None else permute(Range(0, n_rows), seed)
    return Variable(name, dtype, row_shape, (Piece(array, 0, n_rows),), order)


def planned(scenario: Scenario) -> dict[str, Any]:
    """Plan one scenario: the lazy array, then the tasks of a pass over all of it."""
    with tempfile.TemporaryDirectory(prefix="storegate-bench-") as directory:
        Path(directory, "bench").mkdir()
        start = time.perf_counter()
        variable = paper_variable("x", scenario.nbytes // 1024, ROW_SHAPE, np.float32, directory)
        rows = blocks_of([variable], scenario.capacity)
        array = to_dask(variable, rows, scenario.capacity)
        built = time.perf_counter()
        layer = array.dask.layers[array.name]
        assert isinstance(layer, RowsLayer)
        culled = dict(array.dask.cull(layer.get_output_keys()))
        ended = time.perf_counter()
        plan = layer.plan(range(len(rows)))
        some = dict(list(culled.items())[:: max(1, len(culled) // 1000)])
        return {
            "plan": plan,
            "compact": plan_rewrite(variable, variable.pieces[0].array.shard_rows, scenario.capacity),
            "task": format_nbytes(plan.map_rows * 1024),
            "seconds": ended - start,
            "build": built - start,
            "cull": ended - built,
            "blocks": len(rows),
            "tasks": len(culled),
            # each task as it is sent to a worker by itself; of a thousand of them, scaled up
            "nbytes": sum(len(pickle.dumps(task)) for task in some.values()) * len(culled) // len(some),
        }


def profile(scenario: Scenario) -> str:
    """Return where the planning time of a scenario goes."""
    profiler = cProfile.Profile()
    profiler.enable()
    planned(scenario)
    profiler.disable()
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("cumulative").print_stats(20)
    return text.getvalue()
