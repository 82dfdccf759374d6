"""Batches: every row once, in the documented order, on every rank; replayed with plain numpy."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import warnings
from pathlib import Path

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate, errors
from storegate_engine import settings as settings_of
from storegate_engine.exchange import bucket_sorts
from storegate_engine.holds import orphans
from storegate_engine.orders import Range
from storegate_engine.orders.permutations import forward_rows
from storegate_engine.scratch import SPARE
from storegate_engine.streams import Epochs, class_weights
from storegate_engine.streams.epochs import Share, draw, keyed_permutation
from storegate_engine.streams.memory_loaders import MemoryLoader
from storegate_engine.streams.span_loaders import BlockLoader, RunLoader
from storegate_engine.streams.spilled import ExchangeLoader
from storegate_engine.table import stored_arrays

ROOT = Path(__file__).parents[2]
SMALL = "300KB"
"""A budget that makes several buckets of an exchange."""
KINDS = {"none": False, "uniform": True, "blocks": "blocks"}
SOURCES = ["memory", "exchange"]


@pytest.fixture(autouse=True)
def scratch(tmp_path):
    with dask.config.set({"storegate.scratch-directory": tmp_path / "scratch"}):
        yield tmp_path / "scratch"


def budget_of(source):
    return SMALL if source == "exchange" else "64MiB"


def exchanging(source):
    """Return a context in which rows that are not read in runs come from this source."""
    return dask.config.set({"storegate.shuffle": "exchange" if source == "exchange" else "auto"})


# -------------------------------------------------------------------------------------- the replay


def replayed(kind, n_rows, *, seed=0, epoch=0, block_rows=None, buffer_blocks=None):
    """Return the rows of an epoch as `epochs` and `blocks` document them, by plain loops."""
    if kind == "none" or n_rows == 0:
        return np.arange(n_rows)
    if kind == "uniform":
        if n_rows <= 2**16:
            return keyed_permutation(n_rows, seed, epoch)
        words = np.array([2, 2, seed % 2**32, seed >> 32, epoch, 0], np.uint32)  # use, length, two words a number
        high, low = np.random.SeedSequence(words).generate_state(2)
        return forward_rows("feistel8-v1", n_rows, int(high) << 32 | int(low), np.arange(n_rows))
    blocks = [np.arange(at, min(at + block_rows, n_rows)) for at in range(0, n_rows, block_rows)]
    sigma = keyed_permutation(len(blocks), seed, epoch)
    whole, rest = divmod(len(blocks), buffer_blocks)
    n_rounds = whole + (rest > 0 and (whole == 0 or 2 * rest >= buffer_blocks))
    rows = []
    for number in range(n_rounds):
        first, last = len(blocks) * number // n_rounds, len(blocks) * (number + 1) // n_rounds
        of_round = np.concatenate([blocks[at] for at in sigma[first:last]])
        lane_of = np.arange(len(rows), len(rows) + len(of_round)) % 64
        tau = keyed_permutation(64, seed, epoch, number)
        lanes, begin = {}, 0
        for lane in np.argsort(tau):
            end = begin + int(np.count_nonzero(lane_of == lane))
            lanes[lane] = iter(of_round[begin:end][keyed_permutation(end - begin, seed, epoch, number, lane)])
            begin = end
        rows += [next(lanes[lane]) for lane in lane_of]
    return np.array(rows)


def steps_of(rows, k, drop_last):
    """Return the rows of every step."""
    n = len(rows)
    if drop_last is True:
        return [rows[at : at + k] for at in range(0, n - n % k, k)]
    if drop_last == "pad":
        return [rows[np.arange(at, at + k) % n] for at in range(0, n, k)]
    return [rows[at : at + k] for at in range(0, n, k)]


def test_a_keyed_permutation_is_one_and_depends_on_its_key():
    for n in (0, 1, 2, 3, 64, 1000):
        assert sorted(keyed_permutation(n, 3, n)) == list(range(n))
    assert not np.array_equal(keyed_permutation(100, 0, 1), keyed_permutation(100, 1, 0))
    firsts = np.bincount([keyed_permutation(6, 5, key)[0] for key in range(6000)], minlength=6)
    assert ((firsts - 1000) ** 2 / 1000).sum() < 20.5  # chi-square of 5 degrees of freedom: 0.1 %


def test_the_order_of_a_seed_never_changes():
    """What was published stays: a checkpoint of today must resume in years, one of the first version as well."""
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(9))
    for version, (known, uniform, blocks, drawn) in KNOWN.items():
        assert keyed_permutation(8, 1, 2, 3, version=version).tolist() == known
        in_blocks = {"shuffle": "blocks", "block_rows": 3, "buffer_blocks": 3}
        for options, rows in (({}, uniform), (in_blocks, blocks), ({"weights": np.arange(9)}, drawn)):
            stream = gate["train"]["x"].batches(9, seed=4, epoch=2, **options)
            state = stream.state_dict()
            assert state["order"].pop("keys") == 3
            if version > 1:
                state["order"]["keys"] = version
            stream.load_state_dict(state)  # without it, of the first version
            assert [batch.tolist() for batch in stream] == [rows]
            assert stream.state_dict()["order"]["keys"] == version
            again = gate["train"]["x"].batches(9, seed=4, epoch=2, **options)
            again.load_state_dict(stream.state_dict())
            assert [batch.tolist() for batch in again] == [batch.tolist() for batch in stream]


KNOWN = {
    1: (
        [1, 3, 7, 5, 2, 0, 4, 6],
        [2, 6, 7, 0, 5, 3, 1, 8, 4],
        [8, 5, 4, 7, 6, 1, 0, 3, 2],
        [7, 7, 3, 7, 8, 7, 4, 6, 8],
    ),
    2: (
        [7, 3, 0, 6, 4, 2, 1, 5],
        [0, 5, 6, 1, 8, 3, 2, 7, 4],
        [2, 3, 0, 6, 5, 7, 4, 8, 1],
        [2, 4, 6, 7, 5, 4, 6, 8, 4],
    ),
    3: (
        [7, 3, 0, 6, 4, 2, 1, 5],
        [0, 5, 6, 1, 8, 3, 2, 7, 4],
        [2, 8, 4, 1, 0, 5, 7, 3, 6],
        [2, 4, 6, 7, 5, 4, 6, 8, 4],
    ),
}
"""A permutation, and epochs in a uniform order, in blocks and drawn, of each version of the keys."""


def test_a_state_of_a_later_version_is_refused():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(9))
    stream = gate["train"]["x"].batches(9)
    state = stream.state_dict()
    state["order"]["keys"] = 4
    with pytest.raises(errors.StreamStateError, match="keys 4"):
        stream.load_state_dict(state)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=4), st.lists(st.integers(0, 2**64 - 1), max_size=4))
def test_keys_that_differ_give_permutations_that_differ(key, other):
    for near in (other, [*key, 0], [0, *key], [number << 32 & 2**64 - 1 for number in key], key[:-1]):
        same = np.array_equal(keyed_permutation(64, *key), keyed_permutation(64, *near))
        assert same == (tuple(key) == tuple(near))


def test_seeds_and_epochs_are_read_in_one_way():
    """The pairs that one sequence of words cannot tell apart."""
    for (seed, epoch), (other, later) in (((2**32, 0), (0, 1)), ((5, 2**32), (5, 0)), ((2**40, 1), (2**8, 2**8))):
        for n in (64, 2**16 + 1):
            x = StoreGate(data_id="a")
            x.add_data("x", np.arange(n))
            first, second = (
                next(iter(x["train"]["x"].batches(64, seed=of, epoch=at))) for of, at in ((seed, epoch), (other, later))
            )
            assert not np.array_equal(first, second)


def test_seeds_beyond_two_words_are_refused():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(9))
    gate["train"]["x"].batches(3, seed=2**64 - 1)
    with pytest.raises(ValueError, match=r"2\*\*64"):
        gate["train"]["x"].batches(3, seed=2**64)


# ------------------------------------------------------------------------------------------ orders


@st.composite
def epochs(draw):
    world = draw(st.integers(1, 5))
    last = draw(st.sampled_from(["split", "drop", "pad"]))
    return Epochs(draw(st.integers(1, 700)), draw(st.integers(1, 200)), last, draw(st.integers(0, world - 1)), world)


@given(epochs(), st.data())
def test_a_share_is_the_slices_of_its_rank(epochs, data):
    permuted = np.random.RandomState(1).permutation(epochs.n_rows)
    share = Share(Range(0, epochs.n_rows), epochs)
    steps = [np.arange(*epochs.part(step)) % epochs.n_rows for step in range(epochs.n_steps)]
    expected = np.concatenate([np.empty(0, int), *steps])
    assert [share.start(step) for step in range(epochs.n_steps + 1)] == np.cumsum([0, *map(len, steps)]).tolist()
    lo = data.draw(st.integers(0, len(expected)))
    hi = data.draw(st.integers(lo, len(expected)))
    np.testing.assert_array_equal(share.rows(lo, hi), expected[lo:hi])
    np.testing.assert_array_equal(share.take(np.arange(lo, hi)), expected[lo:hi])
    runs = share.runs(lo, hi)
    np.testing.assert_array_equal(
        np.concatenate([np.empty(0, int), *(np.arange(*run) for run in runs)]), expected[lo:hi]
    )
    if epochs.n_positions <= epochs.n_rows:
        inverse = np.full(epochs.n_rows, -1)
        inverse[expected] = np.arange(len(expected))
        np.testing.assert_array_equal(share.find(permuted), inverse[permuted])
    else:
        with pytest.raises(errors.NotInvertibleError, match="twice"):
            share.find(permuted)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Gates by number of rows and chunk rows; x is the row's number, z its negative in a wider row."""
    gates = {}

    def open_gate(n_rows, chunk=None):
        if (n_rows, chunk) not in gates:
            args = {"output_dir": tmp_path_factory.mktemp("streams") / "store", "chunk": chunk}
            gate = StoreGate("zarr" if chunk else "numpy", args if chunk else None, data_id="a")
            gate.add_data(["x", "z"], [np.arange(n_rows), -np.arange(2.0 * n_rows).reshape(n_rows, 2)])
            gates[n_rows, chunk] = gate
        return gates[n_rows, chunk]

    yield open_gate
    for gate in gates.values():
        gate.close()


