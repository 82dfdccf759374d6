"""Streams that go on: states, epochs and loops that are left, each at the very next batch."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate, errors
from storegate_engine.table import stored_arrays
from tests.examples import examples, in_turns
from tests.replays import KINDS, SOURCES, budget_of, exchanging, replayed, steps_of

pytestmark = pytest.mark.usefixtures("scratch")


RANKS = [(4, 3), (1, 4), (4, 1)]
"""Before and after."""


@pytest.mark.parametrize(("source", "kind", "ranks", "stride"), in_turns(SOURCES, sorted(KINDS), RANKS, [9], every=3))
def test_a_resumed_epoch_goes_on_with_the_same_steps(opened, kind, ranks, source, stride):
    before, after = ranks
    view = opened(300, 10)["train"]["x"]
    options = {"block_rows": 7, "buffer_blocks": 9} if kind == "blocks" else {}
    options |= {"shuffle": KINDS[kind], "seed": 5, "epoch": 1, "budget": budget_of(source)}
    with exchanging(source), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        whole = [sorted(batch) for batch in view.batches(32, **options)]
        for step in {*range(0, len(whole), stride), len(whole)}:
            streams = [view.batches(32, **options, rank=rank, world=before) for rank in range(before)]
            readers = [iter(stream) for stream in streams]
            first = [np.concatenate([next(reader) for reader in readers]) for _ in range(step)]
            state = json.dumps(streams[-1].state_dict())
            assert len(state) < 1000
            for stream in streams:
                stream.close()
            resumed = [view.batches(32, **options, rank=rank, world=after) for rank in range(after)]
            for stream in resumed:
                stream.load_state_dict(json.loads(state))
            assert {(stream.epoch, stream.step) for stream in resumed} == {divmod(len(whole) + step, len(whole))}
            rest = [np.concatenate(parts) for parts in zip(*resumed, strict=True)] if step < len(whole) else []
            assert [sorted(batch) for batch in (*first, *rest)] == whole
            assert {(stream.epoch, stream.step) for stream in resumed} == {(2, 0)}
            for stream in resumed:
                stream.close()


def test_a_loop_that_was_left_goes_on_where_it_was():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(100))
    whole = list(gate["train"]["x"].batches(10))
    stream = gate["train"]["x"].batches(10)
    for _ in stream:
        if stream.step == 3:
            break
    rest = list(stream)
    assert len(rest) == 7
    np.testing.assert_array_equal(np.concatenate(rest), np.concatenate(whole[3:]))


def take_by_list(stream, n):
    return list(stream)[:n]


def take_by_islice(stream, n):
    return list(itertools.islice(stream, n))


def take_by_zip(stream, n):
    return [batch for _, batch in zip(range(n), stream, strict=False)]


def take_by_break(stream, n):
    found = []
    for batch in stream:
        found.append(batch)
        if len(found) == n:
            break
    return found


def take_by_next(stream, n):
    batches = iter(stream)
    return [next(batches) for _ in range(n)]


TAKES = [take_by_list, take_by_islice, take_by_zip, take_by_break, take_by_next]


@pytest.mark.parametrize(
    ("k", "drop_last", "kind", "source"),
    in_turns([32, 100, 300], [False, True, "pad"], sorted(KINDS), SOURCES, every=6),
)
def test_epochs_are_whole_however_their_batches_are_taken(opened, kind, source, drop_last, k):
    options = {"block_rows": 7, "buffer_blocks": 9} if kind == "blocks" else {}
    with exchanging(source), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        view = opened(300, 10)["train"]["x"]
        stream = view.batches(k, shuffle=KINDS[kind], seed=5, drop_last=drop_last, budget=budget_of(source), **options)
    with stream:
        for epoch, take in enumerate([*TAKES, *reversed(TAKES)]):
            found = take(stream, len(stream))
            assert stream.state_dict()["epoch"] == epoch + 1
            assert stream.state_dict()["step"] == 0
            expected = steps_of(replayed(kind, 300, seed=5, epoch=epoch, **options), k, drop_last)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(TAKES[1:]), st.integers(1, 12)), max_size=12), st.integers(1, 40))
def test_batches_follow_each_other_however_they_are_taken(opened, takes, k):
    """Taking n at once takes what is left of the epoch at most, and no batch is lost or comes twice."""
    stream = opened(64, None)["train"]["x"].batches(k, seed=1)
    found, wanted = [], 0
    for take, n in takes:
        n = min(n, len(stream) - stream.step)
        found += take(stream, n)
        wanted += n
        assert (stream.epoch, stream.step) == divmod(wanted, len(stream))
    expected = []
    while len(expected) < wanted:
        expected += steps_of(replayed("uniform", 64, seed=1, epoch=len(expected) // len(stream)), k, False)
    for one, other in zip(found, expected[:wanted], strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_empty_epoch_ends_too(opened):
    stream = opened(7, None)["train"]["x"].batches(10, drop_last=True)
    assert [list(stream), list(stream)] == [[], []]
    assert (stream.epoch, stream.step) == (2, 0)
    stream.seek(5, 0)
    assert (stream.epoch, stream.step) == (5, 0)


def test_the_step_after_the_last_is_the_next_epoch(opened):
    stream = opened(300, None)["train"]["x"].batches(32)
    stream.seek(3, len(stream))
    assert (stream.epoch, stream.step) == (4, 0)
    stream.load_state_dict({**stream.state_dict(), "epoch": 6, "step": len(stream)})  # as it was saved once
    assert (stream.epoch, stream.step) == (7, 0)


def test_a_loop_within_a_loop_over_one_stream_is_an_error_and_not_the_end(opened):
    view = opened(300, None)["train"]["x"]
    stream = view.batches(100)
    with pytest.raises(errors.IterationError, match=r"another loop.*2 batches.*copy\.copy"):
        [(one, other) for one in stream for other in stream]
    assert (stream.epoch, stream.step) == (1, 0), "the inner loop had all"
    with pytest.raises(RuntimeError, match="another loop"):
        list(zip(stream, stream, strict=True))
    stream.seek(0)
    batches = iter(stream)
    next(batches)
    stream.seek(4, 1)
    with pytest.raises(errors.IterationError, match="another place"):
        next(batches)
    assert (stream.epoch, stream.step) == (4, 1)
    pairs = [(one, other) for one in copy.copy(stream) for other in copy.copy(stream)]
    assert len(pairs) == 2 * 2


def test_loops_one_after_the_other_and_closed_ones_just_end(opened):
    stream = opened(300, None)["train"]["x"].batches(100)
    first = iter(stream)
    for _ in range(3):
        next(first)
    assert len(list(stream)) == 3
    assert next(first, None) is None, "it gave its whole epoch"
    for _ in stream:
        stream.close()
    assert (stream.epoch, stream.step) == (2, 1)


def test_a_stream_that_another_thread_reads_is_said_to_be(opened):
    view = opened(300, None)["train"]["x"]
    reading, go_on = threading.Event(), threading.Event()
    stream = view.batches(100, transform=lambda batch, random: (reading.set(), go_on.wait(60), batch)[2])
    thread = threading.Thread(target=lambda: next(iter(stream)))
    thread.start()
    try:
        assert reading.wait(60)
        with pytest.raises(errors.IterationError, match="another thread"):
            iter(stream)
    finally:
        go_on.set()
        thread.join()


def test_a_state_of_other_rows_or_another_order_is_refused(stored):
    stored.add_data(["x", "y"], [np.arange(100), np.arange(100)])
    stream = stored["train"]["x"].batches(10, seed=1)
    state = stream.state_dict()
    for options in (
        {"batch_size": 11},
        {"seed": 2},
        {"shuffle": False},
        {"drop_last": True},
        {"weights": np.ones(100)},
    ):
        other = stored["train"]["x"].batches(**{"batch_size": 10, "seed": 1, **options})
        with pytest.raises(errors.StreamStateError, match="another order"):
            other.load_state_dict(state)
    with pytest.raises(ValueError, match="other data"):
        stored["train"]["y"].batches(10, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="format"):
        stream.load_state_dict({"epoch": 1})
    stored.add_data("w", np.arange(100))  # another version, the same rows
    stored["train"]["x"].batches(10, seed=1).load_state_dict(state)
    stored.update_data("x", np.arange(100))
    with pytest.raises(ValueError, match="other data"):
        stored["train"]["x"].batches(10, seed=1).load_state_dict(state)


def test_a_state_is_of_rows_wherever_their_store_lies(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data(["x", "y"], [np.arange(1000), np.arange(1000) % 3])
        gate["train"]["y"][np.arange(0, 1000, 3)] = np.full(334, 7)
        of_y = {array for array, users in stored_arrays(gate.table).items() if "train/y" in users}
        assert of_y > {piece.array for piece in gate.table["train"]["y"].pieces}, "an index in storage"
        gate.shuffle("train", seed=2)
        stream = gate["train"][["x", "y"]].batches(100, seed=1)
        whole = [x.tolist() for x, _ in stream]
        stream.seek(0, 4)
        state = json.dumps(stream.state_dict())
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    (tmp_path / "link").symlink_to("copy")
    (tmp_path / "store").rename(tmp_path / "moved")
    for name in ("copy", "link", "moved"):
        with StoreGate("zarr", {"output_dir": tmp_path / name, "mode": "r"}, data_id="a") as gate:
            other = gate["train"][["x", "y"]].batches(100, seed=1)
            other.load_state_dict(json.loads(state))
            assert [x.tolist() for x, _ in other] == whole[4:]
    with StoreGate("zarr", {"output_dir": tmp_path / "moved"}, data_id="a") as gate:
        gate["train"]["y"][0] = 9
        other = gate["train"][["x", "y"]].batches(100, seed=1)
        with pytest.raises(errors.StreamStateError, match=r"the rows of \['y'\] are not those of version 3.*version 4"):
            other.load_state_dict(json.loads(state))


def test_a_state_whose_data_had_names_of_places_resumes_in_its_version(stored):
    stored.add_data("x", np.arange(100))
    stream = stored["train"]["x"].batches(10)
    old = {**stream.state_dict(), "format": 1, "step": 3, "data": [["x", "0" * 32]]}
    stream.load_state_dict(old)
    assert stream.step == 3
    stored.add_data("y", np.arange(100))
    with pytest.raises(errors.StreamStateError, match="version 1"):
        stored["train"]["x"].batches(10).load_state_dict(old)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": None}, {"epoch": 1.5}, {"epoch": -1}, {"step": "3"}, {"step": -1}, {"step": 12}, {"order": None},
        {"order": []}, {"data": None}, {"data": [["x"]]}, {"data": [3]}, {"data": []}, {"version": None},
        {"format": True}, {"format": 3}, {"format": None}, {"format": [2]},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_state_is_refused_and_changes_nothing(stored, change):
    stored.add_data("x", np.arange(100))
    stream = stored["train"]["x"].batches(10)
    stream.seek(2, 3)
    state = {**stream.state_dict(), "epoch": 1}
    for damaged in ({**state, **change}, {key: value for key, value in state.items() if key not in change}):
        with pytest.raises(errors.StreamStateError):
            stream.load_state_dict(damaged)
        assert (stream.epoch, stream.step) == (2, 3)


@pytest.mark.parametrize("change", [{"epoch": True}, {"step": False}, {"version": True}], ids=str)
def test_a_truth_value_is_no_place(stored, change):
    stored.add_data("x", np.arange(100))
    stream = stored["train"]["x"].batches(10)
    with pytest.raises(errors.StreamStateError, match="damaged"):
        stream.load_state_dict({**stream.state_dict(), **change})


def test_a_state_of_an_older_order_that_is_refused_leaves_the_order_as_it_was(stored):
    stored.add_data("x", np.arange(100))
    stream = stored["train"]["x"].batches(10, seed=3)
    before = stream.state_dict()
    damaged = {**before, "step": 11, "order": {**before["order"], "keys": 1}}
    with pytest.raises(errors.StreamStateError, match="step 11"):
        stream.load_state_dict(damaged)
    assert stream.state_dict() == before
    stream.load_state_dict({**damaged, "step": 4})
    assert stream.state_dict()["order"]["keys"] == 1


def test_a_copy_of_a_worker_s_stream_leaves_out_what_that_leaves_out():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(33))
    for worker in range(4):
        stream = gate["train"]["x"].batches(33, shuffle=False).on_worker(worker, 4)
        other = copy.copy(stream)
        assert other.n_batches == stream.n_batches
        one = gate["train"]["x"].batches(1, shuffle=False).on_worker(worker, 4)
        assert len(list(copy.copy(one))) == len(list(one)) == one.n_batches


def test_numbers_of_numpy_make_a_state_of_json(gate):
    gate.add_data("x", np.arange(100))
    stream = gate["train"]["x"].batches(np.int64(10), seed=np.uint8(3), epoch=np.int32(1))
    stream.seek(np.int64(1), np.int16(3))
    state = json.loads(json.dumps(stream.state_dict()))
    assert (state["epoch"], state["step"]) == (1, 3)
    stream.load_state_dict(state)


@pytest.mark.parametrize("damaged", [None, [], "state", 3, {}], ids=str)
def test_what_is_no_state_is_refused(gate, damaged):
    gate.add_data("x", np.arange(100))
    with pytest.raises(errors.StreamStateError, match="load what state_dict"):
        gate["train"]["x"].batches(10).load_state_dict(damaged)


def test_a_stream_keeps_the_version_that_it_was_made_from(gate):
    gate.add_data(["x", "y"], [np.arange(100), np.arange(100)])
    stream = gate["train"][["x", "y"]].batches(10, prefetch=0)
    batches = iter(stream)
    found = [next(batches)]
    gate.update_data("x", np.full(100, -1))
    gate.add_data("x", [7])
    found += list(batches)
    for x, y in found:
        np.testing.assert_array_equal(x, y)
    assert sorted(np.concatenate([x for x, _ in found])) == list(range(100))
