"""Train with Lightning, and go on after a kill at the exact batch: stop it at any moment, and start it again."""

import os

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from storegate import StoreGate
from storegate.adapters.lightning import DataModule

if not os.path.exists("rings.zarr"):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50_000, 2)).astype("f4")
    inside = (np.square(points).sum(axis=1) < 1.4).astype("f4")[:, None]
    gate = StoreGate.open("rings.zarr", "v1", mode="a")
    gate.add_data({"point": points, "inside": inside}, phase=(0.8, 0.1, 0.1), shuffle=0)
gate = StoreGate.open("rings.zarr", "v1")


class Rings(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
        self.loss_of = torch.nn.BCEWithLogitsLoss()

    def training_step(self, batch, number):
        points, inside = batch
        return self.loss_of(self.layers(points), inside)

    def validation_step(self, batch, number):
        points, inside = batch
        self.log("right", ((self.layers(points) > 0) == inside).float().mean())

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


lightning.seed_everything(0, verbose=False)
model = Rings()
data = DataModule(gate, ["point", "inside"], 128, seed=1)
trainer = lightning.Trainer(
    max_epochs=4,
    accelerator="cpu",
    callbacks=[ModelCheckpoint("checkpoints", every_n_train_steps=20, save_last=True)],
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
last = "checkpoints/last.ckpt"
if os.path.exists(last):
    print("going on after the last checkpoint", flush=True)
trainer.fit(model, datamodule=data, ckpt_path=last if os.path.exists(last) else None)
(found,) = trainer.test(model, datamodule=data, verbose=False)
total = sum(weights.sum().item() for weights in model.parameters())
print(f"{found['right']:.3f} of the test points are right; the sum of all weights is {total!r}")
