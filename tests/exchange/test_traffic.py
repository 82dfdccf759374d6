"""What an exchange reads and writes: what its plan says, to the byte; and of a header the wanted entry, no other."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.arrays import StoredArray
from storegate_engine.buffers import Workspace
from storegate_engine.errors import CorruptStoreError
from storegate_engine.exchange import bucket_sorts, open_exchange, plan_rows, plans, spill_files
from storegate_engine.exchange.sorts import BucketSort
from storegate_engine.holds import LOCK
from storegate_engine.orders import ArrayIndex
from tests.examples import in_turns


class Counted(io.FileIO):
    """A file whose reads are counted, by its name."""

    read_nbytes: ClassVar[dict[str, list[int]]] = {}

    def readinto(self, buffer):
        count = super().readinto(buffer)
        self.read_nbytes.setdefault(Path(os.fspath(self.name)).name, []).append(count)
        return count


@pytest.fixture
def reads(monkeypatch):
    """The bytes of every read of a spill file."""
    monkeypatch.setattr(Counted, "read_nbytes", {})

    def counting(path, mode, *, buffering, opener=None):
        assert buffering == 0
        return Counted(path, mode, opener=opener)

    monkeypatch.setattr(spill_files, "open", counting, raising=False)
    return Counted.read_nbytes


@pytest.fixture
def stored_nbytes(monkeypatch):
    """The bytes of the stored rows that are read, as often as they are."""
    found = []
    original = StoredArray.read_into

    def read_into(self, start, stop, out, **options):
        found.append((stop - start) * self.dtype.itemsize * int(np.prod(self.row_shape, dtype=int)))
        return original(self, start, stop, out, **options)

    monkeypatch.setattr(StoredArray, "read_into", read_into)
    return found


N_ROWS = 20_000


def shuffled(directory, kind):
    """Return a variable of 20,000 rows: as stored, narrower, wider, or some of them twice."""
    gate = StoreGate("zarr", {"output_dir": directory, "chunk": 100}, "a")
    rows = np.arange(N_ROWS) % 10 if kind == "wider" else np.random.default_rng(0).random((N_ROWS, 16), dtype="f4")
    gate.add_data("x", rows)
    gate.shuffle("train", seed=4)
    if kind == "narrower":
        gate.astype("x", "f2")
    elif kind == "wider":
        gate.onehot("x", 10)
    variable = gate.table["train"]["x"]
    if kind == "twice":
        variable = variable.selected(ArrayIndex(np.random.default_rng(1).integers(0, N_ROWS, N_ROWS + 500)))
    return variable


def spilled_nbytes(directory):
    return sum(path.stat().st_size for path in Path(directory).iterdir() if path.name != LOCK)


@pytest.mark.parametrize(
    ("kind", "size"), in_turns(["as stored", "narrower", "wider", "twice"], [(2**20, 3), (2**20, 2), (3 * 2**20, 2)])
)
def test_a_plan_reads_and_writes_what_it_says(tmp_path, reads, stored_nbytes, kind, size):
    budget_nbytes, passes = size
    variable = shuffled(tmp_path / "store", kind)
    sizes = {"in_order": False, "align": 100, "passes": passes, "force": "exchange"}
    plan = plan_rows(variable, len(variable), budget_nbytes, 2, **sizes)
    assert (plan.kind, plan.passes) == ("exchange", passes)
    assert plan.n_maps > 1 < plan.n_buckets
    stored_nbytes.clear()
    with open_exchange([variable], plan) as exchange:
        space = Workspace()
        rows = [np.array(rows) for at in range(plan.n_buckets) for rows in exchange.collect(at, [space])]
        assert spilled_nbytes(exchange.sorts[0].directory) == plan.write_nbytes
    assert sum(stored_nbytes) + sum(map(sum, reads.values())) == plan.read_nbytes
    np.testing.assert_array_equal(np.concatenate(rows), variable.read(0, len(variable)))


def sort_of(directory, kind="as stored"):
    """Return a sort into five buckets by four files, all of which are there."""
    variable = shuffled(directory / "store", kind)
    sort = BucketSort(variable, 5000, 4000, str(directory / "spill"), (0, 5))
    for number in range(sort.n_maps):
        bucket_sorts.scatter(sort, number, Workspace())
    return sort


@pytest.mark.parametrize("bucket", range(5))
def test_a_bucket_reads_one_entry_and_one_part_of_every_file(tmp_path, reads, bucket):
    sort = sort_of(tmp_path)
    reads.clear()
    rows = bucket_sorts.collect(sort, bucket, Workspace())
    assert sorted(reads) == [f"map-{number:06d}" for number in range(sort.n_maps)]
    assert all(of_file[0] == plans.ENTRY_NBYTES for of_file in reads.values())
    assert sum(map(sum, reads.values())) == sort.n_maps * plans.ENTRY_NBYTES + rows.nbytes


def test_a_header_of_many_parts_costs_a_bucket_no_more(tmp_path, reads):
    """Of a file of a thousand parts, too, a bucket reads one entry."""
    sort = replace(sort_of(tmp_path), bucket_rows=20, buckets=(0, 1000), prefix="many")
    bucket_sorts.scatter(sort, 0, Workspace())
    assert sort.map_path(0).stat().st_size == 8 + 1000 * 24 + 5000 * 64
    reads.clear()
    with sort.open_map(0, 777) as file:
        rows = np.empty((file.n_rows, 16), "f4")
        file.read(rows)
    assert sum(reads["many-000000"]) == plans.ENTRY_NBYTES + rows.nbytes


@pytest.mark.parametrize("at", range(plans.ENTRY_NBYTES))
def test_an_entry_with_any_byte_changed_is_refused_by_name(damaged, at):
    path = damaged.map_path(2)
    content = path.read_bytes()
    begin = plans.MAGIC_NBYTES + 3 * plans.ENTRY_NBYTES
    changed = bytearray(content)
    changed[begin + at] ^= 0x10
    path.write_bytes(changed)
    try:
        with pytest.raises(CorruptStoreError, match=r"map-000002 is not what was written: the entry of part 3 does"):
            bucket_sorts.collect(damaged, 3, Workspace())
        for bucket in (0, 1, 2, 4):  # whose entries stand for themselves
            bucket_sorts.collect(damaged, bucket, Workspace())
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return sort_of(tmp_path_factory.mktemp("damaged"))


def test_what_is_spilled_is_in_the_traffic_of_explain(tmp_path):
    """Beside the rows, an order with repeats spills who wants which."""
    once, twice = (shuffled(tmp_path / kind, kind) for kind in ("as stored", "twice"))
    plan, requesting = (
        plan_rows(variable, N_ROWS, 2**20, 2, in_order=False, bucket_rows=500, force="exchange")
        for variable in (once, twice)
    )
    requests = N_ROWS * plans.REQUEST_NBYTES + plan.n_maps * plan.n_buckets * plans.ENTRY_NBYTES
    assert requesting.read_nbytes - plan.read_nbytes == requests
    assert requesting.write_nbytes - plan.write_nbytes == requests + plan.n_buckets * plans.MAGIC_NBYTES
