"""Epochs whose first is the order in which a shuffle was compacted: read in order, others as always."""

from __future__ import annotations

import numpy as np
import pytest

from storegate import StoreGate
from tests.replays import exchanging

N_ROWS = 3_000

pytestmark = pytest.mark.usefixtures("scratch")


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def compacted(request, tmp_path):
    """A gate with rows that were shuffled, and compacted."""
    args = {"copy": False} if request.param == "numpy" else {"output_dir": tmp_path / "store", "chunk": 100}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data({"x": np.arange(N_ROWS), "wide": np.arange(N_ROWS * 100.0).reshape(N_ROWS, 100)})
        gate.shuffle("train", seed=7)
        gate.compact("train")
        yield gate


def rows(stream):
    return np.concatenate([x for x, _ in stream])


@pytest.mark.parametrize("plan", ["auto", "exchange"])
@pytest.mark.parametrize("epochs", [None, 1, 3])
def test_the_first_epoch_is_the_stored_order_and_others_are_drawn(compacted, plan, epochs):
    view = compacted["train"][["x", "wide"]]
    with exchanging(plan):
        stream = view.batches(256, seed=3, first="stored", epochs=epochs)
    stored = np.random.RandomState(7).permutation(N_ROWS)
    np.testing.assert_array_equal(rows(stream), stored)
    np.testing.assert_array_equal(stream.rows(0), np.arange(N_ROWS))
    if epochs == 1:
        return
    drawn = view.batches(256, seed=3, epoch=1)
    for _ in range(2):
        np.testing.assert_array_equal(rows(stream), rows(drawn))


@pytest.mark.parametrize("world", [1, 3])
def test_it_resumes_and_is_shared_by_ranks(compacted, world):
    view = compacted["train"][["x", "wide"]]
    stored = view[:][0]
    states, given = [], []
    for rank in range(world):
        stream = view.batches(300, first="stored", rank=rank, world=world)
        for x, _ in stream:
            given.append(x)
            if stream.step == 4:
                break
        states.append(stream.state_dict())
    assert all(state == states[0] for state in states)
    assert states[0]["order"]["first"] == "stored"
    assert sorted(np.concatenate(given)) == sorted(stored[: 4 * 300])
    rest = view.batches(300, first="stored")
    rest.load_state_dict(states[-1])
    np.testing.assert_array_equal(rows(rest), stored[4 * 300 :])
    with pytest.raises(ValueError, match=r"another order: first 'stored' \(here None\)"):
        view.batches(300).load_state_dict(states[0])


def test_stored_rows_are_read_once_and_nothing_is_spilled(compacted, scratch, counted_reads):
    with exchanging("exchange"):
        stream = compacted["train"][["x", "wide"]].batches(256, first="stored")
    for step, _ in enumerate(stream, 1):
        assert not list(scratch.glob("*/*-map-*"))
        if step == len(stream):
            break
    assert len(counted_reads) <= 2 * (N_ROWS // 100 + 1)


@pytest.mark.parametrize("backend", ["numpy", "zarr"])
def test_it_holds_as_long_as_the_rows_do(tmp_path, backend):
    args = None if backend == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(backend, args, data_id="a") as gate:
        gate.add_data("x", np.arange(100), shuffle=3)
        refused = pytest.raises(ValueError, match=r"first='stored'.*call shuffle\(\) and compact\(\)")

        def stream():
            return gate["train"]["x"].batches(10, first="stored")

        with refused:
            stream()  # a shuffle of which nothing is stored yet
        gate.compact("train")
        np.testing.assert_array_equal(np.concatenate(list(stream())), np.random.RandomState(3).permutation(100))
        gate.astype("x", "float32")
        assert next(iter(stream())).dtype == np.float32
        gate.compact("train")
        assert len(list(stream())) == 10, "written again in the same order"
        gate.update_data("x", [0.5], index=3)
        with refused:
            stream()
        gate.undo()
        assert len(list(stream())) == 10
        gate.add_data("x", np.arange(5, dtype="f4"))
        with refused:
            stream()
        gate.compact("train")
        with refused:
            stream()
        gate.sort("x")
        with refused:
            stream()
        gate.compact("train")
        with refused:
            stream()
        gate.shuffle("train", seed=1)
        gate.compact("train")
        assert len(list(stream())) == 11


def test_it_survives_the_process(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data({"x": np.arange(100), "y": np.arange(100)}, phase=(0.8, 0.2, 0.0))
        gate.shuffle("all", seed=7)
        gate.compact("all")
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "mode": "r"}, data_id="a") as gate:
        for phase in ("train", "valid"):
            x, y = map(np.concatenate, zip(*gate[phase][["x", "y"]].batches(7, first="stored"), strict=True))
            np.testing.assert_array_equal(x, gate[phase]["x"][:])
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"first": "store"}, "first is 'stored' or None"),
        ({"first": True}, "first is 'stored' or None"),
        ({"first": "stored", "shuffle": "blocks"}, "shuffle='blocks'"),
        ({"first": "stored", "shuffle": False}, "shuffle=False"),
        ({"first": "stored", "weights": np.ones(100)}, "found weights="),
        ({"first": "stored", "balance": "x"}, "found balance="),
        ({"first": "stored", "bucket_by": "x"}, "found bucket_by="),
    ],
)
def test_what_does_not_go_together_is_refused(options, match):
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(100))
    with pytest.raises(ValueError, match=match):
        gate["train"]["x"].batches(10, **options)


@pytest.mark.parametrize("n_rows", [0, 1])
def test_phases_of_no_or_one_row_are_in_any_order(n_rows):
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(n_rows))
    assert [batch.tolist() for batch in gate["train"]["x"].batches(4, first="stored")] == [[0]] * n_rows


def test_rows_keep_their_order_between_memory_and_storage(tmp_path):
    with StoreGate("hybrid", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data({"x": np.arange(100), "z": [[1]] * 50 + [[1, 2]] * 50})
        gate.shuffle("train", seed=7)
        gate.compact("train")
        for move, mode in ((gate.to_memory, "numpy"), (gate.to_storage, "zarr")):
            move(["z", "x"], phase="train")
            gate.set_mode(mode)
            x = np.concatenate(list(gate["train"]["x"].batches(7, first="stored")))
            np.testing.assert_array_equal(x, np.random.RandomState(7).permutation(100))


def test_windows_have_no_such_order():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(100))
    with pytest.raises(ValueError, match="first= gives rows that were stored in a random order, and windows need"):
        gate["train"]["x"].windows(input=2).batches(10, first="stored")
