"""Image folders: a directory for each class."""

from pathlib import Path

import numpy as np
from PIL import Image

from storegate import StoreGate, samples

files = sorted(Path("images").glob("*/*.png"))
gate = StoreGate.open("store.zarr", "run1", mode="w")
gate.add_data(["image", "label"], [samples(np.asarray(Image.open(f)) for f in files), [f.parent.name for f in files]])
for images, labels in gate["train"][["image", "label"]].batches(32):
    print(images.shape, labels.shape)
    break