@settings(max_examples=50, deadline=None)
@given(
    n_rows=st.sampled_from([1, 7, 64, 300, 1000]),
    chunk=st.sampled_from([None, 1, 10, 64]),
    k=st.integers(1, 300),
    world=st.sampled_from([1, 1, 2, 3, 5]),
    kind=st.sampled_from(sorted(KINDS)),
    drop_last=st.sampled_from([False, True, "pad"]),
    source=st.sampled_from(SOURCES),
    prefetch=st.integers(0, 3),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 80)),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 3),
)
def test_batches_equal_the_replay_whoever_reads_them(
    opened, n_rows, chunk, k, world, kind, drop_last, source, prefetch, sizes, seed, epoch
):
    if source == "exchange":  # such a buffer is refused there
        sizes = (sizes[0], max(1, min(sizes[1], 300 // sizes[0])))
    options = dict(zip(("block_rows", "buffer_blocks"), sizes, strict=True)) if kind == "blocks" else {}
    rows = replayed(kind, n_rows, seed=seed, epoch=epoch, **options)
    assert sorted(rows) == list(range(n_rows))
    expected = steps_of(rows, k, drop_last)
    view = opened(n_rows, chunk)["train"][["x", "z"]]
    ranks = []
    for rank in range(world):
        with exchanging(source), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            stream = view.batches(
                k, shuffle=KINDS[kind], seed=seed, epoch=epoch, drop_last=drop_last, rank=rank, world=world,
                budget="2MB" if source == "exchange" else "64MiB", prefetch=prefetch, **options,
            )  # fmt: skip
        batches = list(stream)
        stream.close()
        assert len(batches) == len(stream) == len(expected)
        assert stream.epoch == epoch + 1
        for x, z in batches:
            assert z.shape == (len(x), 2)
            np.testing.assert_array_equal(z, -np.stack([2.0 * x, 2.0 * x + 1], axis=1))
        ranks.append([x for x, _ in batches])
    for step, wanted in enumerate(expected):
        found = [batches[step] for batches in ranks]
        if kind != "blocks" or world == 1:
            np.testing.assert_array_equal(np.concatenate(found), wanted)
        else:
            assert sorted(np.concatenate(found)) == sorted(wanted)
        n = len(wanted)
        assert list(map(len, found)) == [n * (rank + 1) // world - n * rank // world for rank in range(world)]


@pytest.mark.parametrize("source", SOURCES)
def test_many_rows_come_in_the_uniform_order_too(scratch, source):
    n = 2**16 + 5
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(n))
    with exchanging(source):
        stream = gate["train"]["x"].batches(1000, seed=2**33, epoch=1, budget="16MiB")
    for epoch in (1, 2):
        np.testing.assert_array_equal(np.concatenate(list(stream)), replayed("uniform", n, seed=2**33, epoch=epoch))
    stream.close()
    assert not scratch.exists()


@pytest.fixture
def stored_rows(tmp_path):
    """1,000 rows in chunks of 10."""
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 10}, data_id="a") as gate:
        gate.add_data("x", np.arange(1000))
        yield gate


@pytest.mark.parametrize("kind", ["uniform", "none"])
def test_rows_that_do_not_fit_are_exchanged_in_the_same_order(stored_rows, kind):
    for state in ("as stored", "shuffled"):
        gate = stored_rows
        if state == "shuffled":
            gate.shuffle("train", seed=3)
        view = gate["train"]["x"]
        large = view.batches(64, shuffle=KINDS[kind])
        with exchanging("exchange"):
            small = view.batches(64, shuffle=KINDS[kind], budget=SMALL)
        in_runs = kind == "none" and state == "as stored"
        assert small.projected_nbytes <= 300_000
        assert isinstance(large._loader, RunLoader if in_runs else MemoryLoader)
        assert isinstance(small._loader, RunLoader if in_runs else ExchangeLoader)
        for _ in range(3):
            for one, other in zip(large, small, strict=True):
                np.testing.assert_array_equal(one, other)
        small.close()


@pytest.mark.filterwarnings("ignore:shuffle=.blocks.:UserWarning")
@pytest.mark.parametrize("world", [1, 3])
def test_rounds_that_do_not_fit_are_read_in_parts_in_the_same_order(tmp_path, world):
    x = np.random.default_rng(0).random((20_000, 64), dtype="f4")
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store"}, "test_id")
    gate.add_data(["x", "y"], [x, np.arange(20_000)])
    limit = {1: 14, 3: 6}[world] * 2**20
    for rank in range(world):
        for options in ({"batch_size": 500}, {"batch_size": 7000}, {"batch_size": 500, "drop_last": "pad"}):
            options |= {"shuffle": "blocks", "rank": rank, "world": world, "buffer_blocks": 128, "block_rows": 100}
            whole = gate["train"][["x", "y"]].batches(**options, budget="1GiB")
            parted = gate["train"][["x", "y"]].batches(**options, budget=limit)
            assert whole._loader.parts == 1
            assert parted._loader.parts > 1
            assert parted._loader.projected_nbytes <= limit
            for _ in range(2):
                for (a, b), (c, d) in zip(whole, parted, strict=True):
                    np.testing.assert_array_equal(b, d)
                    np.testing.assert_array_equal(a, c)
                    np.testing.assert_array_equal(x[b], a)


@pytest.mark.parametrize("shuffle", [True, False, "blocks"])
def test_more_text_than_fits_comes_in_the_same_order(tmp_path, shuffle):
    texts = np.array([f"{at}:{'x' * (at % 700)}" for at in range(6000)], dtype=np.dtypes.StringDType())
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store"}, "a")
    gate.add_data(["t", "y"], [texts, np.arange(6000)])
    if shuffle != "blocks":
        gate.shuffle("train", seed=4)
    options = {"block_rows": 100, "buffer_blocks": 60, "label": "y"} if shuffle == "blocks" else {}
    large = gate["train"][["t", "y"]].batches(250, shuffle=shuffle, seed=3, budget="1GiB", **options)
    small = gate["train"][["t", "y"]].batches(250, shuffle=shuffle, seed=3, budget="6MiB", **options)
    assert small._loader.projected_nbytes < 6 * 2**20
    for _ in range(2):
        for (a, b), (c, d) in zip(large, small, strict=True):
            np.testing.assert_array_equal(b, d)
            assert a.tolist() == c.tolist() == texts[b].tolist()


def test_a_phase_that_is_shuffled_lazily_has_no_blocks(stored):
    stored.add_data("x", np.arange(100))
    stored.shuffle("train", 1)
    with pytest.raises(ValueError, match=r"shuffled lazily; use\s+shuffle=True, or compact\(\)"):
        stored["train"]["x"].batches(10, shuffle="blocks")
    stored.compact()
    rows = np.concatenate(list(stored["train"]["x"].batches(10, shuffle="blocks", label="x")))
    assert sorted(rows) == list(range(100))


# ------------------------------------------------------------------------------------------ resume


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (4, 3)])
@pytest.mark.parametrize("source", SOURCES)
def test_a_resumed_epoch_goes_on_with_the_same_steps(opened, kind, before, after, source):
    view = opened(300, 10)["train"]["x"]
    options = {"block_rows": 7, "buffer_blocks": 9} if kind == "blocks" else {}
    options |= {"shuffle": KINDS[kind], "seed": 5, "epoch": 1, "budget": budget_of(source)}
    with exchanging(source), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        whole = [sorted(batch) for batch in view.batches(32, **options)]
        for step in range(len(whole) + 1):
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


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("drop_last", [False, True, "pad"])
@pytest.mark.parametrize("k", [32, 100, 300])
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


