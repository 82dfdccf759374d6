"""Forecast the next step of a field from the three before, on a grid of NetCDF, in windows that nobody stores."""

import numpy as np
import pandas as pd
import xarray as xr

from storegate import StoreGate

# A wave that goes round the grid, and noise.
rng = np.random.default_rng(0)
steps, lat, lon = np.ogrid[:2000, :4, :16]
field = np.sin(2 * np.pi * (lon - 0.7 * steps) / 16 + lat) + 0.03 * rng.normal(size=(2000, 4, 16))
xr.Dataset(
    {"t2m": (("time", "lat", "lon"), field.astype("f4"), {"units": "K"})},
    coords={"time": pd.date_range("2026-01-01", periods=2000, freq="6h")},
).to_netcdf("weather.nc", engine="h5netcdf")

gate = StoreGate.open("weather.zarr", "wave", mode="w")
gate.add_data(xr.open_dataset("weather.nc", chunks={"time": 500}))
gate.split(("2027-01-01", "2027-03-01"), by="time", purge=4)
gate.standardize("t2m")

# One linear map for all points: next = past @ coefficients, by the normal equations, batch by batch.
INPUT = 3
gram, right = np.zeros((INPUT, INPUT)), np.zeros(INPUT)
for past, future in gate["train"]["t2m"].windows(input=INPUT, target=1).batches(64, shuffle="blocks", seed=1):
    x = np.moveaxis(past, 1, -1).reshape(-1, INPUT).astype("f8")
    y = future.reshape(-1).astype("f8")
    gram += x.T @ x
    right += x.T @ y
coefficients = np.linalg.solve(gram, right)

errors = {"as the last step": [], "forecast": []}
for past, future in gate["test"]["t2m"].windows(input=INPUT, target=1).batches(64, shuffle=False):
    errors["as the last step"].append(np.square(past[:, -1] - future[:, 0]).mean())
    errors["forecast"].append(np.square(np.moveaxis(past, 1, -1) @ coefficients - future[:, 0]).mean())
rms = {name: float(np.sqrt(np.mean(values))) for name, values in errors.items()}
print({name: round(value, 3) for name, value in rms.items()})
assert rms["forecast"] < rms["as the last step"] / 2
