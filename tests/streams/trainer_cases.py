"""The steps of an epoch as numpy has them, and loaders of them."""

from __future__ import annotations

from storegate_engine.streams.epochs import keyed_permutation

N_ROWS, BATCH_ROWS = 100, 10
METHODS = ["fork", "spawn"]


def steps_of(epoch, n_rows=N_ROWS, k=BATCH_ROWS, seed=0):
    """Return the rows of every step of an epoch."""
    order = keyed_permutation(n_rows, seed, epoch)
    return [order[at : at + k].tolist() for at in range(0, n_rows, k)]


def rows_of(epochs, **options):
    return [row for epoch in epochs for step in steps_of(epoch, **options) for row in step]


def flat(batches):
    return [row for batch in batches for row in batch]


def loader_of(dataset, workers, method="fork", *, keep=False, stateful=False, **options):
    if stateful:
        from torchdata.stateful_dataloader import StatefulDataLoader as Loader
    else:
        from torch.utils.data import DataLoader as Loader
    if workers:
        options |= {"multiprocessing_context": method, "persistent_workers": keep, "timeout": 120}
    return Loader(dataset, batch_size=None, num_workers=workers, **options)


def lists(batches):
    return [batch.tolist() for batch in batches]
