"""Rows that a phase has twice count twice: in statistics, scales, casts, batches, copies; numpy is the oracle."""

from __future__ import annotations

import dask
import numpy as np
import pytest

from storegate import StoreGate

N = 40
X = np.random.default_rng(0).normal(size=N) ** 3
PICKS = {
    "one row twice": [1, 1, 3],
    "overlapping runs": [*range(10), *range(5, 20)],
    "apart": [3, 4, 5, 20, 21, 3],
    "sorted draw": np.sort(np.random.default_rng(1).integers(0, N, N)).tolist(),
    "all twice": [*range(N), *range(N)],
    "none twice": [*range(30, 40), *range(10)],
}


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store", "chunk": 7}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data({"x": X, "n": np.arange(N)})
        yield gate


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("pick", PICKS)
class TestPicked:
    def rows(self, gate, pick, shuffled):
        order = np.arange(N)
        if shuffled:
            gate.shuffle(seed=3, phase="train")
            order = np.random.RandomState(3).permutation(N)
        gate.select(PICKS[pick])
        return order[PICKS[pick]]

    def test_statistics_are_those_of_the_rows(self, gate, pick, shuffled):
        rows = self.rows(gate, pick, shuffled)
        found = gate["train"].describe().loc["x"]
        assert found["mean"] == pytest.approx(X[rows].mean())
        assert (found["min"], found["max"]) == (X[rows].min(), X[rows].max())
        gate.standardize("x")
        scaled = (X[rows] - X[rows].mean()) / X[rows].std()
        np.testing.assert_allclose(gate["train"]["x"][:], scaled, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("shuffle", [True, False, "blocks"])
    def test_batches_have_each_as_often(self, gate, pick, shuffled, shuffle):
        rows = self.rows(gate, pick, shuffled)
        shuffle = True if shuffled else shuffle  # blocks are of rows in stored order
        with dask.config.set({"storegate.shuffle": "exchange"}):
            with gate["train"]["n"].batches(4, shuffle=shuffle, seed=2, epochs=2) as stream:
                for _ in range(2):
                    np.testing.assert_array_equal(np.sort(np.concatenate(list(stream))), np.sort(rows))
            gate.shuffle(seed=5, phase="train")
            expected = rows[np.random.RandomState(5).permutation(len(rows))]
            assert gate["train"].to_xarray()["n"].sum().compute() == rows.sum()
            np.testing.assert_array_equal(np.concatenate(list(gate["train"]["n"].batches(5, shuffle=False))), expected)
            gate.compact()
        np.testing.assert_array_equal(gate["train"]["n"][:], expected)

    def test_rows_of_several_phases_are_those_of_each(self, gate, pick, shuffled):
        rows = self.rows(gate, pick, shuffled)
        gate.split((0.5, 0.3, 0.2), seed=1)
        gate.compile()
        with dask.config.set({"storegate.shuffle": "exchange"}):
            found = np.concatenate(list(gate["all"]["n"].batches(4, shuffle=True, seed=1)))
        np.testing.assert_array_equal(np.sort(found), np.sort(rows))


def test_a_cast_looks_at_the_rows_of_the_phase(gate):
    gate.add_data("t", np.array(["0", "1", "x", *["3"] * (N - 3)]))
    gate.select([1, 1, 3])
    gate.astype("t", "int8")
    assert gate["train"]["t"][:].tolist() == [1, 1, 3]


@pytest.mark.parametrize("weights", [None, "some"])
def test_an_epoch_of_no_batch_is_empty(gate, weights):
    gate.select([1, 1, 3])
    options = {} if weights is None else {"weights": np.ones(3)}
    with dask.config.set({"storegate.shuffle": "exchange"}):
        assert not list(gate["train"]["x"].batches(20, drop_last=True, world=2, shuffle=True, **options))
