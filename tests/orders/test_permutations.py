"""Permutations: numpy's own, and a bijection of any length; and the cache of their tables."""

from __future__ import annotations

import os
import pickle
import threading
import zlib
from math import isqrt
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate_engine.orders import (
    Permute,
    Range,
    permutation_tables,
    permute,
)
from storegate_engine.orders.permutations import forward_rows, inverse_rows
from tests.examples import examples
from tests.order_cases import slow_feistel


@pytest.mark.parametrize("n", [1, 2, 3, 10, 255, 256, 257, 65_535, 65_536, 65_537, 300_001])
@pytest.mark.parametrize("seed", [0, 1, 7, 2**32 - 1])
def test_numpy_order_equals_numpy(n: int, seed: int) -> None:
    expected = np.random.RandomState(seed).permutation(n)
    np.testing.assert_array_equal(Permute(Range(0, n), "numpy", seed).rows(0, n), expected)
    rows = np.arange(n)
    np.random.RandomState(seed).shuffle(rows)  # what the predecessor called
    np.testing.assert_array_equal(forward_rows("numpy", n, seed, np.arange(n)), rows)
    np.testing.assert_array_equal(inverse_rows("numpy", n, seed, expected), np.arange(n))


def test_global_random_state_stays() -> None:
    before = pickle.dumps(np.random.get_state())
    permutation_tables.memory_tables.clear()
    permute(Range(0, 1000), 3).rows(0, 1000)
    permute(Range(0, 2**31), 3).rows(0, 1000)
    assert pickle.dumps(np.random.get_state()) == before


@pytest.mark.parametrize(
    ("longest", "seed"), [(1024, 0), *(pytest.param(4096, seed, marks=pytest.mark.slow) for seed in (0, 2**64 + 3))]
)
def test_feistel_is_a_bijection_at_every_small_length(longest: int, seed: int) -> None:
    for n in range(1, longest + 1):
        found = forward_rows("feistel8-v1", n, seed, np.arange(n))
        assert len(found) == n
        assert (np.bincount(found, minlength=n) == 1).all(), n
        if n % 3 == 0:
            np.testing.assert_array_equal(inverse_rows("feistel8-v1", n, seed, found), np.arange(n))


@given(
    st.one_of(st.integers(1, 2**40), st.integers(2**40, 2**62), st.integers(1, 2**31).map(lambda root: root**2)),
    st.integers(0, 2**80),
    st.data(),
)
@settings(max_examples=examples(200))
def test_feistel_inverts_itself_at_any_length(n: int, seed: int, data: st.DataObject) -> None:
    lo = data.draw(st.integers(0, n - 1))
    indices = np.arange(lo, min(lo + 300, n))
    found = forward_rows("feistel8-v1", n, seed, indices)
    assert found.min() >= 0
    assert found.max() < n
    assert len(np.unique(found)) == len(indices)
    np.testing.assert_array_equal(inverse_rows("feistel8-v1", n, seed, found), indices)
    np.testing.assert_array_equal(
        forward_rows("feistel8-v1", n, seed, inverse_rows("feistel8-v1", n, seed, indices)), indices
    )


@given(
    st.one_of(st.integers(1, 100), st.integers(1, 2**62)),
    st.one_of(st.integers(0, 10), st.integers(0, 2**80)),
    st.data(),
)
def test_feistel_equals_the_documented_algorithm(n: int, seed: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, n - 1))
    assert forward_rows("feistel8-v1", n, seed, np.array([index])).tolist() == [slow_feistel(n, seed, index)]


@pytest.mark.parametrize("kind", ["numpy", "feistel8-v1"])
@pytest.mark.parametrize("n_asked", [0, 1, 5])
def test_rows_and_places_are_of_64_bits_however_few(kind: str, n_asked: int) -> None:
    asked = np.arange(n_asked)
    for found in (forward_rows(kind, 300, 3, asked), inverse_rows(kind, 300, 3, asked)):
        assert found.dtype == np.int64
        assert found.shape == (n_asked,)


def test_feistel_slices_of_work_leave_no_seam() -> None:
    n = 100_003
    expected = np.concatenate(
        [forward_rows("feistel8-v1", n, 5, np.arange(lo, min(lo + 999, n))) for lo in range(0, n, 999)]
    )
    np.testing.assert_array_equal(forward_rows("feistel8-v1", n, 5, np.arange(n)), expected)
    np.testing.assert_array_equal(inverse_rows("feistel8-v1", n, 5, expected), np.arange(n))


def chi_square_per_degree(counts: npt.NDArray[np.int64]) -> float:
    expected = counts.sum() / counts.size
    return float((((counts - expected) ** 2) / expected).sum() / (counts.size - 1))