@settings(max_examples=60, deadline=None)
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
    stream = view.batches(100)
    form = stream._form
    stream._form = lambda arrays: (reading.set(), go_on.wait(60), form(arrays))[2]
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
    with pytest.raises(errors.StreamStateError, match="not made here"):
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


# ------------------------------------------------------------------------------- forms and choices


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
    gate.onehot("y", 3)
    with pytest.raises(errors.LabelError, match="variable 'y', row 217:"):
        gate.table["train"]["y"].read_spans([(10, 30), (290, 300), (200, 220)], np.empty((50, 3), "f4"))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("num_classes", [5, 1])
@pytest.mark.parametrize("source", SOURCES)
def test_a_bad_label_in_a_stream_is_named_by_its_row(stored, source, num_classes, shuffle):
    labels = np.zeros(4000, int)
    labels[1234] = 77
    stored.add_data("y", labels, shuffle=3)
    stored.onehot("y", num_classes)
    row = int(np.flatnonzero(labels[np.random.RandomState(3).permutation(4000)])[0])
    with exchanging(source):
        stream = stored["train"]["y"].batches(100, shuffle=shuffle, budget="1MB" if source == "exchange" else "64MiB")
    assert isinstance(stream._loader, ExchangeLoader if source == "exchange" else MemoryLoader)
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


