"""Streams in forked and spawned processes."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import warnings

import numpy as np
import pytest

from storegate import StoreGate, errors
from tests.examples import in_turns
from tests.replays import SMALL, budget_of, exchanging

pytestmark = pytest.mark.usefixtures("scratch")


def send_rows(stream, queue):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading with zarr-python, see arrays
        queue.put([batch.tolist() for batch in stream])


@pytest.mark.parametrize(
    ("method", "order"),
    in_turns(
        ["fork", "forkserver", "spawn"],
        [(False, "memory"), (True, "memory"), (True, "exchange"), ("blocks", "memory")],
        every=4,
    ),
)
def test_a_stream_goes_on_in_another_process(stored_rows, method, order):
    shuffle, source = order
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("no fork here")
    with exchanging(source):
        stream = stored_rows["train"]["x"].batches(64, shuffle=shuffle, budget=budget_of(source))
    batches = iter(stream)
    first = [next(batches).tolist()]  # threads are at work here
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own: threads and fork
        process = context.Process(target=send_rows, args=(stream, queue))
        process.start()
    rest = queue.get(timeout=120)
    process.join(60)
    assert process.exitcode == 0
    assert [batch.tolist() for batch in batches] == rest
    assert sorted(row for batch in first + rest for row in batch) == list(range(1000))
    stream.close()


def send_error(stream, queue):
    try:
        queue.put(list(stream))
    except errors.StoreError as err:
        queue.put(str(err))


def test_a_forked_process_on_an_object_store_says_at_once_what_helps(s3_args):
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    gate = StoreGate("zarr", s3_args, data_id="a")
    gate.add_data("x", np.arange(100))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own: threads and fork
        process = context.Process(target=send_error, args=(gate["train"]["x"].batches(10), queue))
        process.start()
    assert "'spawn' or 'forkserver'" in queue.get(timeout=60)
    process.join(60)
    assert len(list(gate["train"]["x"].batches(10))) == 10


def test_a_stream_travels_by_pickle_at_its_place(gate):
    gate.add_data("x", np.arange(100))
    stream = gate["train"]["x"].batches(10)
    next(iter(stream))
    other = pickle.loads(pickle.dumps(stream))
    assert [batch.tolist() for batch in other] == [batch.tolist() for batch in stream]


@pytest.mark.slow
def test_a_copy_is_a_stream_of_its_own(tmp_path, scratch):
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100}, data_id="a")
    gate.add_data("x", np.arange(20_000))
    with exchanging("exchange"), gate["train"]["x"].batches(100, seed=3, budget=SMALL) as stream:
        batches = iter(stream)
        next(batches)
        other = copy.copy(stream)
        rest = list(batches)
        list(stream)
        stream.close()
        np.testing.assert_array_equal(list(other), rest)
        other.close()
    assert not scratch.exists()
