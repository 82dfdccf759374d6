"""Tensors in pinned memory and on devices: the batches of the stream, in its order and with its state."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from storegate import StoreGate
from tests.streams.adapter_cases import BATCH_ROWS


@pytest.fixture
def cuda():
    """The name of a GPU."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    return "cuda"


@pytest.fixture
def named():
    """A gate with numbers of three dtypes, dates and text."""
    with StoreGate(data_id="a") as gate:
        n = 500
        gate.add_data({"x": np.random.default_rng(1).normal(size=(n, 7)).astype("f4"), "row": np.arange(n)})
        gate.add_data("name", np.array([f"row {row}" for row in range(n)]))
        yield gate


def equal(got, expected):
    """Compare the tensors, or text, of two batches."""
    assert got.keys() == expected.keys()
    for name, part in expected.items():
        here = got[name] if isinstance(got[name], np.ndarray) else got[name].cpu().numpy()
        np.testing.assert_array_equal(here, part)


@pytest.mark.parametrize("shuffle", [True, "blocks", False])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_come_on_the_device_in_the_order_of_the_stream(adapter, named, shuffle, prefetch):
    def stream():
        return named["train"].batches(BATCH_ROWS, shuffle=shuffle, seed=3, prefetch=prefetch)

    dataset = adapter.StreamDataset(stream(), prefetch_to="cpu")
    expected = stream()
    for _ in range(2):
        for got, want in zip(dataset, expected, strict=True):
            equal(got, want)


def test_tensors_are_sent_to_a_device_that_is_not_this_one(adapter, named):
    dataset = adapter.StreamDataset(named["train"].batches(BATCH_ROWS), prefetch_to="meta")
    for batch in dataset:
        assert (batch["x"].device.type, batch["row"].device.type) == ("meta", "meta")
        assert isinstance(batch["name"], np.ndarray)


def test_the_state_is_that_of_the_batches_given(adapter, named):
    view = named["train"]
    whole = list(view.batches(BATCH_ROWS, seed=5))
    dataset = adapter.StreamDataset(view.batches(BATCH_ROWS, seed=5), prefetch_to="cpu")
    for n_given, got in enumerate(dataset, 1):
        equal(got, whole[n_given - 1])
        state = dataset.state_dict()
        assert (state["epoch"], state["step"]) == ((0, n_given) if n_given < len(whole) else (1, 0))
        if n_given == 4:
            break
    resumed = adapter.StreamDataset(view.batches(BATCH_ROWS, seed=5), prefetch_to="cpu")
    resumed.load_state_dict(state)
    for got, want in zip(resumed, whole[4:], strict=True):
        equal(got, want)


def test_a_transform_comes_before_it(adapter, named):
    torch = pytest.importorskip("torch")
    stream = named["train"]["x"].batches(BATCH_ROWS, transform=lambda batch, rng: {"twice": 2 * batch})
    plain = named["train"]["x"].batches(BATCH_ROWS)
    for got, want in zip(adapter.StreamDataset(stream, prefetch_to="cpu"), plain, strict=True):
        assert torch.equal(got["twice"], torch.from_numpy(2 * want))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("options", [{"prefetch_to": "cpu"}, {"prefetch_to": "meta"}])
