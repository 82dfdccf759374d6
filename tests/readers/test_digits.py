"""Real pictures, those of scikit-learn's digits: in folders, with their labels, split and read as tensors would be."""

from __future__ import annotations

import numpy as np
import pytest

datasets = pytest.importorskip("sklearn.datasets")
Image = pytest.importorskip("PIL.Image")

N = 200


@pytest.fixture
def folders(tmp_path):
    digits = datasets.load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:N], digits.target[:N], strict=True)):
        path = tmp_path / "digits" / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("u1")).save(path)
    return tmp_path / "digits", digits


def test_pictures_in_folders_with_their_labels(gate, folders):
    directory, digits = folders
    gate.read(f"{directory}/*/*.png", label="folder")
    images, labels = gate["train"]["image"][:], gate["train"]["label"][:]
    order = np.argsort(digits.target[:N], kind="stable")
    np.testing.assert_array_equal(images.reshape(N, 8, 8), (digits.images[:N][order] * 15).astype("u1"))
    said = (
        gate["train"].to_pandas()["label"].astype(int).to_numpy() if labels.dtype.kind in "iu" else labels.astype(int)
    )
    np.testing.assert_array_equal(said, digits.target[:N][order])


def test_a_table_of_pixels_through_a_file_and_standardized(gate, folders, tmp_path):
    from sklearn.preprocessing import StandardScaler

    _, digits = folders
    np.savez(tmp_path / "digits.npz", pixels=digits.data, label=digits.target)
    gate.read(tmp_path / "digits.npz", phase=(0.8, 0.1, 0.1))
    gate.compile()
    train = gate["train"]["pixels"][:]
    gate.standardize("pixels")
    scaler = StandardScaler().fit(train)
    for phase in ("train", "valid", "test"):
        found = gate[phase]["pixels"][:]
        np.testing.assert_allclose(found, scaler.transform(gate[phase]["pixels"].inverse(found)), atol=1e-9)
    np.testing.assert_allclose(gate["train"]["pixels"][:], scaler.transform(train), atol=1e-9)


def test_splits_and_folds_are_as_exact_as_those_of_scikit_learn(gate, folders):
    from sklearn.model_selection import StratifiedKFold

    _, digits = folders
    gate.add_data({"x": np.arange(len(digits.target)), "label": digits.target})
    ours = [np.bincount(fold.valid["label"][:], minlength=10) for fold in gate["train"].folds(5, stratify="label")]
    theirs = [
        np.bincount(digits.target[rows], minlength=10)
        for _, rows in StratifiedKFold(5, shuffle=True, random_state=0).split(digits.data, digits.target)
    ]
    assert np.abs(np.subtract(ours, np.bincount(digits.target) / 5)).max() < 1
    assert np.abs(np.subtract(theirs, np.bincount(digits.target) / 5)).max() <= 1
    groups = np.arange(len(digits.target)) // 20
    gate.add_data("group", groups)
    for fold in gate["train"].folds(4, groups="group"):
        assert not set(fold.train["group"][:]) & set(fold.valid["group"][:])
