"""HDF5: a file of datasets, as detectors and simulations write them."""

import h5py

from storegate import StoreGate

gate = StoreGate.open("store.zarr", "run1", mode="w")
gate.add_data(h5py.File("events.h5"), phase=(0.8, 0.1, 0.1))
for batch in gate["train"].batches(32):
    print({name: rows.shape for name, rows in batch.items()})
    break
