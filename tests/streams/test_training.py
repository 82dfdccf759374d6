"""Training a torch model from a store: as from memory in the same order, and bit-identical after a kill.

This file is also the program that is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.streams.epochs import keyed_permutation
from tests.processes import environment

EPOCHS, BATCH_ROWS, SEED = 3, 64, 5
DATA = {"digits": ("sklearn", 0.9), "events": ("uproot", 0.6)}
"""What is needed for the data, and the accuracy that must be reached; the largest class of events has 0.46."""


def make_digits(gate):
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    gate.add_data(["x", "y"], [pixels, classes], phase=(0.8, 0.2, 0.0), shuffle=SEED)


def make_events(gate):
    import uproot
    from km3net_testdata import data_path

    from storegate.demo import EVENT_FEATURES, EVENTS, event_column

    tree = uproot.open(data_path(EVENTS))["binned_nu_response"]
    columns = tree.arrays([*EVENT_FEATURES, "AnaClass"], library="np")
    x = np.stack([columns[name] for name in EVENT_FEATURES], axis=1)
    x[:, [0, 2]] = np.log(x[:, [0, 2]])  # energies
    gate.add_data(["x", "y"], [x, event_column("AnaClass", columns["AnaClass"])], phase=(0.8, 0.2, 0.0), shuffle=SEED)


def make_store(name, directory):
    with StoreGate("zarr", {"output_dir": directory}, data_id=name) as gate:
        {"digits": make_digits, "events": make_events}[name](gate)
        gate.shuffle("all", seed=SEED)
        gate.astype("x", "float32", phase="all")
        gate.astype("y", "int64", phase="all")
        gate.compile()


def make_model(n_features, n_classes):
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    layers = [torch.nn.BatchNorm1d(n_features), torch.nn.Linear(n_features, 32), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(32, n_classes))
    return model, torch.optim.Adam(model.parameters(), 0.01)


def learn(model, optimizer, x, y):
    import torch

    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


def accuracy(model, gate):
    import torch

    x, y = gate["valid"][["x", "y"]][:]
    with torch.no_grad():
        return float((model.eval()(torch.from_numpy(x)).argmax(dim=1).numpy() == y).mean())


def train_from_memory(gate):
    """Train on arrays, in the order that the stream documents."""
    import torch

    x, y = (torch.from_numpy(rows) for rows in gate["train"][["x", "y"]][:])
    model, optimizer = make_model(x.shape[1], int(y.max()) + 1)
    for epoch in range(EPOCHS):
        order = torch.from_numpy(keyed_permutation(len(x), SEED, epoch))
        for start in range(0, len(x), BATCH_ROWS):
            rows = order[start : start + BATCH_ROWS]
            learn(model, optimizer, x[rows], y[rows])
    return model


def train_from_store(gate, checkpoint, *, kill_in_epoch=None):
    """Train on a stream, from the checkpoint where there is one; save every ten steps."""
    import torch

    from storegate.adapters.torch import StreamDataset

    dataset = StreamDataset(gate["train"][["x", "y"]].batches(BATCH_ROWS, seed=SEED))
    n_features = gate["train"]["x"][:1].shape[1]
    model, optimizer = make_model(n_features, int(gate["train"]["y"][:].max()) + 1)
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        dataset.load_state_dict(saved["stream"])
    stream = dataset.stream
    while stream.epoch < EPOCHS:
        for x, y in dataset:
            learn(model, optimizer, x, y)
            if stream.step % 10 == 0:
                fresh = checkpoint.with_suffix(".new")
                saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**saved, "stream": dataset.state_dict()}, fresh)
                os.replace(fresh, checkpoint)
            if stream.epoch == kill_in_epoch and stream.step == len(stream) // 2 + 3:
                os.kill(os.getpid(), signal.SIGKILL)
    return model


def weights_of(model):
    return {name: values.numpy().tobytes() for name, values in model.state_dict().items()}


def run_in_a_process(name, directory, kill_in_epoch):
    command = [sys.executable, __file__, name, directory, str(kill_in_epoch)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def main(name, directory, kill_in_epoch):
    import torch

    with StoreGate("zarr", {"output_dir": f"{directory}/store", "mode": "r"}, data_id=name) as gate:
        model = train_from_store(gate, Path(directory, "checkpoint"), kill_in_epoch=int(kill_in_epoch))
        torch.save(model.state_dict(), Path(directory, "weights"))


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA)
def test_training_from_the_store_is_training_from_memory_also_after_a_kill(tmp_path, name):
    torch = pytest.importorskip("torch")
    package, enough = DATA[name]
    pytest.importorskip(package)
    make_store(name, tmp_path / "store")
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "mode": "r"}, data_id=name) as gate:
        in_memory = train_from_memory(gate)
        streamed = train_from_store(gate, tmp_path / "uninterrupted")
        assert weights_of(streamed) == weights_of(in_memory)
        assert accuracy(streamed, gate) == accuracy(in_memory, gate) > enough

    killed = run_in_a_process(name, tmp_path, 1)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(tmp_path / "checkpoint")["stream"]["epoch"] == 1
    resumed = run_in_a_process(name, tmp_path, -1)
    assert resumed.returncode == 0, resumed.stderr
    model, _ = make_model(in_memory[0].num_features, in_memory[-1].out_features)
    model.load_state_dict(torch.load(tmp_path / "weights"))
    assert weights_of(model) == weights_of(in_memory)


if __name__ == "__main__":
    main(*sys.argv[1:])
