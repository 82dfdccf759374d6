"""A small flow as programs for the predecessor are written: tasks, agents, datasets and metrics around one gate."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import LabelError
from tests import unchecked
from tests.gate.flow_cases import (
    BOUNDS,
    PHASES,
    ACCMetric,
    MLTask,
    N,
    PreprocessingTask,
    SequentialAgent,
    StoreGateDataset,
    build,
    events,
)


@pytest.fixture
def flow(gate):
    features, labels = build(gate)
    return gate, features, labels


class TestSequentialFlow:
    def test_runs_and_leaves_the_predictions(self, flow, capsys):
        gate, features, labels = flow
        agent = SequentialAgent(gate, [PreprocessingTask("scale"), MLTask(name="fit")], ACCMetric())
        assert agent.execute_finalize() > 0.9
        train = features[:400]
        scaled = (features - train.mean(axis=0)) / train.std(axis=0)
        np.testing.assert_allclose(gate.get_data(("px", "py", "pz", "e"), "all"), scaled, rtol=1e-4, atol=1e-5)
        weights = np.linalg.lstsq(np.c_[scaled[:400], np.ones(400)], labels[:400], rcond=None)[0]
        expected = np.c_[scaled, np.ones(N)] @ weights
        for phase in PHASES:
            np.testing.assert_allclose(gate.get_data("pred", phase), expected[BOUNDS[phase]], rtol=1e-3, atol=1e-4)
        assert gate.get_metadata()["sizes"] == {"train": 400, "valid": 50, "test": 50, "all": N}

    def test_runs_again(self, flow):
        """The same task twice: predictions are replaced, not appended."""
        gate, *_ = flow
        agent = SequentialAgent(gate, [MLTask(), MLTask()], ACCMetric())
        first, second = agent.execute_finalize(), agent.execute_finalize()
        assert first == second
        assert gate.get_var_names("test").count("pred") == 1

    def test_hyperparameters_and_a_list_of_outputs(self, flow):
        gate, _, labels = flow
        task = MLTask()
        task.set_hps({"output_var_names": ["pred", "twice"], "true_var_names": ("label", "label")})
        task.predict = lambda phase: [np.zeros(N, "f4"), np.ones((N, 2))]
        task.storegate = gate
        task.predict_update()
        assert gate.get_var_shapes(["pred", "twice"], "valid") == [(), (2,)]
        x, y = task.get_input_true_data("valid")
        assert (x.shape, y.shape) == ((50, 4), (50, 2))
        np.testing.assert_array_equal(y[:, 1], labels[400:450])

    def test_metric_masks_what_is_not_active(self, flow):
        gate, _, labels = flow
        gate.add_data(var_names="pred", data=labels.astype("f4"), phase=(0.8, 0.1, 0.1), do_compile=True)
        metric = ACCMetric()
        metric.storegate = gate
        assert metric.calculate() == 1.0
        wrong = gate.get_data("pred", "test", index=(10, 20))
        gate.update_data("pred", 1 - wrong, phase="test", index=(10, 20))
        assert metric.calculate() == pytest.approx(0.8)
        active = gate.get_data("active", "test")
        assert active.dtype == np.int64
        active[10:20] = 0
        gate.update_data("active", active, phase="test")
        assert metric.calculate() == 1.0
        assert (gate.get_data("active", "test") == True).sum() == 40  # noqa: E712
        gate.compile(reset=True)
        assert metric.calculate() == pytest.approx(0.8)

    def test_a_bad_label_is_found_by_its_row_and_value(self, flow):
        """Programs drop or correct the sample: its place in the phase travels with the error."""
        gate, *_ = flow
        gate.update_data("label", 7, phase="train", index=123)
        gate.shuffle("train", seed=1)
        row = int(np.flatnonzero(np.random.RandomState(1).permutation(400) == 123)[0])
        with pytest.raises(LabelError) as caught:
            gate.onehot("label", num_classes=2, phase="all")
        for phase in gate.phases:
            unchecked.onehot(gate, "label", 2, phase)
        assert caught.value.row == row
        for call in (
            lambda: gate.get_data("label", "train"),
            lambda: gate.get_data("label", "train", index=[0, row]),
            lambda: gate["train"].to_xarray()["label"].compute(),
        ):
            with pytest.raises(LabelError) as caught:
                call()
            error = pickle.loads(pickle.dumps(caught.value))
            assert (error.row, error.label) == (caught.value.row, caught.value.label) == (row, 7)
            assert str(error) == str(caught.value)

    def test_show_info_of_compile_is_printed(self, flow, capsys):
        gate, *_ = flow
        gate.compile(show_info=True)
        printed = capsys.readouterr().out
        assert all(word in printed for word in ("train", "valid", "test", "px", "label", "active"))


class TestDatasets:
    @pytest.mark.parametrize("phase", PHASES)
    def test_batches_equal_the_rows(self, flow, phase):
        gate, features, labels = flow
        dataset = StoreGateDataset(gate, phase, ("px", "py", "pz", "e"), "label")
        x, y = features[BOUNDS[phase]], labels[BOUNDS[phase]]
        assert len(dataset) == len(x)
        order = np.random.RandomState(0).permutation(len(x)).tolist()
        for start in range(0, len(x), 32):
            rows = order[start : start + 32]
            data, true = dataset[rows]
            assert (data.flags.writeable, data.dtype) == (True, np.float32)
            np.testing.assert_array_equal(data, x[rows])
            np.testing.assert_array_equal(true, y[rows])
        data, true = dataset[3]
        assert data.shape == (4,)
        np.testing.assert_array_equal(data, x[3])
        assert true == y[3]
        samples = [dataset[int(at)] for at in range(5)]
        np.testing.assert_array_equal(np.stack([data for data, _ in samples]), x[:5])

    def test_lists_of_names(self, flow):
        gate, features, _ = flow
        dataset = StoreGateDataset(gate, "train", ["px", "e"], ["label"])
        (px, e), (label,) = dataset[[7, 7, 399]]
        np.testing.assert_array_equal(px, features[[7, 7, 399], 0])
        np.testing.assert_array_equal(e, features[[7, 7, 399], 3])
        assert label.shape == (3,)

    def test_after_shuffle(self, flow):
        gate, features, labels = flow
        gate.shuffle(seed=9)
        dataset = StoreGateDataset(gate, "train", ("px", "py", "pz", "e"), "label")
        order = np.random.RandomState(9).permutation(400)
        data, true = dataset[[0, 399]]
        np.testing.assert_array_equal(data, features[:400][order][[0, 399]])
        np.testing.assert_array_equal(true, labels[:400][order][[0, 399]])

    def test_torch(self, flow):
        torch = pytest.importorskip("torch")
        gate, features, labels = flow
        dataset = StoreGateDataset(gate, "train", ("px", "py", "pz", "e"), "label")
        data, true = dataset[torch.tensor([5, 0])]
        np.testing.assert_array_equal(data, features[[5, 0]])
        loader = torch.utils.data.DataLoader(dataset, batch_size=64)
        found = torch.cat([batch for batch, _ in loader]).numpy()
        np.testing.assert_array_equal(found, features[:400])
        assert sum(int(true.sum()) for _, true in loader) == labels[:400].sum()


class TestDataIds:
    def test_switching(self, flow):
        """One agent runs the same task on several data_ids of one gate."""
        gate, features, _ = flow
        gate.set_data_id("step1")
        assert gate.get_var_names("train") == []
        build(gate)
        gate.update_data(var_names="label", data=np.zeros(N, int), phase="all")
        results = {}
        for data_id in ("test_id", "step1", "test_id"):
            gate.set_data_id(data_id)
            results[data_id] = SequentialAgent(gate, [MLTask()], ACCMetric()).execute_finalize()
            assert gate.data_id == data_id
        assert results["step1"] == 1.0
        assert sorted(gate.get_data_ids()) == ["step1", "test_id"]
        np.testing.assert_allclose(gate.get_data("pred", "all").mean(), events()[1].mean(), atol=0.1)
        gate.set_data_id("step1")
        np.testing.assert_allclose(gate.get_data("pred", "all"), 0, atol=1e-5)
        gate.clear_data()
        gate.set_data_id("test_id")
        np.testing.assert_array_equal(gate.get_data(("px", "py", "pz", "e"), "all"), features)


class TestHybrid:
    def test_training_data_go_to_memory_first(self, tmp_path):
        with StoreGate(backend="hybrid", backend_args={"output_dir": str(tmp_path / "store")}, data_id="a") as gate:
            _, labels = build(gate)
            inputs = ["px", "py", "pz", "e"]
            gate.to_memory(var_names=[*inputs, "label", "active"], phase="all")
            gate.set_mode("numpy")
            accuracy = SequentialAgent(gate, [PreprocessingTask(), MLTask()], ACCMetric()).execute_finalize()
            assert accuracy > 0.9
            gate.to_storage(var_names=["pred"], phase="all", output_var_names=["pred_stored"])
            gate.set_mode("zarr")
            kept = gate.get_data("pred_stored", "all")
            assert np.mean((kept > 0.5) == labels) > 0.9
            np.testing.assert_array_equal(gate.get_data(tuple(inputs), "all"), events()[0])  # as they were added
