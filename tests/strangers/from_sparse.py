"""Sparse matrices: stored as dense blocks."""

import scipy.sparse

from storegate import StoreGate

counts = scipy.sparse.load_npz("counts.npz").tocsr()
gate = StoreGate.open("store.zarr", "run1", mode="w")
gate.add_data("counts", (counts[at : at + 100].toarray() for at in range(0, counts.shape[0], 100)))
for batch in gate["train"]["counts"].batches(32):
    print(batch.shape)
    break
