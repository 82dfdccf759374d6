"""Batches of rows of about the same length: each row once, resumable, shared by ranks, with little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate import Ragged, StoreGate, errors, pad
from storegate_engine.orders import Permute, Range
from storegate_engine.streams.buckets import Bucketed

N = 5000


@pytest.fixture(scope="module")
def view():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, N)
    rows = Ragged(np.concatenate([[0], np.cumsum(lengths)]), rng.integers(1, 99, lengths.sum()))
    gate = StoreGate(data_id="a")
    gate.add_data({"tokens": rows, "row": np.arange(N)})
    gate.compile()
    return gate["train"][["tokens", "row"]]


@given(
    n_rows=st.integers(0, 700),
    step_rows=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 3),
)
def test_bucketed_rows_are_those_of_the_order(n_rows, step_rows, seed, epoch):
    lengths = np.random.default_rng(seed).integers(0, 50, n_rows)
    order = Bucketed(Permute(Range(0, n_rows), "numpy", seed), lengths, step_rows, seed, epoch, 3)
    rows = order.rows(0, n_rows)
    assert sorted(rows) == list(range(n_rows))
    np.testing.assert_array_equal(order.positions(0, n_rows), np.argsort(rows))
    lo, hi = n_rows // 3, n_rows - n_rows // 4
    np.testing.assert_array_equal(order.rows(lo, hi), rows[lo:hi])
    rest = n_rows % step_rows
    np.testing.assert_array_equal(rows[n_rows - rest :], order.order.rows(n_rows - rest, n_rows))


@pytest.mark.parametrize("shuffle", [True, False])
def test_padding_is_little(view, shuffle):
    def padding(**options):
        rows, padded, filled = [], 0, 0
        for tokens, numbers in view.batches(32, shuffle=shuffle, seed=1, collate={"tokens": pad(0)}, **options):
            padded, filled = padded + tokens.size, filled + np.count_nonzero(tokens)
            rows += numbers.tolist()
        assert sorted(rows) == list(range(N))
        return padded / filled

    assert padding() > 1.8
    assert padding(bucket_by="length") < 1.1
    assert padding(bucket_by="tokens") == padding(bucket_by="length")


def test_epochs_and_steps_differ_and_lengths_come_in_no_order(view):
    stream = view.batches(16, seed=2, bucket_by="length")
    first, second = ([(rows.tolist(), tokens.lengths.mean()) for tokens, rows in stream] for _ in range(2))
    assert first != second
    means = np.array([mean for _, mean in first])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2
    full = [tokens.lengths for tokens, _ in stream if len(tokens) == 16]
    halves = np.array([[lengths[:8].mean(), lengths[8:].mean()] for lengths in full])
    assert abs(np.diff(halves.mean(axis=0))[0]) < 2  # ranks take parts of steps, which must not differ


def test_ranks_and_resumed_streams_share_the_same_steps(view):
    whole = [rows.tolist() for _, rows in view.batches(30, seed=3, bucket_by="length")]
    parts = [
        [rows.tolist() for _, rows in view.batches(30, seed=3, bucket_by="length", rank=rank, world=4)]
        for rank in range(4)
    ]
    assert [[row for part in several for row in part] for several in zip(*parts, strict=True)] == whole
    stream = view.batches(30, seed=3, bucket_by="length")
    loop = iter(stream)
    for _ in range(70):
        next(loop)
    again = view.batches(30, seed=3, bucket_by="length")
    again.load_state_dict(stream.state_dict())
    assert [rows.tolist() for _, rows in again] == whole[70:]
    with pytest.raises(errors.StreamStateError, match="lengths"):
        view.batches(30, seed=3).load_state_dict(stream.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bucket_by": "row"}, "takes a variable of lists"),
        ({"bucket_by": "length", "shuffle": "blocks"}, "use shuffle=True"),
    ],
)
def test_what_has_no_length_is_refused(view, options, message):
    with pytest.raises(errors.ArgumentError, match=message):
        view.batches(4, **options)


def test_the_variable_is_named_if_there_are_several():
    gate = StoreGate(data_id="a")
    gate.add_data({"a": [[1], []], "b": [[1, 2], [3]], "y": [0, 1]})
    with pytest.raises(errors.ArgumentError, match="found a, b; name the one"):
        gate["train"][["a", "b"]].batches(1, bucket_by="length")
    with pytest.raises(errors.ArgumentError, match="found none"):
        gate["train"]["y"].batches(1, bucket_by="length")
    assert len(list(gate["train"]["y"].batches(1, bucket_by="a"))) == 2
