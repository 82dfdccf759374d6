"""A program as it was written for the predecessor: tasks, a metric, an agent, a dataset."""

from __future__ import annotations

import numpy as np

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
