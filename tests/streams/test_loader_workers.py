"""Workers of torch's DataLoader: every loop is the next epoch, ranks stay in step, and a break leaves nothing."""

from __future__ import annotations

import gc
import itertools
import json
import os
import threading

import dask
import numpy as np
import pytest

from storegate import StoreGate, errors
from tests.clusters import becomes_true
from tests.streams.trainer_cases import BATCH_ROWS, METHODS, N_ROWS, flat, lists, loader_of, rows_of, steps_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainers


# ----------------------------------------------------------------------------------------- workers


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("method", [METHODS[0], pytest.param(METHODS[1], marks=pytest.mark.slow)])
def test_every_loop_over_workers_is_the_next_epoch_and_the_dataset_knows(adapter, numbered, method, keep):
    dataset = adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS))
    loader = loader_of(dataset, 2, method, keep=keep)
    for epoch in range(3):
        found = lists(loader)
        assert len(found) == len(loader) == 20
        assert flat(found) == rows_of([epoch])
        state = dataset.state_dict()
        assert (state["epoch"], state["step"]) == (epoch + 1, 0)
    resumed = adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS))
    resumed.load_state_dict(json.loads(json.dumps(state)))
    assert flat(lists(resumed)) == rows_of([3])


@pytest.mark.parametrize("keep", [False, True])
def test_the_state_within_a_loop_over_workers_is_of_what_was_given(adapter, numbered, keep):
    dataset = adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS))
    loader = loader_of(dataset, 2, keep=keep)
    for epoch in range(2):
        for given, batch in enumerate(loader, start=1):
            if epoch == 0 and given % 3:
                continue
            state = dataset.state_dict()
            assert (state["epoch"], state["step"]) == divmod(10 * epoch + given // 2, 10), batch
            if given % 6 == 0:
                resumed = adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS))
                resumed.load_state_dict(state)
                for workers in (0, 2) if given == 6 else (0,):
                    rest = flat(steps_of(epoch)[given // 2 :])
                    assert flat(lists(loader_of(resumed, workers))) == rest
                    resumed.load_state_dict(state)


@pytest.mark.parametrize("keep", [False, True])
def test_a_place_that_is_set_reaches_the_workers(adapter, numbered, keep):
    dataset = adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS))
    loader = loader_of(dataset, 2, keep=keep)
    place = adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS))
    for epoch in (0, 4, 1, 2, 2, 0):
        dataset.set_epoch(epoch)
        assert flat(lists(loader)) == rows_of([epoch])
    place.stream.seek(7, 4)
    dataset.load_state_dict(place.state_dict())
    assert flat(lists(loader)) == flat(steps_of(7)[4:])
    assert flat(lists(loader)) == rows_of([8])
    assert flat(lists(dataset)) == rows_of([9]), "goes on in the main process"
    if not keep:
        assert flat(lists(loader)) == rows_of([10]), "and in workers again"


@pytest.mark.parametrize("keep", [False, True])
def test_workers_say_what_a_break_loses(adapter, numbered, keep, capfd):
    dataset = adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS))
    loader = loader_of(dataset, 2, "spawn", keep=keep)  # a forked worker's warnings would be caught by pytest
    assert len(list(itertools.islice(loader, 3))) == 3
    assert flat(lists(loader)) == rows_of([1])
    assert "the rest of epoch 0 is not given, and epoch 1 begins" in capfd.readouterr().err
    assert flat(lists(loader)) == rows_of([2])
    assert "is not given" not in capfd.readouterr().err
    assert len(list(itertools.islice(loader, 3))) == 3
    dataset.set_epoch(3)
    assert flat(lists(loader)) == rows_of([3]), "begun again"
    assert "is not given" not in capfd.readouterr().err


@pytest.mark.parametrize("n_workers", [2, 3])
def test_a_pool_of_another_size_goes_on_with_the_next_epoch(adapter, numbered, n_workers):
    dataset = adapter.StreamDataset(numbered["train"]["row"].batches(12))
    for epoch, n in enumerate((2, 3, n_workers, 1, 2)):
        assert flat(lists(loader_of(dataset, n))) == rows_of([epoch], k=12)


