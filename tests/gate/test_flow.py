"""A small flow as programs for the predecessor are written: tasks, agents, datasets and metrics around one gate."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import LabelError

N = 500
PHASES = ("train", "valid", "test")
BOUNDS = {"train": slice(0, 400), "valid": slice(400, 450), "test": slice(450, 500)}


def events():
    """Four-vectors of two particles, and which of them is real; separable by construction."""
    random = np.random.RandomState(5)
    labels = random.randint(0, 2, N)
    features = random.normal(size=(N, 4)) + labels[:, None] * 3
    return features.astype("f4"), labels


# ------------------------------------------------------------------------------ the program, as it was


class BaseTask:
    """What a task of the predecessor is: told its storegate, then executed."""

    def __init__(self, name=None):
        self._name = name
        self._storegate = None

    def set_hps(self, params):
        for key, value in params.items():
            setattr(self, "_" + key, value)

    @property
    def storegate(self):
        return self._storegate

    @storegate.setter
    def storegate(self, storegate):
        self._storegate = storegate

    def execute(self):
        raise NotImplementedError

    def finalize(self):
        pass


class PreprocessingTask(BaseTask):
    def execute(self):
        data = self.storegate.get_data(var_names=["px", "py", "pz", "e"], phase="train")
        mean, std = np.mean(data, axis=1), np.std(data, axis=1)
        for phase in PHASES:
            data = self.storegate.get_data(var_names=("px", "py", "pz", "e"), phase=phase)
            data -= mean  # what get_data returns is the caller's own
            data /= std
            self.storegate.update_data(var_names=("px", "py", "pz", "e"), data=data, phase=phase)
        self.storegate.compile(reset=True)


class MLTask(BaseTask):
    """Least squares for a model: fit on train, predict every phase, write the predictions."""

    def __init__(
        self, input_var_names=("px", "py", "pz", "e"), true_var_names="label", output_var_names="pred", **args
    ):
        super().__init__(**args)
        self._input_var_names = input_var_names
        self._true_var_names = true_var_names
        self._output_var_names = output_var_names

    def get_input_true_data(self, phase):
        x = self.storegate.get_data(var_names=self._input_var_names, phase=phase)
        y = self.storegate.get_data(var_names=self._true_var_names, phase=phase)
        return x, y

    def fit(self):
        x, y = self.get_input_true_data("train")
        self._weights = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0]

    def predict(self, phase):
        x, _ = self.get_input_true_data(phase)
        return np.c_[x, np.ones(len(x))] @ self._weights

    def predict_update(self):
        self.storegate.delete_data(var_names=self._output_var_names, phase="all")
        self.storegate.update_data(var_names=self._output_var_names, data=self.predict(phase="all"), phase="auto")
        self.storegate.compile()

    def execute(self):
        self.fit()
        self.predict_update()


class ACCMetric:
    """The predecessor's metrics mask the samples that are not active."""

    def __init__(self, pred_var_name="pred", true_var_name="label", active_var_name="active", phase="test"):
        self._pred_var_name = pred_var_name
        self._true_var_name = true_var_name
        self._active_var_name = active_var_name
        self._phase = phase
        self.storegate = None

    def calculate(self):
        y_true = self.storegate.get_data(self._true_var_name, self._phase)
        y_pred = self.storegate.get_data(self._pred_var_name, self._phase)
        active = self.storegate.get_data(self._active_var_name, self._phase) == True  # noqa: E712
        y_true, y_pred = y_true[active], y_pred[active]
        return np.sum((y_pred > 0.5) == y_true) / len(y_true)


class SequentialAgent:
    def __init__(self, storegate, tasks, metric):
        self._storegate, self._tasks, self._metric = storegate, tasks, metric

    def execute_finalize(self):
        for task in self._tasks:
            task.storegate = self._storegate
            task.execute()
            task.finalize()
        self._metric.storegate = self._storegate
        return self._metric.calculate()


