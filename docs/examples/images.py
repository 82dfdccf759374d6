"""Signal and background as pictures: concatenated, transposed, shuffled once and split, without a copy in memory.

The pictures are of the neutrino telescope KM3NeT (package km3net-testdata): for each event, the light in 31
channels over 50 bins of time. Signal are the hits that took part in the trigger, background the others.
"""

import dask.array as da
import h5py
import numpy as np
from km3net_testdata import data_path

from storegate import StoreGate

# Two files of pictures, as two productions would leave them.
with h5py.File(data_path("hdf5/atmospheric_muons_sample.h5")) as file:
    hits = {name: file["hits"][name][:] for name in ("time", "channel_id", "triggered")}
    starts = file["hits"]["_indices"]["index"][:]
event = np.searchsorted(starts, np.arange(len(hits["time"])), side="right") - 1
time_bin = np.clip((hits["time"] - hits["time"].min()) // 2000, 0, 49).astype(int)
for name, triggered in (("signal", 1), ("background", 0)):
    chosen = (hits["triggered"] > 0) == triggered
    pictures = np.zeros((len(starts), 31, 50), "f4")
    np.add.at(pictures, (event[chosen], hits["channel_id"][chosen], time_bin[chosen]), 1)
    with h5py.File(f"{name}.h5", "w") as file:
        file["picture"] = pictures

# The application: five lazy lines.
signal, background = (da.from_array(h5py.File(f"{name}.h5")["picture"]) for name in ("signal", "background"))
pictures = da.concatenate([signal, background]).transpose(0, 2, 1)
labels = np.repeat([1, 0], [len(signal), len(background)])
gate = StoreGate.open("pictures.zarr", "telescope", mode="w")
gate.add_data(["picture", "label"], [pictures, labels], phase=(0.6, 0.2, 0.2), shuffle=0)

print(gate)
for phase in gate.phases:
    print(f"{phase}: {gate[phase]['label'][:].mean():.2f} of the rows are signal")
for pictures, labels in gate["train"][["picture", "label"]].batches(64, seed=1):
    print(pictures.shape, labels.shape)
    break