def test_pools_that_torch_seeds_alike_are_two_loops(adapter, numbered):
    import torch

    dataset = adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS))
    for epoch in range(4):
        torch.manual_seed(3)
        assert flat(lists(loader_of(dataset, 2))) == rows_of([epoch])


@pytest.mark.parametrize("k", [33, 3, 1, 100, 300])
@pytest.mark.parametrize("drop_last", [False, "pad"])
def test_no_batch_of_one_process_is_empty_and_every_row_comes_once(adapter, numbered, k, drop_last):
    for n_workers in (1, 4, 5):
        dataset = adapter.StreamDataset(numbered["train"]["row"].batches(k, drop_last=drop_last))
        loader = loader_of(dataset, n_workers)
        found = lists(loader)
        assert min(map(len, found)) >= 1
        assert len(found) == len(loader)
        expected = rows_of([0], k=k)
        if drop_last == "pad":
            expected += [expected[at % N_ROWS] for at in range(-N_ROWS % k)]
        assert sorted(flat(found)) == sorted(expected)


@pytest.mark.parametrize(("k", "world", "n_workers"), [(33, 2, 2), (5, 3, 2), (7, 2, 4), (1, 2, 2), (99, 4, 3)])
@pytest.mark.parametrize("shuffle", [True, "blocks"])
def test_ranks_with_workers_stay_in_step_and_each_leaves_out_what_is_empty(
    adapter, numbered, k, world, n_workers, shuffle
):
    found = []
    for rank in range(world):
        options = {"shuffle": shuffle, "rank": rank, "world": world}
        dataset = adapter.StreamDataset(numbered["train"]["row"].batches(k, **options))
        loader = loader_of(dataset, n_workers)
        found.append(lists(loader))
        assert len(found[-1]) == len(loader)
    assert len(set(map(len, found))) == 1, "as many batches on every rank"
    assert sorted(flat(batch for batches in found for batch in batches)) == list(range(N_ROWS))
    for batches in zip(*found, strict=True):
        assert any(batches), "one of them has rows"


def test_the_workers_of_a_rank_that_give_a_batch(numbered):
    stream = numbered["train"]["row"].batches(33)
    assert [stream.workers_with_batches(step, 4) for step in (0, 3)] == [[0, 1, 2, 3], [3]]
    ranks = [numbered["train"]["row"].batches(33, rank=rank, world=2) for rank in range(2)]
    assert [stream.workers_with_batches(3, 2) for stream in ranks] == [[0], [1]], "one is empty, to keep step"


def test_what_a_worker_leaves_out_is_not_transformed(numbered):
    seen = []
    stream = numbered["train"]["row"].batches(33, transform=lambda batch, rng: (seen.append(len(batch)), batch)[1])
    given = [list(stream.on_worker(worker, 4)) for worker in range(4)]
    assert [len(batches) for batches in given] == [stream.on_worker(worker, 4).n_batches for worker in range(4)]
    assert [len(batches) for batches in given] == [3, 3, 3, 4]
    assert len(seen) == 13
    assert 0 not in seen
    loop = iter(stream.on_worker(0, 4))
    assert len(list(loop)) == 3
    assert next(loop, None) is None


def test_workers_share_the_memory_limit(adapter, tmp_path):
    gate = StoreGate("zarr", {"output_dir": tmp_path / "wide"}, data_id="a")
    gate.add_data(["x", "row"], [np.zeros((4000, 1000), "f4"), np.arange(4000)])
    with dask.config.set({"storegate.scratch-directory": tmp_path / "scratch"}):
        stream = gate["train"][["x", "row"]].batches(100, budget="90MiB")
        workers = [stream.on_worker(worker, 4) for worker in range(4)]
        alone = stream.on_rank(0, 4)
        assert 90 * 2**20 / 4 < alone.projected_nbytes <= 90 * 2**20
        assert max(worker.projected_nbytes for worker in workers) <= 90 * 2**20 / 4
        found = lists(row for _, row in loader_of(adapter.StreamDataset(stream), 4))
    assert flat(found) == rows_of([0], n_rows=4000, k=100)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["memory", "exchange", "blocks"])
