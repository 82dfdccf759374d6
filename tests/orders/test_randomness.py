"""Orders are as random as they say, with fixed seeds: no p-value is impossible, and none too good."""

from __future__ import annotations

import hashlib
import itertools
import math

import numpy as np
import pytest

from storegate_engine.orders import Range
from storegate_engine.streams import Epochs
from storegate_engine.streams.epochs import TABLE_MAX_ROWS, draw, keyed_permutation, uniform

SIZES = [
    *(2, 3, 5, 7, 8, 16, 31, 32, 64, 100, 127, 255, 256, 1000, 1023, 4096, 2**16 - 1, 2**16),
    *(2**16 + 1, 2**17, 10**6, 2**20 + 1, 2**24, 2**30, 2**30 + 1, 2**31, 2**32, 2**33 + 7, 2**40, 2**48 - 1, 2**50),
    *(2**53 + 1, 2**56, 2**60, 2**62),
]
BINS = 12


def p_value(counts, expected):
    """Return the chance of a larger chi-square (Wilson and Hilferty's approximation)."""
    degrees = len(counts) - 1
    ratio = ((counts - expected) ** 2 / expected).sum() / degrees
    z = (ratio ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
    return 0.5 * math.erfc(z / math.sqrt(2))


def in_bins(values, n):
    """Return how often the numbers 0 .. n-1 fall into some bins, and how often they should."""
    bins = min(n, BINS)
    found = np.array([int(value) * bins // n for value in values])
    edges = [-(-at * n // bins) for at in range(bins + 1)]
    return np.bincount(found, minlength=bins), np.diff(edges).astype(float) * len(found) / n


def p_values(n, n_orders):
    """Return p-values of where rows come in many orders, and of how neighbours differ: 12 a size."""
    places = [0, n // 3, n - 1]
    n_orders = n_orders if n < TABLE_MAX_ROWS // 2 or n > TABLE_MAX_ROWS else 200
    taken = {"seeds": [], "epochs": []}
    found = {"seeds": [], "epochs": []}
    for at in range(n_orders):
        for kind, key in (("seeds", (at, 5)), ("epochs", (5, at))):
            order = uniform(Range(0, n), *key)
            taken[kind].append(order.take(np.array([*places, 1])))
            found[kind].append(order.find(np.array(places)))
    for kind in taken:
        rows, positions = np.array(taken[kind]), np.array(found[kind])
        for column in range(3):
            yield p_value(*in_bins(rows[:, column], n))
        for column in range(2):
            yield p_value(*in_bins(positions[:, column], n))
        yield p_value(*in_bins([(int(b) - int(a)) % n - (n > 1) for a, b in rows[:, [0, 3]]], n - 1)) if n > 2 else 0.5


@pytest.mark.slow
def test_rows_come_anywhere_in_orders_of_every_size():
    """420 p-values, which are themselves uniform."""
    found = np.array([p for n in SIZES for p in p_values(n, 1200)])
    assert len(found) == 420
    assert found.min() > 1e-4
    tenths = np.bincount((found * 10).astype(int).clip(0, 9), minlength=10)
    assert p_value(tenths, 42.0) > 1e-3


@pytest.mark.parametrize("n", [64, 4096, 2**16, 2**20, 2**40, 2**62])
def test_neighbouring_seeds_and_epochs_give_orders_that_have_nothing_in_common(n):
    """One bit of a key changes half of the bits of what comes out."""
    width = (n - 1).bit_length()
    changed = []
    for seed in range(60):
        rows = uniform(Range(0, n), seed, 3).take(np.arange(8))
        for other in (
            uniform(Range(0, n), seed ^ 1, 3),
            uniform(Range(0, n), seed, 2),
            uniform(Range(0, n), seed, 2**40 + 3),
        ):
            changed += [int(bits).bit_count() / width for bits in rows ^ other.take(np.arange(8))]
    assert abs(np.mean(changed) - 0.5) < 5 * 0.5 / math.sqrt(len(changed) * width)


def test_ranks_have_equal_shares_of_every_step():
    """1,386 configurations."""
    worlds, steps, rows = (
        (1, 2, 3, 4, 7, 8, 12, 16, 33, 48, 64),
        (1, 5, 32, 64, 100, 480, 1000),
        (1, 63, 64, 1000, 4097, 10_007),
    )
    configurations = list(itertools.product(worlds, steps, rows, ("split", "drop", "pad")))
    assert len(configurations) == 1386
    for world, k, n_rows, last in configurations:
        ranks = [Epochs(n_rows, k, last, rank, world) for rank in range(world)]
        for step in {0, 1, ranks[0].n_steps // 2, ranks[0].n_steps - 1} & set(range(ranks[0].n_steps)):
            parts = [epochs.part(step) for epochs in ranks]
            stop = min((step + 1) * k, ranks[0].n_positions)
            assert [parts[0][0], *(end for _, end in parts)] == [step * k, *(start for start, _ in parts[1:]), stop]
            sizes = [end - start for start, end in parts]
            assert max(sizes) - min(sizes) <= 1


def checksum(rows):
    return hashlib.sha256(np.ascontiguousarray(rows, "<i8").tobytes()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("rows", "known"),
    [
        (lambda: keyed_permutation(1000, 1, 2, 3), "08912ad10ae16209"),
        (lambda: keyed_permutation(1000, 1, 2, 3, version=1), "026e368d15169e88"),
        (lambda: uniform(Range(0, 5000), 7, 1).rows(0, 5000), "9761adb5994a6c0f"),
        (lambda: uniform(Range(0, 10**6), 7, 1).rows(0, 5000), "e493c3a01ddf3be2"),
        (lambda: uniform(Range(0, 2**62), 7, 1).rows(2**61, 2**61 + 5000), "eedde93a06f2e83f"),
        (lambda: draw(Range(0, 5000), np.arange(5000.0), 7, 1).rows(0, 5000), "0b8c53f07d5d71ca"),
    ],
    ids=["permutation", "permutation of version 1", "uniform", "uniform of many", "uniform of most", "drawn"],
)  # fmt: skip
def test_orders_are_the_same_under_every_numpy(rows, known):
    assert checksum(rows()) == known
