"""Sizes of the batches of adapters."""

from __future__ import annotations

N_ROWS, BATCH_ROWS = 300, 32
