"""Weighted and class-balanced draws."""

from __future__ import annotations

import numpy as np
import pytest

from storegate import StoreGate, errors
from storegate_engine.orders import Range
from storegate_engine.streams import class_weights
from storegate_engine.streams.epochs import draw
from tests.replays import SOURCES, budget_of, drawn, exchanging

pytestmark = pytest.mark.usefixtures("scratch")


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


@pytest.mark.parametrize("n", [1, 7, 1000, pytest.param(2**20 + 3, marks=pytest.mark.slow)])
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
