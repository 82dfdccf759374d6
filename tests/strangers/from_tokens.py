"""Tokens: one long list of numbers in a file, cut into contexts."""

import numpy as np

from storegate import StoreGate

tokens = np.memmap("tokens.bin", dtype="uint16", mode="r").reshape(-1, 128)
gate = StoreGate.open("store.zarr", "run1", mode="w")
gate.add_data("tokens", tokens, phase=(0.9, 0.1, 0.0))
for batch in gate["train"]["tokens"].batches(32):
    print(batch.shape)
    break
