"""The exact shuffle of more rows than the budget: equality with numpy."""

from __future__ import annotations

from dataclasses import replace

import dask
import flox.xarray
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine import testing
from storegate_engine.buffers import Workspace
from storegate_engine.errors import CorruptStoreError, LabelError, MemoryBudgetError
from storegate_engine.exchange import Exchange, bucket_sorts, driver, executor
from storegate_engine.exchange.plans import Wanted, choose
from storegate_engine.exchange.sorts import BucketSort
from storegate_engine.orders import ArrayIndex, Range, Take, cut, permute
from storegate_engine.store import rewriting as rewrite
from storegate_engine.store.rewriting import plan_rewrite
from storegate_engine.table import Variable
from tests import unchecked
from tests.examples import examples, in_turns
from tests.exchanges import collected, exchange_of, kind_of, scratch


class TestEqualsNumpy:
    def test_any_rows_chunks_budgets_edits_and_plans(self, tmp_path_factory):
        refused = []

        @settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
        @given(data=st.data())
        def law(data):
            n_rows = data.draw(st.integers(2, 3000), "rows")
            x = data.draw(testing.arrays(n_rows, row_shape=data.draw(st.sampled_from([(), (3,), (2, 2)]))), "values")
            chunk = data.draw(st.sampled_from([1, 7, 64, 1000]), "chunk")
            directory = tmp_path_factory.mktemp("store")
            gate = StoreGate("zarr", {"output_dir": directory, "chunk": chunk}, "a")
            gate.add_data("x", x)
            expected = x
            for edit in data.draw(
                st.lists(st.sampled_from(["shuffle", "append", "update", "split"]), max_size=4), "edits"
            ):
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
                    assert budget == "200KiB", "what takes so little fits"
                    refused.append(True)
                    return
            refused.append(False)
            np.testing.assert_array_equal(tight.get_data("x"), expected)
            assert tight.table["train"]["x"].order.runs(0, len(expected)) == [(0, len(expected))]

        law()
        assert sum(refused) < len(refused) / 2  # most examples are computed, not refused

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

    @pytest.mark.parametrize("form", ["dask", pytest.param("DataArray", marks=pytest.mark.slow)])
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
        unchecked.onehot(gate, "y", 3)
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
            unchecked.onehot(gate, "y", num_classes)
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
            unchecked.onehot(gate, "y", 1)
            variable = replace(gate.table["train"]["y"], order=order)
        plan = BucketSort(variable, 500, 3000, str(tmp_path / "spill"), (0, 1))
        bucket_sorts.request(plan, 0)
        for number in range(plan.n_maps):
            bucket_sorts.scatter(plan, number, Workspace())
        np.testing.assert_array_equal(collected(plan, 0), np.ones((2999, 1)))

    @pytest.mark.parametrize(("kind", "coarse"), in_turns(["permuted", "repeated", "sliced"], [2, 3, 7, 100]))
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
            executor.run_steps(several, 2)
            executor.run_steps(several, 2)  # everything is there
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

    @settings(max_examples=examples(50), deadline=None)
    @given(data=st.data())
    def test_rows_are_put_in_ascending_order(self, data):
        n_stored = data.draw(st.integers(1, 200))
        rows = np.array(data.draw(st.lists(st.integers(0, n_stored - 1), max_size=300)), np.int64)
        ascending, places = rewrite.ascending(rows, n_stored)
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
        unchecked.onehot(gate, "y", 5)
        with pytest.raises(ValueError, match=r"'y', row \d+: .*7"):
            gate["train"]["y"].data.compute()

    @pytest.mark.slow
    def test_many_rows_with_a_tiny_budget(self, tmp_path):
        n = 500_000
        x = np.random.default_rng(0).random((n, 4), dtype="f4")
        gate = StoreGate("zarr", {"output_dir": tmp_path, "budget": "2MiB"}, "a")
        gate.add_data("x", x, shuffle=1)
        gate.shuffle(seed=2)
        expected = x[np.random.RandomState(1).permutation(n)][np.random.RandomState(2).permutation(n)]
        np.testing.assert_array_equal(gate["train"]["x"].data.compute(), expected)
        gate.compact()
        np.testing.assert_array_equal(gate.get_data("x"), expected)


def test_take_by_an_index_array_in_memory(shuffled):
    gate, expected, _ = shuffled
    variable = gate.table["train"]["x"].selected(ArrayIndex(np.array([5, 5, 1])))
    np.testing.assert_array_equal(variable.read(0, 3), expected[[5, 5, 1]])