@pytest.mark.parametrize("shuffle", [False, True, "blocks"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("k", [101, 10**6, 10**12, 2**63, 10**30])
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


# ---------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("source", SOURCES)
def test_weighted_draws_have_the_expected_frequencies(source):
    n = 4000
    weights = np.repeat([0.0, 1.0, 2.0, 5.0], n // 4)
    gate = StoreGate(data_id="a")
    gate.add_data(["x", "w"], [np.arange(n), weights])
    counts = np.zeros(n)
    with exchanging(source):
        stream = gate["train"]["x"].batches(128, weights="w", seed=3, budget=budget_of(source))
    for _ in range(5):
        counts += np.bincount(np.concatenate(list(stream)), minlength=n)
    stream.close()
    assert counts.sum() == 5 * n
    assert counts[: n // 4].sum() == 0
    expected = 5 * n * weights / weights.sum()
    drawn = expected > 0
    chi_square = ((counts[drawn] - expected[drawn]) ** 2 / expected[drawn]).sum()
    assert abs(chi_square - drawn.sum()) < 4 * np.sqrt(2 * drawn.sum())
    again = np.concatenate(list(gate["train"]["x"].batches(128, weights=weights, seed=3)))
    ranks = [gate["train"]["x"].batches(128, weights=weights, seed=3, rank=rank, world=3) for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate([part for step in zip(*ranks, strict=True) for part in step]), again)


def test_one_column_of_labels_is_labels_and_rows_of_several_classes_are_refused(gate):
    labels = np.repeat([0, 1], [90, 10])
    gate.add_data(["x", "column", "several"], [np.arange(100), labels[:, None], np.ones((100, 2), "u1")])
    flat = class_weights(labels)
    np.testing.assert_array_equal(class_weights(labels[:, None]), flat)
    np.testing.assert_array_equal(class_weights(np.eye(2)[labels]), flat)
    rows = np.concatenate(
        [np.concatenate(list(gate["train"]["x"].batches(100, seed=seed, balance="column"))) for seed in range(40)]
    )
    assert abs((rows >= 90).mean() - 0.5) < 0.047  # six standard deviations of 4,000 rows
    for wrong in (np.ones((3, 2)), np.zeros((3, 2)), np.full((3, 2), 0.5), np.array([["a", "b"]]), np.zeros((2, 1, 1))):
        with pytest.raises(errors.ShapeError, match="balance="):
            class_weights(wrong)
    with pytest.raises(errors.ShapeError, match=r"row 0 is \[1, 1\]; give weights="):
        gate["train"]["x"].batches(10, balance="several")


def drawn(weights, seed, epoch):
    """Draw rows as `epochs` documents it, all at once."""
    n = len(weights)
    words = np.array([3, 2, seed, 0, epoch, 0], np.uint32)
    fractions = (np.random.PCG64(np.random.SeedSequence(words)).random_raw(n) >> np.uint64(11)) * 2.0**-53
    ends = np.cumsum(weights)
    return np.minimum(np.searchsorted(ends, fractions * ends[-1], side="right"), np.flatnonzero(weights)[-1])


@pytest.mark.parametrize("n", [1, 7, 1000, 2**20 + 3])
def test_draws_are_those_of_the_sums_of_weights(n):
    random = np.random.default_rng(n)
    for weights in (random.random(n), np.arange(1.0, n + 1), 10.0 ** random.integers(-30, 30, n)):
        np.testing.assert_array_equal(draw(Range(0, n), weights, 3, 4).rows(0, n), drawn(weights, 3, 4))


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([1e308, 1e308, 1.0, 1.0], [0.5, 0.5, 0, 0]),
        ([5e-324, 1e-323, 5e-324, 0.0], [0.25, 0.5, 0.25, 0]),
        ([1.7e308] * 4, [0.25] * 4),
    ],
)
def test_weights_of_any_size_draw_in_proportion(weights, shares):
    rows = np.concatenate([draw(Range(0, 4), np.array(weights), 1, epoch).rows(0, 4) for epoch in range(2000)])
    np.testing.assert_allclose(np.bincount(rows, minlength=4) / 8000, shares, atol=0.03)


def test_weights_are_the_same_in_any_byte_order():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(100))
    weights = np.arange(100.0)
    state = gate["train"]["x"].batches(10, weights=weights).state_dict()
    for other in (weights.astype(">f8"), weights.astype("i4"), weights.tolist()):
        gate["train"]["x"].batches(10, weights=other).load_state_dict(state)
    with pytest.raises(TypeError, match="complex128"):
        gate["train"]["x"].batches(10, weights=weights + 1j)


@pytest.mark.parametrize("form", ["labels", "one-hot"])
def test_balanced_classes_are_drawn_equally_often(form):
    labels = np.repeat([4, 7, 9], [2000, 300, 100])
    gate = StoreGate(data_id="a")
    gate.add_data("y", labels if form == "labels" else np.identity(10)[labels])
    batches = np.concatenate(list(gate["train"]["y"].batches(100, balance="y")))
    counts = np.bincount(batches if form == "labels" else batches.argmax(axis=1), minlength=10)[[4, 7, 9]]
    assert ((counts - 800) ** 2 / 800).sum() < 13.8  # chi-square of 2 degrees of freedom: 0.1 %


# ------------------------------------------------------------------------------------ what is left


def descriptors():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("shuffle", [False, True, "blocks"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("leave", ["break", "raise", "end", "never begun"])
def test_no_thread_no_file_and_no_spill_is_left(stored, scratch, shuffle, source, leave):
    stored.add_data("x", np.arange(3000))
    view = stored["train"]["x"]
    list(view.batches(1000, shuffle=False))  # opens what stays open
    before = threading.active_count(), descriptors()
    with exchanging(source):
        options = {"label": "x", "block_rows": 1, "buffer_blocks": 1000} if shuffle == "blocks" else {}
        stream = view.batches(10, shuffle=shuffle, budget="4MB" if source == "exchange" else "64MiB", **options)
    with stream:
        if leave == "break":
            for _ in stream:
                break
        elif leave == "raise":
            with pytest.raises(TypeError):
                "".join(stream)
        elif leave == "end":
            assert len(list(stream)) == 300
        else:
            iter(stream)
        gc.collect()
        assert threading.active_count() <= before[0]
        n_spills = len(list(scratch.iterdir())) if scratch.exists() else 0
        assert descriptors() <= before[1] + n_spills, "a lock on each directory of spill"
    assert not scratch.exists()
    assert descriptors() <= before[1]


@pytest.mark.parametrize("end", ["killed", "kept"])
def test_what_an_earlier_process_spilled_is_used_when_its_stream_goes_on(tmp_path, scratch, monkeypatch, end):
    program = f"""
    import dask, json, time, numpy as np
    from storegate import StoreGate
    dask.config.set({{"storegate.shuffle": "exchange", "storegate.scratch-directory": {str(scratch)!r}}})
    gate = StoreGate("zarr", {{"output_dir": {str(tmp_path / "store")!r}, "chunk": 100}}, data_id="a")
    gate.add_data("x", np.arange(50_000))
    stream = gate["train"]["x"].batches(100, seed=3, epoch=2, budget={SMALL!r})
    for batch in stream:
        if stream.step == 217:
            print(json.dumps(stream.state_dict()), flush=True)
            {"time.sleep(600)" if end == "killed" else "break"}
    stream.close(keep_spill=True)
    """
    with python(program, stdout=subprocess.PIPE) as process:
        state = json.loads(process.stdout.readline())
        if end == "killed":
            process.kill()
    assert process.returncode == (-signal.SIGKILL if end == "killed" else 0)
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a")
    whole = list(gate["train"]["x"].batches(100, seed=3, epoch=2, budget="64MiB"))
    written = []
    original = bucket_sorts.write_parts
    monkeypatch.setattr(
        bucket_sorts, "write_parts", lambda path, *a, **o: written.append(path) or original(path, *a, **o)
    )
    with exchanging("exchange"), gate["train"]["x"].batches(100, seed=3, budget=SMALL) as stream:
        stream.load_state_dict(state)
        found = list(stream)
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate(whole[217:]))
        following = Path(stream._loader._exchange(3).sorts[0].directory)
        assert {path.parent for path in written} <= {following}, "and of that, what was not written when it was killed"
    assert not scratch.exists()


def spilled_files(stream, epoch):
    """Return the spill files of an epoch, by where they lie on the disk."""
    directory = Path(stream._loader._exchange(epoch).sorts[0].directory)
    return {path.stat().st_ino: path.name for path in directory.glob("*-map-*")}


def test_an_epoch_is_spilled_over_the_files_of_one_that_is_done(tmp_path, scratch):
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100}, data_id="a")
    gate.add_data("x", np.arange(20_000))
    with exchanging("exchange"), gate["train"]["x"].batches(100, seed=3, budget=SMALL) as stream:
        files = []
        for epoch in range(5):
            expected = np.concatenate(list(gate["train"]["x"].batches(100, seed=3, epoch=epoch, budget="64MiB")))
            np.testing.assert_array_equal(np.concatenate(list(stream)), expected)
            files.append(spilled_files(stream, epoch + 1))
            assert len(list(scratch.iterdir())) == 2, "this epoch's and the next one's"
            assert list(scratch.glob(f"*/{SPARE}")) == []
    assert len(files[0]) > 2
    assert files[0] == files[2] == files[4], "written over again and again"
    assert files[1] == files[3] != files[0]
    assert not scratch.exists()


