"""Devices: batches for a GPU that is training, beside a DataLoader that pins, plain copies, and training alone."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import disk
from benchmarks.harness import Line, Table, Turns, compared, interleave, isolated
from storegate import StoreGate

WIDTH, BATCH = 2048, 4096
"""Values of a row, and rows of a step: 32 MiB."""
SHARE = 0.6
"""Time in which batches are read, in times of training: it can hide behind training, and copies beside it."""


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    n_steps = arguments.steps or (20 if arguments.quick else 100)
    repeat = arguments.repeat or (2 if arguments.quick else 5)
    table = Table(f"{n_steps} steps of {BATCH * WIDTH * 4 >> 20} MiB on {_device()}", markdown=arguments.markdown)
    with disk.workplace(arguments.directory) as at:
        table.add(_lines(at, n_steps, repeat))


def _device() -> str:
    if find_spec("torch") is None:
        raise SystemExit("this benchmark needs a CUDA device and PyTorch: python -m pip install torch")
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device, and PyTorch finds none")
    return str(torch.cuda.get_device_name())


def _lines(at: Path, n_steps: int, repeat: int) -> Iterator[Line]:
    outcome = isolated(training, str(at), n_steps, repeat)
    for case, target in CASES.items():
        yield compared(case, outcome, case, "training alone", target, "training on a batch that is there")


CASES = {
    "reading alone": "",
    "batch.to(device)": "",
    "DataLoader(pin_memory=True)": "",
    "StreamDataset(pin=True)": "",
    "StreamDataset(prefetch_to=...)": "≤ 1.1",
}


def training(directory: str, n_steps: int, repeat: int) -> Turns:
    """Steps of products of matrices that take somewhat longer than reading, with batches from storage."""
    import torch
    from torch.utils.data import DataLoader

    from storegate.adapters.torch import StreamDataset

    device = torch.device("cuda")
    weights = torch.rand(WIDTH, WIDTH, device=device)
    there = torch.rand(BATCH, WIDTH, device=device)
    n_products = 1

    def step(batch: Any) -> None:
        for _ in range(n_products):
            batch = torch.tanh(batch @ weights)

    def train(batches: Iterable[Any], *, wait: bool = True) -> None:
        for batch in batches:
            step(batch.to(device, non_blocking=not wait))
        torch.cuda.synchronize()

    path = Path(directory, f"rows-{n_steps}.zarr")
    with StoreGate("zarr", {"output_dir": path}, data_id="bench") as gate:
        if "x" not in gate.variables:
            gate.add_data("x", np.random.default_rng(0).standard_normal((n_steps * BATCH, WIDTH), dtype="f4"))
            gate.compile()
        view = gate["train"]["x"]

        def dataset(**options: Any) -> Any:
            return StreamDataset(view.batches(BATCH, shuffle="blocks", seed=1, epoch=1), **options)

        plain = dataset()
        reading, product = (
            _seconds(work) for work in (lambda: sum(len(batch) for batch in plain), lambda: step(there))
        )
        n_products = max(1, round(reading / SHARE / n_steps / product))
        pinning = DataLoader(dataset(), batch_size=None, pin_memory=True)
        pinned, sent = dataset(pin=True), dataset(prefetch_to=device)
        return interleave(
            {
                "training alone": lambda: train([there] * n_steps),
                "reading alone": lambda: sum(len(batch) for batch in plain),
                "batch.to(device)": lambda: train(plain),
                "DataLoader(pin_memory=True)": lambda: train(pinning, wait=False),
                "StreamDataset(pin=True)": lambda: train(pinned, wait=False),
                "StreamDataset(prefetch_to=...)": lambda: train(sent, wait=False),
            },
            repeat=repeat,
        )


def _seconds(work: Callable[[], object]) -> float:
    """Return the time of work, once it has run."""
    import torch

    took = []
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return statistics.median(took)