@pytest.mark.parametrize("n", [65_536, 65_537, 2**20])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_feistel_neighbours_look_independent(n: int, seed: int) -> None:
    """Ideal shuffles have 1.0, with a standard deviation of sqrt(2 / 1023) = 0.044; bad rounds have 140."""
    found = forward_rows("feistel8-v1", n, seed, np.arange(n))
    b = -(-n // (isqrt(n - 1) + 1))
    for lag in (1, 2, b - 1, b, b + 1):  # rows b apart share one half of the network's input
        apart = (found[lag:] - found[:-lag]) % n
        assert chi_square_per_degree(np.bincount(apart * 1024 // n, minlength=1024)) < 1.25, lag
    corner = (found[b + 1 :] - found[1:-b] - found[b:-1] + found[: -b - 1]) % n
    assert chi_square_per_degree(np.bincount(corner * 1024 // n, minlength=1024)) < 1.25
    grid = np.bincount((np.arange(n) * 64 // n) * 64 + found * 64 // n, minlength=4096)
    assert chi_square_per_degree(grid) < 1.25


@pytest.mark.parametrize("n", [100_000, 2**20 - 500, 2**40 - 9])
def test_feistel_orders_of_two_lengths_are_unrelated(n: int) -> None:
    """An append is never a longer permutation: both lengths have the same halves, so it is the keys that differ."""
    assert isqrt(n - 1) == isqrt(n)
    assert -(-n // (isqrt(n - 1) + 1)) == -(-(n + 1) // (isqrt(n) + 1))
    some = np.arange(0, 100_000)
    one, other = (forward_rows("feistel8-v1", length, 3, some) for length in (n, n + 1))
    assert np.count_nonzero(one == other) < 12  # about 100,000 / n of them are equal by chance
    near = np.abs(one - other) < n // 1000
    assert near.mean() < 0.003


@pytest.mark.parametrize(
    ("kind", "n", "seed", "checksum"),
    [
        ("numpy", 10, 0, 2797121094),
        ("numpy", 1000, 7, 683566468),
        ("numpy", 65_537, 1, 1476243518),
        ("numpy", 200_000, 2**32 - 1, 4111584116),
        ("feistel8-v1", 10, 0, 2974505904),
        ("feistel8-v1", 1000, 7, 3178110444),
        ("feistel8-v1", 65_537, 1, 844057076),
        ("feistel8-v1", 1_000_003, 2**70, 1106441292),
        ("feistel8-v1", 2**40 + 1, 5, 569428455),  # its last 1,000 rows
        ("feistel8-v1", 2**62, 11, 521915751),
    ],
)
def test_orders_never_change(kind: str, n: int, seed: int, checksum: int) -> None:
    """Stored tables depend on these; a kind that changes needs a new name."""
    found = forward_rows(kind, n, seed, np.arange(0 if n < 2**30 else n - 1000, n))
    assert zlib.crc32(found.astype("<i8").tobytes()) == checksum


def test_first_rows_never_change() -> None:
    assert forward_rows("numpy", 10, 7, np.arange(10)).tolist() == [8, 5, 0, 2, 1, 9, 7, 3, 6, 4]
    assert forward_rows("feistel8-v1", 10, 7, np.arange(10)).tolist() == [3, 8, 9, 4, 2, 7, 1, 0, 6, 5]


def test_permuted_orders_check_what_they_get() -> None:
    with pytest.raises(IndexError):
        Permute(Range(0, 10), "numpy", 0).take([10])
    with pytest.raises(IndexError):
        Permute(Range(0, 10), "feistel8-v1", 0).take([-1])
    with pytest.raises(ValueError, match="known: numpy, feistel8-v1"):
        Permute(Range(0, 10), "feistel9-v1", 0)
    for kind in ("numpy", "feistel8-v1"):
        assert Permute(Range(0, 2), kind, 0).take([]).shape == (0,)
        assert Permute(Range(0, 10), kind, 0).take([[1, 2]]).shape == (1, 2)
        assert Permute(Range(0, 10), kind, 0).find([[1, 2]]).shape == (1, 2)


def test_cache_is_bounded_and_keeps_the_newest() -> None:
    cache = permutation_tables.PermutationCache(limit_nbytes=1000)
    small = cache.forward(100, 1)
    assert cache.forward(100, 1) is small
    cache.forward(100, 2)
    assert cache.forward(100, 1) is small  # now the most recent of the two
    cache.forward(100, 3)
    assert cache.nbytes == 800
    assert cache.forward(100, 1) is small
    large = cache.forward(5000, 1)  # more than the limit: the others go, it stays
    assert cache.nbytes == large.nbytes == 20_000
    assert cache.forward(5000, 1) is large
    cache.forward(10, 1)
    assert cache.nbytes == 40
    with pytest.raises(ValueError, match="read-only"):
        large[0] = 1
    cache.clear()
    assert cache.nbytes == 0
    exact = permutation_tables.PermutationCache(limit_nbytes=800)
    assert [exact.forward(100, seed).nbytes for seed in (1, 2)] == [400, 400]
    assert exact.nbytes == 800


def test_a_permutation_and_its_inverse_fit_up_to_the_limit_and_the_others_make_room() -> None:
    tables = permutation_tables.memory_tables
    tables.clear()
    for seed in range(4):
        tables.forward(100, seed)
    for n, limit, fits, left in (
        (1000, 7999, False, 1600),
        (100, 2400, True, 1600),
        (100, 2399, True, 1200),
        (100, 1600, True, 800),
        (1000, 8000, True, 400),  # the newest stays
    ):
        assert permutation_tables.fits_in_memory(n, limit) is fits
        assert tables.nbytes == left


def test_concurrent_callers_build_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    gate = threading.Event()
    real = permutation_tables.build_forward

    def slow(n: int, seed: int) -> permutation_tables.UInt32Array:
        built.append(seed)
        gate.wait(10)
        return real(n, seed)

    monkeypatch.setattr(permutation_tables, "build_forward", slow)
    cache = permutation_tables.PermutationCache(limit_nbytes=10)
    found: list[permutation_tables.UInt32Array] = []
    threads = [threading.Thread(target=lambda: found.append(cache.forward(1000, 5))) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(10)
    assert built == [5]
    assert len(found) == 8
    assert len({id(table) for table in found}) == 1


def test_no_rows_need_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> permutation_tables.UInt32Array:
        raise AssertionError

    monkeypatch.setattr(permutation_tables, "build_forward", fail)
    order = Permute(Range(0, 4321), "numpy", 987)
    assert order.rows(7, 7).size == order.take([]).size == order.positions(5, 5).size == 0
    assert order.positions(5000, 5002).tolist() == [-1, -1]


def test_a_failed_build_leaves_the_cache_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = permutation_tables.PermutationCache(limit_nbytes=10**6)

    def fail(n: int, seed: int) -> permutation_tables.UInt32Array:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(permutation_tables, "build_forward", fail)
        with pytest.raises(MemoryError):
            cache.forward(100, 1)
    np.testing.assert_array_equal(cache.forward(100, 1), np.random.RandomState(1).permutation(100))


def test_who_waits_for_a_build_that_fails_builds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real, begun, waiting = permutation_tables.build_forward, threading.Event(), threading.Event()
    failed: list[BaseException] = []

    class Noted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.set()
            return super().wait(timeout)

    def build(n: int, seed: int) -> permutation_tables.UInt32Array:
        if not begun.is_set():
            begun.set()
            assert waiting.wait(60)
            raise MemoryError
        return real(n, seed)

    def fail() -> None:
        try:
            cache.forward(100, 1)
        except MemoryError as err:
            failed.append(err)

    monkeypatch.setattr(permutation_tables, "threading", SimpleNamespace(Event=Noted, Lock=threading.Lock))
    monkeypatch.setattr(permutation_tables, "build_forward", build)
    cache = permutation_tables.PermutationCache(limit_nbytes=10**6)
    thread = threading.Thread(target=fail)
    thread.start()
    assert begun.wait(60)
    np.testing.assert_array_equal(cache.forward(100, 1), np.random.RandomState(1).permutation(100))
    thread.join(60)
    assert len(failed) == 1


def test_a_forked_child_does_not_wait_for_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the fork one thread builds what the child asks for, and another one has the lock of the cache."""
    cache = permutation_tables.PermutationCache(limit_nbytes=10**6)
    building, locking, go_on = threading.Event(), threading.Event(), threading.Event()
    real = permutation_tables.build_forward

    class Counted:
        """A table whose bytes are asked for while the cache is locked."""

        @property
        def nbytes(self) -> int:
            if not locking.is_set():
                locking.set()
                go_on.wait(60)
            return 0

    def slow(n: int, seed: int) -> object:
        if n == 200:
            return Counted()
        building.set()
        go_on.wait(60)
        return real(n, seed)

    with monkeypatch.context() as patch:
        patch.setattr(permutation_tables, "build_forward", slow)
        threads = [threading.Thread(target=cache.forward, args=(n, 1)) for n in (100, 200)]
        for thread, begun in zip(threads, (building, locking), strict=True):
            thread.start()
            assert begun.wait(60)
    try:
        cache.after_fork()
        np.testing.assert_array_equal(cache.forward(100, 1), np.random.RandomState(1).permutation(100))
    finally:
        go_on.set()
        for thread in threads:
            thread.join()
    assert hasattr(os, "register_at_fork")