def send_rows_later(stream, sharing, begun, closed, queue):
    sharing.close(keep_spill=True)
    batches = iter(stream)
    first = next(batches)
    begun.set()
    closed.wait(120)
    queue.put([batch.tolist() for batch in (first, *batches)])


def test_a_forked_child_spills_for_itself(tmp_path, scratch):
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100}, data_id="a")
    gate.add_data("x", np.arange(20_000))
    context = multiprocessing.get_context("fork")
    begun, closed, queue = context.Event(), context.Event(), context.Queue()
    with exchanging("exchange"):
        stream, sharing = (gate["train"]["x"].batches(100, seed=3, budget=SMALL) for _ in range(2))
    with stream, sharing:
        expected = list(stream)
        next(iter(sharing))
        stream.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's own: threads and fork
            process = context.Process(target=send_rows_later, args=(stream, sharing, begun, closed, queue))
            process.start()
        assert begun.wait(120)
        np.testing.assert_array_equal(list(stream), expected)
    closed.set()  # what the parent spilled is gone
    assert queue.get(timeout=30) == [batch.tolist() for batch in expected]
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize("done", [False, True])
def test_a_spill_that_was_kept_is_used_in_the_same_process(tmp_path, scratch, done):
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100}, data_id="a")
    gate.add_data("x", np.arange(20_000))
    with exchanging("exchange"):
        first, second = (gate["train"]["x"].batches(100, seed=3, budget=SMALL) for _ in range(2))
    batches = iter(first)
    found = [next(batches) for _ in range(200 if done else 50)]
    if done:
        assert list(batches) == []
    files = spilled_files(first, first.epoch)
    state = first.state_dict()
    first.close(keep_spill=True)
    first.close()
    assert len(list(scratch.iterdir())) == (1 if done else 2), "nothing of the epoch that is done"
    second.load_state_dict(state)
    found += list(second)
    kept = spilled_files(second, state["epoch"])
    assert files.items() <= kept.items()
    assert len(np.unique(np.concatenate(found[:200]))) == 20_000
    second.close(keep_spill=True)
    assert sorted(orphans(scratch)) == sorted(scratch.iterdir()) != [], "removed by vacuum, where they lie in a store"


