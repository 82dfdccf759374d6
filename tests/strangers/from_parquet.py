"""Parquet: a file of columns, read by pyarrow one row group after the other."""

import pyarrow.dataset

from storegate import StoreGate

gate = StoreGate.open("store.zarr", "run1", mode="w")
gate.add_data(pyarrow.dataset.dataset("events.parquet").scanner().to_reader(), phase=(0.8, 0.1, 0.1))
for batch in gate["train"].batches(32):
    print({name: rows.shape for name, rows in batch.items()})
    break