def test_workers_leave_it_to_their_loader(adapter, named, options):
    from torch.utils.data import DataLoader

    dataset = adapter.StreamDataset(named["train"]["x"].batches(BATCH_ROWS), **options)
    with pytest.raises(ValueError, match=r"pin_memory=True"):
        list(DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork"))


@pytest.mark.parametrize("device", ["cudda", "cuda:99", "", "vulkan"])
def test_devices_that_are_not_there_are_named(adapter, named, device):
    with pytest.raises(ValueError, match=rf"prefetch_to='{device}' is no device that PyTorch can use here"):
        adapter.StreamDataset(named["train"]["x"].batches(BATCH_ROWS), prefetch_to=device)


@pytest.mark.parametrize("options", [{"prefetch_to": 3}, {"prefetch_to": True}, {"pin": 1}, {"pin": "cuda"}])
def test_other_values_are_refused(adapter, named, options):
    with pytest.raises(TypeError, match=f"{next(iter(options))} is"):
        adapter.StreamDataset(named["train"]["x"].batches(BATCH_ROWS), **options)


def test_without_a_gpu_pinning_warns_and_changes_nothing(adapter, named, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stream = named["train"].batches(BATCH_ROWS)
    with pytest.warns(UserWarning, match="pin=True was requested, and PyTorch finds no CUDA device"):
        dataset = adapter.StreamDataset(stream, pin=True)
    for got, want in zip(dataset, named["train"].batches(BATCH_ROWS), strict=True):
        equal(got, want)


# --------------------------------------------------------------------------------------- with a GPU


def test_pinned_tensors(adapter, named, cuda):
    dataset = adapter.StreamDataset(named["train"].batches(BATCH_ROWS, seed=2), pin=True)
    for got, want in zip(dataset, named["train"].batches(BATCH_ROWS, seed=2), strict=True):
        assert all(got[name].is_pinned() and got[name].device.type == "cpu" for name in ("x", "row"))
        equal(got, want)


@pytest.mark.parametrize("shuffle", [True, "blocks", False])
def test_tensors_on_the_gpu(adapter, named, cuda, shuffle):
    dataset = adapter.StreamDataset(named["train"].batches(BATCH_ROWS, seed=2, shuffle=shuffle), prefetch_to=cuda)
    for _ in range(3):
        expected = named["train"].batches(BATCH_ROWS, seed=2, shuffle=shuffle, epoch=dataset.stream.epoch)
        for got, want in zip(dataset, expected, strict=True):
            assert all(got[name].is_cuda for name in ("x", "row"))
            equal(got, want)


@pytest.mark.parametrize("prefetch", [0, 1, 8])
def test_copies_wait_for_nothing_and_nothing_is_used_before_it_is_there(adapter, cuda, prefetch):
    """Batches are used on busy streams, and their memory is given back to PyTorch, which uses it again for others."""
    import torch

    rows = np.random.default_rng(1).integers(0, 2**31, (4000, 1000))
    with StoreGate(data_id="a") as gate:
        gate.add_data("x", rows)
        stream = gate["train"]["x"].batches(100, shuffle=False, prefetch=prefetch)
        dataset = adapter.StreamDataset(stream, prefetch_to=cuda)
        busy = torch.rand(4096, 4096, device=cuda)
        used_by = torch.cuda.Stream()
        used_by.wait_stream(torch.cuda.current_stream())
        sums = []
        for _ in range(3):
            with torch.cuda.stream(used_by):
                for batch in dataset:
                    for _ in range(3):
                        busy = torch.nn.functional.normalize(busy @ busy)  # what is behind it waits for it
                    sums.append(batch.sum())
                    del batch
        torch.cuda.synchronize()  # what reads the sums from here on does not wait for the other stream
        expected = np.tile(rows.reshape(40, -1).sum(1), 3)
        assert [int(total) for total in sums] == expected.tolist()


def test_a_loop_that_was_left_goes_on(adapter, named, cuda):
    view = named["train"]
    whole = list(view.batches(BATCH_ROWS, seed=5))
    dataset = adapter.StreamDataset(view.batches(BATCH_ROWS, seed=5), prefetch_to=cuda)
    given = [batch for _, batch in zip(range(4), dataset, strict=False)]
    gc.collect()
    for got, want in zip([*given, *dataset], whole, strict=True):
        equal(got, want)


def test_memory_on_the_gpu_is_that_of_the_batches_ahead(adapter, cuda):
    """Also where the loop hands out work faster than the device does it."""
    import torch

    with StoreGate(data_id="a") as gate:
        gate.add_data("x", np.zeros((64 * 100, 2500), "f4"))  # batches of 1 MB
        dataset = adapter.StreamDataset(gate["train"]["x"].batches(100, prefetch=2), prefetch_to=cuda)
        busy, other = torch.rand(2, 4096, 4096, device=cuda)
        for limit in (float("inf"), 8e6):  # the first products take memory of their own
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            for batch in dataset:
                for _ in range(5):
                    torch.mm(busy, busy, out=other)
                batch.sum()
            assert torch.cuda.max_memory_allocated() - before < limit


def test_lightning_gets_pinned_batches(named, cuda):
    pytest.importorskip("lightning")
    from storegate.adapters.lightning import DataModule

    for x, row in DataModule(named, ["x", "row"], BATCH_ROWS, pin=True).train_dataloader():
        assert all(part.is_pinned() for part in (x, row))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("how", ["DataModule", "prefetch_to"])
def test_lightning_trains_on_the_gpu_as_on_the_processor(adapter, cuda, tmp_path, how):
    torch, lightning = pytest.importorskip("torch"), pytest.importorskip("lightning")
    from storegate.adapters.lightning import DataModule

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(8, 1)
            self.devices = set()

        def training_step(self, batch, number):
            x, y = batch
            self.devices.add(x.device.type)
            return torch.nn.functional.mse_loss(self.layer(x)[:, 0], y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.05)

    def trained(accelerator, loaders):
        model = Model()
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = lightning.Trainer(
            max_epochs=2, accelerator=accelerator, devices=1, default_root_dir=tmp_path, **options
        )
        trainer.fit(model, **loaders)
        assert model.devices == {"cuda" if accelerator == "gpu" else "cpu"}
        return model.layer.weight.detach().cpu()

    x = np.random.default_rng(0).normal(size=(600, 8)).astype("f4")
    with StoreGate(data_id="a") as gate:
        gate.add_data({"x": x, "y": x.sum(axis=1)})
        view = gate["train"][["x", "y"]]
        expected = trained("cpu", {"train_dataloaders": adapter.StreamDataset(view.batches(50, seed=4))})
        if how == "DataModule":
            loaders = {"datamodule": DataModule(gate, ["x", "y"], 50, seed=4, pin=True)}
        else:
            loaders = {"train_dataloaders": adapter.StreamDataset(view.batches(50, seed=4), prefetch_to=cuda)}
        torch.testing.assert_close(trained("gpu", loaders), expected, rtol=1e-3, atol=1e-4)


def test_jax_batches_come_on_the_gpu(named, cuda):
    jax = pytest.importorskip("jax")
    from storegate.adapters.jax import DeviceBatches

    gpu = jax.devices("gpu")[0]
    view = named["train"]["x"]
    for got, want in zip(DeviceBatches(view.batches(BATCH_ROWS), gpu), view.batches(BATCH_ROWS), strict=True):
        assert got.devices() == {gpu}
        np.testing.assert_array_equal(np.asarray(got), want)
