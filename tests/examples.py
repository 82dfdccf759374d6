"""How much the fast tests try: a fifth of the examples of Hypothesis, and a part of each product of parameters."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import settings


def examples(n: int) -> int:
    """Return how many of a number of examples the profile has: all of them with ``--hypothesis-profile=many``."""
    return max(5, n * settings().max_examples // 100)


def in_turns(*axes: Iterable[Any], every: int = 2, first: int = 0) -> list[Any]:
    """Return the product of parameters, of which every so many are fast: those of places whose sum divides evenly.

    So each value of an axis meets, in the fast tests, the values of another one in turns; and all of them where a
    third axis has ``every`` values or more. ``first`` is where the turns begin.
    """
    return [
        pytest.param(*values, marks=() if (sum(places) + first) % every == 0 else pytest.mark.slow)
        for places, values in (zip(*one, strict=True) for one in itertools.product(*map(enumerate, axes)))
    ]
