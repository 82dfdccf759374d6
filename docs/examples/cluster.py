"""Preprocess on a cluster of dask: a new variable, an exact shuffle, and rows written in their new order.

Here the cluster is two processes of this machine. With SLURM, make the client by
`dask_jobqueue.SLURMCluster(cores=8, memory="32GB").scale(jobs=4)`; the rest stays as it is.
"""

import numpy as np
from distributed import Client, LocalCluster

from storegate import StoreGate


def main():
    gate = StoreGate.open("events.zarr", "run1", mode="w", budget="64MiB")
    rng = np.random.default_rng(0)
    gate.add_data("momentum", (rng.normal(size=(20_000, 3)).astype("f4") for _ in range(10)))
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster, Client(cluster):
        gate.assign(pt=lambda ds: np.hypot(ds.momentum[:, 0], ds.momentum[:, 1]))
        gate.split((0.8, 0.1, 0.1), seed=0)
        gate.shuffle(seed=1)
        gate.compact()  # written by the workers in the order of the shuffle: batches are at disk speed from now on
        print(gate["train"].to_xarray().pt.mean().compute().item())
    print(gate)


if __name__ == "__main__":
    main()
