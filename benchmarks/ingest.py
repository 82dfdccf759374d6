"""Ingest: what it costs to count smallest and largest values while rows are written; each dtype on each backend."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import disk
from benchmarks.harness import MIB, Line, Table, Turns, compared, interleave, isolated
from storegate import StoreGate
from storegate.types import Backend
from storegate_engine.arrays import Tally

DTYPES = (
    "u1",
    "i4",
    "i8",
    "u8",
    "b1",
    "M8[ns]",
    "f2",
    "f4",
    "f8",
    "f2 with NaN",
    "f4 with NaN",
    "f4 of zeros and more",
    "c8",
)
BACKENDS: tuple[Backend, ...] = ("numpy", "zarr")
TARGET = "≤ 1.10"


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    nbytes = (32 if arguments.quick else 256) * MIB
    repeat = arguments.repeat or (3 if arguments.quick else 15)
    wanted = arguments.only.split(",") if arguments.only else DTYPES
    table = Table(f"add_data of {nbytes // MIB} MiB that no codec can shorten", markdown=arguments.markdown)
    with disk.workplace(arguments.directory) as at:
        for backend in BACKENDS:
            table.add(_lines(at, backend, [dtype for dtype in DTYPES if dtype in wanted], nbytes, repeat))


def _lines(at: Path, backend: Backend, dtypes: list[str], nbytes: int, repeat: int) -> Iterator[Line]:
    for dtype in dtypes:
        outcome = isolated(ingest, str(at), backend, dtype, nbytes, repeat)
        yield compared(f"{dtype}, {backend}", outcome, "counted", "not counted", TARGET, "the same, not counted")


def rows_of(dtype: str, nbytes: int) -> np.ndarray[Any, Any]:
    """Return rows of 64 values: random bits for integers, normal numbers for floats."""
    rng = np.random.default_rng(0)
    kind, _, what = dtype.partition(" ")
    if kind[0] in "fc":
        parts = np.dtype(f"f{np.dtype(kind).itemsize // (2 if kind[0] == 'c' else 1)}")
        values = rng.standard_normal(nbytes // parts.itemsize, dtype="f4").astype(parts)
        if what == "with NaN":
            values[rng.random(len(values), dtype="f4") < 0.01] = np.nan
        elif what:
            np.maximum(values, 0, out=values)
        return values.view(kind).reshape(-1, 64)
    values = rng.integers(0, 256, nbytes, "u1")
    return (values & 1).view("b1").reshape(-1, 64) if kind == "b1" else values.view(kind).reshape(-1, 64)


def ingest(directory: str, backend: Backend, dtype: str, nbytes: int, repeat: int) -> Turns:
    """Add rows to new gates, in turns with and without counting."""
    rows = rows_of(dtype, nbytes)
    path = Path(directory, "store")

    def add(context: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
        with context(), StoreGate(backend, {"output_dir": path} if backend == "zarr" else None, "a") as gate:
            gate.add_data("x", rows)

    cases = {
        "not counted": partial(add, partial(mock.patch.object, Tally, "add", lambda self, values: None)),
        "counted": partial(add, contextlib.nullcontext),
    }
    return interleave(cases, repeat=repeat, before=lambda name: shutil.rmtree(path, ignore_errors=True), warm=True)