def test_streams_of_one_order_share_their_spill(tmp_path, scratch):
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100}, "a")
    gate.add_data("x", np.arange(20_000))
    with exchanging("exchange"):
        one, other = (gate["train"]["x"].batches(100, seed=3, budget=SMALL) for _ in range(2))
    with one, other:
        pairs = zip(one, other, strict=True)
        np.testing.assert_array_equal(*next(pairs))
        assert len(list(scratch.iterdir())) == 2, "this epoch's and the next one's"
        one.close()
        rest = list(other)
        assert sum(map(len, rest)) == 19_900
    assert not scratch.exists()


def test_a_reader_that_fails_is_the_consumers_error_and_leaves_nothing(stored, tmp_path):
    stored.add_data("x", np.arange(30_000))
    before = threading.active_count()
    stream = stored["train"]["x"].batches(100, shuffle=False)
    for chunk in tmp_path.rglob("c/*"):
        chunk.write_bytes(b"broken")
    with pytest.raises(errors.CorruptStoreError):
        list(stream)
    assert threading.active_count() == before


@pytest.mark.parametrize("shuffle", [True, "blocks"])
def test_ctrl_c_ends_the_process_at_once(tmp_path, shuffle):
    program = f"""
    import dask, signal, threading, numpy as np
    from storegate import StoreGate
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may have been started without it
    dask.config.set({{"storegate.shuffle": "exchange", "storegate.scratch-directory": {str(tmp_path / "scratch")!r}}})
    gate = StoreGate("zarr", {{"output_dir": {str(tmp_path / "store")!r}}}, data_id="a")
    gate.add_data("x", np.arange(200_000))
    sizes = {{"block_rows": 100, "buffer_blocks": 64}} if {shuffle!r} == "blocks" else {{}}
    stream = gate["train"]["x"].batches(10, shuffle={shuffle!r}, budget="32MiB", **sizes)
    try:
        while True:
            for batch in stream:
                if stream.step == 5:
                    print("reading", flush=True)
    except KeyboardInterrupt:
        stream.close()
        print([thread.name for thread in threading.enumerate() if "storegate" in thread.name], flush=True)
    """
    with python(program, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        found, _ = process.communicate(timeout=60)
    assert found.splitlines()[-1] == "[]"
    assert process.returncode == 0
    assert list(tmp_path.rglob("*-map-*")) == []


@pytest.mark.parametrize("stay", ["default", "ignored"])
def test_sigterm_ends_the_process_and_its_spill(tmp_path, stay):
    scratch = tmp_path / "scratch"
    program = f"""
    import dask, signal, time, numpy as np
    from storegate import StoreGate
    dask.config.set({{"storegate.shuffle": "exchange", "storegate.scratch-directory": {str(scratch)!r}}})
    if {stay!r} == "ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gate = StoreGate("zarr", {{"output_dir": {str(tmp_path / "store")!r}}}, data_id="a")
    gate.add_data("x", np.arange(200_000))
    stream = gate["train"]["x"].batches(10, budget="32MiB")
    for batch in stream:
        if stream.step == 5:
            print("reading", flush=True)
        if stream.step == 500 and {stay!r} == "ignored":
            break
    stream.close()
    """
    with python(program, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "reading\n"
        assert list(scratch.iterdir())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
    assert process.returncode == (0 if stay == "ignored" else -signal.SIGTERM)
    assert not scratch.exists()


def python(program, **options):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'engine'}"}
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    return subprocess.Popen(command, env=environment, text=True, **options)


# --------------------------------------------------------------------------------------- processes


def send_rows(stream, queue):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading with zarr-python, see arrays
        queue.put([batch.tolist() for batch in stream])


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("shuffle", "source"), [(False, "memory"), (True, "memory"), (True, "exchange"), ("blocks", "memory")]
)
def test_a_stream_goes_on_in_another_process(stored_rows, method, shuffle, source):
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


