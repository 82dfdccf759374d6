"""What adapters are called with: parts of a batch that have roles, and what is no stream."""

from __future__ import annotations

import collections
import importlib

import numpy as np
import pytest

from storegate import StoreGate
from storegate.adapters.roles import parse_roles
from storegate_engine.errors import ArgumentError, ArgumentTypeError, StoreGateError
from tests.streams.adapter_cases import BATCH_ROWS, N_ROWS


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
        with pytest.raises(ArgumentError, match="not one that JAX can put arrays on"):
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
