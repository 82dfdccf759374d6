"""Adapters: what the frameworks get is what the stream gives; run by .ci/run where they are installed."""

from __future__ import annotations

import collections
import importlib
import itertools
import sys
import warnings

import numpy as np
import pytest

from storegate import StoreGate
from storegate.adapters.roles import parse_roles
from storegate_engine.errors import ArgumentError, ArgumentTypeError, StoreGateError

N_ROWS, BATCH_ROWS = 300, 32


@pytest.fixture
def filled(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 16}, data_id="a") as gate:
        x = np.random.default_rng(0).standard_normal((N_ROWS, 4)).astype("f4")
        gate.add_data(["x", "y", "row"], [x, (x.sum(axis=1) > 0).astype("i8"), np.arange(N_ROWS)])
        yield gate


@pytest.mark.parametrize("name", ["torch", "lightning", "keras", "sklearn", "jax"])
def test_a_missing_framework_is_named_with_its_extra(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"storegate.adapters.{name}", raising=False)
    with pytest.raises(ImportError, match=rf'needs {name}.*"storegate\[{name}\]"'):
        importlib.import_module(f"storegate.adapters.{name}")


# ------------------------------------------------------------------------------------------- torch


@pytest.fixture
def adapter():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return importlib.import_module("storegate.adapters.torch")


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


# ------------------------------------------------------------------------------------------- keras


