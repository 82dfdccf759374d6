"""NetCDF: fields on a grid, with time as the first dimension."""

import xarray as xr

from storegate import StoreGate

gate = StoreGate.open("store.zarr", "run1", mode="w")
gate.add_data(["t2m", "u10"], xr.open_dataset("weather.nc", chunks={}), phase=(0.8, 0.1, 0.1))
for t2m, u10 in gate["train"][["t2m", "u10"]].batches(32):
    print(t2m.shape, u10.shape)
    break