@pytest.mark.parametrize("keep", [False, True])
def test_thirty_epochs_with_breaks_in_forked_workers_leave_nothing(adapter, numbered, tmp_path, source, keep):
    random = np.random.default_rng(1)
    scratch = tmp_path / "scratch"
    kind = {"shuffle": "blocks", "block_rows": 2, "buffer_blocks": 30} if source == "blocks" else {}
    with dask.config.set(
        {"storegate.scratch-directory": scratch, "storegate.shuffle": "exchange" if source == "exchange" else "auto"}
    ):
        warm = loader_of(adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS)), 2)
        list(warm)  # opens what stays open
        del warm
        gc.collect()
        before = threading.active_count(), len(os.listdir("/proc/self/fd"))
        dataset = adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS, budget="64MiB", **kind))
        loader = loader_of(dataset, 2, keep=keep)
        for epoch in range(30):
            dataset.set_epoch(epoch)
            stop = int(random.integers(1, 25))
            found = lists(itertools.islice(loader, stop))
            assert len(found) == min(stop, 20)
            rows = flat(found)
            assert len(set(rows)) == len(rows), "none twice"
            if not kind:
                assert rows == rows_of([epoch])[: len(rows)]
        del loader, dataset
        gc.collect()

    def left():
        return threading.active_count() - before[0], len(os.listdir("/proc/self/fd")) - before[1]

    # the pool's own feeder threads are on their way out, and close their pipes
    assert becomes_true(lambda: max(left()) <= 0), left()
    assert not scratch.exists() or not list(scratch.iterdir())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["stream", "rows"])
def test_workers_on_an_object_store_read_or_say_at_once_what_helps(adapter, s3_args, method, kind):
    pytest.importorskip("obstore")
    gate = StoreGate("zarr", s3_args, data_id="a")
    gate.add_data("row", np.arange(N_ROWS))
    view = gate["train"]["row"]
    if kind == "stream":
        loader = loader_of(adapter.StreamDataset(view.batches(BATCH_ROWS)), 2, method)
    else:
        loader = loader_of(adapter.MapDataset(view), 2, method)
    if method == "spawn":
        assert sorted(np.ravel(flat(np.atleast_1d(batch).tolist() for batch in loader))) == list(range(N_ROWS))
    else:
        with pytest.raises(errors.StoreError, match=r"forked process.*multiprocessing_context='spawn'.*num_workers=0"):
            list(loader)
    assert sorted(np.concatenate(list(view.batches(BATCH_ROWS)))) == list(range(N_ROWS)), "the parent reads on"


@pytest.mark.parametrize("first", [0, 1])
def test_a_worker_that_an_earlier_pool_lacked_knows_its_epoch(first):
    """Whichever worker is the first to begin: loops of three workers, of one, and of two."""
    pytest.importorskip("torch")
    from storegate.adapters.pools import Pools

    pools = Pools()
    for epoch, n_workers in enumerate((3, 1, 2)):
        workers = range(n_workers) if first == 0 else reversed(range(n_workers))
        for worker in workers:
            loop, left = pools.begin(worker, 100 + epoch, 1, (0, 0), None)
            assert (loop.epoch, loop.step, left) == (epoch, 0, None)
        for worker in range(n_workers):
            pools.end(worker, loop)
    pools.begin(0, 200, 1, (0, 0), None)
    pools.begin(0, 200, 2, (0, 0), None)  # a loop that was left, and begun again, before the other worker was there
    assert pools.begin(1, 200, 1, (0, 0), None)[0].epoch == 3
    assert pools.begin(1, 200, 2, (0, 0), None)[0].epoch == 4
