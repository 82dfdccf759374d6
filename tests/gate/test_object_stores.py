"""Gates on an S3 server: what is read there equals what is read from a directory, whatever the rows are."""

from __future__ import annotations

import dask
import numpy as np
import pytest

from storegate import StoreGate

N_ROWS = 300
RANDOM = np.random.default_rng(0)
VALUES = {
    "x": RANDOM.random((N_ROWS, 3, 4), dtype="f4"),
    "y": RANDOM.integers(0, 3, N_ROWS),
    "when": np.arange(N_ROWS).astype("M8[s]"),
    "text": np.array([f"row {at}" * (at % 3) for at in range(N_ROWS)], np.dtypes.StringDType()),
}


def stored(args):
    """Return a gate with two segments of several shards each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storegate_engine.budget.SHARD_NBYTES", 2**13)
        gate = StoreGate("zarr", {**args, "chunk": 16, "budget": "256MiB"}, "a")
        for part in (slice(0, 190), slice(190, N_ROWS)):
            gate.add_data(list(VALUES), [values[part] for values in VALUES.values()])
    gate.compile()
    return gate


@pytest.fixture(scope="module")
def gate(new_s3_args):
    """A gate that tests leave as it is."""
    return stored(new_s3_args())


@pytest.fixture
def scattered():
    return np.random.default_rng(1).integers(-N_ROWS, N_ROWS, 250)


@pytest.mark.slow
def test_every_dtype_reads_as_numpy_does(gate, scattered):
    for name, values in VALUES.items():
        for index in (slice(17, 220), scattered, 299):
            np.testing.assert_array_equal(gate["train"][name][index], values[index], err_msg=f"{name}, {index}")


def test_a_shuffled_phase_with_transforms(s3_args, scattered):
    gate = stored(s3_args)
    gate.onehot("y", 3)
    gate.astype("x", "f8")
    gate.shuffle("train", 7)
    order = np.random.RandomState(7).permutation(N_ROWS)
    found = gate["train"][["x", "y", "text"]][scattered]
    for rows, expected in zip(found, (VALUES["x"].astype("f8"), np.eye(3)[VALUES["y"]], VALUES["text"]), strict=True):
        np.testing.assert_array_equal(rows, expected[order][scattered])
    np.testing.assert_array_equal(gate["train"].to_xarray()["x"].values, VALUES["x"].astype("f8")[order])
    gate.compact()
    np.testing.assert_array_equal(gate.get_data("x"), VALUES["x"].astype("f8")[order])


@pytest.mark.parametrize("shuffle", [False, "blocks", True])
def test_a_stream_of_several_variables_goes_on_where_it_was_left(gate, shuffle):
    names = ["x", "y", "when"]
    with gate["train"][names].batches(64, shuffle=shuffle, seed=3) as stream:
        rows = stream.rows(0)
        batches = iter(stream)
        first = [next(batches) for _ in range(3)]
        state = stream.state_dict()
    with gate["train"][names].batches(64, shuffle=shuffle, seed=3) as stream:
        stream.load_state_dict(state)
        rest = list(stream)
    for name, *parts in zip(names, *first, *rest, strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), VALUES[name][rows])


def test_a_uniform_epoch_of_more_than_memory_holds(gate, tmp_path):
    configured = {"storegate.shuffle": "exchange", "storegate.scratch-directory": str(tmp_path / "scratch")}
    with dask.config.set(configured), gate["train"][["x", "y"]].batches(50, shuffle=True, seed=5) as stream:
        for epoch in range(2):
            rows = stream.rows(epoch)
            x, y = map(np.concatenate, zip(*stream, strict=True))
            np.testing.assert_array_equal(x, VALUES["x"][rows])
            np.testing.assert_array_equal(y, VALUES["y"][rows])
