"""Transforms of batches: in order, with a generator of each batch's own, alike when resumed."""

from __future__ import annotations

import gc
import pickle
import threading

import numpy as np
import pytest

from tests.replays import KINDS, own_threads

pytestmark = pytest.mark.usefixtures("scratch")


def noisy(batch, rng):
    return {"x": batch[0] + rng.random(len(batch[0])), "names": threading.current_thread().name}


def explode(batch, rng):
    if 33 in batch:
        raise RuntimeError("no")
    return batch


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("prefetch", [0, 3])
def test_batches_are_transformed_in_order_and_alike_when_resumed(stored_rows, kind, prefetch):
    options = {"block_rows": 10, "buffer_blocks": 100, "label": "x"} if kind == "blocks" else {}
    options |= {"shuffle": KINDS[kind], "seed": 3, "prefetch": prefetch}
    view = stored_rows["train"][["x"]]
    plain = [batch for (batch,) in view.batches(32, **options)]
    stream = view.batches(32, transform=noisy, **options)
    epochs = [list(stream), list(stream)]
    assert all("storegate-stream-read" in batch["names"] for batch in epochs[0])
    for batch, rows in zip(epochs[0], plain, strict=True):
        np.testing.assert_array_equal(batch["x"].astype(int), rows)
    noise = [np.concatenate([batch["x"] % 1 for batch in batches]) for batches in epochs]
    assert len(np.unique(noise)) == 2000, "every batch of every epoch has a generator of its own"
    resumed = view.batches(32, transform=noisy, **options)
    resumed.seek(0, 7)
    for batch, expected in zip(resumed, epochs[0][7:], strict=True):
        np.testing.assert_array_equal(batch["x"], expected["x"])
    parts = [pickle.loads(pickle.dumps(stream.on_rank(rank, 2))) for rank in range(2)]
    for part in parts:
        part.seek(0, 0)
    for left, right, rows in zip(*parts, plain, strict=True):
        found = np.concatenate([left["x"], right["x"]])
        assert sorted(found.astype(int)) == sorted(rows)
        assert not set(left["x"] % 1) & set(right["x"] % 1)


def test_an_error_of_a_transform_says_where_and_leaves_the_stream_before_the_batch(stored_rows):
    view = stored_rows["train"]["x"]
    before = own_threads()
    stream = view.batches(10, shuffle=False, transform=explode)
    with pytest.raises(RuntimeError, match="no") as caught:
        list(stream)
    assert caught.value.__notes__ == ["in transform= of batches(), at step 3"]
    assert stream.step == 3
    del caught
    gc.collect()
    assert own_threads() <= before
    with pytest.raises(TypeError, match="transform="):
        view.batches(10, transform="flip")


def test_a_loop_with_a_transform_that_is_left_goes_on_where_it_was(stored_rows):
    stream = stored_rows["train"]["x"].batches(10, shuffle=False, transform=lambda batch, rng: batch * 2)
    for batch in stream:
        if batch[0] == 100:
            break
    assert next(iter(stream))[0] == 120


@pytest.mark.parametrize("transform", [None, noisy])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_map_gives_each_batch_behind_the_transform(stored_rows, transform, prefetch):
    options = {"shuffle": True, "seed": 3, "prefetch": prefetch}
    if transform is not None:
        options["transform"] = transform
    view = stored_rows["train"][["x"]]
    expected = list(view.batches(32, **options))
    stream = view.batches(32, **options)
    for step, (ran_in, batch) in enumerate(stream.map(lambda batch: (threading.current_thread().name, batch)), 1):
        assert "storegate-stream-read" in ran_in
        assert (stream.epoch, stream.step) == ((0, step) if step < len(expected) else (1, 0))
        if transform is None:
            np.testing.assert_array_equal(batch, expected[step - 1])
        else:
            np.testing.assert_array_equal(batch["x"], expected[step - 1]["x"])
    assert step == len(expected)


def test_a_loop_of_map_is_the_one_loop_of_its_stream(stored_rows):
    stream = stored_rows["train"]["x"].batches(10, shuffle=False)
    batches = stream.map(len)
    assert next(batches) == 10
    assert next(iter(stream))[0] == 10, "the rest of the epoch"
    with pytest.raises(RuntimeError, match="a stream has one loop at a time"):
        next(batches)


def test_an_error_of_what_is_mapped_leaves_the_stream_before_the_batch(stored_rows):
    before = own_threads()
    stream = stored_rows["train"]["x"].batches(10, shuffle=False)
    with pytest.raises(RuntimeError, match="no") as caught:
        list(stream.map(lambda batch: explode(batch, None)))
    assert caught.value.__notes__ == ["in map() of a stream, at step 3"]
    assert (stream.epoch, stream.step) == (0, 3)
    gc.collect()
    assert own_threads() == before


def test_what_is_mapped_is_a_function(stored_rows):
    stream = stored_rows["train"]["x"].batches(10, shuffle=False)
    with pytest.raises(TypeError, match="map takes a function of a batch, found 3"):
        stream.map(3)
    assert len(list(stream)) == 100
