"""The memory that streams take is what they say, whatever the order."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import dask
import numpy as np
import pytest

from storegate import StoreGate, errors
from storegate_engine import settings as settings_of
from storegate_engine.streams.epochs import keyed_permutation
from storegate_engine.streams.memory_loaders import MemoryLoader
from storegate_engine.streams.span_loaders import BlockLoader, RunLoader
from storegate_engine.streams.spilled import ExchangeLoader
from tests.examples import in_turns
from tests.processes import environment
from tests.replays import SOURCES, budget_of, exchanging

pytestmark = pytest.mark.usefixtures("scratch")


def test_a_buffer_that_does_not_fit_is_refused_with_the_remedy(stored):
    stored.add_data("x", np.zeros((1000, 1000), "f4"))
    with pytest.raises(errors.MemoryBudgetError, match=r"3 buffers of 64 blocks of 10 rows.*budget=.*buffer_blocks="):
        stored["train"]["x"].batches(600, shuffle="blocks", block_rows=10, buffer_blocks=64, budget="4MiB")
    with pytest.raises(errors.MemoryBudgetError, match="exchange for batches of 900 rows"):
        stored["train"]["x"].batches(900, budget="4MiB")
    with pytest.raises(errors.MemoryBudgetError, match="batches of 900 rows"):
        stored["train"]["x"].batches(900, shuffle=False, budget="4MiB")


def test_ranks_of_a_machine_share_the_default_limit_and_keep_one_that_is_configured(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(settings_of, "default_budget_nbytes", lambda: 2**30)
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(100))
    view = gate["train"]["x"]

    def limit(**options):
        return view.batches(10, **options).budget_nbytes

    with dask.config.set({"storegate.memory-limit": None}):
        assert limit() == 2**30
        assert limit(rank=1, world=4) == 2**28
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        assert limit(rank=1, world=4) == 2**29
        assert limit() == 2**30
        assert limit(rank=1, world=4, budget="64MiB") == 2**26
    with dask.config.set({"storegate.memory-limit": "128MiB"}):
        assert limit(rank=1, world=4) == 2**27
    own = StoreGate("numpy", {"budget": "32MiB"}, data_id="a")
    own.add_data("x", np.arange(100))
    assert own["train"]["x"].batches(10, world=4).budget_nbytes == 2**25


MEASURED = """
import gc, json, sys, time, warnings
from pathlib import Path
import numpy as np
from storegate import StoreGate
warnings.simplefilter("ignore")
arguments, shuffle, budget, n_rows, consumer, n_epochs, rank, world = sys.argv[1:]
shuffle, n_rows, rank, world = json.loads(shuffle), int(n_rows), int(rank), int(world)

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def blocks(n_rows):
    random = np.random.default_rng(0)
    for start in range(0, n_rows, 1000):
        yield random.integers(0, 2**30, (min(1000, n_rows - start), 1024), np.int32)

with StoreGate("zarr", json.loads(arguments), data_id="a") as gate:
    for phase, rows in (("valid", 300), ("train", n_rows)) if not gate.sizes else ():
        gate.add_data(["x", "y"], [blocks(rows), np.arange(rows)], phase=phase)
    if not n_epochs.strip("0"):
        sys.exit()  # another process, whose memory nobody has used, reads
    list(gate["valid"][["x", "y"]].batches(10, shuffle=shuffle))
    stream = gate["train"][["x", "y"]].batches(64 * world, shuffle=shuffle, budget=budget, rank=rank, world=world)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, peaks = status("VmRSS"), []
    for epoch in range(int(n_epochs)):
        seen = 0
        for x, y in stream:
            seen += len(y)
            if consumer == "slow" and stream.step % 16 == 0:
                end = time.perf_counter() + 0.02
                while time.perf_counter() < end:
                    pass
        assert abs(seen - n_rows / world) < 1
        peaks.append(status("VmHWM") - before)
    stream.close()
