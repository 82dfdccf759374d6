"""The exact shuffle of more rows than the budget: equality with numpy, plans, spill files and their faults."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import dask
import flox.xarray
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storegate import StoreGate, explain
from storegate_engine import holds, testing
from storegate_engine import scratch as spill
from storegate_engine.buffers import Workspace
from storegate_engine.errors import CorruptStoreError, LabelError, MemoryBudgetError, SpillError
from storegate_engine.exchange import Exchange, bucket_sorts, driver, open_exchange, passes, plans, spill_files
from storegate_engine.exchange.bucket_sorts import BucketSort
from storegate_engine.exchange.plans import Wanted, choose
from storegate_engine.orders import ArrayIndex, Range, Take, cut, permute
from storegate_engine.store import rewriting as rewrite
from storegate_engine.store.rewriting import plan_rewrite
from storegate_engine.table import Variable
from tests.store.test_storage import environment


def layer_of(array):
    return next(layer for layer in array.dask.layers.values() if hasattr(layer, "plan"))


def kind_of(array):
    layer = layer_of(array)
    return layer.plan(range(array.numblocks[0])).kind


def exchange_of(gate):
    array = gate["train"]["x"].data
    return layer_of(array).plan(range(array.numblocks[0]))


def collected(sort, bucket):
    return bucket_sorts.collect(sort, bucket, Workspace())


def scratch(store):
    return list(Path(store).rglob("scratch/*"))


@pytest.fixture
def shuffled(tmp_path):
    """20,000 shuffled rows under a budget of 1 MiB: a full pass is an exchange."""
    rows = np.random.default_rng(0).random((20_000, 16), dtype="f4")
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "1MiB", "chunk": 100}, "test_id")
    gate.add_data(["x", "y"], [rows, np.arange(20_000)], shuffle=3)
    gate.shuffle(seed=4)
    order = np.random.RandomState(3).permutation(20_000)[np.random.RandomState(4).permutation(20_000)]
    return gate, rows[order], order


class TestEqualsNumpy:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_any_rows_chunks_budgets_edits_and_plans(self, data, tmp_path_factory):
        n_rows = data.draw(st.integers(2, 3000), "rows")
        x = data.draw(testing.arrays(n_rows, row_shape=data.draw(st.sampled_from([(), (3,), (2, 2)]))), "values")
        chunk = data.draw(st.sampled_from([1, 7, 64, 1000]), "chunk")
        directory = tmp_path_factory.mktemp("store")
        gate = StoreGate("zarr", {"output_dir": directory, "chunk": chunk}, "a")
        gate.add_data("x", x)
        expected = x
        for edit in data.draw(st.lists(st.sampled_from(["shuffle", "append", "update", "split"]), max_size=4), "edits"):
            if edit == "shuffle":
                gate.shuffle("train", seed=5)
                expected = expected[np.random.RandomState(5).permutation(len(expected))]
            elif edit == "append":
                gate.add_data("x", x[:10], shuffle=2)
                expected = np.concatenate([expected, x[:10][np.random.RandomState(2).permutation(len(x[:10]))]])
            elif edit == "update":
                gate.update_data("x", x[:2], index=[len(expected) - 1, 0])
                expected = expected.copy()
                expected[[-1, 0]] = x[:2]
            else:
                gate.add_data("x", x, phase=(0.6, 0.2, 0.2), shuffle=9)
                expected = np.concatenate(
                    [expected, x[np.random.RandomState(9).permutation(n_rows)][: int(n_rows * 0.6)]]
                )
        budget = data.draw(st.sampled_from(["200KiB", "1MiB", "64MiB"]), "budget")
        scheduler = data.draw(st.sampled_from(["sync", "threads"]), "scheduler")
        plan = data.draw(st.sampled_from(["auto", "gather", "exchange"]), "plan")
        tight = StoreGate("zarr", {"output_dir": directory, "budget": budget}, "a")
        lo, hi = sorted((data.draw(st.integers(0, len(expected))), data.draw(st.integers(0, len(expected)))))
        with dask.config.set({"storegate.shuffle": plan}):
            try:
                lazy = tight["train"]["x"].data
                np.testing.assert_array_equal(lazy.compute(scheduler=scheduler), expected)
                np.testing.assert_array_equal(lazy[lo:hi].compute(scheduler=scheduler), expected[lo:hi])
                tight.compact("train")
            except MemoryBudgetError:
                return
        np.testing.assert_array_equal(tight.get_data("x"), expected)
        assert tight.table["train"]["x"].order.runs(0, len(expected)) == [(0, len(expected))]

    def test_buckets_are_whole_shards_where_stored_chunks_are_longer(self, tmp_path):
        x = np.arange(139) % 7 == 0
        gate = StoreGate("zarr", {"output_dir": tmp_path, "chunk": 1000}, "a")
        gate.add_data("x", x[:129])
        gate.add_data("x", x[129:])
        gate.shuffle("train", seed=5)
        with dask.config.set({"storegate.shuffle": "exchange", "storegate.memory-limit": "200KiB"}):
            StoreGate("zarr", {"output_dir": tmp_path}, "a").compact("train")
        np.testing.assert_array_equal(gate.get_data("x"), x[np.random.RandomState(5).permutation(139)])

    def test_lazy_rows_go_into_another_store_by_one_exchange(self, shuffled, tmp_path, counted_reads):
        gate, expected, _ = shuffled
        with StoreGate("zarr", {"output_dir": tmp_path / "other", "budget": "1MiB"}, "test_id") as other:
            other.add_data("x", 2 * gate.get_data("x", compute=False))
            assert "take_into" not in counted_reads, "no block was gathered by itself"
            assert counted_reads.count("read_into") == exchange_of(gate).n_maps
            np.testing.assert_array_equal(other.get_data("x"), 2 * expected)
        assert gate["train"]["x"].data.numblocks[0] > 3

    @pytest.mark.parametrize("form", ["dask", "DataArray"])
    def test_untouched_lazy_rows_go_into_another_store_as_compact_writes_them(
        self, shuffled, tmp_path, counted_reads, form
    ):
        gate, expected, order = shuffled
        gate.astype("x", "float16")
        lazy = gate.get_data(["x", "y"], compute=False)
        if form == "DataArray":
            lazy = [gate["train"].to_xarray()[name] for name in ("x", "y")]
        with StoreGate("zarr", {"output_dir": tmp_path / "other", "budget": "1MiB", "chunk": 100}, "test_id") as other:
            other.add_data(["x", "y"], [expected[:100], np.arange(100)])
            computed = []
            with dask.callbacks.Callback(pretask=lambda key, *_: computed.append(key)):
                other.add_data(["x", "y"], lazy)
                reads = counted_reads.copy()
                other.add_data("again", lazy[0], phase="valid")
                other.update_data("again", lazy[0], phase="valid")
            assert computed == [], "not by dask"
            cast = expected.astype("f2")
            np.testing.assert_array_equal(other.get_data("x"), np.concatenate([expected[:100], cast]))
            np.testing.assert_array_equal(other.get_data("y"), np.concatenate([np.arange(100), order]))
            np.testing.assert_array_equal(other.get_data("again", phase="valid"), cast)
        counted_reads.clear()
        gate.compact()
        assert sorted(reads) == sorted(counted_reads)
        assert scratch(tmp_path) == []

    @pytest.mark.parametrize("plan", ["gather", "exchange"])
    def test_only_what_compact_replaces_leaves_the_page_cache(self, shuffled, tmp_path, monkeypatch, plan):
        gate, expected, _ = shuffled
        dropped = []
        monkeypatch.setattr(Variable, "drop", lambda self, lo, hi: dropped.append((lo, hi)))
        with dask.config.set({"storegate.shuffle": plan, "storegate.memory-limit": "4MiB"}):
            other = StoreGate("zarr", {"output_dir": tmp_path / "other", "budget": "4MiB"}, "test_id")
            other.add_data("x", gate.get_data("x", compute=False))
            gate.fingerprint("x")
            assert dropped == []
            StoreGate("zarr", {"output_dir": tmp_path / "other", "budget": "4MiB"}, "test_id").shuffle("train", seed=1)
            other.compact()
        assert dropped
        reshuffled = expected[np.random.RandomState(1).permutation(len(expected))]
        np.testing.assert_array_equal(other.get_data("x"), reshuffled)

    def test_a_refused_rewrite_reads_nothing_of_its_neighbours(self, shuffled, tmp_path):
        gate, _, _ = shuffled
        blocks = iter([np.arange(10_000), np.arange(10_000)])
        with (
            StoreGate("zarr", {"output_dir": tmp_path / "other", "budget": "1MB", "chunk": 5000}, "test_id") as other,
            dask.config.set({"storegate.shuffle": "exchange"}),
        ):
            with pytest.raises(MemoryBudgetError):
                other.add_data(["new", "x"], [blocks, gate.get_data("x", compute=False)])
            assert other.get_var_names() == []
        assert len(list(blocks)) == 1, "the first block tells what it is"

    def test_variable_length_text_is_written_lazily_and_by_compact(self, tmp_path):
        text = np.array(["a", "bcd", "", "e" * 50] * 25, dtype=np.dtypes.StringDType())
        gate = StoreGate("zarr", {"output_dir": tmp_path / "store"}, "test_id")
        gate.add_data("t", text, shuffle=3)
        expected = text[np.random.RandomState(3).permutation(100)]
        other = StoreGate("zarr", {"output_dir": tmp_path / "other"}, "test_id")
        other.add_data("t", gate.get_data("t", compute=False))
        gate.compact()
        for written in (gate, other):
            np.testing.assert_array_equal(written.get_data("t"), expected)
        other.add_data("u", gate.get_data("t", compute=False))
        gate.compact()
        for found in (gate.get_data("t"), other.get_data("u")):
            np.testing.assert_array_equal(found, expected)

    def test_shuffled_and_cast_rows_go_to_memory_by_one_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr("storegate_engine.table.pieces.WINDOW_NBYTES", 2**14)
        rows = np.random.default_rng(0).random((5000, 8))
        labels = np.arange(5000) % 9
        gate = StoreGate("hybrid", {"output_dir": tmp_path}, "a")
        gate.add_data(["x", "y"], [rows, labels], do_compile=True)
        gate.shuffle("train", seed=3)
        gate.astype("x", "f4")
        gate.onehot("y", 9)
        gate.to_memory(["x", "y"])
        gate.set_mode("numpy")
        order = np.random.RandomState(3).permutation(5000)
        np.testing.assert_array_equal(gate.get_data("x"), rows[order].astype("f4"))
        np.testing.assert_array_equal(gate.get_data("y"), np.identity(9)[labels[order]])

    def test_the_first_bad_label_in_logical_order_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr("storegate_engine.table.pieces.WINDOW_NBYTES", 2**10)
        labels = np.zeros(5000, int)
        labels[[4000, 70, 2000]] = 5
        gate = StoreGate("zarr", {"output_dir": tmp_path}, "a")
        gate.add_data("y", labels, shuffle=3)
        gate.onehot("y", 3)
        first = int(np.flatnonzero(labels[np.random.RandomState(3).permutation(5000)])[0])
        with pytest.raises(LabelError, match=f"variable 'y', row {first}:"):
            gate.get_data("y")

    @pytest.mark.parametrize("kind", ["permuted", "repeated", "sliced"])
    @pytest.mark.parametrize("num_classes", [7, 1])
    def test_the_logical_row_of_a_bad_label_is_named_by_every_task(self, tmp_path, kind, num_classes):
        """Seven classes are made after the spill, one class before it, being narrower than the labels."""
        labels = np.zeros(3000, int)
        labels[[2500, 1777]] = 9
        order = permute(Range(0, 3000), 4)
        if kind == "repeated":
            order = Take(order, ArrayIndex(np.random.default_rng(1).integers(0, 3000, 4000)))
        elif kind == "sliced":
            order = cut(order, 100, 2900)
        stored = order.rows(0, len(order))
        bad = np.flatnonzero(labels[stored])
        assert bad.size
        with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 50}, "a") as gate:
            gate.add_data("y", labels)
            gate.onehot("y", num_classes)
            variable = replace(gate.table["train"]["y"], order=order)
        n_buckets = -(-len(order) // 700)
        plan = BucketSort(variable, 500, 700, str(tmp_path / "spill"), (0, n_buckets))
        assert plan.transforms_last == (num_classes == 7)
        if kind == "repeated":
            for number in range(n_buckets):
                bucket_sorts.request(plan, number)
        named = []
        for task, count in ((bucket_sorts.scatter, plan.n_maps), (bucket_sorts.collect, n_buckets)):
            for number in range(count):
                try:
                    task(plan, number, Workspace())
                except LabelError as err:
                    named.append(err.row)
                except CorruptStoreError:
                    assert num_classes == 1  # what was refused is not there
        assert named
        assert set(named) <= set(bad.tolist())

    def test_a_bad_label_in_a_row_that_nobody_wants_is_no_error(self, tmp_path):
        labels = np.zeros(3000, int)
        labels[1777] = 9
        order = Take(Range(0, 3000), ArrayIndex(np.delete(np.arange(3000), 1777)[::-1].copy()))
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, "a") as gate:
            gate.add_data("y", labels)
            gate.onehot("y", 1)
            variable = replace(gate.table["train"]["y"], order=order)
        plan = BucketSort(variable, 500, 3000, str(tmp_path / "spill"), (0, 1))
        bucket_sorts.request(plan, 0)
        for number in range(plan.n_maps):
            bucket_sorts.scatter(plan, number, Workspace())
        np.testing.assert_array_equal(collected(plan, 0), np.ones((2999, 1)))

    @pytest.mark.parametrize("kind", ["permuted", "repeated", "sliced"])
    @pytest.mark.parametrize("coarse", [2, 3, 7, 100])
    def test_three_passes_whatever_their_sizes(self, tmp_path, kind, coarse):
        rng = np.random.default_rng(coarse)
        rows = rng.random((3000, 3))
        order = permute(Range(0, 3000), 4)
        if kind == "repeated":
            order = Take(order, ArrayIndex(rng.integers(0, 3000, 2000)))
        elif kind == "sliced":
            order = cut(order, 700, 2900)
        with StoreGate("zarr", {"output_dir": tmp_path, "chunk": 50}, "a") as gate:
            gate.add_data("x", rows)
            variable = replace(gate.table["train"]["x"], order=order)
            plan = choose(
                Wanted(len(order), 3000, 24, in_order=False), budget_nbytes=10**6, workers=2, align=50, force="exchange"
            )
            plan = replace(plan, map_rows=250, bucket_rows=100, n_maps=12, n_buckets=-(-len(order) // 100))
            several = Exchange.of([variable], [str(tmp_path / "spill")], map_rows=[250], bucket_rows=100, coarse=coarse)
            passes.run_steps(several, 2)
            passes.run_steps(several, 2)  # everything is there
            spaces = [Workspace()]
            found = [rows.copy() for at in range(plan.n_buckets) for rows in several.collect(at, spaces)]
            np.testing.assert_array_equal(np.concatenate(found), rows[order.rows(0, len(order))])

    def test_short_parts_make_compact_take_three_passes(self, shuffled):
        gate, expected, order = shuffled
        plan = plan_rewrite(gate.table["train"]["x"], 100, gate.capacity)
        assert (plan.kind, plan.passes) == ("exchange", 3)
        assert plan.projected_nbytes <= gate.budget_nbytes
        gate.compact()
        np.testing.assert_array_equal(gate.get_data("x"), expected)
        np.testing.assert_array_equal(gate.get_data("y"), order)

    def test_rows_that_fit_are_read_once(self, tmp_path, monkeypatch):
        monkeypatch.setattr("storegate_engine.budget.SHARD_NBYTES", 2**14)
        rows = np.random.default_rng(0).random((5050, 8))
        gate = StoreGate("zarr", {"output_dir": tmp_path, "chunk": 50}, "a")
        gate.add_data("x", rows)
        gate.shuffle("train", seed=3)
        array = gate.table["train"]["x"].pieces[0].array
        assert 5050 % array.layout.shard_rows, "the last shard is a part of one"
        read = []
        original = type(array).read_into
        monkeypatch.setattr(
            type(array), "read_into", lambda self, *a, **k: read.append(a[1] - a[0]) or original(self, *a, **k)
        )
        gate.compact()
        assert sum(read) == 5050
        np.testing.assert_array_equal(gate.get_data("x"), rows[np.random.RandomState(3).permutation(5050)])

    @settings(max_examples=50, deadline=None)
    @given(data=st.data())
    def test_rows_are_put_in_ascending_order(self, data):
        n_stored = data.draw(st.integers(1, 200))
        rows = np.array(data.draw(st.lists(st.integers(0, n_stored - 1), max_size=300)), np.int64)
        ascending, places = rewrite._ascending(rows, n_stored)
        np.testing.assert_array_equal(ascending, np.sort(rows))
        np.testing.assert_array_equal(rows[places], ascending)
        np.testing.assert_array_equal(np.sort(places), np.arange(len(rows)))

    def test_variables_of_one_order_and_width_share_their_places(self, tmp_path, monkeypatch):
        rows = np.random.default_rng(0).random((4, 20_000))
        args = {"output_dir": tmp_path, "budget": "1MiB", "chunk": 100}
        gate = StoreGate("zarr", args, "a")
        gate.add_data(["a", "b", "c", "wide"], [*rows[:3], np.tile(rows[3][:, None], (1, 30))])
        gate.shuffle("train", seed=4)
        found = []
        original = driver.ranks
        monkeypatch.setattr(driver, "ranks", lambda *a: found.append(a[1]) or original(*a))
        with dask.config.set({"storegate.shuffle": "exchange"}):
            gate.compact()
        assert found.count(0) == 2, "once for a, b and c; once for the wider rows"
        order = np.random.RandomState(4).permutation(20_000)
        for name, column in zip("abc", rows, strict=False):
            np.testing.assert_array_equal(gate.get_data(name), column[order])

    @pytest.mark.parametrize("scheduler", ["sync", "threads"])
    def test_a_full_pass_a_slice_and_a_reduction(self, shuffled, scheduler):
        gate, expected, order = shuffled
        dataset = gate["train"].to_xarray()
        assert kind_of(dataset["x"].data) == "exchange"
        with dask.config.set(scheduler=scheduler):
            np.testing.assert_array_equal(dataset["x"].values, expected)
            np.testing.assert_array_equal(dataset["y"].values, order)
            np.testing.assert_allclose(dataset["x"].mean("sample").values, expected.mean(0), rtol=1e-5)
            np.testing.assert_array_equal(dataset["x"].isel(sample=slice(500, 700)).values, expected[500:700])
            np.testing.assert_array_equal(dataset["x"].isel(sample=[7, 19_999, 3]).values, expected[[7, 19_999, 3]])
            means = dataset["x"].groupby((dataset["y"] % 3).compute()).mean().compute()
        np.testing.assert_allclose(means[1], expected[order % 3 == 1].mean(0), rtol=1e-5)

    def test_what_dask_and_xarray_do_with_it(self, shuffled, tmp_path):
        gate, expected, order = shuffled
        dataset = gate["train"].to_xarray()
        labels = (dataset["y"] % 3).compute()
        reduced = flox.xarray.xarray_reduce(dataset["x"], labels, func="mean", expected_groups=[0, 1, 2])
        doubled = xr.map_blocks(lambda block: block * 2, dataset[["x"]], template=dataset[["x"]])
        assert kind_of(dataset["x"].data) == "exchange"
        means = np.stack([expected[order % 3 == label].mean(0) for label in range(3)], axis=-1)
        np.testing.assert_allclose(reduced.transpose(..., "y").values, means, rtol=1e-5)
        np.testing.assert_array_equal(doubled["x"].values, expected * 2)
        np.testing.assert_array_equal(dataset["x"].data.map_blocks(np.negative).compute(), -expected)
        persisted = dataset.persist()
        np.testing.assert_array_equal(persisted["x"].values, expected)
        np.testing.assert_array_equal(persisted["y"].values, order)
        dataset.to_zarr(tmp_path / "other.zarr", zarr_format=3, consolidated=False)
        with xr.open_zarr(tmp_path / "other.zarr", consolidated=False) as found:
            np.testing.assert_array_equal(found["x"].values, expected)
            np.testing.assert_array_equal(found["y"].values, order)

    def test_rows_wanted_twice(self, shuffled):
        gate, expected, _ = shuffled
        index = np.random.default_rng(1).integers(0, 20_000, 40_000)
        lazy = gate.get_data("x", index=index, compute=False)
        assert kind_of(lazy) == "exchange"
        np.testing.assert_array_equal(lazy.compute(), expected[index])

    def test_transforms_of_either_kind(self, shuffled):
        gate, expected, order = shuffled
        gate.astype("x", "f2")
        gate.update_data("y", order % 5)
        gate.shuffle(seed=8)
        again = np.random.RandomState(8).permutation(20_000)
        gate.onehot("y", 5)
        assert kind_of(gate["train"]["y"].data) == "exchange"
        np.testing.assert_array_equal(gate["train"]["x"].data.compute(), expected.astype("f2")[again])
        np.testing.assert_array_equal(gate["train"]["y"].data.compute(), np.identity(5)[(order % 5)[again]])
        gate.update_data("y", np.full(20_000, 7))
        gate.shuffle(seed=8)
        gate.onehot("y", 5)
        with pytest.raises(ValueError, match=r"'y', row \d+: .*7"):
            gate["train"]["y"].data.compute()

    @pytest.mark.slow
    def test_a_million_rows_with_a_tiny_budget(self, tmp_path):
        n = 1_000_000
        x = np.random.default_rng(0).random((n, 4), dtype="f4")
        gate = StoreGate("zarr", {"output_dir": tmp_path, "budget": "2MiB"}, "a")
        gate.add_data("x", x, shuffle=1)
        gate.shuffle(seed=2)
        expected = x[np.random.RandomState(1).permutation(n)][np.random.RandomState(2).permutation(n)]
        np.testing.assert_array_equal(gate["train"]["x"].data.compute(), expected)
        gate.compact()
        np.testing.assert_array_equal(gate.get_data("x"), expected)


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

    def test_a_plan_can_be_forced(self):
        assert self.plan(self.rows(1_000_000), force="gather", bucket_rows=100).kind == "gather"
        assert self.plan(self.rows(10), force="exchange").kind == "exchange"
        with pytest.raises(ValueError, match="auto"):
            self.plan(self.rows(10), force="sort")

    def test_a_plan_that_cannot_fit_is_refused(self):
        with pytest.raises(MemoryBudgetError, match="memory-limit"):
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


class TestSpill:
    def test_a_second_compute_reuses_the_spill(self, shuffled, counted_reads):
        gate, expected, _ = shuffled
        lazy = gate["train"]["x"].data
        lazy.compute(scheduler="sync")
        assert len(scratch(gate.repository().location.path)) == 1
        counted_reads.clear()
        np.testing.assert_array_equal(lazy.compute(scheduler="sync"), expected)
        assert counted_reads == []

    def test_a_spill_goes_with_its_plan(self, shuffled):
        gate, _, _ = shuffled
        lazy = gate["train"]["x"].data
        lazy.compute()
        store = gate.repository().location.path
        assert scratch(store) != []
        del lazy
        gc.collect()
        assert not (store / "scratch").exists()

    def test_compact_leaves_no_spill(self, shuffled):
        gate, expected, _ = shuffled
        gate.compact()
        assert not (gate.repository().location.path / "scratch").exists()
        np.testing.assert_array_equal(gate.get_data("x"), expected)

    def test_a_spill_goes_at_the_end_of_the_process(self, shuffled, tmp_path):
        gate, expected, _ = shuffled
        code = (
            "import sys, numpy as np; from storegate import StoreGate\n"
            f"gate = StoreGate('zarr', {{'output_dir': {str(tmp_path / 'store')!r}, 'budget': '1MiB'}}, 'test_id')\n"
            "lazy = gate['train']['x'].data; print(float(lazy.sum().compute()))"
        )
        out = subprocess.run([sys.executable, "-c", code], check=True, env=environment(), capture_output=True)
        assert float(out.stdout) == pytest.approx(float(expected.sum()), rel=1e-4)
        assert not (gate.repository().location.path / "scratch").exists()

    def test_scratch_directory(self, shuffled, tmp_path):
        gate, expected, _ = shuffled
        with dask.config.set({"storegate.scratch-directory": str(tmp_path / "elsewhere")}):
            lazy = gate["train"]["x"].data
            np.testing.assert_array_equal(lazy.compute(), expected)
            (directory,) = (tmp_path / "elsewhere").iterdir()
            assert directory.stat().st_mode & 0o077 == 0
        assert scratch(gate.repository().location.path) == []


class TestSpare:
    """Files that nobody needs any more are written over."""

    def spill(self, directory, plan, content):
        made = spill.open_spill(directory, plan * 32)
        made.path.mkdir(parents=True, exist_ok=True)
        (made.path / "map-000000").write_bytes(content)
        return made

    def test_files_are_left_to_another_plan_by_the_last_holder(self, tmp_path):
        old, heir = self.spill(tmp_path, "1", b"old"), spill.open_spill(tmp_path, "2" * 32)
        path = old.path
        also = spill.open_spill(tmp_path, "1" * 32)
        old.leave_to(heir)
        del old
        assert (path / "map-000000").read_bytes() == b"old"
        del also
        assert not path.exists()
        assert (heir.path / spill.SPARE / "map-000000").read_bytes() == b"old"
        following = self.spill(tmp_path, "3", b"new")
        heir.leave_to(following)
        del heir
        left = [str(path.relative_to(following.path)) for path in following.path.rglob("*")]
        assert sorted(left) == [holds.LOCK, "map-000000", spill.SPARE], "what the heir did not use goes"
        del following
        assert not tmp_path.exists() or list(tmp_path.iterdir()) == []

    def test_nothing_is_left_to_a_plan_that_is_gone(self, tmp_path):
        old, other = self.spill(tmp_path, "1", b"old"), self.spill(tmp_path, "4", b"other")
        heir = spill.open_spill(tmp_path, "2" * 32)
        old.leave_to(heir)
        del heir
        del old
        assert list(tmp_path.iterdir()) == [other.path]

    def test_what_is_left_behind_is_taken_by_the_next_one(self, tmp_path):
        old, other = self.spill(tmp_path, "1", b"old"), self.spill(tmp_path, "4", b"other")
        also = spill.open_spill(tmp_path, "1" * 32)
        old.leave_behind()
        also.leave_to(other)  # whoever shares it does not undo that
        del old
        assert holds.orphans(tmp_path) == [], "somebody holds it"
        del also
        (path,) = holds.orphans(tmp_path)
        assert (path / "map-000000").read_bytes() == b"old"
        taken = spill.open_spill(tmp_path, "1" * 32)
        assert (taken.path / "map-000000").read_bytes() == b"old"
        assert holds.orphans(tmp_path) == []
        del taken
        assert list(tmp_path.iterdir()) == [other.path]

    def test_one_who_is_done_does_not_remove_what_another_thread_reads(self, shuffled):
        gate, expected, _ = shuffled
        variable = gate.table["train"]["x"]
        plan = plan_rewrite(variable, 100, gate.capacity)
        assert plan.kind == "exchange"
        with open_exchange([variable], plan) as reading:
            with open_exchange([variable], plan):
                pass
            rows = [np.array(next(reading.collect(bucket, [Workspace()]))) for bucket in range(plan.n_buckets)]
            np.testing.assert_array_equal(np.concatenate(rows), expected)
        assert scratch(gate.repository().location.path) == []

    @pytest.mark.parametrize("nbytes", [0, 10, 300_000, 3_000_000])
    def test_a_spare_file_of_any_length_is_written_over(self, shuffled, tmp_path, nbytes):
        gate, expected, _ = shuffled
        exchange = BucketSort(gate.table["train"]["x"], 5000, 4000, str(tmp_path / "spill"), (0, 5))
        (tmp_path / "spill" / spill.SPARE).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "spill" / spill.SPARE / f"map-{number:06d}").write_bytes(b"\xff" * nbytes)
        for number in range(exchange.n_maps):
            bucket_sorts.scatter(exchange, number, Workspace())
        assert list((tmp_path / "spill" / spill.SPARE).iterdir()) == []
        sizes = {path.stat().st_size for path in (tmp_path / "spill").glob("map-*")}
        assert len(sizes) == 1
        for bucket in range(5):
            np.testing.assert_array_equal(collected(exchange, bucket), expected[bucket * 4000 : (bucket + 1) * 4000])


class TestFaults:
    def exchange(self, gate, directory):
        variable = gate.table["train"]["x"]
        exchange = BucketSort(variable, 5000, 4000, str(directory), (0, 5))
        for number in range(exchange.n_maps):
            bucket_sorts.scatter(exchange, number, Workspace())
        return exchange

    @pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "header", "empty"])
    def test_a_damaged_spill_file_is_named(self, shuffled, tmp_path, damage):
        gate, expected, _ = shuffled
        exchange = self.exchange(gate, tmp_path / "spill")
        np.testing.assert_array_equal(collected(exchange, 2), expected[8000:12_000])
        path = tmp_path / "spill" / "map-000001"
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 1
        elif damage == "header":
            content[8 + 24 * 2 + 5] ^= 1  # the entry of the third part
        path.write_bytes({"truncate": content[: len(content) // 2], "empty": b""}.get(damage, bytes(content)))
        if damage == "remove":
            path.unlink()
        with pytest.raises(CorruptStoreError, match="map-000001"):
            [collected(exchange, bucket) for bucket in range(5)]

    def test_a_plan_counts_the_entries_that_are_read(self):
        assert spill_files._ENTRY.itemsize == plans.ENTRY_NBYTES
        rows = Wanted(10**9, 10**9, 64, in_order=False)
        plan = choose(rows, budget_nbytes=2**30, workers=2, force="exchange", passes=2)
        entries = plan.n_maps * plan.n_buckets * plans.ENTRY_NBYTES
        assert plan.read_nbytes == 2 * 64 * 10**9 + entries
        three = choose(rows, budget_nbytes=2**28, workers=2, force="exchange", passes=3)
        assert three.passes == 3
        assert 3 * 64 * 10**9 < three.read_nbytes < 3 * 64 * 10**9 + three.n_maps * three.n_buckets * plans.ENTRY_NBYTES

    def test_a_file_of_another_plan_or_place_is_not_taken(self, shuffled, tmp_path):
        gate, expected, _ = shuffled
        exchange = self.exchange(gate, tmp_path / f"{'1' * 32}.a.1.b")
        exchange.path("").rename(tmp_path / f"{'1' * 32}.a.2.c")  # as one that adopts it does
        exchange = replace(exchange, directory=str(tmp_path / f"{'1' * 32}.a.2.c"))
        np.testing.assert_array_equal(collected(exchange, 2), expected[8000:12_000])
        other = self.exchange(gate, tmp_path / f"{'2' * 32}.a.1.b")
        for source in (other.map_path(1), exchange.map_path(2)):
            content = exchange.map_path(1).read_bytes()
            exchange.map_path(1).write_bytes(source.read_bytes())
            with pytest.raises(CorruptStoreError, match="map-000001 is not what was written"):
                collected(exchange, 2)
            exchange.map_path(1).write_bytes(content)

    def test_the_entry_of_another_part_is_not_taken(self, shuffled, tmp_path):
        gate, expected, _ = shuffled
        exchange = self.exchange(gate, tmp_path / "spill")
        content = bytearray(exchange.map_path(1).read_bytes())
        entries = [slice(8 + 24 * number, 8 + 24 * (number + 1)) for number in range(5)]
        content[entries[2]] = content[entries[3]]
        exchange.map_path(1).write_bytes(content)
        np.testing.assert_array_equal(collected(exchange, 3), expected[12_000:16_000])
        with pytest.raises(CorruptStoreError, match="map-000001 is not what was written: the entry of part 2"):
            collected(exchange, 2)

    def test_an_interrupted_task_leaves_no_part_of_a_file(self, shuffled, tmp_path, monkeypatch):
        gate, _, _ = shuffled
        monkeypatch.setattr(
            "storegate_engine.exchange.spill_files.write_all", lambda *_: (_ for _ in ()).throw(MemoryError)
        )
        with pytest.raises(MemoryError):
            self.exchange(gate, tmp_path / "spill")
        assert list((tmp_path / "spill").iterdir()) == []

    def test_a_store_that_cannot_be_written_keeps_its_spill_elsewhere(self, shuffled, tmp_path, monkeypatch):
        gate, expected, _ = shuffled
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "system"))
        store = gate.repository().location.path
        for path in [store, *store.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
        if os.access(store, os.W_OK):  # as the superuser may, whatever the mode
            original = os.access
            monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != store and original(path, mode))
        reader = StoreGate("zarr", {"output_dir": tmp_path / "store", "mode": "r", "budget": "1MiB"}, "test_id")
        lazy = reader["train"]["x"].data
        np.testing.assert_array_equal(lazy.compute(), expected)
        assert list((tmp_path / "system").glob("storegate-scratch-*/*/map-*"))
        assert scratch(store) == []
        del lazy
        for path in [store, *store.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)

    def test_a_full_disk_is_a_typed_error_and_leaves_the_store(self, shuffled, tmp_path):
        """RLIMIT_FSIZE stands for a full disk: writes beyond it fail."""
        gate, expected, _ = shuffled
        code = (
            "import resource, signal\n"
            "from storegate import StoreGate\n"
            "from storegate_engine.errors import SpillError\n"
            f"gate = StoreGate('zarr', {{'output_dir': {str(tmp_path / 'store')!r}, 'budget': '1MiB'}}, 'test_id')\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
            "try:\n"
            "    gate.compact()\n"
            "except SpillError as err:\n"
            "    print(err)\n"
        )
        out = subprocess.run(
            [sys.executable, "-c", code], check=True, env=environment(), capture_output=True, text=True
        )
        assert "map-0000" in out.stdout
        assert "scratch-directory" in out.stdout
        np.testing.assert_array_equal(gate.get_data("x"), expected)
        gate.compact()
        np.testing.assert_array_equal(gate.get_data("x"), expected)

    def test_no_place_for_spill(self, shuffled, tmp_path):
        gate, _, _ = shuffled
        (tmp_path / "file").write_text("no directory")
        nowhere = {"storegate.scratch-directory": str(tmp_path / "file" / "below")}
        with dask.config.set(nowhere), pytest.raises(SpillError, match="scratch-directory"):
            gate.compact()
        assert gate.table["train"]["x"].order.runs(0, 100) is None

    @pytest.mark.parametrize("moment", ["scatter", "collect"])
    def test_a_killed_compact_is_run_again(self, shuffled, tmp_path, moment):
        gate, expected, _ = shuffled
        code = (
            "import os, signal\n"
            "from storegate import StoreGate\n"
            "from storegate_engine.exchange import driver\n"
            f"name = {'scatter' if moment == 'scatter' else 'collect'!r}\n"
            "original, count = getattr(driver, name), []\n"
            "def killing(*args, **options):\n"
            "    count.append(1)\n"
            "    if len(count) == 12: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return original(*args, **options)\n"
            "setattr(driver, name, killing)\n"
            f"args = {{'output_dir': {str(tmp_path / 'store')!r}, 'budget': '1MiB', 'chunk': 100}}\n"
            "StoreGate('zarr', args, 'test_id').compact()\n"
        )
        killed = subprocess.run([sys.executable, "-c", code], check=False, env=environment())
        assert killed.returncode == -signal.SIGKILL
        assert scratch(tmp_path / "store") != []
        np.testing.assert_array_equal(gate.get_data("x"), expected)
        gate.compact()
        np.testing.assert_array_equal(gate.get_data("x"), expected)
        assert gate.table["train"]["x"].order.runs(0, 20_000) == [(0, 20_000)]
        assert scratch(tmp_path / "store") == []

    def test_an_interrupted_compact_changes_nothing(self, shuffled, tmp_path, monkeypatch):
        gate, expected, _ = shuffled

        def interrupted(*args, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(driver, "collect", interrupted)
        version = gate.repository().version
        segments = sorted((tmp_path / "store" / "test_id" / "segments").glob("*/zarr.json"))
        with pytest.raises(KeyboardInterrupt):
            gate.compact()
        assert gate.repository().version == version
        assert sorted((tmp_path / "store" / "test_id" / "segments").glob("*/zarr.json")) == segments
        np.testing.assert_array_equal(gate.get_data("x"), expected)


class TestUniformity:
    @pytest.mark.parametrize("n", [5, 12, 31])
    def test_every_row_comes_to_every_place(self, n):
        """Chi-squared of (row, place) over many seeds is within four standard deviations of its mean."""
        seeds = 6000
        counts = np.zeros((n, n))
        for seed in range(seeds):
            counts[permute(Range(0, n), seed).rows(0, n), np.arange(n)] += 1
        chi2 = ((counts - seeds / n) ** 2 / (seeds / n)).sum()
        freedom = (n - 1) ** 2
        assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)

    def test_seeds_are_unrelated(self):
        """Two seeds agree on as many places as chance has it: one, with a standard deviation of one."""
        orders = np.array([permute(Range(0, 1000), seed).rows(0, 1000) for seed in range(200)])
        same = [(orders[a] == orders[b]).sum() for a in range(200) for b in range(a)]
        assert abs(np.mean(same) - 1) < 4 / np.sqrt(len(same))


def test_take_by_an_index_array_in_memory(shuffled):
    gate, expected, _ = shuffled
    variable = gate.table["train"]["x"].selected(ArrayIndex(np.array([5, 5, 1])))
    np.testing.assert_array_equal(variable.read(0, 3), expected[[5, 5, 1]])
