"""numpy's permutations as orders: every row comes to every place, and seeds are unrelated."""

from __future__ import annotations

import numpy as np
import pytest

from storegate_engine.orders import Range, permute


class TestUniformity:
    @pytest.mark.parametrize("n", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (12, 31))])
    def test_every_row_comes_to_every_place(self, n):
        """Chi-squared of (row, place) over many seeds is within four standard deviations of its mean."""
        seeds = 3000
        counts = np.zeros((n, n))
        for seed in range(seeds):
            counts[permute(Range(0, n), seed).rows(0, n), np.arange(n)] += 1
        chi2 = ((counts - seeds / n) ** 2 / (seeds / n)).sum()
        freedom = (n - 1) ** 2
        assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)

    def test_seeds_are_unrelated(self):
        """Two seeds agree on as many places as chance has it: one, with a standard deviation of one."""
        orders = np.array([permute(Range(0, 1000), seed).rows(0, 1000) for seed in range(200)])
        same = [(orders[a] == orders[b]).sum() for a in range(200) for b in range(a)]
        assert abs(np.mean(same) - 1) < 4 / np.sqrt(len(same))
