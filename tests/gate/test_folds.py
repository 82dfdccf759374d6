"""Folds: each row is valid once, no row is copied, and the pieces that splits share are named and merged once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from storegate import StoreGate, errors

N = 150
RNG = np.random.default_rng(0)
ROWS = {
    "x": np.arange(N),
    "y": RNG.integers(0, 3, N),
    "run": np.repeat(np.arange(15), 10),
    "name": np.array([f"event {number}" for number in range(N)], np.dtypes.StringDType()),
}
PHASES = ("train", "valid", "test")


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store", "chunk": 16}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data(ROWS)
        yield gate


def test_each_row_is_valid_once(gate):
    folds = gate["train"].folds(4, seed=3)
    assert len(folds) == 4
    valid = [fold.valid["x"][:] for fold in folds]
    assert sorted(np.concatenate(valid).tolist()) == list(range(150))
    for fold, rows in zip(folds, valid, strict=True):
        assert sorted([*fold.train["x"][:], *rows]) == list(range(150))
        assert len(rows) in (37, 38)
        np.testing.assert_array_equal(fold.train["name"][:], ROWS["name"][fold.train["x"][:]])


def test_classes_and_groups(gate):
    for fold in gate["train"].folds(3, stratify="y"):
        for label in range(3):
            share = np.count_nonzero(ROWS["y"] == label) / 3
            assert abs(np.count_nonzero(fold.valid["y"][:] == label) - share) < 1
    for fold in gate["train"].folds(3, groups="run"):
        assert not set(fold.train["run"][:]) & set(fold.valid["run"][:])


def test_repeated_and_nested(gate):
    twice = gate["train"].folds(5, repeats=2, seed=1)
    assert len(twice) == 10
    assert (twice[0].valid["x"][:] != twice[5].valid["x"][:]).any()
    np.testing.assert_array_equal(twice[5].valid["x"][:], gate["train"].folds(5, seed=2)[0].valid["x"][:])
    outer = twice[0]
    inner = outer.train.folds(3, stratify="y")
    found = np.concatenate([fold.valid["x"][:] for fold in inner])
    assert sorted(found.tolist()) == sorted(outer.train["x"][:].tolist())
    assert not set(found.tolist()) & set(outer.valid["x"][:].tolist())


def test_a_fold_gives_batches_and_frames(gate):
    fold = gate["train"].folds(3)[1]
    seen = np.concatenate([batch["x"] for batch in fold.train.batches(16, seed=2)])
    assert sorted(seen.tolist()) == sorted(fold.train["x"][:].tolist())
    pd.testing.assert_series_equal(fold.valid.to_pandas()["x"], pd.Series(fold.valid["x"][:], name="x"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 1}, ValueError, "folds of 150 rows are 2 to 150, found 1"),
        ({"k": 151}, ValueError, "found 151"),
        ({"k": 16, "groups": "run"}, ValueError, "15 groups cannot make 16 folds"),
        ({"repeats": 0}, ValueError, "repeats is 1 or more"),
        ({"stratify": "y", "groups": "run"}, ValueError, "one rule"),
    ],
)
def test_refused(gate, options, error, message):
    with pytest.raises(error, match=message):
        gate["train"].folds(**options)


def test_a_phase_is_needed(gate):
    with pytest.raises(errors.PhaseNotFoundError, match="folds need a phase"):
        gate["x"].folds(2)


def test_repeated_splits_name_each_piece_once(tmp_path):
    def stored():
        return sum(path.stat().st_size for path in (tmp_path / "s").rglob("*") if path.is_file())

    with StoreGate("zarr", {"output_dir": tmp_path / "s", "compressor": "none"}, data_id="a") as gate:
        everything = []
        for turn in range(3):
            rows = np.arange(turn * 500, turn * 500 + 500)
            everything.extend(rows.tolist())
            parts = np.split(rows, [300, 400])
            for phase, part in zip(PHASES, parts, strict=True):
                gate.add_data({"x": part, "wide": np.repeat(part[:, None], 100, axis=1)}, phase=phase)
            before = stored()
            for seed in range(3):
                gate.split((0.6, 0.2, 0.2), seed=seed, **({"stratify": "x"} if turn % 2 else {}))
                gate.shuffle("train", seed=seed)
                found = {phase: gate[phase]["x"][:] for phase in PHASES}
                for phase, rows in found.items():
                    np.testing.assert_array_equal(gate[phase]["wide"][:][:, 99], rows)
                assert sorted(np.concatenate(list(found.values())).tolist()) == everything
            assert stored() - before < 600_000  # manifests and indexes; the rows take 1.2 MB in the end
            assert max(len(variable.pieces) for _, variable in gate.table) <= 3 * (turn + 1)
        gate.compact()
        np.testing.assert_array_equal(gate["train"]["x"][:], found["train"])


def test_pieces_that_phases_share_are_merged_once(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "compressor": "none"}, data_id="a") as gate:
        rows = RNG.random((60, 100, 100))
        for number, part in enumerate(rows):
            gate.add_data("x", part, phase=PHASES[number % 3])
        before = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*") if path.is_file())
        gate.split((0.5, 0.25, 0.25), seed=None)
        after = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*") if path.is_file())
        assert after - before < 1.1 * rows.nbytes
        found = np.concatenate([gate[phase]["x"][:] for phase in PHASES])
        np.testing.assert_array_equal(found, np.concatenate([np.concatenate(rows[at::3]) for at in range(3)]))
