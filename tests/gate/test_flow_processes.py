"""The predecessor's program in processes of their own, to which the gate goes along."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

from storegate import StoreGate
from tests.gate.flow_cases import ACCMetric, MLTask, SequentialAgent, build


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

    @pytest.mark.slow
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
