"""Streams in real trainers: Lightning, Accelerate (two processes) and torchdata; every order replayed with numpy.

This file is also the program that two processes of Accelerate run.
"""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from storegate import StoreGate
from tests.streams.trainer_cases import BATCH_ROWS, N_ROWS, flat, lists, loader_of, rows_of, steps_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainers


ROOT = Path(__file__).parents[2]


@pytest.fixture
def adapter():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return importlib.import_module("storegate.adapters.torch")


# --------------------------------------------------------------------------------------- torchdata


@pytest.mark.parametrize(
    ("workers", "k"), [(0, 12), (2, 12), (3, 12), (2, 33), pytest.param(4, 33, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("keep", [False, True])
def test_a_stateful_loader_resumes_at_any_batch(adapter, numbered, workers, k, keep):
    pytest.importorskip("torchdata")
    n = len(loader_of(adapter.StreamDataset(numbered["train"]["row"].batches(k)), workers))

    def loader():
        dataset = adapter.StreamDataset(numbered["train"]["row"].batches(k))
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


def test_a_rank_whose_last_batch_is_not_of_its_last_worker_resumes_after_it(adapter, numbered):
    pytest.importorskip("torchdata")

    def loader():
        stream = numbered["train"]["row"].batches(33, rank=0, world=2)
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
def test_a_stateful_loader_goes_through_whole_epochs(adapter, numbered, workers):
    pytest.importorskip("torchdata")
    dataset = adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS))
    loader = loader_of(dataset, workers, stateful=True)
    for epoch in range(3):
        assert flat(lists(loader)) == rows_of([epoch])
        loader.state_dict()


def test_a_trainer_that_counts_from_zero_again_does_not_repeat_epochs(adapter, numbered):
    dataset = adapter.StreamDataset(numbered["train"]["row"].batches(BATCH_ROWS))
    place = numbered["train"]["row"].batches(BATCH_ROWS)
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


def test_a_loop_without_gradients_begins_its_epoch_again(adapter, numbered):
    import torch

    dataset = adapter.StreamDataset(numbered["valid"]["row"].batches(BATCH_ROWS))
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
    adapter, lightning, numbered, form, workers, shuffle
):
    def loaders():
        return [
            for_lightning(adapter, form, workers, numbered["train"]["row"].batches(BATCH_ROWS)),
            for_lightning(adapter, form, workers, numbered["valid"]["row"].batches(BATCH_ROWS, shuffle=shuffle)),
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
def test_lightning_resumes_at_the_batch_after_its_checkpoint(
    adapter, lightning, numbered, tmp_path, form, workers, steps
):
    stop = steps * max(1, workers) - (steps == 3 and workers == 2)  # within a step, too
    checkpoint = tmp_path / "checkpoint"

    def loader():
        return for_lightning(adapter, form, workers, numbered["train"]["row"].batches(BATCH_ROWS))

    first = lightning(loader(), checkpoint=checkpoint, stop=stop, max_epochs=3)
    assert len(first.rows) == stop
    resumed = lightning(loader(), checkpoint=checkpoint, max_epochs=3)
    assert flat(first.rows + resumed.rows) == rows_of(range(3))


@pytest.mark.slow
def test_a_data_module_is_made_from_a_gate_in_one_line(adapter, lightning, numbered, tmp_path):
    from storegate.adapters.lightning import DataModule

    checkpoint = tmp_path / "checkpoint"
    model = lightning(DataModule(numbered, "row", BATCH_ROWS), max_epochs=2)
    assert flat(model.rows) == rows_of(range(2))
    assert [flat(batches) for batches in model.validated[1:]] == [list(range(60))] * 2
    first = lightning(DataModule(numbered, "row", BATCH_ROWS), checkpoint=checkpoint, stop=13, max_epochs=3)
    resumed = lightning(DataModule(numbered, "row", BATCH_ROWS), checkpoint=checkpoint, max_epochs=3)
    assert flat(first.rows + resumed.rows) == rows_of(range(3))
    numbered.delete_data("row", phase="valid")
    model = lightning(DataModule(numbered, "row", BATCH_ROWS, drop_last=True, seed=5), max_epochs=1)
    assert model.validated == []
    for wrong in ({"batch_size": 0}, {"shufle": True}, {"var_names": "rwo"}):
        with pytest.raises((ValueError, TypeError, KeyError)):
            DataModule(numbered, **{"var_names": "row", "batch_size": 10, **wrong})
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
def test_accelerate_trains_on_whole_epochs_and_resumes(adapter, numbered, tmp_path, how, stateful, workers, world):
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