@pytest.fixture
def keras_adapter(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras's own
        pytest.importorskip("keras")
        return importlib.import_module("storegate.adapters.keras")


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


# ------------------------------------------------------------------------------------------- roles


def test_parts_of_a_batch_have_roles():
    x, y, w = np.zeros((3, 2)), np.arange(3), np.ones(3)
    batch, names = {"x": x, "y": y, "w": w}, ("x", "y", "w")
    for given in (batch, [x, y, w]):
        assert [part is of for part, of in zip(parse_roles(names, "x", "y", "w").split(given), (x, y, w), strict=True)]
        inputs, target = parse_roles(names, ["x", "w"], {"out": "y"}, None).split(given)
        assert inputs[0] is x
        assert inputs[1] is w
        assert target["out"] is y
        assert len(parse_roles(names, "x", None, None).split(given)) == 1
        assert parse_roles(names, "x", None, "w").split(given)[1] is None
    assert len(parse_roles(names, None, None, None).split([x, y])) == 2
    with pytest.raises(ValueError, match="say which are inputs="):
        parse_roles(names, None, None, None).split(batch)
    with pytest.raises(ValueError, match="4 parts"):
        parse_roles(names, None, None, None).split([x, y, w, w])
    with pytest.raises(KeyError, match="did you mean 'x'"):
        parse_roles(names, "xx", "y", None).split(batch)
    for wrong in ({"inputs": 3}, {"inputs": []}, {"inputs": [1]}, {"inputs": "x", "sample_weight": ["w"]}):
        with pytest.raises(TypeError, match="name"):
            parse_roles(names, **{"inputs": None, "targets": None, "sample_weight": None, **wrong})
    with pytest.raises(ValueError, match="need inputs="):
        parse_roles(names, None, "y", None)


class Recorder:
    """An estimator that keeps what it was given."""

    def __init__(self):
        self.calls = []

    def partial_fit(self, x, y=None, classes=None, sample_weight=None):
        self.calls.append((x, y, classes, sample_weight))


@pytest.mark.parametrize("as_dict", [True, False])
def test_scikit_learn_gets_inputs_targets_classes_and_weights(filled, as_dict):
    sklearn = pytest.importorskip("sklearn.linear_model")
    from storegate.adapters.sklearn import partial_fit

    filled.add_data("w", np.linspace(0.5, 2, N_ROWS))
    view = filled["train"] if as_dict else filled["train"][["x", "y", "row", "w"]]
    seen = Recorder()
    stream = view.batches(BATCH_ROWS, seed=1)
    partial_fit(seen, stream, classes=[0, 1], inputs=["x", "row"], targets="y", sample_weight="w")
    x, y, row, w = (filled.get_data(name) for name in ("x", "y", "row", "w"))
    order = np.concatenate(list(filled["train"]["row"].batches(BATCH_ROWS, seed=1)))
    np.testing.assert_array_equal(np.concatenate([call[0] for call in seen.calls]), np.c_[x, row][order])
    np.testing.assert_array_equal(np.concatenate([call[1] for call in seen.calls]), y[order])
    np.testing.assert_array_equal(np.concatenate([call[3] for call in seen.calls]), w[order])
    assert all(call[2].tolist() == [0, 1] for call in seen.calls)
    model = partial_fit(
        sklearn.SGDClassifier(random_state=0), stream, epochs=5, classes=[0, 1], inputs="x", targets="y",
        sample_weight="w",
    )  # fmt: skip
    assert model.score(x, y) > 0.85
    with pytest.raises(ValueError, match="epochs"):
        partial_fit(seen, stream, epochs=-1)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("names", [None, ["x", "row", "y", "w"]])
def test_keras_trains_models_of_several_inputs_and_targets_with_weights(keras_adapter, filled, names):
    import keras

    filled.add_data("w", np.linspace(0.5, 2, N_ROWS))
    filled.astype("row", "f4")
    view = filled["train"] if names is None else filled["train"][names]
    a, b = keras.layers.Input((4,), name="a"), keras.layers.Input((1,), name="b")
    first = keras.layers.Dense(1, name="first", kernel_initializer="zeros")(a)
    second = keras.layers.Dense(1, name="second", kernel_initializer="zeros")(b)
    model = keras.Model([a, b], [first, second])
    model.compile("sgd", loss=["mse", "mse"])
    lists = {"inputs": ["x", "row"], "targets": ["y", "row"]}
    dicts = {"inputs": {"a": "x", "b": "row"}, "targets": {"first": "y", "second": "row"}}
    losses = []
    for roles in (lists, dicts):
        if roles is dicts:
            model = keras.Model({"a": a, "b": b}, {"first": first, "second": second})
            model.compile("sgd", loss={"first": "mse", "second": "mse"})
        dataset = keras_adapter.StreamDataset(view.batches(BATCH_ROWS, seed=1), **roles)
        found = model.evaluate(dataset, verbose=0, return_dict=True)
        losses.append(found["loss"])
    y, row, w = (filled.get_data(name).astype(float) for name in ("y", "row", "w"))
    np.testing.assert_allclose(losses, (y**2).mean() + (row**2).mean(), rtol=1e-4)
    single = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    single.compile("sgd", loss="mse", weighted_metrics=["mse"])
    dataset = keras_adapter.StreamDataset(view.batches(BATCH_ROWS, seed=1), inputs="x", targets="y", sample_weight="w")
    found = single.evaluate(dataset, verbose=0, return_dict=True)
    np.testing.assert_allclose(found["mse"], (w * y**2).sum() / w.sum(), rtol=1e-4)


# -------------------------------------------------------------------------------------- bad calls

NO_STREAMS = [None, 3, "x", [1], np.arange(3), iter([]), "view", "gate"]


def given(filled, item):
    """Return what stands for a view and a gate among things that are no streams."""
    return {"view": filled["train"][["x", "y"]], "gate": filled}.get(item, item) if isinstance(item, str) else item


@pytest.mark.parametrize("item", NO_STREAMS, ids=lambda item: f"{type(item).__name__}-{item}"[:12])
@pytest.mark.parametrize("name", ["torch", "keras", "jax", "sklearn"])
def test_what_is_no_stream_is_refused_by_name(filled, name, item):
    module = import_adapter(name)
    made = {
        "torch": lambda it: module.StreamDataset(it),
        "keras": lambda it: module.StreamDataset(it),
        "jax": lambda it: module.DeviceBatches(it),
        "sklearn": lambda it: module.partial_fit(Learner(), it),
    }
    with pytest.raises(ArgumentTypeError, match=r"takes a stream, as gate\[phase\]\[var_names\]\.batches"):
        made[name](given(filled, item))


def import_adapter(name):
    if name == "keras":
        pytest.importorskip("torch")  # the backend that .ci/run gives to Keras
    pytest.importorskip(name)
    return importlib.import_module(f"storegate.adapters.{name}")


class Learner:
    """An estimator that counts."""

    calls = 0

    def partial_fit(self, *args, **kwargs):
        self.calls += 1


@pytest.mark.parametrize("item", [None, 3, "x", np.arange(3), "gate", "stream"], ids=str)
def test_a_map_dataset_takes_views(filled, item):
    module = import_adapter("torch")
    stream = filled["train"][["x", "y"]].batches(4)
    with pytest.raises(ArgumentTypeError, match="takes a view"):
        module.MapDataset(stream if isinstance(item, str) and item == "stream" else given(filled, item))


@pytest.mark.parametrize("rows", ["x", ["x"], ("x", "y"), 1.5, None, [1.5], [10**9], 10**9])
def test_rows_of_a_map_dataset_are_numbers(filled, rows):
    dataset = import_adapter("torch").MapDataset(filled["train"][["x", "y"]])
    with pytest.raises(StoreGateError):
        dataset[rows]
    with pytest.raises(StoreGateError):
        dataset.__getitems__(rows)


@pytest.mark.parametrize("number", [1.5, "2", None, True, [1], -1])
def test_numbers_of_adapters(filled, number):
    stream = filled["train"][["x", "y"]].batches(4)
    with pytest.raises(StoreGateError, match="epoch"):
        import_adapter("torch").StreamDataset(stream).set_epoch(number)
    with pytest.raises(StoreGateError, match="epochs"):
        import_adapter("sklearn").partial_fit(Learner(), stream, epochs=number)
    with pytest.raises(StoreGateError, match="prefetch"):
        import_adapter("jax").DeviceBatches(stream, prefetch=number)


def test_devices_and_estimators_that_are_none(filled):
    stream = filled["train"][["x", "y"]].batches(4)
    for device in ("gpu9", 3):
        with pytest.raises(ArgumentError, match="none that JAX puts arrays on"):
            import_adapter("jax").DeviceBatches(stream, device)
    for estimator in (None, object()):
        with pytest.raises(ArgumentTypeError, match="partial_fit"):
            import_adapter("sklearn").partial_fit(estimator, stream)


def test_arrays_that_no_tensor_is_like_are_copied():
    as_tensors = import_adapter("torch").as_tensors
    for array in (np.arange(4, dtype=">f4"), np.arange(4)[::-1], np.arange(6).reshape(2, 3)[:, ::-1]):
        np.testing.assert_array_equal(as_tensors(array).numpy(), array)
    assert as_tensors(np.array([7], ">M8[s]")).tolist() == [7]
    assert as_tensors(np.datetime64(7, "s")).item() == 7
    pair = collections.namedtuple("pair", "a b")
    found = as_tensors(pair(np.zeros(1), np.ones(1)))
    assert isinstance(found, pair)
    assert found.b.tolist() == [1.0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("values", [[2**32], [-(2**31) - 1], [5, 2**40]])
def test_whole_numbers_that_jax_would_cut_are_refused(tmp_path, values):
    pytest.importorskip("jax")
    adapter = importlib.import_module("storegate.adapters.jax")
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a")
    gate.add_data(["x", "u", "f"], [np.array(values), np.array(values).view("u8"), np.array(values, "f8")])
    for names in ("x", "u", ["f", "x"], ("x", "x")):
        with pytest.raises(TypeError, match=r"cut u?int64 to u?int32.*jax_enable_x64"):
            list(adapter.DeviceBatches(gate["train"][names].batches(2)))
    small = np.array([2**31 - 1, -(2**31)])
    gate.add_data("x", small, phase="valid")
    (batch,) = adapter.DeviceBatches(gate["valid"]["x"].batches(2, shuffle=False))
    np.testing.assert_array_equal(np.asarray(batch), small)
