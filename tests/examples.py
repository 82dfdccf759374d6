"""How many examples Hypothesis tries: as many as stand in a test with `--hypothesis-profile=many`, else a fifth."""

from __future__ import annotations

from hypothesis import settings


def examples(n: int) -> int:
    """Return how many of a number of examples the profile has."""
    return max(5, n * settings().max_examples // 100)
