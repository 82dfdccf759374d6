"""Explore a store with xarray, flox and hist: means by group, and a histogram, of two million hits."""

import h5py
import hist
import xarray as xr
from km3net_testdata import data_path

from storegate import StoreGate

gate = StoreGate.open("telescope.zarr", "hits", mode="w")
with h5py.File(data_path("hdf5/atmospheric_muons_sample.h5")) as file:
    gate.add_data({name: file["hits"][name] for name in ("time", "tot", "channel_id", "triggered")})
gate.split((0.8, 0.1, 0.1), stratify="triggered", seed=0)

train = xr.open_dataset("telescope.zarr", chunks={})  # any program with xarray can open it
by_channel = train.tot.groupby(train.channel_id.compute()).mean().compute()  # flox makes it one pass
print(by_channel.to_series().describe())
brightest = by_channel.idxmax().item()
print(f"the light of channel {brightest} lasts longest")
print(train.where((train.channel_id == brightest) & (train.triggered > 0)).time.count().compute().item(), "hits in it")

histogram = hist.new.Reg(20, 0, 256, name="tot").Bool(name="triggered").Int64()
for block in gate["train"][["tot", "triggered"]].batches(100_000, shuffle=False):  # one pass, in little memory
    histogram.fill(tot=block[0], triggered=block[1] > 0)
print(histogram[{"triggered": True}])
