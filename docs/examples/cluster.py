"""Preprocess on a cluster of dask: a new variable, an exact shuffle, and rows written in their new order.

Without an argument the cluster is two processes of this machine. With SLURM, `sbatch cluster.sbatch` starts it on the
nodes of a job, and calls this program with the file in which its scheduler says where it is.
"""

import contextlib
import sys

import numpy as np
from distributed import Client, LocalCluster

from storegate import StoreGate


@contextlib.contextmanager
def client_of(scheduler_file=None):
    if scheduler_file is not None:
        with Client(scheduler_file=scheduler_file) as client:
            client.wait_for_workers(1, timeout=600)
            yield client
    else:
        options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
        with LocalCluster(n_workers=2, threads_per_worker=1, **options) as cluster, Client(cluster) as client:
            yield client


def main():
    gate = StoreGate.open("events.zarr", "run1", mode="w", budget="64MiB")
    rng = np.random.default_rng(0)
    gate.add_data("momentum", (rng.normal(size=(20_000, 3)).astype("f4") for _ in range(10)))
    with client_of(*sys.argv[1:]):
        gate.assign(pt=lambda ds: np.hypot(ds.momentum[:, 0], ds.momentum[:, 1]))
        gate.split((0.8, 0.1, 0.1), seed=0)
        gate.shuffle(seed=1)
        gate.compact()  # written by the workers in the order of the shuffle: batches are at disk speed from now on
        print(gate["train"].to_xarray().pt.mean().compute().item())
    print(gate)


if __name__ == "__main__":
    main()
