"""Data frames: columns of numbers, text and categories."""

import pandas as pd

from storegate import StoreGate

frame = pd.read_csv("passengers.csv").astype({"port": "category"})
gate = StoreGate.open("store.zarr", "run1", mode="w")
gate.add_data(frame, phase=(0.8, 0.1, 0.1))
for batch in gate["train"].batches(32):
    print({name: rows.shape for name, rows in batch.items()})
    break
