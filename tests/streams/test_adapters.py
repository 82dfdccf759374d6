"""Adapters: what the frameworks get is what the stream gives; run by .ci/run where they are installed."""

from __future__ import annotations

import importlib
import itertools
import sys
import warnings

import numpy as np
import pytest

from storegate import StoreGate
from tests.streams.adapter_cases import BATCH_ROWS, N_ROWS


@pytest.mark.parametrize("name", ["torch", "lightning", "keras", "sklearn", "jax"])
def test_a_missing_framework_is_named_with_its_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"storegate.adapters.{name}", raising=False)
    with pytest.raises(ImportError, match=rf'needs {name}.*"storegate\[{name}\]"'):
        importlib.import_module(f"storegate.adapters.{name}")


def loader_of(dataset, workers=0, method=None, **options):
    from torch.utils.data import DataLoader

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says of workers and cores
        context = {"multiprocessing_context": method, "persistent_workers": True} if workers else {}
        return DataLoader(dataset, batch_size=None, num_workers=workers, **context, **options)


def test_tensors_share_the_memory_of_arrays(adapter):
    import torch

    arrays = {"x": np.zeros((3, 2), "f4"), "names": np.array(["a", "b"]), "both": [np.arange(3), np.arange(2.0)]}
    tensors = adapter.as_tensors(arrays)
    arrays["x"] += 1
    arrays["both"][0][:] = 7
    assert tensors["x"].tolist() == [[1, 1], [1, 1], [1, 1]]
    assert tensors["both"][0].tolist() == [7, 7, 7]
    assert tensors["names"] is arrays["names"]
    assert isinstance(adapter.as_tensors(np.float32(2)), torch.Tensor)


@pytest.mark.parametrize("shuffle", [True, "blocks"])
def test_a_loader_without_workers_gives_the_batches_of_the_stream(adapter, filled, shuffle):
    options = {"block_rows": 1, "buffer_blocks": 64} if shuffle == "blocks" else {}
    view = filled["train"][["x", "row"]]
    expected = view.batches(BATCH_ROWS, shuffle=shuffle, **options)
    loader = loader_of(adapter.StreamDataset(view.batches(BATCH_ROWS, shuffle=shuffle, **options)))
    for _ in range(2):
        for (x, row), (expected_x, expected_row) in zip(loader, expected, strict=True):
            np.testing.assert_array_equal(x.numpy(), expected_x)
            np.testing.assert_array_equal(row.numpy(), expected_row)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_workers_of_a_loader_divide_every_step(adapter, filled, method):
    view = filled["train"][["x", "row"]]
    dataset = adapter.StreamDataset(view.batches(BATCH_ROWS, seed=3))
    loader = loader_of(dataset, 2, method, timeout=120)
    whole = filled["train"]["row"].batches(BATCH_ROWS, seed=3)
    values = filled["train"]["x"][:]
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # forked: the slower reader, see arrays
            found = list(loader)
        for x, row in found:
            np.testing.assert_array_equal(x.numpy(), values[row.numpy()])
        rows = [row.numpy() for _, row in found]
        expected = list(whole)
        assert len(rows) == 2 * len(expected)
        for step, batch in enumerate(expected):
            np.testing.assert_array_equal(np.concatenate(rows[2 * step : 2 * step + 2]), batch)


def test_a_dataset_resumes_at_its_state(adapter, filled):
    view = filled["train"]["row"]
    whole = [batch.tolist() for batch in view.batches(BATCH_ROWS, epoch=1)]
    dataset = adapter.StreamDataset(view.batches(BATCH_ROWS))
    dataset.set_epoch(1)
    batches = iter(dataset)
    first = [next(batches).tolist() for _ in range(4)]
    other = adapter.StreamDataset(view.batches(BATCH_ROWS))
    other.load_state_dict(dataset.state_dict())
    assert first + [batch.tolist() for batch in other] == whole


def test_the_current_epoch_can_be_set_and_is_not_begun_again(adapter, filled):
    dataset = adapter.StreamDataset(filled["train"]["row"].batches(BATCH_ROWS))
    for epoch in (0, 2):
        dataset.stream.seek(epoch, 3)
        dataset.set_epoch(epoch)
        assert len(list(dataset)) == 7
        assert dataset.state_dict()["epoch"] == epoch + 1
    batches = iter(dataset)
    next(batches)
    dataset.set_epoch(3)  # a loop that runs is not disturbed
    assert len(list(batches)) == 9
    dataset.set_epoch(0)
    assert (dataset.stream.epoch, dataset.stream.step) == (0, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_by_index_work_with_torchs_own_samplers(adapter, filled, workers):
    import torch
    from torch.utils.data import DataLoader

    dataset = adapter.MapDataset(filled["train"][["x", "row"]])
    assert len(dataset) == N_ROWS
    generator = torch.Generator().manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"multiprocessing_context": "spawn", "timeout": 120} if workers else {}
        loader = DataLoader(dataset, BATCH_ROWS, shuffle=True, generator=generator, num_workers=workers, **options)
        found = list(loader)
    values = filled["train"]["x"][:]
    rows = np.concatenate([row.numpy() for _, row in found])
    assert sorted(rows) == list(range(N_ROWS))
    np.testing.assert_array_equal(np.concatenate([x.numpy() for x, _ in found]), values[rows])