# ------------------------------------------------------------------------------------------ memory


def test_a_buffer_that_does_not_fit_is_refused_with_the_remedy(stored):
    stored.add_data("x", np.zeros((1000, 1000), "f4"))
    with pytest.raises(errors.MemoryBudgetError, match=r"3 buffers of 64 blocks of 10 rows.*budget=.*buffer_blocks="):
        stored["train"]["x"].batches(600, shuffle="blocks", block_rows=10, buffer_blocks=64, budget="4MiB")
    with pytest.raises(errors.MemoryBudgetError, match="exchange for batches of 900 rows"):
        stored["train"]["x"].batches(900, budget="4MiB")
    with pytest.raises(errors.MemoryBudgetError, match="batches of 900 rows"):
        stored["train"]["x"].batches(900, shuffle=False, budget="4MiB")


def test_ranks_of_a_machine_share_the_default_limit_and_keep_one_that_is_configured(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(settings_of, "default_budget_nbytes", lambda: 2**30)
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(100))
    view = gate["train"]["x"]

    def limit(**options):
        return view.batches(10, **options)._budget_nbytes

    with dask.config.set({"storegate.memory-limit": None}):
        assert limit() == 2**30
        assert limit(rank=1, world=4) == 2**28
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        assert limit(rank=1, world=4) == 2**29
        assert limit() == 2**30
        assert limit(rank=1, world=4, budget="64MiB") == 2**26
    with dask.config.set({"storegate.memory-limit": "128MiB"}):
        assert limit(rank=1, world=4) == 2**27
    own = StoreGate("numpy", {"budget": "32MiB"}, data_id="a")
    own.add_data("x", np.arange(100))
    assert own["train"]["x"].batches(10, world=4)._budget_nbytes == 2**25


