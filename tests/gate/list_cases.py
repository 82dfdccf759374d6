"""Rows of various lengths, and of sparse matrices, for several test modules."""

from __future__ import annotations

import numpy as np
from scipy import sparse

N = 200
RNG = np.random.default_rng(3)
LISTS = [RNG.integers(0, 1000, size) for size in RNG.integers(0, 12, N)]
LISTS[0] = LISTS[-1] = LISTS[17] = np.empty(0, np.int64)
MATRIX = sparse.random_array((N, 40), density=0.1, format="csr", rng=RNG, dtype="f4")


def require_lists(found, expected):
    """Require rows of equal items."""
    assert [len(row) for row in found] == [len(row) for row in expected]
    if len(expected):
        np.testing.assert_array_equal(np.concatenate(list(found)), np.concatenate(list(expected)))


def require_matrix(found, expected):
    """Require an equal sparse matrix."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert abs(found - expected).nnz == 0
