"""Subsets: some rows of a phase as a view, none of which is read; numpy's indexing is the oracle."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from storegate import errors

N = 500
INDICES = {
    "slice": slice(20, 300),
    "step": slice(None, None, -3),
    "list": [3, 3, -1, 7],
    "mask": np.arange(N) % 3 == 1,
    "array": np.random.default_rng(0).permutation(N)[:200],
    "empty": slice(5, 5),
    "all": slice(None),
}


@pytest.fixture
def filled(gate):
    gate.add_data(["x", "y", "t"], [np.arange(N), np.arange(2.0 * N).reshape(N, 2), np.arange(N).astype(str)])
    gate.shuffle("train", seed=2)
    gate.astype("y", "f4")
    return gate


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_a_subset_is_what_numpy_picks(filled, index):
    x, y, t = (filled.get_data(name)[index] for name in "xyt")
    subset = filled["train"].subset(index)
    assert len(subset) == len(subset["x"]) == len(x)
    np.testing.assert_array_equal(subset["x"][:], x)
    np.testing.assert_array_equal(filled["train"]["y"].subset(index)[:], y)
    np.testing.assert_array_equal(subset["t"].data.compute(), t)
    dataset = subset.to_xarray()
    assert dataset.sizes["sample"] == len(x)
    np.testing.assert_array_equal(dataset["y"].values, y)
    rows = list(subset[["x", "y"]])
    assert len(rows) == len(x)
    if len(x):
        np.testing.assert_array_equal([row[0] for row in rows], x)
        np.testing.assert_array_equal(subset["x"][1:40:2], x[1:40:2])
        assert subset["x"][-1] == x[-1]
        found = list(subset[["x", "y"]].batches(16, shuffle=False))
        np.testing.assert_array_equal(np.concatenate([part[0] for part in found]), x)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in found]), y)
        whole = np.concatenate([batch["x"] for batch in subset.batches(16, seed=4)])
        assert sorted(whole) == sorted(x)
    assert "chosen rows of" in repr(subset)
    assert f"{len(x)} samples" in repr(subset)


def test_a_subset_of_a_subset_and_of_all_phases(filled):
    filled.add_data(["x", "y", "t"], [[1000, 1001], np.zeros((2, 2)), ["a", "b"]], phase="valid")
    x = filled.get_data("x")
    inner = filled["train"].subset(INDICES["array"]).subset(slice(10, 60))["x"].subset([0, -1, 5])
    np.testing.assert_array_equal(inner[:], x[INDICES["array"]][10:60][[0, -1, 5]])
    filled.compile()
    both = filled["all"].subset(slice(N - 2, None))
    np.testing.assert_array_equal(both["x"][:], [*x[-2:], 1000, 1001])


def test_weights_and_labels_are_of_the_subset(filled):
    subset = filled["train"].subset(INDICES["mask"])
    n = len(subset)
    weights = np.zeros(n)
    weights[7] = 1.0
    (batch,) = subset["x"].batches(n, weights=weights)
    assert set(batch) == {filled.get_data("x")[INDICES["mask"]][7]}
    with pytest.raises(errors.ShapeError, match=f"{n} rows"):
        subset["x"].batches(10, weights=np.ones(N))


def test_a_stream_of_a_subset_resumes(filled):
    view = filled["train"]["x"].subset(INDICES["array"])
    whole = [batch.tolist() for batch in view.batches(16, seed=1)]
    stream = view.batches(16, seed=1)
    stream.seek(0, 5)
    other = pickle.loads(pickle.dumps(view)).batches(16, seed=1) if filled.backend != "numpy" else copy.copy(stream)
    other.load_state_dict(stream.state_dict())
    assert [batch.tolist() for batch in other] == whole[5:]
    if filled.backend == "zarr":
        with pytest.raises(errors.StreamStateError):
            filled["train"]["x"].subset(INDICES["array"][::-1]).batches(16, seed=1).load_state_dict(stream.state_dict())


@pytest.mark.parametrize("index", [N, [0, N], 3, (1, 2), 1.5, "x", None, np.ones(3, bool), [[1]]], ids=str)
def test_what_is_no_subset_is_refused(filled, index):
    with pytest.raises((IndexError, TypeError)):
        filled["train"].subset(index)


def test_a_subset_is_not_written_to_and_stays_with_its_rows(filled):
    subset = filled["train"]["x"].subset([1, 2])
    before = filled.get_data("x")
    with pytest.raises(ValueError, match="subset"):
        subset[:] = 0
    with pytest.raises(ValueError, match="subset"):
        subset[0] = 0
    with pytest.raises(ValueError, match="subset"):
        del filled["train"].subset([1, 2])["x"]
    np.testing.assert_array_equal(filled.get_data("x"), before)
    with pytest.raises(errors.PhaseNotFoundError):
        filled["x"].subset([1])
    filled.add_data("x", [7])
    with pytest.raises(errors.ShapeError, match="take the subset again"):
        subset[:]
    with pytest.raises(errors.ShapeError, match="equal numbers of rows"):
        filled["train"].subset([1])
    with pytest.raises(errors.ShapeError, match="there are none"):
        filled["test"].subset([])
