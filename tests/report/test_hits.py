"""The report of 2.2 million rows of real data: soon there, small, and of one pass."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import h5py
import pytest
from km3net_testdata import data_path

from storegate import StoreGate
from storegate.demo import HITS, add_hits, prepare


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the system counts what a process reads on Linux alone")
def test_the_report_of_two_million_hits(tmp_path):
    def read_nbytes():
        return int(Path("/proc/self/io").read_text().split()[1])

    with StoreGate.open(tmp_path / "s", "hits", mode="w") as gate:
        with h5py.File(data_path(HITS)) as file:
            add_hits(gate, {name: column for name, column in file["hits"].items() if name != "_indices"})
        prepare(gate, ["tot", "channel_id"], label="triggered", num_classes=2)
        stored = sum(file.stat().st_size for file in (tmp_path / "s").rglob("*") if file.is_file())
        start, before = time.perf_counter(), read_nbytes()
        report = gate.report()
        report.save(tmp_path / "r.html")
        seconds, read = time.perf_counter() - start, read_nbytes() - before
    print(f"{len(report.facts.variables)} variables, {seconds:.1f} s, read {read:,} of {stored:,} bytes")
    assert sum(phase.n_rows for phase in report.facts.phases) > 2_200_000
    assert seconds < 30
    assert (tmp_path / "r.html").stat().st_size < 5 * 2**20
    assert read < 1.2 * stored + 16 * 2**20  # and libraries, and permutations
