"""Which way rows are read: the documented thresholds, what is said of them, and the graphs that follow."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate, explain
from storegate_engine.budget import reserved_nbytes
from storegate_engine.errors import MemoryBudgetError
from storegate_engine.exchange import plans
from storegate_engine.exchange.plans import Wanted, choose
from tests.exchanges import layer_of, scratch


class TestPlans:
    """The documented thresholds."""

    def rows(self, n_rows, **facts):
        return Wanted(n_rows, 1_000_000, 1000, **{"in_order": False, **facts})

    def plan(self, rows, **options):
        return choose(rows, **{"budget_nbytes": 160_000_000, "workers": 2, **options})

    def test_rows_in_order_or_in_memory_are_read(self):
        assert self.plan(self.rows(1_000_000, in_order=True)).kind == "read"
        assert self.plan(self.rows(1_000_000, random_access=True)).kind == "read"

    def test_three_tasks_of_rows_are_gathered_and_more_exchanged(self):
        fitting = plans.task_nbytes(160_000_000, 2) // (1000 + plans.ROW_OVERHEAD_NBYTES)
        assert self.plan(self.rows(3 * fitting)).kind == "gather"
        assert self.plan(self.rows(3 * fitting + 1)).kind == "exchange"

    def test_wide_rows_are_gathered(self):
        assert self.plan(Wanted(10_000, 10_000, 2**20, in_order=False), budget_nbytes=2**30).kind == "gather"

    @pytest.mark.parametrize(("n_rows", "n_buckets"), [(0, 1), (1, 1), (900, 3), (901, 4)])
    def test_a_gather_plans_its_tasks_memory_and_reads(self, n_rows, n_buckets):
        budget = 160_000_000
        for n_stored, copies in ((1000, plans.COPIES), (10**6, 4)):
            rows = Wanted(n_rows, n_stored, 1000, in_order=False, chunk_nbytes=3000)
            plan = self.plan(rows, force="gather", bucket_rows=300, copies=copies)
            assert (plan.n_maps, plan.n_buckets, plan.bucket_rows) == (0, n_buckets, max(1, min(300, n_rows)))
            assert (plan.map_rows, plan.workers) == (n_stored, 2)
            assert plan.read_nbytes == n_buckets * min(n_stored * 1000, n_rows * 2**18)
            assert plan.write_nbytes == 0
            at_once = min(2, n_buckets)
            nbytes = copies * plan.bucket_rows * (1000 + plans.ROW_OVERHEAD_NBYTES)
            assert plan.projected_nbytes == reserved_nbytes(budget) + int(at_once * nbytes) + at_once * 6000

    @pytest.mark.parametrize(
        ("n_rows", "bucket_rows", "n_buckets"), [(0, None, 1), (0, 5, 1), (1, 300, 1), (10, 1, 10), (901, 300, 4)]
    )
    def test_a_read_plans_its_tasks_memory_and_reads(self, n_rows, bucket_rows, n_buckets):
        budget = 160_000_000
        rows = Wanted(n_rows, 10**6, 1000, in_order=True, chunk_nbytes=3000)
        plan = self.plan(rows, bucket_rows=bucket_rows)
        held = min(bucket_rows or 1, n_rows)
        projected = reserved_nbytes(budget) + int(min(2, n_buckets) * (plans.COPIES * held * 1000 + 6000))
        assert plan == plans.Plan("read", 10**6, bucket_rows or 1, 0, n_buckets, n_rows * 1000, 0, projected, 2)

    def test_a_read_that_cannot_fit_names_its_rows_and_the_remedy(self):
        rows = Wanted(1000, 1000, 2**20, in_order=True)
        with pytest.raises(MemoryBudgetError, match=r"reading 300 rows of 1\.0 MiB .*raise storegate\.memory-limit"):
            self.plan(rows, bucket_rows=300)

    @pytest.mark.parametrize(
        ("row_nbytes", "n_rows", "coarse"),
        [(4000, 10**6, 26), (400, 10**8, 25), (40, 10**9, 4), (8, 10**6, 2), (4, 10**9, 1)],
    )
    def test_a_third_pass_sorts_as_many_buckets_as_the_second_or_as_memory_allows(self, row_nbytes, n_rows, coarse):
        rows = Wanted(n_rows, n_rows, row_nbytes, in_order=False)
        two, three = (self.plan(rows, budget_nbytes=64_000_000, passes=passes) for passes in (2, 3))
        index = 2 * two.bucket_rows * plans.ROW_OVERHEAD_NBYTES
        assert two.part_nbytes < plans.MIN_PART_NBYTES
        assert three.coarse == coarse == min(math.isqrt(two.n_buckets), (64_000_000 - two.projected_nbytes) // index)
        if coarse == 1:
            assert three == two
            return
        assert three.projected_nbytes == two.projected_nbytes + coarse * index
        assert three.part_nbytes == two.part_nbytes * coarse
        n_coarse = -(-two.n_buckets // coarse)
        n_fine = -(-two.n_maps // n_coarse)
        more = n_rows * row_nbytes + (two.n_maps * n_coarse + n_fine * two.n_buckets) * plans.ENTRY_NBYTES
        less = two.n_maps * two.n_buckets * plans.ENTRY_NBYTES
        assert three.read_nbytes == two.read_nbytes + more - less
        assert three.write_nbytes == two.write_nbytes + more - less + n_coarse * n_fine * plans.MAGIC_NBYTES
        same = ("kind", "map_rows", "bucket_rows", "n_maps", "n_buckets", "workers")
        assert [getattr(three, name) for name in same] == [getattr(two, name) for name in same]

    @pytest.mark.parametrize("copies", [plans.COPIES, 4])
    @pytest.mark.parametrize("bucket_rows", [None, 3000])
    def test_an_exchange_plans_its_tasks_and_memory(self, bucket_rows, copies):
        budget, align, most = 160_000_000, 128, 1000 + plans.ROW_OVERHEAD_NBYTES
        rows = self.rows(300_000, chunk_nbytes=3000)
        plan = self.plan(rows, force="exchange", align=align, bucket_rows=bucket_rows, copies=copies)
        fitting = plans.task_nbytes(budget, 2, copies) // most
        assert plan.bucket_rows == (bucket_rows or fitting // align * align)
        assert plan.map_rows == fitting // align * align
        assert (plan.n_maps, plan.n_buckets) == (-(-(10**6) // plan.map_rows), -(-300_000 // plan.bucket_rows))
        assert plan.part_nbytes == plan.map_rows * 1000 // plan.n_buckets
        held = int(2 * copies * max(plan.map_rows, plan.bucket_rows) * most)
        assert plan.projected_nbytes == reserved_nbytes(budget) + held + 2 * 2 * align * 1000 + 2 * 6000

    @pytest.mark.parametrize(
        ("n_rows", "row_nbytes", "facts", "options", "map_rows", "bucket_rows"),
        [
            (10**6, 1000, {}, {}, 67_108, 67_108),
            (10**6, 1000, {"chunk_rows": 64}, {"align": 100}, 65_600, 67_100),  # of 1600 rows, and of 100
            (10**6, 1000, {"chunk_rows": 64}, {"align": 60_001}, 67_072, 60_001),  # of 64 rows
            (10**6, 1000, {"chunk_rows": 100_000}, {}, 67_108, 67_108),
            (10**6, 1000, {"spill_row_nbytes": 500}, {}, 134_217, 67_108),
            (10**6, 500, {"spill_row_nbytes": 1000}, {}, 67_108, 67_108),
            (10**6, 10**6, {"spill_row_nbytes": 1000}, {}, 67_108, 67),
            (10**6, 10**6, {"spill_row_nbytes": 1000}, {"budget_nbytes": 160_000_000}, 15_564, 16),
            (10**4, 10**5, {}, {"align": 700}, 671, 700),
            (10**6, 10**5, {}, {"align": 700}, 700, 700),
            (10**8, 1000, {}, {"budget_nbytes": 10**10}, 323_817, 323_817),  # parts of 1 MiB
            (100, 1000, {"spill_row_nbytes": 10**8}, {}, 1, 1),
        ],
    )
    def test_tasks_of_an_exchange_have_64_mib_of_whole_chunks_and_shards(
        self, n_rows, row_nbytes, facts, options, map_rows, bucket_rows
    ):
        rows = Wanted(n_rows, n_rows, row_nbytes, in_order=False, **facts)
        plan = self.plan(rows, **{"force": "exchange", "budget_nbytes": 10**9, **options})
        assert (plan.map_rows, plan.bucket_rows) == (map_rows, bucket_rows)
        assert type(plan.map_rows) is type(plan.bucket_rows) is int
        spilled, align = facts.get("spill_row_nbytes", row_nbytes), options.get("align", 1)
        held = max(
            map_rows * (spilled + plans.ROW_OVERHEAD_NBYTES), bucket_rows * (row_nbytes + plans.ROW_OVERHEAD_NBYTES)
        )
        assert plan.n_maps > 1 < plan.n_buckets
        assert plan.part_nbytes == map_rows * spilled // plan.n_buckets
        reserved = reserved_nbytes(options.get("budget_nbytes", 10**9))
        assert plan.projected_nbytes == reserved + int(2 * plans.COPIES * held) + 2 * 2 * align * row_nbytes

    @pytest.mark.parametrize(("bucket_rows", "is_short"), [(4096, False), (4095, True)])
    def test_a_third_pass_is_planned_where_parts_are_shorter_than_the_least(self, bucket_rows, is_short):
        rows = Wanted(2**20, 2**20, 1024, in_order=False)
        plan = self.plan(rows, force="exchange", bucket_rows=bucket_rows, passes=3, budget_nbytes=2**30)
        assert plan.map_rows * 1024 == plans.TASK_NBYTES == 256 * plans.MIN_PART_NBYTES
        assert (plan.passes == 3) == is_short

    @pytest.mark.parametrize(
        ("row_nbytes", "facts", "options", "bucket_rows"),
        [
            (1000, {}, {}, 16_777),
            (1000, {"chunk_rows": 100}, {}, 16_700),
            (1000, {"chunk_rows": 16_778}, {}, 16_777),
            (1000, {}, {"align": 64}, 16_768),
            (1000, {"chunk_rows": 100}, {"align": 64}, 16_640),
            (1000, {}, {"align": 20_000}, 20_000),
            (1000, {}, {"budget_nbytes": 160_000_000}, 7_869),
            (1000, {}, {"budget_nbytes": 160_000_000, "copies": 5}, 3_934),
            (2**25, {}, {}, 1),
        ],
    )
    def test_a_read_has_blocks_of_16_mib_or_of_half_of_what_fits(self, row_nbytes, facts, options, bucket_rows):
        rows = Wanted(10**6, 10**6, row_nbytes, in_order=True, **facts)
        found = self.plan(rows, **{"budget_nbytes": 10**9, **options}).bucket_rows
        assert (found, type(found)) == (bucket_rows, int)

    @pytest.mark.parametrize(("workers", "copies"), [(0, 2.5), (1, 2.5), (2, 2.5), (3, 1.0)])
    def test_a_task_holds_its_share_of_the_budget(self, workers, copies):
        limit = int(0.6 * (10**9 - reserved_nbytes(10**9)) / max(1, workers) / copies)
        assert plans.task_nbytes(10**9, workers, copies) == limit
        for row_nbytes, n_stored, most in (
            (1000, 10**5, limit // 1028),
            (1000, 10**8, limit // 1028),
            (10**9, 10**5, 1),
        ):
            least = min(most, 2**18 * n_stored // limit)
            assert plans.permuted_rows(row_nbytes, n_stored, 10**9, workers, copies) == (least, most)
        assert plans.task_nbytes(1, workers, copies) == 1

    def test_a_gather_that_cannot_fit_names_its_rows_and_the_remedy(self):
        with pytest.raises(MemoryBudgetError, match=r"gathering 300 rows .*raise storegate\.memory-limit"):
            self.plan(self.rows(1000), force="gather", bucket_rows=300, budget_nbytes=700_000)

    def test_a_plan_can_be_forced(self):
        assert self.plan(self.rows(1_000_000), force="gather", bucket_rows=100).kind == "gather"
        assert self.plan(self.rows(10), force="exchange").kind == "exchange"
        with pytest.raises(ValueError, match="auto"):
            self.plan(self.rows(10), force="sort")

    def test_a_plan_says_what_it_spills_if_it_does(self):
        read, exchange = (self.plan(self.rows(1000), force=force) for force in ("gather", "exchange"))
        assert re.fullmatch(
            r"gather: \d+ tasks, reads [\d.]+ [KMGT]?i?B, projected memory [\d.]+ [KMGT]iB", read.describe()
        )
        assert re.fullmatch(
            r"exchange: .*, spill [\d.]+ [KMGT]iB, projected memory [\d.]+ [KMGT]iB", exchange.describe()
        )

    def test_a_plan_that_cannot_fit_is_refused(self):
        with pytest.raises(
            MemoryBudgetError, match=r"an exchange of 16384 rows per task .*raise storegate\.memory-limit"
        ):
            self.plan(self.rows(1_000_000), budget_nbytes=10_000_000, align=16_384)

    def test_every_plan_stays_below_the_limit(self):
        for budget in (10**7, 10**8, 10**9):
            for n_rows in (10, 10**5, 10**6):
                assert self.plan(self.rows(n_rows), budget_nbytes=budget).projected_nbytes <= budget

    def test_refusal_comes_before_any_byte_is_written(self, tmp_path):
        gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 20_000}, "a")
        gate.add_data("x", np.random.default_rng(0).random((200_000, 4)), shuffle=1)
        tight = StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "1MiB"}, "a")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(MemoryBudgetError):
            tight.compact()
        with pytest.raises(MemoryBudgetError):
            tight["train"]["x"].data.compute()
        assert sorted(tmp_path.rglob("*")) == before


class TestExplain:
    def test_a_shuffled_table(self, shuffled, counted_reads):
        gate, _, _ = shuffled
        for told in (explain(gate["train"].to_xarray()), gate["train"].explain(), explain(gate["train"]["x"])):
            full, peek = (line for line in told.splitlines() if line.startswith("x"))
            assert "exchange" in full
            assert "spill 1.2 MiB" in full
            assert "gather" in peek
        assert counted_reads == []

    def test_a_table_in_order(self, stored):
        stored.add_data("x", np.zeros(10))
        assert explain(stored["train"]).count("read: 1 tasks, reads 80 B") == 2


class TestGraphs:
    def test_a_peek_of_a_shuffled_table_is_one_gather(self, shuffled, counted_reads):
        gate, expected, _ = shuffled
        peek = gate["train"].to_xarray()["x"].isel(sample=slice(0, 256))
        assert counted_reads == []
        np.testing.assert_array_equal(peek.compute(scheduler="sync"), expected[:256])
        assert len(counted_reads) == 1
        assert scratch(gate.repository().location.path) == []

    def test_an_exchange_has_no_edge_between_every_two_tasks(self, shuffled):
        gate, _, _ = shuffled
        lazy = gate["train"]["x"].data
        graph = dict(lazy.dask)
        edges = sum(len(task.dependencies) for task in graph.values())
        plan = layer_of(lazy).plan(range(lazy.numblocks[0]))
        assert len(graph) == plan.n_maps + plan.n_buckets + 1
        assert edges == plan.n_maps + plan.n_buckets

    def test_a_task_is_small(self, shuffled):
        import pickle

        gate, _, _ = shuffled
        for task in dict(gate["train"]["x"].data.dask).values():
            assert len(pickle.dumps(task)) < 8192

    def test_only_wanted_buckets_are_spilled(self, shuffled):
        gate, expected, _ = shuffled
        half = gate["train"]["x"].data[:10_000]
        np.testing.assert_array_equal(half.compute(), expected[:10_000])
        spilled = sum(path.stat().st_size for path in Path(gate.repository().location.path).rglob("scratch/*/map-*"))
        assert 10_000 * 64 <= spilled < 12_500 * 64
