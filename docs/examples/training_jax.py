"""Train with JAX, and go on after a kill at the exact batch: stop it at any moment, and start it again."""

import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np

from storegate import StoreGate
from storegate.adapters.jax import DeviceBatches

EPOCHS, RATE, CHECKPOINT = 4, 0.3, "checkpoint.pickle"

if not os.path.exists("rings.zarr"):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50_000, 2)).astype("f4")
    inside = (np.square(points).sum(axis=1) < 1.4).astype("f4")
    gate = StoreGate.open("rings.zarr", "v1", mode="a")
    gate.add_data({"point": points, "inside": inside}, phase=(0.8, 0.1, 0.1), shuffle=0)
gate = StoreGate.open("rings.zarr", "v1")


def logits(model, points):
    return (jax.nn.relu(points @ model["w"] + model["b"]) @ model["v"] + model["c"])[:, 0]


def loss(model, points, inside):
    found = logits(model, points)
    return jnp.mean(jax.nn.softplus(found) - inside * found)


@jax.jit
def trained(model, points, inside):
    slopes = jax.grad(loss)(model, points, inside)
    return jax.tree.map(lambda weights, slope: weights - RATE * slope, model, slopes)


first, second = jax.random.split(jax.random.key(0))
model = {
    "w": jax.random.normal(first, (2, 32)),
    "b": jnp.zeros(32),
    "v": jax.random.normal(second, (32, 1)) / 6,
    "c": jnp.zeros(1),
}
batches = DeviceBatches(gate["train"][["point", "inside"]].batches(128, seed=1, drop_last=True))
if os.path.exists(CHECKPOINT):
    with open(CHECKPOINT, "rb") as file:
        saved = pickle.load(file)  # of this program: what others have made must not be unpickled
    model = jax.device_put(saved["model"])
    batches.load_state_dict(saved["batches"])
    print(f"going on in epoch {batches.state_dict()['epoch']}", flush=True)


def save():
    with open(CHECKPOINT + ".new", "wb") as file:
        pickle.dump({"model": jax.device_get(model), "batches": batches.state_dict()}, file)
    os.replace(CHECKPOINT + ".new", CHECKPOINT)  # a kill leaves the old one, or the new one


while batches.state_dict()["epoch"] < EPOCHS:
    for step, (points, inside) in enumerate(batches, start=1):
        model = trained(model, points, inside)
        if step % 20 == 0:
            save()
    save()

points, inside = gate["test"][["point", "inside"]][:]
right = ((logits(model, points) > 0) == inside).mean().item()
total = sum(weights.sum().item() for weights in jax.tree.leaves(model))
print(f"{right:.3f} of the test points are right; the sum of all weights is {total!r}")