source = type(stream.loader).__name__
print(json.dumps({"projected": stream.projected_nbytes, "peaks": peaks, "source": source}))
"""


def measured(backend_args, shuffle, budget, n_rows, consumer, n_epochs):
    return measured_ranks(backend_args, shuffle, budget, n_rows, consumer, n_epochs, world=1)[0]


def measured_ranks(backend_args, shuffle, budget, n_rows, consumer, n_epochs, *, world):
    """Run all ranks at the same time, each in a process of its own, and return what each measured."""
    arguments = [json.dumps(backend_args), json.dumps(shuffle), budget, str(n_rows), consumer, str(n_epochs)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", MEASURED, *arguments, str(rank), str(world)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    found = []
    for process in running:
        printed, errors_of = process.communicate()
        assert process.returncode == 0, errors_of
        found.append(json.loads(printed) if n_epochs else {})
    return found


def local(tmp_path):
    return {"output_dir": str(tmp_path / "store")}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured on Linux")
@pytest.mark.parametrize(
    ("shuffle", "budget", "source", "consumer"),
    [
        (False, "128MiB", RunLoader, "fast"),
        (False, "128MiB", RunLoader, "slow"),
        ("blocks", "320MiB", BlockLoader, "slow"),
        (True, "512MiB", MemoryLoader, "fast"),
        (True, "96MiB", ExchangeLoader, "fast"),
        (True, "96MiB", ExchangeLoader, "slow"),
    ],
)
def test_the_peak_is_not_above_the_projection(tmp_path, consumer, shuffle, budget, source):
    found = measured(local(tmp_path), shuffle, budget, 64_000, consumer, 2)
    assert found["source"] == source.__name__
    assert max(found["peaks"]) <= found["projected"], {key: found[key] for key in ("peaks", "projected")}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured on Linux")
@pytest.mark.parametrize(
    ("shuffle", "budget", "source"),
    [(False, "200MiB", RunLoader), ("blocks", "512MiB", BlockLoader), (True, "200MiB", ExchangeLoader)],
)
def test_the_peak_from_an_object_store_is_not_above_the_projection(s3_args, shuffle, budget, source):
    measured(s3_args, shuffle, budget, 64_000, "fast", 0)
    found = measured(s3_args, shuffle, budget, 64_000, "fast", 2)
    assert found["source"] == source.__name__
    assert max(found["peaks"]) <= found["projected"], {key: found[key] for key in ("peaks", "projected")}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured on Linux")
@pytest.mark.parametrize(
    ("shuffle", "budget", "source"), [(False, "64MiB", RunLoader), (True, "64MiB", ExchangeLoader)]
)
def test_the_peaks_of_ranks_at_the_same_time_are_not_above_their_projections(tmp_path, shuffle, budget, source):
    measured(local(tmp_path), shuffle, budget, 64_000, "fast", 0)
    found = measured_ranks(local(tmp_path), shuffle, budget, 64_000, "fast", 2, world=3)
    for rank in found:
        assert rank["source"] == source.__name__
        assert max(rank["peaks"]) <= rank["projected"], {key: rank[key] for key in ("peaks", "projected")}
    assert sum(max(rank["peaks"]) for rank in found) <= 3 * 64 * 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured on Linux")
@pytest.mark.parametrize(("shuffle", "budget"), [(True, "64MiB"), ("blocks", "320MiB")])
def test_the_peak_of_twenty_epochs_is_not_above_the_projection(tmp_path, shuffle, budget):
    found = measured(local(tmp_path), shuffle, budget, 20_000, "fast", 20)
    assert found["peaks"][-1] <= found["projected"]


@pytest.mark.parametrize(("shuffle", "source"), in_turns([True, False, "blocks"], SOURCES, every=4, first=3))
@pytest.mark.filterwarnings("ignore:shuffle=.blocks.:UserWarning")
@pytest.mark.skipif("COVERAGE_RUN" in os.environ, reason="what coverage keeps would be counted")
def test_nothing_is_kept_from_epoch_to_epoch(opened, shuffle, source):
    options = {"label": "x", "block_rows": 50, "buffer_blocks": 4} if shuffle == "blocks" else {}
    with exchanging(source):
        stream = opened(1000, 50)["train"]["x"].batches(100, shuffle=shuffle, budget=budget_of(source), **options)
    levels = []
    tracemalloc.start()
    try:
        for _ in range(30):
            for _ in stream:
                pass
            gc.collect()
            levels.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        stream.close()
    # an epoch's rows are 8 kB, and so is its order: what is kept of each shows in the slope, which what an epoch has
    # begun of the next one does not
    slope = np.polyfit(np.arange(20), levels[10:], 1)[0]
    assert slope < 2000, levels


def test_many_variables_are_spilled_into_one_directory_an_epoch(stored, scratch):
    names = [f"v{number}" for number in range(120)]
    stored.add_data(names, [np.arange(3000.0) + number for number in range(120)])
    with exchanging("exchange"):
        stream = stored["train"][names].batches(100, seed=1, budget="16MiB")
    expected = keyed_permutation(3000, 1, 0)
    with stream:
        seen, n_directories = [], set()
        for batch in stream:
            seen.append([batch[0], batch[77] - 77])
            n_directories.add(len(list(scratch.iterdir())))
        assert n_directories == {2}, "one of this epoch, one of the next"
        for rows in np.concatenate(seen, axis=1):
            np.testing.assert_array_equal(rows, expected)
    assert not scratch.exists()
