"""What batches look like, and what calls of `batches` are refused."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from storegate import StoreGate, errors
from storegate_engine.streams.memory_loaders import MemoryLoader
from storegate_engine.streams.spilled import ExchangeLoader
from tests import unchecked
from tests.examples import in_turns
from tests.replays import SOURCES, budget_of, exchanging

pytestmark = pytest.mark.usefixtures("scratch")


def test_batches_have_the_form_of_the_names(gate):
    gate.add_data(["x", "y", "z"], [np.arange(10), np.arange(10.0), np.zeros((10, 3), "f4")])
    train = gate["train"]
    (x,) = train["x"].batches(10, shuffle=False)
    np.testing.assert_array_equal(x, np.arange(10))
    (stacked,) = train[("x", "y")].batches(10, shuffle=False)
    np.testing.assert_array_equal(stacked, np.stack([np.arange(10), np.arange(10.0)], axis=1))
    (each,) = train.batches(10, var_names=["z", "x"], shuffle=False)
    assert isinstance(each, list)
    assert [part.shape for part in each] == [(10, 3), (10,)]
    (every,) = train.batches(10, shuffle=False)
    assert {name: part.dtype.str for name, part in every.items()} == {"x": "<i8", "y": "<f8", "z": "<f4"}
    with pytest.raises(ValueError, match="already"):
        train["x"].batches(10, var_names="y")


@pytest.mark.parametrize("shuffle", [False, True, "blocks"])
def test_batches_are_the_consumers_own(gate, shuffle):
    gate.add_data("x", np.arange(100))
    for source in SOURCES:
        with exchanging(source):
            stream = gate["train"]["x"].batches(10, shuffle=shuffle, budget=budget_of(source))
        kept = []
        for batch in stream:
            batch += 1000
            kept.append(batch)
        assert sorted(np.concatenate(kept)) == list(range(1000, 1100))
        stream.close()
    np.testing.assert_array_equal(gate["train"]["x"][:], np.arange(100))


def test_an_empty_batch_keeps_ranks_in_step(gate):
    gate.add_data("x", np.zeros((9, 2), "f4"))
    counts = [[len(batch) for batch in gate["train"]["x"].batches(4, rank=rank, world=4)] for rank in range(4)]
    assert counts == [[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]]


def test_transformed_rows_and_all_phases(gate):
    gate.add_data(["x", "y"], [np.arange(100), np.arange(100) % 3], phase=(0.5, 0.3, 0.2), shuffle=4)
    gate.onehot("y", 3, phase="all")
    gate.astype("x", "f4", phase="all")
    gate.compile()
    for source in SOURCES:
        with exchanging(source):
            stream = gate["all"][["x", "y"]].batches(7, budget=budget_of(source))
        batches = list(stream)
        stream.close()
        assert sorted(np.concatenate([x for x, _ in batches])) == list(range(100))
        for x, y in batches:
            assert x.dtype == np.float32
            np.testing.assert_array_equal(y.argmax(axis=1), x.astype(int) % 3)


@pytest.mark.parametrize("backend", ["numpy", "zarr"])
def test_spans_of_several_pieces_equal_numpy(tmp_path, backend):
    labels = np.arange(300) % 7
    gate = StoreGate(backend, {"output_dir": tmp_path, "chunk": 16} if backend == "zarr" else {}, "a")
    gate.add_data("y", labels[:100])
    gate.add_data("y", labels[100:])
    gate.update_data("y", np.full(30, 3), index=(50, 80))
    expected = labels.copy()
    expected[50:80] = 3
    gate.onehot("y", 7)
    variable = gate.table["train"]["y"]
    assert len(variable.pieces) > 2
    random = np.random.default_rng(0)
    for _ in range(50):
        edges = np.sort(random.choice(301, 2 * random.integers(1, 8), replace=False)).reshape(-1, 2)
        random.shuffle(edges)
        rows = np.concatenate([np.arange(*edge) for edge in edges])
        out = np.empty((len(rows), 7), variable.dtype)
        variable.read_spans(edges.tolist(), out)
        np.testing.assert_array_equal(out, np.identity(7)[expected[rows]])


def test_a_bad_label_in_a_span_is_named(tmp_path):
    labels = np.zeros(300, int)
    labels[217] = 5
    gate = StoreGate("zarr", {"output_dir": tmp_path, "chunk": 16}, "a")
    gate.add_data("y", labels)
    unchecked.onehot(gate, "y", 3)
    with pytest.raises(errors.LabelError, match="variable 'y', row 217:"):
        gate.table["train"]["y"].read_spans([(10, 30), (290, 300), (200, 220)], np.empty((50, 3), "f4"))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("num_classes", [5, 1])
@pytest.mark.parametrize("source", SOURCES)
def test_a_bad_label_in_a_stream_is_named_by_its_row(stored, source, num_classes, shuffle):
    labels = np.zeros(4000, int)
    labels[1234] = 77
    stored.add_data("y", labels, shuffle=3)
    unchecked.onehot(stored, "y", num_classes)
    row = int(np.flatnonzero(labels[np.random.RandomState(3).permutation(4000)])[0])
    with exchanging(source):
        stream = stored["train"]["y"].batches(100, shuffle=shuffle, budget="1MB" if source == "exchange" else "64MiB")
    assert isinstance(stream.loader, ExchangeLoader if source == "exchange" else MemoryLoader)
    with stream, pytest.raises(errors.LabelError, match=f"variable 'y', row {row}:"):
        list(stream)


def test_text_comes_as_it_is(gate):
    texts = np.array([f"event {row}" for row in range(50)])
    gate.add_data("name", texts)
    for shuffle in (False, True):
        assert sorted(np.concatenate(list(gate["train"]["name"].batches(8, shuffle=shuffle)))) == sorted(texts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"rank": 2, "world": 2}, "rank=2 of world=2"),
        ({"world": 65}, "at most 64"),
        ({"shuffle": "uniform"}, "'blocks'"),
        ({"shuffle": 7}, "seed="),
        ({"drop_last": "last"}, "'pad'"),
        ({"drop_last": 1}, "'pad'"),
        ({"block_rows": 4}, "shuffle='blocks'"),
        ({"shuffle": "blocks", "block_rows": 0}, "block_rows=0"),
        ({"shuffle": False, "weights": np.ones(20)}, "shuffle=True"),
        ({"weights": np.ones(3)}, "20 rows"),
        ({"weights": -np.ones(20)}, "not negative"),
        ({"weights": "x", "balance": "x"}, "exclude"),
        ({"prefetch": -1}, "prefetch=-1"),
        ({"label": "y", "shuffle": "blocks"}, "no variable 'y'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(20))
    with pytest.raises(ValueError, match=said):
        gate["train"]["x"].batches(**{"batch_size": 4, **options})


@pytest.mark.parametrize(
    ("gate", "source", "shuffle", "k"),
    in_turns(
        ["numpy", "zarr", "hybrid"], SOURCES, [False, True, "blocks"], [101, 10**6, 10**12, 2**63, 10**30], every=5
    ),
    indirect=["gate"],
)
def test_a_batch_may_be_larger_than_the_data(gate, shuffle, source, k):
    gate.add_data("x", np.arange(100))
    view = gate["train"]["x"]
    with exchanging(source), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        stream = view.batches(k, shuffle=shuffle, seed=3, budget="4MiB")
        dropped = view.batches(k, shuffle=shuffle, drop_last=True, budget="4MiB")
        ranks = [view.batches(k, shuffle=shuffle, seed=3, rank=rank, world=3, budget="4MiB") for rank in range(3)]
    with stream:
        for _ in range(2):
            (batch,) = stream
            assert sorted(batch) == list(range(100))
        assert list(dropped) == []
        assert sorted(np.concatenate([next(iter(rank)) for rank in ranks])) == list(range(100))
        state = json.loads(json.dumps(stream.state_dict()))
        assert state["order"]["batch_size"] == k
        stream.on_rank(1, 2).load_state_dict(state)
        with pytest.raises(errors.StreamStateError, match="batch_size"):
            view.batches(k + 1, shuffle=shuffle, seed=3, budget="4MiB").load_state_dict(state)
    for rank in ranks:
        rank.close()


def test_a_batch_is_filled_up_with_rows_that_come_again(gate):
    gate.add_data("x", np.arange(100))
    (batch,) = gate["train"]["x"].batches(250, shuffle=False, drop_last="pad")
    np.testing.assert_array_equal(batch, np.arange(250) % 100)


def test_all_phases_are_streamed_where_some_have_no_variables(gate):
    gate.add_data(["x", "y"], [np.arange(10), np.arange(10)], phase="valid")
    gate.add_data(["x", "y"], [np.arange(10, 15), np.arange(10, 15)], phase="test")
    gate.compile()
    batches = list(gate["all"].batches(4))
    assert sorted(np.concatenate([batch["x"] for batch in batches])) == list(range(15))
    assert all((batch["x"] == batch["y"]).all() for batch in batches)
    assert gate["all"].var_names == gate["valid"].var_names == ("x", "y")
    assert gate["train"].var_names == ()
    with pytest.raises(errors.VariableNotFoundError, match="no variables"):
        gate["train"].batches(4)


def test_variables_out_of_step_are_refused():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(20))
    gate.add_data("y", np.arange(21))
    with pytest.raises(errors.ShapeError, match="'x': 20, 'y': 21"):
        gate["train"][["x", "y"]].batches(4)
