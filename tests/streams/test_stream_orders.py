"""Batches: every row once, in the documented order, on every rank; replayed with plain numpy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import Ragged, StoreGate, errors
from storegate_engine.orders import Range
from storegate_engine.streams.epochs import keyed_permutation
from storegate_engine.streams.memory_loaders import MemoryLoader
from storegate_engine.streams.shares import Share
from storegate_engine.streams.span_loaders import RunLoader
from storegate_engine.streams.spilled import ExchangeLoader
from tests.examples import examples, in_turns
from tests.replays import KINDS, SMALL, SOURCES, epochs, exchanging, replayed, steps_of

pytestmark = pytest.mark.usefixtures("scratch")


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
        with pytest.raises(errors.NotInvertibleError, match="repeats"):
            share.find(permuted)


@pytest.mark.parametrize(
    ("kind", "drop_last", "n_rows"), in_turns([*KINDS, "drawn", "by length"], [False, True, "pad"], [0, 5, 700])
)
def test_rows_are_those_of_the_batches(kind, drop_last, n_rows):
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(n_rows))
    if kind == "by length":
        gate.add_data("list", Ragged.of([[0] * (at % 7) for at in range(n_rows)] or np.empty((0, 1))))
    options = {"weights": np.arange(n_rows) + 1.0} if kind == "drawn" and n_rows else {"shuffle": KINDS.get(kind, True)}
    view = gate["train"]
    if kind == "by length":
        options = {"bucket_by": "length"}
    if kind == "blocks":
        options |= {"block_rows": 20, "buffer_blocks": 9, "label": "x"}
    for rank in range(3):
        with warnings.catch_warnings(action="ignore"):
            stream = view.batches(64, seed=5, drop_last=drop_last, rank=rank, world=3, epoch=1, **options)
        expected = np.concatenate([np.empty(0, int), *(batch["x"] for batch in stream)])
        np.testing.assert_array_equal(stream.rows(1), expected)
        assert stream.rows().dtype == np.int64
    with pytest.raises(ValueError, match="found -1"):
        stream.rows(-1)


@settings(max_examples=examples(50), deadline=None)
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
    n_rows = min(n_rows, 24 * k)  # an epoch of more steps shows nothing else
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
        assert isinstance(large.loader, RunLoader if in_runs else MemoryLoader)
        assert isinstance(small.loader, RunLoader if in_runs else ExchangeLoader)
        for _ in range(3):
            for one, other in zip(large, small, strict=True):
                np.testing.assert_array_equal(one, other)
        small.close()


@pytest.mark.filterwarnings("ignore:shuffle=.blocks.:UserWarning")
@pytest.mark.parametrize("world", [1, pytest.param(3, marks=pytest.mark.slow)])
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
            assert whole.loader.parts == 1
            assert parted.loader.parts > 1
            assert parted.loader.projected_nbytes <= limit
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
    assert small.loader.projected_nbytes < 6 * 2**20
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
