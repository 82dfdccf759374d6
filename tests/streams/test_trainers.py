"""Streams in real trainers: Lightning, Accelerate (two processes) and torchdata; every order replayed with numpy.

This file is also the program that two processes of Accelerate run.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import dask
import numpy as np
import pytest

from storegate import StoreGate, errors
from storegate_engine.streams.epochs import keyed_permutation

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainers

ROOT = Path(__file__).parents[2]
N_ROWS, BATCH_ROWS = 100, 10
METHODS = ["fork", "spawn"]


def steps_of(epoch, n_rows=N_ROWS, k=BATCH_ROWS, seed=0):
    """Return the rows of every step of an epoch."""
    order = keyed_permutation(n_rows, seed, epoch)
    return [order[at : at + k].tolist() for at in range(0, n_rows, k)]


def rows_of(epochs, **options):
    return [row for epoch in epochs for step in steps_of(epoch, **options) for row in step]


def flat(batches):
    return [row for batch in batches for row in batch]


@pytest.fixture
def adapter():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return importlib.import_module("storegate.adapters.torch")


@pytest.fixture
def gate(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 16}, data_id="a") as gate:
        gate.add_data("row", np.arange(N_ROWS))
        gate.add_data("row", np.arange(60), phase="valid")
        yield gate


def loader_of(dataset, workers, method="fork", *, keep=False, stateful=False, **options):
    if stateful:
        from torchdata.stateful_dataloader import StatefulDataLoader as Loader
    else:
        from torch.utils.data import DataLoader as Loader
    if workers:
        options |= {"multiprocessing_context": method, "persistent_workers": keep, "timeout": 120}
    return Loader(dataset, batch_size=None, num_workers=workers, **options)


def lists(batches):
    return [batch.tolist() for batch in batches]


# ----------------------------------------------------------------------------------------- workers


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("method", [METHODS[0], pytest.param(METHODS[1], marks=pytest.mark.slow)])
def test_every_loop_over_workers_is_the_next_epoch_and_the_dataset_knows(adapter, gate, method, keep):
    dataset = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS))
    loader = loader_of(dataset, 2, method, keep=keep)
    for epoch in range(3):
        found = lists(loader)
        assert len(found) == len(loader) == 20
        assert flat(found) == rows_of([epoch])
        state = dataset.state_dict()
        assert (state["epoch"], state["step"]) == (epoch + 1, 0)
    resumed = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS))
    resumed.load_state_dict(json.loads(json.dumps(state)))
    assert flat(lists(resumed)) == rows_of([3])


@pytest.mark.parametrize("keep", [False, True])
def test_the_state_within_a_loop_over_workers_is_of_what_was_given(adapter, gate, keep):
    dataset = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS))
    loader = loader_of(dataset, 2, keep=keep)
    for epoch in range(2):
        for given, batch in enumerate(loader, start=1):
            if epoch == 0 and given % 3:
                continue
            state = dataset.state_dict()
            assert (state["epoch"], state["step"]) == divmod(10 * epoch + given // 2, 10), batch
            if given % 6 == 0:
                resumed = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS))
                resumed.load_state_dict(state)
                for workers in (0, 2) if given == 6 else (0,):
                    rest = flat(steps_of(epoch)[given // 2 :])
                    assert flat(lists(loader_of(resumed, workers))) == rest
                    resumed.load_state_dict(state)


@pytest.mark.parametrize("keep", [False, True])
def test_a_place_that_is_set_reaches_the_workers(adapter, gate, keep):
    dataset = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS))
    loader = loader_of(dataset, 2, keep=keep)
    place = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS))
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
def test_workers_say_what_a_break_loses(adapter, gate, keep, capfd):
    dataset = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS))
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
def test_a_pool_of_another_size_goes_on_with_the_next_epoch(adapter, gate, n_workers):
    dataset = adapter.StreamDataset(gate["train"]["row"].batches(12))
    for epoch, n in enumerate((2, 3, n_workers, 1, 2)):
        assert flat(lists(loader_of(dataset, n))) == rows_of([epoch], k=12)


def test_pools_that_torch_seeds_alike_are_two_loops(adapter, gate):
    import torch

    dataset = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS))
    for epoch in range(4):
        torch.manual_seed(3)
        assert flat(lists(loader_of(dataset, 2))) == rows_of([epoch])


@pytest.mark.parametrize("k", [33, 3, 1, 100, 300])
@pytest.mark.parametrize("drop_last", [False, "pad"])
def test_no_batch_of_one_process_is_empty_and_every_row_comes_once(adapter, gate, k, drop_last):
    for n_workers in (1, 4, 5):
        dataset = adapter.StreamDataset(gate["train"]["row"].batches(k, drop_last=drop_last))
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
def test_ranks_with_workers_stay_in_step_and_each_leaves_out_what_is_empty(adapter, gate, k, world, n_workers, shuffle):
    found = []
    for rank in range(world):
        options = {"shuffle": shuffle, "rank": rank, "world": world}
        dataset = adapter.StreamDataset(gate["train"]["row"].batches(k, **options))
        loader = loader_of(dataset, n_workers)
        found.append(lists(loader))
        assert len(found[-1]) == len(loader)
    assert len(set(map(len, found))) == 1, "as many batches on every rank"
    assert sorted(flat(batch for batches in found for batch in batches)) == list(range(N_ROWS))
    for batches in zip(*found, strict=True):
        assert any(batches), "one of them has rows"


def test_the_workers_of_a_rank_that_give_a_batch(gate):
    stream = gate["train"]["row"].batches(33)
    assert [stream.workers_with_batches(step, 4) for step in (0, 3)] == [[0, 1, 2, 3], [3]]
    ranks = [gate["train"]["row"].batches(33, rank=rank, world=2) for rank in range(2)]
    assert [stream.workers_with_batches(3, 2) for stream in ranks] == [[0], [1]], "one is empty, to keep step"


def test_what_a_worker_leaves_out_is_not_transformed(gate):
    seen = []
    stream = gate["train"]["row"].batches(33, transform=lambda batch, rng: (seen.append(len(batch)), batch)[1])
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
def test_thirty_epochs_with_breaks_in_forked_workers_leave_nothing(adapter, gate, tmp_path, source, keep):
    random = np.random.default_rng(1)
    scratch = tmp_path / "scratch"
    kind = {"shuffle": "blocks", "block_rows": 2, "buffer_blocks": 30} if source == "blocks" else {}
    with dask.config.set(
        {"storegate.scratch-directory": scratch, "storegate.shuffle": "exchange" if source == "exchange" else "auto"}
    ):
        warm = loader_of(adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS)), 2)
        list(warm)  # opens what stays open
        del warm
        gc.collect()
        before = threading.active_count(), len(os.listdir("/proc/self/fd"))
        dataset = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS, budget="64MiB", **kind))
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
    deadline = 200
    while threading.active_count() > before[0] and deadline:  # the pool's own feeder threads are on their way out
        deadline -= 1
        threading.Event().wait(0.05)
    assert threading.active_count() <= before[0]
    assert len(os.listdir("/proc/self/fd")) <= before[1]
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


# --------------------------------------------------------------------------------------- torchdata


@pytest.mark.parametrize(
    ("workers", "k"), [(0, 12), (2, 12), (3, 12), (2, 33), pytest.param(4, 33, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("keep", [False, True])
def test_a_stateful_loader_resumes_at_any_batch(adapter, gate, workers, k, keep):
    pytest.importorskip("torchdata")
    n = len(loader_of(adapter.StreamDataset(gate["train"]["row"].batches(k)), workers))

    def loader():
        dataset = adapter.StreamDataset(gate["train"]["row"].batches(k))
        return loader_of(dataset, workers, keep=keep, stateful=True)

    for cut in sorted({0, 1, n // 2, n - 1, n, n + 1}):
        first = loader()
        given = lists(itertools.islice(itertools.chain(first, first), cut))
        state = first.state_dict()
        del first
        resumed = loader()
        resumed.load_state_dict(state)
        given += lists(resumed)
        whole = 1 if cut < n else 2
        assert sorted(flat(given)) == sorted(rows_of(range(whole), k=k)), cut
        if not workers:
            assert flat(given) == rows_of(range(whole), k=k), cut
        assert flat(lists(resumed)) == rows_of([whole], k=k), cut


def test_a_rank_whose_last_batch_is_not_of_its_last_worker_resumes_after_it(adapter, gate):
    pytest.importorskip("torchdata")

    def loader():
        stream = gate["train"]["row"].batches(33, rank=0, world=2)
        assert [stream.workers_with_batches(step, 2) for step in (0, 3)] == [[0, 1], [0]]
        return loader_of(adapter.StreamDataset(stream), 2, stateful=True)

    first = loader()
    given = lists(itertools.islice(first, len(first)))
    assert list(map(len, given)) == [8, 8, 8, 8, 8, 8, 0], "the last one keeps the rank in step"
    resumed = loader()
    resumed.load_state_dict(first.state_dict())
    assert len(lists(resumed)) == 7
    expected = [row for step in steps_of(2, k=33) for row in step[: len(step) // 2]]
    assert flat(lists(resumed)) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_goes_through_whole_epochs(adapter, gate, workers):
    pytest.importorskip("torchdata")
    dataset = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS))
    loader = loader_of(dataset, workers, stateful=True)
    for epoch in range(3):
        assert flat(lists(loader)) == rows_of([epoch])
        loader.state_dict()


def test_a_trainer_that_counts_from_zero_again_does_not_repeat_epochs(adapter, gate):
    dataset = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS))
    place = gate["train"]["row"].batches(BATCH_ROWS)
    place.seek(4, 6)
    dataset.load_state_dict(place.state_dict())
    with pytest.warns(UserWarning, match=r"at epoch 4 by now.*loader\.set_epoch\(4\)"):
        dataset.set_epoch(0)
    assert flat(lists(dataset)) == flat(steps_of(4)[6:])
    with pytest.warns(UserWarning, match="at epoch 5 by now"):
        dataset.set_epoch(1)
    assert flat(lists(dataset)) == rows_of([5])
    dataset.set_epoch(9)
    assert flat(lists(dataset)) == rows_of([9])


def test_a_loop_without_gradients_begins_its_epoch_again(adapter, gate):
    import torch

    dataset = adapter.StreamDataset(gate["valid"]["row"].batches(BATCH_ROWS))
    for _ in range(2):
        with torch.no_grad():
            assert flat(lists(itertools.islice(dataset, 2))) == flat(steps_of(0, 60)[:2])
    assert flat(lists(dataset)) == flat(steps_of(0, 60)[2:]), "with gradients it goes on"
    dataset.stream.seek(3, 4)
    with torch.no_grad():
        assert flat(lists(dataset)) == flat(steps_of(3, 60)[4:]), "a place that was set stands"


# --------------------------------------------------------------------------------------- Lightning


@pytest.fixture
def lightning(tmp_path):
    lightning = pytest.importorskip("lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    import torch

    class Seen(lightning.LightningModule):
        """Keeps what it trains and validates on."""

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.rows, self.validated = [], []

        def training_step(self, batch, number):
            self.rows.append(batch.tolist())
            return 0 * self.layer(batch.float()[:, None]).mean()

        def on_validation_epoch_start(self):
            self.validated.append([])

        def validation_step(self, batch, number):
            self.validated[-1].append(batch.tolist())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    class Stop(lightning.Callback):
        """Saves after a batch and ends the run there."""

        def __init__(self, after, path):
            self.after, self.path = after, path

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == self.after:
                trainer.save_checkpoint(self.path)
                raise ZeroDivisionError

    def fit(train, valid=None, *, checkpoint=None, stop=None, **options):
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, default_root_dir=tmp_path, **options,
            callbacks=[Stop(stop, checkpoint)] if stop else [],
        )  # fmt: skip
        model = Seen()
        if stop:
            with pytest.raises(ZeroDivisionError):
                trainer.fit(model, train, valid)
        else:
            trainer.fit(model, train, valid, ckpt_path=checkpoint)
        return model

    return fit


FORMS = [("dataset", 0), ("loader", 0), ("stateful", 0), ("loader", 2), ("stateful", 2)]


def for_lightning(adapter, form, workers, stream):
    dataset = adapter.StreamDataset(stream)
    if form == "dataset":
        return dataset
    if form == "stateful":
        pytest.importorskip("torchdata")
    return loader_of(dataset, workers, keep=True, stateful=form == "stateful")


@pytest.mark.slow
@pytest.mark.parametrize(("form", "workers"), FORMS)
@pytest.mark.parametrize("shuffle", [False, True])
def test_lightning_trains_on_whole_epochs_and_validates_on_the_same_rows(
    adapter, lightning, gate, form, workers, shuffle
):
    def loaders():
        return [
            for_lightning(adapter, form, workers, gate["train"]["row"].batches(BATCH_ROWS)),
            for_lightning(adapter, form, workers, gate["valid"]["row"].batches(BATCH_ROWS, shuffle=shuffle)),
        ]

    model = lightning(*loaders(), max_epochs=4)
    assert flat(model.rows) == rows_of(range(4))
    assert [sorted(flat(batches)) for batches in model.validated[1:]] == [list(range(60))] * 4
    assert model.validated[0] == model.validated[1][:2] or workers, "what the sanity check saw"

    model = lightning(*loaders(), max_epochs=3, limit_train_batches=len(loaders()[0]), limit_val_batches=3)
    assert flat(model.rows) == rows_of(range(3))
    if not (workers and shuffle):  # workers go on to the next epoch, whose rows are others
        assert all(batches == model.validated[1][: len(batches)] for batches in model.validated)
    assert [len(batches) for batches in model.validated] == [2, 3, 3, 3]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "workers"), [form for form in FORMS if form[0] != "loader"])
@pytest.mark.parametrize("steps", [3, 1, 10, 17])
def test_lightning_resumes_at_the_batch_after_its_checkpoint(adapter, lightning, gate, tmp_path, form, workers, steps):
    stop = steps * max(1, workers) - (steps == 3 and workers == 2)  # within a step, too
    checkpoint = tmp_path / "checkpoint"

    def loader():
        return for_lightning(adapter, form, workers, gate["train"]["row"].batches(BATCH_ROWS))

    first = lightning(loader(), checkpoint=checkpoint, stop=stop, max_epochs=3)
    assert len(first.rows) == stop
    resumed = lightning(loader(), checkpoint=checkpoint, max_epochs=3)
    assert flat(first.rows + resumed.rows) == rows_of(range(3))


@pytest.mark.slow
def test_a_data_module_is_made_from_a_gate_in_one_line(adapter, lightning, gate, tmp_path):
    from storegate.adapters.lightning import DataModule

    checkpoint = tmp_path / "checkpoint"
    model = lightning(DataModule(gate, "row", BATCH_ROWS), max_epochs=2)
    assert flat(model.rows) == rows_of(range(2))
    assert [flat(batches) for batches in model.validated[1:]] == [list(range(60))] * 2
    first = lightning(DataModule(gate, "row", BATCH_ROWS), checkpoint=checkpoint, stop=13, max_epochs=3)
    resumed = lightning(DataModule(gate, "row", BATCH_ROWS), checkpoint=checkpoint, max_epochs=3)
    assert flat(first.rows + resumed.rows) == rows_of(range(3))
    gate.delete_data("row", phase="valid")
    model = lightning(DataModule(gate, "row", BATCH_ROWS, drop_last=True, seed=5), max_epochs=1)
    assert model.validated == []
    for wrong in ({"batch_size": 0}, {"shufle": True}, {"var_names": "rwo"}):
        with pytest.raises((ValueError, TypeError, KeyError)):
            DataModule(gate, **{"var_names": "row", "batch_size": 10, **wrong})
    with pytest.raises(TypeError, match="StoreGate"):
        DataModule("events.zarr", "row", 10)


# -------------------------------------------------------------------------------------- Accelerate


def accelerated(directory, how, stateful, workers, rank, world):
    """Train under Accelerate: three epochs, then a checkpoint within one, and what comes after it."""
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    adapter = importlib.import_module("storegate.adapters.torch")
    gate = StoreGate("zarr", {"output_dir": f"{directory}/store", "mode": "r"}, data_id="a")

    def begin():
        accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_stateful_dataloader=stateful))
        ranks = {"rank": rank, "world": world} if how == "ranks" else {}
        dataset = adapter.StreamDataset(gate["train"]["row"].batches(BATCH_ROWS, **ranks))
        loader = loader_of(dataset, workers)
        if how == "ranks":
            accelerator.register_for_checkpointing(dataset)
            return accelerator, dataset, loader
        return accelerator, dataset, accelerator.prepare(loader)

    _, dataset, loader = begin()
    found = {"epochs": [lists(loader) for _ in range(3)], "length": len(loader)}
    _, dataset, loader = begin()
    dataset.stream.seek(0, 4)
    found["sought"] = lists(loader)
    accelerator, _, loader = begin()
    before = lists(loader)
    for number, batch in enumerate(loader, start=1):
        before.append(batch.tolist())
        if number == 4:
            accelerator.save_state(f"{directory}/saved")
            break
    accelerator, _, loader = begin()
    accelerator.wait_for_everyone()
    accelerator.load_state(f"{directory}/saved")
    found["resumed"] = [before, lists(loader), lists(loader)]
    return found


def run_accelerated(tmp_path, how, stateful, workers, world):
    pytest.importorskip("accelerate")
    pytest.importorskip("torchdata")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        environment = {
            **os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'engine'}", "ACCELERATE_USE_CPU": "true",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }  # fmt: skip
        command = [sys.executable, __file__, tmp_path, how, str(int(stateful)), str(workers), str(rank), str(world)]
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        said = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world, "\n".join(said)
    return [json.loads(Path(tmp_path, f"found{rank}").read_text()) for rank in range(world)], said


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("how", "stateful"), [("prepare", False), ("prepare", True), ("ranks", False)])
def test_accelerate_trains_on_whole_epochs_and_resumes(adapter, gate, tmp_path, how, stateful, workers, world):
    found, said = run_accelerated(tmp_path, how, stateful, workers, world)

    def together(batches):
        return sorted(flat(flat(batches)))

    for epoch in range(3):
        of_ranks = [ranks["epochs"][epoch] for ranks in found]
        assert together(of_ranks) == list(range(N_ROWS))
        assert len({len(batches) for batches in of_ranks}) == 1, "as many on every rank"
        assert {len(batches) for batches in of_ranks} == {ranks["length"] for ranks in found}
    firsts = [found[0]["epochs"][epoch][0] for epoch in range(3)]
    assert len({tuple(rows) for rows in firsts}) == 3, "epochs differ"
    if not (workers and stateful):  # whose workers have begun when it is prepared
        assert len({*together([ranks["sought"] for ranks in found])} - {*flat(steps_of(0)[4:])}) == 0
    assert all(("torch.distributed runs 2 processes" in text) == (world == 2 and how == "prepare") for text in said)
    if how == "ranks" or (stateful and world == 1):
        before, rest, following = (together([ranks["resumed"][at] for ranks in found]) for at in range(3))
        assert sorted(before + rest) == sorted(rows_of([0, 1]))
        assert following == list(range(N_ROWS))
        second = flat([flat(parts) for parts in zip(*(ranks["resumed"][2] for ranks in found), strict=True)])
        assert sorted(second[:BATCH_ROWS]) == sorted(steps_of(2)[0])


def main(directory, how, stateful, workers, rank, world):
    import torch

    warnings.simplefilter("default")
    found = accelerated(directory, how, bool(int(stateful)), int(workers), int(rank), int(world))
    Path(directory, f"found{rank}").write_text(json.dumps(found))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
