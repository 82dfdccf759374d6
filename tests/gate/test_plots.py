"""Plots: what is drawn are the rows and orders; matplotlib is imported only then."""

from __future__ import annotations

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest

from storegate import StoreGate
from storegate_engine.errors import ArgumentError, ArgumentTypeError

matplotlib.use("Agg")
pyplot = pytest.importorskip("matplotlib.pyplot")

N = 500


@pytest.fixture(scope="module")
def gate():
    rng = np.random.default_rng(0)
    gate = StoreGate(data_id="a")
    gate.add_data(
        {
            "x": rng.normal(size=N),
            "y": rng.exponential(size=N),
            "image": rng.random((N, 9, 12)),
            "grey": rng.random((N, 9, 12, 1)),
            "colour": rng.integers(0, 255, (N, 3, 9, 12)).astype("u1"),
            "curve": rng.random((N, 64)),
            "curves": rng.random((N, 64, 2)),
            "word": rng.choice(["one", "two", "three"], N),
            "kind": pd.Categorical(rng.choice(["a", "b"], N)),
            "time": np.datetime64("2020-01-01") + rng.integers(0, 900, N),
            "name": [f"row {at}" for at in range(N)],
        }
    )
    gate.shuffle("train", seed=1)
    return gate


@pytest.fixture(autouse=True)
def closed():
    pyplot.close("all")  # of other tests
    yield
    pyplot.close("all")


def test_numbers_are_a_histogram(gate):
    (drawn,) = gate["train"]["x"].plot().patches
    values, edges, _ = drawn.get_data()
    np.testing.assert_array_equal(values, np.histogram(gate["train"]["x"][:], edges)[0])
    assert values.sum() == N


def test_several_variables_are_histograms_with_a_legend(gate):
    axes = gate["train"]["x", "y"].plot()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["x", "y"]
    assert [drawn.get_data()[0].sum() for drawn in axes.patches] == [N, N]


@pytest.mark.parametrize(("name", "labels"), [("word", ["one", "three", "two"]), ("kind", ["a", "b"])])
def test_classes_are_bars(gate, name, labels):
    axes = gate["train"][name].plot()
    values = gate["train"].to_pandas()[name]
    assert [text.get_text() for text in axes.get_xticklabels()] == labels
    assert [bar.get_height() for bar in axes.patches] == [(values == label).sum() for label in labels]


def test_times_are_a_histogram(gate):
    (drawn,) = gate["train"]["time"].plot().patches
    assert drawn.get_data()[0].sum() == N


@pytest.mark.parametrize("name", ["image", "grey", "colour"])
def test_images_are_a_grid(gate, name):
    rows = gate["train"][name][:6]
    rows = np.moveaxis(rows, 1, -1) if name == "colour" else rows.reshape(6, 9, 12)
    grid = gate["train"][name].plot(6)
    shown = [axes.get_images()[0].get_array() for axes in grid.flat if axes.get_images()]
    assert len(shown) == 6
    for at, drawn in enumerate(shown):
        np.testing.assert_allclose(np.asarray(drawn)[..., : rows.shape[-1]], rows[at])


@pytest.mark.parametrize(("name", "n_curves"), [("curve", 5), ("curves", 10)])
def test_series_are_curves(gate, name, n_curves):
    axes = gate["train"][name].plot(5)
    assert len(axes.lines) == n_curves
    rows = gate["train"][name][:5].reshape(5, 64, -1)
    np.testing.assert_array_equal(axes.lines[-1].get_ydata(), rows[-1, :, -1])


def test_plots_of_xarray_have_their_names(gate):
    assert gate["train"]["y"].plot.hist()[0].sum() == N
    _, axes = pyplot.subplots()
    assert gate["train"]["x"].plot(ax=axes) is axes


@pytest.mark.parametrize(
    ("view", "why"),
    [
        (lambda gate: gate["train"]["name"], "texts of many kinds"),
        (lambda gate: gate["train"]["x"].subset(slice(0, 0)), "its 0 rows of float64 are none"),
    ],
)
def test_what_cannot_be_drawn_is_refused(gate, view, why):
    with pytest.raises(ArgumentError, match=f"has no histogram: .*{why}"):
        view(gate).plot()


def test_the_largest_numbers_and_what_is_not_finite(recwarn):
    gate = StoreGate(data_id="a")
    largest = np.finfo(float).max
    image = np.zeros((4, 9, 9))
    image[0, 0, 0], image[1] = np.inf, np.nan
    gate.add_data({"huge": [largest, -largest, 0, 1], "nan": [np.nan] * 4, "image": image})
    axes = np.ravel(gate["train"]["image"].plot())[0]
    axes.figure.canvas.draw()
    with pytest.raises(ArgumentError, match=r"'huge' has values from -1.8e\+308 to 1.8e\+308, which matplotlib"):
        gate["train"]["huge"].plot()
    with pytest.raises(ArgumentError, match="4 rows of float64 are without a finite value"):
        gate["train"]["nan"].plot()
    assert [str(warning.message) for warning in recwarn] == []


def test_an_order_is_drawn_row_by_row(gate):
    x = gate["train"]["x"]
    streams = [x.batches(50, shuffle=False), x.batches(50, seed=3)]
    axes = streams[0].plot_order(*streams[1:], epoch=2)
    assert [one.get_title() for one in axes] == ["in order", "uniform"]
    for one, stream in zip(axes, streams, strict=True):
        points = one.collections[0].get_offsets()
        np.testing.assert_array_equal(points[:, 0], np.arange(N))
        np.testing.assert_array_equal(points[:, 1], stream.rows(2))


def test_plot_order_takes_streams(gate):
    x = gate["train"]["x"]
    with pytest.raises(ArgumentTypeError, match="plot_order takes other streams"):
        x.batches(50).plot_order(x)


@pytest.mark.parametrize(
    "draw", [lambda x: x.plot, lambda x: x.batches(50).plot_order()], ids=["view.plot", "plot_order"]
)
def test_without_matplotlib_the_extra_is_named(gate, monkeypatch, draw):
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"storegate\[plot\]"):
        draw(gate["train"]["x"])
