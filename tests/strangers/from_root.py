"""ROOT: a tree of branches, read by uproot."""

import uproot

from storegate import StoreGate

gate = StoreGate.open("store.zarr", "run1", mode="w")
gate.add_data(uproot.open("events.root:tree"), phase=(0.8, 0.1, 0.1))
for batch in gate["train"].batches(32):
    print({name: rows.shape for name, rows in batch.items()})
    break
