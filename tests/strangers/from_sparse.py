"""Sparse matrices, which stay sparse."""

import scipy.sparse

from storegate import StoreGate

counts = scipy.sparse.load_npz("counts.npz")
gate = StoreGate.open("store.zarr", "run1", mode="w")
gate.add_data("counts", counts)
for batch in gate["train"]["counts"].batches(32):
    print(batch.shape)
    break