def test_one_index_a_list_and_a_tensor_pick_rows(adapter, filled):
    """What programs of the predecessor do with their datasets, and with get_data itself."""
    import torch

    values = filled["train"]["x"][:]
    one = adapter.MapDataset(filled["train"]["x"])
    each = adapter.MapDataset(filled["train"][["x", "y"]])
    for index in (3, [5, 2, 5], torch.tensor([5, 2, 5])):
        picked = values[np.asarray(index)]
        np.testing.assert_array_equal(one[index].numpy(), picked)
        np.testing.assert_array_equal(each[index][0].numpy(), picked)
        np.testing.assert_array_equal(filled.get_data("x", "train", index), picked)
    assert [sample[1].item() for sample in each.__getitems__([0, 1])] == filled["train"]["y"][:2].tolist()


def test_rows_of_a_phase_without_names_are_dicts(adapter, filled):
    dataset = adapter.MapDataset(filled["train"])
    assert len(dataset) == N_ROWS
    x, y = filled["train"]["x"][:], filled["train"]["y"][:]
    for index in (3, [5, 2, 5], slice(0, 4)):
        rows = dataset[index]
        assert list(rows) == ["x", "y", "row"]
        np.testing.assert_array_equal(rows["x"].numpy(), x[index])
        np.testing.assert_array_equal(rows["y"].numpy(), y[index])
    from torch.utils.data import DataLoader

    found = list(DataLoader(dataset, BATCH_ROWS))
    np.testing.assert_array_equal(np.concatenate([batch["x"].numpy() for batch in found]), x)
    np.testing.assert_array_equal(np.concatenate([batch["row"].numpy() for batch in found]), np.arange(N_ROWS))


@pytest.mark.parametrize("dtype", ["M8[s]", "M8[D]", "m8[ms]"])
def test_dates_are_whole_numbers_and_this_is_said(adapter, tmp_path, dtype):
    import torch

    dates = np.array([*range(10), np.iinfo("i8").min], "i8").view(dtype)  # NaT comes last
    gate = StoreGate("zarr", {"output_dir": tmp_path / "dates"}, data_id="a")
    gate.add_data(["t", "row"], [dates, np.arange(11)])
    with pytest.warns(UserWarning, match=r"no dates: 't' .*int64"):
        dataset = adapter.StreamDataset(gate["train"][["t", "row"]].batches(4, shuffle=False))
    found = torch.cat([t for t, _ in dataset])
    np.testing.assert_array_equal(found.numpy().view(dtype), dates)
    with pytest.warns(UserWarning, match="no dates: 't'"):
        rows = adapter.MapDataset(gate["train"])
    assert rows[3]["t"].item() == 3
    assert rows[3]["t"].dtype == torch.int64


@pytest.mark.filterwarnings("ignore")
def test_keras_trains_on_every_row_of_every_epoch(keras_adapter, filled):
    import keras

    keras.utils.set_random_seed(1)
    dataset = keras_adapter.StreamDataset(filled["train"][["x", "y"]].batches(BATCH_ROWS))
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"])
    history = model.fit(dataset, epochs=4, shuffle=False, verbose=0)
    assert dataset.stream.epoch == 4
    assert history.history["accuracy"][-1] > 0.9


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("steps", [None, 3, 10])
def test_keras_gets_whole_epochs_one_after_the_other(keras_adapter, filled, shuffle, steps):
    import keras

    class Seen(keras.Model):
        def __init__(self):
            super().__init__()
            self.rows = []
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            self.rows.append(data[1].cpu().numpy())
            return {}

    view = filled["train"][["x", "row"]]
    dataset = keras_adapter.StreamDataset(view.batches(BATCH_ROWS, seed=2))
    model = Seen()
    model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
    options = {} if steps is None else {"steps_per_epoch": steps}
    model.fit(dataset, epochs={None: 3, 3: 12, 10: 3}[steps], shuffle=shuffle, verbose=0, **options)
    assert (dataset.stream.epoch, dataset.stream.step) == (3, 0)
    whole = filled["train"]["row"].batches(BATCH_ROWS, seed=2)
    for epoch in range(3):
        expected, found = list(whole), model.rows[10 * epoch : 10 * epoch + 10]
        if epoch == 0 and shuffle:  # a batch that Keras has looked at comes when it asks for it again
            expected.sort(key=lambda rows: rows.tolist())
            found.sort(key=lambda rows: rows.tolist())
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_items_follow_a_stream_that_was_moved(keras_adapter, filled):
    view = filled["train"]["row"]
    dataset = keras_adapter.StreamDataset(view.batches(BATCH_ROWS))
    state = view.batches(BATCH_ROWS, epoch=4).state_dict()
    dataset[0]
    dataset.stream.load_state_dict(state)
    for index, batch in enumerate(view.batches(BATCH_ROWS, epoch=4)):
        np.testing.assert_array_equal(dataset[index], batch)
    np.testing.assert_array_equal(dataset[9], batch)


