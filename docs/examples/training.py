"""Train with PyTorch, and go on after a kill at the exact batch: stop it at any moment, and start it again."""

import os

import numpy as np
import torch

from storegate import StoreGate

EPOCHS, CHECKPOINT = 4, "checkpoint.pt"

torch.manual_seed(0)
torch.set_num_threads(1)
if not os.path.exists("rings.zarr"):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50_000, 2)).astype("f4")
    inside = (np.square(points).sum(axis=1) < 1.4).astype("f4")[:, None]
    gate = StoreGate.open("rings.zarr", "v1", mode="a")
    gate.add_data({"point": points, "inside": inside}, phase=(0.8, 0.1, 0.1), shuffle=0)
gate = StoreGate.open("rings.zarr", "v1")

model = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
loss_of = torch.nn.BCEWithLogitsLoss()
stream = gate["train"][["point", "inside"]].batches(128, seed=1)

if os.path.exists(CHECKPOINT):
    saved = torch.load(CHECKPOINT, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    stream.load_state_dict(saved["stream"])
    print(f"going on in epoch {stream.epoch}", flush=True)


def save():
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "stream": stream.state_dict()}
    torch.save(states, CHECKPOINT + ".new")
    os.replace(CHECKPOINT + ".new", CHECKPOINT)  # a kill leaves the old one, or the new one


while stream.epoch < EPOCHS:
    for step, (points, inside) in enumerate(stream, start=1):
        optimizer.zero_grad()
        loss = loss_of(model(torch.from_numpy(points)), torch.from_numpy(inside))
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            save()
    save()

with torch.no_grad():
    points, inside = gate["test"][["point", "inside"]][:]
    right = ((model(torch.from_numpy(points)) > 0).numpy() == inside).mean()
total = sum(weights.sum().item() for weights in model.parameters())
print(f"{right:.3f} of the test points are right; the sum of all weights is {total!r}")
