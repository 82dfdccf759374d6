"""Iterators of single samples: stacked by `storegate.samples`, recognised where they are taken for blocks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import storegate
from storegate import StoreGate
from storegate.parsing import iterators
from storegate_engine.errors import DtypeError, ShapeError
from tests.examples import examples

IMAGES = np.arange(10 * 6 * 4 * 3, dtype="u1").reshape(10, 6, 4, 3)
REMEDY = re.escape("storegate.samples(iterator)")


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def gate(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[StoreGate]:
    args = {} if request.param == "numpy" else {"output_dir": str(tmp_path / "s")}
    with StoreGate(request.param, args, data_id="a") as opened:
        yield opened


@given(
    st.sampled_from(["?", "u1", "<i4", ">f4", "f8", "c16", "M8[s]", "m8[h]", "U3", "S2"]).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6))
    ),
    st.integers(1, 200),
)
@settings(max_examples=examples(150))
def test_blocks_are_the_samples_end_to_end_and_bounded(x: np.ndarray, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iterators, "BLOCK_NBYTES", limit)
        blocks = list(storegate.samples(iter(x)))
    np.testing.assert_array_equal(np.concatenate(blocks), x)
    assert all(len(block) == 1 or block.nbytes <= limit for block in blocks)
    if x.dtype.kind not in "US":  # a text has the width that it needs
        assert all(block.dtype == x.dtype.newbyteorder("=") for block in blocks)


@pytest.mark.parametrize("dtype", ["U", "S", "T"])
def test_texts_get_wider_and_stay_bounded(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iterators, "BLOCK_NBYTES", 2000)
    texts = ["a" * n for n in (1, 3, 2, 400, 1, 700, 0, 5)]
    make = np.dtypes.StringDType() if dtype == "T" else dtype
    blocks = list(storegate.samples(np.asarray(text, make) for text in texts))
    assert [str(np.asarray(t).astype("U")) for block in blocks for t in block] == texts
    assert all(len(block) == 1 or block.nbytes <= 2000 for block in blocks)


def test_a_sample_is_the_callers_again_when_the_next_is_asked_for(gate: StoreGate) -> None:
    def reads() -> Iterator[np.ndarray]:
        buffer = np.empty((6, 4, 3), "u1")
        for image in IMAGES:
            buffer[:] = image
            yield buffer

    gate.add_data("x", storegate.samples(reads()))
    np.testing.assert_array_equal(gate["train"]["x"][:], IMAGES)


def test_samples_serve_every_call_that_takes_an_iterator(gate: StoreGate) -> None:
    gate.add_data(["x", "n"], [storegate.samples(iter(IMAGES)), storegate.samples(iter(range(10)))], (6, 2, 2))
    gate.add_data(("p", "q"), storegate.samples(iter(np.arange(20).reshape(10, 2))), phase=(6, 2, 2), do_compile=True)
    gate.add_data("t", storegate.samples(str(n) for n in range(10)), phase="all", do_compile=True)
    gate.update_data("n", storegate.samples(iter(range(10, 20))), phase="all")
    gate["train"]["x"][1:3] = storegate.samples(iter(IMAGES[:2]))
    gate["train"]["q"][:] = storegate.samples(iter(range(6)))
    gate["train"]["p"][np.array([4, 0])] = storegate.samples(iter([7, 8]))
    np.testing.assert_array_equal(gate.get_data("n", "all"), np.arange(10, 20))
    np.testing.assert_array_equal(gate["train"]["x"][:], IMAGES[[0, 0, 1, 3, 4, 5]])
    np.testing.assert_array_equal(gate["train"]["q"][:], np.arange(6))
    np.testing.assert_array_equal(gate["train"]["p"][:], [8, 2, 4, 6, 7, 10])
    assert list(gate["test"]["t"][:]) == ["8", "9"]


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ([np.zeros(2), np.zeros(3)], ShapeError, r"sample 1 has shape \(3,\), and the first has \(2,\)"),
        ([np.zeros(2), np.zeros(2, "f4")], DtypeError, "sample 1 has dtype float32, and the first has float64"),
        ([1, 2.5], DtypeError, "sample 1 has dtype float64"),
        (["a", b"b"], DtypeError, "sample 1"),
        ([np.array("a"), np.array("b", "T")], DtypeError, "sample 1"),
        ([object()], DtypeError, "object"),
        ([np.ma.array([1, 2], mask=[0, 1])], DtypeError, "sample 0: 1 values are masked"),
    ],
)
def test_a_sample_unlike_the_first_is_refused_and_nothing_changes(
    gate: StoreGate, given: list[Any], error: type[Exception], says: str
) -> None:
    gate.add_data("y", np.arange(4))
    with pytest.raises(error, match=says):
        gate.add_data("x", storegate.samples(iter(given)))
    assert gate.get_var_names() == ["y"]


@pytest.mark.parametrize("wrong", [3, None, "text", b"bytes", {"x": 1}, np.array(3)])
def test_what_gives_no_samples_is_refused_at_the_call(wrong: Any) -> None:
    with pytest.raises(DtypeError, match="samples"):
        list(storegate.samples(wrong))


def _as_columns(gate: StoreGate) -> None:
    gate.add_data(["x", "y"], [iter(IMAGES), np.arange(10)])


def _as_iterators(gate: StoreGate) -> None:
    gate.add_data(["x", "y"], [iter(IMAGES), iter([np.arange(10)])])


def _beside_rows(gate: StoreGate) -> None:
    gate.add_data("x", iter(IMAGES), do_compile=True)


def _behind_rows(gate: StoreGate) -> None:
    gate.add_data("images", iter(IMAGES))


def _split(gate: StoreGate) -> None:
    gate.add_data("x", iter(IMAGES), phase=(5, 3, 2))


def _scalars(gate: StoreGate) -> None:
    gate.add_data("x", iter(range(10)))


def _stacked(gate: StoreGate) -> None:
    gate.add_data(("x", "y"), iter(np.zeros((10, 2))))


def _replaced(gate: StoreGate) -> None:
    gate.update_data("images", iter(IMAGES))


def _replaced_labels(gate: StoreGate) -> None:
    gate.update_data(["y", "images"], [np.arange(10), iter(IMAGES)])


def _new_by_view(gate: StoreGate) -> None:
    gate["train"]["x"][:] = iter(IMAGES)


def _updated(gate: StoreGate) -> None:
    gate["train"]["images"][2:5] = iter(IMAGES[:3])


def _updated_rows(gate: StoreGate) -> None:
    gate["train"]["pairs"][[1, 2, 3]] = iter(np.zeros((3, 2)))


@pytest.mark.parametrize(
    "call",
    [
        _as_columns,
        _as_iterators,
        _beside_rows,
        _behind_rows,
        _split,
        _scalars,
        _stacked,
        _replaced,
        _replaced_labels,
        _new_by_view,
        _updated,
        _updated_rows,
    ],
)
def test_samples_taken_for_blocks_are_named_with_the_remedy(gate: StoreGate, call: Any) -> None:
    gate.add_data(["y", "images", "pairs"], [np.arange(10), IMAGES, np.zeros((10, 2))], do_compile=True)
    before = gate.table
    with pytest.raises((ShapeError, DtypeError), match=REMEDY):
        call(gate)
    assert gate.table is before


def test_samples_beside_rows_that_are_compiled_later_are_warned_of(gate: StoreGate) -> None:
    gate.add_data("y", np.arange(10))
    with pytest.warns(UserWarning, match=REMEDY) as caught:
        gate.add_data("x", iter(IMAGES))
    assert caught[0].filename == __file__


def test_blocks_are_not_suspected(gate: StoreGate) -> None:
    gate.add_data("y", np.arange(60))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate.add_data("x", iter(IMAGES), do_compile=True)  # 10 blocks of 6 rows
    with pytest.raises(ShapeError) as refused:
        gate.add_data(["a", "b"], [iter(IMAGES), np.arange(11)])
    assert "samples(" not in str(refused.value)