def test_items_are_the_steps_of_the_epoch_in_any_order(keras_adapter, filled):
    view = filled["train"]["row"]
    dataset = keras_adapter.StreamDataset(view.batches(BATCH_ROWS))
    for epoch in range(2):
        expected = list(view.batches(BATCH_ROWS, epoch=epoch))
        for index in (0, 0, 1, 2, 7, 3, 9):
            dataset.on_epoch_end()  # not yet
            np.testing.assert_array_equal(dataset[index], expected[index])
        dataset.on_epoch_end()


# ----------------------------------------------------------------------------------- scikit-learn


def test_partial_fit_learns_from_batches(filled):
    linear_model = pytest.importorskip("sklearn.linear_model")
    adapter = importlib.import_module("storegate.adapters.sklearn")
    model = linear_model.SGDClassifier(random_state=0)
    stream = filled["train"][["x", "y"]].batches(BATCH_ROWS, drop_last="pad")
    assert adapter.partial_fit(model, stream, epochs=5, classes=[0, 1]) is model
    assert stream.epoch == 5
    assert model.score(filled["train"]["x"][:], filled["train"]["y"][:]) > 0.9


def test_partial_fit_gives_the_batches_as_they_come(filled):
    pytest.importorskip("sklearn")
    adapter = importlib.import_module("storegate.adapters.sklearn")

    class Kept:
        def __init__(self):
            self.rows = []

        def partial_fit(self, rows, targets=None):
            self.rows.append(rows)

    view = filled["train"]["x"]
    expected = list(view.batches(BATCH_ROWS))
    for found, batch in zip(adapter.partial_fit(Kept(), view.batches(BATCH_ROWS)).rows, expected, strict=True):
        np.testing.assert_array_equal(found, batch)
    with pytest.raises(ValueError, match="inputs and targets"):
        adapter.partial_fit(Kept(), filled["train"].batches(BATCH_ROWS))


# --------------------------------------------------------------------------------------------- jax


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prefetch", [0, 2, 20])
def test_epochs_on_a_device_are_whole_however_they_are_taken(filled, prefetch):
    pytest.importorskip("jax")
    adapter = importlib.import_module("storegate.adapters.jax")
    view = filled["train"]["x"]
    batches = adapter.DeviceBatches(view.batches(BATCH_ROWS), prefetch=prefetch)
    takes = [list, lambda it: list(itertools.islice(it, 10)), lambda it: [b for _, b in zip(range(10), it)]]  # noqa: B905
    for epoch, take in enumerate([*takes, *reversed(takes)]):
        for one, other in zip(take(batches), view.batches(BATCH_ROWS, epoch=epoch), strict=True):
            np.testing.assert_array_equal(np.asarray(one), other)
        assert (batches.state_dict()["epoch"], batches.state_dict()["step"]) == (epoch + 1, 0)


@pytest.mark.filterwarnings("ignore")
def test_batches_on_a_device_are_those_of_the_stream_and_resume(filled):
    jax = pytest.importorskip("jax")
    adapter = importlib.import_module("storegate.adapters.jax")
    view = filled["train"]["x"]
    expected = [*view.batches(BATCH_ROWS), *view.batches(BATCH_ROWS, epoch=1)]
    batches = adapter.DeviceBatches(view.batches(BATCH_ROWS))
    first = []
    for batch in batches:
        first.append(batch)
        if len(first) == 3:
            break
    assert isinstance(first[0], jax.Array)
    resumed = adapter.DeviceBatches(view.batches(BATCH_ROWS))
    resumed.load_state_dict(batches.state_dict())
    found = [*first, *resumed, *resumed]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one), other)
