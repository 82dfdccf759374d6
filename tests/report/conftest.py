"""A store that has a variable of every kind, split and shuffled, and what numpy says of its rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from storegate import StoreGate

N = 2000
SHARES = (0.6, 0.25, 0.15)


def columns():
    rng = np.random.default_rng(3)
    holes = rng.normal(50, 9, N)
    holes[::40], holes[7::90] = np.nan, np.inf
    far = rng.exponential(1, N)
    far[5], far[6] = 1e9, -1e9
    waves = np.sin(np.arange(64) / 9 + rng.random((N, 1)))
    return {
        "normal": rng.normal(size=N).astype("f4"),
        "holes": holes,
        "far": far,
        "empty": np.full(N, np.nan),
        "whole": rng.integers(0, 31, N).astype("f8"),
        "many": rng.integers(-500, 5000, N),
        "class": rng.integers(0, 4, N),
        "flag": rng.random(N) < 0.3,
        "label": rng.integers(0, 3, N),
        "colour": pd.Categorical(rng.choice(["red", "green", "blue"], N)),
        "word": [f"word {at % 7}" for at in range(N)],
        "name": [f"row {at}" for at in range(N)],
        "time": np.datetime64("2020-01-01T00", "h") + rng.integers(0, 9000, N),
        "image": rng.integers(0, 255, (N, 3, 12, 10)).astype("u1"),
        "wave": waves,
        "tokens": [rng.integers(0, 500, length) for length in rng.integers(0, 9, N)],
        "counts": scipy.sparse.random_array((N, 40), density=0.1, format="csr", rng=rng),
        "complex": rng.normal(size=N) + 1j,
    }


def fill(gate):
    gate.add_data(columns(), phase=SHARES, shuffle=1)
    gate.shuffle("all", seed=2)
    gate.onehot("label", 3, phase="all")
    gate.compile()


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "events.zarr"
    with StoreGate.open(path, "run1", mode="w") as gate:
        fill(gate)
    return path


@pytest.fixture(scope="session")
def gate(store):
    with StoreGate.open(store) as gate:
        yield gate


@pytest.fixture(scope="session")
def found(gate):
    return gate.report(check=True)