class StoreGateDataset:
    """A map-style dataset as torch takes it."""

    def __init__(self, storegate, phase, input_var_names, true_var_names):
        self._storegate = storegate
        self._phase = phase
        self._input_var_names = input_var_names
        self._true_var_names = true_var_names
        self._size = len(storegate[phase])

    def __len__(self):
        return self._size

    def __getitem__(self, index):
        data = self._storegate.get_data(var_names=self._input_var_names, phase=self._phase, index=index)
        true = self._storegate.get_data(var_names=self._true_var_names, phase=self._phase, index=index)
        return data, true


def build(storegate):
    features, labels = events()
    storegate.add_data(var_names=("px", "py", "pz", "e"), data=features, phase=(0.8, 0.1, 0.1))
    storegate.add_data(var_names="label", data=labels, phase=(0.8, 0.1, 0.1))
    storegate.compile(reset=True, show_info=True)
    return features, labels


# ------------------------------------------------------------------------------------------ runs


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
        gate.onehot("label", num_classes=2, phase="all")
        row = int(np.flatnonzero(np.random.RandomState(1).permutation(400) == 123)[0])
        for read in (
            lambda: gate.get_data("label", "train"),
            lambda: gate.get_data("label", "train", index=[0, row]),
            lambda: gate["train"].to_xarray()["label"].compute(),
        ):
            with pytest.raises(LabelError) as caught:
                read()
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


# ------------------------------------------------------------------------------------- processes


class SpawnedAgent:
    """Runs one task in another process, as the predecessor's parallel agents do: the gate goes along."""

    def __init__(self, storegate, name):
        self._storegate = copy.deepcopy(storegate)
        self._name = name

    def __call__(self, queue):
        gate = self._storegate
        task = MLTask(output_var_names=f"pred_{self._name}")
        metric = ACCMetric(pred_var_name=f"pred_{self._name}")
        accuracy = SequentialAgent(gate, [task], metric).execute_finalize()
        report = (self._name, gate.backend, gate.data_id, accuracy, gate.get_var_names("test"))
        gate.set_data_id("results")
        gate.add_data(var_names="accuracy", data=np.array([[self._name, accuracy]]), phase="test")
        queue.put(report)


def run_agent(agent, queue):
    agent(queue)


def spawn(agents):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=run_agent, args=(agent, queue)) for agent in agents]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)
    reports = sorted(queue.get(timeout=10) for _ in processes)
    queue.close()
    queue.join_thread()
    return reports


class TestSpawnedAgents:
    def test_two_agents_add_results_to_one_store(self, stored):
        _, labels = build(stored)
        (first, *one), (second, *other) = spawn([SpawnedAgent(stored, name) for name in (1, 2)])
        assert (first, second) == (1, 2)
        assert one[:3] == other[:3] == ["zarr", "test_id", one[2]]
        for name in (1, 2):  # the parent's gate sees what was committed meanwhile
            predicted = stored.get_data(f"pred_{name}", "all")
            assert np.mean((predicted > 0.5) == labels) > 0.9
        stored.set_data_id("results")
        results = stored.get_data("accuracy", "test")
        assert sorted(results[:, 0]) == [1, 2]
        np.testing.assert_array_equal(results[:, 1], [one[2]] * 2)

    def test_a_gate_in_memory_travels_by_value(self):
        gate = StoreGate(backend="numpy", data_id="test_id")
        build(gate)
        ((_, backend, _, accuracy, names),) = spawn([SpawnedAgent(gate, 1)])
        assert backend == "numpy"
        assert accuracy > 0.9
        assert "pred_1" in names
        assert "pred_1" not in gate.get_var_names("test")

    def test_pickled_where_the_agents_of_a_pool_are(self, gate):
        features, _ = build(gate)
        gate.shuffle("train", seed=2)
        task = MLTask()
        task.storegate = gate
        other = pickle.loads(pickle.dumps(task))
        assert other.storegate is not gate
        x, _ = other.get_input_true_data("train")
        np.testing.assert_array_equal(x, features[:400][np.random.RandomState(2).permutation(400)])
        other.execute()
        assert ("pred" in gate["train"]) == (gate.backend != "numpy")