MEASURED = """
import gc, json, sys, time, warnings
from pathlib import Path
import numpy as np
from storegate import StoreGate
warnings.simplefilter("ignore")
directory, shuffle, budget, n_rows, consumer, n_epochs = sys.argv[1:]
shuffle, n_rows = json.loads(shuffle), int(n_rows)

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def blocks(n_rows):
    random = np.random.default_rng(0)
    for start in range(0, n_rows, 1000):
        yield random.integers(0, 2**30, (min(1000, n_rows - start), 1024), np.int32)

with StoreGate("zarr", {"output_dir": directory + "/store"}, data_id="a") as gate:
    for phase, rows in (("valid", 300), ("train", n_rows)):
        gate.add_data(["x", "y"], [blocks(rows), np.arange(rows)], phase=phase)
    list(gate["valid"][["x", "y"]].batches(10, shuffle=shuffle))
    stream = gate["train"][["x", "y"]].batches(64, shuffle=shuffle, budget=budget)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, peaks = status("VmRSS"), []
    for epoch in range(int(n_epochs)):
        seen = 0
        for x, y in stream:
            seen += len(y)
            if consumer == "slow" and stream.step % 16 == 0:
                end = time.perf_counter() + 0.02
                while time.perf_counter() < end:
                    pass
        assert seen == n_rows
        peaks.append(status("VmHWM") - before)
    stream.close()
source = type(stream._loader).__name__
print(json.dumps({"projected": stream.projected_nbytes, "peaks": peaks, "source": source}))
"""


def measured(tmp_path, shuffle, budget, n_rows, consumer, n_epochs):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'engine'}"}
    arguments = [str(tmp_path), json.dumps(shuffle), budget, str(n_rows), consumer, str(n_epochs)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured on Linux")
@pytest.mark.parametrize("consumer", ["fast", "slow"])
@pytest.mark.parametrize(
    ("shuffle", "budget", "source"),
    [
        (False, "128MiB", RunLoader),
        ("blocks", "320MiB", BlockLoader),
        (True, "512MiB", MemoryLoader),
        (True, "96MiB", ExchangeLoader),
    ],
)
def test_the_peak_is_not_above_the_projection(tmp_path, consumer, shuffle, budget, source):
    found = measured(tmp_path, shuffle, budget, 64_000, consumer, 2)
    assert found["source"] == source.__name__
    assert max(found["peaks"]) <= found["projected"], {key: found[key] for key in ("peaks", "projected")}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured on Linux")
@pytest.mark.parametrize(("shuffle", "budget"), [(True, "64MiB"), ("blocks", "320MiB")])
def test_the_peak_of_twenty_epochs_is_not_above_the_projection(tmp_path, shuffle, budget):
    found = measured(tmp_path, shuffle, budget, 20_000, "fast", 20)
    assert found["peaks"][-1] <= found["projected"]


@pytest.mark.parametrize("shuffle", [False, True, "blocks"])
@pytest.mark.parametrize("source", SOURCES)
def test_nothing_is_kept_from_epoch_to_epoch(stored_rows, shuffle, source):
    options = {"label": "x", "block_rows": 1, "buffer_blocks": 100} if shuffle == "blocks" else {}
    with exchanging(source):
        stream = stored_rows["train"]["x"].batches(100, shuffle=shuffle, budget=budget_of(source), **options)
    levels = []
    tracemalloc.start()
    try:
        for _ in range(30):
            for _ in stream:
                pass
            gc.collect()
            levels.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
        stream.close()
    # an epoch's rows are 8 kB, and so is its order: what is kept of each shows in the slope, which what an epoch has
    # begun of the next one does not
    slope = np.polyfit(np.arange(20), levels[10:], 1)[0]
    assert slope < 2000, levels


def test_many_variables_are_spilled_into_one_directory_an_epoch(stored, scratch):
    names = [f"v{number}" for number in range(120)]
    stored.add_data(names, [np.arange(3000.0) + number for number in range(120)])
    with exchanging("exchange"):
        stream = stored["train"][names].batches(100, seed=1, budget="16MiB")
    expected = keyed_permutation(3000, 1, 0)
    with stream:
        seen, n_directories = [], set()
        for batch in stream:
            seen.append([batch[0], batch[77] - 77])
            n_directories.add(len(list(scratch.iterdir())))
        assert n_directories == {2}, "one of this epoch, one of the next"
        for rows in np.concatenate(seen, axis=1):
            np.testing.assert_array_equal(rows, expected)
    assert not scratch.exists()


# -------------------------------------------------------------------------------------- transforms


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
    n_before = threading.active_count()
    stream = view.batches(10, shuffle=False, transform=explode)
    with pytest.raises(RuntimeError, match="no") as caught:
        list(stream)
    assert caught.value.__notes__ == ["in transform= of batches(), at step 3"]
    assert stream.step == 3
    del caught
    gc.collect()
    assert threading.active_count() == n_before
    with pytest.raises(TypeError, match="transform="):
        view.batches(10, transform="flip")


def test_a_loop_with_a_transform_that_is_left_goes_on_where_it_was(stored_rows):
    stream = stored_rows["train"]["x"].batches(10, shuffle=False, transform=lambda batch, rng: batch * 2)
    for batch in stream:
        if batch[0] == 100:
            break
    assert next(iter(stream))[0] == 120
