"""What gates and views look like: phases side by side, in words, and no wider than the terminal."""

from __future__ import annotations

import sys
import unicodedata

import numpy as np
import pandas as pd
import pytest

from storegate import StoreGate


@pytest.fixture
def gate(tmp_path):
    rng = np.random.default_rng(0)
    with StoreGate.open(tmp_path / "events.zarr", "run1", mode="w") as gate:
        gate.add_data({"x": rng.normal(size=(10_000, 4)), "y": rng.integers(0, 3, 10_000)}, phase=(0.8, 0.1, 0.1))
        yield gate


def columns_of(text: str) -> int:
    return max(sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in line) for line in text.splitlines())


def test_a_table_as_its_page_shows_it(gate, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    gate.shuffle("all", seed=7)
    gate.astype("x", "float32", phase="all")
    gate.onehot("y", num_classes=3, phase="all")
    gate.compile()
    assert repr(gate).splitlines() == [
        "<StoreGate events.zarr · run1 · version 5 · 10,000 samples · 390.6 KiB>",
        "          train   valid    test",
        "samples   8,000   1,000   1,000   shuffled, seed 7",
        "x   (4,)   float32   stored float64",
        "y   (3,)   float64   one-hot of int64, 3 classes",
    ]
    assert repr(gate["valid"]["y"]).splitlines() == [
        "<view of events.zarr · run1 · version 5 · 1,000 samples · 23.4 KiB>",
        "          valid",
        "samples   1,000   shuffled, seed 7",
        "y   (3,)   float64   one-hot of int64, 3 classes",
    ]


def change_much(gate: StoreGate) -> None:
    gate.shuffle("train", seed=7)
    gate.shuffle("train", seed=8)
    gate.add_data(pd.DataFrame({"colour": pd.Categorical(["red", "blue"] * 4_000)}))
    gate.add_data("漢字" * 40, ["日本"] * 8_000)
    gate.add_data("long" * 40, np.zeros(8_000))
    gate.astype("x", "float32", phase="train")
    gate.astype("x", "int64", phase="train")
    gate["train"]["y"][10:20] = np.zeros(10, int)
    gate.add_data("x", np.zeros((3, 4)), phase="valid")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_text_is_never_wider_than_the_terminal(gate, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    change_much(gate)
    gate.show_info()
    shown = [repr(gate), repr(gate["train"]), repr(gate["train"]["x"]), repr(gate["x"]), repr(gate.history())]
    shown += [repr(gate["train"].subset([1, 2])), capsys.readouterr().out, repr(gate.diff(1, 5))]
    for text in shown:
        assert columns_of(text) <= columns
    assert "10,003 samples" in repr(gate).replace("\n", "")
    assert "not compiled" in repr(gate)


def test_what_goes_to_a_file_is_whole(gate, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    change_much(gate)
    assert "漢字" * 40 in repr(gate.history())


def test_the_chain_of_orders_and_transforms_is_in_words(gate, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    change_much(gate)
    text = repr(gate)
    for words in (
        "train in different orders, valid as stored, test as stored",
        "1,000-1,003",
        "in train: stored float64, then cast to float32, then cast to int64; shuffled, seed 7, then shuffled, seed 8",
        "1,000 in valid",
        "2 categories: blue, red; as stored; only in train",
    ):
        assert words in text


def test_phases_in_different_orders(gate, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    gate.shuffle("train", seed=3)
    gate.add_data({"x": np.zeros((5, 4)), "y": np.zeros(5, int)}, phase="valid", shuffle=9)
    assert "train shuffled, seed 3, valid in parts: as stored | shuffled, seed 9, test as stored" in repr(gate)


def test_the_share_is_of_each_variable_where_they_differ_in_length():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.zeros(30), phase="train")
    gate.add_data("x", np.zeros(10), phase="test")
    gate.add_data("y", np.zeros(1), phase="train")
    html = gate._repr_html_()
    assert "75%" in html
    assert "25%" in html
    assert "100%" in html


def test_variables_that_some_phases_lack(gate, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    gate.add_data("z", np.zeros(1_000), phase="valid")
    assert repr(gate["z"]).splitlines() == [
        "<view of events.zarr · run1 · version 2 · 1,000 samples · 7.8 KiB ·",
        " not compiled>",
        "          valid",
        "samples   1,000",
        "z      float64   only in valid",
    ]


def test_many_variables_are_counted(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    gate = StoreGate(data_id="a")
    gate.add_data({f"v{at}": [0] for at in range(100)})
    assert repr(gate).splitlines()[-1] == "... and 60 more variables"
    assert len(repr(gate).splitlines()) < 50


def test_places(tmp_path):
    assert repr(StoreGate()) == "<StoreGate in memory · no data_id>"
    assert repr(StoreGate(data_id="a")).startswith("<StoreGate in memory · a · version 0 · 0 samples")
    with StoreGate("zarr", data_id="a") as gate:
        assert "<StoreGate temporary · a" in repr(gate)
    with StoreGate("hybrid", {"output_dir": tmp_path / "some.zarr"}, data_id="a") as gate:
        assert "<StoreGate some.zarr · a" in repr(gate)
        gate.set_mode("numpy")
        assert "<StoreGate in memory · a" in repr(gate)
